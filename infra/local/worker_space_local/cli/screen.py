"""What commands print: plain text in pipes, rendered Markdown on a terminal, no control character of others."""

import sys
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import click

# They turn the direction of the text around and so make a line read as something else.
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def clean(text: str) -> str:
    """Text of an agent, a file or a server without what could steer a terminal."""
    return "".join(
        c for c in text if c in "\n\t" or (unicodedata.category(c) not in {"Cc", "Cs"} and c not in _BIDIRECTIONAL)
    )


def one_line(text: str, width: int = 60) -> str:
    """Text cut to `width` characters, its line ends shown as spaces."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"


def say(text: str = "") -> None:
    """Print a line, at once even into a pipe."""
    click.echo(text)
    sys.stdout.flush()


def warn(text: str) -> None:
    """Print a line for the person beside the output, so that a pipe gets results only."""
    click.echo(text, err=True)


def markdown(text: str) -> None:
    """Print Markdown: rendered on a terminal, as it is elsewhere."""
    text = clean(text)
    if not sys.stdout.isatty():
        say(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text, hyperlinks=False))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns under their heads."""
    lines = [list(heads), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def seconds(milliseconds: float) -> str:
    """A duration for people, such as `0.34 s`."""
    return f"{max(milliseconds, 0) / 1000:.2f} s"


def size(count: int) -> str:
    """A number of bytes for people, such as `7.2 MB`."""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB" if count < 1_000_000_000 else f"{count / 1_000_000_000:.1f} GB"


def clock(milliseconds: object) -> str:
    """A moment in epoch milliseconds as local time, to the second."""
    if not isinstance(milliseconds, int):
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


class Progress:
    """How far something is: `done` of `total` things and, where they are counted, how many of `bytes`."""

    def __init__(self, what: str, total: int, bytes_: int = 0) -> None:
        self.what = what
        self.total = total
        self.bytes = bytes_
        self.done = 0
        self._moved = 0
        self._lock = threading.Lock()

    def moved(self, count: int) -> None:
        """Count bytes; several threads may."""
        with self._lock:
            self._moved += count

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.total}"] if self.total else []
        if self.bytes:
            parts.append(f"{size(self._moved)} of {size(self.bytes)}")
        return f"… still {self.what}" + (f": {', '.join(parts)}" if parts else "")


@contextmanager
def progress(
    what: str, total: int = 0, *, bytes_: int = 0, first: float = 1.0, every: float = 5.0
) -> Iterator[Progress]:
    """Say what takes so long when the block takes more than `first` seconds, and again `every` so many.

    On a terminal it is one line, which shows how far things are and is gone afterwards.
    """
    state = Progress(what, total, bytes_)
    ended = threading.Event()
    terminal = sys.stderr.isatty()

    def watch() -> None:
        wait = first
        while not ended.wait(wait):
            if terminal:
                click.echo(f"\r\x1b[2K{state}", err=True, nl=False)
                sys.stderr.flush()
            else:
                warn(str(state))
            wait = 0.2 if terminal else every
        if terminal and wait != first:
            click.echo("\r\x1b[2K", err=True, nl=False)
            sys.stderr.flush()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield state
    finally:
        ended.set()
        thread.join()
