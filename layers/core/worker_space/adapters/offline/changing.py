"""Scripts that change files. They name exactly the path that the user named: a near miss is reported, never guessed."""

from collections.abc import Generator
from typing import Final

from worker_space.adapters.offline.dialogue import Call, Result, Script
from worker_space.adapters.offline.markdown import code, failed, listed, plural, size
from worker_space.adapters.offline.requests import Append, Delete, Move, Replace, Write

__all__ = ["append", "delete", "move", "replace", "write"]

_TAIL_LINES: Final = 50


def write(request: Write, content: str) -> Script:
    """Store a text under a path."""
    if content == "":
        # An empty text is what "create a file" means, and never a wish to empty one that exists.
        doubt = yield from _why_not_new(request.path)
        if doubt is not None:
            return doubt
    result = yield Call("write_file", {"path": request.path, "content": content})
    if result.error is not None:
        return failed(f"write {code(request.path)}", result)
    path = code(result.text("path") or request.path)
    length = size(result.number("size", len(content.encode())))
    if result.data.get("created") is False:
        return f"I replaced the contents of {path}, which existed ({length} now)."
    return f"I created {path} ({length}){'; it is empty' if content == '' else ''}."


def append(request: Append) -> Script:
    """Add a text at the end of a file, which is made if it is missing.

    The end is exchanged for itself and the addition, so that an edit by somebody else in between is never undone.
    """
    path = code(request.path)
    there = yield Call("read_file", {"path": request.path})
    if there.lacking is not None:
        return failed(f"read {path}, which adding to it needs", there)
    addition = request.content if request.content.endswith("\n") else request.content + "\n"
    if there.error is not None:
        # Whoever cannot be read may still be there, and writing would replace it.
        doubt = yield from _why_not_new(request.path)
        if doubt is not None:
            return f"{failed(f'add to {path}', there)} {doubt}"
    if there.error is not None or there.number("size", 1) == 0:
        result = yield Call("write_file", {"path": request.path, "content": addition})
        if result.error is not None:
            return failed(f"add to {path}", result)
        return f"I created {path} with the text ({size(result.number('size', len(addition.encode())))})."
    text = there.text("content")
    total = there.number("total_lines", len(text.splitlines()))
    whole = not there.data.get("truncated")
    if not whole:
        tail = yield Call(
            "read_file", {"path": request.path, "start_line": max(1, total - _TAIL_LINES), "end_line": total}
        )
        if tail.error is not None:
            return failed(f"read the end of {path}", tail)
        text = tail.text("content")
    end = _unique_end(text, whole=whole)
    if end is None:
        return f"I could not add to {path}: its end is blank or repeats itself, so the place cannot be named exactly."
    joint = "" if end.endswith("\n") else "\n"
    arguments = {
        "path": request.path,
        "old_text": end,
        "new_text": end + joint + addition.removesuffix("" if joint == "" else "\n"),
    }
    result = yield Call("edit_file", arguments)
    if result.error is not None:
        return failed(f"add to {path}", result)
    return f"I added {plural(len(addition.splitlines()), 'line')} at the end of {path}{_now(result)}."


def _why_not_new(path: str) -> Generator[Call, Result, str | None]:
    """`None` if there is no file at the path; else the sentence that says what speaks against writing there."""
    if set(path) & set("*?["):
        return f"I wrote nothing: whether {code(path)} exists cannot be looked up by its name."
    answer = yield Call("find_files", {"pattern": path})
    if answer.error is not None:
        return f"I wrote nothing. {failed(f'make sure that {code(path)} does not exist', answer)}"
    plain = "/".join(part for part in path.split("/") if part not in {"", "."})
    for entry in answer.items("files"):
        if entry.get("path") == plain:
            return f"{code(plain)} exists already ({size(int(entry.get('size') or 0))}); I left it as it is."
    if answer.data.get("truncated"):
        return f"I wrote nothing: too many files are named like {code(path)} to be sure that it does not exist."
    return None


def _unique_end(text: str, *, whole: bool) -> str | None:
    """Last lines that mark the end of a file: found nowhere earlier in `text`, nor over themselves.

    A text that overlaps itself ("x x" in "x x x") counts once where it stands twice, and the edit would hit the first.
    """
    lines = text.splitlines(keepends=True)
    count = 1
    while count < len(lines):
        end = "".join(lines[-count:])
        if end.strip() and text.find(end) == len(text) - len(end) and not _overlaps_itself(end):
            return end
        count *= 2
    return text if text.strip() and (whole or not _overlaps_itself(text)) else None


def _overlaps_itself(text: str) -> bool:
    """Whether a beginning of the text is also its end (the last value of the Knuth-Morris-Pratt prefix function)."""
    borders = [0] * len(text)
    for index in range(1, len(text)):
        border = borders[index - 1]
        while border and text[border] != text[index]:
            border = borders[border - 1]
        borders[index] = border + (text[border] == text[index])
    return bool(borders) and borders[-1] > 0


def _now(result: Result) -> str:
    length = result.data.get("size")
    return f" ({size(length)} now)" if isinstance(length, int) else ""


def replace(request: Replace) -> Script:
    """Exchange every occurrence of a text in one file."""
    path = code(request.path)
    if not request.old:
        return "I could not replace anything: the text to look for is empty."
    there = yield Call("read_file", {"path": request.path})
    if there.error is not None:
        return failed(f"read {path}", there)
    count = there.text("content").count(request.old)
    part = bool(there.data.get("truncated"))
    if count == 0 and not part:
        return f"{code(request.old)} does not stand in {path}; I changed nothing."
    arguments = {
        "path": request.path,
        "old_text": request.old,
        "new_text": request.new,
        "expected_count": max(1, count),
    }
    result = yield Call("edit_file", arguments)
    if result.error is not None:
        return failed(f"replace {code(request.old)} in {path}", result)
    what = (
        f"removed {code(request.old)}"
        if request.new == ""
        else f"replaced {code(request.old)} with {code(request.new)}"
    )
    return f"I {what} in {path}, {plural(max(1, count), 'place')}{_now(result)}."


def move(request: Move) -> Script:
    """Give a file another path."""
    result = yield Call("move_file", {"path": request.path, "new_path": request.target})
    if result.error is not None:
        return failed(f"move {code(request.path)} to {code(request.target)}", result)
    return f"I moved {code(request.path)} to {code(request.target)}."


def delete(request: Delete) -> Script:
    """Take files away, each by its exact path."""
    sentences: list[str] = []
    for path in request.paths:
        result = yield Call("delete_file", {"path": path})
        if result.error is None:
            sentences.append(f"I deleted {code(path)}.")
            continue
        sentences.append(failed(f"delete {code(path)}", result))
        if result.lacking is None:
            sentences.append((yield from _elsewhere(path)))
    return "\n\n".join(sentence for sentence in sentences if sentence)


def _elsewhere(path: str) -> Generator[Call, Result, str]:
    name = path.rpartition("/")[2]
    if "." not in name or ".." in path or set(name) & set("*?["):
        return ""
    answer = yield Call("find_files", {"pattern": f"**/{name}"})
    found = [str(entry["path"]) for entry in answer.items("files") if "path" in entry and entry["path"] != path]
    return f"Files of that name: {listed(found)}. Name one by its path to delete it." if found else ""
