"""`worker-space limits`: seen through the API, set in the table."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.local.cli_server import FakeApi
from tests.local.conftest import TABLE
from worker_space.tenancy import Key, TenantContext, partition
from worker_space_local.cli import main
from worker_space_local.issuer import make_key

TENANT = TenantContext("alice", "shop")


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        yield server


@pytest.fixture
def table(
    api: FakeApi, client: Callable[[str], Any], aws_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """A stack's table with one project."""
    make_key(tmp_path)
    endpoints = {"api": api.url, "aws": aws_url, "issuer": "http://issuer", "table": TABLE}
    (tmp_path / "endpoints.json").write_text(json.dumps(endpoints))
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("WORKER_SPACE_TABLE", raising=False)
    dynamodb = client("dynamodb")
    item = {"pk": {"S": partition(TENANT, "tenant")}, "sk": {"S": Key.space().sort}, "state": {"S": "active"}}
    dynamodb.put_item(TableName=TABLE, Item=item)
    return dynamodb


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["limits", *arguments])


def granted(table: Any) -> dict[str, Any] | None:
    key = {"pk": {"S": partition(TENANT, "tenant")}, "sk": {"S": Key.space().sort}}
    item = table.get_item(TableName=TABLE, Key=key)["Item"]
    return None if "operator_limits" not in item else dict(item["operator_limits"]["M"])


def test_an_operator_sets_lifts_and_takes_back_limits_of_one_project(table: Any) -> None:
    alice = ("--user", "alice", "--project", "shop")
    first = call(*alice, "--set", "tokens_per_day=500000", "--set", "agents=none")
    assert first.exit_code == 0, first.output
    assert first.output == "set for project shop of alice: agents without a limit, tokens_per_day 500000\n"
    assert granted(table) == {"tokens_per_day": {"N": "500000"}, "agents": {"NULL": True}}
    second = call(*alice, "--set", "agents=default", "--set", "tokens_per_day=7")
    assert second.exit_code == 0, second.output
    assert granted(table) == {"tokens_per_day": {"N": "7"}}
    call(*alice, "--set", "tokens_per_day=default")
    assert granted(table) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "agents=5"), "name the project"),
        (("--project", "shop", "--set", "agents"), "'agents' sets nothing"),
        (("--project", "shop", "--set", "agents=-1"), "sets nothing"),
        (("--project", "shop", "--set", "rockets=5"), "there is no limit 'rockets'"),
        (("--project", "nobodys", "--set", "agents=5"), "there is no project 'nobodys'"),
    ],
)
def test_what_cannot_be_set_is_said_and_changes_nothing(table: Any, arguments: tuple[str, ...], said: str) -> None:
    result = call("--user", "alice", *arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert granted(table) is None


def test_limits_and_their_use_are_shown(api: FakeApi, table: Any) -> None:
    entry = {"scope": "project", "reserved": None, "until": None, "source": "deployment"}
    shown = [
        {**entry, "name": "agents", "limit": 100, "used": 4},
        {**entry, "name": "file_bytes", "limit": None, "used": None},
    ]
    api.refuse.append(("GET", r".*/shop/limits/", {"status": 200, "limits": shown}))
    result = call("--user", "alice", "--project", "shop")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[1] == ["agents", "project", "100", "4", "-", "deployment"]
    assert rows[2] == ["file_bytes", "project", "none", "-", "-", "deployment"]
