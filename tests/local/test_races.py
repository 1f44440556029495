"""Real clients on real threads: every condition has one winner, and nothing acknowledged is lost."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client

TABLE, BUCKET, THREADS = "worker-space", "worker-space-local", 8


def race(attempt: Callable[[int], Any], count: int) -> Counter[str]:
    """Run attempts on eight threads and count how they ended: ``won`` or the error's code."""

    def run(at: int) -> str:
        try:
            attempt(at)
        except ClientError as exc:
            return str(exc.response["Error"]["Code"])
        return "won"

    with ThreadPoolExecutor(THREADS) as pool:
        return Counter(pool.map(run, range(count)))


def key(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def test_one_of_many_conditional_puts_wins(dynamodb: "DynamoDBClient") -> None:
    def attempt(at: int) -> None:
        item = {**key("race-put", str(at // 8)), "who": {"N": str(at)}}
        dynamodb.put_item(TableName=TABLE, Item=item, ConditionExpression="attribute_not_exists(pk)")

    assert race(attempt, 160) == {"won": 20, "ConditionalCheckFailedException": 140}


def test_no_addition_is_lost(dynamodb: "DynamoDBClient") -> None:
    def attempt(at: int) -> None:
        dynamodb.update_item(
            TableName=TABLE,
            Key=key("race-add", "n"),
            UpdateExpression="ADD n :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )

    assert race(attempt, 200) == {"won": 200}
    assert dynamodb.get_item(TableName=TABLE, Key=key("race-add", "n"))["Item"]["n"] == {"N": "200"}


def test_transactions_keep_a_cap_and_a_failed_one_undoes_nobodys_write(dynamodb: "DynamoDBClient") -> None:
    cap = 30
    dynamodb.put_item(TableName=TABLE, Item={**key("race-tx", "cap"), "used": {"N": "0"}})

    def attempt(at: int) -> None:
        if at % 2:
            # The neighbour's plain write to an item that transactions touch as well.
            dynamodb.update_item(
                TableName=TABLE,
                Key=key("race-tx", f"seen-{at % 4}"),
                UpdateExpression="ADD seen :one",
                ExpressionAttributeValues={":one": {"N": "1"}},
            )
            return
        dynamodb.transact_write_items(
            TransactItems=[
                {"Put": {"TableName": TABLE, "Item": key("race-tx", f"task-{at}")}},
                {
                    "Update": {
                        "TableName": TABLE,
                        "Key": key("race-tx", f"seen-{(at + 1) % 4}"),
                        "UpdateExpression": "ADD tx :one",
                        "ExpressionAttributeValues": {":one": {"N": "1"}},
                    }
                },
                {
                    "Update": {
                        "TableName": TABLE,
                        "Key": key("race-tx", "cap"),
                        "UpdateExpression": "ADD used :one",
                        "ConditionExpression": "used < :cap",
                        "ExpressionAttributeValues": {":one": {"N": "1"}, ":cap": {"N": str(cap)}},
                    }
                },
            ]
        )

    outcome = race(attempt, 240)
    items = dynamodb.query(
        TableName=TABLE,
        KeyConditionExpression="pk = :p",
        ExpressionAttributeValues={":p": {"S": "race-tx"}},
        ConsistentRead=True,
    )["Items"]
    found = {item["sk"]["S"]: item for item in items}
    assert outcome == {"won": 120 + cap, "TransactionCanceledException": 120 - cap}
    assert found["cap"]["used"] == {"N": str(cap)}
    assert sum(name.startswith("task-") for name in found) == cap
    seen = [found["seen-1"], found["seen-3"]]
    assert sum(int(item["seen"]["N"]) for item in seen) == 120
    assert sum(int(item["tx"]["N"]) for item in seen) == cap


def test_one_of_many_creations_of_an_object_wins(s3: "S3Client") -> None:
    def attempt(at: int) -> None:
        s3.put_object(Bucket=BUCKET, Key=f"race/new-{at // 8}", Body=str(at), IfNoneMatch="*")

    assert race(attempt, 40) == {"won": 5, "PreconditionFailed": 35}


def test_no_edit_of_an_object_is_lost(s3: "S3Client") -> None:
    s3.put_object(Bucket=BUCKET, Key="race/edit", Body=b"")

    def attempt(at: int) -> None:
        while True:
            found = s3.get_object(Bucket=BUCKET, Key="race/edit")
            content = found["Body"].read() + b"x"
            try:
                s3.put_object(Bucket=BUCKET, Key="race/edit", Body=content, IfMatch=found["ETag"])
            except ClientError as exc:
                if exc.response["Error"]["Code"] != "PreconditionFailed":
                    raise
            else:
                return

    assert race(attempt, 24) == {"won": 24}
    assert s3.get_object(Bucket=BUCKET, Key="race/edit")["Body"].read() == b"x" * 24
