"""The words in which the core states a conditional write; `ports.Records` carries them out.

They are the part of DynamoDB's condition and update expressions that the ledger needs, and no more: a memory
adapter evaluates them, the DynamoDB adapter translates them, and one contract suite holds both to the same meaning.
Values are text, whole and decimal numbers, booleans, `None`, lists, maps, and `frozenset`s of text (never empty:
an emptied set's attribute is gone).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker_space.tenancy import Key

__all__ = [
    "All",
    "Any_",
    "AtMost",
    "Check",
    "Condition",
    "Delete",
    "Equals",
    "Exists",
    "Has",
    "Item",
    "Missing",
    "OneOf",
    "Page",
    "Put",
    "SizeAtLeast",
    "SizeBelow",
    "Update",
    "Write",
]

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exists:
    """The item has the attribute (any item has its keys: `Exists("sk")` means that the item is there)."""

    attribute: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The item lacks the attribute, or there is no item."""

    attribute: str


@dataclass(frozen=True, slots=True)
class Equals:
    """The attribute is there and equals the value. `attribute` may index a list: `waiting[0]`."""

    attribute: str
    value: Any


@dataclass(frozen=True, slots=True)
class OneOf:
    """The attribute is there and equals one of the values."""

    attribute: str
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class AtMost:
    """The attribute is there, a number, and not above the value."""

    attribute: str
    value: int


@dataclass(frozen=True, slots=True)
class SizeBelow:
    """The list, set or text is there and has fewer than `limit` members; a text limit names another attribute."""

    attribute: str
    limit: int | str


@dataclass(frozen=True, slots=True)
class SizeAtLeast:
    """The list, set or text is there and has `limit` members or more; a text limit names another attribute."""

    attribute: str
    limit: int | str


@dataclass(frozen=True, slots=True)
class Has:
    """The set or list is there and holds the member."""

    attribute: str
    member: str


@dataclass(frozen=True, slots=True)
class All:
    """Every condition holds."""

    conditions: tuple["Condition", ...]

    def __init__(self, *conditions: "Condition") -> None:
        object.__setattr__(self, "conditions", conditions)


@dataclass(frozen=True, slots=True)
class Any_:
    """At least one condition holds."""

    conditions: tuple["Condition", ...]

    def __init__(self, *conditions: "Condition") -> None:
        object.__setattr__(self, "conditions", conditions)


Condition = Exists | Missing | Equals | OneOf | AtMost | SizeBelow | SizeAtLeast | Has | All | Any_


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Store the whole item in place of what is there."""

    key: Key
    item: Item
    when: Condition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Change attributes of an item, which is made if it is missing (guard with `when` where it must not be).

    Attributes:
        set: Attributes and their new values.
        add: Numbers to add; a missing attribute counts as 0.
        append: Members to add at the end of a list; a missing list is made.
        include: Members to add to a set of text.
        exclude: Members to take out of a set of text.
        remove: Attributes, or single list elements such as `waiting[0]`, to take away.
        when: What must hold of the item as stored before the change.
    """

    key: Key
    set: Item = field(default_factory=dict)
    add: Mapping[str, int] = field(default_factory=dict)
    append: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    include: Mapping[str, frozenset[str]] = field(default_factory=dict)
    exclude: Mapping[str, frozenset[str]] = field(default_factory=dict)
    remove: Sequence[str] = ()
    when: Condition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Take the item away; a missing item is no error unless `when` says so."""

    key: Key
    when: Condition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Change nothing, but let the whole transaction happen only if the condition holds."""

    key: Key
    when: Condition


Write = Put | Update | Delete | Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some items of one partition, in the order of their sort keys.

    Attributes:
        items: The items, each with its sort key under `sk`.
        after: The sort key to go on from, or `None` at the end.
    """

    items: Sequence[Item]
    after: str | None
