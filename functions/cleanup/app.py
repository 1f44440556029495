"""EventBridge schedules → idle spaces sleep, what is overdue is set going again, erasures come to their end.

Once a day (`{"reconcile": true}`) queues and mappings that no project knows of are removed instead.
"""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from worker_space.adapters.telemetry import Watch
from worker_space.bootstrap import environment
from worker_space.snapshots import ready_for_snapshots

watch = Watch()
ready_for_snapshots("qdrant_client")


@watch
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, int]:
    """Answer with what was done how often (`jobs.sweep.COUNTS` or `jobs.reconcile.RECONCILED`)."""
    here = environment()
    return here.reconcile(context) if "reconcile" in event else here.sweep(context)
