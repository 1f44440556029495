"""Agent memory in Qdrant: found by words (BM25 with IDF) and, where there is an embedder, by meaning, fused by rank."""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from worker_space.adapters.qdrant_connection import WRONG_INPUT, QdrantConnection
from worker_space.adapters.qdrant_layouts import AgentCollections, Layout, SharedCollection, add_missing_vector
from worker_space.adapters.qdrant_points import (
    MARK,
    TEXT,
    Vector,
    dense_name,
    entry_of,
    equals,
    payload_of,
    vectors_of,
)
from worker_space.adapters.qdrant_remains import QdrantRemains
from worker_space.errors import InvalidRequest, NotFound, Unavailable
from worker_space.lexical import query_vector
from worker_space.ports import ContextEntry, ContextMatch, Embedder
from worker_space.tenancy import Names, TenantContext

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, models

__all__ = ["QdrantContext"]

_LEAST_CANDIDATES: Final = 40
_log = logging.getLogger(__name__)


class QdrantContext:
    """`ContextStore` on Qdrant's REST interface, for one event loop. It remembers no collection between calls.

    Args:
        url: QDRANT_URL; without a port, 6333.
        api_key: QDRANT_API_KEY; a key that reads and writes every collection of the stack.
        names: Spells collections, owners and points.
        embedder: Gives texts their dense vectors. While it does not answer, entries are stored and searched by their
            words alone, and are found by these for ever.
        layout: `collection` for each agent, or one `shared` by all.
        timeout_seconds: Deadline of each call. After a call without an answer further ones fail at once for 2 s.
        refused: Called when the server does not accept the key.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        names: Names,
        *,
        embedder: Embedder | None = None,
        layout: Literal["collection", "shared"] = "collection",
        timeout_seconds: float = 1.8,
        refused: Callable[[], None] | None = None,
    ) -> None:
        self._names = names
        self._embedder = embedder
        kind = SharedCollection if layout == "shared" else AgentCollections
        self._layout: Layout = kind(names, embedder)
        self._run = QdrantConnection(url, api_key, timeout_seconds=timeout_seconds, refused=refused)
        self._remains = QdrantRemains(self._run, names)

    async def ensure(self, tenant: TenantContext, agent_id: str) -> None:
        """Make sure that the agent's memory exists with its indexes; one or two requests when it does."""
        await self._run(lambda client: self._layout.ensure(client, tenant, agent_id))

    async def add(self, tenant: TenantContext, agent_id: str, entry: ContextEntry) -> None:
        """Store an entry under its deterministic point id; the same entry again replaces itself.

        Raises:
            NotFound: The agent's memory does not exist; it is not made.
        """
        dense = await self._dense(tenant, entry.text)
        collection = self._layout.collection(tenant, agent_id)
        point = self._names.point(tenant, agent_id, entry.id)
        payload = payload_of(self._names.owner(tenant, agent_id), entry)

        async def call(client: "AsyncQdrantClient") -> bool:
            from qdrant_client import models
            from qdrant_client.http.exceptions import UnexpectedResponse

            async def upsert(dense: Mapping[str, Vector]) -> None:
                made = models.PointStruct(id=point, vector=vectors_of(entry.text, dense), payload=payload)
                await client.upsert(collection, [made], wait=True)

            try:
                await upsert(dense)
            except UnexpectedResponse as error:
                if error.status_code != WRONG_INPUT or self._embedder is None or not dense:
                    raise
                # Made when there was no embedder, or another one.
                await add_missing_vector(client, collection, self._embedder)
                try:
                    await upsert(dense)
                except UnexpectedResponse as again:
                    if again.status_code != WRONG_INPUT:
                        raise
                    await upsert({})
            if await self._layout.exists(client, tenant, agent_id):
                return True
            await client.delete(collection, self._one(tenant, agent_id, point), wait=True)
            return False

        if not await self._run(call):
            raise NotFound("this agent has no context collection")

    async def search(
        self, tenant: TenantContext, agent_id: str, query: str, *, limit: int, generation: int = 1
    ) -> Sequence[ContextMatch]:
        """The best successful entries of this generation, best first, in one request.

        Empty without a memory or a meaningful word.
        """
        indices, values = query_vector(query)
        if not indices:
            return []
        dense = await self._dense(tenant, query)
        owner = self._names.owner(tenant, agent_id)

        async def call(client: "AsyncQdrantClient") -> Sequence[ContextMatch]:
            from qdrant_client import models
            from qdrant_client.http.exceptions import UnexpectedResponse

            words = models.SparseVector(indices=indices, values=values)
            mine = self._layout.mine(tenant, agent_id)
            wanted = models.Filter(must=[*mine, *equals(success=True, generation=generation)])

            async def query_points(dense: Mapping[str, Vector], corpus: bool) -> models.QueryResponse:
                asked = _asked(words, dense, wanted, limit, corpus=mine if corpus else [], ranks=self._layout.shared)
                collection = self._layout.collection(tenant, agent_id)
                return await client.query_points(
                    collection, query_filter=wanted, limit=limit, with_payload=True, **asked
                )

            try:
                answer = await query_points(dense, self._layout.shared)
            except UnexpectedResponse as error:
                if error.status_code != WRONG_INPUT or not (dense or self._layout.shared):
                    raise
                # The collection lacks these vectors, or the server is too old for what was asked beside the words.
                answer = await query_points({}, False)
            found = ((entry_of(owner, point.payload), point.score) for point in answer.points)
            return [ContextMatch(entry=entry, score=score) for entry, score in found if entry is not None]

        try:
            return await self._run(call)
        except NotFound:
            return []

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
        owner = self._names.owner(tenant, agent_id)

        async def call(client: "AsyncQdrantClient") -> tuple[Sequence[ContextEntry], str | None]:
            from qdrant_client import models

            must = self._layout.mine(tenant, agent_id)
            if generation is not None:
                must += equals(generation=generation)
            records, following = await client.scroll(
                self._layout.collection(tenant, agent_id),
                scroll_filter=models.Filter(must=must, must_not=equals(kind=MARK) if self._layout.shared else None),
                limit=limit,
                offset=after,
                with_payload=True,
            )
            found = (entry_of(owner, record.payload) for record in records)
            return [entry for entry in found if entry is not None], None if following is None else str(following)

        try:
            return await self._run(call)
        except NotFound:
            return [], None

    async def remove(self, tenant: TenantContext, agent_id: str, entry_id: str) -> bool:
        """Delete one entry; whether it was there."""
        collection = self._layout.collection(tenant, agent_id)

        async def call(client: "AsyncQdrantClient") -> bool:
            one = self._one(tenant, agent_id, self._names.point(tenant, agent_id, entry_id))
            if not (await client.count(collection, count_filter=one.filter, exact=True)).count:
                return False
            await client.delete(collection, one, wait=True)
            return True

        try:
            # An empty id would name the mark of a shared collection.
            return bool(entry_id) and await self._run(call)
        except NotFound:
            return False

    async def clear(self, tenant: TenantContext, agent_id: str, *, before: int) -> None:
        """Delete the entries of all generations below `before`; a missing memory is no error."""

        def earlier() -> "models.Condition":
            from qdrant_client import models

            return models.FieldCondition(key="generation", range=models.Range(lt=before))

        await self._delete(tenant, agent_id, earlier)

    async def forget_session(self, tenant: TenantContext, agent_id: str, session_id: str) -> None:
        """Delete the agent's entries of one session, in one request; a missing memory is no error."""
        await self._delete(tenant, agent_id, lambda: equals(session_id=session_id)[0])

    async def drop(self, tenant: TenantContext, agent_id: str) -> None:
        """Delete the agent's memory; a missing one is no error."""
        try:
            await self._run(lambda client: self._layout.drop(client, tenant, agent_id))
        except NotFound:
            return

    async def drop_all(self, tenant: TenantContext) -> None:
        """Delete the tenant's collections and its points in the shared one, whatever the layout is now."""
        await self._remains.drop_all(tenant)

    async def remains(self, tenant: TenantContext) -> int:
        """The tenant's collections and the points in them, and its points in the shared collection, asked anew."""
        return await self._remains.count(tenant)

    async def ping(self) -> None:
        """Ask the server for a sign of life, with the key that the other calls use."""
        await self._run(lambda client: client.collection_exists(self._names.prefix), even_if_open=True)

    async def close(self) -> None:
        """Close the connections; the next call would open new ones."""
        await self._run.close()

    # -- within ----------------------------------------------------------------------------------
    async def _dense(self, tenant: TenantContext, text: str) -> Mapping[str, Vector]:
        """The text's dense vector by its name; none without an embedder, or while that does not answer."""
        if self._embedder is None:
            return {}
        try:
            (vector,) = await self._embedder.embed(tenant, [text])
        except Unavailable as error:
            _log.warning("context is stored and searched by words alone: %s", error)
            return {}
        return {dense_name(self._embedder): vector}

    async def _delete(self, tenant: TenantContext, agent_id: str, which: "Callable[[], models.Condition]") -> None:
        """Delete those of the agent's entries for which a condition holds."""

        async def call(client: "AsyncQdrantClient") -> None:
            from qdrant_client import models

            these = models.FilterSelector(filter=models.Filter(must=[*self._layout.mine(tenant, agent_id), which()]))
            await client.delete(self._layout.collection(tenant, agent_id), these, wait=True)

        try:
            await self._run(call)
        except NotFound:
            return

    def _one(self, tenant: TenantContext, agent_id: str, point: str) -> "models.FilterSelector":
        """One point, if it is the agent's: a filter, because Qdrant takes plain ids from whoever names them."""
        from qdrant_client import models

        must = [*self._layout.mine(tenant, agent_id), models.HasIdCondition(has_id=[point])]
        return models.FilterSelector(filter=models.Filter(must=must))


