"""What is granted: actions by name, resources by name, and where AWS allows no name, the reason beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfnlint.rules._rule import CloudFormationLintRule, RuleMatch
from cfnlint.template.template import Template

from infra.cfn_rules._templates import Found, listed, statements


class GrantsNameTheirActions(CloudFormationLintRule):
    """No statement allows actions by wildcard, or all but some."""

    id = "E9401"
    shortdesc = "Actions are granted by name"
    description = "A wildcard grants what AWS will invent next year."
    tags = ["worker-space", "iam"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        found = []
        for name, path, statement in statements(cfn):
            if statement.get("Effect") != "Allow":
                continue
            wild = [action for action in listed(statement.get("Action", [])) if "*" in str(action)]
            if wild or "NotAction" in statement or "NotResource" in statement:
                what = ", ".join(map(str, wild)) or "all but some"
                found.append(RuleMatch(list(path), f"{name} allows {what}: name each action and resource"))
            if _anybody(statement.get("Principal")):
                found.append(RuleMatch(list(path), f"{name} allows it to anybody: name the principal"))
        return found


class GrantsNameTheirResources(CloudFormationLintRule):
    """A statement for all resources says in a comment of its own why AWS knows nothing narrower."""

    id = "E9402"
    shortdesc = "Resources are granted by name"
    description = "Some actions know no resource; who reads the policy has to be told which."
    tags = ["worker-space", "iam"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        found = []
        lines: list[str] | None = None
        for name, path, statement in statements(cfn):
            if statement.get("Effect") != "Allow" or "*" not in listed(statement.get("Resource", [])):
                continue
            if lines is None:
                lines = Path(str(cfn.filename)).read_text("utf-8").splitlines()
            block = lines[statement.start_mark.line : statement.end_mark.line]  # type: ignore[attr-defined]
            if not any(line.lstrip().startswith("#") for line in block):
                found.append(RuleMatch(list(path), f"{name} allows it on every resource, and no comment says why"))
        return found


def _anybody(principal: Any) -> bool:
    if isinstance(principal, Mapping):
        return any("*" in listed(value) for value in principal.values())
    return bool(principal == "*")
