"""A plan through the worker function, over the adapters for DynamoDB, SQS, S3, Redis and Qdrant."""

from typing import Any

import boto3
import pytest

from functions.worker.app import handler as worker
from worker_space.adapters.sqs_receiver import sqs_event
from worker_space.bootstrap import Environment
from worker_space.messages import MessageRequest, NewSession
from worker_space.plans import NewPlan, NewPlanTask
from worker_space.projects import NewProject
from worker_space.space import UserWorkerSpace
from worker_space.tenancy import Key, Names, TenantContext, UserContext


@pytest.fixture
def tenant(environment: Environment) -> TenantContext:
    tenant = TenantContext(f"a-{environment.settings.prefix}", "shop")
    services = environment.parts.services
    environment.run(services.projects.create(UserContext(tenant.user_id), NewProject(id="shop", name="Shop")))
    environment.run(services.files.write(tenant, "cart.py", b'"""Adds up."""\n\n\ndef total(items):\n    return 0\n'))
    return tenant


def work(environment: Environment, tenant: TenantContext, invocation: Any, *, most: int = 100) -> int:
    """Have the worker function take the messages that are there, as a mapping would; how many it took."""
    sqs = boto3.client("sqs", region_name=environment.settings.region)
    name = Names(environment.settings.prefix).queue(tenant, 1)
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    arn = f"{environment.settings.dead_letter_arn.rpartition(':')[0]}:{name}"
    count = 0
    asked: dict[str, Any] = {
        "QueueUrl": url,
        "MessageSystemAttributeNames": ["All"],
        "WaitTimeSeconds": 1,
        "MaxNumberOfMessages": 1,
    }
    while count < most and (messages := sqs.receive_message(**asked).get("Messages")):
        assert worker(dict(sqs_event(messages, arn)), invocation) == {"batchItemFailures": []}
        sqs.delete_message(QueueUrl=url, ReceiptHandle=messages[0]["ReceiptHandle"])
        count += 1
    sqs.close()
    return count


def test_a_request_of_two_parts_becomes_a_plan_and_one_answer(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    parts = environment.parts.services.collaborators
    space = UserWorkerSpace(tenant, parts)
    session = environment.run(parts.sessions.create(tenant, NewSession()))
    request = MessageRequest(content="Review cart.py, then write a README")
    environment.run(space.orchestrated_execution(session.id, request, wait_seconds=0))
    # The decision, two tasks one after the other, the answer.
    assert work(environment, tenant, invocation) == 4
    plans, _ = environment.run(environment.parts.services.plans.page(tenant, limit=10, after=None))
    assert [plan.state.value for plan in plans] == ["completed"]
    messages, _ = environment.run(parts.sessions.messages(tenant, session.id, limit=10, after=None))
    assert [message.role for message in messages] == ["user", "assistant"]
    assert messages[1].agent_id == "orchestrator"
    assert "cart.py" in messages[1].content
    _, metrics = environment.run(parts.vitals.look(tenant))
    assert metrics.total_tasks_processed == 3


def test_the_largest_plan_fits_into_every_transaction(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    services = environment.parts.services
    tasks = tuple(
        NewPlanTask(
            key=f"t{number}",
            agent=("coder", "analyst", "writer", "planner")[number % 4],
            instructions="Read cart.py. ".ljust(8_000, "x"),
            depends_on=tuple(f"t{other}" for other in range(number)),
        )
        for number in range(20)
    )
    new = NewPlan(goal="Read it again and again", tasks=tasks, execute=True)
    reply = environment.run(services.plan_requests.create(tenant, new, wait_seconds=0, repeat=lambda _: None))
    assert work(environment, tenant, invocation) >= 22
    plan = environment.run(services.plans.get(tenant, reply.plan_id))
    assert plan.state.value == "completed"
    assert {task.state.value for task in plan.tasks} == {"completed"}


def test_a_large_plan_is_canceled_in_one_go(environment: Environment, tenant: TenantContext, invocation: Any) -> None:
    services = environment.parts.services
    tasks = tuple(
        NewPlanTask(key=f"t{number}", agent="coder", instructions="x", depends_on=() if number == 0 else ("t0",))
        for number in range(20)
    )
    new = NewPlan(goal="Much", tasks=tasks, execute=True)
    reply = environment.run(services.plan_requests.create(tenant, new, wait_seconds=0, repeat=lambda _: None))
    assert work(environment, tenant, invocation, most=1) == 1
    assert environment.run(services.plan_requests.cancel(tenant, reply.plan_id)).state.value == "canceled"
    work(environment, tenant, invocation)
    plan = environment.run(services.plans.get(tenant, reply.plan_id))
    assert {task.state.value for task in plan.tasks} == {"canceled"}
    page = environment.run(services.records.query(tenant, Key.tasks()))
    assert {item["state"] for item in page.items} == {"canceled"}
