"""The sweep itself: everything that is due, each once, fairly and in time, whatever one handler does."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from worker_space.clock import now_ms
from worker_space.errors import ClaimLost, NotFound, Unavailable
from worker_space.jobs.sweep import COUNTS, Sweeper
from worker_space.records import Item
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


class Index:
    """The sparse index, which still lists what was seen to as long as `lags`."""

    def __init__(self, **shards: Sequence[int]) -> None:
        self.items: dict[str, list[dict[str, Any]]] = {
            shard: [{"sk": f"TASK#{shard}{number}", "due_at": at} for number, at in enumerate(times)]
            for shard, times in shards.items()
        }
        self.asked = 0
        self.most = 0

    async def due(self, shard: str, before: int, limit: int, *, since: int = 0) -> Sequence[tuple[TenantContext, Item]]:
        self.asked += 1
        self.most = max(self.most, limit)
        found = [item for item in self.items[shard] if since <= item["due_at"] <= before]
        return [(TENANT, item) for item in sorted(found, key=lambda item: int(item["due_at"]))[:limit]]


class Handler:
    def __init__(self, **answers: Any) -> None:
        self.seen: list[str] = []
        self._answers = answers

    async def __call__(self, tenant: TenantContext, item: Item) -> str:
        self.seen.append(item["sk"])
        answer = self._answers.get(item["sk"].removeprefix("TASK#"), "sent")
        if isinstance(answer, BaseException):
            raise answer
        return str(answer)


def _sweeper(index: Index, handler: Handler) -> Sweeper:
    return Sweeper(due=index, handlers={"TASK": handler}, shards=list(index.items))


async def test_everything_that_is_due_is_seen_once_though_the_index_lags() -> None:
    times = [*range(1, 200), *[200] * 90, *range(201, 260)]
    index, handler = Index(a=times, b=times), Handler()
    counts = await _sweeper(index, handler).sweep(seconds=10)
    assert counts["sent"] == 2 * len(times)
    assert set(Counter(handler.seen).values()) == {1}
    # Pages stay small however many there are, but for those that are due in the very same millisecond.
    assert index.most <= 25 + 90 + 25


async def test_what_is_not_due_yet_is_left_alone() -> None:
    index, handler = Index(a=[1, now_ms() + 60_000]), Handler()
    assert (await _sweeper(index, handler).sweep(seconds=1))["sent"] == 1


async def test_a_crowd_in_one_place_does_not_keep_the_others_waiting() -> None:
    index, handler = Index(crowd=range(1, 1000), other=[1]), Handler()
    await _sweeper(index, handler).sweep(seconds=10)
    assert handler.seen.index("TASK#other0") <= 25


async def test_a_sweep_ends_in_time() -> None:
    class Slow(Handler):
        async def __call__(self, tenant: TenantContext, item: Item) -> str:
            await asyncio.sleep(0.02)
            return await super().__call__(tenant, item)

    index, handler = Index(a=range(1, 1000)), Slow()
    began = time.monotonic()
    await _sweeper(index, handler).sweep(seconds=0.2)
    assert time.monotonic() - began < 0.4
    assert 0 < len(handler.seen) <= 11
    assert (await _sweeper(index, handler).sweep(seconds=0)) == dict.fromkeys(COUNTS, 0)


@pytest.mark.parametrize(
    ("error", "count"),
    [(NotFound("x"), "left"), (Unavailable("x", "y"), "left"), (ClaimLost("x"), "kept"), (KeyError("x"), "left")],
)
async def test_what_one_item_raises_does_not_keep_the_others_waiting(error: Exception, count: str) -> None:
    index, handler = Index(a=range(1, 60)), Handler(a3=error)
    counts = await _sweeper(index, handler).sweep(seconds=5)
    assert (counts["sent"], counts[count]) == (58, 1)


async def test_an_item_of_an_unknown_kind_is_left() -> None:
    index = Index(a=[1])
    index.items["a"][0]["sk"] = "NEWS#1"
    assert (await _sweeper(index, Handler()).sweep(seconds=1))["left"] == 1
