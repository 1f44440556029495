"""Which deployment a command is about: its prefix, and where its API is, as CloudFormation knows them."""

import os
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from worker_space.adapters.aws import error_code, make_client
from worker_space.errors import InvalidRequest
from worker_space.tenancy import Names

__all__ = ["Deployment", "DeploymentError", "find"]


class DeploymentError(Exception):
    """The deployment is not found; the message says what to give."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One deployed stack.

    Args:
        api: Address of the API, empty where only the prefix is known.
    """

    prefix: str
    region: str
    api: str = ""


def find(stack: str, *, prefix: str = "") -> Deployment:
    """The deployment of this stack.

    Args:
        stack: Name of a CloudFormation stack. With `AWS_ENDPOINT_URL` set, which has no CloudFormation: the prefix.
        prefix: Taken as it is, and nobody is asked: for a stack that is gone.

    Raises:
        DeploymentError: Neither is given, there is no such stack, or nobody may ask for it.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    embedded = bool(os.environ.get("AWS_ENDPOINT_URL"))
    if not (stack or prefix):
        raise DeploymentError("give STACK=name of the stack, or PREFIX=its prefix where the stack is gone already")
    if not region:
        if not embedded:
            raise DeploymentError("set AWS_REGION to the region of the stack")
        region = "us-east-1"
    if not prefix and not embedded:
        return _described(stack, region)
    prefix = prefix or stack
    try:
        Names(prefix)
    except InvalidRequest as error:
        raise DeploymentError(str(error)) from error
    return Deployment(prefix=prefix, region=region)


def _described(stack: str, region: str) -> Deployment:
    client = make_client("cloudformation", region=region, timeout_seconds=10)
    try:
        (found,) = client.describe_stacks(StackName=stack)["Stacks"]
    except (BotoCoreError, ClientError) as error:
        why = error_code(error) if isinstance(error, ClientError) else type(error).__name__
        raise DeploymentError(f"the stack {stack!r} cannot be asked for in {region} ({why}): {error}") from error
    finally:
        client.close()
    parameters = {each["ParameterKey"]: each.get("ParameterValue", "") for each in found.get("Parameters", ())}
    outputs = {each["OutputKey"]: each.get("OutputValue", "") for each in found.get("Outputs", ())}
    if "Prefix" not in parameters or "ApiUrl" not in outputs:
        raise DeploymentError(f"the stack {stack!r} is not one of Worker Space: it has no Prefix or no ApiUrl")
    return Deployment(prefix=parameters["Prefix"], region=region, api=outputs["ApiUrl"].rstrip("/"))
