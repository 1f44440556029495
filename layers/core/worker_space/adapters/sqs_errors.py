"""What SQS and Lambda's mappings answer when something is not there."""

from typing import Final

from botocore.exceptions import ClientError

from worker_space.adapters.aws import error_code

__all__ = ["MAPPING_GONE", "QUEUE_GONE", "sqs_code"]

# SQS answers in the codes of its old protocol or of its new one, by the client's version.
_QUERY_PREFIX: Final = "AWS.SimpleQueueService."
QUEUE_GONE: Final = frozenset({"NonExistentQueue", "QueueDoesNotExist"})
MAPPING_GONE: Final = "ResourceNotFoundException"


def sqs_code(error: ClientError) -> str:
    """The error's short name, the same in both protocols."""
    return error_code(error).removeprefix(_QUERY_PREFIX)
