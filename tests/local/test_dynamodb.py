"""DynamoDB's documented behaviour, asked of the store directly."""

import itertools
from typing import Any

import pytest

from worker_space_local.dynamodb import DynamoError, DynamoStore

T = "t"
_keys = itertools.count()


@pytest.fixture
def store() -> DynamoStore:
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


def holds(store: DynamoStore, condition: str, values: Any = None, names: Any = None) -> bool:
    """Ask whether a condition holds for the item."""
    body: dict[str, Any] = {"TableName": T, "Key": key(), "ConditionExpression": condition}
    if values:
        body["ExpressionAttributeValues"] = values
    if names:
        body["ExpressionAttributeNames"] = names
    try:
        store.call("TransactWriteItems", {"TransactItems": [{"ConditionCheck": body}]})
    except DynamoError as exc:
        if exc.name == "TransactionCanceledException":
            return False
        raise
    return True


def N(value: int | str) -> dict[str, Any]:
    return {"N": str(value)}


def S(value: str) -> dict[str, Any]:
    return {"S": value}


@pytest.mark.parametrize(
    ("before", "expression", "values", "after"),
    [
        ({}, "ADD a :v", {":v": N(2)}, {"a": N(2)}),
        ({"a": N(1)}, "ADD a :v", {":v": N("0.5")}, {"a": N("1.5")}),
        ({"a": {"SS": ["x"]}}, "ADD a :v", {":v": {"SS": ["x", "y"]}}, {"a": {"SS": ["x", "y"]}}),
        ({}, "ADD a :v", {":v": {"SS": ["x"]}}, {"a": {"SS": ["x"]}}),
        ({"a": {"SS": ["x", "y"]}}, "DELETE a :v", {":v": {"SS": ["x", "z"]}}, {"a": {"SS": ["y"]}}),
        ({"a": {"SS": ["x"]}}, "DELETE a :v", {":v": {"SS": ["x"]}}, {}),
        ({}, "DELETE a :v", {":v": {"SS": ["x"]}}, {}),
        ({"l": {"L": [N(1)]}}, "SET l = list_append(l, :v)", {":v": {"L": [N(2)]}}, {"l": {"L": [N(1), N(2)]}}),
        ({}, "SET l = list_append(if_not_exists(l, :e), :v)", {":e": {"L": []}, ":v": {"L": [N(2)]}}, {"l": {"L": [N(2)]}}),  # noqa: E501
        ({"l": {"L": [N(1), N(2), N(3)]}}, "REMOVE l[0], l[1]", None, {"l": {"L": [N(3)]}}),
        ({"l": {"L": [N(1)]}}, "REMOVE l[7]", None, {"l": {"L": [N(1)]}}),
        ({"l": {"L": [N(1)]}}, "SET l[9] = :b, l[5] = :a", {":a": N(2), ":b": N(3)}, {"l": {"L": [N(1), N(2), N(3)]}}),
        ({"l": {"L": [N(1), N(2)]}}, "SET l[1] = :a REMOVE l[0]", {":a": N(9)}, {"l": {"L": [N(9)]}}),
        ({"a": N(5)}, "SET a = a - :v, b = a", {":v": N(2)}, {"a": N(3), "b": N(5)}),
        ({"a": N(5)}, "SET a = if_not_exists(a, :v) + :v", {":v": N(2)}, {"a": N(7)}),
        ({"m": {"M": {}}}, "SET m.x = :v REMOVE m.y", {":v": N(1)}, {"m": {"M": {"x": N(1)}}}),
        ({"m": {"M": {"l": {"L": [{"M": {}}]}}}}, "SET m.l[0].z = :v", {":v": N(1)}, {"m": {"M": {"l": {"L": [{"M": {"z": N(1)}}]}}}}),  # noqa: E501
        ({"a": N(1)}, "REMOVE a, nothing", None, {}),
        ({}, "SET a = :v", {":v": N("1.500")}, {"a": N("1.5")}),
        ({}, "SET a = :v", {":v": N("1E2")}, {"a": N("100")}),
        ({}, "SET a = :v", {":v": {"S": ""}}, {"a": {"S": ""}}),
    ],
)  # fmt: skip
def test_an_update_leaves_what_aws_leaves(
    store: DynamoStore, before: Any, expression: str, values: Any, after: Any
) -> None:
    put(store, **before)
    update(store, expression, values)
    assert get(store) == after


