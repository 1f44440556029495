"""A fixed number of SQS queues for all projects, made with the stack together with their mappings."""

from collections.abc import Sequence

from worker_space.adapters.sqs import SqsQueues, queue_of
from worker_space.errors import ClaimLost, Unavailable
from worker_space.ports import Lease
from worker_space.tenancy import Names, TenantContext

__all__ = ["PooledSqsQueues"]


class PooledSqsQueues:
    """`Queues` where a tenant's messages go to its place in a pool (`Names.pooled_queue`).

    A message group carries tenant and agent, and a deduplication id a random task id, so that tenants who share a queue
    neither wait for each other's messages nor swallow them. Waking and hibernating a project cost no call to Lambda's
    control plane. A project's own queue, from before the deployment was switched, is drained by its own mapping until
    the project hibernates, and is released then.

    It needs the permissions of `SqsQueues`, and `sqs:SendMessage`, `ChangeMessageVisibility` and `GetQueueAttributes`
    on the pool's queues.

    Args:
        own: The projects' own queues, from before.
        names: Spells the queues.
        size: How many queues the pool has.
    """

    def __init__(self, own: SqsQueues, names: Names, *, size: int) -> None:
        self._own = own
        self._names = names
        self._size = size

    async def create(self, tenant: TenantContext, generation: int) -> None:
        """Nothing: the pool is there."""

    async def wake_worker(self, tenant: TenantContext, generation: int) -> None:
        """Nothing: the pool's mappings run all the time."""

    async def release(self, tenant: TenantContext, generation: int) -> None:
        """Delete the project's own queue with its mapping, if it has one from before.

        Raises:
            Unavailable: Also when the mapping is being changed just now; repeat it later.
        """
        # Of SQS, so that a project without one costs Lambda's control plane nothing.
        if await self._own.exists(tenant, generation):
            await self._own.release(tenant, generation)

    async def send(self, tenant: TenantContext, generation: int, body: str, *, group: str, deduplication: str) -> None:
        """Send one message, with one request; its generation does not matter here."""
        name = self._names.pooled_queue(tenant, self._size)
        if not await self._own.send_to(tenant, name, body, group=group, deduplication=deduplication):
            raise Unavailable("sqs", f"there is no queue {name!r}: deploy the stack with QueueMode=pooled")

    async def extend(self, tenant: TenantContext, lease: Lease, seconds: int) -> None:
        """Hide the message for `seconds` (0 to 43,200) from now on.

        Raises:
            ClaimLost: The receipt is no longer the message's current one, or not one of a queue of this deployment
                that may hold this tenant's messages. Of those who share a queue, only the receipt tells who has which.
        """
        name = queue_of(lease)
        # Any of the pool's: messages that were sent before its size was changed are still in the tenant's old place.
        if self._names.is_queue(tenant, name) or self._names.is_pool_queue(name):
            await self._own.extend_on(tenant, name, lease, seconds)
        else:
            raise ClaimLost("the delivery is from no queue of this project")

    async def depth(self, tenant: TenantContext, generation: int) -> int | None:
        """`None`: the pool's queues count the messages of all who share them."""
        return None

    async def exists(self, tenant: TenantContext, generation: int) -> bool:
        """Whether the tenant's place in the pool is there."""
        return await self._own.is_there(tenant, self._names.pooled_queue(tenant, self._size))

    async def generations(self, tenant: TenantContext) -> Sequence[int]:
        """Which of the tenant's own queues are left from before."""
        return await self._own.generations(tenant)

    async def mappings(self, tenant: TenantContext, generation: int) -> int:
        """How many mappings of the tenant's own queue are left from before."""
        return await self._own.mappings(tenant, generation)

    async def ping(self) -> None:
        """Ask for an attribute of the dead-letter queue."""
        await self._own.ping()
