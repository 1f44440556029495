"""What the offline model says of a file: its structure by its format, its size, and what a review finds."""

import pytest

from tests.unit.offline_project import GREET, Project
from worker_space.adapters.memory_files import MemoryFiles
from worker_space.starters import starter

pytestmark = pytest.mark.anyio

MARKDOWN = "# Title\n\nSome *words*.\n\n## Part\n\n```\n# no heading\n```\n[x](y.md)\n"


@pytest.fixture
async def project() -> Project:
    return Project(MemoryFiles())


async def test_a_python_file_is_analysed_by_its_syntax_tree(project: Project) -> None:
    await project.write("main.py", GREET)
    answer = await project.ask("Analyse main.py")
    assert project.called == ["read_file"]
    for fact in (
        f"{len(GREET.splitlines())} lines",
        f"{len(GREET)} bytes",
        "Greets people.",
        "`os` and `sys`",
        "`LIMIT`",
        "class Greeter(Base)",
        "Says hello.",
        "def greet(self, name: str='you') -> str",
        "async def main(argv=[]) -> None",
        "`__main__` check in line 21",
        "line 14:",
    ):
        assert fact in answer, fact


async def test_a_file_is_found_wherever_it_lies_and_others_of_its_name_are_told(project: Project) -> None:
    await project.write("src/app/main.py", "x = 1\n")
    assert "`src/app/main.py`" in await project.ask("Analyse main.py")
    await project.write("lib/main.py", "y = 1\n")
    answer = await project.ask("Analyse main.py")
    assert answer.startswith("## `lib/main.py`")
    assert "`src/app/main.py`" in answer
    assert "`y`" in answer


async def test_the_exact_path_goes_before_files_of_the_same_name(project: Project) -> None:
    await project.write("main.py", "root = 1\n")
    await project.write("a/main.py", "other = 1\n")
    answer = await project.ask("Analyse main.py")
    assert "`root`" in answer
    assert "a/main.py" not in answer


async def test_a_missing_file_is_said_to_be_missing_and_similar_names_are_listed(project: Project) -> None:
    await project.write("src/utils.py", "x = 1\n")
    answer = await project.ask("What does utlis.py do?")
    assert "no file" in answer
    assert "`src/utils.py`" in answer
    assert "`x`" not in answer
    assert "Similar" not in await project.ask("What does zebra.txt do?")


async def test_a_name_in_another_case_or_without_its_ending_is_found(project: Project) -> None:
    await project.write("README.md", "# Demo\n\nIt shows.\n")
    for message in ("Summarise readme.md", "Summarise the readme"):
        answer = await project.ask(message)
        assert answer.startswith("## `README.md`"), message
        assert "It shows." in answer


@pytest.mark.parametrize(
    ("path", "text", "facts"),
    [
        ("a.md", MARKDOWN, ["Some", "- Title", "  - Part", "`y.md`"]),
        ("a.json", '{"name": "demo", "list": [1, 2], "o": {"k": 1}}', ["3 keys", '"demo"', "2 entries", "`k`"]),
        ("bad.json", '{"name": ', ["does not parse as JSON"]),
        ("a.toml", '[tool.x]\ny = 1\n[project]\nname = "d"\n', ["2 keys", "`tool`", "`project`"]),
        ("a.yaml", "name: x\nsteps:\n  - run: y\n", ["`name` and `steps`"]),
        ("a.csv", "id,name\n1,a\n2,b\n", ["2 rows", "`id` and `name`"]),
        ("a.txt", "one\ntwo\n", ["2 lines", "one\ntwo"]),
        ("empty.txt", "", ["It is empty."]),
        ("bad.py", "def f(:\n", ["does not parse", "line 1"]),
        ("deep.py", "(" * 500 + ")" * 500, ["does not parse"]),
        ("odd.py", "x = '\\d'\n", ["`x`"]),
    ],
)  # fmt: skip
async def test_each_format_is_described_by_its_structure(
    project: Project, path: str, text: str, facts: list[str]
) -> None:
    await project.write(path, text)
    answer = await project.ask(f"Explain {path}")
    for fact in facts:
        assert fact in answer, (fact, answer)
    assert "no heading" not in answer


async def test_a_named_function_is_shown_with_its_source(project: Project) -> None:
    await project.write("main.py", GREET)
    answer = await project.ask("What does greet in main.py do?")
    assert 'return f"hello {name}"' in answer
    assert "line 12" in answer


async def test_a_large_file_is_read_to_its_end(project: Project) -> None:
    await project.write("big.py", "".join(f"def f{number}(): pass\n" for number in range(4_500)))
    answer = await project.ask("Analyse big.py")
    assert project.called == ["read_file"] * 3
    assert "4,500 lines" in answer
    assert "more functions" in answer


async def test_of_a_huge_file_it_says_what_it_did_not_see(project: Project) -> None:
    await project.write("huge.py", "def f(): pass\n" * 20_000)
    answer = await project.ask("Analyse huge.py")
    assert "I read lines 1 to 8000 of 20000" in answer
    await project.write("long.txt", "x" * 200_000)
    assert "only the beginning of its long lines" in await project.ask("Analyse long.txt")


async def test_a_review_names_what_the_syntax_tree_shows(project: Project) -> None:
    await project.write("main.py", GREET + "\ntry:\n    pass\nexcept:\n    pass\n")
    for answer in (
        await project.ask("Review main.py"),
        await project.ask("Analyse main.py", system=starter("analyst").system_prompt),
    ):
        assert "imported but not used: `os`" in answer
        assert "no docstring: `main`" in answer
        assert "mutable default" in answer
        assert "bare `except`" in answer
        assert "nothing was run" in answer
    assert "Observations" not in await project.ask("Analyse main.py")


async def test_roles_shape_the_answer_and_recalled_text_cannot_give_one(project: Project) -> None:
    await project.write("main.py", GREET)
    prose = "defines 1 class and 1 function and imports `os` and `sys`."
    assert prose in await project.ask("Summarise main.py", system=starter("writer").system_prompt)
    assert "Next steps" in await project.ask("Explain main.py", system=starter("planner").system_prompt)
    assert prose not in await project.ask("Summarise main.py", system="Be kind.\n\nYou are the writer of this project")


async def test_a_yaml_without_keys_and_a_table_that_breaks_are_shown_by_their_first_lines(project: Project) -> None:
    await project.write("a.yaml", "- one\n- two\n")
    assert "- one\n- two" in await project.ask("Explain a.yaml")
    await project.write("a.csv", "\n\n")
    assert "blank space" in await project.ask("Explain a.csv")
    await project.write("a.json", "[1, 2, 3]")
    assert "a list of 3 entries" in await project.ask("Explain a.json")
    await project.write("b.json", "17")
    assert "`17`" in await project.ask("Explain b.json")
    await project.write("c.csv", '"' + "x" * 200_000)
    assert "only the beginning" in await project.ask("Explain c.csv")
    await project.write("lines.txt", "".join(f"{number}\n" for number in range(40)))
    assert "Its first 12 lines" in await project.ask("Explain lines.txt")


async def test_a_long_function_is_noted(project: Project) -> None:
    body = "".join(f"    x{number} = {number}\n" for number in range(60))
    await project.write("a.py", f'def long():\n    """Long."""\n{body}from os import *\neval("1")\n')
    answer = await project.ask("Check a.py for problems")
    for note in ("`long` is long: 62 lines", "a star import", "it calls `eval`"):
        assert note in answer
