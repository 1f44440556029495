"""Alarms and dashboard: each alarm says what to do and where it is written; what is shown is what is counted."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.infra.templates import MAIN, load
from worker_space.adapters.telemetry_metrics import NAMESPACE
from worker_space.jobs.sweep import COUNTS
from worker_space.telemetry import Measure

ROOT = Path(__file__).parents[2]
TEMPLATE = load(ROOT / "infra" / "observability.yaml")
HANDBOOK = (ROOT / "docs" / "operations.md").read_text("utf-8")
ALARMS = {n: r["Properties"] for n, r in TEMPLATE["Resources"].items() if r["Type"] == "AWS::CloudWatch::Alarm"}
DIMENSIONS = [{"service"}, {"service", "outcome"}, {"service", "provider"}]
"""By which our metrics are written (`telemetry_metrics`)."""


def dashboard() -> list[dict[str, Any]]:
    body, _ = TEMPLATE["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    widgets = json.loads(body)["widgets"]
    assert isinstance(widgets, list)
    return widgets


def own_metrics() -> list[tuple[str, dict[str, Any]]]:
    """Name and dimensions of each of our metrics that an alarm or the dashboard reads."""
    found = []
    for alarm in ALARMS.values():
        stats = [each["MetricStat"]["Metric"] for each in alarm.get("Metrics", []) if "MetricStat" in each]
        for metric in (*stats, alarm):
            if metric.get("Namespace") == NAMESPACE:
                found.append((metric["MetricName"], {d["Name"]: d["Value"] for d in metric["Dimensions"]}))
    for widget in dashboard():
        for metric in widget["properties"].get("metrics", []):
            if metric[0] == NAMESPACE:
                _, name, *pairs = [part for part in metric if isinstance(part, str)]
                found.append((name, dict(zip(pairs[::2], pairs[1::2], strict=True))))
            elif isinstance(metric[0], dict) and "SEARCH" in metric[0]["expression"]:
                schema = re.search(rf"\{{{NAMESPACE},([a-z,]+)\}}.*MetricName=\"(\w+)\"", metric[0]["expression"])
                assert schema is not None, metric
                found.append((schema[2], dict.fromkeys(schema[1].split(","))))
    return found


# -- alarms


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_says_what_to_do_first_and_where_the_rest_is_written(name: str) -> None:
    description = ALARMS[name]["AlarmDescription"]
    assert " First: " in description
    assert description.endswith(f"(docs/operations.md, {name})")
    assert len(description) <= 1024


def test_the_handbook_has_a_heading_for_each_alarm_and_for_no_other() -> None:
    _, _, chapter = HANDBOOK.partition("\n## Alarms\n")
    chapter = chapter.partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", chapter, re.MULTILINE) == list(ALARMS)


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_tells_the_topic_and_knows_what_silence_means(name: str) -> None:
    assert ALARMS[name]["AlarmActions"] == {"Fn::If": ["Tells", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    # Nothing happens for hours where nobody asks; only the sweeper runs all the time.
    assert ALARMS[name]["TreatMissingData"] == ("breaching" if name == "SweeperStopped" else "notBreaching")


@pytest.mark.parametrize("name", [name for name, alarm in ALARMS.items() if "Metrics" in alarm])
def test_an_expression_reads_what_its_alarm_names_and_nothing_is_named_in_vain(name: str) -> None:
    metrics = {each["Id"]: each for each in ALARMS[name]["Metrics"]}
    read = {word for each in metrics.values() for word in re.findall(r"\b[a-z_]+\b", each.get("Expression", ""))}
    assert read == set(metrics) - {"result"}
    assert [each["Id"] for each in metrics.values() if each["ReturnData"]] == ["result"]


def test_what_users_and_operators_depend_on_has_an_alarm() -> None:
    functions = {"ApiName", "WorkerName", "CleanupName", "DeadLetterFunctionName"}
    watched: dict[str, set[str]] = {}
    for alarm in ALARMS.values():
        stats = [each["MetricStat"]["Metric"] for each in alarm.get("Metrics", []) if "MetricStat" in each]
        for metric in (*stats, alarm):
            for dimension in metric.get("Dimensions", []):
                watched.setdefault(metric["MetricName"], set()).add(
                    str(dimension["Value"].get("Ref")) if isinstance(dimension["Value"], dict) else dimension["Value"]
                )
    assert watched["Errors"] == functions
    assert watched["Throttles"] == functions
    assert watched["ApproximateAgeOfOldestMessage"] == {"DeadLetterName"}
    assert watched["ApproximateNumberOfMessagesVisible"] == {"FailuresName"}
    assert {"5xx", "delivery_age_ms", "swept", "failed", "completed", "ReadThrottleEvents"} <= watched.keys()


# -- metrics


def test_every_metric_that_is_read_is_counted_and_by_these_dimensions() -> None:
    found = own_metrics()
    assert len(found) > 30
    for name, dimensions in found:
        assert name in set(Measure), name
        assert set(dimensions) in DIMENSIONS, (name, dimensions)
    outcomes = {dimensions["outcome"] for name, dimensions in found if name == "swept" and dimensions.get("outcome")}
    assert outcomes <= set(COUNTS)


def test_every_count_is_on_the_dashboard_but_for_the_daily_ones() -> None:
    shown = {name for name, _ in own_metrics()}
    assert set(Measure) - shown - {Measure.MODEL_CALLS} == {Measure.RECONCILED}


def test_the_dashboard_places_each_widget_beside_the_others() -> None:
    taken: set[tuple[int, int]] = set()
    for widget in dashboard():
        cells = {(widget["x"] + x, widget["y"] + y) for x in range(widget["width"]) for y in range(widget["height"])}
        assert max(x for x, _ in cells) < 24
        assert taken.isdisjoint(cells), widget
        taken |= cells


def test_the_dashboard_names_only_what_the_stack_is_given() -> None:
    body, given = TEMPLATE["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    named = set(re.findall(r"\$\{([A-Za-z:]+)\}", body)) - {"AWS::Region"}
    assert named - set(given) <= set(TEMPLATE["Parameters"])
    assert set(given) <= named


def test_costs_follow_the_memory_that_the_functions_have() -> None:
    passed = MAIN["Resources"]["Observability"]["Properties"]["Parameters"]
    functions = {n: r["Properties"] for n, r in MAIN["Resources"].items() if r["Type"] == "AWS::Serverless::Function"}
    body = TEMPLATE["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"][0]
    (lambda_widget,) = [widget for widget in dashboard() if widget["properties"].get("title") == "Lambda"]
    terms = {
        m[0]["label"]: m[0]["expression"] for m in lambda_widget["properties"]["metrics"] if isinstance(m[0], dict)
    }
    for label, name in (
        ("Api", "ApiFunction"),
        ("Worker", "WorkerFunction"),
        ("Cleanup", "CleanupFunction"),
        ("DeadLetter", "DeadLetterFunction"),
    ):
        memory = functions[name]["MemorySize"]
        parameter = next(key for key, value in passed.items() if value == memory)
        assert f"${{{parameter}}}" in terms[label]
    assert "GigabyteSecond" in body


# -- the stack


def test_the_stack_is_given_all_it_asks_for_and_nothing_else() -> None:
    assert set(MAIN["Resources"]["Observability"]["Properties"]["Parameters"]) == set(TEMPLATE["Parameters"])


def test_the_services_name_is_the_one_that_the_functions_count_under() -> None:
    service = MAIN["Resources"]["Observability"]["Properties"]["Parameters"]["Service"]
    assert service == {"Fn::Sub": "${Prefix}-worker-space"}
    assert MAIN["Globals"]["Function"]["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] == service


def test_functions_that_trace_are_told_so_and_may_send() -> None:
    shared = MAIN["Globals"]["Function"]
    assert shared["Tracing"] == shared["Environment"]["Variables"]["WORKER_SPACE_TRACING"] == {"Ref": "Tracing"}
    traces = load(ROOT / "infra" / "access.yaml")["Resources"]["TracesPolicy"]["Properties"]
    assert len(traces["Roles"]) == 4
