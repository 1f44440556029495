"""What agents remember: recall before a run, and what is kept after it."""

import logging
from collections.abc import Sequence
from typing import Final

from worker_space.clock import now_ms
from worker_space.errors import NotFound, ToolError, Unavailable
from worker_space.ports import ContextEntry, ContextMatch, ContextStore, Records
from worker_space.tenancy import Key, TenantContext

__all__ = ["AgentContext", "MemoryOfAgent"]

_ENTRY_CHARACTERS: Final = 6_000
_RECALLED: Final = 4
_log = logging.getLogger(__name__)


class AgentContext:
    """Each agent's own memory; no other agent's or tenant's is ever searched."""

    def __init__(self, store: ContextStore, records: Records) -> None:
        self._store = store
        self._records = records

    async def ensure_agent_collection(self, tenant: TenantContext, agent_id: str) -> None:
        await self._store.ensure(tenant, agent_id)

    async def search_context(
        self, tenant: TenantContext, agent_id: str, query: str, *, limit: int = _RECALLED
    ) -> Sequence[ContextMatch]:
        """The agent's best matches, best first."""
        return await self._store.search(tenant, agent_id, query, limit=limit)

    async def recall(
        self, tenant: TenantContext, agent_id: str, query: str, *, task_id: str
    ) -> tuple[Sequence[ContextMatch], str]:
        """What the agent remembers for a message, and `ok` or `unavailable`: memory that is down stops no answer."""
        try:
            found = await self.search_context(tenant, agent_id, query, limit=_RECALLED + 1)
        except Unavailable as error:
            _log.warning("recall is unavailable: %s", error)
            return [], "unavailable"
        return [match for match in found if match.entry.task_id != task_id][:_RECALLED], "ok"

    async def add_context(self, tenant: TenantContext, agent_id: str, entry: ContextEntry) -> None:
        """Store an entry; the same id replaces it.

        Raises:
            NotFound: The agent is gone.
            Unavailable: The memory does not answer.
        """
        try:
            await self._store.add(tenant, agent_id, entry)
        except NotFound:
            # A collection is made with its agent, but its store may have been down then. Never for a deleted agent.
            if await self._records.get(tenant, Key.agent(agent_id)) is None:
                raise
            await self._store.ensure(tenant, agent_id)
            await self._store.add(tenant, agent_id, entry)
            if await self._records.get(tenant, Key.agent(agent_id)) is None:
                # Deleted in between: its collection must not come back by this.
                await self._store.drop(tenant, agent_id)
                raise

    async def add_interaction(
        self, tenant: TenantContext, agent_id: str, *, task_id: str, session_id: str, question: str, answer: str
    ) -> None:
        """Keep a message and its answer; a repeat for the same task stores nothing twice."""
        half = _ENTRY_CHARACTERS // 2
        await self.add_context(
            tenant,
            agent_id,
            ContextEntry(
                id=task_id,
                text=f"User: {question[:half]}\nAnswer: {answer[:half]}",
                kind="interaction",
                created_at=now_ms(),
                task_id=task_id,
                session_id=session_id,
            ),
        )

    async def clear_context(self, tenant: TenantContext, agent_id: str) -> None:
        await self._store.drop(tenant, agent_id)


class MemoryOfAgent:
    """One agent's memory as its tools see it (`tools.AgentMemory`)."""

    def __init__(self, context: AgentContext, tenant: TenantContext, agent_id: str) -> None:
        self._context = context
        self._tenant = tenant
        self._agent_id = agent_id

    async def search(self, query: str, limit: int) -> Sequence[ContextMatch]:
        try:
            return await self._context.search_context(self._tenant, self._agent_id, query, limit=limit)
        except Unavailable as error:
            raise ToolError("your memory does not answer now: go on without it") from error

    async def remember(self, text: str, entry_id: str) -> None:
        entry = ContextEntry(id=entry_id, text=text, kind="note", created_at=now_ms())
        try:
            await self._context.add_context(self._tenant, self._agent_id, entry)
        except Unavailable as error:
            raise ToolError("your memory does not answer now, and nothing was stored: say so and go on") from error
