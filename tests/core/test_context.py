"""What agents remember through runs, failures, clearings and deletions."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, calls, says, settings
from worker_space.agents import AgentChanges
from worker_space.errors import NotFound, RunError, Unavailable
from worker_space.idempotency import Repeat
from worker_space.ids import new_id
from worker_space.ledger import Claim, Stale
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import NewSession
from worker_space.models import ModelRequest
from worker_space.ports import ContextEntry
from worker_space.projects import NewProject
from worker_space.records import Update
from worker_space.space import UserWorkerSpace
from worker_space.tasks import Delivery, due_shard
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack(settings=settings(redispatch_seconds=1, max_attempts=3))
    await stack.parts.services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    return stack


@pytest.fixture
def space(stack: MemoryStack) -> UserWorkerSpace:
    return space_of(stack)


def space_of(stack: MemoryStack) -> UserWorkerSpace:
    return WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "shop")


async def send(space: UserWorkerSpace, text: str) -> str:
    session = await space.sessions.create(TENANT, NewSession())
    return (await space.send_task(session.id, text, "coder")).task_id


async def kept(stack: MemoryStack) -> Mapping[str, ContextEntry]:
    """All that is stored for the coder, found or not."""
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")
    entries, _ = await stack.memory.entries(TENANT, agent.id, limit=100)
    return {entry.id: entry for entry in entries}


async def found(space: UserWorkerSpace, query: str) -> list[str]:
    return [match.entry.id for match in await space.search_context("coder", query)]


def recalled(request: ModelRequest, text: str) -> bool:
    return text in request.system_prompt


async def settle(stack: MemoryStack, task: str) -> None:
    """Have the sweeper do again what follows from the task's end."""
    due = Update(key=Key.task(task), set={"due_at": 1, "due_shard": due_shard(task)})
    await stack.records.write(TENANT, due)
    assert (await stack.parts.sweeper.sweep(seconds=1))["settled"] == 1


