"""Speed is counted: network calls on the warm path, over the real adapters against the stand-ins.

AWS calls are counted where botocore sends them; a method of the cache or the memory is one request each, which their
contract tests hold them to.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest

from tests.functions.test_handlers import acknowledge, received
from worker_space.bootstrap import Environment
from worker_space.bus import Sent
from worker_space.composition import Parts, compose
from worker_space.messages import NewSession
from worker_space.ports import Lease
from worker_space.projects import NewProject
from worker_space.tasks import Delivery
from worker_space.tenancy import TenantContext, UserContext


class Counted:
    """A port whose calls are counted by name."""

    def __init__(self, port: Any, name: str, counts: Counter[str]) -> None:
        self._port, self._name, self._counts = port, name, counts

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._port, method)

        def call(*arguments: Any, **named: Any) -> Any:
            self._counts[f"{self._name}.{method}"] += 1
            return found(*arguments, **named)

        return call


class Bench:
    """An environment whose calls are counted, and a tenant with a project."""

    def __init__(self, environment: Environment, sent: Counter[str], project: str = "shop") -> None:
        self.environment, self.counts = environment, sent
        self.tenant = TenantContext(f"b-{environment.settings.prefix}", project)
        ports = replace(
            environment.ports,
            cache=Counted(environment.ports.cache, "redis", sent),
            memory=Counted(environment.ports.memory, "qdrant", sent),
        )
        self.parts: Parts = compose(ports, environment.settings)
        user = UserContext(self.tenant.user_id)
        self.run(self.parts.services.projects.create(user, NewProject(id=project, name="Shop")))
        self.run(self.parts.services.files.write(self.tenant, "main.py", b"print('hi')\n"))
        self.session = self.new_session()

    def run(self, work: Any) -> Any:
        return self.environment.run(work)

    def new_session(self) -> str:
        return str(self.run(self.parts.services.collaborators.sessions.create(self.tenant, NewSession())).id)

    def send(self) -> Sent:
        bus = self.parts.services.collaborators.bus
        return self.run(  # type: ignore[no-any-return]
            bus.send_task(self.tenant, session_id=self.session, content="Analyse main.py", target_agent="analyst")
        )

    def work(self) -> None:
        (record,) = received(self.environment, self.tenant)["Records"]
        name = record["eventSourceARN"].rpartition(":")[2]
        lease = Lease(queue_url=f"https://sqs/{name}", receipt_handle=record["receiptHandle"])
        delivery = Delivery.model_validate_json(record["body"])
        # Receive and delete are the event source mapping's, not ours.
        self.counts.clear()
        self.run(self.parts.worker.handle(delivery, lease, deadline=time.monotonic() + 60))
        counted = Counter(self.counts)
        acknowledge(self.environment, record)
        self.counts.clear()
        self.counts.update(counted)

    def counted(self, work: Any) -> dict[str, int]:
        """The calls that `work` makes."""
        self.counts.clear()
        self.run(work)
        return dict(self.counts)


@pytest.fixture
def counts() -> Iterator[Counter[str]]:
    """Counts what botocore sends, from clients made while this fixture is active."""
    counts: Counter[str] = Counter()
    boto3.setup_default_session()
    session = boto3.DEFAULT_SESSION
    assert session is not None

    def count(event_name: str, **_: Any) -> None:
        service, operation = event_name.split(".")[1:]
        counts[f"{service}.{operation}"] += 1

    session.events.register("before-send", count)
    yield counts
    boto3.DEFAULT_SESSION = None


@pytest.fixture
def bench(counts: Counter[str], environment: Environment) -> Bench:
    return Bench(environment, counts)


def test_rehydrating_with_a_warm_cache_is_one_round_trip_to_redis(bench: Bench) -> None:
    registry = bench.parts.services.collaborators.registry
    bench.run(registry.home(bench.tenant))
    assert bench.counted(registry.home(bench.tenant)) == {"redis.load": 1}


def test_rehydrating_with_a_cold_cache_is_one_query_and_one_fill(bench: Bench) -> None:
    registry = bench.parts.services.collaborators.registry
    bench.run(registry.forget(bench.tenant))
    assert bench.counted(registry.home(bench.tenant)) == {"redis.load": 1, "dynamodb.Query": 1, "redis.store": 1}


def test_accepting_a_message_is_a_rehydrate_a_read_a_transaction_and_a_send(bench: Bench) -> None:
    bench.send()
    bench.work()
    bench.run(bench.parts.services.collaborators.registry.home(bench.tenant))
    bench.counts.clear()
    bench.send()
    assert dict(bench.counts) == {
        "redis.load": 1,
        "dynamodb.BatchGetItem": 1,
        "dynamodb.TransactWriteItems": 1,
        "sqs.SendMessage": 1,
    }


def test_listing_agents_is_one_query(bench: Bench) -> None:
    registry = bench.parts.services.collaborators.registry
    assert bench.counted(registry.page(bench.tenant, limit=50, after=None)) == {"dynamodb.Query": 1}


def test_a_worker_answers_with_one_tool_call_in_a_fixed_number_of_calls(bench: Bench) -> None:
    bench.send()
    bench.work()
    bench.send()
    bench.work()
    expected = {
        "redis.load": 1,  # rehydrate
        "sqs.ChangeMessageVisibility": 1,  # the heartbeat's first
        "dynamodb.Query": 1,  # history
        "qdrant.search": 1,  # recall
        "s3.GetObject": 1,  # the tool's own
        # claim, a model step, a step of results, finish
        "dynamodb.TransactWriteItems": 4,
        "qdrant.add": 1,  # context
        "redis.wake": 1,
    }
    assert dict(bench.counts) == expected


def test_credentials_are_asked_for_once_a_tenant(counts: Counter[str], environment: Environment) -> None:
    bench = Bench(environment, counts)
    # Making the project, its file and its session needed them, for the table and for S3.
    assert counts["sts.AssumeRole"] == 1
    for _ in range(2):
        bench.send()
        bench.work()
        assert counts["sts.AssumeRole"] == 0
    Bench(environment, counts, project="other")
    assert counts["sts.AssumeRole"] == 1


def test_what_a_message_costs_does_not_depend_on_how_long_its_session_is(bench: Bench) -> None:
    for _ in range(12):
        bench.send()
        bench.work()
    short = Counter(bench.counts)
    for _ in range(15):
        bench.send()
        bench.work()
    assert bench.counts["dynamodb.Query"] == short["dynamodb.Query"] == 1
    assert sum(bench.counts.values()) <= sum(short.values())


def test_a_direct_message_needs_no_more_where_there_are_many_projects(bench: Bench) -> None:
    services = bench.parts.services
    for number in range(20):
        user = UserContext(bench.tenant.user_id)
        bench.run(services.projects.create(user, NewProject(id=f"other-{number}", name="Other")))
    for _ in range(2):
        bench.send()
        bench.work()
    before = dict(bench.counts)
    assert before["dynamodb.Query"] == 1
    assert sum(count for name, count in before.items() if name.startswith("dynamodb.")) == 5
