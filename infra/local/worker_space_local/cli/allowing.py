"""Limits at the terminal: what is used of them, and the operator's word about one project's."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import boto3
from botocore.config import Config

from worker_space.adapters.aws import AwsCalls
from worker_space.adapters.dynamodb import DynamoRecords
from worker_space.errors import WorkerSpaceError
from worker_space.limits import grant
from worker_space.tenancy import TenantContext
from worker_space_local.cli.listing import choose_project
from worker_space_local.cli.screen import clock, say, table
from worker_space_local.client import (
    START_HINT,
    Client,
    ClientError,
    data_dir,
    find_connection,
    read_endpoints,
    segment,
)

_QUICK: Final = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1})


def show_limits(project: str | None, user: str) -> None:
    """Print every limit of a project and its user."""
    with Client(find_connection(user)) as client:
        project = choose_project(client, project)
        limits = client.get(f"{segment(project)}/limits/")["limits"]
    rows = [
        (
            str(each["name"]),
            str(each["scope"]),
            _number(each["limit"], "none"),
            _number(each["used"], "-"),
            "-" if each["until"] is None else clock(each["until"]),
            str(each["source"]),
        )
        for each in limits
    ]
    table(("LIMIT", "OF", "MOST", "USED", "UNTIL", "SET BY"), rows)


def _number(value: int | None, nothing: str) -> str:
    return nothing if value is None else str(value)


def grant_limits(project: str | None, user: str, changes: Sequence[str]) -> None:
    """Write the operator's limits of one project into the table.

    Raises:
        ClientError: A change is not understood, there is no such project, or the table does not answer.
    """
    if project is None:
        raise ClientError("name the project whose limits to set: --project")
    new, back = _parsed(changes)
    client, name = _table()
    with ThreadPoolExecutor(1) as executor:
        records = DynamoRecords(client=client, calls=AwsCalls(executor), table=name)
        try:
            tenant = TenantContext(user, project)
            granted = asyncio.run(grant(records, tenant, new, revoke=back))
        except WorkerSpaceError as error:
            raise ClientError(str(error)) from error
    told = ", ".join(f"{limit} {_number(value, 'without a limit')}" for limit, value in sorted(granted.items()))
    say(f"set for project {project} of {user}: {told or 'nothing, the deployment decides'}")


def _parsed(changes: Sequence[str]) -> tuple[Mapping[str, int | None], set[str]]:
    new: dict[str, int | None] = {}
    back: set[str] = set()
    for change in changes:
        name, equals, value = change.partition("=")
        if value == "default":
            back.add(name)
        elif value == "none":
            new[name] = None
        elif equals and value.isascii() and value.isdigit() and len(value) < 16:
            new[name] = int(value)
        else:
            raise ClientError(f"{change!r} sets nothing: write NAME=NUMBER, NAME=none or NAME=default")
    return new, back


def _table() -> tuple[Any, str]:
    if name := os.environ.get("WORKER_SPACE_TABLE"):
        return boto3.client("dynamodb", config=_QUICK), name
    endpoints = read_endpoints(data_dir())
    if endpoints is None or "aws" not in endpoints:
        raise ClientError(f"no stack runs with {data_dir()}: {START_HINT}, or set WORKER_SPACE_TABLE")
    client = boto3.client(
        "dynamodb",
        endpoint_url=endpoints["aws"],
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 - of the stand-in, which takes any
        config=_QUICK,
    )
    return client, str(endpoints["table"])
