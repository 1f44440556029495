"""A project's tool policy over HTTP: shown, changed, kept."""

import asyncio

import pytest

from tests.api.service import Service, kind
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


async def policy_version(service: Service) -> int:
    return int((await service.stack.records.get(TENANT, Key.space()) or {}).get("policy_version", 0))


async def test_a_project_shows_its_policy(service: Service, project: str) -> None:
    default = {"ask": ["deleting"], "plan_tasks": None, "plan_cost": None}
    assert (await service.call("GET", f"{project}/")).json()["policy"] == default
    (listed,) = (await service.call("GET", "/my/projects/")).json()["items"]
    assert listed["policy"] == default


async def test_a_changed_policy_has_the_next_version_and_what_is_not_sent_stays(service: Service, project: str) -> None:
    answer = await service.call("PATCH", f"{project}/", json={"policy": {"ask": ["writing", "read_file"]}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["policy"] == {"ask": ["writing", "read_file"], "plan_tasks": None, "plan_cost": None}
    answer = await service.call("PATCH", f"{project}/", json={"name": "New", "policy": {"plan_tasks": 3}})
    shown = (await service.call("GET", f"{project}/")).json()
    assert shown == answer.json()
    assert shown["name"] == "New"
    assert shown["policy"] == {"ask": ["writing", "read_file"], "plan_tasks": 3, "plan_cost": None}
    assert await policy_version(service) == 2
    await service.call("PATCH", f"{project}/", json={"policy": {"plan_tasks": 3}})
    await service.call("PATCH", f"{project}/", json={"name": "Newer"})
    assert await policy_version(service) == 2


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ({"policy": {"ask": ["delete"]}}, "there are the levels reading, writing, deleting"),
        ({"policy": {"ask": ["delete_file", "rm"]}}, "'rm'"),
        ({"policy": {"ask": "deleting"}}, "body.policy.ask"),
        ({"policy": {"plan_tasks": 21}}, "body.policy.plan_tasks"),
        ({"policy": {"allow": []}}, "body.policy.allow"),
        ({"policy": []}, "body.policy"),
        ({}, "say what to change"),
        ({"name": None}, "say what to change"),
    ],
)
async def test_a_wrong_policy_is_422_and_changes_nothing(
    service: Service, project: str, body: dict[str, object], hint: str
) -> None:
    answer = await service.call("PATCH", f"{project}/", json=body)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    assert hint in answer.json()["detail"]
    assert await policy_version(service) == 0


async def test_changes_at_once_lose_none_of_their_members(service: Service, project: str) -> None:
    changes = [{"ask": ["writing"]}, {"plan_tasks": 5}, {"plan_cost": 7}]
    answers = await asyncio.gather(*(service.call("PATCH", f"{project}/", json={"policy": each}) for each in changes))
    assert [answer.status_code for answer in answers] == [200] * 3
    shown = (await service.call("GET", f"{project}/")).json()["policy"]
    assert shown == {"ask": ["writing"], "plan_tasks": 5, "plan_cost": 7}
    assert await policy_version(service) == 3
