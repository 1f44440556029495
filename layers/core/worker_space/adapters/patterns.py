"""Regular expressions by RE2: no backtracking, so no pattern can hang a worker or eat its memory.

RE2 refuses what cannot be matched in linear time (back-references, look-around) and repetitions that would make a
program of gigabytes. A backtracking engine with a timeout was measured beside it: patterns of 20 characters took
1 GB and two seconds before its timeout even began.
"""

from collections.abc import Callable
from typing import Final

import re2  # type: ignore[import-untyped]

from worker_space.errors import ToolError

__all__ = ["Re2Patterns"]

_MAX_MEMORY: Final = 4 << 20


class Re2Patterns:
    """Implements `worker_space.tools.tool.Patterns`."""

    def compile(self, pattern: str, *, case_sensitive: bool) -> Callable[[str], bool]:
        """See the protocol."""
        options = re2.Options()
        options.log_errors = False
        options.case_sensitive = case_sensitive
        options.never_capture = True
        options.max_mem = _MAX_MEMORY
        try:
            compiled = re2.compile(pattern, options)
        except (re2.error, UnicodeEncodeError) as error:
            raise ToolError(f"query is no usable regular expression: {_reason(error)}") from error
        finally:
            # The library keeps the last 128 for ever: other tenants' patterns, and megabytes each.
            re2.purge()
        return lambda line: compiled.search(line) is not None


def _reason(error: Exception) -> str:
    first = error.args[0] if error.args else ""
    return (first.decode(errors="replace") if isinstance(first, bytes) else str(error))[:200]
