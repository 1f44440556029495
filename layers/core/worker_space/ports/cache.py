"""The cache and wake-up: never the truth."""

from collections.abc import Mapping
from typing import Protocol

from worker_space.tenancy import TenantContext

__all__ = ["Cache"]


class Cache(Protocol):
    """Redis: faster, never needed. A cache that is down raises `Unavailable`, within 2 s."""

    async def load(self, tenant: TenantContext) -> Mapping[str, str]:
        """All fields of the tenant's hash, in one round trip; empty when there is none."""

    async def store(self, tenant: TenantContext, fields: Mapping[str, str], *, ttl_seconds: int) -> None:
        """Set these fields and the hash's time to live, in one round trip."""

    async def forget(self, tenant: TenantContext, field: str) -> None:
        """Drop one field."""

    async def clear(self, tenant: TenantContext) -> None:
        """Drop the tenant's hash and signs, in one command; no other tenant's keys are looked at."""

    async def remains(self, tenant: TenantContext) -> int:
        """How many fields and signs there are of the tenant, asked anew in one round trip."""

    async def wake(self, tenant: TenantContext, task_id: str, *, ttl_seconds: int) -> None:
        """Leave the sign that a task has ended, in one round trip. All signs go with the latest one at the latest."""

    async def woken(self, tenant: TenantContext, task_id: str) -> bool:
        """Whether that sign is there."""

    async def ping(self) -> None:
        """Ask the server for a sign of life."""
