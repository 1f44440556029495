"""A cleanup leaves nothing that runs, waits, is cached or costs; what belongs to the user stays."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.core.stages import TENANT, Died, Fate, due_now, long_unused, new_project, send, space_of, state_of
from tests.memory_stack import MemoryStack, calls
from worker_space.agents import AgentConfig
from worker_space.cleanup import CleanupReport
from worker_space.clock import now_ms
from worker_space.errors import Conflict, NotFound
from worker_space.manager import WorkerSpaceManager
from worker_space.models import ModelRequest
from worker_space.projects import SpaceState
from worker_space.records import Delete, Update
from worker_space.space import UserWorkerSpace
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio
OTHER = TenantContext("alice", "other")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack()
    await new_project(stack)
    return stack


def _space(stack: MemoryStack, tenant: TenantContext = TENANT) -> UserWorkerSpace:
    return WorkerSpaceManager(stack.parts.services.collaborators).get_or_create(tenant.user_id, tenant.project_id)


async def _registered(stack: MemoryStack) -> set[bool]:
    return {bool(item["registered"]) for item in (await stack.records.query(TENANT, Key.runtimes())).items}


async def test_waiting_tasks_end_as_canceled_at_once(stack: MemoryStack) -> None:
    first = await send(stack, "one")
    second = await send(stack, "two", session=first.session_id)
    report = await _space(stack).cleanup(seconds=0)
    agents = len((await stack.records.query(TENANT, Key.agents())).items)
    assert report == CleanupReport(
        canceled_tasks=2, still_running=[], deregistered_agents=agents, state=SpaceState.DORMANT
    )
    for sent in (first, second):
        assert await state_of(stack, sent.task_id) == "canceled"
    assert await stack.queues.generations(TENANT) == []
    assert await stack.cache.load(TENANT) == {}
    assert await _registered(stack) == {False}
    assert (await space_of(stack))["open_tasks"] == 0
    assert stack.model.requests == []


async def test_files_history_and_memory_stay_and_the_next_message_works(stack: MemoryStack) -> None:
    await stack.files.write(TENANT, "main.py", b"x")
    before = await send(stack, "apples are red")
    await stack.work(TENANT)
    remembered = await stack.memory.remains(TENANT)
    await _space(stack).cleanup()
    assert await stack.files.head(TENANT, "main.py") is not None
    assert await stack.memory.remains(TENANT) == remembered
    after = await send(stack, "go on", session=before.session_id)
    assert await _registered(stack) == {True}
    await stack.work(TENANT, generation=2)
    assert await state_of(stack, after.task_id) == "completed"
    sessions = stack.parts.services.collaborators.sessions
    assert len((await sessions.messages(TENANT, before.session_id, limit=9, after=None))[0]) == 4


async def test_a_running_task_is_asked_to_stop_and_the_space_stays_active_until_it_has(stack: MemoryStack) -> None:
    go_on, asked = asyncio.Event(), asyncio.Event()

    async def hold(_: ModelRequest) -> None:
        asked.set()
        await go_on.wait()

    stack.model.before = hold
    stack.model.script = [calls(("list_directory", {}))]
    sent = await send(stack)
    working = asyncio.create_task(stack.work(TENANT))
    await asked.wait()
    report = await _space(stack).cleanup(seconds=0.1)
    assert report.still_running == [sent.task_id]
    assert report.state is SpaceState.ACTIVE
    assert await _registered(stack) == {True}
    assert await stack.queues.generations(TENANT) == [1]
    go_on.set()
    await working
    assert await state_of(stack, sent.task_id) == "canceled"
    report = await _space(stack).cleanup(seconds=0)
    assert (report.state, report.canceled_tasks, report.still_running) == (SpaceState.DORMANT, 0, [])


async def test_a_running_task_that_stops_in_time_is_waited_for(stack: MemoryStack) -> None:
    asked = asyncio.Event()

    async def hold(_: ModelRequest) -> None:
        asked.set()
        await asyncio.sleep(0.2)

    stack.model.before = hold
    stack.model.script = [calls(("list_directory", {}))]
    sent = await send(stack)
    working = asyncio.create_task(stack.work(TENANT))
    await asked.wait()
    report = await _space(stack).cleanup(seconds=10)
    await working
    assert (report.canceled_tasks, report.still_running, report.state) == (1, [], SpaceState.DORMANT)
    assert await state_of(stack, sent.task_id) == "canceled"


async def test_cleaning_up_one_project_leaves_another_untouched(stack: MemoryStack) -> None:
    await new_project(stack, OTHER)
    await send(stack)
    await send(stack, tenant=OTHER)
    await stack.parts.services.collaborators.registry.home(OTHER)
    cached = await stack.cache.load(OTHER)
    before = (await stack.records.query(OTHER, Key.everything())).items
    await WorkerSpaceManager(stack.parts.services.collaborators).cleanup("alice", "shop")
    assert (await stack.records.query(OTHER, Key.everything())).items == before
    assert await stack.cache.load(OTHER) == cached != {}
    assert await stack.queues.depth(OTHER, 1) == 1


async def test_cleaning_up_twice_or_before_any_use_changes_nothing_more(stack: MemoryStack) -> None:
    first = await _space(stack).cleanup()
    assert first.state is SpaceState.DORMANT
    assert first.deregistered_agents > 0
    again = await _space(stack).cleanup()
    assert again == CleanupReport(canceled_tasks=0, still_running=[], deregistered_agents=0, state=SpaceState.DORMANT)
    assert (await space_of(stack))["generation"] == 0
    with pytest.raises(NotFound):
        await _space(stack, TenantContext("alice", "nobodys")).cleanup()


async def test_more_agents_than_one_transaction_takes_are_deregistered_too(stack: MemoryStack) -> None:
    registry = stack.parts.services.collaborators.registry
    have = len((await stack.records.query(TENANT, Key.agents())).items)
    for number in range(100 - have):
        await registry.create(TENANT, AgentConfig(name=f"a{number}", system_prompt="x"))
    await send(stack)
    assert (await _space(stack).cleanup()).deregistered_agents == 100
    assert await _registered(stack) == {False}
    await send(stack)
    assert await _registered(stack) == {True}


async def test_a_task_whose_count_was_lost_is_found_by_a_record_of_an_earlier_release(stack: MemoryStack) -> None:
    sent = await send(stack)
    await stack.records.write(TENANT, Update(key=Key.space(), remove=["open_tasks"]))
    assert (await _space(stack).cleanup(seconds=0)).canceled_tasks == 1
    assert await state_of(stack, sent.task_id) == "canceled"


async def test_canceling_all_tasks_keeps_the_queue(stack: MemoryStack) -> None:
    tasks = [await send(stack, str(number)) for number in range(45)]
    cancellation = await _space(stack).cancel_all_tasks()
    assert set(cancellation.canceled) == {sent.task_id for sent in tasks}
    assert cancellation.still_running == []
    assert (await space_of(stack))["state"] == "active"
    assert await _registered(stack) == {True}


async def test_a_stale_cache_keeps_nobody_from_sending_after_a_cleanup(stack: MemoryStack) -> None:
    await send(stack)
    await stack.parts.services.collaborators.registry.home(TENANT, fresh=True)
    stale = await stack.cache.load(TENANT)
    await _space(stack).cleanup(seconds=0)
    await stack.cache.store(TENANT, stale, ttl_seconds=300)
    sent = await send(stack)
    await stack.work(TENANT, generation=2)
    assert await state_of(stack, sent.task_id) == "completed"


@pytest.mark.parametrize("too_late", [False, True])
async def test_whatever_step_a_cleanup_dies_at_messages_are_taken_and_nothing_leaks(too_late: bool) -> None:
    steps = 0
    while True:
        stack = MemoryStack()
        await new_project(stack)
        await send(stack)
        fate = Fate(steps, too_late=too_late)
        parts = stack.compose(
            records=fate.over(stack.records, "write"),
            queues=fate.over(stack.queues, "release"),
            cache=fate.over(stack.cache, "clear"),
        )
        try:
            await WorkerSpaceManager(parts.services.collaborators).cleanup("alice", "shop")
        except Died:
            assert fate.struck
        if (left := await space_of(stack))["state"] == "hibernating":
            # What costs is found soon, not when the space would next have been idle.
            assert left["due_at"] <= now_ms() + 10_000
        sent = await send(stack)
        await stack.work(TENANT, generation=(await space_of(stack))["generation"])
        assert await state_of(stack, sent.task_id) == "completed"
        await due_now(stack)
        await stack.parts.sweeper.sweep(seconds=5)
        await long_unused(stack)
        await stack.parts.sweeper.sweep(seconds=5)
        assert (await space_of(stack))["state"] == "dormant"
        assert await stack.queues.generations(TENANT) == []
        if not fate.struck:
            break
        steps += 1
    assert steps >= 4


def test_a_message_that_races_with_a_cleanup_is_never_refused_and_has_one_outcome() -> None:
    ends: set[str] = set()
    for turn in range(100):
        stack = MemoryStack()
        asyncio.run(new_project(stack))
        first = asyncio.run(send(stack))
        start = threading.Barrier(2)

        def clean(stack: MemoryStack = stack, start: threading.Barrier = start) -> CleanupReport:
            spaces = WorkerSpaceManager(stack.compose().services.collaborators)
            start.wait()
            return asyncio.run(spaces.cleanup("alice", "shop"))

        def accept(
            stack: MemoryStack = stack,
            start: threading.Barrier = start,
            session: str = first.session_id,
            turn: int = turn,
        ) -> Any:
            bus = stack.compose().services.collaborators.bus
            start.wait()
            threading.Event().wait((turn % 10) * 0.0003)
            return asyncio.run(bus.send_task(TENANT, session_id=session, content="race", target_agent="coder"))

        with ThreadPoolExecutor(2) as pool:
            cleaning, accepting = pool.submit(clean), pool.submit(accept)
            sent, report = accepting.result(), cleaning.result()
        space = asyncio.run(space_of(stack))
        if space["state"] == "active":
            asyncio.run(stack.work(TENANT, generation=space["generation"]))
            assert asyncio.run(_registered(stack)) == {True}
        end = asyncio.run(state_of(stack, sent.task_id))
        assert end in {"completed", "canceled"}
        assert end == "canceled" or space["state"] == "active"
        ends.add(f"{end} {report.state.value}")
    assert len(ends) > 1


async def test_an_agent_deleted_meanwhile_does_not_stop_a_cleanup(stack: MemoryStack) -> None:
    await send(stack)
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")

    class Deleting:
        done = False

        def __getattr__(self, name: str) -> Any:
            return getattr(stack.records, name)

        async def write(self, owner: TenantContext, *writes: Any) -> None:
            if not self.done and any(write.key == Key.runtime(agent.id) for write in writes) and len(writes) > 3:
                self.done = True
                await stack.records.write(owner, Delete(key=Key.agent(agent.id)), Delete(key=Key.runtime(agent.id)))
            await stack.records.write(owner, *writes)

    parts = stack.compose(records=Deleting())
    report = await WorkerSpaceManager(parts.services.collaborators).cleanup("alice", "shop")
    assert report.state is SpaceState.DORMANT


async def test_an_agent_that_was_deregistered_takes_no_message_on_an_active_space(stack: MemoryStack) -> None:
    """What a cleanup must not leave behind; else the tests above would prove nothing."""
    await send(stack)
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")
    await stack.parts.services.collaborators.runtimes.deregister(TENANT, [agent.id])
    with pytest.raises(Conflict):
        await send(stack)
