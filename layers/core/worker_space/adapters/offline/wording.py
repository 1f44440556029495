"""The surface of a message: quoted texts, what looks like a file's path, and the words of courtesy around a request."""

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["CODE_ENDINGS", "LITERAL", "PATH", "Quoted", "is_path", "paths_in", "polite_core"]

# Quoted texts are taken out before any rule looks at a message: a verb inside quotes asks for nothing. Two private
# characters stand around the number of each; they are removed from the message first, so none can be forged.
_OPEN: Final = "\ue000"
_CLOSE: Final = "\ue001"
LITERAL: Final = f"{_OPEN}\\d+{_CLOSE}"

_NAMES: Final = (
    r"Makefile|Dockerfile|LICENSE|LICENCE|README|CHANGELOG|NOTICE|Procfile|Jenkinsfile|Pipfile|AUTHORS|CONTRIBUTING"
)
# A segment cannot hold the slash that ends it, and has a bounded length: matching stays linear on hostile messages.
_SEGMENT: Final = r"[^\s,;:!?'\"()\[\]<>|*`/\ue000\ue001]{1,100}"
_FOLDERS: Final = rf"/?(?:{_SEGMENT}/){{0,32}}"
PATH: Final = (
    rf"(?:{LITERAL}|(?<![^\s,;:('\"]){_FOLDERS}(?:{_SEGMENT}\.[A-Za-z][A-Za-z0-9_]{{0,9}}|\.[A-Za-z][\w.-]{{0,99}}|(?:{_NAMES})\b)(?![\w/])"
    rf"|(?<![^\s,;:('\"])/?(?:{_SEGMENT}/){{1,32}}(?:{_SEGMENT})?)"
)
_IS_PATH: Final = re.compile(PATH)
_NO_PATH: Final = re.compile(r"(?i)(?:e\.g|i\.e|etc|vs|v?\d+(?:\.\d+)*|and/or|either/or|yes/no|.*://.*)\.?")
_NO_TARGET: Final = frozenset(
    {"it", "this", "that", "them", "these", "those", "everything", "all", "any", "files", "file", "folder", "everyone"}
    | {"something", "nothing", "none"}
)
CODE_ENDINGS: Final = (
    *(".py", ".js", ".ts", ".go", ".rs", ".java", ".c", ".cpp", ".h", ".rb", ".sh"),
    *(".json", ".toml", ".html", ".css", ".sql"),
)

_OPENING: Final = re.compile(
    r"^[ \t]*(?P<fence>`{3,}+|~{3,}+)[^\n]*+\n"
    r"|(?P<inline>```)(?=.)|(?P<tick>`)(?=[^`\n])|(?P<double>\")|(?P<curly>“)|(?:(?<=[\s(:,])|^)(?P<single>')",
    re.M,
)
_CLOSING: Final = {
    "inline": re.compile(r"(?<!^)```"),
    "tick": re.compile(r"`|(?P<none>\n)"),
    "double": re.compile(r"\""),
    "curly": re.compile(r"”"),
    # An apostrophe between letters is none of it.
    "single": re.compile(r"(?P<none>\n)|'(?![\w'])|(?P<no>(?<!\w)')"),
}
_COURTESY: Final = re.compile(
    r"(?:@[\w-]+[,:]?\s+|(?:hi|hello|hey)(?:\s+\w+)?\s*[,!]\s*|(?:please|kindly|now|ok|okay|so|and|then|also|first|next|finally|just)\b[,:]?\s+"
    r"|(?:can|could|would|will)\s+you\s+|i(?:\s+would|'d)?\s+(?:want|need|like)\s+(?:you\s+)?to\s+(?:know\s+)?|let'?s\s+|(?:ask|tell|let|have)\s+(?:(?:the|our|my)\s+)?(?:coder|analyst|writer|planner)\s+(?:to\s+)?|go\s+ahead\s+and\s+|help\s+me\s+(?:to\s+)?(?=\w))+",
    re.I,
)
_TAIL: Final = re.compile(
    r"(?:\s*[,]?\s+(?:please|for me|thanks|thank you|now|again|right now))+\s*[.!?]*$|[\s.!?]+$", re.I
)


