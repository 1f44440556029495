"""What Lambda gives a function whose source is an SQS queue."""

import time
import uuid


class LambdaContext:
    """The context object of one invocation.

    Args:
        name: the function's name.
        timeout_seconds: the invocation's time, counted from now.
    """

    function_version = "$LATEST"
    memory_limit_in_mb = "1024"
    identity = None
    client_context = None

    def __init__(self, name: str, timeout_seconds: float) -> None:
        self._deadline = time.monotonic() + timeout_seconds
        self.function_name = name
        self.aws_request_id = str(uuid.uuid4())
        self.invoked_function_arn = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
        self.log_group_name = f"/aws/lambda/{name}"
        self.log_stream_name = f"local/{self.aws_request_id}"

    def get_remaining_time_in_millis(self) -> int:
        """Return how much of the invocation's time is left."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))
