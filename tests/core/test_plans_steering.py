"""Plans that are proposed, executed and confirmed: by the user's order, and by the user's word."""

import asyncio

import pytest

from tests.core.planning import TENANT, A, B, Planned, ask, large, make_plan, never, part, running
from tests.memory_stack import MemoryStack, says, settings
from worker_space.agents import AgentChanges
from worker_space.errors import Conflict, InvalidRequest, NotFound
from worker_space.idempotency import Repeat
from worker_space.models import ModelRequest
from worker_space.plan_requests import PlanRequests
from worker_space.plans import NewPlan, NewPlanTask
from worker_space.records import Update
from worker_space.tenancy import Key

pytestmark = pytest.mark.anyio


@pytest.fixture
async def space() -> Planned:
    return await Planned.make(MemoryStack())


@pytest.fixture
def requests(space: Planned) -> PlanRequests:
    return space.stack.parts.services.plan_requests


# -- proposed, executed --------------------------------------------------------------------------------------


async def test_a_plan_that_is_asked_for_is_only_proposed_and_runs_when_it_is_executed(
    space: Planned, requests: PlanRequests
) -> None:
    space.model.script = [make_plan(A, B)]
    reply = await ask(space, NewPlan(goal="the goal", session_id=space.session_id))
    assert reply.plan is not None
    assert reply.plan.state == "proposed"
    assert [task.task_id for task in reply.plan.tasks] == [None, None]
    assert [tool.name for tool in space.model.requests[0].tools] == ["make_plan"]
    proposal = (await space.messages())[-1]
    assert "**a** (coder): do a" in proposal.content
    assert "**b** (writer, after a): do b" in proposal.content
    assert await space.open_tasks() == 0
    await space.send("something else", target="coder")
    await space.stack.work(TENANT)
    await requests.execute(TENANT, reply.plan_id, wait_seconds=0)
    space.model.script = [says("A"), says("B"), says("the answer")]
    await space.stack.work(TENANT)
    assert (await space.plan(reply.plan_id)).state == "completed"
    assert [message.content for message in await space.messages()][-2:] == ["Execute the plan.", "the answer"]
    # The answer is composed for the goal, not for the order to execute.
    assert space.model.requests[-1].turns[-1].content == "the goal"
    with pytest.raises(Conflict, match="completed"):
        await requests.execute(TENANT, reply.plan_id, wait_seconds=0)


async def test_a_plan_of_the_users_own_needs_no_model_and_no_approval(space: Planned) -> None:
    tasks = tuple(NewPlanTask(key=f"t{n}", agent="coder", instructions=f"do {n}") for n in range(20))
    reply = await ask(space, NewPlan(goal="much", tasks=tasks, execute=True))
    assert space.model.requests == []
    assert reply.plan is not None
    assert reply.plan.state == "running"
    assert await space.stack.queues.depth(TENANT, 1) == 20
    await space.stack.work(TENANT)
    assert (await space.plan(reply.plan_id)).state == "completed"


async def test_tasks_that_make_no_plan_are_refused_before_anything_is_stored(
    space: Planned, requests: PlanRequests
) -> None:
    for wrong in ("nobody", "agent_00000000000000000000000000"):
        task = NewPlanTask(key="a", agent=wrong, instructions="x")
        with pytest.raises(InvalidRequest, match="no such agent"):
            await requests.create(TENANT, NewPlan(goal="x", tasks=(task,)), wait_seconds=0, repeat=never)
    with pytest.raises(NotFound):
        await requests.create(TENANT, NewPlan(goal="x", session_id="x"), wait_seconds=0, repeat=never)
    assert (await space.stack.records.query(TENANT, Key.tasks())).items == []


async def test_large_instructions_reach_the_orchestrator_whole(space: Planned) -> None:
    tasks = tuple(NewPlanTask(key=f"t{n}", agent="coder", instructions=f"{n}" * 8_000) for n in range(9))
    reply = await ask(space, NewPlan(goal="much", tasks=tasks, execute=True))
    assert reply.plan is not None
    assert [task.instructions for task in reply.plan.tasks] == [task.instructions for task in tasks]


