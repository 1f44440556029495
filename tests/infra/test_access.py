"""A missing permission shows on AWS only, and one too many never: here both are looked for in the policies."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

from tests.infra.templates import FUNCTIONS, GRANTS, ROOT, listed, load
from tests.policy import deployment as deployed
from tests.policy.requests import Call
from worker_space.ports import QUEUE_FIELDS
from worker_space.tenancy import TenantContext, session_tags

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


# -- who may what


DEAD_LETTERS = "arn:aws:sqs:us-east-1:123456789012:ws-dead-letter.fifo"
ANN = TenantContext("ann", "shop")
WORKER = "arn:aws:lambda:us-east-1:123456789012:function:ws-worker-space-worker:live"


def make(*, api_scoped: bool = True) -> deployed.Deployment:
    return deployed.deployment(prefix="ws", table="t", bucket="b", dead_letter_arn=DEAD_LETTERS, api_scoped=api_scoped)


SCOPED = make()


def may(function: str, service: str, operation: str, *, of: deployed.Deployment = SCOPED, **parameters: Any) -> bool:
    """Whether a function may make a call by its own role."""
    return all(of.by_function(function, Call(service=service, operation=operation, parameters=parameters)))


def may_ann(service: str, operation: str, **parameters: Any) -> bool:
    """Whether it may be made with the credentials of ann's project."""
    call = Call(service=service, operation=operation, parameters=parameters)
    return all(SCOPED.by_tenant(session_tags(ANN), call))


def item(pk: str) -> dict[str, Any]:
    return {"TableName": "t", "Key": {"pk": {"S": pk}, "sk": {"S": "HOME"}}}


def queue(name: str) -> dict[str, Any]:
    return {"QueueUrl": f"https://sqs.us-east-1.amazonaws.com/123456789012/{name}"}


def assume(function: str, *tags: str, of: deployed.Deployment = SCOPED) -> bool:
    given = [{"Key": name, "Value": "x"} for name in tags]
    return may(function, "sts", "AssumeRole", of=of, RoleArn=of.data_role_arn, RoleSessionName="x", Tags=given)


def test_every_function_has_a_role_of_its_own_and_no_policy_that_is_not_written_here() -> None:
    roles = {name: properties["Role"] for name, properties in FUNCTIONS.items()}
    assert len({str(role) for role in roles.values()}) == len(FUNCTIONS) == 4
    assert all("Policies" not in properties for properties in FUNCTIONS.values())
    resources = load(ROOT / "infra/access.yaml")["Resources"].values()
    assert all("ManagedPolicyArns" not in resource["Properties"] for resource in resources)


def test_every_statement_says_what_it_is_for() -> None:
    assert all(grant.get("Sid") for grant in GRANTS)


@pytest.mark.parametrize("function", ["worker", "cleanup", "dead_letter", "api"])
def test_credentials_are_given_for_somebody_and_for_nothing_else(function: str) -> None:
    assert assume(function, "tenant", "user")
    for tags in ((), ("tenant",), ("user",), ("tenant", "user", "admin")):
        assert not assume(function, *tags)


def test_an_api_that_is_not_switched_assumes_nothing_and_its_switch_takes_its_own_permissions_away() -> None:
    unswitched = make(api_scoped=False)
    assert not assume("api", "tenant", "user", of=unswitched)
    assert may("api", "dynamodb", "GetItem", of=unswitched, **item("T#x#"))
    assert not may("api", "dynamodb", "GetItem", **item("T#x#"))
    assert not may("api", "s3", "GetObject", Bucket="b", Key="x/y")
    assert not may("api", "sqs", "SendMessage", **queue("ws_x_g1.fifo"))


def test_readiness_needs_no_data() -> None:
    assert may("api", "dynamodb", "GetItem", **item("PING"))
    assert may("api", "s3", "GetBucketLocation", Bucket="b")
    assert may("api", "sqs", "GetQueueAttributes", **queue("ws-dead-letter.fifo"))
    assert not may("api", "s3", "ListObjectsV2", Bucket="b")
    assert not may("api", "s3", "HeadBucket", Bucket="b")


