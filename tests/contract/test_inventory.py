"""The contract of `ports.FoundQueues` and `ports.SpacesByToken`, in memory and over the AWS stand-in."""

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.stand_ins import Aws
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.dynamodb import DynamoRecords
from worker_space.adapters.memory_queues import MemoryInventory, MemoryQueues
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.adapters.sqs import SqsQueues
from worker_space.adapters.sqs_inventory import SqsInventory
from worker_space.clock import now_ms
from worker_space.errors import InvalidRequest, Unavailable
from worker_space.ports import FoundMapping, FoundQueues, Queues
from worker_space.records import Put
from worker_space.tenancy import Key, Names, TenantContext

pytestmark = pytest.mark.anyio

U1 = TenantContext("u1", "p")
U10 = TenantContext("auth0|10", "p")


class Subject:
    """An inventory and the queues that it tells of."""

    def __init__(self, queues: Queues, found: FoundQueues, names: Names) -> None:
        self.queues, self.found, self.names = queues, found, names

    async def names_found(self) -> list[str]:
        return sorted([name async for page in self.found.queues() for name in page])

    async def mappings_found(self) -> list[FoundMapping]:
        return [mapping async for page in self.found.mappings() for mapping in page]


class OnAws:
    """The stand-in's clients, and inventories over them."""

    def __init__(self, aws: Aws, threads: ThreadPoolExecutor) -> None:
        self.arn_prefix = aws.dead_letters.rpartition(":")[0]
        self.dead_letters = aws.dead_letters
        self.table = aws.table
        self.sqs = make_client("sqs", region=aws.region)
        self.lambda_ = make_client("lambda", region=aws.region)
        self.dynamodb = make_client("dynamodb", region=aws.region)
        self.calls = AwsCalls(threads)

    def queues(self, names: Names) -> SqsQueues:
        return SqsQueues(
            self.sqs,
            self.lambda_,
            self.calls,
            names,
            worker_function="worker",
            worker_timeout_seconds=30,
            dead_letter_arn=self.dead_letters,
        )

    def inventory(self, names: Names, *, function: str | None = "worker", pace: float = 1000.0) -> SqsInventory:
        return SqsInventory(
            self.sqs,
            self.lambda_,
            self.calls,
            names,
            arn_prefix=self.arn_prefix,
            worker_function=function,
            calls_a_second=pace,
        )


@pytest.fixture
def on_aws(aws: Aws, aws_endpoint: str) -> Iterator[OnAws]:
    with ThreadPoolExecutor(4) as threads:
        made = OnAws(aws, threads)
        yield made
        for client in (made.sqs, made.lambda_, made.dynamodb):
            client.close()


@pytest.fixture(params=["memory", "aws"])
async def subject(request: pytest.FixtureRequest, names: Names) -> AsyncIterator[Subject]:
    if request.param == "memory":
        queues = MemoryQueues(names, pool=2)
        own = MemoryQueues(names)
        assert [page async for page in MemoryInventory(queues).queues()] == [[]]
        yield Subject(own, MemoryInventory(own), names)
    else:
        on_aws: OnAws = request.getfixturevalue("on_aws")
        on_aws.sqs.create_queue(QueueName=names.pool_queue(0), Attributes={"FifoQueue": "true"})
        yield Subject(on_aws.queues(names), on_aws.inventory(names), names)


async def test_what_was_made_is_found_and_only_that(subject: Subject) -> None:
    for tenant, generation in ((U1, 1), (U1, 12), (U10, 3)):
        await subject.queues.create(tenant, generation)
    expected = sorted([subject.names.queue(U1, 1), subject.names.queue(U1, 12), subject.names.queue(U10, 3)])
    assert await subject.names_found() == expected
    assert sorted(mapping.queue for mapping in await subject.mappings_found()) == expected
    made_at = await subject.found.made_at(expected[0])
    (mapping,) = await subject.found.mappings_of(expected[0])
    assert made_at is not None
    assert abs(made_at - now_ms()) < 60_000
    assert abs(mapping.changed_at - now_ms()) < 60_000


async def test_a_mapping_and_a_queue_are_removed_each_for_itself_and_may_be_gone(subject: Subject) -> None:
    await subject.queues.create(U1, 1)
    name = subject.names.queue(U1, 1)
    (mapping,) = await subject.found.mappings_of(name)
    for _ in range(2):
        await subject.found.remove_mapping(mapping)
    assert (await subject.names_found(), await subject.mappings_found()) == ([name], [])
    for _ in range(2):
        await subject.found.remove_queue(name)
    assert await subject.names_found() == []
    assert await subject.found.made_at(name) is None
    assert list(await subject.found.mappings_of(name)) == []


