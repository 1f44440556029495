"""Idle spaces go to sleep, whatever dies on the way; who uses a space wins against who puts it to sleep."""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.core.stages import (
    TENANT,
    Died,
    Fate,
    due_now,
    long_unused,
    new_project,
    send,
    space_of,
    state_of,
)
from tests.memory_stack import MemoryStack, calls, settings
from worker_space.clock import now_ms
from worker_space.errors import NotFound, Unavailable
from worker_space.ports import Owner
from worker_space.records import Update, Write
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio
OTHER = TenantContext("alice", "other")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack()
    await new_project(stack)
    return stack


async def _used(stack: MemoryStack) -> str:
    sent = await send(stack, "apples are red")
    await stack.work(TENANT)
    assert await state_of(stack, sent.task_id) == "completed"
    return sent.session_id


async def test_an_idle_space_keeps_its_history_and_memory_and_no_queue(stack: MemoryStack) -> None:
    session = await _used(stack)
    await long_unused(stack)
    assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 1
    space = await space_of(stack)
    assert space["state"] == "dormant"
    assert not {"releasing", "due_at", "due_shard"} & space.keys()
    assert await stack.queues.generations(TENANT) == []
    assert await stack.cache.load(TENANT) == {}
    messages, _ = await stack.parts.services.collaborators.sessions.messages(TENANT, session, limit=9, after=None)
    assert len(messages) == 2
    assert await stack.memory.remains(TENANT) > 0
    assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 0


async def test_the_next_message_wakes_a_sleeping_space(stack: MemoryStack) -> None:
    await _used(stack)
    await long_unused(stack)
    await stack.parts.sweeper.sweep(seconds=5)
    before = now_ms()
    sent = await send(stack)
    space = await space_of(stack)
    assert (space["state"], space["generation"]) == ("active", 2)
    assert space["active_since"] >= before
    assert space["due_at"] >= before + 3600_000
    await stack.work(TENANT, generation=2)
    assert await state_of(stack, sent.task_id) == "completed"


async def test_a_space_that_was_used_since_is_looked_at_again_when_it_may_be_idle(stack: MemoryStack) -> None:
    await _used(stack)
    await due_now(stack)
    assert (await stack.parts.sweeper.sweep(seconds=5))["kept"] == 1
    space = await space_of(stack)
    assert space["state"] == "active"
    assert space["due_at"] == max(space["last_accept"], space["active_since"]) + 3600_000


async def test_accepting_a_message_leaves_the_sweepers_index_alone(stack: MemoryStack) -> None:
    await _used(stack)
    before = (await space_of(stack))["due_at"]
    await _used(stack)
    assert (await space_of(stack))["due_at"] == before


async def test_a_space_with_an_open_task_stays_awake_however_old_it_is(stack: MemoryStack) -> None:
    sent = await send(stack)
    await long_unused(stack)
    assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 0
    space = await space_of(stack)
    assert space["state"] == "active"
    assert space["due_at"] > now_ms() + 60_000
    await stack.work(TENANT)
    assert await state_of(stack, sent.task_id) == "completed"
    await long_unused(stack)
    assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 1


async def test_a_space_that_waits_for_the_users_word_stays_awake(stack: MemoryStack) -> None:
    await stack.files.write(TENANT, "old.txt", b"x")
    stack.model.script = [calls(("delete_file", {"path": "old.txt"}))]
    sent = await send(stack)
    await stack.work(TENANT)
    assert await state_of(stack, sent.task_id) == "input-required"
    await long_unused(stack)
    assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 0
    assert (await space_of(stack))["state"] == "active"


async def test_only_the_idle_space_goes_to_sleep(stack: MemoryStack) -> None:
    await new_project(stack, OTHER)
    for tenant in (TENANT, OTHER):
        await send(stack, tenant=tenant)
        await stack.work(tenant)
    await long_unused(stack)
    assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 1
    assert (await space_of(stack, OTHER))["state"] == "active"
    assert await stack.queues.generations(OTHER) == [1]


async def test_queues_are_given_back_at_a_pace_that_leaves_room_for_others(stack: MemoryStack) -> None:
    """Lambda takes 15 calls a second from a whole account; a release is some four of them."""
    tenants = [TenantContext("alice", f"p{number}") for number in range(4)]
    for tenant in tenants:
        await new_project(stack, tenant)
        await stack.parts.dispatch.wake(tenant)
        await long_unused(stack, tenant)
    began = time.monotonic()
    assert (await stack.parts.sweeper.sweep(seconds=10))["hibernated"] == 4
    assert time.monotonic() - began >= 0.75


async def _fall_asleep_and_die(stack: MemoryStack) -> None:
    """The sweeper dies right after it has begun."""
    fate = Fate(0)
    with pytest.raises(Died):
        await stack.compose(queues=fate.over(stack.queues, "release")).sweeper.sweep(seconds=5)