@pytest.mark.parametrize("prefix", ["", "userann_project", "userbob_projectshop/", "_content/", "/"])
def test_nobody_lists_more_of_the_bucket_than_their_own(prefix: str) -> None:
    assert not may_ann("s3", "ListObjectsV2", Bucket="b", Prefix=prefix)
    assert not may_ann("s3", "ListObjectVersions", Bucket="b", Prefix=prefix)
    assert not may_ann("s3", "ListObjectsV2", Bucket="b")


@pytest.mark.parametrize("operation", ["Scan", "Query"])
def test_nobody_reads_past_a_partition(operation: str) -> None:
    asked = {
        "TableName": "t",
        "IndexName": "due",
        "KeyConditionExpression": "due_shard = :s",
        "ExpressionAttributeValues": {":s": {"S": f"T#{ANN.token}#"}},
    }
    given = {"TableName": "t"} if operation == "Scan" else asked
    assert not may_ann("dynamodb", operation, **given)
    for function in deployed.FUNCTIONS:
        # The sweeper has the index.
        assert may(function, "dynamodb", operation, **given) is (function == "cleanup" and operation == "Query")


def test_a_transaction_that_touches_one_foreign_item_is_refused_whole() -> None:
    def transaction(*partitions: str) -> dict[str, Any]:
        return {"TransactItems": [{"Update": item(pk)} for pk in partitions]}

    assert may_ann("dynamodb", "TransactWriteItems", **transaction(f"T#{ANN.token}#", "U#userann#"))
    assert not may_ann("dynamodb", "TransactWriteItems", **transaction(f"T#{ANN.token}#", "U#userbob#"))


def test_the_reconciler_reads_of_a_space_what_names_its_queues_and_no_more() -> None:
    def batch(**projection: Any) -> dict[str, Any]:
        return {"RequestItems": {"t": {"Keys": [item("T#x#")["Key"], item("T#y#")["Key"]], **projection}}}

    fields = ", ".join(("pk", "sk", *QUEUE_FIELDS))
    assert may("cleanup", "dynamodb", "BatchGetItem", **batch(ProjectionExpression=fields))
    assert not may("cleanup", "dynamodb", "BatchGetItem", **batch(ProjectionExpression=f"{fields}, name"))
    assert not may("cleanup", "dynamodb", "BatchGetItem", **batch())
    assert not may("worker", "dynamodb", "BatchGetItem", **batch(ProjectionExpression=fields))


@pytest.mark.parametrize(
    "name", ["ws2_x_g1.fifo", "ws-x_y_g1.fifo", "other.fifo", "ws-dead-letter.fifo", "ws-failures"]
)
@pytest.mark.parametrize("operation", ["ReceiveMessage", "DeleteQueue", "ChangeMessageVisibility", "CreateQueue"])
def test_queues_of_others_and_of_the_template_are_out_of_reach(name: str, operation: str) -> None:
    for function in deployed.FUNCTIONS:
        if (function, name, operation) != ("dead_letter", "ws-dead-letter.fifo", "ReceiveMessage"):
            assert not may(function, "sqs", operation, **queue(name)), function
    assert not may_ann("sqs", operation, **queue(name))


@pytest.mark.parametrize("function", deployed.FUNCTIONS)
def test_mappings_are_made_and_removed_for_the_worker_of_this_deployment_alone(function: str) -> None:
    tags: dict[str, Any] = {"Tags": {"worker-space": "ws"}}
    assert may(function, "lambda", "CreateEventSourceMapping", FunctionName=WORKER, **tags)
    for other in (WORKER.replace("ws-", "ws2-"), WORKER.replace(":live", ":old"), "other"):
        assert not may(function, "lambda", "CreateEventSourceMapping", FunctionName=other, **tags)
        assert not may(function, "lambda", "Invoke", FunctionName=other)
    assert not may(function, "lambda", "CreateEventSourceMapping", FunctionName=WORKER, Tags={"worker-space": "ws2"})
    assert may(function, "lambda", "DeleteEventSourceMapping", UUID="x")
