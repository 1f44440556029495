"""What the mission promises, over the real adapters against the stand-ins: where another environment could see else."""

import io
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from functions.worker.app import handler as worker
from tests.functions.test_handlers import acknowledge, received
from worker_space import UserWorkerSpace, WorkerSpaceManager
from worker_space.agents import AgentChanges
from worker_space.bootstrap import Environment
from worker_space.errors import NotFound
from worker_space.messages import NewSession
from worker_space.projects import NewProject
from worker_space.tenancy import TenantContext, UserContext


@pytest.fixture
def tenant(environment: Environment) -> TenantContext:
    tenant = TenantContext(f"m-{environment.settings.prefix}", "shop")
    services = environment.parts.services
    environment.run(services.projects.create(UserContext(tenant.user_id), NewProject(id="shop", name="Shop")))
    environment.run(services.files.write(tenant, "main.py", b'"""Says hi."""\nprint("hi")\n'))
    return tenant


def space_of(environment: Environment, tenant: TenantContext) -> UserWorkerSpace:
    return WorkerSpaceManager(environment.parts.services.collaborators).get_or_create(tenant.user_id, tenant.project_id)


def elsewhere(environment: Environment, look: Callable[[Environment], Any]) -> Any:
    """What `look` gives in another thread, with an environment of its own."""

    def one() -> Any:
        other = Environment(environment.settings)
        try:
            return look(other)
        finally:
            other.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(one).result()


def answer(environment: Environment, tenant: TenantContext, invocation: Any, content: str = "Analyse main.py") -> Any:
    space = space_of(environment, tenant)
    session = environment.run(space.sessions.create(tenant, NewSession()))
    sent = environment.run(space.send_task(session.id, content, "analyst"))
    event = received(environment, tenant)
    assert worker(event, invocation) == {"batchItemFailures": []}
    acknowledge(environment, event["Records"][0])
    reply = environment.run(space.wait_for_result(sent, seconds=1))
    assert reply.response is not None
    return reply


def test_metrics_are_the_same_in_two_environments(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    environment.run(space_of(environment, tenant).initialize())
    for _ in range(2):
        answer(environment, tenant, invocation)
    mine = environment.run(space_of(environment, tenant).get_metrics())
    theirs = elsewhere(environment, lambda other: other.run(space_of(other, tenant).get_metrics()))
    assert (mine.total_tasks_processed, mine.tasks_by_state["completed"], mine.active_agents) == (2, 2, 4)
    assert theirs.model_copy(update={"uptime_seconds": mine.uptime_seconds}) == mine
    assert mine.is_healthy
    per_agent = elsewhere(environment, lambda other: other.run(space_of(other, tenant).get_agent_metrics("analyst")))
    assert (per_agent.completed, per_agent.in_flight) == (2, 0)


def test_initialising_again_in_another_environment_changes_nothing(
    environment: Environment, tenant: TenantContext
) -> None:
    first = environment.run(space_of(environment, tenant).initialize())
    again = elsewhere(environment, lambda other: other.run(space_of(other, tenant).initialize()))
    assert list(again) == list(first)


def test_an_agent_that_was_changed_or_deleted_elsewhere_is_not_served_stale(
    environment: Environment, tenant: TenantContext
) -> None:
    space = space_of(environment, tenant)
    environment.run(space.initialize())

    def change(other: Environment) -> None:
        there = space_of(other, tenant)
        other.run(there.list_agents())
        other.run(there.update_agent("coder", AgentChanges(system_prompt="New.", enabled=False)))
        other.run(there.delete_agent("writer"))

    elsewhere(environment, change)
    coder = environment.run(space.get_agent("coder"))
    assert (coder.version, coder.config.system_prompt, coder.config.enabled) == (2, "New.", False)
    with pytest.raises(NotFound):
        environment.run(space.get_agent("writer"))


def test_an_exported_project_is_imported_as_an_equal_one(
    environment: Environment, tenant: TenantContext, invocation: Any
) -> None:
    space = space_of(environment, tenant)
    answer(environment, tenant, invocation)
    answer(environment, tenant, invocation, "Analyse main.py " + "x" * 40_000)
    environment.run(space.add_note("coder", "The sky is blue."))
    environment.run(space.update_agent("coder", AgentChanges(temperature=0.3)))
    services = environment.parts.services
    data = environment.run(services.exporter.export(tenant))
    made = environment.run(services.importer.import_project(tenant.user, data, project_id="copy"))
    assert (made.project_id, made.counts["messages"], made.counts["context"]) == ("copy", 4, 3)
    copy = TenantContext(tenant.user_id, "copy")
    environment.run(services.files.write(copy, "main.py", b'"""Says hi."""\nprint("hi")\n'))
    again = elsewhere(environment, lambda other: other.run(other.parts.services.exporter.export(copy)))
    assert lines(again) == lines(data)
    matches = environment.run(space_of(environment, copy).search_context("coder", "sky"))
    assert [match.entry.text for match in matches] == ["The sky is blue."]
    metrics = environment.run(space_of(environment, copy).get_metrics())
    assert metrics.total_tasks_processed == 2
    assert answer(environment, copy, invocation).response.agent_id


def lines(data: bytes) -> dict[str, list[Any]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = {name: archive.read(name).decode().splitlines() for name in archive.namelist() if name.endswith("l")}
    return {name: sorted((json.loads(line) for line in each), key=json.dumps) for name, each in found.items()}
