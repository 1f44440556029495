"""Limits as clients see them: what is used, who lowers what, and what is said when one is reached."""

import time
from typing import Any

import httpx
import pytest

from tests.api.service import Service, kind
from tests.memory_stack import MemoryStack, settings
from worker_space.allowances import PROJECT_LIMITS, USER_LIMITS, day_ends, day_of, minute_ends, minute_of
from worker_space.clock import now_ms
from worker_space.records import Update
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")
SHOP = "/my/projects/shop"
ASYNC = {"Prefer": "respond-async"}
AGENT = {"name": "fifth", "system_prompt": "You help."}


async def service(**limits: object) -> Service:
    service = Service(MemoryStack(settings=settings(**limits)))
    await service.project()
    return service


def entry(answer: httpx.Response, name: str, scope: str = "project") -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    (found,) = [each for each in answer.json()["limits"] if (each["name"], each["scope"]) == (name, scope)]
    return dict(found)


async def spend(service: Service, **spent: int) -> None:
    day = Key.usage(f"day{day_of(now_ms())}")
    await service.stack.records.write(TENANT, Update(key=day, set=spent))


async def test_every_limit_is_listed_with_its_use_and_its_source() -> None:
    api = await service(user_limit_projects=3)
    answer = await api.call("GET", f"{SHOP}/limits/")
    listed = [(each["scope"], each["name"]) for each in answer.json()["limits"]]
    assert listed == [*(("project", name) for name in PROJECT_LIMITS), *(("user", name) for name in USER_LIMITS)]
    agents = entry(answer, "agents")
    assert (agents["limit"], agents["used"], agents["until"], agents["source"]) == (100, 4, None, "deployment")
    assert entry(answer, "projects", "user")["used"] == 1
    tokens = entry(answer, "tokens_per_day")
    assert (tokens["limit"], tokens["used"], tokens["reserved"]) == (None, 0, 0)
    assert entry(answer, "tokens_per_day", "user")["used"] is None
    assert tokens["until"] == day_ends(day_of(now_ms()))


async def test_what_is_used_is_counted() -> None:
    api = await service(limit_file_bytes=1_000, limit_tokens_per_day=5_000)
    chat = await api.call("POST", f"{SHOP}/chat/sessions/", json={"target_agent": "coder"})
    before = minute_of(now_ms())
    message = {"content": "hello"}
    await api.call("POST", f"{SHOP}/chat/{chat.json()['id']}/message/", json=message, headers=ASYNC)
    await api.call("PUT", f"{SHOP}/files/a.txt", content=b"x" * 70)
    await spend(api, spent_tokens=300, committed_tokens=800)
    answer = await api.call("GET", f"{SHOP}/limits/")
    used = {name: entry(answer, name)["used"] for name in ("sessions", "open_tasks", "file_bytes", "tokens_per_day")}
    assert used == {"sessions": 1, "open_tasks": 1, "file_bytes": 70, "tokens_per_day": 300}
    assert entry(answer, "tokens_per_day")["reserved"] == 500
    minute = entry(answer, "messages_per_minute")
    assert (minute["used"], minute["until"]) in {(1, minute_ends(before)), (0, minute_ends(before + 1))}


async def test_the_owner_lowers_a_limit_by_changing_the_project() -> None:
    api = await service()
    changed = await api.call("PATCH", f"{SHOP}/", json={"limits": {"agents": 4, "tokens_per_day": 1_000}})
    assert changed.status_code == 200
    assert changed.json()["limits"] == {"agents": 4, "tokens_per_day": 1_000}
    shown = entry(await api.call("GET", f"{SHOP}/limits/"), "agents")
    assert (shown["limit"], shown["source"]) == (4, "project")
    refused = await api.call("POST", f"{SHOP}/agents/", json=AGENT)
    assert (refused.status_code, kind(refused)) == (429, "limit-reached")
    assert refused.json()["limit"] == "agents"
    assert "retry-after" not in refused.headers
    back = await api.call("PATCH", f"{SHOP}/", json={"limits": {"agents": None}})
    assert back.json()["limits"] == {"tokens_per_day": 1_000}
    assert (await api.call("POST", f"{SHOP}/agents/", json=AGENT)).status_code == 201


@pytest.mark.parametrize(
    "limits",
    [{"agents": 101}, {"agents": -1}, {"agents": "4"}, {"agents": 1.5}, {"agents": True}, {"projects": 1}, 7, []],
)
async def test_a_limit_above_the_deployments_or_of_another_kind_is_refused(limits: object) -> None:
    api = await service()
    answer = await api.call("PATCH", f"{SHOP}/", json={"limits": limits})
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    assert (await api.call("GET", f"{SHOP}/")).json()["limits"] == {}


async def test_nobody_raises_a_limit_over_http() -> None:
    api = await service(limit_agents=4)
    for body in ({"operator_limits": {"agents": 50}}, {"limits": {"agents": 50}}):
        assert (await api.call("PATCH", f"{SHOP}/", json=body)).status_code == 422
    assert (await api.call("POST", f"{SHOP}/agents/", json=AGENT)).status_code == 429


