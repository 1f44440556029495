"""No endpoint reaches another user's or project's data. A route without a case here fails these tests."""

from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.api.service import application
from tests.isolation.world import SECRET, World, routes
from worker_space.ids import new_id

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, kw_only=True)
class Case:
    """How an operation is tried.

    Attributes:
        own: The status when bob asks in his own project, naming alice's objects.
        names: What a body names: members and the id of alice's that they get.
    """

    own: int
    json: dict[str, Any] | None = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    path: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


ASYNC = {"Prefer": "respond-async"}
CASES: dict[str, list[Case]] = {
    "get_project": [Case(own=200)],
    "update_project": [
        Case(own=200, json={"name": "x"}),
        Case(own=200, json={"policy": {"ask": []}}),
        Case(own=200, json={"limits": {"agents": 5}}),
    ],
    "get_limits": [Case(own=200)],
    "delete_project": [Case(own=204), Case(own=202, params={"erase": "true"})],
    "get_worker_space": [Case(own=200)],
    "cleanup_worker_space": [Case(own=200)],
    "reset_worker_space": [Case(own=200)],
    "export_project": [Case(own=200)],
    "create_agent": [Case(own=201, json={"name": "x", "system_prompt": "x"})],
    "list_agents": [Case(own=200)],
    "get_agent": [Case(own=404), Case(own=404, path={"agent_id": "mine"})],
    "update_agent": [Case(own=404, json={"system_prompt": "x"}), Case(own=404, json={}, path={"agent_id": "mine"})],
    "delete_agent": [Case(own=404), Case(own=404, path={"agent_id": "mine"})],
    "list_agent_versions": [Case(own=404), Case(own=404, path={"agent_id": "mine"})],
    "get_agent_version": [Case(own=404, path={"version": "1"})],
    "restore_agent_version": [Case(own=404, path={"version": "1"})],
    "get_agent_status": [Case(own=404), Case(own=404, path={"agent_id": "mine"})],
    "get_agent_metrics": [Case(own=404), Case(own=404, path={"agent_id": "mine"})],
    "list_context": [
        Case(own=404),
        Case(own=404, path={"agent_id": "mine"}),
        Case(own=200, path={"agent_id": "coder"}),
    ],
    "add_context": [
        Case(own=404, json={"text": "x"}),
        Case(own=404, json={"text": "x"}, headers={"Idempotency-Key": "k"}),
        Case(own=201, json={"text": "x"}, path={"agent_id": "coder"}),
    ],
    "clear_context": [Case(own=404), Case(own=204, path={"agent_id": "coder"})],
    "remove_context": [Case(own=404), Case(own=404, path={"agent_id": "coder"})],
    "create_session": [
        Case(own=201, json={}),
        Case(own=404, json={}, names={"target_agent": "agent_id"}),
        Case(own=404, json={"target_agent": "mine"}),
    ],
    "list_sessions": [Case(own=200)],
    "get_session": [Case(own=404)],
    "delete_session": [Case(own=404)],
    "list_messages": [Case(own=404)],
    "send_message": [Case(own=404, json={"content": "x", "target_agent": "coder"}, headers=ASYNC)],
    "start_chat": [
        Case(own=202, json={"content": "x", "target_agent": "coder"}, headers=ASYNC),
        Case(own=404, json={"content": "x"}, names={"target_agent": "agent_id"}, headers=ASYNC),
    ],
    "stream_events": [Case(own=404), Case(own=404, headers={"Last-Event-ID": "1"})],
    "create_stream_ticket": [Case(own=404)],
    "list_tasks": [Case(own=200), Case(own=200, headers={"X-Nothing": "1"})],
    "get_task": [Case(own=404)],
    "list_steps": [Case(own=404)],
    "cancel_task": [Case(own=404)],
    "create_plan": [
        Case(own=202, json={"goal": "x"}, headers=ASYNC),
        Case(own=404, json={"goal": "x"}, names={"session_id": "session_id"}, headers=ASYNC),
        Case(own=422, json={"goal": "x", "tasks": [{"key": "a", "agent": "mine", "instructions": "x"}]}, headers=ASYNC),
    ],
    "list_plans": [Case(own=200), Case(own=200, params={"state": "proposed"})],
    "get_plan": [Case(own=404)],
    "execute_plan": [Case(own=404), Case(own=404, headers=ASYNC)],
    "cancel_plan": [Case(own=404)],
    "retry_plan_task": [Case(own=404), Case(own=404, headers=ASYNC)],
    "list_approvals": [Case(own=200)],
    "get_approval": [Case(own=404)],
    "confirm_approval": [Case(own=404), Case(own=404, json={"arguments": {"path": "secret.txt"}})],
    "reject_approval": [Case(own=404), Case(own=404, json={"reason": "x"})],
    "list_files": [Case(own=200)],
    "read_file": [Case(own=404), Case(own=404, headers={"Range": "bytes=0-3"})],
    "head_file": [Case(own=404)],
    "write_file": [Case(own=201, content=b"mine"), Case(own=412, content=b"mine", headers={"If-Match": "*"})],
    "delete_file": [Case(own=404), Case(own=412, headers={"If-Match": "*"})],
    "create_upload": [
        Case(own=201, json={"path": "secret.txt", "size": 4}),
        Case(own=412, json={"path": "secret.txt", "size": 4}, headers={"If-Match": "*"}),
    ],
    "create_download": [Case(own=404, json={}, names={"path": "path"})],
    "list_tools": [Case(own=200)],
    "call_tool": [
        Case(own=422, json={"path": "secret.txt"}),
        Case(own=200, json={}, path={"tool_name": "list_directory"}),
        Case(own=200, json={"query": "MARKER"}, path={"tool_name": "search_files"}),
        Case(own=200, json={"pattern": "*"}, path={"tool_name": "find_files"}),
        Case(own=200, json={"path": "secret.txt", "content": "x"}, path={"tool_name": "write_file"}),
        Case(own=422, json={"path": "secret.txt", "old_text": "M", "new_text": "x"}, path={"tool_name": "edit_file"}),
        Case(own=422, json={"path": "secret.txt"}, path={"tool_name": "delete_file"}),
        Case(own=422, json={"path": "secret.txt", "new_path": "x"}, path={"tool_name": "move_file"}),
        Case(own=404, json={"query": "tea"}, names={"agent_id": "agent_id"}, path={"tool_name": "search_context"}),
        Case(own=404, json={"text": "x"}, names={"agent_id": "agent_id"}, path={"tool_name": "remember"}),
        Case(own=200, json={"query": "tea", "agent_id": "coder"}, path={"tool_name": "search_context"}),
        Case(own=422, json={"path": "../alice/secret.txt"}, path={"tool_name": "read_file"}),
    ],
}
# Not under a project; they have tests of their own below.
ELSEWHERE = {"create_project", "import_project", "list_projects", "list_erasures", "get_erasure", "health", "ready"}