@dataclass(frozen=True, slots=True)
class Quoted:
    """A message with its quoted texts taken out.

    Attributes:
        text: The message, each quoted text replaced by a mark that `LITERAL` matches.
        exact_texts: What stood between the quotes.
        originals: The same with the quotes.
    """

    text: str
    exact_texts: tuple[str, ...]
    originals: tuple[str, ...]

    @classmethod
    def take(cls, message: str) -> "Quoted":
        """Take the quoted texts out of a message."""
        exact: list[str] = []
        originals: list[str] = []
        kept: list[str] = []
        message = message.replace("\r\n", "\n").replace(_OPEN, "").replace(_CLOSE, "")
        position = 0
        # Up to where no end of a kind is to be found: an end that is missing is looked for only once.
        missing: dict[str, int] = {}
        while (opening := _OPENING.search(message, position)) is not None:
            kind = str(opening.lastgroup)
            mark = opening[kind]
            key = mark if kind == "fence" else kind
            closing = None
            if missing.get(key, 0) <= opening.end():
                pattern = re.compile(rf"\n?^[ \t]*{mark}[ \t]*$", re.M) if kind == "fence" else _CLOSING[kind]
                closing = pattern.search(message, opening.end())
                if closing is None or closing.lastgroup in {"none", "no"}:
                    if closing is None or closing.lastgroup == "none":
                        missing[key] = len(message) if closing is None else closing.end()
                    closing = None
            if closing is None:
                kept.append(message[position : opening.end()])
                position = opening.end()
                continue
            start = opening.start() if kind == "fence" else opening.start(kind)
            kept.append(f"{message[position:start]}{_OPEN}{len(exact)}{_CLOSE}")
            exact.append(message[opening.end() : closing.start()])
            originals.append(message[start : closing.end()])
            position = closing.end()
        kept.append(message[position:])
        return cls("".join(kept), tuple(exact), tuple(originals))

    def with_text(self, text: str) -> tuple["Quoted", str]:
        """This with one more quoted text, and the mark that stands for it."""
        text = self.restore(text)
        if (inner := Quoted.take(text)).exact(inner.text) is not None:
            text = inner.exact_texts[0]
        mark = f"{_OPEN}{len(self.exact_texts)}{_CLOSE}"
        return Quoted(self.text, (*self.exact_texts, text), (*self.originals, text)), mark

    def exact(self, text: str) -> str | None:
        """The quoted text, if `text` is nothing but one."""
        match = re.fullmatch(rf"\s*{_OPEN}(\d+){_CLOSE}\s*[.!]?\s*", text)
        return None if match is None else self.exact_texts[int(match[1])]

    def restore(self, text: str) -> str:
        """`text` with the quoted parts back in their quotes."""
        return re.sub(f"{_OPEN}(\\d+){_CLOSE}", lambda match: self.originals[int(match[1])], text)

    def plain(self, text: str) -> str:
        """A quoted text without its quotes, or `text` as it was."""
        exact = self.exact(text)
        return self.restore(text).strip() if exact is None else exact

    def path(self, text: str, *, any_word: bool = False) -> str | None:
        """The path that `text` names, or `None`; `any_word` takes every single word for one."""
        text = text.strip()
        exact = self.exact(text)
        if exact is not None:
            return exact.strip() or None
        text = text.rstrip(".!?,;:")
        if is_path(text):
            return text
        return text if any_word and text and not re.search(r"\s", text) and text.lower() not in _NO_TARGET else None


def is_path(text: str) -> bool:
    """Whether an unquoted word looks like the path of a file."""
    return bool(_IS_PATH.fullmatch(text)) and not _NO_PATH.fullmatch(text)


def paths_in(text: str, quoted: Quoted) -> list[str]:
    """What looks like paths in a text, in order; of quoted texts only those that do."""
    found: list[str] = []
    for match in _IS_PATH.finditer(text):
        exact = quoted.exact(match[0])
        word = match[0].rstrip(".") if exact is None else exact.strip()
        # A quoted path may hold spaces; whether it looks like one does not hang on them.
        if is_path(word if exact is None else word.replace(" ", "_")) and word not in found:
            found.append(word)
    return found


def polite_core(text: str) -> str:
    """A request without the courtesy around it."""
    text = text.strip()
    match = _COURTESY.match(text)
    if match is not None and match.end() < len(text):
        text = text[match.end() :]
    return _TAIL.sub("", text) or text
