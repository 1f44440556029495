"""The functions of ``template.yaml`` as a deployment would have them: their variables, timeout and memory, resolved.

It knows the intrinsic functions that the template uses where a function is described, and refuses every other: what it
gives is what CloudFormation would give, or nothing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[3]
ACCOUNT: Final = "123456789012"
_NAME: Final = re.compile(r"\$\{(!?)([^}]+)\}")
_ABSENT: Final = object()


class TemplateError(Exception):
    """Something in the template cannot be resolved; the message names it."""


@dataclass(frozen=True, kw_only=True)
class DeployedFunction:
    """One function.

    Args:
        id: its name in the template, and of its folder in a build.
        name: its name in the account.
        variables: all that the template sets, and nothing else.
    """

    id: str
    name: str
    handler: str
    runtime: str
    timeout_seconds: int
    memory_mb: int
    variables: Mapping[str, str]


class _Loader(yaml.SafeLoader):
    """Reads ``!Ref X`` as ``{"Ref": "X"}`` and ``!Sub X`` as ``{"Fn::Sub": "X"}``."""


def _intrinsic(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    if isinstance(node, yaml.MappingNode):
        return {name: loader.construct_mapping(node, deep=True)}
    assert isinstance(node, yaml.ScalarNode)
    return {name: node.value}


_Loader.add_multi_constructor("!", _intrinsic)


class Template:
    """A template with everything that is outside it.

    Args:
        path: of the template.
        parameters: values of its parameters; their defaults complete them.
        outputs: what ``GetAtt`` and references to resources give, such as ``Storage.Outputs.TableName``.
        region: of the deployment.

    Raises:
        TemplateError: a parameter is missing, or none of the template's.
    """

    def __init__(
        self,
        path: Path,
        *,
        parameters: Mapping[str, str],
        outputs: Mapping[str, str],
        region: str = "us-east-1",
    ) -> None:
        self._document: dict[str, Any] = yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
        self._outputs = outputs
        declared = self._document.get("Parameters", {})
        if unknown := sorted(set(parameters) - set(declared)):
            raise TemplateError(f"{path.name} has no parameter {', '.join(unknown)}")
        defaults = {name: str(found["Default"]) for name, found in declared.items() if "Default" in found}
        if missing := sorted(set(declared) - set(defaults) - set(parameters)):
            raise TemplateError(f"{path.name} wants values for {', '.join(missing)}")
        self._names = {
            **defaults,
            **parameters,
            "AWS::AccountId": ACCOUNT,
            "AWS::Partition": "aws",
            "AWS::Region": region,
            "AWS::StackName": "worker-space",
            "AWS::URLSuffix": "amazonaws.com",
        }

    def functions(self) -> dict[str, DeployedFunction]:
        """Every function by its name in the template.

        Raises:
            TemplateError: one of its values cannot be resolved.
        """
        return {
            name: self._function(name, resource["Properties"])
            for name, resource in self._document["Resources"].items()
            if resource["Type"] == "AWS::Serverless::Function"
        }

    def resources(self) -> dict[str, dict[str, Any]]:
        """Every resource that a deployment would have, by its name, with all in it resolved.

        Raises:
            TemplateError: one of its values cannot be resolved.
        """
        return {
            name: self._whole(resource)
            for name, resource in self._document["Resources"].items()
            if "Condition" not in resource or self._holds({"Condition": resource["Condition"]})
        }

    def _whole(self, node: Any) -> Any:
        if isinstance(node, list):
            found = [self._whole(each) for each in node]
            return [each for each in found if each is not _ABSENT]
        if not isinstance(node, dict):
            return node
        if len(node) == 1 and next(iter(node)).startswith(("Ref", "Fn::")):
            return self._whole(self._value(node))
        pairs = ((key, self._whole(value)) for key, value in node.items())
        return {key: value for key, value in pairs if value is not _ABSENT}

    def _function(self, name: str, own: Mapping[str, Any]) -> DeployedFunction:
        shared = self._document.get("Globals", {}).get("Function", {})
        properties = {**shared, **own}
        variables = {
            **shared.get("Environment", {}).get("Variables", {}),
            **own.get("Environment", {}).get("Variables", {}),
        }
        try:
            resolved = {key: self._value(value) for key, value in variables.items()}
            return DeployedFunction(
                id=name,
                name=str(self._value(properties.get("FunctionName", name))),
                handler=str(self._value(properties["Handler"])),
                runtime=str(self._value(properties["Runtime"])),
                timeout_seconds=int(self._value(properties["Timeout"])),
                memory_mb=int(self._value(properties["MemorySize"])),
                variables={key: str(value) for key, value in resolved.items() if value is not _ABSENT},
            )
        except TemplateError as error:
            raise TemplateError(f"{name}: {error}") from None

    def _value(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        ((name, given),) = node.items()
        known: dict[str, Callable[[Any], Any]] = {
            "Ref": self._reference,
            "Fn::GetAtt": self._attribute,
            "Fn::Sub": self._substituted,
            "Fn::If": self._chosen,
            "Fn::Join": lambda pair: str(pair[0]).join(str(self._value(part)) for part in pair[1]),
        }
        if name not in known:
            raise TemplateError(f"{name} is not understood here")
        return known[name](given)

    def _reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _ABSENT
        if name in self._names:
            return self._names[name]
        return self._attribute(name)

    def _attribute(self, path: str | list[str]) -> str:
        name = path if isinstance(path, str) else ".".join(path)
        if name not in self._outputs:
            raise TemplateError(f"nothing says what {name} is")
        return self._outputs[name]

    def _substituted(self, given: str | list[Any]) -> str:
        text, extra = (given, {}) if isinstance(given, str) else given

        def value(found: re.Match[str]) -> str:
            literal, name = found.groups()
            if literal:
                return f"${{{name}}}"
            return str(self._value(extra[name]) if name in extra else self._reference(name))

        resolved = _NAME.sub(value, text)
        if "{{resolve:" in resolved:
            raise TemplateError(f"{text!r} wants a secret in a function's configuration")
        return resolved

    def _chosen(self, given: list[Any]) -> Any:
        condition, positive, negative = given
        return self._value(positive if self._holds({"Condition": condition}) else negative)

    def _holds(self, node: Any) -> bool:
        ((name, given),) = node.items()
        match name:
            case "Condition":
                return self._holds(self._document["Conditions"][given])
            case "Fn::Equals":
                return bool(str(self._value(given[0])) == str(self._value(given[1])))
            case "Fn::Not":
                return not self._holds(given[0])
            case "Fn::And":
                return all(self._holds(each) for each in given)
            case "Fn::Or":
                return any(self._holds(each) for each in given)
        raise TemplateError(f"{name} is not understood here")
