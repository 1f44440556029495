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
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def clock(milliseconds: object) -> str:
    """A moment in epoch milliseconds as local time, to the second."""
    if not isinstance(milliseconds, int):
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")


class Progress:
    """How far something is; `done` of `total`, where both are known."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0

    def __str__(self) -> str:
        return f"… still {self.what}" + (f": {self.done} of {self.total}" if self.total else "")


@contextmanager
def progress(what: str, total: int = 0, *, first: float = 1.0, every: float = 5.0) -> Iterator[Progress]:
    """Say what takes so long when the block takes more than `first` seconds, and again `every` so many."""
    state = Progress(what, total)
    ended = threading.Event()

    def watch() -> None:
        wait = first
        while not ended.wait(wait):
            warn(str(state))
            wait = every

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield state
    finally:
        ended.set()
        thread.join()
