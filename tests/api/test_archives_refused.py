"""An archive that is not in order, or an import that fails on its way, makes nothing at all."""

import asyncio
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.api.archive_world import Lines, bring, export, full, opened, packed, say
from tests.api.service import Service, kind
from tests.memory_stack import NAMES, MemoryStack, calls, says, settings
from worker_space.adapters.memory_context import MemoryContext
from worker_space.adapters.memory_files import MemoryContent
from worker_space.errors import Unavailable
from worker_space.records import Update
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def exported() -> bytes:
    """The archive of a full project, made once: these tests import it elsewhere."""
    service = Service()
    await full(service)
    return await export(service)


Change = Callable[[Lines], object]


def _line(lines: Lines, name: str, **changes: Any) -> None:
    lines[name][0].update(changes)


def _config(lines: Lines, **changes: Any) -> None:
    lines["agents.jsonl"][0]["config"].update(changes)


def _same_name(lines: Lines) -> None:
    _config(lines, name=lines["agents.jsonl"][1]["config"]["name"].upper())


def _step(lines: Lines, **changes: Any) -> None:
    step = lines["steps.jsonl"][0]
    step["body"] = json.dumps({**json.loads(step["body"]), **changes})


def _tokens(lines: Lines, tokens: int) -> None:
    step = next(line for line in lines["steps.jsonl"] if line["kind"] == "model")
    body = json.loads(step["body"])
    body["reply"]["usage"]["input_tokens"] = tokens
    step["body"] = json.dumps(body)


def _open(lines: Lines, **changes: Any) -> dict[str, Any]:
    """Have the first message's task not have ended."""
    task: dict[str, Any] = next(line for line in lines["tasks.jsonl"] if line["type"] == "message")
    for name in ("ended_at", "error"):
        task.pop(name, None)
    task.update(state="working", **changes)
    return task


def _open_twice(lines: Lines) -> None:
    lines["tasks.jsonl"].append({**_open(lines), "id": _NO_TASK})


_NO_SESSION = "session_" + "0" * 26
_NO_TASK = "task_" + "0" * 26