@pytest.mark.parametrize(
    ("before", "expression", "values", "names", "message"),
    [
        ({}, "SET a = b", None, None, "does not exist in the item"),
        ({}, "SET m.x = :v", {":v": N(1)}, None, "invalid for update"),
        ({"a": S("x")}, "ADD a :v", {":v": N(1)}, None, "incorrect data type"),
        ({}, "ADD a :v", {":v": S("x")}, None, "Incorrect operand type"),
        ({"a": S("x")}, "SET a = a + :v", {":v": N(1)}, None, "incorrect data type"),
        ({"a": N(1)}, "SET a = list_append(a, :v)", {":v": {"L": []}}, None, "incorrect data type"),
        ({"a": N(1)}, "DELETE a :v", {":v": {"SS": ["x"]}}, None, "incorrect data type"),
        ({}, "SET pk = :v", {":v": S("x")}, None, "part of the key"),
        ({}, "SET a = :v, a.b = :v", {":v": S("x")}, None, "overlap"),
        ({}, "SET status = :v", {":v": S("x")}, None, "reserved keyword: status"),
        ({}, "SET a = :v SET b = :v", {":v": S("x")}, None, "only be used once"),
        ({}, "SET a = :v", {":v": S("x"), ":w": S("y")}, None, "unused in expressions: keys: {:w}"),
        ({}, "SET a = :v", None, None, "not defined; attribute value: :v"),
        ({}, "SET #a = :v", {":v": S("x")}, None, "not defined; attribute name: #a"),
        ({}, "SET #a = :v", {":v": S("x")}, {"#a": "a", "#b": "b"}, "unused in expressions: keys: {#b}"),
        ({}, "SET a = ", {":v": S("x")}, None, "Syntax error"),
        ({}, "SET a[x] = :v", {":v": S("x")}, None, "Syntax error"),
        ({}, "SET a = :v ;", {":v": S("x")}, None, "Syntax error"),
        ({}, "MOVE a", None, None, "Syntax error"),
        ({}, "", None, None, "can not be empty"),
        ({}, "SET a = :v", {":v": {"SS": []}}, None, "may not be empty"),
        ({}, "SET a = :v", {":v": {"SS": ["x", "x"]}}, None, "duplicates"),
        ({}, "SET a = :v", {":v": {"SS": [1]}}, None, "ill-formed member"),
        ({}, "SET a = :v", {":v": {"N": "one"}}, None, "numeric value"),
        ({}, "SET a = :v", {":v": {"N": "NaN"}}, None, "numeric value"),
        ({}, "SET a = :v", {":v": {"N": "1E126"}}, None, "overflow"),
        ({}, "SET a = :v", {":v": {"N": "1E-131"}}, None, "underflow"),
        ({}, "SET a = :v", {":v": {"N": "1" * 39}}, None, "38 significant digits"),
        ({}, "SET a = :v", {":v": {"B": "?"}}, None, "base64"),
        ({}, "SET a = :v", {":v": {"S": 1}}, None, "ill-formed datatype"),
        ({}, "SET a = :v", {":v": {}}, None, "must contain exactly one"),
        ({}, "SET a = :v", {":v": S("x" * 410_000)}, None, "Item size to update has exceeded"),
        ({}, "SET lane = :v", {":v": N(1)}, None, "Type mismatch for Index Key lane"),
        ({}, "SET lane = :v", {":v": S("")}, None, "IndexKey: lane"),
    ],
)
def test_a_wrong_update_is_refused_and_changes_nothing(
    store: DynamoStore, before: Any, expression: str, values: Any, names: Any, message: str
) -> None:
    put(store, **before)
    with pytest.raises(DynamoError) as caught:
        update(store, expression, values, names)
    assert caught.value.name == "ValidationException"
    assert message in caught.value.message
    assert get(store) == before


