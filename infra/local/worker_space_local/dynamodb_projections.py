"""Projections of DynamoDB: which parts of an item an answer shows."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker_space_local.dynamodb_reader import Parsed, Path, Reader
from worker_space_local.dynamodb_values import Item, Value, kind


@dataclass(kw_only=True)
class Projection(Parsed):
    """A projection expression."""

    paths: list[Path]


@functools.lru_cache(maxsize=1024)
def projection(text: str) -> Projection:
    """Parse a projection expression.

    Raises:
        ValidationError: the text is not a list of document paths.
    """
    reader = Reader("ProjectionExpression", text)
    paths = [reader.path()]
    while reader.peek() == ",":
        reader.take()
        paths.append(reader.path())
    reader.end()
    return Projection(paths=paths, names=reader.names, values=reader.values)


def project(item: Item, paths: Sequence[Path]) -> Item:
    """Return the parts of an item that a projection names, in their nesting; list members close up."""
    tree: dict[Any, Any] = {}
    for path in paths:
        node = tree
        for step in path[:-1]:
            node = node.setdefault(step, {})
        node[path[-1]] = None
    picked = _picked({"M": item}, tree)
    return {} if picked is None else picked["M"]


def _picked(value: Value, tree: dict[Any, Any] | None) -> Value | None:
    if tree is None:
        return value
    tag = kind(value)
    if tag == "M":
        parts = {
            step: part
            for step, inner in tree.items()
            if isinstance(step, str) and step in value["M"]
            if (part := _picked(value["M"][step], inner)) is not None
        }
        return {"M": parts}
    if tag == "L":
        indexes = sorted(step for step in tree if isinstance(step, int) and step < len(value["L"]))
        return {"L": [part for i in indexes if (part := _picked(value["L"][i], tree[i])) is not None]}
    return None
