"""The contract of `ports.Queues`, for the memory adapter and for SQS and Lambda over the AWS stand-in.

Both in both modes: a queue for each project, and a pool for all. What only an own queue has (being made, released and
counted) is tried with own queues, and what it means to a pool has tests of its own.
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import pytest
from botocore.awsrequest import AWSResponse, HTTPHeaders

from tests.stand_ins import Aws
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.memory_queues import Delivery, MemoryQueues
from worker_space.adapters.sqs import SqsQueues
from worker_space.adapters.sqs_pool import PooledSqsQueues
from worker_space.errors import ClaimLost, InvalidRequest, NotFound, Unavailable
from worker_space.ports import Lease, Queues
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio

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


@pytest.fixture(scope="module")
def executor() -> Any:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def on_aws(aws: Aws, aws_endpoint: str, names: Names, executor: ThreadPoolExecutor) -> Any:
    subject = OnAws(aws, names, executor)
    yield subject
    subject.sqs.close()
    subject.lambda_.close()


@pytest.fixture
def pooled_on_aws(aws: Aws, aws_endpoint: str, names: Names, executor: ThreadPoolExecutor) -> Any:
    subject = OnAws(aws, names, executor, POOL)
    yield subject
    subject.sqs.close()
    subject.lambda_.close()


@pytest.fixture(params=["memory", "aws", "memory-pooled", "aws-pooled"])
async def subject(request: pytest.FixtureRequest, names: Names) -> AsyncIterator[Subject]:
    store, _, pooled = str(request.param).partition("-")
    if store == "memory":
        yield InMemory(names, POOL if pooled else None)
    else:
        yield request.getfixturevalue("pooled_on_aws" if pooled else "on_aws")


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


async def test_a_message_reaches_the_worker_whole(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    body = json.dumps({"task": "task_1", "user": "ü|🙂"})
    await subject.queues.send(U1, 1, body, group="useru1_projectp:agent_1#2", deduplication="task_1#3")
    delivery = await subject.receive(U1, 1)
    assert delivery is not None
    assert (delivery.body, delivery.group, delivery.deduplication) == (body, "useru1_projectp:agent_1#2", "task_1#3")
    assert delivery.receive_count == 1
    await subject.delete(delivery.lease)
    assert await subject.receive(U1, 1) is None


@own
async def test_sending_to_a_queue_that_was_never_made_or_is_gone_is_not_found(subject: Subject) -> None:
    with pytest.raises(NotFound):
        await send(subject, "early")
    await subject.queues.create(U1, 1)
    await send(subject, "one")
    await subject.queues.release(U1, 1)
    with pytest.raises(NotFound):
        await send(subject, "late")


@own
async def test_creating_and_releasing_may_be_repeated(subject: Subject) -> None:
    for _ in range(3):
        await subject.queues.create(U1, 1)
    await send(subject, "one")
    assert await subject.queues.depth(U1, 1) == 1
    for _ in range(3):
        await subject.queues.release(U1, 1)
    assert await subject.queues.depth(U1, 1) == 0


async def test_racing_callers_make_the_same_queue(subject: Subject) -> None:
    await asyncio.gather(*(subject.queues.create(U1, 1) for _ in range(4)))
    await send(subject, "one")
    assert await waiting(subject) == 1


@own
async def test_a_deleted_queues_name_is_unavailable_for_a_minute_and_the_next_generation_is_not(
    subject: Subject,
) -> None:
    await subject.queues.create(U1, 1)
    await subject.queues.release(U1, 1)
    with pytest.raises(Unavailable):
        await subject.queues.create(U1, 1)
    await subject.queues.create(U1, 2)
    await subject.queues.send(U1, 2, "one", group="a#0", deduplication="one")
    assert await subject.queues.depth(U1, 2) == 1


async def test_a_group_is_delivered_one_at_a_time_and_in_order(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    for number in range(3):
        await send(subject, f"m{number}")
    for number in range(3):
        delivery = await subject.receive(U1, 1)
        assert delivery is not None
        assert delivery.body == f"m{number}"
        assert await subject.receive(U1, 1) is None
        await subject.delete(delivery.lease)


async def test_groups_do_not_wait_for_each_other(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    for group in ("a#0", "a#1", "b#0"):
        for number in range(2):
            await send(subject, f"{group}-{number}", group)
    deliveries = [await subject.receive(U1, 1) for _ in range(4)]
    assert [delivery and delivery.body for delivery in deliveries] == ["a#0-0", "a#1-0", "b#0-0", None]


async def test_a_dispatch_sent_twice_is_delivered_once_even_from_another_slot(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "one", "a#0", id_="task_1#1")
    await send(subject, "one", "a#0", id_="task_1#1")
    await send(subject, "one", "a#1", id_="task_1#1")
    await send(subject, "two", "a#1", id_="task_1#2")
    assert await waiting(subject) == 2


async def test_a_message_that_is_not_acknowledged_comes_again_before_its_successors(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "m0")
    await send(subject, "m1")
    first = await subject.receive(U1, 1)
    await subject.pass_time(VISIBILITY + 0.3)
    again = await subject.receive(U1, 1)
    assert first is not None
    assert again is not None
    assert (again.body, again.receive_count) == ("m0", 2)
    assert again.lease.receipt_handle != first.lease.receipt_handle


async def test_an_extended_message_stays_hidden_and_can_be_shown_at_once(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "one")
    delivery = await subject.receive(U1, 1)
    assert delivery is not None
    await subject.queues.extend(U1, delivery.lease, 30)
    await subject.pass_time(VISIBILITY + 0.3)
    assert await subject.receive(U1, 1) is None
    await subject.queues.extend(U1, delivery.lease, 0)
    assert await subject.receive(U1, 1) is not None


async def test_a_receipt_ends_with_its_visibility(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "one")
    delivery = await subject.receive(U1, 1)
    assert delivery is not None
    await subject.pass_time(VISIBILITY + 0.3)
    with pytest.raises(ClaimLost):
        await subject.queues.extend(U1, delivery.lease, 30)


async def test_an_old_receipt_does_not_extend_the_new_delivery(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "one")
    old = await subject.receive(U1, 1)
    await subject.pass_time(VISIBILITY + 0.3)
    new = await subject.receive(U1, 1)
    assert old is not None
    assert new is not None
    with pytest.raises(ClaimLost):
        await subject.queues.extend(U1, old.lease, 30)
    await subject.queues.extend(U1, new.lease, 30)


async def test_a_message_that_is_acknowledged_cannot_be_extended(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "one")
    delivery = await subject.receive(U1, 1)
    assert delivery is not None
    await subject.delete(delivery.lease)
    with pytest.raises(ClaimLost):
        await subject.queues.extend(U1, delivery.lease, 30)


@own
async def test_a_message_that_went_with_its_queue_cannot_be_extended(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "one")
    delivery = await subject.receive(U1, 1)
    assert delivery is not None
    await subject.queues.release(U1, 1)
    with pytest.raises(ClaimLost):
        await subject.queues.extend(U1, delivery.lease, 30)


async def test_a_receipt_that_was_made_up_is_a_lost_claim(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "one")
    delivery = await subject.receive(U1, 1)
    assert delivery is not None
    with pytest.raises(ClaimLost):
        await subject.queues.extend(U1, replace(delivery.lease, receipt_handle="made-up"), 30)


@own
async def test_a_lease_of_another_tenant_is_a_lost_claim(subject: Subject) -> None:
    for tenant in HOSTILE:
        await subject.queues.create(tenant, 1)
        await send(subject, "one", tenant=tenant)
    leases = []
    for tenant in HOSTILE:
        delivery = await subject.receive(tenant, 1)
        assert delivery is not None
        leases.append(delivery.lease)
    for tenant in HOSTILE:
        for owner, lease in zip(HOSTILE, leases, strict=True):
            if owner == tenant:
                await subject.queues.extend(tenant, lease, 30)
            else:
                with pytest.raises(ClaimLost):
                    await subject.queues.extend(tenant, lease, 30)


@pytest.mark.parametrize(
    "url",
    ["", "x", "https://example.com/1/other_useru1_projectp_g1.fifo", "useru1_projectp_g1.fifo/", "http://[/_g1.fifo"],
)
async def test_a_lease_of_no_queue_of_ours_is_a_lost_claim(subject: Subject, url: str) -> None:
    with pytest.raises(ClaimLost):
        await subject.queues.extend(U1, Lease(queue_url=url, receipt_handle="x"), 30)


async def test_the_eleventh_receive_makes_a_message_a_dead_letter_and_frees_its_group(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, f"poison {id(subject)}")
    await send(subject, "next")
    for count in range(1, 11):
        delivery = await subject.receive(U1, 1)
        assert delivery is not None
        assert (delivery.receive_count, delivery.body) == (count, f"poison {id(subject)}")
        await subject.queues.extend(U1, delivery.lease, 0)
    delivery = await subject.receive(U1, 1)
    assert delivery is not None
    assert delivery.body == "next"
    assert f"poison {id(subject)}" in await subject.dead_letters()


@own
async def test_depth_counts_waiting_and_running_messages_of_one_tenant(subject: Subject) -> None:
    for tenant in HOSTILE:
        await subject.queues.create(tenant, 1)
    for number in range(3):
        await send(subject, f"m{number}", f"a#{number}")
    await subject.receive(U1, 1)
    assert [await subject.queues.depth(tenant, 1) for tenant in HOSTILE] == [3] + [0] * (len(HOSTILE) - 1)


@own
async def test_releasing_one_tenants_queue_touches_no_other(subject: Subject) -> None:
    for tenant in HOSTILE:
        await subject.queues.create(tenant, 1)
        await send(subject, "one", tenant=tenant)
    for released, tenant in enumerate(HOSTILE):
        await subject.queues.release(tenant, 1)
        depths = [await subject.queues.depth(other, 1) for other in HOSTILE]
        assert depths == [0] * (released + 1) + [1] * (len(HOSTILE) - released - 1)


@own
async def test_a_tenants_queues_are_found_by_their_names_and_nobody_elses(subject: Subject) -> None:
    for number, tenant in enumerate(HOSTILE):
        for generation in range(1, number + 2):
            await subject.queues.create(tenant, generation)
    for number, tenant in enumerate(HOSTILE):
        assert list(await subject.queues.generations(tenant)) == list(range(1, number + 2))
        assert await subject.queues.exists(tenant, number + 1)
        assert not await subject.queues.exists(tenant, number + 2)
        assert await subject.queues.mappings(tenant, number + 1) == 1
        assert await subject.queues.mappings(tenant, number + 2) == 0
    await subject.queues.release(HOSTILE[3], 2)
    assert list(await subject.queues.generations(HOSTILE[3])) == [1, 3, 4]
    assert not await subject.queues.exists(HOSTILE[3], 2)
    assert await subject.queues.mappings(HOSTILE[3], 2) == 0
    assert list(await subject.queues.generations(TenantContext("nobody", "p"))) == []


@own
async def test_the_worker_is_woken_for_one_queue(subject: Subject) -> None:
    await subject.queues.create(U10, 3)
    await subject.queues.wake_worker(U10, 3)
    assert (U10, 3) in await subject.wakes()


# -- what a pool does instead


def neighbours(subject: Subject) -> tuple[TenantContext, TenantContext, TenantContext]:
    """Two tenants with the same place in the pool, and one with another."""
    assert subject.pool is not None
    names = Names("x")
    tenants = [TenantContext(f"u{number}", "p") for number in range(20)]
    first = names.pooled_queue(U1, subject.pool)
    beside = next(tenant for tenant in tenants if tenant != U1 and names.pooled_queue(tenant, subject.pool) == first)
    elsewhere = next(tenant for tenant in tenants if names.pooled_queue(tenant, subject.pool) != first)
    return U1, beside, elsewhere


@pooled
async def test_a_pool_takes_messages_of_every_generation_without_being_made_or_released(subject: Subject) -> None:
    await send(subject, "one")
    await subject.queues.create(U1, 1)
    await subject.queues.release(U1, 1)
    await subject.queues.send(U1, 7, "two", group="a#1", deduplication="two")
    assert await waiting(subject) == 2
    assert await subject.queues.exists(U1, 9)


@pooled
async def test_a_pool_tells_nobody_how_much_waits_in_it_and_has_no_queue_of_a_tenant(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    await send(subject, "one")
    assert await subject.queues.depth(U1, 1) is None
    assert list(await subject.queues.generations(U1)) == []
    assert await subject.queues.mappings(U1, 1) == 0


@pooled
async def test_a_pool_needs_no_waking(subject: Subject) -> None:
    before = await subject.wakes()
    await subject.queues.wake_worker(U10, 3)
    assert (U10, 3) not in (await subject.wakes())[len(before) :]


@pooled
async def test_neighbours_in_a_pool_neither_wait_for_nor_swallow_each_others_messages(subject: Subject) -> None:
    one, beside, _ = neighbours(subject)
    names = Names("x")
    for tenant in (one, beside):
        for number in range(2):
            group = names.group(tenant, "agent_1", 0)
            body = f"{tenant.user_id} {number}"
            await subject.queues.send(tenant, 1, body, group=group, deduplication=f"task_{body}#1")
    got = [await subject.receive(one, 1) for _ in range(3)]
    assert [each and each.body for each in got] == [f"{one.user_id} 0", f"{beside.user_id} 0", None]
    assert got[0] is not None
    await subject.delete(got[0].lease)
    following = await subject.receive(one, 1)
    assert following is not None
    assert following.body == f"{one.user_id} 1"


@pooled
async def test_a_lease_of_the_pool_is_extended_by_whoever_holds_its_receipt(subject: Subject) -> None:
    one, _, elsewhere = neighbours(subject)
    await send(subject, "one", tenant=one)
    delivery = await subject.receive(one, 1)
    assert delivery is not None
    await subject.queues.extend(one, delivery.lease, 30)
    other_place = delivery.lease.queue_url.rpartition("/")[0] + "/" + Names("other").pooled_queue(elsewhere, POOL)
    with pytest.raises(ClaimLost):
        await subject.queues.extend(one, replace(delivery.lease, queue_url=other_place), 30)


async def test_an_own_queue_from_before_the_switch_is_listed_extended_and_released(pooled_on_aws: OnAws) -> None:
    before, now = pooled_on_aws.own, pooled_on_aws.queues
    await before.create(U1, 3)
    await before.send(U1, 3, "old", group="a#0", deduplication="old")
    old = pooled_on_aws.sqs.get_queue_url(QueueName=pooled_on_aws.names.queue(U1, 3))["QueueUrl"]
    message = pooled_on_aws.sqs.receive_message(QueueUrl=old)["Messages"][0]
    await now.extend(U1, Lease(queue_url=old, receipt_handle=message["ReceiptHandle"]), 30)
    assert (list(await now.generations(U1)), await now.mappings(U1, 3)) == ([3], 1)
    await now.release(U1, 3)
    assert (list(await now.generations(U1)), await now.mappings(U1, 3)) == ([], 0)


async def test_of_a_queue_that_can_hold_no_message_of_the_tenant_sqs_is_not_even_asked(pooled_on_aws: OnAws) -> None:
    asked: list[str] = []
    pooled_on_aws.sqs.meta.events.register("before-call.sqs", lambda model, **_: asked.append(model.name))
    for name in (pooled_on_aws.names.queue(U10, 1), Names("other").pool_queue(0), f"{U1.token}-pool-0.fifo", "x"):
        with pytest.raises(ClaimLost):
            await pooled_on_aws.queues.extend(U1, Lease(queue_url=f"http://x/1/{name}", receipt_handle="r"), 30)
    assert asked == []


async def test_releasing_in_a_pool_asks_nothing_of_lambdas_control_plane(pooled_on_aws: OnAws) -> None:
    asked: list[str] = []
    pooled_on_aws.lambda_.meta.events.register("before-call.lambda", lambda model, **_: asked.append(model.name))
    await pooled_on_aws.queues.create(U1, 1)
    await pooled_on_aws.queues.wake_worker(U1, 1)
    await pooled_on_aws.queues.release(U1, 1)
    assert asked == []


async def test_a_pool_that_was_not_deployed_is_unavailable_and_says_what_to_do(on_aws: OnAws) -> None:
    queues = PooledSqsQueues(on_aws.own, on_aws.names, size=POOL)
    with pytest.raises(Unavailable, match="QueueMode"):
        await queues.send(U1, 1, "x", group="a#0", deduplication="x")
    assert not await queues.exists(U1, 1)


async def test_a_living_service_answers_a_ping(subject: Subject) -> None:
    await subject.queues.ping()


# -- the SQS adapter's own promises ----------------------------------------------------------------------------------


async def test_queue_and_mapping_are_made_as_the_worker_needs_them(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    attributes = on_aws.sqs.get_queue_attributes(QueueUrl=on_aws.url(U1, 1), AttributeNames=["All"])["Attributes"]
    redrive = json.loads(attributes["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"] == on_aws.aws.dead_letters
    assert int(redrive["maxReceiveCount"]) == 10
    assert attributes["FifoQueue"] == "true"
    assert attributes["ContentBasedDeduplication"] == "false"
    assert attributes["VisibilityTimeout"] == str(VISIBILITY)
    assert attributes["MessageRetentionPeriod"] == str(14 * 24 * 3600)
    assert attributes["SqsManagedSseEnabled"] == "true"
    (mapping,) = on_aws.mappings(U1, 1)
    assert mapping["BatchSize"] == 1
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["FunctionArn"].rpartition(":function:")[2] == "worker"


async def test_creating_again_makes_no_second_mapping_and_releasing_leaves_none(on_aws: OnAws) -> None:
    for _ in range(2):
        await on_aws.queues.create(U1, 1)
        await on_aws.queues.create(U10, 1)
    assert len(on_aws.mappings(U1, 1)) == len(on_aws.mappings(U10, 1)) == 1
    await on_aws.queues.release(U1, 1)
    assert [mapping["State"] for mapping in on_aws.mappings(U1, 1)] in ([], ["Deleting"])
    assert len(on_aws.mappings(U10, 1)) == 1


async def test_a_half_released_queue_is_released(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    on_aws.sqs.delete_queue(QueueUrl=on_aws.url(U1, 1))
    await on_aws.queues.release(U1, 1)
    assert [mapping["State"] for mapping in on_aws.mappings(U1, 1)] in ([], ["Deleting"])


async def test_a_queue_of_a_deployment_with_another_timeout_gets_the_present_one(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    await on_aws.with_worker_timeout(VISIBILITY + 5).create(U1, 1)
    attributes = on_aws.sqs.get_queue_attributes(QueueUrl=on_aws.url(U1, 1), AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == str(VISIBILITY + 5)


async def test_sending_is_one_request_from_the_first_message_on(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    operations: list[str] = []
    on_aws.sqs.meta.events.register("before-call", lambda model, **_: operations.append(model.name))
    await on_aws.with_worker_timeout(VISIBILITY).send(U1, 1, "one", group="a#0", deduplication="one")
    assert operations == ["SendMessage"]


@pytest.mark.parametrize("seconds", [-1, 43_201])
async def test_a_time_that_sqs_cannot_hide_a_message_for_is_no_lost_claim(on_aws: OnAws, seconds: int) -> None:
    await on_aws.queues.create(U1, 1)
    await send(on_aws, "one")
    delivery = await on_aws.receive(U1, 1)
    assert delivery is not None
    with pytest.raises(InvalidRequest):
        await on_aws.queues.extend(U1, delivery.lease, seconds)


async def test_a_mapping_in_change_is_waited_for_a_little_and_then_unavailable(on_aws: OnAws) -> None:
    await on_aws.queues.create(U1, 1)
    refused: list[str] = []

    def refuse(params: Any, **_: Any) -> tuple[Any, dict[str, Any]]:
        refused.append("DeleteEventSourceMapping")
        response = AWSResponse("", 400, HTTPHeaders(), None)
        return response, {"Error": {"Code": "ResourceInUseException"}, "ResponseMetadata": {"HTTPStatusCode": 400}}

    on_aws.lambda_.meta.events.register("before-call.lambda.DeleteEventSourceMapping", refuse)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await on_aws.queues.release(U1, 1)
    assert len(refused) > 1
    assert time.monotonic() - started < 3
    on_aws.lambda_.meta.events.unregister("before-call.lambda.DeleteEventSourceMapping", refuse)
    await on_aws.queues.release(U1, 1)
    assert await on_aws.queues.depth(U1, 1) == 0


async def test_queues_are_listed_to_the_end(on_aws: OnAws) -> None:
    pages: list[Any] = []

    def small(params: Any, **_: Any) -> None:
        params["body"] = json.dumps({**json.loads(params["body"]), "MaxResults": 2})
        pages.append(params)

    for generation in range(1, 6):
        await on_aws.queues.create(U1, generation)
    on_aws.sqs.meta.events.register("before-call.sqs.ListQueues", small)
    assert list(await on_aws.queues.generations(U1)) == [1, 2, 3, 4, 5]
    assert len(pages) == 3
