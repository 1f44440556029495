"""Orphaned queues and mappings are found and removed, and nothing else is."""

from collections.abc import AsyncIterator, Sequence

import pytest

from tests.memory_stack import NAMES, MemoryStack, settings
from worker_space.adapters.memory_queues import MemoryInventory, MemoryQueues
from worker_space.errors import Unavailable
from worker_space.jobs.reconcile import RECONCILED
from worker_space.messages import NewSession
from worker_space.ports import FoundMapping
from worker_space.projects import NewProject
from worker_space.records import Update
from worker_space.space import UserWorkerSpace
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio

ALICE = TenantContext("alice", "shop")
HASHED = TenantContext("auth0|bob", "shop")
NOBODY = TenantContext("nobody", "shop")
TWO_HOURS = 7200.0


class LongAgo:
    """What happens inside happened two hours before the rest."""

    def __init__(self, stack: MemoryStack) -> None:
        self._stack = stack

    def __enter__(self) -> None:
        self._stack.clock[0] -= TWO_HOURS

    def __exit__(self, *_: object) -> None:
        self._stack.clock[0] += TWO_HOURS


async def in_use(stack: MemoryStack, tenant: TenantContext = ALICE) -> str:
    """A project with a message that waits in its queue; the queue's name."""
    await stack.parts.services.projects.create(tenant.user, NewProject(id=tenant.project_id, name="Shop"))
    space = UserWorkerSpace(tenant, stack.parts.services.collaborators)
    session = await space.sessions.create(tenant, NewSession())
    await space.send_task(session.id, "hello", "coder")
    return NAMES.queue(tenant, 1)


async def reconcile(stack: MemoryStack) -> dict[str, int]:
    """A run's counts, without the zeros."""
    counts = await stack.parts.reconciler.reconcile(seconds=30)
    assert set(counts) == set(RECONCILED)
    return {name: count for name, count in counts.items() if count}


async def set_space(stack: MemoryStack, **attributes: object) -> None:
    await stack.records.write(ALICE, Update(key=Key.space(), set=attributes))


@pytest.fixture
def stack() -> MemoryStack:
    return MemoryStack()


async def test_what_is_in_use_stays(stack: MemoryStack) -> None:
    with LongAgo(stack):
        for tenant in (ALICE, HASHED):
            await in_use(stack, tenant)
    assert await reconcile(stack) == {"queues": 2, "mappings": 2}
    for tenant in (ALICE, HASHED):
        assert await stack.queues.exists(tenant, 1)
        assert len(await stack.work(tenant)) == 1


async def test_a_queue_that_no_record_lists_goes_with_its_mapping(stack: MemoryStack) -> None:
    with LongAgo(stack):
        for tenant in (NOBODY, HASHED):
            await stack.queues.create(tenant, 4)
    assert await reconcile(stack) == {"queues": 2, "removed_queues": 2, "removed_mappings": 2}
    assert not await stack.queues.exists(NOBODY, 4)
    assert await reconcile(stack) == {}


@pytest.mark.parametrize("state", ["dormant", "deleted"])
async def test_a_queue_of_a_space_that_sleeps_or_is_deleted_goes(stack: MemoryStack, state: str) -> None:
    with LongAgo(stack):
        await in_use(stack)
    await set_space(stack, state=state)
    assert await reconcile(stack) == {"queues": 1, "removed_queues": 1, "removed_mappings": 1}


@pytest.mark.parametrize("state", ["waking", "active", "hibernating"])
async def test_another_generation_goes_and_the_spaces_own_stays(stack: MemoryStack, state: str) -> None:
    with LongAgo(stack):
        await in_use(stack)
        await stack.queues.create(ALICE, 2)
    await set_space(stack, state=state)
    assert await reconcile(stack) == {"queues": 2, "mappings": 1, "removed_queues": 1, "removed_mappings": 1}
    assert list(await stack.queues.generations(ALICE)) == [1]


async def test_what_a_space_is_still_releasing_is_left_to_it(stack: MemoryStack) -> None:
    with LongAgo(stack):
        await in_use(stack)
    await set_space(stack, generation=2, releasing=frozenset({"1"}))
    assert await reconcile(stack) == {"queues": 1, "mappings": 1}


async def test_a_queue_that_is_being_made_just_now_stays(stack: MemoryStack) -> None:
    await stack.queues.create(ALICE, 1)
    assert await reconcile(stack) == {"queues": 1, "mappings": 1, "young": 1}
    assert await stack.queues.exists(ALICE, 1)


