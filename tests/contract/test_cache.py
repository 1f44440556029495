"""The contract of `ports.Cache`, for the memory adapter and for Upstash's REST interface over two Redis servers."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from tests.servers import Request, http, server
from tests.stand_ins import Endpoint
from worker_space.adapters.memory_cache import MemoryCache
from worker_space.adapters.upstash import UpstashCache
from worker_space.errors import Unavailable
from worker_space.ports import Cache
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio

U1 = TenantContext("u1", "p")
U10 = TenantContext("u10", "p")

# Ids that are beginnings, patterns or delimiters of each other's keys.
HOSTILE = [
    U1,
    U10,
    TenantContext("u1", "p1"),
    TenantContext("U1", "p"),
    TenantContext("u1", "p:agents"),
    TenantContext("u1_projectp", "x"),
    TenantContext("u1*", "*"),
    TenantContext("*", "*"),
    TenantContext("u?", "p"),
    TenantContext("auth0|u1", "p"),
    TenantContext("u1 ", "p"),
    TenantContext("ù1", "p"),
]


@dataclass(frozen=True)
class Subject:
    cache: Cache
    pass_time: Callable[[float], Awaitable[None]]


@pytest.fixture(params=["memory", "upstash", "valkey"])
async def subject(request: pytest.FixtureRequest, names: Names) -> AsyncIterator[Subject]:
    if request.param == "memory":
        now = [1000.0]

        async def move(seconds: float) -> None:
            now[0] += seconds

        yield Subject(MemoryCache(names, clock=lambda: now[0]), move)
        return
    endpoint: Endpoint = request.getfixturevalue({"upstash": "redis", "valkey": "valkey"}[request.param])
    cache = UpstashCache(endpoint.url, endpoint.secret, names)
    try:
        yield Subject(cache, asyncio.sleep)
    finally:
        await cache.close()


async def test_nothing_is_loaded_before_anything_is_stored(subject: Subject) -> None:
    assert await subject.cache.load(U1) == {}


async def test_fields_come_back_as_they_were_stored(subject: Subject) -> None:
    fields = {
        "agent_1": json.dumps({"name": "prüfer", "prompt": 'say "hi"\n\ttwice'}),
        "ключ": "значение 🙂",
        "empty": "",
        "OK": "OK",
        "number": "1.0",
        "base64": "T0s=",
    }
    await subject.cache.store(U1, fields, ttl_seconds=60)
    assert await subject.cache.load(U1) == fields


async def test_storing_replaces_a_field_and_keeps_the_others(subject: Subject) -> None:
    await subject.cache.store(U1, {"a": "1", "b": "1"}, ttl_seconds=60)
    await subject.cache.store(U1, {"b": "2", "c": "2"}, ttl_seconds=60)
    assert await subject.cache.load(U1) == {"a": "1", "b": "2", "c": "2"}


async def test_storing_no_field_changes_nothing(subject: Subject) -> None:
    await subject.cache.store(U1, {}, ttl_seconds=60)
    assert await subject.cache.load(U1) == {}


async def test_fields_expire(subject: Subject) -> None:
    await subject.cache.store(U1, {"a": "1"}, ttl_seconds=1)
    assert await subject.cache.load(U1) == {"a": "1"}
    await subject.pass_time(1.3)
    assert await subject.cache.load(U1) == {}


async def test_storing_again_renews_the_time_to_live_of_all_fields(subject: Subject) -> None:
    await subject.cache.store(U1, {"a": "1"}, ttl_seconds=1)
    await subject.cache.store(U1, {"b": "1"}, ttl_seconds=60)
    await subject.pass_time(1.3)
    assert await subject.cache.load(U1) == {"a": "1", "b": "1"}


async def test_one_field_can_be_forgotten_twice(subject: Subject) -> None:
    await subject.cache.store(U1, {"a": "1", "b": "1"}, ttl_seconds=60)
    await subject.cache.store(U10, {"a": "1"}, ttl_seconds=60)
    for _ in range(2):
        await subject.cache.forget(U1, "a")
    assert await subject.cache.load(U1) == {"b": "1"}
    assert await subject.cache.load(U10) == {"a": "1"}


async def test_every_tenant_sees_its_own_fields_only(subject: Subject) -> None:
    for tenant in HOSTILE:
        await subject.cache.store(tenant, {"owner": repr(tenant)}, ttl_seconds=60)
    for tenant in HOSTILE:
        assert await subject.cache.load(tenant) == {"owner": repr(tenant)}


async def test_clearing_one_tenant_touches_no_other(subject: Subject) -> None:
    for tenant in HOSTILE:
        await subject.cache.store(tenant, {"owner": repr(tenant)}, ttl_seconds=60)
        await subject.cache.wake(tenant, "task_1", ttl_seconds=60)
    for cleared, tenant in enumerate(HOSTILE):
        await subject.cache.clear(tenant)
        await subject.cache.clear(tenant)
        expected = [False] * (cleared + 1) + [True] * (len(HOSTILE) - cleared - 1)
        assert [bool(await subject.cache.load(other)) for other in HOSTILE] == expected
        assert [await subject.cache.woken(other, "task_1") for other in HOSTILE] == expected
        assert [await subject.cache.remains(other) for other in HOSTILE] == [2 * there for there in expected]


async def test_fields_and_signs_remain_until_they_are_cleared(subject: Subject) -> None:
    assert await subject.cache.remains(U1) == 0
    await subject.cache.store(U1, {"a": "1", "b": "1"}, ttl_seconds=60)
    assert await subject.cache.remains(U1) == 2
    for task in ("task_1", "task_2", "task_2"):
        await subject.cache.wake(U1, task, ttl_seconds=60)
    assert await subject.cache.remains(U1) == 4
    assert await subject.cache.remains(U10) == 0
    await subject.cache.clear(U1)
    assert await subject.cache.remains(U1) == 0
    await subject.cache.wake(U1, "task_3", ttl_seconds=60)
    assert await subject.cache.remains(U1) == 1


async def test_signs_do_not_pile_up_while_tasks_keep_ending(subject: Subject) -> None:
    await subject.cache.wake(U1, "task_1", ttl_seconds=1)
    await subject.pass_time(0.6)
    await subject.cache.wake(U1, "task_2", ttl_seconds=1)
    await subject.pass_time(0.6)
    assert not await subject.cache.woken(U1, "task_1")
    assert await subject.cache.woken(U1, "task_2")
    await subject.cache.wake(U1, "task_3", ttl_seconds=1)
    assert await subject.cache.remains(U1) == 2


async def test_a_wake_up_is_seen_for_its_task_and_tenant_only_until_it_expires(subject: Subject) -> None:
    assert not await subject.cache.woken(U1, "task_1")
    for _ in range(2):
        await subject.cache.wake(U1, "task_1", ttl_seconds=1)
    assert await subject.cache.woken(U1, "task_1")
    assert not await subject.cache.woken(U1, "task_10")
    assert not await subject.cache.woken(U10, "task_1")
    await subject.pass_time(1.3)
    assert not await subject.cache.woken(U1, "task_1")


async def test_a_living_cache_answers_a_ping(subject: Subject) -> None:
    await subject.cache.ping()


async def test_the_cache_works_for_concurrent_callers(subject: Subject) -> None:
    await asyncio.gather(*(subject.cache.store(U1, {f"f{i}": str(i)}, ttl_seconds=60) for i in range(20)))
    loads = await asyncio.gather(*(subject.cache.load(U1) for _ in range(20)))
    assert all(load == {f"f{i}": str(i) for i in range(20)} for load in loads)


# -- the Upstash adapter's own promises ------------------------------------------------------------------------------


async def test_a_wrong_token_is_unavailability_and_is_not_repeated_to_the_caller(redis: Endpoint, names: Names) -> None:
    cache = UpstashCache(redis.url, "not-the-token", names)
    with pytest.raises(Unavailable) as caught:
        await cache.load(U1)
    assert caught.value.dependency == "redis"
    assert "not-the-token" not in str(caught.value)
    assert "u1" not in str(caught.value)
    await cache.close()


async def test_every_operation_is_one_request_about_keys_of_the_tenant(names: Names) -> None:
    def answer(request: Request) -> bytes | None:
        if request.path == "/multi-exec":
            return http(200, json.dumps([{"result": 1} for _ in request.body]).encode())
        results = {"HGETALL": [], "ZMSCORE": [base64.b64encode(b"1030.5").decode()]}
        return http(200, json.dumps({"result": results.get(request.body[0], 1)}).encode())

    agents, ended = names.cached_agents(U1), names.ended_tasks(U1)
    with server(answer) as (url, requests):
        cache = UpstashCache(url, "token", names, clock=lambda: 1000.5)
        await cache.load(U1)
        await cache.store(U1, {"a": "1", "b": "2"}, ttl_seconds=300)
        await cache.forget(U1, "a")
        await cache.clear(U1)
        assert await cache.remains(U1) == 2
        await cache.wake(U1, "task_1", ttl_seconds=30)
        assert await cache.woken(U1, "task_1")
        await cache.close()
    assert [request.body for request in requests] == [
        ["HGETALL", agents],
        [["HSET", agents, "a", "1", "b", "2"], ["EXPIRE", agents, 300]],
        ["HDEL", agents, "a"],
        ["DEL", agents, ended],
        [["HLEN", agents], ["ZCARD", ended]],
        [["ZADD", ended, 1030.5, "task_1"], ["ZREMRANGEBYSCORE", ended, "-inf", 1000.5], ["EXPIRE", ended, 30]],
        ["ZMSCORE", ended, "task_1"],
    ]
