"""The ledger's fences, one by one: who may claim, who may write, who is overtaken."""

import asyncio

import pytest

from tests.memory_stack import MemoryStack, settings
from worker_space.accepting import MAX_WAITING
from worker_space.agents import Agent, AgentChanges
from worker_space.ending import Ending, Outcome
from worker_space.errors import ClaimLost, LimitReached, TaskCanceled
from worker_space.ledger import Claim, Ledger, Refusal, Stale, still_mine
from worker_space.messages import NewSession
from worker_space.places import choose_slot
from worker_space.projects import NewProject
from worker_space.records import All, Update
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


@pytest.fixture
async def agent(stack: MemoryStack) -> Agent:
    return await stack.parts.services.collaborators.registry.get(TENANT, "coder")


async def _deliver(stack: MemoryStack, *, session_id: str | None = None) -> Delivery:
    parts = stack.parts.services.collaborators
    if session_id is None:
        session_id = (await parts.sessions.create(TENANT, NewSession())).id
    await parts.bus.send_task(TENANT, session_id=session_id, content="hello", target_agent="coder")
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    return Delivery.model_validate_json(message.body)


async def _claim(ledger: Ledger, delivery: Delivery, agent: Agent | None) -> Claim:
    claim = await ledger.claim(delivery, agent)
    assert isinstance(claim, Claim)
    return claim


async def _refusal(ledger: Ledger, delivery: Delivery, agent: Agent | None) -> str:
    refusal = await ledger.claim(delivery, agent)
    assert isinstance(refusal, Refusal)
    return refusal.why


def _ending(ledger: Ledger, claim: Claim) -> Ending:
    return Ending(
        ticket=claim.delivery.ticket,
        epoch=claim.delivery.epoch,
        generation=1,
        slot=0,
        redispatch_ms=ledger.redispatch_ms,
        when=All(*still_mine(claim)),
        events=claim.events,
    )


async def test_an_overtaken_attempt_can_write_nothing_more(stack: MemoryStack, ledger: Ledger, agent: Agent) -> None:
    delivery = await _deliver(stack)
    first, second = await _claim(ledger, delivery, agent), await _claim(ledger, delivery, agent)
    assert (first.attempt, second.attempt, second.resumed) == (1, 2, True)
    with pytest.raises(ClaimLost):
        await ledger.journal(first, 0, {"kind": "model"})
    bus = stack.parts.services.collaborators.bus
    with pytest.raises(ClaimLost):
        await bus.end(TENANT, _ending(ledger, first), Outcome(state=TaskState.COMPLETED, content="late"))
    await ledger.journal(second, 0, {"kind": "model"})
    await bus.end(TENANT, _ending(ledger, second), Outcome(state=TaskState.COMPLETED, content="mine"))
    with pytest.raises(ClaimLost):
        await bus.end(TENANT, _ending(ledger, second), Outcome(state=TaskState.COMPLETED, content="twice"))
    answer = await stack.records.get(TENANT, Key.message(delivery.session, 1))
    assert answer is not None
    assert answer["content"] == "mine"
    assert [step["sk"] for step in await ledger.steps(TENANT, delivery.task)] == [Key.step(delivery.task, 0).sort]


async def test_a_journal_write_tells_of_a_cancel(stack: MemoryStack, ledger: Ledger, agent: Agent) -> None:
    delivery = await _deliver(stack)
    claim = await _claim(ledger, delivery, agent)
    await stack.parts.services.collaborators.bus.cancel_task(TENANT, delivery.task)
    with pytest.raises(TaskCanceled):
        await ledger.journal(claim, 0, {"kind": "model"})
    assert await ledger.steps(TENANT, delivery.task) == []
    assert await _refusal(ledger, delivery, agent) == "canceled"


async def test_only_the_newest_dispatch_may_run(stack: MemoryStack, ledger: Ledger, agent: Agent) -> None:
    old = await _deliver(stack)
    item = await stack.records.get(TENANT, Key.task(old.task))
    assert item is not None
    bus = stack.parts.services.collaborators.bus
    assert await bus.send_again(TENANT, item)
    assert not await bus.send_again(TENANT, item)
    assert await _refusal(ledger, old, agent) == "superseded"
    stack.clock[0] += 1000
    message = stack.queues.receive(TENANT, 1)
    assert message is not None


async def test_an_older_epoch_may_not_run(stack: MemoryStack, ledger: Ledger, agent: Agent) -> None:
    delivery = await _deliver(stack)
    await stack.records.write(TENANT, Update(key=Key.space(), add={"epoch": 1}))
    assert await _refusal(ledger, delivery, agent) == "superseded"


