"""A worker's rare moments: repeated call ids, cancels in the middle, failures beside one another."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, says, settings
from worker_space.errors import ClaimLost, InvalidRequest, NotFound, Unavailable
from worker_space.ledger import Claim
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import NewSession
from worker_space.models import ModelReply, ToolCall
from worker_space.ports import Owner
from worker_space.projects import NewProject
from worker_space.records import Item, Put, Update
from worker_space.space import UserWorkerSpace
from worker_space.tasks import Delivery, TaskState
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack(settings=settings(redispatch_seconds=1, max_attempts=3))
    await stack.parts.services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    return stack


@pytest.fixture
def space(stack: MemoryStack) -> UserWorkerSpace:
    return WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "shop")


async def _send(space: UserWorkerSpace, text: str = "hello") -> Any:
    session = await space.sessions.create(TENANT, NewSession())
    return await space.send_task(session.id, text, "coder")


def _writes(*paths: str, ids: Sequence[str]) -> ModelReply:
    wanted = tuple(
        ToolCall(id=call_id, name="write_file", arguments={"path": path, "content": path})
        for call_id, path in zip(ids, paths, strict=True)
    )
    return ModelReply(content="", tool_calls=wanted, provider="{}")


async def test_calls_with_one_id_are_all_carried_out(stack: MemoryStack, space: UserWorkerSpace) -> None:
    """Several servers of the OpenAI kind give every call the same id, or none."""
    stack.model.script = [_writes("a.txt", "b.txt", ids=("", "")), says("done")]
    await _send(space)
    await stack.work(TENANT)
    assert {file.path for file in (await stack.files.list(TENANT)).files} == {"a.txt", "b.txt"}
    results = [turn for turn in stack.model.requests[-1].turns if turn.kind == "tool"]
    assert len(results) == 2


class CancelsDuring:
    """The user cancels while a file is being written."""

    def __init__(self, below: object, cancel: Any) -> None:
        self._below, self._cancel = below, cancel

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._below, name)
        if name != "write":
            return real

        async def write(*arguments: Any, **named: Any) -> Any:
            done = await real(*arguments, **named)
            await self._cancel()
            return done

        return write


async def test_a_canceled_task_says_what_it_had_done(stack: MemoryStack, space: UserWorkerSpace) -> None:
    stack.model.script = [_writes("a.txt", ids=("1",)), says("done")]
    sent = await _send(space)

    async def cancel() -> None:
        await space.cancel_task(sent.task_id)

    stack.parts = stack.compose(files=CancelsDuring(stack.files, cancel))
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.CANCELED
    assert await stack.files.head(TENANT, "a.txt") is not None
    assert "a.txt" in (reply.outcome or "")


async def test_a_task_canceled_after_its_workers_death_says_what_it_had_done(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    stack.model.script = [_writes("a.txt", ids=("1",)), Unavailable("model", "down")]
    sent = await _send(space)
    with pytest.raises(Unavailable):
        await stack.work(TENANT)
    await space.cancel_task(sent.task_id)
    stack.clock[0] += 1000
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.CANCELED
    assert "a.txt" in (reply.outcome or "")


async def test_a_task_canceled_after_a_death_in_an_effect_says_that_it_may_have_happened(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    class Died(Exception):
        pass

    async def die() -> None:
        raise Died

    stack.model.script = [_writes("a.txt", "b.txt", ids=("1", "2"))]
    sent = await _send(space)
    stack.parts = stack.compose(files=CancelsDuring(stack.files, die))
    with pytest.raises(Died):
        await stack.work(TENANT)
    assert await stack.files.head(TENANT, "a.txt") is not None
    await space.cancel_task(sent.task_id)
    stack.clock[0] += 1000
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.CANCELED
    assert reply.outcome == "Canceled by the user. Done before that: write_file a.txt (begun; it may have happened)."


async def test_a_canceled_task_that_the_sweeper_takes_back_asks_no_model(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    sent = await _send(space)
    agent = await space.get_agent("coder")
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    claim = await stack.parts.services.ledger.claim(Delivery.model_validate_json(message.body), agent)
    assert isinstance(claim, Claim)
    await space.cancel_task(sent.task_id)
    await stack.records.write(TENANT, Update(key=Key.task(sent.task_id), set={"due_at": 1}))
    await stack.parts.sweeper.sweep(seconds=1)
    stack.clock[0] += 1000
    await stack.work(TENANT)
    assert stack.model.requests == []
    assert (await space.wait_for_result(sent, seconds=1)).task.state is TaskState.CANCELED


async def test_a_handler_leaves_nothing_running_behind(stack: MemoryStack, space: UserWorkerSpace) -> None:
    """What is still running when an invocation ends goes on in the next one, which may be another tenant's."""
    session = await space.sessions.create(TENANT, NewSession())
    await space.send_task(session.id, "one", "coder")
    await space.send_task(session.id, "two", "coder")

    class SlowMemoryAndNoQueue:
        def __init__(self, below: object, name: str, slow: bool) -> None:
            self._below, self._name, self._slow = below, name, slow

        def __getattr__(self, name: str) -> Any:
            real = getattr(self._below, name)
            if name != self._name:
                return real

            async def call(*arguments: Any, **named: Any) -> Any:
                if not self._slow:
                    raise Unavailable("sqs", "down")
                await asyncio.sleep(0.05)
                return await real(*arguments, **named)

            return call

    stack.parts = stack.compose(
        queues=SlowMemoryAndNoQueue(stack.queues, "send", False),
        memory=SlowMemoryAndNoQueue(stack.memory, "add", True),
    )
    before = asyncio.all_tasks()
    with pytest.raises(Unavailable):
        await stack.work(TENANT, most=1)
    left = asyncio.all_tasks() - before
    for each in left:
        await each
    assert left == set()


