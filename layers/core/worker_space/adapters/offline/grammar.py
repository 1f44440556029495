"""The sentences that the offline model understands, and what each asks for.

In the patterns a space stands for any white space. Quoted texts are marks (`wording.LITERAL`) by the time a pattern
sees a sentence, so no word inside quotes can be taken for a request. Patterns match from the start of a sentence, and
those that change files match to its end: what they do not account for is not understood, rather than guessed.
"""

import re
from collections.abc import Callable
from typing import Final

from worker_space.adapters.offline.requests import (
    Append,
    Compose,
    Delete,
    FindFiles,
    Help,
    ListFiles,
    Look,
    Marks,
    Move,
    Overview,
    Plan,
    Recall,
    Remember,
    Replace,
    Request,
    Search,
    Show,
    Write,
)
from worker_space.adapters.offline.wording import CODE_ENDINGS, LITERAL, PATH, Quoted, is_path, paths_in

__all__ = ["CHANGING", "HEAD", "READING", "SPEAKING", "WRITING", "Rule"]

Build = Callable[["re.Match[str]", Quoted], Request | None]
Rule = tuple[re.Pattern[str], Build]

_MOST_PATHS: Final = 4
_MOST_LINES: Final = 2_000


def _spaced(pattern: str) -> str:
    return pattern.replace(" ", r"\s+")


def _rule(pattern: str, build: Build) -> Rule:
    return re.compile(_spaced(pattern), re.I | re.S), build


_FILE: Final = (
    r"(?:(?:a|an|the|my|this|that) )?(?:(?:new|empty|text|markdown|python|json) )*(?:file )?(?:(?:called|named|at) )?"
)
_INTO: Final = (
    r"(?:(?:this|the following|these)(?: (?:text|lines?|content|code))? )?(?:to|into|in|as|at) (?:the end of )?"
)
_PROJECT: Final = (
    r"(?:(?:this|the|my|our|whole|entire) )*"
    r"(?:project|workspace|codebase|code base|repo(?:sitory)?|code|folder structure)"
)
_THE_PROJECT: Final = re.compile(_spaced(_PROJECT), re.I)
_THIS_ANSWER: Final = re.compile(r"it|this|that|them|the\s+(?:result|answer|summary|analysis|output)", re.I)
_ANNOUNCED: Final = re.compile(
    _spaced(r"(?:the )?(?:following )?(?:contents?|text|words?|lines?|sentence)\s*:? (?=\S)"), re.I
)
_DERIVED: Final = re.compile(
    _spaced(
        r"(?:(?:a|an|the|your) )?(?:(?:short|brief) )?(?:summary|analysis|description|overview|explanation)"
        rf" (?:of|about|for) (?:the )?(?P<of>{PATH}|\S.*)$"
    ),
    re.I | re.S,
)
_COMPOSED: Final = re.compile(
    _spaced(
        r"(?:(?:a|an|some|the|my|your|more|better|unit|new|proper|missing|good|short|long|simple) )*"
        r"(?:poem|story|song|haiku|essay|email|letter|blog|article|joke|tests?|unit|docs?|documentation|docstrings?"
        r"|comments?|types?|code|functions?|class(?:es)?|scripts?|programs?|apps?|methods?|readme|tutorial|guide"
        r"|translation|report|list of (?!files)|table of|notes on)\b"
    ),
    re.I,
)
_KINDS: Final = {
    "python": "py",
    "markdown": "md",
    "text": "txt",
    "javascript": "js",
    "typescript": "ts",
    "json": "json",
    "yaml": "yaml",
    "toml": "toml",
    "csv": "csv",
    "html": "html",
    "css": "css",
    "go": "go",
    "rust": "rs",
}
_NO_NAMES: Final = frozenset(
    ("it", "this", "that", "them", "everything", "all", "yourself", "something", "anything", "files")
)

# A head that announces the text to write: all behind it is that text.
HEAD: Final = re.compile(
    _spaced(
        r"(?:(?:please|can you|could you) )?(?:create|make|write|save|put|add|append|generate|overwrite|update) "
        rf"(?:{_INTO})?{_FILE}{PATH}(?: file)?"
        r"(?:\s*,?\s*(?:with|containing|that says)(?: (?:the )?(?:following )?(?:contents?|text|lines?))?[\t\x20]*:?"
        r"|[\t\x20]*:)(?:[\t\x20]*\n|[\t\x20]+)"
    ),
    re.I,
)


