"""Tokens and money a day: reserved before a model call, settled after, never overspent."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, ScriptedModel, calls, says, settings
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.agents import AgentChanges
from worker_space.allowances import Allowances, LimitChanges, day_ends, day_of
from worker_space.clock import now_ms
from worker_space.errors import (
    ClaimLost,
    InvalidRequest,
    LimitReached,
    ModelError,
    OverBudget,
    PaymentRequired,
    RunError,
    TaskCanceled,
    Unavailable,
)
from worker_space.limit_status import limit_status
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import NewSession
from worker_space.models import ModelReply, ModelRequest, ToolSpec, Usage, UserTurn
from worker_space.ports import Owner
from worker_space.projects import NewProject, ProjectChanges
from worker_space.records import Equals, Item, Put, Update, Write
from worker_space.space import UserWorkerSpace
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext, UserContext
from worker_space.usage import Budget, Spending, estimated_input

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")
OTHER = TenantContext("alice", "garden")
PRICES = {"openai:small": {"input": 1_000_000, "output": 2_000_000}}


def request(*, text: str = "hello", model: str = "openai:small", max_tokens: int | None = None) -> ModelRequest:
    return ModelRequest(model=model, system_prompt="", turns=(UserTurn(content=text),), max_tokens=max_tokens)


INPUT = estimated_input(request())


class Book:
    """A budget over a table of its own, with a task that is being worked on."""

    def __init__(self, records: Any = None, *, patience: float = 0.0, **limits: object) -> None:
        self.records = MemoryRecords() if records is None else records
        allowances = Allowances(settings(prices=PRICES, **limits))
        self.budget = Budget(self.records, allowances, hold_seconds=60, patience_seconds=patience)

    async def working(self, task: str, *, attempt: int = 1, tenant: TenantContext = TENANT) -> Spending:
        """What an attempt at a task spends; the table says that it has the task."""
        await self.records.write(tenant, Put(key=Key.task(task), item={"attempt": attempt}))
        return self.spending(task, attempt=attempt, tenant=tenant)

    def spending(self, task: str, *, attempt: int = 1, tenant: TenantContext = TENANT) -> Spending:
        return self.budget.spending(
            tenant,
            space=None,
            task_id=task,
            attempt=attempt,
            fence=Equals("attempt", attempt),
            lost=lambda _: ClaimLost("another attempt has the task"),
        )

    async def day(self, owner: Owner = TENANT) -> Item:
        scope: Any = "user" if isinstance(owner, UserContext) else "tenant"
        item = await self.records.get(owner, Key.usage(f"day{day_of(now_ms())}", scope))
        return {name: value for name, value in (item or {}).items() if name.startswith(("committed", "spent"))}

    async def reservations(self) -> list[Item]:
        return list((await self.records.query(TENANT, Key.all_reservations())).items)


def tokens(committed: int, spent: int) -> dict[str, int]:
    return {"committed_tokens": committed, "spent_tokens": spent}


def only_tokens(item: Item) -> dict[str, int]:
    return {name: item.get(name, 0) for name in ("committed_tokens", "spent_tokens")}


# -- one call ------------------------------------------------------------------------------------------------


async def test_without_a_limit_nothing_is_read_or_written() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the table was asked to {name}")

    spending = Book(Untouchable()).spending("task_a")
    asked = request()
    assert await spending.reserve(asked, 0) is asked
    await spending.settle(Usage(input_tokens=10, output_tokens=10))
    await spending.release()


async def test_a_call_is_reserved_and_then_booked_as_what_it_used() -> None:
    book = Book(limit_tokens_per_day=100_000)
    spending = await book.working("task_a")
    bounded = await spending.reserve(request(max_tokens=500), 0)
    assert bounded.max_tokens == 500
    assert only_tokens(await book.day()) == tokens(INPUT + 500, 0)
    await spending.settle(Usage(input_tokens=20, output_tokens=30))
    assert only_tokens(await book.day()) == tokens(50, 50)
    assert await book.reservations() == []


async def test_an_answer_without_a_bound_of_its_own_gets_one() -> None:
    spending = await Book(limit_tokens_per_day=100_000).working("task_a")
    assert (await spending.reserve(request(), 0)).max_tokens == 4_096


async def test_an_answer_is_bounded_to_what_is_left() -> None:
    book = Book(limit_tokens_per_day=INPUT + 300)
    spending = await book.working("task_a")
    assert (await spending.reserve(request(), 0)).max_tokens == 300
    await spending.settle(Usage(input_tokens=INPUT, output_tokens=300))
    with pytest.raises(OverBudget, match=rf"this project has {INPUT + 300} used of {INPUT + 300} tokens.*midnight UTC"):
        await spending.reserve(request(), 1)


async def test_too_little_for_any_answer_is_refused_before_it_is_paid_for() -> None:
    book = Book(limit_tokens_per_day=INPUT + 255)
    spending = await book.working("task_a")
    with pytest.raises(OverBudget):
        await spending.reserve(request(), 0)
    assert await book.day() == {}
    # A short answer that is asked for as such fits.
    assert (await spending.reserve(request(max_tokens=10), 0)).max_tokens == 10


async def test_what_was_really_used_is_booked_also_where_it_is_more_than_was_reserved() -> None:
    book = Book(limit_tokens_per_day=10_000)
    spending = await book.working("task_a")
    await spending.reserve(request(max_tokens=300), 0)
    await spending.settle(Usage(input_tokens=9_000, output_tokens=900))
    assert only_tokens(await book.day()) == tokens(9_900, 9_900)
    with pytest.raises(OverBudget):
        await spending.reserve(request(), 1)


async def test_money_is_reserved_by_the_models_price() -> None:
    book = Book(limit_cost_per_day=10_000)
    spending = await book.working("task_a")
    bounded = await spending.reserve(request(max_tokens=1_000), 0)
    assert bounded.max_tokens == 1_000
    assert (await book.day())["committed_cost"] == INPUT + 2 * 1_000
    await spending.settle(Usage(input_tokens=100, output_tokens=50))
    assert (await book.day())["spent_cost"] == (await book.day())["committed_cost"] == 200


async def test_an_answer_is_bounded_to_what_can_be_paid() -> None:
    spending = await Book(limit_cost_per_day=INPUT + 2 * 400 + 1).working("task_a")
    assert (await spending.reserve(request(), 0)).max_tokens == 400


async def test_no_money_for_the_input_is_no_call() -> None:
    spending = await Book(limit_cost_per_day=INPUT).working("task_a")
    with pytest.raises(OverBudget, match="millionths of the currency"):
        await spending.reserve(request(), 0)


async def test_under_a_limit_of_money_a_model_without_a_price_is_refused() -> None:
    spending = await Book(limit_cost_per_day=10**9).working("task_a")
    with pytest.raises(RunError, match=r"openai:unknown has no price.*WORKER_SPACE_PRICES"):
        await spending.reserve(request(model="openai:unknown"), 0)
    # The offline model is free, even when nothing may be spent at all.
    free = await Book(limit_cost_per_day=0).working("task_b")
    assert (await free.reserve(request(model="offline:rules"), 0)).max_tokens == 4_096


async def test_the_users_limit_holds_over_all_projects() -> None:
    book = Book(user_limit_tokens_per_day=2 * (INPUT + 500))
    for tenant in (TENANT, OTHER):
        spending = await book.working("task_a", tenant=tenant)
        await spending.reserve(request(max_tokens=500), 0)
    third = await book.working("task_b")
    with pytest.raises(OverBudget, match=r"you have .* reserved"):
        await third.reserve(request(max_tokens=500), 0)
    assert only_tokens(await book.day(UserContext("alice"))) == tokens(2 * (INPUT + 500), 0)
    # The project has no limit of its own, but should it get one, the day is counted.
    for tenant in (TENANT, OTHER):
        assert only_tokens(await book.day(tenant)) == tokens(INPUT + 500, 0)


@pytest.mark.parametrize("error", [ModelError("refused"), Unavailable("model", "gone"), InvalidRequest("unknown")])
async def test_a_call_that_came_to_nothing_gives_its_reservation_back(error: Exception) -> None:
    book = Book(limit_tokens_per_day=10_000)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        raise error

    with pytest.raises(type(error)):
        await spending.call(request(), 0, ask)
    assert only_tokens(await book.day()) == tokens(0, 0)
    assert await book.reservations() == []


@pytest.mark.parametrize("limits", [{"limit_tokens_per_day": 10_000}, {}], ids=["limited", "without a limit"])
async def test_a_call_that_broke_off_after_text_had_come_is_booked_as_its_input(limits: dict[str, int]) -> None:
    book = Book(**limits)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        raise Unavailable("model", "gone", begun=True)

    with pytest.raises(Unavailable):
        await spending.call(request(), 0, ask)
    assert only_tokens(await book.day()) == tokens(INPUT, INPUT)
    assert (await book.day())["spent_cost"] == INPUT
    assert (await book.reservations(), spending.owed()) == ([], {})


async def test_a_call_that_nobody_wants_any_more_does_not_hold_its_answers_tokens() -> None:
    book = Book(limit_tokens_per_day=10_000)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        raise TaskCanceled("the task was canceled")

    with pytest.raises(TaskCanceled):
        await spending.call(request(), 0, ask)
    assert only_tokens(await book.day()) == tokens(INPUT, INPUT)
    assert await book.reservations() == []


async def test_an_answer_that_cannot_be_used_is_booked_as_what_it_used() -> None:
    book = Book(limit_tokens_per_day=10_000)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        raise ModelError("it gave an empty answer", used=(20, 400))

    with pytest.raises(ModelError):
        await spending.call(request(), 0, ask)
    assert only_tokens(await book.day()) == tokens(420, 420)
    assert await book.reservations() == []


# -- reservations in the way ---------------------------------------------------------------------------------


async def test_a_call_waits_for_the_reservations_of_others_to_be_settled() -> None:
    book = Book(limit_tokens_per_day=INPUT + 700, patience=10)
    first, second = await book.working("task_a"), await book.working("task_b")
    await first.reserve(request(max_tokens=600), 0)
    waiting = asyncio.create_task(second.reserve(request(max_tokens=600), 0))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await first.settle(Usage(input_tokens=10, output_tokens=20))
    assert (await waiting).max_tokens == 600
    assert only_tokens(await book.day()) == tokens(30 + INPUT + 600, 30)


async def test_an_answer_is_not_cut_short_for_what_others_are_about_to_give_back() -> None:
    book = Book(limit_tokens_per_day=2 * INPUT + 4_096 + 300, patience=10)
    first, second = await book.working("task_a"), await book.working("task_b")
    await first.reserve(request(), 0)
    waiting = asyncio.create_task(second.reserve(request(), 0))
    await asyncio.sleep(0.2)
    await first.settle(Usage(input_tokens=10, output_tokens=20))
    assert (await waiting).max_tokens == 4_096
    # What is spent does not come back: then the rest is taken at once.
    await second.settle(Usage(input_tokens=10, output_tokens=3_900))
    third = await book.working("task_c")
    assert ((await third.reserve(request(), 0)).max_tokens or 0) < 1_024


async def test_a_call_that_has_waited_in_vain_says_that_others_are_in_the_way_and_to_ask_again_soon() -> None:
    book = Book(limit_tokens_per_day=INPUT + 700, patience=0.3)
    await (await book.working("task_a")).reserve(request(max_tokens=600), 0)
    began, second = time.monotonic(), await book.working("task_b")
    with pytest.raises(OverBudget, match=r"0 spent and \d+ reserved of .* tokens.*again in a minute") as refused:
        await second.reserve(request(max_tokens=600), 0)
    assert time.monotonic() - began > 0.2
    assert refused.value.limit == "tokens_per_day"
    assert refused.value.until is not None
    assert 0 < refused.value.until - now_ms() <= 60_000
    assert only_tokens(await book.day()) == tokens(INPUT + 600, 0)


async def test_what_is_spent_is_not_waited_for() -> None:
    book = Book(limit_tokens_per_day=INPUT + 700, patience=60)
    first = await book.working("task_a")
    await first.reserve(request(max_tokens=600), 0)
    await first.settle(Usage(input_tokens=INPUT, output_tokens=600))
    with pytest.raises(OverBudget, match="midnight UTC") as refused:
        await asyncio.wait_for(first.reserve(request(max_tokens=600), 1), 5)
    assert refused.value.until == day_ends(day_of(now_ms()))


async def test_who_waits_stops_when_the_task_is_not_wanted_any_more() -> None:
    book = Book(limit_tokens_per_day=INPUT + 700, patience=60)
    await (await book.working("task_a")).reserve(request(max_tokens=600), 0)
    waiting = asyncio.create_task((await book.working("task_b")).reserve(request(max_tokens=600), 0))
    await asyncio.sleep(0.2)
    await book.records.write(TENANT, Put(key=Key.task("task_b"), item={"attempt": 2}))
    with pytest.raises(ClaimLost):
        await asyncio.wait_for(waiting, 5)


async def test_what_a_dead_attempt_holds_is_not_in_its_successors_way() -> None:
    book = Book(limit_tokens_per_day=2 * INPUT + 700)
    await (await book.working("task_a", attempt=1)).reserve(request(max_tokens=600), 0)
    successor = await book.working("task_a", attempt=2)
    assert (await successor.reserve(request(max_tokens=600), 0)).max_tokens == 600


# -- estimates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 100, 1_000),
        ("def f(x): return {k: v for k, v in x.items() if v}\n" * 100, 1_700),
        ("你好，世界。" * 100, 700),
        ("🙂🙃🦄" * 100, 900),
        ("ጤና ይስጥልኝ " * 100, 2_000),
    ],
    ids=["prose", "code", "Chinese", "emoji", "Amharic"],
)
def test_an_input_is_never_estimated_below_what_tokenizers_make_of_it(text: str, least: int) -> None:
    # The least are counts by cl100k, rounded up.
    assert estimated_input(request(text=text)) >= least


def test_the_tools_are_part_of_the_input() -> None:
    tool = ToolSpec(name="read_file", description="x" * 400, parameters={"type": "object"})
    with_tool = request().model_copy(update={"tools": (tool,)})
    assert estimated_input(with_tool) >= INPUT + 200


# -- attempts, sweeps and deaths -----------------------------------------------------------------------------


async def test_the_next_attempt_takes_the_reservation_over_and_does_not_hold_it_twice() -> None:
    book = Book(limit_tokens_per_day=10_000)
    dead = await book.working("task_a", attempt=1)
    await dead.reserve(request(max_tokens=500), 0)
    successor = await book.working("task_a", attempt=2)
    await successor.reserve(request(max_tokens=500), 0)
    # The dead one's call may have been paid: its input stays, its answer does not.
    assert only_tokens(await book.day()) == tokens(INPUT + INPUT + 500, INPUT)
    (held,) = await book.reservations()
    assert held["attempt"] == 2
    # A zombie cannot settle what is not its own any more.
    await dead.settle(Usage(input_tokens=5_000, output_tokens=5_000))
    await successor.settle(Usage(input_tokens=10, output_tokens=20))
    assert only_tokens(await book.day()) == tokens(INPUT + 30, INPUT + 30)


async def test_who_has_lost_the_task_reserves_nothing_and_asks_no_model() -> None:
    book = Book(limit_tokens_per_day=10_000)
    await book.working("task_a", attempt=2)
    with pytest.raises(ClaimLost):
        await book.spending("task_a", attempt=1).reserve(request(), 0)
    with pytest.raises(ClaimLost):
        await book.spending("task_gone").reserve(request(), 0)
    assert await book.day() == {}
    assert await book.reservations() == []


async def test_the_sweeper_ends_what_a_dead_worker_has_reserved() -> None:
    book = Book(limit_tokens_per_day=10_000, user_limit_tokens_per_day=10_000)
    spending = await book.working("task_a")
    await spending.reserve(request(max_tokens=500), 0)
    (item,) = await book.reservations()
    assert item["due_at"] > now_ms()
    assert await book.budget.expire(TENANT, item)
    assert only_tokens(await book.day()) == tokens(INPUT, INPUT)
    assert only_tokens(await book.day(UserContext("alice"))) == tokens(INPUT, INPUT)
    assert await book.reservations() == []
    assert not await book.budget.expire(TENANT, item)
    assert only_tokens(await book.day()) == tokens(INPUT, INPUT)


async def test_of_a_late_worker_and_the_sweeper_one_ends_a_reservation() -> None:
    for _ in range(40):
        book = Book(limit_tokens_per_day=100_000)
        spending = await book.working("task_a")
        await spending.reserve(request(max_tokens=500), 0)
        (item,) = await book.reservations()
        gate = threading.Barrier(3)

        def settle(spending: Spending = spending, gate: threading.Barrier = gate) -> None:
            gate.wait()
            asyncio.run(spending.settle(Usage(input_tokens=40, output_tokens=2)))

        def expire(book: Book = book, item: Item = item, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return asyncio.run(book.budget.expire(TENANT, item))

        def race(settle: Callable[[], None] = settle, expire: Callable[[], bool] = expire) -> list[bool]:
            with ThreadPoolExecutor(3) as pool:
                swept = [pool.submit(expire) for _ in range(2)]
                pool.submit(settle).result()
                return [each.result() for each in swept]

        expired = await asyncio.to_thread(race)
        assert expired.count(True) <= 1
        right = tokens(INPUT, INPUT) if any(expired) else tokens(42, 42)
        assert only_tokens(await book.day()) == right


async def test_a_reservation_that_was_renewed_is_not_swept_by_an_old_view_of_it() -> None:
    book = Book(limit_tokens_per_day=100_000)
    await (await book.working("task_a", attempt=1)).reserve(request(max_tokens=500), 0)
    (old,) = await book.reservations()
    await (await book.working("task_a", attempt=2)).reserve(request(max_tokens=500), 0)
    assert not await book.budget.expire(TENANT, old)
    assert len(await book.reservations()) == 1


async def test_an_answer_is_not_lost_for_a_table_that_does_not_answer() -> None:
    class Down(MemoryRecords):
        down = False

        async def write(self, owner: Owner, *writes: Write) -> None:
            if self.down:
                raise Unavailable("the table", "gone")
            await super().write(owner, *writes)

    records = Down()
    book = Book(records, limit_tokens_per_day=100_000)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        records.down = True
        return says("paid for")

    assert (await spending.call(request(), 0, ask)).content == "paid for"
    records.down = False
    assert len(await book.reservations()) == 1


async def test_nothing_is_written_for_a_project_that_was_deleted_meanwhile() -> None:
    book = Book(limit_tokens_per_day=100_000)
    spending = await book.working("task_a")
    await spending.reserve(request(), 0)
    partition: Any = book.records._partitions
    for items in partition.values():
        items.clear()
    for keys in book.records._sorted.values():
        keys.clear()
    await spending.settle(Usage(input_tokens=1, output_tokens=1))
    with pytest.raises(ClaimLost):
        await spending.reserve(request(), 1)
    assert (await book.records.query(TENANT, Key.everything())).items == []


# -- many at once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [0.0, 2.0], ids=["at once", "waiting"])
@pytest.mark.parametrize("seed", range(4))
def test_parallel_workers_never_overspend(seed: int, patience: float) -> None:
    limit = 6_000 + 500 * seed
    limits = {"limit_tokens_per_day": limit, "limit_cost_per_day": 2 * limit, "user_limit_tokens_per_day": limit}
    book = Book(patience=patience, **limits)
    asked: Counter[str] = Counter()
    lock = threading.Lock()
    gate = threading.Barrier(12)

    async def work(number: int) -> None:
        spending = await book.working(f"task_{number}")
        for call in range(20):
            try:
                bounded = await spending.reserve(request(max_tokens=600), call)
            except OverBudget:
                return
            assert bounded.max_tokens is not None
            # A model that uses all it may, or half of it.
            output = bounded.max_tokens // (1 + (number + call) % 2)
            with lock:
                asked["tokens"] += INPUT + output
                asked["cost"] += INPUT + 2 * output
                asked["calls"] += 1
            await asyncio.sleep(0.001)
            await spending.settle(Usage(input_tokens=INPUT, output_tokens=output))

    def run(number: int) -> None:
        gate.wait()
        asyncio.run(work(number))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(run, range(12)))
    day = asyncio.run(book.day())
    assert asked["calls"] > 5
    assert asked["tokens"] == day["spent_tokens"] == day["committed_tokens"] <= limit
    assert asked["cost"] == day["spent_cost"] == day["committed_cost"] <= 2 * limit
    # Not far below either: what was reserved and not used was given back.
    assert day["spent_tokens"] > limit - 1_000 or day["spent_cost"] > 2 * limit - 2_000


# -- the whole system ----------------------------------------------------------------------------------------


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
