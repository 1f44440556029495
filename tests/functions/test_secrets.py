"""A function whose configuration names its secrets: they come from Secrets Manager, and a rotated one is used."""

import json
import random
import secrets
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from snapshot_restore_py import get_after_restore, get_before_snapshot

from tests.servers import server
from tests.stand_ins import Aws, Endpoint
from worker_space import bootstrap
from worker_space.adapters.secrets import SecretSettings
from worker_space.errors import Unavailable
from worker_space.settings import Settings
from worker_space.snapshots import ready_for_snapshots
from worker_space.tenancy import TenantContext

ALICE = TenantContext("alice", "p1")


@pytest.fixture
def manager(aws: Aws, aws_endpoint: str) -> Any:
    return boto3.client(
        "secretsmanager", region_name=aws.region, aws_access_key_id="local", aws_secret_access_key="local"
    )


@pytest.fixture
def stored(
    manager: Any, variables: dict[str, str], redis: Endpoint, qdrant: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The name of a secret with the stores' keys, which stand in no variable."""
    name = f"worker-space/{secrets.token_hex(4)}"
    content = {"upstash_token": redis.secret, "qdrant_api_key": qdrant.secret}
    manager.create_secret(Name=name, SecretString=json.dumps(content))
    for variable, value in variables.items():
        if value not in content.values():
            monkeypatch.setenv(variable, value)
    monkeypatch.setenv("WORKER_SPACE_SECRET", name)
    bootstrap.forget_environment()
    yield name
    bootstrap.forget_environment()


def test_the_stores_are_reached_with_keys_that_no_variable_holds(stored: str) -> None:
    here = bootstrap.environment()
    here.run(here.ports.cache.store(ALICE, {"a": "1"}, ttl_seconds=30))
    assert here.run(here.ports.cache.load(ALICE)) == {"a": "1"}

    async def ask_memory() -> None:
        await here.ports.dependencies["qdrant"]()

    here.run(ask_memory())
    assert bootstrap.environment() is here


def test_a_rotated_key_is_used_without_a_deployment_once_the_old_one_is_refused(
    stored: str, manager: Any, redis: Endpoint, qdrant: Endpoint
) -> None:
    right = {"upstash_token": redis.secret, "qdrant_api_key": qdrant.secret}
    manager.put_secret_value(SecretId=stored, SecretString=json.dumps(right | {"upstash_token": "expired"}))
    clock = clocked(manager)
    before = bootstrap.environment()
    with pytest.raises(Unavailable):
        before.run(before.ports.cache.load(ALICE))
    manager.put_secret_value(SecretId=stored, SecretString=json.dumps(right))
    assert bootstrap.environment() is before
    clock[0] = 61.0
    after = bootstrap.environment()
    assert after is not before
    assert before.loop.is_closed()
    assert after.run(after.ports.cache.load(ALICE)) == {}


def clocked(manager: Any) -> list[float]:
    """This thread's settings over a clock of the test's own: set its only entry."""
    clock = [0.0]
    bootstrap._threads.settings = SecretSettings(
        Settings.from_environment(), client=lambda: manager, clock=lambda: clock[0]
    )
    return clock


def test_inside_a_request_the_environment_never_changes(stored: str, manager: Any) -> None:
    clock = clocked(manager)
    here = bootstrap.environment()
    manager.put_secret_value(SecretId=stored, SecretString=json.dumps({"upstash_token": "rotated"}))
    clock[0] = 1_000.0

    async def request() -> bool:
        return bootstrap.environment() is here

    assert here.run(request())
    assert bootstrap.environment() is not here


def test_a_secrets_manager_that_hangs_costs_one_deadline_and_not_the_start(
    stored: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with server(lambda _: None) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", url)
        began = time.monotonic()
        here = bootstrap.environment()
        assert time.monotonic() - began < 2.5
        assert len(asked) == 1
    assert stored in caplog.text
    # The cache refuses without its key; nobody is served from anywhere else.
    with pytest.raises(Unavailable):
        here.run(here.ports.cache.load(ALICE))


# -- snapshots


def hooks() -> tuple[list[Any], list[Any]]:
    """What Lambda's runtime calls before a snapshot and after a restore: functions with their arguments."""
    before: Any = get_before_snapshot()
    after: Any = get_after_restore()
    return list(before), list(after)


def test_a_restored_environment_starts_afresh(stored: str) -> None:
    before, after = hooks()
    ready_for_snapshots("worker_space.lexical")
    ((function, names, options),) = hooks()[0][len(before) :]
    assert function(*names, **options).__name__ == "worker_space.lexical"
    ((restored, _, _),) = hooks()[1][len(after) :]
    old = bootstrap.environment()
    random.seed(1)
    restored()
    first = random.random()
    random.seed(1)
    restored()
    assert random.random() != first
    assert old.loop.is_closed()
    assert bootstrap.environment() is not old


def test_nothing_of_a_function_exists_before_its_first_invocation(stored: str) -> None:
    """What stands in a snapshot: the handlers' modules, and no environment."""
    import functions.api.app
    import functions.worker.app

    assert callable(functions.api.app.handler)
    assert callable(functions.worker.app.handler)
    assert getattr(bootstrap._threads, "environment", None) is None
