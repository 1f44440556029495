"""Tools that find things: `find_files` by name and `search_files` by content.

Whatever is asked, a search stays bounded: in files listed, bytes read, results, and time. Models and users write the
regular expressions, so they are matched by an engine whose time is linear (`tool.Patterns`): a backtracking one, as
in the standard library, can be made to hang by a pattern of ten characters, and cannot be interrupted.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from pydantic import Field

from worker_space.errors import ToolError
from worker_space.ports import FileInfo
from worker_space.tools.globs import glob_matcher
from worker_space.tools.textfile import as_text
from worker_space.tools.tool import Arguments, FolderPath, JsonObject, ReadingTool, ToolContext, together

__all__ = ["FIND_FILES", "SEARCH_FILES", "FindFiles", "SearchFiles"]

_MAX_LISTED: Final = 10_000
_MAX_FILE_BYTES: Final = 2 << 20
_MAX_SEARCHED_BYTES: Final = 32 << 20
_MAX_RESULT_CHARACTERS: Final = 64 << 10
_MAX_LINE: Final = 10_000
_SHOWN: Final = 300
_AT_ONCE: Final = 8
_BATCH_BYTES: Final = 4 << 20
_LINES_BETWEEN_LOOKS: Final = 256

GLOB: Final = (
    "`*` and `?` match within a name, `**` any number of folders; without `/` it matches file names at any depth"
)


class FindFiles(Arguments):
    """A glob, and where to look."""

    pattern: str = Field(min_length=1, max_length=256, description=f"Glob such as *.py or src/**/test_*.py. {GLOB}")
    path: FolderPath = Field(default="", description="Folder to search below (default: the project's root)")
    limit: int = Field(default=200, ge=1, le=1_000, description="Most files to return (default 200)")


async def _find_files(context: ToolContext, arguments: FindFiles) -> JsonObject:
    found: list[FileInfo] = []
    walk = _Walk(context, arguments.path, arguments.pattern)
    async for info in walk.files():
        if len(found) == arguments.limit:
            walk.stopped = True
            break
        found.append(info)
    return {
        "path": arguments.path,
        "files": [{"path": info.path, "size": info.size} for info in found],
        "truncated": walk.stopped,
    }


FIND_FILES: Final = ReadingTool(
    name="find_files",
    description="Find files of the project by a glob pattern for their paths. Matching is case-sensitive.",
    arguments=FindFiles,
    run=_find_files,
)


class SearchFiles(Arguments):
    """What to look for in files, and in which."""

    query: str = Field(min_length=1, max_length=500, description="Text to find in a line, or a regular expression")
    regex: bool = Field(
        default=False,
        description="Treat query as a regular expression (RE2 syntax: no back-references, no look-around)",
    )
    path: FolderPath = Field(default="", description="Folder to search below (default: the project's root)")
    glob: str | None = Field(default=None, min_length=1, max_length=256, description=f"Only these files. {GLOB}")
    case_sensitive: bool = Field(default=False, description="Tell upper from lower case (default: no)")
    max_results: int = Field(default=100, ge=1, le=500, description="Most matching lines to return (default 100)")


async def _search_files(context: ToolContext, arguments: SearchFiles) -> JsonObject:
    if "\n" in arguments.query:
        raise ToolError("query must be one line: matching is line by line")
    search = _Search(context, arguments)
    walk = _Walk(context, arguments.path, arguments.glob)
    batch: list[FileInfo] = []
    async for info in walk.files():
        if info.size > _MAX_FILE_BYTES:
            search.skipped += 1
            continue
        if len(batch) == _AT_ONCE or (batch and sum(one.size for one in batch) + info.size > _BATCH_BYTES):
            await search.batch(batch)
            batch = []
            if search.stopped:
                break
        batch.append(info)
    if batch and not search.stopped:
        await search.batch(batch)
    return {
        "matches": search.matches,
        "truncated": search.stopped or walk.stopped,
        "files_searched": search.searched,
        "files_skipped": search.skipped,
    }


SEARCH_FILES: Final = ReadingTool(
    name="search_files",
    description=(
        "Search the lines of the project's text files for a text or a regular expression. Returns path, line number "
        f"and line of each match. Binary files and files over {_MAX_FILE_BYTES >> 20} MiB are skipped. "
        "When truncated is true not everything was searched: narrow path or glob."
    ),
    arguments=SearchFiles,
    run=_search_files,
)


class _Walk:
    """The files below a folder that match a glob, in order of their paths, a bounded number of pages."""

    def __init__(self, context: ToolContext, folder: str, glob: str | None) -> None:
        self._context = context
        self._folder = folder
        self._matches = glob_matcher(glob) if glob else None
        self._deadline = time.monotonic() + context.search_seconds
        self.stopped = False

    async def files(self) -> AsyncIterator[FileInfo]:
        files, after, listed = self._context.files, None, 0
        start = len(self._folder) + 1 if self._folder else 0
        while True:
            page = await files.list(self._context.tenant, self._folder, recursive=True, after=after)
            for info in page.files:
                if self._matches is None or self._matches(info.path[start:]):
                    yield info
            listed += len(page.files)
            after = page.after
            if after is None:
                return
            if listed >= _MAX_LISTED or time.monotonic() > self._deadline:
                self.stopped = True
                return


class _Search:
    """What one search has found so far, and whether a bound has stopped it."""

    def __init__(self, context: ToolContext, arguments: SearchFiles) -> None:
        self._context = context
        self._room = _MAX_RESULT_CHARACTERS
        self._bytes = _MAX_SEARCHED_BYTES
        self._max_results = arguments.max_results
        self._deadline = time.monotonic() + context.search_seconds
        self._line_matches = _line_test(context, arguments)
        self.matches: list[JsonObject] = []
        self.searched = 0
        self.skipped = 0
        self.stopped = False

    async def batch(self, files: Sequence[FileInfo]) -> None:
        """Read these files at once and search them in order."""
        bodies = await together(
            *(self._context.files.read(self._context.tenant, info.path, length=_MAX_FILE_BYTES) for info in files)
        )
        texts = [(body.info.path, body.data) for body in bodies if body is not None]
        self._bytes -= sum(len(data) for _, data in texts)
        # Matching is plain computing: in a thread it leaves the loop to the heartbeat.
        await asyncio.to_thread(self._scan, texts)
        self.stopped = self.stopped or self._bytes <= 0 or time.monotonic() > self._deadline

    def _scan(self, texts: Sequence[tuple[str, bytes]]) -> None:
        for path, data in texts:
            text = as_text(data)
            if text is None:
                self.skipped += 1
                continue
            self.searched += 1
            for number, line in enumerate(text.split("\n"), start=1):
                if number % _LINES_BETWEEN_LOOKS == 0 and time.monotonic() > self._deadline:
                    self.stopped = True
                if self.stopped:
                    return
                if self._line_matches(line[:_MAX_LINE]):
                    self._add(path, number, line)

    def _add(self, path: str, number: int, line: str) -> None:
        shown = line.rstrip("\r")
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
        self._room -= len(path) + len(shown)
        if len(self.matches) == self._max_results or self._room < 0:
            self.stopped = True
            return
        self.matches.append({"path": path, "line": number, "text": shown})


def _line_test(context: ToolContext, arguments: SearchFiles) -> Callable[[str], bool]:
    query = arguments.query
    if arguments.regex:
        return context.patterns.compile(query, case_sensitive=arguments.case_sensitive)
    if arguments.case_sensitive:
        return lambda line: query in line
    folded = query.casefold()
    return lambda line: folded in line.casefold()
