"""A missing permission shows on AWS only: here the adapters' calls are compared with what the policies grant."""

import ast
from collections.abc import Iterator
from pathlib import Path

import botocore.session
from botocore import xform_name

from tests.infra.test_template import GRANTS, listed

ADAPTERS = Path(__file__).parents[2] / "layers/core/worker_space/adapters"
SERVICES = ("dynamodb", "lambda", "s3", "sqs")

SEVERAL = {
    "dynamodb:TransactWriteItems": {
        "dynamodb:ConditionCheckItem",
        "dynamodb:DeleteItem",
        "dynamodb:PutItem",
        "dynamodb:UpdateItem",
    },
    "dynamodb:TransactGetItems": {"dynamodb:GetItem"},
    "lambda:Invoke": {"lambda:InvokeFunction"},
    "s3:CompleteMultipartUpload": {"s3:PutObject"},
    "s3:CopyObject": {"s3:GetObject", "s3:PutObject"},
    "s3:CreateMultipartUpload": {"s3:PutObject"},
    "s3:DeleteObjects": {"s3:DeleteObject", "s3:DeleteObjectVersion"},
    "s3:HeadBucket": {"s3:ListBucket"},
    "s3:HeadObject": {"s3:GetObject", "s3:ListBucket"},
    "s3:ListMultipartUploads": {"s3:ListBucketMultipartUploads"},
    "s3:ListObjectVersions": {"s3:ListBucketVersions"},
    "s3:ListObjectsV2": {"s3:ListBucket"},
    "s3:ListParts": {"s3:ListMultipartUploadParts"},
    "s3:UploadPart": {"s3:PutObject"},
}
"""Operations that IAM knows by other names."""


def spoken(path: Path) -> Iterator[str]:
    """Every name in a module that could be a method of a client: looked up as an attribute, or by its text."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self._records", "arguments"):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def called() -> dict[str, str]:
    """The operations that adapters call, each with the module that does."""
    session = botocore.session.get_session()
    operations = {
        xform_name(operation): f"{service}:{operation}"
        for service in SERVICES
        for operation in session.get_service_model(service).operation_names
    }
    return {
        operations[name]: path.name for path in ADAPTERS.glob("*.py") for name in spoken(path) if name in operations
    }


def test_the_functions_may_do_what_the_adapters_do() -> None:
    calls = called()
    assert {"dynamodb:TransactWriteItems", "sqs:CreateQueue", "lambda:CreateEventSourceMapping", "s3:PutObject"} <= set(
        calls
    )
    granted = {action for grant in GRANTS for action in listed(grant["Action"])}
    missing = {call: module for call, module in calls.items() if not SEVERAL.get(call, {call}) <= granted}
    assert missing == {}