def _asked(
    words: "models.SparseVector",
    dense: Mapping[str, Vector],
    wanted: "models.Filter",
    limit: int,
    *,
    corpus: "Sequence[models.Condition]",
    ranks: bool,
) -> dict[str, Any]:
    """What `query_points` is asked for: the words alone, or words and meaning fused by their ranks (RRF).

    Args:
        corpus: Whose entries say how rare a word is; without, all of the collection.
        ranks: Score by ranks in any case: in a shared collection a word's score would tell how many others use it.
    """
    from qdrant_client import models

    params = None
    if corpus:
        params = models.SearchParams(idf=models.IdfCorpusParams(corpus=models.Filter(must=list(corpus))))
    if not dense and not ranks:
        return {"query": words, "using": TEXT}
    # The server would pass the outer filter down; it is spelled at each leaf so that none depends on that.
    most = max(_LEAST_CANDIDATES, 4 * limit)
    by_words = models.Prefetch(query=words, using=TEXT, filter=wanted, params=params, limit=most)
    by_meaning = [
        models.Prefetch(query=list(vector), using=name, filter=wanted, limit=most) for name, vector in dense.items()
    ]
    return {"prefetch": [by_words, *by_meaning], "query": models.FusionQuery(fusion=models.Fusion.RRF)}
