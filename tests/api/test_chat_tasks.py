"""Chat and tasks over HTTP: an answer, a task to follow, or a problem; never a lost or doubled message."""

import asyncio
import time

import httpx
import pytest

from tests.api.service import Service, kind
from tests.memory_stack import calls, says
from worker_space.errors import ModelError
from worker_space.models import ModelRequest
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio
ASYNC = {"Prefer": "respond-async"}


async def session(service: Service, project: str, **body: object) -> str:
    answer = await service.call("POST", f"{project}/chat/sessions/", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def send(
    service: Service, project: str, session_id: str, content: str = "hello", **more: object
) -> "asyncio.Task[httpx.Response]":
    headers = more.pop("headers", {})
    body = {"content": content, "target_agent": "coder", **more}
    return asyncio.ensure_future(
        service.call("POST", f"{project}/chat/{session_id}/message/", json=body, headers=headers)  # type: ignore[arg-type]
    )


async def test_a_message_is_answered(service: Service, project: str) -> None:
    chat = await session(service, project, title="T")
    async with service.worker():
        answer = await send(service, project, chat, "hello")
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"id", "role", "content", "agent_id", "mode", "session_id", "created_at"}
    assert (body["role"], body["mode"], body["content"], body["session_id"]) == (
        "assistant", "direct", "You said: hello", chat,
    )  # fmt: skip
    messages = (await service.call("GET", f"{project}/chat/{chat}/messages/")).json()
    assert messages["next"] is None
    assert [(m["number"], m["role"], m["content"], m["task_id"]) for m in messages["items"]] == [
        (0, "user", "hello", body["id"]),
        (1, "assistant", "You said: hello", body["id"]),
    ]
    task = (await service.call("GET", f"{project}/tasks/{body['id']}")).json()
    assert (task["state"], task["answer"], task["session_id"]) == ("completed", "You said: hello", chat)
    shown = (await service.call("GET", f"{project}/chat/sessions/{chat}")).json()
    assert (shown["title"], shown["message_count"], shown["open_tasks"]) == ("T", 1, 0)


async def test_who_does_not_want_to_wait_gets_the_tasks_address(service: Service, project: str) -> None:
    chat = await session(service, project)
    answer = await send(service, project, chat, headers=ASYNC)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    body = answer.json()
    assert set(body) == {"task", "href"}
    assert body["href"] == answer.headers["location"] == f"{project}/tasks/{body['task']['id']}"
    assert body["task"]["state"] == "submitted"
    assert (await service.call("GET", body["href"])).json()["answer"] is None
    await service.stack.work(TenantContext("alice", "shop"))
    assert (await service.call("GET", body["href"])).json()["answer"] == "You said: hello"


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=0", "wait=0"),
        ("wait=1", "wait=1"),
        ("respond-async, wait=0", "wait=0"),
        ('foo="bar", WAIT="0"', "wait=0"),
    ],
)
async def test_a_wait_that_runs_out_is_202(service: Service, project: str, prefer: str, applied: str) -> None:
    chat = await session(service, project)
    began = time.monotonic()
    answer = await send(service, project, chat, headers={"Prefer": prefer})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, applied)
    assert time.monotonic() - began < 5


