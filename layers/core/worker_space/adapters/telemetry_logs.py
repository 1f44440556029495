"""Lines of JSON, one an event, by Powertools' formatter; the fields come from `telemetry.logged_with`.

An error's own text may quote what a user wrote, and a library's line may hold an address that names a project. So an
exception is told by its type and its places, and other packages are heard from warnings on.
"""

import logging
import traceback
from types import TracebackType
from typing import Final, TextIO

from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

from worker_space.telemetry import log_fields

__all__ = ["log_as_json", "places_of"]

_OURS: Final = "worker_space"
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def places_of(error: BaseException) -> str:
    """Where an error came from, the innermost place last, without its text and without lines of source."""
    frames = traceback.extract_tb(error.__traceback__)
    return " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames)


class _Formatter(LambdaPowertoolsFormatter):
    def formatException(self, ei: _ExcInfo) -> str:
        return "" if ei[1] is None else places_of(ei[1])


class _Fields(logging.Filter):
    """Gives each record the fields of the work that it was written in."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in log_fields().items():
            setattr(record, name, value)
        return True


def log_as_json(stream: TextIO, *, level: str, service: str, function_name: str) -> None:
    """Have this process log to `stream`: our own lines from `level` on, those of others from WARNING on.

    Safe to call again. What Lambda's runtime has set up would print each of our lines a second time.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _Formatter(
            utc=True,
            use_rfc3339=True,
            serialize_stacktrace=False,
            log_record_order=["timestamp", "level", "message", "location"],
            service=service,
            function_name=function_name,
            logger="%(name)s",
        )
    )
    handler.addFilter(_Fields())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_OURS).setLevel(level)
