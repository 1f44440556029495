"""What a run asks its user, and what becomes of the question.

```
            ┌── confirmed ──┐
 pending ───┼── rejected ───┼── the task goes on: it finds the decision on its own record
            ├── expired ────┘
            └── canceled        the task was ended while it waited
```

Each way out of `pending` is conditional on it and happens in the transaction that moves the task, so of two answers one
counts, and it counts once. The decision names the very call that it is for (`task#step` and a digest of the arguments):
no other call can use it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from worker_space.clock import now_ms
from worker_space.events import EventType, NewEvent
from worker_space.ids import new_id
from worker_space.records import Any_, Condition, Equals, Item, Missing, Put
from worker_space.tasks import Ticket
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = [
    "Approval",
    "ApprovalState",
    "Asked",
    "Decision",
    "Question",
    "ask",
    "at_policy",
    "content_keys",
    "digest",
    "short",
]

_SHOWN: Final = 2_000
"""Characters of one argument in an event or a list; `GET …/approvals/{id}` shows all of it."""


class ApprovalState(StrEnum):
    """What became of a question."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELED = "canceled"


class Approval(BaseModel):
    """A question to the user, and its answer.

    Attributes:
        kind: `tool` for one call of a tool, `plan` for a whole plan.
        arguments: Of the call, exactly as it would be made; of a plan, what it consists of.
        truncated: Whether long values of `arguments` or `edited_arguments` are cut here.
        edited_arguments: What the user put in their place.
        reason: Why the user rejected it.
        expires_at: After this moment nobody can answer any more; epoch milliseconds, as all times here.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    kind: Literal["tool", "plan"]
    state: ApprovalState
    task_id: str
    session_id: str
    agent_id: str
    agent_version: int | None = None
    tool: str | None = None
    risk: str | None = None
    arguments: Mapping[str, Any]
    edited_arguments: Mapping[str, Any] | None = None
    truncated: bool = False
    reason: str | None = None
    created_at: int
    expires_at: int
    resolved_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a run wants to know before it goes on.

    Attributes:
        effect: Names the call or plan for ever, such as `task#step`: the answer is for this one and no other.
        arguments: What would be done, as JSON.
    """

    kind: Literal["tool", "plan"]
    effect: str
    arguments: Mapping[str, Any]
    tool: str | None = None
    risk: str | None = None


class Decision(BaseModel):
    """The answer to a task's newest question, as its record keeps it.

    Attributes:
        digest: Of the arguments that were asked about.
        arguments: What the user put in their place, or `None`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    approval_id: str
    effect: str
    tool: str | None = None
    digest: str
    verdict: ApprovalState
    reason: str | None = None
    arguments: Mapping[str, Any] | None = None

    def answers(self, question: Question) -> bool:
        """Whether it is the answer to this very question."""
        asked = question.effect, question.tool, digest(question.arguments)
        return (self.effect, self.tool, self.digest) == asked

    @classmethod
    async def of_task(cls, texts: Texts, tenant: TenantContext, task: Item) -> "Decision | None":
        """The decision on a task's record, if there is one.

        Raises:
            Unavailable: The edited arguments cannot be read now.
        """
        if (stored := task.get("decision")) is None:
            return None
        edited = json.loads(await texts.read(tenant, stored)) if stored["edited"] else None
        return cls(**{**stored, "arguments": edited})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question that is ready to be stored with the pause of its task.

    Attributes:
        approval: The write that keeps it.
        event: What the session is told.
        facts: Attributes of the waiting task.
    """

    approval_id: str
    approval: Put
    event: NewEvent
    facts: Mapping[str, Any]
    expires_at: int


def digest(arguments: Mapping[str, Any]) -> str:
    """The same for equal arguments, and for no others."""
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()


def at_policy(version: int) -> Condition:
    """The space is at this version of its policy; a space whose policy never changed has none stored."""
    return (
        Any_(Missing("policy_version"), Equals("policy_version", 0))
        if version == 0
        else Equals("policy_version", version)
    )


async def ask(
    texts: Texts,
    tenant: TenantContext,
    question: Question,
    *,
    ticket: Ticket,
    agent_version: int | None,
    epoch: int,
    seconds: int,
    before: Sequence[str] = (),
) -> Asked:
    """Make a question ready; large arguments are stored by this.

    Args:
        ticket: Of the task that asks.
        epoch: Of the space that it was accepted in.
        seconds: How long it may be answered.
        before: Earlier questions of the same task.

    Raises:
        Unavailable: The content store does not answer.
    """
    approval_id, now = new_id("approval"), now_ms()
    expires_at = now + seconds * 1000
    kept = await texts.keep(tenant, f"{ticket.task}/{approval_id}", json.dumps(question.arguments))
    item = {
        "id": approval_id,
        "kind": question.kind,
        "state": ApprovalState.PENDING.value,
        "task_id": ticket.task,
        "session_id": ticket.session,
        "agent_id": ticket.agent,
        "agent_version": agent_version,
        "epoch": epoch,
        "tool": question.tool,
        "risk": question.risk,
        "effect": question.effect,
        "arguments_digest": digest(question.arguments),
        **kept,
        "created_at": now,
        "expires_at": expires_at,
    }
    told = {
        "approval_id": approval_id,
        "kind": question.kind,
        "tool": question.tool,
        "arguments": short(question.arguments)[0],
        "expires_at": expires_at,
    }
    return Asked(
        approval_id=approval_id,
        approval=Put(
            key=Key.approval(approval_id),
            item={name: value for name, value in item.items() if value is not None},
            when=Missing("sk"),
        ),
        event=NewEvent(type=EventType.APPROVAL_REQUIRED, task_id=ticket.task, agent_id=ticket.agent, data=told),
        facts={"approval_id": approval_id, "approvals": [*before, approval_id]},
        expires_at=expires_at,
    )


def content_keys(approval: Item) -> list[str]:
    """Where texts of an approval are kept outside of its item."""
    return [kept["content_key"] for kept in (approval, approval.get("edited", {})) if "content_key" in kept]


def short(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Arguments with their long values cut to the beginning of their text, and whether any was."""
    cut = {name[:_SHOWN]: _cut(value) for name, value in list(arguments.items())[:64]}
    return cut, cut != arguments


def _cut(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) or len(text) > _SHOWN:
        # Half a surrogate pair has no UTF-8.
        return text[:_SHOWN].encode(errors="replace").decode()
    return value
