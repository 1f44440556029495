"""The command line as a person meets it: on a terminal, with Ctrl-C and with Ctrl-D."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.local.cli_server import FakeApi, task
from worker_space_local.issuer import make_key

COMMAND = [sys.executable, "-m", "worker_space_local.cli"]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    make_key(tmp_path)
    with FakeApi() as server:
        server.projects["shop"] = {"id": "shop", "name": "Shop"}
        server.files["shop"] = {}
        (tmp_path / "endpoints.json").write_text(json.dumps({"api": server.url, "issuer": "http://issuer"}))
        yield server


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "WORKER_SPACE_DATA_DIR": str(tmp_path), "TERM": "xterm-256color"}


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "it did not happen within 30 s"
        time.sleep(0.02)


@contextmanager
def running(command: list[str], **named: Any) -> Iterator[subprocess.Popen[Any]]:
    """The command, waited for at the end; when the test fails it is ended, and nobody waits for ever."""
    with subprocess.Popen(command, **named) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def read(terminal: int, until: str | None = None, times: int = 1) -> str:
    """What is written to a terminal until a text has come so many times, else until its other side is closed."""
    output = b""
    while until is None or output.decode(errors="ignore").count(until) < times:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux tells the end of a pseudo terminal
            part = b""
        if not part:
            break
        output += part
    return output.decode()


def test_an_answer_is_rendered_on_a_terminal(api: FakeApi, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with running([*COMMAND, "ask", "x"], stdin=theirs, stdout=theirs, env=environment) as process:
        os.close(theirs)
        output = read(ours)
    os.close(ours)
    assert process.returncode == 0
    assert "\x1b[1mone\x1b[0m" in output
    assert "**" not in output


def test_ctrl_d_ends_a_chat(api: FakeApi, environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with running([*COMMAND, "chat"], stdin=theirs, stdout=theirs, env=environment) as process:
        os.close(theirs)
        os.write(ours, b"Hello\n")
        read(ours, until="you> ", times=2)
        os.write(ours, b"\x04")
        read(ours)
    os.close(ours)
    assert process.returncode == 0
    assert [body["content"] for body in api.sent("POST", ".*/chat/")] == ["Hello"]


def test_ctrl_c_cancels_the_awaited_answer_and_the_chat_goes_on(api: FakeApi, environment: dict[str, str]) -> None:
    api.states = [task("working")]
    pipe = subprocess.PIPE
    with running([*COMMAND, "chat"], stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("First\nSecond\n")
        process.stdin.flush()
        wait_for(lambda: len(api.sent("GET", ".*/chat/session_1/events")) > 1)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: bool(api.sent("POST", ".*/chat/session_1/message/")))
        process.stdin.close()
        output = process.stdout.read()
    assert process.returncode == 0
    assert "! canceled\n" in output
    assert len(api.sent("POST", ".*/cancel")) == 1


def test_ctrl_c_ends_a_run_that_uses_a_running_stack(api: FakeApi, environment: dict[str, str]) -> None:
    api.states = [task("working")]
    with running([*COMMAND, "run", "--once"], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        wait_for(lambda: len(api.sent("GET", ".*/chat/session_1/events")) > 1)
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert errors.endswith("interrupted\n")
    assert "Traceback" not in errors
