"""DynamoDB's documented behaviour, asked of the store directly: items, transactions, batches and tables."""

from typing import Any

import pytest

from tests.local.dynamodb_items import N, S, T, get, key, new_store, put, update
from worker_space_local.dynamodb import DynamoError, DynamoStore


@pytest.fixture
def store() -> DynamoStore:
    return new_store()


def test_a_failed_condition_answers_with_the_item_only_when_asked(store: DynamoStore) -> None:
    put(store, a=N(1))
    body = {"TableName": T, "Item": key(), "ConditionExpression": "attribute_not_exists(pk)"}
    with pytest.raises(DynamoError) as quiet:
        store.call("PutItem", body)
    with pytest.raises(DynamoError) as telling:
        store.call("PutItem", body | {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"})
    assert (quiet.value.name, quiet.value.fields) == ("ConditionalCheckFailedException", {})
    assert telling.value.fields == {"Item": key() | {"a": N(1)}}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("NONE", None),
        ("ALL_OLD", key() | {"a": N(1), "b": N(1)}),
        ("ALL_NEW", key() | {"a": N(2), "b": N(1)}),
        ("UPDATED_OLD", {"a": N(1)}),
        ("UPDATED_NEW", {"a": N(2)}),
    ],
)
def test_an_update_returns_the_values_asked_for(store: DynamoStore, wanted: str, expected: Any) -> None:
    put(store, a=N(1), b=N(1))
    assert update(store, "SET a = :v", {":v": N(2)}, ReturnValues=wanted).get("Attributes") == expected


def test_an_update_of_nothing_makes_the_item(store: DynamoStore) -> None:
    store.call("UpdateItem", {"TableName": T, "Key": key()})
    assert get(store) == {}


def test_deleting_returns_what_was_there_and_is_repeatable(store: DynamoStore) -> None:
    put(store, a=N(1))
    body = {"TableName": T, "Key": key(), "ReturnValues": "ALL_OLD"}
    assert store.call("DeleteItem", body)["Attributes"]["a"] == N(1)
    assert store.call("DeleteItem", body) == {}
    assert get(store) is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"pk": S("p")}, "Missing the key sk"),
        ({"pk": S("p"), "sk": N(1)}, "Type mismatch for key sk"),
        ({"pk": S("p"), "sk": S("")}, "empty string"),
        ({"pk": S("p" * 2049), "sk": S("s")}, "hashkey"),
        ({"pk": S("p"), "sk": S("s" * 1025)}, "rangekey"),
        ({"pk": S("p"), "sk": S("s"), "a": S("x" * 409_600)}, "Item size has exceeded"),
    ],
)
def test_a_wrong_item_is_refused(store: DynamoStore, item: Any, message: str) -> None:
    with pytest.raises(DynamoError) as caught:
        store.call("PutItem", {"TableName": T, "Item": item})
    assert message in caught.value.message


def test_a_key_with_other_attributes_is_refused(store: DynamoStore) -> None:
    for wrong in ({"pk": S("p")}, key() | {"a": N(1)}, {"pk": S("p"), "sk": N(1)}):
        with pytest.raises(DynamoError, match="does not match the schema"):
            store.call("GetItem", {"TableName": T, "Key": wrong})


def transact(store: DynamoStore, *actions: Any, token: str | None = None) -> Any:
    return store.call("TransactWriteItems", {"TransactItems": list(actions), "ClientRequestToken": token})


def put_action(sk: str, **more: Any) -> Any:
    return {"Put": {"TableName": T, "Item": key("p", sk), **more}}


def test_a_transaction_stores_all_or_nothing_and_says_why(store: DynamoStore) -> None:
    put(store, "p", "b", a=S("text"))
    refused = {"ConditionExpression": "attribute_not_exists(pk)", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    broken = {
        "TableName": T,
        "Key": key("p", "b2"),
        "UpdateExpression": "SET a = a + :v",
        "ExpressionAttributeValues": {":v": N(1)},
    }
    with pytest.raises(DynamoError) as caught:
        transact(store, put_action("a"), put_action("b", **refused), {"Update": broken})
    assert caught.value.name == "TransactionCanceledException"
    assert "[None, ConditionalCheckFailed, ValidationError]" in caught.value.message
    reasons = caught.value.fields["CancellationReasons"]
    assert reasons[1]["Item"] == key("p", "b") | {"a": S("text")}
    assert get(store, "p", "a") is None
    transact(store, put_action("a"), {"Delete": {"TableName": T, "Key": key("p", "b")}})
    assert get(store, "p", "a") == {}
    assert get(store, "p", "b") is None


def test_a_repeated_token_does_nothing_more_and_must_carry_the_same_actions(store: DynamoStore) -> None:
    add = {
        "Update": {
            "TableName": T,
            "Key": key(),
            "UpdateExpression": "ADD a :v",
            "ExpressionAttributeValues": {":v": N(1)},
        }
    }
    transact(store, add, token="one")
    transact(store, add, token="one")
    assert get(store) == {"a": N(1)}
    with pytest.raises(DynamoError) as caught:
        transact(store, put_action("x"), token="one")
    assert caught.value.name == "IdempotentParameterMismatchException"
    transact(store, add, token="two")
    assert get(store) == {"a": N(2)}


def test_a_failed_transaction_may_be_repeated_under_its_token(store: DynamoStore) -> None:
    guarded = put_action("s", ConditionExpression="attribute_exists(pk)")
    with pytest.raises(DynamoError, match="Transaction cancelled"):
        transact(store, guarded, token="one")
    put(store)
    transact(store, guarded, token="one")


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([], "less than or equal to 100"),
        ([put_action(str(at)) for at in range(101)], "less than or equal to 100"),
        ([put_action("a"), {"Delete": {"TableName": T, "Key": key("p", "a")}}], "multiple operations on one item"),
        ([{"Get": {"TableName": T, "Key": key()}}], "can only contain one of"),
        (
            [{"Put": {"TableName": T, "Item": key("p", str(at)) | {"a": S("x" * 399_000)}}} for at in range(11)],
            "4 MB",
        ),
    ],
)
def test_a_wrong_transaction_is_refused(store: DynamoStore, actions: Any, message: str) -> None:
    with pytest.raises(DynamoError) as caught:
        transact(store, *actions)
    assert message in caught.value.message
    assert store.call("Scan", {"TableName": T})["Count"] == 0


