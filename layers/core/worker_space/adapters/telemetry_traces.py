"""Segments for X-Ray, through Powertools' Tracer. Importing this module imports the X-Ray SDK: only do it to trace.

Facts go into a span twice: under their own names as metadata, where dots may stand, and with `_` for the dots as
annotations, by which X-Ray can be searched. That is how the OpenTelemetry collector writes them for X-Ray, too.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from aws_lambda_powertools import Tracer
from aws_xray_sdk.core.lambda_launcher import LambdaContext
from aws_xray_sdk.core.models.dummy_entities import DummySegment

from worker_space.telemetry import Fact, span

__all__ = ["Traces", "traced"]

_METADATA: Final = "worker_space"
_NAME_MAX: Final = 200
_PORTS: Final = {
    "records": "table",
    "due": "table",
    "cache": "redis",
    "memory": "qdrant",
    "queues": "queue",
    "files": "files",
    "content": "files",
}
"""The ports whose calls are spans of their own, and what is behind them."""


class _TaskContext(LambdaContext):  # type: ignore[misc]
    """Keeps the open subsegments by asyncio task.

    The SDK's own context keeps one stack a thread: of two calls that run at the same time, the first to end would close
    the other's subsegment (https://github.com/aws/aws-xray-sdk-python/issues/164).
    """

    def __init__(self) -> None:
        super().__init__()
        self._open: ContextVar[tuple[Any, ...]] = ContextVar("open_subsegments", default=())

    def get_trace_entity(self) -> Any:
        self._refresh_context()
        segment = self._local.segment
        entities = self._open.get()
        # What is open in another invocation's segment is of another time.
        return entities[-1] if entities and entities[-1].parent_segment is segment else segment

    def put_subsegment(self, subsegment: Any) -> None:
        parent = self.get_trace_entity()
        if self._is_subsegment(parent):
            before = self._open.get()
        elif isinstance(parent, DummySegment) or getattr(parent, "initializing", False):
            # Lambda keeps no trace of this invocation, or there is none yet.
            return
        else:
            before = ()
        parent.add_subsegment(subsegment)
        self._open.set((*before, subsegment))

    def end_subsegment(self, end_time: float | None = None) -> bool:
        entity = self.get_trace_entity()
        if not self._is_subsegment(entity):
            return False
        entity.close(end_time)
        self._open.set(self._open.get()[:-1])
        return True


class _Subsegment:
    """A span under way."""

    def __init__(self, subsegment: Any) -> None:
        self._subsegment = subsegment

    def note(self, facts: Mapping[str, Fact]) -> None:
        """Add facts to it."""
        for name, value in facts.items():
            self._subsegment.put_metadata(name, value, _METADATA)
            self._subsegment.put_annotation(name.replace(".", "_"), value)


class Traces:
    """Makes spans; Lambda itself makes the segment round them, and decides which invocations are kept.

    Args:
        service: An annotation of each invocation.
    """

    def __init__(self, service: str) -> None:
        recorder: Any = Tracer(service=service, auto_patch=False).provider
        self._recorder = recorder
        self._recorder.configure(context=_TaskContext(), streaming_threshold=0)

    @contextmanager
    def span(self, name: str, facts: Mapping[str, Fact]) -> Iterator[_Subsegment]:
        """Measure what is done within; an error that leaves it marks it, by its type and without its text."""
        subsegment = self._recorder.begin_subsegment(name[:_NAME_MAX])
        told = _Subsegment(subsegment)
        told.note(facts)
        try:
            yield told
        except BaseException as error:
            subsegment.add_error_flag()
            told.note({"error.type": type(error).__name__})
            raise
        finally:
            self._recorder.end_subsegment()


class _Port:
    """A port whose calls are spans named for what is behind it."""

    def __init__(self, port: Any, name: str) -> None:
        self._port = port
        self._name = name

    def __getattr__(self, operation: str) -> Any:
        found = getattr(self._port, operation)
        if not callable(found):
            return found
        name = f"{self._name}.{operation}"
        call: Callable[..., Awaitable[Any]] = found

        async def spanned(*arguments: Any, **named: Any) -> Any:
            with span(name, {}):
                return await call(*arguments, **named)

        return spanned


def traced(ports: object) -> dict[str, Any]:
    """The ports of dependencies by their names, with a span round each call; a model's calls have theirs in the core.

    Args:
        ports: Has a port of each name as an attribute.
    """
    return {name: _Port(getattr(ports, name), behind) for name, behind in _PORTS.items()}
