"""The addresses of before there were projects: they answer 410 and say where to go."""

from fastapi import APIRouter, Request, Response

from worker_space.api.problems import KINDS, Gone, problem

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@router.api_route("/my/chat/{rest:path}", methods=_METHODS)
@router.api_route("/my/agents/{rest:path}", methods=_METHODS)
async def moved(rest: str, request: Request) -> Response:
    """Name the new address; which project is meant, only the client knows."""
    path: str = request.scope["path"]
    location = "/my/projects/{project_id}" + path.removeprefix("/my")[:500]
    detail = f"everything lies in a project now: use {location}"
    return problem(KINDS[Gone], detail, path, location=location)
