"""Queries and scans of DynamoDB: one page of items from one table or index."""

import bisect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from worker_space_local.dynamodb_conditions import Condition, condition, key_condition
from worker_space_local.dynamodb_projections import project, projection
from worker_space_local.dynamodb_reader import Bindings, Parsed, Path
from worker_space_local.dynamodb_tables import Entry, Index, Table
from worker_space_local.dynamodb_values import (
    Item,
    KeyValue,
    ValidationError,
    Value,
    bytes_of,
    checked,
    key_value,
    kind,
)
from worker_space_local.dynamodb_writes import bound_of

Body: TypeAlias = dict[str, Any]
PAGE_BYTES = 1024 * 1024


def query(table: Table, body: Body) -> Body:
    """Query one partition of the table or of an index."""
    index = _index(table, body)
    keys = key_condition(body["KeyConditionExpression"])
    filters = _filter(body)
    paths, bound = projected(body, [keys, *filters])
    forbidden = index.schema.attributes
    if filters and any(bound.path(path)[0] in forbidden for path in filters[0].paths):
        raise ValidationError("Filter Expression can only contain non-primary key attributes")
    clauses = {str(bound.path(path)[0]): (op, [bound.values[v] for v in values]) for path, op, values in keys.clauses}
    equals = clauses.pop(index.schema.partition, None)
    if equals is None or equals[0] != "=" or len(keys.clauses) > 2:
        raise ValidationError(f"Query condition missed key schema element: {index.schema.partition}")
    _check_key_types(index, {index.schema.partition: equals, **clauses})
    rest = clauses.pop(index.schema.sort, None) if index.schema.sort else None
    if clauses:
        raise ValidationError(f"Query condition missed key schema element: {index.schema.sort}")
    partition = key_value(equals[1][0])
    entries = index.partitions.get(partition, [])
    low, high = _bounds(entries, rest)
    start = _start_entry(table, index, body)
    forward = body.get("ScanIndexForward", True)
    if start is not None:
        low, high = _after(entries, start, low, high, forward=forward)
    order = range(low, high) if forward else range(high - 1, low - 1, -1)
    return _page(table, index, (entries[at] for at in order), filters, bound, paths, body)


def scan(table: Table, body: Body) -> Body:
    """Scan the table or an index; a segment holds every n-th item."""
    index = _index(table, body)
    filters = _filter(body)
    paths, bound = projected(body, filters)
    segments, segment = int(body.get("TotalSegments", 1)), int(body.get("Segment", 0))
    everything = sorted(
        ((key_order(partition), entry) for partition, entries in index.partitions.items() for entry in entries),
        key=lambda pair: (pair[0], pair[1]),
    )
    start = _start_entry(table, index, body)
    entries: Iterable[Entry] = (entry for _, entry in everything[segment::segments])
    if start is not None:
        partition = key_order(key_value(body["ExclusiveStartKey"][index.schema.partition]))
        entries = (entry for place, entry in everything[segment::segments] if (place, entry) > (partition, start))
    return _page(table, index, entries, filters, bound, paths, body)


def _filter(body: Body) -> list[Condition]:
    text = body.get("FilterExpression")
    return [] if text is None else [condition(text, "FilterExpression")]


def _page(
    table: Table,
    index: Index,
    entries: Iterable[Entry],
    filters: list[Condition],
    bound: Bindings,
    paths: list[Path],
    body: Body,
) -> Body:
    limit = body.get("Limit")
    if limit is not None and limit < 1:
        raise ValidationError(f"1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint")
    found: list[Item] = []
    scanned = size = count = 0
    last: Item | None = None
    for entry in entries:
        item = table.items[entry[1], entry[2]]
        size += bytes_of(item)
        scanned += 1
        if not filters or filters[0].test(item, bound):
            count += 1
            found.append(item)
        if scanned == limit or size >= PAGE_BYTES:
            last = item
            break
    answer: Body = {"Count": count, "ScannedCount": scanned}
    if body.get("Select") != "COUNT":
        shown = [_shown(table, index, item) for item in found]
        answer["Items"] = [project(item, paths) for item in shown] if paths else shown
    if last is not None:
        names = {*table.schema.attributes, *index.schema.attributes}
        answer["LastEvaluatedKey"] = {name: last[name] for name in names}
    return answer


