"""Plans over HTTP: asked for, listed, looked at, executed, canceled and tried again."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.api.service import Service, kind
from tests.core.planning import assign, make_plan, part
from tests.memory_stack import says
from worker_space.errors import ModelError
from worker_space.ids import new_id
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")
ASYNC = {"Prefer": "respond-async"}
A, B = part("a", "coder"), part("b", "writer", "a")


async def proposed(service: Service, project: str, **body: Any) -> httpx.Response:
    """A request for a plan that is answered as soon as the plan is there."""
    service.stack.model.script = [make_plan(A, B)]
    async with service.worker():
        return await service.call("POST", f"{project}/plans/", json={"goal": "the goal", **body})


async def finished(service: Service, project: str, *replies: Any) -> httpx.Response:
    """A plan whose tasks and answer came to these replies."""
    service.stack.model.script = [make_plan(A, B), *replies]
    made = await service.call("POST", f"{project}/plans/", json={"goal": "g", "execute": True}, headers=ASYNC)
    await service.stack.work(TENANT)
    return await service.call("GET", made.json()["href"])


async def test_a_plan_for_a_goal_is_proposed(service: Service, project: str) -> None:
    made = await proposed(service, project)
    assert made.status_code == 201, made.text
    plan = made.json()
    assert made.headers["location"] == f"{project}/plans/{plan['id']}"
    coder = (await service.call("GET", f"{project}/agents/coder")).json()["id"]
    assert (plan["state"], plan["goal"], plan["version"]) == ("proposed", "the goal", 1)
    assert plan["tasks"][0] == {
        "key": "a",
        "agent_id": coder,
        "instructions": "do a",
        "depends_on": [],
        "state": "waiting",
        "task_id": None,
        "error": None,
        "task_state": None,
    }
    assert (await service.call("GET", f"{project}/plans/{plan['id']}")).json() == plan
    messages = (await service.call("GET", f"{project}/chat/{plan['session_id']}/messages/")).json()["items"]
    assert messages[0]["content"] == "the goal"


async def test_a_plan_that_is_not_waited_for_is_202_with_where_it_will_be(service: Service, project: str) -> None:
    made = await service.call("POST", f"{project}/plans/", json={"goal": "g"}, headers=ASYNC)
    assert made.status_code == 202
    assert made.headers["preference-applied"] == "respond-async"
    assert made.json()["href"] == made.headers["location"]
    assert made.json()["task"]["plan_id"] == made.json()["href"].rpartition("/")[2]
    assert (await service.call("GET", made.json()["href"])).status_code == 404
    service.stack.model.script = [make_plan(A, B)]
    await service.stack.work(TENANT)
    assert (await service.call("GET", made.json()["href"])).json()["state"] == "proposed"


async def test_executing_a_plan_runs_it_and_the_answer_is_in_its_session(service: Service, project: str) -> None:
    plan = (await proposed(service, project)).json()
    address = f"{project}/plans/{plan['id']}"
    service.stack.model.script = [says("A"), says("B"), says("the answer")]
    async with service.worker():
        ran = await service.call("POST", f"{address}/execute")
        assert ran.status_code == 200, ran.text
        assert ran.json()["state"] in {"running", "completed"}
    await service.stack.work(TENANT)
    after = (await service.call("GET", address)).json()
    assert (after["state"], [task["task_state"] for task in after["tasks"]]) == ("completed", ["completed"] * 2)
    task = (await service.call("GET", f"{project}/tasks/{after['tasks'][0]['task_id']}")).json()
    assert (task["type"], task["plan_id"], task["answer"]) == ("plan_task", plan["id"], "A")
    assert task["payload"] == {"message": 2, "plan_key": "a"}
    messages = (await service.call("GET", f"{project}/chat/{plan['session_id']}/messages/")).json()["items"]
    assert (messages[-1]["content"], messages[-1]["agent_id"]) == ("the answer", "orchestrator")
    again = await service.call("POST", f"{address}/execute")
    assert (again.status_code, kind(again)) == (409, "conflict")


async def test_a_plan_of_ones_own_is_checked_at_once(service: Service, project: str) -> None:
    def body(*tasks: dict[str, Any]) -> dict[str, Any]:
        return {"goal": "g", "tasks": list(tasks)}

    for tasks, said in (
        ([part("a", "nobody")], "no such agent"),
        ([part("a", "coder", "a")], "depends on itself"),
        ([part("a", "coder", "b"), part("b", "coder", "a")], "in a circle"),
        ([part("a", "coder"), part("a", "coder")], "two tasks have the key"),
        ([part("A b", "coder")], "body.tasks.0.key"),
        ([part(f"t{n}", "coder") for n in range(21)], "body.tasks"),
        ([], "body.tasks"),
        ([part("a", "coder", instructions="x" * 9_000)], "8192 bytes"),
    ):
        refused = await service.call("POST", f"{project}/plans/", json=body(*tasks), headers=ASYNC)
        assert (refused.status_code, kind(refused)) == (422, "invalid-request"), tasks
        assert said in refused.json()["detail"]
    assert (await service.call("GET", f"{project}/tasks/")).json()["items"] == []
    made = await service.call("POST", f"{project}/plans/", json=body(A, B) | {"execute": True}, headers=ASYNC)
    service.stack.model.script = [says("A"), says("B"), says("done")]
    await service.stack.work(TENANT)
    assert (await service.call("GET", made.json()["href"])).json()["state"] == "completed"


@pytest.mark.parametrize(
    "wrong",
    [{}, {"goal": ""}, {"goal": "x", "plan": []}, {"goal": "x", "execute": "maybe"}, {"goal": 3}, {"goal": "a\x00"}],
)
async def test_what_is_no_request_for_a_plan_is_refused(service: Service, project: str, wrong: dict[str, Any]) -> None:
    refused = await service.call("POST", f"{project}/plans/", json=wrong)
    assert (refused.status_code, kind(refused)) == (422, "invalid-request")


async def test_a_goal_that_is_too_long_and_a_session_that_is_none_are_refused(service: Service, project: str) -> None:
    long = await service.call("POST", f"{project}/plans/", json={"goal": "x" * (1 << 20) + "x"})
    assert (long.status_code, kind(long)) == (413, "too-large")
    for session in (new_id("session"), "nonsense"):
        missing = await service.call("POST", f"{project}/plans/", json={"goal": "g", "session_id": session})
        assert (missing.status_code, kind(missing)) == (404, "not-found")


async def test_an_idempotency_key_makes_one_plan(service: Service, project: str) -> None:
    headers = {**ASYNC, "Idempotency-Key": "k"}
    first = await service.call("POST", f"{project}/plans/", json={"goal": "g"}, headers=headers)
    again = await service.call("POST", f"{project}/plans/", json={"goal": "g"}, headers=headers)
    assert first.json()["href"] == again.json()["href"]
    other = await service.call("POST", f"{project}/plans/", json={"goal": "h"}, headers=headers)
    assert (other.status_code, kind(other)) == (409, "conflict")
    assert len((await service.call("GET", f"{project}/chat/sessions/")).json()["items"]) == 1


async def test_plans_are_listed_in_pages_the_newest_first_and_by_state(service: Service, project: str) -> None:
    made = [(await proposed(service, project)).json()["id"] for _ in range(3)]
    await service.call("POST", f"{project}/plans/{made[1]}/cancel")
    first = (await service.call("GET", f"{project}/plans/", params={"limit": 2})).json()
    rest = (await service.call("GET", f"{project}/plans/", params={"cursor": first["next"]})).json()
    listed = [plan["id"] for plan in (*first["items"], *rest["items"])]
    assert (sorted(listed, reverse=True), rest["next"]) == (listed, None)
    assert set(listed) == set(made)
    canceled = (await service.call("GET", f"{project}/plans/", params={"state": "canceled"})).json()
    assert [plan["id"] for plan in canceled["items"]] == [made[1]]
    wrong = await service.call("GET", f"{project}/plans/", params={"state": "odd"})
    assert wrong.status_code == 422


async def test_pages_of_long_plans_stay_below_what_lambda_answers_with(service: Service, project: str) -> None:
    tasks = [part(f"t{number}", "coder", instructions="x" * 8_000) for number in range(20)]
    body = {"goal": "g", "tasks": tasks}
    for _ in range(25):
        assert (await service.call("POST", f"{project}/plans/", json=body, headers=ASYNC)).status_code == 202
    await service.stack.work(TENANT)
    first = await service.call("GET", f"{project}/plans/", params={"limit": 100})
    rest = await service.call("GET", f"{project}/plans/", params={"limit": 100, "cursor": first.json()["next"]})
    assert max(len(first.content), len(rest.content)) < 3_200_000
    listed = [plan["id"] for plan in (*first.json()["items"], *rest.json()["items"])]
    assert listed == sorted(set(listed), reverse=True)
    assert len(listed) == 25


async def test_a_canceled_plan_says_so_and_cannot_be_canceled_twice(service: Service, project: str) -> None:
    service.stack.model.script = [make_plan(A, B)]
    made = await service.call("POST", f"{project}/plans/", json={"goal": "g", "execute": True}, headers=ASYNC)
    await service.stack.work(TENANT, most=1)
    address = made.json()["href"]
    canceled = await service.call("POST", f"{address}/cancel")
    assert (canceled.status_code, canceled.json()["state"]) == (200, "canceled")
    assert {task["state"] for task in canceled.json()["tasks"]} == {"canceled"}
    again = await service.call("POST", f"{address}/cancel")
    assert (again.status_code, kind(again)) == (409, "conflict")
    assert (await service.call("GET", f"{project}/tasks/{canceled.json()['task_id']}")).json()["state"] == "canceled"


async def test_a_failed_task_is_tried_again(service: Service, project: str) -> None:
    plan = (await finished(service, project, ModelError("refused"))).json()
    assert plan["state"] == "failed"
    errors = [task["error"]["code"] for task in plan["tasks"]]
    assert errors == ["run_failed", "dependency_failed"]
    address = f"{project}/plans/{plan['id']}"
    refused = await service.call("POST", f"{address}/tasks/b/retry")
    assert (refused.status_code, kind(refused)) == (409, "conflict")
    service.stack.model.script = [says("A"), says("B"), says("all")]
    headers = {"Idempotency-Key": "r"}
    async with service.worker():
        retried = await service.call("POST", f"{address}/tasks/a/retry", headers=headers)
    assert retried.status_code == 200, retried.text
    await service.stack.work(TENANT)
    after = (await service.call("GET", address)).json()
    assert after["state"] == "completed"
    repeated = await service.call("POST", f"{address}/tasks/a/retry", headers=headers)
    assert (repeated.status_code, repeated.json()["task_id"]) == (200, after["task_id"])
    refused = await service.call("POST", f"{address}/tasks/a/retry")
    assert (refused.status_code, kind(refused)) == (409, "conflict")
    for key in ("x", "%2e%2e", "A"):
        missing = await service.call("POST", f"{address}/tasks/{key}/retry")
        assert (missing.status_code, kind(missing)) == (404, "not-found")


async def test_what_leads_to_no_plan_is_a_problem_that_names_the_task(service: Service, project: str) -> None:
    for name in ("coder", "analyst", "writer", "planner"):
        await service.call("DELETE", f"{project}/agents/{name}")
    async with service.worker():
        failed = await service.call("POST", f"{project}/plans/", json={"goal": "g"})
    assert (failed.status_code, kind(failed)) == (502, "task-failed")
    assert "no agent" in failed.json()["detail"]
    assert failed.json()["task_id"].startswith("task_")


async def test_a_plan_that_needs_the_users_word_is_shown_with_its_approval(service: Service, project: str) -> None:
    await service.call("PATCH", f"{project}/", json={"policy": {"plan_tasks": 1}})
    plan = (await proposed(service, project, execute=True)).json()
    assert plan["state"] == "proposed"
    approval = (await service.call("GET", f"{project}/approvals/{plan['approval_id']}")).json()
    assert (approval["kind"], approval["state"]) == ("plan", "pending")
    service.stack.model.script = [says("A"), says("B"), says("all")]
    async with service.worker():
        ran = await service.call("POST", f"{project}/plans/{plan['id']}/execute")
    assert ran.status_code == 200, ran.text
    await service.stack.work(TENANT)
    assert (await service.call("GET", f"{project}/plans/{plan['id']}")).json()["state"] == "completed"
    approval = (await service.call("GET", f"{project}/approvals/{plan['approval_id']}")).json()
    assert approval["state"] == "confirmed"


async def test_the_users_word_for_a_plan_may_come_twice(service: Service, project: str) -> None:
    await service.call("PATCH", f"{project}/", json={"policy": {"plan_tasks": 1}})
    plan = (await proposed(service, project, execute=True)).json()
    address, headers = f"{project}/plans/{plan['id']}/execute", {"Idempotency-Key": "k1"}
    service.stack.model.script = [says("A"), says("B"), says("all")]
    async with service.worker():
        both = await asyncio.gather(*(service.call("POST", address, headers=headers) for _ in range(2)))
        later = await service.call("POST", address, headers=headers)
    assert [answer.status_code for answer in (*both, later)] == [200, 200, 200], later.text
    assert {answer.json()["task_id"] for answer in (*both, later)} == {plan["task_id"]}
    await service.stack.work(TENANT)
    assert (await service.call("GET", f"{project}/plans/{plan['id']}")).json()["state"] == "completed"
    assert (await service.call("POST", address, headers=headers)).status_code == 200
    another = await service.call("POST", address, headers={"Idempotency-Key": "k2"})
    assert (another.status_code, kind(another)) == (409, "conflict")


async def test_missing_plans_are_404(service: Service, project: str) -> None:
    for plan_id in (new_id("plan"), "plan_x", "x"):
        for method, path in (
            ("GET", ""),
            ("POST", "/execute"),
            ("POST", "/cancel"),
            ("POST", "/tasks/a/retry"),
        ):
            missing = await service.call(method, f"{project}/plans/{plan_id}{path}")
            assert (missing.status_code, kind(missing)) == (404, "not-found"), path


async def test_a_message_that_names_no_agent_is_answered_as_orchestrated(service: Service, project: str) -> None:
    service.stack.model.script = [assign("writer"), says("written")]
    async with service.worker():
        answer = await service.call("POST", f"{project}/chat/", json={"content": "write"})
    assert answer.status_code == 200, answer.text
    writer = (await service.call("GET", f"{project}/agents/writer")).json()["id"]
    assert answer.json()["content"] == "written"
    assert (answer.json()["mode"], answer.json()["agent_id"]) == ("orchestrated", writer)
