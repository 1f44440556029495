"""Limits and prices: how much a project may have and use, a user over all projects likewise, and what a call costs.

A project's limit is the deployment's, unless the operator has set another for this very project; its owner may lower
what either allows, for themselves. A user's limits over all their projects are the deployment's.

Minutes are the clock's, so two minutes' worth of messages may come within a few seconds around a full minute. Days are
UTC's.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker_space.models import Usage
from worker_space.settings import Price, Settings

__all__ = [
    "PROJECT_LIMITS",
    "USER_LIMITS",
    "Allowances",
    "LimitChanges",
    "Limits",
    "Source",
    "UserLimits",
    "day_ends",
    "day_of",
    "minute_ends",
    "minute_of",
]

Source = Literal["deployment", "operator", "project"]
_MINUTE_MS: Final = 60_000
_PER_PRICE: Final = 1_000_000


class Limits(BaseModel):
    """Most of each for one project; `None` is without a limit.

    Attributes:
        agents: Agents that there are at once.
        sessions: Chat sessions that there are at once.
        open_tasks: Tasks that have not ended.
        messages_per_minute: Messages accepted in one minute of the clock.
        file_bytes: Bytes of all files, as they are now: earlier versions are not counted.
        tokens_per_day: Tokens of model calls, input and output together.
        cost_per_day: What model calls cost, in millionths of the deployment's currency.
    """

    model_config = ConfigDict(frozen=True)

    agents: int | None = None
    sessions: int | None = None
    open_tasks: int | None = None
    messages_per_minute: int | None = None
    file_bytes: int | None = None
    tokens_per_day: int | None = None
    cost_per_day: int | None = None


class UserLimits(BaseModel):
    """Most of each for one user over all projects; `None` is without a limit."""

    model_config = ConfigDict(frozen=True)

    projects: int | None = None
    messages_per_minute: int | None = None
    tokens_per_day: int | None = None
    cost_per_day: int | None = None


PROJECT_LIMITS: Final = tuple(Limits.model_fields)
USER_LIMITS: Final = tuple(UserLimits.model_fields)

_Own = Annotated[int | None, Field(ge=0, le=10**15, strict=True)]


class LimitChanges(BaseModel):
    """The limits that a project's owner sets; what is not sent stays, `null` takes one's own away again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agents: _Own = None
    sessions: _Own = None
    open_tasks: _Own = None
    messages_per_minute: _Own = None
    file_bytes: _Own = None
    tokens_per_day: _Own = None
    cost_per_day: _Own = None

    @property
    def sent(self) -> Mapping[str, int | None]:
        """What was sent, by name."""
        return {name: getattr(self, name) for name in PROJECT_LIMITS if name in self.model_fields_set}


class Allowances:
    """What a deployment allows, and what its models cost."""

    def __init__(self, settings: Settings) -> None:
        self._project = Limits(**{name: getattr(settings, f"limit_{name}") for name in PROJECT_LIMITS})
        self.user = UserLimits(**{name: getattr(settings, f"user_limit_{name}") for name in USER_LIMITS})
        self._prices: Mapping[str, Price] = settings.prices

    # -- limits ----------------------------------------------------------------------------------
    def granted(self, by_operator: Mapping[str, int | None]) -> Limits:
        """The limits that a project's owner cannot go beyond.

        Args:
            by_operator: What the operator has set for this very project, more or less than for the others.
        """
        known = {name: value for name, value in by_operator.items() if name in PROJECT_LIMITS}
        return self._project.model_copy(update=known)

    def of(self, own: Mapping[str, int], by_operator: Mapping[str, int | None]) -> Limits:
        """The limits of a project.

        Args:
            own: What its owner has set. More than is granted counts for nothing: the grant may have been lowered since.
            by_operator: See `granted`.
        """
        granted = self.granted(by_operator)
        return granted.model_copy(update={name: _lower(getattr(granted, name), own[name]) for name in _known(own)})

    def of_record(self, space: Mapping[str, Any]) -> Limits:
        """Likewise, by the space's record as stored."""
        return self.of(space.get("limits", {}), space.get("operator_limits", {}))

    def source(self, name: str, own: Mapping[str, int], by_operator: Mapping[str, int | None]) -> Source:
        """Who decides a project's limit."""
        granted: int | None = getattr(self.granted(by_operator), name)
        if name in own and (granted is None or own[name] < granted):
            return "project"
        return "operator" if name in by_operator else "deployment"

    # -- prices ----------------------------------------------------------------------------------
    def price(self, model: str) -> Price | None:
        """What a model costs; `None` where nobody has said. The offline model costs nothing."""
        if model.startswith("offline:"):
            return Price(input=0, output=0)
        return self._prices.get(model)

    def cost_micros(self, model: str, usage: Usage) -> int:
        """What model calls cost, in millionths of the deployment's currency, rounded up; 0 without a price."""
        price = self.price(model)
        if price is None:
            return 0
        return -(-(usage.input_tokens * price.input + usage.output_tokens * price.output) // _PER_PRICE)

    def affordable_output(self, model: str, input_tokens: int, micros: int) -> int | None:
        """Output tokens that `micros` pay for behind such an input; `None` where the model's output costs nothing."""
        price = self.price(model)
        if price is None or price.output == 0:
            return None
        return max(0, (micros * _PER_PRICE - input_tokens * price.input) // price.output)


def _known(limits: Mapping[str, int]) -> list[str]:
    return [name for name in limits if name in PROJECT_LIMITS]


def _lower(granted: int | None, own: int) -> int:
    return own if granted is None else min(granted, own)


def minute_of(now: int) -> int:
    """The minute that a time (epoch milliseconds) falls into."""
    return now // _MINUTE_MS


def minute_ends(minute: int) -> int:
    """When a minute ends, epoch milliseconds."""
    return (minute + 1) * _MINUTE_MS


def day_of(now: int) -> str:
    """The day (UTC) that a time (epoch milliseconds) falls into, such as `20261122`."""
    return f"{datetime.fromtimestamp(now / 1000, UTC):%Y%m%d}"


def day_ends(day: str) -> int:
    """When a day ends, epoch milliseconds."""
    midnight = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1)
    return round(midnight.timestamp()) * 1000
