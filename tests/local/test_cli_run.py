"""`worker-space run` over a stack that runs already, and what it prints."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.local.cli_server import STEPS, FakeApi, task
from worker_space_local.cli import main
from worker_space_local.cli.conversation import time_line
from worker_space_local.issuer import make_key
from worker_space_local.run import SAMPLE


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    state = tmp_path / "a state"
    state.mkdir()
    make_key(state)
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(state))
    with FakeApi() as api:
        (state / "endpoints.json").write_text(json.dumps({"api": api.url, "issuer": "http://issuer"}))
        yield api


def test_the_sample_is_sent_and_asked_about(running: FakeApi) -> None:
    result = CliRunner().invoke(main, ["run", "--once"])
    assert result.exit_code == 0, result.output
    assert running.files["shop"]["src/app.py"] == (SAMPLE / "src" / "app.py").read_bytes()
    assert running.sent("POST", ".*/chat/") == [{"content": "Analyse src/app.py", "target_agent": "analyst"}]
    assert "you to analyst: Analyse src/app.py\nanalyst calls read_file a.py\nanalyst:\n# Report" in result.output
    assert "time: 0.20 s in all" in result.output
    assert "\x1b" not in result.output


def test_a_folder_and_a_question_of_ones_own(running: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a b.txt").write_text("x")
    result = CliRunner().invoke(main, ["run", "--project", str(tmp_path / "mine"), "--ask", "Why?", "--once"])
    assert result.exit_code == 0, result.output
    assert running.files["mine"] == {"a b.txt": b"x"}
    assert running.sent("POST", ".*/chat/")[0]["content"] == "Why?"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_without_once_it_prints_requests_that_work_when_pasted(running: FakeApi, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 3
    running.tokens.clear()
    answers = []
    for line in lines:
        # A shell's word splitting, so that the lines are tried as a person pastes them.
        done = subprocess.run([*shlex.split(line), "--noproxy", "*"], capture_output=True, check=True, timeout=30)
        answers.append(done.stdout)
    assert json.loads(answers[0])["items"][0]["name"] == "analyst"
    assert json.loads(answers[2])["task"]["id"] == "task_1"
    (token,) = running.tokens
    assert token in result.output.splitlines()
    (conf,) = (tmp_path / "a state").glob("curl-*.conf")
    assert conf.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("state", ["failed", "canceled"])
def test_a_task_without_an_answer_gives_a_status(running: FakeApi, state: str) -> None:
    running.states = [task(state, ended_at=1_100)]
    result = CliRunner().invoke(main, ["run", "--once"])
    assert result.exit_code == 1
    assert f"the task was {state}" in result.output


def test_an_answer_that_does_not_come_gives_a_status(running: FakeApi) -> None:
    running.states = [task("submitted")]
    result = CliRunner().invoke(main, ["run", "--once", "--timeout", "1"])
    assert result.exit_code == 1
    assert "no answer after 1 s" in result.stderr


def test_the_time_adds_up_and_names_its_parts() -> None:
    ended = task("completed", steps=2, ended_at=1_200)
    assert time_line(ended, STEPS) == (
        "time: 0.20 s in all: queue 0.02 s, model 0.02 s (1 call), tools 0.03 s (1 call), last answer 0.12 s,"
        " the rest 0.01 s"
    )


def test_a_retry_is_not_hidden() -> None:
    assert time_line(task("completed", ended_at=1_200, attempt=2), []).endswith("; 2 attempts")


@pytest.mark.parametrize("command", [["serve"], ["run"]])
def test_a_port_that_is_taken_is_told_in_one_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {**os.environ, "WORKER_SPACE_PORT": str(taken.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-m", "worker_space_local.cli", *command],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
    assert done.returncode == 2
    assert "set WORKER_SPACE_PORT to another port" in (done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "endpoints.json").exists()


def test_a_port_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("WORKER_SPACE_PORT", "eighty")
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 1
    assert "'eighty'" in result.stderr


def test_a_folder_without_a_main_file_is_asked_about_as_a_whole(running: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "poem.txt").write_text("x")
    assert CliRunner().invoke(main, ["run", "--project", str(tmp_path / "texts"), "--once"]).exit_code == 0
    assert running.sent("POST", ".*/chat/")[0]["content"] == "What is in this project?"
