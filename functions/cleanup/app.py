"""EventBridge schedule → idle spaces sleep, what is overdue is set going again, erasures come to their end."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from worker_space.bootstrap import environment
from worker_space.snapshots import ready_for_snapshots

ready_for_snapshots("qdrant_client")


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, int]:
    """Answer with what was done how often (`worker_space.jobs.sweep.COUNTS`)."""
    return environment().sweep(context)
