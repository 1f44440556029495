"""The table's contract: memory and DynamoDB mean the same by a condition, an update, a page and a transaction."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.stand_ins import Aws
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.dynamodb import DynamoRecords
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.errors import ConditionFailed, InvalidRequest
from worker_space.ids import new_id
from worker_space.records import (
    All,
    Any_,
    AtMost,
    Check,
    Condition,
    Delete,
    Equals,
    Exists,
    Has,
    Missing,
    OneOf,
    Put,
    SizeAtLeast,
    SizeBelow,
    Update,
)
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio

Store = MemoryRecords | DynamoRecords


@dataclass
class Setup:
    """`fresh` gives a client of the same table for another thread."""

    records: Store
    fresh: Callable[[], Store]
    tenant: TenantContext


@pytest.fixture(params=["memory", "dynamodb"])
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    tenant = TenantContext(f"u-{new_id('task')[-8:]}", "p")
    if request.param == "memory":
        memory = MemoryRecords()
        yield Setup(memory, lambda: memory, tenant)
        return
    request.getfixturevalue("aws_endpoint")
    aws: Aws = request.getfixturevalue("aws")
    executor = ThreadPoolExecutor(8)

    def fresh() -> Store:
        return DynamoRecords(
            client=make_client("dynamodb", region=aws.region), calls=AwsCalls(executor), table=aws.table
        )

    yield Setup(fresh(), fresh, tenant)
    executor.shutdown()


KEY = Key("ITEM#1")


async def test_an_item_comes_back_as_it_was_put(setup: Setup) -> None:
    item = {
        "text": "ä",
        "number": 7,
        "ratio": 0.25,
        "yes": True,
        "list": [1, {"a": "b"}],
        "members": frozenset({"x", "y"}),
        "empty": "",
        "nothing": None,
    }
    await setup.records.write(setup.tenant, Put(key=KEY, item=item))
    stored = await setup.records.get(setup.tenant, KEY)
    assert stored == {**{name: value for name, value in item.items() if value is not None}, "sk": "ITEM#1"}


@pytest.mark.parametrize("number", [1e-130, 9e-131, -1e-131, 1e-300, 5e-324])
async def test_a_number_too_small_for_the_table_is_kept_as_nothing(setup: Setup, number: float) -> None:
    await setup.records.write(setup.tenant, Put(key=KEY, item={"number": number}))
    stored = await setup.records.get(setup.tenant, KEY)
    assert stored is not None
    assert stored["number"] == pytest.approx(number, abs=1e-130)


async def test_a_partition_is_its_tenants_alone(setup: Setup) -> None:
    await setup.records.write(setup.tenant, Put(key=KEY, item={"a": 1}))
    for other in (TenantContext(setup.tenant.user_id, "p2"), TenantContext(setup.tenant.user_id + "0", "p")):
        assert await setup.records.get(other, KEY) is None
        assert (await setup.records.query(other, Key.everything())).items == []
    assert await setup.records.get(setup.tenant, Key("ITEM#1", "user")) is None
    with pytest.raises(InvalidRequest):
        await setup.records.get(UserContext(setup.tenant.user_id), KEY)


async def test_many_items_come_in_the_order_asked_for(setup: Setup) -> None:
    await setup.records.write(setup.tenant, *(Put(key=Key(f"A#{n}"), item={"n": n}) for n in range(3)))
    found = await setup.records.get_many(setup.tenant, [Key("A#2"), Key("A#9"), Key("A#0")])
    assert [None if item is None else item["n"] for item in found] == [2, None, 0]


async def test_pages_follow_one_another_in_both_directions(setup: Setup) -> None:
    await setup.records.write(setup.tenant, *(Put(key=Key(f"A#{n}"), item={"n": n}) for n in range(7)))
    await setup.records.write(setup.tenant, Put(key=Key("B#0"), item={}))
    for descending in (False, True):
        seen: list[int] = []
        after: str | None = None
        while True:
            page = await setup.records.query(setup.tenant, Key("A#"), limit=3, after=after, descending=descending)
            seen += [item["n"] for item in page.items]
            after = page.after
            if after is None:
                break
        assert seen == sorted(range(7), reverse=descending)
    exact = await setup.records.query(setup.tenant, Key("A#"), limit=7)
    assert exact.after is None
    assert (await setup.records.query(setup.tenant, Key("A#"), after="A#3x")).items[0]["n"] == 4


SAMPLE = {"n": 5, "s": "abc", "l": ["x", "y"], "m": frozenset({"p"}), "max": 2, "o": [{"task": "t"}]}


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        (Exists("n"), True),
        (Exists("z"), False),
        (Missing("z"), True),
        (Missing("n"), False),
        (Equals("n", 5), True),
        (Equals("n", "5"), False),
        (Equals("l[0]", "x"), True),
        (Equals("l[5]", "x"), False),
        (Equals("o[0]", {"task": "t"}), True),
        (Equals("z", 1), False),
        (OneOf("s", ("abc", "d")), True),
        (OneOf("s", ("d",)), False),
        (AtMost("n", 5), True),
        (AtMost("n", 4), False),
        (AtMost("z", 4), False),
        (SizeBelow("l", 3), True),
        (SizeBelow("l", 2), False),
        (SizeBelow("m", "max"), True),
        (SizeBelow("l", "max"), False),
        (SizeBelow("z", 9), False),
        (SizeAtLeast("l", "max"), True),
        (SizeAtLeast("m", "max"), False),
        (SizeAtLeast("z", 0), False),
        (Has("m", "p"), True),
        (Has("m", "q"), False),
        (Has("l", "y"), True),
        (Has("z", "y"), False),
        (All(Exists("n"), Any_(Equals("n", 1), Missing("z"))), True),
        (All(Exists("n"), Any_(Equals("n", 1), Exists("z"))), False),
    ],
)
async def test_a_condition_decides_whether_anything_is_written(
    setup: Setup, condition: Condition, verdict: bool
) -> None:
    await setup.records.write(setup.tenant, Put(key=KEY, item=SAMPLE))
    for write in (Update(key=KEY, set={"done": 1}, when=condition), Check(key=KEY, when=condition)):
        other = Put(key=Key("OTHER"), item={})
        if verdict:
            await setup.records.write(setup.tenant, write, other)
        else:
            with pytest.raises(ConditionFailed) as caught:
                await setup.records.write(setup.tenant, write, other)
            assert caught.value.items == [{**SAMPLE, "sk": "ITEM#1"}, None]
    assert (await setup.records.get(setup.tenant, Key("OTHER")) is not None) is verdict
    assert ("done" in (await setup.records.get(setup.tenant, KEY) or {})) is verdict


async def test_a_condition_on_a_missing_item_fails_with_an_empty_one(setup: Setup) -> None:
    with pytest.raises(ConditionFailed) as caught:
        await setup.records.write(setup.tenant, Update(key=KEY, set={"a": 1}, when=Exists("sk")))
    assert caught.value.items == [{}]
    with pytest.raises(ConditionFailed) as caught:
        await setup.records.write(setup.tenant, Put(key=Key("X"), item={}), Delete(key=KEY, when=Equals("version", 1)))
    assert caught.value.items == [None, {}]


async def test_an_update_changes_what_it_names_and_nothing_else(setup: Setup) -> None:
    await setup.records.write(setup.tenant, Put(key=KEY, item=SAMPLE))
    await setup.records.write(
        setup.tenant,
        Update(
            key=KEY,
            set={"s": "new", "slot:task_1": 3},
            add={"n": 2, "count": 1},
            append={"l": ["z"], "fresh": [1]},
            include={"m": frozenset({"q"}), "running": frozenset({"r"})},
            remove=["o[0]"],
        ),
    )
    await setup.records.write(
        setup.tenant,
        Update(key=KEY, exclude={"m": frozenset({"p"}), "running": frozenset({"r"})}, remove=["slot:task_1", "zz"]),
    )
    assert await setup.records.get(setup.tenant, KEY) == {
        "sk": "ITEM#1",
        "s": "new",
        "n": 7,
        "count": 1,
        "l": ["x", "y", "z"],
        "fresh": [1],
        "m": frozenset({"q"}),
        "max": 2,
        "o": [],
    }


async def test_all_writes_happen_or_none(setup: Setup) -> None:
    writes: list[Any] = [Put(key=Key(f"T#{n}"), item={}) for n in range(3)]
    with pytest.raises(ConditionFailed):
        await setup.records.write(setup.tenant, *writes, Check(key=KEY, when=Exists("sk")))
    assert (await setup.records.query(setup.tenant, Key("T#"))).items == []


async def test_due_items_are_found_across_tenants_and_no_others(setup: Setup) -> None:
    shard = f"shard-{setup.tenant.user_id}"
    others = TenantContext(setup.tenant.user_id, "other")
    for tenant, at in ((setup.tenant, 30), (others, 10), (setup.tenant, 99)):
        item = {"user_id": tenant.user_id, "project_id": tenant.project_id, "due_shard": shard, "due_at": at}
        await setup.records.write(tenant, Put(key=Key(f"D#{at}"), item=item))
    found = await setup.records.due(shard, 50, 10)
    assert [(tenant.project_id, item["due_at"]) for tenant, item in found] == [("other", 10), ("p", 30)]
    later = await setup.records.due(shard, 99, 10, since=30)
    assert [item["due_at"] for _, item in later] == [30, 99]
    assert await setup.records.due(shard, 50, 10, since=31) == []
    assert await setup.records.due(shard, 50, 10, since=51) == []
    assert [item["due_at"] for _, item in await setup.records.due(shard, 99, 1, since=11)] == [30]
    await setup.records.write(others, Update(key=Key("D#10"), remove=["due_shard", "due_at"]))
    assert len(await setup.records.due(shard, 50, 10)) == 1


def _race(setup: Setup, count: int, work: Callable[[Store, int], Any]) -> list[Any]:
    """Run `work` in `count` threads that start together; results or errors."""
    barrier = threading.Barrier(count)

    def one(index: int) -> Any:
        store = setup.fresh()

        async def go() -> Any:
            return await work(store, index)

        barrier.wait()
        try:
            return asyncio.run(go())
        except ConditionFailed as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_of_racing_creators_exactly_one_wins(setup: Setup) -> None:
    async def create(store: Store, index: int) -> int:
        await store.write(setup.tenant, Put(key=KEY, item={"by": index}, when=Missing("sk")))
        return index

    results = _race(setup, 8, create)
    winners = [result for result in results if isinstance(result, int)]
    assert len(winners) == 1
    for loser in (result for result in results if isinstance(result, ConditionFailed)):
        assert loser.items[0] == {"by": winners[0], "sk": "ITEM#1"}


def test_a_set_with_a_cap_is_never_overfilled_by_racing_transactions(setup: Setup) -> None:
    asyncio.run(setup.records.write(setup.tenant, Put(key=KEY, item={"max": 3})))

    async def enter(store: Store, index: int) -> int:
        entered = 0
        for turn in range(5):
            name = f"{index}.{turn}"
            try:
                await store.write(
                    setup.tenant,
                    Update(
                        key=KEY,
                        include={"running": frozenset({name})},
                        when=Any_(Missing("running"), SizeBelow("running", "max")),
                    ),
                    Put(key=Key(f"IN#{name}"), item={}),
                )
                entered += 1
            except ConditionFailed:
                continue
        return entered

    results = _race(setup, 8, enter)
    assert sum(results) == 3
    item = asyncio.run(setup.records.get(setup.tenant, KEY))
    assert item is not None
    assert len(item["running"]) == 3
    entered = asyncio.run(setup.records.query(setup.tenant, Key("IN#"))).items
    assert {entry["sk"].removeprefix("IN#") for entry in entered} == item["running"]


def test_racing_counters_lose_nothing(setup: Setup) -> None:
    async def count(store: Store, index: int) -> None:
        for _ in range(10):
            await store.write(setup.tenant, Update(key=KEY, add={"n": 1}))

    _race(setup, 6, count)
    item = asyncio.run(setup.records.get(setup.tenant, KEY))
    assert item is not None
    assert item["n"] == 60
