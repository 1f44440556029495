"""Cleaning up a worker space: nothing runs, nothing is cached, no queue is paid for. Files, history and memory stay."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from worker_space.agent_records import check_live
from worker_space.bus import AgentBus
from worker_space.errors import ConditionFailed, Conflict, NotFound
from worker_space.hibernation import Hibernation
from worker_space.open_tasks import open_tasks
from worker_space.ports import Records
from worker_space.projects import SpaceState, no_project
from worker_space.records import All, Check, Equals, Exists, Item, Update
from worker_space.registry import AgentRegistry
from worker_space.runtimes import AgentRuntimes
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext

__all__ = ["Cancellation", "Cleanup", "CleanupReport"]

_AT_ONCE: Final = 20
_KEYS_PER_CALL: Final = 100
# What one transaction takes, beside the space itself.
_DEREGISTERED_AT_ONCE: Final = 98
_TRIES: Final = 5
_AWAKE: Final = (SpaceState.WAKING.value, SpaceState.ACTIVE.value)


class Cancellation(BaseModel):
    """What came of canceling all tasks.

    Attributes:
        canceled: Ids of those that have ended as canceled.
        still_running: Ids of those that were asked to stop and have not stopped yet.
    """

    model_config = ConfigDict(frozen=True)

    canceled: Sequence[str]
    still_running: Sequence[str]


class CleanupReport(BaseModel):
    """What a cleanup did.

    Attributes:
        canceled_tasks: How many open tasks have ended as canceled.
        still_running: Ids of tasks that were asked to stop and have not stopped yet.
        deregistered_agents: How many agents were taken off the bus; the next message registers all of them again.
        state: `dormant`, or `hibernating` while the queue is being taken away. `active` when a task still runs or a new
            message came meanwhile: then the queue stays, and so do the agents' registrations.
    """

    model_config = ConfigDict(frozen=True)

    canceled_tasks: int
    still_running: Sequence[str]
    deregistered_agents: int
    state: SpaceState


class Cleanup:
    """Cancels, deregisters, clears and releases, for one project."""

    def __init__(
        self,
        *,
        records: Records,
        bus: AgentBus,
        registry: AgentRegistry,
        runtimes: AgentRuntimes,
        hibernation: Hibernation,
    ) -> None:
        self._records = records
        self._bus = bus
        self._registry = registry
        self._runtimes = runtimes
        self._hibernation = hibernation

    async def cancel_all_tasks(self, tenant: TenantContext, *, seconds: float = 0.0) -> Cancellation:
        """Cancel every open task: those that wait at once, those that run before their next model call or effect.

        Args:
            seconds: How long to wait for those that run.

        Raises:
            NotFound: There is no such project.
        """
        space = await self._space(tenant)
        canceled: list[str] = []
        stopping: list[str] = []
        pending: list[str] = []
        async for item in open_tasks(self._records, tenant, most=space.get("open_tasks")):
            pending.append(item["id"])
            # In order: whoever waits in a session's mailbox ends before the one it waits for.
            if len(pending) == _AT_ONCE:
                await self._cancel(tenant, pending, canceled, stopping)
                pending = []
        await self._cancel(tenant, pending, canceled, stopping)
        stopped, running = await self._wait(tenant, stopping, seconds)
        return Cancellation(canceled=[*canceled, *stopped], still_running=running)

    async def _cancel(
        self, tenant: TenantContext, task_ids: Sequence[str], canceled: list[str], stopping: list[str]
    ) -> None:
        for task_id in task_ids:
            try:
                task = await self._bus.cancel_task(tenant, task_id)
            except (Conflict, NotFound):
                # By itself, or with its plan.
                if (await self._states(tenant, [task_id])).get(task_id) is TaskState.CANCELED:
                    canceled.append(task_id)
                continue
            (canceled if task.state is TaskState.CANCELED else stopping).append(task_id)

    async def _wait(
        self, tenant: TenantContext, task_ids: Sequence[str], seconds: float
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Which of these tasks have ended as canceled, and which have not ended, `seconds` from now at the latest."""
        canceled: list[str] = []
        running = list(task_ids)
        until, pause = time.monotonic() + seconds, 0.05
        while running:
            states = await self._states(tenant, running)
            canceled += [task_id for task_id in running if states.get(task_id) is TaskState.CANCELED]
            running = [task_id for task_id in running if task_id in states and not states[task_id].ended]
            left = until - time.monotonic()
            if not running or left <= 0:
                break
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, 0.5)
        return canceled, running

    async def _states(self, tenant: TenantContext, task_ids: Sequence[str]) -> dict[str, TaskState]:
        states: dict[str, TaskState] = {}
        for start in range(0, len(task_ids), _KEYS_PER_CALL):
            keys = [Key.task(task_id) for task_id in task_ids[start : start + _KEYS_PER_CALL]]
            found = await self._records.get_many(tenant, keys)
            states |= {item["id"]: TaskState(item["state"]) for item in found if item is not None}
        return states

    async def cleanup(self, tenant: TenantContext, *, seconds: float) -> CleanupReport:
        """Cancel all tasks, take the agents off the bus, clear the cache, and give queue and mapping back.

        Repeating it changes nothing more. Files, sessions, messages and the agents' memory stay; the next message wakes
        the space again.

        Args:
            seconds: How long to wait for running tasks to stop.

        Raises:
            NotFound: There is no such project.
            Unavailable: A dependency does not answer; what was begun, the sweeper ends.
        """
        cancellation = await self.cancel_all_tasks(tenant, seconds=seconds)
        deregistered = 0
        if not cancellation.still_running:
            deregistered = await self._put_to_sleep(tenant)
        await self._registry.forget(tenant)
        return CleanupReport(
            canceled_tasks=len(cancellation.canceled),
            still_running=cancellation.still_running,
            deregistered_agents=deregistered,
            state=SpaceState((await self._space(tenant))["state"]),
        )

    async def _put_to_sleep(self, tenant: TenantContext) -> int:
        """Let the space sleep unless something is open in it; returns how many agents were deregistered for it."""
        for _ in range(_TRIES):
            home = (await self._records.query(tenant, Key.home())).items
            check_live(tenant, home)
            space = home[0]
            if space["state"] == SpaceState.HIBERNATING.value:
                if "resetting" in space:
                    return 0
                await self._hibernation.finish(tenant)
                continue
            if space["state"] in _AWAKE and space.get("open_tasks", 0) > 0:
                return 0
            registered = await self._runtimes.registered(tenant, [item["id"] for item in home[1:]])
            if await self._asleep_without(tenant, space, registered):
                return len(registered)
        return 0

    async def _asleep_without(self, tenant: TenantContext, space: Item, registered: Sequence[str]) -> bool:
        """Deregister these agents and put the space to sleep; False when it has changed since it was read."""
        # In one transaction, so that nobody finds an active space whose agents are gone from the bus.
        at_once, before = registered[:_DEREGISTERED_AT_ONCE], registered[_DEREGISTERED_AT_ONCE:]
        await self._runtimes.deregister(tenant, before)
        leave = [Update(key=Key.runtime(each), set={"registered": False}, when=Exists("sk")) for each in at_once]
        if space["state"] in _AWAKE:
            done = await self._hibernation.begin(tenant, space, *leave)
        else:
            done = await self._while_dormant(tenant, space, leave)
        if done:
            await self._hibernation.finish(tenant)
        elif before:
            home = await self._registry.home(tenant, fresh=True)
            await self._runtimes.register(tenant, [home.agents[each] for each in before if each in home.agents])
        return done

    async def _while_dormant(self, tenant: TenantContext, space: Item, leave: Sequence[Update]) -> bool:
        if not leave:
            return True
        not_woken = All(
            Equals("state", SpaceState.DORMANT.value),
            Equals("epoch", space["epoch"]),
            Equals("generation", space["generation"]),
        )
        try:
            await self._records.write(tenant, Check(key=Key.space(), when=not_woken), *leave)
        except ConditionFailed:
            return False
        return True

    async def _space(self, tenant: TenantContext) -> Item:
        item = await self._records.get(tenant, Key.space())
        if item is None or item["state"] == SpaceState.DELETED.value:
            raise no_project(tenant.project_id)
        return item
