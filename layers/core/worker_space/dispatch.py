"""Sending deliveries: the project's queue is made when there is none, and whoever finds a step half done repeats it."""

import asyncio
import logging
from collections.abc import Iterable

from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, NotFound, Unavailable
from worker_space.ports import Queues, Records
from worker_space.projects import SpaceState
from worker_space.records import All, Condition, Equals, Update
from worker_space.registry import AgentRegistry, Home
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, Names, TenantContext

__all__ = ["Dispatch"]

_log = logging.getLogger(__name__)


class Dispatch:
    """Puts deliveries on the queue of their project, and wakes projects that have none."""

    def __init__(self, *, records: Records, queues: Queues, registry: AgentRegistry, names: Names) -> None:
        self._records = records
        self._queues = queues
        self._registry = registry
        self._names = names

    async def send_or_leave_it(self, tenant: TenantContext, delivery: Delivery) -> None:
        """Send; a message that cannot be sent now is accepted all the same, and the sweeper sends it."""
        try:
            await self.send(delivery)
        except Unavailable as error:
            _log.warning("task %s is left to the sweeper: %s", delivery.task, error)

    async def send(self, delivery: Delivery) -> None:
        """Put a delivery on its project's queue, which is made again if it is gone."""
        tenant = delivery.tenant
        body = delivery.model_dump_json()
        group = self._names.group(tenant, delivery.agent, delivery.slot)
        try:
            await self._queues.send(
                tenant,
                delivery.generation,
                body,
                group=group,
                deduplication=delivery.deduplication,
            )
        except NotFound:
            space = await self._records.get(tenant, Key.space()) or {}
            if (space.get("epoch"), space.get("generation")) != (delivery.epoch, delivery.generation):
                _log.info("a delivery of task %s is void: its project or queue is no more", delivery.task)
                return
            await self._make_queue(tenant, delivery.generation)
            try:
                await self._queues.send(
                    tenant, delivery.generation, body, group=group, deduplication=delivery.deduplication
                )
            except NotFound as error:
                # SQS shows a new queue to all its servers within a second or so.
                raise Unavailable("the project's queue", "it was made a moment ago") from error

    async def send_all(self, deliveries: Iterable[Delivery]) -> None:
        await asyncio.gather(*(self.send(delivery) for delivery in deliveries))

    async def wake(self, tenant: TenantContext) -> Home:
        """Make the project's queue. Whoever finds the space waking repeats the creation: all of it may happen twice."""
        for _ in range(4):
            home = await self._registry.home(tenant, fresh=True)
            space = home.space
            if space.state is SpaceState.ACTIVE:
                return home
            generation = space.generation
            if space.state is SpaceState.DORMANT:
                generation += 1
                as_read = All(
                    Equals("state", SpaceState.DORMANT.value),
                    Equals("epoch", space.epoch),
                    Equals("generation", space.generation),
                )
                if not await self._move(tenant, as_read, state=SpaceState.WAKING, generation=generation):
                    continue
            await self._make_queue(tenant, generation)
            still_waking = All(
                Equals("state", SpaceState.WAKING.value),
                Equals("epoch", space.epoch),
                Equals("generation", generation),
            )
            if not await self._move(tenant, still_waking, state=SpaceState.ACTIVE, generation=generation):
                await self._release_if_orphaned(tenant, space.epoch, generation)
        raise Unavailable("the project's queue", "others keep making and releasing it")

    async def _release_if_orphaned(self, tenant: TenantContext, epoch: int, generation: int) -> None:
        """Take away a queue that was made while its project was deleted: nobody else knows of it."""
        now = await self._records.get(tenant, Key.space()) or {}
        if (now.get("epoch"), now.get("generation")) != (epoch, generation):
            await self._queues.release(tenant, generation)

    async def _move(self, tenant: TenantContext, when: Condition, *, state: SpaceState, generation: int) -> bool:
        changes = {"state": state.value, "generation": generation, "updated_at": now_ms()}
        try:
            await self._records.write(tenant, Update(key=Key.space(), set=changes, when=when))
            return True
        except ConditionFailed:
            return False

    async def _make_queue(self, tenant: TenantContext, generation: int) -> None:
        await self._queues.create(tenant, generation)
        try:
            await self._queues.wake_worker(tenant, generation)
        except Unavailable as error:
            _log.info("no worker was woken; the mapping starts within a minute: %s", error)
