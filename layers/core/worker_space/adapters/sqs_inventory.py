"""What there really is of projects' queues and mappings, for the reconciler and for teardown."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from worker_space.adapters.aws import AwsCalls
from worker_space.adapters.sqs_errors import MAPPING_GONE, QUEUE_GONE, sqs_code
from worker_space.errors import InvalidRequest, Unavailable
from worker_space.ports import FoundMapping
from worker_space.tenancy import Names

if TYPE_CHECKING:
    from mypy_boto3_lambda.client import LambdaClient
    from mypy_boto3_sqs.client import SQSClient

__all__ = ["SqsInventory"]

_SQS: Final = "sqs"
_LAMBDA: Final = "lambda"
_QUEUES_A_PAGE: Final = 1000
_MAPPINGS_A_PAGE: Final = 100


class _GoneError(Exception):
    """What a call was about is not there."""


class SqsInventory:
    """`FoundQueues` on boto3.

    It needs `sqs:ListQueues`, `lambda:ListEventSourceMappings`, `sqs:GetQueueAttributes` and `DeleteQueue` on queues
    that begin with `names.queues`, and `lambda:DeleteEventSourceMapping` on the worker's mappings.

    Args:
        sqs: A client from `make_client("sqs")`.
        lambda_: A client from `make_client("lambda")`.
        calls: Runs the clients' calls.
        names: Tells this deployment's queues from all others.
        arn_prefix: `arn:aws:sqs:REGION:ACCOUNT`, of the queues.
        worker_function: Only mappings of this function (name or ARN, with its alias) are listed; `None` lists those of
            every function, as after the function itself has gone.
        calls_a_second: At most; Lambda's control plane takes 15 from a whole account, and users come first.
    """

    def __init__(
        self,
        sqs: "SQSClient",
        lambda_: "LambdaClient",
        calls: AwsCalls,
        names: Names,
        *,
        arn_prefix: str,
        worker_function: str | None,
        calls_a_second: float = 5.0,
    ) -> None:
        self._sqs = sqs
        self._lambda = lambda_
        self._calls = calls
        self._names = names
        self._arn_prefix = arn_prefix
        self._account = arn_prefix.rpartition(":")[2]
        self._worker_function = worker_function
        self._pause = 1.0 / calls_a_second
        self._next_call = 0.0

    async def queues(self) -> AsyncIterator[Sequence[str]]:
        """The names of projects' own queues, up to 1,000 a page."""
        arguments: dict[str, Any] = {"QueueNamePrefix": self._names.queues, "MaxResults": _QUEUES_A_PAGE}
        while True:
            answer = await self._call(_SQS, self._sqs.list_queues, **arguments)
            names = [url.rpartition("/")[2] for url in answer.get("QueueUrls", ())]
            yield [name for name in names if self._names.queue_owner(name)]
            if not answer.get("NextToken"):
                return
            arguments["NextToken"] = answer["NextToken"]

    async def mappings(self) -> AsyncIterator[Sequence[FoundMapping]]:
        """The mappings of projects' own queues, up to 100 a page."""
        arguments: dict[str, Any] = {"MaxItems": _MAPPINGS_A_PAGE}
        if self._worker_function is not None:
            arguments["FunctionName"] = self._worker_function
        while True:
            answer = await self._listed(**arguments)
            yield self._found(answer)
            if not answer.get("NextMarker"):
                return
            arguments["Marker"] = answer["NextMarker"]

    async def mappings_of(self, queue: str) -> Sequence[FoundMapping]:
        """The mappings of one queue."""
        return self._found(await self._listed(EventSourceArn=f"{self._arn_prefix}:{queue}"))

    async def made_at(self, queue: str) -> int | None:
        """When the queue was made, epoch milliseconds; `None` when there is no such queue."""
        try:
            answer = await self._call(
                _SQS, self._sqs.get_queue_attributes, QueueUrl=self._url(queue), AttributeNames=["CreatedTimestamp"]
            )
        except _GoneError:
            return None
        return int(answer["Attributes"]["CreatedTimestamp"]) * 1000

    async def remove_queue(self, queue: str) -> None:
        """Delete a queue with what is in it; one that is gone is success.

        Raises:
            InvalidRequest: It is no project's own queue of this deployment.
        """
        self._check(queue)
        with suppress(_GoneError):
            await self._call(_SQS, self._sqs.delete_queue, QueueUrl=self._url(queue))

    async def remove_mapping(self, mapping: FoundMapping) -> None:
        """Delete a mapping; one that is gone is success.

        Raises:
            InvalidRequest: Its source is no project's own queue of this deployment.
            Unavailable: Also when it is being changed just now; repeat it later.
        """
        self._check(mapping.queue)
        with suppress(_GoneError):
            await self._call(_LAMBDA, self._lambda.delete_event_source_mapping, UUID=mapping.id)

    def _check(self, queue: str) -> None:
        """Whoever lists wrongly must not delete wrongly, too."""
        if self._names.queue_owner(queue) is None:
            raise InvalidRequest(f"{queue!r} is no project's queue of the deployment {self._names.prefix!r}")

    async def _listed(self, **arguments: Any) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = await self._call(_LAMBDA, self._lambda.list_event_source_mappings, **arguments)
        except _GoneError:
            return {}
        return answer

    def _found(self, answer: Mapping[str, Any]) -> Sequence[FoundMapping]:
        return [
            FoundMapping(id=mapping["UUID"], queue=queue, changed_at=int(mapping["LastModified"].timestamp() * 1000))
            for mapping in answer.get("EventSourceMappings", ())
            if mapping.get("State") != "Deleting"
            and self._names.queue_owner(queue := mapping.get("EventSourceArn", "").rpartition(":")[2])
        ]

    async def _call(self, dependency: str, call: Callable[..., Any], **arguments: Any) -> Any:
        await asyncio.sleep(max(0.0, self._next_call - time.monotonic()))
        self._next_call = time.monotonic() + self._pause
        try:
            return await self._calls(dependency, call, **arguments)
        except ClientError as error:
            if sqs_code(error) in QUEUE_GONE | {MAPPING_GONE}:
                raise _GoneError from error
            raise Unavailable(dependency, sqs_code(error)) from error

    def _url(self, name: str) -> str:
        return f"{self._sqs.meta.endpoint_url.rstrip('/')}/{self._account}/{name}"
