"""Project queues in this process's memory, for tests and the in-memory stack."""

import itertools
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from worker_space.clock import now_ms
from worker_space.errors import ClaimLost, InvalidRequest, NotFound, Unavailable
from worker_space.ports import FoundMapping, Lease
from worker_space.tenancy import Names, TenantContext

__all__ = ["Delivery", "MemoryInventory", "MemoryQueues"]

_DEDUPLICATION_SECONDS: Final = 300.0
_NAME_BLOCKED_SECONDS: Final = 60.0
_RECEIVES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message as a receiver gets it."""

    body: str
    group: str
    deduplication: str
    receive_count: int
    lease: Lease


@dataclass(slots=True)
class _Message:
    body: str
    group: str
    deduplication: str
    receive_count: int = 0
    hidden_until: float = 0.0
    receipt: str = ""
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(slots=True)
class _Queue:
    made_at: int
    messages: list[_Message] = field(default_factory=list)
    seen: dict[str, float] = field(default_factory=dict)


class MemoryQueues:
    """`Queues` with the semantics of an SQS FIFO queue that the service rests on. Safe under threads.

    One message of a group is in flight, a group's messages come in order, a deduplication id is taken once in five
    minutes, a receipt ends with its visibility, the 11th receive moves a message to the dead letters, and a deleted
    queue's name is refused for a minute.

    Args:
        names: Spells the queues.
        visibility_seconds: How long a received message stays hidden.
        clock: Seconds; tests move it.
        pool: How many queues all tenants share; `None` for one each.
        epoch_ms: The time that queues and mappings are made at, epoch milliseconds; tests move it.

    Attributes:
        wakes: What `wake_worker` asked for, oldest first.
        dead_letters: The bodies that were received too often, oldest first.
    """

    def __init__(
        self,
        names: Names,
        *,
        visibility_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        pool: int | None = None,
        epoch_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._names = names
        self._visibility_seconds = visibility_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._pool = pool
        self._epoch_ms = epoch_ms
        self._queues: dict[str, _Queue] = {}
        self._mappings: dict[str, FoundMapping] = {}
        for index in range(pool or 0):
            self._make(names.pool_queue(index))
        self._deleted: dict[str, float] = {}
        self._receipts = itertools.count(1)
        self.wakes: list[tuple[TenantContext, int]] = []
        self.dead_letters: list[str] = []

    async def create(self, tenant: TenantContext, generation: int) -> None:
        """Make queue and mapping; what exists is success.

        Raises:
            Unavailable: The name was deleted less than 60 s ago.
        """
        if self._pool is not None:
            return
        name = self._names.queue(tenant, generation)
        with self._lock:
            if self._deleted.get(name, float("-inf")) + _NAME_BLOCKED_SECONDS > self._clock():
                raise Unavailable("sqs", "QueueDeletedRecently")
            self._make(name)

    def _make(self, name: str) -> None:
        self._queues.setdefault(name, _Queue(self._epoch_ms()))
        self._mappings.setdefault(name, FoundMapping(id=str(uuid.uuid4()), queue=name, changed_at=self._epoch_ms()))

    async def release(self, tenant: TenantContext, generation: int) -> None:
        """Delete the tenant's own mapping and queue; what is gone is success."""
        name = self._names.queue(tenant, generation)
        with self._lock:
            self._mappings.pop(name, None)
            self._remove(name)

    def _remove(self, name: str) -> None:
        if self._queues.pop(name, None) is not None:
            self._deleted[name] = self._clock()

    def _target(self, tenant: TenantContext, generation: int) -> str:
        """The queue that takes the tenant's messages."""
        if self._pool is None:
            return self._names.queue(tenant, generation)
        return self._names.pooled_queue(tenant, self._pool)

    def _serves(self, tenant: TenantContext, name: str) -> bool:
        """Whether deliveries from this queue may be the tenant's."""
        return self._names.is_queue(tenant, name) or (self._pool is not None and self._names.is_pool_queue(name))

    async def send(self, tenant: TenantContext, generation: int, body: str, *, group: str, deduplication: str) -> None:
        """Send one message.

        Raises:
            NotFound: The queue is gone.
        """
        with self._lock:
            queue = self._queues.get(self._target(tenant, generation))
            if queue is None:
                raise NotFound(f"the project's queue of generation {generation} is gone")
            now = self._clock()
            queue.seen = {seen: at for seen, at in queue.seen.items() if at + _DEDUPLICATION_SECONDS > now}
            if deduplication not in queue.seen:
                queue.seen[deduplication] = now
                queue.messages.append(_Message(body, group, deduplication))

    async def extend(self, tenant: TenantContext, lease: Lease, seconds: int) -> None:
        """Hide the message for `seconds` from now on.

        Raises:
            ClaimLost: The receipt is no longer the message's current one, or not one of this tenant's queues.
        """
        with self._lock:
            _, message = self._held(lease)
            if message is None or not self._serves(tenant, lease.queue_url.rpartition("/")[2]):
                raise ClaimLost("the message was delivered again, or is gone")
            message.hidden_until = self._clock() + seconds

    async def wake_worker(self, tenant: TenantContext, generation: int) -> None:
        """Note the wish in `wakes`."""
        if self._pool is not None:
            return
        with self._lock:
            self.wakes.append((tenant, generation))

    async def depth(self, tenant: TenantContext, generation: int) -> int | None:
        """How many messages wait or are in flight; 0 when the queue is gone, `None` for a pooled one."""
        if self._pool is not None:
            return None
        with self._lock:
            queue = self._queues.get(self._names.queue(tenant, generation))
            return len(queue.messages) if queue else 0

    async def exists(self, tenant: TenantContext, generation: int) -> bool:
        """Whether the queue that takes the tenant's messages is there."""
        with self._lock:
            return self._target(tenant, generation) in self._queues

    async def generations(self, tenant: TenantContext) -> Sequence[int]:
        """Which of the tenant's own queues are there."""
        with self._lock:
            found = [self._names.generation(tenant, name) for name in self._queues]
        return sorted(generation for generation in found if generation is not None)

    async def mappings(self, tenant: TenantContext, generation: int) -> int:
        """One for an own queue that has not lost it."""
        with self._lock:
            return int(self._names.queue(tenant, generation) in self._mappings)

    async def ping(self) -> None:
        """Memory is always there."""

    # -- what event source mappings do on AWS ------------------------------------------------------------------
    def receive(self, tenant: TenantContext, generation: int) -> Delivery | None:
        """The next message that may be delivered now, hidden for the queue's visibility; `None` when there is none."""
        name = self._target(tenant, generation)
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                return None
            now = self._clock()
            busy = {message.group for message in queue.messages if message.hidden_until > now}
            for message in list(queue.messages):
                if message.group in busy:
                    continue
                if message.receive_count >= _RECEIVES:
                    queue.messages.remove(message)
                    self.dead_letters.append(message.body)
                    continue
                message.receive_count += 1
                message.hidden_until = now + self._visibility_seconds
                message.receipt = f"receipt-{next(self._receipts)}"
                return Delivery(
                    body=message.body,
                    group=message.group,
                    deduplication=message.deduplication,
                    receive_count=message.receive_count,
                    lease=Lease(queue_url=_url(name), receipt_handle=message.receipt, message_id=message.message_id),
                )
            return None

    def delete(self, lease: Lease) -> None:
        """Acknowledge a delivery.

        Raises:
            ClaimLost: The receipt is no longer the message's current one.
        """
        with self._lock:
            queue, message = self._held(lease)
            if queue is None or message is None:
                raise ClaimLost("the message was delivered again, or is gone")
            queue.messages.remove(message)

    def _held(self, lease: Lease) -> tuple[_Queue | None, _Message | None]:
        queue = self._queues.get(lease.queue_url.rpartition("/")[2])
        if queue is None:
            return None, None
        for message in queue.messages:
            if message.receipt == lease.receipt_handle and message.hidden_until > self._clock():
                return queue, message
        return queue, None


