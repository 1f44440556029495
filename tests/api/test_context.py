"""`…/agents/{agent_id}/context` over HTTP."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.api.service import Service, kind
from tests.memory_stack import says
from worker_space.errors import RunError, Unavailable
from worker_space.ports import ContextEntry
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


@pytest.fixture
async def service() -> Service:
    service = Service()
    await service.project()
    return service


CODER = "/my/projects/shop/agents/coder/context"


async def add(service: Service, text: str, address: str = CODER, **headers: str) -> httpx.Response:
    return await service.call("POST", address, json={"text": text}, headers=headers)


async def listed(service: Service, address: str = CODER, **params: Any) -> list[dict[str, Any]]:
    answer = await service.call("GET", address, params=params)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def chat(service: Service, content: str) -> httpx.Response:
    body = {"content": content, "target_agent": "coder"}
    async with service.worker():
        return await service.call("POST", "/my/projects/shop/chat/", json=body)


async def test_a_note_is_added_listed_and_found_by_its_words(service: Service) -> None:
    added = await add(service, "The user prefers tabs.")
    await add(service, "The invoice is open.")
    assert added.status_code == 201
    note = added.json()
    assert (note["kind"], note["text"], note["success"], note["score"]) == (
        "note",
        "The user prefers tabs.",
        True,
        None,
    )
    assert note["id"].startswith("note_")
    assert note in await listed(service)
    assert len(await listed(service)) == 2
    (match,) = await listed(service, query="tabs")
    assert match["score"] > 0
    assert {**match, "score": None} == note
    assert await listed(service, query="elephants") == []
    # An agent's id and its name name the same memory, and another agent's is another.
    agent_id = (await service.call("GET", "/my/projects/shop/agents/coder")).json()["id"]
    assert len(await listed(service, f"/my/projects/shop/agents/{agent_id}/context")) == 2
    assert await listed(service, "/my/projects/shop/agents/writer/context") == []


async def test_an_interaction_is_listed_with_its_task_and_recalled_by_the_next(service: Service) -> None:
    stack = service.stack
    stack.model.script = [says("tea, always"), says("again tea")]
    first = await chat(service, "what do gardeners drink")
    (entry,) = await listed(service)
    assert (entry["kind"], entry["task_id"], entry["id"]) == ("interaction", first.json()["id"], first.json()["id"])
    await chat(service, "which drink do gardeners like")
    assert "tea, always" in stack.model.requests[-1].system_prompt


async def test_an_agent_recalls_a_note(service: Service) -> None:
    await add(service, "The gardener's name is Zebedee.")
    await chat(service, "what is the gardener called?")
    assert "Zebedee" in service.stack.model.requests[-1].system_prompt


async def test_the_interaction_of_a_failed_task_is_listed_as_such_and_neither_found_nor_recalled(
    service: Service,
) -> None:
    stack = service.stack
    stack.model.script = [RunError("the zeppelin exploded"), says("fine")]
    assert (await chat(service, "inflate the zeppelin")).status_code == 502
    (entry,) = await listed(service)
    assert entry["success"] is False
    assert "zeppelin exploded" in entry["text"]
    assert await listed(service, query="zeppelin") == []
    await chat(service, "where is the zeppelin")
    assert "exploded" not in stack.model.requests[-1].system_prompt


async def test_a_list_comes_in_pages_and_a_search_in_one(service: Service) -> None:
    for number in range(5):
        await add(service, f"apple {number}")
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        params = {"limit": 2} if cursor is None else {"limit": 2, "cursor": cursor}
        page = (await service.call("GET", CODER, params=params)).json()
        seen += [item["text"] for item in page["items"]]
        cursor = page["next"]
    assert cursor is None
    assert sorted(seen) == [f"apple {number}" for number in range(5)]
    found = (await service.call("GET", CODER, params={"query": "apple", "limit": 3})).json()
    assert (len(found["items"]), found["next"]) == (3, None)


async def test_a_cleared_context_is_empty_and_takes_new_notes(service: Service) -> None:
    await add(service, "apples are red")
    await add(service, "pears are green", "/my/projects/shop/agents/writer/context")
    for _ in range(2):
        assert (await service.call("DELETE", CODER)).status_code == 204
        assert await listed(service) == await listed(service, query="apples") == []
    assert len(await listed(service, "/my/projects/shop/agents/writer/context")) == 1
    await add(service, "apples are yellow")
    assert [item["text"] for item in await listed(service, query="apples")] == ["apples are yellow"]
    # Nothing is kept of what was cleared, found or not.
    agent_id = (await service.call("GET", "/my/projects/shop/agents/coder")).json()["id"]
    entries, _ = await service.stack.memory.entries(TENANT, agent_id, limit=9)
    assert [entry.text for entry in entries] == ["apples are yellow"]


async def test_one_entry_is_removed(service: Service) -> None:
    kept, gone = (await add(service, "apples")).json(), (await add(service, "pears")).json()
    address = f"{CODER}/{gone['id']}"
    assert (await service.call("DELETE", address)).status_code == 204
    assert [item["id"] for item in await listed(service)] == [kept["id"]]
    again = await service.call("DELETE", address)
    assert (again.status_code, kind(again)) == (404, "not-found")
    # What the tool `remember` stores has a name with a `#`.
    await service.call("POST", "/my/projects/shop/tools/remember", json={"text": "plums", "agent_id": "coder"})
    (entry,) = [item for item in await listed(service) if item["text"] == "plums"]
    assert (await service.call("DELETE", f"{CODER}/{entry['id'].replace('#', '%23')}")).status_code == 204
    assert len(await listed(service)) == 1


async def test_a_repeated_request_adds_one_note_and_another_text_is_refused(service: Service) -> None:
    first = await add(service, "apples", **{"Idempotency-Key": "k"})
    again = await asyncio.gather(*(add(service, "apples", **{"Idempotency-Key": "k"}) for _ in range(4)))
    assert [answer.json() for answer in again] == [first.json()] * 4
    assert len(await listed(service)) == 1
    other = await add(service, "pears", **{"Idempotency-Key": "k"})
    assert (other.status_code, kind(other)) == (409, "conflict")
    elsewhere = await add(service, "pears", "/my/projects/shop/agents/writer/context", **{"Idempotency-Key": "k"})
    assert elsewhere.status_code == 201
    # A note that was cleared does not come back by a repetition.
    await service.call("DELETE", CODER)
    assert (await add(service, "apples", **{"Idempotency-Key": "k"})).json() == first.json()
    assert await listed(service) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": "  \n"},
        {"text": "x" * 8_001},
        {"text": "a\x00b"},
        {"text": 5},
        {"text": None},
        {"text": "x", "kind": "interaction"},
        {"text": "x", "success": True},
        [],
        "x",
    ],
)
async def test_a_bad_note_is_refused(service: Service, body: Any) -> None:
    answer = await service.call("POST", CODER, json=body)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    assert await listed(service) == []


async def test_a_body_that_is_no_json_and_a_lone_surrogate_are_refused(service: Service) -> None:
    assert kind(await service.call("POST", CODER, content=b"{")) == "malformed-body"
    answer = await service.call("POST", CODER, content=b'{"text": "\\ud800"}')
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "params",
    [
        {"query": ""},
        {"query": "x" * 2_001},
        {"limit": 0},
        {"limit": 101},
        {"limit": "x"},
        {"cursor": "x"},
        {"cursor": "QUdFTlQj"},
        {"query": "x", "cursor": "QUdFTlQj"},
    ],
)
async def test_a_bad_question_is_refused(service: Service, params: dict[str, Any]) -> None:
    answer = await service.call("GET", CODER, params=params)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", {"text": "x"}), ("DELETE", None)])
async def test_a_missing_agent_or_project_has_no_context(service: Service, method: str, body: Any) -> None:
    for place in ("shop/agents/nobody", "shop/agents/agent_00000000000000000000000000", "none/agents/coder"):
        answer = await service.call(method, f"/my/projects/{place}/context", json=body)
        assert (answer.status_code, kind(answer)) == (404, "not-found")
    await service.call("DELETE", "/my/projects/shop/agents/coder")
    assert (await service.call(method, CODER, json=body)).status_code == 404


class Down:
    """A memory that does not answer."""

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: object, **__: object) -> None:
            raise Unavailable("qdrant", "down")

        return fail


async def test_a_memory_that_is_down_is_503_and_what_was_cleared_meanwhile_is_not_found_later(
    service: Service,
) -> None:
    await add(service, "apples are red")
    up = service.stack.parts
    service.stack.parts = service.stack.compose(memory=Down())
    service.services = service.stack.parts.services
    for method, body in (("GET", None), ("POST", {"text": "x"}), ("DELETE", None)):
        answer = await service.call(method, CODER, json=body)
        assert (answer.status_code, kind(answer)) == (503, "unavailable")
    assert (await chat(service, "are apples red?")).status_code == 200
    service.stack.parts, service.services = up, up.services
    assert await listed(service) == []
    assert await listed(service, query="apples") == []
    assert (await service.call("DELETE", CODER)).status_code == 204
    agent_id = (await service.call("GET", "/my/projects/shop/agents/coder")).json()["id"]
    assert "apples are red" not in str(await service.stack.memory.entries(TENANT, agent_id, limit=9))


async def test_what_a_page_shows_is_of_the_agents_own_generation(service: Service) -> None:
    agent_id = (await service.call("GET", "/my/projects/shop/agents/coder")).json()["id"]
    await service.stack.memory.ensure(TENANT, agent_id)
    await service.stack.memory.add(
        TENANT, agent_id, ContextEntry(id="late", text="apples", kind="note", created_at=1, generation=1)
    )
    assert len(await listed(service)) == 1
    await service.call("DELETE", CODER)
    await service.stack.memory.add(
        TENANT, agent_id, ContextEntry(id="late", text="apples", kind="note", created_at=1, generation=1)
    )
    assert await listed(service) == []
    assert await listed(service, query="apples") == []
