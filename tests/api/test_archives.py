"""A project is taken away as one archive, and made again out of it: equal to the one it was."""

import io
import json
import zipfile
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.api.archive_world import bring, export, full, opened, say, until
from tests.api.service import Service, kind
from tests.memory_stack import calls
from worker_space.models import ModelRequest
from worker_space.records import Page
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio
ALICE = TenantContext("alice", "shop")


async def test_an_archive_has_everything_of_a_project(service: Service) -> None:
    await full(service)
    lines = opened(await export(service))
    assert all(lines.values())
    assert lines["manifest.json"][0]["counts"] == {
        name: len(found) for name, found in lines.items() if name.endswith(".jsonl")
    }
    assert lines["project.json"][0]["name"] == "The shop"
    assert {agent["config"]["name"] for agent in lines["agents.jsonl"]} == {"coder", "analyst", "writer", "checker"}
    assert len(lines["agent_versions.jsonl"]) == 6
    statuses = [line["status"] for line in lines["messages.jsonl"] if line["role"] == "assistant"]
    assert statuses == ["ok", "ok", "failed", "ok", "ok", "ok"]
    assert max(len(line.get("output", "")) for line in lines["tasks.jsonl"]) == 40_000
    assert max(len(line["content"]) for line in lines["messages.jsonl"]) > 40_000
    assert {line["state"] for line in lines["tasks.jsonl"]} == {"completed", "failed"}
    assert {(line["path"], line["size"]) for line in lines["files.jsonl"]} == {
        ("b.txt", 4),
        ("c.txt", 40_000),
        ("notes/a.txt", 5),
    }


async def test_a_project_made_out_of_an_archive_equals_the_one_it_was_exported_from(service: Service) -> None:
    await full(service)
    before = await export(service)
    made = await bring(service, before)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/my/projects/copy/"
    body = made.json()
    assert (body["id"], body["name"], body["limits"]) == ("copy", "The shop", {"agents": 7})
    assert body["policy"]["ask"] == ["delete_file"]
    assert body["imported"]["messages"] == len(opened(before)["messages.jsonl"]) == 12
    for path, content in (("notes/a.txt", b"alpha"), ("b.txt", b"beta"), ("c.txt", b"x" * 40_000)):
        await service.call("PUT", f"/my/projects/copy/files/{path}", content=content)
    after = opened(await export(service, "copy"))
    assert after == opened(before)


def _sorted(answer: Any) -> Any:
    """Memories have no order of their own."""
    return sorted(answer["items"], key=json.dumps) if "items" in answer else answer


async def test_an_imported_project_looks_the_same_over_the_api(service: Service) -> None:
    await full(service)
    await bring(service, await export(service))
    lists = [
        "agents/",
        "chat/sessions/",
        "tasks/",
        "approvals/",
        "plans/",
        "agents/checker/versions/",
        "agents/writer/context",
    ]
    task, *_ = (await service.call("GET", "/my/projects/shop/tasks/")).json()["items"]
    sessions = (await service.call("GET", "/my/projects/shop/chat/sessions/")).json()["items"]
    lists += [f"chat/{session['id']}/messages/" for session in sessions]
    lists += [f"tasks/{task['id']}", f"tasks/{task['id']}/steps/", "agents/coder/metrics", "agents/writer/metrics"]
    for address in lists:
        hers = await service.call("GET", f"/my/projects/shop/{address}")
        copied = await service.call("GET", f"/my/projects/copy/{address}")
        assert (hers.status_code, copied.status_code) == (200, 200), address
        assert _sorted(copied.json()) == _sorted(hers.json()), address
    found = await service.call("GET", "/my/projects/copy/agents/writer/context?query=sky")
    assert [entry["text"] for entry in found.json()["items"]] == ["The sky is blue."]


