"""`UserWorkerSpace`: the face of one (user, project) pair's backend resources.

Stateless between invocations: whatever it knows, it reads through the cache or from the table each time. Each
operation is a line or two over the collaborator that owns the behaviour.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worker_space.agent_status import AgentMetrics, AgentStatus
from worker_space.agents import Agent, AgentChanges, AgentConfig
from worker_space.bus import AgentBus, Sent
from worker_space.cleanup import Cancellation, Cleanup, CleanupReport
from worker_space.context import AgentContext, AgentContextStore
from worker_space.errors import NotFound, Unavailable
from worker_space.execution import Execution, Reply
from worker_space.idempotency import Repeat
from worker_space.messages import MessageRequest, OnBusy
from worker_space.ports import ContextEntry, ContextMatch
from worker_space.registry import AgentRegistry
from worker_space.reset import Reset, ResetReport
from worker_space.runtimes import AgentRuntimes
from worker_space.sessions import ChatSessions
from worker_space.tasks import Task
from worker_space.tenancy import TenantContext
from worker_space.vitals import SpaceHealth, SpaceMetrics, Vitals

__all__ = ["Collaborators", "UserWorkerSpace"]

_STOP_SECONDS: Final = 10.0
_RESET_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """Who does the work behind every worker space; none of them holds anything of a tenant."""

    registry: AgentRegistry
    runtimes: AgentRuntimes
    bus: AgentBus
    context: AgentContext
    execution: Execution
    sessions: ChatSessions
    cleanup: Cleanup
    reset: Reset
    vitals: Vitals


class UserWorkerSpace:
    """The worker space of one user's project."""

    def __init__(self, tenant: TenantContext, parts: Collaborators) -> None:
        self.tenant = tenant
        self.sessions = parts.sessions
        self._registry = parts.registry
        self._runtimes = parts.runtimes
        self._bus = parts.bus
        self._context = parts.context
        self._execution = parts.execution
        self._cleanup = parts.cleanup
        self._reset = parts.reset
        self._vitals = parts.vitals

    async def initialize(self) -> Sequence[Agent]:
        """Load the agents, fill the cache, make sure that each agent's memory exists, and register each on the bus.

        Repeating it changes nothing, and costs one round trip to the cache while that remembers.

        Raises:
            NotFound: The user has no such project.
        """
        home = await self._registry.home(self.tenant)
        if home.initialized:
            return list(home.agents.values())
        if home.cached:
            # What is noted as initialised lives as long as the fill it belongs to.
            home = await self._registry.home(self.tenant, fresh=True)
        agents = list(home.agents.values())
        ensured, _ = await asyncio.gather(
            asyncio.gather(*(self._ensure(agent.id) for agent in agents)), self._runtimes.register(self.tenant, agents)
        )
        if all(ensured):
            await self._registry.initialized(self.tenant, home)
        return agents

    async def _ensure(self, agent_id: str) -> bool:
        try:
            await self.ensure_agent_collection(agent_id)
        except Unavailable:
            # The collection is made with the first memory that is kept (`AgentContext.add_context`).
            return False
        return True

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

    async def invalidate_agent(self, target: str) -> None:
        """Have the cache forget one agent, by its id or name; what it holds otherwise stays."""
        await self._registry.invalidate(self.tenant, target)

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

    async def restore_agent(self, target: str, version: int, *, repeat: Repeat | None = None) -> Agent:
        """Make a new version of an agent that equals an earlier one."""
        agent = await self._registry.restore(self.tenant, target, version, repeat=repeat)
        # The limit may have grown by it.
        await self._bus.release_parked(self.tenant, agent.id)
        return agent

    async def delete_agent(self, target: str) -> None:
        """Take an agent and its memory away; its waiting tasks fail and say so."""
        agent = await self._registry.delete(self.tenant, target)
        await self._bus.release_parked(self.tenant, agent.id)
        await self._bus.fail_waiting(self.tenant, agent.id)
        try:
            await self._context.drop_context(self.tenant, agent.id)
        except Unavailable:
            # Nothing finds it any more: the agent's id is gone for ever. The project's deletion clears it.
            return

    # -- bus -------------------------------------------------------------------------------------
    async def register_agent(self, target: str) -> Agent:
        """Have the bus give an agent messages; one that is registered stays as it is.

        Raises:
            NotFound: The project has no such agent.
        """
        agent = await self._registry.get(self.tenant, target)
        await self._runtimes.register(self.tenant, [agent])
        return agent

    async def deregister_agent(self, target: str) -> Agent:
        """Have the bus give an agent no new messages; what it was given before, it still answers.

        Raises:
            NotFound: The project has no such agent.
        """
        agent = await self._registry.get(self.tenant, target)
        await self._runtimes.deregister(self.tenant, [agent.id])
        # Else `initialize` would go by what the cache remembers, and leave the agent as it is.
        await self._registry.forget(self.tenant)
        return agent

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

    async def get_agent_status(self, target: str) -> AgentStatus:
        return await self._runtimes.status(self.tenant, await self._registry.get(self.tenant, target))

    async def get_agent_metrics(self, target: str) -> AgentMetrics:
        return await self._runtimes.metrics(self.tenant, (await self._registry.get(self.tenant, target)).id)

    # -- context ---------------------------------------------------------------------------------
    async def ensure_agent_collection(self, agent_id: str) -> None:
        """Make sure that an agent's context collection exists; cheap when it does."""
        await self._context.ensure_agent_collection(self.tenant, agent_id)

    async def get_agent_context_store(self, target: str) -> AgentContextStore:
        """The memory of one agent, by its id or name, and no other's.

        Raises:
            NotFound: The project has no such agent.
        """
        agent = await self._registry.get(self.tenant, target)
        return self._context.store_of(self.tenant, agent.id, generation=agent.context_generation)

    async def search_context(self, target: str, query: str, *, limit: int = 5) -> Sequence[ContextMatch]:
        """What an agent remembers about `query`, best first."""
        return await (await self.get_agent_context_store(target)).search(query, limit=limit)

    async def add_context(self, target: str, entry: ContextEntry) -> None:
        """Have an agent remember something; the same entry id replaces it."""
        await (await self.get_agent_context_store(target)).add(entry)

    async def add_note(self, target: str, text: str, *, repeat: Repeat | None = None) -> ContextEntry:
        """Have an agent remember a note."""
        agent = await self._registry.get(self.tenant, target)
        return await self._context.add_note(self.tenant, agent, text, repeat=repeat)

    async def remove_context(self, target: str, entry_id: str) -> bool:
        """Have an agent forget one entry; whether it remembered it."""
        agent = await self._registry.get(self.tenant, target)
        return await self._context.forget(self.tenant, agent.id, entry_id)

    async def clear_context(self, target: str) -> None:
        """Have an agent forget everything, also what it is about to remember of what it has begun.

        Raises:
            NotFound: The project has no such agent.
            Unavailable: The memory does not answer. Nothing of it is found any more, but it lies there: repeat this.
        """
        agent = await self._registry.begin_context_generation(self.tenant, target)
        await self._context.clear_context(self.tenant, agent)

    # -- execution -------------------------------------------------------------------------------
    async def direct_execution(
        self, session_id: str, request: MessageRequest, *, wait_seconds: float, repeat: Repeat | None = None
    ) -> Reply:
        """Send a message straight to the agent that it names, and wait for the answer."""
        return await self._execution.direct_execution(
            self.tenant, session_id, request, wait_seconds=wait_seconds, repeat=repeat
        )

    async def orchestrated_execution(
        self, session_id: str, request: MessageRequest, *, wait_seconds: float, repeat: Repeat | None = None
    ) -> Reply:
        """Let the orchestrator choose an agent or plan over the project's agents, and wait for the answer."""
        return await self._execution.orchestrated_execution(
            self.tenant, session_id, request, wait_seconds=wait_seconds, repeat=repeat
        )

    async def handle_message(
        self, session_id: str, request: MessageRequest, *, wait_seconds: float, repeat: Repeat | None = None
    ) -> Reply:
        """Answer a message directly where it or its session names an agent, orchestrated where none is named."""
        return await self._execution.handle_message(
            self.tenant, session_id, request, wait_seconds=wait_seconds, repeat=repeat
        )

    # -- lifecycle -------------------------------------------------------------------------------
    async def cancel_all_tasks(self, *, seconds: float = 0.0) -> Cancellation:
        """Cancel every open task; `seconds` is how long to wait for those that run."""
        return await self._cleanup.cancel_all_tasks(self.tenant, seconds=seconds)

    async def cleanup(self, *, seconds: float = _STOP_SECONDS) -> CleanupReport:
        """Cancel active tasks, deregister the agents, clear the cache, give the queue back; files and memory stay."""
        return await self._cleanup.cleanup(self.tenant, seconds=seconds)

    async def reset(self, *, seconds: float = _RESET_SECONDS) -> ResetReport:
        """Clean up by force: every open task is ended, running ones included, and every cached key dropped."""
        return await self._reset.reset(self.tenant, seconds=seconds)

    async def vitals(self) -> tuple[SpaceHealth, SpaceMetrics]:
        """`is_healthy` and `get_metrics` by asking every component once."""
        return await self._vitals.look(self.tenant)

    async def is_healthy(self) -> bool:
        """Whether table, queue and files answer; each is really asked."""
        return (await self.vitals())[0].is_healthy

    async def get_metrics(self) -> SpaceMetrics:
        """Numbers that are durable and true across environments."""
        return (await self.vitals())[1]
