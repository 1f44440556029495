"""Projects and agents over HTTP: shapes, pages, repeated requests."""

import base64
import json

import pytest

from tests.api.service import Service, kind
from tests.api.signing import token
from tests.memory_stack import calls, says
from worker_space.errors import ModelError
from worker_space.models import ModelRequest
from worker_space.records import Update
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio
AGENT = {"name": "checker", "system_prompt": "You check."}


async def test_a_project_is_made_read_renamed_and_deleted(service: Service) -> None:
    made = await service.call("POST", "/my/projects/", json={"id": "shop", "name": "Shop"})
    assert made.status_code == 201
    assert made.headers["location"] == "/my/projects/shop/"
    body = made.json()
    assert set(body) == {"id", "name", "policy", "limits", "created_at", "updated_at"}
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
        "id", "name", "system_prompt", "model", "tools", "max_concurrency", "temperature", "max_tokens", "enabled",
        "metadata", "version", "created_at", "updated_at",
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


async def test_pages_of_long_agents_and_of_their_versions_stay_below_what_lambda_answers_with(
    service: Service, project: str
) -> None:
    prompt = "\U0001f600" * 32_000
    for number in range(30):
        made = await service.call("POST", f"{project}/agents/", json={"name": f"a{number}", "system_prompt": prompt})
        assert made.status_code == 201
        await service.call("PATCH", f"{project}/agents/a0", json={"max_concurrency": 1 + number % 2})
    for address, count in ((f"{project}/agents/", 30 + 4), (f"{project}/agents/a0/versions/", 31)):
        found: list[tuple[str, int]] = []
        cursor = ""
        while True:
            page = await service.call("GET", f"{address}?limit=100{cursor}")
            assert len(page.content) < 3_200_000
            found += [(agent["id"], agent["version"]) for agent in page.json()["items"]]
            if page.json()["next"] is None:
                break
            cursor = f"&cursor={page.json()['next']}"
        assert len(found) == len(set(found)) == count


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


async def test_a_temperature_has_no_more_places_than_can_be_kept(service: Service, project: str) -> None:
    for given, kept in ((1e-300, 0.0), (0.7, 0.7)):
        body = {**AGENT, "name": f"at {kept}", "temperature": given}
        made = await service.call("POST", f"{project}/agents/", json=body)
        assert (made.status_code, made.json()["temperature"]) == (201, kept)


