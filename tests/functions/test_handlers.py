"""The Lambda handlers, called with the events that AWS sends, against the stand-ins."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from functions.cleanup.app import handler as cleanup
from functions.dead_letter.app import handler as dead_letter
from functions.worker.app import handler as worker
from worker_space import bootstrap
from worker_space.adapters.sqs_receiver import sqs_event
from worker_space.bootstrap import Environment
from worker_space.bus import Sent
from worker_space.messages import NewSession
from worker_space.projects import NewProject
from worker_space.records import Update
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, Names, TenantContext, UserContext

EVENTS = Path(__file__).parents[2] / "events"


@pytest.fixture
def tenant(environment: Environment) -> TenantContext:
    tenant = TenantContext(f"a-{environment.settings.prefix}", "shop")
    services = environment.parts.services
    environment.run(services.projects.create(UserContext(tenant.user_id), NewProject(id="shop", name="Shop")))
    environment.run(services.files.write(tenant, "main.py", b'"""Says hi."""\nprint("hi")\n'))
    return tenant


def send(environment: Environment, tenant: TenantContext, content: str = "Analyse main.py") -> Sent:
    parts = environment.parts.services.collaborators
    session = environment.run(parts.sessions.create(tenant, NewSession()))
    return environment.run(parts.bus.send_task(tenant, session_id=session.id, content=content, target_agent="analyst"))


def received(environment: Environment, tenant: TenantContext) -> dict[str, Any]:
    """The next message of the tenant's queue as the event that its mapping would make of it."""
    sqs = boto3.client("sqs", region_name=environment.settings.region)
    name = Names(environment.settings.prefix).queue(tenant, 1)
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    answer = sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=["All"], WaitTimeSeconds=2)
    arn = f"{environment.settings.dead_letter_arn.rpartition(':')[0]}:{name}"
    event = dict(sqs_event(answer["Messages"], arn))
    sqs.close()
    return event


def acknowledge(environment: Environment, record: Mapping[str, Any]) -> None:
    """Delete a message, as its mapping would after a good answer."""
    sqs = boto3.client("sqs", region_name=environment.settings.region)
    url = sqs.get_queue_url(QueueName=record["eventSourceARN"].rpartition(":")[2])["QueueUrl"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=record["receiptHandle"])
    sqs.close()


def state(environment: Environment, tenant: TenantContext, sent: Sent) -> str:
    item = environment.run(environment.parts.services.records.get(tenant, Key.task(sent.task_id)))
    assert item is not None
    return str(item["state"])


def test_the_worker_answers_a_message_and_reports_no_failure(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    sent = send(environment, tenant)
    assert worker(received(environment, tenant), invocation) == {"batchItemFailures": []}
    reply = environment.run(environment.parts.services.collaborators.execution.reply(tenant, sent, wait_seconds=0))
    assert reply.response is not None
    assert "Says hi." in reply.response.content


def test_a_delivery_that_comes_twice_is_answered_once(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    sent = send(environment, tenant)
    event = received(environment, tenant)
    for _ in range(2):
        assert worker(event, invocation) == {"batchItemFailures": []}
    item = environment.run(environment.parts.services.records.get(tenant, Key.task(sent.task_id)))
    assert item is not None
    assert item["attempt"] == 1


def test_a_message_that_cannot_be_run_now_is_reported_as_failed(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    sent = send(environment, tenant)
    event = received(environment, tenant)
    event["Records"][0]["receiptHandle"] = "not the current one"
    failures = [{"itemIdentifier": event["Records"][0]["messageId"]}]
    assert worker(event, invocation) == {"batchItemFailures": failures}
    assert state(environment, tenant, sent) == "submitted"


def test_a_message_that_is_no_delivery_is_dropped_and_blocks_nobody(environment: Environment, invocation: Any) -> None:
    record = {"messageId": "1", "receiptHandle": "r", "body": "{", "eventSourceARN": "a:b:sqs:c:d:e"}
    for handler in (worker, dead_letter):
        assert handler({"Records": [record]}, invocation) == {"batchItemFailures": []}


def test_the_worker_drains_a_new_queue_until_its_time_is_over(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    sent = send(environment, tenant)
    request = {"user_id": tenant.user_id, "project_id": tenant.project_id, "generation": 1}
    invocation.seconds = 12.0
    assert worker({"drain": request}, invocation) == {"ran": 1}
    assert state(environment, tenant, sent) == TaskState.COMPLETED


def test_a_dead_letter_ends_in_a_failed_task_that_says_why(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    sent = send(environment, tenant)
    letter = received(environment, tenant)
    # Never begun: it is sent once more, and the second letter ends it.
    assert dead_letter(letter, invocation) == {"batchItemFailures": []}
    assert state(environment, tenant, sent) == "submitted"
    body = json.loads(letter["Records"][0]["body"])
    letter["Records"][0]["body"] = json.dumps({**body, "dispatch": 2})
    assert dead_letter(letter, invocation) == {"batchItemFailures": []}
    assert state(environment, tenant, sent) == "failed"
    reply = environment.run(environment.parts.services.collaborators.execution.reply(tenant, sent, wait_seconds=0))
    assert "gave up" in (reply.outcome or "")


def test_the_schedule_sends_what_is_overdue(environment: Environment, tenant: TenantContext, invocation: Any) -> None:
    sent = send(environment, tenant)
    services = environment.parts.services
    environment.run(services.records.write(tenant, Update(key=Key.task(sent.task_id), set={"due_at": 1})))
    counts = cleanup(json.loads((EVENTS / "schedule.json").read_text()), invocation)
    assert counts["sent"] >= 1
    item = environment.run(services.records.get(tenant, Key.task(sent.task_id)))
    assert item is not None
    assert item["dispatch"] == 2


def test_an_environment_is_made_once_a_thread_and_asks_every_dependency(environment: Environment) -> None:
    assert bootstrap.environment() is environment
    dependencies = environment.parts.services.dependencies
    assert set(dependencies) == {"table", "files", "queue", "redis", "qdrant"}

    async def ask_all() -> None:
        for ask in dependencies.values():
            await ask()

    environment.run(ask_all())
