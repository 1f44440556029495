"""Sending deliveries: the project's queue is made when there is none, and whoever finds a step half done repeats it."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, NotFound, Unavailable
from worker_space.ports import Queues, Records
from worker_space.projects import Space, SpaceState, space_shard
from worker_space.records import All, Equals, Missing, Update
from worker_space.registry import AgentRegistry, Home
from worker_space.runtimes import AgentRuntimes
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, Names, TenantContext

__all__ = ["Dispatch"]

_AWAKE = (SpaceState.WAKING.value, SpaceState.ACTIVE.value)
_log = logging.getLogger(__name__)


class Dispatch:
    """Puts deliveries on the queue of their project, and wakes projects that have none.

    Args:
        idle_seconds: How long after its waking the sweeper first looks whether a space is idle.
    """

    def __init__(
        self,
        *,
        records: Records,
        queues: Queues,
        registry: AgentRegistry,
        runtimes: AgentRuntimes,
        names: Names,
        idle_seconds: int,
    ) -> None:
        self._runtimes = runtimes
        self._idle_ms = idle_seconds * 1000
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
            generation = delivery.generation
            if space["state"] in _AWAKE:
                await self._make_queue(tenant, generation)
            elif space.get("open_tasks", 0) > 0:
                generation = (await self.wake(tenant)).space.generation
            else:
                _log.info("a delivery of task %s is void: nothing is open in its project", delivery.task)
                return
            try:
                await self._queues.send(tenant, generation, body, group=group, deduplication=delivery.deduplication)
            except NotFound as error:
                # SQS shows a new queue to all its servers within a second or so.
                raise Unavailable("the project's queue", "it was made a moment ago") from error

    async def send_all(self, deliveries: Iterable[Delivery]) -> None:
        await asyncio.gather(*(self.send(delivery) for delivery in deliveries))

    async def wake(self, tenant: TenantContext) -> Home:
        """Make the project's queue. Whoever finds the space waking repeats the creation: all of it may happen twice.

        Raises:
            NotFound: There is no such project.
            Unavailable: The queue cannot be made now, or the space is being reset.
        """
        for _ in range(4):
            home = await self._registry.home(tenant, fresh=True)
            space = home.space
            if space.state is SpaceState.ACTIVE:
                return home
            if space.resetting:
                raise Unavailable("the worker space", "it is being reset")
            generation = space.generation
            if space.state is not SpaceState.WAKING:
                generation += 1
                if not await self._move(tenant, space, to=SpaceState.WAKING, changes=self._waking(tenant, space)):
                    continue
            await asyncio.gather(
                self._make_queue(tenant, generation), self._runtimes.register(tenant, home.agents.values())
            )
            waking = space.model_copy(update={"state": SpaceState.WAKING, "generation": generation})
            if not await self._move(tenant, waking, to=SpaceState.ACTIVE, changes={"active_since": now_ms()}):
                await self._release_if_orphaned(tenant, space.epoch, generation)
        raise Unavailable("the project's queue", "others keep making and releasing it")

    def _waking(self, tenant: TenantContext, space: Space) -> dict[str, Any]:
        changes: dict[str, Any] = {"generation": space.generation + 1}
        if space.state is SpaceState.DORMANT:
            # From now on it costs money. A space that hibernates is in the sweeper's index already, and owed more soon.
            changes |= {"due_shard": space_shard(tenant), "due_at": now_ms() + self._idle_ms}
        return changes

    async def _release_if_orphaned(self, tenant: TenantContext, epoch: int, generation: int) -> None:
        """Take away a queue that was made while its space was deleted or put to sleep: nobody else knows of it."""
        now = await self._records.get(tenant, Key.space()) or {}
        in_use = now.get("state") in _AWAKE
        if not in_use or (now.get("epoch"), now.get("generation")) != (epoch, generation):
            await self._queues.release(tenant, generation)

    async def _move(self, tenant: TenantContext, space: Space, *, to: SpaceState, changes: Mapping[str, Any]) -> bool:
        """Change the space's state if it is still as read."""
        as_read = All(
            Equals("state", space.state.value),
            Equals("epoch", space.epoch),
            Equals("generation", space.generation),
            Missing("resetting"),
        )
        moved = {**changes, "state": to.value, "updated_at": now_ms()}
        try:
            await self._records.write(tenant, Update(key=Key.space(), set=moved, when=as_read))
            return True
        except ConditionFailed:
            return False

    async def _make_queue(self, tenant: TenantContext, generation: int) -> None:
        await self._queues.create(tenant, generation)
        try:
            await self._queues.wake_worker(tenant, generation)
        except Unavailable as error:
            _log.info("no worker was woken; the mapping starts within a minute: %s", error)
