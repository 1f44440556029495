"""`/my/projects/`: the caller's projects."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from worker_space.api.deps import Idempotency, ServicesOf, Space, User
from worker_space.api.erasures import RECEIPT, erasure_address
from worker_space.api.pages import Listing, PageAsked, encode
from worker_space.api.problems import documented
from worker_space.erasure_receipts import ErasureReceipt
from worker_space.projects import NewProject, Project, ProjectChanges
from worker_space.tenancy import Key, project_address

__all__ = ["router"]

router = APIRouter(tags=["projects"])
_ERASE_SECONDS: Final = 15.0
_EXAMPLE: Final = {
    "id": "shop",
    "name": "The web shop",
    "policy": {"ask": ["deleting"], "plan_tasks": None, "plan_cost": None},
    "limits": {"tokens_per_day": 100000},
    "created_at": 1795305600000,
    "updated_at": 1795305600000,
}


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


@router.post(
    "/my/projects/",
    status_code=201,
    operation_id="create_project",
    summary="Make a project",
    responses={201: _shown("The project.", _EXAMPLE), **documented(400, 409, 413, 429)},
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
    summary="Rename a project, say what needs your word, or lower its limits",
    responses={200: _shown("The project.", _EXAMPLE), **documented(400, 409, 413)},
)
async def update_project(changes: ProjectChanges, space: Space, services: ServicesOf) -> Project:
    """What is not sent stays, and so does the id.

    `policy.ask` names tools (`delete_file`) and risk levels (`deleting`) whose calls by agents wait for `…/approvals/`.
    `limits` are your own, below what the deployment allows (`GET …/limits/`); `null` takes one away again.
    """
    return await services.projects.update(space.tenant, changes)


@router.delete(
    "/my/projects/{project_id}/",
    status_code=204,
    operation_id="delete_project",
    summary="Delete a project, or erase it with its files",
    responses={
        204: {"description": "It is gone; its files stay."},
        202: {
            **_shown("It is gone, and its erasure has begun: the receipt.", RECEIPT),
            "model": ErasureReceipt,
            "headers": {"Location": {"description": "The receipt's address.", "schema": {"type": "string"}}},
        },
        **documented(),
    },
)
async def delete_project(
    space: Space,
    services: ServicesOf,
    erase: Annotated[
        bool, Query(description="Erase the project's files, too, with all their versions, and prove it by a receipt.")
    ] = False,
) -> Response:
    """Everything the backend keeps for the project goes; the files of its User Workspace stay.

    With `erase=true` they go as well. All stores are cleared at once and, when nothing that was under way can write any
    more, cleared and asked once more; then the receipt says `certified`. Until then the project's id cannot be used.
    """
    if not erase:
        await services.projects.delete(space.tenant)
        return Response(status_code=204)
    receipt = await services.erasures.begin(space.tenant, seconds=_ERASE_SECONDS)
    return Response(
        receipt.model_dump_json(),
        status_code=202,
        media_type="application/json",
        headers={"Location": erasure_address(receipt.id)},
    )
