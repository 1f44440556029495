"""Sleeping, cleaning up, resetting and erasing over the real adapters, by the handlers that do it on AWS."""

import time
from typing import Any

import boto3
import pytest

from functions.cleanup.app import handler as cleanup
from functions.worker.app import handler as worker
from tests.functions.test_handlers import received, send, state
from worker_space.bootstrap import Environment
from worker_space.manager import WorkerSpaceManager
from worker_space.projects import NewProject
from worker_space.records import Item, Update
from worker_space.tenancy import Key, Names, TenantContext, UserContext


@pytest.fixture
def variables(variables: dict[str, str]) -> dict[str, str]:
    return {**variables, "WORKER_SPACE_ERASE_AGAIN_SECONDS": "1"}


@pytest.fixture
def tenant(environment: Environment) -> TenantContext:
    tenant = TenantContext(f"l-{environment.settings.prefix}", "shop")
    services = environment.parts.services
    environment.run(services.projects.create(UserContext(tenant.user_id), NewProject(id="shop", name="Shop")))
    environment.run(services.files.write(tenant, "main.py", b'"""Says hi."""\n'))
    environment.run(services.files.write(tenant, "main.py", b'"""Says hello."""\n'))
    return tenant


def _space(environment: Environment, tenant: TenantContext) -> dict[str, Any]:
    item: Item | None = environment.run(environment.ports.records.get(tenant, Key.space()))
    return dict(item or {})


def _queues(environment: Environment, tenant: TenantContext) -> list[str]:
    sqs = boto3.client("sqs", region_name=environment.settings.region)
    names = Names(environment.settings.prefix)
    found: list[str] = sqs.list_queues(QueueNamePrefix=names.queues_of(tenant)).get("QueueUrls", [])
    sqs.close()
    return found


def _mappings(environment: Environment, tenant: TenantContext, generation: int) -> int:
    return environment.run(environment.ports.queues.mappings(tenant, generation))


def _versions(environment: Environment, tenant: TenantContext) -> int:
    s3 = boto3.client("s3", region_name=environment.settings.region)
    prefix = Names(environment.settings.prefix).workspace(tenant)
    answer = s3.list_object_versions(Bucket=environment.settings.bucket, Prefix=prefix)
    s3.close()
    return len(answer.get("Versions", ())) + len(answer.get("DeleteMarkers", ()))


def test_an_idle_space_sleeps_and_the_next_message_wakes_it(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    sent = send(environment, tenant)
    assert worker(received(environment, tenant), invocation) == {"batchItemFailures": []}
    assert state(environment, tenant, sent) == "completed"
    ages_ago = {"last_accept": 1, "active_since": 1, "due_at": 1}
    environment.run(environment.ports.records.write(tenant, Update(key=Key.space(), set=ages_ago)))
    assert cleanup({}, invocation)["hibernated"] >= 1
    assert _space(environment, tenant)["state"] == "dormant"
    assert _queues(environment, tenant) == []
    assert _mappings(environment, tenant, 1) == 0
    assert environment.run(environment.ports.cache.load(tenant)) == {}
    assert environment.run(environment.ports.memory.remains(tenant)) > 0
    send(environment, tenant)
    space = _space(environment, tenant)
    assert (space["state"], space["generation"]) == ("active", 2)
    assert len(_queues(environment, tenant)) == _mappings(environment, tenant, 2) == 1


def test_a_cleanup_and_a_reset_release_what_costs(environment: Environment, tenant: TenantContext) -> None:
    space = WorkerSpaceManager(environment.parts.services.collaborators).get_or_create(tenant.user_id, "shop")
    for close, generation in ((space.cleanup, 1), (space.reset, 2)):
        sent = send(environment, tenant)
        health, metrics = environment.run(space.vitals())
        assert health.status == "ok"
        assert (metrics.state.value, metrics.queue_depth) == ("active", 1)
        assert metrics.active_agents > 0
        report: Any = environment.run(close())
        assert (report.canceled_tasks, report.state.value) == (1, "dormant")
        assert state(environment, tenant, sent) == "canceled"
        assert _queues(environment, tenant) == []
        assert _mappings(environment, tenant, generation) == 0
    health, metrics = environment.run(space.vitals())
    assert health.status == "ok"
    assert metrics.tasks_by_state == {"completed": 0, "failed": 0, "canceled": 2, "open": 0}


def test_an_erasure_takes_every_version_of_every_object_and_what_comes_late(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    send(environment, tenant, "x" * 100_000)
    ports = environment.ports
    erasures = environment.parts.services.erasures
    environment.run(ports.memory.ensure(tenant, "agent_x"))
    assert _versions(environment, tenant) == 2
    receipt = environment.run(erasures.begin(tenant, seconds=20))
    assert receipt.first_pass is not None
    counts = {name: (count.found > 0, count.remaining) for name, count in receipt.first_pass.stores.items()}
    assert counts == dict.fromkeys(("table", "cache", "mappings", "queues", "memory", "contents", "files"), (True, 0))
    assert _versions(environment, tenant) == 0
    environment.run(ports.files.write(tenant, "late.txt", b"x"))
    environment.run(ports.memory.ensure(tenant, "agent_late"))
    user = UserContext(tenant.user_id)
    for _ in range(30):
        cleanup({}, invocation)
        now = environment.run(erasures.get(user, receipt.id))
        if now.certified_at is not None:
            break
        time.sleep(0.2)
    assert now.certified_at is not None
    assert now.second_pass is not None
    assert {name for name, count in now.second_pass.stores.items() if count.found} == {"files", "memory"}
    assert _versions(environment, tenant) == 0
    assert environment.run(ports.memory.remains(tenant)) == 0
    assert _space(environment, tenant).keys() == {"sk", "state", "epoch", "generation", "purged"}
