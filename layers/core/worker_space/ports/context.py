"""Agents' memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from worker_space.tenancy import TenantContext

__all__ = ["ContextEntry", "ContextMatch", "ContextStore", "Embedder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextEntry:
    """One thing an agent remembers.

    Attributes:
        id: Names the entry within the agent (a task's id, say); storing it again replaces it.
        text: What is remembered and searched.
        kind: `interaction` (a message and its answer) or `note` (said to be remembered).
        created_at: Epoch milliseconds.
        success: False for an interaction that failed; such are not recalled.
    """

    id: str
    text: str
    kind: str
    created_at: int
    task_id: str | None = None
    session_id: str | None = None
    success: bool = True
    generation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextMatch:
    """An entry that a search found; scores are comparable within one search only."""

    entry: ContextEntry
    score: float


class ContextStore(Protocol):
    """Agent memory. What one agent stored, no other agent or tenant finds."""

    async def ensure(self, tenant: TenantContext, agent_id: str) -> None:
        """Make sure that the agent's memory exists; cheap when it does."""

    async def add(self, tenant: TenantContext, agent_id: str, entry: ContextEntry) -> None:
        """Store an entry under its deterministic point id.

        Raises:
            NotFound: The agent's memory does not exist (a late writer must not bring an erased one back).
        """

    async def search(
        self, tenant: TenantContext, agent_id: str, query: str, *, limit: int, generation: int = 1
    ) -> Sequence[ContextMatch]:
        """The best successful entries of this context generation, best first.

        Empty without a memory, and for a query without a word that carries meaning.
        """

    async def entries(
        self,
        tenant: TenantContext,
        agent_id: str,
        *,
        limit: int,
        after: str | None = None,
        generation: int | None = None,
    ) -> tuple[Sequence[ContextEntry], str | None]:
        """A page of the agent's entries, failed ones too, and where to go on.

        Args:
            generation: Only entries of this one; `None` lists also what was cleared and is left.
        """

    async def remove(self, tenant: TenantContext, agent_id: str, entry_id: str) -> bool:
        """Delete one entry; whether it was there."""

    async def clear(self, tenant: TenantContext, agent_id: str, *, before: int) -> None:
        """Delete the entries of all generations below `before`; a missing memory is no error."""

    async def forget_session(self, tenant: TenantContext, agent_id: str, session_id: str) -> None:
        """Delete the agent's entries of one session, of all generations; a missing memory is no error."""

    async def drop(self, tenant: TenantContext, agent_id: str) -> None:
        """Delete the agent's memory with all it holds; a missing one is no error."""

    async def drop_all(self, tenant: TenantContext) -> None:
        """Delete all memory of the tenant, also of agents that nobody knows any more and of the other layout."""

    async def remains(self, tenant: TenantContext) -> int:
        """How many memories and entries of the tenant still exist, asked anew; 0 when nothing is left."""

    async def ping(self) -> None:
        """Ask the server for a sign of life."""


class Embedder(Protocol):
    """Turns texts into vectors whose nearness is nearness in meaning."""

    @property
    def space(self) -> str:
        """Names what its vectors may be compared with: another model's, or another length's, has another name."""

    @property
    def dimensions(self) -> int:
        """The length of each vector."""

    async def embed(self, tenant: TenantContext, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, in their order. Long texts may be cut.

        Raises:
            Unavailable: There is no usable answer, for whatever reason: go on without vectors.
        """
