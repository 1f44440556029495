"""`…/agents/`: the agents of a project. What is read here comes from the table, never from the cache."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, JsonValue

from worker_space.agent_status import AgentMetrics, AgentStatus
from worker_space.agents import Agent, AgentChanges, AgentConfig
from worker_space.api.deps import EXISTING, AgentTarget, Idempotency, ServicesOf, Space
from worker_space.api.pages import Listing, PageAsked, fitting
from worker_space.api.problems import documented
from worker_space.tenancy import Key, project_address

__all__ = ["AgentView", "router"]

router = APIRouter(tags=["agents"], prefix="/my/projects/{project_id}/agents")
_EXAMPLE: Final = {
    "id": "agent_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "name": "coder",
    "system_prompt": "You are a careful reviewer of Python code.",
    "model": "offline:rules",
    "tools": ["read_file", "list_directory"],
    "max_concurrency": 3,
    "temperature": None,
    "max_tokens": None,
    "enabled": True,
    "metadata": {"role": "reviewer"},
    "version": 1,
    "created_at": 1795305600000,
    "updated_at": 1795305600000,
}
_STATUS: Final = {
    "agent_id": _EXAMPLE["id"],
    "status": "busy",
    "registered": True,
    "running": 1,
    "parked": 0,
    "waiting": 0,
    "max_concurrency": 3,
}
_METRICS: Final = {
    "agent_id": _EXAMPLE["id"],
    "in_flight": 1,
    "tasks_processed": 12,
    "completed": 10,
    "failed": 1,
    "canceled": 1,
    "p50_ms": 1911,
    "p95_ms": 5405,
    "input_tokens": 18211,
    "output_tokens": 2240,
    "cost_micros": 0,
}
Version = Annotated[int, Path(ge=1, le=99_999_999, description="The version's number.", examples=[1])]


class AgentView(BaseModel):
    """An agent: its configuration and what the service adds; times in epoch milliseconds."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    system_prompt: str
    model: str
    tools: Sequence[str]
    max_concurrency: int
    temperature: float | None
    max_tokens: int | None
    enabled: bool
    metadata: Mapping[str, JsonValue]
    version: int
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, agent: Agent) -> "AgentView":
        """The view of a stored agent."""
        return cls(
            id=agent.id,
            version=agent.version,
            created_at=agent.created_at,
            updated_at=agent.updated_at,
            **agent.config.model_dump(),
        )


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


@router.post(
    "/",
    status_code=201,
    operation_id="create_agent",
    summary="Make an agent",
    responses={201: _shown("The agent.", _EXAMPLE), **documented(400, 409, 413, 429)},
)
async def create_agent(config: AgentConfig, space: Space, idempotency: Idempotency, response: Response) -> AgentView:
    """The name is unique in the project, without regard to case; unknown tools and models are refused."""
    agent = await space.create_agent(config, repeat=idempotency.repeat("agent"))
    response.headers["Location"] = f"{project_address(space.tenant.project_id)}/agents/{agent.id}"
    return AgentView.of(agent)


@router.get(
    "/",
    operation_id="list_agents",
    summary="List the project's agents",
    responses={200: _shown("A page.", {"items": [_EXAMPLE], "next": None}), **documented()},
)
async def list_agents(space: Space, services: ServicesOf, page: PageAsked) -> Listing[AgentView]:
    """The oldest first. A page ends early where its agents are long."""
    registry = services.collaborators.registry
    agents, after = await registry.page(space.tenant, limit=page.limit, after=page.after(Key.agents()))
    return fitting([AgentView.of(agent) for agent in agents], after, lambda agent: Key.agent(agent.id))


@router.get(
    "/{agent_id}",
    operation_id="get_agent",
    summary="Look at an agent",
    dependencies=[EXISTING],
    responses={200: _shown("The agent.", _EXAMPLE), **documented()},
)
async def get_agent(target: AgentTarget, space: Space, services: ServicesOf) -> AgentView:
    """By its id or its name."""
    return AgentView.of(await services.collaborators.registry.get(space.tenant, target))


