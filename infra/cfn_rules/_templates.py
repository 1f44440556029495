"""How our rules read a template: a function with what `Globals` give it, and places for their findings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cfnlint.rules._rule import RuleMatch
from cfnlint.template.template import Template

__all__ = ["FUNCTION", "Found", "functions", "listed", "resources", "statements"]

FUNCTION = "AWS::Serverless::Function"

Found = list[RuleMatch]
"""What a rule finds: each with its place in the template and one sentence."""


def resources(cfn: Template, *types: str) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """The name, the resource and its properties, for each resource of these types."""
    for name, resource in cfn.get_resources(list(types)).items():
        yield name, resource, resource.get("Properties") or {}


def functions(cfn: Template) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The name and the properties of each function, `Globals` merged in as AWS SAM does."""
    shared = (cfn.template.get("Globals") or {}).get("Function") or {}
    for name, _, own in resources(cfn, FUNCTION):
        yield name, _merged(shared, own)


def statements(cfn: Template) -> Iterator[tuple[str, Sequence[str | int], Mapping[str, Any]]]:
    """Each IAM statement anywhere in a resource: the resource's name, the statement's place, the statement."""
    for name, resource in cfn.get_resources().items():
        for path, document in _documents(resource, ["Resources", name]):
            found = document["Statement"]
            for index, statement in enumerate(listed(found)):
                if isinstance(statement, Mapping):
                    yield name, [*path, "Statement", *([index] if isinstance(found, list) else [])], statement


def listed(value: Any) -> list[Any]:
    """A list, also of what may be written as a single value."""
    return list(value) if isinstance(value, list) else [value]


def _documents(value: Any, path: list[str | int]) -> Iterator[tuple[list[str | int], Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if "Statement" in value:
            yield path, value
        for key, below in value.items():
            yield from _documents(below, [*path, key])
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _documents(below, [*path, index])


def _merged(shared: Any, own: Any) -> Any:
    if isinstance(shared, Mapping) and isinstance(own, Mapping):
        return {key: _merged(shared.get(key), own.get(key)) for key in {**shared, **own}}
    if isinstance(shared, list) and isinstance(own, list):
        return [*shared, *own]
    return shared if own is None else own