TABLE = [(method, path, operation) for method, path, operation in routes(application()) if operation is not None]
UNDER_A_PROJECT = [
    pytest.param(method, path, case, id=f"{operation}-{number}")
    for method, path, operation in TABLE
    if operation not in ELSEWHERE
    # A route without a case is tried, too, and fails as one that nobody has thought about.
    for number, case in enumerate(CASES.get(operation, [Case(own=-1)]))
]


def test_every_route_has_a_case() -> None:
    assert {operation for _, _, operation in TABLE} == set(CASES) | ELSEWHERE


def test_what_has_no_operation_id_holds_nobodys_data() -> None:
    hidden = {path for _, path, operation in routes(application()) if operation is None}
    assert hidden == {"/openapi.json", "/my/chat/{rest:path}", "/my/agents/{rest:path}"}


def test_every_operation_but_those_without_a_user_is_under_my_projects() -> None:
    mine = ("/my/projects/", "/my/erasures/")
    outside = {operation for _, path, operation in TABLE if not path.startswith(mine)}
    assert outside == {"health", "ready"}


async def ask(
    world: World, method: str, path: str, case: Case, *, user: str | None, project: str, ids: dict[str, str]
) -> httpx.Response:
    for name, value in {"project_id": project, **ids, **case.path}.items():
        path = path.replace(f"{{{name}:path}}", value).replace(f"{{{name}}}", value)
    assert "{" not in path
    json = None if case.json is None else {**case.json, **{name: ids[what] for name, what in case.names.items()}}
    return await world.service.call(
        method, path, user=user, json=json, content=case.content, headers=case.headers, params=case.params
    )