async def test_too_many_messages_are_429_with_the_end_of_the_minute() -> None:
    api = await service(limit_messages_per_minute=0)
    chat = await api.call("POST", f"{SHOP}/chat/sessions/", json={"target_agent": "coder"})
    answer = await api.call("POST", f"{SHOP}/chat/{chat.json()['id']}/message/", json={"content": "x"}, headers=ASYNC)
    assert (answer.status_code, kind(answer)) == (429, "limit-reached")
    body = answer.json()
    assert body["limit"] == "messages_per_minute"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert 0 <= body["until"] / 1000 - time.time() + 1 <= 61


async def test_used_up_tokens_are_429_and_used_up_money_is_402() -> None:
    api = await service(limit_tokens_per_day=1_000, limit_cost_per_day=1_000)
    chat = await api.call("POST", f"{SHOP}/chat/sessions/", json={"target_agent": "coder"})
    address = f"{SHOP}/chat/{chat.json()['id']}/message/"
    await spend(api, spent_cost=1_000)
    money = await api.call("POST", address, json={"content": "x"}, headers=ASYNC)
    assert (money.status_code, kind(money)) == (402, "payment-required")
    await spend(api, spent_tokens=900)
    tokens = await api.call("POST", address, json={"content": "x"}, headers=ASYNC)
    assert (tokens.status_code, kind(tokens)) == (429, "limit-reached")
    for answer, limit in ((money, "cost_per_day"), (tokens, "tokens_per_day")):
        assert answer.json()["limit"] == limit
        assert answer.json()["until"] == day_ends(day_of(now_ms()))
        assert 1 <= int(answer.headers["retry-after"]) <= 86_400


@pytest.mark.parametrize(
    ("limits", "status", "said"),
    [
        ({"limit_tokens_per_day": 300}, 429, "300 tokens"),
        ({"limit_cost_per_day": 300, "default_model": "openai:small"}, 402, "300 millionths"),
    ],
)
async def test_a_run_that_meets_the_limit_says_so_in_the_answer(limits: dict[str, Any], status: int, said: str) -> None:
    api = await service(prices={"openai:small": {"input": 1_000_000, "output": 1_000_000}}, **limits)
    chat = await api.call("POST", f"{SHOP}/chat/sessions/", json={"target_agent": "coder"})
    async with api.worker():
        answer = await api.call("POST", f"{SHOP}/chat/{chat.json()['id']}/message/", json={"content": "hello"})
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert answer.json()["until"] == day_ends(day_of(now_ms()))
    assert 1 <= int(answer.headers["retry-after"]) <= 86_400
    task = await api.call("GET", f"{SHOP}/tasks/{answer.json()['task_id']}")
    failure = task.json()["error"]
    assert failure["code"] == {429: "limit_reached", 402: "payment_required"}[status]
    assert answer.json()["limit"] == failure["limit"] == {429: "tokens_per_day", 402: "cost_per_day"}[status]
    assert answer.json()["until"] == failure["until"]
    assert api.stack.model.requests == []


async def test_files_that_do_not_fit_are_429_however_they_come() -> None:
    api = await service(limit_file_bytes=100)
    assert (await api.call("PUT", f"{SHOP}/files/a.txt", content=b"x" * 90)).status_code == 201
    by_hand = await api.call("PUT", f"{SHOP}/files/b.txt", content=b"x" * 11)
    by_tool = await api.call("POST", f"{SHOP}/tools/write_file", json={"path": "b.txt", "content": "x" * 11})
    for answer in (by_hand, by_tool):
        assert (answer.status_code, kind(answer)) == (429, "limit-reached")
        assert answer.json()["limit"] == "file_bytes"
    assert (await api.call("DELETE", f"{SHOP}/files/a.txt")).status_code == 204
    assert (await api.call("PUT", f"{SHOP}/files/b.txt", content=b"x" * 100)).status_code == 201


async def test_a_user_cannot_make_more_projects_than_allowed() -> None:
    api = await service(user_limit_projects=1)
    answer = await api.call("POST", "/my/projects/", json={"id": "second", "name": "Second"})
    assert (answer.status_code, kind(answer), answer.json()["limit"]) == (429, "limit-reached", "projects")
    again = await api.call("POST", "/my/projects/", json={"id": "shop", "name": "Shop"})
    assert again.status_code == 409


async def test_a_repeated_request_is_answered_as_the_first_although_the_limit_is_reached() -> None:
    api = await service(user_limit_projects=2, limit_agents=5)
    key = {"Idempotency-Key": "k"}
    for path, body in (("/my/projects/", {"id": "second", "name": "S"}), (f"{SHOP}/agents/", AGENT)):
        first = await api.call("POST", path, json=body, headers=key)
        again = await api.call("POST", path, json=body, headers=key)
        assert first.status_code == again.status_code == 201
        assert first.json()["id"] == again.json()["id"]
