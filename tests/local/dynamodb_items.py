"""Items of one table in the DynamoDB stand-in: how tests of the store write, change and read them."""

from typing import Any

from worker_space_local.dynamodb import DynamoStore

T = "t"


def new_store() -> DynamoStore:
    """A store with one table, and an index of either kind."""
    store = DynamoStore("us-east-1", "123456789012")
    store.call(
        "CreateTable",
        {
            "TableName": T,
            "AttributeDefinitions": [
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
                {"AttributeName": "lane", "AttributeType": "S"},
                {"AttributeName": "moment", "AttributeType": "N"},
            ],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            "GlobalSecondaryIndexes": [
                {
                    "IndexName": "due",
                    "KeySchema": [
                        {"AttributeName": "lane", "KeyType": "HASH"},
                        {"AttributeName": "moment", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "ALL"},
                },
                {
                    "IndexName": "names",
                    "KeySchema": [{"AttributeName": "lane", "KeyType": "HASH"}],
                    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["name"]},
                },
            ],
        },
    )
    return store


def key(pk: str = "p", sk: str = "s") -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def put(store: DynamoStore, pk: str = "p", sk: str = "s", **attributes: Any) -> None:
    store.call("PutItem", {"TableName": T, "Item": key(pk, sk) | attributes})


def get(store: DynamoStore, pk: str = "p", sk: str = "s") -> Any:
    item = store.call("GetItem", {"TableName": T, "Key": key(pk, sk)}).get("Item")
    return None if item is None else {name: value for name, value in item.items() if name not in ("pk", "sk")}


def update(store: DynamoStore, expression: str, values: Any = None, names: Any = None, **more: Any) -> Any:
    body = {"TableName": T, "Key": key(), "UpdateExpression": expression, **more}
    if values:
        body["ExpressionAttributeValues"] = values
    if names:
        body["ExpressionAttributeNames"] = names
    return store.call("UpdateItem", body)


def N(value: int | str) -> dict[str, Any]:
    return {"N": str(value)}


def S(value: str) -> dict[str, Any]:
    return {"S": value}
