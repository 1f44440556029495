"""The reader of DynamoDB expressions: tokens, document paths, placeholders, and what they are bound to.

Parsed expressions are cached by their text, as programs send the same few again and again; they are evaluated against
an item and one request's names and values.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TypeAlias

from worker_space_local.dynamodb_values import Item, ValidationError, Value

Path: TypeAlias = tuple[str | int, ...]
_TOKEN = re.compile(r"\s*(?:([#:][A-Za-z0-9_]+|[A-Za-z_][A-Za-z0-9_]*)|(\d+)|(<>|<=|>=|[=<>(),.\[\]+\-]))")


@dataclass(frozen=True, kw_only=True)
class Bindings:
    """The names and values one request binds to ``#name`` and ``:value``."""

    names: Mapping[str, str]
    values: Mapping[str, Value]

    def path(self, path: Path) -> Path:
        """Replace every ``#name`` of a path by the attribute's name."""
        return tuple(self.names[step] if isinstance(step, str) and step[0] == "#" else step for step in path)


Operand: TypeAlias = Callable[[Item, Bindings], Value | None]


@functools.cache
def _reserved() -> frozenset[str]:
    return frozenset(files("worker_space_local").joinpath("reserved_words.txt").read_text().split())


def resolve(item: Item, path: Path) -> Value | None:
    """Return the value at a document path, or ``None`` when there is nothing."""
    current: Value | None = {"M": item}
    for step in path:
        content = current.get("M" if isinstance(step, str) else "L") if current else None
        if content is None:
            return None
        if isinstance(step, int) and step >= len(content):
            return None
        current = content.get(step) if isinstance(step, str) else content[step]
    return current


@dataclass(kw_only=True)
class Parsed:
    """What every parsed expression knows: the placeholders it uses."""

    names: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)


class Reader:
    """A cursor over the tokens of one expression."""

    def __init__(self, what: str, text: str) -> None:
        self.what = what
        self.names: set[str] = set()
        self.values: set[str] = set()
        self.paths: list[Path] = []
        self.tokens: list[str] = []
        if not text.strip():
            raise ValidationError(f"Invalid {what}: The expression can not be empty;")
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValidationError(f'Invalid {what}: Syntax error; token: "{text[at : at + 8].strip()}"')
            self.tokens.append(match.group().strip())
            at = match.end()
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        """Return a token without taking it; empty at the end."""
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self) -> str:
        """Take the next token."""
        token = self.peek()
        self.at += 1
        return token

    def word(self, *words: str) -> bool:
        """Take the next token if it is one of these keywords (any case)."""
        if self.peek().upper() in words:
            self.at += 1
            return True
        return False

    def expect(self, token: str) -> None:
        """Take this very token."""
        if self.take() != token:
            self.at -= 1
            self.fail()

    def fail(self) -> None:
        """Refuse the expression at the next token."""
        near = " ".join(self.tokens[max(0, self.at - 1) : self.at + 2])
        raise ValidationError(f'Invalid {self.what}: Syntax error; token: "{self.peek() or "<EOF>"}", near: "{near}"')

    def end(self) -> None:
        """Refuse whatever is left."""
        if self.peek():
            self.fail()

    def path(self) -> Path:
        """Take a document path."""
        steps: list[str | int] = [self.attribute()]
        while self.peek() in (".", "["):
            if self.take() == ".":
                steps.append(self.attribute())
            else:
                index = self.take()
                if not index.isdigit():
                    self.at -= 1
                    self.fail()
                steps.append(int(index))
                self.expect("]")
        path = tuple(steps)
        self.paths.append(path)
        return path

    def attribute(self) -> str:
        """Take one attribute name or ``#name``."""
        name = self.take()
        if not name or not (name[0].isalpha() or name[0] in "_#"):
            self.at -= 1
            self.fail()
        if name[0] == "#":
            self.names.add(name)
        elif name.upper() in _reserved():
            raise ValidationError(
                f"Invalid {self.what}: Attribute name is a reserved keyword; reserved keyword: {name}"
            )
        return name

    def value(self) -> str:
        """Take one ``:value``."""
        name = self.take()
        if not name.startswith(":"):
            self.at -= 1
            self.fail()
        self.values.add(name)
        return name


def value_operand(name: str) -> Operand:
    """Evaluate to the value bound to ``:name``."""
    return lambda _item, bound: bound.values[name]


def path_operand(path: Path) -> Operand:
    """Evaluate to what the item has at a path."""
    return lambda item, bound: resolve(item, bound.path(path))


def bind(names: Mapping[str, str] | None, values: Mapping[str, Value] | None, used: Sequence[Parsed]) -> Bindings:
    """Bind a request's names and values to its parsed expressions.

    Raises:
        ValidationError: an expression uses a placeholder that is not given, or one is given that none uses.
    """
    needed_names: set[str] = set().union(*(parsed.names for parsed in used))
    needed_values: set[str] = set().union(*(parsed.values for parsed in used))
    given_names, given_values = names or {}, values or {}
    for kind_of, needed, given in (
        ("Names", needed_names, set(given_names)),
        ("Values", needed_values, set(given_values)),
    ):
        if missing := sorted(needed - given):
            what = "name" if kind_of == "Names" else "value"
            raise ValidationError(
                f"An expression attribute {what} used in expression is not defined; attribute {what}: {missing[0]}"
            )
        if unused := sorted(given - needed):
            raise ValidationError(
                f"Value provided in ExpressionAttribute{kind_of} unused in expressions: keys: {{{', '.join(unused)}}}"
            )
    return Bindings(names=given_names, values=given_values)
