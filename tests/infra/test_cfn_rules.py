"""Our cfn-lint rules: each finds what it is for in a small template, and nothing in the template beside it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cfnlint.decode.cfn_yaml
import pytest
import yaml
from cfnlint.rules._rule import CloudFormationLintRule
from cfnlint.template.template import Template

from infra.cfn_rules.functions import (
    EnvironmentIsTheSettings,
    FailuresGoSomewhere,
    FunctionsAreServerless,
    LimitsAreLambdas,
    LogsAreKeptForATime,
)
from infra.cfn_rules.parameters import ParametersAreExplained
from infra.cfn_rules.policies import GrantsNameTheirActions, GrantsNameTheirResources
from infra.cfn_rules.queues import QueuesAreEncrypted, QueuesGiveUpSomewhere
from infra.cfn_rules.storage import DataIsRecoverable, DataIsRetained
from worker_space.settings import variables_of

ROOT = Path(__file__).parents[2]
RULES = [
    LogsAreKeptForATime,
    LimitsAreLambdas,
    EnvironmentIsTheSettings,
    FailuresGoSomewhere,
    FunctionsAreServerless,
    QueuesGiveUpSomewhere,
    QueuesAreEncrypted,
    DataIsRetained,
    DataIsRecoverable,
    GrantsNameTheirActions,
    GrantsNameTheirResources,
    ParametersAreExplained,
]


def found(rule: type[CloudFormationLintRule], template: dict[str, Any] | str, folder: Path) -> list[str]:
    text = template if isinstance(template, str) else yaml.safe_dump(template, sort_keys=False)
    file = folder / "template.yaml"
    file.write_text(text, "utf-8")
    content = cfnlint.decode.cfn_yaml.load(str(file))  # type: ignore[no-untyped-call]
    cfn = Template(str(file), content, ["eu-central-1"])
    return [match.message for match in rule().match(cfn)]


def resource(kind: str, properties: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"Resources": {"It": {"Type": kind, "Properties": properties or {}, **more}}}


def function(**properties: Any) -> dict[str, Any]:
    logs = {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": 30}}
    made = {
        "CodeUri": "functions/cleanup",
        "Timeout": 60,
        "MemorySize": 512,
        "LoggingConfig": {"LogGroup": {"Ref": "Logs"}},
        "Environment": {"Variables": dict.fromkeys(variables_of("cleanup"), "x")},
        "EventInvokeConfig": {"DestinationConfig": {"OnFailure": {"Type": "SQS", "Destination": "arn"}}},
    } | properties
    made = {key: value for key, value in made.items() if value is not None}
    return {"Resources": {"It": {"Type": "AWS::Serverless::Function", "Properties": made}, "Logs": logs}}


def policy(**statement: Any) -> dict[str, Any]:
    made = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::it/*"} | statement
    return resource("AWS::IAM::ManagedPolicy", {"PolicyDocument": {"Statement": [made]}})


TABLE = {
    "DeletionProtectionEnabled": True,
    "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    "SSESpecification": {"SSEEnabled": True},
}
BUCKET = {
    "VersioningConfiguration": {"Status": "Enabled"},
    "PublicAccessBlockConfiguration": {
        "BlockPublicAcls": True,
        "BlockPublicPolicy": True,
        "IgnorePublicAcls": True,
        "RestrictPublicBuckets": True,
    },
}
KEPT = {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"}
QUEUE = {"SqsManagedSseEnabled": True, "RedrivePolicy": {"maxReceiveCount": 10}}
PARAMETER = {"Parameters": {"It": {"Type": "String", "AllowedPattern": "a+", "Description": "What it is."}}}

SOUND: list[dict[str, Any]] = [
    function(),
    function(Timeout={"Ref": "T"})
    | {"Parameters": {"T": {"Type": "Number", "MinValue": 30, "MaxValue": 900, "Description": "How long."}}},
    function(EventInvokeConfig=None, Events={"E": {"Type": "HttpApi"}, "F": {"Type": "SQS"}}),
    resource("AWS::SQS::Queue", QUEUE),
    resource("AWS::SQS::Queue", {"KmsMasterKeyId": "key"}, Metadata={"NoRedrive": "It is the end."}),
    resource("AWS::DynamoDB::Table", TABLE, **KEPT),
    resource("AWS::S3::Bucket", BUCKET, **KEPT),
    policy(),
    policy(Effect="Deny", Action="s3:*", Resource="*", Principal="*"),
    PARAMETER,
    {"Parameters": {"It": {"Type": "AWS::SSM::Parameter::Name", "Description": "Checked by AWS."}}},
]


@pytest.mark.parametrize("rule", RULES)
def test_a_sound_template_passes(rule: type[CloudFormationLintRule], tmp_path: Path) -> None:
    assert [message for template in SOUND for message in found(rule, template, tmp_path)] == []


def without(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


VIOLATIONS: list[tuple[type[CloudFormationLintRule], dict[str, Any], str]] = [
    (LogsAreKeptForATime, function(LoggingConfig={"LogFormat": "JSON"}), "no log group"),
    (LogsAreKeptForATime, function(LoggingConfig={"LogGroup": "/aws/lambda/it"}), "no log group"),
    (LogsAreKeptForATime, resource("AWS::Logs::LogGroup"), "for ever"),
    (
        LogsAreKeptForATime,
        {"Resources": function()["Resources"] | {"Other": function()["Resources"]["It"]}},
        "shares the log group of It",
    ),
    (LimitsAreLambdas, function(Timeout=5000), "Timeout 5000 is outside of 1 to 900"),
    (LimitsAreLambdas, function(Timeout=0), "outside"),
    (LimitsAreLambdas, function(MemorySize=64), "MemorySize 64 is outside"),
    (LimitsAreLambdas, function(Timeout={"Ref": "T"}), "must be a parameter with MinValue and MaxValue"),
    (
        LimitsAreLambdas,
        function(Timeout={"Ref": "T"}) | {"Parameters": {"T": {"Type": "Number", "MinValue": 1, "MaxValue": 901}}},
        "must be a parameter with MinValue and MaxValue",
    ),
    (LimitsAreLambdas, resource("AWS::Serverless::Function"), "MemorySize is not set"),
    (
        EnvironmentIsTheSettings,
        function(Environment={"Variables": dict.fromkeys(variables_of("cleanup") | {"WORKER_SPACE_TABEL"}, "x")}),
        "sets, for nobody, WORKER_SPACE_TABEL",
    ),
    (
        EnvironmentIsTheSettings,
        function(Environment={"Variables": dict.fromkeys(variables_of("cleanup") - {"WORKER_SPACE_TABLE"}, "x")}),
        "lacks WORKER_SPACE_TABLE",
    ),
    (
        EnvironmentIsTheSettings,
        function(Environment={"Variables": dict.fromkeys(variables_of("cleanup") | {"OPENAI_API_KEY"}, "x")}),
        "sets, for nobody, OPENAI_API_KEY",
    ),
    (EnvironmentIsTheSettings, function(CodeUri="functions/api"), "lacks JWT_AUDIENCE"),
    (FailuresGoSomewhere, function(EventInvokeConfig={"MaximumRetryAttempts": 0}), "no failure destination"),
    (
        FailuresGoSomewhere,
        function(EventInvokeConfig={}, Events={"E": {"Type": "ScheduleV2"}, "F": {"Type": "HttpApi"}}),
        "no failure destination",
    ),
    (FunctionsAreServerless, resource("AWS::Lambda::Function"), "our rules look there"),
    (QueuesGiveUpSomewhere, resource("AWS::SQS::Queue", without(QUEUE, "RedrivePolicy")), "no RedrivePolicy"),
    (QueuesAreEncrypted, resource("AWS::SQS::Queue", QUEUE | {"SqsManagedSseEnabled": False}), "not encrypted"),
    (DataIsRetained, resource("AWS::DynamoDB::Table", TABLE, DeletionPolicy="Retain"), "UpdateReplacePolicy"),
    (DataIsRetained, resource("AWS::S3::Bucket", BUCKET, **KEPT | {"DeletionPolicy": "Delete"}), "DeletionPolicy"),
    *((DataIsRecoverable, resource("AWS::DynamoDB::Table", without(TABLE, key), **KEPT), key) for key in TABLE),
    *((DataIsRecoverable, resource("AWS::S3::Bucket", without(BUCKET, key), **KEPT), key) for key in BUCKET),
    (GrantsNameTheirActions, policy(Action=["s3:GetObject", "s3:Put*"]), r"allows s3:Put\*"),
    (GrantsNameTheirActions, policy(Action="*"), r"allows \*"),
    (GrantsNameTheirActions, policy(NotAction="s3:GetObject"), "all but some"),
    (GrantsNameTheirActions, policy(Principal={"AWS": ["*"]}), "anybody"),
    (
        GrantsNameTheirActions,
        function(Policies=[{"Statement": {"Effect": "Allow", "Action": "sqs:*", "Resource": "arn"}}]),
        r"It allows sqs:\*",
    ),
    (GrantsNameTheirResources, policy(Resource=["arn", "*"]), "no comment says why"),
    *(
        (ParametersAreExplained, {"Parameters": {"It": without(PARAMETER["Parameters"]["It"], key)}}, lacking)
        for key, lacking in (("Type", "Type"), ("Description", "Description"), ("AllowedPattern", "a constraint"))
    ),
]


@pytest.mark.parametrize(("rule", "template", "complaint"), VIOLATIONS, ids=lambda value: getattr(value, "id", None))
def test_a_violation_is_found(
    rule: type[CloudFormationLintRule], template: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        raise AssertionError(" · ".join(found(rule, template, tmp_path)))


def test_a_resource_wildcard_with_its_reason_beside_it_passes(tmp_path: Path) -> None:
    text = """
