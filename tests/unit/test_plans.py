"""Plans: what makes one, and what becomes of it as its tasks end."""

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker_space.errors import Conflict, InvalidRequest, NotFound
from worker_space.plan_changes import Change, begin, cancel, check_retry, child_ended, retry
from worker_space.plan_changes import end as end_plan
from worker_space.plans import (
    MAX_INSTRUCTIONS_BYTES,
    NewPlan,
    NewPlanTask,
    Plan,
    PlanFailure,
    PlanState,
    PlanTask,
    PlanTaskState,
    planned,
)

AGENTS = {"coder": "agent_1", "writer": "agent_2"}
BROKEN = PlanFailure(code="run_failed", message="the model refused")
DONE, FAILED = PlanTaskState.COMPLETED, PlanTaskState.FAILED


def new(key: str, *depends_on: str, agent: str = "coder", instructions: str = "do it") -> NewPlanTask:
    return NewPlanTask(key=key, agent=agent, instructions=instructions, depends_on=depends_on)


def proposed(*tasks: NewPlanTask) -> Plan:
    return Plan(
        id="plan_1",
        goal="g",
        session_id="session_1",
        task_id="task_0",
        tasks=planned(tasks, AGENTS.get),
        created_at=1,
        updated_at=1,
    )


def begun(*tasks: NewPlanTask) -> Change:
    return begin(proposed(*tasks), "task_0", make_id=ids(), now=2)


def ids(prefix: str = "task_c") -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{prefix}{next(numbers)}"


def end(plan: Plan, key: str, state: PlanTaskState = DONE, error: PlanFailure | None = None) -> Change:
    task_id = plan.task(key).task_id
    assert task_id is not None
    change = child_ended(plan, task_id, state, error if error or state is DONE else BROKEN, now=3)
    assert change is not None
    return change


def keys(tasks: Sequence[PlanTask]) -> list[str]:
    return [task.key for task in tasks]


def states(plan: Plan) -> dict[str, str]:
    return {task.key: task.state.value for task in plan.tasks}


# -- what makes a plan -------------------------------------------------------------------------------------