async def test_a_plan_begins_no_more_tasks_than_may_be_open_in_the_project() -> None:
    space = await Planned.make(MemoryStack(settings=settings(limit_open_tasks=3)))
    requests = space.stack.parts.services.plan_requests
    space.model.script = [make_plan(A, B, part("c", "coder"))]
    sent = await space.send("much")
    await space.stack.work(TENANT)
    task = await space.task(sent.task_id)
    assert (task["state"], task["error"]["code"]) == ("failed", "limit_reached")
    assert "has 1 open tasks of at most 3" in task["error"]["message"]
    assert await space.open_tasks() == 0

    space.model.script = [make_plan(A, B)]
    reply = await ask(space, NewPlan(goal="g", session_id=space.session_id))
    order = await requests.execute(TENANT, reply.plan_id, wait_seconds=0)
    other = await space.send("hello", target="coder")
    await space.stack.work(TENANT, most=1)
    assert (await space.task(order.task.id))["error"]["code"] == "limit_reached"
    await space.stack.parts.services.collaborators.bus.cancel_task(TENANT, other.task_id)
    await requests.execute(TENANT, reply.plan_id, wait_seconds=0)
    await space.stack.work(TENANT, most=2)
    assert ((await space.plan(reply.plan_id)).state, await space.open_tasks()) == ("running", 3)


async def test_a_large_proposal_leaves_the_message_s_item(space: Planned) -> None:
    tasks = tuple(NewPlanTask(key=f"t{n}", agent="coder", instructions=f"{n % 10}" * 8_000) for n in range(20))
    reply = await ask(space, NewPlan(goal="much", session_id=space.session_id, tasks=tasks))
    item = await space.stack.records.get(TENANT, Key.message(space.session_id, 1)) or {}
    assert item["content_key"].startswith(reply.task.id)
    assert "9" * 8_000 in (await space.messages())[-1].content


async def test_executing_twice_at_once_runs_the_plan_once(space: Planned, requests: PlanRequests) -> None:
    space.model.script = [make_plan(A, B)]
    reply = await ask(space, NewPlan(goal="g", session_id=space.session_id))
    both = await asyncio.gather(*(requests.execute(TENANT, reply.plan_id, wait_seconds=0) for _ in range(5)))
    assert len({each.task.id for each in both}) == 1
    space.model.script = [says("A"), says("B"), says("answer")]
    await space.stack.work(TENANT)
    assert [message.content for message in await space.messages()].count("Execute the plan.") == 1


async def test_a_repeated_request_finds_the_plan_that_it_made(space: Planned, requests: PlanRequests) -> None:
    def repeat(kind: str) -> Repeat:
        return Repeat(kind=kind, key="k", fingerprint="f")

    new = NewPlan(goal="g")
    space.model.script = [make_plan(A, B)]
    first = await requests.create(TENANT, new, wait_seconds=0, repeat=repeat)
    again = await requests.create(TENANT, new, wait_seconds=0, repeat=repeat)
    assert (first.plan_id, first.task.id) == (again.plan_id, again.task.id)
    await space.stack.work(TENANT)
    assert (await requests.create(TENANT, new, wait_seconds=0, repeat=repeat)).plan is not None
    order = repeat("execute")
    ran = await requests.execute(TENANT, first.plan_id, wait_seconds=0, repeat=order)
    space.model.script = [says("A"), says("B"), says("answer")]
    await space.stack.work(TENANT)
    assert (await requests.execute(TENANT, first.plan_id, wait_seconds=0, repeat=order)).task.id == ran.task.id


# -- the user's word -----------------------------------------------------------------------------------------


async def test_a_large_plan_waits_for_the_users_word_and_then_runs(space: Planned) -> None:
    plan = await large(space)
    task = await space.task(plan.task_id)
    assert (plan.state, task["state"]) == ("proposed", "input-required")
    approvals = space.stack.parts.services.approvals
    approval = await approvals.get(TENANT, plan.approval_id or "")
    assert (approval.kind, approval.state.value, approval.task_id) == ("plan", "pending", task["id"])
    assert [each["key"] for each in approval.arguments["tasks"]] == [f"t{n}" for n in range(9)]
    assert await space.stack.queues.depth(TENANT, 1) == 0
    await approvals.confirm(TENANT, approval.id)
    space.model.script = []
    await space.stack.work(TENANT)
    assert (await space.plan(plan.id)).state == "completed"
    assert (await space.task(task["id"]))["state"] == "completed"
    assert len([r for r in space.model.requests if r.tools and r.tools[0].name == "assign"]) == 1


