"""The agents' runtime items: who is registered on the bus, what runs, and what came of it.

An agent is registered when it is made, when its project's queue is made, and by `initialize`. One that was deregistered
gets no new messages; those that it was given before, it still answers. The counters on the item stay either way.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from worker_space.agent_status import AgentMetrics, AgentStatus
from worker_space.agents import Agent
from worker_space.errors import ConditionFailed, Conflict
from worker_space.ports import Records
from worker_space.records import Check, Equals, Exists, Item, Missing, Update, Write
from worker_space.tenancy import Key, TenantContext

__all__ = ["AgentRuntimes", "check_takes_messages", "is_registered"]

_KEYS_PER_CALL: Final = 100


def is_registered(runtime: Item) -> bool:
    """Whether the agent of a runtime item gets messages; items of earlier releases do not say, and it does."""
    return bool(runtime.get("registered", True))


def check_takes_messages(agent: Agent, runtime: Item) -> None:
    """Make sure that an agent may be given a new message.

    Raises:
        Conflict: It is disabled, or not registered on the bus.
    """
    if not agent.config.enabled:
        raise Conflict(f"the agent {agent.config.name!r} is disabled: enable it, or name another one")
    if not is_registered(runtime):
        raise Conflict(f"the agent {agent.config.name!r} is not registered on the bus: initialise the worker space")


class AgentRuntimes:
    """Registers agents on the bus, and tells what they are doing."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def register(self, tenant: TenantContext, agents: Iterable[Agent]) -> Sequence[str]:
        """Register these agents; one read of up to 100 items, and a write for each that was not registered.

        Returns:
            The ids of those that were not.
        """
        agents = list(agents)
        runtimes = await self._items(tenant, [agent.id for agent in agents])
        missing = [
            (agent, runtime)
            for agent, runtime in zip(agents, runtimes, strict=True)
            if runtime is None or not is_registered(runtime)
        ]
        done = await asyncio.gather(*(self._register(tenant, agent, runtime) for agent, runtime in missing))
        return [agent.id for (agent, _), registered in zip(missing, done, strict=True) if registered]

    async def _register(self, tenant: TenantContext, agent: Agent, runtime: Item | None) -> bool:
        key = Key.runtime(agent.id)
        register: Write = Update(key=key, set={"registered": True}, when=Exists("sk"))
        still_there = Check(key=Key.agent(agent.id), when=Exists("sk"))
        if runtime is None:
            # Its limit is the agent's of this version: whoever changes the agent changes the limit with it.
            limit = {"max": agent.config.max_concurrency, "registered": True}
            register = Update(key=key, set=limit, when=Missing("sk"))
            still_there = Check(key=Key.agent(agent.id), when=Equals("version", agent.version))
        try:
            await self._records.write(tenant, register, still_there)
        except ConditionFailed:
            # The agent was deleted or changed, or somebody else made its item: all of them leave it as it should be.
            return False
        return True

    async def registered(self, tenant: TenantContext, agent_ids: Iterable[str]) -> Sequence[str]:
        """Which of these agents are registered."""
        agent_ids = list(agent_ids)
        items = await self._items(tenant, agent_ids)
        return [
            agent_id
            for agent_id, item in zip(agent_ids, items, strict=True)
            if item is not None and is_registered(item)
        ]

    async def deregister(self, tenant: TenantContext, agent_ids: Iterable[str]) -> Sequence[str]:
        """Take these agents off the bus; repeating it changes nothing.

        Returns:
            The ids of those that were registered.
        """
        agent_ids = list(agent_ids)
        done = await asyncio.gather(*(self._deregister(tenant, agent_id) for agent_id in agent_ids))
        return [agent_id for agent_id, changed in zip(agent_ids, done, strict=True) if changed]

    async def _deregister(self, tenant: TenantContext, agent_id: str) -> bool:
        item = await self._records.get(tenant, Key.runtime(agent_id))
        if item is None or not is_registered(item):
            return False
        leave = Update(key=Key.runtime(agent_id), set={"registered": False}, when=Exists("sk"))
        try:
            await self._records.write(tenant, leave)
        except ConditionFailed:
            return False
        return True

    async def status(self, tenant: TenantContext, agent: Agent) -> AgentStatus:
        """What the agent is doing now."""
        return AgentStatus.of(agent, await self._records.get(tenant, Key.runtime(agent.id)) or {})

    async def metrics(self, tenant: TenantContext, agent_id: str) -> AgentMetrics:
        """What came of the agent's tasks."""
        return AgentMetrics.of_agent(agent_id, await self._records.get(tenant, Key.runtime(agent_id)) or {})

    async def _items(self, tenant: TenantContext, agent_ids: Sequence[str]) -> Sequence[Item | None]:
        found: list[Item | None] = []
        for start in range(0, len(agent_ids), _KEYS_PER_CALL):
            keys = [Key.runtime(agent_id) for agent_id in agent_ids[start : start + _KEYS_PER_CALL]]
            found += await self._records.get_many(tenant, keys)
        return found
