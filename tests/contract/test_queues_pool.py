"""What a pool of queues does in place of a queue for each project, asked of both adapters of `ports.Queues`."""

from dataclasses import replace

import pytest

from tests.contract.queue_subjects import POOL, U1, U10, OnAws, Subject, pooled, send, waiting
from worker_space.adapters.sqs_pool import PooledSqsQueues
from worker_space.errors import ClaimLost, Unavailable
from worker_space.ports import Lease
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio


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
