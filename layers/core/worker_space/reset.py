"""Resetting a worker space: a cleanup by force, for when something hangs.

The epoch goes up first, so no delivery of the old one can be claimed any more. Then every open task is ended, whoever
works on it: its worker finds at its next write that the task is not its own any more. Until all of it is done the space
carries the mark `resetting`, and nothing wakes it; whoever finds the mark (a second reset, or the sweeper) goes on.
"""

import asyncio
import logging
from typing import Final

from pydantic import BaseModel, ConfigDict

from worker_space.bus import AgentBus
from worker_space.clock import now_ms
from worker_space.ending import Outcome
from worker_space.errors import ConditionFailed, Unavailable
from worker_space.hibernation import Hibernation
from worker_space.ledger import Ledger
from worker_space.open_tasks import open_tasks
from worker_space.ports import Records
from worker_space.projects import SpaceState, no_project
from worker_space.records import All, Check, Condition, Equals, Exists, Item, Update
from worker_space.registry import AgentRegistry
from worker_space.steps import effects_of
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["Reset", "ResetReport"]

_TRIES: Final = 10
_PAGE: Final = 100
_SHOWN: Final = 20
_PLACES: Final = ("running", "parked", "waiting")
_log = logging.getLogger(__name__)


class ResetReport(BaseModel):
    """What a reset did.

    Attributes:
        canceled_tasks: How many open tasks it has ended, running ones included.
        complete: False when time ran out, or a dependency did not answer: what is left is done within minutes, and no
            message is accepted until then, unless only the cache is left.
        cache_cleared: False when Redis did not answer. What it holds of the project expires within five minutes by
            itself; a second reset drops it at once.
        state: The space's: `dormant` once its queue is gone.
    """

    model_config = ConfigDict(frozen=True)

    canceled_tasks: int
    complete: bool
    cache_cleared: bool
    state: SpaceState


class Reset:
    """Begins resets and ends those that were left half done."""

    def __init__(
        self,
        *,
        records: Records,
        bus: AgentBus,
        registry: AgentRegistry,
        ledger: Ledger,
        texts: Texts,
        hibernation: Hibernation,
    ) -> None:
        self._registry = registry
        self._records = records
        self._bus = bus
        self._ledger = ledger
        self._texts = texts
        self._hibernation = hibernation

    async def reset(self, tenant: TenantContext, *, seconds: float) -> ResetReport:
        """End every open task, empty mailboxes and running sets, drop the cache, and give queue and mapping back.

        Files, agents, sessions, messages and the agents' memory stay.

        Args:
            seconds: How long to work on it; what is left then, the sweeper does.

        Raises:
            NotFound: There is no such project.
            Unavailable: The table does not answer: nothing, or not all, was begun.
        """
        await self._begin(tenant)
        ended: list[str] = []
        try:
            async with asyncio.timeout(seconds):
                await self._go_on(tenant, ended)
        except TimeoutError:
            _log.warning("a reset is left to the sweeper")
        except Unavailable as error:
            _log.warning("a reset is left to the sweeper: %s", error)
        # Once more, also when the queue stands in the way: who ended tasks has left signs, and somebody must be told.
        cache_cleared = await self._registry.forget(tenant)
        space = await self._records.get(tenant, Key.space())
        if space is None or space["state"] == SpaceState.DELETED.value:
            raise no_project(tenant.project_id)
        return ResetReport(
            canceled_tasks=len(ended),
            complete=cache_cleared and "resetting" not in space and "releasing" not in space,
            cache_cleared=cache_cleared,
            state=SpaceState(space["state"]),
        )

    async def see_to(self, tenant: TenantContext) -> str:
        """End a reset that was left half done; `settled` for the sweeper's counts."""
        await self._go_on(tenant, [])
        return "settled"

    async def _begin(self, tenant: TenantContext) -> None:
        for _ in range(_TRIES):
            item = await self._records.get(tenant, Key.space())
            if item is None or item["state"] == SpaceState.DELETED.value:
                raise no_project(tenant.project_id)
            if "resetting" in item:
                return
            as_read = All(*(Equals(name, item[name]) for name in ("state", "epoch", "generation")))
            marks = {"epoch": item["epoch"] + 1, "resetting": True}
            try:
                asleep = self._hibernation.falling_asleep(tenant, item, when=as_read, changes=marks)
                await self._records.write(tenant, asleep)
            except ConditionFailed:
                continue
            return
        raise Unavailable("the table", "the space changed at every try")

    async def _go_on(self, tenant: TenantContext, ended: list[str]) -> None:
        space = await self._records.get(tenant, Key.space()) or {}
        if "resetting" in space:
            # Each of them may be done twice, and by two at once.
            async for item in open_tasks(self._records, tenant):
                if item["epoch"] < space["epoch"] and await self._end(tenant, item):
                    ended.append(item["id"])
            still = All(Exists("resetting"), Equals("epoch", space["epoch"]))
            await self._empty_agents(tenant, still)
            await self._empty_mailboxes(tenant, still)
            await self._unmark(tenant, still)
        await self._hibernation.finish(tenant)

    async def _end(self, tenant: TenantContext, item: Item) -> bool:
        """End a task whoever works on it; False when it came to an end of its own."""
        for _ in range(_TRIES):
            done = await effects_of(self._ledger, self._texts, tenant, item["id"]) if item["attempt"] else ()
            said = "; ".join(done[:_SHOWN]) if done else "nothing was changed"
            said += f"; and {len(done) - _SHOWN} more" if len(done) > _SHOWN else ""
            outcome = Outcome(
                state=TaskState.CANCELED, content=f"Canceled: the worker space was reset. Done before that: {said}."
            )
            if await self._bus.end_waiting(tenant, item, outcome):
                return True
            now = await self._records.get(tenant, Key.task(item["id"]))
            if now is None or TaskState(now["state"]).ended:
                # By itself, or with its plan.
                return now is not None and now["state"] == TaskState.CANCELED.value
            item = now
        raise Unavailable("the table", "a task changed at every try")

    async def _empty_agents(self, tenant: TenantContext, still: Condition) -> None:
        for item in (await self._records.query(tenant, Key.runtimes())).items:
            taken = [name for name in item if name in _PLACES or name.startswith("slot:")]
            if taken:
                await self._take_away(tenant, Key(item["sk"]), taken, still)

    async def _empty_mailboxes(self, tenant: TenantContext, still: Condition) -> None:
        after: str | None = None
        while True:
            page = await self._records.query(tenant, Key.sessions(), limit=_PAGE, after=after)
            for item in page.items:
                left = [name for name in ("active", "waiting") if name in item]
                if left:
                    await self._take_away(tenant, Key(item["sk"]), left, still)
            if page.after is None:
                return
            after = page.after

    async def _take_away(self, tenant: TenantContext, key: Key, names: list[str], still: Condition) -> None:
        # Once somebody else has ended the reset, what is there belongs to messages that were accepted since.
        emptied = Update(key=key, remove=names, when=Exists("sk"))
        try:
            await self._records.write(tenant, emptied, Check(key=Key.space(), when=still))
        except ConditionFailed:
            _log.info("an agent or session was deleted during a reset, or somebody else has ended it")

    async def _unmark(self, tenant: TenantContext, still: Condition) -> None:
        done = Update(
            key=Key.space(),
            set={"open_tasks": 0, "updated_at": now_ms()},
            remove=["resetting"],
            when=still,
        )
        try:
            await self._records.write(tenant, done)
        except ConditionFailed:
            _log.info("somebody else has ended this reset")
