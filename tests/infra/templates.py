"""The templates as their tests read them: resources, the functions' variables, and what is granted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = sorted((ROOT / "infra").glob("*.yaml"))
TEMPLATES = [ROOT / "template.yaml", *INFRA]


class _Loader(yaml.SafeLoader):
    """Keeps intrinsic functions in their long form, so that `!Ref X` and `{Ref: X}` compare equal."""


def _intrinsic(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    if isinstance(node, yaml.MappingNode):
        return {name: loader.construct_mapping(node, deep=True)}
    return {name: node.value}


_Loader.add_multi_constructor("!", _intrinsic)


def load(path: Path) -> dict[str, Any]:
    document = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    assert isinstance(document, dict)
    return document


MAIN = load(ROOT / "template.yaml")
FUNCTIONS = {n: r["Properties"] for n, r in MAIN["Resources"].items() if r["Type"] == "AWS::Serverless::Function"}


def variables(function: str) -> dict[str, Any]:
    shared: dict[str, Any] = MAIN["Globals"]["Function"]["Environment"]["Variables"]
    own: dict[str, Any] = FUNCTIONS[function].get("Environment", {}).get("Variables", {})
    return shared | own


def statements(path: Path) -> Iterator[dict[str, Any]]:
    for resource in load(path)["Resources"].values():
        properties = resource.get("Properties", {})
        for holder in (properties, *properties.get("Policies", ())):
            if "PolicyDocument" in holder:
                yield from holder["PolicyDocument"]["Statement"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


GRANTS = [s for s in statements(ROOT / "infra" / "access.yaml") if s["Effect"] == "Allow"]
