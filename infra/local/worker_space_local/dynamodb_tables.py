"""DynamoDB tables in memory: partitions sorted by key, and their indexes.

A query walks one partition of the table or of one index; nothing here ever sorts or copies a whole table.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worker_space_local.dynamodb_values import (
    MAX_ITEM_BYTES,
    Item,
    KeyValue,
    ValidationError,
    Value,
    bytes_of,
    key_value,
    kind,
)

PrimaryKey = tuple[KeyValue, KeyValue]
Entry = tuple[KeyValue, KeyValue, KeyValue]
"""(sort value, then the item's primary key): what a partition of the table or of an index is ordered by."""

_NO_SORT_KEY = ""


@dataclass(frozen=True, kw_only=True)
class KeySchema:
    """The key attributes of a table or index, and their types (S, N or B)."""

    partition: str
    partition_type: str
    sort: str | None
    sort_type: str | None

    @classmethod
    def read(cls, schema: list[dict[str, str]], definitions: list[dict[str, str]]) -> "KeySchema":
        """Read a KeySchema with the AttributeDefinitions of its request.

        Raises:
            ValidationError: a key attribute is not defined, or there is no partition key.
        """
        types = {definition["AttributeName"]: definition["AttributeType"] for definition in definitions}
        roles = {element["KeyType"]: element["AttributeName"] for element in schema}
        if "HASH" not in roles or any(name not in types for name in roles.values()):
            raise ValidationError(
                "One or more parameter values were invalid: Some index key attributes are not defined in "
                "AttributeDefinitions"
            )
        sort = roles.get("RANGE")
        return cls(
            partition=roles["HASH"],
            partition_type=types[roles["HASH"]],
            sort=sort,
            sort_type=types[sort] if sort else None,
        )

    @property
    def attributes(self) -> dict[str, str]:
        """Map each key attribute's name to its type."""
        found = {self.partition: self.partition_type}
        if self.sort and self.sort_type:
            found[self.sort] = self.sort_type
        return found

    def of(self, item: Item) -> tuple[KeyValue, KeyValue] | None:
        """Return an item's (partition, sort) values under this schema; ``None`` when it lacks one of them."""
        partition = item.get(self.partition)
        sort = item.get(self.sort) if self.sort else None
        if partition is None or (self.sort and sort is None):
            return None
        return key_value(partition), _NO_SORT_KEY if sort is None else key_value(sort)


class Index:
    """The order of items under one key schema: per partition value a sorted list of entries."""

    def __init__(self, name: str, schema: KeySchema, projection: dict[str, Any]) -> None:
        self.name = name
        self.schema = schema
        self.projection = projection
        self.partitions: dict[KeyValue, list[Entry]] = {}

    def add(self, item: Item, primary: PrimaryKey) -> None:
        """Put an item in its place; items without this index's keys are left out."""
        if (key := self.schema.of(item)) is not None:
            bisect.insort(self.partitions.setdefault(key[0], []), (key[1], *primary))

    def remove(self, item: Item, primary: PrimaryKey) -> None:
        """Take out an item that ``add`` was given."""
        if (key := self.schema.of(item)) is None:
            return
        entries = self.partitions[key[0]]
        del entries[bisect.bisect_left(entries, (key[1], *primary))]
        if not entries:
            del self.partitions[key[0]]


class Table:
    """One table: its description, its items and its indexes."""

    def __init__(self, description: dict[str, Any]) -> None:
        definitions = description["AttributeDefinitions"]
        self.name: str = description["TableName"]
        self.description = description
        self.time_to_live: dict[str, Any] = {"TimeToLiveStatus": "DISABLED"}
        self.primary = Index("", KeySchema.read(description["KeySchema"], definitions), {"ProjectionType": "ALL"})
        self.schema = self.primary.schema
        self.items: dict[PrimaryKey, Item] = {}
        self.indexes = {
            index["IndexName"]: Index(
                index["IndexName"], KeySchema.read(index["KeySchema"], definitions), index["Projection"]
            )
            for kind_of in ("GlobalSecondaryIndexes", "LocalSecondaryIndexes")
            for index in description.get(kind_of) or []
        }
        self.global_indexes = {index["IndexName"] for index in description.get("GlobalSecondaryIndexes") or []}

    def primary_key(self, key: Item, *, whole_item: bool = False) -> PrimaryKey:
        """Validate a key (or the key attributes of a whole item) and return its values.

        Raises:
            ValidationError: a key attribute is missing, empty, too long or of another type, or there are others.
        """
        attributes = self.schema.attributes
        if not whole_item and key.keys() != attributes.keys():
            raise ValidationError("The provided key element does not match the schema")
        for name, wanted in attributes.items():
            if name not in key:
                raise ValidationError(f"One or more parameter values were invalid: Missing the key {name} in the item")
            self._check_key_attribute(name, key[name], wanted, whole_item=whole_item)
        found = self.schema.of(key)
        assert found is not None
        return found

    def _check_key_attribute(self, name: str, value: Value, wanted: str, *, whole_item: bool) -> None:
        actual = kind(value)
        if actual != wanted:
            if not whole_item:
                raise ValidationError("The provided key element does not match the schema")
            raise ValidationError(
                f"One or more parameter values were invalid: Type mismatch for key {name} expected: {wanted} "
                f"actual: {actual}"
            )
        if actual in ("S", "B"):
            limit = 2048 if name == self.schema.partition else 1024
            if not value[actual]:
                raise ValidationError(
                    "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain "
                    f"an empty string value. Key: {name}"
                )
            if len(value[actual].encode()) > limit:
                which = "hashkey" if limit == 2048 else "rangekey"
                raise ValidationError(
                    f"One or more parameter values were invalid: Size of {which} has exceeded the maximum size limit "
                    f"of {limit} bytes"
                )

    def check(self, item: Item, *, updating: bool = False) -> int:
        """Check an item's size and the types of its index keys before it is stored.

        Returns:
            Its size in bytes.

        Raises:
            ValidationError: larger than 400 KB, or an index key of the wrong type.
        """
        size = bytes_of(item)
        if size > MAX_ITEM_BYTES:
            what = "Item size to update" if updating else "Item size"
            raise ValidationError(f"{what} has exceeded the maximum allowed size")
        for index in self.indexes.values():
            for name, wanted in index.schema.attributes.items():
                value = item.get(name)
                if value is None or name in self.schema.attributes:
                    continue
                if kind(value) != wanted:
                    raise ValidationError(
                        f"One or more parameter values were invalid: Type mismatch for Index Key {name} Expected: "
                        f"{wanted} Actual: {kind(value)} IndexName: {index.name}"
                    )
                if wanted in ("S", "B") and not value[wanted]:
                    raise ValidationError(
                        "One or more parameter values are not valid. A value specified for a secondary index key is "
                        "not supported. The AttributeValue for a key attribute cannot contain an empty string value. "
                        f"IndexName: {index.name}, IndexKey: {name}"
                    )
        return size

    def put(self, primary: PrimaryKey, item: Item | None) -> None:
        """Store an item under its key, or with ``None`` remove what is there."""
        before = self.items.pop(primary, None)
        for index in (self.primary, *self.indexes.values()):
            if before is not None:
                index.remove(before, primary)
            if item is not None:
                index.add(item, primary)
        if item is not None:
            self.items[primary] = item

    def entries(self, index: Index, partition: KeyValue, *, forward: bool) -> Iterator[Entry]:
        """Walk one partition of an index in sort order, or backwards."""
        entries = index.partitions.get(partition, [])
        return iter(entries) if forward else reversed(entries)
