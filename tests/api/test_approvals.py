"""Approvals over HTTP: listed, looked at, confirmed with or without other arguments, rejected with a reason."""

import asyncio

import httpx
import pytest

from tests.api.service import Service, kind
from tests.memory_stack import calls, says
from worker_space.ids import new_id
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


async def ask(service: Service, project: str, path: str = "a.txt") -> httpx.Response:
    """A message whose run wants to delete a file; answered as soon as the run waits for the user's word."""
    assert (await service.call("PUT", f"{project}/files/{path}", content=b"x")).status_code in {200, 201}
    service.stack.model.script = [calls(("delete_file", {"path": path})), says("done")]
    async with service.worker():
        return await service.call("POST", f"{project}/chat/", json={"content": "clean up", "target_agent": "coder"})


async def asked(service: Service, project: str, path: str = "a.txt") -> str:
    answer = await ask(service, project, path)
    return str(answer.json()["task"]["approval_id"])


async def there(service: Service, project: str, path: str) -> bool:
    return (await service.call("HEAD", f"{project}/files/{path}")).status_code == 200


async def test_a_message_whose_run_needs_the_users_word_is_202_with_what_it_waits_for(
    service: Service, project: str
) -> None:
    async with asyncio.timeout(10):
        answer = await ask(service, project)
    assert answer.status_code == 202
    task = answer.json()["task"]
    assert task["state"] == "input-required"
    shown = (await service.call("GET", f"{project}/approvals/{task['approval_id']}")).json()
    assert shown == {
        "id": task["approval_id"],
        "kind": "tool",
        "state": "pending",
        "task_id": task["id"],
        "session_id": task["session_id"],
        "agent_id": task["agent_id"],
        "agent_version": 1,
        "tool": "delete_file",
        "risk": "deleting",
        "arguments": {"path": "a.txt"},
        "edited_arguments": None,
        "truncated": False,
        "reason": None,
        "created_at": shown["created_at"],
        "expires_at": shown["created_at"] + 86_400_000,
        "resolved_at": None,
    }


async def test_confirming_lets_the_run_go_on_and_doing_it_again_changes_nothing(service: Service, project: str) -> None:
    answer = await ask(service, project)
    address = f"{project}/approvals/{answer.json()['task']['approval_id']}"
    confirmed = await service.call("POST", f"{address}/confirm")
    assert (confirmed.status_code, confirmed.json()["state"]) == (200, "confirmed")
    assert await there(service, project, "a.txt")
    await service.stack.work(TENANT)
    assert not await there(service, project, "a.txt")
    assert (await service.call("GET", answer.json()["href"])).json()["answer"] == "done"
    for headers in ({}, {"Idempotency-Key": "k"}, {"Idempotency-Key": "k"}):
        again = await service.call("POST", f"{address}/confirm", json={}, headers=headers)
        assert (again.status_code, again.json()) == (200, confirmed.json())
    other = await service.call("POST", f"{address}/reject")
    assert (other.status_code, kind(other)) == (409, "conflict")
    assert "it is confirmed" in other.json()["detail"]


async def test_confirming_with_other_arguments(service: Service, project: str) -> None:
    approval = await asked(service, project)
    await service.call("PUT", f"{project}/files/b.txt", content=b"x")
    address = f"{project}/approvals/{approval}/confirm"
    for wrong in ({"path": "../b.txt"}, {"paths": ["b.txt"]}, {}):
        refused = await service.call("POST", address, json={"arguments": wrong})
        assert (refused.status_code, kind(refused)) == (422, "tool-refused")
    done = await service.call("POST", address, json={"arguments": {"path": "b.txt"}})
    assert (done.status_code, done.json()["edited_arguments"]) == (200, {"path": "b.txt"})
    await service.stack.work(TENANT)
    assert (await there(service, project, "a.txt"), await there(service, project, "b.txt")) == (True, False)