async def test_a_message_wakes_a_space_that_is_falling_asleep_and_nothing_is_forgotten(stack: MemoryStack) -> None:
    await _used(stack)
    await long_unused(stack)
    await _fall_asleep_and_die(stack)
    assert (await space_of(stack))["state"] == "hibernating"
    sent = await send(stack)
    space = await space_of(stack)
    assert (space["state"], space["generation"], space["releasing"]) == ("active", 2, frozenset({"1"}))
    assert await stack.queues.generations(TENANT) == [1, 2]
    await due_now(stack)
    assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 0
    space = await space_of(stack)
    assert space["state"] == "active"
    assert "releasing" not in space
    assert space["due_at"] > now_ms()
    assert await stack.queues.generations(TENANT) == [2]
    await stack.work(TENANT, generation=2)
    assert await state_of(stack, sent.task_id) == "completed"


@pytest.mark.parametrize("too_late", [False, True])
async def test_whatever_step_a_sweep_dies_at_the_next_one_ends_it(too_late: bool) -> None:
    steps = 0
    while True:
        stack = MemoryStack()
        await new_project(stack)
        await _used(stack)
        await long_unused(stack)
        fate = Fate(steps, too_late=too_late)
        parts = stack.compose(
            records=fate.over(stack.records, "write"),
            queues=fate.over(stack.queues, "release"),
            cache=fate.over(stack.cache, "clear"),
        )
        try:
            await parts.sweeper.sweep(seconds=5)
        except Died:
            assert fate.struck
        if (await space_of(stack))["state"] != "dormant":
            await due_now(stack)
            assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 1
        space = await space_of(stack)
        assert space["state"] == "dormant"
        assert "due_at" not in space
        assert await stack.queues.generations(TENANT) == []
        assert await stack.cache.load(TENANT) == {}
        if not fate.struck:
            break
        steps += 1
    assert steps >= 4


@pytest.mark.parametrize("too_late", [False, True])
async def test_whoever_dies_while_it_wakes_a_space_leaves_nothing_that_costs_for_ever(too_late: bool) -> None:
    steps = 0
    while True:
        stack = MemoryStack()
        await new_project(stack)
        fate = Fate(steps, too_late=too_late)
        parts = stack.compose(
            records=fate.over(stack.records, "write"), queues=fate.over(stack.queues, "create", "wake_worker")
        )
        try:
            await parts.dispatch.wake(TENANT)
        except Died:
            assert fate.struck
        if (await space_of(stack))["state"] != "dormant":
            await long_unused(stack)
            assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 1
        assert (await space_of(stack))["state"] == "dormant"
        assert await stack.queues.generations(TENANT) == []
        if not fate.struck:
            break
        steps += 1
    assert steps >= 3


async def test_a_queue_that_is_made_too_late_does_not_stay(stack: MemoryStack) -> None:
    """Somebody who wakes the space is slow; meanwhile it is found idle and put to sleep."""

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack.queues, name)

        async def create(self, tenant: TenantContext, generation: int) -> None:
            await long_unused(stack)
            assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 1
            await stack.records.write(tenant, Update(key=Key.space(), set={"state": "deleted"}))
            stack.clock[0] += 61
            await stack.queues.create(tenant, generation)

    with pytest.raises(NotFound):
        await stack.compose(queues=Slow()).dispatch.wake(TENANT)
    assert await stack.queues.generations(TENANT) == []


async def test_a_queue_that_cannot_be_released_is_released_by_a_later_sweep(stack: MemoryStack) -> None:
    await _used(stack)
    await long_unused(stack)

    class Down:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack.queues, name)

        async def release(self, tenant: TenantContext, generation: int) -> None:
            raise Unavailable("lambda", "TooManyRequestsException")

    assert (await stack.compose(queues=Down()).sweeper.sweep(seconds=5))["left"] == 1
    assert (await space_of(stack))["state"] == "hibernating"
    await due_now(stack)
    assert (await stack.parts.sweeper.sweep(seconds=5))["hibernated"] == 1


async def test_a_void_delivery_wakes_nobody(stack: MemoryStack) -> None:
    """A copy of a delivery whose task has long ended is sent again, to a project that sleeps."""
    await send(stack)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    stack.clock[0] += 2000
    await stack.work(TENANT)
    await long_unused(stack)
    await stack.parts.sweeper.sweep(seconds=5)
    stack.clock[0] += 61
    await stack.parts.dispatch.send(Delivery.model_validate_json(message.body))
    assert await stack.queues.generations(TENANT) == []
    assert (await space_of(stack))["state"] == "dormant"


class Counted:
    """Queues that count releases."""

    def __init__(self, below: Any) -> None:
        self._below = below
        self._lock = threading.Lock()
        self.released: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    async def release(self, tenant: TenantContext, generation: int) -> None:
        with self._lock:
            self.released.append(generation)
        await self._below.release(tenant, generation)


