"""What the offline model does with a project's files: it lists, searches, shows and changes them."""

import pytest

from tests.unit.offline_project import GREET, Project
from worker_space.adapters.memory_files import MemoryFiles

pytestmark = pytest.mark.anyio

LONG = "".join(f"l{number}\n" for number in range(5_000))


@pytest.fixture
async def project() -> Project:
    return Project(MemoryFiles())


async def test_the_project_is_described_by_its_files_and_readme(project: Project) -> None:
    await project.write("README.md", "# Demo\n\nA small tool.\n")
    await project.write("src/main.py", GREET)
    await project.write("tests/test_main.py", "")
    answer = await project.ask("What is in this project?")
    assert project.called == ["list_directory", "read_file"]
    for fact in ("3 files", "Demo — A small tool.", "2 × `py`", "`src/main.py`", "**Tests:** `tests/test_main.py`"):
        assert fact in answer
    listing = await project.ask("List the files")
    assert "3 files" in listing
    assert f"`src/main.py` ({len(GREET)} bytes)" in listing
    assert "There is no folder" not in await project.ask("List the files in src")
    assert "2 files" in await project.ask("List all python files")


async def test_an_empty_project_is_said_to_be_empty(project: Project) -> None:
    assert "no files" in await project.ask("List the files")
    assert "no files yet" in await project.ask("What is in this project?")
    assert "stands in this project's files" in await project.ask("Find TODO")


async def test_searches_name_file_and_line(project: Project) -> None:
    await project.write("src/main.py", GREET)
    await project.write("notes.md", "greet them\nFIXME later\n")
    answer = await project.ask("Where is greet used?")
    assert "`notes.md` line 1" in answer
    assert "`src/main.py` line 12" in answer
    marks = await project.ask("Find TODO")
    assert "`src/main.py` line 14" in marks
    assert "`notes.md` line 2" in marks
    assert "notes.md" not in await project.ask("Search for greet in src/main.py")
    assert "stands nowhere" in await project.ask("Search for 'zebra'")
    assert "`src/main.py`" in await project.ask("Find main.py")
    assert "No file matches" in await project.ask("Find nowhere.py")


async def test_lines_are_shown_as_they_stand(project: Project) -> None:
    await project.write("f.txt", "".join(f"line {number}\n" for number in range(1, 31)))
    answer = await project.ask("Read lines 10-12 of f.txt")
    assert "lines 10 to 12 of 30" in answer
    assert "\nline 10\nline 11\nline 12\n" in answer
    assert "line 13" not in answer
    assert "\nline 29\nline 30\n" in await project.ask("Show the last 2 lines of f.txt")
    assert "behind its end" in await project.ask("Read lines 50-60 of f.txt")


async def test_a_code_block_in_a_file_cannot_end_the_block_that_shows_it(project: Project) -> None:
    await project.write("a.md", "```\ncode\n```\n")
    assert "````markdown\n```\ncode\n```\n````" in await project.ask("Read a.md")


async def test_a_file_is_written_exactly_as_asked(project: Project) -> None:
    answer = await project.ask("Create notes.md with 'buy milk'")
    assert project.called == ["write_file"]
    assert await project.text("notes.md") == "buy milk"
    assert "created `notes.md` (8 bytes)" in answer
    assert "replaced" in await project.ask("Write 'buy eggs' to notes.md")
    assert await project.text("notes.md") == "buy eggs"
    await project.ask("Create docs/a.md:\n# A\n\n    indented\n- delete notes.md")
    assert await project.text("docs/a.md") == "# A\n\n    indented\n- delete notes.md"
    assert await project.text("notes.md") == "buy eggs"


async def test_an_answer_can_be_stored(project: Project) -> None:
    await project.write("README.md", "# Demo\n\nIt shows.\n")
    await project.ask("Summarise README.md and save it to summary.md")
    assert "It shows." in (await project.text("summary.md") or "")
    await project.ask("Write a summary of README.md to again.md")
    assert "It shows." in (await project.text("again.md") or "")


async def test_creating_an_empty_file_never_empties_one(project: Project) -> None:
    await project.write("picture.bin", b"\x00\x01")
    answer = await project.ask("Create picture.bin")
    assert "exists already" in answer
    assert "write_file" not in project.called
    await project.ask("Create new.txt")
    assert await project.text("new.txt") == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("one\n", "one\ntwo\n"),
        ("one", "one\ntwo"),
        ("x\nx\nx\n", "x\nx\nx\ntwo\n"),
        ("\n\n", None),
        ("", "two\n"),
        (None, "two\n"),
        (LONG, LONG + "two\n"),
        ("x\n" * 2_060, None),
        ("x\nx\n", "x\nx\ntwo\n"),
        ("a\nb\na\nb\na\n", "a\nb\na\nb\na\ntwo\n"),
    ],
)  # fmt: skip
async def test_appending_adds_a_line_at_the_end(project: Project, before: str | None, after: str | None) -> None:
    if before is not None:
        await project.write("notes.md", before)
    answer = await project.ask("Append 'two' to notes.md")
    assert await project.text("notes.md") == (before if after is None else after)
    assert ("could not" in answer) == (after is None)


async def test_appending_never_replaces_a_file_that_cannot_be_read(project: Project) -> None:
    await project.write("picture.bin", b"\x00\x01")
    answer = await project.ask("Append 'two' to picture.bin")
    assert "binary" in answer
    assert "write_file" not in project.called
    blind = await project.ask("Append 'two' to new.md", tools=("read_file", "write_file"))
    assert "lacks the tool `find_files`" in blind
    assert await project.text("new.md") is None


async def test_a_text_is_replaced_wherever_it_stands(project: Project) -> None:
    await project.write("f.txt", "a b a\n")
    assert "2 places" in await project.ask("Replace 'a' with 'c' in f.txt")
    assert await project.text("f.txt") == "c b c\n"
    assert "changed nothing" in await project.ask("Replace 'zebra' with 'c' in f.txt")
    await project.ask("Remove 'b ' from f.txt")
    assert await project.text("f.txt") == "c c\n"


async def test_files_are_moved_and_deleted_by_their_exact_path_only(project: Project) -> None:
    await project.write("a.md", "x")
    await project.write("docs/b.md", "y")
    assert "I moved" in await project.ask("Rename a.md to c.md")
    assert await project.text("c.md") == "x"
    answer = await project.ask("Delete b.md")
    assert "could not delete" in answer
    assert "`docs/b.md`" in answer
    assert await project.text("docs/b.md") == "y"
    assert "I deleted" in await project.ask("Delete docs/b.md")
    assert await project.text("docs/b.md") is None


async def test_code_in_a_named_place_is_quoted_whatever_it_holds(project: Project) -> None:
    await project.write("a.txt", "say `x` and ``y``\n")
    assert "``` say `x` and ``y`` ```" in await project.ask("Search for say")
