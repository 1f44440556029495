"""Tokens and money a day in the whole system: what tasks are booked as, and what becomes of those that meet a limit."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.core.budgets import INPUT, PRICES, TENANT, request
from tests.memory_stack import MemoryStack, ScriptedModel, calls, says, settings
from worker_space.agents import AgentChanges
from worker_space.allowances import LimitChanges, day_ends, day_of
from worker_space.clock import now_ms
from worker_space.errors import ClaimLost, LimitReached, ModelError, PaymentRequired, Unavailable
from worker_space.limit_status import limit_status
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import NewSession
from worker_space.models import ModelReply, ModelRequest, Usage
from worker_space.projects import NewProject, ProjectChanges
from worker_space.records import Equals, Update
from worker_space.space import UserWorkerSpace
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext, UserContext
from worker_space.usage import Budget, estimated_input

pytestmark = pytest.mark.anyio


class Metered(ScriptedModel):
    """Uses so many tokens a call."""

    def __init__(self, input_tokens: int = 50, output_tokens: int = 70) -> None:
        super().__init__()
        self.usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)

    async def request(
        self, tenant: TenantContext, request: ModelRequest, *, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        reply = await super().request(tenant, request, on_text=on_text)
        return reply.model_copy(update={"usage": self.usage})


async def system(**limits: object) -> tuple[MemoryStack, UserWorkerSpace, str]:
    stack = MemoryStack(model=Metered(), settings=settings(prices=PRICES, **limits))
    await stack.parts.services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    space = WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "shop")
    await space.update_agent("coder", AgentChanges(model="openai:small", max_tokens=400))
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    return stack, space, session.id


class Killed(Exception):
    """The worker process is gone in this very moment."""


async def status(stack: MemoryStack, name: str) -> tuple[int | None, int | None]:
    services = stack.parts.services
    found = await limit_status(services.records, services.allowances, TENANT)
    return next((each.used, each.reserved) for each in found if (each.name, each.scope) == (name, "project"))


async def test_every_model_call_of_a_task_is_booked_and_the_answer_bounded() -> None:
    stack, space, session = await system(limit_tokens_per_day=100_000, limit_cost_per_day=10**9)
    stack.model.script = [calls(("list_directory", {})), says("Nothing there.")]
    sent = await space.send_task(session, "What is there?", None)
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.COMPLETED
    assert (reply.task.input_tokens, reply.task.output_tokens) == (100, 140)
    assert reply.task.cost_micros == 100 + 2 * 140
    assert [asked.max_tokens for asked in stack.model.requests] == [400, 400]
    assert await status(stack, "tokens_per_day") == (240, 0)
    assert await status(stack, "cost_per_day") == (380, 0)


async def test_prices_alone_say_what_a_task_cost() -> None:
    stack, space, session = await system()
    sent = await space.send_task(session, "hello", None)
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.cost_micros == 50 + 2 * 70
    metrics = await space.get_agent_metrics("coder")
    assert metrics.cost_micros == 190
    assert await status(stack, "cost_per_day") == (190, 0)


async def test_what_a_day_has_used_before_a_limit_is_set_counts_against_it() -> None:
    stack, space, session = await system()
    stack.model.script = [calls(("list_directory", {})), says("Nothing there.")]
    await space.send_task(session, "What is there?", None)
    await stack.work(TENANT)
    assert await status(stack, "tokens_per_day") == (240, 0)
    assert await status(stack, "cost_per_day") == (380, 0)
    for limits, error in (({"cost_per_day": 300}, PaymentRequired), ({"tokens_per_day": 300}, LimitReached)):
        back = dict.fromkeys(("cost_per_day", "tokens_per_day")) | limits
        await stack.parts.services.projects.update(TENANT, ProjectChanges(limits=LimitChanges(**back)))
        with pytest.raises(error, match="today, of at most 300"):
            await space.send_task(session, "And now?", None)


@pytest.mark.parametrize("death", [Unavailable("model", "gone"), Killed()], ids=["no answer", "killed"])
async def test_without_a_limit_each_answer_is_counted_once_however_often_its_task_is_begun(death: Exception) -> None:
    stack, space, session = await system()
    stack.model.script = [calls(("list_directory", {})), death, says("Nothing there.")]
    sent = await space.send_task(session, "What is there?", None)
    with pytest.raises(type(death)):
        await stack.work(TENANT)
    assert await status(stack, "tokens_per_day") == (120, 0)
    stack.clock[0] += 1_000
    await stack.work(TENANT)
    assert (await space.wait_for_result(sent, seconds=1)).task.state is TaskState.COMPLETED
    assert await status(stack, "tokens_per_day") == (240, 0)


async def test_without_a_limit_the_answer_of_a_task_that_was_canceled_meanwhile_is_counted() -> None:
    stack, space, session = await system()
    sent = await space.send_task(session, "hello", None)

    async def cancel(_: ModelRequest) -> None:
        await space.cancel_task(sent.task_id)

    stack.model.before = cancel
    await stack.work(TENANT)
    assert (await space.wait_for_result(sent, seconds=1)).task.state is TaskState.CANCELED
    assert await status(stack, "tokens_per_day") == (120, 0)


async def test_without_a_limit_an_answer_that_cannot_be_used_is_counted() -> None:
    stack, space, session = await system()
    stack.model.script = [ModelError("it gave an empty answer", used=(20, 400))]
    sent = await space.send_task(session, "hello", None)
    await stack.work(TENANT)
    assert (await space.wait_for_result(sent, seconds=1)).task.state is TaskState.FAILED
    assert await status(stack, "tokens_per_day") == (420, 0)


async def test_tasks_side_by_side_that_fit_into_the_day_are_all_completed() -> None:
    stack, space, _ = await system()
    most = {"max_concurrency": 6, "max_tokens": 3_000}
    await space.update_agent("coder", AgentChanges(**most))
    await stack.parts.services.projects.update(TENANT, ProjectChanges(limits=LimitChanges(tokens_per_day=8_000)))
    sent = []
    for _ in range(6):
        session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
        sent.append(await space.send_task(session.id, "hello", None))

    async def slowly(_: ModelRequest) -> None:
        await asyncio.sleep(0.2)

    stack.model.before = slowly

    def workers() -> None:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: asyncio.run(stack.work(TENANT)), range(6)))

    await asyncio.to_thread(workers)
    ended = [(await space.wait_for_result(each, seconds=1)).task for each in sent]
    assert [(task.state, task.error) for task in ended] == [(TaskState.COMPLETED, None)] * 6
    assert await status(stack, "tokens_per_day") == (6 * 120, 0)


async def test_a_task_that_meets_the_limit_fails_and_says_until_when() -> None:
    stack, space, session = await system(limit_tokens_per_day=300)
    sent = await space.send_task(session, "hello", None)
    await stack.work(TENANT)
    reply = await space.wait_for_result(sent, seconds=1)
    assert reply.task.state is TaskState.FAILED
    assert reply.task.error is not None
    assert reply.task.error.code == "limit_reached"
    assert "300 tokens" in reply.task.error.message
    assert "midnight UTC" in reply.task.error.message
    assert (reply.task.error.limit, reply.task.error.until) == ("tokens_per_day", day_ends(day_of(now_ms())))
    assert stack.model.requests == []


@pytest.mark.parametrize("death", [Unavailable("model", "gone"), Killed()], ids=["no answer", "killed"])
async def test_a_retry_goes_on_within_the_limit(death: Exception) -> None:
    stack, space, session = await system(limit_tokens_per_day=100_000)
    stack.model.script = [death, says("hello again")]
    sent = await space.send_task(session, "hello", None)
    with pytest.raises(type(death)):
        await stack.work(TENANT)
    stack.clock[0] += 1_000
    await stack.work(TENANT)
    assert (await space.wait_for_result(sent, seconds=1)).task.state is TaskState.COMPLETED
    # Nobody knows whether the dead worker's call was paid: its input counts.
    lost = estimated_input(stack.model.requests[0]) if isinstance(death, Killed) else 0
    assert await status(stack, "tokens_per_day") == (120 + lost, 0)


async def test_many_messages_at_once_do_not_overspend() -> None:
    stack, space, _ = await system(limit_tokens_per_day=12_000)
    for _ in range(40):
        session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
        await space.send_task(session.id, "hello", None)

    def run(_: int) -> None:
        asyncio.run(stack.work(TENANT))

    def workers() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(run, range(4)))

    stack.model.usage = Usage(input_tokens=1_500, output_tokens=400)  # type: ignore[attr-defined]
    await asyncio.to_thread(workers)
    used, reserved = await status(stack, "tokens_per_day")
    assert used is not None
    assert used == 1_900 * len(stack.model.requests)
    assert reserved == 0
    assert 0 < used <= 12_000


async def test_the_sweep_finds_what_a_worker_that_vanished_has_reserved() -> None:
    stack, space, session = await system(limit_tokens_per_day=100_000)
    sent = await space.send_task(session, "hello", None)
    vanished = Budget(stack.records, stack.parts.services.allowances, hold_seconds=60).spending(
        TENANT, space=None, task_id=sent.task_id, attempt=0, fence=Equals("attempt", 0), lost=lambda _: ClaimLost("")
    )
    await vanished.reserve(request(), 0)
    (item,) = (await stack.records.query(TENANT, Key.all_reservations())).items
    overdue = Update(key=Key(item["sk"]), set={"due_at": now_ms() - 1})
    await stack.records.write(TENANT, overdue)
    counts = await stack.parts.sweeper.sweep(seconds=5)
    assert counts["expired"] == 1
    assert await status(stack, "tokens_per_day") == (INPUT, 0)
