"""DynamoDB's operations over in-memory tables, every request atomic.

The stand-in runs on one event loop and an operation never awaits, so no two operations interleave: the loop is the
lock. Not kept: PartiQL, streams, backups, capacity and throttling. TTL attributes are stored but items are never
deleted by time.
"""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from worker_space_local.dynamodb_pages import projected, query, scan
from worker_space_local.dynamodb_projections import project
from worker_space_local.dynamodb_tables import Table
from worker_space_local.dynamodb_values import Item, ValidationError, checked
from worker_space_local.dynamodb_writes import Write, cancellation

Body: TypeAlias = dict[str, Any]
TRANSACTION_ACTIONS = 100
TRANSACTION_BYTES = 4 * 1024 * 1024
TOKEN_SECONDS = 600


class DynamoError(Exception):
    """An error answer: its type's name, its message and further fields of the body."""

    def __init__(self, name: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.fields = fields


def _failed_condition(item: Item | None, *, show: bool) -> DynamoError:
    fields = {"Item": item} if show and item else {}
    return DynamoError("ConditionalCheckFailedException", "The conditional request failed", **fields)


class DynamoStore:
    """All tables of the stand-in, and the operations on them by their API names."""

    def __init__(self, region: str, account: str) -> None:
        self.region = region
        self.account = account
        self.tables: dict[str, Table] = {}
        self._tokens: dict[str, tuple[float, bytes]] = {}
        self._operations: dict[str, Callable[[Body], Body]] = {
            "CreateTable": self.create_table,
            "DeleteTable": self.delete_table,
            "DescribeTable": lambda body: {"Table": self._described(self.table(body))},
            "ListTables": lambda body: {"TableNames": sorted(self.tables)},
            "UpdateTimeToLive": self.update_time_to_live,
            "DescribeTimeToLive": lambda body: {"TimeToLiveDescription": self.table(body).time_to_live},
            "GetItem": self.get_item,
            "PutItem": lambda body: self._write("Put", body),
            "UpdateItem": lambda body: self._write("Update", body),
            "DeleteItem": lambda body: self._write("Delete", body),
            "Query": lambda body: query(self.table(body), body),
            "Scan": lambda body: scan(self.table(body), body),
            "BatchGetItem": self.batch_get_item,
            "BatchWriteItem": self.batch_write_item,
            "TransactGetItems": self.transact_get_items,
            "TransactWriteItems": self.transact_write_items,
        }

    def call(self, operation: str, body: Body) -> Body:
        """Run one operation and return its answer's body.

        Raises:
            DynamoError: the error answer to give (all with status 400).
        """
        run = self._operations.get(operation)
        if run is None:
            raise DynamoError("UnknownOperationException", f"The local stack has no DynamoDB operation {operation!r}")
        try:
            return run(body)
        except ValidationError as exc:
            raise DynamoError("ValidationException", str(exc)) from exc
        except KeyError as exc:
            raise DynamoError("ValidationException", f"The parameter {exc} is required but was missing") from exc

    def table(self, body: Body) -> Table:
        """Return the table a request names (by name or ARN).

        Raises:
            DynamoError: there is no such table.
        """
        name = body["TableName"].rsplit("/", 1)[-1]
        if name not in self.tables:
            raise DynamoError("ResourceNotFoundException", "Requested resource not found")
        return self.tables[name]

    # Tables

    def create_table(self, body: Body) -> Body:
        """CreateTable: the table is active at once."""
        name = body["TableName"]
        if name in self.tables:
            raise DynamoError("ResourceInUseException", f"Table already exists: {name}")
        wanted = ("TableName", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "LocalSecondaryIndexes")
        description = {field: body[field] for field in wanted if body.get(field)}
        description["TableArn"] = f"arn:aws:dynamodb:{self.region}:{self.account}:table/{name}"
        description["CreationDateTime"] = time.time()
        description["BillingModeSummary"] = {"BillingMode": body.get("BillingMode", "PROVISIONED")}
        self.tables[name] = Table(description)
        return {"TableDescription": self._described(self.tables[name])}

    def delete_table(self, body: Body) -> Body:
        """DeleteTable: gone at once."""
        table = self.table(body)
        del self.tables[table.name]
        return {"TableDescription": self._described(table) | {"TableStatus": "DELETING"}}

    def update_time_to_live(self, body: Body) -> Body:
        """UpdateTimeToLive: remembered, not acted on."""
        given = body["TimeToLiveSpecification"]
        status = "ENABLED" if given["Enabled"] else "DISABLED"
        self.table(body).time_to_live = {"TimeToLiveStatus": status, "AttributeName": given["AttributeName"]}
        return {"TimeToLiveSpecification": given}

    def _described(self, table: Table) -> Body:
        found = dict(table.description, TableStatus="ACTIVE", ItemCount=len(table.items))
        indexes = table.description.get("GlobalSecondaryIndexes")
        if indexes:
            found["GlobalSecondaryIndexes"] = [
                dict(index, IndexStatus="ACTIVE", IndexArn=f"{found['TableArn']}/index/{index['IndexName']}")
                for index in indexes
            ]
        return found

    # Single items

    def get_item(self, body: Body) -> Body:
        """GetItem: always consistent."""
        table = self.table(body)
        paths, _ = projected(body, [])
        item = table.items.get(table.primary_key({name: checked(value) for name, value in body["Key"].items()}))
        if item is None:
            return {}
        return {"Item": project(item, paths) if paths else item}

    def _write(self, action: str, body: Body) -> Body:
        write = Write(self.table(body), action, body)
        if not write.holds():
            raise _failed_condition(write.before, show=write.show)
        write.prepare()
        write.store()
        returned = write.returned()
        return {} if returned is None else {"Attributes": returned}

    # Many items

    def batch_get_item(self, body: Body) -> Body:
        """BatchGetItem: up to 100 keys, nothing left unprocessed."""
        responses: dict[str, list[Item]] = {}
        if sum(len(request["Keys"]) for request in body["RequestItems"].values()) > 100:
            raise ValidationError("Too many items requested for the BatchGetItem call")
        for name, request in body["RequestItems"].items():
            answers = [self.get_item({**request, "TableName": name, "Key": key}) for key in request["Keys"]]
            responses[name] = [answer["Item"] for answer in answers if "Item" in answer]
        return {"Responses": responses, "UnprocessedKeys": {}}

    def batch_write_item(self, body: Body) -> Body:
        """BatchWriteItem: up to 25 puts and deletes, nothing left unprocessed."""
        requests = [
            (("Put", {"TableName": name, "Item": request["PutRequest"]["Item"]}))
            if "PutRequest" in request
            else ("Delete", {"TableName": name, "Key": request["DeleteRequest"]["Key"]})
            for name, entries in body["RequestItems"].items()
            for request in entries
        ]
        if not 0 < len(requests) <= 25:
            raise ValidationError("Too many items requested for the BatchWriteItem call")
        writes = [Write(self.table(request), action, request) for action, request in requests]
        if len({(id(write.table), write.primary) for write in writes}) != len(writes):
            raise ValidationError("Provided list of item keys contains duplicates")
        for write in writes:
            write.prepare()
        for write in writes:
            write.store()
        return {"UnprocessedItems": {}}

    # Transactions

    def transact_get_items(self, body: Body) -> Body:
        """TransactGetItems: one consistent view of up to 100 items."""
        if len(body["TransactItems"]) > TRANSACTION_ACTIONS:
            raise ValidationError("Member must have length less than or equal to 100")
        return {"Responses": [self.get_item(action["Get"]) for action in body["TransactItems"]]}

    def transact_write_items(self, body: Body) -> Body:
        """TransactWriteItems: all or nothing; a repeated ClientRequestToken within ten minutes does nothing more."""
        actions = body["TransactItems"]
        if not 0 < len(actions) <= TRANSACTION_ACTIONS:
            raise ValidationError(
                "1 validation error detected: Value at 'transactItems' failed to satisfy constraint: "
                "Member must have length less than or equal to 100"
            )
        token = body.get("ClientRequestToken")
        digest = hashlib.sha256(json.dumps(actions, sort_keys=True).encode()).digest()
        if token and self._seen(token, digest):
            return {}
        writes = []
        for action in actions:
            if len(action) != 1 or (name := next(iter(action))) not in ("Put", "Update", "Delete", "ConditionCheck"):
                raise ValidationError("TransactItems can only contain one of Check, Put, Update or Delete")
            writes.append(Write(self.table(action[name]), name, action[name]))
        if len({(id(write.table), write.primary) for write in writes}) != len(writes):
            raise ValidationError("Transaction request cannot include multiple operations on one item")
        reasons = [cancellation(write) for write in writes]
        if any(reason["Code"] != "None" for reason in reasons):
            codes = ", ".join(reason["Code"] for reason in reasons)
            raise DynamoError(
                "TransactionCanceledException",
                f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
                CancellationReasons=reasons,
                Message=f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
            )
        if sum(write.size for write in writes) > TRANSACTION_BYTES:
            raise ValidationError("Collection size of items in the transaction exceeded the limit of 4 MB")
        for write in writes:
            write.store()
        if token:
            self._tokens[token] = (time.monotonic(), digest)
        return {}

    def _seen(self, token: str, digest: bytes) -> bool:
        now = time.monotonic()
        # Tokens are kept in the order of their time, so the old ones are at the front.
        while self._tokens and now - next(iter(self._tokens.values()))[0] > TOKEN_SECONDS:
            del self._tokens[next(iter(self._tokens))]
        if token not in self._tokens:
            return False
        if self._tokens[token][1] != digest:
            raise DynamoError(
                "IdempotentParameterMismatchException",
                "Request with the same client token but different parameters was already received",
            )
        return True
