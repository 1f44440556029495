"""What IAM is asked for a call, where a mistake in saying so would hide a hole."""

from typing import Any

import pytest

from tests.policy.evaluator import Request
from tests.policy.requests import Call, Place, UnknownCallError, groups, missing

PLACE = Place()
TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/t"


def asked(service: str, operation: str, **parameters: Any) -> list[list[tuple[str, str]]]:
    """Actions and resources, group by group."""
    found = groups(Call(service=service, operation=operation, parameters=parameters), PLACE)
    return [[(request.action, request.resource) for request in group] for group in found]


def only(service: str, operation: str, **parameters: Any) -> Request:
    ((request,),) = groups(Call(service=service, operation=operation, parameters=parameters), PLACE)
    return request


def key(pk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": "x"}}


def test_a_transaction_asks_for_each_of_its_items_and_happens_whole() -> None:
    items = [
        {"Put": {"TableName": "t", "Item": key("a")}},
        {"Update": {"TableName": "t", "Key": key("b")}},
        {"Delete": {"TableName": "t", "Key": key("c")}},
        {"ConditionCheck": {"TableName": "t", "Key": key("d")}},
    ]
    (group,) = groups(
        Call(service="dynamodb", operation="TransactWriteItems", parameters={"TransactItems": items}), PLACE
    )
    assert [(request.action.partition(":")[2], request.values("dynamodb:LeadingKeys")) for request in group] == [
        ("PutItem", ["a"]),
        ("UpdateItem", ["b"]),
        ("DeleteItem", ["c"]),
        ("ConditionCheckItem", ["d"]),
    ]


def test_a_batch_asks_once_with_all_its_keys() -> None:
    request = only("dynamodb", "BatchGetItem", RequestItems={"t": {"Keys": [key("a"), key("b")]}})
    assert request.values("dynamodb:LeadingKeys") == ["a", "b"]
    assert request.values("dynamodb:Select") == ["ALL_ATTRIBUTES"]
    assert request.values("dynamodb:Attributes") is None


def test_a_projection_names_what_is_asked_for() -> None:
    some = {"Keys": [key("a")], "ProjectionExpression": "#n0, b.c", "ExpressionAttributeNames": {"#n0": "state"}}
    request = only("dynamodb", "BatchGetItem", RequestItems={"t": some})
    assert request.values("dynamodb:Attributes") == ["b", "pk", "sk", "state"]
    assert request.values("dynamodb:Select") == ["SPECIFIC_ATTRIBUTES"]


def test_a_query_asks_for_the_partition_of_its_condition_also_under_other_names() -> None:
    plain = {"KeyConditionExpression": "pk = :p AND begins_with(sk, :s)"}
    renamed = {"KeyConditionExpression": "#k = :p", "ExpressionAttributeNames": {"#k": "pk"}}
    for condition in (plain, renamed):
        values = {":p": {"S": "T#a#"}, ":s": {"S": "T#b#"}}
        request = only("dynamodb", "Query", TableName="t", ExpressionAttributeValues=values, **condition)
        assert (request.resource, request.values("dynamodb:LeadingKeys")) == (TABLE, ["T#a#"])


def test_a_query_of_an_index_is_about_the_index() -> None:
    request = only(
        "dynamodb",
        "Query",
        TableName="t",
        IndexName="due",
        KeyConditionExpression="due_shard = :s AND due_at BETWEEN :a AND :b",
        ExpressionAttributeValues={":s": {"S": "space0"}, ":a": {"N": "0"}, ":b": {"N": "1"}},
    )
    assert (request.resource, request.values("dynamodb:LeadingKeys")) == (f"{TABLE}/index/due", ["space0"])


def test_a_scan_has_no_leading_key() -> None:
    assert only("dynamodb", "Scan", TableName="t").values("dynamodb:LeadingKeys") is None


def test_a_copy_reads_one_object_and_writes_another() -> None:
    expected = [[("s3:GetObject", "arn:aws:s3:::b/x/1"), ("s3:PutObject", "arn:aws:s3:::b/y")]]
    assert asked("s3", "CopyObject", Bucket="b", Key="y", CopySource={"Bucket": "b", "Key": "x/1"}) == expected
    assert asked("s3", "CopyObject", Bucket="b", Key="y", CopySource="/b/x%2F1?versionId=3") == [
        [("s3:GetObjectVersion", "arn:aws:s3:::b/x/1"), ("s3:PutObject", "arn:aws:s3:::b/y")]
    ]


def test_each_object_of_a_deletion_is_refused_alone() -> None:
    objects = [{"Key": "x"}, {"Key": "y", "VersionId": "1"}]
    assert asked("s3", "DeleteObjects", Bucket="b", Delete={"Objects": objects}) == [
        [("s3:DeleteObject", "arn:aws:s3:::b/x")],
        [("s3:DeleteObjectVersion", "arn:aws:s3:::b/y")],
    ]


def test_a_listing_is_about_its_prefix_and_one_of_uploads_is_not() -> None:
    assert only("s3", "ListObjectsV2", Bucket="b", Prefix="x/").values("s3:prefix") == ["x/"]
    assert only("s3", "ListObjectsV2", Bucket="b", Prefix="").values("s3:prefix") == [""]
    assert only("s3", "ListObjectsV2", Bucket="b").values("s3:prefix") is None
    assert only("s3", "HeadBucket", Bucket="b").values("s3:prefix") is None
    assert only("s3", "ListMultipartUploads", Bucket="b", Prefix="x/").values("s3:prefix") is None


def test_a_missing_object_is_asked_for_as_a_listing_of_its_key() -> None:
    request = missing(Call(service="s3", operation="HeadObject", parameters={"Bucket": "b", "Key": "x/1"}), PLACE)
    assert request is not None
    assert (request.action, request.values("s3:prefix")) == ("s3:ListBucket", ["x/1"])


def test_a_queue_is_known_by_name_or_address() -> None:
    arn = "arn:aws:sqs:us-east-1:123456789012:q.fifo"
    assert asked("sqs", "CreateQueue", QueueName="q.fifo") == [[("sqs:CreateQueue", arn)]]
    assert asked("sqs", "SendMessage", QueueUrl="http://x/1/q.fifo") == [[("sqs:SendMessage", arn)]]
    assert asked("sqs", "ListQueues", QueueNamePrefix="q") == [[("sqs:ListQueues", "*")]]


def test_a_mapping_with_tags_is_made_and_tagged() -> None:
    ((make, tag),) = groups(
        Call(
            service="lambda",
            operation="CreateEventSourceMapping",
            parameters={"FunctionName": "w:live", "Tags": {"worker-space": "ws"}},
        ),
        PLACE,
    )
    function = "arn:aws:lambda:us-east-1:123456789012:function:w:live"
    assert (make.resource, make.values("lambda:FunctionArn")) == ("*", [function])
    assert (tag.action, tag.values("aws:RequestTag/worker-space")) == ("lambda:TagResource", ["ws"])


def test_a_session_with_tags_is_assumed_and_tagged() -> None:
    tags = [{"Key": "tenant", "Value": "a"}]
    ((assume, tag),) = groups(
        Call(service="sts", operation="AssumeRole", parameters={"RoleArn": "r", "RoleSessionName": "s", "Tags": tags}),
        PLACE,
    )
    assert (assume.action, tag.action) == ("sts:AssumeRole", "sts:TagSession")
    assert tag.values("aws:RequestTag/tenant") == ["a"]
    assert tag.values("aws:TagKeys") == ["tenant"]


@pytest.mark.parametrize(
    ("service", "operation"),
    [("dynamodb", "ExecuteStatement"), ("s3", "PutBucketPolicy"), ("sqs", "AddPermission"), ("iam", "CreateUser")],
)
def test_an_operation_that_nobody_has_thought_about_is_refused_loudly(service: str, operation: str) -> None:
    with pytest.raises(UnknownCallError, match=operation):
        asked(service, operation, Bucket="b")
