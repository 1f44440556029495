"""Update expressions of DynamoDB, and what they make of an item."""

import functools
from dataclasses import dataclass
from typing import Any

from worker_space_local.dynamodb_reader import (
    Bindings,
    Operand,
    Parsed,
    Path,
    Reader,
    path_operand,
    resolve,
    value_operand,
)
from worker_space_local.dynamodb_values import Item, ValidationError, Value, added, copy_of, kind


@dataclass(frozen=True, kw_only=True)
class Action:
    """One action of an update expression; ``operand`` is absent for REMOVE."""

    clause: str
    path: Path
    operand: Operand | None


@dataclass(kw_only=True)
class Update(Parsed):
    """An update expression."""

    actions: list[Action]


def _update_operand(reader: Reader) -> Operand:
    name = reader.peek()
    if name.startswith(":"):
        return value_operand(reader.value())
    if name in ("if_not_exists", "list_append") and reader.peek(1) == "(":
        reader.at += 2
        if name == "if_not_exists":
            first = path_operand(reader.path())
            reader.expect(",")
            second = _update_operand(reader)
            reader.expect(")")
            return lambda item, bound: first(item, bound) or second(item, bound)
        left = _update_operand(reader)
        reader.expect(",")
        right = _update_operand(reader)
        reader.expect(")")
        return _joined(left, right)
    path = reader.path()

    def existing(item: Item, bound: Bindings) -> Value:
        found = resolve(item, bound.path(path))
        if found is None:
            raise ValidationError("The provided expression refers to an attribute that does not exist in the item")
        return found

    return existing


def _joined(left: Operand, right: Operand) -> Operand:
    def join(item: Item, bound: Bindings) -> Value:
        a, b = left(item, bound), right(item, bound)
        if a is None or b is None or kind(a) != "L" or kind(b) != "L":
            raise ValidationError("An operand in the update expression has an incorrect data type")
        return {"L": [*a["L"], *b["L"]]}

    return join


def _assignment(reader: Reader) -> Operand:
    left = _update_operand(reader)
    if reader.peek() not in ("+", "-"):
        return left
    sign = 1 if reader.take() == "+" else -1
    right = _update_operand(reader)
    return lambda item, bound: _arithmetic(left(item, bound), right(item, bound), sign)


@functools.lru_cache(maxsize=1024)
def update(text: str) -> Update:
    """Parse an update expression.

    Raises:
        ValidationError: bad syntax, or a clause (SET, REMOVE, ADD, DELETE) that is there twice.
    """
    reader = Reader("UpdateExpression", text)
    actions: list[Action] = []
    seen: set[str] = set()
    while reader.peek():
        clause = reader.take().upper()
        if clause not in ("SET", "REMOVE", "ADD", "DELETE"):
            reader.at -= 1
            reader.fail()
        if clause in seen:
            raise ValidationError(
                f'Invalid UpdateExpression: The "{clause}" section can only be used once in an update expression;'
            )
        seen.add(clause)
        while True:
            path = reader.path()
            operand: Operand | None = None
            if clause == "SET":
                reader.expect("=")
                operand = _assignment(reader)
            elif clause != "REMOVE":
                operand = value_operand(reader.value())
            actions.append(Action(clause=clause, path=path, operand=operand))
            if reader.peek() != ",":
                break
            reader.take()
    return Update(actions=actions, names=reader.names, values=reader.values)


def _arithmetic(left: Value | None, right: Value | None, sign: int) -> Value:
    """Evaluate ``left + right`` or (``sign`` -1) ``left - right`` of an update expression.

    Raises:
        ValidationError: one of them is not a number.
    """
    if left is None or right is None or "N" not in left or "N" not in right:
        raise ValidationError("An operand in the update expression has an incorrect data type")
    return {"N": added(left["N"], right["N"], sign)}


def updated(parsed: Update, item: Item, bound: Bindings, key_attributes: dict[str, str]) -> tuple[Item, list[Path]]:
    """Apply an update expression and return the new item with the paths it touched.

    Every right-hand side sees the item as it was before the update. ``item`` itself is not changed.

    Raises:
        ValidationError: it touches a key, overlaps itself, or a path or type does not fit the item.
    """
    actions = [(action, bound.path(action.path)) for action in parsed.actions]
    paths = [path for _, path in actions]
    for path in paths:
        if path[0] in key_attributes:
            raise ValidationError(
                f"One or more parameter values were invalid: Cannot update attribute {path[0]}. "
                "This attribute is part of the key"
            )
    for at, path in enumerate(paths):
        for other in paths[:at]:
            shorter = min(len(path), len(other))
            if path[:shorter] == other[:shorter]:
                raise ValidationError(
                    "Invalid UpdateExpression: Two document paths overlap with each other; must remove or rewrite one "
                    f"of these paths; path one: {list(other)}, path two: {list(path)}"
                )
    results = [
        (action.clause, path, action.operand(item, bound) if action.operand else None) for action, path in actions
    ]
    new: Item = copy_of(item)
    assigned: list[tuple[Path, Value]] = []
    removed: list[Path] = []
    for clause, path, value in results:
        outcome = _outcome(clause, resolve(item, path), value)
        if outcome is None:
            removed.append(path)
        else:
            assigned.append((path, copy_of(outcome)))
    # Appends past the end of a list keep the order of their indexes; removals count from the list's old positions, so
    # the last goes first.
    for path, outcome in sorted(assigned, key=_list_position):
        _assign(new, path, outcome)
    for path in sorted(removed, key=lambda path: _list_position((path, {})), reverse=True):
        _remove(new, path)
    return new, paths


def _list_position(assigned: tuple[Path, Value]) -> int:
    last = assigned[0][-1]
    return last if isinstance(last, int) else -1


def _outcome(clause: str, before: Value | None, value: Value | None) -> Value | None:
    """Return what an action leaves at its path; ``None`` for nothing."""
    if clause == "REMOVE":
        return None
    assert value is not None
    if clause == "SET":
        return value
    tag = kind(value)
    if clause == "ADD" and tag == "N":
        if before is not None and "N" not in before:
            raise ValidationError("An operand in the update expression has an incorrect data type")
        return {"N": added(before["N"] if before else "0", value["N"])}
    if tag not in ("SS", "NS", "BS"):
        raise ValidationError(
            f"Invalid UpdateExpression: Incorrect operand type for operator or function; operator: {clause}, "
            f"operand type: {tag}"
        )
    if before is not None and tag not in before:
        raise ValidationError("An operand in the update expression has an incorrect data type")
    old: list[str] = before[tag] if before else []
    if clause == "ADD":
        return {tag: [*old, *(member for member in value[tag] if member not in old)]}
    rest = [member for member in old if member not in value[tag]]
    return {tag: rest} if rest else None


def _parent(item: Item, path: Path) -> Any:
    parent = resolve(item, path[:-1]) if len(path) > 1 else {"M": item}
    content = parent.get("M" if isinstance(path[-1], str) else "L") if parent else None
    if content is None:
        raise ValidationError("The document path provided in the update expression is invalid for update")
    return content


def _assign(item: Item, path: Path, value: Value) -> None:
    parent, last = _parent(item, path), path[-1]
    if isinstance(last, int) and last >= len(parent):
        parent.append(value)
    else:
        parent[last] = value


def _remove(item: Item, path: Path) -> None:
    parent, last = _parent(item, path), path[-1]
    if isinstance(last, str):
        parent.pop(last, None)
    elif last < len(parent):
        del parent[last]
