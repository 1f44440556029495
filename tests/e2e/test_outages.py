"""Processes die in the middle of things; every message still ends in exactly one answer."""

import signal
import threading
import time
from typing import Any

from tests.e2e.conftest import User, environment, until
from tests.e2e.fake_openai import FakeOpenAI, calls, results, says
from worker_space_local.stack import Stack


def test_a_worker_killed_in_the_middle_of_a_task_leaves_one_answer_and_pays_no_step_twice(
    own_stack: Stack, model: FakeOpenAI
) -> None:
    hanging, let_go = threading.Event(), threading.Event()

    def rule(request: dict[str, Any]) -> dict[str, Any]:
        if not results(request):
            return calls("write_file", path="notes.md", content="once")
        if not hanging.is_set():
            hanging.set()
            let_go.wait(30)
        return says("written once")

    model.rule = rule
    project = User(own_stack, "kim").project("kill")
    project.agent("writer2", tools=["write_file"])
    session = project.session()
    task = project.send(session, "kill me please", "writer2")
    assert hanging.wait(20)
    began = time.monotonic()
    own_stack.kill("worker")
    ended = project.ended(task)
    let_go.set()
    assert (ended["state"], ended["attempt"]) == ("completed", 2)
    assert time.monotonic() - began < 20
    assert [m["content"] for m in project.messages(session)] == ["kill me please", "written once"]
    # The first call was answered and journalled: only the second was asked again.
    assert [len(results(request)) for request in model.asked("kill me please")] == [0, 1, 1]
    versions = project.call("GET", "/files/", 200)["items"]
    assert [(item["path"], item["size"]) for item in versions] == [("notes.md", 4)]
    assert project.ask(session, "and again", "writer2")["content"] == "written once"


def test_a_chat_goes_on_without_redis_and_without_qdrant(own_stack: Stack, model: FakeOpenAI) -> None:
    model.rule = lambda request: says("still here")
    project = User(own_stack, "olga").project("outage")
    project.agent("steady")
    session = project.session()
    assert project.ask(session, "one", "steady")["content"] == "still here"
    own_stack.kill("redis")
    assert project.ask(session, "two", "steady")["content"] == "still here"
    own_stack.kill("qdrant")
    began = time.monotonic()
    answer = project.ask(session, "three", "steady")
    assert answer["content"] == "still here"
    assert time.monotonic() - began < 10
    assert project.task(answer["id"])["recall"] == "unavailable"
    ready = project.user.http.get("/ready")
    assert ready.json()["dependencies"]["redis"]["ok"] is False
    assert len(project.messages(session)) == 6


def test_hanging_stand_ins_cost_two_seconds_a_call_at_most(own_stack: Stack, model: FakeOpenAI) -> None:
    model.rule = lambda request: says("slow but sure")
    project = User(own_stack, "hans").project("hang")
    project.agent("steady")
    session = project.session()
    project.ask(session, "one", "steady")
    for name in ("redis", "qdrant"):
        own_stack.kill(name, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert project.ask(session, "two", "steady")["content"] == "slow but sure"
        assert time.monotonic() - began < 15
    finally:
        for name in ("redis", "qdrant"):
            own_stack.kill(name, signal.SIGCONT)


def test_what_was_accepted_survives_a_restart_of_everything(model: FakeOpenAI, tmp_path: Any) -> None:
    held, let_go = threading.Event(), threading.Event()

    def rule(request: dict[str, Any]) -> dict[str, Any]:
        held.set()
        let_go.wait(10)
        return says("after the restart")

    model.rule = rule
    settings = environment(model, visibility_seconds=3)
    with Stack(data_dir=tmp_path, environment=settings, say=lambda line: None) as first:
        project = User(first, "rita").project("restart")
        project.put("kept.txt", "kept")
        project.agent("patient")
        session = project.session()
        tasks = [project.send(session, f"m{n}", "patient") for n in range(2)]
        assert held.wait(20)
    let_go.set()
    with Stack(data_dir=tmp_path, environment=settings, say=lambda line: None) as second:
        project.user.http.base_url = second.endpoints["api"]
        user = User(second, "rita")
        project.user = user
        assert user.http.get(f"{project.base}/files/kept.txt").text == "kept"
        assert [project.ended(task, seconds=60)["state"] for task in tasks] == ["completed"] * 2
        assert [m["content"] for m in until(lambda: project.messages(session))] == [
            "m0",
            "after the restart",
            "m1",
            "after the restart",
        ]