async def test_nobody_waits_longer_than_the_deployment_allows(service: Service, project: str) -> None:
    service.replace(settings=service.services.settings.model_copy(update={"answer_wait_seconds": 0.1}))
    chat = await session(service, project)
    answer = await send(service, project, chat, headers={"Prefer": "wait=600"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0.1")
    answer = await send(service, project, chat)
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_a_run_that_fails_is_502_and_names_its_task(service: Service, project: str) -> None:
    chat = await session(service, project)
    service.stack.model.script = [ModelError("the model refuses")]
    async with service.worker():
        answer = await send(service, project, chat)
    assert (answer.status_code, kind(answer)) == (502, "task-failed")
    task = (await service.call("GET", f"{project}/tasks/{answer.json()['task_id']}")).json()
    assert task["state"] == "failed"
    assert task["error"]["message"]


async def test_a_task_canceled_meanwhile_is_409_and_names_its_task(service: Service, project: str) -> None:
    chat = await session(service, project)
    waiting = send(service, project, chat)
    tasks: list[dict[str, object]] = []
    while not tasks:
        await asyncio.sleep(0.01)
        tasks = (await service.call("GET", f"{project}/tasks/")).json()["items"]
    canceled = await service.call("POST", f"{project}/tasks/{tasks[0]['id']}/cancel")
    assert (canceled.status_code, canceled.json()["state"]) == (200, "canceled")
    answer = await waiting
    assert (answer.status_code, kind(answer)) == (409, "task-canceled")
    assert answer.json()["task_id"] == tasks[0]["id"]
    again = await service.call("POST", f"{project}/tasks/{tasks[0]['id']}/cancel")
    assert (again.status_code, kind(again)) == (409, "conflict")


async def test_a_running_task_is_asked_to_stop(service: Service, project: str) -> None:
    chat = await session(service, project)
    running, go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: ModelRequest) -> None:
        running.set()
        await go_on.wait()

    service.stack.model.before = hold
    service.stack.model.script = [calls(("list_directory", {})), says("never said")]
    async with service.worker():
        waiting = send(service, project, chat)
        await running.wait()
        task = (await service.call("GET", f"{project}/tasks/", params={"state": "working"})).json()["items"][0]
        answer = await service.call("POST", f"{project}/tasks/{task['id']}/cancel")
        assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)
        go_on.set()
        assert kind(await waiting) == "task-canceled"


async def test_a_first_message_opens_its_session(service: Service, project: str) -> None:
    async with service.worker():
        first = await service.call(
            "POST", f"{project}/chat/", json={"content": "\n Hello there\nmore", "target_agent": "coder"}
        )
        assert first.status_code == 200
        chat = first.json()["session_id"]
        # The session's own agent answers what names none.
        second = await service.call("POST", f"{project}/chat/{chat}/message/", json={"content": "and now"})
    assert (second.status_code, second.json()["agent_id"]) == (200, first.json()["agent_id"])
    shown = (await service.call("GET", f"{project}/chat/sessions/{chat}")).json()
    assert (shown["title"], shown["target_agent"], shown["message_count"]) == ("Hello there", "coder", 2)


async def test_a_first_message_that_cannot_be_sent_leaves_no_session(service: Service, project: str) -> None:
    no_agent = await service.call("POST", f"{project}/chat/", json={"content": "x", "target_agent": "nobody"})
    assert (no_agent.status_code, kind(no_agent)) == (404, "not-found")
    assert (await service.call("GET", f"{project}/chat/sessions/")).json()["items"] == []


async def test_a_repeated_message_is_one_task(service: Service, project: str) -> None:
    chat = await session(service, project)
    headers = {"Idempotency-Key": "k1", **ASYNC}
    first = await send(service, project, chat, headers=headers)
    again = await send(service, project, chat, headers=headers)
    assert first.json()["task"]["id"] == again.json()["task"]["id"]
    async with service.worker():
        answered = await send(service, project, chat, headers={"Idempotency-Key": "k1"})
    assert (answered.status_code, answered.json()["id"]) == (200, first.json()["task"]["id"])
    other = await send(service, project, chat, "something else", headers=headers)
    assert (other.status_code, kind(other)) == (409, "conflict")
    elsewhere = await send(service, project, await session(service, project), headers=headers)
    assert elsewhere.json()["task"]["id"] != first.json()["task"]["id"]


async def test_a_repeated_first_message_is_one_session_and_one_task(service: Service, project: str) -> None:
    body = {"content": "hello", "target_agent": "coder"}
    headers = {"Idempotency-Key": "k1", **ASYNC}
    first = await service.call("POST", f"{project}/chat/", json=body, headers=headers)
    again = await service.call("POST", f"{project}/chat/", json=body, headers=headers)
    assert first.status_code == again.status_code == 202
    assert first.json()["task"]["id"] == again.json()["task"]["id"]
    assert len((await service.call("GET", f"{project}/chat/sessions/")).json()["items"]) == 1
    assert len((await service.call("GET", f"{project}/tasks/")).json()["items"]) == 1


