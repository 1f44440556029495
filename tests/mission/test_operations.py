"""Every operation of the mission is there, under its name."""

import inspect

import pytest

from worker_space import UserWorkerSpace, WorkerSpaceManager

OPERATIONS = {
    "start": ["initialize"],
    "agent cache": ["get_agent", "reload_agent", "invalidate_agent", "clear_agent_cache", "list_agents"],
    "agent bus": [
        "register_agent",
        "deregister_agent",
        "send_task",
        "get_agent_status",
        "get_agent_metrics",
        "wait_for_result",
        "cancel_task",
        "cancel_all_tasks",
    ],
    "context": [
        "get_agent_context_store",
        "ensure_agent_collection",
        "search_context",
        "add_context",
        "clear_context",
    ],
    "execution": ["direct_execution", "orchestrated_execution", "handle_message"],
    "lifecycle": ["cleanup", "reset", "is_healthy", "get_metrics"],
}


@pytest.mark.parametrize(("area", "operation"), [(area, name) for area, names in OPERATIONS.items() for name in names])
def test_an_operation_is_async_and_is_of_its_own_pair_only(area: str, operation: str) -> None:
    found = getattr(UserWorkerSpace, operation)
    assert inspect.iscoroutinefunction(found), area
    assert "tenant" not in inspect.signature(found).parameters


def test_the_manager_hands_out_and_releases() -> None:
    assert not inspect.iscoroutinefunction(WorkerSpaceManager.get_or_create)
    assert inspect.iscoroutinefunction(WorkerSpaceManager.cleanup)
    for name in ("get_or_create", "cleanup"):
        assert list(inspect.signature(getattr(WorkerSpaceManager, name)).parameters) == [
            "self",
            "user_id",
            "project_id",
        ]