_ITEM: Any = {
    "n": N(5),
    "s": S("hello"),
    "b": {"B": "aGVsbG8="},
    "ss": {"SS": ["x", "y"]},
    "ns": {"NS": ["1", "2"]},
    "l": {"L": [N(1), S("two")]},
    "m": {"M": {"x": N(1)}},
    "t": {"BOOL": True},
    "z": {"NULL": True},
}


@pytest.mark.parametrize(
    ("condition", "values", "expected"),
    [
        ("attribute_exists(n) AND attribute_not_exists(q)", None, True),
        ("attribute_exists(m.x) and not attribute_exists(m.y)", None, True),
        ("attribute_exists(l[1]) AND attribute_not_exists(l[2])", None, True),
        ("n = :v", {":v": N("5.0")}, True),
        ("n > :v OR q = :v", {":v": N(10)}, False),
        ("n < :v", {":v": N(10)}, True),
        ("n >= :v AND n <= :v", {":v": N(5)}, True),
        ("s < :v", {":v": N(10)}, False),
        ("s > :v", {":v": S("hell")}, True),
        ("q = :v", {":v": N(1)}, False),
        ("q <> :v", {":v": N(1)}, True),
        ("n <> :v", {":v": N(5)}, False),
        ("n BETWEEN :a AND :b AND attribute_exists(s)", {":a": N(5), ":b": N(6)}, True),
        ("n IN (:a, :b)", {":a": N(1), ":b": N(5)}, True),
        ("NOT n IN (:a)", {":a": N(1)}, True),
        ("begins_with(s, :v)", {":v": S("he")}, True),
        ("begins_with(n, :v)", {":v": S("5")}, False),
        ("contains(s, :v)", {":v": S("ell")}, True),
        ("contains(ss, :v)", {":v": S("x")}, True),
        ("contains(ss, :v)", {":v": S("xy")}, False),
        ("contains(ns, :v)", {":v": N("2.0")}, True),
        ("contains(l, :v)", {":v": S("two")}, True),
        ("contains(n, :v)", {":v": N(5)}, False),
        ("contains(q, :v)", {":v": N(5)}, False),
        ("attribute_type(ss, :v)", {":v": S("SS")}, True),
        ("size(ss) = :v", {":v": N(2)}, True),
        ("size(s) < :v", {":v": N(6)}, True),
        ("size(b) = :v", {":v": N(5)}, True),
        ("size(l) = :v AND size(m) < :v", {":v": N(2)}, True),
        ("size(q) < :v", {":v": N(2)}, False),
        ("size(n) < :v", {":v": N(2)}, False),
        ("ss = :v", {":v": {"SS": ["y", "x"]}}, True),
        ("l = :v", {":v": {"L": [N(1), S("two")]}}, True),
        ("m = :v", {":v": {"M": {"x": N(1)}}}, True),
        ("m = :v", {":v": {"M": {"y": N(1)}}}, False),
        ("t = :v", {":v": {"BOOL": True}}, True),
        ("(n = :a OR n = :b) AND s = :c", {":a": N(5), ":b": N(6), ":c": S("x")}, False),
        ("n = :a OR n = :b AND s = :c", {":a": N(5), ":b": N(6), ":c": S("x")}, True),
        ("s.x = :v", {":v": N(1)}, False),
    ],
)
def test_a_condition_is_judged_as_aws_judges_it(
    store: DynamoStore, condition: str, values: Any, expected: bool
) -> None:
    put(store, **_ITEM)
    assert holds(store, condition, values) is expected


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        ("n = ", {":v": N(1)}),
        ("n ! :v", {":v": N(1)}),
        ("n BETWEEN :v OR :v", {":v": N(1)}),
        ("(n = :v", {":v": N(1)}),
        ("n = :v s", {":v": N(1)}),
        ("begins_with(s, :v)", {":v": N(1)}),
        ("attribute_exists(:v)", {":v": N(1)}),
        ("name = :v", {":v": N(1)}),
    ],
)
def test_a_wrong_condition_is_refused(store: DynamoStore, condition: str, values: Any) -> None:
    put(store, **_ITEM)
    with pytest.raises(DynamoError) as caught:
        holds(store, condition, values)
    assert caught.value.name == "ValidationException"


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