@pytest.mark.parametrize("name", ["dead-letter.fifo", "other_useru1_projectp_g1.fifo", "{prefix}-pool-0.fifo", ""])
async def test_a_queue_that_is_no_projects_is_never_removed(subject: Subject, name: str) -> None:
    queue = name.replace("{prefix}", subject.names.prefix)
    with pytest.raises(InvalidRequest):
        await subject.found.remove_queue(queue)
    with pytest.raises(InvalidRequest):
        await subject.found.remove_mapping(FoundMapping(id="x", queue=queue, changed_at=0))


async def test_a_deployment_whose_prefix_begins_alike_is_not_seen(on_aws: OnAws) -> None:
    ours = Names(f"t{secrets.token_hex(3)}")
    theirs = Names(f"{ours.prefix}2")
    await on_aws.queues(theirs).create(U1, 1)
    subject = Subject(on_aws.queues(ours), on_aws.inventory(ours), ours)
    assert (await subject.names_found(), await subject.mappings_found()) == ([], [])
    assert await on_aws.queues(theirs).exists(U1, 1)


async def test_only_the_workers_mappings_are_found_or_those_of_every_function(on_aws: OnAws, names: Names) -> None:
    await on_aws.queues(names).create(U1, 1)
    own = Subject(on_aws.queues(names), on_aws.inventory(names), names)
    other = Subject(own.queues, on_aws.inventory(names, function="local-worker-space-worker"), names)
    gone = Subject(own.queues, on_aws.inventory(names, function="no-such-function"), names)
    anyones = Subject(own.queues, on_aws.inventory(names, function=None), names)
    found = [len(await each.mappings_found()) for each in (own, other, gone, anyones)]
    assert found == [1, 0, 0, 1]


async def test_lists_are_read_to_their_ends(on_aws: OnAws, names: Names) -> None:
    for generation in range(1, 6):
        await on_aws.queues(names).create(U1, generation)

    def small_queues(params: Any, **_: Any) -> None:
        params["body"] = params["body"].replace(b'"MaxResults": 1000', b'"MaxResults": 2')

    def small_mappings(params: Any, **_: Any) -> None:
        params["query_string"]["MaxItems"] = 2

    on_aws.sqs.meta.events.register("before-call.sqs.ListQueues", small_queues)
    on_aws.lambda_.meta.events.register("before-call.lambda.ListEventSourceMappings", small_mappings)
    subject = Subject(on_aws.queues(names), on_aws.inventory(names), names)
    pages = [len(page) async for page in subject.found.queues()]
    assert pages == [2, 2, 1]
    assert len(await subject.mappings_found()) == 5


async def test_calls_keep_the_pace(on_aws: OnAws, names: Names) -> None:
    inventory = on_aws.inventory(names, pace=20)
    await inventory.made_at("x")
    began = time.monotonic()
    for _ in range(6):
        await inventory.made_at("x")
    assert 0.29 <= time.monotonic() - began < 2


async def test_a_refusal_is_unavailable(on_aws: OnAws, names: Names) -> None:
    answer: Any = {"Error": {"Code": "AccessDenied", "Message": ""}}

    def refuse(**_: Any) -> None:
        raise ClientError(answer, "ListQueues")

    on_aws.sqs.meta.events.register("before-call.sqs.ListQueues", refuse)
    with pytest.raises(Unavailable):
        await Subject(on_aws.queues(names), on_aws.inventory(names), names).names_found()


# -- the spaces that the names stand for


@pytest.fixture(params=["memory", "aws"])
def records(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        return MemoryRecords()
    on_aws: OnAws = request.getfixturevalue("on_aws")
    return DynamoRecords(client=on_aws.dynamodb, calls=on_aws.calls, table=on_aws.table)


async def test_spaces_are_found_by_token_with_what_concerns_their_queues(records: Any) -> None:
    users = [TenantContext(f"{kind}{secrets.token_hex(4)}", "p") for kind in ("u", "auth0|")]
    for number, tenant in enumerate(users):
        item = {
            "user_id": tenant.user_id,
            "project_id": "p",
            "state": "active",
            "generation": number + 1,
            "releasing": frozenset({"1"}),
            "name": "what a user wrote",
        }
        await records.write(tenant, Put(key=Key.space(), item=item))
    tokens = [users[1].token, TenantContext("nobody", "p").token, users[0].token]
    found: Sequence[Any] = await records.spaces(tokens)
    assert [item and item["generation"] for item in found] == [2, None, 1]
    assert found[0]["releasing"] == {"1"}
    assert found[0]["user_id"] == users[1].user_id
    assert "name" not in found[0]
