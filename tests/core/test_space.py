"""The worker space under the names that users of the package know."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.memory_stack import MemoryStack, calls, says
from worker_space import UserWorkerSpace, WorkerSpaceManager
from worker_space.agents import AgentChanges, AgentConfig
from worker_space.errors import Conflict, InvalidRequest, NotFound, Unavailable
from worker_space.messages import NewSession
from worker_space.ports import ContextEntry
from worker_space.projects import NewProject
from worker_space.tenancy import TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack()
    for project in ("shop", "blog"):
        await stack.parts.services.projects.create(UserContext("alice"), NewProject(id=project, name=project))
    return stack


@pytest.fixture
def space(stack: MemoryStack) -> UserWorkerSpace:
    return WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "shop")


async def test_initialize_loads_agents_makes_their_memories_and_may_be_repeated(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    for _ in range(2):
        agents = await space.initialize()
        assert {agent.config.name for agent in agents} == {"coder", "analyst", "writer", "planner"}
    for agent in agents:
        await stack.memory.add(TENANT, agent.id, ContextEntry(id="1", text="x", kind="note", created_at=1))


async def test_initialize_without_memory_or_cache_still_serves(stack: MemoryStack) -> None:
    class Down:
        def __getattr__(self, name: str) -> object:
            async def fail(*_: object, **__: object) -> None:
                raise Unavailable("it", "down")

            return fail

    parts = stack.compose(memory=Down(), cache=Down())
    space = WorkerSpaceManager(parts.services.collaborators).get_or_create("alice", "shop")
    assert len(await space.initialize()) == 4
    assert (await space.create_agent(AgentConfig(name="new", system_prompt="x"))).version == 1
    await space.clear_agent_cache()
    session = await space.sessions.create(TENANT, NewSession())
    sent = await space.send_task(session.id, "hi", "new")
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=2)
    assert reply.response is not None


async def test_an_agent_that_is_changed_or_deleted_is_never_served_stale(space: UserWorkerSpace) -> None:
    first = await space.get_agent("coder")
    assert (await space.get_agent(first.id)).version == 1
    changed = await space.update_agent("coder", AgentChanges(system_prompt="new words", temperature=0.5))
    assert (await space.get_agent("CODER")).config.system_prompt == "new words"
    assert (changed.version, changed.config.temperature) == (2, 0.5)
    assert (await space.update_agent("coder", AgentChanges(temperature=None))).config.temperature is None
    assert (await space.reload_agent("coder")).version == 3
    await space.update_agent("coder", AgentChanges(name="developer"))
    with pytest.raises(NotFound):
        await space.get_agent("coder")
    await space.delete_agent("developer")
    for target in ("developer", first.id):
        with pytest.raises(NotFound):
            await space.get_agent(target)
        with pytest.raises(NotFound):
            await space.reload_agent(target)
    assert len(await space.list_agents()) == 3


async def test_clearing_one_projects_cache_touches_no_other(stack: MemoryStack, space: UserWorkerSpace) -> None:
    blog = WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "blog")
    await space.list_agents()
    await blog.list_agents()
    await space.clear_agent_cache()
    assert await stack.cache.load(TENANT) == {}
    assert await stack.cache.load(TenantContext("alice", "blog")) != {}


async def test_an_agents_name_is_unique_and_its_tools_and_model_exist(space: UserWorkerSpace) -> None:
    results = await asyncio.gather(
        *(space.create_agent(AgentConfig(name=name, system_prompt="x")) for name in ("Bob", "bob", "BOB", "bob ")),
        return_exceptions=True,
    )
    assert sum(isinstance(result, Conflict) for result in results) == 3
    with pytest.raises(Conflict):
        await space.update_agent("coder", AgentChanges(name="bob"))
    with pytest.raises(InvalidRequest, match="no_such_tool"):
        await space.create_agent(AgentConfig(name="x", system_prompt="x", tools=("no_such_tool",)))
    with pytest.raises(InvalidRequest, match="nobody:x"):
        await space.update_agent("coder", AgentChanges(model="nobody:x"))


async def test_context_is_one_agents_alone(space: UserWorkerSpace) -> None:
    coder, writer = await space.get_agent("coder"), await space.get_agent("writer")
    await space.add_context(coder.id, ContextEntry(id="1", text="the sky is blue", kind="note", created_at=1))
    assert [match.entry.text for match in await space.search_context(coder.id, "sky")] == ["the sky is blue"]
    assert await space.search_context(writer.id, "sky") == []
    with pytest.raises(NotFound):
        await space.add_context(
            "agent_00000000000000000000000000", ContextEntry(id="1", text="x", kind="note", created_at=1)
        )


async def test_a_manager_hands_out_one_space_for_a_pair_also_to_racing_callers() -> None:
    manager = WorkerSpaceManager(MemoryStack().parts.services.collaborators)
    with ThreadPoolExecutor(8) as pool:
        spaces = set(pool.map(lambda _: id(manager.get_or_create("alice", "shop")), range(100)))
    assert len(spaces) == 1
    assert manager.get_or_create("alice", "blog") is not manager.get_or_create("alice", "shop")
    assert manager.get_or_create("bob", "shop").tenant == TenantContext("bob", "shop")


async def test_a_task_that_another_worker_takes_over_runs_the_version_it_started_with(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await space.update_agent("coder", AgentChanges(system_prompt="The old words."))
    sent = await space.send_task((await space.sessions.create(TENANT, NewSession())).id, "hi", "coder")
    stack.model.script = [calls(("list_directory", {})), Unavailable("the model", "down"), says("done")]
    with pytest.raises(Unavailable):
        await stack.work(TENANT)
    await space.update_agent("coder", AgentChanges(system_prompt="The new words."))
    stack.clock[0] += 2000
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.response is not None
    assert (reply.task.attempt, reply.task.agent_version) == (2, 2)
    assert ["The old words." in request.system_prompt for request in stack.model.requests] == [True] * 3
