"""What keeps people's data: it outlives every stack, and what was overwritten or deleted can be brought back."""

from collections.abc import Mapping
from typing import Any

from cfnlint.rules._rule import CloudFormationLintRule, RuleMatch
from cfnlint.template.template import Template

from infra.cfn_rules._templates import Found, resources

_TABLE, _BUCKET = "AWS::DynamoDB::Table", "AWS::S3::Bucket"
_WANTED: Mapping[str, Mapping[str, Any]] = {
    _TABLE: {
        "DeletionProtectionEnabled": True,
        "PointInTimeRecoverySpecification.PointInTimeRecoveryEnabled": True,
        "SSESpecification.SSEEnabled": True,
    },
    _BUCKET: {
        "VersioningConfiguration.Status": "Enabled",
        "PublicAccessBlockConfiguration.BlockPublicAcls": True,
        "PublicAccessBlockConfiguration.BlockPublicPolicy": True,
        "PublicAccessBlockConfiguration.IgnorePublicAcls": True,
        "PublicAccessBlockConfiguration.RestrictPublicBuckets": True,
    },
}


class DataIsRetained(CloudFormationLintRule):
    """Tables and buckets stay when their stack goes, and when a change would replace them."""

    id = "E9301"
    shortdesc = "Tables and buckets are retained"
    description = "CloudFormation deletes what it made, unless both policies say otherwise."
    tags = ["worker-space", "data"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        return [
            RuleMatch(["Resources", name], f"{name} must have {policy}: Retain")
            for name, resource, _ in resources(cfn, _TABLE, _BUCKET)
            for policy in ("DeletionPolicy", "UpdateReplacePolicy")
            if resource.get(policy) != "Retain"
        ]


class DataIsRecoverable(CloudFormationLintRule):
    """Tables and buckets keep what was before, and are closed to the public."""

    id = "E9302"
    shortdesc = "Tables and buckets are recoverable and private"
    description = "Point-in-time recovery, versions, encryption and no public access."
    tags = ["worker-space", "data"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        return [
            RuleMatch(["Resources", name], f"{name} must have {path}: {wanted}")
            for name, resource, properties in resources(cfn, *_WANTED)
            for path, wanted in _WANTED[resource["Type"]].items()
            if _at(properties, path) != wanted
        ]


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
