"""What happens to messages and tasks is tried with a queue for each project and with queues that all projects share."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.memory_stack import QUEUE_MODE

BOTH_MODES: Final = frozenset(
    {
        "test_approvals_races",
        "test_deletion",
        "test_erasure",
        "test_first_light",
        "test_hibernation",
        "test_ledger",
        "test_parked",
        "test_plans_races",
        "test_races",
        "test_reset",
        "test_sweep",
        "test_worker",
    }
)
OWN_QUEUE: Final = frozenset(
    {
        "test_a_deleted_project_leaves_nothing_behind_but_files",
        "test_a_delivery_of_a_deleted_project_makes_no_queue",
        "test_a_message_between_the_look_and_the_sleep_keeps_the_space_awake",
        "test_a_message_wakes_a_space_that_is_falling_asleep_and_nothing_is_forgotten",
        "test_a_project_made_anew_keeps_its_queue_when_its_forerunner_is_cleared_late",
        "test_a_queue_made_while_its_project_is_deleted_does_not_stay",
        "test_a_send_that_fails_is_no_error_to_the_sender",
        "test_a_sweep_that_races_with_a_send_loses",
        "test_an_agent_that_is_full_parks_what_comes_and_lets_it_in_one_by_one",
        "test_ends_of_a_plans_tasks_at_the_same_moment_let_the_next_in_once",
        "test_every_store_is_cleared_and_asked_again",
        "test_messages_of_a_session_are_answered_in_their_order",
        "test_only_the_idle_space_goes_to_sleep",
        "test_queues_of_all_generations_go",
        "test_racing_senders_of_one_session_get_one_place_each",
        "test_two_ends_that_have_read_the_same_plan_are_both_kept",
        "test_what_reaches_a_store_after_the_first_pass_is_found_by_the_second",
    }
)
"""They ask for the project's own queue: whether it is there, or how many messages it holds."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module, name = metafunc.module.__name__.rpartition(".")[2], metafunc.function.__name__
    if module in BOTH_MODES and name not in OWN_QUEUE:
        metafunc.parametrize("queue_mode", ["project", "pooled"], indirect=True)


@pytest.fixture(autouse=True)
def queue_mode(request: pytest.FixtureRequest) -> Iterator[None]:
    before = QUEUE_MODE[0]
    QUEUE_MODE[0] = getattr(request, "param", before)
    yield
    QUEUE_MODE[0] = before
