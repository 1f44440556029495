"""What surrounds an entry point on Lambda: its log lines get their fields, its counts are printed, its spans sent.

Elsewhere it does nothing at all, and imports nothing: a laptop's logs are for people.
"""

import functools
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO, TypeVar

from worker_space.settings import TelemetrySettings
from worker_space.telemetry import Fact, Measure, NoTelemetry, Span, listening, logged_with

if TYPE_CHECKING:
    from worker_space.adapters.telemetry_metrics import Counts

__all__ = ["Watch"]

E = TypeVar("E")
A = TypeVar("A")
_log = logging.getLogger(__name__)
_UNTRACED: Final = NoTelemetry()


class _Spans(Protocol):
    def span(self, name: str, facts: Mapping[str, Fact]) -> AbstractContextManager[Span]: ...


class InvocationFailed(Exception):
    """Stands for the error of an invocation where Lambda tells it on; its text may have quoted a user."""


class _Heard:
    """Listens to one invocation."""

    def __init__(self, counts: "Counts", spans: _Spans) -> None:
        self._counts = counts
        self._spans = spans

    def count(self, measure: Measure, amount: int, **by: str) -> None:
        if amount or measure.endswith("_ms"):
            self._counts.add(measure, amount, **by)

    def span(self, name: str, facts: Mapping[str, Fact]) -> AbstractContextManager[Span]:
        return self._spans.span(name, facts)


class Watch:
    """Decorates the handlers of one function.

    Args:
        settings: What the environment says, if not given.
        stream: Where log lines go.
    """

    def __init__(self, settings: TelemetrySettings | None = None, *, stream: TextIO | None = None) -> None:
        self._settings = TelemetrySettings.from_environment() if settings is None else settings
        self._service = f"{self._settings.prefix}-worker-space"
        self._spans: _Spans = _UNTRACED
        self._cold = True
        if not self._settings.function_name:
            return
        from worker_space.adapters.telemetry_logs import log_as_json

        log_as_json(
            stream or sys.stdout,
            level=self._settings.log_level,
            service=self._service,
            function_name=self._settings.function_name,
        )
        if self._settings.traces:
            from worker_space.adapters.telemetry_traces import Traces

            self._spans = Traces(self._service)

    def __call__(self, handler: Callable[[E, Any], A]) -> Callable[[E, Any], A]:
        """The handler, watched.

        Raises:
            InvocationFailed: (by what is returned) In place of whatever the handler raised.
        """
        if not self._settings.function_name:
            return handler

        @functools.wraps(handler)
        def watched(event: E, context: Any) -> A:
            return self._watched(handler, event, context)

        return watched

    def _watched(self, handler: Callable[[E, Any], A], event: E, context: Any) -> A:
        from worker_space.adapters.telemetry_logs import places_of
        from worker_space.adapters.telemetry_metrics import Counts

        request_id = str(context.aws_request_id)
        cold, self._cold = self._cold, False
        counts = Counts(self._service)
        name = self._settings.function_name
        started: dict[str, Fact] = {"service": self._service, "cold_start": cold}
        fields: dict[str, Fact] = {"function_request_id": request_id, "correlation_id": request_id, "cold_start": cold}
        with listening(_Heard(counts, self._spans)), logged_with(**fields):
            try:
                with self._spans.span(f"## {name}", started):
                    return handler(event, context)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told on without its text
                _log.error("the invocation failed: %s at %s", type(error).__name__, places_of(error))
                raise InvocationFailed(f"{type(error).__name__}: see the log of request {request_id}") from None
            finally:
                counts.print(request_id)
