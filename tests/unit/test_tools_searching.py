import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_space.adapters.memory_files import MemoryFiles
from worker_space.adapters.patterns import Re2Patterns
from worker_space.errors import ToolError
from worker_space.tenancy import TenantContext
from worker_space.tools.catalogue import call
from worker_space.tools.globs import glob_matcher
from worker_space.tools.tool import ToolContext

TENANT = TenantContext("u1", "p1")

PATHS = ("main.py", "README.md", "src/main.py", "src/app/main.py", "src/app/test_main.py", "src/ab[1].txt", "b/.hidden")


@pytest.fixture
def context() -> ToolContext:
    return ToolContext(tenant=TENANT, files=MemoryFiles(), patterns=Re2Patterns())


async def put(context: ToolContext, path: str, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    await context.files.write(context.tenant, path, data)


async def use(context: ToolContext, name: str, **arguments: Any) -> dict[str, Any]:
    return await call(context, name, arguments, effect="t#1")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.py", {"main.py", "src/main.py", "src/app/main.py", "src/app/test_main.py"}),
        ("main.py", {"main.py", "src/main.py", "src/app/main.py"}),
        ("/main.py", {"main.py"}),
        ("/*", {"main.py", "README.md"}),
        ("**/*.py", {"main.py", "src/main.py", "src/app/main.py", "src/app/test_main.py"}),
        ("src/*.py", {"src/main.py"}),
        ("src/**/*.py", {"src/main.py", "src/app/main.py", "src/app/test_main.py"}),
        ("src/**", {"src/main.py", "src/app/main.py", "src/app/test_main.py", "src/ab[1].txt"}),
        ("src/", {"src/main.py", "src/app/main.py", "src/app/test_main.py", "src/ab[1].txt"}),
        ("./src/./*.py", {"src/main.py"}),
        ("**/app/**/test_*", {"src/app/test_main.py"}),
        ("*/*/*", {"src/app/main.py", "src/app/test_main.py"}),
        ("?ain.py", {"main.py", "src/main.py", "src/app/main.py"}),
        ("[Rm]*", {"main.py", "README.md", "src/main.py", "src/app/main.py"}),
        ("*[[]1]*", {"src/ab[1].txt"}),
        (".*", {"b/.hidden"}),
        ("**", set(PATHS)),
        ("**/**", set(PATHS)),
        ("*.PY", set()),
        ("src", set()),
        ("src/*/*/*", set()),
        ("../*", set()),
        ("a|b", set()),
    ],
)
def test_a_glob_matches_what_people_mean_by_it(pattern: str, expected: set[str]) -> None:
    assert {path for path in PATHS if glob_matcher(pattern)(path)} == expected


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_glob(pattern: str, path: str) -> None:
    glob_matcher(pattern)(path)


def test_no_glob_takes_long() -> None:
    before = time.perf_counter()
    assert not glob_matcher("*a" * 120 + "b")("a" * 255)
    assert not glob_matcher("**/a/" * 50 + "b")("/".join(["a"] * 32))
    assert time.perf_counter() - before < 1.0


@pytest.mark.anyio
async def test_files_are_found_below_a_folder(context: ToolContext) -> None:
    for path in PATHS:
        await put(context, path, "x")
    assert await use(context, "find_files", pattern="app/*.py", path="src") == {
        "path": "src",
        "files": [{"path": "src/app/main.py", "size": 1}, {"path": "src/app/test_main.py", "size": 1}],
        "truncated": False,
    }
    short = await use(context, "find_files", pattern="*", limit=2)
    assert ([file["path"] for file in short["files"]], short["truncated"]) == (["README.md", "b/.hidden"], True)
    exact = await use(context, "find_files", pattern="*", limit=len(PATHS))
    assert (len(exact["files"]), exact["truncated"]) == (len(PATHS), False)


@pytest.mark.anyio
async def test_text_is_found_with_its_line(context: ToolContext) -> None:
    await put(context, "a.py", "import os\r\n\r\ndef Main():\r\n    pass\r\n")
    await put(context, "b.md", "# The main thing")
    assert await use(context, "search_files", query="main") == {
        "matches": [
            {"path": "a.py", "line": 3, "text": "def Main():"},
            {"path": "b.md", "line": 1, "text": "# The main thing"},
        ],
        "truncated": False,
        "files_searched": 2,
        "files_skipped": 0,
    }
    exact = await use(context, "search_files", query="Main", case_sensitive=True)
    assert [match["path"] for match in exact["matches"]] == ["a.py"]
    narrowed = await use(context, "search_files", query="main", glob="*.md")
    assert [match["path"] for match in narrowed["matches"]] == ["b.md"]
    assert narrowed["files_searched"] == 1


@pytest.mark.anyio
async def test_a_text_query_is_no_pattern(context: ToolContext) -> None:
    await put(context, "a", "a.b(c\nabbc\n")
    assert [match["line"] for match in (await use(context, "search_files", query="a.b(c"))["matches"]] == [1]