async def test_rejecting_with_a_reason(service: Service, project: str) -> None:
    answer = await ask(service, project)
    address = f"{project}/approvals/{answer.json()['task']['approval_id']}/reject"
    done = await service.call("POST", address, json={"reason": "I need it"})
    assert (done.status_code, done.json()["state"], done.json()["reason"]) == (200, "rejected", "I need it")
    await service.stack.work(TENANT)
    assert await there(service, project, "a.txt")
    assert (await service.call("GET", answer.json()["href"])).json()["answer"] == "done"


@pytest.mark.parametrize(
    ("verb", "body", "status"),
    [
        ("confirm", {"argument": {}}, 422),
        ("confirm", {"tool": "write_file", "arguments": {"path": "a.txt"}}, 422),
        ("confirm", {"arguments": []}, 422),
        ("confirm", [], 422),
        ("reject", {"reason": "x" * 2001}, 422),
        ("reject", {"reason": 1}, 422),
        ("reject", {"why": "x"}, 422),
    ],
)
async def test_wrong_bodies_are_refused_and_decide_nothing(
    service: Service, project: str, verb: str, body: object, status: int
) -> None:
    approval = await asked(service, project)
    answer = await service.call("POST", f"{project}/approvals/{approval}/{verb}", json=body)
    assert (answer.status_code, kind(answer)) == (status, "invalid-request")
    assert (await service.call("GET", f"{project}/approvals/{approval}")).json()["state"] == "pending"


async def test_half_a_surrogate_pair_is_refused_and_decides_nothing(service: Service, project: str) -> None:
    await service.call("PATCH", f"{project}/", json={"policy": {"ask": ["remember"]}})
    service.stack.model.script = [calls(("remember", {"text": "tea"})), says("done")]
    async with service.worker():
        answer = await service.call("POST", f"{project}/chat/", json={"content": "x", "target_agent": "coder"})
    address = f"{project}/approvals/{answer.json()['task']['approval_id']}"
    refused = await service.call("POST", f"{address}/reject", content=b'{"reason": "\\ud83d"}')
    assert refused.status_code == 422
    refused = await service.call("POST", f"{address}/confirm", content=b'{"arguments": {"text": "coffee \\ud83d"}}')
    assert refused.status_code == 422
    assert (await service.call("GET", address)).json()["state"] == "pending"


async def test_the_list_is_paged_newest_first_and_can_be_asked_for_what_is_pending(
    service: Service, project: str
) -> None:
    ids = [await asked(service, project, f"{number}.txt") for number in range(3)]
    await service.call("POST", f"{project}/approvals/{ids[1]}/reject")
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = (await service.call("GET", f"{project}/approvals/", params=params)).json()
        seen += [item["id"] for item in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == ids[::-1]
    pending = (await service.call("GET", f"{project}/approvals/", params={"state": "pending"})).json()["items"]
    assert [item["id"] for item in pending] == [ids[2], ids[0]]
    wrong = await service.call("GET", f"{project}/approvals/", params={"state": "open"})
    assert wrong.status_code == 422


async def test_what_is_no_approval_is_404(service: Service, project: str) -> None:
    for unknown in (new_id("approval"), "nothing", new_id("task")):
        for method, rest in (("GET", ""), ("POST", "/confirm"), ("POST", "/reject")):
            answer = await service.call(method, f"{project}/approvals/{unknown}{rest}")
            assert (answer.status_code, kind(answer)) == (404, "not-found")


async def test_the_callers_own_hands_need_no_approval(service: Service, project: str) -> None:
    await service.call("PUT", f"{project}/files/a.txt", content=b"x")
    answer = await service.call("POST", f"{project}/tools/delete_file", json={"path": "a.txt"})
    assert answer.status_code == 200
    assert not await there(service, project, "a.txt")


async def test_a_policy_that_asks_for_nothing_lets_agents_delete(service: Service, project: str) -> None:
    await service.call("PATCH", f"{project}/", json={"policy": {"ask": []}})
    answer = await ask(service, project)
    assert (answer.status_code, answer.json()["content"]) == (200, "done")
    assert not await there(service, project, "a.txt")
