"""Agent memory in Qdrant: one collection per agent, so that no filter has to keep agents or tenants apart.

Importing the client takes over a second in a cold environment. It happens on first use, in a worker thread, and
outside the deadline of the call that needed it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from worker_space.adapters.breaker import Breaker
from worker_space.errors import InvalidRequest, NotFound, Unavailable
from worker_space.lexical import query_vector, sparse_vector
from worker_space.ports import ContextEntry, ContextMatch
from worker_space.tenancy import Names, TenantContext

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient

__all__ = ["QdrantContext"]

_T = TypeVar("_T")

_DEPENDENCY: Final = "qdrant"
_TEXT: Final = "text"
_FILTERED: Final = {"success": "bool", "generation": "integer"}
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_SERVER_ERROR: Final = 500


def _client(url: str, api_key: str | None) -> "AsyncQdrantClient":
    import httpx
    from qdrant_client import AsyncQdrantClient

    return AsyncQdrantClient(
        url=url,
        # As a header: given as `api_key` it makes the client warn about plain HTTP, which the embedded stack speaks.
        headers={"api-key": api_key} if api_key else None,
        check_compatibility=False,
        # The deadline is the breaker's; this one only ends a request that nobody waits for any more.
        timeout=5,
        # Without limits of ours the client opens a new connection for every request to this machine.
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=8),
    )


def _failure(error: Exception) -> str | None:
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

    if isinstance(error, UnexpectedResponse):
        return f"HTTP {error.status_code}" if (error.status_code or _SERVER_ERROR) >= _SERVER_ERROR else None
    if isinstance(error, ResponseHandlingException):
        return type(error.source).__name__
    # The client asserts the shape of an answer, or stumbles over it.
    if isinstance(error, (ApiException, AssertionError, AttributeError, LookupError, TypeError, ValueError)):
        return type(error).__name__
    return None


class QdrantContext:
    """`ContextStore` on Qdrant's REST interface, for one event loop. It remembers no collection between calls.

    Args:
        url: QDRANT_URL; without a port, 6333.
        api_key: QDRANT_API_KEY; a key that reads and writes every collection of the stack.
        names: Spells collections and points.
        timeout_seconds: Deadline of each call. After a call without an answer further ones fail at once for 2 s.
    """

    def __init__(self, url: str, api_key: str | None, names: Names, *, timeout_seconds: float = 1.8) -> None:
        self._url = url
        self._api_key = api_key
        self._names = names
        self._breaker = Breaker(_DEPENDENCY, _failure, timeout_seconds=timeout_seconds)
        self._connecting = asyncio.Lock()
        self._connected: AsyncQdrantClient | None = None

    async def ensure(self, tenant: TenantContext, agent_id: str) -> None:
        """Make sure that the agent's collection exists with its indexes; one request when it does."""
        collection = self._names.collection(tenant, agent_id)

        async def call(client: "AsyncQdrantClient") -> None:
            from qdrant_client import models
            from qdrant_client.http.exceptions import UnexpectedResponse

            indexed: Mapping[str, Any] = {}
            try:
                indexed = (await client.get_collection(collection)).payload_schema
            except UnexpectedResponse as error:
                if error.status_code != _NOT_FOUND:
                    raise
                await self._create(client, collection)
            # Qdrant Cloud refuses filters on fields without an index, and a creator may have died before this point.
            for field, kind in _FILTERED.items():
                if field not in indexed:
                    await client.create_payload_index(collection, field, models.PayloadSchemaType(kind))

        await self._run(call)

    async def add(self, tenant: TenantContext, agent_id: str, entry: ContextEntry) -> None:
        """Store an entry under its deterministic point id; the same entry again replaces itself.

        Raises:
            NotFound: The collection does not exist; it is not made.
        """

        async def call(client: "AsyncQdrantClient") -> None:
            from qdrant_client import models

            indices, values = sparse_vector(entry.text)
            await client.upsert(
                self._names.collection(tenant, agent_id),
                [
                    models.PointStruct(
                        id=self._names.point(tenant, agent_id, entry.id),
                        vector={_TEXT: models.SparseVector(indices=indices, values=values)},
                        payload=_payload(tenant, agent_id, entry),
                    )
                ],
                wait=True,
            )

        await self._run(call)

    async def search(
        self, tenant: TenantContext, agent_id: str, query: str, *, limit: int, generation: int = 1
    ) -> Sequence[ContextMatch]:
        """The best successful entries of this generation, best first; empty without a collection or meaningful word."""
        indices, values = query_vector(query)
        if not indices:
            return []

        async def call(client: "AsyncQdrantClient") -> Sequence[ContextMatch]:
            from qdrant_client import models

            answer = await client.query_points(
                self._names.collection(tenant, agent_id),
                query=models.SparseVector(indices=indices, values=values),
                using=_TEXT,
                query_filter=models.Filter(
                    must=[
                        models.FieldCondition(key="success", match=models.MatchValue(value=True)),
                        models.FieldCondition(key="generation", match=models.MatchValue(value=generation)),
                    ]
                ),
                limit=limit,
                with_payload=True,
            )
            found = ((_entry(tenant, agent_id, point.payload), point.score) for point in answer.points)
            return [ContextMatch(entry=entry, score=score) for entry, score in found if entry is not None]

        try:
            return await self._run(call)
        except NotFound:
            return []

    async def entries(
        self, tenant: TenantContext, agent_id: str, *, limit: int, after: str | None = None
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

        async def call(client: "AsyncQdrantClient") -> tuple[Sequence[ContextEntry], str | None]:
            records, following = await client.scroll(
                self._names.collection(tenant, agent_id), limit=limit, offset=after, with_payload=True
            )
            found = (_entry(tenant, agent_id, record.payload) for record in records)
            return [entry for entry in found if entry is not None], None if following is None else str(following)

        try:
            return await self._run(call)
        except NotFound:
            return [], None

    async def drop(self, tenant: TenantContext, agent_id: str) -> None:
        """Delete the agent's collection; a missing one is no error."""
        try:
            await self._run(lambda client: client.delete_collection(self._names.collection(tenant, agent_id)))
        except NotFound:
            return

    async def ping(self) -> None:
        """Ask the server for a sign of life, with the key that the other calls use."""
        await self._run(lambda client: client.collection_exists(self._names.prefix), even_if_open=True)

    async def close(self) -> None:
        """Close the connections; the next call would open new ones."""
        client, self._connected = self._connected, None
        if client is not None:
            await client.close()

    async def _create(self, client: "AsyncQdrantClient", collection: str) -> None:
        from qdrant_client import models
        from qdrant_client.http.exceptions import UnexpectedResponse

        try:
            await client.create_collection(
                collection,
                vectors_config={},
                sparse_vectors_config={_TEXT: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            )
        except UnexpectedResponse as error:
            if error.status_code != _CONFLICT:  # otherwise another invocation made it first
                raise

    async def _run(self, call: Callable[["AsyncQdrantClient"], Awaitable[_T]], *, even_if_open: bool = False) -> _T:
        async with self._connecting:
            if self._connected is None:
                self._connected = await asyncio.to_thread(_client, self._url, self._api_key)
            client = self._connected
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import UnexpectedResponse

        try:
            return await self._breaker(lambda: call(client), even_if_open=even_if_open)
        except UnexpectedResponse as error:
            if error.status_code == _NOT_FOUND:
                raise NotFound("this agent has no context collection") from error
            raise Unavailable(_DEPENDENCY, f"HTTP {error.status_code}") from error
        except QdrantException as error:
            raise Unavailable(_DEPENDENCY, "HTTP 429") from error


def _payload(tenant: TenantContext, agent_id: str, entry: ContextEntry) -> dict[str, Any]:
    return {
        "tenant": tenant.token,
        "agent_id": agent_id,
        "id": entry.id,
        "text": entry.text,
        "kind": entry.kind,
        "created_at": entry.created_at,
        "task_id": entry.task_id,
        "session_id": entry.session_id,
        "success": entry.success,
        "generation": entry.generation,
    }


def _entry(tenant: TenantContext, agent_id: str, payload: Mapping[str, Any] | None) -> ContextEntry | None:
    """The entry of a payload; `None` for one that is not this agent's, which no collection of ours holds."""
    if payload is None or (payload.get("tenant"), payload.get("agent_id")) != (tenant.token, agent_id):
        return None
    return ContextEntry(
        id=payload["id"],
        text=payload["text"],
        kind=payload["kind"],
        created_at=payload["created_at"],
        task_id=payload.get("task_id"),
        session_id=payload.get("session_id"),
        success=payload["success"],
        generation=payload["generation"],
    )
