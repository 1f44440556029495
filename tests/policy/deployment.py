"""The roles of `infra/access.yaml` as a deployment would have them, and what they decide about a call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.policy.evaluator import Decision, Document, Request, decide, may_assume
from tests.policy.requests import Call, Place, groups, missing
from worker_space_local.template import Template

__all__ = ["FUNCTIONS", "Deployment", "deployment"]

ROOT: Final = Path(__file__).parents[2]
FUNCTIONS: Final = {"api": "ApiRole", "worker": "WorkerRole", "cleanup": "CleanupRole", "dead_letter": "DeadLetterRole"}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Who may what.

    Attributes:
        own: By function, the policies of its own role.
        data: Those of the data role.
        trust: Who may assume it.
        bucket: The bucket's own policy.
    """

    place: Place
    own: Mapping[str, Sequence[Document]]
    data: Sequence[Document]
    trust: Document
    bucket: Document
    data_role_arn: str

    def by_function(self, function: str, call: Call) -> Sequence[bool]:
        """Whether the function's own role allows the call, for each part of it that may succeed alone."""
        if call.service == "sts":
            return [self._assumes(function, call)]
        return [
            all(self._decided(request, self.own[function], _arn(FUNCTIONS[function])).allowed for request in group)
            for group in groups(call, self.place)
        ]

    def by_tenant(self, tags: Mapping[str, str], call: Call) -> Sequence[bool]:
        """Whether the data role, assumed with these tags, allows the call; for each part that may succeed alone."""
        return [all(self._tagged(request, tags).allowed for request in group) for group in groups(call, self.place)]

    def tells_what_is_missing(self, tags: Mapping[str, str], call: Call) -> bool:
        """Whether a missing object would look missing to the tenant."""
        request = missing(call, self.place)
        return request is None or self._tagged(request, tags).allowed

    def _tagged(self, request: Request, tags: Mapping[str, str]) -> Decision:
        tagged = {f"aws:PrincipalTag/{key}": value for key, value in tags.items()}
        asked = Request(action=request.action, resource=request.resource, context={**request.context, **tagged})
        return self._decided(asked, self.data, self.data_role_arn)

    def _decided(self, request: Request, identity: Sequence[Document], principal: str) -> Decision:
        resource = [self.bucket] if request.resource.startswith("arn:aws:s3:::") else []
        return decide(request, identity, resource=resource, principal=principal)

    def _assumes(self, function: str, call: Call) -> bool:
        tags = {tag["Key"]: tag["Value"] for tag in call.parameters.get("Tags", ())}
        return call.parameters["RoleArn"] == self.data_role_arn and may_assume(
            self.data_role_arn, tags, caller=_arn(FUNCTIONS[function]), identity=self.own[function], trust=self.trust
        )


def deployment(
    *,
    prefix: str,
    table: str,
    bucket: str,
    dead_letter_arn: str,
    api_scoped: bool,
    pooled: bool = False,
    place: Place | None = None,
) -> Deployment:
    """The documents as CloudFormation would make them.

    Args:
        api_scoped: The parameter `ApiTenantCredentials`.
        pooled: Whether the parameter `QueueMode` is that.
    """
    place = place or Place(worker=f"{prefix}-worker-space-worker:live")
    names = [*FUNCTIONS.values(), "DataRole"]
    access = Template(
        ROOT / "infra/access.yaml",
        parameters={
            "Prefix": prefix,
            "TableArn": place.arn("dynamodb", f"table/{table}"),
            "BucketArn": f"arn:aws:s3:::{bucket}",
            "DeadLetterArn": dead_letter_arn,
            "FailuresArn": place.arn("sqs", f"{prefix}-failures"),
            "WorkerArn": place.arn("lambda", f"function:{prefix}-worker-space-worker"),
            **{f"{name}LogsArn": place.arn("logs", f"log-group:{name}:*") for name in _LOGGED},
            "ApiTenantCredentials": str(api_scoped).lower(),
            "QueueMode": "pooled" if pooled else "project",
            "Tracing": "Active",
            "BedrockModels": "none",
            "SecretsName": "worker-space",
            "ModelSecretName": "",
        },
        outputs={name: name for name in names} | {f"{name}.Arn": _arn(name) for name in names},
        region=place.region,
    ).resources()
    storage = Template(
        ROOT / "infra/storage.yaml",
        parameters={},
        outputs={
            "Bucket": bucket,
            "Bucket.Arn": f"arn:aws:s3:::{bucket}",
            "Table": table,
            "Table.Arn": place.arn("dynamodb", f"table/{table}"),
        },
    ).resources()
    return Deployment(
        place=place,
        own={function: _documents(access, role) for function, role in FUNCTIONS.items()},
        data=_documents(access, "DataRole"),
        trust=access["DataRole"]["Properties"]["AssumeRolePolicyDocument"],
        bucket=storage["BucketPolicy"]["Properties"]["PolicyDocument"],
        data_role_arn=_arn("DataRole"),
    )


_LOGGED: Final = ("Api", "Worker", "Cleanup", "DeadLetter")


def _arn(role: str) -> str:
    return f"arn:aws:iam::123456789012:role/{role}"


def _documents(resources: Mapping[str, Any], role: str) -> Sequence[Document]:
    """A role's own policies and those that are attached to it."""
    own = [policy["PolicyDocument"] for policy in resources[role]["Properties"].get("Policies", ())]
    attached = [
        resource["Properties"]["PolicyDocument"]
        for resource in resources.values()
        if resource["Type"] == "AWS::IAM::ManagedPolicy" and role in resource["Properties"]["Roles"]
    ]
    return [*own, *attached]
