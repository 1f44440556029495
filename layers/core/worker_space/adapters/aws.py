"""The one place where boto3 is called: clients, worker threads, deadlines and the translation of its errors.

boto3 is synchronous, so calls run in an executor of their own: a hung call must not starve the loop's default
executor. Retries inside botocore are off: a repeated conditional write may report the failure of its own first try.
What may safely happen twice is repeated here, a bounded number of times.
"""

import asyncio
import contextvars
import functools
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError

from worker_space.errors import Unavailable

__all__ = ["AwsCalls", "error_code", "is_passing", "make_client", "make_signer"]

# boto3 makes clients in one thread at a time; using them is safe in all.
_MAKING: Final = threading.Lock()
# Given, it is sent as it is. botocore would spell its own twice for every request: a tenth of the CPU of a call.
_USER_AGENT: Final = f"worker-space Boto3/{boto3.__version__}"

_TRANSIENT: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "ServiceException",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottlingException",
        "Throttling",
        "TooManyRequestsException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)


def make_client(
    service: str,
    *,
    region: str,
    timeout_seconds: float = 1.8,
    connections: int = 32,
    keys: Mapping[str, str] | None = None,
) -> Any:
    """A boto3 client with deadlines and without retries; endpoint and credentials as botocore finds them.

    Args:
        keys: Other credentials, as `boto3.client` takes them.
    """
    config = Config(
        connect_timeout=min(1.0, timeout_seconds),
        read_timeout=timeout_seconds,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": "path"},
        parameter_validation=False,
        user_agent=_USER_AGENT,
    )
    with _MAKING:
        return boto3.client(service, region_name=region, config=config, **(keys or {}))  # type: ignore[call-overload]


def make_signer(client: Any, keys: Mapping[str, str] | None = None) -> Any:
    """An S3 client that only signs addresses: at the bucket's own host in its region, or by path at another endpoint.

    Signature Version 4 is asked for, because botocore signs addresses of the oldest regions with the one before.

    Args:
        client: Says where the bucket is.
        keys: Other credentials than the function's own.
    """
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    own = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "virtual" if own else "path", "us_east_1_regional_endpoint": "regional"},
        parameter_validation=False,
    )
    endpoint = None if own else client.meta.endpoint_url
    with _MAKING:
        return boto3.client(  # type: ignore[call-overload]
            "s3", region_name=client.meta.region_name, endpoint_url=endpoint, config=config, **(keys or {})
        )


def error_code(error: ClientError) -> str:
    """AWS's short name of an error, such as `ConditionalCheckFailedException` or `404`."""
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def is_passing(error: ClientError) -> bool:
    """Whether AWS refused for a reason that passes: the same call may succeed in a moment."""
    return error_code(error) in _TRANSIENT


class AwsCalls:
    """Runs boto3 calls in worker threads and turns failures of the service itself into `Unavailable`.

    Args:
        executor: Threads for the calls; shared by the clients of one environment.
        attempts: How often a call is tried that AWS refused for a passing reason before it did anything.
    """

    def __init__(self, executor: ThreadPoolExecutor, *, attempts: int = 3) -> None:
        self._executor = executor
        self._attempts = attempts

    async def __call__(self, dependency: str, call: Callable[..., Any], /, **arguments: Any) -> Any:
        """The call's answer.

        Raises:
            Unavailable: No answer within the client's deadline, or throttled or failing after all tries.
            ClientError: AWS refused the request for a reason that the adapter has to know.
        """
        loop = asyncio.get_running_loop()
        for attempt in range(1, self._attempts + 1):
            try:
                # In the caller's context: what listens to boto3's events there can tell whose call it is.
                return await loop.run_in_executor(
                    self._executor, contextvars.copy_context().run, functools.partial(call, **arguments)
                )
            except ClientError as error:
                if not is_passing(error):
                    raise
                if attempt == self._attempts:
                    raise Unavailable(dependency, error_code(error)) from error
            except ConnectionClosedError as error:
                # A kept connection that the other side had closed, as after every pause of a Lambda environment: the
                # request was not looked at. Once more is harmless all the same, see the module's text.
                if attempt > 1:
                    raise Unavailable(dependency, type(error).__name__) from error
                continue
            except BotoCoreError as error:
                raise Unavailable(dependency, type(error).__name__) from error
            await asyncio.sleep(random.uniform(0.01, 0.05) * 2**attempt)  # noqa: S311 - spread, not a secret
        raise AssertionError("the last attempt returns or raises")
