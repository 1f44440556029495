"""From a message to requests: what stands in quotes is set aside, sentences are parted, and each meets the grammar."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from worker_space.adapters.offline.grammar import CHANGING, HEAD, READING, SPEAKING, WRITING, Rule
from worker_space.adapters.offline.requests import Look, Request, Unknown
from worker_space.adapters.offline.wording import LITERAL, Quoted, paths_in, polite_core

__all__ = ["NEGATION", "STORES", "understand"]

_MOST_REQUESTS: Final = 4
_MOST_PATHS: Final = 3
_MOST_CHARACTERS: Final = 2_000
_VERBS: Final = (
    "analyse|analyze|explain|summarise|summarize|describe|review|check|read|show|print|list|find|search|grep|create|write"
    "|save|append|add|replace|change|rename|move|delete|remove|remember|open|look|plan|what|where|tell"
)
_SPLIT: Final = re.compile(
    r"(?:\s*[;\n]\s*|[.!?]\s+|\s*,?\s+(?:and\s+then|then|and\s+also|and)\s+|\s*,\s+)(?:(?:then|also)\s+)?"
    rf"(?=(?:{_VERBS})\b)",
    re.I,
)
# Between an unquoted text and the next request only "then" is unambiguous: "with milk and delete" may be the text.
_SPLIT_AT_THEN: Final = re.compile(rf"\s*[,;]?\s+(?:and\s+)?then\s+(?=(?:{_VERBS})\b)", re.I)
NEGATION: Final = re.compile(
    r"\b(?:do not|don'?t|never|without|avoid|instead of|not to|must not|should not|shouldn'?t)\b", re.I
)
_REMEMBER: Final = re.compile(
    r"(?:remember|keep in mind|don'?t forget|note)\b(?! (?:what|when|where|who|how)\b)(?!\.)", re.I
)
STORES: Final = re.compile(r"(?:create|make|write|save|append|add|put|overwrite)\b", re.I)
_ALL: Final[tuple[Rule, ...]] = (*SPEAKING, *WRITING, *CHANGING, *READING)


def understand(message: str) -> list[Request]:
    """The requests in a message, in their order; at least one, at most a few."""
    quoted = Quoted.take(message)
    text = quoted.text.strip()
    head = HEAD.match(text)
    rest = "" if head is None else text[head.end() :]
    if head is not None and not re.match(LITERAL, rest) and (len(text) > _MOST_CHARACTERS or head[0].endswith("\n")):
        # All that follows the head is the text to write, whatever it says.
        quoted, mark = quoted.with_text(rest.strip("\n"))
        text = head[0] + mark
    if len(text) > _MOST_CHARACTERS:
        # The grammar is for sentences: its time grows with the square of their length.
        return [_unknown(text[:_MOST_CHARACTERS], quoted)]
    if _REMEMBER.match(polite_core(text)):
        return [_one(text, quoted, _ALL)]
    unquoted = bool(STORES.match(polite_core(text))) and not re.search(LITERAL, text)
    if not unquoted and NEGATION.search(text):
        # "Do not … and delete …": no sentence that speaks of what not to do may change anything.
        return [_one(text, quoted, READING)]
    pieces = [piece for piece in (_SPLIT_AT_THEN if unquoted else _SPLIT).split(text) if piece.strip()]
    found: list[Request] = [_one(piece, quoted, _ALL) for piece in pieces[:_MOST_REQUESTS]] or [Unknown()]
    known: list[Request] = [request for request in found if not isinstance(request, Unknown)]
    if len(known) < len(found) > 1:
        found = known if known and not unquoted else [_one(text, quoted, _ALL)]
    return [request for group in found for request in _several(group, quoted, text, len(found))]


def _several(request: Request, quoted: Quoted, text: str, count: int) -> Iterator[Request]:
    """Part "Analyse a.py and b.py", one request with two paths, into two."""
    paths = paths_in(text, quoted)[:_MOST_PATHS] if isinstance(request, Look) and count == 1 else []
    if isinstance(request, Look) and len(paths) > 1:
        for path in paths:
            yield Look(path=path, words=request.words, review=request.review)
    else:
        yield request


def _one(piece: str, quoted: Quoted, rules: Sequence[Rule]) -> Request:
    core = polite_core(piece)
    for pattern, build in rules:
        match = pattern.match(core)
        if match is not None and (request := build(match, quoted)) is not None:
            return request
    return _unknown(core, quoted)


def _unknown(text: str, quoted: Quoted) -> Unknown:
    return Unknown(path=next(iter(paths_in(text, quoted)), None))
