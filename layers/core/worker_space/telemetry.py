"""What the core tells those who operate it: fields of log lines, counts, and spans of time.

It is ambient, kept in context variables: each asyncio task has the fields of the work it was made for, and they end
with the `with` that set them. Who listens (`adapters.telemetry` on Lambda, nobody elsewhere) decides what becomes of
counts and spans. Nothing that a user or a model wrote belongs into any of the three.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

__all__ = [
    "Fact",
    "Measure",
    "NoTelemetry",
    "Span",
    "Telemetry",
    "count",
    "listening",
    "log_fields",
    "logged_with",
    "span",
    "trace_id",
]

Fact = str | int

_NO_FIELDS: Final[Mapping[str, Fact]] = MappingProxyType({})


class Measure(StrEnum):
    """What is counted. Names that end in `_ms` are lengths of time, each of which is kept; all others are summed.

    `completed`, `failed`, `canceled` and `duration_ms` (accepted → ended) are of tasks, `duration_ms` by `outcome`.
    `queue_age_ms` is accepted → begun, with all waiting for the session's turn and the agent; `delivery_age_ms` is
    sent to SQS → begun, which is the platform's part of it. `retried` are attempts after one that failed. Model calls,
    their tokens and cost are by `provider`. `swept` and `reconciled` are what those jobs did, by
    `outcome`.
    """

    ACCEPTED = "accepted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    APPROVALS_ASKED = "approvals_asked"
    RETRIED = "retried"
    DURATION_MS = "duration_ms"
    QUEUE_AGE_MS = "queue_age_ms"
    DELIVERY_AGE_MS = "delivery_age_ms"
    MODEL_CALLS = "model_calls"
    MODEL_ERRORS = "model_errors"
    MODEL_MS = "model_ms"
    TOKENS_IN = "tokens_in"
    TOKENS_OUT = "tokens_out"
    COST_MICROS = "cost_micros"
    TOOL_CALLS = "tool_calls"
    TOOL_ERRORS = "tool_errors"
    DEAD_LETTERS = "dead_letters"
    SWEPT = "swept"
    RECONCILED = "reconciled"


class Span(Protocol):
    """A length of time under way."""

    def note(self, facts: Mapping[str, Fact]) -> None:
        """Add facts to it."""


class Telemetry(Protocol):
    """Who listens."""

    def count(self, measure: Measure, amount: int, **by: str) -> None:
        """Take note of `amount` more. The values of `by` are of small fixed sets: no tenant, no agent, no task."""

    def span(self, name: str, facts: Mapping[str, Fact]) -> AbstractContextManager[Span]:
        """Measure what is done within; an error that leaves it marks it, by its type and without its text."""


class NoTelemetry:
    """Listens to nothing, and is a span of no length."""

    def count(self, measure: Measure, amount: int, **by: str) -> None:
        """Forget it."""

    def span(self, name: str, facts: Mapping[str, Fact]) -> AbstractContextManager[Span]:
        return _NOTHING

    def note(self, facts: Mapping[str, Fact]) -> None:
        """Forget them."""


_NOBODY: Final = NoTelemetry()
_NOTHING: Final = nullcontext(_NOBODY)
_listener: Final[ContextVar[Telemetry]] = ContextVar("worker_space_telemetry", default=_NOBODY)
_fields: Final[ContextVar[Mapping[str, Fact]]] = ContextVar("worker_space_log_fields", default=_NO_FIELDS)


@contextmanager
def listening(listener: Telemetry) -> Iterator[None]:
    """Let `listener` hear what is counted and measured within."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


@contextmanager
def logged_with(**fields: Fact) -> Iterator[None]:
    """Give the log lines within these fields, beside those they have."""
    before = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(before)


def log_fields() -> Mapping[str, Fact]:
    """The fields of a log line that is written now."""
    return _fields.get()


def trace_id() -> str:
    """What the present work is to be found by in every log, or `""`: it is handed on with what this work causes."""
    return str(_fields.get().get("correlation_id", ""))


def count(measure: Measure, amount: int = 1, **by: str) -> None:
    """Tell who listens of `amount` more."""
    _listener.get().count(measure, amount, **by)


def span(name: str, facts: Mapping[str, Fact]) -> AbstractContextManager[Span]:
    """Have what is done within measured. Models and tools go by the names of OpenTelemetry's GenAI conventions."""
    return _listener.get().span(name, facts)
