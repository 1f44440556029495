"""Deleting and remaking things while others still work on them: nothing comes back, nothing new is lost."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, calls, says, settings
from worker_space.errors import ClaimLost, NotFound, Unavailable
from worker_space.ledger import Claim
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import NewSession
from worker_space.models import ModelRequest
from worker_space.ports import ContextEntry
from worker_space.projects import NewProject
from worker_space.records import Delete, Put
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")
USER = UserContext("alice")
NEW = NewProject(id="shop", name="Shop")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack(settings=settings(redispatch_seconds=1, max_attempts=3))
    await stack.parts.services.projects.create(USER, NEW)
    return stack


async def _send(stack: MemoryStack, text: str = "hello") -> str:
    parts = stack.parts.services.collaborators
    session = await parts.sessions.create(TENANT, NewSession())
    return (await parts.bus.send_task(TENANT, session_id=session.id, content=text, target_agent="coder")).task_id


class Once:
    """A port below which, once, something else happens before (or after) a call that fits."""

    def __init__(
        self,
        below: object,
        method: str,
        happens: Callable[[], Awaitable[Any]],
        *,
        when: Callable[..., bool] = lambda *_, **__: True,
        after: bool = False,
    ) -> None:
        self._below, self._method, self._happens = below, method, happens
        self._when, self._after = when, after
        self.happened = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._below, name)
        if name != self._method:
            return real

        async def call(*arguments: Any, **named: Any) -> Any:
            now = not self.happened and self._when(*arguments, **named)
            self.happened = self.happened or now
            if now and not self._after:
                await self._happens()
            result = await real(*arguments, **named)
            if now and self._after:
                await self._happens()
            return result

        return call


async def test_a_project_made_anew_survives_the_clearing_of_its_forerunner(stack: MemoryStack) -> None:
    """A slow deletion is overtaken: the user makes the project again before the first clearing has come to its end."""

    async def made_anew() -> None:
        await stack.parts.services.projects.create(USER, NEW)

    def clears(_: object, prefix: Key, **__: object) -> bool:
        return prefix == Key.everything()

    parts = stack.compose(records=Once(stack.records, "query", made_anew, when=clears))
    await parts.services.projects.delete(TENANT)
    agents, _ = await stack.parts.services.collaborators.registry.page(TENANT, limit=99, after=None)
    assert len(agents) >= 1


async def test_a_project_made_anew_keeps_its_queue_when_its_forerunner_is_cleared_late(stack: MemoryStack) -> None:
    await _send(stack)

    async def made_anew_and_used() -> None:
        await stack.parts.services.projects.create(USER, NEW)
        stack.clock[0] += 61
        await _send(stack)

    late = Once(stack.cache, "clear", made_anew_and_used, after=True)
    await stack.compose(cache=late).services.projects.delete(TENANT)
    space = await stack.records.get(TENANT, Key.space())
    assert space is not None
    assert await stack.queues.depth(TENANT, space["generation"]) == 1


async def test_a_project_made_anew_has_no_agents_of_its_forerunner_by_a_late_fill_of_the_cache(
    stack: MemoryStack,
) -> None:
    async def made_anew() -> None:
        await stack.parts.services.projects.delete(TENANT)
        await stack.parts.services.projects.create(USER, NEW)

    # A reader that was slow: it read before the deletion and fills the cache after it.
    slow = stack.compose(cache=Once(stack.cache, "store", made_anew))
    await slow.services.collaborators.registry.home(TENANT, fresh=True)
    registry = stack.parts.services.collaborators.registry
    agents, _ = await registry.page(TENANT, limit=99, after=None)
    assert set((await registry.home(TENANT)).agents) == {agent.id for agent in agents}


async def test_a_project_made_anew_takes_messages_at_once(stack: MemoryStack) -> None:
    """SQS refuses the name of a queue for 60 s after its deletion: that is what generations are for."""
    await _send(stack)
    await stack.parts.services.projects.delete(TENANT)
    await stack.parts.services.projects.create(USER, NEW)
    await _send(stack)
    space = await stack.records.get(TENANT, Key.space())
    assert space is not None
    assert space["generation"] > 1


async def test_a_queue_made_while_its_project_is_deleted_does_not_stay(stack: MemoryStack) -> None:
    async def deleted() -> None:
        await stack.parts.services.projects.delete(TENANT)

    parts = stack.compose(queues=Once(stack.queues, "create", deleted))
    dispatch = parts.dispatch
    with pytest.raises(NotFound):
        await dispatch.wake(TENANT)
    with pytest.raises(NotFound):
        await stack.queues.send(TENANT, 1, "x", group="g", deduplication="d")


async def test_a_delivery_of_a_deleted_project_makes_no_queue(stack: MemoryStack) -> None:
    await _send(stack)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    delivery = Delivery.model_validate_json(message.body)
    await stack.parts.services.projects.delete(TENANT)
    stack.clock[0] += 61
    with contextlib.suppress(NotFound, Unavailable):
        await stack.parts.dispatch.send(delivery)
    with pytest.raises(NotFound):
        await stack.queues.send(TENANT, 1, "x", group="g", deduplication="d")


async def test_a_worker_that_ends_while_its_project_is_cleared_leaves_nothing(stack: MemoryStack) -> None:
    """The clearing goes by sort keys: messages before tasks. What a worker writes in between must not stay."""
    task = await _send(stack)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")
    delivery = Delivery.model_validate_json(message.body)
    ledger = stack.parts.services.ledger
    claim = await ledger.claim(delivery, agent)
    assert isinstance(claim, Claim)

    async def the_worker_journals() -> None:
        # Losing the claim here is one of the two right ends.
        with contextlib.suppress(ClaimLost):
            await ledger.journal(claim, 0, {"kind": "model", "content": "secret"})

    # Two pages: the place of the first steps is behind the clearing, then the worker writes, then tasks are deleted.
    for number in range(500, 620):
        await stack.records.write(TENANT, Put(key=Key.step(task, number), item={"kind": "model"}))

    def reads_last_page(_: object, prefix: Key, **named: Any) -> bool:
        return prefix == Key.everything() and (named.get("after") or "") > Key.step(task, 0).sort

    parts = stack.compose(records=Once(stack.records, "query", the_worker_journals, when=reads_last_page))
    await parts.services.projects.delete(TENANT)
    page = await stack.records.query(TENANT, Key.everything())
    assert [item["sk"] for item in page.items] == [Key.space().sort]


async def test_the_memory_of_an_agent_deleted_during_an_outage_goes_with_the_project(stack: MemoryStack) -> None:
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")
    await stack.memory.ensure(TENANT, agent.id)
    await stack.memory.add(TENANT, agent.id, ContextEntry(id="1", text="secret", kind="note", created_at=1))

    class Down:
        def __getattr__(self, name: str) -> Any:
            async def fail(*_: object, **__: object) -> None:
                raise Unavailable("qdrant", "down")

            return fail

    parts = stack.compose(memory=Down())
    space = WorkerSpaceManager(parts.services.collaborators).get_or_create("alice", "shop")
    await space.delete_agent("coder")
    await stack.parts.services.projects.delete(TENANT)
    assert (await stack.memory.entries(TENANT, agent.id, limit=9))[0] == []


async def test_a_session_whose_deletion_was_interrupted_can_be_deleted_again(stack: MemoryStack) -> None:
    parts = stack.parts.services.collaborators
    session = await parts.sessions.create(TENANT, NewSession())
    await parts.bus.send_task(TENANT, session_id=session.id, content="secret", target_agent="coder")
    await stack.work(TENANT)

    async def dies() -> None:
        raise Unavailable("the table", "down")

    def clears(_: object, prefix: Key, **__: object) -> bool:
        return prefix == Key.messages(session.id)

    broken = stack.compose(records=Once(stack.records, "query", dies, when=clears))
    with pytest.raises(Unavailable):
        await broken.services.collaborators.sessions.delete(TENANT, session.id)
    await parts.sessions.delete(TENANT, session.id)
    assert (await stack.records.query(TENANT, Key.messages(session.id))).items == []


async def test_a_deleted_agent_does_not_come_back_by_a_late_fill_of_the_cache(stack: MemoryStack) -> None:
    registry = stack.parts.services.collaborators.registry
    coder = await registry.get(TENANT, "coder")
    # A reader that was slow: it read before the deletion and fills the cache after it.
    await stack.cache.store(TENANT, {coder.id: coder.model_dump_json()}, ttl_seconds=300)
    await stack.records.write(TENANT, *_deletion(coder.id))
    await registry.home(TENANT, fresh=True)
    assert coder.id not in (await registry.home(TENANT)).agents


def _deletion(agent_id: str) -> list[Any]:
    return [Delete(key=Key.agent(agent_id))]


async def test_a_late_delivery_of_an_answered_task_is_no_error_when_its_agent_is_gone(stack: MemoryStack) -> None:
    await _send(stack)
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    delivery = Delivery.model_validate_json(message.body)
    await stack.parts.worker.handle(delivery, message.lease, deadline=1e12)
    space = WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "shop")
    await space.delete_agent("coder")
    # The first worker died before it could acknowledge.
    await stack.parts.worker.handle(delivery, message.lease, deadline=1e12)
    await stack.parts.dead_letters.handle(delivery)


async def test_a_saved_step_of_the_model_is_never_lost_to_what_a_model_may_say(stack: MemoryStack) -> None:
    """Half of a surrogate pair in a tool's arguments: a cut emoji. UTF-8 and DynamoDB cannot hold it."""
    asked: list[ModelRequest] = []

    async def count(request: ModelRequest) -> None:
        asked.append(request)

    stack.model.before = count
    stack.model.script = [calls(("read_file", {"path": "\ud83d"})), says("done")]
    await _send(stack)
    await stack.work(TENANT)
    for item in (await stack.records.query(TENANT, Key("STEP#"))).items:
        str(item["content"]).encode()
    assert len(asked) == 2
