"""What happens in one project is not seen in another: not the same user's, not another user's of the same name."""

import pytest

from tests.memory_stack import MemoryStack
from tests.mission.world import ALICE, BLOG, BOB, answered, session_in, space_of, stored
from worker_space import UserWorkerSpace
from worker_space.agents import AgentChanges, AgentConfig
from worker_space.errors import NotFound
from worker_space.ports import ContextEntry

pytestmark = pytest.mark.anyio
MARK = "MARKER-of-alice"


@pytest.fixture(params=[BLOG, BOB], ids=["own other project", "same name, other user"])
def other(stack: MemoryStack, request: pytest.FixtureRequest) -> UserWorkerSpace:
    return space_of(stack, request.param)


async def _mark(stack: MemoryStack, space: UserWorkerSpace) -> tuple[str, str, str]:
    agent = await space.create_agent(AgentConfig(name="mine", system_prompt=MARK))
    await stack.files.write(ALICE, "secret.txt", MARK.encode())
    await space.add_context("mine", ContextEntry(id="1", text=f"{MARK} likes tea", kind="note", created_at=1))
    reply = await answered(stack, space, f"{MARK} tea", "mine")
    return agent.id, reply.task.id, reply.task.session_id


async def test_agents_tasks_sessions_and_memories_of_another_are_missing(
    stack: MemoryStack, space: UserWorkerSpace, other: UserWorkerSpace
) -> None:
    agent, task, session = await _mark(stack, space)
    for target in ("mine", agent):
        for operation in (
            other.get_agent,
            other.reload_agent,
            other.register_agent,
            other.deregister_agent,
            other.get_agent_status,
            other.get_agent_metrics,
            other.get_agent_context_store,
            other.clear_context,
            other.delete_agent,
        ):
            with pytest.raises(NotFound):
                await operation(target)
        with pytest.raises(NotFound):
            await other.update_agent(target, AgentChanges(system_prompt="x"))
        with pytest.raises(NotFound):
            await other.search_context(target, "tea")
        with pytest.raises(NotFound):
            await other.send_task(await session_in(other), "x", target)
    with pytest.raises(NotFound):
        await other.cancel_task(task)
    with pytest.raises(NotFound):
        await other.send_task(session, "x", "coder")
    with pytest.raises(NotFound):
        await other.sessions.messages(other.tenant, session, limit=10, after=None)


async def test_nothing_of_another_project_reaches_a_prompt_or_a_store(
    stack: MemoryStack, space: UserWorkerSpace, other: UserWorkerSpace
) -> None:
    await _mark(stack, space)
    before = stored(stack, ALICE)
    stack.model.requests.clear()
    for content in ("tea", "read secret.txt", "what do you know?"):
        await answered(stack, other, content)
    await other.initialize()
    await other.reset()
    assert MARK not in "".join(request.model_dump_json() for request in stack.model.requests)
    assert MARK not in stored(stack, other.tenant)
    assert stored(stack, ALICE) == before


async def test_an_agent_of_the_same_name_is_another_agent(
    stack: MemoryStack, space: UserWorkerSpace, other: UserWorkerSpace
) -> None:
    mine, theirs = await space.get_agent("coder"), await other.get_agent("coder")
    assert mine.id != theirs.id
    await space.update_agent("coder", AgentChanges(system_prompt="Mine."))
    assert (await other.get_agent("coder")) == theirs
    await answered(stack, space, "hello")
    assert (await other.get_agent_metrics("coder")).tasks_processed == 0