@pytest.mark.parametrize(
    "metadata",
    [
        b'{"a": NaN}',
        b'{"a": [Infinity]}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": 1e300}',
        b'{"a": [-1e-300]}',
        b'{"a": ' + b"9" * 40 + b"}",
        b'{"a": "' + b"x" * 20_000 + b'"}',
        b'{"a": ' + b"[" * 30 + b"]" * 30 + b"}",
    ],
    ids=["nan", "infinity", "surrogate", "surrogate name", "huge float", "tiny float", "huge int", "large", "deep"],
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


# -- versions ------------------------------------------------------------------------------------------------


async def test_each_change_is_a_version_and_versions_come_newest_first_in_pages(service: Service, project: str) -> None:
    made = (await service.call("POST", f"{project}/agents/", json=AGENT)).json()
    for number in range(2, 6):
        await service.call("PATCH", f"{project}/agents/checker", json={"system_prompt": f"Prompt {number}."})
    first = (await service.call("GET", f"{project}/agents/checker/versions/", params={"limit": 2})).json()
    address = f"{project}/agents/{made['id']}/versions"
    rest = (await service.call("GET", f"{address}/", params={"cursor": first["next"]})).json()
    found = first["items"] + rest["items"]
    assert [item["version"] for item in found] == [5, 4, 3, 2, 1]
    assert [item["system_prompt"] for item in found] == [*(f"Prompt {n}." for n in (5, 4, 3, 2)), "You check."]
    assert found[-1] == made
    assert rest["next"] is None
    assert (await service.call("GET", f"{address}/1")).json() == made
    assert (await service.call("GET", f"{project}/agents/checker/versions/3")).json() == found[2]
    cursor = {"cursor": cursor_of(f"AGENTVERSION#{made['id'][:-1]}#00000001")}
    assert (await service.call("GET", f"{address}/", params=cursor)).status_code == 422


async def test_a_version_is_restored_as_a_new_one(service: Service, project: str) -> None:
    made = (await service.call("POST", f"{project}/agents/", json={**AGENT, "max_concurrency": 5})).json()
    await service.call(
        "PATCH", f"{project}/agents/checker", json={"name": "judge", "system_prompt": "New.", "max_concurrency": 1}
    )
    answer = await service.call("POST", f"{project}/agents/judge/versions/1/restore")
    assert answer.status_code == 201
    restored = answer.json()
    assert answer.headers["location"] == f"{project}/agents/{made['id']}/versions/3"
    told = {"version", "updated_at"}
    assert {k: v for k, v in restored.items() if k not in told} == {k: v for k, v in made.items() if k not in told}
    assert restored["version"] == 3
    assert (await service.call("GET", f"{project}/agents/checker")).json() == restored
    assert (await service.call("GET", f"{project}/agents/judge")).status_code == 404
    assert (await service.call("GET", f"{project}/agents/checker/status")).json()["max_concurrency"] == 5


async def test_a_restore_that_is_repeated_happens_once(service: Service, project: str) -> None:
    await service.call("POST", f"{project}/agents/", json=AGENT)
    await service.call("PATCH", f"{project}/agents/checker", json={"system_prompt": "New."})
    headers = {"Idempotency-Key": "k1"}
    restore = f"{project}/agents/checker/versions/1/restore"
    first = await service.call("POST", restore, headers=headers)
    await service.call("PATCH", f"{project}/agents/checker", json={"system_prompt": "Newer."})
    again = await service.call("POST", restore, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert (await service.call("GET", f"{project}/agents/checker")).json()["version"] == 4


@pytest.mark.parametrize("version", ["0", "-1", "1.5", "x", "100000000"])
async def test_a_versions_number_is_a_whole_one_from_1(service: Service, project: str, version: str) -> None:
    for method, path in (("GET", version), ("POST", f"{version}/restore")):
        answer = await service.call(method, f"{project}/agents/coder/versions/{path}")
        assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_a_missing_version_is_404_for_reading_and_restoring(service: Service, project: str) -> None:
    for method, path in (("GET", "9"), ("POST", "9/restore")):
        answer = await service.call(method, f"{project}/agents/coder/versions/{path}")
        assert (answer.status_code, kind(answer)) == (404, "not-found")


async def test_a_version_whose_name_is_taken_by_now_is_not_restored(service: Service, project: str) -> None:
    await service.call("POST", f"{project}/agents/", json=AGENT)
    await service.call("PATCH", f"{project}/agents/checker", json={"name": "judge"})
    await service.call("POST", f"{project}/agents/", json=AGENT)
    answer = await service.call("POST", f"{project}/agents/judge/versions/1/restore")
    assert (answer.status_code, kind(answer)) == (409, "conflict")
    assert (await service.call("GET", f"{project}/agents/judge")).json()["version"] == 2


@pytest.mark.parametrize("lost", [{"tools": ["gone_tool"]}, {"model": "gone:model"}], ids=["tool", "model"])
async def test_a_version_whose_tools_or_model_are_no_longer_served_is_not_restored(
    service: Service, project: str, lost: dict[str, object]
) -> None:
    made = (await service.call("POST", f"{project}/agents/", json=AGENT)).json()
    await service.call("PATCH", f"{project}/agents/checker", json={"system_prompt": "New."})
    # As an earlier release of the deployment stored it.
    tenant, key = TenantContext("alice", "shop"), Key.agent_version(made["id"], 1)
    stored = await service.stack.records.get(tenant, key)
    assert stored is not None
    await service.stack.records.write(tenant, Update(key=key, set={"config": {**stored["config"], **lost}}))
    answer = await service.call("POST", f"{project}/agents/checker/versions/1/restore")
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    assert (await service.call("GET", f"{project}/agents/checker")).json()["version"] == 2


async def test_a_deleted_agents_versions_stay_readable_by_its_id_but_cannot_be_restored(
    service: Service, project: str
) -> None:
    made = (await service.call("POST", f"{project}/agents/", json=AGENT)).json()
    await service.call("DELETE", f"{project}/agents/checker")
    address = f"{project}/agents/{made['id']}/versions"
    assert (await service.call("GET", f"{address}/")).json()["items"] == [made]
    assert (await service.call("GET", f"{address}/1")).json() == made
    assert (await service.call("GET", f"{project}/agents/checker/versions/")).status_code == 404
    assert (await service.call("POST", f"{address}/1/restore")).status_code == 404


async def test_a_running_task_keeps_the_version_it_started_with(service: Service, project: str) -> None:
    await service.call("POST", f"{project}/agents/", json={**AGENT, "tools": ["list_directory"]})
    prompts: list[str] = []

    async def change_it_meanwhile(request: ModelRequest) -> None:
        prompts.append(request.system_prompt)
        if len(prompts) == 1:
            changed = await service.call("PATCH", f"{project}/agents/checker", json={"system_prompt": "You changed."})
            assert changed.status_code == 200

    service.stack.model.before = change_it_meanwhile
    service.stack.model.script = [calls(("list_directory", {})), says("first"), says("second")]
    async with service.worker():
        for said in ("first", "second"):
            message = {"content": "go", "target_agent": "checker"}
            assert (await service.call("POST", f"{project}/chat/", json=message)).json()["content"] == said
    assert ["You check." in prompt for prompt in prompts] == [True, True, False]
    assert "You changed." in prompts[2]
    tasks = (await service.call("GET", f"{project}/tasks/")).json()["items"]
    assert [task["agent_version"] for task in tasks] == [2, 1]


# -- enabled, status, metrics --------------------------------------------------------------------------------


async def test_a_disabled_agent_takes_no_new_messages_until_it_is_enabled(service: Service, project: str) -> None:
    message = {"content": "hi", "target_agent": "coder"}
    session = (await service.call("POST", f"{project}/chat/sessions/", json={})).json()["id"]
    disabled = await service.call("PATCH", f"{project}/agents/coder", json={"enabled": False})
    assert (disabled.status_code, disabled.json()["enabled"]) == (200, False)
    assert (await service.call("GET", f"{project}/agents/coder/status")).json()["status"] == "disabled"
    asynchronous = {"Prefer": "respond-async"}
    refused = await service.call("POST", f"{project}/chat/{session}/message/", json=message, headers=asynchronous)
    assert (refused.status_code, kind(refused)) == (409, "conflict")
    assert "disabled" in refused.json()["detail"]
    assert (await service.call("GET", f"{project}/chat/{session}/messages/")).json()["items"] == []
    await service.call("PATCH", f"{project}/agents/coder", json={"enabled": True})
    async with service.worker():
        answer = await service.call("POST", f"{project}/chat/{session}/message/", json=message)
    assert answer.status_code == 200


async def test_what_a_disabled_agent_was_given_before_it_still_answers(service: Service, project: str) -> None:
    session = (await service.call("POST", f"{project}/chat/sessions/", json={"target_agent": "coder"})).json()["id"]
    sent = [
        await service.call(
            "POST",
            f"{project}/chat/{session}/message/",
            json={"content": f"m{number}"},
            headers={"Prefer": "respond-async"},
        )
        for number in range(2)
    ]
    await service.call("PATCH", f"{project}/agents/coder", json={"enabled": False})
    await service.stack.work(TenantContext("alice", "shop"))
    for each in sent:
        assert (await service.call("GET", each.json()["href"])).json()["state"] == "completed"


@pytest.mark.parametrize("enabled", ["yes", 1, "true"])
async def test_enabled_is_true_or_false(service: Service, project: str, enabled: object) -> None:
    answer = await service.call("PATCH", f"{project}/agents/coder", json={"enabled": enabled})
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_an_agents_status_and_metrics_follow_its_tasks(service: Service, project: str) -> None:
    agent = (await service.call("GET", f"{project}/agents/coder")).json()["id"]
    idle = {
        "agent_id": agent,
        "status": "idle",
        "registered": True,
        "running": 0,
        "parked": 0,
        "waiting": 0,
        "max_concurrency": 3,
    }
    assert (await service.call("GET", f"{project}/agents/coder/status")).json() == idle
    nothing = (await service.call("GET", f"{project}/agents/coder/metrics")).json()
    assert (nothing["tasks_processed"], nothing["in_flight"], nothing["p50_ms"]) == (0, 0, None)
    during: list[dict[str, object]] = []

    async def look(_: ModelRequest) -> None:
        during.append((await service.call("GET", f"{project}/agents/{agent}/status")).json())
        during.append((await service.call("GET", f"{project}/agents/{agent}/metrics")).json())

    service.stack.model.before = look
    service.stack.model.script = [says("done"), ModelError("no")]
    async with service.worker():
        for status in (200, 502):
            answer = await service.call("POST", f"{project}/chat/", json={"content": "x", "target_agent": "coder"})
            assert answer.status_code == status
    assert (during[0]["status"], during[0]["running"], during[1]["in_flight"]) == ("busy", 1, 1)
    assert (await service.call("GET", f"{project}/agents/coder/status")).json() == idle
    metrics = (await service.call("GET", f"{project}/agents/coder/metrics")).json()
    found = {name: metrics[name] for name in ("tasks_processed", "completed", "failed", "canceled", "in_flight")}
    assert found == {"tasks_processed": 2, "completed": 1, "failed": 1, "canceled": 0, "in_flight": 0}
    assert metrics["p50_ms"] >= 1
    assert (await service.call("GET", f"{project}/agents/writer/metrics")).json()["tasks_processed"] == 0


async def test_an_agent_waits_for_approval_where_nothing_of_it_runs(service: Service, project: str) -> None:
    agent = (await service.call("GET", f"{project}/agents/coder")).json()["id"]
    waiting = Update(key=Key.runtime(agent), include={"waiting": frozenset({"task_1"})})
    await service.stack.records.write(TenantContext("alice", "shop"), waiting)
    status = (await service.call("GET", f"{project}/agents/coder/status")).json()
    assert (status["status"], status["waiting"]) == ("waiting_for_approval", 1)