def test_a_hundred_actions_are_one_transaction(store: DynamoStore) -> None:
    transact(store, *[put_action(str(at)) for at in range(100)])
    assert store.call("Scan", {"TableName": T, "Select": "COUNT"})["Count"] == 100


def test_batches_read_and_write_many(store: DynamoStore) -> None:
    put(store, "p", "old")
    requests = [{"PutRequest": {"Item": key("p", "new")}}, {"DeleteRequest": {"Key": key("p", "old")}}]
    assert store.call("BatchWriteItem", {"RequestItems": {T: requests}}) == {"UnprocessedItems": {}}
    keys = [key("p", "old"), key("p", "new")]
    found = store.call("BatchGetItem", {"RequestItems": {T: {"Keys": keys}}})
    assert found["Responses"] == {T: [key("p", "new")]}
    transacted = store.call("TransactGetItems", {"TransactItems": [{"Get": {"TableName": T, "Key": k}} for k in keys]})
    assert transacted["Responses"] == [{}, {"Item": key("p", "new")}]


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("BatchWriteItem", {"RequestItems": {T: [{"PutRequest": {"Item": key()}}] * 2}}),
        ("BatchWriteItem", {"RequestItems": {T: []}}),
        ("BatchGetItem", {"RequestItems": {T: {"Keys": [key("p", str(at)) for at in range(101)]}}}),
        ("TransactGetItems", {"TransactItems": [{"Get": {"TableName": T, "Key": key()}}] * 101}),
        ("GetItem", {"TableName": T}),
    ],
)
def test_a_wrong_batch_is_refused(store: DynamoStore, operation: str, body: Any) -> None:
    with pytest.raises(DynamoError) as caught:
        store.call(operation, body)
    assert caught.value.name == "ValidationException"


def test_tables_are_described_and_deleted(store: DynamoStore) -> None:
    described = store.call("DescribeTable", {"TableName": T})["Table"]
    assert described["TableStatus"] == "ACTIVE"
    assert [index["IndexStatus"] for index in described["GlobalSecondaryIndexes"]] == ["ACTIVE", "ACTIVE"]
    store.call(
        "UpdateTimeToLive",
        {"TableName": T, "TimeToLiveSpecification": {"Enabled": True, "AttributeName": "expires_at"}},
    )
    found = store.call("DescribeTimeToLive", {"TableName": described["TableArn"]})
    assert found["TimeToLiveDescription"] == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}
    with pytest.raises(DynamoError, match="already exists"):
        store.call("CreateTable", {"TableName": T})
    store.call("DeleteTable", {"TableName": T})
    assert store.call("ListTables", {}) == {"TableNames": []}
    with pytest.raises(DynamoError) as gone:
        store.call("DescribeTable", {"TableName": T})
    assert gone.value.name == "ResourceNotFoundException"
    with pytest.raises(DynamoError) as undefined:
        store.call(
            "CreateTable",
            {
                "TableName": T,
                "AttributeDefinitions": [],
                "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            },
        )
    assert "AttributeDefinitions" in undefined.value.message


def test_numbers_and_bytes_are_keys_in_their_own_order() -> None:
    store = DynamoStore("us-east-1", "123456789012")
    for kind, values in (("N", ["-1", "2", "10"]), ("B", ["AA==", "AQ==", "/w=="])):
        store.call(
            "CreateTable",
            {
                "TableName": kind,
                "AttributeDefinitions": [
                    {"AttributeName": "pk", "AttributeType": kind},
                    {"AttributeName": "sk", "AttributeType": kind},
                ],
                "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            },
        )
        for value in reversed(values):
            store.call("PutItem", {"TableName": kind, "Item": {"pk": {kind: "1" * 4}, "sk": {kind: value}}})
        found = store.call("Scan", {"TableName": kind})["Items"]
        assert [item["sk"][kind] for item in found] == values


def test_an_unknown_operation_is_named(store: DynamoStore) -> None:
    with pytest.raises(DynamoError, match="ExecuteStatement") as caught:
        store.call("ExecuteStatement", {})
    assert caught.value.name == "UnknownOperationException"