async def test_a_repeated_request_makes_one_session(service: Service, project: str) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await service.call("POST", f"{project}/chat/sessions/", json={}, headers=headers)
    again = await service.call("POST", f"{project}/chat/sessions/", json={}, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())


@pytest.mark.parametrize("content", ["", "  \n", "a\x00b", None, 7])
async def test_a_message_without_text_is_422(service: Service, project: str, content: object) -> None:
    chat = await session(service, project)
    answer = await service.call(
        "POST", f"{project}/chat/{chat}/message/", json={"content": content, "target_agent": "coder"}
    )
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_a_message_of_a_mebibyte_is_taken_and_more_is_413(service: Service, project: str) -> None:
    chat = await session(service, project)
    assert (await send(service, project, chat, "x" * (1 << 20), headers=ASYNC)).status_code == 202
    for content in ("x" * ((1 << 20) + 1), "\u00e9" * ((1 << 19) + 1)):
        answer = await send(service, project, chat, content, headers=ASYNC)
        assert (answer.status_code, kind(answer)) == (413, "too-large")


async def test_what_is_not_known_is_refused(service: Service, project: str) -> None:
    chat = await session(service, project)
    assert (await send(service, project, chat, on_buzy="reject")).status_code == 422
    assert (await send(service, project, chat, on_busy="panic")).status_code == 422


async def test_a_busy_session_refuses_what_will_not_wait_and_says_what_it_is_answering(
    service: Service, project: str
) -> None:
    chat = await session(service, project)
    first = await send(service, project, chat, headers=ASYNC)
    second = await send(service, project, chat, headers=ASYNC, on_busy="reject")
    assert (second.status_code, kind(second)) == (409, "conflict")
    assert first.json()["task"]["id"] in second.json()["detail"]
    third = await send(service, project, chat, headers=ASYNC, on_busy="interrupt")
    assert third.status_code == 202
    assert (await service.call("GET", first.headers["location"])).json()["state"] == "canceled"


async def test_too_many_waiting_messages_are_429(service: Service, project: str) -> None:
    chat = await session(service, project)
    answers = [await send(service, project, chat, headers=ASYNC) for _ in range(102)]
    assert {answer.status_code for answer in answers[:101]} == {202}
    assert (answers[-1].status_code, kind(answers[-1])) == (429, "limit-reached")
    assert int(answers[-1].headers["retry-after"]) >= 1


async def test_sessions_are_listed_newest_first_and_deleted(service: Service, project: str) -> None:
    chats = [await session(service, project) for _ in range(3)]
    await asyncio.sleep(0.002)
    chats.append(await session(service, project))
    first = (await service.call("GET", f"{project}/chat/sessions/", params={"limit": 2})).json()
    rest = (await service.call("GET", f"{project}/chat/sessions/", params={"limit": 2, "cursor": first["next"]})).json()
    listed = [item["id"] for item in first["items"] + rest["items"]]
    assert listed == sorted(chats, reverse=True)
    assert (await service.call("DELETE", f"{project}/chat/sessions/{chats[0]}")).status_code == 204
    assert (await service.call("GET", f"{project}/chat/sessions/{chats[0]}")).status_code == 404
    assert (await service.call("GET", f"{project}/chat/{chats[0]}/messages/")).status_code == 404
    assert (await send(service, project, chats[0])).status_code == 404


async def test_a_session_for_an_agent_that_is_not_there_is_404(service: Service, project: str) -> None:
    answer = await service.call("POST", f"{project}/chat/sessions/", json={"target_agent": "nobody"})
    assert answer.status_code == 404


