"""`make teardown`: what it finds, what it leaves, and whom it asks."""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.deployment import Deployment, DeploymentError, find
from infra.teardown import main
from tests.servers import Request, http, server
from tests.stand_ins import Aws
from worker_space.tenancy import Names, TenantContext

ROOT = Path(__file__).parents[2]
U1, HASHED = TenantContext("u1", "p"), TenantContext("auth0|1", "p")


class Account:
    """The stand-in's queues and mappings."""

    def __init__(self, aws: Aws) -> None:
        self.sqs = boto3.client("sqs", region_name=aws.region)
        self.functions = boto3.client("lambda", region_name=aws.region)
        self._arn = aws.dead_letters.rpartition(":")[0]

    def make(self, name: str, *, mapped: bool = False) -> str:
        self.sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})
        if mapped:
            source = f"{self._arn}:{name}"
            self.functions.create_event_source_mapping(EventSourceArn=source, FunctionName="worker", BatchSize=1)
        return name

    def delete(self, name: str) -> None:
        self.sqs.delete_queue(QueueUrl=self.sqs.get_queue_url(QueueName=name)["QueueUrl"])

    def queues(self) -> set[str]:
        pages = self.sqs.get_paginator("list_queues").paginate()
        return {url.rpartition("/")[2] for page in pages for url in page.get("QueueUrls", ())}

    def mapped(self) -> set[str]:
        pages = self.functions.get_paginator("list_event_source_mappings").paginate()
        return {each["EventSourceArn"].rpartition(":")[2] for page in pages for each in page["EventSourceMappings"]}


@pytest.fixture
def account(aws: Aws, aws_endpoint: str) -> Iterator[Account]:
    made = Account(aws)
    yield made
    made.sqs.close()
    made.functions.close()


@pytest.fixture
def leaked(account: Account) -> tuple[str, set[str], set[str]]:
    """A prefix, what of its queues is to go, and what is to stay."""
    prefix = f"t{secrets.token_hex(3)}"
    names = Names(prefix)
    go = {account.make(names.queue(U1, 1), mapped=True), account.make(names.queue(HASHED, 4))}
    account.make(names.queue(U1, 2), mapped=True)
    account.delete(names.queue(U1, 2))
    stay = {
        account.make(Names(f"{prefix}2").queue(U1, 1), mapped=True),
        account.make(names.pool_queue(0), mapped=True),
        account.make(f"{prefix}-dead-letter.fifo"),
        account.make(f"{prefix}_dead-letter.fifo"),
    }
    return prefix, go, stay


def test_without_a_yes_it_only_tells(
    account: Account, leaked: tuple[str, set[str], set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    prefix, go, stay = leaked
    assert main(["--stack", prefix]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in go)
    assert not any(name in told for name in stay)
    assert "2 queues" in told
    assert "2 mappings" in told
    assert "YES=1" in told
    assert go | stay <= account.queues()


def test_with_a_yes_it_removes_this_deployments_and_nothing_else(
    account: Account, leaked: tuple[str, set[str], set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    prefix, go, stay = leaked
    assert main(["--stack", prefix, "--yes"]) == 0
    assert "removed 4" in capsys.readouterr().out
    assert account.queues().isdisjoint(go)
    assert stay <= account.queues()
    assert {name for name in account.mapped() if name.startswith(prefix)} == {
        Names(f"{prefix}2").queue(U1, 1),
        Names(prefix).pool_queue(0),
    }
    assert main(["--prefix", prefix, "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--prefix", "Bad_prefix"], ["--stack", "much-too-long-for-a-prefix"]])
def test_what_names_no_deployment_is_refused(
    arguments: list[str], aws_endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--yes"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


# -- which deployment it is


STACK = """<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult>
<Stacks><member><StackName>shop</StackName><StackId>1</StackId><CreationTime>2026-11-22T00:00:00Z</CreationTime>
<StackStatus>CREATE_COMPLETE</StackStatus><Parameters>{parameters}</Parameters><Outputs>{outputs}</Outputs>
</member></Stacks></DescribeStacksResult></DescribeStacksResponse>"""
PREFIX = "<member><ParameterKey>Prefix</ParameterKey><ParameterValue>shop-7</ParameterValue></member>"
URL = "<member><OutputKey>ApiUrl</OutputKey><OutputValue>https://x.example/</OutputValue></member>"


@pytest.fixture
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As on a machine of an operator, whose CloudFormation is a server here."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    return monkeypatch


def ask(monkeypatch: pytest.MonkeyPatch, status: int, body: str, **given: Any) -> Deployment:
    def answer(request: Request) -> bytes:
        return http(status, body.encode(), "text/xml")

    with server(answer) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", url)
        return find("shop", **given)


def test_a_stacks_prefix_and_address_are_those_that_cloudformation_knows(no_endpoint: pytest.MonkeyPatch) -> None:
    found = ask(no_endpoint, 200, STACK.format(parameters=PREFIX, outputs=URL))
    assert found == Deployment(prefix="shop-7", region="eu-central-1", api="https://x.example")


@pytest.mark.parametrize(("parameters", "outputs"), [("", URL), (PREFIX, "")])
def test_a_stack_of_something_else_is_left_alone(
    no_endpoint: pytest.MonkeyPatch, parameters: str, outputs: str
) -> None:
    with pytest.raises(DeploymentError, match="not one of Worker Space"):
        ask(no_endpoint, 200, STACK.format(parameters=parameters, outputs=outputs))


def test_a_stack_that_is_not_there_is_no_prefix(no_endpoint: pytest.MonkeyPatch) -> None:
    missing = "<ErrorResponse><Error><Code>ValidationError</Code><Message>no stack</Message></Error></ErrorResponse>"
    with pytest.raises(DeploymentError, match="ValidationError"):
        ask(no_endpoint, 400, missing)


def test_a_prefix_is_taken_without_asking_anybody(no_endpoint: pytest.MonkeyPatch) -> None:
    no_endpoint.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", "http://127.0.0.1:9")
    assert find("", prefix="ws") == Deployment(prefix="ws", region="eu-central-1")


def test_without_a_region_nothing_is_guessed(no_endpoint: pytest.MonkeyPatch) -> None:
    no_endpoint.delenv("AWS_REGION")
    no_endpoint.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(DeploymentError, match="AWS_REGION"):
        find("shop")


def test_make_removes_only_with_a_yes() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(r"infra\.teardown .*\$\(if \$\(filter 1,\$\(YES\)\),--yes\)", recipe)
