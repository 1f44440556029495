"""What every queue needs: an end for messages that nobody can take, and encryption."""

from cfnlint.rules._rule import CloudFormationLintRule, RuleMatch
from cfnlint.template.template import Template

from infra.cfn_rules._templates import Found, resources

_QUEUE = "AWS::SQS::Queue"


class QueuesGiveUpSomewhere(CloudFormationLintRule):
    """A queue has a redrive policy, or says in its metadata why it is the end of the line."""

    id = "E9201"
    shortdesc = "Queues redrive"
    description = "A message that no consumer can take comes back until it expires, and is gone then."
    tags = ["worker-space", "sqs"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        return [
            RuleMatch(["Resources", name], f"{name} has no RedrivePolicy, and no Metadata.NoRedrive that says why")
            for name, resource, properties in resources(cfn, _QUEUE)
            if not properties.get("RedrivePolicy") and not (resource.get("Metadata") or {}).get("NoRedrive")
        ]


class QueuesAreEncrypted(CloudFormationLintRule):
    """A queue is encrypted at rest, by SQS's own key or by one that is named."""

    id = "E9202"
    shortdesc = "Queues are encrypted at rest"
    description = "Deliveries name users and projects."
    tags = ["worker-space", "sqs"]  # noqa: RUF012 - cfn-lint's own way

    def match(self, cfn: Template) -> Found:
        return [
            RuleMatch(["Resources", name], f"{name} is not encrypted at rest: set SqsManagedSseEnabled")
            for name, _, properties in resources(cfn, _QUEUE)
            if properties.get("SqsManagedSseEnabled") is not True and "KmsMasterKeyId" not in properties
        ]
