"""The table in memory: the meaning of `records`, evaluated under one lock."""

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from worker_space.errors import ConditionFailed
from worker_space.ports import QUEUE_FIELDS, Owner
from worker_space.records import (
    All,
    Any_,
    AtMost,
    Check,
    Condition,
    Delete,
    Equals,
    Exists,
    Has,
    Item,
    Missing,
    OneOf,
    Page,
    Put,
    SizeAtLeast,
    SizeBelow,
    Update,
    Write,
)
from worker_space.tenancy import Key, TenantContext, partition, partition_of

__all__ = ["MemoryRecords"]

_ABSENT = object()


def _split(attribute: str) -> tuple[str, int | None]:
    name, bracket, rest = attribute.partition("[")
    return name, int(rest.rstrip("]")) if bracket else None


def _read(item: Item, attribute: str) -> Any:
    name, index = _split(attribute)
    value = item.get(name, _ABSENT)
    if index is None or value is _ABSENT:
        return value
    return value[index] if isinstance(value, list) and index < len(value) else _ABSENT


def holds(condition: Condition, item: Item) -> bool:
    """Whether the condition holds of an item (`{}` stands for a missing one)."""
    match condition:
        case Exists(attribute):
            return _read(item, attribute) is not _ABSENT
        case Missing(attribute):
            return _read(item, attribute) is _ABSENT
        case Equals(attribute, value):
            return bool(_read(item, attribute) == value)
        case OneOf(attribute, values):
            return _read(item, attribute) in values
        case AtMost(attribute, value):
            stored = _read(item, attribute)
            return isinstance(stored, int) and stored <= value
        case SizeBelow(attribute, limit):
            return _compare(item, attribute, limit, lambda size, most: size < most)
        case SizeAtLeast(attribute, limit):
            return _compare(item, attribute, limit, lambda size, most: size >= most)
        case Has(attribute, member):
            stored = _read(item, attribute)
            return isinstance(stored, (list, frozenset)) and member in stored
        case All(conditions):
            return all(holds(each, item) for each in conditions)
        case Any_(conditions):
            return any(holds(each, item) for each in conditions)


def _compare(item: Item, attribute: str, limit: int | str, compare: Callable[[int, int], bool]) -> bool:
    stored = _read(item, attribute)
    most = _read(item, limit) if isinstance(limit, str) else limit
    return isinstance(stored, (list, frozenset, str)) and isinstance(most, int) and compare(len(stored), most)


def _changed(update: Update, old: Item) -> dict[str, Any]:
    new = dict(old)
    new.update(deepcopy(dict(update.set)))
    for name, number in update.add.items():
        new[name] = new.get(name, 0) + number
    for name, members in update.append.items():
        new[name] = [*new.get(name, []), *deepcopy(list(members))]
    for name, members_in in update.include.items():
        new[name] = new.get(name, frozenset()) | members_in
    for name, members_out in update.exclude.items():
        new[name] = new.get(name, frozenset()) - members_out
        if not new[name]:
            del new[name]
    for attribute in update.remove:
        name, index = _split(attribute)
        if index is None:
            new.pop(name, None)
        elif index < len(new.get(name, [])):
            new[name] = [*new[name][:index], *new[name][index + 1 :]]
    return new


class MemoryRecords:
    """`ports.Records`, `DueItems` and `SpacesByToken` over dictionaries, for tests; safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._partitions: dict[str, dict[str, dict[str, Any]]] = {}
        self._sorted: dict[str, list[str]] = {}

    async def get(self, owner: Owner, key: Key) -> Item | None:
        return (await self.get_many(owner, [key]))[0]

    async def get_many(self, owner: Owner, keys: Sequence[Key]) -> Sequence[Item | None]:
        with self._lock:
            found = [self._partitions.get(partition(owner, key.scope), {}).get(key.sort) for key in keys]
            return [None if item is None else deepcopy(item) for item in found]

    async def query(
        self,
        owner: Owner,
        prefix: Key,
        *,
        limit: int | None = None,
        after: str | None = None,
        descending: bool = False,
    ) -> Page:
        place = partition(owner, prefix.scope)
        with self._lock:
            keys = self._sorted.get(place, [])
            first, last = bisect_left(keys, prefix.sort), bisect_left(keys, prefix.sort + "\U0010ffff")
            if after is not None and descending:
                last = max(first, min(last, bisect_left(keys, after)))
            elif after is not None:
                first = min(last, max(first, bisect_right(keys, after)))
            chosen = keys[first:last]
            if descending:
                chosen = chosen[::-1]
            page = chosen if limit is None else chosen[:limit]
            items = [deepcopy(self._partitions[place][key]) for key in page]
            return Page(items=items, after=page[-1] if page and len(page) < len(chosen) else None)

    async def write(self, owner: Owner, *writes: Write) -> None:
        places = [(partition(owner, write.key.scope), write.key.sort) for write in writes]
        if len(set(places)) != len(places) or not 1 <= len(places) <= 100:
            raise ValueError("a transaction takes 1 to 100 writes, no two on one item")
        with self._lock:
            olds = [self._partitions.get(place, {}).get(sort, {}) for place, sort in places]
            failed = [
                write.when is not None and not holds(write.when, old) for write, old in zip(writes, olds, strict=True)
            ]
            if any(failed):
                raise ConditionFailed([deepcopy(old) if lost else None for old, lost in zip(olds, failed, strict=True)])
            for write, old, (place, sort) in zip(writes, olds, places, strict=True):
                self._apply(write, old, place, sort)

    def _apply(self, write: Write, old: Item, place: str, sort: str) -> None:
        items, keys = self._partitions.setdefault(place, {}), self._sorted.setdefault(place, [])
        if isinstance(write, Delete):
            if items.pop(sort, None) is not None:
                keys.remove(sort)
            return
        if isinstance(write, Check):
            return
        if isinstance(write, Put):
            new = {name: value for name, value in deepcopy(dict(write.item)).items() if value is not None}
        else:
            new = _changed(write, old)
        if sort not in items:
            insort(keys, sort)
        items[sort] = new | {"sk": sort}

    async def due(self, shard: str, before: int, limit: int, *, since: int = 0) -> Sequence[tuple[TenantContext, Item]]:
        with self._lock:
            items = [
                item
                for partition_items in self._partitions.values()
                for item in partition_items.values()
                if item.get("due_shard") == shard and since <= item.get("due_at", before + 1) <= before
            ]
            items.sort(key=lambda item: int(item["due_at"]))
            return [(TenantContext(item["user_id"], item["project_id"]), deepcopy(item)) for item in items[:limit]]

    async def spaces(self, tokens: Sequence[str]) -> Sequence[Item | None]:
        with self._lock:
            found = [self._partitions.get(partition_of(token), {}).get(Key.space().sort) for token in tokens]
            return [
                None if item is None else {name: item[name] for name in ("sk", *QUEUE_FIELDS) if name in item}
                for item in found
            ]
