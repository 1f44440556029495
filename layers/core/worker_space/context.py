"""What agents remember: recall before a run, and what is kept after it."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from worker_space.agent_records import as_known
from worker_space.agents import Agent
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Conflict, NotFound, ToolError, Unavailable
from worker_space.idempotency import Repeat, remember
from worker_space.ids import is_id, new_id
from worker_space.ports import ContextEntry, ContextMatch, ContextStore, Records
from worker_space.records import All, Check, Equals, OneOf, Update
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext

__all__ = ["AgentContext", "AgentContextStore", "MemoryOfAgent"]

_ENTRY_CHARACTERS: Final = 6_000
_RECALLED: Final = 4
_ENDED: Final = tuple(state.value for state in TaskState if state.ended)
_log = logging.getLogger(__name__)


class AgentContext:
    """Each agent's own memory; no other agent's or tenant's is ever searched.

    A clearing begins a new *generation*, which is kept with the agent. What is remembered bears the generation in which
    it was begun, and only the agent's own generation is ever recalled:

    ```
     a run    begun in generation 1 ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ kept in generation 1: found by nobody
     user                clears: the agent is at 2, entries below 2 go
    ```
    """

    def __init__(self, store: ContextStore, records: Records) -> None:
        self._store = store
        self._records = records

    def store_of(self, tenant: TenantContext, agent_id: str, *, generation: int) -> "AgentContextStore":
        """One agent's memory, bound to a generation; nothing is asked or made."""
        return AgentContextStore(self, self._store, tenant, agent_id, generation)

    async def ensure_agent_collection(self, tenant: TenantContext, agent_id: str) -> None:
        await self._store.ensure(tenant, agent_id)

    async def recall(
        self, tenant: TenantContext, agent: Agent, query: str, *, task_id: str
    ) -> tuple[Sequence[ContextMatch], str]:
        """What the agent remembers for a message, and `ok` or `unavailable`: memory that is down stops no answer.

        Args:
            task_id: The message's own task, which is no memory of itself.
        """
        store = self.store_of(tenant, agent.id, generation=agent.context_generation)
        try:
            found = await store.search(query, limit=_RECALLED + 1)
        except Unavailable as error:
            _log.warning("recall is unavailable: %s", error)
            return [], "unavailable"
        return [match for match in found if match.entry.task_id != task_id][:_RECALLED], "ok"

    async def add_context(self, tenant: TenantContext, agent_id: str, entry: ContextEntry) -> None:
        """Store an entry in the generation that it names; the same id replaces it.

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
        self,
        tenant: TenantContext,
        agent_id: str,
        *,
        generation: int,
        task_id: str,
        session_id: str,
        question: str,
        answer: str,
        success: bool = True,
    ) -> None:
        """Keep a message and its answer; a repeat for the same task stores nothing twice.

        Args:
            generation: The agent's when the task began.
            success: False for a task that failed; its interaction is listed but never recalled.
        """
        half = _ENTRY_CHARACTERS // 2
        entry = ContextEntry(
            id=task_id,
            text=f"User: {question[:half]}\nAnswer: {answer[:half]}",
            kind="interaction",
            created_at=now_ms(),
            task_id=task_id,
            session_id=session_id,
            success=success,
            generation=generation,
        )
        await self.add_context(tenant, agent_id, entry)

    async def add_note(
        self, tenant: TenantContext, agent: Agent, text: str, *, repeat: Repeat | None = None
    ) -> ContextEntry:
        """Keep a note; a repeated request keeps it once, and does not bring it back after a clearing.

        Raises:
            Conflict: The Idempotency-Key was used with another text, or the agent changes at the same time.
            NotFound: The agent is gone.
            Unavailable: The memory does not answer: nothing is kept, and the request may be repeated.
        """
        made = f"{new_id('note')} {now_ms()} {agent.context_generation}"
        if repeat is not None:
            # The same note may be given to several agents.
            repeat = replace(repeat, kind=f"{repeat.kind} of {agent.id}")
            known = Check(key=Key.agent(agent.id), when=as_known(agent))
            try:
                await self._records.write(tenant, remember(repeat, made), known)
            except ConditionFailed as error:
                earlier, current = error.items
                if earlier is None:
                    if not current:
                        raise NotFound(f"this project has no agent {agent.id!r}") from error
                    raise Conflict("the agent was changed at the same time: repeat the request") from error
                made = repeat.same(earlier)
        note_id, created_at, generation = made.split()
        note = ContextEntry(id=note_id, text=text, kind="note", created_at=int(created_at), generation=int(generation))
        await self.add_context(tenant, agent.id, note)
        return note

    async def forget(self, tenant: TenantContext, agent_id: str, entry_id: str) -> bool:
        """Delete one entry, for good; whether it was there."""
        if is_id("task", entry_id):
            ended = All(Equals("agent_id", agent_id), OneOf("state", _ENDED))
            try:
                # Whoever settles the task once more must not store it again.
                await self._records.write(tenant, Update(key=Key.task(entry_id), set={"forgotten": True}, when=ended))
            except ConditionFailed:
                _log.debug("there is no ended task of this agent behind the entry")
        return await self._store.remove(tenant, agent_id, entry_id)

    async def clear_context(self, tenant: TenantContext, agent: Agent) -> None:
        """Delete what the agent remembers from before its generation (`AgentRegistry.begin_context_generation`)."""
        await self._store.clear(tenant, agent.id, before=agent.context_generation)

    async def drop_context(self, tenant: TenantContext, agent_id: str) -> None:
        """Delete a deleted agent's memory; a missing one is no error."""
        await self._store.drop(tenant, agent_id)


