"""Initialise, create an agent, send it a task, clean up."""

import pytest

from tests.memory_stack import MemoryStack, calls, says
from tests.mission.world import ALICE, session_in, working
from worker_space import UserWorkerSpace
from worker_space.agents import AgentConfig
from worker_space.messages import MessageRequest
from worker_space.models import ToolResult
from worker_space.projects import SpaceState

pytestmark = pytest.mark.anyio


async def test_initialise_create_agent_send_task_cleanup(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await stack.files.write(ALICE, "main.py", b"print('hi')\n")
    assert len(await space.initialize()) == 4

    agent = await space.create_agent(
        AgentConfig(name="reviewer", system_prompt="You review.", tools=("read_file",), max_concurrency=1)
    )
    assert agent in await space.initialize()
    assert (await space.get_agent_status("reviewer")).status == "idle"

    stack.model.script = [calls(("read_file", {"path": "main.py"})), says("It prints hi.")]
    session = await session_in(space)
    async with working(stack, ALICE):
        sent = await space.send_task(session, "Analyse main.py", "reviewer")
        reply = await space.wait_for_result(sent, seconds=5)
    assert reply.response is not None
    expected = (sent.task_id, "assistant", "It prints hi.", agent.id, "direct")
    response = reply.response
    assert (response.id, response.role, response.content, response.agent_id, response.mode) == expected
    read = stack.model.requests[-1].turns[-1]
    assert isinstance(read, ToolResult)
    assert "print('hi')" in read.content
    messages, _ = await space.sessions.messages(ALICE, session, limit=10, after=None)
    assert [message.content for message in messages] == ["Analyse main.py", "It prints hi."]
    assert [match.entry.task_id for match in await space.search_context("reviewer", "main.py prints")] == [sent.task_id]
    assert (await space.get_agent_metrics("reviewer")).completed == 1

    report = await space.cleanup()
    assert (report.state, report.deregistered_agents, report.canceled_tasks) == (SpaceState.DORMANT, 5, 0)
    assert await stack.cache.load(ALICE) == {}
    assert list(await stack.queues.generations(ALICE)) == []
    body = await stack.files.read(ALICE, "main.py")
    assert body is not None
    assert body.data == b"print('hi')\n"
    assert (await space.get_metrics()).total_tasks_processed == 1


async def test_a_message_may_be_the_first_thing_that_happens_to_a_project(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    request = MessageRequest(content="hello", target_agent="coder")
    async with working(stack, ALICE):
        reply = await space.handle_message(await session_in(space), request, wait_seconds=5)
    assert reply.response is not None
