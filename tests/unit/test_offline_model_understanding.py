"""What the offline model takes a message to ask for."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Unknown,
    Write,
)
from worker_space.adapters.offline.understanding import understand


def _look_paths(message: str) -> list[str]:
    requests = understand(message)
    assert all(isinstance(request, Look) for request in requests), requests
    return [request.path for request in requests if isinstance(request, Look)]


@pytest.mark.parametrize(
    ("message", "paths"),
    [
        ("Analyse main.py", ["main.py"]),
        ("analyze main.py.", ["main.py"]),
        ("What does utils.py do?", ["utils.py"]),
        ("Explain src/app.py", ["src/app.py"]),
        ("Please summarise README.md for me", ["README.md"]),
        ("Can you explain what `src/deep/app.py` does?", ["src/deep/app.py"]),
        ("@coder, tell me about .gitignore", [".gitignore"]),
        ("What's in docs/guide.md?", ["docs/guide.md"]),
        ("How many lines does main.py have?", ["main.py"]),
        ('Describe "my notes.md"', ["my notes.md"]),
        ("Explain the Makefile", ["Makefile"]),
        ("Analyse main", ["main"]),
        ("Analyse a.py and b.py", ["a.py", "b.py"]),
        ("What do you know about main.py?", ["main.py"]),
        ("Erkläre mir? Review größe.py", ["größe.py"]),
    ],
)
def test_a_question_about_a_file_is_an_analysis_of_it(message: str, paths: list[str]) -> None:
    assert _look_paths(message) == paths


@pytest.mark.parametrize(
    ("message", "request_"),
    [
        ("List the files", ListFiles()),
        ("what files are there?", ListFiles()),
        ("How many files are there?", ListFiles()),
        ("list the files in src/app", ListFiles(folder="src/app")),
        ("List all Python files", ListFiles(pattern="**/*.py")),
        ("show me the *.md files", ListFiles(pattern="**/*.md")),
        ("What is in this project?", Overview()),
        ("Summarise the project", Overview()),
        ("Tell me about this codebase", Overview()),
        ("Find TODO", Marks()),
        ("Are there any TODOs?", Marks()),
        ("List all FIXME comments", Marks()),
        ("Search for parse_args", Search(text="parse_args")),
        ("Search for 'hello world'", Search(text="hello world")),
        ("grep for TODAY in the project", Search(text="TODAY")),
        ("Search for x in src/app.py", Search(text="x", place="src/app.py")),
        ("Search in src/app.py for x", Search(text="x", place="src/app.py")),
        ("Search for TODO in main.py", Search(text="TODO", place="main.py")),
        ("Where is parse_args used?", Search(text="parse_args", exact=True)),
        ("Which files import os?", Search(text="os", exact=True)),
        ("find 'x = 1' in src/app.py", Search(text="x = 1", place="src/app.py")),
        ("Find main.py", FindFiles(name="main.py")),
        ("Is there a file called x.py?", FindFiles(name="x.py")),
        ("find *.toml", FindFiles(name="*.toml")),
        ("Read main.py", Show(path="main.py")),
        ("Read lines 10-20 of f.py", Show(path="f.py", first=10, last=20)),
        ("show line 7 of f.py", Show(path="f.py", first=7, last=7)),
        ("Show me the first 5 lines of log.txt", Show(path="log.txt", last=5)),
        ("Show me the last 5 lines of log.txt", Show(path="log.txt", first=-5)),
        ("Create notes.md with hello world", Write(path="notes.md", content="hello world")),
        ("Create notes.md with 'hello'", Write(path="notes.md", content="hello")),
        ("create a file named a.txt containing: x", Write(path="a.txt", content="x")),
        ("Write hello to out.txt", Write(path="out.txt", content="hello")),
        ("Write 'a' to x.md", Write(path="x.md", content="a")),
        ('Save "a b" as docs/x.md', Write(path="docs/x.md", content="a b")),
        ("Create notes.md:\n# T\n\n- delete main.py\n", Write(path="notes.md", content="# T\n\n- delete main.py")),
        ("Write this to notes.md:\n    indented", Write(path="notes.md", content="    indented")),
        ("Create a.py with:\n```python\nprint('x')\n```", Write(path="a.py", content="print('x')")),
        ("Create a.py with print('x')", Write(path="a.py", content="print('x')")),
        ("Create empty.txt", Write(path="empty.txt", content="")),
        ("Write a summary of main.py to s.md", Write(path="s.md", content=Look(path="main.py"))),
        ("Append 'x' to notes.md", Append(path="notes.md", content="x")),
        ("Append to notes.md: eggs", Append(path="notes.md", content="eggs")),
        ("Add 'eggs' to the end of notes.md", Append(path="notes.md", content="eggs")),
        ("Replace 'a' with 'b' in f.txt", Replace(path="f.txt", old="a", new="b")),
        ("In f.txt, replace 'a' with 'b'", Replace(path="f.txt", old="a", new="b")),
        ("Remove 'a' from f.txt", Replace(path="f.txt", old="a", new="")),
        ("Rename a to b", Move(path="a", target="b")),
        ("Move a.txt into archive/", Move(path="a.txt", target="archive/a.txt")),
        ("Delete f.txt", Delete(paths=("f.txt",))),
        ("Delete the files a.txt and b.txt", Delete(paths=("a.txt", "b.txt"))),
        ("Remember that I like tea", Remember(text="I like tea")),
        ("Remember: first read a.py, then delete b.py", Remember(text="first read a.py, then delete b.py")),
        ("What did I tell you about tea?", Recall(topic="tea")),
        ("What do you remember about the release?", Recall(topic="the release")),
        ("What is my favourite colour?", Recall(topic="my favourite colour")),
        ("Do you remember what I said?", Recall(topic="what I said")),
        ("Make a plan for adding login", Plan(goal="adding login")),
        ("What can you do?", Help()),
        ("Tell me a joke", Unknown()),
        ("Refactor main.py", Unknown(path="main.py")),
        ("Add a docstring to main.py", Compose(path="main.py")),
        ("Create poem.txt with a poem about cats", Compose()),
        ("Write a README", Compose(path="README")),
        ("Draft a tutorial about the shop", Compose()),
        ("Create sort.py with something that sorts numbers", Compose()),
    ],
)
def test_a_plain_request_is_understood(message: str, request_: Request) -> None:
    assert understand(message) == [request_]


def test_two_requests_in_one_message_are_carried_out_in_their_order() -> None:
    assert understand("Read a.py then delete b.py") == [Show(path="a.py"), Delete(paths=("b.py",))]
    assert understand("Analyse main.py and save it to s.md")[1] == Write(path="s.md", content=None)
    assert understand("Create a.md with 'x' and list the files") == [Write(path="a.md", content="x"), ListFiles()]


@pytest.mark.parametrize(
    "message",
    [
        "Do not rename a.py to b.py and delete c.py",
        "Never mind; don't touch anything, delete nothing",
        "Should I delete main.py?",
        "What happens if I delete main.py?",
        "Delete everything",
        "Delete it",
        "Delete all files",
        "Explain 'Delete main.py' in a.md",
        'Search for "; delete main.py"',
        "Summarise `x; delete main.py`",
        "Remember that you must delete main.py and rename b.py to c.py",
        "Delete main.py if it is older than a week",
    ],
)
def test_what_is_quoted_negated_doubtful_or_unnamed_changes_no_file(message: str) -> None:
    harmless = (Look, Show, Search, Remember, Unknown, ListFiles, Recall)
    assert all(isinstance(request, harmless) for request in understand(message)), understand(message)


@pytest.mark.parametrize(
    "message",
    [
        "Create todo.txt with buy milk and delete spam",
        "Append milk and delete eggs to todo.txt",
        "Create todo.txt:\nbuy milk\nthen delete main.py",
    ],
)
def test_a_verb_inside_the_text_to_store_is_text(message: str) -> None:
    (request,) = understand(message)
    assert isinstance(request, Write | Append)
    assert isinstance(request.content, str)
    assert "delete" in request.content


def test_a_long_text_behind_its_head_is_stored_whole() -> None:
    text = "word " * 3_000 + "end"
    assert understand(f"Create notes.md with {text}") == [Write(path="notes.md", content=text)]


@pytest.mark.parametrize(
    "message",
    [
        "a/" * 16_000,
        "x." * 16_000,
        "delete " + "a and " * 6_000,
        "analyse " + "main.py " * 4_000,
        "where " + " " * 32_000 + "x",
        "'" * 32_000,
        "`" * 32_000,
        "please " * 5_000,
        "create " + "the " * 400 + "x",
        "what " + "is " * 600,
        "search for " + "a.b/" * 480,
        "```\n" * 8_000,
        "\"“'" * 10_000,
    ],
)
def test_a_hostile_message_costs_little_time(message: str) -> None:
    start = time.process_time()
    understand(message)
    assert time.process_time() - start < 0.5


@given(st.text(max_size=400))
def test_any_text_is_some_request(message: str) -> None:
    assert 1 <= len(understand(message)) <= 4


_KNOWN = (
    *(
        "delete",
        "analyse",
        "create",
        "replace",
        "rename",
        "remember",
        "then",
        "and",
        "not",
        "the",
        "file",
        "lines",
        "with",
    ),
    *("main.py", "a/b.md", "x", "1-2", "of", "in", "to", "todo", "'", '"', "`", "```", ":", ".", ",", "\n"),
)
_words = st.sampled_from(_KNOWN)


@given(st.lists(_words, max_size=25))
def test_any_order_of_known_words_is_some_request(words: list[str]) -> None:
    assert 1 <= len(understand(" ".join(words))) <= 12
