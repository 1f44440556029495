"""What the functions write while they serve two users: each task's story by one id, and nothing that a user wrote."""

import base64
import io
import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from functions.api.app import handler as api
from functions.cleanup.app import handler as cleanup
from functions.dead_letter.app import handler as dead_letter
from functions.worker.app import handler as worker
from tests.api.signing import token
from tests.functions.test_api import jwks  # noqa: F401 - a fixture
from tests.functions.test_handlers import received
from worker_space.adapters.telemetry import Watch
from worker_space.bootstrap import Environment
from worker_space.settings import TelemetrySettings
from worker_space.tenancy import TenantContext


@pytest.fixture
def variables(variables: dict[str, str], jwks: str) -> dict[str, str]:  # noqa: F811
    # A model server that nobody runs: what asks it is Unavailable.
    return {**variables, "JWT_JWKS_URL": jwks, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}


@dataclass
class Person:
    """One user, all of whose words hold a mark of their own."""

    mark: str

    @property
    def tenant(self) -> TenantContext:
        return TenantContext(f"u{self.mark}", f"p{self.mark}")


class Lambda:
    """The four functions as Lambda runs them, in one environment, and what they write."""

    def __init__(self, environment: Environment, invocation: Any) -> None:
        self.environment = environment
        self._invocation = invocation
        self._stream = io.StringIO()
        settings = TelemetrySettings(prefix=environment.settings.prefix, function_name="worker-space")
        watch = Watch(settings, stream=self._stream)
        self._api, self.worker = watch(api), watch(worker)
        self._dead_letter, self._cleanup = watch(dead_letter), watch(cleanup)
        self.requests = 0

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def ask(
        self,
        who: Person,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> Any:
        """The answer to a request, its JSON if it is any."""
        self.requests += 1
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"authorization": f"Bearer {token(who.tenant.user_id)}", **(headers or {})}
        event = {
            "version": "2.0",
            "routeKey": "ANY /{proxy+}",
            "rawPath": path,
            "rawQueryString": query,
            "headers": {"host": "api.test", **{name: text for name, text in given.items() if text}},
            "requestContext": {
                "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
                "stage": "$default",
                "requestId": f"gateway-{self.requests:04d}=",
            },
            "body": base64.b64encode(b"" if body is None else sent).decode(),
            "isBase64Encoded": True,
        }
        answer = self._api(event, self._invocation)
        content = answer["body"]
        return json.loads(content) if content and "json" in answer["headers"].get("content-type", "") else content

    def work(self, who: Person) -> dict[str, Any]:
        event = received(self.environment, who.tenant)
        assert self.worker(event, self._invocation)["batchItemFailures"] in ([], [{"itemIdentifier": _id(event)}])
        return event

    def bury(self, event: Mapping[str, Any]) -> None:
        assert self._dead_letter(dict(event), self._invocation) == {"batchItemFailures": []}

    def sweep(self) -> None:
        self._cleanup({"source": "aws.scheduler"}, self._invocation)


def _id(event: Mapping[str, Any]) -> str:
    return str(event["Records"][0]["messageId"])


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("worker_space")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


@pytest.fixture
def functions(environment: Environment, invocation: Any, logging_as_before: None) -> Lambda:
    return Lambda(environment, invocation)


@pytest.fixture
def alice() -> Person:
    return Person(f"alice{secrets.token_hex(4)}")


@pytest.fixture
def bob() -> Person:
    return Person(f"bobby{secrets.token_hex(4)}")


def settle_in(functions: Lambda, who: Person) -> str:
    """A project with a file, an agent and a session, all named by the mark; the project's address."""
    mark, base = who.mark, f"/my/projects/p{who.mark}"
    functions.ask(who, "POST", "/my/projects/", {"id": f"p{mark}", "name": f"Shop {mark}"})
    functions.ask(who, "PUT", f"{base}/files/{mark}.py", f'"""Sells {mark}."""\n'.encode())
    agent = {"name": f"agent {mark}", "system_prompt": f"You work for {mark}.", "tools": ["read_file", "write_file"]}
    assert "id" in functions.ask(who, "POST", f"{base}/agents/", agent)
    return base


