"""`…/limits/`: how much a project and its user may have and use, and how much of it is used."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from worker_space.api.deps import ServicesOf, Space
from worker_space.api.problems import documented
from worker_space.limit_status import LimitStatus, limit_status

__all__ = ["router"]

router = APIRouter(tags=["limits"], prefix="/my/projects/{project_id}/limits")
_EXAMPLE: Final[dict[str, Any]] = {
    "limits": [
        {
            "name": "agents",
            "scope": "project",
            "limit": 100,
            "used": 4,
            "reserved": None,
            "until": None,
            "source": "deployment",
        },
        {
            "name": "tokens_per_day",
            "scope": "project",
            "limit": 200_000,
            "used": 51_200,
            "reserved": 4_396,
            "until": 1795392000000,
            "source": "project",
        },
    ]
}


class LimitsView(BaseModel):
    """All limits that hold for a project."""

    model_config = ConfigDict(frozen=True)

    limits: Sequence[LimitStatus]


@router.get(
    "/",
    operation_id="get_limits",
    summary="See the limits and what is used",
    responses={
        200: {"description": "Every limit.", "content": {"application/json": {"example": _EXAMPLE}}},
        **documented(),
    },
)
async def get_limits(space: Space, services: ServicesOf) -> LimitsView:
    """The project's first, then yours over all projects.

    The owner lowers the project's by `PATCH /my/projects/{project_id}/` with `{"limits": {"tokens_per_day": 100000}}`;
    `null` takes one's own away again.
    """
    return LimitsView(limits=await limit_status(services.records, services.allowances, space.tenant))
