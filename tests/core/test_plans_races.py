"""Plans under workers that die at any write, that are overtaken, and that get everything twice.

Whatever happens, each message has one answer, each task of a plan one outcome, no task begins before its inputs are
there, no agent runs more than its cap, and paid model calls stay bounded.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.core.planning import TENANT, Planned, make_plan, part
from tests.core.stages import Died, Fate
from tests.core.test_races import Died as Killed
from tests.core.test_races import MortalRecords
from tests.memory_stack import MemoryStack, says, settings
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.agents import AgentChanges
from worker_space.composition import Parts
from worker_space.errors import ClaimLost, Conflict, Unavailable
from worker_space.messages import NewSession
from worker_space.models import ModelReply, ModelRequest
from worker_space.plan_requests import PlanRequests
from worker_space.plans import Plan, PlanState
from worker_space.ports import Owner
from worker_space.records import Item, Update
from worker_space.tasks import Delivery, TaskState
from worker_space.tenancy import Key, TenantContext

TASKS = (part("a", "coder"), part("b", "analyst"), part("c", "writer", "a", "b"), part("d", "coder", "c"))


class PlanningModel:
    """Makes the same plan of every message, answers a task with its name, and composes; counts who asks."""

    def __init__(self, *, fails: frozenset[str] = frozenset(), seconds: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._fails = fails
        self._seconds = seconds
        self.calls: Counter[str] = Counter()
        self.running: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.most: Counter[str] = Counter()

    def check(self, model: str) -> None:
        pass

    async def request(
        self, tenant: TenantContext, request: ModelRequest, *, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        question = str(request.turns[-1].content)
        kind, agent = "compose", ""
        if "<agents>" in request.system_prompt:
            kind = "decide"
        elif "<results>" not in request.system_prompt:
            kind, agent = question, request.system_prompt[:24]
        with self._lock:
            self.calls[kind] += 1
            self.running[agent][kind] += 1
            # Tasks, not calls: a worker that is overtaken may still hear the model's answer to its own.
            self.most[agent] = max(self.most[agent], len(+self.running[agent]))
        try:
            await asyncio.sleep(random.uniform(0, self._seconds))
        finally:
            with self._lock:
                self.running[agent][kind] -= 1
        if kind == "decide":
            return make_plan(*(part | {"instructions": f"do {part['key']} of {question}"} for part in TASKS))
        if kind == "compose":
            return says("composed")
        if kind.startswith("do c"):
            goal = kind.removeprefix("do c of ")
            assert f"## a (coder)\n\nanswer to do a of {goal}" in request.system_prompt
            assert f"## b (analyst)\n\nanswer to do b of {goal}" in request.system_prompt
        return says(f"answer to {question}")


async def handle_one(stack: MemoryStack, parts: Parts) -> bool:
    """Work on the next message that is visible; False when there is none. Death leaves it where it is."""
    message = stack.queues.receive(TENANT, 1)
    if message is None:
        return False
    delivery = Delivery.model_validate_json(message.body)
    await parts.worker.handle(delivery, message.lease, deadline=time.monotonic() + 60)
    stack.queues.delete(message.lease)
    return True


async def work_to_the_end(stack: MemoryStack) -> None:
    """A healthy worker and a sweeper, while time passes."""
    for _ in range(12):
        stack.clock[0] += 30.0
        while await handle_one(stack, stack.parts):
            continue
        await asyncio.sleep(0)
        await stack.parts.sweeper.sweep(seconds=1)


def patient() -> MemoryStack:
    quick = settings(visibility_seconds=2, redispatch_seconds=1, worker_timeout_seconds=10, max_attempts=9)
    return MemoryStack(settings=quick, real_model=PlanningModel())


async def nothing_is_left(space: Planned) -> None:
    assert await space.open_tasks() == 0
    for runtime in (await space.stack.records.query(TENANT, Key.runtimes())).items:
        assert not runtime.get("running")
        assert not runtime.get("parked")
    session = await space.stack.records.get(TENANT, Key.session(space.session_id)) or {}
    assert "active" not in session
    for item in (await space.stack.records.query(TENANT, Key.tasks())).items:
        assert TaskState(item["state"]).ended, item
    numbers = [event.seq for event in await space.events()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.anyio
@pytest.mark.parametrize("too_late", [False, True])
async def test_a_worker_that_dies_at_any_write_costs_neither_an_answer_nor_a_task(too_late: bool) -> None:
    struck, paid_twice = 0, Counter[str]()
    for after in range(200):
        stack = patient()
        space = await Planned.make(stack)
        sent = await space.send("the goal")
        fate = Fate(after, too_late=too_late)
        doomed = stack.compose(records=fate.over(stack.records, "write"))
        try:
            while await handle_one(stack, doomed):
                continue
        except Died:
            struck += 1
        await work_to_the_end(stack)
        plan, model = await space.the_plan(), stack.ports.model
        assert isinstance(model, PlanningModel)
        assert (plan.state, {task.state.value for task in plan.tasks}) == (PlanState.COMPLETED, {"completed"})
        assert [message.content for message in await space.messages()] == ["the goal", "composed"]
        assert (await space.task(sent.task_id))["state"] == "completed"
        assert sum(model.calls.values()) <= 7
        paid_twice.update(kind for kind, count in model.calls.items() if count > 1)
        await nothing_is_left(space)
        if not fate.struck:
            break
    assert struck >= 14
    # Only an answer whose own saving failed is asked for again.
    assert max(paid_twice["decide"], paid_twice["compose"]) <= (0 if too_late else 1)


@pytest.mark.anyio
async def test_whatever_is_delivered_twice_happens_once() -> None:
    stack = patient()
    space = await Planned.make(stack)
    await space.send("the goal")
    seen: list[tuple[Delivery, str]] = []
    while (message := stack.queues.receive(TENANT, 1)) is not None:
        delivery = Delivery.model_validate_json(message.body)
        seen.append((delivery, message.body))
        await stack.parts.worker.handle(delivery, message.lease, deadline=time.monotonic() + 60)
        # The very message again, as if its deletion had been lost; and all that came before it.
        for earlier, _ in seen:
            await stack.parts.worker.handle(earlier, message.lease, deadline=time.monotonic() + 60)
        stack.queues.delete(message.lease)
    model = stack.ports.model
    assert isinstance(model, PlanningModel)
    assert set(model.calls.values()) == {1}
    assert [message.content for message in await space.messages()] == ["the goal", "composed"]
    await nothing_is_left(space)


@pytest.mark.parametrize(
    ("seed", "chance", "overtaken"), [(1, 0.0, False), (2, 0.02, False), (3, 0.05, False), (4, 0.02, True)]
)
def test_many_plans_at_once_under_workers_that_die(seed: int, chance: float, overtaken: bool) -> None:
    model = PlanningModel(seconds=0.004)
    quick = settings(visibility_seconds=2, redispatch_seconds=1, worker_timeout_seconds=10, max_attempts=9)
    stack = MemoryStack(settings=quick, real_model=model)
    spaces = asyncio.run(_start(stack, plans=6))
    stop, dice = threading.Event(), random.Random(seed)

    def worker(index: int) -> None:
        asyncio.run(_worker(stack, stop, random.Random(100 * seed + index), chance))

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(worker, index) for index in range(4)]
        try:
            asyncio.run(_until_over(stack, spaces, dice, jump=chance > 0 or overtaken))
        finally:
            stop.set()
        for each in workers:
            each.result()
    asyncio.run(_check(stack, spaces, model))


async def _start(stack: MemoryStack, *, plans: int) -> Sequence[Planned]:
    first = await Planned.make(stack)
    collaborators = stack.parts.services.collaborators
    for name in ("coder", "analyst", "writer"):
        await collaborators.registry.update(TENANT, name, AgentChanges(max_concurrency=2))
    spaces = [first]
    for _ in range(plans - 1):
        spaces.append(Planned(stack, (await collaborators.sessions.create(TENANT, NewSession())).id))
    for number, space in enumerate(spaces):
        await space.send(f"goal {number}")
    return spaces


async def _worker(stack: MemoryStack, stop: threading.Event, dice: random.Random, chance: float) -> None:
    assert isinstance(stack.records, MemoryRecords)
    parts = stack.compose(records=MortalRecords(stack.records, dice, chance))
    while not stop.is_set():
        try:
            if not await handle_one(stack, parts):
                await asyncio.sleep(0.002)
        except (Killed, ClaimLost, Unavailable):
            continue


async def _until_over(stack: MemoryStack, spaces: Sequence[Planned], dice: random.Random, *, jump: bool) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        await asyncio.sleep(0.05)
        items = (await stack.records.query(TENANT, Key.tasks())).items
        if len(items) >= 5 * len(spaces) and all(TaskState(item["state"]).ended for item in items):
            return
        if jump and dice.random() < 0.5:
            stack.clock[0] += dice.uniform(1.0, 12.0)
        await stack.parts.sweeper.sweep(seconds=1)
    raise AssertionError("tasks were left open")


async def _check(stack: MemoryStack, spaces: Sequence[Planned], model: PlanningModel) -> None:
    plans, _ = await stack.parts.services.plans.page(TENANT, limit=100, after=None)
    assert len(plans) == len(spaces)
    for plan in plans:
        states = {task.key: task.state.value for task in plan.tasks}
        assert plan.state.ended
        assert set(states.values()) <= {"completed", "failed"}
        for task in plan.tasks:
            if task.state.value == "completed":
                assert {states[key] for key in task.depends_on} <= {"completed"}
    for space in spaces:
        messages = await space.messages()
        assert [message.role for message in messages] == ["user", "assistant"]
        await nothing_is_left(space)
    assert max(count for agent, count in model.most.items() if agent) <= 2
    assert max(model.calls.values()) <= 2 * len(spaces) * stack.settings.max_attempts


@pytest.mark.anyio
async def test_ends_of_a_plans_tasks_at_the_same_moment_let_the_next_in_once() -> None:
    for _ in range(20):
        stack = patient()
        space = await Planned.make(stack)
        await space.send("the goal")
        await handle_one(stack, stack.parts)
        await asyncio.gather(*(handle_one(stack, stack.parts) for _ in range(2)))
        assert await stack.queues.depth(TENANT, 1) == 1
        await stack.work(TENANT)
        assert (await space.the_plan()).state is PlanState.COMPLETED


class SlowlyRead(MemoryRecords):
    """Between reading a plan and what is done about it, others get their turn."""

    async def get(self, owner: Owner, key: Key) -> Item | None:
        item = await super().get(owner, key)
        if key.kind == Key.plans().kind:
            await asyncio.sleep(0.005)
        return item


@pytest.mark.anyio
async def test_two_ends_that_have_read_the_same_plan_are_both_kept() -> None:
    stack = MemoryStack(records=SlowlyRead(), real_model=PlanningModel())
    space = await Planned.make(stack)
    await space.send("the goal")
    await handle_one(stack, stack.parts)
    await asyncio.gather(*(handle_one(stack, stack.parts) for _ in range(2)))
    plan = await space.the_plan()
    assert {task.key: task.state.value for task in plan.tasks} == {
        "a": "completed",
        "b": "completed",
        "c": "ready",
        "d": "waiting",
    }
    assert await stack.queues.depth(TENANT, 1) == 1
    await stack.work(TENANT)
    assert (await space.the_plan()).state is PlanState.COMPLETED


@pytest.mark.anyio
async def test_what_runs_of_a_canceled_plan_is_stopped_by_the_sweeper_if_its_canceller_died() -> None:
    stack = MemoryStack()
    space = await Planned.make(stack)
    stack.model.script = [make_plan(*TASKS), says("A"), says("B")]
    await space.send("the goal")
    await handle_one(stack, stack.parts)
    plan = await space.the_plan()

    async def cancel_and_die(_: ModelRequest) -> None:
        stack.model.before = None
        # Its first try guesses the number of the session's next event, in vain.
        fate = Fate(1, too_late=True)
        doomed = stack.compose(records=fate.over(stack.records, "write"))
        with pytest.raises(Died):
            await doomed.services.plan_requests.cancel(TENANT, plan.id)
        assert (await space.plan(plan.id)).state is PlanState.CANCELED
        await _let_time_pass(stack)
        await stack.parts.sweeper.sweep(seconds=5)

    stack.model.before = cancel_and_die
    await stack.work(TENANT)
    after = await space.plan(plan.id)
    assert {task.state.value for task in after.tasks} == {"canceled"}
    await nothing_is_left(space)


@pytest.mark.anyio
async def test_a_task_of_a_plan_that_was_canceled_asks_no_model_when_its_turn_comes() -> None:
    stack = MemoryStack()
    space = await Planned.make(stack)
    stack.model.script = [make_plan(*TASKS)]
    await space.send("the goal")
    await handle_one(stack, stack.parts)
    fate = Fate(1, too_late=True)
    doomed = stack.compose(records=fate.over(stack.records, "write"))
    with pytest.raises(Died):
        await doomed.services.plan_requests.cancel(TENANT, (await space.the_plan()).id)
    await stack.work(TENANT)
    assert len(stack.model.requests) == 1
    assert {task.state.value for task in (await space.the_plan()).tasks} == {"canceled"}
    await nothing_is_left(space)


@pytest.mark.anyio
@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_a_plan_that_is_canceled_at_any_moment_ends_once(turns: int) -> None:
    stack = patient()
    space = await Planned.make(stack)
    await space.send("the goal")
    await handle_one(stack, stack.parts)
    plan = await space.the_plan()
    requests: PlanRequests = stack.parts.services.plan_requests

    async def cancel() -> Plan | None:
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            return await requests.cancel(TENANT, plan.id)
        except Conflict:
            return None

    canceled, *_ = await asyncio.gather(cancel(), stack.work(TENANT), stack.work(TENANT))
    await work_to_the_end(stack)
    after = await space.plan(plan.id)
    assert after.state in ({PlanState.COMPLETED} if canceled is None else {PlanState.CANCELED})
    assert len(await space.messages()) == 2
    assert all(task.state.ended for task in after.tasks)
    await nothing_is_left(space)


@pytest.mark.anyio
@pytest.mark.parametrize("too_late", [False, True])
async def test_whoever_cancels_may_die_at_any_write(too_late: bool) -> None:
    for after in range(30):
        stack = patient()
        space = await Planned.make(stack)
        await space.send("the goal")
        await handle_one(stack, stack.parts)
        plan = await space.the_plan()
        fate = Fate(after, too_late=too_late)
        doomed = stack.compose(records=fate.over(stack.records, "write"))
        with contextlib.suppress(Died):
            await doomed.services.plan_requests.cancel(TENANT, plan.id)
        canceled = (await space.plan(plan.id)).state is PlanState.CANCELED
        stack.clock[0] += 200
        await _let_time_pass(stack)
        await work_to_the_end(stack)
        after_all = await space.plan(plan.id)
        assert after_all.state is (PlanState.CANCELED if canceled else PlanState.COMPLETED)
        assert all(task.state.ended for task in after_all.tasks)
        await nothing_is_left(space)
        if not fate.struck:
            return
    raise AssertionError("it never came to its end")


async def _let_time_pass(stack: MemoryStack) -> None:
    """What is due in a minute is due now."""
    for item in (await stack.records.query(TENANT, Key.tasks())).items:
        if "due_at" in item and TaskState(item["state"]).ended:
            await stack.records.write(TENANT, Update(key=Key.task(item["id"]), set={"due_at": 1}))