BAD: Mapping[str, tuple[Change, str]] = {
    "an unknown tool": (lambda x: _config(x, tools=["rm_rf"]), "agents.jsonl, line 1"),
    "an unknown model": (lambda x: _config(x, model="nobody:x"), "nobody:x"),
    "an unknown member": (lambda x: _line(x, "sessions.jsonl", epoch=9), "sessions.jsonl, line 1"),
    "a missing member": (lambda x: x["tasks.jsonl"][0].pop("session_id"), "tasks.jsonl, line 1"),
    "a path for an id": (lambda x: _line(x, "sessions.jsonl", id="../../x"), "sessions.jsonl, line 1"),
    "a key for an id": (lambda x: _line(x, "tasks.jsonl", id="task_#HOME"), "tasks.jsonl, line 1"),
    "an agent twice": (lambda x: x["agents.jsonl"].append(x["agents.jsonl"][0]), "twice"),
    "an agent without its version": (lambda x: x["agent_versions.jsonl"].clear(), "version 1 of the agent"),
    "an agent's name twice": (_same_name, "named"),
    "a message twice": (lambda x: x["messages.jsonl"].append(x["messages.jsonl"][0]), "twice"),
    "a message of no session": (lambda x: _line(x, "messages.jsonl", session_id=_NO_SESSION), "no such session"),
    "a message beyond its session": (lambda x: _line(x, "messages.jsonl", number=10**6), "number"),
    "an answer with a message's number": (lambda x: _line(x, "messages.jsonl", role="assistant"), "number"),
    "a role of nobody": (lambda x: _line(x, "messages.jsonl", role="system"), "role"),
    "an event left out": (lambda x: x["events.jsonl"].pop(0), "seq"),
    "an unknown event": (lambda x: _line(x, "events.jsonl", type="explosion"), "type"),
    "an event with a huge number": (lambda x: _line(x, "events.jsonl", data={"n": 10**50}), "line 1: data.n: a number"),
    "an event with a tiny number": (lambda x: _line(x, "events.jsonl", data={"n": 1e-200}), "data.n: a number"),
    "a version of 401 digits": (lambda x: _line(x, "agents.jsonl", version=10**400), "agents.jsonl, line 1: version:"),
    "a format of 401 digits": (lambda x: _line(x, "manifest.json", version=10**400), "manifest.json: version:"),
    "a limit of 401 digits": (lambda x: _line(x, "project.json", limits={"agents": 10**400}), "project.json: limits.a"),
    "a negative number of 401 digits": (lambda x: _line(x, "tasks.jsonl", attempt=-(10**400)), "line 1: attempt:"),
    "a plan of a huge version": (lambda x: x["plans.jsonl"][0]["plan"].update(version=10**30), "line 1: plan.version"),
    "a plan of no time": (lambda x: x["plans.jsonl"][0]["plan"].update(created_at=-1), "line 1: plan.created_at"),
    "a step that took for ever": (lambda x: _step(x, ms=10**400), "steps.jsonl, line 1: body: ms"),
    "a step of too many tokens": (lambda x: _tokens(x, 10**30), "body: reply.usage.input_tokens"),
    "a note longer than a note": (lambda x: _line(x, "context.jsonl", text="x" * 8_001), "context.jsonl, line 1: text"),
    "a message longer than one": (lambda x: _line(x, "messages.jsonl", content="ä" * 600_000), "line 1: content"),
    "a message that no user can send": (lambda x: _line(x, "messages.jsonl", content="a\0"), "line 1: content"),
    "a message of no text": (lambda x: _line(x, "messages.jsonl", content=" "), "line 1: content"),
    "an answered task said to be working": (lambda x: _line(x, "tasks.jsonl", state="working"), "messages.jsonl, line"),
    "an event nested deep": (lambda x: _line(x, "events.jsonl", data={"n": json.loads("[" * 60 + "]" * 60)}), "stored"),
    "an event with half a character": (lambda x: _line(x, "events.jsonl", data={"n": "\ud800"}), "stored"),
    "an event that is too large": (lambda x: _line(x, "events.jsonl", data={"n": "x" * 400_000}), "bytes"),
    "a task that failed for no reason": (lambda x: _line(x, "tasks.jsonl", state="failed"), "error"),
    "a task that ended never": (lambda x: x["tasks.jsonl"][0].pop("ended_at"), "ended_at"),
    "an answer to a task that has not ended": (_open, "messages.jsonl"),
    "two tasks that have not ended in one place": (_open_twice, "another task"),
    "a task that has not ended in an answer's place": (lambda x: _open(x, number=1), "even numbers"),
    "a task in no state": (lambda x: _line(x, "tasks.jsonl", state="exploded"), "state"),
    "a step of no task": (lambda x: _line(x, "steps.jsonl", task_id=_NO_TASK), "no such task"),
    "a step that is no JSON": (lambda x: _line(x, "steps.jsonl", body="{"), "JSON"),
    "a step of another shape": (lambda x: _line(x, "steps.jsonl", body='{"reply": 7}'), "body"),
    "an approval of no task": (lambda x: _line(x, "approvals.jsonl", task_id=_NO_TASK), "no such task"),
    "memories of no agent": (lambda x: _line(x, "context.jsonl", agent_id="agent_" + "0" * 26), "no such agent"),
    "a policy of no tool": (lambda x: _line(x, "project.json", policy={"ask": ["rm_rf"]}), "rm_rf"),
    "a limit of nothing": (lambda x: _line(x, "project.json", limits={"fun": 1}), "fun"),
    "a path out of the project": (lambda x: _line(x, "files.jsonl", path="../alice/secret.txt"), "files.jsonl, line 1"),
    "a later format": (lambda x: _line(x, "manifest.json", version=2), "version 2"),
    "another format": (lambda x: _line(x, "manifest.json", format="zip"), "format"),
    "a file of another name": (lambda x: x.update({"../evil.sh": []}), "no part"),
    "more agents than the project may have": (lambda x: _line(x, "project.json", limits={"agents": 1}), "agents"),
}  # fmt: skip


@pytest.mark.parametrize("why", BAD)
async def test_what_is_wrong_in_an_archive_is_said_and_nothing_is_made(
    service: Service, exported: bytes, why: str
) -> None:
    change, said = BAD[why]
    lines = opened(exported)
    change(lines)
    before = repr(service.stack.records._partitions)  # type: ignore[attr-defined]
    answer = await bring(service, packed(lines))
    assert answer.status_code in {422, 429}, answer.text
    assert said in answer.json()["detail"], answer.json()["detail"]
    assert repr(service.stack.records._partitions) == before  # type: ignore[attr-defined]
    assert (await service.call("GET", "/my/projects/copy/")).status_code == 404