def _index(table: Table, body: Body) -> Index:
    name = body.get("IndexName")
    if name is None:
        return table.primary
    if name not in table.indexes:
        raise ValidationError(f"The table does not have the specified index: {name}")
    if body.get("ConsistentRead") and name in table.global_indexes:
        raise ValidationError("Consistent reads are not supported on global secondary indexes")
    return table.indexes[name]


def _shown(table: Table, index: Index, item: Item) -> Item:
    if index.projection.get("ProjectionType") == "ALL":
        return item
    names = {*table.schema.attributes, *index.schema.attributes, *(index.projection.get("NonKeyAttributes") or [])}
    return {name: value for name, value in item.items() if name in names}


def projected(body: Body, used: Sequence[Parsed]) -> tuple[list[Path], Bindings]:
    """Bind a request, and return its projection's paths (none: show everything)."""
    text = body.get("ProjectionExpression")
    shown = None if text is None else projection(text)
    bound = bound_of(body, [*used, *([shown] if shown else [])])
    return [bound.path(path) for path in shown.paths] if shown else [], bound


def _check_key_types(index: Index, clauses: dict[str, tuple[str, list[Value]]]) -> None:
    for name, (_, values) in clauses.items():
        wanted = index.schema.attributes.get(name)
        if wanted and any(kind(value) != wanted for value in values):
            raise ValidationError(
                "One or more parameter values were invalid: Condition parameter type does not match schema type"
            )


def key_order(value: KeyValue) -> tuple[int, Any]:
    """Make partition values of different types comparable, for a scan's order."""
    return (0 if isinstance(value, str) else 1 if isinstance(value, bytes) else 2), value


def _bounds(entries: list[Entry], clause: tuple[str, list[Value]] | None) -> tuple[int, int]:
    """Return the half-open range of a sorted partition that a sort key clause selects."""
    if clause is None:
        return 0, len(entries)
    operator, values = clause
    first: Any = key_value(values[0])
    if operator == "begins_with":
        low = _position(entries, lambda sort: sort < first)
        return low, _position(entries, lambda sort: sort.startswith(first), low)
    at_least = _position(entries, lambda sort: sort < first)
    above = _position(entries, lambda sort: sort <= first)
    if operator == "BETWEEN":
        last: Any = key_value(values[1])
        if last < first:
            raise ValidationError(
                "The BETWEEN operator requires upper bound to be greater than or equal to lower bound"
            )
        return at_least, _position(entries, lambda sort: sort <= last)
    return {
        "=": (at_least, above),
        "<": (0, at_least),
        "<=": (0, above),
        ">": (above, len(entries)),
        ">=": (at_least, len(entries)),
    }[operator]


def _position(entries: list[Entry], before: Callable[[Any], bool], low: int = 0) -> int:
    """Return where the entries from ``low`` on stop to come before: to have a sort value that passes ``before``."""
    high = len(entries)
    while low < high:
        middle = (low + high) // 2
        if before(entries[middle][0]):
            low = middle + 1
        else:
            high = middle
    return low


def _start_entry(table: Table, index: Index, body: Body) -> Entry | None:
    start = body.get("ExclusiveStartKey")
    if not start:
        return None
    item = {name: checked(value) for name, value in start.items()}
    wanted = {**table.schema.attributes, **index.schema.attributes}
    if item.keys() != wanted.keys() or any(kind(item[name]) != wanted[name] for name in item):
        raise ValidationError("The provided starting key is invalid")
    key, primary = index.schema.of(item), table.schema.of(item)
    assert key is not None
    assert primary is not None
    return (key[1], *primary)


def _after(entries: list[Entry], start: Entry, low: int, high: int, *, forward: bool) -> tuple[int, int]:
    """Narrow a range to what comes after the entry an earlier page ended with."""
    if forward:
        return max(low, bisect.bisect_right(entries, start)), high
    return low, min(high, bisect.bisect_left(entries, start))
