"""What nobody began, finished or settled is found again; what is underway or new is left alone."""

from typing import Any

import pytest

from tests.memory_stack import MemoryStack, settings
from worker_space.errors import ClaimLost, NotFound, Unavailable
from worker_space.ledger import Claim
from worker_space.messages import NewSession
from worker_space.projects import NewProject
from worker_space.records import Equals, Update
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack(settings=settings(redispatch_seconds=1, max_attempts=2))
    await stack.parts.services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    return stack


async def _send(stack: MemoryStack, text: str = "hello") -> str:
    parts = stack.parts.services.collaborators
    session = await parts.sessions.create(TENANT, NewSession())
    return (await parts.bus.send_task(TENANT, session_id=session.id, content=text, target_agent="coder")).task_id


async def _make_overdue(stack: MemoryStack, task_id: str) -> None:
    await stack.records.write(TENANT, Update(key=Key.task(task_id), set={"due_at": 1}))


async def _state(stack: MemoryStack, task_id: str) -> str:
    return str((await stack.records.get(TENANT, Key.task(task_id)) or {})["state"])


async def test_a_task_that_was_never_sent_is_sent(stack: MemoryStack) -> None:
    await _send(stack)
    task = await _send(stack)
    await stack.queues.release(TENANT, 1)
    stack.clock[0] += 61
    assert set((await stack.parts.sweeper.sweep(seconds=1)).values()) == {0}
    await _make_overdue(stack, task)
    assert (await stack.parts.sweeper.sweep(seconds=1))["sent"] == 1
    await stack.work(TENANT)
    assert await _state(stack, task) == "completed"


async def test_a_send_that_fails_is_no_error_to_the_sender(stack: MemoryStack) -> None:
    await _send(stack)
    # The queue's name is refused for a minute after its deletion, so it cannot even be made again.
    await stack.queues.release(TENANT, 1)
    task = await _send(stack)
    await _make_overdue(stack, task)
    assert (await stack.parts.sweeper.sweep(seconds=1))["left"] == 1
    stack.clock[0] += 61
    await _make_overdue(stack, task)
    assert (await stack.parts.sweeper.sweep(seconds=1))["sent"] == 1
    await stack.work(TENANT)
    assert await _state(stack, task) == "completed"


async def test_a_task_whose_worker_is_long_gone_is_taken_back_and_then_fails(stack: MemoryStack) -> None:
    task = await _send(stack)
    registry, ledger = stack.parts.services.collaborators.registry, stack.parts.services.ledger
    agent = await registry.get(TENANT, "coder")
    for attempt in (1, 2):
        message = stack.queues.receive(TENANT, 1)
        assert message is not None
        claim = await ledger.claim(Delivery.model_validate_json(message.body), agent)
        assert isinstance(claim, Claim)
        assert claim.attempt == attempt
        await _make_overdue(stack, task)
        stack.clock[0] += 2000
        counts = await stack.parts.sweeper.sweep(seconds=1)
        assert counts["sent" if attempt == 1 else "failed"] == 1
        if attempt == 1:
            with pytest.raises(ClaimLost):
                await ledger.journal(claim, 0, {})
            # The void first delivery comes before the new one and is acknowledged.
            old = stack.queues.receive(TENANT, 1)
            assert old is not None
            stack.queues.delete(old.lease)
    assert await _state(stack, task) == "failed"
    item = await stack.records.get(TENANT, Key.task(task))
    assert item is not None
    assert item["error"]["code"] == "attempts_spent"


class Down:
    """A port that does not answer as long as it is down; otherwise the one below it."""

    def __init__(self, below: object, *methods: str) -> None:
        self._below, self._methods, self.down = below, methods, True

    def __getattr__(self, name: str) -> Any:
        if self.down and name in self._methods:
            return self._fail
        return getattr(self._below, name)

    async def _fail(self, *_: object, **__: object) -> None:
        raise Unavailable("it", "down")


async def test_memory_that_was_down_is_settled_later_and_once(stack: MemoryStack) -> None:
    memory = Down(stack.memory, "add")
    stack.parts = stack.compose(memory=memory)
    task = await _send(stack, "apples are red")
    await stack.work(TENANT)
    assert await _state(stack, task) == "completed"
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")
    await _make_overdue(stack, task)
    assert (await stack.parts.sweeper.sweep(seconds=1))["left"] == 1
    memory.down = False
    assert (await stack.parts.sweeper.sweep(seconds=1))["settled"] == 1
    entries, _ = await stack.memory.entries(TENANT, agent.id, limit=9)
    assert [entry.task_id for entry in entries] == [task]
    assert (await stack.parts.sweeper.sweep(seconds=1))["settled"] == 0


