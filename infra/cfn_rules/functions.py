"""What every function needs: kept logs, sound limits, its settings, a place for invocations that fail."""

from collections.abc import Mapping
from typing import Any

from cfnlint.rules._rule import CloudFormationLintRule, RuleMatch
from cfnlint.template.template import Template

from infra.cfn_rules._templates import FUNCTION, Found, functions, resources
from worker_space.settings import variables_of

_LIBRARIES = ("AWS_ENDPOINT_URL", "POWERTOOLS_")
"""Beginnings of the variables that libraries read, not `Settings`."""

_WAITED_FOR = {"Api", "HttpApi", "SQS", "DynamoDB", "Kinesis", "MSK", "MQ", "Cognito", "AlexaSkill"}
"""Events whose source waits for the function, or polls and repeats by itself."""


class LogsAreKeptForATime(CloudFormationLintRule):
    """A function writes to a log group of its own, and a log group names how long it keeps."""

    id = "E9101"
    shortdesc = "Logs are kept, but not for ever"
    description = "Without a log group of its own a function's logs are kept for ever, by AWS's default."
    tags = ["worker-space", "logs"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        groups = {name: properties for name, _, properties in resources(cfn, "AWS::Logs::LogGroup")}
        found = [
            RuleMatch(["Resources", name], f"{name} keeps logs for ever: set RetentionInDays")
            for name, properties in groups.items()
            if "RetentionInDays" not in properties
        ]
        taken: dict[str, str] = {}
        for name, properties in functions(cfn):
            place = (properties.get("LoggingConfig") or {}).get("LogGroup")
            group = place.get("Ref") if isinstance(place, Mapping) else None
            if group not in groups:
                found.append(RuleMatch(["Resources", name], f"{name} has no log group of this template"))
            elif group in taken:
                found.append(RuleMatch(["Resources", name], f"{name} shares the log group of {taken[group]}"))
            else:
                taken[group] = name
        return found


class LimitsAreLambdas(CloudFormationLintRule):
    """A function says how long it may run and with how much memory, within what Lambda takes."""

    id = "E9102"
    shortdesc = "Time and memory within Lambda's limits"
    description = "cfn-lint knows the limits, but not of functions in AWS SAM's words and not of parameters."
    tags = ["worker-space", "lambda"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        parameters = cfn.template.get("Parameters") or {}
        found = []
        for name, properties in functions(cfn):
            for key, low, high in (("Timeout", 1, 900), ("MemorySize", 128, 10_240)):
                wrong = _outside(properties.get(key), parameters, low, high)
                if wrong:
                    found.append(RuleMatch(["Resources", name, "Properties"], f"{name}: {key} {wrong}"))
        return found


def _outside(value: Any, parameters: Mapping[str, Any], low: int, high: int) -> str | None:
    if value is None:
        return "is not set, and AWS's own default fits nothing here"
    if isinstance(value, Mapping):
        declared = parameters.get(value.get("Ref") or "") or {}
        if low <= declared.get("MinValue", -1) and declared.get("MaxValue", high + 1) <= high:
            return None
        return f"must be a parameter with MinValue and MaxValue within {low} and {high}"
    return None if low <= value <= high else f"{value} is outside of {low} to {high}"


class EnvironmentIsTheSettings(CloudFormationLintRule):
    """A function gets exactly the variables that `worker_space.settings` reads in it."""

    id = "E9103"
    shortdesc = "A function's environment equals its settings"
    description = "A variable that nothing reads is a setting without effect; a missing one cannot be set at all."
    tags = ["worker-space", "lambda"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        found = []
        for name, properties in functions(cfn):
            folder, _, entry = str(properties.get("CodeUri", "")).rpartition("/")
            if folder != "functions":
                continue
            variables = (properties.get("Environment") or {}).get("Variables") or {}
            given = {variable for variable in variables if not variable.startswith(_LIBRARIES)}
            wanted = variables_of(entry)
            for word, names in (("lacks", wanted - given), ("sets, for nobody,", given - wanted)):
                if names:
                    path: list[str | int] = ["Resources", name, "Properties"]
                    found.append(RuleMatch(path, f"{name} {word} {', '.join(sorted(names))}"))
        return found


class FailuresGoSomewhere(CloudFormationLintRule):
    """What is invoked without anybody waiting leaves a trace when it fails for good."""

    id = "E9104"
    shortdesc = "Asynchronous invocations have a failure destination"
    description = "Lambda drops an asynchronous invocation that failed; nobody would know what was not done."
    tags = ["worker-space", "lambda"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        found = []
        for name, properties in functions(cfn):
            kinds = {event.get("Type") for event in (properties.get("Events") or {}).values()}
            # Without events, it is invoked by code of ours, and then without waiting.
            if kinds and kinds <= _WAITED_FOR and "EventInvokeConfig" not in properties:
                continue
            to = ((properties.get("EventInvokeConfig") or {}).get("DestinationConfig") or {}).get("OnFailure") or {}
            if not to.get("Destination"):
                found.append(RuleMatch(["Resources", name], f"{name} has no failure destination"))
        return found


class FunctionsAreServerless(CloudFormationLintRule):
    """Functions are written in AWS SAM's words, which is where the other rules look."""

    id = "E9105"
    shortdesc = "Functions are AWS::Serverless::Function"
    description = "A plain Lambda function would escape the rules on functions."
    tags = ["worker-space", "lambda"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        return [
            RuleMatch(["Resources", name, "Type"], f"{name} must be an {FUNCTION}: our rules look there")
            for name, _, _ in resources(cfn, "AWS::Lambda::Function")
        ]
