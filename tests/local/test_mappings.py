"""Lambda's mappings and invocations, and what the poller is told."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient

_names = (f"mapped{at}.fifo" for at in itertools.count())
_ids = (f"m-{at}" for at in itertools.count())


@pytest.fixture
def queue(sqs: "SQSClient") -> Iterator[tuple[str, str]]:
    """A queue's URL and ARN."""
    attributes: Any = {"FifoQueue": "true", "VisibilityTimeout": "30"}
    url = sqs.create_queue(QueueName=next(_names), Attributes=attributes)["QueueUrl"]
    yield url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sqs.delete_queue(QueueUrl=url)


def code(call: Callable[..., Any], **named: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**named)
    return str(caught.value.response["Error"]["Code"])


def send(sqs: "SQSClient", url: str, group: str) -> None:
    sqs.send_message(QueueUrl=url, MessageBody="x", MessageGroupId=group, MessageDeduplicationId=next(_ids))


def ready(aws_url: str, wait: float = 0) -> Any:
    return httpx.get(f"{aws_url}/_local/ready", params={"wait": wait}, timeout=30).json()


def test_a_mapping_lives_as_on_aws(functions: "LambdaClient", queue: tuple[str, str]) -> None:
    wanted: Any = {
        "EventSourceArn": queue[1],
        "FunctionName": "worker",
        "BatchSize": 1,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": 5},
    }
    made = functions.create_event_source_mapping(**wanted)
    assert made["FunctionArn"].endswith(":function:worker")
    assert (made["State"], made["FunctionResponseTypes"]) == ("Enabled", ["ReportBatchItemFailures"])
    assert code(functions.create_event_source_mapping, **wanted) == "ResourceConflictException"
    listed = functions.list_event_source_mappings(EventSourceArn=queue[1], FunctionName="worker")
    assert [mapping["UUID"] for mapping in listed["EventSourceMappings"]] == [made["UUID"]]
    changed = functions.update_event_source_mapping(UUID=made["UUID"], Enabled=False, FunctionName="worker:live")
    assert (changed["State"], changed["FunctionArn"].rsplit(":", 1)[-1]) == ("Disabled", "live")
    assert functions.get_event_source_mapping(UUID=made["UUID"])["State"] == "Disabled"
    assert functions.delete_event_source_mapping(UUID=made["UUID"])["State"] == "Deleting"
    assert code(functions.get_event_source_mapping, UUID=made["UUID"]) == "ResourceNotFoundException"


def test_mappings_are_listed_in_pages(functions: "LambdaClient", sqs: "SQSClient") -> None:
    made = set()
    for at in range(3):
        attributes: Any = {"FifoQueue": "true"}
        url = sqs.create_queue(QueueName=f"paged{at}.fifo", Attributes=attributes)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        made.add(functions.create_event_source_mapping(EventSourceArn=arn, FunctionName="worker")["UUID"])
    pages = functions.get_paginator("list_event_source_mappings").paginate(PaginationConfig={"PageSize": 2})
    found = [[mapping["UUID"] for mapping in page["EventSourceMappings"]] for page in pages]
    assert len(found[0]) == 2
    assert made <= {identity for page in found for identity in page}
    for identity in made:
        functions.delete_event_source_mapping(UUID=identity)


def test_what_aws_refuses_is_refused(functions: "LambdaClient", queue: tuple[str, str]) -> None:
    create = functions.create_event_source_mapping
    assert code(create, EventSourceArn=queue[1], FunctionName="nobody") == "ResourceNotFoundException"
    missing = queue[1].rsplit(":", 1)[0] + ":missing.fifo"
    assert code(create, EventSourceArn=missing, FunctionName="worker") == "InvalidParameterValueException"
    wrong: Any = {"EventSourceArn": queue[1], "FunctionName": "worker", "BatchSize": 11}
    assert code(create, **wrong) == "InvalidParameterValueException"
    assert code(functions.invoke, FunctionName="worker") == "InvalidParameterValueException"
    assert code(functions.invoke, FunctionName="nobody", InvocationType="Event") == "ResourceNotFoundException"
    big = b'"' + b"x" * (1024 * 1024) + b'"'
    assert (
        code(functions.invoke, FunctionName="worker", InvocationType="Event", Payload=big) == "RequestTooLargeException"
    )
    assert code(functions.get_policy, FunctionName="worker") == "ResourceNotFoundException"
    assert code(functions.list_functions) == "ResourceNotFoundException"


def test_the_worker_function_exists(functions: "LambdaClient") -> None:
    arn = functions.get_function(FunctionName="worker")["Configuration"]["FunctionArn"]
    assert functions.get_function_configuration(FunctionName=arn)["State"] == "Active"
    assert functions.get_function_recursion_config(FunctionName="worker")["RecursiveLoop"] == "Terminate"
    functions.put_function_recursion_config(FunctionName="worker", RecursiveLoop="Allow")
    assert functions.get_function_recursion_config(FunctionName="worker")["RecursiveLoop"] == "Allow"


def test_an_invocation_is_a_wake_up(functions: "LambdaClient", aws_url: str) -> None:
    assert functions.invoke(FunctionName="worker", InvocationType="DryRun")["StatusCode"] == 204
    sent = functions.invoke(
        FunctionName="worker:live", InvocationType="Event", Payload=json.dumps({"drain": 1}).encode()
    )
    assert sent["StatusCode"] == 202
    assert ready(aws_url)["wake_ups"] == [{"function": "worker", "payload": {"drain": 1}}]
    assert ready(aws_url)["wake_ups"] == []


def test_ready_names_mapped_queues_by_what_can_be_received_now(
    functions: "LambdaClient", sqs: "SQSClient", queue: tuple[str, str], aws_url: str
) -> None:
    url, arn = queue
    for group in ("a", "a", "b"):
        send(sqs, url, group)
    assert ready(aws_url)["queues"] == []
    functions.create_event_source_mapping(EventSourceArn=arn, FunctionName="worker", BatchSize=1)
    assert ready(aws_url)["queues"] == [{"queue_url": url, "queue_arn": arn, "receivable": 2}]
    sqs.receive_message(QueueUrl=url)
    assert ready(aws_url)["queues"] == [{"queue_url": url, "queue_arn": arn, "receivable": 1}]
    sqs.receive_message(QueueUrl=url, VisibilityTimeout=1)
    started = time.monotonic()
    assert ready(aws_url, 10)["queues"] == [{"queue_url": url, "queue_arn": arn, "receivable": 1}]
    assert 0.5 < time.monotonic() - started < 2


def test_ready_waits_until_a_message_is_sent(
    functions: "LambdaClient", sqs: "SQSClient", queue: tuple[str, str], aws_url: str
) -> None:
    functions.create_event_source_mapping(EventSourceArn=queue[1], FunctionName="worker", BatchSize=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ready, aws_url, 10)
        time.sleep(0.2)
        started = time.monotonic()
        send(sqs, queue[0], "a")
        assert [found["queue_url"] for found in waiting.result()["queues"]] == [queue[0]]
    assert time.monotonic() - started < 0.5


def test_ready_always_names_the_dead_letter_queue(sqs: "SQSClient", aws_url: str) -> None:
    url = sqs.get_queue_url(QueueName="local_dead-letter.fifo")["QueueUrl"]
    send(sqs, url, "g")
    assert [found["queue_url"] for found in ready(aws_url)["queues"]] == [url]
    sqs.purge_queue(QueueUrl=url)
    assert ready(aws_url)["queues"] == []
