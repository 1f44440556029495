"""One message answered end to end, over memory adapters."""

import asyncio

import pytest

from tests.memory_stack import MemoryStack, calls, says
from worker_space.errors import Conflict, InvalidRequest, NotFound, Unavailable
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import MessageRequest, NewSession
from worker_space.models import AssistantTurn, ModelRequest, ToolResult, UserTurn
from worker_space.projects import NewProject
from worker_space.space import UserWorkerSpace
from worker_space.tasks import Delivery, TaskState
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack()
    await stack.parts.services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    return stack


@pytest.fixture
def space(stack: MemoryStack) -> UserWorkerSpace:
    return WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "shop")


async def test_a_message_is_answered_by_the_agent_it_names(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await stack.files.write(TENANT, "main.py", b"print('hi')\n")
    session = await space.sessions.create(TENANT, NewSession())
    stack.model.script = [calls(("read_file", {"path": "main.py"})), says("It prints hi.")]
    sent = await space.send_task(session.id, "Analyse main.py", "coder")
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.response is not None
    assert (reply.response.id, reply.response.content) == (sent.task_id, "It prints hi.")
    assert reply.task.state is TaskState.COMPLETED
    second = stack.model.requests[1]
    assert isinstance(second.turns[-1], ToolResult)
    assert "print('hi')" in second.turns[-1].content
    messages, after = await space.sessions.messages(TENANT, session.id, limit=10, after=None)
    assert [(m.role, m.content) for m in messages] == [("user", "Analyse main.py"), ("assistant", "It prints hi.")]
    assert after is None


async def test_the_next_message_sees_the_conversation_and_not_itself(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    await space.send_task(session.id, "apples are red", "coder")
    await stack.work(TENANT)
    await space.send_task(session.id, "what colour have apples?", "coder")
    await stack.work(TENANT)
    turns = stack.model.requests[-1].turns
    assert turns == (
        UserTurn(content="apples are red"),
        AssistantTurn(content="You said: apples are red"),
        UserTurn(content="what colour have apples?"),
    )
    assert "User: apples are red" in stack.model.requests[-1].system_prompt
    assert "what colour" not in stack.model.requests[-1].system_prompt


async def test_messages_of_a_session_are_answered_in_their_order(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    for number in range(5):
        await space.send_task(session.id, f"m{number}", None)
    assert await stack.queues.depth(TENANT, 1) == 1
    await stack.work(TENANT)
    assert [request.turns[-1].content for request in stack.model.requests] == ["m0", "m1", "m2", "m3", "m4"]
    messages, _ = await space.sessions.messages(TENANT, session.id, limit=100, after=None)
    assert [m.number for m in messages] == list(range(10))


async def test_an_agent_that_is_full_parks_what_comes_and_lets_it_in_one_by_one(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    agent = await space.get_agent("coder")
    sent = []
    started = asyncio.Event()
    going_on = asyncio.Event()

    async def hold(request: ModelRequest) -> None:
        if len(stack.model.requests) >= 3:
            started.set()
        await going_on.wait()

    stack.model.before = hold
    for _ in range(3):
        session = await space.sessions.create(TENANT, NewSession())
        sent.append(await space.send_task(session.id, "hello", "coder"))
    running = [asyncio.ensure_future(stack.work(TENANT, most=1)) for _ in range(3)]
    await started.wait()
    for _ in range(4):
        session = await space.sessions.create(TENANT, NewSession())
        sent.append(await space.send_task(session.id, "hello", "coder"))
    status = await space.get_agent_status(agent.id)
    assert (status.status, status.running, status.parked) == ("busy", 3, 4)
    assert await stack.queues.depth(TENANT, 1) == 3
    going_on.set()
    await asyncio.gather(*running)
    await stack.work(TENANT)
    assert [(await space.wait_for_result(each, seconds=1)).task.state for each in sent] == [TaskState.COMPLETED] * 7
    status = await space.get_agent_status(agent.id)
    assert (status.status, status.running, status.parked) == ("idle", 0, 0)
    assert len(stack.model.requests) == 7


async def test_the_same_delivery_twice_gives_one_answer(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    await space.send_task(session.id, "hello", "coder")
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    delivery = Delivery.model_validate_json(message.body)
    for _ in range(2):
        await stack.parts.worker.handle(delivery, message.lease, deadline=1e12)
    messages, _ = await space.sessions.messages(TENANT, session.id, limit=10, after=None)
    assert len(messages) == 2
    assert len(stack.model.requests) == 1


async def test_a_retry_goes_on_behind_the_last_saved_step(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    stack.model.script = [
        calls(("write_file", {"path": "notes.md", "content": "hello"})),
        Unavailable("model", "gone"),
        says("Written."),
    ]
    sent = await space.send_task(session.id, "Create notes.md", "coder")
    with pytest.raises(Unavailable):
        await stack.work(TENANT)
    stack.clock[0] += 1000
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.response is not None
    assert reply.response.content == "Written."
    assert reply.task.attempt == 2
    # Three requests: the first answer was not asked for again.
    assert len(stack.model.requests) == 3
    assert stack.model.script == []


async def test_cancel_of_a_waiting_task_never_runs_it(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    first = await space.send_task(session.id, "one", "coder")
    second = await space.send_task(session.id, "two", "coder")
    third = await space.send_task(session.id, "three", "coder")
    assert (await space.cancel_task(second.task_id)).state is TaskState.CANCELED
    assert (await space.cancel_task(first.task_id)).state is TaskState.CANCELED
    await stack.work(TENANT)
    assert [request.turns[-1].content for request in stack.model.requests] == ["three"]
    with pytest.raises(Conflict, match="ended already"):
        await space.cancel_task(second.task_id)
    reply = await space.wait_for_result(third, seconds=1)
    assert reply.task.state is TaskState.COMPLETED


async def test_cancel_of_a_running_task_stops_before_the_next_effect(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    sent = await space.send_task(session.id, "write", "coder")
    stack.model.script = [
        calls(("write_file", {"path": "a.txt", "content": "a"})),
        calls(("write_file", {"path": "b.txt", "content": "b"})),
    ]

    async def cancel_now(request: ModelRequest) -> None:
        if len(stack.model.requests) == 2:
            assert (await space.cancel_task(sent.task_id)).cancel_requested

    stack.model.before = cancel_now
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.CANCELED
    assert "write_file a.txt" in (reply.outcome or "")
    assert await stack.files.head(TENANT, "a.txt") is not None
    assert await stack.files.head(TENANT, "b.txt") is None
    assert len(stack.model.requests) == 2


async def test_an_agent_deleted_while_its_task_waits_fails_the_task_and_says_so(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    sent = await space.send_task(session.id, "hello", "coder")
    await space.delete_agent("coder")
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.FAILED
    assert reply.task.error is not None
    assert reply.task.error.code == "agent_deleted"
    assert "deleted" in (reply.outcome or "")
    assert stack.model.requests == []


async def test_a_message_over_a_mebibyte_is_refused_and_nothing_is_stored(space: UserWorkerSpace) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    with pytest.raises(InvalidRequest, match="1048576"):
        await space.send_task(session.id, "x" * (1024 * 1024 + 1), "coder")
    messages, _ = await space.sessions.messages(TENANT, session.id, limit=10, after=None)
    assert messages == []


async def test_large_messages_and_answers_are_kept_whole(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    question, answer = "q" * 1024 * 1024, "ä" * 900_000
    stack.model.script = [says(answer)]
    sent = await space.send_task(session.id, question, "coder")
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.response is not None
    assert reply.response.content == answer
    assert stack.model.requests[0].turns[-1].content == question


async def test_unknown_project_session_and_agent_are_not_found(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    other = WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("bob", "shop")
    for attempt in (
        other.send_task(session.id, "x", "coder"),
        space.send_task("session_00000000000000000000000000", "x", "coder"),
        space.send_task(session.id, "x", "nobody"),
    ):
        with pytest.raises(NotFound):
            await attempt


async def test_direct_execution_waits_and_returns_the_answer(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    request = MessageRequest(content="hi", target_agent="coder")
    waiting = asyncio.ensure_future(space.direct_execution(session.id, request, wait_seconds=5))
    await asyncio.sleep(0.05)
    assert len(await stack.work(TENANT)) == 1
    reply = await waiting
    assert reply.response is not None
    assert reply.response.content == "You said: hi"


async def test_a_deleted_session_takes_its_messages_tasks_and_steps_with_it(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await space.sessions.create(TENANT, NewSession())
    kept = await space.sessions.create(TENANT, NewSession())
    stack.model.script = [calls(("list_directory", {})), says("x" * 100_000)]
    await space.send_task(session.id, "q" * 100_000, "coder")
    await stack.work(TENANT)
    waiting = [await space.send_task(session.id, f"{number}", "coder") for number in range(3)]
    other = await space.send_task(kept.id, "kept", "coder")
    await space.sessions.delete(TENANT, session.id)
    with pytest.raises(NotFound):
        await space.sessions.get(TENANT, session.id)
    await stack.work(TENANT)
    assert [request.turns[-1].content for request in stack.model.requests[2:]] == ["kept"]
    for prefix in (Key.messages(session.id), Key("STEP#")):
        assert (await stack.records.query(TENANT, prefix)).items == []
    assert [key async for key in stack.content.all_keys(TENANT)] == []
    left = {item["id"] for item in (await stack.records.query(TENANT, Key.tasks())).items}
    assert left == {other.task_id}
    assert not left & {each.task_id for each in waiting}
