"""Agents as the table keeps them: one item for the agent, one for its name, one for each version, one at run time."""

import json
from collections.abc import Sequence
from typing import Any, Final

from worker_space.agents import Agent, AgentConfig
from worker_space.projects import SpaceState, no_project
from worker_space.records import All, Any_, Condition, Equals, Exists, Item, Missing, OneOf, Put, Write
from worker_space.tenancy import Key, TenantContext

__all__ = ["IS_LIVE", "agent_of", "as_known", "check_live", "new_agent_writes", "stored_agent"]

IS_LIVE: Final = All(
    Exists("sk"),
    OneOf("state", tuple(state.value for state in SpaceState if state is not SpaceState.DELETED)),
)


def agent_of(item: Item) -> Agent:
    """The agent kept in a table item."""
    return Agent(
        id=item["id"],
        version=item["version"],
        config=AgentConfig.model_validate(item["config"]),
        created_at=item["created_at"],
        updated_at=item["updated_at"],
        context_generation=item.get("context_generation", 1),
    )


def as_known(agent: Agent) -> Condition:
    """That the agent's item is at this version and at this generation of its context."""
    generation: Condition = Equals("context_generation", agent.context_generation)
    if agent.context_generation == 1:
        # Kept from the first clearing on.
        generation = Any_(Missing("context_generation"), generation)
    return All(Equals("version", agent.version), generation)


def stored_agent(agent: Agent) -> dict[str, Any]:
    """The attributes of an agent's item and of the item of its version."""
    return {
        "id": agent.id,
        "version": agent.version,
        "config": json.loads(agent.config.model_dump_json(exclude_none=True)),
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
    }


def new_agent_writes(agent: Agent) -> dict[str, Write]:
    """The writes that make an agent; `name` is the one whose condition keeps names unique."""
    return {
        f"name {agent.config.name}": Put(
            key=Key.agent_name(agent.config.name), item={"agent_id": agent.id}, when=Missing("sk")
        ),
        f"agent {agent.id}": Put(key=Key.agent(agent.id), item=stored_agent(agent), when=Missing("sk")),
        f"version {agent.id}": Put(key=Key.agent_version(agent.id, agent.version), item=stored_agent(agent)),
        f"runtime {agent.id}": Put(
            key=Key.runtime(agent.id), item={"max": agent.config.max_concurrency, "registered": True}
        ),
    }


def check_live(tenant: TenantContext, home: Sequence[Item]) -> None:
    """Make sure that the items of a space begin with its record, and that it is not a deleted project's.

    Raises:
        NotFound: The user has no such project.
    """
    if not home or home[0]["sk"] != Key.space().sort or home[0]["state"] == SpaceState.DELETED.value:
        raise no_project(tenant.project_id)
