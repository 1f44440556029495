"""Spans as X-Ray's daemon receives them from a process that believes to be on Lambda."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

TRACE = "1-5759e988-bd862e3fe1be46a994272793"

# A process of its own: the X-Ray SDK keeps one recorder for all.
SCRIPT = '''
import asyncio, logging, sys
from worker_space.adapters.telemetry import Watch
from worker_space.adapters.telemetry_traces import traced
from worker_space.errors import Unavailable
from worker_space.telemetry import span

class Store:
    """A dependency of several ports."""
    limit = 7

    async def get(self, seconds):
        await asyncio.sleep(seconds)
        return seconds

    async def fail(self):
        raise Unavailable("the table", "MARKER of a user")

class Ports:
    records = due = cache = memory = queues = files = content = Store()

async def work():
    ports = traced(Ports)
    assert ports["records"].limit == 7
    with span("invoke_agent", {"gen_ai.operation.name": "invoke_agent"}):
        # The first to begin is the last to end.
        assert await asyncio.gather(ports["records"].get(0.03), ports["cache"].get(0.01)) == [0.03, 0.01]
        with span("chat gpt", {"gen_ai.request.model": "gpt"}) as told:
            told.note({"gen_ai.usage.input_tokens": 12})
        try:
            await ports["files"].fail()
        except Unavailable:
            pass

def handler(event, context):
    asyncio.run(work())

class Context:
    aws_request_id = "request"

Watch()(handler)({}, Context())
'''


class Daemon:
    """X-Ray's daemon, as far as receiving goes."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.3)

    def received(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            try:
                datagram = self.socket.recv(65535)
            except TimeoutError:
                return found
            found.append(json.loads(datagram.partition(b"\n")[2]))


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.socket.close()


def spans(daemon: Daemon, header: str, **variables: str) -> dict[str, dict[str, Any]]:
    environment = {
        "AWS_LAMBDA_FUNCTION_NAME": "worker",
        "WORKER_SPACE_TRACING": "Active",
        "LAMBDA_TASK_ROOT": "/var/task",
        "_X_AMZN_TRACE_ID": header,
        "AWS_XRAY_DAEMON_ADDRESS": f"127.0.0.1:{daemon.socket.getsockname()[1]}",
        **variables,
    }
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return {span["name"]: span for span in daemon.received()}


@pytest.fixture
def sampled(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return spans(daemon, f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=1")


def test_each_call_of_a_dependency_is_a_span_in_the_one_that_made_it(sampled: dict[str, dict[str, Any]]) -> None:
    assert set(sampled) == {"## worker", "invoke_agent", "table.get", "redis.get", "chat gpt", "files.fail"}
    assert {span["trace_id"] for span in sampled.values()} == {TRACE}
    agent = sampled["invoke_agent"]
    assert sampled["## worker"]["parent_id"] == "53995c3f42cd8ad8"
    assert agent["parent_id"] == sampled["## worker"]["id"]
    for name in ("table.get", "redis.get", "chat gpt", "files.fail"):
        assert sampled[name]["parent_id"] == agent["id"], name
    # Calls that run at the same time are measured each on its own.
    lengths = {name: sampled[name]["end_time"] - sampled[name]["start_time"] for name in ("table.get", "redis.get")}
    assert lengths["redis.get"] < 0.025 < lengths["table.get"]


def test_a_models_span_has_the_names_of_opentelemetry(sampled: dict[str, dict[str, Any]]) -> None:
    chat = sampled["chat gpt"]
    assert chat["metadata"]["worker_space"] == {"gen_ai.request.model": "gpt", "gen_ai.usage.input_tokens": 12}
    assert chat["annotations"] == {"gen_ai_request_model": "gpt", "gen_ai_usage_input_tokens": 12}


def test_an_error_marks_its_span_by_type_and_not_by_text(sampled: dict[str, dict[str, Any]]) -> None:
    failed = sampled["files.fail"]
    assert failed["error"] is True
    assert failed["annotations"] == {"error_type": "Unavailable"}
    assert "MARKER" not in json.dumps(sampled)
    assert "error" not in sampled["invoke_agent"]


@pytest.mark.parametrize(
    ("header", "variables"),
    [
        (f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=0", {}),
        ("", {}),
        (f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=1", {"POWERTOOLS_TRACE_DISABLED": "true"}),
    ],
    ids=["not sampled", "no trace", "disabled"],
)
def test_what_lambda_does_not_trace_sends_nothing(daemon: Daemon, header: str, variables: dict[str, str]) -> None:
    assert spans(daemon, header, **variables) == {}
