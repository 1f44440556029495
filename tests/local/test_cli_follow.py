"""What the command line tells while an answer comes about, from the session's event stream."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.local.cli_server import FakeApi, task
from worker_space_local.cli import main
from worker_space_local.issuer import make_key

COMMAND = [sys.executable, "-m", "worker_space_local.cli"]
DONE = {"type": "task_completed"}
ASKED = {
    "type": "approval_required",
    "data": {
        "approval_id": "approval_1",
        "kind": "tool",
        "tool": "delete_file",
        "arguments": {"path": "a\x1b[2J.py"},
        "expires_at": 4_000_000_000_000,
    },
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    make_key(tmp_path)
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm-256color")
    with FakeApi() as server:
        server.projects["shop"] = {"id": "shop", "name": "Shop"}
        server.files["shop"] = {}
        server.states = [task("completed", ended_at=1_200, answer="The **answer**.")]
        (tmp_path / "endpoints.json").write_text(json.dumps({"api": server.url, "issuer": "http://issuer"}))
        yield server


def call(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def switched(agent_id: str, name: str) -> dict[str, Any]:
    told = {"agent_id": agent_id, "name": name, "reason": "It\nwrites."}
    return {"type": "agent_switched", "agent_id": agent_id, "data": told}


def test_whom_the_orchestrator_chooses_is_told_and_named_in_the_answer(api: FakeApi) -> None:
    api.story = [switched("agent_1", "analyst"), DONE]
    result = call("ask", "x", "--agent", "auto")
    assert result.exit_code == 0, result.output
    assert result.stdout == "analyst takes it: It writes.\nanalyst:\nThe **answer**.\n(session session_1)\n"
    assert api.sent("POST", ".*/chat/") == [{"content": "x"}]


def test_a_plan_and_what_becomes_of_its_parts_are_told(api: FakeApi) -> None:
    plan = {
        "plan_id": "plan_1",
        "tasks": [
            {"key": "review", "agent_id": "agent_1", "instructions": "Review a.py", "task_id": "task_2"},
            {
                "key": "docs",
                "agent_id": "agent_1",
                "instructions": "Write docs",
                "depends_on": ["review"],
                "task_id": "task_3",
            },
        ],
    }
    calls_ = {"kind": "model", "tool_calls": [{"name": "read_file", "arguments": {"path": "a.py"}}]}
    api.states = [task("completed", ended_at=1_200, answer="Both.", agent_id="orchestrator")]
    api.story = [
        {"type": "plan_created", "agent_id": "orchestrator", "data": plan},
        {"type": "step", "task_id": "task_2", "data": calls_},
        {"type": "task_completed", "task_id": "task_2"},
        {"type": "task_failed", "task_id": "task_3", "data": {"message": "the model\nrefused"}},
        DONE,
    ]
    assert call("ask", "x").stdout.splitlines()[:6] == [
        "plan:",
        "  review (analyst): Review a.py",
        "  docs (analyst, after review): Write docs",
        "analyst calls read_file a.py",
        "  review is done",
        "  docs failed: the model refused",
    ]
    assert "orchestrator:\nBoth.\n" in call("ask", "x").stdout


def test_a_second_message_tells_only_what_is_new(api: FakeApi) -> None:
    api.story = [{"type": "error", "data": {"message": "a stumble"}}, DONE]
    result = call("chat", stdin="First\nSecond\n")
    assert result.stderr.count("a stumble") == 2
    assert result.stdout.count("The **answer**.") == 2


def test_other_people_s_messages_in_the_session_are_not_told(api: FakeApi) -> None:
    other = {"task_id": "task_9"}
    api.tell({"type": "message_created", "data": {"role": "user"}, **other})
    api.tell({"type": "task_failed", "data": {"message": "not ours"}, **other})
    api.story = [
        {"type": "error", "data": {"message": "not ours"}, **other},
        {"type": "message_created", "data": {"role": "user"}, "task_id": "task_8"},
        {"type": "task_failed", "data": {"message": "not ours"}, "task_id": "task_8"},
        DONE,
    ]
    result = call("ask", "x", "--session", "session_1")
    assert result.exit_code == 0
    assert "not ours" not in result.output


def test_an_attempt_that_begins_again_is_told(api: FakeApi) -> None:
    api.story = [{"type": "attempt_restarted", "data": {"attempt": 2}}, DONE]
    assert "… analyst begins again (attempt 2)\n" in call("ask", "x").stderr


def test_a_stream_that_breaks_is_resumed(api: FakeApi) -> None:
    api.refuse_once += [("GET", ".*/events", {"status": status, "title": "Busy"}) for status in (503, 429)]
    result = call("ask", "x")
    assert result.exit_code == 0
    assert len(api.sent("GET", ".*/events")) == 3


def test_an_api_without_events_is_asked_for_the_task(api: FakeApi) -> None:
    api.tells_events = False
    api.states = [task("submitted"), task("working", steps=1), task("completed", steps=2, ended_at=1_200, answer="A")]
    result = call("ask", "x")
    assert result.exit_code == 0
    assert result.stdout == "analyst calls read_file a.py\nanalyst:\nA\n(session session_1)\n"
    assert "this API tells no events" in result.stderr


def test_a_refused_stream_is_no_endless_loop(api: FakeApi) -> None:
    api.refuse.append(("GET", ".*/events", {"status": 401, "title": "A valid token is needed"}))
    result = call("ask", "x")
    assert result.exit_code == 1
    assert "A valid token is needed [401]" in result.stderr


def test_text_on_its_way_is_not_written_into_a_pipe(api: FakeApi) -> None:
    api.story = [{"type": "step", "data": {"kind": "text", "text": "The **ans"}}, DONE]
    assert call("ask", "x").stdout == "analyst:\nThe **answer**.\n(session session_1)\n"


def test_without_a_terminal_an_approval_says_where_to_give_it(api: FakeApi) -> None:
    api.story = [ASKED, {"type": "approval_resolved", "data": {"approval_id": "approval_1"}}, DONE]
    result = call("ask", "x")
    assert "analyst wants your word for delete_file a[2J.py\n" in result.stdout
    assert "waits until" not in result.stderr, "it was resolved already"
    api.events.clear()
    api.story = [ASKED]
    result = call("ask", "x", "--timeout", "1")
    assert "POST /my/projects/shop/approvals/approval_1/confirm or …/reject" in result.stderr
    assert api.sent("POST", ".*/approvals/.*") == []


# -- on a terminal


class Terminal:
    """`worker-space` on a pseudo terminal."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.output = ""

    def read(self, until: str | None = None) -> str:
        """What has been written, once `until` is among it, else once the process has ended."""
        while until is None or until not in self.output:
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # how Linux tells the end of a pseudo terminal
                part = b""
            if not part:
                break
            self.output += part.decode(errors="replace")
        return self.output

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    def end(self) -> int:
        self.read()
        os.close(self._ours)
        return self.process.wait(20)