def unknown_ids() -> dict[str, str]:
    """Ids of the right form that nobody has."""
    return {
        "agent_id": new_id("agent"),
        "session_id": new_id("session"),
        "task_id": new_id("task"),
        "entry_id": new_id("task"),
        "approval_id": new_id("approval"),
        "plan_id": new_id("plan"),
        "key": "the_part",
        "path": "nothing.txt",
        "tool_name": "read_file",
    }


def shape(answer: httpx.Response, *sent: str) -> tuple[object, ...]:
    """An answer without what the caller sent and what differs from request to request."""
    text = answer.text
    for value in sorted(sent, key=len, reverse=True):
        text = text.replace(value, "…")
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "content-length"}}
    return answer.status_code, text, headers


@pytest.mark.parametrize(("method", "path", "case"), UNDER_A_PROJECT)
async def test_without_a_token_everything_is_401(world: World, method: str, path: str, case: Case) -> None:
    before = world.stored("alice")
    answer = await ask(world, method, path, case, user=None, project="private", ids=world.ids)
    assert answer.status_code == 401
    assert SECRET not in answer.text
    assert world.owners == set()
    assert world.stored("alice") == before


@pytest.mark.parametrize(("method", "path", "case"), UNDER_A_PROJECT)
async def test_anothers_project_and_a_missing_one_look_the_same(
    world: World, method: str, path: str, case: Case
) -> None:
    before = world.stored("alice")
    foreign = await ask(world, method, path, case, user="bob", project="private", ids=world.ids)
    missing = await ask(world, method, path, case, user="bob", project="nobodys", ids=world.ids)
    assert foreign.status_code == 404
    assert shape(foreign, "private") == shape(missing, "nobodys")
    assert SECRET not in foreign.text
    assert {owner.partition("/")[0] for owner in world.owners} <= {"bob"}
    assert world.stored("alice") == before
    assert world.stored("bob").count("private") == world.stored("bob").count("nobodys") == 0


@pytest.mark.parametrize(("method", "path", "case"), UNDER_A_PROJECT)
async def test_anothers_objects_are_not_reached_from_ones_own_project_of_the_same_name(
    world: World, method: str, path: str, case: Case
) -> None:
    before = world.stored("alice")
    answer = await ask(world, method, path, case, user="bob", project="shop", ids=world.ids)
    assert answer.status_code == case.own, answer.text
    assert SECRET not in answer.text
    assert {owner.partition("/")[0] for owner in world.owners} == {"bob"}
    assert world.stored("alice") == before
    if case.own == 404:
        nobodys = unknown_ids()
        unknown = await ask(world, method, path, case, user="bob", project="shop", ids=nobodys)
        assert shape(answer, *world.ids.values()) == shape(unknown, *nobodys.values())


@pytest.mark.parametrize(("method", "path", "case"), UNDER_A_PROJECT)
async def test_ones_own_other_project_is_another_world_too(world: World, method: str, path: str, case: Case) -> None:
    answer = await ask(world, method, path, case, user="alice", project="empty", ids=world.ids)
    assert answer.status_code == case.own, answer.text
    assert SECRET not in answer.text
    assert world.owners <= {"alice/empty", "alice/*"}


@pytest.mark.parametrize(("method", "path", "case"), UNDER_A_PROJECT)
async def test_a_deleted_project_is_a_missing_one(world: World, method: str, path: str, case: Case) -> None:
    await world.service.call("DELETE", "/my/projects/private/")
    answer = await ask(world, method, path, case, user="alice", project="private", ids=world.ids)
    missing = await ask(world, method, path, case, user="alice", project="nobodys", ids=world.ids)
    assert answer.status_code == 404
    assert shape(answer, "private") == shape(missing, "nobodys")


@pytest.mark.parametrize(("method", "path", "case"), UNDER_A_PROJECT)
async def test_a_project_id_that_none_can_have_is_404(world: World, method: str, path: str, case: Case) -> None:
    for project in ("x" * 256, "a%00b", "a%0Ab", "%EF%BF%BD%01"):
        answer = await ask(world, method, path, case, user="bob", project=project, ids=world.ids)
        assert answer.status_code == 404, project
    assert world.owners <= {"bob/*"}


