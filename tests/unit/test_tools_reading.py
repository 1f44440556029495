from dataclasses import replace
from typing import Any

import pytest

from worker_space.adapters.memory_files import MemoryFiles
from worker_space.adapters.patterns import Re2Patterns
from worker_space.errors import ToolError
from worker_space.ports import FilePage
from worker_space.tenancy import TenantContext
from worker_space.tools.catalogue import call
from worker_space.tools.tool import ToolContext

pytestmark = pytest.mark.anyio

TENANT = TenantContext("u1", "p1")
STRANGER = TenantContext("u1", "p10")


@pytest.fixture
def context() -> ToolContext:
    return ToolContext(tenant=TENANT, files=MemoryFiles(), patterns=Re2Patterns())


async def put(context: ToolContext, path: str, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return (await context.files.write(context.tenant, path, data)).version


async def use(context: ToolContext, name: str, **arguments: Any) -> dict[str, Any]:
    return await call(context, name, arguments, effect="t#1")


async def test_a_file_is_read_whole(context: ToolContext) -> None:
    version = await put(context, "src/main.py", "a\nb\r\nc")
    assert await use(context, "read_file", path="/src/./main.py") == {
        "path": "src/main.py",
        "content": "a\nb\r\nc",
        "start_line": 1,
        "end_line": 3,
        "total_lines": 3,
        "size": 6,
        "version": version,
        "truncated": False,
    }


async def test_an_empty_file_has_no_lines(context: ToolContext) -> None:
    await put(context, "empty", "")
    result = await use(context, "read_file", path="empty")
    assert (result["content"], result["total_lines"], result["end_line"], result["truncated"]) == ("", 0, 0, False)


@pytest.mark.parametrize(
    ("content", "start", "end", "expected", "last"),
    [
        ("1\n2\n3\n4\n", 2, 3, "2\n3\n", 3),
        ("1\n2\n3\n4\n", 3, None, "3\n4\n", 4),
        ("1\n2\n3\n4", 4, 4, "4", 4),
        ("1\n2\n3\n4", 4, 99, "4", 4),
        ("1\n\n\n", 3, None, "\n", 3),
        ("1\u2028x\x0cy\n2\n", 2, 2, "2\n", 2),
    ],
)
async def test_lines_are_counted_as_editors_count_them(
    context: ToolContext, content: str, start: int, end: int | None, expected: str, last: int
) -> None:
    await put(context, "f", content)
    result = await use(context, "read_file", path="f", start_line=start, end_line=end)
    assert (result["content"], result["start_line"], result["end_line"]) == (expected, start, last)
    assert not result["truncated"]


async def test_a_long_file_is_read_piece_by_piece_without_gap_or_repetition(context: ToolContext) -> None:
    content = "".join(f"line {number} {'é' * (number % 20 if number < 3_000 else 40)}\n" for number in range(1, 5_001))
    await put(context, "long", content)
    read, start = "", 1
    for _ in range(30):
        result = await use(context, "read_file", path="long", start_line=start)
        assert len(result["content"].encode()) <= 65_536
        assert result["end_line"] - result["start_line"] < 2_000
        read += result["content"]
        if not result["truncated"]:
            break
        assert result["note"] == f"go on with start_line={result['end_line'] + 1}"
        start = result["end_line"] + 1
    assert read == content


async def test_a_line_longer_than_a_call_is_cut_and_said_to_be(context: ToolContext) -> None:
    await put(context, "min.js", "é" * 50_000 + "\nnext\n")
    result = await use(context, "read_file", path="min.js")
    assert result["content"] == "é" * 32_768
    assert result["truncated"]
    assert "line 1 is longer" in result["note"]
    assert (await use(context, "read_file", path="min.js", start_line=2))["content"] == "next\n"


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0", b"\xff\xfe", b"text\0text", b"caf\xe9"])
async def test_a_binary_file_is_refused(context: ToolContext, data: bytes) -> None:
    await put(context, "image", data)
    with pytest.raises(ToolError, match="'image' is a binary file"):
        await use(context, "read_file", path="image")


async def test_a_huge_file_is_refused_without_being_loaded(context: ToolContext) -> None:
    await put(context, "huge", b"x" * ((8 << 20) + 1))
    with pytest.raises(ToolError, match="8388609 bytes"):
        await use(context, "read_file", path="huge")


async def test_a_missing_file_a_folder_and_a_line_behind_the_end_are_told_apart(context: ToolContext) -> None:
    await put(context, "a/b", "1\n2\n")
    with pytest.raises(ToolError, match="there is no file 'x'"):
        await use(context, "read_file", path="x")
    with pytest.raises(ToolError, match="'a' is a folder"):
        await use(context, "read_file", path="a")
    with pytest.raises(ToolError, match="has 2 lines"):
        await use(context, "read_file", path="a/b", start_line=3)
    with pytest.raises(ToolError, match="end_line 1 is before start_line 2"):
        await use(context, "read_file", path="a/b", start_line=2, end_line=1)


async def test_a_folder_is_listed_with_files_and_folders(context: ToolContext) -> None:
    for path in ("b.txt", "a/1", "a/x/2", "z"):
        await put(context, path, "12")
    assert await use(context, "list_directory") == {
        "path": "",
        "entries": [
            {"path": "a", "kind": "folder", "size": None},
            {"path": "b.txt", "kind": "file", "size": 2},
            {"path": "z", "kind": "file", "size": 2},
        ],
        "truncated": False,
    }
    below = await use(context, "list_directory", path="/a/")
    assert [entry["path"] for entry in below["entries"]] == ["a/1", "a/x"]
    everything = await use(context, "list_directory", path="a", recursive=True)
    assert [entry["path"] for entry in everything["entries"]] == ["a/1", "a/x/2"]
    short = await use(context, "list_directory", limit=2)
    assert ([entry["path"] for entry in short["entries"]], short["truncated"]) == (["a", "b.txt"], True)


async def test_an_empty_project_has_an_empty_root_but_a_missing_folder_is_an_error(context: ToolContext) -> None:
    assert (await use(context, "list_directory"))["entries"] == []
    await put(context, "f", "")
    with pytest.raises(ToolError, match="'f' is a file"):
        await use(context, "list_directory", path="f")
    with pytest.raises(ToolError, match="there is no folder 'g'"):
        await use(context, "list_directory", path="g")


@pytest.mark.parametrize("name", ["read_file", "list_directory", "find_files", "search_files"])
@pytest.mark.parametrize("path", ["../p10/secret", "..", "%2e%2e/p10", "a/../../userstranger/x", "．．／p10", "~/x"])
async def test_no_reading_tool_leaves_the_project(context: ToolContext, name: str, path: str) -> None:
    await context.files.write(STRANGER, "secret", b"theirs")
    arguments: dict[str, Any] = {"path": path, "pattern": "*", "query": "theirs"}
    wanted = {"read_file": ["path"], "list_directory": ["path"], "find_files": ["path", "pattern"]}
    with pytest.raises(ToolError, match="is no workspace path"):
        await use(context, name, **{key: arguments[key] for key in wanted.get(name, ["path", "query"])})


async def test_another_tenants_files_are_in_no_answer(context: ToolContext) -> None:
    await context.files.write(STRANGER, "secret", b"theirs")
    assert (await use(context, "list_directory", recursive=True))["entries"] == []
    assert (await use(context, "find_files", pattern="**"))["files"] == []
    assert (await use(context, "search_files", query="theirs"))["matches"] == []
    with pytest.raises(ToolError, match="there is no file"):
        await use(context, "read_file", path="secret")


async def test_a_listing_goes_on_behind_a_page_that_holds_nothing_nameable(context: ToolContext) -> None:
    class Sparse(MemoryFiles):
        """A store with objects of others between ours, which a page leaves out."""

        async def list(self, *arguments: Any, **named: Any) -> FilePage:
            page = await super().list(*arguments, **{**named, "limit": 1})
            return replace(page, files=[info for info in page.files if not info.path.startswith("odd")])

    files = Sparse()
    for path in ("a", "odd1", "odd2", "z"):
        await files.write(TENANT, path, b"")
    result = await use(replace(context, files=files), "list_directory")
    assert ([entry["path"] for entry in result["entries"]], result["truncated"]) == (["a", "z"], False)
