"""DynamoDB attribute values in their wire form: validation, numbers, order, equality and size.

A value is the one-entry mapping that travels in requests, such as ``{"S": "text"}`` or ``{"N": "12"}``. Values that
are stored are never changed in place: whoever updates an item works on a copy.
"""

import base64
import binascii
import functools
import marshal
from decimal import Context, Decimal, DecimalException
from typing import Any, TypeAlias

Value: TypeAlias = dict[str, Any]
Item: TypeAlias = dict[str, Value]
KeyValue: TypeAlias = str | Decimal | bytes

MAX_ITEM_BYTES = 400 * 1024
MAX_DEPTH = 32
_NUMBERS = Context(prec=38, Emax=125, Emin=-130, traps=[])
_SCALARS = {"S": str, "N": str, "B": str, "BOOL": bool, "NULL": bool}


class ValidationError(Exception):
    """The request breaks a rule of DynamoDB; answered as ``ValidationException`` with this text."""


def copy_of(item: Any) -> Any:
    """Return a deep copy of an item or value (much faster than ``copy.deepcopy`` for plain data)."""
    return marshal.loads(marshal.dumps(item))  # noqa: S302 - bytes this line made itself


@functools.lru_cache(maxsize=4096)
def number(text: str) -> Decimal:
    """Read a DynamoDB number.

    Raises:
        ValidationError: not a number, or outside 38 digits and 1E-130..9.99E+125.
    """
    try:
        value = Decimal(text)
    except DecimalException as exc:
        raise ValidationError(f"The parameter cannot be converted to a numeric value: {text}") from exc
    if not value.is_finite():
        raise ValidationError(f"The parameter cannot be converted to a numeric value: {text}")
    if value and value.adjusted() > 125:
        raise ValidationError(
            "Number overflow. Attempting to store a number with magnitude larger than supported range"
        )
    if value and value.adjusted() < -130:
        raise ValidationError(
            "Number underflow. Attempting to store a number with magnitude smaller than supported range"
        )
    if len(value.normalize(Context(prec=400)).as_tuple().digits) > 38:
        raise ValidationError("Attempting to store more than 38 significant digits in a Number")
    return value


@functools.lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """Return the spelling under which DynamoDB gives a number back (``1.0`` becomes ``1``)."""
    value = number(text).normalize(_NUMBERS)
    return format(value, "f") if value else "0"


def added(left: str, right: str, sign: int = 1) -> str:
    """Add (or with ``sign=-1`` subtract) two numbers in their text form."""
    total = _NUMBERS.add(number(left), number(right) * sign)
    return canonical(str(total))


def kind(value: Value) -> str:
    """Return the type tag of a value (``S``, ``N``, ``M``, …)."""
    return next(iter(value))


def checked(value: Any, depth: int = 0) -> Value:
    """Validate one incoming value and return it in stored form (numbers canonical).

    Raises:
        ValidationError: wrong shape, empty set, duplicate set members, bad number or base64, or nested deeper than 32.
    """
    if not isinstance(value, dict) or len(value) != 1:
        raise ValidationError("Supplied AttributeValue is empty, must contain exactly one of the supported datatypes")
    tag, content = next(iter(value.items()))
    if depth > MAX_DEPTH:
        raise ValidationError("Nesting Levels have exceeded supported limits")
    if tag == "N" and isinstance(content, str):
        return {"N": canonical(content)}
    if tag == "B" and isinstance(content, str):
        _bytes(content)
        return value
    if tag in _SCALARS and isinstance(content, _SCALARS[tag]):
        return value
    if tag == "M" and isinstance(content, dict):
        return {"M": {name: checked(inner, depth + 1) for name, inner in content.items()}}
    if tag == "L" and isinstance(content, list):
        return {"L": [checked(inner, depth + 1) for inner in content]}
    if tag in ("SS", "NS", "BS") and isinstance(content, list):
        return {tag: _checked_set(tag, content)}
    raise ValidationError(f"Supplied AttributeValue has an unsupported or ill-formed datatype: {tag}")


def _checked_set(tag: str, content: list[Any]) -> list[str]:
    if not content:
        raise ValidationError("One or more parameter values were invalid: An string set  may not be empty")
    if not all(isinstance(member, str) for member in content):
        raise ValidationError(f"Supplied AttributeValue has an ill-formed member in a {tag}")
    members = [canonical(member) for member in content] if tag == "NS" else content
    if len(set(members)) != len(members):
        raise ValidationError(
            "One or more parameter values were invalid: Input collection contains duplicates: " + str(members)
        )
    return members


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValidationError("Supplied AttributeValue holds invalid base64") from exc


def key_value(value: Value) -> KeyValue:
    """Return the Python value by which a key attribute sorts (text by code point, numbers by value, bytes)."""
    tag, content = next(iter(value.items()))
    if tag == "N":
        return number(content)
    return _bytes(content) if tag == "B" else str(content)


def equal(left: Value, right: Value) -> bool:
    """Tell whether two values are the same: same type, sets without order."""
    tag = kind(left)
    if tag != kind(right):
        return False
    a, b = left[tag], right[tag]
    if tag in ("SS", "NS", "BS"):
        return set(a) == set(b)
    if tag == "N":
        return number(a) == number(b)
    if tag == "L":
        return len(a) == len(b) and all(map(equal, a, b))
    if tag == "M":
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    return bool(a == b)


def compared(left: Value, right: Value) -> int | None:
    """Order two values: negative, zero or positive; ``None`` when their types cannot be ordered."""
    tag = kind(left)
    if tag != kind(right) or tag not in ("S", "N", "B"):
        return None
    a: Any = key_value(left)
    b: Any = key_value(right)
    return int(a > b) - int(a < b)


def size_function(value: Value) -> int | None:
    """Evaluate the expression function ``size``; ``None`` for types that have no size."""
    tag, content = next(iter(value.items()))
    if tag == "B":
        return len(_bytes(content))
    return len(content) if tag in ("S", "SS", "NS", "BS", "L", "M") else None


def bytes_of(item: Item) -> int:
    """Return an item's size in bytes as DynamoDB counts it towards 400 KB and the 1 MB page."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Value) -> int:
    tag, content = next(iter(value.items()))
    if tag == "S":
        return len(content) if content.isascii() else len(content.encode())
    if tag == "N":
        return _number_bytes(content)
    if tag == "B":
        return len(content) * 3 // 4
    if tag == "M":
        return 3 + sum(len(name.encode()) + _value_bytes(inner) + 1 for name, inner in content.items())
    if tag == "L":
        return 3 + sum(_value_bytes(inner) + 1 for inner in content)
    if tag == "NS":
        return sum(map(_number_bytes, content))
    if tag in ("SS", "BS"):
        return sum(len(member.encode()) for member in content)
    return 1


def _number_bytes(text: str) -> int:
    return (len(text.strip("-0.").replace(".", "")) + 1) // 2 + 1 + text.startswith("-")
