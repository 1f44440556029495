"""A project's tool policy: which calls of its agents wait for the user's word.

Whether a call asks is decided by the worker from the policy as rehydrated, and held to the stored one by the write
that precedes the effect: it carries the policy's version as a condition.
"""

from collections.abc import Collection
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["MAX_PLAN_TASKS", "PolicyChanges", "ToolPolicy"]

MAX_PLAN_TASKS: Final = 20
"""Most tasks of a plan: no policy needs to allow more."""

Asks = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
    Field(
        max_length=32,
        description="Tools by name, or all tools of a risk level: reading, writing, deleting.",
        examples=[["deleting"]],
    ),
]
PlanTasks = Annotated[
    int, Field(strict=True, ge=0, le=MAX_PLAN_TASKS, description="A plan of more tasks asks.", examples=[8])
]
PlanCost = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=10**15,
        description="A plan that may cost more asks; in millionths of the deployment's currency.",
        examples=[500_000],
    ),
]


class ToolPolicy(BaseModel):
    """Which calls and plans wait for the user's word. By default reading and writing are free, deleting and moving ask.

    Attributes:
        ask: Names of tools, and risk levels that stand for all tools of that risk. Empty asks for nothing.
        plan_tasks: A plan of more tasks asks; `None` leaves it to the deployment.
        plan_cost: A plan that may cost more asks, in millionths of the deployment's currency; `None` leaves it to the
            deployment.
    """

    # A policy that a later release has stored must not make its project unreadable.
    model_config = ConfigDict(frozen=True, extra="ignore")

    ask: Asks = ("deleting",)
    plan_tasks: PlanTasks | None = None
    plan_cost: PlanCost | None = None

    def asks(self, tool: str, risk: str) -> bool:
        """Whether a call of this tool, of this risk level, waits for the user's word."""
        return tool in self.ask or risk in self.ask

    def unknown(self, known: Collection[str]) -> list[str]:
        """The entries of `ask` that are none of the known tools and risk levels."""
        return [name for name in self.ask if name not in known]


class PolicyChanges(BaseModel):
    """What of a policy to change; what is not sent stays. `null` leaves a plan limit to the deployment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ask: Asks | None = None
    plan_tasks: PlanTasks | None = None
    plan_cost: PlanCost | None = None

    def apply(self, policy: ToolPolicy) -> ToolPolicy:
        """The policy with these changes; an entry of `ask` that is named twice counts once."""
        sent: dict[str, Any] = self.model_dump(exclude_unset=True)
        if sent.get("ask") is None:
            sent.pop("ask", None)
        else:
            sent["ask"] = tuple(dict.fromkeys(sent["ask"]))
        return policy.model_copy(update=sent)
