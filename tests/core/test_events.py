"""A session's events: whole, in one order, without gaps; and what a message does in a session that is answering."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, calls, says
from worker_space.bus import Sent
from worker_space.errors import Conflict, Unavailable
from worker_space.events import Event, EventLog, EventType
from worker_space.idempotency import Repeat
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import NewSession
from worker_space.models import ModelRequest
from worker_space.projects import NewProject
from worker_space.space import UserWorkerSpace
from worker_space.tasks import TaskState
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


async def _session(space: UserWorkerSpace) -> str:
    return (await space.sessions.create(TENANT, NewSession())).id


async def _events(stack: MemoryStack, session_id: str) -> Sequence[Event]:
    events = await EventLog(stack.records).page(TENANT, session_id, after=0, limit=1000)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return events


def _types(events: Sequence[Event]) -> list[str]:
    return [event.type.value for event in events]


async def _state(stack: MemoryStack, task_id: str) -> str:
    return str((await stack.records.get(TENANT, Key.task(task_id)) or {})["state"])


async def test_a_message_with_a_tool_call_is_told_from_its_acceptance_to_its_answer(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    stack.model.script = [calls(("write_file", {"path": "a.txt", "content": "x" * 500})), says("done")]
    session = await _session(space)
    sent = await space.send_task(session, "write a file", "coder")
    await stack.work(TENANT)
    events = await _events(stack, session)
    assert _types(events) == [
        "message_created",
        "task_submitted",
        "task_started",
        "step",
        "step",
        "message_created",
        "task_completed",
    ]
    assert {event.task_id for event in events} == {sent.task_id}
    assert events[0].data == {"number": 0, "role": "user", "content": "write a file"}
    (asked,) = events[3].data["tool_calls"]
    assert (asked["name"], asked["arguments"]["path"], len(asked["arguments"]["content"])) == (
        "write_file",
        "a.txt",
        200,
    )
    assert events[4].data["results"] == [{"name": "write_file", "path": "a.txt", "is_error": False}]
    assert events[5].data == {"number": 1, "role": "assistant", "status": "ok", "content": "done"}


@pytest.mark.parametrize(
    "value",
    [1e300, -(10**60), float("nan"), [float("inf")], {"a": {"b": 10**40}}, json.loads("[" * 40 + "]" * 40)],
    ids=["a huge number", "a long number", "no number", "infinity", "a long number inside", "nested deep"],
)
async def test_arguments_that_the_table_cannot_hold_are_told_as_text(
    stack: MemoryStack, space: UserWorkerSpace, value: Any
) -> None:
    stack.model.script = [calls(("read_file", {"path": value, "half \ud83d": "half \ud83d"})), says("done")]
    session = await _session(space)
    await space.send_task(session, "read", "coder")
    await stack.work(TENANT)
    step = next(event for event in await _events(stack, session) if event.type is EventType.STEP)
    (asked,) = step.data["tool_calls"]
    assert asked["arguments"] == {"path": json.dumps(value), "half ?": "half ?"}


async def test_a_long_message_is_told_by_its_beginning(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await _session(space)
    await space.send_task(session, "é" * 20_000, "coder")
    (told, _) = await _events(stack, session)
    assert told.data["truncated"] is True
    assert len(told.data["content"].encode()) == 16 * 1024


async def test_sessions_have_numbers_of_their_own_and_keep_them_apart(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    first, second = await _session(space), await _session(space)
    for session in (first, second, first):
        await space.send_task(session, f"to {session}", "coder")
    await stack.work(TENANT)
    for session, messages in ((first, 2), (second, 1)):
        events = await _events(stack, session)
        assert _types(events).count("task_completed") == messages
        told = [event.data["content"] for event in events if event.data.get("role") == "user"]
        assert told == [f"to {session}"] * messages


async def test_messages_that_come_during_a_run_are_told_between_its_steps(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await _session(space)

    async def another(request: ModelRequest) -> None:
        if len(stack.model.requests) < 3:
            await space.send_task(session, f"meanwhile {len(stack.model.requests)}", "analyst")

    stack.model.before = another
    stack.model.script = [calls(("list_directory", {})), says("one")]
    await space.send_task(session, "first", "coder")
    await stack.work(TENANT)
    events = await _events(stack, session)
    assert _types(events).count("task_completed") == 3
    assert _types(events).count("agent_switched") == 1
    answers = [event.data["number"] for event in events if event.data.get("role") == "assistant"]
    assert answers == [1, 3, 5]


async def test_an_attempt_that_was_given_up_is_told_and_the_next_one_says_that_it_begins_again(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await _session(space)
    stack.model.script = [Unavailable("the model", "it is down"), says("at last")]
    await space.send_task(session, "hello", "coder")
    with pytest.raises(Unavailable):
        await stack.work(TENANT)
    stack.clock[0] += 1000
    await stack.work(TENANT)
    events = await _events(stack, session)
    assert _types(events)[2:] == ["task_started", "error", "attempt_restarted", "message_created", "task_completed"]
    assert events[3].data["code"] == "unavailable"
    assert events[4].data == {"attempt": 2}


class _Slow:
    """A model that speaks slowly."""

    def __init__(self, stack: MemoryStack, words: int, pause: float) -> None:
        self._stack, self._words, self._pause = stack, words, pause

    def __getattr__(self, name: str) -> object:
        return getattr(self._stack.model, name)

    async def request(self, tenant: TenantContext, request: ModelRequest, *, on_text: object = None) -> object:
        for number in range(self._words):
            await asyncio.sleep(self._pause)
            assert callable(on_text)
            on_text(f"w{number} ")
        return says("".join(f"w{number} " for number in range(self._words)))


async def test_text_is_told_while_it_is_written_a_few_times_a_second(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    stack.parts = stack.compose(model=_Slow(stack, 90, 0.01))
    session = await _session(space)
    await space.send_task(session, "tell", "coder")
    await stack.work(TENANT)
    events = await _events(stack, session)
    pieces = [event.data["text"] for event in events if event.data.get("kind") == "text"]
    assert 3 <= len(pieces) <= 6
    answer = next(event.data["content"] for event in events if event.data.get("role") == "assistant")
    assert "".join(pieces) == answer
    assert _types(events)[-1] == "task_completed"


async def test_a_cancel_cuts_off_a_model_that_is_speaking(stack: MemoryStack, space: UserWorkerSpace) -> None:
    stack.parts = stack.compose(model=_Slow(stack, 10_000, 0.01))
    session = await _session(space)
    sent = await space.send_task(session, "tell", "coder")
    working = asyncio.ensure_future(stack.work(TENANT))
    for _ in range(500):
        if "started_at" in (await stack.records.get(TENANT, Key.task(sent.task_id)) or {}):
            break
        await asyncio.sleep(0.01)
    await space.cancel_task(sent.task_id)
    await asyncio.wait_for(working, timeout=5)
    events = await _events(stack, session)
    assert await _state(stack, sent.task_id) == TaskState.CANCELED.value
    assert events[-1].type is EventType.TASK_CANCELED
    assert "nothing was changed" in events[-1].data["message"]


async def test_a_cancel_cuts_off_a_model_that_says_nothing(stack: MemoryStack, space: UserWorkerSpace) -> None:
    stack.parts = stack.compose(model=_Slow(stack, 1, 60.0))
    session = await _session(space)
    sent = await space.send_task(session, "tell", "coder")
    working = asyncio.ensure_future(stack.work(TENANT))
    for _ in range(500):
        if "started_at" in (await stack.records.get(TENANT, Key.task(sent.task_id)) or {}):
            break
        await asyncio.sleep(0.01)
    await space.cancel_task(sent.task_id)
    await asyncio.wait_for(working, timeout=10)
    assert await _state(stack, sent.task_id) == TaskState.CANCELED.value


async def test_a_session_takes_its_events_with_it(stack: MemoryStack, space: UserWorkerSpace) -> None:
    session = await _session(space)
    await space.send_task(session, "hello", "coder")
    await stack.work(TENANT)
    await space.sessions.delete(TENANT, session)
    assert await _events(stack, session) == []


# -- turn-taking ---------------------------------------------------------------------------------------------


async def test_a_message_that_would_wait_is_refused_where_it_asks_for_that(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await _session(space)
    first = await space.send_task(session, "first", "coder", on_busy="reject")
    with pytest.raises(Conflict, match=first.task_id):
        await space.send_task(session, "second", "coder", on_busy="reject")
    await stack.work(TENANT)
    await space.send_task(session, "third", "coder", on_busy="reject")
    await stack.work(TENANT)
    messages, _ = await space.sessions.messages(TENANT, session, limit=10, after=None)
    assert [message.content for message in messages if message.role == "user"] == ["first", "third"]


async def test_of_many_messages_at_once_that_would_not_wait_one_is_taken(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await _session(space)
    sending = (space.send_task(session, f"m{number}", "coder", on_busy="reject") for number in range(20))
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert all(isinstance(each, Conflict) for each in outcomes if isinstance(each, BaseException))


async def test_an_interrupting_message_cancels_what_is_open_and_is_answered_next(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await _session(space)
    running, waiting = [await space.send_task(session, text, "coder") for text in ("running", "waiting")]
    interrupting: list[Sent] = []

    async def interrupt(request: ModelRequest) -> None:
        if not interrupting:
            interrupting.append(await space.send_task(session, "stop that", "coder", on_busy="interrupt"))

    stack.model.before = interrupt
    stack.model.script = [calls(("write_file", {"path": "a.txt", "content": "x"})), says("listening")]
    await stack.work(TENANT)
    assert [await _state(stack, each.task_id) for each in (running, waiting, *interrupting)] == [
        "canceled",
        "canceled",
        "completed",
    ]
    assert (await stack.files.list(TENANT)).files == []
    messages, _ = await space.sessions.messages(TENANT, session, limit=10, after=None)
    assert [message.status for message in messages] == ["ok", "canceled", "ok", "canceled", "ok", "ok"]


async def test_a_repeated_interruption_cancels_nothing_that_came_after_it(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await _session(space)
    repeat = Repeat(kind="message", key="k", fingerprint="f")
    first = await space.send_task(session, "stop that", "coder", on_busy="interrupt", repeat=repeat)
    await stack.work(TENANT)
    later = await space.send_task(session, "now this", "coder")
    again = await space.send_task(session, "stop that", "coder", on_busy="interrupt", repeat=repeat)
    assert again.task_id == first.task_id
    assert await _state(stack, later.task_id) == "submitted"


async def test_a_message_that_would_not_wait_finds_itself_when_it_is_repeated(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await _session(space)
    repeat = Repeat(kind="message", key="k", fingerprint="f")
    first = await space.send_task(session, "hello", "coder", on_busy="reject", repeat=repeat)
    again = await space.send_task(session, "hello", "coder", on_busy="reject", repeat=repeat)
    assert again == first


async def test_a_canceled_task_that_had_stopped_halfway_says_what_it_had_done(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await _session(space)
    stack.model.script = [calls(("write_file", {"path": "a.txt", "content": "x"})), Unavailable("the model", "down")]
    sent = await space.send_task(session, "write", "coder")
    with pytest.raises(Unavailable):
        await stack.work(TENANT)
    await space.cancel_task(sent.task_id)
    stack.clock[0] += 1000
    await stack.work(TENANT)
    messages, _ = await space.sessions.messages(TENANT, session, limit=10, after=None)
    assert messages[-1].status == "canceled"
    assert "write_file a.txt" in messages[-1].content


# -- counters ------------------------------------------------------------------------------------------------


async def test_open_tasks_are_counted_by_the_transactions_that_accept_and_end_them(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    async def open_tasks() -> int:
        return int((await stack.records.get(TENANT, Key.space()) or {}).get("open_tasks", 0))

    session = await _session(space)
    sent = [await space.send_task(session, f"m{number}", "coder") for number in range(4)]
    assert await open_tasks() == 4
    await space.cancel_task(sent[2].task_id)
    assert await open_tasks() == 3
    await stack.work(TENANT)
    assert await open_tasks() == 0
