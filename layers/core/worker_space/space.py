"""`UserWorkerSpace`: the face of one (user, project) pair's backend resources.

Stateless between invocations: whatever it knows, it reads through the cache or from the table each time. Each
operation is a line or two over the collaborator that owns the behaviour.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker_space.agents import Agent, AgentChanges, AgentConfig
from worker_space.bus import AgentBus, Sent
from worker_space.context import AgentContext
from worker_space.errors import NotFound, Unavailable
from worker_space.execution import Execution, Reply
from worker_space.idempotency import Repeat
from worker_space.messages import MessageRequest, OnBusy
from worker_space.ports import ContextEntry, ContextMatch
from worker_space.registry import AgentRegistry
from worker_space.sessions import ChatSessions
from worker_space.tasks import Task
from worker_space.tenancy import TenantContext

__all__ = ["Collaborators", "UserWorkerSpace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """Who does the work behind every worker space; none of them holds anything of a tenant."""

    registry: AgentRegistry
    bus: AgentBus
    context: AgentContext
    execution: Execution
    sessions: ChatSessions


class UserWorkerSpace:
    """The worker space of one user's project."""

    def __init__(self, tenant: TenantContext, parts: Collaborators) -> None:
        self.tenant = tenant
        self.sessions = parts.sessions
        self._registry = parts.registry
        self._bus = parts.bus
        self._context = parts.context
        self._execution = parts.execution

    async def initialize(self) -> Sequence[Agent]:
        """Load the agents, fill the cache and make sure that each agent's memory exists; repeating it changes nothing.

        Raises:
            NotFound: The user has no such project.
        """
        home = await self._registry.home(self.tenant)
        await asyncio.gather(*(self._ensure(agent.id) for agent in home.agents.values()))
        return list(home.agents.values())

    async def _ensure(self, agent_id: str) -> None:
        try:
            await self._context.ensure_agent_collection(self.tenant, agent_id)
        except Unavailable:
            # The collection is made with the first memory that is kept (`AgentContext.add_context`).
            return

    # -- agents ----------------------------------------------------------------------------------
    async def get_agent(self, target: str) -> Agent:
        """The agent with this id or name: cache first, then the table.

        Raises:
            NotFound: The project has no such agent.
        """
        home = await self._registry.home(self.tenant)
        if (agent := home.find(target)) is not None:
            return agent
        return await self._registry.get(self.tenant, target)

    async def reload_agent(self, target: str) -> Agent:
        """The agent from the table; the cache is filled anew."""
        home = await self._registry.home(self.tenant, fresh=True)
        if (agent := home.find(target)) is None:
            raise NotFound(f"this project has no agent {target[:80]!r}")
        return agent

    async def clear_agent_cache(self) -> None:
        """Drop this project's cache, in one command; no other project's keys are looked at."""
        await self._registry.forget(self.tenant)

    async def list_agents(self) -> Sequence[Agent]:
        """All agents, cache first; what decides reads the table."""
        return list((await self._registry.home(self.tenant)).agents.values())

    async def create_agent(self, config: AgentConfig, *, repeat: Repeat | None = None) -> Agent:
        agent = await self._registry.create(self.tenant, config, repeat=repeat)
        await self._ensure(agent.id)
        return agent

    async def update_agent(self, target: str, changes: AgentChanges) -> Agent:
        agent = await self._registry.update(self.tenant, target, changes)
        if changes.max_concurrency is not None:
            await self._bus.release_parked(self.tenant, agent.id)
        return agent

    async def delete_agent(self, target: str) -> None:
        """Take an agent and its memory away; its waiting tasks fail and say so."""
        agent = await self._registry.delete(self.tenant, target)
        await self._bus.release_parked(self.tenant, agent.id)
        try:
            await self._context.clear_context(self.tenant, agent.id)
        except Unavailable:
            # Nothing finds it any more: the agent's id is gone for ever. The project's deletion clears it.
            return

    # -- bus -------------------------------------------------------------------------------------
    async def send_task(
        self,
        session_id: str,
        content: str,
        target_agent: str | None,
        *,
        on_busy: OnBusy = "enqueue",
        repeat: Repeat | None = None,
    ) -> Sent:
        return await self._bus.send_task(
            self.tenant,
            session_id=session_id,
            content=content,
            target_agent=target_agent,
            on_busy=on_busy,
            repeat=repeat,
        )

    async def wait_for_result(self, sent: Sent, *, seconds: float) -> Reply:
        return await self._execution.reply(self.tenant, sent, wait_seconds=seconds)

    async def cancel_task(self, task_id: str) -> Task:
        return await self._bus.cancel_task(self.tenant, task_id)

    async def get_agent_status(self, agent_id: str) -> Mapping[str, int]:
        return await self._bus.status(self.tenant, agent_id)

    # -- context ---------------------------------------------------------------------------------
    async def search_context(self, agent_id: str, query: str, *, limit: int = 5) -> Sequence[ContextMatch]:
        return await self._context.search_context(self.tenant, agent_id, query, limit=limit)

    async def add_context(self, agent_id: str, entry: ContextEntry) -> None:
        await self._context.add_context(self.tenant, agent_id, entry)

    # -- execution -------------------------------------------------------------------------------
    async def direct_execution(
        self, session_id: str, request: MessageRequest, *, wait_seconds: float, repeat: Repeat | None = None
    ) -> Reply:
        """Send a message straight to its agent and wait for the answer."""
        return await self._execution.direct_execution(
            self.tenant, session_id, request, wait_seconds=wait_seconds, repeat=repeat
        )
