"""`ports.Records`, `DueItems` and `SpacesByToken` over one DynamoDB table.

Table: partition key `pk`, sort key `sk`; sparse index `due` (`due_shard`, `due_at`) for the sweeper. Listing is always
a paged Query of one partition; there is no Scan.
"""

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from worker_space.adapters.aws import AwsCalls, error_code
from worker_space.adapters.credentials import ClientOf, the_same
from worker_space.errors import ConditionFailed, Unavailable
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
    Write,
)
from worker_space.tenancy import Key, TenantContext, partition, partition_of

__all__ = ["DynamoRecords"]

_DEPENDENCY: Final = "the table"
_COLLISIONS: Final = 12
# DynamoDB refuses what is nearer to 0.
_LEAST_NUMBER: Final = 1e-130
_to_dynamo: Final = TypeSerializer()
_from_dynamo: Final = TypeDeserializer()


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    return frozenset(value) if isinstance(value, set) else value


def _dynamo(value: Any) -> dict[str, Any]:
    return dict(_to_dynamo.serialize(_exact(value)))


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        return Decimal(repr(value)) if abs(value) >= _LEAST_NUMBER else Decimal(0)
    if isinstance(value, (list, tuple)):
        return [_exact(member) for member in value]
    if isinstance(value, Mapping):
        return {name: _exact(member) for name, member in value.items()}
    return value


def _item(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(_from_dynamo.deserialize(value)) for name, value in stored.items() if name != "pk"}


