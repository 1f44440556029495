"""Which texts name a file of the User Workspace, and how the name is stored.

The same files live on people's own machines, so only portable names are taken: what Windows, macOS and Linux all
store unchanged, what no client of S3 rewrites, and what no reader mistakes for another path. The verdict is lexical:
it needs no disk, and nothing that it accepts can leave the prefix it is appended to.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

from worker_space.errors import InvalidRequest

__all__ = ["MAX_PATH_BYTES", "MAX_PATH_CHARACTERS", "MAX_SEGMENTS", "MAX_SEGMENT_BYTES", "workspace_path"]

MAX_PATH_CHARACTERS: Final = 1_024
MAX_PATH_BYTES: Final = 768
MAX_SEGMENTS: Final = 32
MAX_SEGMENT_BYTES: Final = 255

# A name that still changes after so many decodings was made to deceive; each decoding is checked like a name.
_MAX_DECODINGS: Final = 8

_FORBIDDEN_ASCII: Final = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_FORBIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})
# Drawn as a slash or backslash. Those whose NFKC form is one (U+FF0F, U+FF3C, U+FE68) are found by that form. The
# katakana no and the ideographic stroke resemble a slash too, but are letters of everyday names.
_SLASHES: Final = frozenset("⁁⁄∕∖╱╲⟋⟍⧵⧶⧸⧹᜵〳㇓㇔\N{GREEK INSTRUMENTAL NOTATION SYMBOL-47}")
# Drawn as nothing, though their categories say letter, mark or symbol.
_BLANKS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_DOTS: Final = frozenset(".·․‥…‧∙⋅•・･。｡﹒．︒︙︰܁܂۔꘎ꓸꓺ᛫⸱⸳\N{KHAROSHTHI PUNCTUATION DOT}")
_DEVICE: Final = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[1-9\u00b9\u00b2\u00b3]) *(?:\.|$)")


def workspace_path(text: str, *, allow_root: bool = False) -> str:
    """The normalised path that `text` names, relative to the project's root.

    One leading `/` means the root, `.` segments are dropped, nothing else is changed.

    Args:
        text: A path as a model or a user wrote it: NFC text of at most 1,024 characters, in normal form at most 768
            bytes of UTF-8 and 1 to 32 segments of at most 255 bytes.
        allow_root: The path names a folder: the root (`""`, `/`, `.`) is allowed, and so is a trailing `/`.

    Returns:
        Segments joined by `/`, without a leading or trailing one; `""` for the root.

    Raises:
        InvalidRequest: The text is no portable relative name; the message says why and what to do.
    """
    if not isinstance(text, str):
        raise InvalidRequest(f"a path must be text, not {type(text).__name__}")
    if len(text) > MAX_PATH_CHARACTERS:
        raise _refusal(text, f"it has {len(text)} characters", f"use at most {MAX_PATH_CHARACTERS}")
    if allow_root and text in ("", "/"):
        return ""
    body = text.removeprefix("/")
    if body.endswith("/"):
        if not allow_root:
            raise _refusal(text, "it ends in '/'", "name a file")
        body = body[:-1]
    segments = [segment for segment in body.split("/") if segment != "."]
    if not segments:
        if allow_root:
            return ""
        raise _refusal(text, "it names the project's root", "name a file")
    if problem := _problem(segments):
        raise _refusal(text, *problem)
    return "/".join(segments)


def _problem(segments: list[str]) -> tuple[str, str] | None:
    """What is wrong with a path of these segments, and what to do about it."""
    for index, segment in enumerate(segments):
        if problem := _segment_problem(segment, first=index == 0) or _decoded_problem(segment, first=index == 0):
            return problem
    if len(segments) > MAX_SEGMENTS:
        return f"it has {len(segments)} segments", f"use at most {MAX_SEGMENTS}"
    if (size := len("/".join(segments).encode())) > MAX_PATH_BYTES:
        return f"it has {size} bytes of UTF-8", f"use at most {MAX_PATH_BYTES}"
    return None


def _segment_problem(segment: str, *, first: bool) -> tuple[str, str] | None:
    if first and segment.startswith(("~", "～")):
        return "it begins with '~'", "paths are relative to the project's root: leave '~' out"
    if segment == "":
        return "a segment is empty", "write one '/' between two names"
    if segment == "..":
        return "'..' is never allowed", "name the file from the project's root"
    if (character := _forbidden(segment)) is not None:
        return f"it holds {_shown(character)}", "use letters, digits, spaces and . _ - instead"
    if not unicodedata.is_normalized("NFC", segment):
        return "it is not in Unicode normal form C", "normalise it to NFC"
    if segment[0] == " " or segment[-1] in " .":
        return f"the segment {_short(segment)} begins with a space or ends in a space or dot", "take it away"
    if all(character in _DOTS for character in segment if character != " "):
        return f"the segment {_short(segment)} is made of dots only", "give it a name"
    if unicodedata.category(segment[0])[0] == "M":
        return f"the segment {_short(segment)} begins with a combining mark", "begin it with a letter or digit"
    compatible = segment if segment.isascii() else unicodedata.normalize("NFKC", segment)
    if _DEVICE.match(segment.upper()) or _DEVICE.match(compatible.upper()):
        return f"{_short(segment)} is a device name on Windows", "choose another name"
    if (size := len(segment.encode())) > MAX_SEGMENT_BYTES:
        return f"the segment {_short(segment)} has {size} bytes of UTF-8", f"use at most {MAX_SEGMENT_BYTES}"
    return None


def _decoded_problem(segment: str, *, first: bool) -> tuple[str, str] | None:
    """What percent-decoding, however often, would break: nothing here decodes, but a client or proxy may."""
    if "%" not in segment:
        return None
    advice = "write the name itself; nothing is decoded"
    for _ in range(_MAX_DECODINGS):
        try:
            decoded = unquote(segment, errors="strict")
        except UnicodeDecodeError:
            return "percent-decoded it is no UTF-8", advice
        if decoded == segment:
            return None
        if "/" in decoded:
            return "percent-decoding changes its segments", advice
        if problem := _segment_problem(decoded, first=first):
            return f"percent-decoded, {problem[0]}", advice
        segment = decoded
    return "it is percent-encoded many times over", advice


def _forbidden(segment: str) -> str | None:
    """The first character that no name may hold."""
    if segment.isascii():
        found = _FORBIDDEN_ASCII.search(segment)
        return found[0] if found else None
    for character in segment:
        if _is_forbidden(character):
            return character
        compatible = unicodedata.normalize("NFKC", character)
        if compatible != character and any(part in "/%" or _is_forbidden(part) for part in compatible):
            return character
    return None


def _is_forbidden(character: str) -> bool:
    if character.isascii():
        return _FORBIDDEN_ASCII.match(character) is not None
    code = ord(character)
    return (
        unicodedata.category(character) in _FORBIDDEN_CATEGORIES
        or character in _SLASHES
        or character in _BLANKS
        or character == "\ufffd"
        or code & 0xFFFE == 0xFFFE  # the last two of every plane, and the next range: never characters
        or 0xFDD0 <= code <= 0xFDEF
    )


def _shown(character: str) -> str:
    name = unicodedata.name(character, "")
    return f"{character!r} (U+{ord(character):04X}{' ' + name if name else ''})"


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}…"


def _refusal(text: str, problem: str, advice: str) -> InvalidRequest:
    return InvalidRequest(f"{_short(text)} is no workspace path: {problem}; {advice}")
