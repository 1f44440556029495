"""Messages of one queue as the events that Lambda makes of them."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from botocore.exceptions import ClientError

from worker_space.adapters.aws import error_code

__all__ = ["QueueReceiver", "sqs_event"]

_log: Final = logging.getLogger(__name__)


def sqs_event(messages: Sequence[Mapping[str, Any]], queue_arn: str) -> Mapping[str, Any]:
    """The event of a function whose source is an SQS queue, from the messages of a ReceiveMessage answer."""
    region = queue_arn.split(":")[3]
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message.get("Attributes", {}),
                "messageAttributes": {
                    name: _attribute(value) for name, value in message.get("MessageAttributes", {}).items()
                },
                "md5OfBody": message["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": queue_arn,
                "awsRegion": region,
            }
            for message in messages
        ]
    }


def _attribute(value: Mapping[str, Any]) -> Mapping[str, Any]:
    shown: dict[str, Any] = {"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}
    if "StringValue" in value:
        shown["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        shown["binaryValue"] = value["BinaryValue"]
    return shown


class QueueReceiver:
    """Implements `jobs.drain.Receiver` over a boto3 SQS client.

    Args:
        client: Its read timeout must be longer than the waits asked for.
    """

    def __init__(self, client: Any, *, queue_url: str, queue_arn: str) -> None:
        self._client = client
        self._queue_url = queue_url
        self._queue_arn = queue_arn

    def receive(self, wait_seconds: int) -> Mapping[str, Any] | None:
        try:
            answer = self._client.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=1,
                WaitTimeSeconds=wait_seconds,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        except ClientError as error:
            # A queue that was just made is not known to all servers of SQS for a second or so.
            _log.info("nothing was received: %s", error_code(error))
            time.sleep(1)
            return None
        messages = answer.get("Messages", [])
        return sqs_event(messages, self._queue_arn) if messages else None

    def delete(self, receipt_handle: str) -> None:
        try:
            self._client.delete_message(QueueUrl=self._queue_url, ReceiptHandle=receipt_handle)
        except ClientError as error:
            # It was delivered to somebody else meanwhile, who will find its task ended.
            _log.info("a message was not deleted: %s", error_code(error))
