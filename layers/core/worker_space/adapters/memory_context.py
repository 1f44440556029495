"""Agent memory in this process's memory, for tests and the in-memory stack."""

import threading
import uuid
from collections.abc import Sequence

from worker_space.errors import InvalidRequest, NotFound
from worker_space.lexical import AVERAGE_LENGTH, score
from worker_space.ports import ContextEntry, ContextMatch
from worker_space.tenancy import Names, TenantContext

__all__ = ["MemoryContext"]


class MemoryContext:
    """`ContextStore` with Qdrant's semantics and its BM25 scores. Safe under threads.

    Args:
        names: Spells collections and points.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._lock = threading.Lock()
        self._collections: dict[str, dict[str, ContextEntry]] = {}

    async def ensure(self, tenant: TenantContext, agent_id: str) -> None:
        """Make sure that the agent's collection exists."""
        with self._lock:
            self._collections.setdefault(self._names.collection(tenant, agent_id), {})

    async def add(self, tenant: TenantContext, agent_id: str, entry: ContextEntry) -> None:
        """Store an entry under its deterministic point id.

        Raises:
            NotFound: The collection does not exist; it is not made.
        """
        with self._lock:
            collection = self._collections.get(self._names.collection(tenant, agent_id))
            if collection is None:
                raise NotFound("this agent has no context collection")
            collection[self._names.point(tenant, agent_id, entry.id)] = entry

    async def search(
        self, tenant: TenantContext, agent_id: str, query: str, *, limit: int, generation: int = 1
    ) -> Sequence[ContextMatch]:
        """The best successful entries of this generation, best first; empty without a collection or meaningful word."""
        entries = [entry for _, entry in self._sorted(tenant, agent_id)]
        # Scored before they are filtered: to Qdrant too a word's rarity is one in the whole collection.
        scores = score(query, [entry.text for entry in entries], average_length=AVERAGE_LENGTH)
        matches = [
            ContextMatch(entry=entry, score=value)
            for entry, value in zip(entries, scores, strict=True)
            if value > 0 and entry.success and entry.generation == generation
        ]
        return sorted(matches, key=lambda match: -match.score)[:limit]

    async def entries(
        self,
        tenant: TenantContext,
        agent_id: str,
        *,
        limit: int,
        after: str | None = None,
        generation: int | None = None,
    ) -> tuple[Sequence[ContextEntry], str | None]:
        """A page of the agent's entries, in order of their point ids, and where to go on.

        Raises:
            InvalidRequest: `after` is not from an earlier page.
        """
        if after is not None:
            try:
                after = str(uuid.UUID(after))
            except ValueError:
                raise InvalidRequest(
                    f"{after[:80]!r} is no place in a context listing: use the one a page gave"
                ) from None
        points = [
            (point, entry)
            for point, entry in self._sorted(tenant, agent_id)
            if (after is None or point >= after) and generation in (None, entry.generation)
        ]
        following = points[limit][0] if len(points) > limit else None
        return [entry for _, entry in points[:limit]], following

    async def remove(self, tenant: TenantContext, agent_id: str, entry_id: str) -> bool:
        """Delete one entry; whether it was there."""
        with self._lock:
            collection = self._collections.get(self._names.collection(tenant, agent_id), {})
            return collection.pop(self._names.point(tenant, agent_id, entry_id), None) is not None

    async def clear(self, tenant: TenantContext, agent_id: str, *, before: int) -> None:
        """Delete the entries of all generations below `before`; a missing memory is no error."""
        with self._lock:
            collection = self._collections.get(self._names.collection(tenant, agent_id), {})
            for point in [point for point, entry in collection.items() if entry.generation < before]:
                del collection[point]

    async def forget_session(self, tenant: TenantContext, agent_id: str, session_id: str) -> None:
        """Delete the agent's entries of one session; a missing memory is no error."""
        with self._lock:
            collection = self._collections.get(self._names.collection(tenant, agent_id), {})
            for point in [point for point, entry in collection.items() if entry.session_id == session_id]:
                del collection[point]

    async def drop(self, tenant: TenantContext, agent_id: str) -> None:
        """Delete the agent's collection; a missing one is no error."""
        with self._lock:
            self._collections.pop(self._names.collection(tenant, agent_id), None)

    async def drop_all(self, tenant: TenantContext) -> None:
        """Delete all collections of the tenant."""
        with self._lock:
            for name in self._mine(tenant):
                del self._collections[name]

    async def remains(self, tenant: TenantContext) -> int:
        """How many collections and entries of the tenant there are."""
        with self._lock:
            return sum(1 + len(self._collections[name]) for name in self._mine(tenant))

    async def ping(self) -> None:
        """Memory is always there."""

    def _sorted(self, tenant: TenantContext, agent_id: str) -> list[tuple[str, ContextEntry]]:
        with self._lock:
            return sorted(self._collections.get(self._names.collection(tenant, agent_id), {}).items())

    def _mine(self, tenant: TenantContext) -> list[str]:
        return [name for name in self._collections if name.startswith(self._names.collections(tenant))]