def _content(match: "re.Match[str]", quoted: Quoted, path: str) -> str | Request:
    """The text to store: quoted exactly as it stands, otherwise only what is plainly meant word for word."""
    raw = _ANNOUNCED.sub("", match["content"].strip(), count=1)
    exact = quoted.exact(raw)
    if exact is not None:
        return exact
    if _THIS_ANSWER.fullmatch(raw):
        return Write(path=path, content=None)
    derived = _DERIVED.match(raw)
    if derived is not None:
        of = quoted.restore(derived["of"]).strip("`'\" ")
        source: Request = Overview() if _THE_PROJECT.fullmatch(of) else Look(path=of)
        return Write(path=path, content=source) if isinstance(source, Overview) or is_path(of) else Compose()
    if _COMPOSED.match(raw):
        return Compose(path=next(iter(paths_in(raw, quoted)), None))
    if path.lower().endswith(CODE_ENDINGS) and not re.search(r"[=({:<#\n;]", quoted.restore(raw)):
        return Compose()
    return quoted.restore(raw)


def _write(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    path = quoted.path(match["path"])
    if path is None:
        return None
    if "content" not in match.re.groupindex:
        return Write(path=path, content="")
    content = _content(match, quoted, path)
    return Write(path=path, content=content) if isinstance(content, str) else content


def _append(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    path = quoted.path(match["path"])
    if path is None:
        return None
    content = _content(match, quoted, path)
    return Append(path=path, content=content) if isinstance(content, str) else Compose(path=path)


def _replace(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    path = quoted.path(match["path"])
    if path is None:
        return None
    new = match.groupdict().get("new")
    return Replace(path=path, old=quoted.plain(match["old"]), new="" if new is None else quoted.plain(new))


def _move(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    path, target = quoted.path(match["path"], any_word=True), quoted.path(match["target"], any_word=True)
    if path is None or target is None:
        return None
    if target.endswith("/") or match["into"].lower().endswith("folder"):
        target = target.rstrip("/") + "/" + path.rpartition("/")[2]
    return Move(path=path, target=target)


def _delete(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    names = re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", match["paths"])
    paths = [quoted.path(re.sub(r"(?i)^(?:the\s+)?file\s+", "", name), any_word=len(names) == 1) for name in names]
    known = tuple(path for path in paths if path is not None)
    return Delete(paths=known) if len(known) == len(paths) <= _MOST_PATHS else None


def _compose(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    what = match["what"]
    return Compose(path=next(iter(paths_in(what, quoted)), None)) if _COMPOSED.match(what) else None


def _show(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    path = quoted.path(match["path"])
    groups = match.groupdict()
    if path is None:
        return None
    if groups.get("count"):
        count = min(int(groups["count"]), _MOST_LINES)
        return Show(path=path, last=count) if groups["end"].lower() == "first" else Show(path=path, first=-count)
    if groups.get("first"):
        first = max(1, int(groups["first"]))
        return Show(path=path, first=first, last=max(first, int(groups["last"] or first)))
    return Show(path=path)


def _look(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    paths = paths_in(match[0], quoted)
    if not paths:
        return None
    rest = quoted.restore(match[0])
    for path in paths:
        rest = rest.replace(path, " ")
    review = re.search(r"(?i)\b(?:review|check|bugs?|problems?|issues?|errors?|wrong|improve\w*|quality)\b", rest)
    return Look(path=paths[0], words=frozenset(re.findall(r"[A-Za-z_]\w\w+", rest)), review=review is not None)


def _look_for_name(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    name = match["name"]
    return None if name.lower() in _NO_NAMES else Look(path=name)


def _search(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    text = quoted.plain(match["text"]).strip()
    place = match.groupdict().get("place") or match.groupdict().get("where")
    found = "" if place is None else quoted.path(place, any_word=True)
    if not text or found is None:
        return None
    exact = re.match(r"(?i)(?:where|which|what)\b", match[0]) is not None
    return Search(text=text, place=found.rstrip("/"), exact=exact)


def _find(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    name = quoted.plain(match["name"])
    return FindFiles(name=name) if "*" in name or is_path(name.replace(" ", "_")) else None


def _kinds(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    kind = match["kind"].lower()
    ending = kind.lstrip("*.") if kind.startswith((".", "*.")) else _KINDS.get(kind)
    return None if ending is None else ListFiles(pattern=f"**/*.{ending}")


def _list(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    folder = match["folder"]
    found = "" if folder is None or _THE_PROJECT.fullmatch(folder) else quoted.path(folder, any_word=True)
    return None if found is None else ListFiles(folder=found.strip("/"))


def _topic(match: "re.Match[str]", quoted: Quoted) -> Request | None:
    topic = match["topic"] or ""
    paths = paths_in(topic, quoted)
    if paths and re.search(r"(?i)\byou\s+know\b", match[0]):
        return Look(path=paths[0])
    return Recall(topic=quoted.restore(topic).strip())


SPEAKING: Final = (
    _rule(
        r"(?:help|hello|hi|hey|what can you do|who are you|what are you|(?:what|which) tools\b.*)$",
        lambda match, quoted: Help(),
    ),
    _rule(
        r"(?:remember|keep in mind|don'?t forget|note)(?: that| this\s*:|\s*:) (?P<text>.+)$",
        lambda match, quoted: Remember(text=quoted.plain(match["text"])),
    ),
    _rule(
        r"(?:remember|don'?t forget) (?P<text>(?!what\b|when\b|where\b|who\b|how\b).+)$",
        lambda match, quoted: Remember(text=quoted.plain(match["text"])),
    ),
    _rule(
        r"(?:what|which things?|anything) (?:did|have) (?:i|we) (?:ever )?"
        r"(?:tell|told|say|said|mention(?:ed)?|discuss(?:ed)?)(?: (?:to )?you)?"
        r"(?: (?:about|of|on|regarding) (?P<topic>.+))?$",
        _topic,
    ),
    _rule(
        r"(?:what )?do you (?:still )?(?:remember|recall|know)(?: (?:(?:about|of|on|that) )?(?P<topic>.+))?$", _topic
    ),
    _rule(r"recall (?:what .*?\babout )?(?P<topic>.+)$", _topic),
    _rule(
        r"(?:what|who|when|where|which)(?:'s| is| are| was| were)"
        rf" (?P<topic>(?:my|our) (?!{_PROJECT}\b|files?\b).+)$",
        _topic,
    ),
    _rule(
        r"(?:(?:make|write|create|give me) )?(?:(?:a|the) )?plan (?:(?:for|to|how to|of) )?(?P<goal>.+)$",
        lambda match, quoted: Plan(goal=quoted.restore(match["goal"])),
    ),
)

WRITING: Final = (
    _rule(
        rf"(?:append|add) {_INTO}{_FILE}(?P<path>{PATH})\s*[:,]? (?P<content>.+)$",
        _append,
    ),
    _rule(
        rf"(?:create|make|write|add|save|generate|overwrite|update) {_FILE}(?P<path>{PATH})(?: file)?"
        r"(?:\s*,?\s*(?:with|containing|saying|(?:that|which) (?:says|contains))\s*:? |\s*:\s*)(?P<content>\S.*)$",
        _write,
    ),
    _rule(rf"(?:create|make|touch) {_FILE}(?P<path>{PATH})(?: file)?$", _write),
    _rule(rf"(?:write|save|put|store) {_INTO}{_FILE}(?P<path>{PATH})\s*[:,]? (?P<content>.+)$", _write),
    _rule(
        rf"(?:append|add) (?P<content>.+?) (?:to|at) (?:the (?:end|bottom) of )?{_FILE}(?P<path>{PATH})$",
        _append,
    ),
    _rule(
        rf"(?:write|save|put|store) (?P<content>.+) (?:to|into|in|as) {_FILE}(?P<path>{PATH})(?: file)?$",
        _write,
    ),
)

CHANGING: Final = (
    _rule(
        r"(?:replace|change|substitute) (?:(?:all|every|the) )?(?:(?:occurrences? of|word|text) )?"
        rf"(?P<old>{LITERAL}|\S+) (?:with|by|to|into) (?P<new>{LITERAL}|.+?) in {_FILE}(?P<path>{PATH})$",
        _replace,
    ),
    _rule(
        rf"in {_FILE}(?P<path>{PATH})\s*,? (?:replace|change) (?P<old>{LITERAL}|\S+) (?:with|by|to) (?P<new>.+)$",
        _replace,
    ),
    _rule(rf"(?:remove|delete) (?P<old>{LITERAL}) (?:from|in) {_FILE}(?P<path>{PATH})$", _replace),
    _rule(
        rf"(?:rename|move) (?:the )?(?:file )?(?P<path>{PATH}|\S+)"
        rf" (?P<into>to|as|(?:in)?to the folder|into|in) (?P<target>{PATH}|\S+)$",
        _move,
    ),
    _rule(
        r"(?:delete|remove|erase) (?:the )?(?:files? )?(?P<paths>\S+(?:(?:\s*,\s*(?:and )?| and )\S+)*)$",
        _delete,
    ),
)

READING: Final = (
    _rule(
        r"(?:read|show|print|display|cat|view|open|give)\b.*?\blines? (?P<first>\d{1,9})"
        rf"(?:\s*(?:-|–|to|until|through)\s*(?P<last>\d{{1,9}}))? (?:of|from|in) {_FILE}(?P<path>{PATH})$",
        _show,
    ),
    _rule(
        r"(?:read|show|print|display|view|what(?:'s| is| are))\b.*?\b(?P<end>first|last) (?P<count>\d{1,6}) lines?"
        rf" (?:of|from|in) {_FILE}(?P<path>{PATH})$",
        _show,
    ),
    _rule(
        rf"(?:read|show|print|display|cat|view|open) (?:me )?(?:(?:the )?contents? of )?{_FILE}(?P<path>{PATH})"
        r"(?: file)?$",
        _show,
    ),
    _rule(
        r"(?:list|show|find|get|which|what) (?:me )?(?:all )?(?:the )?(?P<kind>\w+|\*?\.\w+) (?:source )?files?\b.*$",
        _kinds,
    ),
    _rule(
        r"(?:ls|dir|tree|how many files(?: are there)?|(?:(?:list|show|print|display) (?:me )?|(?:what|which) )"
        r"(?:(?:all|every) )?(?:of )?(?:(?:the|my|our) )?(?:files?|folders?|director(?:y|ies)|contents?)"
        r"(?: and (?:files|folders|directories))?(?: (?:tree|structure))?"
        r"(?: (?:are|is|do|does|exist|have)(?: (?:there|i|we|you|have|see|it))*)?)"
        r"(?: (?:in|of|under|from|inside) (?:the )?(?:(?:folder|directory) )?(?P<folder>.+?))?"
        r"(?: (?:folder|directory))?$",
        _list,
    ),
    _rule(
        r"(?:what(?:'s| is| does| do| are)? (?:.*?\b)?|(?:analy[sz]e|explain|summari[sz]e|describe|review|understand) "
        r"|(?:give|show) .*?\b|tell me (?:.*?\b)?about |look at |(?:an )?overview of )"
        rf"{_PROJECT}\b(?!.*{PATH}).*$",
        lambda match, quoted: Overview(),
    ),
    _rule(r"(?:(?:project )?overview|summary)$", lambda match, quoted: Overview()),
    _rule(
        r"(?:find|search|list|show|are|is|any|where|what|which|look|grep|how many)\b"
        r"[^.]*\b(?:to-?dos?|fix-?mes?)\b[^.]*$",
        lambda match, quoted: Marks(),
    ),
    _rule(
        rf"(?:where|what|which files?) (?:(?:is|are|does|do) )?(?P<text>{LITERAL}|\S+)"
        r" (?:used|defined|called|mentioned|declared|referenced|imported|set)"
        rf"(?: in (?P<place>{PATH}|\S+))?$",
        _search,
    ),
    _rule(
        r"(?:which|what) files? (?:uses?|mentions?|contains?|imports?|calls?|defines?|have|references?) (?P<text>.+)$",
        _search,
    ),
    _rule(r"where (?:do|does|did) \w+ (?:use|define|call|mention|import) (?P<text>.+)$", _search),
    _rule(
        r"(?:is there (?:a )?file (?:(?:called|named) )?|does |where is |locate "
        r"|find (?:all )?(?:the )?(?:files? )?(?:(?:called|named|matching|like) )?)(?:the )?(?:file )?"
        rf"(?P<name>{PATH}|\S*\*\S*)(?: exists?)?$",
        _find,
    ),
    _rule(
        rf"(?:search|grep|look|find|scan) (?:in (?P<place>{PATH}) for "
        r"|(?:(?:(?:all|the) )?(?:files|project|code) )?for )"
        rf"(?P<text>{LITERAL}|.+?)(?: in (?P<where>{PATH}))?(?: in {_PROJECT})?$",
        _search,
    ),
    _rule(
        r"(?:search|grep|find) (?:(?:all|every|the) )?"
        r"(?:(?:occurrences? of|uses? of|usages? of|references? to|mentions? of|text) )?"
        rf"(?P<text>{LITERAL}|\S+)(?: in (?P<place>{PATH}|\S+/))?(?: in {_PROJECT})?$",
        _search,
    ),
    _rule(
        r"(?:analy[sz]e|explain|summari[sz]e|describe|review|check|inspect|examine|document|understand|outline|look|study"
        r"|walk|go|tell|give|analysis|summary|read|what|how|which|does|do(?! not)|is|are|who|why|when|count)\b"
        rf".*{PATH}.*$",
        _look,
    ),
    _rule(
        r"(?:analy[sz]e|explain|summari[sz]e|describe|review) (?:the )?(?:file )?(?P<name>[A-Za-z_][\w-]*)"
        r"(?: (?:file|module|script))?$",
        _look_for_name,
    ),
    _rule(r"(?:write|draft|compose|create|make|generate|prepare|translate|improve) (?P<what>.+)$", _compose),
)
