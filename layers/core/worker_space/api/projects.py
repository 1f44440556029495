"""`/my/projects/`: the caller's projects."""

from typing import Any, Final

from fastapi import APIRouter, Response

from worker_space.api.deps import Idempotency, ServicesOf, Space, User
from worker_space.api.pages import Listing, PageAsked, encode
from worker_space.api.problems import documented
from worker_space.projects import NewProject, Project, ProjectChanges
from worker_space.tenancy import Key, project_address

__all__ = ["router"]

router = APIRouter(tags=["projects"])
_EXAMPLE: Final = {"id": "shop", "name": "The web shop", "created_at": 1795305600000, "updated_at": 1795305600000}


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


@router.post(
    "/my/projects/",
    status_code=201,
    operation_id="create_project",
    summary="Make a project",
    responses={201: _shown("The project.", _EXAMPLE), **documented(400, 409, 413)},
)
async def create_project(
    new: NewProject, user: User, services: ServicesOf, idempotency: Idempotency, response: Response
) -> Project:
    """Makes a project with a starter pack of agents. Its worker space is made on first use."""
    project = await services.projects.create(user, new, repeat=idempotency.repeat("project", "user"))
    response.headers["Location"] = f"{project_address(project.id)}/"
    return project


@router.get(
    "/my/projects/",
    operation_id="list_projects",
    summary="List your projects",
    responses={200: _shown("A page.", {"items": [_EXAMPLE], "next": None}), **documented()},
)
async def list_projects(user: User, services: ServicesOf, page: PageAsked) -> Listing[Project]:
    """In the order of their ids."""
    projects, after = await services.projects.page(user, limit=page.limit, after=page.after(Key.projects()))
    return Listing(items=projects, next=encode(after))


@router.get(
    "/my/projects/{project_id}/",
    operation_id="get_project",
    summary="Look at a project",
    responses={200: _shown("The project.", _EXAMPLE), **documented()},
)
async def get_project(space: Space, services: ServicesOf) -> Project:
    """One of your projects."""
    return await services.projects.get(space.tenant)


@router.patch(
    "/my/projects/{project_id}/",
    operation_id="update_project",
    summary="Rename a project",
    responses={200: _shown("The project.", _EXAMPLE), **documented(400, 413)},
)
async def update_project(changes: ProjectChanges, space: Space, services: ServicesOf) -> Project:
    """The id stays."""
    return await services.projects.update(space.tenant, changes)


@router.delete(
    "/my/projects/{project_id}/",
    status_code=204,
    operation_id="delete_project",
    summary="Delete a project's agents, chats and tasks",
    responses={204: {"description": "It is gone."}, **documented()},
)
async def delete_project(space: Space, services: ServicesOf) -> None:
    """Everything the backend keeps for the project goes; the files of its User Workspace stay."""
    await services.projects.delete(space.tenant)
