"""The agent cache: asked first, never stale after a change, never another project's."""

from collections import Counter
from typing import Any

import pytest

from tests.memory_stack import NAMES, MemoryStack
from tests.mission.world import ALICE, BLOG, BOB, Counted, counted, space_of
from worker_space import UserWorkerSpace
from worker_space.adapters.memory_cache import MemoryCache
from worker_space.agents import AgentChanges, AgentConfig
from worker_space.errors import NotFound
from worker_space.records import Update
from worker_space.tenancy import Key

pytestmark = pytest.mark.anyio


async def test_get_agent_asks_the_cache_first_and_then_the_table(stack: MemoryStack) -> None:
    parts, counts = counted(stack, "records", "cache")
    space = space_of(stack, ALICE, parts)
    coder = await space.get_agent("coder")
    assert counts == Counter({"cache.load": 1, "records.query": 1, "cache.store": 1})
    counts.clear()
    assert await space.get_agent(coder.id) == await space.get_agent("CODER") == coder
    assert counts == Counter({"cache.load": 2})
    with pytest.raises(NotFound):
        await space.get_agent("nobody")


async def test_list_agents_is_one_command_while_the_cache_lives(stack: MemoryStack) -> None:
    parts, counts = counted(stack, "records", "cache")
    space = space_of(stack, ALICE, parts)
    first = await space.list_agents()
    counts.clear()
    assert list(await space.list_agents()) == list(first)
    assert counts == Counter({"cache.load": 1})


async def test_what_is_cached_lives_for_five_minutes(stack: MemoryStack) -> None:
    now = [0.0]
    cache = MemoryCache(NAMES, clock=lambda: now[0])
    space = space_of(stack, ALICE, stack.compose(cache=cache))
    await space.initialize()
    coder = await space.get_agent("coder")
    # Changed past the cache: what it holds is seen until it expires, and not a moment longer.
    item = await stack.records.get(ALICE, Key.agent(coder.id))
    assert item is not None
    config = {**item["config"], "system_prompt": "New."}
    await stack.records.write(ALICE, Update(key=Key.agent(coder.id), set={"version": 2, "config": config}))
    now[0] = 299.0
    assert (await space.get_agent("coder")).version == 1
    now[0] = 301.0
    assert (await space.get_agent("coder")).version == 2


async def test_an_updated_agent_is_never_served_stale(space: UserWorkerSpace) -> None:
    for number in range(2, 6):
        await space.list_agents()
        await space.update_agent("coder", AgentChanges(system_prompt=f"Prompt {number}."))
        found = await space.get_agent("coder")
        assert (found.version, found.config.system_prompt) == (number, f"Prompt {number}.")
        assert found in await space.list_agents()


async def test_a_deleted_agent_is_never_served_again(space: UserWorkerSpace) -> None:
    coder = await space.get_agent("coder")
    await space.delete_agent("coder")
    for target in ("coder", coder.id):
        with pytest.raises(NotFound):
            await space.get_agent(target)
        with pytest.raises(NotFound):
            await space.reload_agent(target)
    assert coder.id not in {agent.id for agent in await space.list_agents()}


async def test_reload_agent_reads_the_table_and_fills_the_cache_anew(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    coder = await space.get_agent("coder")
    await stack.records.write(ALICE, Update(key=Key.agent(coder.id), set={"version": 7}))
    assert (await space.get_agent("coder")).version == 1
    assert (await space.reload_agent("coder")).version == 7
    assert (await space.get_agent("coder")).version == 7


async def test_invalidate_agent_has_one_agent_read_from_the_table_again(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    coder = await space.get_agent("coder")
    await stack.records.write(ALICE, Update(key=Key.agent(coder.id), set={"version": 7}))
    before = await stack.cache.load(ALICE)
    await space.invalidate_agent("coder")
    left = await stack.cache.load(ALICE)
    assert before.keys() - left.keys() == {coder.id}
    assert (await space.get_agent("coder")).version == 7
    await space.invalidate_agent("nobody")
    await space.clear_agent_cache()
    await space.invalidate_agent("coder")


async def test_clear_agent_cache_is_one_command_on_ones_own_key(stack: MemoryStack) -> None:
    spaces = {tenant: space_of(stack, tenant) for tenant in (ALICE, BLOG, BOB)}
    for space in spaces.values():
        await space.initialize()
    kept = {tenant: await stack.cache.load(tenant) for tenant in (BLOG, BOB)}
    parts, counts = counted(stack, "cache", "records")
    await space_of(stack, ALICE, parts).clear_agent_cache()
    assert counts == Counter({"cache.clear": 1})
    assert await stack.cache.load(ALICE) == {}
    for tenant, fields in kept.items():
        assert await stack.cache.load(tenant) == fields != {}


async def test_a_decision_never_rests_on_a_stale_cache(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await space.list_agents()
    stale = await stack.cache.load(ALICE)
    await space.update_agent("coder", AgentChanges(enabled=False))
    await space.create_agent(AgentConfig(name="new", system_prompt="x"))
    # An invalidation that was lost: the cache says again what was true before.
    await stack.cache.store(ALICE, stale, ttl_seconds=300)
    assert not (await stack.parts.services.collaborators.registry.get(ALICE, "coder")).config.enabled
    assert (await space.get_agent("new")).config.name == "new"


async def test_a_fill_that_was_read_before_a_change_does_not_bring_back_what_was_there(stack: MemoryStack) -> None:
    changes: list[AgentChanges | None] = [AgentChanges(system_prompt="New."), None]
    space = space_of(stack, ALICE)

    class ChangedMeanwhile(Counted):
        """The agent is changed, or deleted, between a rehydration's query and its fill."""

        async def query(self, *arguments: Any, **named: Any) -> Any:
            found = await stack.records.query(*arguments, **named)
            if changes and arguments[1] == Key.home():
                change = changes.pop(0)
                await (space.delete_agent("coder") if change is None else space.update_agent("coder", change))
            return found

    slow = space_of(stack, ALICE, stack.compose(records=ChangedMeanwhile(stack.records, "records", Counter())))
    await slow.list_agents()
    found = await space.get_agent("coder")
    assert (found.version, found.config.system_prompt) == (2, "New.")
    await slow.list_agents()
    with pytest.raises(NotFound):
        await space.get_agent("coder")
    assert "coder" not in {agent.config.name for agent in await space.list_agents()}