async def test_a_model_that_is_served_no_more_fails_the_task_at_once(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    stack.model.script = [InvalidRequest("no provider serves it")]  # as `ports.Model.request` says by `check`
    sent = await _send(space)
    await stack.work(TENANT)
    assert (await space.wait_for_result(sent, seconds=1)).task.state is TaskState.FAILED


class TornReads:
    """BatchGetItem reads each item by itself: a transaction may fall between two of them."""

    def __init__(self, below: Any) -> None:
        self._below = below
        self._torn = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    async def get_many(self, owner: Owner, keys: Sequence[Key]) -> Sequence[Item | None]:
        items = list(await self._below.get_many(owner, keys))
        if self._torn:
            return items
        self._torn = True
        return [None if key.sort.startswith("MESSAGE#") else item for key, item in zip(keys, items, strict=True)]


async def test_an_answer_that_is_there_is_found_though_the_read_was_torn(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    sent = await _send(space)
    await stack.work(TENANT)
    torn = stack.compose(records=TornReads(stack.records))
    other = WorkerSpaceManager(torn.services.collaborators).get_or_create("alice", "shop")
    reply = await other.wait_for_result(sent, seconds=0)
    assert reply.response is not None


async def test_a_queue_that_is_not_there_yet_is_no_error_to_the_sender(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    """SQS needs a second after CreateQueue; the message is accepted, so 404 would be a lie."""

    class NotYet:
        def __init__(self, below: object) -> None:
            self._below = below

        def __getattr__(self, name: str) -> Any:
            return getattr(self._below, name)

        async def send(self, *_: object, **__: object) -> None:
            raise NotFound("the project's queue of generation 1 is gone")

    parts = stack.compose(queues=NotYet(stack.queues))
    session = await space.sessions.create(TENANT, NewSession())
    other = WorkerSpaceManager(parts.services.collaborators).get_or_create("alice", "shop")
    sent = await other.send_task(session.id, "hello", "coder")
    assert (await stack.records.get(TENANT, Key.task(sent.task_id)) or {})["state"] == "submitted"


async def test_what_cannot_be_settled_does_not_keep_the_sweeper_from_the_rest(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    sent = await _send(space)
    stuck = await stack.records.get(TENANT, Key.task(sent.task_id))
    assert stuck is not None
    # Thirty completed tasks whose memory is still owed, older than the lost dispatch in the same shard.
    await stack.work(TENANT)
    ended = await stack.records.get(TENANT, Key.task(sent.task_id))
    assert ended is not None
    lost = await _send(space)
    shard = (await stack.records.get(TENANT, Key.task(lost.task_id)) or {})["due_shard"]
    for number in range(30):
        item = {**ended, "id": f"task_{number:026d}", "due_shard": shard, "due_at": 1}
        await stack.records.write(TENANT, Put(key=Key.task(item["id"]), item=item))
    await stack.records.write(TENANT, Update(key=Key.task(lost.task_id), set={"due_at": 2}))

    class Down:
        def __getattr__(self, name: str) -> Any:
            async def fail(*_: object, **__: object) -> None:
                raise Unavailable("qdrant", "down")

            return fail

    sweeper = stack.compose(memory=Down()).sweeper
    counts = [await sweeper.sweep(seconds=2) for _ in range(3)]
    assert sum(count["sent"] for count in counts) == 1


async def test_one_item_that_cannot_be_read_does_not_stop_the_sweeper(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    """Written by another release, say: a ticket with one more field."""
    lost = await _send(space)
    item = dict(await stack.records.get(TENANT, Key.task(lost.task_id)) or {})
    foreign = {**item, "id": f"task_{0:026d}", "due_at": 1, "ticket": {**item["ticket"], "priority": 1}}
    await stack.records.write(TENANT, Put(key=Key.task(foreign["id"]), item=foreign))
    await stack.records.write(TENANT, Update(key=Key.task(lost.task_id), set={"due_at": 2}))
    counts = await stack.parts.sweeper.sweep(seconds=1)
    assert counts["sent"] >= 1


async def test_a_message_to_a_sessions_own_agent_costs_one_read_of_heads(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    await space.send_task(session.id, "first", None)

    class Counting:
        def __init__(self, below: object) -> None:
            self._below = below
            self.count = 0

        def __getattr__(self, name: str) -> Any:
            if name in {"get", "get_many", "query"}:
                self.count += 1
            return getattr(self._below, name)

    counting = Counting(stack.records)
    parts = stack.compose(records=counting)
    other = WorkerSpaceManager(parts.services.collaborators).get_or_create("alice", "shop")
    await other.send_task(session.id, "second", None)
    assert counting.count == 1


async def test_a_worker_without_time_leaves_the_task_unbegun(stack: MemoryStack, space: UserWorkerSpace) -> None:
    """A drained delivery may come in an invocation's last seconds: each claim is one of the few attempts."""
    sent = await _send(space)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    delivery = Delivery.model_validate_json(message.body)
    with pytest.raises(ClaimLost):
        await stack.parts.worker.handle(delivery, message.lease, deadline=time.monotonic() + 5)
    assert (await stack.records.get(TENANT, Key.task(sent.task_id)) or {})["attempt"] == 0


async def test_a_model_that_stays_away_ends_in_a_failure_that_says_so_within_a_minute(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    stack.model.script = [Unavailable("model", "503 from the provider")] * 9
    sent = await _send(space)
    waited = 0
    for attempt in range(1, 5):
        if attempt <= 3:
            with pytest.raises(Unavailable):
                await stack.work(TENANT)
            stack.clock[0] += 2**attempt
            waited += 2**attempt
        else:
            await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.FAILED
    assert "503 from the provider" in (reply.outcome or "")
    assert len(stack.model.requests) == 3
    assert waited < 60


async def test_tools_of_a_memory_that_is_down_tell_the_model_and_the_run_goes_on(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    class Down:
        def __getattr__(self, name: str) -> Any:
            async def fail(*_: object, **__: object) -> None:
                raise Unavailable("qdrant", "down")

            return fail

    wanted = (
        ToolCall(id="1", name="search_context", arguments={"query": "x"}),
        ToolCall(id="2", name="remember", arguments={"text": "x"}),
    )
    stack.model.script = [ModelReply(content="", tool_calls=wanted, provider="{}"), says("without memory")]
    stack.parts = stack.compose(memory=Down())
    sent = await _send(space)
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.response is not None
    assert (reply.response.content, reply.task.attempt) == ("without memory", 1)
    results = [turn for turn in stack.model.requests[-1].turns if turn.kind == "tool"]
    assert [("does not answer" in result.content, result.is_error) for result in results] == [(True, True)] * 2


async def test_a_copy_of_a_message_does_not_work_beside_the_one_that_began(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    sent = await _send(space)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    delivery = Delivery.model_validate_json(message.body)
    for number in range(3):
        await stack.queues.send(TENANT, 1, message.body, group=f"other{number}", deduplication=f"copy{number}")

    async def run_the_copies(_: object) -> None:
        stack.model.before = None
        await stack.work(TENANT)

    stack.model.before = run_the_copies
    await stack.parts.worker.handle(delivery, message.lease, deadline=time.monotonic() + 60)
    assert len(stack.model.requests) == 1
    assert (await space.wait_for_result(sent, seconds=1)).task.attempt == 1


async def test_a_task_that_began_before_its_agent_was_deleted_is_finished_by_whoever_takes_it_over(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    class Died(Exception):
        pass

    async def die(_: object) -> None:
        raise Died

    stack.model.before = die
    sent = await _send(space)
    with pytest.raises(Died):
        await stack.work(TENANT)
    await stack.parts.services.collaborators.registry.delete(TENANT, "coder")
    stack.model.before = None
    stack.clock[0] += 1_000
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert (reply.task.state, reply.task.attempt) == (TaskState.COMPLETED, 2)


async def test_a_copy_of_a_message_whose_agent_is_deleted_does_not_end_the_task_that_runs(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    sent = await _send(space)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    await stack.queues.send(TENANT, 1, message.body, group="other", deduplication="copy")

    async def delete_the_agent(_: object) -> None:
        stack.model.before = None
        await stack.parts.services.collaborators.registry.delete(TENANT, "coder")
        await stack.work(TENANT)

    stack.model.before = delete_the_agent
    delivery = Delivery.model_validate_json(message.body)
    await stack.parts.worker.handle(delivery, message.lease, deadline=time.monotonic() + 60)
    assert (await space.wait_for_result(sent, seconds=1)).task.state is TaskState.COMPLETED


async def test_a_task_that_is_canceled_during_its_last_model_call_ends_canceled(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    sent = await _send(space)

    async def cancel(_: object) -> None:
        assert (await space.cancel_task(sent.task_id)).cancel_requested

    stack.model.before = cancel
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.CANCELED
    assert "nothing was changed" in (reply.outcome or "")


async def test_an_answer_is_text_that_can_be_stored_and_sent(stack: MemoryStack, space: UserWorkerSpace) -> None:
    stack.model.script = [says("cut \ud83d emoji")]
    sent = await _send(space)
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.response is not None
    assert reply.response.content == "cut ? emoji"
    stack.model.script = [says("x" * (4 * 1024 * 1024 + 1))]
    sent = await _send(space)
    await stack.work(TENANT)
    assert "4194304 bytes" in ((await space.wait_for_result(sent, seconds=1)).outcome or "")
