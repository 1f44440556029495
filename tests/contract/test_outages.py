"""What callers see of dependencies that are down, slow or broken: `Unavailable`, within 2 s, and then at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import qdrant_client  # noqa: F401 - loaded before the clock runs: loading it is no waiting on a dead server

from tests.servers import BROKEN, free_port, server
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.qdrant import QdrantContext
from worker_space.adapters.sqs import SqsQueues
from worker_space.adapters.upstash import UpstashCache
from worker_space.errors import Unavailable
from worker_space.ports import Cache, ContextEntry, ContextStore, Lease, Queues
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio

U1 = TenantContext("u1", "p")
AGENT = "agent_1"
ENTRY = ContextEntry(id="task_1", text="invoice", kind="note", created_at=1)
LIMIT_SECONDS = 2.0

CACHE: dict[str, Callable[[Cache], Awaitable[object]]] = {
    "load": lambda cache: cache.load(U1),
    "store": lambda cache: cache.store(U1, {"a": "1"}, ttl_seconds=60),
    "forget": lambda cache: cache.forget(U1, "a"),
    "clear": lambda cache: cache.clear(U1),
    "remains": lambda cache: cache.remains(U1),
    "wake": lambda cache: cache.wake(U1, "task_1", ttl_seconds=60),
    "woken": lambda cache: cache.woken(U1, "task_1"),
    "ping": lambda cache: cache.ping(),
}
CONTEXT: dict[str, Callable[[ContextStore], Awaitable[object]]] = {
    "ensure": lambda store: store.ensure(U1, AGENT),
    "add": lambda store: store.add(U1, AGENT, ENTRY),
    "search": lambda store: store.search(U1, AGENT, "invoice", limit=3),
    "entries": lambda store: store.entries(U1, AGENT, limit=3),
    "remove": lambda store: store.remove(U1, AGENT, "task_1"),
    "clear": lambda store: store.clear(U1, AGENT, before=2),
    "forget_session": lambda store: store.forget_session(U1, AGENT, "session_1"),
    "drop": lambda store: store.drop(U1, AGENT),
    "drop_all": lambda store: store.drop_all(U1),
    "remains": lambda store: store.remains(U1),
    "ping": lambda store: store.ping(),
}


def _lease(names: Names) -> Lease:
    return Lease(queue_url=f"http://127.0.0.1/1/{names.queue(U1, 1)}", receipt_handle="x")


QUEUES: dict[str, Callable[[Queues, Names], Awaitable[object]]] = {
    "create": lambda queues, _: queues.create(U1, 1),
    "release": lambda queues, _: queues.release(U1, 1),
    "send": lambda queues, _: queues.send(U1, 1, "x", group="a#0", deduplication="x"),
    "extend": lambda queues, names: queues.extend(U1, _lease(names), 60),
    "wake_worker": lambda queues, _: queues.wake_worker(U1, 1),
    "depth": lambda queues, _: queues.depth(U1, 1),
    "ping": lambda queues, _: queues.ping(),
}

# botocore takes these for answers without members, or does not survive them: no AWS endpoint sends such.
SAYS_200 = {failure for failure, answer in BROKEN.items() if b" 200 " in answer}


@pytest.fixture(params=["nobody listens", "hangs", *BROKEN])
def broken(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A server's failure and its address."""
    if request.param == "nobody listens":
        yield request.param, f"http://127.0.0.1:{free_port()}"
        return
    with server(lambda _: BROKEN.get(request.param)) as (url, _):
        yield request.param, url


async def unavailable(call: Awaitable[object]) -> tuple[str, float]:
    """The dependency that the call says is unavailable, and the seconds it took to say so."""
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await call
    assert U1.token not in str(caught.value)
    return caught.value.dependency, time.monotonic() - started


async def test_a_broken_cache_is_unavailable_within_two_seconds_and_then_at_once(
    broken: tuple[str, str], names: Names
) -> None:
    _, url = broken

    async def twice(name: str, operation: Callable[[Cache], Awaitable[object]]) -> tuple[str, float, float, float]:
        cache = UpstashCache(url, "token", names)
        try:
            dependency, first = await unavailable(operation(cache))
            _, second = await unavailable(operation(cache))
            # A ping is for whoever wants to know how it is now: it asks again.
            return dependency, first, second, LIMIT_SECONDS if name == "ping" else 0.1
        finally:
            await cache.close()

    for dependency, first, second, limit in await asyncio.gather(*(twice(*each) for each in CACHE.items())):
        assert dependency == "redis"
        assert first < LIMIT_SECONDS
        assert second < limit


async def test_a_broken_context_store_is_unavailable_within_two_seconds_and_then_at_once(
    broken: tuple[str, str], names: Names
) -> None:
    failure, url = broken
    # Calls that hang are all under way before the circuit opens; of the others each needs a circuit of its own.
    stores = [QdrantContext(url, "key", names) for _ in CONTEXT]
    if failure == "hangs":
        stores = stores[:1] * len(CONTEXT)
    for limit in (LIMIT_SECONDS, 0.1):
        pairs = zip(stores, CONTEXT.values(), strict=True)
        answers = await asyncio.gather(*(unavailable(operation(store)) for store, operation in pairs))
        for name, (dependency, seconds) in zip(CONTEXT, answers, strict=True):
            assert dependency == "qdrant"
            # A ping is for whoever wants to know how it is now: it asks again.
            assert seconds < (LIMIT_SECONDS if name == "ping" else limit)
    for store in stores:
        await store.close()


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


@pytest.fixture
def queues(
    broken: tuple[str, str], names: Names, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SqsQueues]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", broken[1])
    clients: list[Any] = [make_client(service, region="eu-central-1") for service in ("sqs", "lambda")]
    yield SqsQueues(
        clients[0],
        clients[1],
        AwsCalls(executor),
        names,
        worker_function="worker",
        worker_timeout_seconds=60,
        dead_letter_arn="arn:aws:sqs:eu-central-1:123456789012:dead.fifo",
    )
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "broken", ["nobody listens", "hangs", *(failure for failure in BROKEN if failure not in SAYS_200)], indirect=True
)
async def test_broken_queues_are_unavailable_within_two_seconds(queues: SqsQueues, names: Names) -> None:
    calls = [unavailable(operation(queues, names)) for operation in QUEUES.values()]
    for dependency, seconds in await asyncio.gather(*calls):
        assert dependency in ("sqs", "lambda")
        assert seconds < LIMIT_SECONDS


@pytest.mark.parametrize("broken", ["answers 200 with a page"], indirect=True)
async def test_a_message_is_not_taken_for_sent_without_a_receipt(queues: SqsQueues, names: Names) -> None:
    assert (await unavailable(QUEUES["send"](queues, names)))[0] == "sqs"