class MemoryInventory:
    """`FoundQueues` over a `MemoryQueues`."""

    def __init__(self, queues: MemoryQueues) -> None:
        self._of = queues

    async def queues(self) -> AsyncIterator[Sequence[str]]:
        """The names of tenants' own queues, on one page."""
        with self._of._lock:
            page = [name for name in self._of._queues if self._of._names.queue_owner(name)]
        yield page

    async def mappings(self) -> AsyncIterator[Sequence[FoundMapping]]:
        """The mappings of tenants' own queues, on one page."""
        with self._of._lock:
            page = [found for name, found in self._of._mappings.items() if self._of._names.queue_owner(name)]
        yield page

    async def mappings_of(self, queue: str) -> Sequence[FoundMapping]:
        """The mapping of one queue, if it has one."""
        with self._of._lock:
            return [found for name, found in self._of._mappings.items() if name == queue]

    async def made_at(self, queue: str) -> int | None:
        """When the queue was made; `None` when there is no such queue."""
        with self._of._lock:
            found = self._of._queues.get(queue)
            return None if found is None else found.made_at

    async def remove_queue(self, queue: str) -> None:
        """Delete a queue; one that is gone is success.

        Raises:
            InvalidRequest: It is no tenant's own queue of this stack.
        """
        self._check(queue)
        with self._of._lock:
            self._of._remove(queue)

    async def remove_mapping(self, mapping: FoundMapping) -> None:
        """Delete a mapping; one that is gone is success.

        Raises:
            InvalidRequest: Its source is no tenant's own queue of this stack.
        """
        self._check(mapping.queue)
        with self._of._lock:
            if self._of._mappings.get(mapping.queue) == mapping:
                del self._of._mappings[mapping.queue]

    def _check(self, queue: str) -> None:
        if self._of._names.queue_owner(queue) is None:
            raise InvalidRequest(f"{queue!r} is no project's queue of the deployment {self._of._names.prefix!r}")


def _url(name: str) -> str:
    return f"memory:///{name}"
