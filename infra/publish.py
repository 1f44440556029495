"""`make publish`: bring what a deployment changed in the functions' settings to the alias that callers go through.

AWS SAM publishes a new version when the template, a function or a layer changes, but not when only a parameter has
another value (https://github.com/aws/serverless-application-model/issues/3820): the functions have the new setting, and
the alias goes on with the old version. Versions that are made here are no part of the stack; the next one that
CloudFormation makes replaces them at the alias.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ALIAS = "live"
READY_SECONDS = 600.0
"""How long a version may take: its snapshot is made first."""


class NotPublishedError(Exception):
    """A version did not become ready, so the alias still names the one before; the message says why."""


def functions(cloudformation: Any, stack: str) -> Iterator[str]:
    """The names of a stack's functions."""
    for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack):
        for resource in page["StackResourceSummaries"]:
            if resource["ResourceType"] == "AWS::Lambda::Function":
                yield resource["PhysicalResourceId"]


def publish(
    client: Any,
    function: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, str]:
    """Publish one function, if it differs from what was published last; the alias's version before and after.

    Raises:
        NotPublishedError: The version did not become ready.
    """
    before = client.get_alias(FunctionName=function, Name=ALIAS)["FunctionVersion"]
    # The same version as before where nothing has changed since.
    after = client.publish_version(FunctionName=function)["Version"]
    deadline = clock() + READY_SECONDS
    while True:
        found = client.get_function_configuration(FunctionName=function, Qualifier=after)
        if found.get("State", "Active") == "Active":
            break
        if found["State"] == "Failed" or clock() >= deadline:
            raise NotPublishedError(f"{function}: version {after} is {found['State']}: {found.get('StateReason', '')}")
        sleep(5.0)
    if after != before:
        client.update_alias(FunctionName=function, Name=ALIAS, FunctionVersion=after)
    return before, after


def main() -> int:
    """Publish each function of a stack; the first that fails ends with one sentence and status 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stack", required=True)
    stack = parser.parse_args().stack
    try:
        found = sorted(functions(boto3.client("cloudformation"), stack))
        client = boto3.client("lambda")
        for function in found:
            before, after = publish(client, function)
            print(f"{function}: {ALIAS} is version {after}" + ("" if after != before else ", as it was"))
    except (NotPublishedError, BotoCoreError, ClientError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if not found:
        print(f"error: the stack {stack} has no functions", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
