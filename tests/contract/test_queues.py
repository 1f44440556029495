"""The contract of `ports.Queues`, for the memory adapter and for SQS and Lambda over the AWS stand-in.

Both in both modes: a queue for each project, and a pool for all. What only an own queue has (being made, released and
counted) is tried with own queues, and what it means to a pool has tests of its own.
"""

import asyncio
import json
from dataclasses import replace

import pytest

from tests.contract.queue_subjects import HOSTILE, U1, U10, VISIBILITY, Subject, own, send, waiting
from worker_space.errors import ClaimLost, NotFound, Unavailable
from worker_space.ports import Lease
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio


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


async def test_a_living_service_answers_a_ping(subject: Subject) -> None:
    await subject.queues.ping()