async def test_an_imported_project_goes_on_where_it_was(service: Service) -> None:
    project = await full(service)
    await bring(service, await export(service))
    session = (await service.call("GET", f"{project}/approvals/")).json()["items"][0]["session_id"]
    service.stack.model.requests.clear()
    async with service.worker(project_id="copy"):
        answer = await say(service, f"/my/projects/copy/chat/{session}/message/", "and now?")
    assert (answer.status_code, answer.json()["content"]) == (200, "You said: and now?")
    assert [turn.content for turn in service.stack.model.requests[-1].turns][-3:] == [
        "delete b.txt",
        "as you say",
        "and now?",
    ]
    events = opened(await export(service, "copy"))["events.jsonl"]
    numbers = [event["seq"] for event in events if event["session_id"] == session]
    assert numbers == list(range(1, len(numbers) + 1))
    # The original heard nothing of it.
    assert len((await service.call("GET", f"{project}/chat/{session}/messages/")).json()["items"]) == 8


async def test_an_archive_names_no_tenant_and_no_place(service: Service) -> None:
    user = "user-of-secret-name"
    await full(service, user)
    data = await export(service, user=user)
    text = "".join(
        zipfile.ZipFile(io.BytesIO(data)).read(name).decode() for name in zipfile.ZipFile(io.BytesIO(data)).namelist()
    )
    for inside in (
        user,
        "_content",
        "content_key",
        '"sk"',
        "epoch",
        "dispatch",
        "ticket",
        "message_id",
        "http:",
        "generation",
    ):
        assert inside not in text, inside


async def test_an_archive_has_nothing_of_a_model_providers_own(service: Service) -> None:
    await full(service)
    bodies = [json.loads(line["body"]) for line in opened(await export(service))["steps.jsonl"]]
    assert {body["reply"]["provider"] for body in bodies if "reply" in body} == {""}


async def test_every_attribute_of_a_stored_item_is_exported_or_internal(service: Service) -> None:
    """An attribute that somebody adds must be put into the archive, or here, or an import would lose it."""
    await full(service)
    internal = {
        "sk", "user_id", "project_id", "epoch", "dispatch", "ticket", "message_id", "next", "due_shard", "due_at",
        "content_key", "decision", "context_generation", "approval_id", "last_event", "plan_tasks", "draft",
    }  # fmt: skip
    lines = opened(await export(service))
    kinds = {
        "HOME#AGENT": "agents.jsonl", "AGENTVERSION": "agent_versions.jsonl", "SESSION": "sessions.jsonl",
        "MESSAGE": "messages.jsonl", "TASK": "tasks.jsonl", "STEP": "steps.jsonl", "APPROVAL": "approvals.jsonl",
        "EVENT": "events.jsonl",
    }  # fmt: skip
    kept_under = {"steps.jsonl": "body", "approvals.jsonl": "arguments", "tasks.jsonl": "output"}
    for item in (await service.stack.records.query(ALICE, Key.everything())).items:
        name = next((name for prefix, name in kinds.items() if item["sk"].startswith(f"{prefix}#")), None)
        if name is None:
            continue
        exported = {member for line in lines[name] for member in line}
        attributes = {kept_under.get(name, each) if each == "content" else each for each in item}
        assert attributes - exported <= internal, item["sk"]


async def test_an_imported_plan_can_be_carried_out_and_an_ended_one_cannot_be_begun_again(service: Service) -> None:
    project = await full(service)
    await bring(service, await export(service))
    plans = {plan["state"]: plan["id"] for plan in (await service.call("GET", f"{project}/plans/")).json()["items"]}
    async with service.worker(project_id="copy"):
        address = "/my/projects/copy/plans"
        ended = await service.call("POST", f"{address}/{plans['completed']}/execute")
        assert (ended.status_code, kind(ended)) == (409, "conflict")
        begun = await service.call("POST", f"{address}/{plans['proposed']}/execute")
        assert begun.is_success, begun.text
        await until(service, f"{address}/{plans['proposed']}", "completed")


async def test_the_largest_limits_that_an_owner_can_set_are_taken_along(service: Service) -> None:
    project = await service.project()
    limits = {"file_bytes": 10**15, "cost_per_day": 10**15}
    assert (await service.call("PATCH", f"{project}/", json={"limits": limits})).status_code == 200
    made = await bring(service, await export(service))
    assert (made.status_code, made.json()["limits"]) == (201, limits)


# -- what is open --------------------------------------------------------------------------------------------


