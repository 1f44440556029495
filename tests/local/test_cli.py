"""The command line against an API with the real shapes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result

from tests.local.cli_server import FakeApi, task
from worker_space_local.cli import main
from worker_space_local.cli.screen import progress, size
from worker_space_local.issuer import make_key


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        server.projects["shop"] = {"id": "shop", "name": "Shop"}
        server.files["shop"] = {}
        yield server


@pytest.fixture
def connected(api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeApi:
    """The API as the stack of this machine."""
    state = tmp_path / "state"
    state.mkdir()
    make_key(state)
    (state / "endpoints.json").write_text(json.dumps({"api": api.url, "issuer": "http://issuer"}))
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(state))
    return api


@pytest.fixture
def deployed(api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeApi:
    monkeypatch.setenv("WORKER_SPACE_API", f"{api.url}/")
    monkeypatch.setenv("WORKER_SPACE_TOKEN", "a.b.c")
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(tmp_path / "state"))
    return api


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "My Shop"
    (made / "src").mkdir(parents=True)
    (made / "src" / "app.py").write_text("print(1)\n")
    (made / "README.md").write_text("# Shop\n")
    (made / "notes.md").write_text("- one\n")
    return made


def call(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["serve", "token", "push", "pull", "ls", "cat", "agents", "ask", "chat", "tasks", "run"]
)
def test_every_commands_help_shows_an_example(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Examples:\n" in result.output
    assert "\n    " in result.output.split("Examples:")[1]


def test_help_needs_neither_the_http_client_nor_the_stack() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom worker_space_local.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print(sorted({'httpx', 'rich', 'boto3', 'moto', 'pydantic', 'worker_space_local.stack'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


# -- finding the API -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["agents"], ["tasks"], ["ask", "hello"], ["chat"], ["token", "--user", "me"]])
def test_without_a_stack_a_command_says_how_to_start_one(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(tmp_path))
    result = call(*command)
    assert result.exit_code == 1
    assert "make serve" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_stack_that_was_killed_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeApi() as gone:
        url = gone.url
    monkeypatch.setenv("WORKER_SPACE_API", url)
    monkeypatch.setenv("WORKER_SPACE_TOKEN", "a.b.c")
    result = call("agents", "-p", "shop")
    assert result.exit_code == 1
    assert result.stderr == f"Error: nothing answers at {url}\n"


def test_a_deployed_api_gets_the_token_of_the_environment(deployed: FakeApi) -> None:
    assert call("agents", "--user", "ada").exit_code == 0
    assert deployed.tokens == {"a.b.c"}


def test_a_folder_is_not_mixed_into_a_deployed_project_that_has_its_name(deployed: FakeApi, folder: Path) -> None:
    deployed.projects["my-shop"] = {"id": "my-shop", "name": "Somebody's"}
    deployed.files["my-shop"] = {}
    refused = call("push", str(folder))
    assert refused.exit_code == 1
    assert "say --project my-shop" in refused.stderr
    assert deployed.files["my-shop"] == {}
    assert call("push", str(folder), "--project", "my-shop").exit_code == 0
    assert len(deployed.files["my-shop"]) == 3


def test_a_deployed_api_without_a_token_is_refused(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_SPACE_API", api.url)
    result = call("agents")
    assert result.exit_code == 1
    assert "WORKER_SPACE_TOKEN" in result.stderr
    assert api.requests == []


def test_a_damaged_endpoints_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(tmp_path))
    (tmp_path / "endpoints.json").write_text("{")
    result = call("agents")
    assert result.exit_code == 1
    assert "endpoints.json cannot be read" in result.stderr


# -- projects and problems -------------------------------------------------------------------------


def test_the_only_project_need_not_be_named(connected: FakeApi) -> None:
    result = call("agents")
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split() == ["analyst", "offline:rules", "3", "read_file", "agent_1"]


def test_of_several_projects_one_must_be_named(connected: FakeApi) -> None:
    connected.projects["blog"] = {"id": "blog", "name": "Blog"}
    result = call("tasks")
    assert result.exit_code == 1
    assert "choose with --project (shop, blog)" in result.stderr


def test_a_problem_document_becomes_a_sentence(connected: FakeApi, tmp_path: Path) -> None:
    problem = {
        "status": 422,
        "title": "Invalid request",
        "detail": "the agent is not valid",
        "errors": [{"field": "tools", "message": "no tool \x1b[31m'fly'"}],
    }
    connected.refuse.append(("POST", ".*/agents/", problem))
    (tmp_path / "agent.json").write_text('{"name": "x"}')
    result = call("agents", "create", str(tmp_path / "agent.json"))
    assert result.exit_code == 1
    assert result.stderr == "Error: Invalid request: the agent is not valid (tools: no tool [31m'fly') [422]\n"


def test_an_agent_is_created_from_a_file(connected: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text('{"name": "reviewer", "system_prompt": "Review."}')
    result = call("agents", "create", str(tmp_path / "agent.json"), "--project", "shop")
    assert (result.exit_code, result.output) == (0, "agent reviewer (agent_2) is in project shop\n")
    assert connected.sent("POST", ".*/agents/") == [{"name": "reviewer", "system_prompt": "Review."}]


def test_an_agent_file_that_is_not_json_is_refused(connected: FakeApi) -> None:
    result = call("agents", "create", "-", stdin="name: x")
    assert result.exit_code == 1
    assert "is not JSON" in result.stderr


# -- push ------------------------------------------------------------------------------------------


def test_push_makes_the_project_of_a_folder_and_sends_its_files(connected: FakeApi, folder: Path) -> None:
    result = call("push", str(folder))
    assert result.exit_code == 0
    assert "project my-shop (new)" in result.output
    assert "3 new, 0 replaced, 0 unchanged" in result.output
    assert connected.files["my-shop"] == {
        "src/app.py": b"print(1)\n",
        "README.md": b"# Shop\n",
        "notes.md": b"- one\n",
    }


def test_push_sends_only_what_differs(connected: FakeApi, folder: Path) -> None:
    call("push", str(folder))
    (folder / "notes.md").write_text("- two\n")
    connected.requests.clear()
    result = call("push", str(folder))
    assert "0 new, 1 replaced, 2 unchanged" in result.output
    assert "replaced because they differed: notes.md" in result.output
    assert connected.sent("PUT", ".*") == [b"- two\n"]


def test_push_leaves_out_what_is_no_part_of_a_project_and_says_so(connected: FakeApi, folder: Path) -> None:
    for hidden in (".git", "node_modules", "__pycache__"):
        (folder / hidden).mkdir()
        (folder / hidden / "x").write_text("x")
    (folder / "env").mkdir()
    (folder / "env" / "pyvenv.cfg").write_text("home = x")
    (folder / ".env").write_text("SECRET=1")
    (folder / "link.txt").symlink_to("/etc/hostname")
    with (folder / "big.bin").open("wb") as big:
        big.truncate((5 << 30) + 1)
    result = call("push", str(folder))
    assert result.exit_code == 0
    assert set(connected.files["my-shop"]) == {"src/app.py", "README.md", "notes.md"}
    for told in (".git/", "node_modules/", "__pycache__/", "env/", ".env", "link.txt", "big.bin (5.4 GB)"):
        assert told in result.output


def test_a_refused_name_is_reported_and_the_rest_is_sent(connected: FakeApi, folder: Path) -> None:
    (folder / "what?.txt").write_text("x")
    problem = {"status": 422, "title": "Invalid request", "detail": "'?' is not portable"}
    connected.refuse.append(("PUT", r".*what%3F\.txt", problem))
    result = call("push", str(folder))
    assert result.exit_code == 1
    assert "not sent: what?.txt: Invalid request: '?' is not portable [422]" in result.output
    assert len(connected.files["my-shop"]) == 3


def test_a_name_that_is_not_unicode_is_reported_and_the_rest_is_sent(connected: FakeApi, folder: Path) -> None:
    with open(bytes(folder) + b"/bad\xff.txt", "w") as file:
        file.write("x")
    result = call("push", str(folder))
    assert result.exit_code == 1
    assert "not valid Unicode" in result.output
    assert len(connected.files["my-shop"]) == 3


def test_an_edit_made_while_pushing_is_not_overwritten(connected: FakeApi, folder: Path) -> None:
    call("push", str(folder))
    (folder / "notes.md").write_text("- two\n")
    connected.refuse.append(("PUT", ".*notes.md", {"status": 412, "title": "Precondition failed"}))
    result = call("push", str(folder))
    assert result.exit_code == 1
    assert "changed meanwhile" in result.output
    assert connected.files["my-shop"]["notes.md"] == b"- one\n"


def test_a_dead_api_ends_a_push(connected: FakeApi, folder: Path) -> None:
    connected.refuse.append(("PUT", ".*", {"status": 503, "title": "Unavailable", "detail": "files do not answer"}))
    result = call("push", str(folder))
    assert result.exit_code == 1
    assert "files do not answer" in result.stderr


@pytest.mark.parametrize("case", ["missing", "file", "empty", "only hidden"])
def test_a_folder_that_cannot_be_pushed_is_refused_before_any_request(
    case: str, connected: FakeApi, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    if case == "file":
        place.write_text("x")
    elif case != "missing":
        place.mkdir()
        if case == "only hidden":
            (place / ".env").write_text("x")
    for command in (["push", str(place)], ["run", "--project", str(place), "--once"]):
        result = call(*command)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
    assert connected.requests == []


def test_two_folders_of_one_name_are_two_projects(connected: FakeApi, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "app").mkdir(parents=True)
        (tmp_path / parent / "app" / f"{parent}.txt").write_text(parent)
        call("push", str(tmp_path / parent / "app"))
    call("push", str(tmp_path / "a" / "app"))
    assert set(connected.files["app"]) == {"a.txt"}
    assert set(connected.files["app-2"]) == {"b.txt"}


# -- ask, chat, tasks ------------------------------------------------------------------------------


def test_ask_prints_calls_and_answer_in_plain_text(connected: FakeApi) -> None:
    result = call("ask", "Analyse a.py")
    assert result.exit_code == 0
    assert result.output == (
        "analyst calls read_file a.py\nanalyst:\n# Report\n\nIt has **one** class.\n(session session_1)\n"
    )
    assert connected.sent("POST", ".*/chat/") == [{"content": "Analyse a.py", "target_agent": "analyst"}]


def test_ask_in_a_session_leaves_the_choice_to_the_session(connected: FakeApi) -> None:
    result = call("ask", "And now?", "--session", "session_9")
    assert result.exit_code == 0
    assert connected.sent("POST", ".*/chat/session_9/message/") == [{"content": "And now?"}]


def test_a_failed_task_ends_with_its_reason_and_a_status(connected: FakeApi) -> None:
    error = {"code": "model", "message": "the model\x1b]0;x\x07 refused"}
    connected.states = [task("failed", ended_at=1_100, error=error)]
    result = call("ask", "Analyse a.py")
    assert result.exit_code == 1
    assert "no answer, the task was failed: the model]0;x refused" in result.output


def test_an_answer_cannot_steer_the_terminal(connected: FakeApi) -> None:
    connected.states = [task("completed", ended_at=1_100, answer="a\x1b[2Jb\u202ec\rd")]
    assert "a[2Jbcd" in call("ask", "x").output


def test_a_refused_tool_call_is_shown(connected: FakeApi) -> None:
    refused = [{"name": "read_file", "path": "a.py", "is_error": True}]
    connected.steps = [connected.steps[0], {**connected.steps[1], "results": refused}]
    assert "  read_file a.py was refused\n" in call("ask", "x").output


def test_an_answer_that_does_not_come_is_given_up(connected: FakeApi) -> None:
    connected.states = [task("working")]
    began = time.monotonic()
    result = call("ask", "x", "--timeout", "1")
    assert result.exit_code == 1
    assert "no answer after 1 s (task task_1 is working)" in result.stderr
    assert time.monotonic() - began < 10


def test_a_chat_is_one_session_and_ends_with_its_input(connected: FakeApi) -> None:
    result = call("chat", stdin="First\n\nSecond\n")
    assert result.exit_code == 0
    assert [body["content"] for body in connected.sent("POST", ".*/chat/")] == ["First"]
    assert [body["content"] for body in connected.sent("POST", ".*/chat/session_1/message/")] == ["Second"]
    assert result.stdout.count("analyst:\n") == 2


def test_a_refused_message_does_not_end_a_chat(connected: FakeApi) -> None:
    connected.refuse.append(("POST", ".*/chat/", {"status": 429, "title": "Too many"}))
    result = call("chat", stdin="First\nSecond\n")
    assert result.exit_code == 0
    assert result.stdout.count("! Too many [429]\n") == 2


def test_tasks_are_listed_with_their_agents_name(connected: FakeApi) -> None:
    result = call("tasks")
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split()[:3] == ["task_1", "completed", "analyst"]
    assert "0.20 s" in result.output


def test_a_task_is_canceled(connected: FakeApi) -> None:
    result = call("tasks", "--cancel", "task_1")
    assert (result.exit_code, result.output) == (0, "task task_1 is working, it stops before its next step\n")
    assert connected.sent("POST", ".*/tasks/task_1/cancel") == [None]


def test_the_stack_of_this_machine_gets_a_development_token(connected: FakeApi) -> None:
    assert call("agents", "--user", "ada").exit_code == 0
    (sent,) = connected.tokens
    claims = jwt.decode(sent, options={"verify_signature": False})
    assert (claims["sub"], claims["iss"], claims["aud"]) == ("ada", "http://issuer", "worker-space")


def test_token_prints_a_token_and_nothing_else(connected: FakeApi) -> None:
    printed = call("token", "--user", "ada", "--ttl", "60").output
    claims = jwt.decode(printed.removesuffix("\n"), options={"verify_signature": False})
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("ada", 60)
    assert connected.requests == []


def test_an_issuer_of_ones_own_gives_the_tokens_itself(connected: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_JWKS_URL", "https://id.example/keys")
    result = call("token", "--user", "ada")
    assert result.exit_code == 1
    assert "your own issuer" in result.stderr


def test_an_answer_that_the_terminals_encoding_lacks_is_still_printed(connected: FakeApi) -> None:
    connected.states = [task("completed", ended_at=1_100, answer="caf\u00e9 \u2713")]
    command = [sys.executable, "-m", "worker_space_local.cli", "ask", "x"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "caf\u00e9 ?".encode("latin-1") in done.stdout


def test_an_api_that_restarts_while_an_answer_is_awaited_is_asked_again(connected: FakeApi) -> None:
    restarting = {"status": 503, "title": "Unavailable", "detail": "starting"}
    connected.refuse_once.append(("GET", ".*/tasks/task_1", restarting))
    assert call("ask", "x").exit_code == 0


def test_an_answer_that_is_no_problem_document_is_told_by_its_status(connected: FakeApi) -> None:
    connected.refuse.append(("GET", ".*/agents/", {"status": 502}))
    assert call("agents").stderr == "Error: the API refused with Bad Gateway [502]\n"


def test_who_has_no_project_is_told_how_to_make_one(connected: FakeApi) -> None:
    connected.projects.clear()
    result = call("ask", "x")
    assert result.exit_code == 1
    assert "worker-space push DIR" in result.stderr


def test_a_project_without_tasks_says_so(connected: FakeApi) -> None:
    connected.states = []
    assert call("tasks", "--state", "failed").output == "project shop has no failed tasks\n"


def test_a_folder_of_links_and_unreadable_places_is_told(connected: FakeApi, folder: Path) -> None:
    (folder / "linked").symlink_to("/usr")
    os.mkfifo(folder / "pipe")
    output = call("push", str(folder)).output
    assert "left out, a link: linked/" in output
    assert "left out, no regular file: pipe" in output
    assert len(connected.files["my-shop"]) == 3


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 B"), (1_500, "1.5 kB"), (7_240_000, "7.2 MB"), (5_368_709_120, "5.4 GB")]
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_what_takes_long_is_told_and_what_is_quick_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("waiting", first=30):
        pass
    assert capsys.readouterr().err == ""
    with progress("sending files", 9, first=0.01, every=30) as state:
        state.done = 4
        time.sleep(0.3)
    assert capsys.readouterr().err == "… still sending files: 4 of 9\n"