def message(functions: Lambda, who: Person, base: str, agent: str = "analyst", text: str = "") -> str:
    """Send a message that nobody waits for; its task's id."""
    body = {"content": text or f"Analyse {who.mark}.py", "target_agent": agent}
    sent = functions.ask(who, "POST", f"{base}/chat/", body, headers={"prefer": "respond-async"})
    return str(sent["task"]["id"])


def everything(functions: Lambda, who: Person) -> None:
    """Much of what a user can do, and much that fails."""
    mark, base = who.mark, settle_in(functions, who)
    message(functions, who, base)
    functions.work(who)
    failing = {"name": f"fails {mark}", "system_prompt": mark, "model": "openai:gpt"}
    functions.ask(who, "POST", f"{base}/agents/", failing)
    message(functions, who, base, agent=f"fails {mark}", text=f"What is {mark}?")
    letter = functions.work(who)
    functions.bury(letter)
    # A file that is not there, a path out of the project, tools, bodies, keys and addresses that are wrong.
    message(functions, who, base, text=f"Analyse gone-{mark}.py")
    functions.work(who)
    functions.ask(who, "GET", f"{base}/files/../{mark}/secret.txt")
    functions.ask(who, "GET", f"{base}/files/none-{mark}.txt")
    functions.ask(who, "POST", f"{base}/tools/read_file", {"path": f"none-{mark}.txt"})
    functions.ask(who, "POST", f"{base}/tools/{mark}", {"path": mark})
    functions.ask(who, "POST", f"{base}/chat/", {"content": mark, "target_agent": f"nobody {mark}"})
    functions.ask(who, "POST", f"{base}/chat/", f'{{"content": "{mark}"'.encode())
    functions.ask(who, "POST", f"{base}/agents/", {"name": mark, "model": f"none:{mark}"})
    functions.ask(who, "GET", f"/my/projects/other-{mark}/")
    functions.ask(who, "GET", f"/{mark}/", query=f"q={mark}")
    functions.ask(who, mark.upper(), f"{base}/")
    functions.ask(who, "GET", f"{base}/", headers={"authorization": f"Bearer {mark}.{mark}.{mark}"})
    functions.ask(who, "GET", f"{base}/", headers={"x-request-id": mark, "x-amzn-trace-id": mark, "user-agent": mark})
    functions.ask(who, "PUT", f"{base}/files/{mark}.py", mark.encode(), headers={"if-match": f'"{mark}"'})
    session = functions.ask(who, "POST", f"{base}/chat/sessions/", {"title": f"About {mark}"})["id"]
    ticket = functions.ask(who, "POST", f"{base}/chat/{session}/events/ticket")["ticket"]
    stream = f"{base}/chat/{session}/events"
    functions.ask(who, "GET", stream, query=f"ticket={ticket}&wait=0", headers={"authorization": ""})
    functions.ask(who, "GET", stream, query=f"ticket={ticket}{mark}&wait=0", headers={"authorization": ""})
    functions.ask(who, "POST", f"{base}/chat/", {"content": mark}, headers={"prefer": "respond-async"})
    functions.work(who)
    functions.sweep()
    functions.ask(who, "POST", f"{base}/worker-space/cleanup")
    functions.ask(who, "DELETE", f"{base}/")