async def test_what_had_not_ended_is_imported_as_canceled_and_says_so(service: Service) -> None:
    project = await service.project()
    session = (await service.call("POST", f"{project}/chat/sessions/", json={"target_agent": "coder"})).json()["id"]
    for content in ("one", "two"):
        body = {"content": content}
        await service.call("POST", f"{project}/chat/{session}/message/", json=body, headers={"Prefer": "respond-async"})
    data = await export(service)
    assert {line["state"] for line in opened(data)["tasks.jsonl"]} == {"submitted"}
    assert (await bring(service, data)).status_code == 201
    tasks = (await service.call("GET", "/my/projects/copy/tasks/")).json()["items"]
    assert [task["state"] for task in tasks] == ["canceled", "canceled"]
    messages = (await service.call("GET", f"/my/projects/copy/chat/{session}/messages/")).json()["items"]
    assert [(message["number"], message["status"]) for message in messages] == [
        (0, "ok"),
        (1, "canceled"),
        (2, "ok"),
        (3, "canceled"),
    ]
    assert "exported" in messages[1]["content"]
    events = opened(await export(service, "copy"))["events.jsonl"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events[-2:]] == ["message_created", "task_canceled"]
    # Nothing of it runs, and the session takes new messages.
    await service.stack.work(TenantContext("alice", "copy"))
    assert service.stack.model.requests == []
    async with service.worker(project_id="copy"):
        assert (await say(service, f"/my/projects/copy/chat/{session}/message/", "three")).status_code == 200
    # From now on it is the same whenever it is exported and imported.
    again = opened(await export(service, "copy"))
    await bring(service, await export(service, "copy"), "?id=third")
    assert opened(await export(service, "third")) == again


async def test_an_export_while_a_task_runs_has_no_half_of_it(service: Service) -> None:
    await service.project()
    taken: list[bytes] = []

    async def take(_: ModelRequest) -> None:
        taken.append(await export(service))

    service.stack.model.before = take
    async with service.worker():
        assert (await say(service, "/my/projects/shop/chat/", "hello")).status_code == 200
    (data,) = taken
    assert [line["state"] for line in opened(data)["tasks.jsonl"]] == ["working"]
    made = await bring(service, data)
    assert made.status_code == 201, made.text


async def test_an_export_while_agents_change_can_be_imported(service: Service) -> None:
    await service.project()

    class Changing:
        def __getattr__(self, name: str) -> Any:
            return getattr(service.stack.records, name)

        async def query(self, tenant: TenantContext, prefix: Key, **page: Any) -> Page:
            if prefix == Key.all_agent_versions():
                await service.call("PATCH", "/my/projects/shop/agents/coder", json={"max_concurrency": 5})
                late = {"name": "late", "system_prompt": "You are late."}
                await service.call("POST", "/my/projects/shop/agents/", json=late)
            return await service.stack.records.query(tenant, prefix, **page)

    service.replace(exporter=service.stack.compose(records=Changing()).services.exporter)
    made = await bring(service, await export(service))
    assert made.status_code == 201, made.text
    coder = (await service.call("GET", "/my/projects/copy/agents/coder")).json()
    assert (coder["version"], coder["max_concurrency"]) == (1, 3)


async def test_a_pending_approval_is_imported_as_canceled(service: Service) -> None:
    await service.project()
    service.stack.model.script = [calls(("delete_file", {"path": "b.txt"}))]
    await service.call("PUT", "/my/projects/shop/files/b.txt", content=b"beta")
    async with service.worker():
        assert (await say(service, "/my/projects/shop/chat/", "delete")).status_code == 202
    assert (await bring(service, await export(service))).status_code == 201
    (approval,) = (await service.call("GET", "/my/projects/copy/approvals/")).json()["items"]
    assert approval["state"] == "canceled"
    answer = await service.call("POST", f"/my/projects/copy/approvals/{approval['id']}/confirm", json={})
    assert answer.status_code == 409
    assert (await service.call("GET", "/my/projects/copy/agents/coder/status")).json()["waiting"] == 0


# -- ids, names, repeats -------------------------------------------------------------------------------------


async def test_an_import_without_an_id_gets_one_and_a_taken_one_is_409(service: Service) -> None:
    await service.project()
    data = await export(service)
    made = await bring(service, data, "?name=Another")
    assert (made.status_code, made.json()["name"]) == (201, "Another")
    assert made.json()["id"] not in {"shop", "copy"}
    taken = await bring(service, data, "?id=shop")
    assert (taken.status_code, kind(taken)) == (409, "conflict")


