"""Scripts that only look: at a file, at the list of files, through their texts."""

import difflib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker_space.adapters.offline import documents, python_source
from worker_space.adapters.offline.dialogue import Call, Result, Script
from worker_space.adapters.offline.markdown import bullets, code, failed, fenced, listed, plural, size, words
from worker_space.adapters.offline.requests import FindFiles, ListFiles, Look, Plan, Search, Show
from worker_space.adapters.offline.wording import is_path

__all__ = ["find_files", "list_files", "look", "marks", "overview", "plan", "search", "show"]

_MOST_READS: Final = 4
_MOST_ENTRIES: Final = 500
_MOST_SHOWN: Final = 200
_ENTRY_NAMES: Final = (
    "main.py",
    "app.py",
    "__main__.py",
    "cli.py",
    "manage.py",
    "server.py",
    "index.js",
    "main.go",
    "index.html",
)
_LANGUAGES: Final = {"py": "python", "js": "javascript", "ts": "typescript", "md": "markdown", "sh": "sh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A file as far as it was read."""

    path: str
    text: str
    lines: int
    seen: int
    size: int
    whole: bool
    notes: tuple[str, ...] = ()


def look(request: Look, role: str) -> Script:
    """Analyse one file, wherever it lies."""
    opened = yield from _open(request.path)
    if isinstance(opened, str):
        return opened
    name = opened.path.rpartition("/")[2]
    facts = [plural(opened.lines, "line"), size(opened.size)]
    is_python = opened.path.endswith((".py", ".pyi"))
    sections = [*opened.notes, f"{'Python module' if is_python else 'File'}, {', '.join(facts)}."]
    if not opened.whole:
        part = (
            f"lines 1 to {opened.seen} of {opened.lines}"
            if opened.seen < opened.lines
            else "only the beginning of its long lines"
        )
        sections.append(f"I read {part}; what follows holds for that part only.")
    observations: list[str] = []
    if is_python and opened.whole:
        module = python_source.read(opened.text)
        if role == "writer" and module.error is None:
            sections.append(_prose(name, module))
        sections.append(python_source.describe(module, opened.text, request.words))
        if role == "analyst" or request.review:
            observations = python_source.observe(module)
            sections.append(
                "**Observations**\n" + (bullets(observations, 20) if observations else "- none by the rules I have")
            )
            sections.append("_These come from the syntax tree; nothing was run._")
    elif is_python:
        sections.append(python_source.outline(opened.text))
    else:
        sections.append(documents.describe(opened.path, opened.text, whole=opened.whole))
    if role == "planner":
        first = f"Settle: {observations[0]}" if observations else f"Decide what should change in {code(opened.path)}"
        sections.append(f"**Next steps**\n1. {first}.\n2. Change it there.\n3. Read the file again and check.")
    return f"## {code(opened.path)}\n\n" + "\n\n".join(section for section in sections if section)


def _prose(name: str, facts: python_source.PythonFacts) -> str:
    parts = [plural(len(facts.classes), "class", "classes")] if facts.classes else []
    parts += [plural(len(facts.functions), "function")] if facts.functions else []
    text = f"{code(name)} defines {' and '.join(parts)}" if parts else f"{code(name)} defines no classes or functions"
    text += f" and imports {listed(facts.imports, 5)}." if facts.imports else "."
    return text + (" It can be run as a script." if facts.entry_line is not None else "")


def _open(wanted: str) -> Generator[Call, Result, _Opened | str]:
    """Read a file by its path, or by its name wherever it lies; a text says why there is none."""
    path = wanted.strip()
    first = yield Call("read_file", {"path": path})
    notes: tuple[str, ...] = ()
    if first.error is not None:
        if first.lacking is not None or ".." in path.split("/"):
            return failed(f"read {code(path)}", first)
        candidates = yield from _candidates(path)
        if isinstance(candidates, str):
            return failed(f"read {code(path)}", first) + f"\n\n{candidates}"
        if not candidates:
            return f"There is no file {code(path)} in this project. The tool says: {words(first.error, 300)}"
        if path.lstrip("/") in candidates:
            return failed(f"read {code(path)}", first)
        taken, others = candidates[0], candidates[1:]
        notes = (f"There is no {code(path)}; this is {code(taken)}.",)
        if others:
            notes = (f"{notes[0]} I took it from {len(candidates)} that fit; the others: {listed(others)}.",)
        path = taken
        first = yield Call("read_file", {"path": path})
        if first.error is not None:
            return failed(f"read {code(path)}", first)
    text = first.text("content")
    lines = first.number("total_lines", len(text.splitlines()))
    seen = first.number("end_line", lines)
    cut = bool(first.data.get("truncated"))
    reads = 1
    while cut and seen < lines and reads < _MOST_READS:
        more = yield Call("read_file", {"path": path, "start_line": seen + 1})
        reached = more.number("end_line")
        if more.error is not None or reached <= seen or more.data.get("version") != first.data.get("version"):
            break
        text += ("" if text.endswith("\n") else "\n") + more.text("content")
        seen = reached
        cut = bool(more.data.get("truncated"))
        reads += 1
    length = first.number("size", len(text.encode()))
    path = first.text("path") or path
    return _Opened(
        path=path, text=text, lines=lines, seen=seen, size=length, whole=not cut and seen >= lines, notes=notes
    )


def _candidates(path: str) -> Generator[Call, Result, list[str] | str]:
    """Files of that name, shallow ones first; a text names similar ones or says why none could be looked for."""
    name = path.rpartition("/")[2] or path
    found: list[str] = []
    if "." in name and not set(name) & set("*?["):
        answer = yield Call("find_files", {"pattern": f"**/{name}"})
        found = [entry["path"] for entry in answer.items("files") if isinstance(entry.get("path"), str)]
    if not found:
        listing = yield Call("list_directory", {"path": "", "recursive": True, "limit": _MOST_ENTRIES})
        if listing.error is not None:
            return failed("look for files of a similar name", listing)
        paths = _files(listing)
        low = name.lower()
        found = [p for p in paths if p.lower() == path.lower().lstrip("/") or _base(p).lower() == low]
        if not found and "." not in name:
            found = [p for p in paths if _base(p).lower().partition(".")[0] == low]
        if not found:
            names = sorted({_base(p) for p in paths})
            close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
            near = [p for p in paths if _base(p) in close]
            if near:
                return f"There is no file named {code(name)}. Similar: {listed(near)}."
            where = " among the files I could see" if listing.data.get("truncated") else " in this project"
            return f"There is no file named {code(name)}{where}" + (" (it has no files)." if not paths else ".")
    return sorted(found, key=lambda p: (p.count("/"), p))


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _files(listing: Result) -> list[str]:
    return [str(entry["path"]) for entry in listing.items("entries") if entry.get("kind") == "file" and "path" in entry]


def show(request: Show) -> Script:
    """The lines themselves."""
    if request.first < 0:
        probe = yield Call("read_file", {"path": request.path})
        total = probe.number("total_lines")
        request = Show(path=request.path, first=max(1, total + request.first + 1), last=max(1, total))
        if probe.error is not None:
            return failed(f"read {code(request.path)}", probe)
    arguments: dict[str, object] = {"path": request.path}
    if request.first != 1 or request.last is not None:
        arguments["start_line"] = request.first
        if request.last is not None:
            arguments["end_line"] = request.last
    result = yield Call("read_file", arguments)
    path = request.path
    note = ""
    if result.error is not None and len(arguments) == 1:
        opened = yield from _open(path)
        if isinstance(opened, str):
            return opened
        result = Result({"content": opened.text, "start_line": 1, "end_line": opened.seen, "total_lines": opened.lines})
        path, note = opened.path, "".join(f"{line}\n\n" for line in opened.notes)
    if result.error is not None:
        return failed(f"read {code(path)}", result)
    lines = result.text("content").splitlines()
    if not lines:
        return f"{note}{code(path)} has no text there ({plural(result.number('total_lines'), 'line')} in all)."
    start = result.number("start_line", request.first)
    shown = lines[:_MOST_SHOWN]
    total = result.number("total_lines", start + len(lines) - 1)
    language = _LANGUAGES.get(path.rpartition(".")[2].lower(), "")
    where = f"{code(path)}, lines {start} to {start + len(shown) - 1} of {total}"
    return f"{note}{where}:\n\n{fenced(chr(10).join(shown), language)}"


def list_files(request: ListFiles) -> Script:
    """The files of a folder, or of a kind."""
    if request.pattern is not None:
        result = yield Call("find_files", {"pattern": request.pattern})
        if result.error is not None:
            return failed(f"find {code(request.pattern)}", result)
        found = result.items("files")
        if not found:
            return f"No file matches {code(request.pattern)}."
        return f"{plural(len(found), 'file')} matching {code(request.pattern)}:\n\n" + _entries(found) + _cut(result)
    where = code(request.folder) if request.folder else "this project"
    result = yield Call("list_directory", {"path": request.folder, "recursive": True, "limit": _MOST_ENTRIES})
    if result.error is not None:
        return failed(f"list {where}", result)
    files = [entry for entry in result.items("entries") if entry.get("kind") == "file"]
    if not files:
        return f"There are no files in {where}."
    return f"{plural(len(files), 'file')} in {where}:\n\n" + _entries(files) + _cut(result)


def _entries(files: Sequence[Mapping[str, Any]], most: int = 100) -> str:
    lines = [code(str(entry.get("path", ""))) + _sized(entry.get("size")) for entry in files]
    return bullets(lines, most, "more files")


def _sized(value: object) -> str:
    return f" ({size(value)})" if isinstance(value, int) else ""


def _cut(result: Result) -> str:
    return "\n\nThe tool cut its list there; there are more." if result.data.get("truncated") else ""


def overview(role: str) -> Script:
    """What the project holds, by its files and its README."""
    listing = yield Call("list_directory", {"path": "", "recursive": True, "limit": _MOST_ENTRIES})
    if listing.error is not None:
        return failed("list the files", listing)
    files = [entry for entry in listing.items("entries") if entry.get("kind") == "file"]
    if not files:
        return "This project has no files yet."
    paths = [str(entry.get("path", "")) for entry in files]
    total = sum(int(entry["size"]) for entry in files if isinstance(entry.get("size"), int))
    sections = [f"This project has {plural(len(files), 'file')}, {size(total)} in all." + _cut(listing)]
    readme = next((p for p in sorted(paths, key=lambda p: p.count("/")) if _base(p).lower().startswith("readme")), None)
    if readme is not None:
        text = yield Call("read_file", {"path": readme})
        if text.error is not None:
            sections.append(failed(f"read {code(readme)}", text))
        else:
            about = [documents.title(text.text("content")), documents.first_paragraph(text.text("content"))]
            if any(about):
                sections.append(f"{code(readme)} says: " + " — ".join(words(part) for part in about if part))
    kinds = Counter(_base(p).rpartition(".")[2].lower() if "." in _base(p) else "no ending" for p in paths)
    sections.append("**By kind:** " + ", ".join(f"{count} × {code(kind)}" for kind, count in kinds.most_common(8)))
    if starts := [p for p in paths if _base(p) in _ENTRY_NAMES]:
        sections.append(f"**Likely entry points, by their names:** {listed(starts)}")
    if tests := [p for p in paths if _base(p).startswith("test_") or "tests/" in f"/{p}"]:
        sections.append(f"**Tests:** {listed(tests, 5)}")
    if role != "writer":
        sections.append("**Files**\n" + _entries(files, 30))
    return "\n\n".join(sections)


def search(request: Search) -> Script:
    """Where a text stands."""
    arguments: dict[str, object] = {"query": request.text}
    if request.place:
        arguments["glob" if is_path(request.place) and "." in _base(request.place) else "path"] = request.place
    result = yield Call("search_files", {**arguments, "case_sensitive": True} if request.exact else arguments)
    if request.exact and result.error is None and not result.items("matches"):
        result = yield Call("search_files", arguments)
    if result.error is not None:
        return failed(f"search for {code(request.text)}", result)
    found = result.items("matches")
    where = f" in {code(request.place)}" if request.place else ""
    if not found:
        searched = result.data.get("files_searched")
        among = f" ({plural(searched, 'file')} searched)" if isinstance(searched, int) else ""
        return f"{code(request.text)} stands nowhere{where}{among}."
    return f"{code(request.text)}{where}: {_matches(found)}{_cut(result)}"


def _matches(found: Sequence[Mapping[str, Any]]) -> str:
    files = {str(entry.get("path")) for entry in found}
    lines = [
        f"{code(str(entry.get('path')))} line {entry.get('line')}: {code(str(entry.get('text', '')))}"
        for entry in found
    ]
    return f"{plural(len(found), 'line')} in {plural(len(files), 'file')}\n\n" + bullets(lines, 40, "more lines")


def marks() -> Script:
    """TODO and FIXME, wherever they stand."""
    found: list[Mapping[str, Any]] = []
    cut = False
    for word in ("TODO", "FIXME"):
        result = yield Call("search_files", {"query": word, "case_sensitive": True})
        if result.error is not None:
            return failed(f"search for {code(word)}", result)
        cut = cut or bool(result.data.get("truncated"))
        found += [entry for entry in result.items("matches") if entry not in found]
    if not found:
        return "No `TODO` or `FIXME` stands in this project's files."
    return f"Marked as to do: {_matches(found)}" + ("\n\nThe tool cut its list; there are more." if cut else "")


def find_files(request: FindFiles) -> Script:
    """Where files of a name lie."""
    name = request.name
    pattern = name if "/" in name else f"**/{name}"
    result = yield Call("find_files", {"pattern": pattern})
    if result.error is not None:
        return failed(f"look for {code(name)}", result)
    found = result.items("files")
    if not found:
        return f"No file matches {code(name)}."
    return f"{plural(len(found), 'file')} for {code(name)}:\n\n" + _entries(found) + _cut(result)


def plan(request: Plan) -> Script:
    """Numbered steps, made of the files that are there."""
    listing = yield Call("list_directory", {"path": "", "recursive": True, "limit": _MOST_ENTRIES})
    if listing.error is not None:
        return failed("list the files", listing)
    paths = _files(listing)
    goal = words(request.goal.strip(" .!?"), 200)
    wanted = {word.lower() for word in goal.replace("/", " ").split() if len(word) > 3}
    related = [
        p for p in paths if any(part in wanted for part in p.lower().replace(".", "/").replace("_", "/").split("/"))
    ]
    starts = [p for p in paths if _base(p) in _ENTRY_NAMES]
    tests = [p for p in paths if _base(p).startswith("test_") or "tests/" in f"/{p}"]
    readme = [p for p in paths if _base(p).lower().startswith("readme")]
    read = related[:5] or [*readme[:1], *starts[:3]] or paths[:3]
    steps = [f"Read {listed(read)}" + (": named like words of the goal." if related else ".")] if read else []
    steps.append(f"Write down what must hold when this is done: {goal}.")
    change = [p for p in read if p not in readme] or starts[:1]
    steps.append(
        f"Make the change, beginning in {listed(change)}."
        if change
        else "Create the first file: there is none to change yet."
    )
    steps.append(f"Extend the tests in {listed(tests, 3)}." if tests else "Add a test: this project has no test files.")
    if readme:
        steps.append(f"Bring {code(readme[0])} up to date.")
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return (
        f"**Plan: {goal}**\n\n{numbered}\n\n"
        f"_Made by the offline model from the names of {plural(len(paths), 'file')}; it weighs no alternatives._"
    )
