"""What an invocation on Lambda tells: fields that end with their work, counts by few dimensions, errors by place."""

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from worker_space.adapters.telemetry import InvocationFailed, Watch
from worker_space.settings import TelemetrySettings
from worker_space.telemetry import Measure, count, log_fields, logged_with, span, trace_id
from worker_space.tenancy import TenantContext

_log = logging.getLogger("worker_space.jobs.something")


@dataclass
class Context:
    aws_request_id: str = "request-1"


@dataclass
class Told:
    """What a watched function has written."""

    stream: io.StringIO = field(default_factory=io.StringIO)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def told() -> Iterator[Told]:
    """The process's logging belongs to all tests: it is as before afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("worker_space")
    before = root.handlers[:], root.level, ours.level
    yield Told()
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


def watch(told: Told, **settings: Any) -> Watch:
    return Watch(TelemetrySettings(prefix="t", function_name="worker", **settings), stream=told.stream)


def metrics(text: str) -> dict[tuple[str, str], Any]:
    """The values of each metric by its name and its one dimension beside the service."""
    found: dict[tuple[str, str], Any] = {}
    for line in text.splitlines():
        blob = json.loads(line)
        (directive,) = blob["_aws"]["CloudWatchMetrics"]
        (dimensions,) = directive["Dimensions"]
        by = "".join(str(blob[name]) for name in dimensions if name != "service")
        found |= {(metric["Name"], by): blob[metric["Name"]] for metric in directive["Metrics"]}
    return found


# -- fields


def test_a_line_has_the_fields_of_the_work_that_it_was_written_in(told: Told) -> None:
    @watch(told)
    def handler(event: Any, context: Any) -> None:
        with logged_with(tenant="abc", task_id="task_1"):
            _log.info("task %s is begun", "task_1")
        _log.warning("afterwards")

    handler({}, Context())
    first, second = told.lines
    assert first["message"] == "task task_1 is begun"
    assert (first["level"], first["service"], first["function_name"]) == ("INFO", "t-worker-space", "worker")
    assert (first["tenant"], first["task_id"]) == ("abc", "task_1")
    assert first["function_request_id"] == first["correlation_id"] == "request-1"
    assert "tenant" not in second
    assert "task_id" not in second
    assert second["function_request_id"] == "request-1"


def test_nothing_of_one_invocation_is_in_the_next(told: Told) -> None:
    @watch(told)
    def handler(event: Any, context: Any) -> None:
        if event == "first":
            with logged_with(tenant="of-the-first", correlation_id="of-the-first"):
                _log.info("one")
                raise KeyError("of-the-first")
        _log.info("two")

    with pytest.raises(InvocationFailed):
        handler("first", Context())
    handler("second", Context("request-2"))
    *_, last = told.lines
    assert last["message"] == "two"
    assert "of-the-first" not in json.dumps(last)
    assert last["correlation_id"] == "request-2"
    assert (told.lines[0]["cold_start"], last["cold_start"]) == (True, False)
    assert log_fields() == {}


def test_work_that_goes_on_at_the_same_time_keeps_its_own_fields() -> None:
    async def work(name: str) -> str:
        with logged_with(correlation_id=name):
            await asyncio.sleep(0.01)
            return trace_id()

    async def both() -> list[str]:
        return list(await asyncio.gather(work("a"), work("b")))

    assert asyncio.run(both()) == ["a", "b"]
    seen: list[str] = []
    with logged_with(correlation_id="here"):
        thread = threading.Thread(target=lambda: seen.append(trace_id()))
        thread.start()
        thread.join()
    assert seen == [""]


def test_the_pseudonym_of_a_tenant_stays_the_same_and_shows_neither_id() -> None:
    tenant = TenantContext("alice", "shop")
    assert tenant.pseudonym == TenantContext("alice", "shop").pseudonym
    assert tenant.pseudonym != TenantContext("alice", "shop2").pseudonym
    assert len(tenant.pseudonym) == 16
    assert "alice" not in tenant.pseudonym


# -- levels and errors


def test_the_level_is_ours_and_other_packages_are_heard_from_warnings_on(told: Told) -> None:
    @watch(told, log_level="DEBUG")
    def handler(event: Any, context: Any) -> None:
        _log.debug("ours")
        logging.getLogger("some.library").info("GET https://qdrant/collections/useralice_projectshop")
        logging.getLogger("some.library").warning("theirs")

    handler({}, Context())
    assert [line["message"] for line in told.lines] == ["ours", "theirs"]


def test_a_line_is_written_once_whatever_lambda_has_set_up(told: Told) -> None:
    logging.getLogger().addHandler(logging.StreamHandler(told.stream))
    watch(told)
    watch(told)(lambda event, context: _log.warning("once"))({}, Context())
    assert len(told.lines) == 1


def test_an_error_is_told_by_its_type_and_place_and_never_by_its_text(told: Told) -> None:
    @watch(told)
    def handler(event: Any, context: Any) -> None:
        try:
            raise ValueError("SECRET in a caught one")
        except ValueError:
            _log.exception("it was caught")
        raise KeyError("SECRET in one that got away")

    with pytest.raises(InvocationFailed) as failed:
        handler({}, Context())
    caught, away = told.lines
    assert "SECRET" not in told.stream.getvalue()
    assert "SECRET" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__
    assert caught["exception_name"] == "ValueError"
    assert "test_telemetry.py" in caught["exception"]
    assert "KeyError" in away["message"]
    assert away["level"] == "ERROR"


# -- metrics


def test_counts_are_printed_once_an_invocation_by_few_dimensions(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    @watch(told)
    def handler(event: Any, context: Any) -> str:
        count(Measure.COMPLETED)
        count(Measure.COMPLETED)
        count(Measure.RETRIED, 0)
        count(Measure.QUEUE_AGE_MS, 0)
        for milliseconds in (5, 7):
            count(Measure.DURATION_MS, milliseconds, outcome="completed")
        count(Measure.TOKENS_IN, 11, provider="openai")
        assert capsys.readouterr().out == ""
        return "answer"

    assert handler({}, Context()) == "answer"
    printed = capsys.readouterr().out
    assert metrics(printed) == {
        ("completed", ""): [2.0],
        ("queue_age_ms", ""): [0.0],
        ("duration_ms", "completed"): [5.0, 7.0],
        ("tokens_in", "openai"): [11.0],
    }
    blobs = [json.loads(line) for line in printed.splitlines()]
    assert {blob["_aws"]["CloudWatchMetrics"][0]["Namespace"] for blob in blobs} == {"WorkerSpace"}
    assert {blob["service"] for blob in blobs} == {"t-worker-space"}
    units = {
        metric["Name"]: metric["Unit"] for blob in blobs for metric in blob["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    }
    assert units["duration_ms"] == "Milliseconds"
    assert units["completed"] == "Count"
    handler_of_nothing = watch(told)(lambda event, context: None)
    handler_of_nothing({}, Context())
    assert capsys.readouterr().out == ""


def test_what_was_counted_before_an_invocation_failed_is_printed(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    @watch(told)
    def handler(event: Any, context: Any) -> None:
        count(Measure.FAILED)
        raise OSError

    with pytest.raises(InvocationFailed):
        handler({}, Context())
    assert metrics(capsys.readouterr().out) == {("failed", ""): [1.0]}
    count(Measure.FAILED)
    assert capsys.readouterr().out == ""


def test_a_line_of_metrics_holds_at_most_a_hundred_values(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    @watch(told)
    def handler(event: Any, context: Any) -> None:
        for at in range(250):
            count(Measure.MODEL_MS, at, provider="offline")

    handler({}, Context())
    lines = [json.loads(line)["model_ms"] for line in capsys.readouterr().out.splitlines()]
    assert [len(values) for values in lines] == [99, 99, 52]
    assert sorted(value for values in lines for value in values) == list(range(250))


# -- elsewhere


def test_outside_lambda_a_handler_is_left_as_it_is() -> None:
    def handler(event: Any, context: Any) -> None:
        raise KeyError("as it was")

    assert Watch(TelemetrySettings())(handler) is handler
    count(Measure.COMPLETED)
    with span("chat", {"gen_ai.operation.name": "chat"}) as told:
        told.note({"gen_ai.usage.input_tokens": 1})


def test_outside_lambda_nothing_of_powertools_or_x_ray_is_imported_for_it() -> None:
    script = (
        "import sys; from worker_space.adapters.telemetry import Watch; Watch();"
        " print(sorted({name.partition('.')[0] for name in sys.modules} & {'aws_lambda_powertools', 'aws_xray_sdk'}))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={}, timeout=60)
    assert ran.stdout == "[]\n"


def test_on_lambda_x_ray_is_imported_only_to_trace() -> None:
    script = (
        "import sys; from worker_space.adapters.telemetry import Watch; Watch();"
        " print('aws_lambda_powertools' in sys.modules, 'aws_xray_sdk' in sys.modules)"
    )
    for tracing, expected in (("", "True False"), ("Disabled", "True False"), ("Active", "True True")):
        environment = {"AWS_LAMBDA_FUNCTION_NAME": "api", "WORKER_SPACE_TRACING": tracing, "LAMBDA_TASK_ROOT": "/x"}
        command = [sys.executable, "-c", script]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)
        assert ran.stdout.strip() == expected
