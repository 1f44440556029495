"""The Qdrant adapter's own promises: what it asks for, with whose name, and how it does without what is missing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

from tests.memories import AGENT, LAYOUTS, U1, U10, Layout, WordsOfMeaning, entry, found
from tests.servers import Request, http, server
from tests.stand_ins import Endpoint
from worker_space.adapters.qdrant import QdrantContext
from worker_space.errors import NotFound, Unavailable
from worker_space.ports import ContextStore
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio

# -- requests and answers -------------------------------------------------------------------------------


async def test_a_wrong_key_is_unavailability_and_is_not_repeated_to_the_caller(qdrant: Endpoint, names: Names) -> None:
    context = QdrantContext(qdrant.url, "not-the-key", names)
    for call in (context.ping(), context.ensure(U1, AGENT), context.search(U1, AGENT, "invoice", limit=1)):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.dependency == "qdrant"
        assert "not-the-key" not in str(caught.value)
        assert "u1" not in str(caught.value)
    await context.close()


async def test_every_search_asks_for_success_and_generation_in_the_agents_own_collection(names: Names) -> None:
    def answer(request: Request) -> bytes | None:
        return http(200, b'{"result": {"points": []}, "status": "ok", "time": 0}')

    with server(answer) as (url, requests):
        context = QdrantContext(url, "key", names)
        assert await context.search(U1, AGENT, "invoice", limit=3, generation=7) == []
        await context.close()
    (request,) = requests
    assert request.path == f"/collections/{names.collection(U1, AGENT)}/points/query"
    assert request.body["filter"] == {
        "must": [{"key": "success", "match": {"value": True}}, {"key": "generation", "match": {"value": 7}}]
    }
    assert (request.body["using"], request.body["limit"]) == ("text", 3)


async def test_a_point_of_another_owner_is_never_handed_out(names: Names) -> None:
    def point(tenant: TenantContext, agent_id: str) -> str:
        owner = f'"tenant": "{tenant.token}", "agent_id": "{agent_id}"'
        rest = '"id": "x", "text": "t", "kind": "note", "created_at": 1, "task_id": null, "session_id": null'
        return (
            f'{{"id": 1, "version": 1, "score": 1, "payload": {{{owner}, {rest}, "success": true, "generation": 1}}}}'
        )

    points = ",".join([point(U10, AGENT), point(U1, "agent_10"), point(U1, AGENT)])

    def answer(request: Request) -> bytes | None:
        return http(200, f'{{"result": {{"points": [{points}]}}, "status": "ok", "time": 0}}'.encode())

    with server(answer) as (url, _):
        context = QdrantContext(url, "key", names)
        assert len(await context.search(U1, AGENT, "invoice", limit=3)) == 1
        await context.close()


async def test_a_half_made_collection_is_completed(names: Names) -> None:
    made = (
        b'{"result": {"status": "green", "optimizer_status": "ok", "segments_count": 1, "config": {"params": {}, '
        b'"hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}, "optimizer_config": '
        b'{"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0, '
        b'"flush_interval_sec": 5}}, "payload_schema": {"success": {"data_type": "bool", "points": 0}}}, '
        b'"status": "ok", "time": 0}'
    )

    def answer(request: Request) -> bytes | None:
        if request.method == "GET":
            return http(200, made)
        return http(200, b'{"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0}')

    with server(answer) as (url, requests):
        context = QdrantContext(url, "key", names)
        await context.ensure(U1, AGENT)
        await context.close()
    collection = f"/collections/{names.collection(U1, AGENT)}"
    assert [(request.method, request.path.partition("?")[0]) for request in requests] == [
        ("GET", collection),
        ("PUT", f"{collection}/index"),
        ("PUT", f"{collection}/index"),
    ]
    assert [request.body for request in requests[1:]] == [
        {"field_name": "generation", "field_schema": "integer"},
        {"field_name": "session_id", "field_schema": "keyword"},
    ]


# -- found by meaning, too --------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(
    endpoint: Endpoint, names: Names, layout: Layout, embedder: WordsOfMeaning | None = None
) -> AsyncIterator[QdrantContext]:
    context = QdrantContext(endpoint.url, endpoint.secret, names, embedder=embedder, layout=layout)
    try:
        yield context
    finally:
        await context.close()


@contextmanager
def passed_on(endpoint: Endpoint, refused: Callable[[Request], bool] = lambda _: False) -> Iterator[Any]:
    """The stand-in behind a server that keeps what is asked, and refuses some of it as an older one does."""

    def answer(request: Request) -> bytes:
        if refused(request):
            return http(400, b'{"status": {"error": "Wrong input"}, "time": 0}')
        body = json.dumps(request.body) if isinstance(request.body, (dict, list)) else request.body
        headers = {"api-key": endpoint.secret, "content-type": "application/json"}
        given = httpx.request(request.method, endpoint.url + request.path, content=body, headers=headers)
        return http(given.status_code, given.content)

    with server(answer) as (url, requests):
        yield Endpoint(url, endpoint.secret), requests


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_an_entry_that_means_the_same_is_found_without_a_word_in_common(
    qdrant: Endpoint, names: Names, layout: Layout
) -> None:
    async with opened(qdrant, names, layout, embedder := WordsOfMeaning()) as store:
        await store.ensure(U1, AGENT)
        await store.add(U1, AGENT, entry("task_1", "the boat leaves"))
        await store.add(U1, AGENT, entry("task_2", "an automobile stops"))
        assert (await found(store, U1, "vehicle"))[0] == "task_2"
        assert (await found(store, U1, "boat"))[0] == "task_1"
    assert {tenant for tenant, _ in embedder.asked} == {U1}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_while_the_embedder_is_down_words_are_stored_and_found(
    qdrant: Endpoint, names: Names, layout: Layout
) -> None:
    async with opened(qdrant, names, layout, embedder := WordsOfMeaning()) as store:
        await store.ensure(U1, AGENT)
        await store.add(U1, AGENT, entry("task_1", "an automobile stops"))
        embedder.down = True
        await store.add(U1, AGENT, entry("task_2", "a vehicle parks"))
        assert await found(store, U1, "vehicle") == ["task_2"]
        embedder.down = False
        # What was stored meanwhile is found by its words for ever, beside what is found by its meaning.
        assert set(await found(store, U1, "vehicle")) == {"task_1", "task_2"}
        assert "task_2" not in await found(store, U1, "car")


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_memory_made_without_an_embedder_goes_on_with_one(
    qdrant: Endpoint, names: Names, layout: Layout
) -> None:
    async with opened(qdrant, names, layout) as store:
        await store.ensure(U1, AGENT)
        await store.add(U1, AGENT, entry("task_1", "the boat leaves"))
    async with opened(qdrant, names, layout, WordsOfMeaning()) as store:
        assert await found(store, U1, "boat") == ["task_1"]
        await store.add(U1, AGENT, entry("task_2", "an automobile stops"))
        assert (await found(store, U1, "vehicle"))[0] == "task_2"
        assert "task_1" in await found(store, U1, "boat")
    async with opened(qdrant, names, layout) as store:
        assert await found(store, U1, "automobile") == ["task_2"]


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_where_vectors_cannot_be_added_memory_goes_on_by_words(
    qdrant: Endpoint, names: Names, layout: Layout
) -> None:
    async with opened(qdrant, names, layout) as store:
        await store.ensure(U1, AGENT)
        await store.add(U1, AGENT, entry("task_1", "the boat leaves"))
    with passed_on(qdrant, lambda request: "/vectors/" in request.path) as (older, _):
        async with opened(older, names, layout, WordsOfMeaning()) as store:
            await store.ensure(U1, AGENT)
            await store.add(U1, AGENT, entry("task_2", "an automobile stops"))
            assert await found(store, U1, "boat") == ["task_1"]
            assert await found(store, U1, "automobile") == ["task_2"]
            assert await found(store, U1, "vehicle") == []


async def test_a_server_that_knows_no_corpus_of_rarity_still_finds(qdrant: Endpoint, names: Names) -> None:
    with passed_on(qdrant, lambda request: '"corpus"' in json.dumps(request.body, default=str)) as (older, requests):
        async with opened(older, names, "shared") as store:
            await store.ensure(U1, AGENT)
            await store.add(U1, AGENT, entry("task_1", "the boat leaves"))
            requests.clear()
            assert await found(store, U1, "boat") == ["task_1"]
    assert len(requests) == 2


async def test_vectors_of_two_models_never_meet(qdrant: Endpoint, names: Names) -> None:
    async with opened(qdrant, names, "collection", WordsOfMeaning("one:32")) as store:
        await store.ensure(U1, AGENT)
        await store.add(U1, AGENT, entry("task_1", "an automobile stops"))
    for other in (WordsOfMeaning("two:32"), WordsOfMeaning("one:64", 64)):
        async with opened(qdrant, names, "collection", other) as store:
            assert await found(store, U1, "vehicle") == []
            await store.ensure(U1, AGENT)
            assert await found(store, U1, "vehicle") == []
            assert await found(store, U1, "automobile") == ["task_1"]


async def test_a_search_by_words_and_meaning_is_one_request_that_asks_for_the_generation_everywhere(
    names: Names,
) -> None:
    def answer(request: Request) -> bytes | None:
        return http(200, b'{"result": {"points": []}, "status": "ok", "time": 0}')

    with server(answer) as (url, requests):
        async with opened(Endpoint(url, "key"), names, "collection", WordsOfMeaning()) as store:
            assert await store.search(U1, AGENT, "invoice", limit=3, generation=7) == []
    (request,) = requests
    wanted = {"must": [{"key": "success", "match": {"value": True}}, {"key": "generation", "match": {"value": 7}}]}
    assert request.body["filter"] == wanted
    assert request.body["query"] == {"fusion": "rrf"}
    words, meaning = request.body["prefetch"]
    assert (words["using"], words["filter"], meaning["filter"]) == ("text", wanted, wanted)
    assert meaning["using"].startswith("dense_")
    assert len(meaning["query"]) == 32


# -- the shared layout ------------------------------------------------------------------------------------------------


def _owned(request: Request) -> bool:
    """Whether a request to points names their owner: as a condition at its top, or, writing them, in each payload."""
    body = request.body
    owner = {"tenant": U1.token, "agent_id": AGENT}
    if request.method == "PUT":
        return all({name: point["payload"][name] for name in owner} == owner for point in body["points"])
    must = body["filter"]["must"]
    return all({"key": key, "match": {"value": value}} in must for key, value in owner.items())


@pytest.mark.parametrize("meaning", [False, True])
async def test_in_the_shared_layout_every_request_asks_for_the_owner(
    qdrant: Endpoint, names: Names, meaning: bool
) -> None:
    with passed_on(qdrant) as (endpoint, requests):
        async with opened(endpoint, names, "shared", WordsOfMeaning() if meaning else None) as store:
            await store.ensure(U1, AGENT)
            await store.add(U1, AGENT, entry("task_1"))
            assert await found(store, U1, "invoice") == ["task_1"]
            await store.entries(U1, AGENT, limit=3)
            await store.entries(U1, AGENT, limit=3, generation=1)
            assert await store.remove(U1, AGENT, "task_1")
            await store.clear(U1, AGENT, before=2)
            await store.forget_session(U1, AGENT, "s")
            await store.drop(U1, AGENT)
            with pytest.raises(NotFound):
                await store.add(U1, AGENT, entry("task_1"))
            asked = [request for request in requests if "/points" in request.path]
            assert len(asked) == 14
            assert [request.path for request in asked if not _owned(request)] == []
            requests.clear()
            await store.drop_all(U1)
            await store.remains(U1)
            points = [request for request in requests if "/points" in request.path]
            mine = {"must": [{"key": "tenant", "match": {"value": U1.token}}]}
            assert [request.body["filter"] for request in points] == [mine, mine]
    assert {request.path.split("/")[2].partition("?")[0] for request in asked} == {names.shared_collection}


async def test_the_shared_collection_is_indexed_by_its_tenants(qdrant: Endpoint, names: Names) -> None:
    async with opened(qdrant, names, "shared") as store:
        await store.ensure(U1, AGENT)
    url = f"{qdrant.url}/collections/{names.shared_collection}"
    async with httpx.AsyncClient(headers={"api-key": qdrant.secret}) as client:
        schema = (await client.get(url)).json()["result"]["payload_schema"]
    assert set(schema) == {"tenant", "agent_id", "kind", "success", "generation", "session_id"}
    assert schema["tenant"]["params"]["is_tenant"] is True


@pytest.mark.parametrize("meaning", [False, True])
async def test_in_the_shared_layout_answers_tell_nothing_of_what_others_store(
    qdrant: Endpoint, names: Names, meaning: bool
) -> None:
    async def seen(store: ContextStore) -> list[tuple[str, float]]:
        matches = await store.search(U1, AGENT, "apple pear plum", limit=9)
        return [(match.entry.id, match.score) for match in matches]

    async with opened(qdrant, names, "shared", WordsOfMeaning() if meaning else None) as store:
        for owner in ((U1, AGENT), (U1, "agent_2"), (U10, AGENT)):
            await store.ensure(*owner)
        for number, text in enumerate(("apple pie", "apple pear cake", "pear and cream", "plum tart with pear")):
            await store.add(U1, AGENT, entry(f"task_{number}", text))
        before = await seen(store)
        for number in range(8):
            await store.add(U10, AGENT, entry(f"task_{number}", "plum plum apple"))
            await store.add(U1, "agent_2", entry(f"task_{number}", "plum"))
        assert await seen(store) == before


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_dropping_all_clears_the_layout_of_earlier_days_too(
    qdrant: Endpoint, names: Names, layout: Layout
) -> None:
    for each in LAYOUTS:
        async with opened(qdrant, names, each) as store:
            for tenant in (U1, U10):
                await store.ensure(tenant, AGENT)
                await store.add(tenant, AGENT, entry("task_1"))
    async with opened(qdrant, names, layout) as store:
        assert await store.remains(U1) == 4
        await store.drop_all(U1)
        assert (await store.remains(U1), await store.remains(U10)) == (0, 4)


async def test_a_late_writer_in_the_shared_layout_takes_back_what_it_wrote(qdrant: Endpoint, names: Names) -> None:
    stopped: list[Request] = []

    def first_upsert(request: Request) -> bool:
        """Drops the agent between the write and the question after its mark."""
        if request.path.endswith("/points/count") and not stopped:
            stopped.append(request)
            asyncio.run(_dropped(qdrant, names))
        return False

    async with opened(qdrant, names, "shared") as store:
        await store.ensure(U1, AGENT)
        await store.ensure(U10, AGENT)
    with passed_on(qdrant, first_upsert) as (endpoint, _):
        async with opened(endpoint, names, "shared") as store:
            with pytest.raises(NotFound):
                await store.add(U1, AGENT, entry("task_1"))
            assert stopped
            assert (await store.remains(U1), await store.remains(U10)) == (0, 1)


async def _dropped(endpoint: Endpoint, names: Names) -> None:
    async with opened(endpoint, names, "shared") as store:
        await store.drop(U1, AGENT)
