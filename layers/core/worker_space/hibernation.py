"""Putting idle worker spaces to sleep: nothing is paid for a project that nobody uses.

Queue and mapping go, the cache is cleared; agents, history and memory stay. An active space lies in the sweeper's
sparse index under the time when it may be idle. Accepting a message does not move that time (it would write the index
for each message); the sweeper moves it on when it finds that the space was used since.

```
 sweeper   reads last_accept = t, open_tasks = 0 ──────────── active → hibernating, releasing = {3} ✗ last_accept ≠ t
 accept                              last_accept = t', open_tasks = 1 ✓
```

In the other order the accept's own condition (active, generation 3) fails; it reads again and wakes the space with
generation 4, while generation 3 stays in `releasing` until somebody has seen to it that it is gone. So every step may
be repeated by whoever finds it half done.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed
from worker_space.ports import Queues, Records
from worker_space.projects import SpaceState, space_shard
from worker_space.records import All, Any_, AtMost, Condition, Equals, Exists, Item, Missing, OneOf, Update, Write
from worker_space.registry import AgentRegistry
from worker_space.tenancy import Key, TenantContext

__all__ = ["Hibernation", "nothing_open"]

_FINISH_LATER_MS: Final = 10_000
_BUSY_MS: Final = 300_000
_PACE_SECONDS: Final = 0.25
_AWAKE: Final = (SpaceState.WAKING.value, SpaceState.ACTIVE.value)
_log = logging.getLogger(__name__)


def nothing_open() -> Condition:
    """No task of the space is open; records of an earlier release do not count them."""
    return Any_(Missing("open_tasks"), AtMost("open_tasks", 0))


class Hibernation:
    """Takes queues away and gives the sweeper something to find until they are gone.

    Args:
        idle_seconds: How long after its last message a space is idle.
    """

    def __init__(self, *, records: Records, queues: Queues, registry: AgentRegistry, idle_seconds: int) -> None:
        self._records = records
        self._queues = queues
        self._registry = registry
        self._idle_ms = idle_seconds * 1000
        self._next_release = 0.0

    async def see_to(self, tenant: TenantContext) -> str:
        """Look at a space that is due: put it to sleep if it is idle, end what was begun, or set its next time.

        Returns:
            `hibernated`, or `kept` when it is not idle or somebody else has seen to it.

        Raises:
            Unavailable: A dependency does not answer: it stays due.
        """
        item = await self._records.get(tenant, Key.space()) or {}
        if "releasing" in item:
            return "hibernated" if await self.finish(tenant) else "kept"
        if item.get("state") not in _AWAKE:
            await self._set_due(tenant, item, None)
            return "kept"
        used = max(item["last_accept"], item.get("active_since", 0))
        if item["state"] == SpaceState.WAKING.value:
            used = max(used, item["updated_at"])
        now = now_ms()
        if used + self._idle_ms > now:
            await self._set_due(tenant, item, used + self._idle_ms)
        elif item.get("open_tasks", 0) > 0:
            await self._set_due(tenant, item, now + min(self._idle_ms, _BUSY_MS))
        elif await self.begin(tenant, item):
            return "hibernated" if await self.finish(tenant) else "kept"
        return "kept"

    async def _set_due(self, tenant: TenantContext, item: Item, due_at: int | None) -> None:
        if "due_at" not in item:
            return
        as_read = All(Equals("due_at", item["due_at"]), Equals("state", item["state"]), Missing("releasing"))
        if due_at is None:
            change = Update(key=Key.space(), remove=["due_shard", "due_at"], when=as_read)
        else:
            change = Update(key=Key.space(), set={"due_shard": space_shard(tenant), "due_at": due_at}, when=as_read)
        try:
            await self._records.write(tenant, change)
        except ConditionFailed:
            _log.info("somebody else has seen to a space that was due")

    async def begin(self, tenant: TenantContext, item: Item, *also: Write) -> bool:
        """Let an awake space hibernate if nothing is open in it and nothing was accepted since it was read.

        Args:
            item: The space's record as read.
            also: Further writes that happen with it or not at all.
        """
        unused_since = All(
            Equals("state", item["state"]),
            Equals("epoch", item["epoch"]),
            Equals("generation", item["generation"]),
            Equals("last_accept", item["last_accept"]),
            nothing_open(),
        )
        try:
            await self._records.write(tenant, self.falling_asleep(tenant, item, when=unused_since), *also)
        except ConditionFailed:
            return False
        return True

    @staticmethod
    def falling_asleep(
        tenant: TenantContext, item: Item, *, when: Condition, changes: Mapping[str, Any] | None = None
    ) -> Update:
        """The change that takes a space's queue out of use; `finish` takes it away."""
        now, last = now_ms(), int(item["generation"])
        return Update(
            key=Key.space(),
            set={
                "state": SpaceState.HIBERNATING.value,
                "updated_at": now,
                "due_shard": space_shard(tenant),
                "due_at": now + _FINISH_LATER_MS,
                **(changes or {}),
            },
            # A space that was never awake has had no queue.
            include={"releasing": frozenset({str(last)})} if last else {},
            when=when,
        )

    async def finish(self, tenant: TenantContext) -> bool:
        """Take away the queues that are out of use, clear the cache, and let the space sleep if nobody woke it.

        Returns:
            Whether it is this call that has put it to sleep.

        Raises:
            Unavailable: A queue could not be released: the space stays due.
        """
        item = await self._records.get(tenant, Key.space())
        if item is None or item["state"] == SpaceState.DELETED.value:
            return False
        owed = {int(generation) for generation in item.get("releasing", ())}
        for generation in await self._to_release(tenant, owed):
            await self._pace()
            await self._queues.release(tenant, generation)
        await self._registry.forget(tenant)
        if item["state"] == SpaceState.HIBERNATING.value and await self._asleep(tenant, item):
            return True
        if owed:
            await self._released(tenant, owed)
        return False

    async def _to_release(self, tenant: TenantContext, owed: set[int]) -> Sequence[int]:
        if not owed:
            return []
        # Whoever died while it made a queue has left one that no record names.
        older = {generation for generation in await self._queues.generations(tenant) if generation <= max(owed)}
        return sorted(owed | older)

    async def _pace(self) -> None:
        """Lambda takes 15 control-plane calls a second from a whole account, and users who wake spaces come first."""
        await asyncio.sleep(self._next_release - time.monotonic())
        self._next_release = time.monotonic() + _PACE_SECONDS

    async def _asleep(self, tenant: TenantContext, item: Item) -> bool:
        nobody_woke_it = All(
            Equals("state", SpaceState.HIBERNATING.value),
            Equals("epoch", item["epoch"]),
            Equals("generation", item["generation"]),
            Missing("resetting"),
        )
        asleep = Update(
            key=Key.space(),
            set={"state": SpaceState.DORMANT.value, "updated_at": now_ms()},
            remove=["releasing", "due_shard", "due_at"],
            when=nobody_woke_it,
        )
        try:
            await self._records.write(tenant, asleep)
        except ConditionFailed:
            return False
        return True

    async def _released(self, tenant: TenantContext, owed: set[int]) -> None:
        """Note on a space that was woken meanwhile that nothing is owed any more."""
        done = Update(
            key=Key.space(),
            set={"due_shard": space_shard(tenant), "due_at": now_ms() + self._idle_ms},
            exclude={"releasing": frozenset(map(str, owed))},
            when=All(OneOf("state", _AWAKE), Exists("releasing")),
        )
        try:
            await self._records.write(tenant, done)
        except ConditionFailed:
            _log.info("a space that was woken has gone to sleep again")