async def test_a_message_is_never_its_own_context_also_not_at_a_second_attempt(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    stack.model.script = [Unavailable("model", "down")]
    task = await send(space, "remember the zeppelin")
    with pytest.raises(Unavailable):
        await stack.work(TENANT)
    # Whatever is stored under the task's own name is no memory to the task.
    await space.add_context(
        "coder",
        ContextEntry(id=task, text="the zeppelin is mine", kind="interaction", created_at=1, task_id=task),
    )
    await space.add_context("coder", ContextEntry(id="n", text="a zeppelin flies", kind="note", created_at=1))
    stack.clock[0] += 1000
    await stack.work(TENANT)
    last = stack.model.requests[-1]
    assert recalled(last, "a zeppelin flies")
    assert not recalled(last, "the zeppelin is mine")


async def test_an_interaction_begun_before_a_clearing_is_not_found_after_it(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    async def clear(_: ModelRequest) -> None:
        stack.model.before = None
        await space.clear_context("coder")

    await send(space, "apples are red")
    await stack.work(TENANT)
    assert len(await found(space, "apples")) == 1
    stack.model.before = clear
    late = await send(space, "apples are yellow")
    await stack.work(TENANT)
    assert await found(space, "apples") == []
    assert (await (await space.get_agent_context_store("coder")).entries(limit=9))[0] == []
    assert {entry.generation for entry in (await kept(stack)).values()} <= {1}
    # Nor does doing it again bring it back.
    await settle(stack, late)
    assert await found(space, "apples") == []
    after = await send(space, "apples are green")
    await stack.work(TENANT)
    assert not recalled(stack.model.requests[-1], "yellow")
    assert await found(space, "apples") == [after]
    # The next clearing takes what the late one has left.
    await space.clear_context("coder")
    assert await kept(stack) == {}


async def test_an_attempt_after_a_clearing_still_belongs_to_what_was_begun_before(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    stack.model.script = [Unavailable("model", "down"), says("they are")]
    await space.add_context("coder", ContextEntry(id="n", text="apples are red", kind="note", created_at=1))
    await send(space, "are apples red")
    with pytest.raises(Unavailable):
        await stack.work(TENANT)
    await space.clear_context("coder")
    await space.add_context("coder", ContextEntry(id="m", text="apples are blue", kind="note", created_at=1))
    stack.clock[0] += 1000
    await stack.work(TENANT)
    assert not recalled(stack.model.requests[-1], "blue")
    assert await found(space, "apples") == ["m"]


async def test_what_a_tool_remembers_and_finds_is_of_the_runs_own_generation(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    async def clear(_: ModelRequest) -> None:
        if len(stack.model.requests) == 2:
            await space.clear_context("coder")
            await space.add_context("coder", ContextEntry(id="m", text="apples are blue", kind="note", created_at=1))

    await space.update_agent("coder", AgentChanges(tools=("remember", "search_context")))
    stack.model.before = clear
    stack.model.script = [
        calls(("remember", {"text": "apples are red"})),
        calls(("remember", {"text": "apples are sour"}), ("search_context", {"query": "apples"})),
        says("done"),
    ]
    await send(space, "look at apples")
    await stack.work(TENANT)
    results = [turn.content for turn in stack.model.requests[-1].turns if turn.kind == "tool"]
    assert "blue" not in results[-1]
    assert await found(space, "apples") == ["m"]


async def test_a_worker_with_an_old_cache_works_in_the_new_generation(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await space.list_agents()
    fields = dict(await stack.cache.load(TENANT))
    assert fields
    await space.clear_context("coder")
    task = await send(space, "apples are red")
    # The invalidation was lost: the cache still shows the agent as it was.
    await stack.cache.clear(TENANT)
    await stack.cache.store(TENANT, fields, ttl_seconds=300)
    await stack.work(TENANT)
    assert await found(space, "apples") == [task]
    assert (await kept(stack))[task].generation == 2


async def test_a_claim_refuses_an_agent_whose_context_was_cleared_since(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await send(space, "apples")
    old = await space.get_agent("coder")
    await space.clear_context("coder")
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    delivery, ledger = Delivery.model_validate_json(message.body), stack.parts.services.ledger
    with pytest.raises(Stale):
        await ledger.claim(delivery, old)
    claim = await ledger.claim(delivery, await space.reload_agent("coder"))
    assert isinstance(claim, Claim)
    item = await stack.records.get(TENANT, Key.task(delivery.task)) or {}
    assert (item["agent_version"], item["context_generation"]) == (1, 2)


async def test_a_failed_tasks_interaction_is_kept_but_not_found_also_when_it_is_settled_later(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    stack.model.script = [RunError("the zeppelin exploded")]
    task = await send(space, "inflate the zeppelin")
    await stack.work(TENANT)
    (entry,) = (await kept(stack)).values()
    assert (entry.id, entry.success, entry.task_id) == (task, False, task)
    await stack.memory.remove(TENANT, (await space.get_agent("coder")).id, task)
    await settle(stack, task)
    assert (await kept(stack))[task].success is False
    assert await found(space, "zeppelin") == []


async def test_a_canceled_task_leaves_no_interaction(stack: MemoryStack, space: UserWorkerSpace) -> None:
    async def cancel(_: ModelRequest) -> None:
        await space.cancel_task(task)

    stack.model.before = cancel
    task = await send(space, "apples")
    await stack.work(TENANT)
    await settle(stack, task)
    assert await kept(stack) == {}


class Down:
    """A memory that takes nothing in as long as it is down."""

    def __init__(self, below: object) -> None:
        self._below, self.down = below, True

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: object, **__: object) -> None:
            raise Unavailable("qdrant", "down")

        return fail if self.down else getattr(self._below, name)


@pytest.mark.parametrize("success", [True, False])
async def test_a_memory_that_is_down_stops_no_answer_and_gets_the_interaction_later(
    stack: MemoryStack, success: bool
) -> None:
    memory = Down(stack.memory)
    stack.parts = stack.compose(memory=memory)
    space = space_of(stack)
    stack.model.script = [says("red") if success else RunError("no")]
    task = await send(space, "apples")
    await stack.work(TENANT)
    item = await stack.records.get(TENANT, Key.task(task)) or {}
    assert (item["state"], item["recall"]) == ("completed" if success else "failed", "unavailable")
    memory.down = False
    await settle(stack, task)
    assert (await kept(stack))[task].success is success
    assert (await found(space, "apples")) == ([task] if success else [])


async def test_what_was_begun_before_a_clearing_and_is_settled_after_it_is_not_found(stack: MemoryStack) -> None:
    memory = Down(stack.memory)
    stack.parts = stack.compose(memory=memory)
    space = space_of(stack)
    task = await send(space, "apples")
    await stack.work(TENANT)
    memory.down = False
    await space.clear_context("coder")
    await settle(stack, task)
    assert await found(space, "apples") == []


async def test_a_forgotten_interaction_does_not_come_back_when_its_task_is_settled_again(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    task, other = await send(space, "apples are red"), await send(space, "apples are green")
    await stack.work(TENANT)
    assert await space.remove_context("coder", task) is True
    assert await space.remove_context("writer", other) is False
    for each in (task, other):
        await settle(stack, each)
    assert await found(space, "apples") == [other]
    assert set(await kept(stack)) == {other}


async def test_forgetting_what_is_still_being_worked_on_does_not_keep_it_from_being_remembered(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    async def forget(_: ModelRequest) -> None:
        assert await space.remove_context("coder", task) is False

    stack.model.before = forget
    task = await send(space, "apples")
    await stack.work(TENANT)
    await settle(stack, task)
    assert await found(space, "apples") == [task]


async def test_changing_an_agent_keeps_its_generation_and_a_version_of_before_brings_no_memory_back(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await space.clear_context("coder")
    assert (await space.update_agent("coder", AgentChanges(system_prompt="new"))).context_generation == 2
    restored = await space.restore_agent("coder", 1)
    assert (restored.version, restored.context_generation) == (3, 2)
    assert (await space.reload_agent("coder")).context_generation == 2


async def test_clearings_and_changes_at_once_lose_nothing_of_each_other(stack: MemoryStack) -> None:
    barrier = threading.Barrier(8)

    def run(number: int) -> None:
        space = space_of(stack)
        barrier.wait()
        if number % 2:
            asyncio.run(space.clear_context("coder"))
        else:
            asyncio.run(space.update_agent("coder", AgentChanges(system_prompt=f"prompt {number}")))

    with ThreadPoolExecutor(8) as pool:
        outcomes = [future.exception() for future in [pool.submit(run, number) for number in range(8)]]
    done = [error is None for error in outcomes]
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")
    assert agent.context_generation == 1 + sum(done[1::2])
    assert agent.version == 1 + sum(done[0::2])
    assert any(done[1::2])


async def _open(stack: MemoryStack, tasks: Sequence[str]) -> int:
    items = await stack.records.get_many(TENANT, [Key.task(task) for task in tasks])
    return sum((item or {})["state"] != "completed" for item in items)


async def test_workers_and_clearings_at_once_leave_nothing_of_before_the_last_clearing(stack: MemoryStack) -> None:
    space = space_of(stack)
    sent = [await send(space, f"apples number {number}") for number in range(24)]
    stop = threading.Event()

    def worker() -> None:
        parts = stack.compose()
        while not stop.is_set():
            message = stack.queues.receive(TENANT, 1)
            if message is None:
                continue
            delivery = Delivery.model_validate_json(message.body)
            asyncio.run(parts.worker.handle(delivery, message.lease, deadline=1e12))
            stack.queues.delete(message.lease)

    def clear() -> None:
        for _ in range(10):
            asyncio.run(space_of(stack).clear_context("coder"))

    with ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(worker) for _ in range(4)]
        try:
            pool.submit(clear).result()
            for _ in range(6_000):
                if not await _open(stack, sent):
                    break
                await asyncio.sleep(0.01)
        finally:
            stop.set()
        for each in workers:
            each.result()
    assert await _open(stack, sent) == 0
    generation = (await space.reload_agent("coder")).context_generation
    assert generation == 11
    begun = {task: (await stack.records.get(TENANT, Key.task(task)) or {})["context_generation"] for task in sent}
    entries, _ = await (await space.get_agent_context_store("coder")).entries(limit=100)
    assert {entry.id for entry in entries} == {task for task, of in begun.items() if of == generation}


async def test_a_deleted_agent_has_no_memory_and_takes_none(stack: MemoryStack, space: UserWorkerSpace) -> None:
    agent = await space.get_agent("coder")
    store = await space.get_agent_context_store("coder")
    await store.add(ContextEntry(id="n", text="apples", kind="note", created_at=1))
    await space.delete_agent("coder")
    assert await stack.memory.remains(TENANT) == 0
    with pytest.raises(NotFound):
        await store.add(ContextEntry(id="n", text="apples", kind="note", created_at=1))
    with pytest.raises(NotFound):
        await space.get_agent_context_store(agent.id)
    with pytest.raises(NotFound):
        await space.clear_context(new_id("agent"))
    assert await stack.memory.remains(TENANT) == 0


async def test_racing_repetitions_of_one_note_keep_it_once(stack: MemoryStack, space: UserWorkerSpace) -> None:
    repeat = Repeat(kind="note", key="k", fingerprint="f")
    barrier = threading.Barrier(6)

    def add(_: int) -> ContextEntry:
        barrier.wait()
        return asyncio.run(space_of(stack).add_note("coder", "apples", repeat=repeat))

    with ThreadPoolExecutor(6) as pool:
        notes = list(pool.map(add, range(6)))
    assert len({note.id for note in notes}) == 1
    assert len(await kept(stack)) == 1
