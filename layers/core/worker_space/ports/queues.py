"""The queues with their mappings, and what of them exists."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker_space.tenancy import TenantContext

__all__ = ["FoundMapping", "FoundQueues", "Lease", "Queues"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One delivery of a message, as its receiver may extend it.

    Attributes:
        message_id: The message's own; a copy of it has another.
    """

    queue_url: str
    receipt_handle: str
    message_id: str = ""


class Queues(Protocol):
    """FIFO queues with the event source mappings that drain them.

    Either each project has a queue of its own for each generation, or a fixed number of *pooled* ones, made with the
    stack, serves all. The pooled ones are always there: creating, releasing and waking mean nothing to them, and only
    an own queue from before the switch is still listed and released.
    """

    async def create(self, tenant: TenantContext, generation: int) -> None:
        """Make queue and mapping; what exists already is success.

        Raises:
            Unavailable: Also when the queue's name was deleted less than 60 s ago.
        """

    async def release(self, tenant: TenantContext, generation: int) -> None:
        """Delete mapping and queue; what is gone already is success."""

    async def send(self, tenant: TenantContext, generation: int, body: str, *, group: str, deduplication: str) -> None:
        """Send one message.

        Raises:
            NotFound: The queue is gone.
        """

    async def extend(self, tenant: TenantContext, lease: "Lease", seconds: int) -> None:
        """Hide the message for `seconds` from now on.

        Raises:
            ClaimLost: The receipt is no longer the message's current one.
        """

    async def wake_worker(self, tenant: TenantContext, generation: int) -> None:
        """Ask the worker function, without waiting, to drain this queue until its mapping runs."""

    async def depth(self, tenant: TenantContext, generation: int) -> int | None:
        """About how many messages wait or are in flight; 0 when the queue is gone.

        `None` for a pooled queue: nobody can count one tenant's messages there, and the others' are not this one's
        to know.
        """

    async def exists(self, tenant: TenantContext, generation: int) -> bool:
        """Whether the queue that takes the tenant's messages is there."""

    async def generations(self, tenant: TenantContext) -> Sequence[int]:
        """Which of the tenant's own queues are there, by their names; a new or deleted one shows within a minute."""

    async def mappings(self, tenant: TenantContext, generation: int) -> int:
        """How many event source mappings of the queue there are, not counting those that are being deleted."""

    async def ping(self) -> None:
        """Ask the service for a sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMapping:
    """An event source mapping as it was found.

    Attributes:
        queue: The name of its source.
        changed_at: When it was made or last changed, epoch milliseconds.
    """

    id: str
    queue: str
    changed_at: int


class FoundQueues(Protocol):
    """What there really is of projects' own queues and their mappings, of all tenants: for who looks for orphans.

    Other queues (of another deployment, the pooled ones, the dead letters') are neither listed nor removed. All calls
    together are paced, because Lambda takes 15 control-plane calls a second from a whole account.
    """

    def queues(self) -> AsyncIterator[Sequence[str]]:
        """The queues' names, page by page; a new or deleted one shows within a minute."""

    def mappings(self) -> AsyncIterator[Sequence[FoundMapping]]:
        """The mappings, page by page, without those that are being deleted."""

    async def mappings_of(self, queue: str) -> Sequence[FoundMapping]:
        """Those of one queue."""

    async def made_at(self, queue: str) -> int | None:
        """When the queue was made, epoch milliseconds; `None` when there is no such queue."""

    async def remove_queue(self, queue: str) -> None:
        """Delete a queue with what is in it; one that is gone is success.

        Raises:
            InvalidRequest: It is no project's own queue of this deployment.
        """

    async def remove_mapping(self, mapping: FoundMapping) -> None:
        """Delete a mapping; one that is gone is success.

        Raises:
            InvalidRequest: Its source is no project's own queue of this deployment.
        """
