"""The same chats over queues that all projects share."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e import test_chat
from tests.e2e.conftest import User, environment
from tests.e2e.fake_openai import FakeOpenAI, question, says
from worker_space_local.stack import Stack

# The same tests, with the stack below in the place of the session's.
test_the_model_answers = test_chat.test_the_offline_model_answers_from_the_users_files
test_users_never_see_each_other = test_chat.test_two_users_of_the_same_project_id_never_see_each_other
test_the_agents_cap_holds = test_chat.test_no_more_than_the_agents_cap_reaches_the_model_at_once
test_a_session_is_answered_in_order = test_chat.test_a_session_is_answered_in_order_while_others_go_on


@pytest.fixture(scope="module")
def stack(model_server: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = environment(model_server, visibility_seconds=30)
    pooled = {**settings, "WORKER_SPACE_QUEUE_MODE": "pooled", "WORKER_SPACE_POOL_QUEUES": "2"}
    with Stack(data_dir=tmp_path_factory.mktemp("pooled"), environment=pooled, say=lambda line: None) as up:
        yield up


def queues_of(stack: Stack) -> list[str]:
    request = urllib.request.Request(
        stack.endpoints["aws"],
        data=b"{}",
        headers={"x-amz-target": "AmazonSQS.ListQueues", "content-type": "application/x-amz-json-1.0"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return sorted(url.rpartition("/")[2] for url in json.load(answer)["QueueUrls"])


def test_no_project_gets_a_queue_of_its_own_and_all_are_served(
    stack: Stack, user: Callable[[str], User], model: FakeOpenAI
) -> None:
    model.rule = lambda request: says(f"re {question(request)}")

    def talk(number: int) -> Any:
        project = user(f"pooled{number}").project("shop")
        project.agent("fast")
        return project.ask(project.session(), f"q{number}", "fast")["content"]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(talk, range(8))) == [f"re q{number}" for number in range(8)]
    assert queues_of(stack) == ["local-pool-0.fifo", "local-pool-1.fifo", "local_dead-letter.fifo"]


def test_a_project_tells_that_it_is_healthy_and_nothing_of_its_neighbours(user: Callable[[str], User]) -> None:
    project = user("health").project("shop")
    project.put("a.md", "x")
    project.ask(project.session(), "List the files", "analyst")
    told = project.call("GET", "/worker-space", 200)
    assert told["health"]["is_healthy"] is True
    assert told["metrics"]["queue_depth"] is None


def test_a_project_is_deleted_and_made_anew_without_a_wait_for_its_queues_name(user: Callable[[str], User]) -> None:
    for round_ in range(2):
        project = user("anew").project("shop")
        project.put("a.md", f"round {round_}")
        assert "a.md" in project.ask(project.session(), "List the files", "analyst")["content"]
        assert project.user.http.delete(f"{project.base}/").status_code == 204
