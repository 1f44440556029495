"""Project queues on SQS, and the Lambda event source mappings that drain them.

Queues and mappings are made and released while the service runs. Every step may be repeated by whoever finds it half
done, so "exists already" and "gone already" are success. Nothing about a queue is kept between calls: its address and
ARN follow from its name and from the dead-letter queue's ARN, which lies in the same account and region.
"""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from worker_space.adapters.aws import AwsCalls
from worker_space.adapters.credentials import ClientOf, the_same
from worker_space.adapters.sqs_errors import MAPPING_GONE, QUEUE_GONE, sqs_code
from worker_space.errors import ClaimLost, InvalidRequest, NotFound, Unavailable
from worker_space.ports import Lease
from worker_space.tenancy import Names, TenantContext

if TYPE_CHECKING:
    from mypy_boto3_lambda.client import LambdaClient
    from mypy_boto3_sqs.client import SQSClient

__all__ = ["SqsQueues", "queue_of"]

_SQS: Final = "sqs"
_LAMBDA: Final = "lambda"

_QUEUE_DIFFERS: Final = frozenset({"QueueAlreadyExists", "QueueNameExists"})
# `InvalidParameterValue` is what a FIFO queue answers to a receipt handle that has expired.
_RECEIPT_OLD: Final = frozenset({"InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid"}) | QUEUE_GONE
_MAPPING_EXISTS: Final = "ResourceConflictException"
_TRY_LATER: Final = frozenset({"ResourceInUseException", "ResourceConflictException", "TooManyRequestsException"})

_RETENTION_SECONDS: Final = 14 * 24 * 3600
_VISIBILITY_MAX_SECONDS: Final = 12 * 3600
_RECEIVES: Final = 10
_LISTED: Final = 1000
_DEPTHS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)


def queue_of(lease: Lease) -> str:
    """The name of the queue that a delivery is from."""
    return lease.queue_url.rpartition("/")[2]


