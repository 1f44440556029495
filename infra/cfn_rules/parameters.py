"""What a person is asked at a deployment: told what it is for, and kept from what cannot work."""

from cfnlint.rules._rule import CloudFormationLintRule, RuleMatch
from cfnlint.template.template import Template

from infra.cfn_rules._templates import Found

_CONSTRAINTS = {"AllowedPattern", "AllowedValues", "MinValue", "MaxValue", "MinLength", "MaxLength"}


class ParametersAreExplained(CloudFormationLintRule):
    """Each parameter has a description, a type and a constraint."""

    id = "E9501"
    shortdesc = "Parameters have a description and a constraint"
    description = "A deployment that fails after ten minutes should have been refused at its first."
    tags = ["worker-space", "parameters"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        found = []
        for name, parameter in (cfn.template.get("Parameters") or {}).items():
            lacking = [key for key in ("Type", "Description") if not str(parameter.get(key, "")).strip()]
            # AWS's own types, such as an SNS topic's name, are checked by CloudFormation.
            if not _CONSTRAINTS & set(parameter) and not str(parameter.get("Type", "")).startswith("AWS::"):
                lacking.append("a constraint")
            if lacking:
                found.append(RuleMatch(["Parameters", name], f"{name} lacks {' and '.join(lacking)}"))
        return found