class AgentContextStore:
    """One agent's memory as of one generation."""

    def __init__(
        self, context: AgentContext, store: ContextStore, tenant: TenantContext, agent_id: str, generation: int
    ) -> None:
        self._context = context
        self._store = store
        self._tenant = tenant
        self.agent_id = agent_id
        self.generation = generation

    async def search(self, query: str, *, limit: int) -> Sequence[ContextMatch]:
        """The agent's best matches, best first, failed interactions left out.

        Raises:
            Unavailable: The memory does not answer.
        """
        return await self._store.search(self._tenant, self.agent_id, query, limit=limit, generation=self.generation)

    async def entries(self, *, limit: int, after: str | None = None) -> tuple[Sequence[ContextEntry], str | None]:
        """A page of all that the agent remembers, in a fixed order that is not that of time, and where to go on.

        Raises:
            InvalidRequest: `after` is not from an earlier page.
            Unavailable: The memory does not answer.
        """
        return await self._store.entries(
            self._tenant, self.agent_id, limit=limit, after=after, generation=self.generation
        )

    async def add(self, entry: ContextEntry) -> None:
        """Store an entry in this generation, whatever it names; the same id replaces it.

        Raises:
            NotFound: The agent is gone.
            Unavailable: The memory does not answer.
        """
        await self._context.add_context(self._tenant, self.agent_id, replace(entry, generation=self.generation))


class MemoryOfAgent:
    """One agent's memory as its tools see it (`tools.AgentMemory`)."""

    def __init__(self, store: AgentContextStore) -> None:
        self._store = store

    async def search(self, query: str, limit: int) -> Sequence[ContextMatch]:
        try:
            return await self._store.search(query, limit=limit)
        except Unavailable as error:
            raise ToolError("your memory does not answer now: go on without it") from error

    async def remember(self, text: str, entry_id: str) -> None:
        entry = ContextEntry(id=entry_id, text=text, kind="note", created_at=now_ms())
        try:
            await self._store.add(entry)
        except Unavailable as error:
            raise ToolError("your memory does not answer now, and nothing was stored: say so and go on") from error
