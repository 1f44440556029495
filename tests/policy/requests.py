"""What IAM is asked for one call of an AWS client.

(https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html)
An operation that is not known here raises: a new one has to be thought about.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote

from tests.policy.evaluator import Request

__all__ = ["Call", "Group", "Place", "UnknownCallError", "groups", "missing"]

Group = Sequence[Request]
"""Requests that are allowed together or not at all: a call of several groups may succeed in part."""


class UnknownCallError(Exception):
    """Nobody has said what IAM is asked for this operation."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call, by botocore's names and with its parameters."""

    service: str
    operation: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where it is made."""

    region: str = "us-east-1"
    account: str = "123456789012"
    worker: str = "worker"
    """The function that mappings point at, with its alias."""

    def arn(self, service: str, name: str) -> str:
        return f"arn:aws:{service}:{self.region}:{self.account}:{name}"


def groups(call: Call, place: Place) -> Sequence[Group]:
    """What IAM is asked.

    Raises:
        UnknownCallError: The operation is not known here.
    """
    services: dict[str, Callable[[str, Mapping[str, Any], Place], Sequence[Group]]] = {
        "dynamodb": _dynamodb,
        "s3": _s3,
        "sqs": _sqs,
        "lambda": _lambda,
        "sts": _sts,
    }
    if call.service not in services:
        raise UnknownCallError(f"{call.service}:{call.operation}")
    # All goes by TLS: the stand-in's plain HTTP is not what is deployed.
    secure = {"aws:SecureTransport": "true"}
    return [
        [replace(request, context={**request.context, **secure}) for request in group]
        for group in services[call.service](call.operation, call.parameters, place)
    ]


# -- DynamoDB --------------------------------------------------------------------------------------------------------

_ITEM: Final = {"GetItem", "PutItem", "UpdateItem", "DeleteItem"}
_IN_TRANSACTION: Final = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
    "Get": "GetItem",
}


def _dynamodb(operation: str, given: Mapping[str, Any], place: Place) -> Sequence[Group]:
    def ask(action: str, table: str, keys: Sequence[str], **context: Any) -> Request:
        leading = {"dynamodb:LeadingKeys": list(keys)} if keys else {}
        named = {f"dynamodb:{name}": value for name, value in context.items()}
        return Request(
            action=f"dynamodb:{action}", resource=place.arn("dynamodb", f"table/{table}"), context={**leading, **named}
        )

    if operation in _ITEM:
        return [[ask(operation, given["TableName"], [_key(given)], **_projected(given))]]
    if operation in ("TransactWriteItems", "TransactGetItems"):
        items = [(kind, one) for item in given["TransactItems"] for kind, one in item.items()]
        return [
            [
                ask(_IN_TRANSACTION[kind], one["TableName"], [_key(one)], EnclosingOperation=operation)
                for kind, one in items
            ]
        ]
    if operation == "BatchGetItem":
        return [
            [ask(operation, table, [key["pk"]["S"] for key in asked["Keys"]], **_projected(asked))]
            for table, asked in given["RequestItems"].items()
        ]
    if operation == "Query":
        index = given.get("IndexName")
        table = given["TableName"] if index is None else f"{given['TableName']}/index/{index}"
        return [[ask(operation, table, [_partition_asked(given)], **_projected(given))]]
    if operation == "Scan":
        return [[ask(operation, given["TableName"], [], **_projected(given))]]
    raise UnknownCallError(f"dynamodb:{operation}")


def _key(given: Mapping[str, Any]) -> str:
    return str((given.get("Key") or given["Item"])["pk"]["S"])


def _projected(given: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that are asked for: those of the projection and of the key."""
    if "ProjectionExpression" not in given:
        return {"Select": "ALL_ATTRIBUTES"}
    names = given.get("ExpressionAttributeNames", {})
    asked = [part.strip() for part in given["ProjectionExpression"].split(",")]
    attributes = {re.split(r"[.\[]", names.get(name, name))[0] for name in asked} | {"pk", "sk"}
    return {"Select": "SPECIFIC_ATTRIBUTES", "Attributes": sorted(attributes)}


def _partition_asked(given: Mapping[str, Any]) -> str:
    """The partition key's value in a key condition: it is compared by `=`, and there is one."""
    names, values = given.get("ExpressionAttributeNames", {}), given["ExpressionAttributeValues"]
    found = [
        values[value]["S"]
        for name, value in re.findall(r"([#\w]+)\s*=\s*(:\w+)", given["KeyConditionExpression"])
        if names.get(name, name) in ("pk", "due_shard")
    ]
    if len(found) != 1:
        raise UnknownCallError(f"dynamodb:Query of {given['KeyConditionExpression']!r}")
    return str(found[0])


# -- S3 --------------------------------------------------------------------------------------------------------------

_LISTS: Final = {"ListObjects": "ListBucket", "ListObjectsV2": "ListBucket", "ListObjectVersions": "ListBucketVersions"}
_OF_BUCKET: Final = {
    "HeadBucket": "ListBucket",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "GetBucketLocation": "GetBucketLocation",
}
_OF_OBJECT: Final = {
    "PutObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "AbortMultipartUpload": "AbortMultipartUpload",
}
_OF_VERSION: Final = {"GetObject": "GetObject", "HeadObject": "GetObject", "DeleteObject": "DeleteObject"}


