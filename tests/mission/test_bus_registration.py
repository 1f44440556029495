"""The agent bus: who is registered gets messages, one queue per project, in order, never over an agent's cap."""

import asyncio
import threading

import pytest

from tests.memory_stack import NAMES, MemoryStack
from tests.mission.world import ALICE, BLOG, answered, session_in, space_of, working
from worker_space import UserWorkerSpace
from worker_space.agents import AgentChanges, AgentConfig
from worker_space.errors import Conflict, NotFound
from worker_space.messages import MessageRequest, NewSession
from worker_space.models import ModelRequest
from worker_space.tasks import TaskState
from worker_space.tenancy import Key

pytestmark = pytest.mark.anyio


async def test_a_deregistered_agent_gets_no_new_messages_until_it_is_registered_again(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await answered(stack, space, "hello")
    await space.deregister_agent("coder")
    assert not (await space.get_agent_status("coder")).registered
    session = await session_in(space)
    with pytest.raises(Conflict, match="not registered on the bus"):
        await space.send_task(session, "hello", "coder")
    messages, _ = await space.sessions.messages(ALICE, session, limit=10, after=None)
    assert messages == []
    await answered(stack, space, "hello", "writer")
    await space.register_agent("coder")
    reply = await answered(stack, space, "hello")
    assert reply.response is not None


async def test_what_a_deregistered_agent_was_given_before_it_still_answers(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await session_in(space)
    sent = [await space.send_task(session, f"m{number}", "coder") for number in range(2)]
    await space.deregister_agent("coder")
    await stack.work(ALICE)
    for each in sent:
        assert (await space.wait_for_result(each, seconds=1)).task.state is TaskState.COMPLETED


async def test_registering_twice_is_registering_once_and_keeps_what_was_counted(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await answered(stack, space, "hello")
    coder = await space.get_agent("coder")
    before = await stack.records.get(ALICE, Key.runtime(coder.id))
    for _ in range(2):
        await space.register_agent("coder")
    assert await stack.records.get(ALICE, Key.runtime(coder.id)) == before
    for _ in range(2):
        await space.deregister_agent(coder.id)
    await space.register_agent("CODER")
    assert await stack.records.get(ALICE, Key.runtime(coder.id)) == before
    assert (await space.get_agent_metrics("coder")).tasks_processed == 1
    for operation in (space.register_agent, space.deregister_agent):
        with pytest.raises(NotFound):
            await operation("nobody")


async def test_initialize_registers_again_what_was_deregistered(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await answered(stack, space, "hello")
    await space.initialize()
    await space.deregister_agent("coder")
    await space.initialize()
    assert (await answered(stack, space, "hello")).response is not None


async def test_there_is_one_queue_per_project_named_for_it(stack: MemoryStack, space: UserWorkerSpace) -> None:
    for agent in ("coder", "writer"):
        await answered(stack, space, "hello", agent)
    assert list(await stack.queues.generations(ALICE)) == [1]
    assert list(await stack.queues.generations(BLOG)) == []
    name = NAMES.queue(ALICE, 1)
    assert name == "test_useralice_projectshop_g1.fifo"
    assert NAMES.queue(BLOG, 1) != name


async def test_an_agent_never_runs_more_than_its_max_concurrency_at_once(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await space.create_agent(AgentConfig(name="single", system_prompt="x", max_concurrency=1))
    now: dict[str, int] = {}
    most: dict[str, int] = {}
    lock = threading.Lock()

    async def count(request: ModelRequest) -> None:
        who = request.turns[-1].content.split()[0]
        with lock:
            now[who] = now.get(who, 0) + 1
            most[who] = max(most.get(who, 0), now[who])
        await asyncio.sleep(0.01)
        with lock:
            now[who] -= 1

    stack.model.before = count
    sent = []
    for number in range(24):
        who = ("coder", "single")[number % 2]
        sent.append(await space.send_task(await session_in(space), f"{who} {number}", who))
    for _ in range(20):
        await asyncio.gather(*(stack.work(ALICE, most=1) for _ in range(8)))
    states = {(await space.wait_for_result(each, seconds=0)).task.state for each in sent}
    assert states == {TaskState.COMPLETED}
    assert most == {"coder": 3, "single": 1}
    assert (await space.get_agent("coder")).config.max_concurrency == 3


async def test_messages_of_a_session_are_answered_in_order(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = (await space.sessions.create(ALICE, NewSession(target_agent="coder"))).id
    sent = [await space.send_task(session, f"m{number}", None) for number in range(6)]
    async with working(stack, ALICE):
        for each in sent:
            assert (await space.wait_for_result(each, seconds=5)).response is not None
    assert [request.turns[-1].content for request in stack.model.requests] == [f"m{number}" for number in range(6)]


async def test_wait_for_result_gives_the_answer_as_soon_as_it_is_there_or_the_task_when_time_is_up(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    sent = await space.send_task(await session_in(space), "hello", "coder")
    waited = await space.wait_for_result(sent, seconds=0.05)
    assert (waited.response, waited.task.state) == (None, TaskState.SUBMITTED)
    async with working(stack, ALICE):
        reply = await space.wait_for_result(sent, seconds=5)
    assert reply.response is not None
    assert (reply.response.id, reply.response.content) == (sent.task_id, "You said: hello")


async def test_cancel_task_keeps_a_waiting_task_from_ever_running(stack: MemoryStack, space: UserWorkerSpace) -> None:
    sent = await space.send_task(await session_in(space), "hello", "coder")
    assert (await space.cancel_task(sent.task_id)).state is TaskState.CANCELED
    await stack.work(ALICE)
    assert stack.model.requests == []
    with pytest.raises(Conflict):
        await space.cancel_task(sent.task_id)


async def test_cancel_all_tasks_ends_every_open_task_of_the_project_and_none_of_another(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await session_in(space)
    mine = [await space.send_task(session, f"m{number}", "coder") for number in range(3)]
    mine.append(await space.send_task(await session_in(space), "other", "writer"))
    blog = space_of(stack, BLOG)
    others = await blog.send_task(await session_in(blog), "blog", "coder")
    ended = await space.cancel_all_tasks()
    assert set(ended.canceled) == {each.task_id for each in mine}
    assert list(ended.still_running) == []
    for tenant in (ALICE, BLOG):
        await stack.work(tenant)
    assert [request.turns[-1].content for request in stack.model.requests] == ["blog"]
    assert (await blog.wait_for_result(others, seconds=1)).response is not None
    assert list((await space.cancel_all_tasks()).canceled) == []


async def test_cancel_all_tasks_asks_a_running_one_to_stop_and_waits_for_it(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    sent = await space.send_task(await session_in(space), "hello", "coder")
    began = asyncio.Event()

    async def slow(_: ModelRequest) -> None:
        began.set()
        await asyncio.sleep(0.05)

    stack.model.before = slow
    async with working(stack, ALICE):
        await began.wait()
        ended = await space.cancel_all_tasks(seconds=5)
    assert list(ended.canceled) == [sent.task_id]
    assert (await space.wait_for_result(sent, seconds=0)).task.state is TaskState.CANCELED


async def test_a_disabled_agent_says_so_and_is_not_deregistered(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await space.update_agent("coder", AgentChanges(enabled=False))
    with pytest.raises(Conflict, match="disabled"):
        await space.direct_execution(
            await session_in(space), MessageRequest(content="x", target_agent="coder"), wait_seconds=0
        )
    assert (await space.get_agent_status("coder")).registered


async def test_a_message_that_was_accepted_before_is_found_by_its_key_whatever_became_of_its_agent(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    from worker_space.idempotency import Repeat

    session, repeat = await session_in(space), Repeat(kind="message", key="k", fingerprint="f")
    first = await space.send_task(session, "hello", "coder", repeat=repeat)
    await space.update_agent("coder", AgentChanges(enabled=False))
    assert await space.send_task(session, "hello", "coder", repeat=repeat) == first
    await space.delete_agent("coder")
    assert await space.send_task(session, "hello", "coder", repeat=repeat) == first