class _Expression:
    """One request's expressions with their `#name` and `:value` placeholders."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, dict[str, Any]] = {}

    def name(self, attribute: str) -> str:
        plain, bracket, index = attribute.partition("[")
        placeholder = next((key for key, name in self.names.items() if name == plain), None)
        if placeholder is None:
            placeholder = f"#n{len(self.names)}"
            self.names[placeholder] = plain
        return f"{placeholder}{bracket}{index}"

    def value(self, value: Any) -> str:
        placeholder = f":v{len(self.values)}"
        self.values[placeholder] = _dynamo(value)
        return placeholder

    def condition(self, condition: Condition) -> str:
        match condition:
            case Exists(attribute):
                return f"attribute_exists({self.name(attribute)})"
            case Missing(attribute):
                return f"attribute_not_exists({self.name(attribute)})"
            case Equals(attribute, value):
                return f"{self.name(attribute)} = {self.value(value)}"
            case OneOf(attribute, values):
                return f"{self.name(attribute)} IN ({', '.join(self.value(value) for value in values)})"
            case AtMost(attribute, value):
                return f"{self.name(attribute)} <= {self.value(value)}"
            case SizeBelow(attribute, limit):
                return f"size({self.name(attribute)}) < {self._limit(limit)}"
            case SizeAtLeast(attribute, limit):
                return f"size({self.name(attribute)}) >= {self._limit(limit)}"
            case Has(attribute, member):
                return f"contains({self.name(attribute)}, {self.value(member)})"
            case All(conditions):
                return " AND ".join(f"({self.condition(each)})" for each in conditions)
            case Any_(conditions):
                return " OR ".join(f"({self.condition(each)})" for each in conditions)

    def _limit(self, limit: int | str) -> str:
        return self.name(limit) if isinstance(limit, str) else self.value(limit)

    def parameters(self) -> dict[str, Any]:
        named = {"ExpressionAttributeNames": self.names} if self.names else {}
        valued = {"ExpressionAttributeValues": self.values} if self.values else {}
        return named | valued


def _request(write: Write, pk: str, table: str) -> tuple[str, dict[str, Any]]:
    expression = _Expression()
    request: dict[str, Any] = {"TableName": table}
    if isinstance(write, Put):
        kind = "Put"
        stored = {name: _dynamo(value) for name, value in write.item.items() if value is not None}
        request["Item"] = stored | {"pk": {"S": pk}, "sk": {"S": write.key.sort}}
    else:
        request["Key"] = {"pk": {"S": pk}, "sk": {"S": write.key.sort}}
        if isinstance(write, Delete):
            kind = "Delete"
        elif isinstance(write, Check):
            kind = "ConditionCheck"
        else:
            kind = "Update"
            sets = [f"{expression.name(name)} = {expression.value(value)}" for name, value in write.set.items()]
            for name, members in write.append.items():
                place = expression.name(name)
                empty = expression.value([])
                sets.append(
                    f"{place} = list_append(if_not_exists({place}, {empty}), {expression.value(list(members))})"
                )
            adds = [f"{expression.name(name)} {expression.value(number)}" for name, number in write.add.items()]
            adds += [f"{expression.name(name)} {expression.value(set(ins))}" for name, ins in write.include.items()]
            outs = [f"{expression.name(name)} {expression.value(set(out))}" for name, out in write.exclude.items()]
            gone = [expression.name(attribute) for attribute in write.remove]
            clauses = {"SET": sets, "ADD": adds, "DELETE": outs, "REMOVE": gone}
            request["UpdateExpression"] = " ".join(
                f"{word} {', '.join(parts)}" for word, parts in clauses.items() if parts
            )
    if write.when is not None:
        request["ConditionExpression"] = expression.condition(write.when)
        request["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
    return kind, request | expression.parameters()


class DynamoRecords:
    """The table over DynamoDB.

    Args:
        client: A boto3 DynamoDB client without retries of its own, for what is nobody's in particular.
        calls: Runs it.
        table: The table's name.
        client_of: Finds the client for an owner's items; without it, `client` is everybody's.
    """

    def __init__(self, *, client: Any, calls: AwsCalls, table: str, client_of: ClientOf | None = None) -> None:
        self._client = client
        self._client_of = client_of or the_same(client)
        self._calls = calls
        self._table = table

    async def _call(self, client: Any, operation: str, **arguments: Any) -> Any:
        try:
            return await self._calls(_DEPENDENCY, getattr(client, operation), **arguments)
        except ClientError as error:
            if error_code(error) in {"ConditionalCheckFailedException", "TransactionCanceledException"}:
                raise
            raise Unavailable(_DEPENDENCY, error_code(error)) from error

    async def get(self, owner: Owner, key: Key) -> Item | None:
        answer = await self._call(
            self._client_of(owner),
            "get_item",
            TableName=self._table,
            Key={"pk": {"S": partition(owner, key.scope)}, "sk": {"S": key.sort}},
            ConsistentRead=True,
        )
        return _item(answer["Item"]) if "Item" in answer else None

    async def get_many(self, owner: Owner, keys: Sequence[Key]) -> Sequence[Item | None]:
        places = [(partition(owner, key.scope), key.sort) for key in keys]
        return await self._get_places(self._client_of(owner), places)

    async def spaces(self, tokens: Sequence[str]) -> Sequence[Item | None]:
        expression = _Expression()
        fields = ", ".join(expression.name(name) for name in ("pk", "sk", *QUEUE_FIELDS))
        return await self._get_places(
            self._client,
            [(partition_of(token), Key.space().sort) for token in tokens],
            ProjectionExpression=fields,
            **expression.parameters(),
        )

    async def _get_places(
        self, client: Any, places: Sequence[tuple[str, str]], **request: Any
    ) -> Sequence[Item | None]:
        wanted = [{"pk": {"S": pk}, "sk": {"S": sort}} for pk, sort in dict.fromkeys(places)]
        found: dict[tuple[str, str], Item] = {}
        for attempt in range(6):
            answer = await self._call(
                client,
                "batch_get_item",
                RequestItems={self._table: {"Keys": wanted, "ConsistentRead": True, **request}},
            )
            for stored in answer["Responses"].get(self._table, []):
                found[stored["pk"]["S"], stored["sk"]["S"]] = _item(stored)
            wanted = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
            if not wanted:
                return [found.get(place) for place in places]
            await asyncio.sleep(random.uniform(0.01, 0.04) * 2**attempt)  # noqa: S311 - spread, not a secret
        raise Unavailable(_DEPENDENCY, "it is throttling reads")

    async def query(
        self,
        owner: Owner,
        prefix: Key,
        *,
        limit: int | None = None,
        after: str | None = None,
        descending: bool = False,
    ) -> Page:
        pk = partition(owner, prefix.scope)
        clause, values = "pk = :pk", {":pk": {"S": pk}}
        if prefix.sort:
            clause, values = f"{clause} AND begins_with(sk, :sk)", values | {":sk": {"S": prefix.sort}}
        request: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": clause,
            "ExpressionAttributeValues": values,
            "ConsistentRead": True,
            "ScanIndexForward": not descending,
        }
        if after is not None:
            # A start key outside the prefix is refused by DynamoDB; the caller's cursor was checked to lie inside.
            request["ExclusiveStartKey"] = {"pk": {"S": pk}, "sk": {"S": after}}
        items: list[Item] = []
        while True:
            if limit is not None:
                # One more than asked for tells whether there is a next page, without a second call to find out.
                request["Limit"] = limit + 1 - len(items)
            answer = await self._call(self._client_of(owner), "query", **request)
            items += [_item(stored) for stored in answer["Items"]]
            if limit is not None and len(items) > limit:
                return Page(items=items[:limit], after=items[limit - 1]["sk"])
            if "LastEvaluatedKey" not in answer:
                return Page(items=items, after=None)
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def write(self, owner: Owner, *writes: Write) -> None:
        requests = [_request(write, partition(owner, write.key.scope), self._table) for write in writes]
        client = self._client_of(owner)
        if len(requests) == 1 and requests[0][0] != "ConditionCheck":
            await self._write_one(client, *requests[0])
        else:
            await self._transact(client, requests)

    async def _write_one(self, client: Any, kind: str, request: dict[str, Any]) -> None:
        try:
            await self._call(client, f"{kind.lower()}_item", **request)
        except ClientError as error:
            stored: Any = error.response.get("Item", {})
            raise ConditionFailed([_item(stored)]) from error

    async def _transact(self, client: Any, requests: Sequence[tuple[str, dict[str, Any]]]) -> None:
        # The token makes a repeat after a lost answer harmless: DynamoDB remembers it for 10 minutes.
        arguments = {
            "TransactItems": [{kind: request} for kind, request in requests],
            "ClientRequestToken": secrets.token_hex(16),
        }
        lost_answers = 0
        for attempt in range(_COLLISIONS):
            try:
                await self._call(client, "transact_write_items", **arguments)
                return
            except ClientError as error:
                reasons = error.response.get("CancellationReasons", [])
                codes = {reason.get("Code") for reason in reasons}
                if "ConditionalCheckFailed" in codes:
                    raise ConditionFailed(
                        [
                            _item(reason.get("Item", {})) if reason.get("Code") == "ConditionalCheckFailed" else None
                            for reason in reasons
                        ]
                    ) from error
                passing = {"None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
                if not codes or codes - passing:
                    raise Unavailable(_DEPENDENCY, f"transaction refused: {sorted(map(str, codes))}") from error
            except Unavailable:
                lost_answers += 1
                if lost_answers > 1:
                    raise
            await asyncio.sleep(random.uniform(0.005, 0.02) * 2 ** min(attempt, 5))  # noqa: S311 - spread
        raise Unavailable(_DEPENDENCY, "too many writers collide on the same items")

    async def due(self, shard: str, before: int, limit: int, *, since: int = 0) -> Sequence[tuple[TenantContext, Item]]:
        if since > before:
            return []
        answer = await self._call(
            self._client,
            "query",
            TableName=self._table,
            IndexName="due",
            KeyConditionExpression="due_shard = :shard AND due_at BETWEEN :since AND :before",
            ExpressionAttributeValues={
                ":shard": {"S": shard},
                ":since": {"N": str(since)},
                ":before": {"N": str(before)},
            },
            Limit=limit,
        )
        items = [_item(stored) for stored in answer["Items"]]
        return [(TenantContext(item["user_id"], item["project_id"]), item) for item in items]

    async def ping(self) -> None:
        """Ask the table for a sign of life: a read of a key that no partition holds."""
        key = {"pk": {"S": "PING"}, "sk": {"S": "PING"}}
        await self._call(self._client, "get_item", TableName=self._table, Key=key, ConsistentRead=True)
