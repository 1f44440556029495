"""Projects and agents over HTTP: shapes, pages, repeated requests."""

import base64
import json

import pytest

from tests.api.service import Service, kind
from tests.api.signing import token
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio
AGENT = {"name": "checker", "system_prompt": "You check."}


async def test_a_project_is_made_read_renamed_and_deleted(service: Service) -> None:
    made = await service.call("POST", "/my/projects/", json={"id": "shop", "name": "Shop"})
    assert made.status_code == 201
    assert made.headers["location"] == "/my/projects/shop/"
    body = made.json()
    assert set(body) == {"id", "name", "created_at", "updated_at"}
    assert (body["id"], body["name"]) == ("shop", "Shop")
    assert (await service.call("GET", made.headers["location"])).json() == body
    renamed = await service.call("PATCH", "/my/projects/shop/", json={"name": "The shop"})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "The shop")
    gone = await service.call("DELETE", "/my/projects/shop/")
    assert (gone.status_code, gone.content) == (204, b"")
    for method in ("GET", "DELETE"):
        assert (await service.call(method, "/my/projects/shop/")).status_code == 404
    assert (await service.call("PATCH", "/my/projects/shop/", json={"name": "x"})).status_code == 404
    assert (await service.call("GET", "/my/projects/")).json() == {"items": [], "next": None}


async def test_a_project_without_an_id_gets_one(service: Service) -> None:
    first = (await service.call("POST", "/my/projects/", json={"name": "x"})).json()
    second = (await service.call("POST", "/my/projects/", json={"name": "x"})).json()
    assert first["id"] != second["id"]


async def test_an_id_that_is_taken_is_409_for_its_owner_only(service: Service) -> None:
    await service.project("shop")
    answer = await service.call("POST", "/my/projects/", json={"id": "shop", "name": "Again"})
    assert (answer.status_code, kind(answer)) == (409, "conflict")
    await service.project("shop", user="bob")


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "x" * 129}, {"name": 7}, {"id": "../x", "name": "x"}])
async def test_a_bad_project_is_422(service: Service, body: dict[str, object]) -> None:
    assert (await service.call("POST", "/my/projects/", json=body)).status_code == 422


async def test_a_repeated_request_makes_one_project(service: Service) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await service.call("POST", "/my/projects/", json={"name": "x"}, headers=headers)
    again = await service.call("POST", "/my/projects/", json={"name": "x"}, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    other = await service.call("POST", "/my/projects/", json={"name": "y"}, headers=headers)
    assert (other.status_code, kind(other)) == (409, "conflict")
    bobs = await service.call("POST", "/my/projects/", user="bob", json={"name": "y"}, headers=headers)
    assert bobs.status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", "a\tb"])
async def test_a_bad_idempotency_key_is_422(service: Service, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode()), (b"Authorization", f"Bearer {token()}".encode())]
    answer = await service.client.post("/my/projects/", json={"name": "x"}, headers=headers)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_pages_follow_one_another_and_hold_everything_once(service: Service) -> None:
    for number in range(7):
        await service.project(f"p{number}")
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = (
            await service.call("GET", "/my/projects/", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))
        ).json()
        assert len(page["items"]) <= 3
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [f"p{number}" for number in range(7)]


def cursor_of(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "!!!",
        "not base64",
        cursor_of("PROJECT#"),
        cursor_of("HOME"),
        cursor_of("TASK#x"),
        cursor_of("PROJECT#" + "x" * 2000),
        "a" * 5000,
        "_w",
    ],
)
async def test_a_cursor_of_another_list_is_422(service: Service, cursor: str) -> None:
    answer = await service.call("GET", "/my/projects/", params={"cursor": cursor})
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "many"])
async def test_a_limit_is_1_to_100(service: Service, limit: str) -> None:
    assert (await service.call("GET", "/my/projects/", params={"limit": limit})).status_code == 422


