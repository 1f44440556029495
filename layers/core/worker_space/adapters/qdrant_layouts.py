"""Where agents' memories lie in Qdrant: each in a collection of its own, or all in one, kept apart by their owners.

One collection for each agent is the best wall, but a cluster bears about a thousand of them. In the shared one every
request carries the owner as a condition of its own, also those by point id, because Qdrant looks for ids without
asking whose they are.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from worker_space.adapters.qdrant_connection import CONFLICT, NOT_FOUND
from worker_space.adapters.qdrant_points import MARK, TEXT, dense_name, equals
from worker_space.ports import Embedder
from worker_space.tenancy import Names, TenantContext

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, models

__all__ = ["AgentCollections", "Layout", "SharedCollection", "add_missing_vector"]

_log = logging.getLogger(__name__)


class Layout(Protocol):
    """Answers for one of the two layouts; all calls run inside the caller's deadline."""

    shared: bool

    def collection(self, tenant: TenantContext, agent_id: str) -> str:
        """Where the agent's points are."""

    def mine(self, tenant: TenantContext, agent_id: str) -> "list[models.Condition]":
        """What every request to that collection must ask for."""

    async def ensure(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> None:
        """Make what is missing."""

    async def exists(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> bool:
        """Whether the agent has a memory, after something was stored for it without an error."""

    async def drop(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> None:
        """Delete the agent's memory."""


class AgentCollections:
    """A collection for each agent: its name says whose it is, so that no filter has to keep anybody apart.

    Args:
        embedder: Whose vectors the collections hold beside the words'; `None` for words alone.
    """

    shared = False

    def __init__(self, names: Names, embedder: Embedder | None) -> None:
        self._names = names
        self._embedder = embedder

    def collection(self, tenant: TenantContext, agent_id: str) -> str:
        return self._names.collection(tenant, agent_id)

    def mine(self, tenant: TenantContext, agent_id: str) -> "list[models.Condition]":
        return []

    async def ensure(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> None:
        """One request when everything is there."""
        await _ensure(client, self.collection(tenant, agent_id), _searched(), self._embedder)

    async def exists(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> bool:
        """What was stored lies in the agent's own collection, and would go with it."""
        return True

    async def drop(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> None:
        await client.delete_collection(self.collection(tenant, agent_id))


class SharedCollection:
    """One collection for the whole stack. A mark, a point without vectors, says that an agent has a memory.

    ```
     late writer   upsert ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ mark? gone: delete what was stored ✗ NotFound
     somebody              delete mark and entries
    ```

    The mark is asked for after the write: whoever deletes it later finds the entry, too. A writer that dies in between
    leaves a point that nobody finds, because its agent's id never comes again; the tenant's deletion takes it along.

    Args:
        embedder: Whose vectors the collection holds beside the words'; `None` for words alone.
    """

    shared = True

    def __init__(self, names: Names, embedder: Embedder | None) -> None:
        self._names = names
        self._embedder = embedder

    def collection(self, tenant: TenantContext, agent_id: str) -> str:
        return self._names.shared_collection

    def mine(self, tenant: TenantContext, agent_id: str) -> "list[models.Condition]":
        return equals(**self._names.owner(tenant, agent_id))

    async def ensure(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> None:
        """Two requests when everything is there."""
        from qdrant_client import models

        keyword = models.PayloadSchemaType.KEYWORD
        of_a_tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        indexed = {"tenant": of_a_tenant, "agent_id": keyword, "kind": keyword, **_searched()}
        await _ensure(client, self._names.shared_collection, indexed, self._embedder)
        mark = models.PointStruct(
            id=self._mark(tenant, agent_id),
            vector={},
            payload={**self._names.owner(tenant, agent_id), "kind": MARK},
        )
        await client.upsert(self._names.shared_collection, [mark], wait=True)

    async def exists(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> bool:
        from qdrant_client import models

        marked = models.Filter(
            must=[*self.mine(tenant, agent_id), models.HasIdCondition(has_id=[self._mark(tenant, agent_id)])]
        )
        return (await client.count(self._names.shared_collection, count_filter=marked, exact=True)).count > 0

    async def drop(self, client: "AsyncQdrantClient", tenant: TenantContext, agent_id: str) -> None:
        from qdrant_client import models

        mine = models.FilterSelector(filter=models.Filter(must=self.mine(tenant, agent_id)))
        await client.delete(self._names.shared_collection, mine, wait=True)

    def _mark(self, tenant: TenantContext, agent_id: str) -> str:
        # No entry has an empty id.
        return self._names.point(tenant, agent_id, "")


def _searched() -> Mapping[str, Any]:
    from qdrant_client import models

    schema = models.PayloadSchemaType
    return {"success": schema.BOOL, "generation": schema.INTEGER, "session_id": schema.KEYWORD}


async def _ensure(
    client: "AsyncQdrantClient", collection: str, indexed: Mapping[str, Any], embedder: Embedder | None
) -> None:
    """Make the collection, its indexes and its vectors, as far as they are missing."""
    from qdrant_client.http.exceptions import UnexpectedResponse

    there: Mapping[str, Any] = {}
    try:
        found = await client.get_collection(collection)
        there = found.payload_schema
        if embedder is not None and dense_name(embedder) not in _dense_names(found):
            await add_missing_vector(client, collection, embedder)
    except UnexpectedResponse as error:
        if error.status_code != NOT_FOUND:
            raise
        await _create(client, collection, embedder)
    # Qdrant Cloud refuses filters on fields without an index, and a creator may have died before this point.
    for field, schema in indexed.items():
        if field not in there:
            await client.create_payload_index(collection, field, schema)


def _dense_names(found: "models.CollectionInfo") -> set[str]:
    vectors = found.config.params.vectors
    return set(vectors) if isinstance(vectors, dict) else set()


async def _create(client: "AsyncQdrantClient", collection: str, embedder: Embedder | None) -> None:
    from qdrant_client import models
    from qdrant_client.http.exceptions import UnexpectedResponse

    dense = {}
    if embedder is not None:
        params = models.VectorParams(size=embedder.dimensions, distance=models.Distance.COSINE)
        dense[dense_name(embedder)] = params
    try:
        await client.create_collection(
            collection,
            vectors_config=dense,
            sparse_vectors_config={TEXT: models.SparseVectorParams(modifier=models.Modifier.IDF)},
        )
    except UnexpectedResponse as error:
        if error.status_code != CONFLICT:  # otherwise another invocation made it first
            raise


_CANNOT: Final = (400, 404, 405, 501)


async def add_missing_vector(client: "AsyncQdrantClient", collection: str, embedder: Embedder) -> None:
    """Give a collection made without an embedder, or with another, this one's vectors.

    What it holds already is found by its words as before. Older servers cannot do this: the collection then stays as
    it is, and so does everything that is stored in it.
    """
    from qdrant_client import models
    from qdrant_client.http.exceptions import UnexpectedResponse

    dense = models.DenseVectorConfig(size=embedder.dimensions, distance=models.Distance.COSINE)
    try:
        await client.create_vector_name(
            collection, dense_name(embedder), models.DenseVectorNameConfig(dense=dense), wait=True
        )
    except UnexpectedResponse as error:
        if error.status_code not in (*_CANNOT, CONFLICT):
            raise
        _log.info("a context collection has no vectors of %s: HTTP %s", embedder.space, error.status_code)
