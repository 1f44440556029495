"""SQS FIFO batch → one agent task; or, for a queue just made: drain it until its event source mapping has started."""

from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from worker_space.adapters.telemetry import Watch
from worker_space.bootstrap import environment
from worker_space.snapshots import ready_for_snapshots

watch = Watch()
ready_for_snapshots("qdrant_client", "pydantic_ai.models.openai", "worker_space.adapters.model_messages")


@watch
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Answer with the messages to be delivered again (`batchItemFailures`)."""
    if "drain" in event:
        return {"ran": environment().drain(event["drain"], lambda batch: handler(batch, context), context)}
    # One processor an invocation: it keeps what it worked on. Batches are of one message, so their order is no matter.
    processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
    return process_partial_response(event=event, record_handler=_run, processor=processor, context=context)


def _run(record: SQSRecord, lambda_context: LambdaContext) -> None:
    environment().work(record.raw_event, lambda_context)