async def test_a_mapping_without_a_queue_goes_when_it_is_old(stack: MemoryStack) -> None:
    inventory = MemoryInventory(stack.queues)
    with LongAgo(stack):
        await stack.queues.create(NOBODY, 1)
    await stack.queues.create(NOBODY, 2)
    for generation in (1, 2):
        await inventory.remove_queue(NAMES.queue(NOBODY, generation))
    assert await reconcile(stack) == {"mappings": 2, "removed_mappings": 1, "young": 1}
    assert await stack.queues.mappings(NOBODY, 1) == 0


async def test_a_queue_without_a_mapping_goes_when_nobody_knows_it(stack: MemoryStack) -> None:
    with LongAgo(stack):
        await stack.queues.create(NOBODY, 1)
    inventory = MemoryInventory(stack.queues)
    (mapping,) = await inventory.mappings_of(NAMES.queue(NOBODY, 1))
    await inventory.remove_mapping(mapping)
    assert await reconcile(stack) == {"queues": 1, "removed_queues": 1}


async def test_a_queue_in_use_that_has_lost_its_mapping_gets_one(stack: MemoryStack) -> None:
    inventory = MemoryInventory(stack.queues)
    with LongAgo(stack):
        name = await in_use(stack)
    (mapping,) = await inventory.mappings_of(name)
    await inventory.remove_mapping(mapping)
    assert await reconcile(stack) == {"queues": 1, "mended": 1}
    assert await stack.queues.mappings(ALICE, 1) == 1
    assert await reconcile(stack) == {"queues": 1, "mappings": 1}


class WokenMeanwhile(MemoryInventory):
    """Between finding a queue and removing it, its space comes to list it."""

    stack: MemoryStack

    async def mappings_of(self, queue: str) -> Sequence[FoundMapping]:
        await set_space(self.stack, state="active", generation=1)
        return await super().mappings_of(queue)


async def test_the_record_is_read_once_more_before_a_queue_goes(stack: MemoryStack) -> None:
    with LongAgo(stack):
        await in_use(stack)
    await set_space(stack, state="dormant")
    inventory = WokenMeanwhile(stack.queues)
    inventory.stack = stack
    parts = stack.compose(inventory=inventory)
    counts = await parts.reconciler.reconcile(seconds=30)
    assert counts["removed_queues"] == counts["removed_mappings"] == 0
    assert await stack.queues.exists(ALICE, 1)


class OneRefuses(MemoryInventory):
    """One queue cannot be removed now."""

    async def remove_queue(self, queue: str) -> None:
        if queue == NAMES.queue(NOBODY, 1):
            raise Unavailable("sqs", "ServiceUnavailable")
        await super().remove_queue(queue)


async def test_one_that_cannot_be_removed_does_not_keep_the_others(
    stack: MemoryStack, caplog: pytest.LogCaptureFixture
) -> None:
    with LongAgo(stack):
        for generation in (1, 2, 3):
            await stack.queues.create(NOBODY, generation)
    counts = await stack.compose(inventory=OneRefuses(stack.queues)).reconciler.reconcile(seconds=30)
    assert (counts["removed_queues"], counts["left"]) == (2, 1)
    # A queue's name may be a user's id.
    assert "nobody" not in caplog.text
    assert "orphaned" in caplog.text


class Endless(MemoryInventory):
    """So much that no run reaches its end."""

    async def queues(self) -> AsyncIterator[Sequence[str]]:
        for generation in range(1, 100_000_000):
            yield [NAMES.queue(NOBODY, generation)]


async def test_a_run_ends_in_time_and_says_so(stack: MemoryStack) -> None:
    counts = await stack.compose(inventory=Endless(stack.queues)).reconciler.reconcile(seconds=0.2)
    assert counts["unfinished"] == 1
    assert counts["queues"] > 0


async def test_in_pooled_mode_the_pool_stays_and_own_queues_from_before_go_when_nobody_lists_them() -> None:
    stack = MemoryStack(settings=settings(queue_mode="pooled", pool_queues=3))
    await in_use(stack)
    with LongAgo(stack):
        before = MemoryQueues(NAMES, epoch_ms=stack.queues._epoch_ms)
        for tenant in (ALICE, NOBODY):
            await before.create(tenant, 1)
    stack.queues._queues |= before._queues
    # The space from before the switch still has its own, whose mapping somebody deleted: no reason to make another.
    assert await reconcile(stack) == {"queues": 2, "removed_queues": 1}
    assert {NAMES.pool_queue(index) for index in range(3)} <= set(stack.queues._queues)
    assert await stack.queues.generations(ALICE) == [1]