@pytest.mark.anyio
async def test_a_pattern_is_found_line_by_line(context: ToolContext) -> None:
    await put(context, "a", "def one():\n  x = 1\nDEF two():\nGrüße, STRASSE\n")

    async def lines(query: str, **more: Any) -> list[int]:
        result = await use(context, "search_files", query=query, regex=True, **more)
        return [match["line"] for match in result["matches"]]

    assert await lines(r"^def \w+\(") == [1, 3]
    assert await lines(r"^def \w+\(", case_sensitive=True) == [1]
    assert await lines(r"^\s+x\s*=\s*\d$") == [2]
    assert await lines(r"grÜße") == [4]
    assert await lines(r"one.*two") == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "query", ["(", "a{2", "[z-a]", "*", r"(a)\1", "(?=a)", "(?<!a)b", "(a{1000}){1000}", "a" + "{0,9}" * 9]
)
async def test_an_unusable_pattern_is_explained_to_the_model(context: ToolContext, query: str) -> None:
    if query == "a{2":
        assert (await use(context, "search_files", query=query, regex=True))["matches"] == []
        return
    with pytest.raises(ToolError, match="query is no usable regular expression: "):
        await use(context, "search_files", query=query, regex=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "query",
    [
        r"(a+)+$b",
        r"(a|a)*b",
        r"(a|aa)+$c",
        r"(.*a){20}b",
        r"a?" * 100 + "a" * 100,
        r"(\w+\s?)*$x",
        "(" * 200 + ")" * 200,
    ],
)
async def test_no_pattern_makes_a_search_hang(context: ToolContext, query: str) -> None:
    await put(context, "a", ("a" * 5_000 + "!\n") * 50)
    before = time.perf_counter()
    await use(context, "search_files", query=query, regex=True)
    assert time.perf_counter() - before < 5.0


@pytest.mark.anyio
async def test_a_search_stops_when_its_time_is_over(context: ToolContext) -> None:
    class Slow:
        def compile(self, pattern: str, *, case_sensitive: bool) -> Callable[[str], bool]:
            def test(line: str) -> bool:
                time.sleep(0.001)
                return False

            return test

    for number in range(20):
        await put(context, f"f{number}", "line\n" * 5_000)
    before = time.perf_counter()
    slow = replace(context, patterns=Slow(), search_seconds=0.3)
    result = await use(slow, "search_files", query="x", regex=True)
    assert result["truncated"]
    assert time.perf_counter() - before < 3.0


@pytest.mark.anyio
async def test_results_are_bounded_in_number_and_size(context: ToolContext) -> None:
    await put(context, "a", "match\n" * 1_000)
    few = await use(context, "search_files", query="match", max_results=3)
    assert ([match["line"] for match in few["matches"]], few["truncated"]) == ([1, 2, 3], True)
    await put(context, "a", "match\n" * 3)
    assert not (await use(context, "search_files", query="match", max_results=3))["truncated"]
    await put(context, "a", ("match" + "x" * 4_000 + "\n") * 500)
    wide = await use(context, "search_files", query="match", max_results=500)
    assert wide["truncated"]
    assert sum(len(match["text"]) for match in wide["matches"]) <= 65_536
    assert all(len(match["text"]) <= 301 for match in wide["matches"])


@pytest.mark.anyio
async def test_what_is_no_text_or_too_large_is_skipped_and_counted(context: ToolContext) -> None:
    await put(context, "binary", b"needle\0")
    await put(context, "latin", "needle é".encode("latin-1"))
    await put(context, "large", "needle\n" * 400_000)
    await put(context, "text", "needle")
    result = await use(context, "search_files", query="needle")
    assert [match["path"] for match in result["matches"]] == ["text"]
    assert (result["files_searched"], result["files_skipped"]) == (1, 3)


@pytest.mark.anyio
async def test_a_search_reads_a_bounded_number_of_bytes(context: ToolContext) -> None:
    for number in range(25):
        await put(context, f"f{number:02d}", "x" * (2 << 20))
    result = await use(context, "search_files", query="y")
    assert result["truncated"]
    assert result["files_searched"] <= 18


@pytest.mark.anyio
async def test_a_query_of_two_lines_is_refused(context: ToolContext) -> None:
    with pytest.raises(ToolError, match="one line"):
        await use(context, "search_files", query="a\nb")


@pytest.mark.anyio
async def test_every_page_of_a_listing_is_searched_up_to_a_bound(context: ToolContext) -> None:
    for number in range(2_500):
        await put(context, f"d/{number:05d}", "x")
    last = await use(context, "find_files", pattern="02499")
    assert ([file["path"] for file in last["files"]], last["truncated"]) == (["d/02499"], False)
    for number in range(2_500, 10_500):
        await put(context, f"d/{number:05d}", "x")
    behind = await use(context, "find_files", pattern="10499")
    assert (behind["files"], behind["truncated"]) == ([], True)
