"""The contract of `ports.ContextStore`, for the memory adapter and for Qdrant's REST interface."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.servers import Request, http, server
from tests.stand_ins import Endpoint
from worker_space.adapters.memory_context import MemoryContext
from worker_space.adapters.qdrant import QdrantContext
from worker_space.errors import InvalidRequest, NotFound, Unavailable
from worker_space.lexical import AVERAGE_LENGTH, score
from worker_space.ports import ContextEntry, ContextStore
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio

U1 = TenantContext("u1", "p")
U10 = TenantContext("u10", "p")
AGENT = "agent_1"

TEXTS = {
    "task_1": "Please analyse main.py\nmain.py reads the configuration and starts the server.",
    "task_2": "The invoices of March were paid late; the invoice of April is open.",
    "task_3": "The parser in parse_config() raises ConfigError for duplicate keys.",
    "task_4": "Die Straße nach Österreich ist gesperrt. 東京都の天気は晴れ。",
}


def entry(id_: str, text: str = "the invoice is open", **changes: object) -> ContextEntry:
    made = ContextEntry(
        id=id_, text=text, kind="interaction", created_at=1_700_000_000_000, task_id=id_, session_id="s"
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "qdrant"])
async def store(request: pytest.FixtureRequest, names: Names) -> AsyncIterator[ContextStore]:
    if request.param == "memory":
        yield MemoryContext(names)
        return
    endpoint: Endpoint = request.getfixturevalue("qdrant")
    context = QdrantContext(endpoint.url, endpoint.secret, names)
    try:
        yield context
    finally:
        await context.close()


async def found(
    store: ContextStore, tenant: TenantContext, query: str, agent_id: str = AGENT, **more: int
) -> list[str]:
    matches = await store.search(tenant, agent_id, query, limit=10, **more)
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
    return [match.entry.id for match in matches]


async def test_the_entry_that_shares_words_with_the_query_is_found_first(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for id_, text in TEXTS.items():
        await store.add(U1, AGENT, entry(id_, text))
    assert (await found(store, U1, "Which invoices are paid?"))[0] == "task_2"
    assert (await found(store, U1, "what does parseConfig raise"))[0] == "task_3"
    assert (await found(store, U1, "analysing MAIN.PY"))[0] == "task_1"
    assert await found(store, U1, "STRASSE") == ["task_4"]
    assert await found(store, U1, "東京") == ["task_4"]


async def test_an_entry_comes_back_as_it_was_stored(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    full = entry("task_1", 'An "invoice"\n\tof 1.50 € 🙂')
    note = entry("note_1", "An invoice", kind="note", task_id=None, session_id=None)
    for stored in (full, note):
        await store.add(U1, AGENT, stored)
    matches = await store.search(U1, AGENT, "invoice", limit=10)
    assert {match.entry.id: match.entry for match in matches} == {"task_1": full, "note_1": note}


async def test_scores_are_the_documented_bm25(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for id_, text in TEXTS.items():
        await store.add(U1, AGENT, entry(id_, text))
    query = "the open invoice of the server in main.py"
    expected = dict(zip(TEXTS, score(query, list(TEXTS.values()), average_length=AVERAGE_LENGTH), strict=True))
    matches = await store.search(U1, AGENT, query, limit=10)
    assert {match.entry.id: match.score for match in matches} == {
        id_: pytest.approx(value, rel=1e-3) for id_, value in expected.items() if value
    }


@pytest.mark.parametrize("query", ["", "   ", "?!", "what is it", "the"])
async def test_a_query_without_a_meaningful_word_finds_nothing(store: ContextStore, query: str) -> None:
    await store.ensure(U1, AGENT)
    await store.add(U1, AGENT, entry("task_1"))
    assert await found(store, U1, query) == []


async def test_an_entry_without_a_meaningful_word_can_be_stored_and_listed(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    await store.add(U1, AGENT, entry("task_1", "?!"))
    entries, _ = await store.entries(U1, AGENT, limit=10)
    assert [stored.text for stored in entries] == ["?!"]


async def test_no_more_than_the_limit_is_found(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for number in range(5):
        await store.add(U1, AGENT, entry(f"task_{number}"))
    assert len(await store.search(U1, AGENT, "invoice", limit=3)) == 3


async def test_an_interaction_that_failed_is_not_recalled_but_listed(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    await store.add(U1, AGENT, entry("task_1", success=False))
    await store.add(U1, AGENT, entry("task_2"))
    assert await found(store, U1, "invoice") == ["task_2"]
    entries, _ = await store.entries(U1, AGENT, limit=10)
    assert {stored.id for stored in entries} == {"task_1", "task_2"}


async def test_only_the_asked_generation_is_recalled(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    await store.add(U1, AGENT, entry("task_1", generation=1))
    await store.add(U1, AGENT, entry("task_2", generation=2))
    assert await found(store, U1, "invoice") == ["task_1"]
    assert await found(store, U1, "invoice", generation=2) == ["task_2"]
    assert await found(store, U1, "invoice", generation=3) == []


async def test_storing_an_entry_again_replaces_it(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for text in ("the invoice is open", "the invoice is open", "the invoice is paid"):
        await store.add(U1, AGENT, entry("task_1", text))
    entries, after = await store.entries(U1, AGENT, limit=10)
    assert ([stored.text for stored in entries], after) == (["the invoice is paid"], None)


async def test_ensuring_again_keeps_what_is_stored(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    await store.add(U1, AGENT, entry("task_1"))
    await store.ensure(U1, AGENT)
    assert await found(store, U1, "invoice") == ["task_1"]


async def test_racing_callers_ensure_the_same_collection(store: ContextStore) -> None:
    await asyncio.gather(*(store.ensure(U1, AGENT) for _ in range(8)))
    await store.add(U1, AGENT, entry("task_1"))
    assert await found(store, U1, "invoice") == ["task_1"]


async def test_adding_without_a_collection_is_refused_and_makes_none(store: ContextStore) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            await store.add(U1, AGENT, entry("task_1"))
    assert await found(store, U1, "invoice") == []


async def test_a_late_writer_does_not_bring_a_dropped_collection_back(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    await store.add(U1, AGENT, entry("task_1"))
    await store.drop(U1, AGENT)
    with pytest.raises(NotFound):
        await store.add(U1, AGENT, entry("task_2"))
    await store.ensure(U1, AGENT)
    assert await found(store, U1, "invoice") == []


async def test_without_a_collection_nothing_is_found_listed_or_missed(store: ContextStore) -> None:
    assert await found(store, U1, "invoice") == []
    assert await store.entries(U1, AGENT, limit=10) == ([], None)
    for _ in range(2):
        await store.drop(U1, AGENT)


async def test_entries_are_paged_without_loss_or_repetition(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for number in range(7):
        await store.add(U1, AGENT, entry(f"task_{number}"))
    seen: list[str] = []
    after: str | None = None
    for _ in range(4):
        page, after = await store.entries(U1, AGENT, limit=3, after=after)
        seen += [stored.id for stored in page]
        if after is None:
            break
    assert after is None
    assert sorted(seen) == [f"task_{number}" for number in range(7)]


@pytest.mark.parametrize("after", ["", "x", "1", "../other", "a" * 500])
async def test_a_place_that_no_page_gave_is_refused(store: ContextStore, after: str) -> None:
    await store.ensure(U1, AGENT)
    with pytest.raises(InvalidRequest):
        await store.entries(U1, AGENT, limit=3, after=after)


HOSTILE = [
    (U1, "agent_1"),
    (U10, "agent_1"),
    (U1, "agent_10"),
    (TenantContext("u1", "p1"), "agent_1"),
    (TenantContext("U1", "p"), "agent_1"),
    (TenantContext("u1", "p_agent_agent"), "agent_1"),
    (TenantContext("u1_projectp", "x"), "agent_1"),
    (TenantContext("../u1", "../p"), "agent_1"),
    (TenantContext("auth0|u1", "{p}"), "agent_1"),
    (TenantContext("u" * 255, "p"), "agent_1"),
]


async def test_what_one_agent_stored_no_other_agent_or_tenant_finds_or_drops(store: ContextStore) -> None:
    for number, (tenant, agent_id) in enumerate(HOSTILE):
        await store.ensure(tenant, agent_id)
        await store.add(tenant, agent_id, entry("task_1", f"secret number{number}"))
    for number, (tenant, agent_id) in enumerate(HOSTILE):
        matches = await store.search(tenant, agent_id, "secret", limit=100)
        assert [match.entry.text for match in matches] == [f"secret number{number}"]
        page, _ = await store.entries(tenant, agent_id, limit=100)
        assert [stored.text for stored in page] == [f"secret number{number}"]
    for dropped, (tenant, agent_id) in enumerate(HOSTILE):
        await store.drop(tenant, agent_id)
        left = [bool(await store.search(*owner, "secret", limit=1)) for owner in HOSTILE]
        assert left == [False] * (dropped + 1) + [True] * (len(HOSTILE) - dropped - 1)


async def test_a_living_store_answers_a_ping(store: ContextStore) -> None:
    await store.ping()


# -- the Qdrant adapter's own promises -------------------------------------------------------------------------------


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
    ]
    assert requests[1].body == {"field_name": "generation", "field_schema": "integer"}