@pytest.mark.parametrize("query", ["?id=../x", "?id=", "?id=" + "x" * 65, "?name=", "?name=" + "x" * 129, "?ids=copy"])
async def test_a_bad_id_or_name_or_an_unknown_parameter_is_422(service: Service, query: str) -> None:
    await service.project()
    answer = await bring(service, await export(service), query)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_an_import_that_is_repeated_makes_one_project(service: Service) -> None:
    await service.project()
    data = await export(service)
    key = {"Idempotency-Key": "k1"}
    first = await bring(service, data, "", **key)
    again = await bring(service, data, "", **key)
    assert (again.status_code, again.json()) == (201, first.json())
    other = await bring(service, data, "?name=Other", **key)
    assert (other.status_code, kind(other)) == (409, "conflict")
    assert len((await service.call("GET", "/my/projects/")).json()["items"]) == 2
    his = await bring(service, data, "", user="bob", **key)
    assert his.status_code == 201
    assert his.json()["id"] != first.json()["id"]


async def test_an_archive_of_one_user_makes_a_project_of_another_and_touches_nothing_of_theirs(
    service: Service,
) -> None:
    await full(service)
    data = await export(service)
    before = repr(service.stack.records._partitions["T#useralice_projectshop#"])  # type: ignore[attr-defined]
    made = await bring(service, data, "?id=shop", user="bob")
    assert made.status_code == 201
    task = (await service.call("GET", "/my/projects/shop/tasks/", user="bob")).json()["items"][0]["id"]
    session = (await service.call("GET", f"/my/projects/shop/tasks/{task}", user="bob")).json()["session_id"]
    assert (await service.call("DELETE", f"/my/projects/shop/chat/sessions/{session}", user="bob")).status_code == 204
    assert (await service.call("DELETE", "/my/projects/shop/", user="bob")).status_code == 204
    assert repr(service.stack.records._partitions["T#useralice_projectshop#"]) == before  # type: ignore[attr-defined]
    assert opened(await export(service))["messages.jsonl"] == opened(data)["messages.jsonl"]


async def test_a_deleted_projects_id_can_be_imported_to(service: Service) -> None:
    await full(service)
    data = await export(service)
    await service.call("DELETE", "/my/projects/shop/")
    assert (await bring(service, data, "?id=shop")).status_code == 201
    found = opened(await export(service))
    assert found == opened(data)


@pytest.mark.parametrize(("port", "method"), [("memory", "drop"), ("content", "all_keys"), ("content", "delete")])
async def test_a_project_imported_while_its_forerunner_is_still_being_deleted_keeps_all_it_has(
    service: Service, port: str, method: str
) -> None:
    """A slow deletion is overtaken: the user brings the same project back before the first clearing has come to its
    end. The agents are the same, and so were the places of their texts."""
    await full(service)
    data = await export(service)
    below = getattr(service.stack, port)

    class Overtaken:
        def __init__(self) -> None:
            self.done = False

        def __getattr__(self, name: str) -> Any:
            return getattr(below, name)

        async def _bring(self) -> None:
            if not self.done:
                self.done = True
                assert (await bring(service, data, "?id=shop")).status_code == 201

        async def drop(self, tenant: TenantContext, agent_id: str) -> None:
            await below.drop(tenant, agent_id)
            await self._bring()

        async def all_keys(self, tenant: TenantContext) -> AsyncIterator[str]:
            for key in [key async for key in below.all_keys(tenant)]:
                yield key
            if method == "all_keys":
                await self._bring()

        async def delete(self, tenant: TenantContext, keys: Sequence[str]) -> None:
            if method == "delete":
                await self._bring()
            await below.delete(tenant, keys)

    late = Overtaken()
    await service.stack.compose(**{port: late}).services.projects.delete(ALICE)
    assert late.done
    assert opened(await export(service)) == opened(data)


async def test_a_project_may_have_the_id_import(service: Service) -> None:
    await service.project("import")
    for address in ("/my/projects/import/", "/my/projects/import", "/my/projects/import/export"):
        assert (await service.call("GET", address)).status_code == 200, address
    assert (await service.call("DELETE", "/my/projects/import")).status_code == 204
    assert (await service.call("PUT", "/my/projects/import")).status_code == 405
