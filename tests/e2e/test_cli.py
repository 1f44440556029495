"""The command line over the real stack: what a person does in the first five minutes."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "worker_space_local.cli"]


class Person:
    """Runs commands with a data folder of their own."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "Ada's shop"
        self.state = place / "state"
        (self.folder / "src").mkdir(parents=True)
        (self.folder / "src" / "app.py").write_text('"""Says hello."""\n\n\ndef hello() -> str:\n    return "hello"\n')
        (self.folder / "notes.md").write_text("# Notes\n\n- TODO: say goodbye\n")
        (self.folder / "what?.txt").write_text("a name that not every system can store")
        self.environment = {**os.environ, "WORKER_SPACE_DATA_DIR": str(self.state), "WORKER_SPACE_PORT": "0"}

    def call(self, *arguments: str, stdin: str = "", status: int = 0) -> str:
        """The output of a command that ends with `status`."""
        done = subprocess.run(
            [*COMMAND, *arguments], input=stdin, capture_output=True, text=True, timeout=100, env=self.environment
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person(tmp_path_factory.mktemp("person"))


@pytest.fixture(scope="module")
def transcript(person: Person) -> Iterator[list[str]]:
    """What `run` prints until it serves; it serves while the module's tests run."""
    process = subprocess.Popen(
        [*COMMAND, "run", "--project", str(person.folder)], stdout=subprocess.PIPE, text=True, env=person.environment
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("Ctrl-C"):
            break
    try:
        yield lines
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
    assert rest == "stopping\n"
    assert process.returncode == 0
    assert sorted(path.name for path in person.state.iterdir() if path.suffix in (".json", ".conf")) == [
        "credentials.json",
        "folders.json",
    ]


def test_run_shows_the_conversation(transcript: list[str]) -> None:
    text = "\n".join(transcript)
    assert "project ada-s-shop (new)" in text
    assert "2 new, 0 replaced, 0 unchanged" in text
    assert "not sent: what?.txt:" in text
    assert "you to analyst: Analyse src/app.py\nanalyst calls read_file src/app.py\nanalyst:\n" in text
    assert "Says hello." in text
    assert "(1 call), tools" in text


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_the_printed_requests_work_when_pasted(transcript: list[str]) -> None:
    lines = [line.strip() for line in transcript if line.strip().startswith("curl ")]
    agents, file, answer = [
        subprocess.run(shlex.split(line), capture_output=True, check=True, timeout=40, text=True).stdout
        for line in lines
    ]
    assert {agent["name"] for agent in json.loads(agents)["items"]} >= {"analyst", "coder"}
    assert file == "# Notes\n\n- TODO: say goodbye\n"
    assert "notes.md" in json.loads(answer)["content"]


@pytest.mark.usefixtures("transcript")
def test_a_second_push_sends_what_changed(person: Person) -> None:
    (person.folder / "notes.md").write_text("# Notes\n\n- TODO: say hello\n")
    output = person.call("push", str(person.folder), status=1)  # the name that cannot be stored is still there
    assert "0 new, 1 replaced, 1 unchanged" in output


@pytest.mark.usefixtures("transcript")
def test_a_question_in_the_same_session_and_in_a_chat(person: Person) -> None:
    first = person.call("ask", "Summarise notes.md", "--agent", "writer")
    session = first.splitlines()[-1].removeprefix("(session ").removesuffix(")")
    again = person.call("ask", "Analyse src/app.py", "--agent", "coder", "--session", session)
    assert again.splitlines()[-1] == first.splitlines()[-1]
    assert "hello" in again
    assert person.call("chat", stdin="List the files\nFind TODO\n").count("analyst:\n") == 2


@pytest.mark.usefixtures("transcript")
def test_agents_and_tasks_are_listed_and_created(person: Person) -> None:
    agent = {"name": "reviewer", "system_prompt": "You review Python code.", "tools": ["read_file"]}
    assert "agent reviewer (agent_" in person.call("agents", "create", "-", stdin=json.dumps(agent))
    assert "reviewer" in person.call("agents")
    task = person.call("tasks", "--state", "completed").splitlines()[1].split()[0]
    assert person.call("tasks", "--cancel", task, status=1) == ""  # it has ended already
    bad = {**agent, "name": "pilot", "tools": ["fly"]}
    assert person.call("agents", "create", "-", stdin=json.dumps(bad), status=1) == ""


@pytest.mark.usefixtures("transcript")
def test_another_user_sees_none_of_it(person: Person) -> None:
    assert person.call("tasks", "--user", "eve", "--project", "ada-s-shop", status=1) == ""


@pytest.mark.usefixtures("transcript")
def test_a_run_uses_the_stack_that_runs(person: Person) -> None:
    output = person.call("run", "--project", str(person.folder), "--ask", "Find TODO", "--once")
    assert output.startswith("using the stack that runs at ")
    assert "0 new, 0 replaced, 2 unchanged" in output
    assert "say hello" in output
