"""The contract of `ports.ContextStore`: memory, and Qdrant in both layouts, by words alone and with meaning.

What is found is compared, not its scores: they differ from layout to layout.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.memories import AGENT, U1, U10, WordsOfMeaning, entry, found
from tests.stand_ins import Endpoint
from worker_space.adapters.memory_context import MemoryContext
from worker_space.adapters.qdrant import QdrantContext
from worker_space.errors import InvalidRequest, NotFound
from worker_space.lexical import AVERAGE_LENGTH, score
from worker_space.ports import ContextStore
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio

TEXTS = {
    "task_1": "Please analyse main.py\nmain.py reads the configuration and starts the server.",
    "task_2": "The invoices of March were paid late; the invoice of April is open.",
    "task_3": "The parser in parse_config() raises ConfigError for duplicate keys.",
    "task_4": "Die Straße nach Österreich ist gesperrt. 東京都の天気は晴れ。",
}
KINDS = ["memory", "collection", "shared", "collection with meaning", "shared with meaning"]


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, names: Names) -> AsyncIterator[ContextStore]:
    if request.param == "memory":
        yield MemoryContext(names)
        return
    endpoint: Endpoint = request.getfixturevalue("qdrant")
    layout, _, meaning = request.param.partition(" with ")
    embedder = WordsOfMeaning() if meaning else None
    context = QdrantContext(endpoint.url, endpoint.secret, names, embedder=embedder, layout=layout)
    try:
        yield context
    finally:
        await context.close()


async def test_the_entry_that_shares_words_with_the_query_is_found_first(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for id_, text in TEXTS.items():
        await store.add(U1, AGENT, entry(id_, text))
    assert (await found(store, U1, "Which invoices are paid?"))[0] == "task_2"
    assert (await found(store, U1, "what does parseConfig raise"))[0] == "task_3"
    assert (await found(store, U1, "analysing MAIN.PY"))[0] == "task_1"
    assert (await found(store, U1, "STRASSE"))[0] == "task_4"
    assert (await found(store, U1, "東京"))[0] == "task_4"


@pytest.mark.parametrize("store", ["memory", "collection", "shared"], indirect=True)
async def test_by_words_alone_nothing_is_found_that_shares_none(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for id_, text in TEXTS.items():
        await store.add(U1, AGENT, entry(id_, text))
    assert await found(store, U1, "STRASSE") == ["task_4"]
    assert await found(store, U1, "東京") == ["task_4"]
    assert await found(store, U1, "elephants") == []


async def test_an_entry_comes_back_as_it_was_stored(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    full = entry("task_1", 'An "invoice"\n\tof 1.50 € 🙂')
    note = entry("note_1", "An invoice", kind="note", task_id=None, session_id=None)
    for stored in (full, note):
        await store.add(U1, AGENT, stored)
    matches = await store.search(U1, AGENT, "invoice", limit=10)
    assert {match.entry.id: match.entry for match in matches} == {"task_1": full, "note_1": note}


async def test_whatever_shares_a_word_with_the_query_is_found(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for id_, text in TEXTS.items():
        await store.add(U1, AGENT, entry(id_, text))
    query = "the open invoice of the server in main.py"
    scores = dict(zip(TEXTS, score(query, list(TEXTS.values())), strict=True))
    assert {id_ for id_, value in scores.items() if value} <= set(await found(store, U1, query))


@pytest.mark.parametrize("store", ["memory", "collection"], indirect=True)
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


async def test_only_the_asked_generation_is_listed_and_without_one_all(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    for number in range(6):
        await store.add(U1, AGENT, entry(f"task_{number}", generation=1 + number % 2))
    listed, after = await store.entries(U1, AGENT, limit=2, generation=2)
    rest, end = await store.entries(U1, AGENT, limit=2, generation=2, after=after)
    assert {stored.id for stored in [*listed, *rest]} == {"task_1", "task_3", "task_5"}
    assert (len(listed), end) == (2, None)
    assert len((await store.entries(U1, AGENT, limit=9))[0]) == 6


async def test_one_entry_is_removed_and_told_from_a_missing_one(store: ContextStore) -> None:
    assert await store.remove(U1, AGENT, "task_1") is False
    for owner in ((U1, AGENT), (U10, AGENT), (U1, "agent_2")):
        await store.ensure(*owner)
        await store.add(*owner, entry("task_1"))
    await store.add(U1, AGENT, entry("task_2"))
    assert await store.remove(U1, AGENT, "task_1") is True
    assert await store.remove(U1, AGENT, "task_1") is False
    assert await store.remove(U1, AGENT, "") is False
    assert await found(store, U1, "invoice") == ["task_2"]
    assert await found(store, U10, "invoice") == await found(store, U1, "invoice", "agent_2") == ["task_1"]
    await store.add(U1, AGENT, entry("task_1"))
    assert set(await found(store, U1, "invoice")) == {"task_1", "task_2"}


async def test_earlier_generations_are_cleared_and_later_ones_and_other_agents_stay(store: ContextStore) -> None:
    await store.clear(U1, AGENT, before=5)
    for owner in ((U1, AGENT), (U10, AGENT), (U1, "agent_2")):
        await store.ensure(*owner)
        for generation in (1, 2, 3):
            await store.add(*owner, entry(f"task_{generation}", generation=generation))
    await store.clear(U1, AGENT, before=3)
    assert [stored.id for stored in (await store.entries(U1, AGENT, limit=9))[0]] == ["task_3"]
    for owner in ((U10, AGENT), (U1, "agent_2")):
        assert len((await store.entries(*owner, limit=9))[0]) == 3
    # The memory itself is still there.
    await store.add(U1, AGENT, entry("task_4", generation=3))
    assert set(await found(store, U1, "invoice", generation=3)) == {"task_3", "task_4"}


async def test_a_session_is_forgotten_in_all_generations_by_its_agent_alone(store: ContextStore) -> None:
    await store.forget_session(U1, AGENT, "session_1")
    for owner in ((U1, AGENT), (U10, AGENT), (U1, "agent_2")):
        await store.ensure(*owner)
        for generation in (1, 2):
            made = entry(f"task_{generation}", generation=generation, session_id="session_1")
            await store.add(*owner, made)
        await store.add(*owner, entry("task_3", session_id="session_10"))
        await store.add(*owner, entry("note_1", session_id=None))
    for _ in range(2):
        await store.forget_session(U1, AGENT, "session_1")
    left = (await store.entries(U1, AGENT, limit=9))[0]
    assert {stored.id for stored in left} == {"task_3", "note_1"}
    assert set(await found(store, U1, "invoice")) == {"task_3", "note_1"}
    for owner in ((U10, AGENT), (U1, "agent_2")):
        assert len((await store.entries(*owner, limit=9))[0]) == 4
    # The memory itself is still there.
    await store.add(U1, AGENT, entry("task_4"))


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


async def test_nothing_remains_of_a_tenant_whose_memory_is_dropped_and_all_of_the_others(store: ContextStore) -> None:
    assert await store.remains(U1) == 0
    await store.drop_all(U1)
    for tenant, agent_id in HOSTILE:
        await store.ensure(tenant, agent_id)
        await store.add(tenant, agent_id, entry("task_1", "secret"))
    assert all([await store.remains(tenant) for tenant, _ in HOSTILE])
    await store.drop_all(U1)
    left = [bool(await store.search(*owner, "secret", limit=1)) for owner in HOSTILE]
    assert left == [tenant != U1 for tenant, _ in HOSTILE]
    assert [bool(await store.remains(tenant)) for tenant, _ in HOSTILE] == left
    for tenant, agent_id in HOSTILE:
        if tenant == U1:
            with pytest.raises(NotFound):
                await store.add(tenant, agent_id, entry("task_2", "secret"))
    assert await store.remains(U1) == 0
    for tenant, _ in HOSTILE:
        await store.drop_all(tenant)
        assert await store.remains(tenant) == 0


async def test_an_agent_with_an_empty_memory_remains_until_it_is_dropped(store: ContextStore) -> None:
    await store.ensure(U1, AGENT)
    assert await store.remains(U1) == 1
    await store.drop(U1, AGENT)
    assert await store.remains(U1) == 0


async def test_dropping_and_writing_at_once_leaves_nothing_that_is_found(store: ContextStore) -> None:
    for _ in range(5):
        await store.ensure(U1, AGENT)
        writes = [store.add(U1, AGENT, entry(f"task_{number}")) for number in range(4)]
        outcomes = await asyncio.gather(*writes, store.drop(U1, AGENT), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), NotFound}
        assert await store.remains(U1) == 0


async def test_a_living_store_answers_a_ping(store: ContextStore) -> None:
    await store.ping()
