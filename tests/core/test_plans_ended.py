"""Plans that are canceled, tried again, deleted with their session, cleaned up and reset."""

import asyncio

import pytest

from tests.core.planning import TENANT, A, B, Planned, ask, large, make_plan, part, running, states
from tests.memory_stack import MemoryStack, says
from worker_space.errors import Conflict, ModelError, NotFound
from worker_space.ids import new_id
from worker_space.models import ModelRequest
from worker_space.plan_requests import PlanRequests
from worker_space.plans import NewPlan
from worker_space.tasks import TaskState
from worker_space.tenancy import Key

pytestmark = pytest.mark.anyio


@pytest.fixture
async def space() -> Planned:
    return await Planned.make(MemoryStack())


@pytest.fixture
def requests(space: Planned) -> PlanRequests:
    return space.stack.parts.services.plan_requests


# -- canceled ------------------------------------------------------------------------------------------------


async def test_canceling_a_plan_ends_its_message_and_what_waits_at_once(space: Planned, requests: PlanRequests) -> None:
    plan = await running(space, A, B, part("c", "analyst"))
    space.model.script = [says("A")]
    await space.stack.work(TENANT, most=1)
    after = await requests.cancel(TENANT, plan.id)
    assert after.state == "canceled"
    answer = (await space.messages())[-1]
    assert answer.status == "canceled"
    assert "the plan's task 'a'" in answer.content
    after = await space.plan(plan.id)
    assert states(after) == {"a": "completed", "b": "canceled", "c": "canceled"}
    for key in ("b", "c"):
        assert (await space.task(after.task(key).task_id or ""))["state"] == "canceled"
    assert await space.open_tasks() == 0
    requests_before = len(space.model.requests)
    await space.stack.work(TENANT)
    assert len(space.model.requests) == requests_before
    with pytest.raises(Conflict, match="canceled"):
        await requests.cancel(TENANT, plan.id)


async def test_a_task_that_runs_while_its_plan_is_canceled_stops_and_wakes_nobody(
    space: Planned, requests: PlanRequests
) -> None:
    plan = await running(space, A, B)

    async def cancel(_: ModelRequest) -> None:
        space.model.before = None
        await requests.cancel(TENANT, plan.id)

    space.model.before = cancel
    space.model.script = [says("A")]
    await space.stack.work(TENANT)
    after = await space.plan(plan.id)
    assert (after.state, states(after)) == ("canceled", {"a": "canceled", "b": "canceled"})
    assert len(space.model.requests) == 2
    assert len(await space.messages()) == 2
    assert await space.open_tasks() == 0
    coder = await space.stack.records.get(TENANT, Key.runtime((await space.agent("coder")).id)) or {}
    assert not coder.get("running")


async def test_canceling_one_task_of_a_plan_fails_what_waits_for_it_and_leaves_the_rest(space: Planned) -> None:
    plan = await running(space, A, B, part("c", "analyst"))
    bus = space.stack.parts.services.collaborators.bus
    await bus.cancel_task(TENANT, plan.task("a").task_id or "")
    space.model.script = [says("C"), says("only c")]
    await space.stack.work(TENANT)
    after = await space.plan(plan.id)
    assert states(after) == {"a": "canceled", "b": "failed", "c": "completed"}
    assert (await space.messages())[-1].content == "only c"


async def test_canceling_a_task_that_waits_for_others_keeps_them_running(space: Planned) -> None:
    plan = await running(space, A, B)
    await space.stack.parts.services.collaborators.bus.cancel_task(TENANT, plan.task("b").task_id or "")
    space.model.script = [says("A"), says("only a")]
    await space.stack.work(TENANT)
    assert states(await space.plan(plan.id)) == {"a": "completed", "b": "canceled"}
    assert (await space.messages())[-1].content == "only a"