async def test_an_agent_is_made_read_changed_and_deleted(service: Service, project: str) -> None:
    config = {
        **AGENT,
        "tools": ["read_file"],
        "max_concurrency": 2,
        "temperature": 0.5,
        "metadata": {"role": "qa", "n": [1, None]},
    }
    made = await service.call("POST", f"{project}/agents/", json=config)
    assert made.status_code == 201
    agent = made.json()
    assert made.headers["location"] == f"{project}/agents/{agent['id']}"
    assert {name: agent[name] for name in config} == config
    assert agent["version"] == 1
    assert set(agent) == {
        "id", "name", "system_prompt", "model", "tools", "max_concurrency", "temperature", "max_tokens", "metadata",
        "version", "created_at", "updated_at",
    }  # fmt: skip
    for target in (agent["id"], "checker", "CHECKER"):
        assert (await service.call("GET", f"{project}/agents/{target}")).json() == agent
    changed = await service.call("PATCH", f"{project}/agents/checker", json={"temperature": None, "name": "judge"})
    assert (changed.status_code, changed.json()["version"], changed.json()["temperature"]) == (200, 2, None)
    assert changed.json()["system_prompt"] == "You check."
    assert (await service.call("GET", f"{project}/agents/checker")).status_code == 404
    assert (await service.call("DELETE", f"{project}/agents/judge")).status_code == 204
    assert (await service.call("DELETE", f"{project}/agents/judge")).status_code == 404
    assert (await service.call("GET", f"{project}/agents/{agent['id']}")).status_code == 404


async def test_agents_are_read_from_the_table_and_not_from_the_cache(service: Service, project: str) -> None:
    await service.call("POST", f"{project}/agents/", json=AGENT)
    tenant = TenantContext("alice", "shop")
    cached = await service.services.collaborators.registry.home(tenant)
    await service.call("PATCH", f"{project}/agents/checker", json={"system_prompt": "New."})
    # An invalidation that was lost: the cache holds the old agents again.
    fields = {agent.id: agent.model_dump_json() for agent in cached.agents.values()}
    await service.stack.cache.store(tenant, {"space": cached.space.model_dump_json(), **fields}, ttl_seconds=300)
    assert (await service.call("GET", f"{project}/agents/checker")).json()["system_prompt"] == "New."
    items = (await service.call("GET", f"{project}/agents/")).json()["items"]
    assert [item["system_prompt"] for item in items if item["name"] == "checker"] == ["New."]


async def test_agents_come_in_pages(service: Service, project: str) -> None:
    first = (await service.call("GET", f"{project}/agents/", params={"limit": 3})).json()
    rest = (await service.call("GET", f"{project}/agents/", params={"cursor": first["next"]})).json()
    names = [item["name"] for item in first["items"] + rest["items"]]
    assert len(first["items"]) == 3
    assert len(names) == len(set(names)) == 4
    assert rest["next"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"tools": ["rm_rf"]},
        {"tools": ["read_file", "read_file"]},
        {"model": "nonsense"},
        {"model": "nobody:gpt"},
        {"max_concurrency": 0},
        {"temperature": float("nan")},
        {"name": "\u200b"},
        {"version": 3},
    ],
)
async def test_a_bad_agent_is_422(service: Service, project: str, wrong: dict[str, object]) -> None:
    content = json.dumps({**AGENT, **wrong}).encode()
    answer = await service.call("POST", f"{project}/agents/", content=content)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


@pytest.mark.parametrize(
    "metadata",
    [
        b'{"a": NaN}',
        b'{"a": [Infinity]}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": 1e300}',
        b'{"a": ' + b"9" * 40 + b"}",
        b'{"a": "' + b"x" * 20_000 + b'"}',
        b'{"a": ' + b"[" * 30 + b"]" * 30 + b"}",
    ],
    ids=["nan", "infinity", "surrogate", "surrogate name", "huge float", "huge int", "large", "deep"],
)
async def test_metadata_that_cannot_be_stored_is_422(service: Service, project: str, metadata: bytes) -> None:
    content = b'{"name": "x", "system_prompt": "x", "metadata": ' + metadata + b"}"
    answer = await service.call("POST", f"{project}/agents/", content=content)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


@pytest.mark.parametrize(
    "body", [b'{"name": "\\ud800"}', b'{"name": "x", "id": "\\ud800"}', b'{"\\ud800": 1, "name": "x"}']
)
async def test_text_that_is_no_unicode_is_422(service: Service, body: bytes) -> None:
    assert (await service.call("POST", "/my/projects/", content=body)).status_code == 422


async def test_a_name_that_is_taken_is_409(service: Service, project: str) -> None:
    assert (await service.call("POST", f"{project}/agents/", json={**AGENT, "name": "CODER"})).status_code == 409


async def test_a_repeated_request_makes_one_agent(service: Service, project: str) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await service.call("POST", f"{project}/agents/", json=AGENT, headers=headers)
    again = await service.call("POST", f"{project}/agents/", json=AGENT, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