async def test_attempts_are_bounded(stack: MemoryStack, ledger: Ledger, agent: Agent) -> None:
    delivery = await _deliver(stack)
    for _ in range(3):
        await _claim(ledger, delivery, agent)
    assert await _refusal(ledger, delivery, agent) == "attempts_spent"


async def test_a_deleted_task_is_gone_and_a_deleted_agent_is_said(
    stack: MemoryStack, ledger: Ledger, agent: Agent
) -> None:
    delivery = await _deliver(stack)
    assert await _refusal(ledger, delivery, None) == "agent_deleted"
    await stack.parts.services.collaborators.registry.delete(TENANT, agent.id)
    assert await _refusal(ledger, delivery, agent) == "agent_deleted"
    missing = delivery.model_copy(update={"task": "task_00000000000000000000000000"})
    assert await _refusal(ledger, missing, agent) == "gone"


async def test_the_first_claim_needs_the_agents_newest_version_and_pins_it(
    stack: MemoryStack, ledger: Ledger, agent: Agent
) -> None:
    delivery = await _deliver(stack)
    registry = stack.parts.services.collaborators.registry
    newer = await registry.update(TENANT, agent.id, AgentChanges(system_prompt="new"))
    with pytest.raises(Stale):
        await ledger.claim(delivery, agent)
    await _claim(ledger, delivery, newer)
    await registry.update(TENANT, agent.id, AgentChanges(system_prompt="newer still"))
    assert (await _claim(ledger, delivery, newer)).attempt == 2
    item = await stack.records.get(TENANT, Key.task(delivery.task))
    assert item is not None
    assert item["agent_version"] == newer.version


async def test_a_lowered_cap_parks_what_is_delivered_too_much(stack: MemoryStack, ledger: Ledger, agent: Agent) -> None:
    deliveries = [await _deliver(stack) for _ in range(3)]
    registry = stack.parts.services.collaborators.registry
    lowered = await registry.update(TENANT, agent.id, AgentChanges(max_concurrency=1))
    claim = await _claim(ledger, deliveries[0], lowered)
    for delivery in deliveries[1:]:
        assert await _refusal(ledger, delivery, lowered) == "parked"
    # The one that leaves lets in the one that came first, with its next dispatch; the old delivery is void.
    (following,) = await stack.parts.services.collaborators.bus.end(
        TENANT, _ending(ledger, claim), Outcome(state=TaskState.COMPLETED, content="x")
    )
    assert (following.task, following.dispatch) == (deliveries[1].task, 3)
    assert await _refusal(ledger, deliveries[1], lowered) == "superseded"
    await _claim(ledger, following, lowered)


async def test_a_raised_cap_lets_parked_tasks_in(stack: MemoryStack, ledger: Ledger, agent: Agent) -> None:
    space = stack.parts.services.collaborators
    deliveries = [await _deliver(stack) for _ in range(2)]
    lowered = await space.registry.update(TENANT, agent.id, AgentChanges(max_concurrency=1))
    await _claim(ledger, deliveries[0], lowered)
    assert await _refusal(ledger, deliveries[1], lowered) == "parked"
    await space.registry.update(TENANT, agent.id, AgentChanges(max_concurrency=2))
    await space.bus.release_parked(TENANT, agent.id)
    assert await space.bus.status(TENANT, agent.id) == {"running": 1, "parked": 0}
    item = await stack.records.get(TENANT, Key.task(deliveries[1].task))
    assert item is not None
    assert item["dispatch"] == 3


async def test_no_more_than_a_hundred_messages_wait_in_a_session(stack: MemoryStack) -> None:
    parts = stack.parts.services.collaborators
    session = await parts.sessions.create(TENANT, NewSession())

    async def send() -> None:
        await parts.bus.send_task(TENANT, session_id=session.id, content="x", target_agent="coder")

    for _ in range(MAX_WAITING + 1):
        await send()
    with pytest.raises(LimitReached, match="100"):
        await send()
    await stack.work(TENANT, most=1)
    await send()


async def test_two_claims_of_one_delivery_at_once_get_two_attempts(
    stack: MemoryStack, ledger: Ledger, agent: Agent
) -> None:
    delivery = await _deliver(stack)
    claims = await asyncio.gather(*(_claim(ledger, delivery, agent) for _ in range(2)))
    assert sorted(claim.attempt for claim in claims) == [1, 2]


def test_dispatches_spread_over_free_slots_and_stop_when_all_are_taken() -> None:
    assert [choose_slot({}, 3, turn) for turn in range(4)] == [0, 1, 2, 0]
    busy = {"running": frozenset({"a", "b"}), "slot:a": 0, "slot:b": 2}
    assert {choose_slot(busy, 3, turn) for turn in range(5)} == {1}
    assert choose_slot({**busy, "running": frozenset({"a", "b", "c"}), "slot:c": 1}, 3, 0) is None
