"""A reset ends everything that is open, also what runs; who works on it finds that it is not its own any more."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.core.planning import Planned, make_plan, part
from tests.core.stages import TENANT, Died, Fate, due_now, long_unused, new_project, send, space_of, state_of
from tests.memory_stack import MemoryStack, calls, says
from worker_space.agents import AgentConfig
from worker_space.bus import Sent
from worker_space.errors import ClaimLost, NotFound, Unavailable
from worker_space.ledger import Refusal
from worker_space.manager import WorkerSpaceManager
from worker_space.models import ModelRequest
from worker_space.projects import SpaceState
from worker_space.records import Page, Update
from worker_space.reset import ResetReport
from worker_space.space import UserWorkerSpace
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack()
    await new_project(stack)
    return stack


def _space(stack: MemoryStack, parts: Any = None) -> UserWorkerSpace:
    spaces = WorkerSpaceManager((parts or stack.parts).services.collaborators)
    return spaces.get_or_create(TENANT.user_id, TENANT.project_id)


async def _statuses(stack: MemoryStack, session: str) -> list[str]:
    sessions = stack.parts.services.collaborators.sessions
    messages, _ = await sessions.messages(TENANT, session, limit=99, after=None)
    return [message.status for message in messages if message.role == "assistant"]


async def _nothing_is_open(stack: MemoryStack) -> None:
    space = await space_of(stack)
    assert space["open_tasks"] == 0
    assert "resetting" not in space
    for item in (await stack.records.query(TENANT, Key.runtimes())).items:
        assert not {"running", "parked", "waiting"} & item.keys()
        assert not any(name.startswith("slot:") for name in item)
    for item in (await stack.records.query(TENANT, Key.sessions())).items:
        assert not {"active", "waiting"} & item.keys()
    for item in (await stack.records.query(TENANT, Key.tasks())).items:
        assert item["state"] in {"completed", "failed", "canceled"}
        # The end of a plan is looked at once more: whoever ended it may have died before it stopped all of its tasks.
        assert "due_at" not in item or "plan_id" in item


async def test_queued_running_parked_and_waiting_tasks_all_end_as_canceled(stack: MemoryStack) -> None:
    await stack.parts.services.collaborators.registry.create(
        TENANT, AgentConfig(name="slow", system_prompt="x", max_concurrency=1)
    )
    go_on, asked = asyncio.Event(), asyncio.Event()

    async def hold(_: ModelRequest) -> None:
        asked.set()
        await go_on.wait()

    stack.model.before = hold
    running = await send(stack, "running", agent="slow")
    working = asyncio.create_task(stack.work(TENANT, most=1))
    await asked.wait()
    parked = await send(stack, "parked", agent="slow")
    queued = await send(stack, "queued")
    waiting = await send(stack, "waiting", session=queued.session_id)
    report = await _space(stack).reset()
    assert report == ResetReport(canceled_tasks=4, complete=True, cache_cleared=True, state=SpaceState.DORMANT)
    for sent in (running, parked, queued, waiting):
        assert await state_of(stack, sent.task_id) == "canceled"
        assert set(await _statuses(stack, sent.session_id)) == {"canceled"}
    await _nothing_is_open(stack)
    assert await stack.queues.generations(TENANT) == []
    assert await stack.cache.load(TENANT) == {}
    go_on.set()
    with contextlib.suppress(ClaimLost):
        await working


async def test_the_answer_of_a_worker_that_ends_late_does_not_appear(stack: MemoryStack) -> None:
    go_on, asked = asyncio.Event(), asyncio.Event()

    async def hold(_: ModelRequest) -> None:
        asked.set()
        await go_on.wait()

    stack.model.before = hold
    sent = await send(stack)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    working = asyncio.create_task(
        stack.parts.worker.handle(Delivery.model_validate_json(message.body), message.lease, deadline=1e12)
    )
    await asked.wait()
    await _space(stack).reset()
    go_on.set()
    with pytest.raises(ClaimLost):
        await working
    assert await _statuses(stack, sent.session_id) == ["canceled"]
    assert await stack.memory.remains(TENANT) <= 5  # collections, and no entry of this task
    await _nothing_is_open(stack)


async def test_the_user_reads_what_a_running_task_had_done(stack: MemoryStack) -> None:
    go_on, asked = asyncio.Event(), asyncio.Event()

    async def hold(request: ModelRequest) -> None:
        if len(request.turns) > 1:
            asked.set()
            await go_on.wait()

    stack.model.before = hold
    stack.model.script = [calls(("write_file", {"path": "a.txt", "content": "x"}))]
    sent = await send(stack)
    working = asyncio.create_task(stack.work(TENANT))
    await asked.wait()
    await _space(stack).reset()
    sessions = stack.parts.services.collaborators.sessions
    (_, answer), _ = await sessions.messages(TENANT, sent.session_id, limit=9, after=None)
    assert "was reset" in answer.content
    assert "write_file a.txt" in answer.content
    assert await stack.files.head(TENANT, "a.txt") is not None
    go_on.set()
    with contextlib.suppress(ClaimLost):
        await working


async def test_a_task_that_waits_for_the_users_word_ends_and_its_approval_with_it(stack: MemoryStack) -> None:
    await stack.files.write(TENANT, "old.txt", b"x")
    stack.model.script = [calls(("delete_file", {"path": "old.txt"}))]
    sent = await send(stack)
    await stack.work(TENANT)
    assert (await _space(stack).reset()).canceled_tasks == 1
    assert await state_of(stack, sent.task_id) == "canceled"
    approvals, _ = await stack.parts.services.approvals.page(TENANT, limit=9, after=None)
    assert [approval.state.value for approval in approvals] == ["canceled"]
    assert await stack.files.head(TENANT, "old.txt") is not None
    await _nothing_is_open(stack)


@pytest.mark.parametrize("how", ["reset", "cleanup"])
async def test_a_plan_ends_with_all_its_tasks(how: str) -> None:
    planned = await Planned.make(MemoryStack())
    stack = planned.stack
    stack.model.script = [make_plan(part("a", "coder"), part("b", "writer"), part("c", "coder", "a", "b"))]
    sent = await planned.send("the goal")
    await stack.work(TENANT, most=1)
    assert await state_of(stack, sent.task_id) == "delegated"
    report = await (_space(stack).reset() if how == "reset" else _space(stack).cleanup(seconds=0))
    assert report.canceled_tasks >= 1
    assert report.state is SpaceState.DORMANT
    plan = await planned.the_plan()
    assert plan.state.value == "canceled"
    assert {task.state.value for task in plan.tasks} == {"canceled"}
    assert await _statuses(stack, planned.session_id) == ["canceled"]
    await _nothing_is_open(stack)


async def test_after_a_reset_everything_works_again(stack: MemoryStack) -> None:
    await stack.files.write(TENANT, "main.py", b"x")
    before = await send(stack, "one")
    await stack.work(TENANT)
    lost = await send(stack, "two", session=before.session_id)
    epoch = (await space_of(stack))["epoch"]
    await _space(stack).reset()
    assert (await space_of(stack))["epoch"] == epoch + 1
    stack.model.script = [says("three")]
    after = await send(stack, "three", session=before.session_id)
    await stack.work(TENANT, generation=2)
    assert await state_of(stack, lost.task_id) == "canceled"
    assert await state_of(stack, after.task_id) == "completed"
    assert await _statuses(stack, before.session_id) == ["ok", "canceled", "ok"]
    assert (await space_of(stack))["open_tasks"] == 0
    assert await stack.files.head(TENANT, "main.py") is not None


async def test_an_old_delivery_cannot_be_begun_after_a_reset(stack: MemoryStack) -> None:
    await send(stack)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    await _space(stack).reset()
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")
    for _ in range(2):
        refusal = await stack.parts.services.ledger.claim(Delivery.model_validate_json(message.body), agent)
        assert isinstance(refusal, Refusal)
        # Not even now that the space is awake again.
        await send(stack)


async def test_a_reset_of_what_sleeps_or_is_missing_does_no_harm(stack: MemoryStack) -> None:
    report = await _space(stack).reset()
    assert report == ResetReport(canceled_tasks=0, complete=True, cache_cleared=True, state=SpaceState.DORMANT)
    assert await _space(stack).reset() == report
    sent = await send(stack)
    await stack.work(TENANT)
    assert await state_of(stack, sent.task_id) == "completed"
    spaces = WorkerSpaceManager(stack.parts.services.collaborators)
    with pytest.raises(NotFound):
        await spaces.get_or_create("alice", "nobodys").reset()


async def test_no_message_is_accepted_while_a_reset_is_half_done(stack: MemoryStack) -> None:
    await send(stack)
    fate = Fate(1)
    with pytest.raises(Died):
        await _space(stack, stack.compose(records=fate.over(stack.records, "write"))).reset()
    assert (await space_of(stack))["resetting"] is True
    with pytest.raises(Unavailable):
        await send(stack)


@pytest.mark.parametrize("by", ["sweeper", "second reset"])
@pytest.mark.parametrize("too_late", [False, True])
async def test_whatever_step_a_reset_dies_at_it_is_ended(by: str, too_late: bool) -> None:
    steps = 0
    while True:
        stack = MemoryStack()
        await new_project(stack)
        first = await send(stack, "one")
        await send(stack, "two", session=first.session_id)
        await send(stack, "three")
        fate = Fate(steps, too_late=too_late)
        parts = stack.compose(
            records=fate.over(stack.records, "write"),
            queues=fate.over(stack.queues, "release"),
            cache=fate.over(stack.cache, "clear"),
        )
        try:
            await _space(stack, parts).reset()
        except Died:
            assert fate.struck
        space = await space_of(stack)
        if by == "second reset":
            assert (await _space(stack).reset()).complete
        elif space["state"] != "dormant":
            if space["epoch"] == 1:
                # It died before the first write took effect: nothing has happened, and nobody was told otherwise.
                await _space(stack).reset()
            else:
                await due_now(stack)
                await stack.parts.sweeper.sweep(seconds=5)
        assert (await space_of(stack))["state"] == "dormant"
        assert await stack.queues.generations(TENANT) == []
        await _nothing_is_open(stack)
        assert await _statuses(stack, first.session_id) == ["canceled", "canceled"]
        if not fate.struck:
            break
        steps += 1
    assert steps >= 6


async def test_a_reset_that_takes_too_long_says_so_and_is_ended_by_the_sweeper(stack: MemoryStack) -> None:
    sent = await send(stack)

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack.queues, name)

        async def release(self, tenant: TenantContext, generation: int) -> None:
            await asyncio.sleep(5)

    report = await _space(stack, stack.compose(queues=Slow())).reset(seconds=0.2)
    assert not report.complete
    assert await state_of(stack, sent.task_id) == "canceled"
    await due_now(stack)
    await stack.parts.sweeper.sweep(seconds=5)
    assert (await space_of(stack))["state"] == "dormant"


async def test_a_reset_without_the_cache_says_so_keeps_nobody_waiting_and_can_be_repeated(stack: MemoryStack) -> None:
    class Down:
        def __getattr__(self, name: str) -> Any:
            async def fail(*_: object, **__: object) -> None:
                raise Unavailable("redis", "down")

            return fail

    sent = await send(stack)
    assert await stack.cache.remains(TENANT) > 0
    report = await _space(stack, stack.compose(cache=Down())).reset()
    assert report == ResetReport(canceled_tasks=1, complete=False, cache_cleared=False, state=SpaceState.DORMANT)
    assert await stack.cache.remains(TENANT) > 0
    again = await _space(stack).reset()
    assert (again.complete, again.cache_cleared) == (True, True)
    assert await stack.cache.remains(TENANT) == 0
    await _space(stack, stack.compose(cache=Down())).reset()
    await send(stack, "next", session=sent.session_id)


async def test_no_sign_of_an_ended_task_is_left_by_a_reset(stack: MemoryStack) -> None:
    done = await send(stack)
    await stack.work(TENANT)
    assert await stack.cache.woken(TENANT, done.task_id)
    open_ = await send(stack)
    await _space(stack).reset()
    assert await stack.cache.remains(TENANT) == 0
    assert not await stack.cache.woken(TENANT, done.task_id)
    assert not await stack.cache.woken(TENANT, open_.task_id)


async def test_what_is_left_of_an_old_epoch_is_canceled_by_the_sweeper(stack: MemoryStack) -> None:
    """A task that no reset has seen, because it was written in the very moment of the reset."""
    sent = await send(stack)
    await stack.records.write(TENANT, Update(key=Key.space(), add={"epoch": 1}))
    await stack.records.write(TENANT, Update(key=Key.task(sent.task_id), set={"due_at": 1}))
    assert (await stack.parts.sweeper.sweep(seconds=5))["canceled"] == 1
    assert await state_of(stack, sent.task_id) == "canceled"


def test_a_worker_and_a_reset_at_once_leave_one_outcome_and_nothing_open() -> None:
    ends: set[str] = set()
    for turn in range(80):
        stack = MemoryStack()
        asyncio.run(new_project(stack))
        first = asyncio.run(send(stack, "one"))
        asyncio.run(send(stack, "two", session=first.session_id))
        start = threading.Barrier(2)

        def reset(stack: MemoryStack = stack, start: threading.Barrier = start, turn: int = turn) -> ResetReport:
            space = _space(stack, stack.compose())
            start.wait()
            threading.Event().wait((turn % 20) * 0.0005)
            return asyncio.run(space.reset())

        def work(stack: MemoryStack = stack, start: threading.Barrier = start) -> None:
            start.wait()
            with contextlib.suppress(ClaimLost, NotFound):
                asyncio.run(stack.work(TENANT))

        with ThreadPoolExecutor(2) as pool:
            resetting, working = pool.submit(reset), pool.submit(work)
            report, _ = resetting.result(), working.result()
        assert report.complete
        asyncio.run(_nothing_is_open(stack))
        statuses = asyncio.run(_statuses(stack, first.session_id))
        assert len(statuses) == 2
        ends.add(" ".join(statuses))
    assert len(ends) > 1


async def test_an_idle_sweep_beside_a_half_done_reset_does_not_hide_it(stack: MemoryStack) -> None:
    await send(stack)
    fate = Fate(1)
    with pytest.raises(Died):
        await _space(stack, stack.compose(records=fate.over(stack.records, "write"))).reset()
    await long_unused(stack)
    await _space(stack).cleanup(seconds=0)
    assert (await space_of(stack))["resetting"] is True
    await due_now(stack)
    await stack.parts.sweeper.sweep(seconds=5)
    await _nothing_is_open(stack)


@pytest.mark.parametrize("kind", [Key.tasks(), Key.runtimes(), Key.sessions()], ids=lambda kind: kind.sort)
async def test_a_reset_that_goes_on_after_another_has_ended_it_takes_nothing_from_new_messages(
    stack: MemoryStack, kind: Key
) -> None:
    """The sweeper goes on with a reset after some seconds, also with one whose request is still at it."""
    old = await send(stack, "one")
    new: list[Sent] = []

    class Overtaken:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack.records, name)

        async def query(self, tenant: TenantContext, prefix: Key, **page: Any) -> Page:
            if prefix == kind and not new:
                await _space(stack).reset()
                new.extend([await send(stack, text, session=old.session_id) for text in ("two", "three")])
            return await stack.records.query(tenant, prefix, **page)

    await _space(stack, stack.compose(records=Overtaken())).reset()
    await stack.work(TENANT, generation=2)
    assert [await state_of(stack, sent.task_id) for sent in new] == ["completed", "completed"]
    assert await _statuses(stack, old.session_id) == ["canceled", "ok", "ok"]
    assert (await space_of(stack))["open_tasks"] == 0