def _s3(operation: str, given: Mapping[str, Any], place: Place) -> Sequence[Group]:
    bucket = f"arn:aws:s3:::{given['Bucket']}"

    def ask(action: str, key: str | None = None, **context: str) -> Request:
        resource = bucket if key is None else f"{bucket}/{key}"
        return Request(action=f"s3:{action}", resource=resource, context={f"s3:{n}": v for n, v in context.items()})

    def versioned(action: str, one: Mapping[str, Any]) -> Request:
        version = one.get("VersionId")
        return ask(action, one["Key"]) if version is None else ask(f"{action}Version", one["Key"], versionid=version)

    if operation in _LISTS:
        # A prefix that is not given is no key of the context; an empty one is an empty value.
        keys = {"prefix": given.get("Prefix"), "delimiter": given.get("Delimiter"), "max-keys": given.get("MaxKeys")}
        context = {name: str(value) for name, value in keys.items() if value is not None}
        return [[ask(_LISTS[operation], **context)]]
    if operation in _OF_BUCKET:
        return [[ask(_OF_BUCKET[operation])]]
    if operation in _OF_OBJECT:
        return [[ask(_OF_OBJECT[operation], given["Key"])]]
    if operation in _OF_VERSION:
        return [[versioned(_OF_VERSION[operation], given)]]
    if operation == "DeleteObjects":
        return [[versioned("DeleteObject", one)] for one in given["Delete"]["Objects"]]
    if operation == "CopyObject":
        source = given["CopySource"]
        if isinstance(source, str):
            key, _, version = source.lstrip("/").partition("/")[2].partition("?versionId=")
            source = {"Key": unquote(key), "VersionId": version or None}
        return [[versioned("GetObject", source), ask("PutObject", given["Key"])]]
    raise UnknownCallError(f"s3:{operation}")


def missing(call: Call, place: Place) -> Request | None:
    """What S3 asks besides when the object is not there: without it a missing one answers 403 and not 404.

    The object's key counts as `s3:prefix` then, as Ceph's developers, who imitate it, found out.
    """
    if call.service != "s3" or call.operation not in ("GetObject", "HeadObject"):
        return None
    bucket = f"arn:aws:s3:::{call.parameters['Bucket']}"
    return Request(action="s3:ListBucket", resource=bucket, context={"s3:prefix": call.parameters["Key"]})


# -- SQS, Lambda, STS ------------------------------------------------------------------------------------------------

_OF_QUEUE: Final = {
    "ChangeMessageVisibility",
    "CreateQueue",
    "DeleteMessage",
    "DeleteQueue",
    "GetQueueAttributes",
    "GetQueueUrl",
    "PurgeQueue",
    "ReceiveMessage",
    "SendMessage",
    "SetQueueAttributes",
}


def _sqs(operation: str, given: Mapping[str, Any], place: Place) -> Sequence[Group]:
    if operation == "ListQueues":
        return [[Request(action="sqs:ListQueues", resource="*")]]
    if operation not in _OF_QUEUE:
        raise UnknownCallError(f"sqs:{operation}")
    name = given.get("QueueName") or given["QueueUrl"].rpartition("/")[2]
    return [[Request(action=f"sqs:{operation}", resource=place.arn("sqs", name))]]


def _lambda(operation: str, given: Mapping[str, Any], place: Place) -> Sequence[Group]:
    def function(name: str) -> str:
        return name if name.startswith("arn:") else place.arn("lambda", f"function:{name}")

    def mapping(uuid: str) -> str:
        return place.arn("lambda", f"event-source-mapping:{uuid}")

    if operation == "CreateEventSourceMapping":
        asked = [
            Request(
                action="lambda:CreateEventSourceMapping",
                resource="*",
                context={"lambda:FunctionArn": function(given["FunctionName"])},
            )
        ]
        if tags := given.get("Tags"):
            context: dict[str, Any] = {f"aws:RequestTag/{name}": value for name, value in tags.items()}
            context["aws:TagKeys"] = list(tags)
            # It has no name yet: any that AWS may give it has to be allowed.
            asked.append(Request(action="lambda:TagResource", resource=mapping("new"), context=context))
        return [asked]
    if operation == "DeleteEventSourceMapping":
        # All mappings that there are point at the worker.
        context = {"lambda:FunctionArn": function(place.worker)}
        return [[Request(action="lambda:DeleteEventSourceMapping", resource=mapping(given["UUID"]), context=context)]]
    if operation == "ListEventSourceMappings":
        return [[Request(action="lambda:ListEventSourceMappings", resource="*")]]
    if operation == "Invoke":
        return [[Request(action="lambda:InvokeFunction", resource=function(given["FunctionName"]))]]
    raise UnknownCallError(f"lambda:{operation}")


def _sts(operation: str, given: Mapping[str, Any], place: Place) -> Sequence[Group]:
    if operation != "AssumeRole":
        raise UnknownCallError(f"sts:{operation}")
    tags = {tag["Key"]: tag["Value"] for tag in given.get("Tags", ())}
    context: dict[str, Any] = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    context |= {"aws:TagKeys": list(tags), "sts:RoleSessionName": given["RoleSessionName"]}
    actions = ["sts:AssumeRole", *(["sts:TagSession"] if tags else [])]
    return [[Request(action=action, resource=given["RoleArn"], context=context) for action in actions]]
