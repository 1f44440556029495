"""The parts of a request that may go to different agents, and which of them needs another one's result."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worker_space.adapters.offline.grammar import HEAD
from worker_space.adapters.offline.requests import Append, Plan, Write
from worker_space.adapters.offline.understanding import NEGATION, STORES, understand
from worker_space.adapters.offline.wording import LITERAL, PATH, Quoted, paths_in, polite_core

__all__ = ["Part", "parts"]

_MOST_CHARACTERS: Final = 4_000
_MOST_PARTS: Final = 16

_VERBS: Final = (
    "analyse|analyze|explain|summarise|summarize|describe|write|rewrite|create|add|fix|implement|refactor|replace|rename"
    "|delete|remove|remember|compare|translate|update|improve|find|read|show|make|save|append|audit|inspect|examine"
    "|investigate|prepare|propose|generate|build|verify|optimise|optimize|move|tell|give|compose|assess|evaluate|proofread"
)
# These are nouns as well ("for errors and test coverage"): in the middle of a sentence they need an object behind them.
_NOUNS_TOO: Final = (
    "review|check|test|plan|document|list|draft|design|report|search|change|outline|format|comment|debug|count|look"
    "|print|note|edit|store|estimate|schedule"
)
_OBJECT: Final = (
    rf"(?=\s+(?:(?:the|a|an|my|our|your|its|their|all|each|every|this|that|these|those|some|it|them|for|at|whether|how"
    rf"|what|which|new|in)\b|{PATH}))"
)
_WHO: Final = r"(?:please\s+|@[\w-]+[,:]?\s+|(?:ask|let|have|tell)\s+(?:(?:the|our|my)\s+)?[\w-]+\s+(?:to\s+)?)*"
_A_VERB: Final = rf"(?={_WHO}(?:(?:{_VERBS})\b|(?:{_NOUNS_TOO})\b{_OBJECT}))"
_ANY_VERB: Final = rf"(?={_WHO}(?:{_VERBS}|{_NOUNS_TOO})\b)"
_BOUNDARY: Final = re.compile(
    r"(?P<last>(?:\s*[,;.!?\n]\s*|\s+)(?:and\s+)?(?:finally|lastly|at\s+the\s+end)\b,?\s+)"
    + _ANY_VERB
    + r"|(?P<then>(?:\s*[,;.!?\n]\s*|\s+)(?:and\s+)?(?:then|after\s+that|after\s+this|afterwards?|next|subsequently"
    r"|(?:once|when)\s+(?:that|this)(?:'s|\s+is)\s+(?:done|finished)|with\s+(?:that|this)"
    r"|from\s+(?:that|this)|based\s+on\s+(?:that|this|it|the\s+\w+))\b,?\s+"
    r"(?:based\s+on\s+(?:that|this|it|the\s+\w+)\b,?\s+)?)"
    + _ANY_VERB
    + r"|(?P<stop>(?:\s*[;\n]\s*|[.!?]\s+)(?:(?:also|and|please)\b,?\s+)*)"
    + _ANY_VERB
    + r"|(?P<and>\s*,?\s+(?:and\s+also|as\s+well\s+as|and|plus|also)\s+|\s*,\s+)"
    + _A_VERB,
    re.I,
)
_NUMBER: Final = re.compile(r"(?:(?<=\s)|^)(?:step\s+)?(\d{1,2})[.):]\s+", re.I)
_BULLET: Final = re.compile(r"^[ \t]*[-*•][ \t]+", re.M)
_LEADS_ON: Final = re.compile(r"(?:and\s+)?(?:then|after\s+that|afterwards?|next|finally|lastly)\b,?\s+", re.I)
_REFERS: Final = re.compile(
    r"\b(?:based\s+on|according\s+to|from|using|with|of|about)\s+(?:that|this|it|those|these|your|the|its)\s+"
    r"(?P<what>review|analysis|finding|result|summary|plan|report|output|outcome|answer|comparison)s?\b"
    r"|\bbased\s+on\s+(?:that|this|it|those|these)\b|\bthe\s+(?:findings?|results?|outcomes?|outputs?)\b"
    r"|\b(?:it|them|those)\b",
    re.I,
)
_BEGINNING: Final = re.compile(
    rf"(?:(?:please|first|firstly|first\s+of\s+all|to\s+begin\s+with|ok|okay|so|now|also)\b[,:]?\s*)*"
    rf"(?:{_VERBS}|{_NOUNS_TOO})?",
    re.I,
)
_PRONOUN: Final = re.compile(r"\b(?:it|them)\b", re.I)
_EMPTY_INTRO: Final = re.compile(
    r"(?:\s|[^\w\s]|please|can|could|would|will|you|do|the|this|these|following|i|we|need|want|have|to|things?|tasks?"
    r"|steps?|todos?|is|are|here|what|for|me|in|order|a|few|some|two|three|four|five|list|of|work|on|my)*",
    re.I,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a request.

    Attributes:
        text: What is to be done, in the user's words but without courtesy.
        said: The very words, an agent's name among them where one is addressed.
        joint: What stood between it and the part before.
        needs: Places of the parts whose results it builds on.
    """

    text: str
    said: str
    joint: str = ""
    needs: tuple[int, ...] = ()


