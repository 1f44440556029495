"""`make teardown STACK=…`: take away the queues and mappings that a deployment made while it ran.

They are outside CloudFormation, so deleting the stack leaves them. What goes is found by the stack's own prefix and
nothing else: projects' queues `{prefix}_…_g1.fifo` and the mappings on them. The dead-letter queue, the pool and
everything of another prefix stay. Without `--yes` nothing is changed, only told.

With `AWS_ENDPOINT_URL` set it works on the embedded stack, whose prefix is `local`.
"""

import argparse
import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.deployment import Deployment, DeploymentError, find
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.sqs_inventory import SqsInventory
from worker_space.errors import Unavailable, WorkerSpaceError
from worker_space.ports import FoundMapping, FoundQueues
from worker_space.tenancy import Names

_SHOWN = 20


async def tear_down(found: FoundQueues, *, yes: bool) -> int:
    """Tell what there is and, if `yes`, remove it; the exit status: 1 when something could not be removed."""
    queues = sorted([name async for page in found.queues() for name in page])
    mappings = sorted([each async for page in found.mappings() for each in page], key=lambda each: each.queue)
    _tell("queue", queues)
    _tell("mapping", [f"{each.id} of {each.queue}" for each in mappings])
    if not (queues or mappings):
        print("nothing to remove")
        return 0
    if not yes:
        print("nothing was changed: YES=1 removes them, with the messages that wait there")
        return 0
    return await _remove(found, queues, mappings)


async def _remove(found: FoundQueues, queues: list[str], mappings: list[FoundMapping]) -> int:
    left = 0
    # Mappings first: one whose queue has gone keeps asking for it.
    for mapping in mappings:
        left += await _removed(f"the mapping {mapping.id}", found.remove_mapping(mapping))
    for queue in queues:
        left += await _removed(queue, found.remove_queue(queue))
    done = len(mappings) + len(queues) - left
    print(f"removed {done}" + (f", {left} are left: run it again in a minute" if left else ""))
    return 1 if left else 0


async def _removed(what: str, removing: Any) -> int:
    try:
        await removing
    except Unavailable as error:
        print(f"{what} stays: {error}", file=sys.stderr)
        return 1
    return 0


def _tell(kind: str, names: list[str]) -> None:
    print(f"{len(names)} {kind}{'' if len(names) == 1 else 's'}")
    for name in names[:_SHOWN]:
        print(f"  {name}")
    if len(names) > _SHOWN:
        print(f"  … and {len(names) - _SHOWN} more")


def inventory(deployment: Deployment, executor: ThreadPoolExecutor) -> SqsInventory:
    """What AWS has of this deployment, paced to five calls a second.

    Raises:
        DeploymentError: There are no credentials, or they are not accepted.
    """
    try:
        account = make_client("sts", region=deployment.region, timeout_seconds=10).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise DeploymentError(f"AWS does not tell whose account this is: {error}") from error
    partition, account_id = account["Arn"].split(":")[1], account["Account"]
    return SqsInventory(
        make_client("sqs", region=deployment.region, timeout_seconds=10),
        make_client("lambda", region=deployment.region, timeout_seconds=10),
        AwsCalls(executor),
        Names(deployment.prefix),
        arn_prefix=f"arn:{partition}:sqs:{deployment.region}:{account_id}",
        # Also those of a function that was deleted with its stack.
        worker_function=None,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run it; 1 when something is left, 2 when the deployment is not found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", default="", help="name of the CloudFormation stack; of the embedded one its prefix")
    parser.add_argument("--prefix", default="", help="the stack's parameter Prefix, where the stack is gone already")
    parser.add_argument("--yes", action="store_true", help="remove; without it nothing is changed")
    given = parser.parse_args(arguments)
    try:
        deployment = find(given.stack, prefix=given.prefix)
        at = os.environ.get("AWS_ENDPOINT_URL") or f"AWS, {deployment.region}"
        print(f"projects' queues {deployment.prefix}_*.fifo and their mappings at {at}:")
        with ThreadPoolExecutor(1) as executor:
            return asyncio.run(tear_down(inventory(deployment, executor), yes=given.yes))
    except (DeploymentError, WorkerSpaceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
