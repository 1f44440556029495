"""The cache in this process's memory, for tests and the in-memory stack."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from worker_space.tenancy import Names, TenantContext

__all__ = ["MemoryCache"]


class MemoryCache:
    """`Cache` with Redis' semantics: one time to live per hash, renewed by every `store`. Safe under threads.

    Args:
        names: Spells the keys.
        clock: Seconds; tests move it.
    """

    def __init__(self, names: Names, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._names = names
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[float, dict[str, str]]] = {}

    async def load(self, tenant: TenantContext) -> Mapping[str, str]:
        """All fields of the tenant's hash; empty when there is none."""
        with self._lock:
            return dict(self._live(self._names.cached_agents(tenant)))

    async def store(self, tenant: TenantContext, fields: Mapping[str, str], *, ttl_seconds: int) -> None:
        """Set these fields and the hash's time to live; nothing without fields."""
        if not fields:
            return
        key = self._names.cached_agents(tenant)
        with self._lock:
            self._entries[key] = (self._clock() + ttl_seconds, {**self._live(key), **fields})

    async def forget(self, tenant: TenantContext, field: str) -> None:
        """Drop one field."""
        with self._lock:
            self._live(self._names.cached_agents(tenant)).pop(field, None)

    async def clear(self, tenant: TenantContext) -> None:
        """Drop the tenant's hash and signs."""
        with self._lock:
            for key in self._keys(tenant):
                self._entries.pop(key, None)

    async def remains(self, tenant: TenantContext) -> int:
        """The fields of the tenant's hash and its signs."""
        with self._lock:
            return sum(len(self._live(key)) for key in self._keys(tenant))

    async def wake(self, tenant: TenantContext, task_id: str, *, ttl_seconds: int) -> None:
        """Leave the sign that a task has ended."""
        key, expires_at = self._names.ended_tasks(tenant), self._clock() + ttl_seconds
        with self._lock:
            signs = {sign: until for sign, until in self._live(key).items() if float(until) > self._clock()}
            self._entries[key] = (expires_at, {**signs, task_id: str(expires_at)})

    async def woken(self, tenant: TenantContext, task_id: str) -> bool:
        """Whether that sign is there."""
        with self._lock:
            until = self._live(self._names.ended_tasks(tenant)).get(task_id)
        return until is not None and float(until) > self._clock()

    async def ping(self) -> None:
        """Memory is always there."""

    def _keys(self, tenant: TenantContext) -> Sequence[str]:
        return self._names.cached_agents(tenant), self._names.ended_tasks(tenant)

    def _live(self, key: str) -> dict[str, str]:
        expires_at, fields = self._entries.get(key, (0.0, {}))
        if key in self._entries and expires_at <= self._clock():
            del self._entries[key]
            return {}
        return fields
