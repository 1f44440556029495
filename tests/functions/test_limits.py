"""Limits over the real adapters: conditions mean in DynamoDB what they mean in memory, and cost what they should."""

import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from tests.functions.test_budgets import counts  # noqa: F401 - a fixture
from tests.functions.test_handlers import acknowledge, received
from worker_space.agents import AgentChanges, AgentConfig
from worker_space.allowances import LimitChanges
from worker_space.bootstrap import Environment
from worker_space.bus import Sent
from worker_space.composition import Parts, compose
from worker_space.errors import LimitReached
from worker_space.limit_status import limit_status
from worker_space.messages import NewSession
from worker_space.ports import Lease
from worker_space.projects import NewProject, ProjectChanges
from worker_space.tasks import Delivery, TaskState
from worker_space.tenancy import TenantContext, UserContext


class Bench:
    """The system with limits, and a tenant with a project."""

    def __init__(self, environment: Environment, sent: Counter[str], **limits: int) -> None:
        self.environment, self.counts = environment, sent
        self.tenant = TenantContext(f"l-{environment.settings.prefix}", "shop")
        changed = environment.settings.model_copy(update=limits)
        self.parts: Parts = compose(replace(environment.ports), changed)
        self.services = self.parts.services
        user = UserContext(self.tenant.user_id)
        self.run(self.services.projects.create(user, NewProject(id="shop", name="Shop")))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.environment.run(work)

    def refused(self, work: Coroutine[Any, Any, Any]) -> str | None:
        with pytest.raises(LimitReached) as refusal:
            self.run(work)
        return refusal.value.limit

    def session(self) -> str:
        return str(self.run(self.services.collaborators.sessions.create(self.tenant, NewSession())).id)

    def send(self, session: str) -> Coroutine[Any, Any, Sent]:
        return self.services.collaborators.bus.send_task(
            self.tenant, session_id=session, content="Analyse main.py", target_agent="analyst"
        )

    def work(self) -> None:
        (record,) = received(self.environment, self.tenant)["Records"]
        name = record["eventSourceARN"].rpartition(":")[2]
        lease = Lease(queue_url=f"https://sqs/{name}", receipt_handle=record["receiptHandle"])
        delivery = Delivery.model_validate_json(record["body"])
        self.counts.clear()
        self.run(self.parts.worker.handle(delivery, lease, deadline=time.monotonic() + 60))
        counted = Counter(self.counts)
        acknowledge(self.environment, record)
        self.counts.clear()
        self.counts.update(counted)

    def used(self, name: str, scope: str = "project") -> int | None:
        services = self.services
        found = self.run(limit_status(services.records, services.allowances, self.tenant))
        (used,) = [each.used for each in found if (each.name, each.scope) == (name, scope)]
        assert used is None or isinstance(used, int)
        return used


@pytest.fixture
def sent(counts: Counter[str]) -> Counter[str]:  # noqa: F811
    return counts


def test_agents_sessions_projects_and_tasks_are_counted(sent: Counter[str], environment: Environment) -> None:
    limits = {"limit_agents": 5, "limit_sessions": 2, "limit_open_tasks": 1, "user_limit_projects": 1}
    bench = Bench(environment, sent, **limits)
    registry = bench.services.collaborators.registry

    def agent(name: str) -> AgentConfig:
        return AgentConfig(name=name, system_prompt="You help.")

    bench.run(registry.create(bench.tenant, agent("fifth")))
    assert bench.refused(registry.create(bench.tenant, agent("sixth"))) == "agents"
    bench.run(registry.delete(bench.tenant, "fifth"))
    bench.run(registry.create(bench.tenant, agent("sixth")))
    first = bench.session()
    bench.session()
    assert bench.refused(bench.services.collaborators.sessions.create(bench.tenant, NewSession())) == "sessions"
    bench.run(bench.send(first))
    assert bench.refused(bench.send(first)) == "open_tasks"
    bench.work()
    bench.run(bench.send(first))
    user = UserContext(bench.tenant.user_id)
    assert bench.refused(bench.services.projects.create(user, NewProject(id="two", name="Two"))) == "projects"
    assert (bench.used("agents"), bench.used("sessions"), bench.used("open_tasks")) == (5, 2, 1)
    assert bench.used("projects", "user") == 1


