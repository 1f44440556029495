"""Rehydration: the space and its agents, from the cache in one round trip or from the table in one query.

The cache is never trusted for a decision. It hands out copies stamped with a version, and the transactions that act
on one (accept, first claim) carry that version as a condition; who finds it old loads again from the table.

A fill that is under way while an agent changes must not bring back what was read before:

```
 reader    read_at = 1 ── query the table ────────────────────────── fill (read_at = 1)
 writer                                ── change ── clear, changed = 2
 anybody                                                                     changed 2 > read_at 1: as if empty
```
"""

import logging
from typing import Final

from worker_space.agent_records import agent_of, check_live
from worker_space.clock import now_ms
from worker_space.errors import Unavailable
from worker_space.home import Home, changed_field
from worker_space.ports import Cache, Records
from worker_space.projects import Space
from worker_space.tenancy import Key, TenantContext

__all__ = ["CACHE_TTL_SECONDS", "Rehydration"]

CACHE_TTL_SECONDS: Final = 300
_log = logging.getLogger(__name__)


class Rehydration:
    """Loads worker spaces, and keeps what the cache holds of them in order."""

    def __init__(self, records: Records, cache: Cache) -> None:
        self._records = records
        self._cache = cache

    async def home(self, tenant: TenantContext, *, fresh: bool = False) -> Home:
        """The space and its agents: from the cache in one round trip, else from the table in one query.

        Raises:
            NotFound: The user has no such project.
        """
        cache_answers = True
        if not fresh:
            try:
                fields = await self._cache.load(tenant)
                if (home := Home.of_cache(fields)) is not None:
                    return home
            except Unavailable:
                cache_answers = False
        read_at = now_ms()
        items = (await self._records.query(tenant, Key.home())).items
        check_live(tenant, items)
        home = Home(
            space=Space.model_validate(items[0]),
            agents={item["id"]: agent_of(item) for item in items[1:]},
            cached=False,
            read_at=read_at,
        )
        if cache_answers:
            await self._fill(tenant, home)
        return home

    async def _fill(self, tenant: TenantContext, home: Home) -> None:
        try:
            await self._cache.store(tenant, home.cache_fields, ttl_seconds=CACHE_TTL_SECONDS)
        except Unavailable as error:
            _log.info("the cache was not filled: %s", error)

    async def initialized(self, tenant: TenantContext, home: Home) -> None:
        """Note in the cache that these agents are ready, so that initialising them again costs one round trip."""
        try:
            await self._cache.store(tenant, home.ready_field, ttl_seconds=CACHE_TTL_SECONDS)
        except Unavailable as error:
            _log.info("what is initialised was not noted: %s", error)

    async def forget(self, tenant: TenantContext) -> bool:
        """Drop the project's cache. One that cannot be reached is left to its time to live: then False."""
        try:
            await self._cache.clear(tenant)
        except Unavailable as error:
            _log.info("the cache was not cleared: %s", error)
            return False
        return True

    async def changed(self, tenant: TenantContext) -> None:
        """Drop the project's cache, and have nobody take from it what was read before this moment."""
        try:
            await self._cache.clear(tenant)
            await self._cache.store(tenant, changed_field(now_ms()), ttl_seconds=CACHE_TTL_SECONDS)
        except Unavailable as error:
            _log.info("the cache was not cleared: %s", error)

    async def invalidate(self, tenant: TenantContext, target: str) -> None:
        """Drop one agent, named by its id or name, from the cache; who asks next loads all from the table."""
        try:
            home = Home.of_cache(await self._cache.load(tenant))
            agent = None if home is None else home.find(target)
            if agent is not None:
                await self._cache.forget(tenant, agent.id)
        except Unavailable as error:
            _log.info("an agent was not dropped from the cache: %s", error)
