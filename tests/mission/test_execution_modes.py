"""Direct: to the agent that is named. Orchestrated: the orchestrator chooses or plans. Too slow: a task to follow."""

import time

import pytest

from tests.memory_stack import MemoryStack
from tests.mission.world import ALICE, answered, make_stack, session_in, space_of, working
from worker_space import UserWorkerSpace
from worker_space.adapters.model import PydanticAIModels
from worker_space.errors import InvalidRequest, NotFound
from worker_space.messages import MessageRequest, NewSession
from worker_space.tasks import ORCHESTRATOR, TaskState
from worker_space.tenancy import Key

pytestmark = pytest.mark.anyio


async def test_direct_execution_goes_straight_to_its_agent_and_awaits_the_answer(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    coder = await space.get_agent("coder")
    request = MessageRequest(content="hello", target_agent="coder")
    async with working(stack, ALICE):
        reply = await space.direct_execution(await session_in(space), request, wait_seconds=5)
    assert reply.response is not None
    assert (reply.response.role, reply.response.mode, reply.response.agent_id) == ("assistant", "direct", coder.id)
    assert reply.response.id == reply.task.id
    assert reply.response.content == "You said: hello"
    # One model call: nobody chose.
    assert len(stack.model.requests) == 1


async def test_when_the_time_is_up_there_is_a_task_to_follow(stack: MemoryStack, space: UserWorkerSpace) -> None:
    request = MessageRequest(content="hello", target_agent="coder")
    began = time.monotonic()
    reply = await space.direct_execution(await session_in(space), request, wait_seconds=0.1)
    assert 0.09 <= time.monotonic() - began < 2
    assert (reply.response, reply.task.state) == (None, TaskState.SUBMITTED)
    await stack.work(ALICE)
    task = await stack.records.get(ALICE, Key.task(reply.task.id))
    assert task is not None
    assert task["state"] == TaskState.COMPLETED


@pytest.mark.parametrize(
    ("content", "agent"), [("Review main.py", "analyst"), ("Write a README for this project", "writer")]
)
async def test_orchestrated_execution_chooses_among_the_projects_agents(content: str, agent: str) -> None:
    stack = await make_stack(real_model=PydanticAIModels(region="eu-central-1"))
    await stack.files.write(ALICE, "main.py", b"print('hi')\n")
    space = space_of(stack, ALICE)
    async with working(stack, ALICE):
        reply = await space.orchestrated_execution(
            await session_in(space), MessageRequest(content=content), wait_seconds=10
        )
    assert reply.response is not None
    assert reply.response.mode == "orchestrated"
    assert reply.response.agent_id == (await space.get_agent(agent)).id


async def test_a_request_of_two_parts_becomes_a_plan_with_one_answer() -> None:
    stack = await make_stack(real_model=PydanticAIModels(region="eu-central-1"))
    await stack.files.write(ALICE, "main.py", b"print('hi')\n")
    space = space_of(stack, ALICE)
    async with working(stack, ALICE):
        reply = await space.orchestrated_execution(
            await session_in(space), MessageRequest(content="Review main.py and write a README"), wait_seconds=10
        )
    assert reply.response is not None
    assert (reply.response.mode, reply.response.agent_id) == ("orchestrated", ORCHESTRATOR)
    assert reply.task.plan_id is not None


async def test_orchestrated_execution_refuses_a_named_agent(space: UserWorkerSpace) -> None:
    request = MessageRequest(content="hello", target_agent="coder")
    with pytest.raises(InvalidRequest):
        await space.orchestrated_execution(await session_in(space), request, wait_seconds=0)


async def test_direct_execution_never_chooses_an_agent(stack: MemoryStack, space: UserWorkerSpace) -> None:
    with pytest.raises(InvalidRequest):
        await space.direct_execution(await session_in(space), MessageRequest(content="hello"), wait_seconds=0)
    assert list((await space.cancel_all_tasks()).canceled) == []


async def test_handle_message_is_direct_where_an_agent_is_named_and_orchestrated_where_none_is() -> None:
    stack = await make_stack(real_model=PydanticAIModels(region="eu-central-1"))
    space = space_of(stack, ALICE)
    named = await answered(stack, space, "What is in this project?", "writer")
    chosen = await answered(stack, space, "What is in this project?", None)
    of_session = (await space.sessions.create(ALICE, NewSession(target_agent="coder"))).id
    async with working(stack, ALICE):
        by_session = await space.handle_message(of_session, MessageRequest(content="List the files"), wait_seconds=10)
    modes = [reply.response.mode for reply in (named, chosen, by_session) if reply.response is not None]
    assert modes == ["direct", "orchestrated", "direct"]


async def test_a_message_to_nobody_is_refused_and_leaves_no_task(stack: MemoryStack, space: UserWorkerSpace) -> None:
    with pytest.raises(NotFound):
        await space.handle_message(
            await session_in(space), MessageRequest(content="hello", target_agent="nobody"), wait_seconds=0
        )
    assert list((await space.cancel_all_tasks()).canceled) == []
