"""The drain loop follows Lambda's rules for what an answer deletes."""

from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from worker_space.adapters.sqs_receiver import QueueReceiver, sqs_event
from worker_space.jobs.drain import drain, failed_messages

ARN = "arn:aws:sqs:eu-central-1:123456789012:local_usera_projectp_g1.fifo"


class Queue:
    def __init__(self, *bodies: str) -> None:
        self.waiting = list(bodies)
        self.deleted: list[str] = []
        self.waits: list[int] = []

    def receive_message(self, **request: Any) -> dict[str, Any]:
        assert request["MaxNumberOfMessages"] == 1
        self.waits.append(request["WaitTimeSeconds"])
        if not self.waiting:
            return {}
        body = self.waiting.pop(0)
        return {"Messages": [{"MessageId": body, "ReceiptHandle": f"r-{body}", "Body": body, "MD5OfBody": "x"}]}

    def delete_message(self, **request: Any) -> None:
        self.deleted.append(request["ReceiptHandle"])


def run_all(queue: Queue, run: Any) -> int:
    receiver = QueueReceiver(queue, queue_url="https://queue", queue_arn=ARN)
    return drain(receiver, run, until=lambda: len(queue.waits) > 0 and not queue.waiting, wait_seconds=3)


def test_what_was_run_is_deleted_and_what_failed_stays() -> None:
    queue = Queue("good", "bad", "worse", "fine")

    def run(event: Mapping[str, Any]) -> Any:
        (record,) = event["Records"]
        assert (record["eventSource"], record["eventSourceARN"]) == ("aws:sqs", ARN)
        assert record["awsRegion"] == "eu-central-1"
        if record["body"] == "worse":
            raise RuntimeError("broken")
        return {"batchItemFailures": [{"itemIdentifier": "bad"}] if record["body"] == "bad" else []}

    assert run_all(queue, run) == 4
    assert queue.deleted == ["r-good", "r-fine"]
    assert queue.waits == [3, 3, 3, 3]


class Refusing(Queue):
    """A queue that is not known yet, and receipts that have expired."""

    def receive_message(self, **request: Any) -> dict[str, Any]:
        if not self.waits:
            self.waits.append(0)
            raise ClientError({"Error": {"Code": "QueueDoesNotExist"}}, "ReceiveMessage")
        return super().receive_message(**request)

    def delete_message(self, **request: Any) -> None:
        raise ClientError({"Error": {"Code": "InvalidParameterValue"}}, "DeleteMessage")


def test_what_sqs_refuses_does_not_end_the_loop() -> None:
    queue = Refusing("one", "two")
    ran: list[str] = []
    assert run_all(queue, lambda event: ran.append(event["Records"][0]["body"])) == 2
    assert ran == ["one", "two"]


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (None, set()),
        ({}, set()),
        ({"batchItemFailures": []}, set()),
        ({"batchItemFailures": None}, set()),
        ({"batchItemFailures": [{"itemIdentifier": "a"}]}, {"a"}),
        ({"batchItemFailures": [{"itemIdentifier": "zzz"}]}, {"a", "b"}),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, {"a", "b"}),
        ({"batchItemFailures": [{}]}, {"a", "b"}),
        ({"batchItemFailures": ["a"]}, {"a", "b"}),
        ({"batchItemFailures": "a"}, {"a", "b"}),
        ("ok", {"a", "b"}),
    ],
)
def test_an_answer_of_the_wrong_shape_fails_the_whole_batch(answer: Any, failed: set[str]) -> None:
    assert failed_messages(answer, ["a", "b"]) == failed


def test_an_event_has_the_shape_that_lambda_gives() -> None:
    message = {
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Body": "{}",
        "MD5OfBody": "99914b932bd37a50b983c5e7c90ae93b",
        "Attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": "g"},
        "MessageAttributes": {
            "a": {"DataType": "String", "StringValue": "x"},
            "b": {"DataType": "Binary", "BinaryValue": "eA=="},
        },
    }
    (record,) = sqs_event([message], ARN)["Records"]
    assert set(record) == {
        "messageId",
        "receiptHandle",
        "body",
        "attributes",
        "messageAttributes",
        "md5OfBody",
        "eventSource",
        "eventSourceARN",
        "awsRegion",
    }
    assert record["messageAttributes"] == {
        "a": {"stringListValues": [], "binaryListValues": [], "dataType": "String", "stringValue": "x"},
        "b": {"stringListValues": [], "binaryListValues": [], "dataType": "Binary", "binaryValue": "eA=="},
    }
