"""Queues by the deployed policies: a project's own, those that all share, and what may be removed by whom."""

from collections.abc import Mapping

import pytest

from tests.policy.deployment import FUNCTIONS, Deployment, deployment
from tests.policy.requests import Call, Place
from worker_space.tenancy import Names, TenantContext, partition_of, session_tags

ALICE, BOB = TenantContext("alice", "shop"), TenantContext("bob", "shop")
NAMES = Names("ws")
PLACE = Place(worker="ws-worker-space-worker:live")
SENT = {"MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d"}


def made(*, pooled: bool, api_scoped: bool = True) -> Deployment:
    return deployment(
        prefix="ws",
        table="t",
        bucket="b",
        dead_letter_arn=PLACE.arn("sqs", "ws-dead-letter.fifo"),
        api_scoped=api_scoped,
        pooled=pooled,
        place=PLACE,
    )


POOLED, OWN = made(pooled=True), made(pooled=False)


def sqs(operation: str, name: str, **more: object) -> Call:
    return Call(service="sqs", operation=operation, parameters={"QueueUrl": f"https://sqs/1/{name}", **more})


def allowed(deployed: Deployment, tenant: TenantContext, call: Call) -> bool:
    tags: Mapping[str, str] = session_tags(tenant)
    return all(deployed.by_tenant(tags, call))


def by(deployed: Deployment, function: str, call: Call) -> bool:
    return all(deployed.by_function(function, call))


@pytest.mark.parametrize(("operation", "more"), [("SendMessage", SENT), ("GetQueueAttributes", {})])
def test_a_tenant_fills_the_shared_queues_where_there_are_any_and_only_there(
    operation: str, more: Mapping[str, object]
) -> None:
    call = sqs(operation, NAMES.pooled_queue(ALICE, 8), **more)
    assert allowed(POOLED, ALICE, call)
    assert not allowed(OWN, ALICE, call)
    assert by(made(pooled=True, api_scoped=False), "api", call)
    assert not by(made(pooled=False, api_scoped=False), "api", call)


def test_a_tenant_extends_what_was_taken_from_a_shared_queue() -> None:
    call = sqs("ChangeMessageVisibility", NAMES.pool_queue(3), ReceiptHandle="r", VisibilityTimeout=60)
    assert allowed(POOLED, ALICE, call)


def test_own_queues_are_walls_in_both_modes() -> None:
    for deployed in (POOLED, OWN):
        assert allowed(deployed, ALICE, sqs("SendMessage", NAMES.queue(ALICE, 1), **SENT))
        assert not allowed(deployed, ALICE, sqs("SendMessage", NAMES.queue(BOB, 1), **SENT))


@pytest.mark.parametrize("operation", ["DeleteQueue", "SetQueueAttributes", "PurgeQueue", "ReceiveMessage"])
def test_nobody_takes_a_shared_queue_away_or_reads_it_for_a_tenant(operation: str) -> None:
    call = sqs(operation, NAMES.pool_queue(0))
    assert not allowed(POOLED, ALICE, call)
    for function in set(FUNCTIONS) - {"worker"}:
        assert not by(POOLED, function, call), function


def test_only_the_worker_takes_deliveries_from_shared_queues() -> None:
    call = sqs("ReceiveMessage", NAMES.pool_queue(0))
    assert [function for function in FUNCTIONS if by(POOLED, function, call)] == ["worker"]
    assert [function for function in FUNCTIONS if by(OWN, function, call)] == []


@pytest.mark.parametrize(
    "name",
    ["ws-pool-dead-letter.fifo", "ws-pool-pool-0.fifo", "ws-pool_userbob_projectshop_g1.fifo", "ws2-pool-0.fifo"],
)
def test_another_deployments_queues_are_out_of_reach_however_alike_the_prefix(name: str) -> None:
    call = sqs("SendMessage", name, **SENT)
    assert not allowed(POOLED, ALICE, call)
    assert [function for function in FUNCTIONS if by(POOLED, function, call)] == []


# -- the look for orphans


def test_the_sweepers_function_may_do_what_the_look_for_orphans_needs_and_no_more() -> None:
    fields = "#n0, #n1, #n2, #n3, #n4, #n5, #n6"
    names = ("pk", "sk", "user_id", "project_id", "state", "generation", "releasing")
    keys = [{"pk": {"S": partition_of(BOB.token)}, "sk": {"S": "HOME"}}]
    asked = {
        "Keys": keys,
        "ConsistentRead": True,
        "ProjectionExpression": fields,
        "ExpressionAttributeNames": {f"#n{at}": name for at, name in enumerate(names)},
    }
    whole = {"Keys": keys, "ConsistentRead": True}
    for deployed in (POOLED, OWN):
        needed = [
            Call(service="sqs", operation="ListQueues", parameters={"QueueNamePrefix": "ws_"}),
            Call(service="lambda", operation="ListEventSourceMappings", parameters={}),
            Call(service="dynamodb", operation="BatchGetItem", parameters={"RequestItems": {"t": asked}}),
            sqs("GetQueueAttributes", NAMES.queue(BOB, 1), AttributeNames=["CreatedTimestamp"]),
            sqs("DeleteQueue", NAMES.queue(BOB, 1)),
        ]
        assert [by(deployed, "cleanup", call) for call in needed] == [True] * len(needed)
        refused = [
            Call(service="dynamodb", operation="BatchGetItem", parameters={"RequestItems": {"t": whole}}),
            sqs("DeleteQueue", "ws-dead-letter.fifo"),
            sqs("DeleteQueue", NAMES.pool_queue(0)),
            sqs("DeleteQueue", Names("ws2").queue(BOB, 1)),
        ]
        assert [by(deployed, "cleanup", call) for call in refused] == [False] * len(refused)