async def test_canceling_while_the_model_decides_or_composes_ends_it_without_an_answer(
    space: Planned, requests: PlanRequests
) -> None:
    async def cancel(request: ModelRequest) -> None:
        if not request.tools:
            space.model.before = None
            assert (await requests.cancel(TENANT, plan.id)).state == "running"

    plan = await running(space, part("a", "planner"), part("b", "planner"))
    registry = space.stack.parts.services.collaborators.registry
    assert (await registry.get(TENANT, "planner")).config.tools
    space.model.before = cancel
    space.model.script = [says("A"), says("B"), says("answer")]
    await space.stack.work(TENANT)
    assert (await space.plan(plan.id)).state == "canceled"
    answer = (await space.messages())[-1]
    assert answer.status == "canceled"
    assert "the plan's task 'a'; the plan's task 'b'" in answer.content


async def test_a_proposed_plan_is_canceled_at_once(space: Planned, requests: PlanRequests) -> None:
    space.model.script = [make_plan(A, B)]
    reply = await ask(space, NewPlan(goal="g", session_id=space.session_id))
    order = await requests.execute(TENANT, reply.plan_id, wait_seconds=0)
    assert (await requests.cancel(TENANT, reply.plan_id)).state == "canceled"
    await space.stack.work(TENANT)
    task = await space.task(order.task.id)
    assert (task["state"], task["error"]["code"]) == ("failed", "plan_conflict")


async def test_an_order_that_is_canceled_before_its_turn_leaves_the_plan_as_it_was(
    space: Planned, requests: PlanRequests
) -> None:
    space.model.script = [make_plan(A, B)]
    reply = await ask(space, NewPlan(goal="g", session_id=space.session_id))
    order = await requests.execute(TENANT, reply.plan_id, wait_seconds=0)
    await space.stack.parts.services.collaborators.bus.cancel_task(TENANT, order.task.id)
    assert (await space.plan(reply.plan_id)).state == "proposed"


async def test_an_order_that_came_to_nothing_can_be_given_again(space: Planned, requests: PlanRequests) -> None:
    space.model.script = [make_plan(A, B)]
    reply = await ask(space, NewPlan(goal="g", session_id=space.session_id))
    for _ in range(2):
        order = await requests.execute(TENANT, reply.plan_id, wait_seconds=0)
        await space.stack.parts.services.collaborators.bus.cancel_task(TENANT, order.task.id)
    both = await asyncio.gather(*(requests.execute(TENANT, reply.plan_id, wait_seconds=0) for _ in range(2)))
    assert len({order.task.id, *(each.task.id for each in both)}) == 2
    space.model.script = [says("A"), says("B"), says("answer")]
    await space.stack.work(TENANT)
    assert (await space.plan(reply.plan_id)).state == "completed"


async def test_a_large_plan_is_canceled_with_its_approval(space: Planned, requests: PlanRequests) -> None:
    plan = await large(space)
    assert (await requests.cancel(TENANT, plan.id)).state == "canceled"
    approval = await space.stack.parts.services.approvals.get(TENANT, plan.approval_id or "")
    assert approval.state.value == "canceled"
    assert (await space.task(plan.task_id))["state"] == "canceled"


# -- tried again ---------------------------------------------------------------------------------------------


async def test_a_retry_runs_the_failed_task_and_its_dependents_and_answers_anew(
    space: Planned, requests: PlanRequests
) -> None:
    plan = await running(space, A, B, part("c", "analyst"))
    space.model.script = [ModelError("refused"), says("C"), says("partly")]
    await space.stack.work(TENANT)
    failed = await space.plan(plan.id)
    assert states(failed) == {"a": "failed", "b": "failed", "c": "completed"}
    reply = await requests.retry(TENANT, plan.id, "a", wait_seconds=0)
    space.model.script = [says("A"), says("B"), says("all")]
    await space.stack.work(TENANT)
    after = await space.plan(plan.id)
    assert (after.state, set(states(after).values())) == ("completed", {"completed"})
    assert after.task_id == reply.task.id
    assert after.task("a").task_id != failed.task("a").task_id
    assert after.task("c").task_id == failed.task("c").task_id
    assert '"output": "C"' in space.model.requests[-1].system_prompt
    assert [message.content for message in await space.messages()] == [
        "the goal",
        "partly",
        "Retry the task 'a' of the plan.",
        "all",
    ]
    assert (await space.task(failed.task("a").task_id or ""))["state"] == "failed"