class Interleaved:
    """A table beside which, right before its first write that fits, something else happens."""

    def __init__(self, stack: MemoryStack, happens: Callable[[], Awaitable[Any]]) -> None:
        self._stack, self._happens, self.happened = stack, happens, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack.records, name)

    async def write(self, owner: Owner, *writes: Write) -> None:
        asleep = any(isinstance(write, Update) and write.set.get("state") == "hibernating" for write in writes)
        if asleep and not self.happened:
            self.happened = True
            await self._happens()
        await self._stack.records.write(owner, *writes)


@pytest.mark.parametrize("end", ["open", "answered", "canceled"])
async def test_a_message_between_the_look_and_the_sleep_keeps_the_space_awake(stack: MemoryStack, end: str) -> None:
    """Also when it has come to its end by then, and nothing is open again: the space is not idle."""
    await _used(stack)
    await long_unused(stack)

    async def used() -> None:
        sent = await send(stack)
        if end == "answered":
            await stack.work(TENANT)
        elif end == "canceled":
            await stack.parts.services.collaborators.bus.cancel_task(TENANT, sent.task_id)

    table = Interleaved(stack, used)
    counts = await stack.compose(records=table).sweeper.sweep(seconds=5)
    assert table.happened
    assert (counts["hibernated"], counts["kept"]) == (0, 1)
    space = await space_of(stack)
    assert space["state"] == "active"
    assert "releasing" not in space
    assert await stack.queues.generations(TENANT) == [1]


async def test_a_task_that_is_open_without_a_new_message_keeps_the_space_awake(stack: MemoryStack) -> None:
    """The children of a plan, say: they are made by a worker and not by a message."""
    await _used(stack)
    await long_unused(stack)

    async def child() -> None:
        await stack.records.write(TENANT, Update(key=Key.space(), add={"open_tasks": 1}))

    table = Interleaved(stack, child)
    assert (await stack.compose(records=table).sweeper.sweep(seconds=5))["hibernated"] == 0
    assert (await space_of(stack))["state"] == "active"


class Jittery:
    """A table that now and then takes a little longer, so that threads meet in every order."""

    def __init__(self, below: Any, seed: int) -> None:
        self._below, self._dice = below, random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._below, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            if self._dice.random() < 0.5:
                threading.Event().wait(self._dice.uniform(0.0, 0.002))
            return await real(*arguments, **named)

        return call


def test_two_sweeps_at_once_put_a_space_to_sleep_once() -> None:
    for _ in range(40):
        stack = MemoryStack()
        asyncio.run(new_project(stack))
        asyncio.run(_used(stack))
        asyncio.run(long_unused(stack))
        start = threading.Barrier(2)

        def sweep(stack: MemoryStack = stack, start: threading.Barrier = start) -> int:
            sweeper = stack.compose(records=Jittery(stack.records, threading.get_ident())).sweeper
            start.wait()
            return asyncio.run(sweeper.sweep(seconds=5))["hibernated"]

        with ThreadPoolExecutor(2) as pool:
            counts = [each.result() for each in [pool.submit(sweep), pool.submit(sweep)]]
        assert sum(counts) == 1
        assert asyncio.run(space_of(stack))["state"] == "dormant"
        assert asyncio.run(stack.queues.generations(TENANT)) == []


def test_a_sweep_that_races_with_a_send_loses() -> None:
    """Whatever the order of their steps: the message is answered, and there is one queue, the one in use."""
    woken = 0
    for turn in range(150):
        stack = MemoryStack(settings=settings(redispatch_seconds=1))
        asyncio.run(new_project(stack))
        session = asyncio.run(_used(stack))
        asyncio.run(long_unused(stack))
        start = threading.Barrier(2)

        def sweep(stack: MemoryStack = stack, start: threading.Barrier = start, turn: int = turn) -> dict[str, int]:
            sweeper = stack.compose(records=Jittery(stack.records, turn)).sweeper
            start.wait()
            return asyncio.run(sweeper.sweep(seconds=5))

        def accept(
            stack: MemoryStack = stack, start: threading.Barrier = start, session: str = session, turn: int = turn
        ) -> Any:
            bus = stack.compose(records=Jittery(stack.records, -turn)).services.collaborators.bus
            start.wait()
            return asyncio.run(bus.send_task(TENANT, session_id=session, content="race", target_agent="coder"))

        with ThreadPoolExecutor(2) as pool:
            sweeping, accepting = pool.submit(sweep), pool.submit(accept)
            sent, _ = accepting.result(), sweeping.result()
        space = asyncio.run(space_of(stack))
        assert space["state"] == "active"
        assert space["open_tasks"] == 1
        woken += space["generation"] > 1
        asyncio.run(stack.work(TENANT, generation=space["generation"]))
        assert asyncio.run(state_of(stack, sent.task_id)) == "completed"
        asyncio.run(due_now(stack))
        asyncio.run(stack.parts.sweeper.sweep(seconds=5))
        assert asyncio.run(stack.queues.generations(TENANT)) == [space["generation"]]
    # Both orders were seen: else this would prove nothing.
    assert 0 < woken < 150
