"""The template's functions as if they were deployed with the running embedded stack for a cloud.

``python -m worker_space_local.deployed`` writes their variables to a file, as ``sam local --env-vars`` takes them.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3

from worker_space_local.issuer import DEFAULT_AUDIENCE, ENDPOINTS_FILE
from worker_space_local.layout import PREFIX
from worker_space_local.poller import AwsConnection
from worker_space_local.stack import CREDENTIALS_FILE, DEFAULT_DATA_DIR
from worker_space_local.template import ACCOUNT, ROOT, DeployedFunction, Template, TemplateError

_SERVICES: Final = ("aws", "redis", "qdrant", "jwks")


def deployed(
    endpoints: Mapping[str, Any], credentials: Mapping[str, str], *, given: Mapping[str, str] | None = None
) -> dict[str, DeployedFunction]:
    """Every function by its name in the template, with exactly the template's variables.

    The secrets that these name are put into the stand-in's Secrets Manager.

    Args:
        endpoints: as the stack's ``endpoints.json`` has them.
        credentials: as its ``credentials.json`` has them.
        given: parameters of the template that are to differ from their defaults, such as ``OpenAiBaseUrl``.

    Raises:
        TemplateError: the template wants something that nothing here says.
        OSError: the AWS stand-in does not answer.
    """
    with closing(AwsConnection(endpoints["aws"])) as connection:
        cloud = connection.local("health")
    template = Template(
        ROOT / "template.yaml",
        parameters={
            "Prefix": PREFIX,
            "RedisRestUrl": endpoints["redis"],
            "QdrantUrl": endpoints["qdrant"],
            "JwtIssuer": endpoints["issuer"],
            "JwtAudience": os.environ.get("JWT_AUDIENCE") or DEFAULT_AUDIENCE,
            "JwtJwksUrl": endpoints["jwks"],
            **(given or {}),
        },
        outputs={
            "Storage.Outputs.TableName": endpoints["table"],
            "Storage.Outputs.BucketName": endpoints["bucket"],
            "Messaging.Outputs.DeadLetterArn": cloud["dead_letters"],
            "Access.Outputs.DataRoleArn": f"arn:aws:iam::{ACCOUNT}:role/{PREFIX}-data",
        },
        region=cloud["region"],
    )
    functions = {name: _here(function, endpoints["aws"]) for name, function in template.functions().items()}
    contents = {
        "WORKER_SPACE_SECRET": {
            "upstash_token": credentials["redis_token"],
            "qdrant_api_key": credentials["qdrant_api_key"],
        },
        "WORKER_SPACE_MODEL_SECRET": {"openai_api_key": os.environ.get("OPENAI_API_KEY") or "none"},
    }
    with closing(_secrets(endpoints["aws"], cloud["region"])) as manager:
        for variable, content in contents.items():
            for name in {function.variables.get(variable, "") for function in functions.values()} - {""}:
                _keep(manager, name, content)
    return functions


def _secrets(aws: str, region: str) -> Any:
    return boto3.client(
        "secretsmanager",
        endpoint_url=aws,
        region_name=region,
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 - the stand-in asks for none
    )


def _keep(manager: Any, name: str, content: Mapping[str, str]) -> None:
    text = json.dumps(content)
    try:
        manager.create_secret(Name=name, SecretString=text)
    except manager.exceptions.ResourceExistsException:
        manager.put_secret_value(SecretId=name, SecretString=text)


def _here(function: DeployedFunction, aws: str) -> DeployedFunction:
    if "AWS_ENDPOINT_URL" not in function.variables:
        raise TemplateError(f"{function.id} does not set AWS_ENDPOINT_URL: it would speak to AWS")
    return DeployedFunction(
        id=function.id,
        name=function.name,
        handler=function.handler,
        runtime=function.runtime,
        timeout_seconds=function.timeout_seconds,
        memory_mb=function.memory_mb,
        variables={**function.variables, "AWS_ENDPOINT_URL": aws},
    )


def moved(endpoints: Mapping[str, Any], host: str) -> dict[str, Any]:
    """The same endpoints at another address of this machine; the issuer's name stays, tokens carry it."""
    return {
        name: urlsplit(value)._replace(netloc=f"{host}:{urlsplit(value).port}").geturl() if name in _SERVICES else value
        for name, value in endpoints.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the file; 1 when no stack runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True, help="where the functions' containers reach the stack")
    parser.add_argument("--output", type=Path, default=Path("env.json"))
    parser.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("WORKER_SPACE_DATA_DIR") or DEFAULT_DATA_DIR)
    )
    wanted = parser.parse_args(arguments)
    try:
        endpoints = json.loads((wanted.data_dir / ENDPOINTS_FILE).read_text("utf-8"))
        credentials = json.loads((wanted.data_dir / CREDENTIALS_FILE).read_text("utf-8"))
        functions = deployed(endpoints, credentials)
    except OSError:
        print(f"no stack runs in {str(wanted.data_dir)!r}: start it with `make serve`", file=sys.stderr)
        return 1
    there = moved(endpoints, wanted.host)
    addresses = {endpoints[name]: there[name] for name in _SERVICES}
    content = {
        function.id: {name: addresses.get(value, value) for name, value in function.variables.items()}
        for function in functions.values()
    }
    with os.fdopen(os.open(wanted.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    print(f"wrote {wanted.output}: the stack of {str(wanted.data_dir)!r} at {wanted.host}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
