"""How many bytes a project's files have in all, kept within its limit.

The store itself knows no sum, so an item keeps one: a file that grows is counted before it is stored, one that shrinks
after. Whatever is in doubt (a worker died, an upload was allowed and never made) is counted; a count by listing puts it
right, once a day and, at most once a minute, before anything is refused.

```
 write    hold 10 (bytes 100 → 110) ──── store ──── let go of the hold
 recount        reads the item ── lists 100 or 110 ── bytes = listed + held ✓ only if nothing changed since
 delete   reads recounts = 7 ──── delete 30 ──── bytes - 30 ✓ only if recounts is still 7: else it was counted without
```

An address for an upload can be used again until it expires, also when the file was deleted or made smaller meanwhile.
So what such a file gives up stays counted as long as the address may be used.

Only what the files are now is counted, not the earlier versions that a bucket may keep.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from worker_space.agent_records import IS_LIVE
from worker_space.allowances import day_of
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, LimitReached, Unavailable
from worker_space.ports import Files, Records
from worker_space.projects import no_project
from worker_space.records import All, AtMost, Check, Condition, Equals, Exists, Item, Missing, Update
from worker_space.tenancy import Key, TenantContext

__all__ = ["HOLD_SECONDS", "FileMeter"]

_KEY: Final = Key.usage("files")
_HELD: Final = "held:"
HOLD_SECONDS: Final = 60
"""For how long bytes that are being stored are held at least."""
_RECOUNT_MS: Final = 60_000
_RECOUNT_SECONDS: Final = 10.0
_MAX_HELD: Final = 1_000
_TRIES: Final = 8
_log = logging.getLogger(__name__)


def _holds(item: Item) -> Mapping[str, Mapping[str, Any]]:
    return {name: value for name, value in item.items() if name.startswith(_HELD)}


def _mark(path: str) -> str:
    """What stands for a path in a hold: there may be a thousand of them in one item."""
    return hashlib.sha256(path.encode()).hexdigest()[:16]


class FileMeter:
    """Keeps the sum of one deployment's projects, each on an item of its own."""

    def __init__(self, files: Files, records: Records) -> None:
        self._files = files
        self._records = records

    @asynccontextmanager
    async def growing(self, tenant: TenantContext, size: int, limit: int) -> AsyncIterator[None]:
        """Count `size` more bytes while they are stored; a store that refuses them (`ConditionFailed`) gives them back.

        Raises:
            LimitReached: They do not fit.
            NotFound: There is no such project (any more).
        """
        name, recounts = await self.hold(tenant, size, limit, seconds=HOLD_SECONDS)
        try:
            yield
        except ConditionFailed:
            await self._let_go(tenant, name)
            await self._subtract(tenant, size, recounts)
            raise
        await self._let_go(tenant, name)

    @asynccontextmanager
    async def shrinking(self, tenant: TenantContext, path: str, size: int) -> AsyncIterator[None]:
        """Count `size` bytes less once that many of a file are gone for good."""
        item = await self._records.get(tenant, _KEY) or {}
        now, mark = now_ms(), _mark(path)
        may_come_back = any(held.get("path") == mark and held["until"] > now for held in _holds(item).values())
        yield
        if size and "recounts" in item and not may_come_back:
            await self._subtract(tenant, size, item["recounts"])

    async def hold(
        self, tenant: TenantContext, size: int, limit: int, *, seconds: int, path: str | None = None
    ) -> tuple[str, int]:
        """Count bytes that are about to be stored, within so many seconds.

        Args:
            path: The file that may be stored more than once within that time.

        Returns:
            The hold's name, and how often the files had been counted by listing before it.

        Raises:
            LimitReached: They do not fit.
            NotFound: There is no such project (any more).
        """
        name = f"{_HELD}{secrets.token_hex(8)}"
        of = {} if path is None else {"path": _mark(path)}
        for _ in range(_TRIES):
            item = await self._counted(tenant, size, limit)
            now = now_ms()
            expired = [held for held, value in _holds(item).items() if value["until"] <= now]
            if len(_holds(item)) - len(expired) >= _MAX_HELD:
                raise LimitReached("too many uploads are under way in this project: let some end", retry_after=60)
            still_fits = All(Equals("recounts", item["recounts"]), AtMost("bytes", limit - size))
            held = Update(
                key=_KEY,
                set={name: {"bytes": size, "until": now + seconds * 1000, **of}},
                add={"bytes": size, "revision": 1},
                remove=expired[:50],
                when=still_fits,
            )
            try:
                await self._records.write(tenant, held, Check(key=Key.space(), when=IS_LIVE))
                return name, int(item["recounts"])
            except ConditionFailed as error:
                _check_live(tenant, error)
        raise Unavailable("the table", "the sum of the project's files changed at every try")

    async def _counted(self, tenant: TenantContext, size: int, limit: int) -> Item:
        """The item, when there is room for `size` more bytes.

        Raises:
            LimitReached: There is not, and that was found out by listing within the last minute.
        """
        for _ in range(_TRIES):
            item = await self._records.get(tenant, _KEY) or {}
            now = now_ms()
            if item.get("day") == day_of(now):
                if item["bytes"] + size <= limit:
                    return item
                if now - item["counted_at"] < _RECOUNT_MS:
                    raise LimitReached(
                        f"the project's files have {item['bytes']} bytes of at most {limit}, and {size} more do not"
                        " fit: delete some files first",
                        retry_after=None,
                        limit="file_bytes",
                    )
            await self._recount(tenant, item)
        raise Unavailable("the table", "the sum of the project's files changed at every try")

    async def _recount(self, tenant: TenantContext, item: Item) -> None:
        """Put the sum right by listing; changes nothing when something changed meanwhile."""
        listed = await self._listed(tenant, item)
        now = now_ms()
        live = {name: value for name, value in _holds(item).items() if value["until"] > now}
        as_read: Condition = Equals("revision", item["revision"]) if item else Missing("sk")
        right = Update(
            key=_KEY,
            set={
                "bytes": listed + sum(value["bytes"] for value in live.values()),
                "day": day_of(now),
                "counted_at": now,
            },
            add={"recounts": 1, "revision": 1},
            remove=[name for name in _holds(item) if name not in live],
            when=as_read,
        )
        try:
            await self._records.write(tenant, right, Check(key=Key.space(), when=IS_LIVE))
        except ConditionFailed as error:
            _check_live(tenant, error)

    async def _listed(self, tenant: TenantContext, item: Item) -> int:
        after, total = None, 0
        try:
            async with asyncio.timeout(_RECOUNT_SECONDS):
                while True:
                    page = await self._files.list(tenant, recursive=True, after=after)
                    total += sum(info.size for info in page.files)
                    if page.after is None:
                        return total
                    after = page.after
        except TimeoutError as error:
            if "bytes" not in item:
                raise Unavailable("the file store", "the project has too many files to be counted") from error
            _log.warning("the files of a project are too many to be counted; the sum stays as it is")
            held = sum(int(value["bytes"]) for value in _holds(item).values())
            return max(0, int(item["bytes"]) - held)

    async def _let_go(self, tenant: TenantContext, name: str) -> None:
        try:
            done = Update(key=_KEY, add={"revision": 1}, remove=[name], when=Exists(name))
            await self._records.write(tenant, done)
        except (ConditionFailed, Unavailable) as error:
            # A recount drops it when its time is over; until then it may be counted twice.
            _log.info("a hold on a project's files stays until its time is over: %s", error)

    async def _subtract(self, tenant: TenantContext, size: int, recounts: int) -> None:
        """Count less, unless the files were counted by listing since: they were then counted without these bytes."""
        less = Update(key=_KEY, add={"bytes": -size, "revision": 1}, when=Equals("recounts", recounts))
        try:
            await self._records.write(tenant, less)
        except (ConditionFailed, Unavailable) as error:
            _log.info("%d bytes stay counted until the next count by listing: %s", size, error)


def _check_live(tenant: TenantContext, error: ConditionFailed) -> None:
    if error.items[1] is not None:
        raise no_project(tenant.project_id) from error
