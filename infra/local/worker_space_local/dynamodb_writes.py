"""One checked write of one DynamoDB item, alone or in a transaction."""

from typing import Any, TypeAlias

from worker_space_local.dynamodb_conditions import Condition, condition
from worker_space_local.dynamodb_projections import project
from worker_space_local.dynamodb_reader import Bindings, Parsed, Path, bind
from worker_space_local.dynamodb_tables import PrimaryKey, Table
from worker_space_local.dynamodb_updates import update, updated
from worker_space_local.dynamodb_values import Item, ValidationError, checked

Body: TypeAlias = dict[str, Any]


class Write:
    """One checked write of one item: what is there, what shall be there, and whether its condition holds."""

    def __init__(self, table: Table, action: str, body: Body) -> None:
        self.table = table
        self.action = action
        parsed: list[Parsed] = []
        self.condition: Condition | None = None
        if body.get("ConditionExpression") is not None:
            self.condition = condition(body["ConditionExpression"])
            parsed.append(self.condition)
        expression = body.get("UpdateExpression")
        if expression is not None:
            parsed.append(update(expression))
        if action == "Put":
            self.new: Item | None = {name: checked(value) for name, value in body["Item"].items()}
            self.primary: PrimaryKey = table.primary_key(self.new, whole_item=True)
        else:
            key = {name: checked(value) for name, value in body["Key"].items()}
            self.primary = table.primary_key(key)
            self.new = None
        self.bound = bound_of(body, parsed)
        self.before = table.items.get(self.primary)
        self.paths: list[Path] = []
        self.size = 0
        self.show = body.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
        self.body = body

    def holds(self) -> bool:
        """Tell whether the write's condition holds for the item that is there now."""
        return self.condition is None or self.condition.test(self.before or {}, self.bound)

    def prepare(self) -> None:
        """Work out the item this write leaves, and check it; nothing is stored yet."""
        if self.action == "Update":
            base = self.before or {name: checked(value) for name, value in self.body["Key"].items()}
            self.new = base
            if (expression := self.body.get("UpdateExpression")) is not None:
                parsed = update(expression)
                self.new, self.paths = updated(parsed, base, self.bound, self.table.schema.attributes)
        if self.new is not None:
            self.size = self.table.check(self.new, updating=self.action == "Update")

    def store(self) -> None:
        """Store what ``prepare`` worked out."""
        if self.action != "ConditionCheck":
            self.table.put(self.primary, self.new)

    def returned(self) -> Item | None:
        """Return the attributes that the request's ReturnValues asks for."""
        wanted = self.body.get("ReturnValues", "NONE")
        if wanted == "ALL_OLD":
            return self.before
        if wanted == "ALL_NEW":
            return self.new
        if wanted in ("UPDATED_OLD", "UPDATED_NEW"):
            return project((self.before if wanted == "UPDATED_OLD" else self.new) or {}, self.paths) or None
        return None


def bound_of(body: Body, parsed: list[Parsed]) -> Bindings:
    """Bind a request's names and values to the expressions it holds."""
    values = {name: checked(value) for name, value in (body.get("ExpressionAttributeValues") or {}).items()}
    return bind(body.get("ExpressionAttributeNames"), values, parsed)


def cancellation(write: Write) -> Body:
    """Return a transaction's cancellation reason for one write; code ``None`` when it can be stored."""
    if not write.holds():
        item = {"Item": write.before} if write.show and write.before else {}
        return {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", **item}
    try:
        write.prepare()
    except ValidationError as exc:
        return {"Code": "ValidationError", "Message": str(exc)}
    return {"Code": "None"}
