"""The daily look for orphans by the handler that does it on AWS, over a stack with resources leaked on purpose."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import boto3
import pytest

from functions.cleanup.app import handler as cleanup
from functions.worker.app import handler as worker
from tests.functions.test_handlers import received, send, state
from worker_space.bootstrap import Environment
from worker_space.projects import NewProject
from worker_space.tenancy import Names, TenantContext


@pytest.fixture
def orphan_seconds() -> int:
    return 1


@pytest.fixture
def variables(variables: dict[str, str], orphan_seconds: int) -> dict[str, str]:
    return {**variables, "WORKER_SPACE_ORPHAN_SECONDS": str(orphan_seconds)}


def grow_old(orphan_seconds: int) -> None:
    time.sleep(orphan_seconds + 1)  # SQS tells when a queue was made in whole seconds


@dataclass
class Account:
    """The account's queues and mappings, as anybody with its keys could make them."""

    sqs: Any
    functions: Any
    arn_prefix: str

    def queue(self, name: str) -> str:
        self.sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})
        return name

    def mapping(self, name: str) -> str:
        arn = f"{self.arn_prefix}:{name}"
        made = self.functions.create_event_source_mapping(EventSourceArn=arn, FunctionName="worker", BatchSize=1)
        return str(made["UUID"])

    def delete_queue(self, name: str) -> None:
        self.sqs.delete_queue(QueueUrl=self.sqs.get_queue_url(QueueName=name)["QueueUrl"])

    def queues(self) -> set[str]:
        pages = self.sqs.get_paginator("list_queues").paginate()
        return {url.rpartition("/")[2] for page in pages for url in page.get("QueueUrls", ())}

    def mapped(self) -> set[str]:
        pages = self.functions.get_paginator("list_event_source_mappings").paginate()
        return {each["EventSourceArn"].rpartition(":")[2] for page in pages for each in page["EventSourceMappings"]}


@pytest.fixture
def account(environment: Environment) -> Iterator[Account]:
    settings = environment.settings
    sqs = boto3.client("sqs", region_name=settings.region)
    functions = boto3.client("lambda", region_name=settings.region)
    yield Account(sqs, functions, settings.dead_letter_arn.rpartition(":")[0])
    sqs.close()
    functions.close()


@pytest.fixture
def tenant(environment: Environment) -> TenantContext:
    tenant = TenantContext(f"r-{environment.settings.prefix}", "shop")
    projects = environment.parts.services.projects
    environment.run(projects.create(tenant.user, NewProject(id="shop", name="Shop")))
    return tenant


# Longer than the run takes: what is made just before it is still young when it is looked at.
@pytest.mark.parametrize("orphan_seconds", [6])
def test_what_leaked_goes_and_everything_else_stays(
    orphan_seconds: int, environment: Environment, tenant: TenantContext, account: Account, invocation: Any
) -> None:
    prefix = environment.settings.prefix
    names, nobody = Names(prefix), TenantContext("nobody", "shop")
    sent = send(environment, tenant)
    # What must stay: the project's queue, another deployment's, the pool's and the dead letters', and what is not ours.
    neighbour = Names(f"{prefix}2").queue(nobody, 1)
    stay = [
        names.queue(tenant, 1),
        account.queue(neighbour),
        account.queue(names.pool_queue(0)),
        account.queue(f"{prefix}-dead-letter.fifo"),
        account.queue(f"{prefix}_of-somebody.fifo"),
    ]
    for name in stay[1:3]:
        account.mapping(name)
    # What leaked: an orphan with a mapping, one without, a mapping without its queue, and two old generations.
    with_mapping = account.queue(names.queue(nobody, 1))
    account.mapping(with_mapping)
    without_mapping = account.queue(names.queue(nobody, 2))
    gone = account.queue(names.queue(nobody, 3))
    account.mapping(gone)
    account.delete_queue(gone)
    old = account.queue(names.queue(tenant, 7))
    hashed = account.queue(names.queue(TenantContext("auth0|x", "shop"), 1))
    grow_old(orphan_seconds)
    just_now = account.queue(names.queue(nobody, 9))
    counts = cleanup({"source": "aws.scheduler", "reconcile": True}, invocation)
    left = account.queues()
    assert left.isdisjoint({with_mapping, without_mapping, old, hashed})
    assert {*stay, just_now} <= left
    assert account.mapped().isdisjoint({with_mapping, gone})
    assert set(stay[:3]) <= account.mapped()
    assert (counts["removed_queues"], counts["removed_mappings"], counts["young"]) == (4, 2, 1)
    assert (counts["left"], counts["unfinished"], counts["mended"]) == (0, 0, 0)
    # The project noticed nothing.
    assert worker(received(environment, tenant), invocation) == {"batchItemFailures": []}
    assert state(environment, tenant, sent) == "completed"


def test_a_project_whose_mapping_was_deleted_gets_another(
    environment: Environment, tenant: TenantContext, account: Account, invocation: Any
) -> None:
    send(environment, tenant)
    name = Names(environment.settings.prefix).queue(tenant, 1)
    listed = account.functions.list_event_source_mappings(EventSourceArn=f"{account.arn_prefix}:{name}")
    account.functions.delete_event_source_mapping(UUID=listed["EventSourceMappings"][0]["UUID"])
    grow_old(1)
    assert cleanup({"reconcile": True}, invocation)["mended"] == 1
    assert name in account.mapped()


def test_no_more_than_five_calls_a_second_go_to_sqs_and_lambda(
    environment: Environment, account: Account, invocation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for generation in range(1, 4):
        account.queue(Names(environment.settings.prefix).queue(TenantContext("nobody", "shop"), generation))
    grow_old(1)
    times: list[float] = []
    inventory: Any = environment.ports.inventory
    calls = inventory._calls

    async def timed(*given: Any, **named: Any) -> Any:
        # Here and not on the wire: on a busy machine a call may reach that later than it was made.
        times.append(time.monotonic())
        return await calls(*given, **named)

    monkeypatch.setattr(inventory, "_calls", timed)
    cleanup({"reconcile": True}, invocation)
    assert len(times) >= 11
    assert all(later - earlier > 0.19 for earlier, later in pairwise(times))


def test_the_log_tells_of_orphans_without_names(
    environment: Environment, account: Account, invocation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    account.queue(Names(environment.settings.prefix).queue(TenantContext("marked-user", "shop"), 1))
    grow_old(1)
    with caplog.at_level(logging.INFO):
        counts = cleanup({"reconcile": True}, invocation)
    assert counts["removed_queues"] == 1
    assert "orphaned" in caplog.text
    assert "marked-user" not in caplog.text
    assert json.loads(json.dumps(counts)) == counts