def parts(goal: str) -> Sequence[Part]:
    """The parts of a request in their order; one where it cannot safely be parted."""
    quoted = Quoted.take(goal)
    text = quoted.text.strip()
    whole = [Part(text=goal.strip(), said=goal)]
    # In "do not … and …" the negation may reach over the whole; what comes behind it must not become a request.
    if len(text) > _MOST_CHARACTERS or NEGATION.search(text):
        return whole
    head = HEAD.match(text)
    if head is not None and head[0].endswith("\n"):
        # All that follows is a text to store.
        return whole
    found = _listed(text) or _said(text, quoted)
    if len(found) < 2:
        return whole
    return [
        Part(text=quoted.restore(part.text), said=quoted.restore(part.said), joint=part.joint, needs=part.needs)
        for part in found
    ]


def _said(text: str, quoted: Quoted) -> list[Part]:
    """The parts of sentences."""
    understood = understand(quoted.restore(text))
    first = understood[0]
    unquoted = STORES.match(polite_core(text)) is not None and not re.search(LITERAL, text)
    if (
        unquoted
        and len(understood) == 1
        and isinstance(first, Write | Append)
        and isinstance(first.content, str)
        and first.content
    ):
        # The text to store may go on to the end of the message: "with milk and delete" asks for nothing.
        return []
    only_order = isinstance(first, Plan)
    found: list[Part] = []
    start, joint, order = 0, "", ""
    sentence = 0
    for match in [*_BOUNDARY.finditer(text), None]:
        if match is not None and len(found) == _MOST_PARTS - 1:
            continue
        if match is not None and only_order and match.lastgroup not in {"then", "last"}:
            continue
        piece = text[start : len(text) if match is None else match.start()]
        needs: tuple[int, ...] = ()
        if order == "last":
            needs = tuple(range(len(found)))
        elif order == "then":
            needs = tuple(range(min(sentence, max(0, len(found) - 1)), len(found)))
        if match is not None and _BEGINNING.fullmatch(piece.strip()):
            # "Find and fix the bug" is one request, and "First, …" is none of its own.
            continue
        found.append(_part(piece, joint, needs, found, quoted))
        if order in {"then", "last"} or re.search(r"[;.!?\n]", joint):
            sentence = len(found) - 1
        if match is not None:
            start, joint, order = match.end(), match[0], match.lastgroup or ""
    return found


def _listed(text: str) -> list[Part]:
    """The items of a list, numbered from 1 or with bullets."""
    marks = list(_NUMBER.finditer(text))
    numbers = [int(match[1]) for match in marks]
    if numbers != list(range(1, len(marks) + 1)):
        marks = []
    if len(marks) < 2:
        marks = list(_BULLET.finditer(text))
    if not 2 <= len(marks) <= _MOST_PARTS:
        return []
    intro = text[: marks[0].start()].strip().rstrip(":,").strip()
    intro = "" if _EMPTY_INTRO.fullmatch(intro) else f"{intro}: "
    found: list[Part] = []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        item = text[mark.end() : len(text) if following is None else following.start()].strip().rstrip(",;")
        if not item:
            continue
        leads = _LEADS_ON.match(item)
        item = item if leads is None else item[leads.end() :]
        needs = (len(found) - 1,) if leads is not None and found else ()
        found.append(_part(intro + item, "\n" if found else "", needs, found, Quoted.take("")))
    return found


def _part(piece: str, joint: str, needs: tuple[int, ...], before: Sequence[Part], quoted: Quoted) -> Part:
    text = polite_core(piece)
    if before and (reference := _REFERS.search(text)) is not None:
        needs = tuple(sorted({*needs, _meant(reference["what"], before)}))
        named = paths_in(before[-1].text, quoted)
        if _PRONOUN.search(text) and len(named) == 1 and not re.search(PATH, text):
            # Whoever gets this part alone would not know what "it" is.
            text = f"{text} ({named[0]})"
    return Part(text=text[:1].upper() + text[1:], said=piece, joint=joint, needs=needs)


def _meant(what: str | None, before: Sequence[Part]) -> int:
    """The part that a word such as "the review" means: the last that begins like it, or the one just before."""
    stem = "" if what is None else what[:4].lower()
    alike = [place for place, part in enumerate(before) if stem and stem in part.text.lower()]
    return alike[-1] if alike else len(before) - 1
