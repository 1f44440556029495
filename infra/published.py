"""What CloudFormation would make of the template, by AWS's own translator: `.venv-sam/bin/python infra/published.py`.

SnapStart and immutable versions are worth something only if every caller goes through the alias, and if the alias gets
a new version when something changes. Both are the translator's doing, so both are asked of it.
"""

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

# The sam command's own packages; they are in no other environment.
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

ROOT = Path(__file__).resolve().parent.parent
ALIAS = "live"
_CALLERS = ("AWS::Lambda::EventSourceMapping", "AWS::Scheduler::Schedule", "AWS::ApiGatewayV2::Api")
_FUNCTION, _LAYER = "AWS::Serverless::Function", "AWS::Serverless::LayerVersion"


def packaged(template: dict[str, Any], changed: str = "") -> dict[str, Any]:
    """The template as after `sam package`: places in S3 instead of folders; `changed` names what has new contents."""
    made = copy.deepcopy(template)
    for name, resource in made["Resources"].items():
        address = f"s3://packages/{name}-{'new' if name == changed else 'old'}"
        if resource["Type"] == _FUNCTION:
            resource["Properties"]["CodeUri"] = address
        elif resource["Type"] == _LAYER:
            resource["Properties"]["ContentUri"] = address
        elif resource["Type"] == "AWS::Serverless::Application":
            resource["Properties"]["Location"] = "https://s3.amazonaws.com/packages/nested.yaml"
    return made


def translated(template: dict[str, Any]) -> dict[str, Any]:
    """The resources that CloudFormation gets, by their logical ids."""
    required = {name: "value" for name, made in template["Parameters"].items() if "Default" not in made}
    translator = Translator({}, Parser())
    resources: dict[str, Any] = translator.translate(copy.deepcopy(template), required)["Resources"]
    # To nobody; unasked, it complains at its end.
    translator.metrics.publish()
    return resources


def versions(resources: dict[str, Any]) -> dict[str, str]:
    """The logical id of the version that each function's alias points to, by the function's."""
    return {
        made["Properties"]["FunctionName"]["Ref"]: made["Properties"]["FunctionVersion"]["Fn::GetAtt"][0]
        for made in resources.values()
        if made["Type"] == "AWS::Lambda::Alias" and made["Properties"]["Name"] == ALIAS
    }


def problems(template: dict[str, Any]) -> list[str]:
    """One sentence for each way in which a caller would meet something else than what was deployed."""
    functions = {name for name, made in template["Resources"].items() if made["Type"] == _FUNCTION}
    layers = {name for name, made in template["Resources"].items() if made["Type"] == _LAYER}
    resources = translated(packaged(template))
    before = versions(resources)
    found = [f"{name} is not published as {ALIAS}" for name in sorted(functions - set(before))]
    for changed in sorted(functions | layers):
        after = versions(translated(packaged(template, changed)))
        behind = [name for name in sorted(before) if after[name] == before[name]]
        if changed in functions:
            behind = [name for name in behind if name == changed]
        found += [f"{name} would not be published anew when {changed} changes" for name in behind]
    cors = resources["HttpApi"]["Properties"]["Body"].get("x-amazon-apigateway-cors", {})
    if not {"allowOrigins", "allowHeaders", "allowMethods", "exposeHeaders"} <= set(cors):
        found.append(f"HttpApi tells browsers {sorted(cors)} only")
    for name, made in resources.items():
        for place in _unqualified(made, functions):
            found.append(f"{name} goes past the alias of {place}")
    return found


def _unqualified(resource: dict[str, Any], functions: set[str]) -> list[str]:
    """The functions that a caller (a mapping, a schedule, a route) names without the alias."""
    if resource["Type"] not in (
        "AWS::Lambda::EventSourceMapping",
        "AWS::Scheduler::Schedule",
        "AWS::ApiGatewayV2::Api",
    ):
        return []
    text = json.dumps(resource["Properties"])
    return [
        name
        for name in sorted(functions)
        if f'{{"Ref": "{name}"}}' in text or f'["{name}", "Arn"]' in text or f"${{{name}.Arn}}" in text
    ]


def main() -> int:
    """Say what is wrong, if anything, and end with status 1 then."""
    # The translator names managed policies of a region, without asking anybody in it.
    os.environ.setdefault("AWS_DEFAULT_REGION", "eu-central-1")
    found = problems(yaml_parse((ROOT / "template.yaml").read_text("utf-8")))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if not found:
        print(f"   every change reaches the alias {ALIAS}, and every caller goes through it")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
