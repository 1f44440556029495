"""Conditions, filters and key conditions of DynamoDB."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

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
from worker_space_local.dynamodb_values import Item, ValidationError, Value, compared, equal, kind, size_function

Test: TypeAlias = Callable[[Item, Bindings], bool]
_FUNCTIONS = {
    "attribute_exists": 1,
    "attribute_not_exists": 1,
    "attribute_type": 2,
    "begins_with": 2,
    "contains": 2,
}


@dataclass(kw_only=True)
class Condition(Parsed):
    """A condition or filter expression."""

    test: Test
    paths: list[Path]


@dataclass(kw_only=True)
class KeyCondition(Parsed):
    """A key condition: clauses of (path, operator, value placeholders)."""

    clauses: list[tuple[Path, str, list[str]]]


def _size_operand(path: Path) -> Operand:
    def size(item: Item, bound: Bindings) -> Value | None:
        value = resolve(item, bound.path(path))
        found = None if value is None else size_function(value)
        return None if found is None else {"N": str(found)}

    return size


def _condition_operand(reader: Reader) -> Operand:
    if reader.peek().startswith(":"):
        return value_operand(reader.value())
    if reader.peek() == "size" and reader.peek(1) == "(":
        reader.at += 2
        path = reader.path()
        reader.expect(")")
        return _size_operand(path)
    return path_operand(reader.path())


_ORDERS: dict[str, Callable[[int], bool]] = {
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}


def _comparison(left: Operand, operator: str, right: Operand) -> Test:
    def test(item: Item, bound: Bindings) -> bool:
        a, b = left(item, bound), right(item, bound)
        if operator == "<>":
            return a is None or b is None or not equal(a, b)
        if a is None or b is None:
            return False
        if operator == "=":
            return equal(a, b)
        order = compared(a, b)
        return order is not None and _ORDERS[operator](order)

    return test


def _between(value: Operand, low: Operand, high: Operand) -> Test:
    above, below = _comparison(value, ">=", low), _comparison(value, "<=", high)
    return lambda item, bound: above(item, bound) and below(item, bound)


def _one_of(value: Operand, choices: list[Operand]) -> Test:
    tests = [_comparison(value, "=", choice) for choice in choices]
    return lambda item, bound: any(test(item, bound) for test in tests)


def _contains(whole: Value, part: Value) -> bool:
    tag = kind(whole)
    if tag == "L":
        return any(equal(member, part) for member in whole["L"])
    if tag in ("SS", "NS", "BS"):
        return kind(part) == tag[0] and part[tag[0]] in whole[tag]
    return tag in ("S", "B") and kind(part) == tag and part[tag] in whole[tag]


def _function(name: str, path: Path, argument: Operand | None) -> Test:
    def test(item: Item, bound: Bindings) -> bool:
        found = resolve(item, bound.path(path))
        if argument is None:
            return (found is not None) == (name == "attribute_exists")
        given = argument(item, bound)
        if found is None or given is None:
            return False
        if name == "attribute_type":
            return kind(found) == given.get("S")
        if name == "contains":
            return _contains(found, given)
        tag = kind(given)
        if tag not in ("S", "B"):
            raise ValidationError(
                f"Incorrect operand type for operator or function; operator: begins_with, type: {tag}"
            )
        return kind(found) == tag and str(found[tag]).startswith(given[tag])

    return test


def _primary(reader: Reader) -> Test:
    if reader.peek() == "(":
        reader.take()
        test = _either(reader)
        reader.expect(")")
        return test
    name = reader.peek()
    if name in _FUNCTIONS and reader.peek(1) == "(":
        reader.at += 2
        path = reader.path()
        argument = None
        if _FUNCTIONS[name] == 2:
            reader.expect(",")
            argument = _condition_operand(reader)
        reader.expect(")")
        return _function(name, path, argument)
    left = _condition_operand(reader)
    if reader.word("BETWEEN"):
        low = _condition_operand(reader)
        if not reader.word("AND"):
            reader.fail()
        return _between(left, low, _condition_operand(reader))
    if reader.word("IN"):
        reader.expect("(")
        choices = [_condition_operand(reader)]
        while reader.peek() == ",":
            reader.take()
            choices.append(_condition_operand(reader))
        reader.expect(")")
        return _one_of(left, choices)
    operator = reader.take()
    if operator not in ("=", "<>", *_ORDERS):
        reader.at -= 1
        reader.fail()
    return _comparison(left, operator, _condition_operand(reader))


def _negation(reader: Reader) -> Test:
    if reader.word("NOT"):
        inner = _negation(reader)
        return lambda item, bound: not inner(item, bound)
    return _primary(reader)


def _both(reader: Reader) -> Test:
    tests = [_negation(reader)]
    while reader.word("AND"):
        tests.append(_negation(reader))
    return tests[0] if len(tests) == 1 else lambda item, bound: all(test(item, bound) for test in tests)


def _either(reader: Reader) -> Test:
    tests = [_both(reader)]
    while reader.word("OR"):
        tests.append(_both(reader))
    return tests[0] if len(tests) == 1 else lambda item, bound: any(test(item, bound) for test in tests)


@functools.lru_cache(maxsize=1024)
def condition(text: str, what: str = "ConditionExpression") -> Condition:
    """Parse a condition or filter expression.

    Raises:
        ValidationError: the text is not a condition, or uses a reserved word as a bare name.
    """
    reader = Reader(what, text)
    test = _either(reader)
    reader.end()
    return Condition(test=test, paths=reader.paths, names=reader.names, values=reader.values)


def _key_clause(reader: Reader) -> tuple[Path, str, list[str]]:
    if reader.peek() == "(":
        reader.take()
        clause = _key_clause(reader)
        reader.expect(")")
        return clause
    if reader.peek() == "begins_with" and reader.peek(1) == "(":
        reader.at += 2
        path = reader.path()
        reader.expect(",")
        value = reader.value()
        reader.expect(")")
        return path, "begins_with", [value]
    path = reader.path()
    if reader.word("BETWEEN"):
        low = reader.value()
        if not reader.word("AND"):
            reader.fail()
        return path, "BETWEEN", [low, reader.value()]
    operator = reader.take()
    if operator not in ("=", *_ORDERS):
        raise ValidationError(f"Invalid operator used in KeyConditionExpression: {operator}")
    return path, operator, [reader.value()]


@functools.lru_cache(maxsize=1024)
def key_condition(text: str) -> KeyCondition:
    """Parse a key condition expression.

    Raises:
        ValidationError: the text is not one or two clauses joined by AND.
    """
    reader = Reader("KeyConditionExpression", text)
    clauses = [_key_clause(reader)]
    while reader.word("AND"):
        clauses.append(_key_clause(reader))
    reader.end()
    return KeyCondition(clauses=clauses, names=reader.names, values=reader.values)
