"""With which AWS clients a function reaches what: its own permissions, or those of the tenant it works for."""

from dataclasses import dataclass
from typing import Any

from worker_space.adapters.aws import make_client, make_signer
from worker_space.adapters.credentials import ClientOf, TenantClients, the_same

__all__ = ["Reach", "make_reach"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The clients of one environment.

    Attributes:
        dynamodb: With the function's own permissions, as `s3` and `sqs`: for what is nobody's in particular.
        items_of: Finds the client for an owner's items.
        objects_of: Likewise, for objects.
        signer_of: Likewise, the one that signs addresses of objects.
        queues_of: Likewise, for queues.
    """

    dynamodb: Any
    s3: Any
    sqs: Any
    items_of: ClientOf
    objects_of: ClientOf
    signer_of: ClientOf
    queues_of: ClientOf


def make_reach(*, region: str, data_role_arn: str | None) -> Reach:
    """The clients of an environment.

    Args:
        data_role_arn: Is assumed for each tenant; without it, the function's own permissions are for everybody.
    """
    dynamodb, s3, sqs = (make_client(service, region=region) for service in ("dynamodb", "s3", "sqs"))
    if data_role_arn is None:
        return Reach(
            dynamodb=dynamodb,
            s3=s3,
            sqs=sqs,
            items_of=the_same(dynamodb),
            objects_of=the_same(s3),
            signer_of=the_same(make_signer(s3)),
            queues_of=the_same(sqs),
        )
    tenants = TenantClients(sts=make_client("sts", region=region), role_arn=data_role_arn)
    return Reach(
        dynamodb=dynamodb,
        s3=s3,
        sqs=sqs,
        items_of=tenants.made_by(lambda keys: make_client("dynamodb", region=region, keys=keys)),
        objects_of=tenants.made_by(lambda keys: make_client("s3", region=region, keys=keys)),
        signer_of=tenants.made_by(lambda keys: make_signer(s3, keys)),
        queues_of=tenants.made_by(lambda keys: make_client("sqs", region=region, keys=keys)),
    )