def query(store: DynamoStore, condition: str, values: Any, **more: Any) -> list[str]:
    body = {"TableName": T, "KeyConditionExpression": condition, "ExpressionAttributeValues": values, **more}
    return [item["sk"]["S"] for item in store.call("Query", body)["Items"]]


@pytest.mark.parametrize(
    ("clause", "values", "expected"),
    [
        ("", {}, ["a", "b1", "b2", "c"]),
        (" AND sk = :a", {":a": S("b1")}, ["b1"]),
        (" AND sk < :a", {":a": S("b2")}, ["a", "b1"]),
        (" AND sk <= :a", {":a": S("b2")}, ["a", "b1", "b2"]),
        (" AND sk > :a", {":a": S("b2")}, ["c"]),
        (" AND sk >= :a", {":a": S("b2")}, ["b2", "c"]),
        (" AND (sk BETWEEN :a AND :b)", {":a": S("b"), ":b": S("b9")}, ["b1", "b2"]),
        (" AND begins_with(sk, :a)", {":a": S("b")}, ["b1", "b2"]),
    ],
)
def test_a_query_reads_a_range_of_one_partition(
    store: DynamoStore, clause: str, values: Any, expected: list[str]
) -> None:
    for sk in ("c", "a", "b2", "b1"):
        put(store, "p", sk)
        put(store, "other", sk)
    assert query(store, "pk = :p" + clause, {":p": S("p"), **values}) == expected
    backwards = query(store, "pk = :p" + clause, {":p": S("p"), **values}, ScanIndexForward=False)
    assert backwards == expected[::-1]


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_give_every_item_once_though_some_are_deleted_between(
    store: DynamoStore, forward: bool, size: int
) -> None:
    for at in range(7):
        put(store, "p", f"{at}", a=N(at))
    seen: list[str] = []
    start: Any = None
    while True:
        body = {
            "TableName": T,
            "KeyConditionExpression": "pk = :p",
            "ExpressionAttributeValues": {":p": S("p")},
            "Limit": size,
            "ScanIndexForward": forward,
        }
        answer = store.call("Query", body | ({"ExclusiveStartKey": start} if start else {}))
        seen += [item["sk"]["S"] for item in answer["Items"]]
        start = answer.get("LastEvaluatedKey")
        if start is None:
            break
        store.call("DeleteItem", {"TableName": T, "Key": start})
    assert seen == sorted(seen, reverse=not forward)
    assert len(seen) == 7


def test_a_page_ends_at_one_megabyte(store: DynamoStore) -> None:
    for at in range(4):
        put(store, "p", f"{at}", a=S("x" * 390_000))
    body = {"TableName": T, "KeyConditionExpression": "pk = :p", "ExpressionAttributeValues": {":p": S("p")}}
    answer = store.call("Query", body)
    assert answer["Count"] == 3
    assert answer["LastEvaluatedKey"] == key("p", "2")


def test_a_limit_counts_before_the_filter(store: DynamoStore) -> None:
    for at in range(4):
        put(store, "p", f"{at}", a=N(at))
    body = {
        "TableName": T,
        "KeyConditionExpression": "pk = :p",
        "FilterExpression": "a > :a",
        "ExpressionAttributeValues": {":p": S("p"), ":a": N(1)},
        "Limit": 3,
    }
    answer = store.call("Query", body)
    assert (answer["Count"], answer["ScannedCount"], answer["LastEvaluatedKey"]) == (1, 3, key("p", "2"))
    assert "Items" not in store.call("Query", body | {"Select": "COUNT"})


