"""One SQS queue and its messages: groups, visibility, deduplication, receipt handles."""

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Body: TypeAlias = dict[str, Any]
MAX_MESSAGE_BYTES = 1024 * 1024
DEDUPLICATION_SECONDS = 300
_DEFAULTS = {
    "VisibilityTimeout": "30",
    "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
    "MessageRetentionPeriod": "345600",
    "DelaySeconds": "0",
    "ReceiveMessageWaitTimeSeconds": "0",
}
_FIFO_DEFAULTS = {
    "ContentBasedDeduplication": "false",
    "DeduplicationScope": "queue",
    "FifoThroughputLimit": "perQueue",
}
KNOWN_ATTRIBUTES = {
    *_DEFAULTS,
    *_FIFO_DEFAULTS,
    "FifoQueue",
    "RedrivePolicy",
    "RedriveAllowPolicy",
    "Policy",
    "SqsManagedSseEnabled",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
}


class QueueError(Exception):
    """An error answer: the modelled name, the message and the older protocol's code (what botocore shows)."""

    def __init__(self, name: str, message: str, *, query_code: str | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.query_code = query_code or name


def does_not_exist() -> QueueError:
    """The error of every operation on a queue that is not there."""
    return QueueError(
        "QueueDoesNotExist",
        "The specified queue does not exist.",
        query_code="AWS.SimpleQueueService.NonExistentQueue",
    )


def invalid(message: str) -> QueueError:
    """The error of a parameter that is out of its range."""
    return QueueError("InvalidParameterValue", message)


@dataclass(kw_only=True, eq=False)
class Message:
    """One message; ``visible_at`` is the time (epoch seconds) from which it can be received."""

    id: str
    body: str
    md5: str
    attributes: Body
    group: str | None
    deduplication: str | None
    sequence: int
    sent_at: float
    visible_at: float
    first_received_at: float | None = None
    received: int = 0
    receipts: set[str] = field(default_factory=set)
    receipt: str | None = None
    in_flight: bool = False


class Queue:
    """One queue and its messages, in the order they were sent."""

    def __init__(self, name: str, attributes: dict[str, str], *, url: str, arn: str) -> None:
        now = str(int(time.time()))
        self.name = name
        self.url = url
        self.arn = arn
        self.fifo = name.endswith(".fifo")
        self.given = dict(attributes)
        self.attributes = {**_DEFAULTS, **(_FIFO_DEFAULTS if self.fifo else {}), **attributes}
        self.created = {"CreatedTimestamp": now, "LastModifiedTimestamp": now}
        self.tags: dict[str, str] = {}
        self.messages: dict[Message, None] = {}
        self.by_receipt: dict[str, Message] = {}
        self._deduplicated: dict[tuple[str | None, str], tuple[float, Message]] = {}

    @property
    def redrive(self) -> tuple[str, int] | None:
        """The dead-letter queue's ARN and the number of receives after which a message goes there."""
        text = self.attributes.get("RedrivePolicy")
        if not text:
            return None
        policy = json.loads(text)
        return policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])

    def settle(self, now: float) -> None:
        """Make messages whose visibility has run out receivable again."""
        for message in self.messages:
            if message.in_flight and message.visible_at <= now:
                message.in_flight = False

    def receivable(self, now: float) -> list[Message]:
        """Return the messages that can be received now, oldest first: for FIFO only of groups with none in flight."""
        self.settle(now)
        if not self.fifo:
            return [message for message in self.messages if not message.in_flight and message.visible_at <= now]
        blocked = {message.group for message in self.messages if message.in_flight}
        found = []
        for message in self.messages:
            if message.group in blocked:
                continue
            if message.visible_at > now:
                blocked.add(message.group)
                continue
            found.append(message)
        return found

    def next_change(self, now: float) -> float | None:
        """Return in how many seconds a message becomes visible by time alone; ``None`` when none will."""
        waiting = [message.visible_at - now for message in self.messages if message.visible_at > now]
        return min(waiting) if waiting else None

    def duplicate(self, message: Message, now: float) -> Message | None:
        """Return the message sent under the same deduplication id in the last five minutes, else remember this one."""
        if message.deduplication is None:
            return None
        while self._deduplicated and now - next(iter(self._deduplicated.values()))[0] > DEDUPLICATION_SECONDS:
            del self._deduplicated[next(iter(self._deduplicated))]
        group = message.group if self.attributes.get("DeduplicationScope") == "messageGroup" else None
        key = (group, message.deduplication)
        if key in self._deduplicated:
            return self._deduplicated[key][1]
        self._deduplicated[key] = (now, message)
        return None

    def add(self, message: Message) -> None:
        """Append a message."""
        self.messages[message] = None

    def remove(self, message: Message) -> None:
        """Forget a message and its receipt handles."""
        self.messages.pop(message, None)
        for receipt in message.receipts:
            self.by_receipt.pop(receipt, None)

    def held(self, receipt: str, now: float, *, what: str) -> Message | None:
        """Return the message a receipt handle still holds; ``None`` when it is gone already.

        Raises:
            QueueError: not a receipt handle of this queue, or (FIFO) one whose visibility has run out.
        """
        self.settle(now)
        message = self.by_receipt.get(receipt)
        if message is None:
            if receipt.startswith(f"{self.name}/"):
                return None
            raise QueueError(
                "ReceiptHandleIsInvalid", f'The input receipt handle "{receipt}" is not a valid receipt handle.'
            )
        if message.receipt != receipt or (not message.in_flight and (self.fifo or what == "change")):
            if self.fifo:
                raise invalid(
                    f"Value {receipt} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
                )
            if what == "change":
                raise QueueError(
                    "MessageNotInflight",
                    "The message referred to isn't in flight.",
                    query_code="AWS.SimpleQueueService.MessageNotInflight",
                )
        return message


