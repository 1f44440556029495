"""Receive, run, delete or leave: what an event source mapping does, for one queue.

The same code serves a new queue until its mapping has started (on AWS) and the embedded stack's worker. It follows
Lambda's rules: an item that the answer names as failed, a raised error and an answer of the wrong shape leave the
message in the queue until its visibility ends; everything else deletes it.
(https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html)
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

__all__ = ["Receiver", "drain", "failed_messages"]

SqsEvent = Mapping[str, Any]
_log = logging.getLogger(__name__)


class Receiver(Protocol):
    """One queue, as its consumer sees it."""

    def receive(self, wait_seconds: int) -> SqsEvent | None:
        """One message as a Lambda SQS event, or `None` when none came within `wait_seconds`."""

    def delete(self, receipt_handle: str) -> None:
        """Acknowledge a message."""


def failed_messages(answer: Any, identifiers: Sequence[str]) -> set[str]:
    """The messages that were not processed, by a function's partial batch answer.

    No answer, an empty one and an empty list mean that all were; an answer of another shape means that none was.
    """
    everything = set(identifiers)
    if answer is None:
        return set()
    if not isinstance(answer, Mapping):
        return everything
    failures = answer.get("batchItemFailures")
    if failures is None:
        return set()
    if not isinstance(failures, list):
        return everything
    failed: set[Any] = {failure.get("itemIdentifier") if isinstance(failure, Mapping) else None for failure in failures}
    return failed if failed <= everything else everything


def drain(receiver: Receiver, run: Callable[[SqsEvent], Any], *, until: Callable[[], bool], wait_seconds: int) -> int:
    """Run messages one by one until told to stop.

    Args:
        run: The function's handler; takes an SQS event.
        until: Asked before each receive; true stops.
        wait_seconds: How long each receive waits for a message, 0 to 20.

    Returns:
        How many events were run, whatever came of them.
    """
    count = 0
    while not until():
        event = receiver.receive(wait_seconds)
        if event is None:
            continue
        count += 1
        records = event["Records"]
        try:
            failed = failed_messages(run(event), [record["messageId"] for record in records])
        except Exception:  # noqa: BLE001 - whatever a function raises fails its batch, not the loop
            _log.exception("the handler failed; the message comes back when its visibility ends")
            continue
        for record in records:
            if record["messageId"] not in failed:
                receiver.delete(record["receiptHandle"])
    return count