def test_an_index_holds_only_items_with_its_keys_in_their_order(store: DynamoStore) -> None:
    put(store, "p", "late", lane=S("x"), moment=N(100))
    put(store, "q", "soon", lane=S("x"), moment=N(9))
    put(store, "q", "same", lane=S("x"), moment=N(9))
    put(store, "q", "other lane", lane=S("y"), moment=N(1))
    put(store, "q", "none", lane=S("x"))
    due = {"IndexName": "due"}
    assert query(store, "lane = :p", {":p": S("x")}, **due) == ["same", "soon", "late"]
    assert query(store, "lane = :p AND moment <= :t", {":p": S("x"), ":t": N(9)}, **due) == ["same", "soon"]
    update_late = {"TableName": T, "Key": key("p", "late"), "UpdateExpression": "REMOVE lane"}
    store.call("UpdateItem", update_late)
    assert query(store, "lane = :p", {":p": S("x")}, **due) == ["same", "soon"]
    page = store.call(
        "Query",
        {
            "TableName": T,
            **due,
            "KeyConditionExpression": "lane = :p",
            "ExpressionAttributeValues": {":p": S("x")},
            "Limit": 1,
        },
    )
    assert page["LastEvaluatedKey"] == key("q", "same") | {"lane": S("x"), "moment": N(9)}
    rest = query(store, "lane = :p", {":p": S("x")}, **due, ExclusiveStartKey=page["LastEvaluatedKey"])
    assert rest == ["soon"]


def test_an_index_shows_what_it_projects(store: DynamoStore) -> None:
    put(store, "p", "s", lane=S("x"), name=S("n"), secret=S("z"))
    body = {
        "TableName": T,
        "IndexName": "names",
        "KeyConditionExpression": "lane = :p",
        "ExpressionAttributeValues": {":p": S("x")},
    }
    assert store.call("Query", body)["Items"] == [key() | {"lane": S("x"), "name": S("n")}]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"KeyConditionExpression": "sk = :p"}, "missed key schema element: pk"),
        ({"KeyConditionExpression": "pk > :p"}, "missed key schema element: pk"),
        ({"KeyConditionExpression": "pk <> :p"}, "Invalid operator"),
        ({"KeyConditionExpression": "pk = :p AND a = :p"}, "missed key schema element: sk"),
        ({"FilterExpression": "sk = :p"}, "non-primary key"),
        ({"IndexName": "nope"}, "does not have the specified index"),
        ({"IndexName": "due", "KeyConditionExpression": "lane = :p", "ConsistentRead": True}, "Consistent reads"),
        ({"IndexName": "due", "KeyConditionExpression": "lane = :p AND moment > :p"}, "does not match schema type"),
        ({"Limit": 0}, "'limit' failed"),
        ({"ExclusiveStartKey": {"pk": S("p")}}, "starting key is invalid"),
    ],
)
def test_a_wrong_query_is_refused(store: DynamoStore, more: Any, message: str) -> None:
    body = {"TableName": T, "KeyConditionExpression": "pk = :p", "ExpressionAttributeValues": {":p": S("p")}}
    put(store)
    with pytest.raises(DynamoError) as caught:
        store.call("Query", body | more)
    assert message in caught.value.message


def test_a_projection_shows_parts_in_their_nesting(store: DynamoStore) -> None:
    put(store, m={"M": {"x": N(1), "y": N(2)}}, l={"L": [N(1), {"M": {"a": N(2), "b": N(3)}}, N(4)]}, a=N(1))
    body = {
        "TableName": T,
        "Key": key(),
        "ProjectionExpression": "m.x, l[2], l[1].a, #q, a.b",
        "ExpressionAttributeNames": {"#q": "nothing"},
    }
    item = store.call("GetItem", body)["Item"]
    assert item == {"m": {"M": {"x": N(1)}}, "l": {"L": [{"M": {"a": N(2)}}, N(4)]}}


def test_scans_give_every_item_once_in_pages_and_segments(store: DynamoStore) -> None:
    for at in range(9):
        put(store, f"p{at % 3}", f"{at}")
    pages: list[str] = []
    start: Any = None
    while True:
        answer = store.call("Scan", {"TableName": T, "Limit": 2} | ({"ExclusiveStartKey": start} if start else {}))
        pages += [item["sk"]["S"] for item in answer["Items"]]
        if (start := answer.get("LastEvaluatedKey")) is None:
            break
    segments = [
        item["sk"]["S"]
        for segment in range(2)
        for item in store.call("Scan", {"TableName": T, "TotalSegments": 2, "Segment": segment})["Items"]
    ]
    assert sorted(pages) == sorted(segments) == [str(at) for at in range(9)]


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