class SqsQueues:
    """`Queues` on boto3, a queue for each project.

    It needs these permissions, on queues that begin with `names.queues` and on their mappings: `sqs:CreateQueue`,
    `SetQueueAttributes`, `DeleteQueue`, `SendMessage`, `ChangeMessageVisibility`, `GetQueueAttributes` (also on the
    dead-letter queue), `ListQueues`, `lambda:CreateEventSourceMapping`, `ListEventSourceMappings`,
    `DeleteEventSourceMapping`, `TagResource` (on mappings) and `InvokeFunction` (on the worker).

    Args:
        sqs: A client from `make_client("sqs")`.
        lambda_: A client from `make_client("lambda")`.
        calls: Runs the clients' calls.
        names: Spells the queues.
        worker_function: Name or ARN of the worker, with its alias; the mapping's target.
        worker_timeout_seconds: The worker's timeout; a queue's visibility timeout must not be shorter.
        dead_letter_arn: The FIFO queue that takes a message after its 10th receive.
        maximum_concurrency: Most workers that one queue gets at once, 2 to 1000; `None` sets no limit.
        sqs_of: Finds the client for a tenant's queues; without it, `sqs` is everybody's. Queues are listed, and
            mappings made and removed, with the function's own permissions: AWS limits neither to a tenant.
    """

    def __init__(
        self,
        sqs: "SQSClient",
        lambda_: "LambdaClient",
        calls: AwsCalls,
        names: Names,
        *,
        worker_function: str,
        worker_timeout_seconds: int,
        dead_letter_arn: str,
        maximum_concurrency: int | None = None,
        sqs_of: ClientOf | None = None,
    ) -> None:
        self._sqs = sqs
        self._sqs_of = sqs_of or the_same(sqs)
        self._lambda = lambda_
        self._calls = calls
        self._names = names
        self._worker_function = worker_function
        self._worker_timeout_seconds = worker_timeout_seconds
        self._dead_letter_arn = dead_letter_arn
        self._maximum_concurrency = maximum_concurrency
        self._arn_prefix, _, self._dead_letter_name = dead_letter_arn.rpartition(":")
        self._account = self._arn_prefix.rpartition(":")[2]

    async def create(self, tenant: TenantContext, generation: int) -> None:
        """Make queue and mapping; what exists already is success.

        Raises:
            Unavailable: Also when the queue's name was deleted less than 60 s ago.
        """
        name, sqs = self._names.queue(tenant, generation), self._sqs_of(tenant)
        changeable = {
            "VisibilityTimeout": str(self._worker_timeout_seconds),
            "MessageRetentionPeriod": str(_RETENTION_SECONDS),
            "SqsManagedSseEnabled": "true",
            "RedrivePolicy": json.dumps(
                {"deadLetterTargetArn": self._dead_letter_arn, "maxReceiveCount": str(_RECEIVES)}
            ),
        }
        # Deduplication in the whole queue, not per group: a task sent again may have got another slot's group.
        fixed = {"FifoQueue": "true", "ContentBasedDeduplication": "false"}
        try:
            await self._calls(_SQS, sqs.create_queue, QueueName=name, Attributes={**fixed, **changeable})
        except ClientError as error:
            if sqs_code(error) not in _QUEUE_DIFFERS:
                raise Unavailable(_SQS, sqs_code(error)) from error
            # Made by a deployment with another worker timeout: a mapping would be refused.
            await self._sqs_call(sqs.set_queue_attributes, QueueUrl=self._url(name), Attributes=changeable)
        await self._create_mapping(name)

    async def release(self, tenant: TenantContext, generation: int) -> None:
        """Delete mapping and queue; what is gone already is success.

        Raises:
            Unavailable: Also when the mapping is being changed just now; repeat it later.
        """
        name = self._names.queue(tenant, generation)
        for mapping in await self._mappings(name):
            try:
                await self._control(self._lambda.delete_event_source_mapping, UUID=mapping)
            except ClientError as error:
                if sqs_code(error) != MAPPING_GONE:
                    raise Unavailable(_LAMBDA, sqs_code(error)) from error
        try:
            await self._calls(_SQS, self._sqs_of(tenant).delete_queue, QueueUrl=self._url(name))
        except ClientError as error:
            if sqs_code(error) not in QUEUE_GONE:
                raise Unavailable(_SQS, sqs_code(error)) from error

    async def send(self, tenant: TenantContext, generation: int, body: str, *, group: str, deduplication: str) -> None:
        """Send one message, with one request.

        Raises:
            NotFound: The queue is gone.
        """
        name = self._names.queue(tenant, generation)
        if not await self.send_to(tenant, name, body, group=group, deduplication=deduplication):
            raise NotFound(f"the project's queue of generation {generation} is gone")

    async def send_to(self, tenant: TenantContext, name: str, body: str, *, group: str, deduplication: str) -> bool:
        """Send one message to the queue of this name; false when there is none."""
        try:
            answer = await self._calls(
                _SQS,
                self._sqs_of(tenant).send_message,
                QueueUrl=self._url(name),
                MessageBody=body,
                MessageGroupId=group,
                MessageDeduplicationId=deduplication,
            )
        except ClientError as error:
            if sqs_code(error) in QUEUE_GONE:
                return False
            raise Unavailable(_SQS, sqs_code(error)) from error
        if "MessageId" not in answer:  # a page of something in between, taken for an answer without members
            raise Unavailable(_SQS, "SendMessage was answered without a message id")
        return True

    async def extend(self, tenant: TenantContext, lease: Lease, seconds: int) -> None:
        """Hide the message for `seconds` (0 to 43,200) from now on.

        Raises:
            ClaimLost: The receipt is no longer the message's current one, or not one of this tenant's queues.
        """
        name = queue_of(lease)
        if not self._names.is_queue(tenant, name):
            raise ClaimLost("the delivery is from no queue of this project")
        await self.extend_on(tenant, name, lease, seconds)

    async def extend_on(self, tenant: TenantContext, name: str, lease: Lease, seconds: int) -> None:
        """`extend` for a message of the queue of this name.

        Raises:
            ClaimLost: The receipt is no longer the message's current one.
        """
        if not 0 <= seconds <= _VISIBILITY_MAX_SECONDS:
            raise InvalidRequest(f"a message can be hidden for 0 to {_VISIBILITY_MAX_SECONDS} seconds, not {seconds}")
        try:
            await self._calls(
                _SQS,
                self._sqs_of(tenant).change_message_visibility,
                QueueUrl=self._url(name),
                ReceiptHandle=lease.receipt_handle,
                VisibilityTimeout=seconds,
            )
        except ClientError as error:
            if sqs_code(error) in _RECEIPT_OLD:
                raise ClaimLost("the message was delivered again, or is gone") from error
            raise Unavailable(_SQS, sqs_code(error)) from error

    async def wake_worker(self, tenant: TenantContext, generation: int) -> None:
        """Ask the worker function, without waiting, to drain this queue until its mapping runs."""
        drain = {"user_id": tenant.user_id, "project_id": tenant.project_id, "generation": generation}
        try:
            await self._calls(
                _LAMBDA,
                self._lambda.invoke,
                FunctionName=self._worker_function,
                InvocationType="Event",
                Payload=json.dumps({"drain": drain}).encode(),
            )
        except ClientError as error:
            raise Unavailable(_LAMBDA, sqs_code(error)) from error

    async def depth(self, tenant: TenantContext, generation: int) -> int:
        """About how many messages wait or are in flight; 0 when the queue is gone."""
        try:
            answer = await self._calls(
                _SQS,
                self._sqs_of(tenant).get_queue_attributes,
                QueueUrl=self._url(self._names.queue(tenant, generation)),
                AttributeNames=list(_DEPTHS),
            )
        except ClientError as error:
            if sqs_code(error) in QUEUE_GONE:
                return 0
            raise Unavailable(_SQS, sqs_code(error)) from error
        attributes = answer.get("Attributes", {})
        return sum(int(attributes.get(name, 0)) for name in _DEPTHS)

    async def exists(self, tenant: TenantContext, generation: int) -> bool:
        """Whether the queue is there."""
        return await self.is_there(tenant, self._names.queue(tenant, generation))

    async def is_there(self, tenant: TenantContext, name: str) -> bool:
        """Whether there is a queue of this name."""
        try:
            ask = self._sqs_of(tenant).get_queue_attributes
            await self._calls(_SQS, ask, QueueUrl=self._url(name), AttributeNames=["QueueArn"])
        except ClientError as error:
            if sqs_code(error) in QUEUE_GONE:
                return False
            raise Unavailable(_SQS, sqs_code(error)) from error
        return True

    async def generations(self, tenant: TenantContext) -> Sequence[int]:
        """Which of the tenant's own queues are there, by their names; a new or deleted one shows within a minute."""
        arguments: dict[str, Any] = {"QueueNamePrefix": self._names.queues_of(tenant), "MaxResults": _LISTED}
        found: set[int] = set()
        while True:
            answer = await self._sqs_call(self._sqs.list_queues, **arguments)
            for url in answer.get("QueueUrls", ()):
                generation = self._names.generation(tenant, url.rpartition("/")[2])
                found |= set() if generation is None else {generation}
            if not answer.get("NextToken"):
                return sorted(found)
            arguments["NextToken"] = answer["NextToken"]

    async def mappings(self, tenant: TenantContext, generation: int) -> int:
        """How many event source mappings of the queue there are, not counting those that are being deleted."""
        return len(await self._mappings(self._names.queue(tenant, generation)))

    async def ping(self) -> None:
        """Ask for an attribute of the dead-letter queue, without which nothing is safe anyway."""
        await self._sqs_call(
            self._sqs.get_queue_attributes, QueueUrl=self._url(self._dead_letter_name), AttributeNames=["QueueArn"]
        )

    async def _mappings(self, name: str) -> Sequence[str]:
        """The ids of a queue's mappings, without those that are being deleted; one of ours has at most one."""
        try:
            listed = await self._control(self._lambda.list_event_source_mappings, EventSourceArn=self._arn(name))
        except ClientError as error:
            if sqs_code(error) != MAPPING_GONE:
                raise Unavailable(_LAMBDA, sqs_code(error)) from error
            return []
        found = listed.get("EventSourceMappings", ())
        return [mapping["UUID"] for mapping in found if mapping.get("State") != "Deleting"]

    async def _create_mapping(self, name: str) -> None:
        arguments: dict[str, Any] = {
            "EventSourceArn": self._arn(name),
            "FunctionName": self._worker_function,
            "BatchSize": 1,
            "Enabled": True,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "Tags": {"worker-space": self._names.prefix},
        }
        if self._maximum_concurrency is not None:
            arguments["ScalingConfig"] = {"MaximumConcurrency": self._maximum_concurrency}
        try:
            await self._control(
                self._lambda.create_event_source_mapping, try_later=frozenset({"TooManyRequestsException"}), **arguments
            )
        except ClientError as error:
            if sqs_code(error) != _MAPPING_EXISTS:
                raise Unavailable(_LAMBDA, sqs_code(error)) from error

    async def _sqs_call(self, call: Callable[..., Any], **arguments: Any) -> Any:
        try:
            return await self._calls(_SQS, call, **arguments)
        except ClientError as error:
            raise Unavailable(_SQS, sqs_code(error)) from error

    async def _control(
        self, call: Callable[..., Any], *, try_later: frozenset[str] = _TRY_LATER, **arguments: Any
    ) -> Any:
        """A call to Lambda's control plane, which takes 15 a second from a whole account; it may happen twice."""
        for pause in (0.2, 0.4, 0.8):
            try:
                return await self._calls(_LAMBDA, call, **arguments)
            except (ClientError, Unavailable) as error:
                refusal = error if isinstance(error, ClientError) else error.__cause__
                if not isinstance(refusal, ClientError) or sqs_code(refusal) not in try_later:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311 - spread, not a secret
        return await self._calls(_LAMBDA, call, **arguments)

    def _url(self, name: str) -> str:
        return f"{self._sqs.meta.endpoint_url.rstrip('/')}/{self._account}/{name}"

    def _arn(self, name: str) -> str:
        return f"{self._arn_prefix}:{name}"