@router.patch(
    "/{agent_id}",
    operation_id="update_agent",
    summary="Change an agent",
    dependencies=[EXISTING],
    responses={200: _shown("The agent.", {**_EXAMPLE, "version": 2}), **documented(400, 409, 413)},
)
async def update_agent(target: AgentTarget, changes: AgentChanges, space: Space) -> AgentView:
    """Makes a new version; what is not sent stays. Tasks that have begun keep the version they began with.

    An agent with `enabled: false` takes no new messages (409); what it was given before, it still answers.
    """
    return AgentView.of(await space.update_agent(target, changes))


@router.delete(
    "/{agent_id}",
    status_code=204,
    operation_id="delete_agent",
    summary="Delete an agent and its memory",
    dependencies=[EXISTING],
    responses={204: {"description": "It is gone."}, **documented(409)},
)
async def delete_agent(target: AgentTarget, space: Space) -> None:
    """Its waiting tasks fail and say so; tasks that run may finish. Its versions stay readable by its id."""
    await space.delete_agent(target)


# -- versions ------------------------------------------------------------------------------------------------


@router.get(
    "/{agent_id}/versions/",
    operation_id="list_agent_versions",
    summary="List an agent's versions",
    dependencies=[EXISTING],
    responses={200: _shown("A page.", {"items": [{**_EXAMPLE, "version": 2}, _EXAMPLE], "next": None}), **documented()},
)
async def list_agent_versions(
    target: AgentTarget, space: Space, services: ServicesOf, page: PageAsked
) -> Listing[AgentView]:
    """The newest first, fewer where they are long.

    Tasks name the version that ran them; so those of a deleted agent stay, by its id.
    """
    registry = services.collaborators.registry
    agent_id = await registry.id_of(space.tenant, target)
    versions, after = await registry.versions(
        space.tenant, agent_id, limit=page.limit, after=page.after(Key.agent_versions(agent_id))
    )
    views = [AgentView.of(agent) for agent in versions]
    return fitting(views, after, lambda agent: Key.agent_version(agent.id, agent.version))


@router.get(
    "/{agent_id}/versions/{version}",
    operation_id="get_agent_version",
    summary="Look at a version of an agent",
    dependencies=[EXISTING],
    responses={200: _shown("The agent as it was.", _EXAMPLE), **documented()},
)
async def get_agent_version(target: AgentTarget, version: Version, space: Space, services: ServicesOf) -> AgentView:
    """`updated_at` is when it became so."""
    registry = services.collaborators.registry
    return AgentView.of(await registry.version(space.tenant, await registry.id_of(space.tenant, target), version))


@router.post(
    "/{agent_id}/versions/{version}/restore",
    status_code=201,
    operation_id="restore_agent_version",
    summary="Go back to a version of an agent",
    dependencies=[EXISTING],
    responses={201: _shown("The agent.", {**_EXAMPLE, "version": 3}), **documented(409)},
)
async def restore_agent_version(
    target: AgentTarget, version: Version, space: Space, idempotency: Idempotency, response: Response
) -> AgentView:
    """Makes a new version that equals this one, name included; 422 if its model or a tool is no longer served."""
    agent = await space.restore_agent(target, version, repeat=idempotency.repeat(f"restore:{target}:{version}"))
    address = f"{project_address(space.tenant.project_id)}/agents/{agent.id}"
    response.headers["Location"] = f"{address}/versions/{agent.version}"
    return AgentView.of(agent)


# -- at work -------------------------------------------------------------------------------------------------


@router.get(
    "/{agent_id}/status",
    operation_id="get_agent_status",
    summary="See what an agent is doing",
    dependencies=[EXISTING],
    responses={200: _shown("Now.", _STATUS), **documented()},
)
async def get_agent_status(target: AgentTarget, space: Space) -> AgentStatus:
    """`idle`, `busy`, `waiting_for_approval` or `disabled`, with the numbers of its tasks."""
    return await space.get_agent_status(target)


@router.get(
    "/{agent_id}/metrics",
    operation_id="get_agent_metrics",
    summary="See what came of an agent's tasks",
    dependencies=[EXISTING],
    responses={200: _shown("Since it was made.", _METRICS), **documented()},
)
async def get_agent_metrics(target: AgentTarget, space: Space) -> AgentMetrics:
    """Counted in the transactions that end tasks. Durations are those of completed tasks, to about 10 %."""
    return await space.get_agent_metrics(target)
