"""A project's tool policy: what asks, and how it is changed."""

import pytest
from pydantic import ValidationError

from worker_space.errors import InvalidRequest
from worker_space.policy import PolicyChanges, ToolPolicy
from worker_space.projects import ProjectChanges, Space, SpaceState
from worker_space.tools.catalogue import TOOLS, check_asking


def asking(policy: ToolPolicy) -> set[str]:
    return {tool.name for tool in TOOLS.values() if policy.asks(tool.name, tool.risk.value)}


def test_by_default_deleting_and_moving_ask_and_nothing_else() -> None:
    assert asking(ToolPolicy()) == {"delete_file", "move_file"}


def test_tools_and_risk_levels_can_be_named_side_by_side() -> None:
    assert asking(ToolPolicy(ask=("writing", "read_file"))) == {"write_file", "edit_file", "remember", "read_file"}
    assert asking(ToolPolicy(ask=("reading", "writing", "deleting"))) == set(TOOLS)
    assert asking(ToolPolicy(ask=())) == set()


@pytest.mark.parametrize("name", ["delete", "Deleting", "delete_file ", "all", "*", "DELETE_FILE"])
def test_what_is_no_tool_and_no_risk_level_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="no tool and no risk level"):
        check_asking(ToolPolicy(ask=("delete_file", name)))
    check_asking(ToolPolicy(ask=("delete_file", "reading")))


def test_what_is_not_sent_stays() -> None:
    policy = ToolPolicy(ask=("writing",), plan_tasks=4, plan_cost=10)
    assert PolicyChanges.model_validate({}).apply(policy) == policy
    assert PolicyChanges.model_validate({"ask": None}).apply(policy) == policy
    assert PolicyChanges.model_validate({"ask": []}).apply(policy) == policy.model_copy(update={"ask": ()})
    changed = PolicyChanges.model_validate({"plan_tasks": None, "ask": ["writing", "writing", "read_file"]})
    assert changed.apply(policy) == ToolPolicy(ask=("writing", "read_file"), plan_tasks=None, plan_cost=10)


@pytest.mark.parametrize(
    "sent",
    [
        {"ask": "deleting"},
        {"ask": [""]},
        {"ask": ["x"] * 33},
        {"ask": [1]},
        {"plan_tasks": -1},
        {"plan_tasks": 21},
        {"plan_tasks": "8"},
        {"plan_tasks": True},
        {"plan_cost": -1},
        {"plan_cost": 1.5},
        {"asks": []},
    ],
)
def test_wrong_values_are_refused(sent: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PolicyChanges.model_validate(sent)


@pytest.mark.parametrize("sent", [{}, {"name": None}, {"policy": None}])
def test_a_change_of_a_project_changes_something(sent: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="say what to change"):
        ProjectChanges.model_validate(sent)


def test_a_space_of_before_there_were_policies_has_the_default() -> None:
    old = {"name": "x", "state": "dormant", "epoch": 1, "generation": 0, "created_at": 0, "updated_at": 0}
    space = Space.model_validate(old)
    assert (space.policy, space.policy_version, space.state) == (ToolPolicy(), 0, SpaceState.DORMANT)
    later = Space.model_validate({**old, "policy": {"ask": ["writing"], "of_another_release": 1}, "policy_version": 3})
    assert later.policy.ask == ("writing",)
