"""DynamoDB's queries and scans, asked of the store directly: ranges, pages, indexes and projections."""

from typing import Any

import pytest

from tests.local.dynamodb_items import N, S, T, key, new_store, put
from worker_space_local.dynamodb import DynamoError, DynamoStore


@pytest.fixture
def store() -> DynamoStore:
    return new_store()


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