Resources:
  It:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      PolicyDocument:
        Statement:
          - Sid: Find
            Effect: Allow
            # AWS knows no resource for this one.
            Action: lambda:ListEventSourceMappings
            Resource: "*"
          - Sid: Other
            Effect: Allow
            Action: lambda:ListFunctions
            Resource: "*"
"""
    assert found(GrantsNameTheirResources, text, tmp_path) == [
        "It allows it on every resource, and no comment says why"
    ]
    assert found(GrantsNameTheirResources, text[: text.index("          - Sid: Other")], tmp_path) == []


def test_what_globals_say_is_seen(tmp_path: Path) -> None:
    template = function() | {"Globals": {"Function": {"Timeout": 5000}}}
    assert found(LimitsAreLambdas, template, tmp_path) == []
    del template["Resources"]["It"]["Properties"]["Timeout"]
    assert found(LimitsAreLambdas, template, tmp_path) == ["It: Timeout 5000 is outside of 1 to 900"]


def test_every_rule_is_tried_here_and_has_a_number_of_its_own() -> None:
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids)
    assert {rule for rule, _, _ in VIOLATIONS} == set(RULES)
    written = "".join(path.read_text("utf-8") for path in (ROOT / "infra/cfn_rules").glob("[a-z]*.py"))
    assert written.count("(CloudFormationLintRule)") == len(RULES)


def test_the_linter_loads_them_and_refuses(tmp_path: Path) -> None:
    source = (ROOT / "infra/messaging.yaml").read_text("utf-8")
    assert "SqsManagedSseEnabled: true" in source
    broken = tmp_path / "broken.yaml"
    broken.write_text(source.replace("SqsManagedSseEnabled: true", "SqsManagedSseEnabled: false"), "utf-8")
    linter = Path(sys.executable).with_name("cfn-lint")
    command = [str(linter), "--append-rules", str(ROOT / "infra/cfn_rules"), "--", str(broken)]
    linted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert linted.returncode != 0
    assert "E9202" in linted.stdout
