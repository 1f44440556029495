"""Tools that show the workspace: `read_file` and `list_directory`."""

from typing import Final

from pydantic import Field, model_validator

from worker_space.errors import ToolError
from worker_space.tools.textfile import MAX_READ_BYTES, read_text
from worker_space.tools.tool import Arguments, FilePath, FolderPath, JsonObject, ReadingTool, ToolContext

__all__ = ["LIST_DIRECTORY", "READ_FILE", "ListDirectory", "ReadFile"]

_MAX_LINES: Final = 2_000
_MAX_TEXT_BYTES: Final = 64 << 10
_MAX_PAGES: Final = 10


class ReadFile(Arguments):
    """A file, and which lines of it."""

    path: FilePath = Field(description="The file, relative to the project's root, such as src/main.py")
    start_line: int = Field(default=1, ge=1, description="First line to return, counted from 1 (default 1)")
    end_line: int | None = Field(default=None, ge=1, description="Last line to return (default: to the end)")

    @model_validator(mode="after")
    def _ordered(self) -> "ReadFile":
        if self.end_line is not None and self.end_line < self.start_line:
            raise ValueError(f"end_line {self.end_line} is before start_line {self.start_line}")
        return self


async def _read_file(context: ToolContext, arguments: ReadFile) -> JsonObject:
    info, text = await read_text(context, arguments.path)
    # Only "\n" ends a line: other separators belong to it, as editors and compilers see it.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    start, last = arguments.start_line, min(arguments.end_line or len(lines), len(lines))
    if start > max(1, len(lines)):
        raise ToolError(f"{arguments.path!r} has {len(lines)} lines: start_line {start} is behind its end")
    taken: list[str] = []
    room, cut = _MAX_TEXT_BYTES, False
    for index in range(start - 1, min(last, start - 1 + _MAX_LINES)):
        line = lines[index] if index == len(lines) - 1 and not text.endswith("\n") else f"{lines[index]}\n"
        size = len(line.encode())
        if size > room:
            if not taken:
                taken.append(line.encode()[:room].decode(errors="ignore"))
                cut = True
            break
        taken.append(line)
        room -= size
    end = start - 1 + len(taken)
    result: JsonObject = {
        "path": arguments.path,
        "content": "".join(taken),
        "start_line": start,
        "end_line": end,
        "total_lines": len(lines),
        "size": info.size,
        "version": info.version,
        "truncated": cut or end < last,
    }
    if cut:
        result["note"] = f"line {start} is longer than a call returns and was cut; search_files finds text in its rest"
    elif end < last:
        result["note"] = f"go on with start_line={end + 1}"
    return result


READ_FILE: Final = ReadingTool(
    name="read_file",
    description=(
        "Read a text file of the project, whole or a range of lines. A call returns at most "
        f"{_MAX_LINES} lines and {_MAX_TEXT_BYTES >> 10} KiB; the note says how to go on. "
        f"Files over {MAX_READ_BYTES >> 20} MiB and binary files are refused."
    ),
    arguments=ReadFile,
    run=_read_file,
)


class ListDirectory(Arguments):
    """A folder, and how much of it."""

    path: FolderPath = Field(default="", description="The folder, relative to the project's root (default: the root)")
    recursive: bool = Field(default=False, description="List the files of all folders below, too")
    limit: int = Field(default=200, ge=1, le=1_000, description="Most entries to return (default 200)")


async def _list_directory(context: ToolContext, arguments: ListDirectory) -> JsonObject:
    entries: list[JsonObject] = []
    after: str | None = None
    for _ in range(_MAX_PAGES):
        page = await context.files.list(
            context.tenant,
            arguments.path,
            recursive=arguments.recursive,
            limit=arguments.limit - len(entries),
            after=after,
        )
        entries += [{"path": info.path, "kind": "file", "size": info.size} for info in page.files]
        entries += [{"path": folder, "kind": "folder", "size": None} for folder in page.folders]
        after = page.after
        if after is None or len(entries) >= arguments.limit:
            break
    if not entries and arguments.path:
        if await context.files.head(context.tenant, arguments.path):
            raise ToolError(f"{arguments.path!r} is a file: read_file reads it")
        raise ToolError(f"there is no folder {arguments.path!r}: list_directory without a path shows the root")
    entries.sort(key=lambda entry: str(entry["path"]))
    return {"path": arguments.path, "entries": entries, "truncated": after is not None}


LIST_DIRECTORY: Final = ReadingTool(
    name="list_directory",
    description=(
        "List the files and folders of a folder of the project, or with recursive=true every file below it. "
        "When truncated is true there are more: list a folder below, or use find_files."
    ),
    arguments=ListDirectory,
    run=_list_directory,
)