def _system_attributes(message: Message) -> dict[str, str]:
    """Return the system attributes of a received message, as text."""
    found = {
        "ApproximateReceiveCount": str(message.received),
        "SentTimestamp": str(int(message.sent_at * 1000)),
        "SenderId": "AIDAIENQZJOLO23YVJ4VO",
        "ApproximateFirstReceiveTimestamp": str(int((message.first_received_at or message.sent_at) * 1000)),
    }
    if message.group is not None:
        found["MessageGroupId"] = message.group
    if message.deduplication is not None:
        found["MessageDeduplicationId"] = message.deduplication
        found["SequenceNumber"] = str(message.sequence)
    return found


def shown(message: Message, names: set[str], wanted: list[str]) -> Body:
    """Return a received message as an answer shows it: with these system attributes and these of its own."""
    answer: Body = {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "MD5OfBody": message.md5,
        "Body": message.body,
    }
    system = _system_attributes(message)
    if chosen_system := {name: value for name, value in system.items() if name in names or "All" in names}:
        answer["Attributes"] = chosen_system
    prefixes = tuple(name.removesuffix("*").removesuffix(".") for name in wanted if name.endswith("*"))
    chosen = {
        name: value
        for name, value in message.attributes.items()
        if name in wanted or "All" in wanted or (prefixes and name.startswith(prefixes))
    }
    if chosen:
        answer["MessageAttributes"] = chosen
        answer["MD5OfMessageAttributes"] = attributes_md5(chosen)
    return answer


def attribute_bytes(value: Body) -> int:
    """Return what one message attribute counts towards the message's size."""
    return len(value["DataType"]) + len(str(value.get("StringValue") or value.get("BinaryValue") or "").encode())


def attributes_md5(attributes: Body) -> str:
    """Return the digest AWS clients verify: names in order, each part with its length in four bytes."""
    digest = hashlib.md5(usedforsecurity=False)
    for name, value in sorted(attributes.items()):
        for part in (name, value["DataType"]):
            digest.update(len(part.encode()).to_bytes(4, "big") + part.encode())
        text = value.get("StringValue")
        # 1 marks text, 2 binary data.
        digest.update(b"\x01" if text is not None else b"\x02")
        content = text.encode() if text is not None else base64.b64decode(value["BinaryValue"])
        digest.update(len(content).to_bytes(4, "big") + content)
    return digest.hexdigest()
