"""The SQS adapter's own promises: what it makes on AWS, how much it asks, and what it does when AWS is in the way."""

import json
import time
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse, HTTPHeaders

from tests.contract.queue_subjects import U1, U10, VISIBILITY, OnAws, send
from worker_space.errors import InvalidRequest, Unavailable

pytestmark = pytest.mark.anyio


async def test_queue_and_mapping_are_made_as_the_worker_needs_them(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    attributes = on_aws.sqs.get_queue_attributes(QueueUrl=on_aws.url(U1, 1), AttributeNames=["All"])["Attributes"]
    redrive = json.loads(attributes["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"] == on_aws.aws.dead_letters
    assert int(redrive["maxReceiveCount"]) == 10
    assert attributes["FifoQueue"] == "true"
    assert attributes["ContentBasedDeduplication"] == "false"
    assert attributes["VisibilityTimeout"] == str(VISIBILITY)
    assert attributes["MessageRetentionPeriod"] == str(14 * 24 * 3600)
    assert attributes["SqsManagedSseEnabled"] == "true"
    (mapping,) = on_aws.mappings(U1, 1)
    assert mapping["BatchSize"] == 1
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["FunctionArn"].rpartition(":function:")[2] == "worker"


async def test_creating_again_makes_no_second_mapping_and_releasing_leaves_none(on_aws: OnAws) -> None:
    for _ in range(2):
        await on_aws.queues.create(U1, 1)
        await on_aws.queues.create(U10, 1)
    assert len(on_aws.mappings(U1, 1)) == len(on_aws.mappings(U10, 1)) == 1
    await on_aws.queues.release(U1, 1)
    assert [mapping["State"] for mapping in on_aws.mappings(U1, 1)] in ([], ["Deleting"])
    assert len(on_aws.mappings(U10, 1)) == 1


async def test_a_half_released_queue_is_released(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    on_aws.sqs.delete_queue(QueueUrl=on_aws.url(U1, 1))
    await on_aws.queues.release(U1, 1)
    assert [mapping["State"] for mapping in on_aws.mappings(U1, 1)] in ([], ["Deleting"])


async def test_a_queue_of_a_deployment_with_another_timeout_gets_the_present_one(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    await on_aws.with_worker_timeout(VISIBILITY + 5).create(U1, 1)
    attributes = on_aws.sqs.get_queue_attributes(QueueUrl=on_aws.url(U1, 1), AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == str(VISIBILITY + 5)


async def test_sending_is_one_request_from_the_first_message_on(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    operations: list[str] = []
    on_aws.sqs.meta.events.register("before-call", lambda model, **_: operations.append(model.name))
    await on_aws.with_worker_timeout(VISIBILITY).send(U1, 1, "one", group="a#0", deduplication="one")
    assert operations == ["SendMessage"]


@pytest.mark.parametrize("seconds", [-1, 43_201])
async def test_a_time_that_sqs_cannot_hide_a_message_for_is_no_lost_claim(on_aws: OnAws, seconds: int) -> None:
    await on_aws.queues.create(U1, 1)
    await send(on_aws, "one")
    delivery = await on_aws.receive(U1, 1)
    assert delivery is not None
    with pytest.raises(InvalidRequest):
        await on_aws.queues.extend(U1, delivery.lease, seconds)


async def test_a_mapping_in_change_is_waited_for_a_little_and_then_unavailable(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    refused: list[str] = []

    def refuse(params: Any, **_: Any) -> tuple[Any, dict[str, Any]]:
        refused.append("DeleteEventSourceMapping")
        response = AWSResponse("", 400, HTTPHeaders(), None)
        return response, {"Error": {"Code": "ResourceInUseException"}, "ResponseMetadata": {"HTTPStatusCode": 400}}

    on_aws.lambda_.meta.events.register("before-call.lambda.DeleteEventSourceMapping", refuse)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await on_aws.queues.release(U1, 1)
    assert len(refused) > 1
    assert time.monotonic() - started < 3
    on_aws.lambda_.meta.events.unregister("before-call.lambda.DeleteEventSourceMapping", refuse)
    await on_aws.queues.release(U1, 1)
    assert await on_aws.queues.depth(U1, 1) == 0


async def test_queues_are_listed_to_the_end(on_aws: OnAws) -> None:
    pages: list[Any] = []

    def small(params: Any, **_: Any) -> None:
        params["body"] = json.dumps({**json.loads(params["body"]), "MaxResults": 2})
        pages.append(params)

    for generation in range(1, 6):
        await on_aws.queues.create(U1, generation)
    on_aws.sqs.meta.events.register("before-call.sqs.ListQueues", small)
    assert list(await on_aws.queues.generations(U1)) == [1, 2, 3, 4, 5]
    assert len(pages) == 3
