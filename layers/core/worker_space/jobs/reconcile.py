"""Finds queues and mappings that nobody knows of any more, and takes them away.

They are made and released while the service runs, outside CloudFormation. Whoever dies between two steps, and whatever
was restored, erased or deleted by hand, may leave some behind: a queue costs polls as long as it has a mapping. A space
lists what it has: the queue of its generation while it is awake or falls asleep, and those that it is still releasing.

```
 waking a space   record: waking, generation 4 ───── queue 4 made ───── mapping made
 this job                       reads the record: 4 is listed, or queue 4 is younger than the age of an orphan
```

A record is written before its queue is made, and a generation is not used twice while the record is there. So a queue
that no record lists now will never be listed again, save where a project was erased and made anew: therefore the record
is read once more directly before the removal, and a project whose queue went all the same makes it again.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

from worker_space.clock import now_ms
from worker_space.errors import InvalidRequest, Unavailable
from worker_space.ports import FoundMapping, FoundQueues, Queues, SpacesByToken
from worker_space.projects import SpaceState
from worker_space.records import Item
from worker_space.tenancy import Names, TenantContext

__all__ = ["RECONCILED", "Reconciler"]

RECONCILED: Final = (
    "queues",
    "mappings",
    "removed_queues",
    "removed_mappings",
    "mended",
    "young",
    "left",
    "unfinished",
)
"""What a run tells of: queues and mappings looked at; those removed; queues in use that had lost their mapping and have
one again; orphans too young to be removed; orphans that could not be removed; and 1 if the time was over before all was
looked at."""

_RECORDS_AT_ONCE: Final = 100
_WITH_A_QUEUE: Final = (SpaceState.WAKING.value, SpaceState.ACTIVE.value, SpaceState.HIBERNATING.value)
_log = logging.getLogger(__name__)


class _OverError(Exception):
    """The run's time is over."""


class Reconciler:
    """Compares what there is with what the spaces' records list.

    Args:
        inventory: What there is; it paces its calls.
        queues: Makes a mapping again that a queue in use has lost; `None` where projects share queues.
        orphan_seconds: How old a queue must be, or how long a mapping unchanged, to be an orphan.
    """

    def __init__(
        self, *, inventory: FoundQueues, spaces: SpacesByToken, queues: Queues | None, names: Names, orphan_seconds: int
    ) -> None:
        self._inventory = inventory
        self._spaces = spaces
        self._queues = queues
        self._names = names
        self._orphan_ms = orphan_seconds * 1000

    async def reconcile(self, *, seconds: float) -> dict[str, int]:
        """Look at everything, for at most `seconds`; what is not reached is left to the next run.

        Returns:
            How many there were of each of `RECONCILED`.

        Raises:
            Unavailable: Queues, mappings or records cannot be listed.
        """
        run = _Run(until=time.monotonic() + seconds)
        try:
            await self._look_at_queues(run)
            await self._look_at_mappings(run)
        except _OverError:
            run.counts["unfinished"] = 1
        if run.counts["removed_queues"] or run.counts["removed_mappings"] or run.counts["left"]:
            _log.warning("queues or mappings were orphaned: %s", run.counts)
        return run.counts

    # -- queues that no record lists -----------------------------------------------------------------------
    async def _look_at_queues(self, run: "_Run") -> None:
        async for page in self._inventory.queues():
            run.check_time()
            run.counts["queues"] += len(page)
            for at in range(0, len(page), _RECORDS_AT_ONCE):
                names = page[at : at + _RECORDS_AT_ONCE]
                records = await self._records(names)
                for name in names:
                    run.check_time()
                    run.known[name] = records[name]
                    if not self._lists(records[name], name):
                        await self._see_to_queue(run, name)

    async def _see_to_queue(self, run: "_Run", name: str) -> None:
        try:
            made_at = await self._inventory.made_at(name)
            if made_at is None:
                return
            if made_at > now_ms() - self._orphan_ms:
                run.counts["young"] += 1
                return
            mappings = await self._inventory.mappings_of(name)
            if self._lists((await self._records([name]))[name], name):
                return
            for mapping in mappings:
                await self._inventory.remove_mapping(mapping)
                run.counts["removed_mappings"] += 1
            await self._inventory.remove_queue(name)
            run.counts["removed_queues"] += 1
        except Unavailable as error:
            # Its name may hold a user's id.
            _log.warning("an orphaned queue is left to the next run: %s", error)
            run.counts["left"] += 1

    # -- mappings without a queue, and queues without a mapping ----------------------------------------------
    async def _look_at_mappings(self, run: "_Run") -> None:
        mapped: set[str] = set()
        async for page in self._inventory.mappings():
            run.check_time()
            run.counts["mappings"] += len(page)
            for mapping in page:
                run.check_time()
                mapped.add(mapping.queue)
                if mapping.queue not in run.known:
                    await self._see_to_mapping(run, mapping)
        if self._queues is None:
            return
        for name, record in run.known.items():
            if record is not None and name not in mapped and self._is_active(record, name):
                run.check_time()
                await self._mend(run, self._queues, name, record)

    async def _see_to_mapping(self, run: "_Run", mapping: FoundMapping) -> None:
        try:
            if await self._inventory.made_at(mapping.queue) is not None:
                return  # made while this ran
            if mapping.changed_at > now_ms() - self._orphan_ms:
                run.counts["young"] += 1
                return
            await self._inventory.remove_mapping(mapping)
            run.counts["removed_mappings"] += 1
        except Unavailable as error:
            _log.warning("an orphaned mapping is left to the next run: %s", error)
            run.counts["left"] += 1

    async def _mend(self, run: "_Run", queues: Queues, name: str, record: Item) -> None:
        """Without its mapping, nobody takes what is sent to a queue, for as long as its project is used."""
        try:
            made_at = await self._inventory.made_at(name)
            if made_at is None or made_at > now_ms() - self._orphan_ms:
                return
            await queues.create(TenantContext(record["user_id"], record["project_id"]), record["generation"])
            run.counts["mended"] += 1
        except (InvalidRequest, Unavailable) as error:
            _log.warning("a queue in use has no mapping and could not be given one: %s", error)
            run.counts["left"] += 1

    # -- what the records say ----------------------------------------------------------------------------------
    async def _records(self, names: Sequence[str]) -> Mapping[str, Item | None]:
        tokens = {name: owner.token for name in names if (owner := self._names.queue_owner(name)) is not None}
        wanted = list(dict.fromkeys(tokens.values()))
        found = dict(zip(wanted, await self._spaces.spaces(wanted), strict=True))
        return {name: found[token] for name, token in tokens.items()}

    def _lists(self, record: Item | None, name: str) -> bool:
        """Whether the space has this queue, or will see to it itself."""
        owner = self._names.queue_owner(name)
        if record is None or owner is None:
            return False
        if str(owner.generation) in record.get("releasing", ()):
            return True
        return record["state"] in _WITH_A_QUEUE and record["generation"] == owner.generation

    def _is_active(self, record: Item, name: str) -> bool:
        return record["state"] == SpaceState.ACTIVE.value and self._lists(record, name)


class _Run:
    """One run, as far as it has come."""

    def __init__(self, *, until: float) -> None:
        self._until = until
        self.counts = dict.fromkeys(RECONCILED, 0)
        # The queues that were found, each with its space's record.
        self.known: dict[str, Item | None] = {}

    def check_time(self) -> None:
        if time.monotonic() >= self._until:
            raise _OverError
