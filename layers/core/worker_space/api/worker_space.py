"""`…/worker-space`: what the backend keeps so that agents can serve a project."""

from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from worker_space.api.deps import Space
from worker_space.api.problems import documented
from worker_space.cleanup import CleanupReport
from worker_space.reset import ResetReport
from worker_space.vitals import SpaceHealth, SpaceMetrics

__all__ = ["router"]

router = APIRouter(tags=["worker space"], prefix="/my/projects/{project_id}/worker-space")

_COMPONENT: Final = {"ok": True, "ms": 3}
_HEALTH: Final = {
    "status": "ok",
    "is_healthy": True,
    "components": dict.fromkeys(("table", "queue", "redis", "qdrant", "files"), _COMPONENT),
}
_METRICS: Final = {
    "user_id": "alice",
    "project_id": "shop",
    "state": "active",
    "active_agents": 4,
    "cache_size": 6,
    "total_tasks_processed": 12,
    "tasks_by_state": {"completed": 11, "failed": 1, "canceled": 0, "open": 1},
    "queue_depth": 1,
    "in_flight": {"agent_01k9y3zj0c6f0m8d2h4v5w7x9q": 1},
    "p50_ms": 1448,
    "p95_ms": 5793,
    "input_tokens": 9744,
    "output_tokens": 768,
    "cost_micros": 0,
    "uptime_seconds": 1260,
    "is_healthy": True,
}
_CLEANED: Final = {"canceled_tasks": 2, "still_running": [], "deregistered_agents": 4, "state": "dormant"}
_RESET: Final = {"canceled_tasks": 3, "complete": True, "cache_cleared": True, "state": "dormant"}


class WorkerSpaceView(BaseModel):
    """A worker space's health and metrics."""

    model_config = ConfigDict(frozen=True)

    health: SpaceHealth
    metrics: SpaceMetrics


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


@router.get(
    "",
    operation_id="get_worker_space",
    summary="Look at a worker space's health and metrics",
    responses={200: _shown("Both.", {"health": _HEALTH, "metrics": _METRICS}), **documented()},
)
async def get_worker_space(space: Space) -> WorkerSpaceView:
    """Every component is really asked, for at most 2 s.

    The numbers are kept in the table, so they are true across environments; percentiles are accurate to about 10 %.
    """
    health, metrics = await space.vitals()
    return WorkerSpaceView(health=health, metrics=metrics)


@router.post(
    "/cleanup",
    operation_id="cleanup_worker_space",
    summary="Clean up a worker space",
    responses={200: _shown("What was done.", _CLEANED), **documented()},
)
async def cleanup_worker_space(space: Space) -> CleanupReport:
    """Cancels active tasks, takes the agents off the bus, clears the cache, and gives queue and mapping back.

    Files, chats and the agents' memory stay; the next message wakes everything again. Tasks that run are asked to stop
    and waited for, at most 10 s. While one still runs the space stays active.
    """
    return await space.cleanup()


@router.post(
    "/reset",
    operation_id="reset_worker_space",
    summary="Reset a worker space by force",
    responses={200: _shown("What was done.", _RESET), **documented()},
)
async def reset_worker_space(space: Space) -> ResetReport:
    """For when something hangs: ends every open task at once, running ones included, and their sessions say so.

    Mailboxes and queues are emptied, every cached key is dropped. Files, agents, chats and memory stay. Safe to repeat.
    While `complete` is false, messages are answered 503; the rest is done within minutes. Where only `cache_cleared` is
    false, messages are accepted: what Redis holds of the project expires within five minutes, or goes with the next
    reset.
    """
    return await space.reset()