def test_agents_are_found_by_name_or_id_and_repeated_dependencies_count_once() -> None:
    first, second = planned([new("a"), new("b", "a", "a", agent="writer")], AGENTS.get)
    assert (first.agent_id, second.agent_id) == ("agent_1", "agent_2")
    assert second.depends_on == ("a",)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([], "1 to 20"),
        ([new(f"t{n}") for n in range(21)], "1 to 20"),
        ([new("a"), new("a")], "two tasks have the key 'a'"),
        ([new("a", "a")], "depends on itself"),
        ([new("a", "x")], "'x', which is no task"),
        ([new("a", agent="nobody")], "'nobody': this project has no such agent"),
        ([new("a", "c"), new("b", "a"), new("c", "b"), new("d")], "in a circle: 'a', 'b', 'c'"),
    ],
)
def test_what_makes_no_plan_is_refused_with_the_reason(tasks: list[NewPlanTask], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        planned(tasks, AGENTS.get)


@pytest.mark.parametrize("key", ["", "A", "a b", "-a", "a" * 41, "a\n", "ä", "a#"])
def test_a_key_is_a_short_slug(key: str) -> None:
    with pytest.raises(ValidationError):
        new(key)
    with pytest.raises(InvalidRequest, match="is no key"):
        planned([NewPlanTask.model_construct(key=key, agent="coder", instructions="x", depends_on=())], AGENTS.get)


@pytest.mark.parametrize("text", ["", " \n", "a\x00b", "\ud83d", "x" * (MAX_INSTRUCTIONS_BYTES + 1), "ä" * 5000])
def test_instructions_are_bounded_text(text: str) -> None:
    with pytest.raises(ValidationError):
        new("a", instructions=text)
    with pytest.raises(InvalidRequest, match="the task 'a'"):
        planned([NewPlanTask.model_construct(key="a", agent="coder", instructions=text, depends_on=())], AGENTS.get)


def test_a_request_for_a_plan_knows_no_other_fields() -> None:
    assert NewPlan(goal="x").execute is False
    for wrong in ({}, {"goal": " "}, {"goal": "x", "tasks": []}, {"goal": "x", "plan": 1}):
        with pytest.raises(ValidationError):
            NewPlan.model_validate(wrong)


# -- what becomes of it ------------------------------------------------------------------------------------


def test_a_plan_begins_with_all_tasks_that_wait_for_nothing() -> None:
    change = begun(new("a"), new("b"), new("c", "a", "b"))
    assert keys(change.ready) == ["a", "b"]
    assert keys(change.made) == ["a", "b", "c"]
    assert states(change.plan) == {"a": "ready", "b": "ready", "c": "waiting"}
    assert len({task.task_id for task in change.made}) == 3
    assert (change.plan.state, change.plan.version, change.over) == (PlanState.RUNNING, 2, False)
    with pytest.raises(Conflict, match="running"):
        begin(change.plan, "task_9", make_id=ids(), now=3)


def test_a_task_is_ready_when_the_last_of_its_dependencies_has_completed() -> None:
    plan = begun(new("a"), new("b"), new("c", "a", "b")).plan
    first = end(plan, "b")
    assert (keys(first.ready), first.over) == ([], False)
    second = end(first.plan, "a")
    assert (keys(second.ready), second.over) == (["c"], False)
    last = end(second.plan, "c")
    assert (last.ready, last.over) == ((), True)
    assert last.plan.version == 5
    assert last.plan.state is PlanState.RUNNING


def test_a_failed_task_fails_what_waits_for_it_and_what_waits_for_that_and_says_why() -> None:
    plan = begun(new("a"), new("b", "a"), new("c", "b"), new("d")).plan
    change = end(plan, "a", FAILED)
    assert keys(change.dropped) == ["b", "c"]
    b, c = change.plan.task("b").error, change.plan.task("c").error
    assert b is not None
    assert c is not None
    assert (b.code, c.code) == ("dependency_failed", "dependency_failed")
    assert "'a', which failed: the model refused" in b.message
    assert "'b', which failed" in c.message
    assert change.over is False
    assert end(change.plan, "d").over is True


def test_a_canceled_task_fails_what_waits_for_it() -> None:
    plan = begun(new("a"), new("b", "a")).plan
    change = end(plan, "a", PlanTaskState.CANCELED)
    assert states(change.plan) == {"a": "canceled", "b": "failed"}
    error = change.plan.task("b").error
    assert error is not None
    assert "was canceled" in error.message
    assert change.over is True


def test_an_end_that_is_told_twice_or_late_changes_nothing() -> None:
    plan = begun(new("a"), new("b")).plan
    task_id = plan.task("a").task_id
    assert task_id is not None
    after = end(plan, "a").plan
    assert child_ended(after, task_id, FAILED, BROKEN, now=9) is None
    assert child_ended(after, "task_of_an_earlier_try", DONE, None, now=9) is None


def test_a_canceled_plan_wakes_nobody_and_still_learns_what_came_of_its_tasks() -> None:
    plan = begun(new("a"), new("b", "a"), new("c")).plan
    change = cancel(plan, "Canceled by the user.", now=4)
    assert keys(change.dropped) == ["b"]
    assert states(change.plan) == {"a": "ready", "b": "canceled", "c": "ready"}
    assert (change.plan.state, change.plan.ended_at) == (PlanState.CANCELED, 4)
    late = end(change.plan, "a")
    assert (late.ready, late.dropped, late.over) == ((), (), False)
    assert states(late.plan)["a"] == "completed"
    assert late.plan.state is PlanState.CANCELED
    with pytest.raises(Conflict, match="canceled"):
        cancel(change.plan, "again", now=5)
    with pytest.raises(Conflict, match="has not stopped yet"):
        check_retry(change.plan, "c")


def test_a_proposed_plan_can_be_canceled_and_then_not_be_executed() -> None:
    change = cancel(proposed(new("a")), "No.", now=2)
    assert change.dropped == ()
    with pytest.raises(Conflict, match="only a proposed plan"):
        begin(change.plan, "task_9", make_id=ids(), now=3)


def test_a_retry_makes_the_task_and_what_failed_because_of_it_anew() -> None:
    plan = begun(new("a"), new("b", "a"), new("c", "b"), new("d"), new("e", "d")).plan
    plan = end_plan(end(end(end(plan, "d").plan, "e").plan, "a", FAILED).plan, PlanState.COMPLETED, now=5).plan
    change = retry(plan, "a", "task_1", make_id=ids("task_r"), now=6)
    assert keys(change.made) == ["a", "b", "c"]
    assert keys(change.ready) == ["a"]
    assert states(change.plan) == {"a": "ready", "b": "waiting", "c": "waiting", "d": "completed", "e": "completed"}
    assert change.plan.task("a").task_id == "task_r1"
    assert change.plan.task("a").error is None
    assert (change.plan.state, change.plan.task_id, change.plan.version) == (PlanState.RUNNING, "task_1", 7)
    assert change.plan.ended_at is None


def test_a_retry_leaves_what_also_waits_for_another_failed_task() -> None:
    plan = begun(new("a"), new("b"), new("c", "a", "b")).plan
    plan = end_plan(end(end(plan, "a", FAILED).plan, "b", FAILED).plan, PlanState.FAILED, now=5).plan
    change = retry(plan, "a", "task_1", make_id=ids("task_r"), now=6)
    assert states(change.plan) == {"a": "ready", "b": "failed", "c": "failed"}
    assert end(change.plan, "a").over is True


def test_a_retry_is_refused_while_the_plan_runs_for_what_completed_and_for_what_lacks_an_input() -> None:
    running = begun(new("a"), new("b", "a"), new("c")).plan
    with pytest.raises(Conflict, match="running"):
        check_retry(running, "a")
    over = end_plan(end(end(running, "a", FAILED).plan, "c").plan, PlanState.COMPLETED, now=5).plan
    with pytest.raises(Conflict, match="has completed"):
        check_retry(over, "c")
    with pytest.raises(Conflict, match="retry that one"):
        check_retry(over, "b")
    with pytest.raises(NotFound):
        check_retry(over, "x")


@st.composite
def graphs(draw: st.DrawFn) -> list[NewPlanTask]:
    count = draw(st.integers(1, 12))
    tasks = []
    for number in range(count):
        before = [f"t{other}" for other in range(number)]
        depends_on = draw(st.lists(st.sampled_from(before), unique=True, max_size=4)) if before else []
        tasks.append(new(f"t{number}", *depends_on))
    return draw(st.permutations(tasks))


@given(graphs(), st.randoms(use_true_random=False))
def test_every_plan_comes_to_its_end_whatever_its_tasks_come_to(tasks: list[NewPlanTask], dice: random.Random) -> None:
    change = begun(*tasks)
    plan, on_the_bus, ended = change.plan, keys(change.ready), set[str]()
    over = change.over
    while on_the_bus:
        assert not over
        key = dice.choice(on_the_bus)
        on_the_bus.remove(key)
        state = dice.choice([DONE, DONE, FAILED, PlanTaskState.CANCELED])
        before = plan.version
        change = end(plan, key, state)
        plan, over = change.plan, change.over
        assert plan.version == before + 1
        ended |= {key, *keys(change.dropped)}
        on_the_bus += keys(change.ready)
        # Whatever is let in has all its inputs; whatever is dropped lacks one.
        for task in change.ready:
            assert all(plan.task(other).state is DONE for other in task.depends_on)
        for task in change.dropped:
            assert any(plan.task(other).state in {FAILED, PlanTaskState.CANCELED} for other in task.depends_on)
    assert over
    assert ended == {task.key for task in tasks}
    for task in plan.tasks:
        assert task.state.ended
        if task.state is DONE:
            assert all(plan.task(other).state is DONE for other in task.depends_on)
    # And once more from every task that may be retried, until all have completed.
    plan = end_plan(plan, PlanState.COMPLETED, now=7).plan
    fresh = ids("task_r")
    for _ in range(len(tasks)):
        broken = [task.key for task in plan.tasks if task.state is not DONE]
        if not broken:
            return
        first = next(
            key for key in broken if all(plan.task(other).state is DONE for other in plan.task(key).depends_on)
        )
        change = retry(plan, first, "task_1", make_id=fresh, now=8)
        plan, on_the_bus = change.plan, keys(change.ready)
        while on_the_bus:
            change = end(plan, on_the_bus.pop())
            plan, on_the_bus = change.plan, on_the_bus + keys(change.ready)
        assert change.over
        plan = end_plan(plan, PlanState.COMPLETED, now=9).plan
    assert all(task.state is DONE for task in plan.tasks)
