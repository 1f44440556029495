"""The queues that the contract is asked of, in memory and on AWS, of one's own and from a pool."""

import asyncio
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import pytest

from tests.stand_ins import Aws
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.memory_queues import Delivery, MemoryQueues
from worker_space.adapters.sqs import SqsQueues
from worker_space.adapters.sqs_pool import PooledSqsQueues
from worker_space.ports import Lease, Queues
from worker_space.tenancy import Names, TenantContext

U1 = TenantContext("u1", "p")
U10 = TenantContext("u10", "p")
HOSTILE = [
    U1,
    U10,
    TenantContext("u1", "p1"),
    TenantContext("u1", "p_g1"),
    TenantContext("U1", "p"),
    TenantContext("u1_projectp", "x"),
    TenantContext("auth0|u1", "../p"),
    TenantContext("u" * 255, "p"),
]
VISIBILITY = 2
POOL = 2


class Subject(Protocol):
    """The port, and what a worker and its event source mapping do on the other side."""

    @property
    def queues(self) -> Queues: ...

    @property
    def pool(self) -> int | None: ...

    async def receive(self, tenant: TenantContext, generation: int) -> Delivery | None: ...

    async def delete(self, lease: Lease) -> None: ...

    async def pass_time(self, seconds: float) -> None: ...

    async def dead_letters(self) -> list[str]: ...

    async def wakes(self) -> list[tuple[TenantContext, int]]: ...


class InMemory:
    def __init__(self, names: Names, pool: int | None) -> None:
        self.now = 1000.0
        self.pool = pool
        self.queues: Queues
        self.queues = self.memory = MemoryQueues(
            names, visibility_seconds=VISIBILITY, clock=lambda: self.now, pool=pool
        )

    async def receive(self, tenant: TenantContext, generation: int) -> Delivery | None:
        return self.memory.receive(tenant, generation)

    async def delete(self, lease: Lease) -> None:
        self.memory.delete(lease)

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds

    async def dead_letters(self) -> list[str]:
        return self.memory.dead_letters

    async def wakes(self) -> list[tuple[TenantContext, int]]:
        return self.memory.wakes


class OnAws:
    def __init__(self, aws: Aws, names: Names, executor: ThreadPoolExecutor, pool: int | None = None) -> None:
        self.pool = pool
        self.aws = aws
        self.names = names
        self.calls = AwsCalls(executor)
        self.sqs = make_client("sqs", region=aws.region)
        self.lambda_ = make_client("lambda", region=aws.region)
        self.own = self.with_worker_timeout(VISIBILITY)
        self.queues: Queues = self.own if pool is None else PooledSqsQueues(self.own, names, size=pool)
        for index in range(pool or 0):
            self.make_pool_queue(names.pool_queue(index))

    def make_pool_queue(self, name: str) -> None:
        """What the template makes."""
        attributes: Any = {
            "FifoQueue": "true",
            "VisibilityTimeout": str(VISIBILITY),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": self.aws.dead_letters, "maxReceiveCount": "10"}),
        }
        self.sqs.create_queue(QueueName=name, Attributes=attributes)

    def with_worker_timeout(self, seconds: int) -> SqsQueues:
        return SqsQueues(
            self.sqs,
            self.lambda_,
            self.calls,
            self.names,
            worker_function="worker",
            worker_timeout_seconds=seconds,
            dead_letter_arn=self.aws.dead_letters,
        )

    def url(self, tenant: TenantContext, generation: int) -> str:
        name = self.names.queue(tenant, generation)
        if self.pool is not None:
            name = self.names.pooled_queue(tenant, self.pool)
        answer: str = self.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return answer

    def mappings(self, tenant: TenantContext, generation: int) -> list[dict[str, Any]]:
        arn = f"{self.aws.dead_letters.rpartition(':')[0]}:{self.names.queue(tenant, generation)}"
        answer: list[dict[str, Any]] = self.lambda_.list_event_source_mappings(EventSourceArn=arn)[
            "EventSourceMappings"
        ]
        return answer

    async def receive(self, tenant: TenantContext, generation: int) -> Delivery | None:
        url = self.url(tenant, generation)
        answer = await self.calls(
            "sqs", self.sqs.receive_message, QueueUrl=url, MaxNumberOfMessages=1, AttributeNames=["All"]
        )
        for message in answer.get("Messages", []):
            attributes = message["Attributes"]
            return Delivery(
                body=message["Body"],
                group=attributes["MessageGroupId"],
                deduplication=attributes["MessageDeduplicationId"],
                receive_count=int(attributes["ApproximateReceiveCount"]),
                lease=Lease(queue_url=url, receipt_handle=message["ReceiptHandle"]),
            )
        return None

    async def delete(self, lease: Lease) -> None:
        await self.calls("sqs", self.sqs.delete_message, QueueUrl=lease.queue_url, ReceiptHandle=lease.receipt_handle)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def dead_letters(self) -> list[str]:
        url = self.sqs.get_queue_url(QueueName=self.aws.dead_letters.rpartition(":")[2])["QueueUrl"]
        found: list[str] = []
        while messages := self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(message["Body"])
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found

    async def wakes(self) -> list[tuple[TenantContext, int]]:
        def read() -> bytes:
            with urllib.request.urlopen(f"{self.aws.url}/_local/ready?wait=0", timeout=5) as answer:
                content: bytes = answer.read()
                return content

        drains = []
        for found in _drains(json.loads(await asyncio.to_thread(read))):
            drains.append((TenantContext(found["user_id"], found["project_id"]), found["generation"]))
        return drains


def _drains(value: Any) -> list[dict[str, Any]]:
    """Every `drain` order in the stand-in's notes, however it wraps them."""
    if isinstance(value, str) and '"drain"' in value:
        value = json.loads(value)
    if isinstance(value, dict):
        if isinstance(value.get("drain"), dict):
            return [value["drain"]]
        value = list(value.values())
    return [found for part in value for found in _drains(part)] if isinstance(value, list) else []


own = pytest.mark.parametrize("subject", ["memory", "aws"], indirect=True)
"""For what only a queue of one's own has."""

pooled = pytest.mark.parametrize("subject", ["memory-pooled", "aws-pooled"], indirect=True)


async def waiting(subject: Subject) -> int:
    """How many messages of the first tenant can be received, one of each group at once."""
    count = 0
    while await subject.receive(U1, 1) is not None:
        count += 1
    return count


async def send(subject: Subject, body: str, group: str = "a#0", tenant: TenantContext = U1, id_: str = "") -> None:
    await subject.queues.send(tenant, 1, body, group=group, deduplication=id_ or f"{body}#1")