def test_an_owners_limits_are_stored_and_changed(sent: Counter[str], environment: Environment) -> None:
    bench = Bench(environment, sent, limit_agents=10)
    projects = bench.services.projects
    for changes, after in (
        ({"agents": 4}, {"agents": 4}),
        ({"agents": 3, "sessions": 1}, {"agents": 3, "sessions": 1}),
    ):
        changed = bench.run(projects.update(bench.tenant, ProjectChanges(limits=LimitChanges(**changes))))
        assert changed.limits == after
    back = ProjectChanges(limits=LimitChanges(agents=None, sessions=None))
    assert bench.run(projects.update(bench.tenant, back)).limits == {}


def test_messages_of_a_minute_are_counted_for_project_and_user(sent: Counter[str], environment: Environment) -> None:
    bench = Bench(environment, sent, limit_messages_per_minute=50, user_limit_messages_per_minute=60)
    session = bench.session()
    began = time.time() // 60
    for _ in range(3):
        bench.run(bench.send(session))
    if time.time() // 60 == began:
        assert (bench.used("messages_per_minute"), bench.used("messages_per_minute", "user")) == (3, 3)


def test_tokens_are_reserved_and_settled(sent: Counter[str], environment: Environment) -> None:
    bench = Bench(environment, sent, limit_tokens_per_day=200_000, user_limit_tokens_per_day=200_000)
    bench.run(bench.services.files.write(bench.tenant, "main.py", b"print('hi')\n"))
    session = bench.session()
    task = bench.run(bench.send(session))
    bench.work()
    reply = bench.run(bench.services.collaborators.execution.reply(bench.tenant, task, wait_seconds=0))
    assert reply.task.state is TaskState.COMPLETED
    used = reply.task.input_tokens + reply.task.output_tokens
    assert used > 0
    assert bench.used("tokens_per_day") == bench.used("tokens_per_day", "user") == used
    # Two model calls, each reserved and settled; what else a task with one tool call costs is four.
    assert sent["dynamodb.TransactWriteItems"] == 4 + 2 * 2


def test_a_day_that_is_used_up_ends_a_run_with_the_reason(sent: Counter[str], environment: Environment) -> None:
    bench = Bench(environment, sent, limit_tokens_per_day=1_500)
    registry = bench.services.collaborators.registry
    small = AgentChanges(tools=(), system_prompt="You help.", max_tokens=256)
    bench.run(registry.update(bench.tenant, "analyst", small))
    ended = []
    for _ in range(20):
        task = bench.run(bench.send(bench.session()))
        bench.work()
        reply = bench.run(bench.services.collaborators.execution.reply(bench.tenant, task, wait_seconds=0))
        ended.append(reply.task)
        if reply.task.state is TaskState.FAILED:
            break
    assert len(ended) > 1
    assert ended[-1].error is not None
    assert ended[-1].error.code == "limit_reached"
    used = bench.used("tokens_per_day")
    assert used is not None
    assert used == sum(task.input_tokens + task.output_tokens for task in ended)
    assert 0 < used <= 1_500


def test_the_bytes_of_files_are_counted(sent: Counter[str], environment: Environment) -> None:
    bench = Bench(environment, sent, limit_file_bytes=100)
    files = bench.services.files
    bench.run(files.write(bench.tenant, "a", b"x" * 60))
    assert bench.refused(files.write(bench.tenant, "b", b"x" * 41)) == "file_bytes"
    bench.run(files.write(bench.tenant, "a", b"x" * 10))
    bench.run(files.sign_upload(bench.tenant, "b", size=80, seconds=60))
    assert bench.refused(files.write(bench.tenant, "c", b"x" * 11)) == "file_bytes"
    bench.run(files.delete(bench.tenant, "a"))
    assert bench.used("file_bytes") == 80


def test_without_such_limits_a_message_costs_no_call_more(sent: Counter[str], environment: Environment) -> None:
    bench = Bench(environment, sent)
    bench.run(bench.services.files.write(bench.tenant, "main.py", b"print('hi')\n"))
    session = bench.session()
    for _ in range(2):
        bench.run(bench.send(session))
        bench.work()
    assert sent["dynamodb.TransactWriteItems"] == 4
    sent.clear()
    bench.run(bench.send(session))
    assert {name: count for name, count in sent.items() if name.startswith("dynamodb.")} == {
        "dynamodb.BatchGetItem": 1,
        "dynamodb.TransactWriteItems": 1,
    }