def zipped(*entries: tuple[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"x" * 1000, b"PK\x05\x06" + b"\0" * 18, zipped(("a.txt", b"x")), zipped(("manifest.json", b"{}"))],
    ids=["nothing", "two bytes", "garbage", "empty zip", "another zip", "half a zip"],
)
async def test_what_is_no_archive_is_422(service: Service, data: bytes) -> None:
    answer = await bring(service, data)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_a_damaged_or_cut_archive_is_422(service: Service, exported: bytes) -> None:
    data = exported
    middle = len(data) // 2
    damaged = data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 64]) + data[middle + 64 :]
    for wrong in (damaged, data[:middle], data[: len(data) - 30]):
        answer = await bring(service, wrong)
        assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    lines = opened(data)
    lines["messages.jsonl"].pop()
    manifest = {**lines["manifest.json"][0], "exported_at": 1}
    cut = zipped(
        ("manifest.json", json.dumps(manifest).encode()),
        *(
            (name, "".join(json.dumps(line) + "\n" for line in found).encode())
            for name, found in lines.items()
            if name != "manifest.json"
        ),
    )
    answer = await bring(service, cut)
    assert answer.status_code == 422
    assert "cut" in answer.json()["detail"]


async def test_an_archive_that_unpacks_to_too_much_is_422_before_it_is_unpacked(service: Service) -> None:
    await service.project()
    lines = opened(await export(service))
    head = [(name, json.dumps(lines[name][0]).encode()) for name in ("project.json",)]
    manifest = {**lines["manifest.json"][0], "exported_at": 1}
    head.append(("manifest.json", json.dumps(manifest).encode()))
    one_line = zipped(*head, ("agents.jsonl", b" " * (200 << 20)))
    many_lines = zipped(*head, ("agents.jsonl", b"{}\n" * 3_000_000))
    assert max(len(one_line), len(many_lines)) < 1_000_000
    for bomb in (one_line, many_lines):
        answer = await bring(service, bomb)
        assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    valid = {"agent_id": lines["agents.jsonl"][0]["id"], "text": "x" * 8_000, "kind": "note", "created_at": 1}
    lines["context.jsonl"] = [{**valid, "id": f"n{number}"} for number in range(9_000)]
    many_texts = packed(lines)
    assert len(many_texts) < 1_000_000
    answer = await bring(service, many_texts)
    assert (answer.status_code, "unpacks to more" in answer.json()["detail"]) == (422, True)
    big_head = zipped(("project.json", b" " * 10**8), ("manifest.json", json.dumps(manifest).encode()))
    assert (await bring(service, big_head)).status_code == 422


async def test_an_archive_over_5_mib_is_413(service: Service) -> None:
    answer = await bring(service, b"x" * ((5 << 20) + 1))
    assert (answer.status_code, kind(answer)) == (413, "too-large")


async def test_a_project_too_large_for_an_archive_is_413_that_says_what_to_do(service: Service) -> None:
    project = await service.project()
    session = (await service.call("POST", f"{project}/chat/sessions/", json={})).json()["id"]
    async with service.worker():
        for _ in range(36):
            text = "x" * 1_000_000
            assert (await say(service, f"{project}/chat/{session}/message/", text)).status_code == 200
    answer = await service.call("GET", f"{project}/export")
    assert (answer.status_code, kind(answer)) == (413, "too-large")
    assert "delete sessions" in answer.json()["detail"]


async def test_a_project_with_a_text_too_long_for_an_archive_is_413_that_says_what_to_do(service: Service) -> None:
    await service.project()
    # Escaped, as a step is kept, each of these takes six characters.
    service.stack.model.script = [calls(("write_file", {"path": "a.txt", "content": "\x01" * 1_500_000})), says("no")]
    async with service.worker():
        assert (await say(service, "/my/projects/shop/chat/", "write")).status_code == 200
    answer = await service.call("GET", "/my/projects/shop/export")
    assert (answer.status_code, kind(answer)) == (413, "too-large")
    assert "delete the session" in answer.json()["detail"]


# -- failures on the way -------------------------------------------------------------------------------------