async def test_messages_come_in_pages_and_a_page_of_long_ones_ends_early(service: Service, project: str) -> None:
    chat = await session(service, project)
    for number in range(4):
        assert (await send(service, project, chat, f"{number}" * 1_000_000, headers=ASYNC)).status_code == 202
    path = f"{project}/chat/{chat}/messages/"
    seen: list[str] = []
    cursor: str | None = None
    while True:
        answer = await service.call("GET", path, params={"cursor": cursor} if cursor else {})
        assert len(answer.content) < 6_000_000
        seen += [item["content"][0] for item in answer.json()["items"]]
        cursor = answer.json()["next"]
        if cursor is None:
            break
    assert seen == ["0", "1", "2", "3"]


async def test_a_cursor_of_another_session_is_422(service: Service, project: str) -> None:
    chats = [await session(service, project) for _ in range(2)]
    for chat in chats:
        for _ in range(2):
            await send(service, project, chat, headers=ASYNC)
    page = (await service.call("GET", f"{project}/chat/{chats[0]}/messages/", params={"limit": 1})).json()
    answer = await service.call("GET", f"{project}/chat/{chats[1]}/messages/", params={"cursor": page["next"]})
    assert answer.status_code == 422


async def test_tasks_are_listed_newest_first_and_by_state(service: Service, project: str) -> None:
    chats = [await session(service, project) for _ in range(3)]
    ids = []
    for chat in chats:
        ids.append((await send(service, project, chat, headers=ASYNC)).json()["task"]["id"])
        await asyncio.sleep(0.002)
    await service.call("POST", f"{project}/tasks/{ids[1]}/cancel")
    listed = (await service.call("GET", f"{project}/tasks/")).json()["items"]
    assert [task["id"] for task in listed] == ids[::-1]
    canceled = (await service.call("GET", f"{project}/tasks/", params={"state": "canceled"})).json()["items"]
    assert [task["id"] for task in canceled] == [ids[1]]
    assert (await service.call("GET", f"{project}/tasks/", params={"state": "lost"})).status_code == 422


async def test_steps_show_calls_and_paths_and_no_contents(service: Service, project: str) -> None:
    await service.call("PUT", f"{project}/files/main.py", content=b"secret content")
    chat = await session(service, project)
    long = "y" * 5000
    service.stack.model.script = [
        calls(("read_file", {"path": "main.py"}), ("read_file", {"path": "gone.py"})),
        calls(("write_file", {"path": "new.txt", "content": long})),
        says("done"),
    ]
    async with service.worker():
        answer = await send(service, project, chat)
    steps = await service.call("GET", f"{project}/tasks/{answer.json()['id']}/steps/")
    items = steps.json()["items"]
    assert [item["number"] for item in items] == list(range(len(items)))
    assert [item["kind"] for item in items] == ["model", "results", "model", "intent", "results"]
    assert items[0]["tool_calls"][0] == {"name": "read_file", "arguments": {"path": "main.py"}}
    assert items[1]["results"] == [
        {"name": "read_file", "path": "main.py", "is_error": False},
        {"name": "read_file", "path": None, "is_error": True},
    ]
    assert items[4]["results"] == [{"name": "write_file", "path": "new.txt", "is_error": False}]
    assert all(isinstance(item["ms"], int) for item in items if item["kind"] != "intent")
    assert "secret content" not in steps.text
    assert len(steps.text) < 4000


@pytest.mark.parametrize(
    "name", ["nonsense", "task_", "task_" + "A" * 26, "session_" + "0" * 26, "..%2f..", "%00", "é" * 300]
)
async def test_an_id_of_the_wrong_form_is_404(service: Service, project: str, name: str) -> None:
    for method, path in [
        ("GET", f"/tasks/{name}"),
        ("GET", f"/tasks/{name}/steps/"),
        ("POST", f"/tasks/{name}/cancel"),
        ("GET", f"/agents/{name}"),
        ("DELETE", f"/agents/{name}"),
        ("GET", f"/chat/{name.replace('session', 'task')}/messages/"),
        ("GET", f"/chat/sessions/{name.replace('session', 'task')}"),
    ]:
        assert (await service.call(method, project + path)).status_code == 404, path
