"""What can be said of a text that is no Python: its headings, its top level, its columns, or its first lines."""

import csv
import io
import json
import re
import tomllib
from typing import Any, Final

from worker_space.adapters.offline.markdown import bullets, code, fenced, listed, plural, words

__all__ = ["describe", "first_paragraph", "title"]

_HEADING: Final = re.compile(r"^(#{1,6})\s+(\S.*?)\s*#*$")
_LINK: Final = re.compile(r"\[[^\[\]]{0,200}\]\(([^()\s]{1,300})")
_YAML_KEY: Final = re.compile(r"^([A-Za-z_][\w. -]{0,80}):(?:\s|$)")
_HEAD: Final = 12


def describe(path: str, text: str, *, whole: bool) -> str:
    """A text's structure in Markdown.

    Args:
        path: Its ending tells the format.
        text: What was read of it.
        whole: Whether that is all of it: a part of JSON or TOML cannot be parsed.
    """
    ending = path.lower().rpartition(".")[2]
    if not text.strip():
        return "It is empty." if not text else "It holds only blank space."
    if ending in {"md", "markdown", "rst"}:
        return _markdown(text)
    if ending in {"json", "toml"} and whole:
        try:
            value = json.loads(text) if ending == "json" else tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            return f"It does not parse as {ending.upper()}: {words(str(error), 200)}."
        return f"It parses as {ending.upper()}.\n\n" + _top_level(value)
    if ending in {"yaml", "yml"}:
        keys = [match[1] for line in text.splitlines() if (match := _YAML_KEY.match(line))]
        if keys:
            return f"**Top-level keys:** {listed(keys, 20)}"
    if ending in {"csv", "tsv"}:
        return _table(text, "\t" if ending == "tsv" else ",")
    return _beginning(text)


def title(text: str) -> str:
    """The first heading, or nothing."""
    return next((match[2] for line in _prose_lines(text) if (match := _HEADING.match(line))), "")


def first_paragraph(text: str) -> str:
    """The first paragraph that is no heading, badge or list."""
    lines: list[str] = []
    for line in _prose_lines(text):
        if not line.strip() or line.startswith(("#", "!", "[!", "<", "- ", "* ", "|", "=", "---")):
            if lines:
                break
            continue
        lines.append(line)
    return words(" ".join(lines), 400)


def _prose_lines(text: str) -> list[str]:
    """Lines outside code blocks: a comment in a shell example is no heading."""
    kept: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = line.strip()[:3]
        if mark in {"```", "~~~"} and (not fence or mark == fence):
            fence = "" if fence else mark
        elif not fence:
            kept.append(line)
    return kept


def _markdown(text: str) -> str:
    sections: list[str] = []
    if paragraph := first_paragraph(text):
        sections.append(f"> {paragraph}")
    headings = [(len(match[1]), match[2]) for line in _prose_lines(text) if (match := _HEADING.match(line))]
    if headings:
        top = min(level for level, _ in headings)
        lines = ["  " * (level - top) + f"- {words(name, 120)}" for level, name in headings[:30]]
        rest = [f"- … and {len(headings) - 30} more"] if len(headings) > 30 else []
        sections.append("**Headings**\n" + "\n".join([*lines, *rest]))
    if links := list(dict.fromkeys(_LINK.findall(text))):
        sections.append(f"**Links ({len(links)}):** {listed(links, 10)}")
    return "\n\n".join(sections) or _beginning(text)


def _top_level(value: Any) -> str:
    if isinstance(value, dict):
        lines = [f"{code(str(key), 80)}: {_kind(entry)}" for key, entry in value.items()]
        return f"**Top level:** an object with {plural(len(value), 'key')}\n" + bullets(lines, 30, "more keys")
    if isinstance(value, list):
        text = f"**Top level:** a list of {plural(len(value), 'entry', 'entries')}"
        return text + (f", the first of which is {_kind(value[0])}." if value else ".")
    return f"**Top level:** {_kind(value)}."


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with {plural(len(value), 'key')}" + (
            f" ({listed(list(map(str, value)), 6)})" if value else ""
        )
    if isinstance(value, list):
        return f"a list of {plural(len(value), 'entry', 'entries')}"
    return code(json.dumps(value, ensure_ascii=False, default=str), 80)


def _table(text: str, separator: str) -> str:
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=separator))
    except csv.Error as error:
        return f"It does not parse as a table: {words(str(error), 200)}."
    rows = [row for row in rows if row]
    if not rows:
        return "It holds no rows."
    return (
        f"A table of {plural(len(rows) - 1, 'row')} below its first line and {plural(len(rows[0]), 'column')}: "
        f"{listed(rows[0], 20)}."
    )


def _beginning(text: str) -> str:
    lines = text.splitlines()
    shown = "\n".join(line[:200] for line in lines[:_HEAD])
    what = "It reads:" if len(lines) <= _HEAD else f"Its first {_HEAD} lines:"
    return f"{what}\n\n{fenced(shown)}"