@pytest.mark.parametrize(
    ("typed", "path", "body"),
    [
        (["y"], "confirm", None),
        (["", "maybe", "YES"], "confirm", None),
        (["n", "I need it"], "reject", {"reason": "I need it"}),
        (["n", ""], "reject", None),
        (["e", "{", "e", '{"path": "b.py"}'], "confirm", {"arguments": {"path": "b.py"}}),
        (["e", ""], "confirm", {"arguments": {"path": "a.py"}}),
    ],
)
def test_on_a_terminal_an_approval_is_asked_for(
    api: FakeApi, typed: list[str], path: str, body: dict[str, Any] | None
) -> None:
    api.story = [ASKED]
    api.then = lambda method, where: api.tell(DONE) if "/approvals/" in where and method == "POST" else None
    terminal = Terminal("ask", "x")
    terminal.read(until="[y]es, [n]o or [e]dit")
    for line in typed:
        time.sleep(0.1)
        terminal.type(line)
    assert terminal.end() == 0, terminal.output
    assert api.sent("POST", f".*/approvals/approval_1/{path}") == [body]
    assert len(api.sent("POST", ".*/approvals/.*")) == 1
    assert "\x1b[2J" not in terminal.output


def test_an_approval_that_somebody_else_has_decided_is_no_end(api: FakeApi) -> None:
    api.story = [ASKED]
    conflict = {"status": 409, "title": "Conflict", "detail": "it was rejected already"}
    api.refuse.append(("POST", ".*/approvals/.*", conflict))
    terminal = Terminal("ask", "x")
    terminal.read(until="[e]dit")
    api.tell(DONE)
    terminal.type("y")
    assert terminal.end() == 0, terminal.output
    assert "! Conflict: it was rejected already [409]" in terminal.output


def test_text_is_shown_while_it_grows_and_the_answer_takes_its_place(api: FakeApi) -> None:
    api.story = [{"type": "step", "data": {"kind": "text", "text": "growing \x1b[2Jtext"}}]
    terminal = Terminal("ask", "x")
    terminal.read(until="growing")
    api.tell(DONE)
    assert terminal.end() == 0
    assert "growing [2Jtext" in terminal.output
    before, _, after = terminal.output.partition("growing [2Jtext")
    assert "answer" not in before
    assert "\x1b[2K" in after.partition("answer")[0], "the preview was not taken off the screen"
    assert "\x1b[1manswer\x1b[0m" in after
