"""Small pieces of Markdown, and the sentences that report a failed call."""

import re
from collections.abc import Sequence

from worker_space.adapters.offline.dialogue import Result

__all__ = ["bullets", "code", "failed", "fenced", "listed", "plural", "size", "words"]


def code(text: str, most: int = 120) -> str:
    """`text` as inline code on one line, however many backticks it holds."""
    text = " ".join(text.split())
    if len(text) > most:
        text = text[: most - 1] + "…"
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    if longest == 0:
        return f"`{text}`"
    ticks = "`" * (longest + 1)
    return f"{ticks} {text} {ticks}"


def fenced(text: str, language: str = "") -> str:
    """`text` as a code block that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def size(count: int) -> str:
    """Bytes for readers."""
    if count < 1024:
        return plural(count, "byte")
    return f"{count / 1024:.1f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.1f} MiB"


def bullets(lines: Sequence[str], most: int = 40, noun: str = "more") -> str:
    """A list; what is over `most` is counted."""
    shown = [f"- {line}" for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"- … and {len(lines) - most} {noun}")
    return "\n".join(shown)


def listed(names: Sequence[str], most: int = 8) -> str:
    """`a`, `b` and 3 more."""
    shown = [code(name, 80) for name in names[:most]]
    rest = len(names) - len(shown)
    if rest:
        return ", ".join(shown) + f" and {rest} more"
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1] if shown else ""


def words(text: str, most: int = 300) -> str:
    """`text` on one line, cut at `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def failed(what: str, result: Result) -> str:
    """The sentence that reports a call which brought no data."""
    reason = (result.error or "").strip().rstrip(".")
    if result.lacking is not None:
        return f"I could not {what}: {reason}. Its owner can add the tool to the agent."
    return f"I could not {what}: {words(reason, 400)}."
