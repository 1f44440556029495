"""EventBridge schedule → whatever is overdue is set going again."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from worker_space.bootstrap import environment


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, int]:
    """Answer with how many tasks were sent again, failed, settled or left."""
    return environment().sweep(context)
