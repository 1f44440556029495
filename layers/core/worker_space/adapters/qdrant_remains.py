"""All that Qdrant holds of a tenant, in both layouts: to be deleted for good, and to be asked for afterwards."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from worker_space.adapters.qdrant_connection import QdrantConnection
from worker_space.adapters.qdrant_points import equals
from worker_space.errors import NotFound
from worker_space.tenancy import Names, TenantContext

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, models

__all__ = ["QdrantRemains"]


class QdrantRemains:
    """Looks at the tenant's collections and into the shared one: the layout may have been another before."""

    def __init__(self, run: QdrantConnection, names: Names) -> None:
        self._run = run
        self._names = names

    async def drop_all(self, tenant: TenantContext) -> None:
        """Delete the tenant's collections and its points in the shared one. Each request has a deadline of its own."""
        for collection in await self._collections(tenant):
            await self._delete_collection(collection)

        async def call(client: "AsyncQdrantClient") -> None:
            from qdrant_client import models

            of_tenant = models.FilterSelector(filter=self._of(tenant))
            await client.delete(self._names.shared_collection, of_tenant, wait=True)

        try:
            await self._run(call)
        except NotFound:
            return

    async def count(self, tenant: TenantContext) -> int:
        """The tenant's collections, the points in them, and its points in the shared one."""
        remaining = await self._points(self._names.shared_collection, self._of(tenant))
        for collection in await self._collections(tenant):
            remaining += 1 + await self._points(collection, None)
        return remaining

    def _of(self, tenant: TenantContext) -> "models.Filter":
        from qdrant_client import models

        return models.Filter(must=equals(**self._names.owner(tenant)))

    async def _collections(self, tenant: TenantContext) -> Sequence[str]:
        # Qdrant lists all names or none. The tenant's are told by a beginning that no other tenant's name has.
        answer = await self._run(lambda client: client.get_collections())
        mine = self._names.collections(tenant)
        return [found.name for found in answer.collections if found.name.startswith(mine)]

    async def _delete_collection(self, collection: str) -> None:
        try:
            await self._run(lambda client: client.delete_collection(collection))
        except NotFound:
            return

    async def _points(self, collection: str, wanted: "models.Filter | None") -> int:
        try:
            answer = await self._run(lambda client: client.count(collection, count_filter=wanted, exact=True))
        except NotFound:
            return 0
        return answer.count
