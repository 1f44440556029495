"""FIFO dead-letter queue → the task is sent once more or marked failed, with the reason; nothing vanishes."""

from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from worker_space.adapters.telemetry import Watch
from worker_space.bootstrap import environment
from worker_space.snapshots import ready_for_snapshots

watch = Watch()
ready_for_snapshots("qdrant_client")


@watch
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Answer with the letters to be looked at again (`batchItemFailures`)."""
    processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
    return process_partial_response(event=event, record_handler=_bury, processor=processor, context=context)


def _bury(record: SQSRecord, lambda_context: LambdaContext) -> None:
    environment().bury(record.raw_event)
