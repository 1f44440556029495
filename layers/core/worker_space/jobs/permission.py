"""Whether a run may make a call: by the project's policy, or by the user's word.

```
 policy (cached, may be old)   asks? ── no ──── the intent's write: policy at this version? ✓ ── perform
                                 │                               └ ✗ (tightened since) ── read it, decide again
                                 └ yes ── read it: asks still? ── yes ── stop, and ask the user
```
"""

from collections.abc import Mapping
from typing import Any

from worker_space.consent import ApprovalState, Decision, Question, at_policy
from worker_space.errors import ClaimLost, ToolError
from worker_space.ledger import Claim
from worker_space.policy import ToolPolicy
from worker_space.ports import Records
from worker_space.projects import Space
from worker_space.records import Check, Write
from worker_space.tenancy import Key
from worker_space.tools.catalogue import Tool, parse_arguments
from worker_space.tools.tool import Arguments

__all__ = ["Permission", "arguments_by", "question_of"]


class Permission:
    """What one claim's run may do.

    Args:
        decision: The user's answer to the task's newest question.
    """

    def __init__(self, records: Records, claim: Claim, decision: Decision | None) -> None:
        self._records = records
        self._claim = claim
        self._decision = decision
        self._policy = ToolPolicy()
        self._version = 0

    async def begin(self, space: Space | None) -> None:
        """Take the policy from the space as rehydrated, or from the table where that is another epoch's.

        Raises:
            ClaimLost: The project was reset or deleted.
        """
        if space is None or space.epoch != self._claim.delivery.epoch:
            await self.refresh()
        else:
            self._policy, self._version = space.policy, space.policy_version

    async def refresh(self) -> None:
        """Read the policy as it is now.

        Raises:
            ClaimLost: The project was reset or deleted.
        """
        item = await self._records.get(self._claim.delivery.tenant, Key.space())
        if item is None or item["epoch"] != self._claim.delivery.epoch:
            raise ClaimLost("the project was reset or deleted")
        self._policy = ToolPolicy.model_validate(item.get("policy", {}))
        self._version = item.get("policy_version", 0)

    def asks(self, tool: Tool) -> bool:
        """Whether calls of the tool need the user's word, as far as is known."""
        return self._policy.asks(tool.name, tool.risk.value)

    async def asks_now(self, tool: Tool) -> bool:
        """Whether they do; a policy that was loosened meanwhile asks no more."""
        if self.asks(tool):
            await self.refresh()
        return self.asks(tool)

    def as_known(self) -> Mapping[str, Write]:
        """Holds a transaction to the policy that allowed it."""
        return {"policy": Check(key=Key.space(), when=at_policy(self._version))}

    def decision(self, question: Question) -> Decision | None:
        """The user's answer, if it is the answer to this very question."""
        return self._decision if self._decision is not None and self._decision.answers(question) else None


def arguments_by(decision: Decision, tool: Tool, arguments: Arguments) -> Arguments:
    """The arguments that the user has confirmed.

    Raises:
        ToolError: The user has not confirmed the call; the model is told why.
    """
    if decision.verdict is ApprovalState.EXPIRED:
        raise ToolError("nobody answered in time whether this call may be made: it was not made")
    if decision.verdict is not ApprovalState.CONFIRMED:
        reason = "" if decision.reason is None else f": {decision.reason}"
        raise ToolError(f"the user rejected this call{reason}")
    return arguments if decision.arguments is None else parse_arguments(tool, decision.arguments)


def question_of(tool: Tool, arguments: Arguments, effect: str) -> Question:
    """What the user is asked about a call: the arguments as they would be used, paths normalised."""
    exact: dict[str, Any] = arguments.model_dump(mode="json", exclude_unset=True)
    return Question(kind="tool", effect=effect, tool=tool.name, risk=tool.risk.value, arguments=exact)