def test_no_line_and_no_metric_holds_what_a_user_wrote_or_who_the_user_is(
    functions: Lambda, alice: Person, bob: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    for who in (alice, bob):
        everything(functions, who)
    assert len(functions.lines) > 80
    printed = capsys.readouterr()
    for who in (alice, bob):
        for line in functions.lines:
            assert who.mark not in json.dumps(line).lower(), line
        assert who.mark not in printed.out
        assert who.mark not in printed.err
        assert token(who.tenant.user_id).split(".")[1] not in json.dumps(functions.lines)


def test_the_same_holds_while_redis_and_qdrant_are_down(
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    alice: Person,
    request: pytest.FixtureRequest,
) -> None:
    variables |= {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:9", "QDRANT_URL": "http://127.0.0.1:9"}
    functions: Lambda = request.getfixturevalue("functions")
    base = settle_in(functions, alice)
    message(functions, alice, base)
    functions.work(alice)
    functions.sweep()
    warned = [line for line in functions.lines if line["level"] == "WARNING"]
    assert any("qdrant" in line["message"] for line in warned)
    assert alice.mark not in json.dumps(functions.lines)


def test_one_id_leads_from_the_request_through_the_queue_to_worker_and_dead_letter(
    functions: Lambda, alice: Person
) -> None:
    base = settle_in(functions, alice)
    task = message(functions, alice, base)
    request = f"gateway-{functions.requests:04d}="
    event = functions.work(alice)
    functions.bury(event)
    story = [line for line in functions.lines if line.get("correlation_id") == request]
    told = [line["message"] for line in story]
    assert told[0].startswith(f"task {task} of session_")
    assert told[1].startswith("POST /my/projects/{project_id}/chat/ answered 202 in ")
    assert told[2:] == [f"task {task} is begun, attempt 1", f"task {task} is completed"]
    assert {line["tenant"] for line in story} == {alice.tenant.pseudonym}
    assert {line.get("task_id") for line in story[2:]} == {task}
    assert {line.get("attempt") for line in story[2:]} == {1}
    buried = json.loads(event["Records"][0]["body"])
    assert buried["trace"] == request


def test_an_attempt_that_failed_and_the_dead_letter_are_of_the_same_story(functions: Lambda, alice: Person) -> None:
    base = settle_in(functions, alice)
    agent = {"name": "fails", "system_prompt": "x", "model": "openai:gpt"}
    functions.ask(alice, "POST", f"{base}/agents/", agent)
    task = message(functions, alice, base, agent="fails")
    request = f"gateway-{functions.requests:04d}="
    functions.bury(functions.work(alice))
    story = [line for line in functions.lines if line.get("task_id") == task]
    assert {line["correlation_id"] for line in story} == {request}
    told = " / ".join(line["message"] for line in story)
    assert "is begun, attempt 1 / left to the queue: Unavailable: model is unavailable: openai:gpt" in told
    assert told.endswith(f"task {task} is failed (dead_letter)")


def test_two_tenants_in_one_environment_have_lines_of_their_own(functions: Lambda, alice: Person, bob: Person) -> None:
    for who in (alice, bob):
        message(functions, who, settle_in(functions, who))
    before = len(functions.lines)
    functions.work(alice)
    between = len(functions.lines)
    functions.work(bob)
    lines = functions.lines
    assert {line["tenant"] for line in lines[before:between]} == {alice.tenant.pseudonym}
    assert {line["tenant"] for line in lines[between:]} == {bob.tenant.pseudonym}
    assert {line["correlation_id"] for line in lines[before:between]} & {
        line["correlation_id"] for line in lines[between:]
    } == set()


def test_a_message_that_was_sent_by_a_release_without_traces_is_worked_on(functions: Lambda, alice: Person) -> None:
    message(functions, alice, settle_in(functions, alice))
    event = received(functions.environment, alice.tenant)
    body = json.loads(event["Records"][0]["body"])
    del body["trace"]
    event["Records"][0]["body"] = json.dumps(body)
    before = len(functions.lines)
    assert functions.worker(event, functions._invocation) == {"batchItemFailures": []}
    assert functions.lines[-1]["message"].endswith("is completed")
    assert {line["correlation_id"] for line in functions.lines[before:]} == {functions._invocation.aws_request_id}


def test_what_a_task_counts_is_printed_by_the_invocation_that_did_it(
    functions: Lambda, alice: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    base = settle_in(functions, alice)
    capsys.readouterr()
    message(functions, alice, base)
    assert values(capsys) == {"accepted": [1.0]}
    functions.work(alice)
    worked = values(capsys)
    assert {name: worked[name] for name in ("completed", "tool_calls", "model_calls")} == {
        "completed": [1.0],
        "tool_calls": [1.0],
        "model_calls": [2.0],
    }
    assert worked["tokens_in"][0] > worked["tokens_out"][0] > 0
    # What did not happen is not written.
    assert worked.keys().isdisjoint({"retried", "failed", "canceled", "tool_errors", "model_errors", "cost_micros"})
    for measured in ("duration_ms", "queue_age_ms", "delivery_age_ms", "model_ms"):
        assert all(0 <= value < 60_000 for value in worked[measured]), measured


def values(capsys: pytest.CaptureFixture[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in capsys.readouterr().out.splitlines():
        blob = json.loads(line)
        (directive,) = blob["_aws"]["CloudWatchMetrics"]
        found |= {metric["Name"]: blob[metric["Name"]] for metric in directive["Metrics"]}
    return found
