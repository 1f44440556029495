"""What `make smoke` says without a stack, and that its checks can fail."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import Request, http, server
from tests.smoke.__main__ import smoke
from tests.smoke.checks import Stage
from tests.smoke.people import Person, SmokeError, subject_of, until

ROOT = Path(__file__).parents[2]


def token(subject: str) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"sub": subject}).encode()).decode().rstrip("=")
    return f"e30.{payload}.x"


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "API", "STACK", "TOKEN_"))
    }
    environment = {**kept, "AWS_EC2_METADATA_DISABLED": "true", **variables}
    command = [sys.executable, "-m", "tests.smoke"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({}, "API=https"),
        ({"API": "http://127.0.0.1:9"}, "TOKEN_A and TOKEN_B"),
        ({"API": "http://127.0.0.1:9", "TOKEN_A": token("a")}, "TOKEN_A and TOKEN_B"),
        ({"STACK": "shop", "TOKEN_A": token("a"), "TOKEN_B": token("b")}, "AWS_REGION"),
        ({"STACK": "shop", "AWS_REGION": "eu-central-1", "TOKEN_A": token("a"), "TOKEN_B": token("b")}, "credentials"),
    ],
)
def test_without_what_it_needs_it_is_skipped_and_says_so(variables: dict[str, str], missing: str) -> None:
    ended = run(**variables)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("skipped: ")
    assert missing in ended.stdout


def test_two_tokens_of_one_user_prove_nothing() -> None:
    ended = run(API="http://127.0.0.1:9", TOKEN_A=token("a"), TOKEN_B=token("a"))
    assert ended.returncode == 2
    assert "one user" in ended.stderr


def test_a_stack_that_does_not_answer_fails() -> None:
    ended = run(API="http://127.0.0.1:9", TOKEN_A=token("a"), TOKEN_B=token("b"))
    assert ended.returncode == 1
    assert "FAIL" in ended.stdout
    assert "left behind" not in ended.stdout


def test_no_token_is_printed() -> None:
    ended = run(API="http://127.0.0.1:9", TOKEN_A=token("a"), TOKEN_B=token("b"))
    assert token("a") not in ended.stdout + ended.stderr
    assert token("b") not in ended.stdout + ended.stderr


def test_whose_token_it_is() -> None:
    assert subject_of(token("auth0|7")) == "auth0|7"
    assert [subject_of(text) for text in ("", "a.b", "a.!!.c", "e30.e30.e30")] == [None] * 4


# -- the checks can fail


def not_found(what: str) -> bytes:
    return http(404, json.dumps({"detail": f"there is no project {what!r}"}).encode(), "application/problem+json")


def asks(answer: Callable[[Request], bytes]) -> None:
    with server(answer) as (url, _):
        bob = Person("Bob", url, "t")
        try:
            bob.cannot_tell("GET", "/p/anns", "/p/nobodys", {"anns": "nobodys"})
        finally:
            bob.close()


def test_a_foreign_thing_that_looks_like_a_missing_one_passes() -> None:
    asks(lambda request: not_found(request.path.rpartition("/")[2]))


@pytest.mark.parametrize(
    "foreign",
    [
        http(200, b"{}"),
        http(403, b"{}"),
        http(404, b'{"detail": "this project is not yours"}', "application/problem+json"),
        http(404, b"not found", "text/plain"),
    ],
)
def test_a_foreign_thing_that_can_be_told_from_a_missing_one_fails(foreign: bytes) -> None:
    with pytest.raises(SmokeError):
        asks(lambda request: foreign if request.path == "/p/anns" else not_found("nobodys"))


def test_what_does_not_come_in_time_fails() -> None:
    with pytest.raises(SmokeError, match="the answer"):
        until(lambda: None, 0.3, "the answer")


def test_the_first_failure_ends_the_run_and_what_was_made_is_taken_away(capsys: pytest.CaptureFixture[str]) -> None:
    deleted: list[str] = []

    def answer(request: Request) -> bytes:
        if request.path in ("/health", "/ready"):
            return http(200, b"{}")
        if request.method == "DELETE":
            deleted.append(request.path)
            return http(204, b"")
        if "/files/" in request.path:
            return http(200, b'{"items": []}')
        if request.path.startswith("/my/projects/smoke"):
            return http(
                404 if request.path.removesuffix("/") in [path.removesuffix("/") for path in deleted] else 200, b"{}"
            )
        # Whoever asks is let in: the check of tokens passes with 401 only.
        return http(200, b"{}")

    with server(answer) as (url, _):
        people = [Person(name, url, name) for name in ("Ann", "Bob", "nobody")]
        stage = Stage(ann=people[0], bob=people[1], nobody=people[2], seconds=1)
        stage.made.append((people[0], stage.shop))
        try:
            assert smoke(url, stage) == 1
        finally:
            for person in people:
                person.close()
    told = capsys.readouterr().out
    assert told.count("FAIL") == 1
    assert "instead of 401" in told
    assert deleted == [f"/my/projects/{stage.shop}/"]
