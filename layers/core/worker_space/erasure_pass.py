"""One pass of an erasure: each store is cleared, then each is asked again what remains."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker_space.clearing import clear_items, count_items
from worker_space.clock import now_ms
from worker_space.erasure_receipts import ErasurePass, StoreCount
from worker_space.errors import Unavailable
from worker_space.ports import Cache, Content, ContextStore, Files, Queues, Records
from worker_space.records import Check, Delete
from worker_space.tenancy import Key, TenantContext

__all__ = ["Clearing", "Stores"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Store:
    """How a store is cleared, and asked what remains."""

    clear: Callable[[], Awaitable[int]]
    remains: Callable[[], Awaitable[int]]


class Stores:
    """All that a project has, wherever it is.

    Args:
        content: Texts too large for the table.
        files: The User Workspace, all versions of it.
    """

    def __init__(
        self,
        *,
        records: Records,
        cache: Cache,
        queues: Queues,
        memory: ContextStore,
        content: Content,
        files: Files,
    ) -> None:
        self._records = records
        self._cache = cache
        self._queues = queues
        self._memory = memory
        self._content = content
        self._files = files

    def of(self, tenant: TenantContext, generations: Sequence[int], *, while_holds: Check) -> Mapping[str, Store]:
        """In the order in which they are cleared: without its task a late worker can write nothing to the table.

        Args:
            generations: Of the project's queues, as far as known.
            while_holds: Stands beside every deletion from the table.
        """
        queues = _OldQueues(self._queues, tenant, generations)

        async def clear_table() -> int:
            tasks = await clear_items(self._records, tenant, Key.tasks(), while_holds=while_holds)
            rest = await clear_items(self._records, tenant, Key.everything(), while_holds=while_holds)
            requests = await self._requests(tenant)
            for key in requests:
                await self._records.write(tenant, Delete(key=key))
            return tasks + rest + len(requests)

        async def table_remains() -> int:
            return await count_items(self._records, tenant) + len(await self._requests(tenant))

        async def clear_cache() -> int:
            found = await self._cache.remains(tenant)
            await self._cache.clear(tenant)
            return found

        async def clear_memory() -> int:
            found = await self._memory.remains(tenant)
            await self._memory.drop_all(tenant)
            return found

        return {
            "table": Store(clear_table, table_remains),
            "cache": Store(clear_cache, lambda: self._cache.remains(tenant)),
            "mappings": Store(queues.clear, queues.mappings),
            "queues": Store(queues.cleared, queues.remaining),
            "memory": Store(clear_memory, lambda: self._memory.remains(tenant)),
            "contents": Store(lambda: self._content.erase(tenant), lambda: self._content.remains(tenant)),
            "files": Store(lambda: self._files.erase(tenant), lambda: self._files.remains(tenant)),
        }

    async def _requests(self, tenant: TenantContext) -> Sequence[Key]:
        """The Idempotency-Keys that made the project: they lie in the user's partition, and name it."""
        page = await self._records.query(tenant, Key.idempotencies("user"))
        return [Key(item["sk"], "user") for item in page.items if item.get("made") == tenant.project_id]


class _OldQueues:
    """A project's queues of all generations that are known or found, with their mappings."""

    def __init__(self, queues: Queues, tenant: TenantContext, known: Sequence[int]) -> None:
        self._queues = queues
        self._tenant = tenant
        self._known = set(known)
        self._found = 0

    async def clear(self) -> int:
        """Release all of them; returns how many mappings there were."""
        there = set(await self._queues.generations(self._tenant))
        self._found = len(there)
        self._known |= there
        mappings = await self.mappings()
        for generation in sorted(self._known):
            await self._queues.release(self._tenant, generation)
        return mappings

    async def cleared(self) -> int:
        return self._found

    async def mappings(self) -> int:
        return sum([await self._queues.mappings(self._tenant, generation) for generation in sorted(self._known)])

    async def remaining(self) -> int:
        return len(await self._queues.generations(self._tenant))


class Clearing:
    """One pass, as far as it has come; an earlier run's counts are added to.

    Attributes:
        unanswered: A store did not answer.
    """

    def __init__(self, stores: Mapping[str, Store], before: Mapping[str, Any] | None) -> None:
        self._stores = stores
        earlier = ErasurePass(began_at=now_ms()) if before is None else ErasurePass.model_validate(before)
        self._began_at = earlier.began_at
        self._deleted = {name: earlier.stores.get(name, StoreCount()).deleted for name in stores}
        self._remaining: dict[str, int] = {}
        self._cleared: set[str] = set()
        self._ended_at: int | None = None
        self.unanswered = False

    async def run(self) -> None:
        """Clear and ask all stores; one that does not answer does not keep the others waiting."""
        for name, store in self._stores.items():
            if (deleted := await self._answer(name, store.clear)) is not None:
                self._deleted[name] += deleted
                self._cleared.add(name)
        for name, store in self._stores.items():
            if (remaining := await self._answer(name, store.remains)) is not None:
                self._remaining[name] = remaining
        self._ended_at = now_ms()

    async def _answer(self, name: str, ask: Callable[[], Awaitable[int]]) -> int | None:
        try:
            return await ask()
        except Unavailable as error:
            _log.warning("an erasure waits for its %s: %s", name, error)
            self.unanswered = True
            return None

    @property
    def done(self) -> bool:
        """Every store was cleared and asked again."""
        return self._cleared == self._remaining.keys() == self._stores.keys()

    @property
    def nothing_remains(self) -> bool:
        """Every store has said so."""
        return self.done and not any(self._remaining.values())

    @property
    def result(self) -> ErasurePass:
        """The counts so far."""
        stores = {
            name: StoreCount(
                found=self._deleted[name] + self._remaining.get(name, 0),
                deleted=self._deleted[name],
                remaining=self._remaining.get(name),
            )
            for name in self._stores
        }
        return ErasurePass(began_at=self._began_at, ended_at=self._ended_at if self.done else None, stores=stores)