async def test_a_dead_letter_is_sent_once_more_and_then_fails_its_task(stack: MemoryStack) -> None:
    task = await _send(stack)
    letters = stack.parts.dead_letters
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    first = Delivery.model_validate_json(message.body)
    stack.queues.delete(message.lease)
    await letters.handle(first)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    second = Delivery.model_validate_json(message.body)
    assert second.dispatch == 2
    await letters.handle(first)
    assert await _state(stack, task) == "submitted"
    await letters.handle(second)
    assert await _state(stack, task) == "failed"
    await letters.handle(second)
    messages, _ = await stack.parts.services.collaborators.sessions.messages(
        TENANT, second.session, limit=9, after=None
    )
    assert [m.status for m in messages] == ["ok", "failed"]


async def test_a_dead_letter_of_a_task_that_the_sweeper_sent_again_but_nobody_began_is_sent_once_more(
    stack: MemoryStack,
) -> None:
    task = await _send(stack)
    item = await stack.records.get(TENANT, Key.task(task))
    assert item is not None
    assert await stack.parts.services.collaborators.bus.send_again(TENANT, item)
    states = []
    while (message := stack.queues.receive(TENANT, 1)) is not None:
        stack.queues.delete(message.lease)
        await stack.parts.dead_letters.handle(Delivery.model_validate_json(message.body))
        states.append(await _state(stack, task))
    # The letter of the first dispatch is void; that of the second sends it once more.
    assert states == ["submitted", "submitted", "failed"]


async def test_a_dead_letter_of_a_task_that_is_gone_is_no_error(stack: MemoryStack) -> None:
    task = await _send(stack)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    delivery = Delivery.model_validate_json(message.body)
    await stack.parts.services.projects.delete(TENANT)
    await stack.parts.dead_letters.handle(delivery)
    assert await stack.records.get(TENANT, Key.task(task)) is None


async def test_a_deleted_project_leaves_nothing_behind_but_files(stack: MemoryStack) -> None:
    await stack.files.write(TENANT, "main.py", b"x")
    stack.model.script = []
    task = await _send(stack, "q" * 100_000)
    projects = stack.parts.services.projects
    await projects.delete(TENANT)
    with pytest.raises(NotFound):
        await projects.get(TENANT)
    page = await stack.records.query(TENANT, Key.everything())
    assert [item["sk"] for item in page.items] == [Key.space().sort]
    assert page.items[0].keys() == {"sk", "state", "epoch", "generation", "purged"}
    assert [key async for key in stack.content.all_keys(TENANT)] == []
    assert await stack.queues.depth(TENANT, 1) == 0
    # A mark without contents: who read before the deletion cannot fill the cache any more.
    assert (await stack.cache.load(TENANT)).keys() <= {"changed_at"}
    assert await stack.files.head(TENANT, "main.py") is not None
    assert await stack.records.get(TENANT, Key.task(task)) is None
    # The id may be used again; nothing of the old project is in the new one.
    await projects.create(UserContext("alice"), NewProject(id="shop", name="Again"))
    assert (await stack.parts.services.collaborators.sessions.page(TENANT, limit=9, after=None))[0] == []
    space = await stack.records.get(TENANT, Key.space())
    assert space is not None
    assert space["epoch"] == 3


async def test_what_a_deletion_could_not_clear_is_cleared_by_the_sweeper(stack: MemoryStack) -> None:
    await _send(stack)
    queues = Down(stack.queues, "release")
    stack.parts = stack.compose(queues=queues)
    await stack.parts.services.projects.delete(TENANT)
    assert len((await stack.records.query(TENANT, Key.everything())).items) > 1
    queues.down = False
    await stack.records.write(TENANT, Update(key=Key.space(), set={"due_at": 1}, when=Equals("state", "deleted")))
    assert (await stack.parts.sweeper.sweep(seconds=1))["settled"] == 1
    assert len((await stack.records.query(TENANT, Key.everything())).items) == 1