# -- beside the projects


async def test_a_list_of_projects_is_the_callers_own(world: World) -> None:
    answer = await world.service.call("GET", "/my/projects/", user="bob")
    assert [item["id"] for item in answer.json()["items"]] == ["shop"]
    assert SECRET not in answer.text
    assert world.owners == {"bob/*"}


async def test_receipts_of_erasures_are_the_callers_own(world: World) -> None:
    hers = await world.service.call("DELETE", "/my/projects/private/", params={"erase": "true"})
    assert hers.status_code == 202
    world.owners.clear()
    address = hers.headers["location"]
    his = await world.service.call("GET", address, user="bob")
    nobodys = await world.service.call("GET", f"/my/erasures/{new_id('erasure')}", user="bob")
    assert his.status_code == nobodys.status_code == 404
    assert shape(his, hers.json()["id"]) == shape(nobodys, nobodys.request.url.path.rpartition("/")[2])
    assert (await world.service.call("GET", "/my/erasures/", user="bob")).json()["items"] == []
    assert world.owners == {"bob/*"}


async def test_an_import_of_anothers_archive_reaches_the_callers_own_alone(world: World) -> None:
    archive = (await world.service.call("GET", "/my/projects/private/export")).content
    before = world.stored("alice")
    world.owners.clear()
    refused = await world.service.call("POST", "/my/projects/import", user=None, content=archive)
    assert refused.status_code == 401
    assert world.owners == set()
    made = await world.service.call("POST", "/my/projects/import?id=private", user="bob", content=archive)
    assert made.status_code == 201, made.text
    assert {owner.partition("/")[0] for owner in world.owners} == {"bob"}
    assert world.stored("alice") == before


async def test_an_import_of_anothers_file_looks_like_one_of_a_missing_one(world: World) -> None:
    archive = (await world.service.call("GET", "/my/projects/private/export")).content
    await world.service.call("PUT", "/my/projects/private/files/a.zip", content=archive)
    await world.service.call("PUT", "/my/projects/shop/files/a.zip", content=archive)
    before = world.stored("alice")
    world.owners.clear()
    answers = [
        await world.service.call("POST", f"/my/projects/import?id=x&from_project={project}&path=a.zip", user="bob")
        for project in ("private", "nobodys", "shop")
    ]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert shape(answers[0], "private") == shape(answers[1], "nobodys")
    assert {owner.partition("/")[0] for owner in world.owners} == {"bob"}
    assert world.stored("alice") == before
    assert (await world.service.call("GET", "/my/projects/x/", user="bob")).status_code == 404


async def test_an_idempotency_key_is_its_users_own(world: World) -> None:
    headers = {"Idempotency-Key": "k1"}
    hers = await world.service.call("POST", "/my/projects/", json={"name": SECRET}, headers=headers)
    his = await world.service.call("POST", "/my/projects/", user="bob", json={"name": SECRET}, headers=headers)
    assert hers.status_code == his.status_code == 201
    assert hers.json()["id"] != his.json()["id"]


async def test_a_cursor_of_anothers_list_shows_ones_own_at_most(world: World) -> None:
    hers = await world.service.call("GET", "/my/projects/private/agents/", params={"limit": 1})
    cursor = hers.json()["next"]
    his = await world.service.call("GET", "/my/projects/shop/agents/", user="bob", params={"cursor": cursor})
    assert SECRET not in his.text
    assert "mine" not in {item["name"] for item in his.json()["items"]}


@pytest.mark.parametrize(
    ("user", "project"),
    [("alice_project", "private"), ("Alice", "private"), ("alice ", "private"), ("ALICE", "shop")],
)
async def test_users_who_look_alike_are_strangers(world: World, user: str, project: str) -> None:
    answer = await world.service.call("GET", f"/my/projects/{project}/agents/mine", user=user)
    assert answer.status_code == 404
    assert SECRET not in answer.text


async def test_health_and_readiness_tell_of_nobody(world: World) -> None:
    for path in ("/health", "/ready", "/openapi.json"):
        answer = await world.service.call("GET", path, user=None)
        assert answer.status_code == 200
        assert SECRET not in answer.text
    assert world.owners == set()
