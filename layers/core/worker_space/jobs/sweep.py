"""Find what is overdue and set it going again: the one clock that no worker has to keep."""

import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from worker_space.clock import now_ms
from worker_space.errors import Lost, RequestError, Unavailable
from worker_space.ports import DueItems
from worker_space.records import Item
from worker_space.serving import serving
from worker_space.telemetry import Fact, logged_with
from worker_space.tenancy import Key, TenantContext

__all__ = ["COUNTS", "DueHandler", "Sweeper"]

COUNTS: Final = ("sent", "failed", "canceled", "settled", "expired", "hibernated", "erased", "kept", "left")
"""What a sweep tells of: tasks that were sent again, that failed, or were canceled because their space was reset; what
else was owed and is settled (memory, announcements, half-done resets and deletions); approvals and reservations that
expired; spaces put to sleep; erasures certified; what was looked at and is as it should be; and what could not be done
and is left for the next sweep."""

DueHandler = Callable[[TenantContext, Item], Awaitable[str]]
"""Sees to one due item, which may be some moments old, and names what it did, one of `COUNTS`."""

_PAGE: Final = 25
_log = logging.getLogger(__name__)


class Sweeper:
    """Hands what is due to whoever sees to its kind.

    Reads one sparse index, never a whole table. Handlers change nothing without a condition, so two sweeps at once, or
    a sweep beside a worker, do nothing twice.

    Args:
        handlers: By the kind of key (`Key.kind`).
        shards: The places of the index, looked at in turns: a crowd in one does not keep the others waiting.
    """

    def __init__(self, *, due: DueItems, handlers: Mapping[str, DueHandler], shards: Sequence[str]) -> None:
        self._due = due
        self._handlers = handlers
        self._shards = shards

    async def sweep(self, *, seconds: float) -> dict[str, int]:
        """Work on what is due, the oldest first, for at most `seconds`; only what was begun by then is ended.

        Returns:
            How many there were of each of `COUNTS`.
        """
        until = time.monotonic() + seconds
        counts = dict.fromkeys(COUNTS, 0)
        places = [_Place(shard) for shard in self._shards]
        while places and time.monotonic() < until:
            for place in list(places):
                if not (page := await place.next_page(self._due)):
                    places.remove(place)
                for tenant, item in page:
                    if time.monotonic() >= until:
                        return counts
                    counts[await self._see_to(tenant, item)] += 1
        return counts

    async def _see_to(self, tenant: TenantContext, item: Item) -> str:
        with logged_with(**_about(tenant, item)), serving(tenant):
            done = await self._done(tenant, item)
            if done not in {"kept", "left"}:
                _log.info("an overdue %s was %s", Key(item["sk"]).kind.lower(), done)
        return done

    async def _done(self, tenant: TenantContext, item: Item) -> str:
        kind = Key(item["sk"]).kind
        try:
            return await self._handlers[kind](tenant, item)
        except Unavailable as error:
            _log.warning("an item of kind %s stays overdue: %s", kind, error)
        except RequestError as error:
            # Its text is for whoever sent a request, and may quote it.
            _log.warning("an item of kind %s stays overdue: %s", kind, type(error).__name__)
        except Lost:
            _log.info("an item of kind %s was seen to by somebody else", kind)
            return "kept"
        except Exception as error:  # noqa: BLE001 - said and gone past, whatever it is
            # An item that cannot be read (of another release, say) must not keep the others waiting. The error's own
            # text may quote the item, so its place has to do.
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s cannot be seen to: %s\n%s", item["sk"], type(error).__name__, where)
        return "left"


def _about(tenant: TenantContext, item: Item) -> dict[str, Fact]:
    about: dict[str, Fact] = {"tenant": tenant.pseudonym}
    if isinstance(ticket := item.get("ticket"), Mapping):
        about |= {"task_id": str(item.get("id", "")), "correlation_id": str(ticket.get("trace", ""))}
    return about


class _Place:
    """How far one shard has been looked through in this sweep."""

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._before = now_ms()
        self._since = 0
        # Of the newest time on the last page: that many may be listed again at the head of the next one.
        self._seen: set[tuple[TenantContext, str]] = set()

    async def next_page(self, due: DueItems) -> Sequence[tuple[TenantContext, Item]]:
        """The next items, each once: what was seen to is gone from the index, a moment later, or is due later."""
        found = await due.due(self._shard, self._before, _PAGE + len(self._seen), since=self._since)
        fresh = [(tenant, item) for tenant, item in found if (tenant, item["sk"]) not in self._seen]
        if fresh:
            newest = int(fresh[-1][1]["due_at"])
            if newest > self._since:
                self._since, self._seen = newest, set()
            self._seen |= {(tenant, item["sk"]) for tenant, item in fresh if item["due_at"] == newest}
        return fresh
