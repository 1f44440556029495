"""What waits for a place with its agent is let in exactly once, whatever is delivered how often."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, settings
from worker_space.agents import Agent, AgentChanges
from worker_space.bus import Sent
from worker_space.ending import Ending, Outcome
from worker_space.errors import LimitReached
from worker_space.ledger import Claim, Ledger, Refusal, still_mine
from worker_space.messages import NewSession
from worker_space.projects import NewProject
from worker_space.records import All
from worker_space.tasks import Delivery, TaskState
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack(settings=settings(max_attempts=3))
    await stack.parts.services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    return stack


@pytest.fixture
def ledger(stack: MemoryStack) -> Ledger:
    return stack.parts.services.ledger


async def _send(stack: MemoryStack) -> Sent:
    parts = stack.parts.services.collaborators
    session = await parts.sessions.create(TENANT, NewSession())
    return await parts.bus.send_task(TENANT, session_id=session.id, content="hello", target_agent="coder")


async def _receive(stack: MemoryStack) -> Delivery:
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    return Delivery.model_validate_json(message.body)


async def _cap(stack: MemoryStack, most: int) -> Agent:
    registry = stack.parts.services.collaborators.registry
    return await registry.update(TENANT, "coder", AgentChanges(max_concurrency=most))


async def _claim(ledger: Ledger, delivery: Delivery, agent: Agent) -> Claim:
    claim = await ledger.claim(delivery, agent)
    assert isinstance(claim, Claim)
    return claim


async def _end(stack: MemoryStack, claim: Claim) -> None:
    bus = stack.parts.services.collaborators.bus
    ending = Ending(
        ticket=claim.delivery.ticket,
        epoch=claim.delivery.epoch,
        generation=1,
        slot=0,
        redispatch_ms=1000,
        when=All(*still_mine(claim)),
        events=claim.events,
    )
    await stack.parts.dispatch.send_all(await bus.end(TENANT, ending, Outcome(state=TaskState.COMPLETED, content="x")))


async def _state(stack: MemoryStack, task_id: str) -> str:
    return str((await stack.records.get(TENANT, Key.task(task_id)) or {})["state"])


async def _until_quiet(stack: MemoryStack) -> None:
    """Everything that time, redeliveries and the sweeper can do."""
    for _ in range(4):
        stack.clock[0] += 1000
        await stack.work(TENANT)
        await stack.parts.sweeper.sweep(seconds=1)
    stack.clock[0] += 1000
    await stack.work(TENANT)


async def test_canceling_a_task_that_was_let_in_but_not_begun_lets_the_next_one_in(
    stack: MemoryStack, ledger: Ledger
) -> None:
    agent = await _cap(stack, 1)
    await _send(stack)
    first = await _claim(ledger, await _receive(stack), agent)
    second, third = await _send(stack), await _send(stack)
    bus = stack.parts.services.collaborators.bus
    assert await bus.status(TENANT, agent.id) == {"running": 1, "parked": 2}
    await _end(stack, first)
    await bus.cancel_task(TENANT, second.task_id)
    await _until_quiet(stack)
    assert await _state(stack, third.task_id) == "completed"
    assert await bus.status(TENANT, agent.id) == {"running": 0, "parked": 0}


async def test_a_parked_task_that_is_delivered_once_more_is_parked_once(stack: MemoryStack, ledger: Ledger) -> None:
    await _send(stack)
    first = await _receive(stack)
    await _send(stack)
    second = await _receive(stack)
    agent = await _cap(stack, 1)
    await _claim(ledger, first, agent)
    # The worker that parked it died before it could acknowledge the delivery.
    for _ in range(2):
        refusal = await ledger.claim(second, agent)
        assert isinstance(refusal, Refusal)
    assert await stack.parts.services.collaborators.bus.status(TENANT, agent.id) == {"running": 1, "parked": 1}


async def test_a_parked_task_whose_old_delivery_comes_again_can_still_end(stack: MemoryStack, ledger: Ledger) -> None:
    first, second, third = [await _receive_one(stack) for _ in range(3)]
    agent = await _cap(stack, 1)
    running = await _claim(ledger, first, agent)
    for delivery in (second, third):
        assert isinstance(await ledger.claim(delivery, agent), Refusal)
    # The second is let in; before anybody begins it, the third's unacknowledged old delivery comes again.
    await _end(stack, running)
    claim = await ledger.claim(third, agent)
    if isinstance(claim, Claim):
        await _end(stack, claim)
    await _until_quiet(stack)
    assert [await _state(stack, each.task) for each in (first, second, third)] == ["completed"] * 3
    status = await stack.parts.services.collaborators.bus.status(TENANT, agent.id)
    assert status == {"running": 0, "parked": 0}


async def _receive_one(stack: MemoryStack) -> Delivery:
    await _send(stack)
    return await _receive(stack)


class Interfering:
    """A port below which something else happens before some calls."""

    def __init__(self, below: object, method: str, before: Callable[..., Awaitable[Any]]) -> None:
        self._below, self._method, self._before = below, method, before

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._below, name)
        if name != self._method:
            return real

        async def call(*arguments: Any, **named: Any) -> Any:
            await self._before(*arguments, **named)
            return await real(*arguments, **named)

        return call


async def test_a_lowered_limit_is_set_in_bounded_work_while_workers_park(stack: MemoryStack) -> None:
    """What release_parked sends out is parked again at once by workers: it must not chase its own tail."""
    ledger = stack.parts.services.ledger
    await _cap(stack, 4)
    deliveries = [await _receive_one(stack) for _ in range(4)]
    agent = await _cap(stack, 1)
    await _claim(ledger, deliveries[0], agent)
    for delivery in deliveries[1:]:
        assert isinstance(await ledger.claim(delivery, agent), Refusal)
    sends = 0

    async def a_worker_parks_it(tenant: TenantContext, generation: int, body: str, **_: Any) -> None:
        nonlocal sends
        sends += 1
        await asyncio.sleep(0)
        assert isinstance(await ledger.claim(Delivery.model_validate_json(body), agent), Refusal)

    parts = stack.compose(queues=Interfering(stack.queues, "send", a_worker_parks_it))
    async with asyncio.timeout(2):
        await parts.services.collaborators.bus.release_parked(TENANT, agent.id)
    assert sends <= 4


async def test_no_more_tasks_are_parked_than_an_item_can_hold(stack: MemoryStack, ledger: Ledger) -> None:
    """DynamoDB takes 400 KB an item, and every place taken or left rewrites the whole of it."""
    agent = await _cap(stack, 1)
    await _send(stack)
    await _claim(ledger, await _receive(stack), agent)

    async def flood() -> None:
        for _ in range(1700):
            await _send(stack)

    with pytest.raises(LimitReached):
        await flood()
    runtime = await stack.records.get(TENANT, Key.runtime(agent.id))
    assert runtime is not None
    assert len(str(runtime["parked"])) < 200_000
