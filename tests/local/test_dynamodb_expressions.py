"""DynamoDB's expressions, asked of the store directly: what updates leave, and which conditions hold."""

from typing import Any

import pytest

from tests.local.dynamodb_items import N, S, T, get, key, new_store, put, update
from worker_space_local.dynamodb import DynamoError, DynamoStore


@pytest.fixture
def store() -> DynamoStore:
    return new_store()


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
