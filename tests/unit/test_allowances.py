"""Limits and prices: who decides, what a call costs, when a period ends."""

import pytest
from pydantic import ValidationError

from tests.memory_stack import settings
from worker_space.allowances import (
    PROJECT_LIMITS,
    Allowances,
    LimitChanges,
    day_ends,
    day_of,
    minute_ends,
    minute_of,
)
from worker_space.errors import InvalidRequest
from worker_space.models import Usage
from worker_space.settings import Settings

NOON = 1_795_348_800_000  # 2026-11-22T12:00:00Z
PRICES = {"openai:small": {"input": 250_000, "output": 2_000_000}}
ENVIRONMENT = {
    "WORKER_SPACE_TABLE": "t",
    "WORKER_SPACE_BUCKET": "b",
    "UPSTASH_REDIS_REST_URL": "u",
    "UPSTASH_REDIS_REST_TOKEN": "x",
    "QDRANT_URL": "q",
}


def test_without_settings_a_project_has_the_documented_limits() -> None:
    limits = Allowances(settings()).of({}, {})
    assert limits.model_dump() == {
        "agents": 100,
        "sessions": 10_000,
        "open_tasks": 1_000,
        "messages_per_minute": 3_000,
        "file_bytes": None,
        "tokens_per_day": None,
        "cost_per_day": None,
    }


@pytest.mark.parametrize(
    ("own", "by_operator", "limit", "source"),
    [
        ({}, {}, 10, "deployment"),
        ({"agents": 3}, {}, 3, "project"),
        ({"agents": 10}, {}, 10, "deployment"),
        ({"agents": 30}, {}, 10, "deployment"),
        ({}, {"agents": 50}, 50, "operator"),
        ({"agents": 30}, {"agents": 50}, 30, "project"),
        ({"agents": 30}, {"agents": 20}, 20, "operator"),
        ({}, {"agents": None}, None, "operator"),
        ({"agents": 7}, {"agents": None}, 7, "project"),
        ({"of_another_release": 1}, {"of_another_release": 1}, 10, "deployment"),
    ],
)
def test_the_owner_lowers_what_the_operator_or_the_deployment_allows(
    own: dict[str, int], by_operator: dict[str, int | None], limit: int | None, source: str
) -> None:
    allowances = Allowances(settings(limit_agents=10))
    assert allowances.of(own, by_operator).agents == limit
    assert allowances.source("agents", own, by_operator) == source


def test_every_limit_can_be_set_and_changed_by_its_name() -> None:
    assert set(LimitChanges.model_fields) == set(PROJECT_LIMITS)
    changed = LimitChanges.model_validate({"agents": 3, "cost_per_day": None})
    assert changed.sent == {"agents": 3, "cost_per_day": None}


@pytest.mark.parametrize("value", [-1, 1.5, "7", True, 10**16])
def test_a_limit_is_a_whole_number(value: object) -> None:
    with pytest.raises(ValidationError):
        LimitChanges.model_validate({"agents": value})


def test_cost_is_counted_in_whole_millionths_and_rounded_up() -> None:
    allowances = Allowances(settings(prices=PRICES))
    assert allowances.cost_micros("openai:small", Usage(input_tokens=1_000, output_tokens=100)) == 450
    assert allowances.cost_micros("openai:small", Usage(input_tokens=1)) == 1
    assert allowances.cost_micros("openai:small", Usage()) == 0


def test_the_offline_model_is_free_and_an_unknown_one_has_no_price() -> None:
    allowances = Allowances(settings(prices=PRICES))
    assert allowances.price("offline:rules") is not None
    assert allowances.cost_micros("offline:rules", Usage(input_tokens=10**6)) == 0
    assert allowances.price("openai:other") is None


def test_what_is_affordable_never_costs_more_than_there_is() -> None:
    allowances = Allowances(settings(prices=PRICES))
    for micros in (250, 251, 1_000, 1_001, 1_003):
        output = allowances.affordable_output("openai:small", 1_000, micros)
        assert output is not None
        cost = allowances.cost_micros("openai:small", Usage(input_tokens=1_000, output_tokens=output))
        one_more = allowances.cost_micros("openai:small", Usage(input_tokens=1_000, output_tokens=output + 1))
        assert cost <= micros < one_more
    assert allowances.affordable_output("openai:small", 1_000, 10) == 0
    assert allowances.affordable_output("offline:rules", 1_000, 0) is None


def test_minutes_and_days_end_where_the_next_begin() -> None:
    assert day_of(NOON) == "20261122"
    assert day_ends("20261122") == NOON + 12 * 3_600_000
    assert day_of(day_ends("20261122")) == "20261123"
    assert day_of(day_ends("20261122") - 1) == "20261122"
    minute = minute_of(NOON + 59_999)
    assert minute == minute_of(NOON)
    assert minute_ends(minute) == NOON + 60_000


def test_prices_and_limits_come_from_the_environment() -> None:
    found = Settings.from_environment(
        ENVIRONMENT
        | {
            "WORKER_SPACE_PRICES": '{"openai:small": {"input": 250000, "output": 2000000}}',
            "WORKER_SPACE_LIMIT_TOKENS_PER_DAY": "200000",
            "WORKER_SPACE_USER_LIMIT_PROJECTS": "3",
        }
    )
    allowances = Allowances(found)
    assert allowances.of({}, {}).tokens_per_day == 200_000
    assert allowances.user.projects == 3
    assert allowances.cost_micros("openai:small", Usage(input_tokens=4)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKER_SPACE_PRICES", "cheap"),
        ("WORKER_SPACE_PRICES", "[]"),
        ("WORKER_SPACE_PRICES", '{"openai:small": {"input": 1}}'),
        ("WORKER_SPACE_PRICES", '{"openai:small": {"input": -1, "output": 1}}'),
        ("WORKER_SPACE_LIMIT_AGENTS", "-1"),
        ("WORKER_SPACE_LIMIT_AGENTS", "many"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        Settings.from_environment(ENVIRONMENT | {name: value})
