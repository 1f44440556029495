"""Text as a model writes it, shown on a terminal while it grows and gone when the answer is there."""

import sys
from types import TracebackType
from typing import Any, Final, Self

from worker_space_local.cli.screen import clean

_LEAST_LINES: Final = 3


class Preview:
    """The end of a growing text, as much of it as the terminal holds; into a pipe nothing is written.

    What stays is printed by others, after `clear`: the answer as it was stored, rendered.
    """

    def __init__(self) -> None:
        self._text = ""
        self._live: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()

    def add(self, text: str) -> None:
        """Show more of the text."""
        if not sys.stdout.isatty():
            return
        self._text += clean(text)
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            self._live = Live(transient=True, auto_refresh=False)
            self._live.start()
        console = self._live.console
        lines = Text(self._text, style="dim").wrap(console, console.width)
        room = max(_LEAST_LINES, console.height - 2)
        self._live.update(Text("\n").join(lines[-room:]), refresh=True)

    def clear(self) -> None:
        """Take it off the screen."""
        self._text = ""
        if self._live is not None:
            self._live.stop()
            self._live = None
