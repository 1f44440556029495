"""Agent context: one collection per agent, named for user, project and agent; a search finds that agent's alone.

The same promises are held to over Qdrant's own interface by `tests/contract/test_context_store.py`.
"""

import pytest

from tests.memory_stack import NAMES, MemoryStack
from tests.mission.world import ALICE, BLOG, BOB, answered, space_of, stored
from worker_space import UserWorkerSpace
from worker_space.agents import AgentChanges
from worker_space.errors import NotFound
from worker_space.ports import ContextEntry

pytestmark = pytest.mark.anyio


def note(text: str, entry: str = "1") -> ContextEntry:
    return ContextEntry(id=entry, text=text, kind="note", created_at=1)


async def test_a_collections_name_carries_user_project_and_agent(space: UserWorkerSpace) -> None:
    coder = await space.get_agent("coder")
    assert NAMES.collection(ALICE, coder.id) == f"test_useralice_projectshop_agent_{coder.id}"
    renamed = await space.update_agent("coder", AgentChanges(name="developer"))
    assert renamed.id == coder.id


async def test_ensure_agent_collection_makes_it_once_and_keeps_what_it_holds(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    coder = await space.get_agent("coder")
    await space.ensure_agent_collection(coder.id)
    await space.add_context("coder", note("the sky is blue"))
    before = stored(stack, ALICE)
    await space.ensure_agent_collection(coder.id)
    assert stored(stack, ALICE) == before


async def test_search_returns_that_agents_context_and_no_others(stack: MemoryStack, space: UserWorkerSpace) -> None:
    elsewhere = [space_of(stack, tenant) for tenant in (BLOG, BOB)]
    await space.add_context("coder", note("the sky is blue"))
    for other in elsewhere:
        await other.add_context("coder", note("the sky is someone else's"))
    await space.add_context("writer", note("the sky is a metaphor"))
    assert [match.entry.text for match in await space.search_context("coder", "sky")] == ["the sky is blue"]
    assert [match.entry.text for match in await space.search_context("writer", "sky")] == ["the sky is a metaphor"]
    assert list(await space.search_context("analyst", "sky")) == []


async def test_get_agent_context_store_is_the_memory_of_one_agent(space: UserWorkerSpace) -> None:
    store = await space.get_agent_context_store("coder")
    await store.add(note("the sky is blue"))
    assert [match.entry.text for match in await store.search("sky", limit=5)] == ["the sky is blue"]
    entries, after = await store.entries(limit=10)
    assert ([entry.text for entry in entries], after) == (["the sky is blue"], None)
    other = await space.get_agent_context_store("writer")
    assert list(await other.search("sky", limit=5)) == []
    with pytest.raises(NotFound):
        await space.get_agent_context_store("nobody")


async def test_an_interaction_is_remembered_and_recalled_for_the_next_one(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await answered(stack, space, "apples are red")
    await answered(stack, space, "what colour have apples?")
    assert "User: apples are red" in stack.model.requests[-1].system_prompt
    await answered(stack, space, "what colour have apples?", "writer")
    assert "apples are red" not in stack.model.requests[-1].system_prompt


async def test_clear_context_forgets_one_agents_memory_alone(stack: MemoryStack, space: UserWorkerSpace) -> None:
    for target in ("coder", "writer"):
        await space.add_context(target, note("the sky is blue"))
    await space.clear_context("coder")
    assert list(await space.search_context("coder", "sky")) == []
    assert len(await space.search_context("writer", "sky")) == 1
    await space.add_context("coder", note("grass is green"))
    assert len(await space.search_context("coder", "grass")) == 1
