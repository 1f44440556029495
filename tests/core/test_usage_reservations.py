"""Reservations in each other's way, left behind by the dead, and made by many workers at once: never overspent."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.core.budgets import INPUT, TENANT, Book, only_tokens, request, tokens
from tests.memory_stack import says
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.allowances import day_ends, day_of
from worker_space.clock import now_ms
from worker_space.errors import ClaimLost, OverBudget, Unavailable
from worker_space.models import ModelReply, ModelRequest, Usage
from worker_space.ports import Owner
from worker_space.records import Item, Put, Write
from worker_space.tenancy import Key, UserContext
from worker_space.usage import Spending

pytestmark = pytest.mark.anyio


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
