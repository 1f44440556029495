"""The one tree of errors. Its branches answer the question: who must act?

```
WorkerSpaceError
├── RequestError            the caller must change the request
│   ├── InvalidRequest      … a value in it is wrong
│   ├── Unauthorized        … it carries no valid token
│   ├── NotFound            … it names something the caller does not have
│   ├── Conflict            … it contradicts what is stored now
│   ├── TooLarge            … it, or what it asks for, is over a size limit
│   └── LimitReached        … a limit is reached: wait, or make room
│       └── PaymentRequired … it would cost more than the limit of a day
├── ToolError               the model must choose another call
├── RunError                the agent's author must act: the run cannot end well
│   ├── ModelError          … the model refused or its answer is unusable
│   └── OverBudget          … the tokens or the money of a day are used up
├── Unavailable             the operator must act: a dependency does not answer
└── Lost                    nobody must act: somebody else has the work now
    ├── ConditionFailed     … a racing write came first
    ├── ClaimLost           … this attempt no longer owns its task
    └── TaskCanceled        … the user canceled the task
```
"""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "ClaimLost",
    "ConditionFailed",
    "Conflict",
    "InvalidRequest",
    "LimitReached",
    "Lost",
    "ModelError",
    "NotFound",
    "OverBudget",
    "PaymentRequired",
    "RequestError",
    "RunError",
    "TaskCanceled",
    "TooLarge",
    "ToolError",
    "Unauthorized",
    "Unavailable",
    "WorkerSpaceError",
]


class WorkerSpaceError(Exception):
    """Base of every error this package raises on purpose. ``str(error)`` is fit to show to the caller."""


class RequestError(WorkerSpaceError):
    """The caller must change the request; repeating it as it is fails again."""


class InvalidRequest(RequestError):
    """A value in the request is wrong; the message says which and what is allowed."""


class Unauthorized(RequestError):
    """The request carries no valid token."""


class NotFound(RequestError):
    """The caller has no such object: missing and somebody else's look the same."""


class Conflict(RequestError):
    """The request contradicts what is stored now (a name is taken, a version is old, something runs)."""


class TooLarge(RequestError):
    """The request, or what it asks for, is over a size limit."""


class LimitReached(RequestError):
    """A limit of the project or user is reached.

    Attributes:
        retry_after: After how many seconds the request may be repeated; `None` where waiting alone does not help.
        limit: The limit's name, where it is one of `allowances`.
        until: When it is counted anew, epoch milliseconds, where it is one of a period.
    """

    def __init__(
        self, message: str, *, retry_after: int | None, limit: str | None = None, until: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.limit = limit
        self.until = until


class PaymentRequired(LimitReached):
    """The money that a project or user may spend in a day is spent."""


class ToolError(WorkerSpaceError):
    """A tool refuses its arguments or cannot do what they ask. The model is told, and the run goes on."""


class RunError(WorkerSpaceError):
    """An agent's run cannot end well whatever is repeated: the task fails with this text as the reason.

    Attributes:
        code: What the task's failure is called for programs.
    """

    code = "run_failed"


class ModelError(RunError):
    """The model refused the request, or its answer cannot be used.

    Attributes:
        used: Input and output tokens of an answer that cannot be used but was counted; `None` where there was none.
    """

    def __init__(self, message: str, *, used: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.used = used


class OverBudget(RunError):
    """A model call would go over what the project or user may use in a day; the text says what, and until when.

    The code is `limit_reached`, or `payment_required` where it is money.

    Attributes:
        limit: The limit's name.
        until: When it may be asked again, epoch milliseconds; `None` where nobody said.
    """

    def __init__(self, message: str, *, money: bool = False, until: int | None = None) -> None:
        super().__init__(message)
        self.code = "payment_required" if money else "limit_reached"
        self.limit = "cost_per_day" if money else "tokens_per_day"
        self.until = until


class Unavailable(WorkerSpaceError):
    """A dependency does not answer, or answers with an error of its own. Repeating later may succeed.

    Attributes:
        begun: Whether its answer had begun to come: of a model, the call is paid for.
    """

    def __init__(self, dependency: str, reason: str, *, begun: bool = False) -> None:
        super().__init__(f"{dependency} is unavailable: {reason}")
        self.dependency = dependency
        self.begun = begun


class Lost(WorkerSpaceError):
    """Somebody else has the work now; whoever holds this error stops quietly."""


class ConditionFailed(Lost):
    """A conditional write did not happen, because a condition did not hold.

    Attributes:
        items: One entry per write of the call, in its order: the item as it was stored when the
            condition of that write failed, `{}` when it failed on a missing item, `None` where the condition held.
    """

    def __init__(self, items: Sequence[Mapping[str, Any] | None]) -> None:
        failed = [index for index, item in enumerate(items) if item is not None]
        super().__init__(f"the condition of write {failed} did not hold")
        self.items = list(items)


class ClaimLost(Lost):
    """Another attempt has taken the task over, or the task has ended: this attempt must not write any more."""


class TaskCanceled(Lost):
    """The user asked to cancel the task; the run stops before its next model call or tool effect."""
