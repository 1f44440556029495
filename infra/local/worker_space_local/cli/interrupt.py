"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the program happens to be. In a finalizer, a closing generator or a callback of
the garbage collector it is printed and forgotten (docs.python.org: sys.unraisablehook), and whoever waits waits on.
"""

import signal
import threading
from types import FrameType
from typing import Self

__all__ = ["Interrupt"]


class Interrupt:
    """Remembers a Ctrl-C from entering to leaving; in another thread than the main one Python tells of none."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> Self:
        self._noted = threading.current_thread() is threading.main_thread()
        if self._noted:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._noted:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Ask before each wait.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed and came to nothing.
        """
        if self._asked:
            raise KeyboardInterrupt
