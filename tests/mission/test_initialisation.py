"""`initialize` loads agents, fills the cache, makes memories and registers on the bus; again, it changes nothing."""

import json
from collections import Counter
from typing import Any

import pytest

from tests.memory_stack import MemoryStack
from tests.mission.world import ALICE, answered, counted, space_of, stored
from worker_space import UserWorkerSpace
from worker_space.agents import AgentConfig
from worker_space.errors import NotFound, Unavailable
from worker_space.ports import ContextEntry
from worker_space.records import Delete
from worker_space.registry import CACHE_TTL_SECONDS
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio


async def test_it_loads_the_projects_agents(space: UserWorkerSpace) -> None:
    assert {agent.config.name for agent in await space.initialize()} == {"coder", "analyst", "writer", "planner"}


async def test_it_fills_the_cache_for_five_minutes(stack: MemoryStack, space: UserWorkerSpace) -> None:
    lives: list[int] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack.cache, name)

        async def store(self, tenant: TenantContext, fields: Any, *, ttl_seconds: int) -> None:
            lives.append(ttl_seconds)
            await stack.cache.store(tenant, fields, ttl_seconds=ttl_seconds)

    agents = await space_of(stack, ALICE, stack.compose(cache=Watched())).initialize()
    fields = await stack.cache.load(ALICE)
    assert {agent.id for agent in agents} <= fields.keys()
    assert json.loads(fields[agents[0].id])["version"] == 1
    assert set(lives) == {300} == {CACHE_TTL_SECONDS}


async def test_it_makes_sure_that_each_agents_context_collection_exists(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    entry = ContextEntry(id="1", text="x", kind="note", created_at=1)
    agents = await space.list_agents()
    for agent in agents:
        with pytest.raises(NotFound):
            await stack.memory.add(ALICE, agent.id, entry)
    await space.initialize()
    for agent in agents:
        await stack.memory.add(ALICE, agent.id, entry)


async def test_it_registers_each_agent_on_the_bus(stack: MemoryStack, space: UserWorkerSpace) -> None:
    coder, writer = await space.deregister_agent("coder"), await space.get_agent("writer")
    await stack.records.write(ALICE, Delete(key=Key.runtime(writer.id)))
    await space.initialize()
    for agent in (coder, writer):
        runtime = await stack.records.get(ALICE, Key.runtime(agent.id))
        assert runtime is not None
        assert (runtime["registered"], runtime["max"]) == (True, 3)


async def test_the_second_time_is_one_round_trip_to_the_cache_and_changes_nothing(stack: MemoryStack) -> None:
    parts, counts = counted(stack, "records", "cache", "memory", "queues", "files", "content")
    space = space_of(stack, ALICE, parts)
    first = await space.initialize()
    # Cold: the agents, their runtime items, a memory each, and the cache's two stores.
    assert counts == Counter(
        {"cache.load": 1, "records.query": 1, "cache.store": 2, "records.get_many": 1, "memory.ensure": 4}
    )
    before = stored(stack, ALICE), await stack.cache.load(ALICE)
    counts.clear()
    again = space_of(stack, ALICE, parts)
    assert list(await again.initialize()) == list(first)
    assert counts == Counter({"cache.load": 1})
    assert (stored(stack, ALICE), await stack.cache.load(ALICE)) == before


async def test_it_changes_nothing_either_where_the_cache_was_lost(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await answered(stack, space, "hello")
    await space.initialize()
    before = stored(stack, ALICE)
    await stack.cache.clear(ALICE)
    await space.initialize()
    assert stored(stack, ALICE) == before


async def test_an_agent_that_was_made_since_is_initialised_too(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await space.initialize()
    made = await stack.parts.services.collaborators.registry.create(ALICE, AgentConfig(name="new", system_prompt="x"))
    assert made.id in {agent.id for agent in await space.initialize()}
    await stack.memory.add(ALICE, made.id, ContextEntry(id="1", text="x", kind="note", created_at=1))


async def test_without_memory_it_serves_all_the_same_and_the_next_time_makes_up_for_it(stack: MemoryStack) -> None:
    class Down:
        def __getattr__(self, name: str) -> Any:
            async def fail(*_: object, **__: object) -> None:
                raise Unavailable("qdrant", "down")

            return fail

    space = space_of(stack, ALICE, stack.compose(memory=Down()))
    assert len(await space.initialize()) == 4
    agents = await space_of(stack, ALICE).initialize()
    for agent in agents:
        await stack.memory.add(ALICE, agent.id, ContextEntry(id="1", text="x", kind="note", created_at=1))


async def test_a_project_that_is_not_there_is_not_made(stack: MemoryStack) -> None:
    with pytest.raises(NotFound):
        await space_of(stack, TenantContext("alice", "zzz-missing")).initialize()
    assert "zzz-missing" not in repr(stack.records._partitions)  # type: ignore[attr-defined]