class Failing:
    """A store whose method fails at its `at`-th call."""

    def __init__(self, below: Any, method: str, at: int) -> None:
        self._below, self._method, self._left = below, method, at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._below, name)
        if name != self._method:
            return found

        async def failing(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise Unavailable("it", "down")
            return await found(*arguments, **named)

        return failing


@pytest.mark.parametrize(
    ("port", "method", "at"),
    [
        *(("records", "write", at) for at in (1, 2, 3)),
        *(("content", "put", at) for at in (1, 2)),
        *(("memory", "ensure", at) for at in (1, 3)),
        *(("memory", "add", at) for at in (1, 3)),
    ],
)
async def test_an_import_that_fails_leaves_nothing(
    service: Service, exported: bytes, port: str, method: str, at: int
) -> None:
    data = exported
    stack = service.stack
    parts = stack.compose(**{port: Failing(getattr(stack, port), method, at)})
    service.services = parts.services
    answer = await bring(service, data)
    assert (answer.status_code, kind(answer)) == (503, "unavailable")
    copy = TenantContext("alice", "copy")
    left = [
        item for item in (await stack.records.query(copy, Key.everything())).items if item["sk"] != Key.space().sort
    ]
    assert left == []
    assert [key async for key in stack.content.all_keys(copy)] == []
    assert await stack.memory.remains(copy) == 0
    assert (await service.call("GET", "/my/projects/copy/")).status_code == 404
    service.services = stack.parts.services
    again = await bring(service, data)
    assert again.status_code == 201, again.text


async def test_an_import_whose_environment_dies_is_cleared_by_the_sweeper_and_its_late_writes_change_nothing() -> None:
    class Died(BaseException):
        pass

    class Dying(MemoryContext):
        async def ensure(self, tenant: TenantContext, agent_id: str) -> None:
            if tenant.project_id == "copy":
                raise Died
            await super().ensure(tenant, agent_id)

    service = Service()
    await full(service)
    data = await export(service)
    stack = service.stack
    importer = stack.compose(memory=Dying(NAMES)).services.importer
    copy = TenantContext("alice", "copy")
    with pytest.raises(Died):
        await importer.import_project(copy.user, data, project_id="copy")
    half = {item["sk"]: item for item in (await stack.records.query(copy, Key.everything())).items}
    assert len(half) > 20
    # As long as it may still be under way, its place is taken; nobody sees it.
    for address in ("", "export", "agents/", "tasks/", "chat/sessions/"):
        assert (await service.call("GET", f"/my/projects/copy/{address}")).status_code == 404
    assert (await service.call("DELETE", "/my/projects/copy/")).status_code == 404
    refused = await service.call("POST", "/my/projects/", json={"id": "copy", "name": "x"})
    assert (refused.status_code, kind(refused)) == (409, "conflict")
    assert (await stack.parts.sweeper.sweep(seconds=1)).get("settled", 0) == 0
    await stack.records.write(copy, Update(key=Key.space(), set={"due_at": 1}))
    await stack.parts.sweeper.sweep(seconds=1)
    (tombstone,) = (await stack.records.query(copy, Key.everything())).items
    assert tombstone["state"] == "deleted"
    assert tombstone["epoch"] == half[Key.space().sort]["epoch"] + 1
    assert [key async for key in stack.content.all_keys(copy)] == []
    assert (await service.call("POST", "/my/projects/", json={"id": "copy", "name": "x"})).status_code == 201


async def test_what_is_still_building_when_its_place_was_cleared_is_told_so(service: Service) -> None:
    await full(service)
    data = await export(service)
    stack = service.stack
    copy = TenantContext("alice", "copy")

    class Slow(MemoryContent):
        async def put(self, tenant: TenantContext, key: str, text: str) -> None:
            if tenant == copy:
                await stack.records.write(copy, Update(key=Key.space(), set={"due_at": 1}))
                await stack.parts.sweeper.sweep(seconds=1)
            await super().put(tenant, key, text)

    service.services = stack.compose(content=Slow()).services
    answer = await bring(service, data)
    assert (answer.status_code, kind(answer)) == (409, "conflict")
    (tombstone,) = (await stack.records.query(copy, Key.everything())).items
    assert tombstone["state"] == "deleted"


async def test_two_imports_to_one_id_at_once_make_one_project(service: Service) -> None:
    await full(service)
    data = await export(service)
    answers = await asyncio.gather(*(bring(service, data) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert opened(await export(service, "copy"))["messages.jsonl"] == opened(data)["messages.jsonl"]


async def test_a_user_with_as_many_projects_as_they_may_have_imports_none() -> None:
    service = Service(MemoryStack(settings=settings(user_limit_projects=1)))
    await full(service)
    answer = await bring(service, await export(service))
    assert (answer.status_code, kind(answer)) == (429, "limit-reached")
    assert (await service.call("GET", "/my/projects/copy/")).status_code == 404
    copy = TenantContext("alice", "copy")
    assert len((await service.stack.records.query(copy, Key.everything())).items) == 1