async def test_a_retry_is_refused_while_the_plan_runs_and_for_what_has_completed(
    space: Planned, requests: PlanRequests
) -> None:
    plan = await running(space, A, B)
    with pytest.raises(Conflict, match="running"):
        await requests.retry(TENANT, plan.id, "a", wait_seconds=0)
    space.model.script = [says("A"), ModelError("refused"), says("answer")]
    await space.stack.work(TENANT)
    with pytest.raises(Conflict, match="has completed"):
        await requests.retry(TENANT, plan.id, "a", wait_seconds=0)
    with pytest.raises(NotFound):
        await requests.retry(TENANT, plan.id, "x", wait_seconds=0)
    with pytest.raises(NotFound):
        await requests.retry(TENANT, new_id("plan"), "a", wait_seconds=0)


async def test_a_canceled_plan_goes_on_where_it_was_stopped(space: Planned, requests: PlanRequests) -> None:
    plan = await running(space, A, B)
    space.model.script = [says("A")]
    await space.stack.work(TENANT, most=1)
    await requests.cancel(TENANT, plan.id)
    await requests.retry(TENANT, plan.id, "b", wait_seconds=0)
    space.model.script = [says("B"), says("all")]
    await space.stack.work(TENANT)
    assert states(await space.plan(plan.id)) == {"a": "completed", "b": "completed"}
    assert '"output": "A"' in space.model.requests[-1].system_prompt


# -- swept away ----------------------------------------------------------------------------------------------


async def test_a_deleted_session_leaves_nothing_of_its_plans(space: Planned) -> None:
    plan = await running(space, A, B)
    space.model.script = [ModelError("refused")]
    await space.stack.work(TENANT)
    await space.stack.parts.services.plan_requests.retry(TENANT, plan.id, "a", wait_seconds=0)
    await space.stack.work(TENANT, most=1)
    await space.stack.parts.services.collaborators.sessions.delete(TENANT, space.session_id)
    for kind in (Key.plans(), Key.tasks(), Key("STEP#"), Key("MESSAGE#"), Key("EVENT#")):
        assert (await space.stack.records.query(TENANT, kind)).items == []
    assert await space.open_tasks() == 0
    await space.stack.work(TENANT)


async def test_a_cleanup_cancels_plans_and_their_tasks(space: Planned) -> None:
    plan = await running(space, A, B, part("c", "analyst"))
    cleanup = space.stack.parts.services.collaborators.cleanup
    report = await cleanup.cleanup(TENANT, seconds=1)
    assert not report.still_running
    after = await space.plan(plan.id)
    assert after.state.ended
    assert (await space.task(plan.task_id))["state"] == "canceled"
    assert await space.open_tasks() == 0


async def test_a_reset_ends_plans_and_nothing_late_comes_of_them(space: Planned) -> None:
    plan = await running(space, A, B)
    reset = space.stack.parts.services.collaborators.reset

    async def meanwhile(_: ModelRequest) -> None:
        space.model.before = None
        await reset.reset(TENANT, seconds=1)

    space.model.before = meanwhile
    await asyncio.gather(space.stack.work(TENANT), return_exceptions=True)
    await space.stack.work(TENANT)
    items = (await space.stack.records.query(TENANT, Key.tasks())).items
    assert {TaskState(item["state"]).ended for item in items} == {True}
    assert (await space.plan(plan.id)).state.ended
    assert await space.open_tasks() == 0
    assert (await space.messages())[-1].status == "canceled"
