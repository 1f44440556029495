"""SQS queues in memory, FIFO first: groups, deduplication, visibility, redrive.

Runs on one event loop; an operation never awaits except a long poll, which waits for a change outside of any operation.
Not kept: queue policies, delays of single FIFO messages (AWS refuses them too), encryption, message move tasks.
"""

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias

from worker_space_local.sqs_queue import (
    KNOWN_ATTRIBUTES,
    MAX_MESSAGE_BYTES,
    Message,
    Queue,
    QueueError,
    attribute_bytes,
    attributes_md5,
    does_not_exist,
    invalid,
    shown,
)

Body: TypeAlias = dict[str, Any]
MAX_VISIBILITY_SECONDS = 43_200
NAME_REUSE_SECONDS = 60


class QueueStore:
    """All queues, and the operations on them by their API names.

    ``url`` gives a queue's URL from its name. ``changed`` wakes everyone who waits for a message.
    """

    def __init__(self, region: str, account: str, url: Callable[[str], str]) -> None:
        self.region = region
        self.account = account
        self.queues: dict[str, Queue] = {}
        self._url = url
        self._deleted: dict[str, float] = {}
        self._sequence = 18_850_000_000_000_000_000
        self._waiting: set[asyncio.Future[None]] = set()
        self._operations: dict[str, Callable[[Body], Body]] = {
            "CreateQueue": self.create_queue,
            "DeleteQueue": self.delete_queue,
            "GetQueueUrl": lambda body: {"QueueUrl": self.named(body["QueueName"]).url},
            "ListQueues": self.list_queues,
            "GetQueueAttributes": self.get_queue_attributes,
            "SetQueueAttributes": self.set_queue_attributes,
            "PurgeQueue": self.purge_queue,
            "TagQueue": self.tag_queue,
            "ListQueueTags": lambda body: {"Tags": self.queue(body).tags},
            "SendMessage": self.send_message,
            "SendMessageBatch": lambda body: self._batch(body, self.send_message),
            "DeleteMessage": self.delete_message,
            "DeleteMessageBatch": lambda body: self._batch(body, self.delete_message),
            "ChangeMessageVisibility": self.change_message_visibility,
            "ChangeMessageVisibilityBatch": lambda body: self._batch(body, self.change_message_visibility),
        }

    async def call(self, operation: str, body: Body) -> Body:
        """Run one operation and return its answer's body; a receive may wait.

        Raises:
            QueueError: the error answer to give (all with status 400).
        """
        if operation == "ReceiveMessage":
            return await self.receive_message(body)
        run = self._operations.get(operation)
        if run is None:
            raise QueueError("UnsupportedOperation", f"The local stack has no SQS operation {operation!r}")
        try:
            return run(body)
        except KeyError as exc:
            raise QueueError("MissingParameter", f"The request must contain the parameter {exc}.") from exc

    # Waiting

    def changed(self) -> None:
        """Wake every waiting receive: a message was sent, deleted or made visible."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def wait(self, seconds: float) -> None:
        """Wait for a change, at most that long."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait_for(waiter, max(seconds, 0.001))
        except TimeoutError:
            return
        finally:
            self._waiting.discard(waiter)

    # Queues

    def named(self, name: str) -> Queue:
        """Return the queue of that name.

        Raises:
            QueueError: there is none.
        """
        if name not in self.queues:
            raise does_not_exist()
        return self.queues[name]

    def queue(self, body: Body) -> Queue:
        """Return the queue whose URL a request names; only the URL's last segment counts."""
        return self.named(str(body["QueueUrl"]).rstrip("/").rsplit("/", 1)[-1])

    def by_arn(self, arn: str) -> Queue | None:
        """Return the queue with that ARN, if there is one."""
        return self.queues.get(arn.rsplit(":", 1)[-1])

    def create_queue(self, body: Body) -> Body:
        """CreateQueue; the same name and attributes again is the same queue."""
        name = body["QueueName"]
        attributes = {key: str(value) for key, value in (body.get("Attributes") or {}).items()}
        stem = name.removesuffix(".fifo")
        if not 1 <= len(name) <= 80 or not all(c.isascii() and (c.isalnum() or c in "-_") for c in stem):
            raise invalid("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
        if name.endswith(".fifo") != (attributes.get("FifoQueue") == "true"):
            raise invalid(
                "The queue name and the attribute FifoQueue disagree: FIFO names, and only they, end in .fifo"
            )
        self._check_attributes(attributes)
        if name in self.queues:
            existing = self.queues[name]
            if any(existing.attributes.get(key) != value for key, value in attributes.items()):
                raise QueueError(
                    "QueueNameExists",
                    "A queue already exists with the same name and a different value for an attribute",
                    query_code="QueueAlreadyExists",
                )
            return {"QueueUrl": existing.url}
        if time.monotonic() - self._deleted.get(name, float("-inf")) < NAME_REUSE_SECONDS:
            raise QueueError(
                "QueueDeletedRecently",
                "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
                query_code="AWS.SimpleQueueService.QueueDeletedRecently",
            )
        arn = f"arn:aws:sqs:{self.region}:{self.account}:{name}"
        queue = self.queues[name] = Queue(name, attributes, url=self._url(name), arn=arn)
        queue.tags.update(body.get("tags") or {})
        return {"QueueUrl": queue.url}

    def _check_attributes(self, attributes: dict[str, str]) -> None:
        if unknown := sorted(set(attributes) - KNOWN_ATTRIBUTES):
            raise QueueError("InvalidAttributeName", f"Unknown Attribute {unknown[0]}.")
        if not 0 <= int(attributes.get("VisibilityTimeout", 0)) <= MAX_VISIBILITY_SECONDS:
            raise QueueError("InvalidAttributeValue", "Invalid value for the parameter VisibilityTimeout.")
        if (text := attributes.get("RedrivePolicy")) and self.by_arn(json.loads(text)["deadLetterTargetArn"]) is None:
            raise invalid(
                f"Value {text} for parameter RedrivePolicy is invalid. Reason: Dead letter target does not exist."
            )

    def delete_queue(self, body: Body) -> Body:
        """DeleteQueue: at once, with its messages; the name is refused for a minute."""
        queue = self.queue(body)
        del self.queues[queue.name]
        self._deleted[queue.name] = time.monotonic()
        self.changed()
        return {}

    def list_queues(self, body: Body) -> Body:
        """ListQueues by prefix, in pages when MaxResults is given."""
        names = sorted(name for name in self.queues if name.startswith(body.get("QueueNamePrefix") or ""))
        start, size = body.get("NextToken") or "", body.get("MaxResults")
        names = [name for name in names if name > start]
        answer: Body = {"QueueUrls": [self.queues[name].url for name in names[: size or 1000]]}
        if size and len(names) > size:
            answer["NextToken"] = names[size - 1]
        return answer

    def get_queue_attributes(self, body: Body) -> Body:
        """GetQueueAttributes, counts included."""
        queue, now = self.queue(body), time.time()
        queue.settle(now)
        in_flight = sum(message.in_flight for message in queue.messages)
        delayed = sum(not message.in_flight and message.visible_at > now for message in queue.messages)
        found = {
            **queue.attributes,
            **queue.created,
            "QueueArn": queue.arn,
            "ApproximateNumberOfMessages": str(len(queue.messages) - in_flight - delayed),
            "ApproximateNumberOfMessagesNotVisible": str(in_flight),
            "ApproximateNumberOfMessagesDelayed": str(delayed),
        }
        wanted = body.get("AttributeNames") or []
        return {"Attributes": {name: value for name, value in found.items() if name in wanted or "All" in wanted}}

    def set_queue_attributes(self, body: Body) -> Body:
        """SetQueueAttributes."""
        queue = self.queue(body)
        attributes = {key: str(value) for key, value in body["Attributes"].items()}
        self._check_attributes(attributes)
        queue.attributes.update(attributes)
        return {}

    def purge_queue(self, body: Body) -> Body:
        """PurgeQueue: deletes every message at once."""
        queue = self.queue(body)
        for message in list(queue.messages):
            queue.remove(message)
        self.changed()
        return {}

    def tag_queue(self, body: Body) -> Body:
        """TagQueue."""
        self.queue(body).tags.update(body["Tags"])
        return {}

    # Messages

    def send_message(self, body: Body) -> Body:
        """SendMessage; within five minutes the same deduplication id is answered but not delivered again."""
        queue, now = self.queue(body), time.time()
        text = body["MessageBody"]
        attributes: Body = body.get("MessageAttributes") or {}
        if not text:
            raise QueueError("MissingParameter", "The request must contain the parameter MessageBody.")
        size = len(text.encode()) + sum(len(name) + attribute_bytes(value) for name, value in attributes.items())
        if size > int(queue.attributes["MaximumMessageSize"]):
            raise invalid(
                "One or more parameters are invalid. Reason: Message must be shorter than "
                f"{queue.attributes['MaximumMessageSize']} bytes."
            )
        group, deduplication = body.get("MessageGroupId"), body.get("MessageDeduplicationId")
        delay = int(body.get("DelaySeconds", queue.attributes["DelaySeconds"]))
        if queue.fifo:
            if not group:
                raise QueueError("MissingParameter", "The request must contain the parameter MessageGroupId.")
            if body.get("DelaySeconds"):
                raise invalid(
                    f"Value {delay} for parameter DelaySeconds is invalid. Reason: The request include parameter that "
                    "is not valid for this queue type."
                )
            if not deduplication:
                if queue.attributes["ContentBasedDeduplication"] != "true":
                    raise invalid(
                        "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId "
                        "provided explicitly"
                    )
                deduplication = hashlib.sha256(text.encode()).hexdigest()
            if len(group) > 128 or len(deduplication) > 128:
                raise invalid("MessageGroupId and MessageDeduplicationId can be at most 128 characters long")
        self._sequence += 256
        message = Message(
            id=str(uuid.uuid4()),
            body=text,
            md5=hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
            attributes=attributes,
            group=group,
            deduplication=deduplication,
            sequence=self._sequence,
            sent_at=now,
            visible_at=now + delay if delay else 0.0,
        )
        if (earlier := queue.duplicate(message, now) if queue.fifo else None) is not None:
            message = earlier
        else:
            queue.add(message)
            self.changed()
        answer = {"MessageId": message.id, "MD5OfMessageBody": message.md5}
        if attributes:
            answer["MD5OfMessageAttributes"] = attributes_md5(attributes)
        if queue.fifo:
            answer["SequenceNumber"] = str(message.sequence)
        return answer

    async def receive_message(self, body: Body) -> Body:
        """ReceiveMessage; waits up to WaitTimeSeconds for the first message."""
        queue = self.queue(body)
        wait = int(body.get("WaitTimeSeconds", queue.attributes["ReceiveMessageWaitTimeSeconds"]))
        count = int(body.get("MaxNumberOfMessages", 1))
        if not 0 <= wait <= 20 or not 1 <= count <= 10:
            raise invalid("WaitTimeSeconds must be between 0 and 20, MaxNumberOfMessages between 1 and 10")
        deadline = time.monotonic() + wait
        while True:
            queue = self.queue(body)
            if found := self._received(queue, count, body.get("VisibilityTimeout")):
                names = {*(body.get("AttributeNames") or []), *(body.get("MessageSystemAttributeNames") or [])}
                wanted = body.get("MessageAttributeNames") or []
                return {"Messages": [shown(message, names, wanted) for message in found]}
            left = deadline - time.monotonic()
            if left <= 0:
                return {}
            due = queue.next_change(time.time())
            await self.wait(left if due is None else min(left, due))

    def _received(self, queue: Queue, count: int, visibility: int | None) -> list[Message]:
        now = time.time()
        seconds = int(queue.attributes["VisibilityTimeout"] if visibility is None else visibility)
        self.redrive(queue, now)
        found = queue.receivable(now)[:count]
        for message in found:
            message.received += 1
            message.first_received_at = message.first_received_at or now
            # The name leads the handle, so that a handle of a deleted message can be told from nonsense.
            message.receipt = f"{queue.name}/{uuid.uuid4()}"
            message.receipts.add(message.receipt)
            queue.by_receipt[message.receipt] = message
            message.visible_at = now + seconds
            message.in_flight = seconds > 0
        return found

    def redrive(self, queue: Queue, now: float) -> None:
        """Move messages that were received too often to the dead-letter queue, with body, group and attributes."""
        policy = queue.redrive
        if policy is None or (target := self.by_arn(policy[0])) is None:
            return
        moved = [message for message in queue.receivable(now) if message.received >= policy[1]]
        for message in moved:
            queue.remove(message)
            message.receipts.clear()
            message.receipt = None
            message.visible_at = 0.0
            target.add(message)
        if moved:
            self.changed()

    def delete_message(self, body: Body) -> Body:
        """DeleteMessage; a handle that has expired is refused for FIFO queues."""
        queue = self.queue(body)
        message = queue.held(body["ReceiptHandle"], time.time(), what="delete")
        if message is not None:
            queue.remove(message)
            self.changed()
        return {}

    def change_message_visibility(self, body: Body) -> Body:
        """ChangeMessageVisibility of a message in flight, at most twelve hours after it was received."""
        queue, now = self.queue(body), time.time()
        seconds = int(body["VisibilityTimeout"])
        if not 0 <= seconds <= MAX_VISIBILITY_SECONDS:
            raise invalid(
                f"Value {seconds} for parameter VisibilityTimeout is invalid. Reason: VisibilityTimeout must be an "
                "integer between 0 and 43200."
            )
        message = queue.held(body["ReceiptHandle"], now, what="change")
        if message is None:
            raise invalid(
                f"Value {body['ReceiptHandle']} for parameter ReceiptHandle is invalid. Reason: Message does not exist "
                "or is not available for visibility timeout change."
            )
        if now + seconds - (message.first_received_at or now) > MAX_VISIBILITY_SECONDS:
            raise invalid(
                f"Value {seconds} for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the "
                "message is beyond the limit [43200 seconds]"
            )
        message.visible_at = now + seconds
        message.in_flight = seconds > 0
        self.changed()
        return {}

    def _batch(self, body: Body, run: Callable[[Body], Body]) -> Body:
        entries = body["Entries"]
        if not 1 <= len(entries) <= 10:
            name = "EmptyBatchRequest" if not entries else "TooManyEntriesInBatchRequest"
            raise QueueError(name, "A batch holds 1 to 10 entries.", query_code=f"AWS.SimpleQueueService.{name}")
        if len({entry["Id"] for entry in entries}) != len(entries):
            raise QueueError(
                "BatchEntryIdsNotDistinct",
                "Two or more batch entries in the request have the same Id.",
                query_code="AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            )
        if sum(len(entry.get("MessageBody", "").encode()) for entry in entries) > MAX_MESSAGE_BYTES:
            raise QueueError(
                "BatchRequestTooLong",
                "The length of all the messages put together is more than the limit.",
                query_code="AWS.SimpleQueueService.BatchRequestTooLong",
            )
        self.queue(body)
        successful: list[Body] = []
        failed: list[Body] = []
        for entry in entries:
            try:
                successful.append({"Id": entry["Id"], **run({**entry, "QueueUrl": body["QueueUrl"]})})
            except QueueError as exc:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": exc.query_code, "Message": exc.message})
        return {"Successful": successful, "Failed": failed}