@pytest.mark.parametrize(("reason", "said"), [("too much", "rejected: too much"), (None, "it was rejected")])
async def test_a_rejected_plan_ends_its_message_with_the_reason(space: Planned, reason: str | None, said: str) -> None:
    plan = await large(space)
    await space.stack.parts.services.approvals.reject(TENANT, plan.approval_id or "", reason=reason)
    await space.stack.work(TENANT)
    assert (await space.task(plan.task_id))["state"] == "canceled"
    assert said in (await space.messages())[-1].content
    assert (await space.plan(plan.id)).state == "canceled"
    assert await space.open_tasks() == 0


async def test_a_plan_that_nobody_confirms_in_time_is_canceled() -> None:
    space = await Planned.make(MemoryStack(settings=settings(approval_seconds=1)))
    plan = await large(space)
    await asyncio.sleep(1.1)
    await space.stack.parts.sweeper.sweep(seconds=5)
    await space.stack.work(TENANT)
    assert (await space.plan(plan.id)).state == "canceled"
    assert "nobody confirmed it in time" in (await space.messages())[-1].content


async def test_executing_a_plan_that_waits_for_the_users_word_is_that_word(
    space: Planned, requests: PlanRequests
) -> None:
    plan = await large(space)
    reply = await requests.execute(TENANT, plan.id, wait_seconds=0)
    assert reply.task.id == plan.task_id
    approval = await space.stack.parts.services.approvals.get(TENANT, plan.approval_id or "")
    assert approval.state.value == "confirmed"
    await space.stack.work(TENANT)
    assert (await space.plan(plan.id)).state == "completed"
    assert [message.role for message in await space.messages()] == ["user", "assistant"]


async def test_the_projects_policy_says_which_plans_ask(space: Planned) -> None:
    policy = {"ask": ["deleting"], "plan_tasks": 1}
    await space.stack.records.write(TENANT, Update(key=Key.space(), set={"policy": policy, "policy_version": 1}))
    plan = await running(space, A, B)
    assert (plan.state, (await space.task(plan.task_id))["state"]) == ("proposed", "input-required")


async def test_a_policy_that_is_tightened_while_the_model_decides_is_kept(space: Planned) -> None:
    policy = {"ask": ["deleting"], "plan_tasks": 1}

    async def tighten(_: ModelRequest) -> None:
        await space.stack.records.write(TENANT, Update(key=Key.space(), set={"policy": policy, "policy_version": 1}))

    space.model.before = tighten
    plan = await running(space, A, B)
    assert (plan.state, (await space.task(plan.task_id))["state"]) == ("proposed", "input-required")
    assert len(space.model.requests) == 1


@pytest.mark.parametrize(("most", "asks"), [(1, True), (10**12, False), (None, False)])
async def test_a_plan_that_may_cost_more_than_the_policy_lets_pass_asks(most: int | None, asks: bool) -> None:
    prices = {"openai:dear": {"input": 1_000_000, "output": 1_000_000}}
    space = await Planned.make(MemoryStack(settings=settings(prices=prices)))
    registry = space.stack.parts.services.collaborators.registry
    for name in ("coder", "writer"):
        await registry.update(TENANT, name, AgentChanges(model="openai:dear"))
    policy = {"ask": ["deleting"], "plan_cost": most}
    await space.stack.records.write(TENANT, Update(key=Key.space(), set={"policy": policy, "policy_version": 1}))
    plan = await running(space, A, B)
    assert (plan.state == "proposed") is asks


async def test_a_plan_whose_cost_nobody_knows_asks_where_the_policy_has_a_limit(space: Planned) -> None:
    registry = space.stack.parts.services.collaborators.registry
    await registry.update(TENANT, "coder", AgentChanges(model="openai:unknown"))
    policy = {"ask": ["deleting"], "plan_cost": 10**12}
    await space.stack.records.write(TENANT, Update(key=Key.space(), set={"policy": policy, "policy_version": 1}))
    assert (await running(space, A, B)).state == "proposed"
