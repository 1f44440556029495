"""`…/export` and `/my/projects/import`: a project as one archive, and a project out of one."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.routing import Match
from starlette.types import Scope

from worker_space.api.deps import Idempotency, IdempotencyKey, ServicesOf, Space, User
from worker_space.api.files import MAX_ANSWER_BYTES, no_file
from worker_space.api.problems import documented
from worker_space.api.services import Services
from worker_space.archive_lines import MAX_ARCHIVE_BYTES
from worker_space.errors import InvalidRequest, TooLarge
from worker_space.idempotency import Repeat
from worker_space.paths import MAX_PATH_CHARACTERS, workspace_path
from worker_space.ports import FileBody
from worker_space.projects import Project, ProjectName, no_project
from worker_space.tenancy import TenantContext, UserContext, project_address

__all__ = ["MAX_IMPORT_BYTES", "ImportedProject", "router"]


class _ThisMethodOnly(APIRoute):
    """A route that leaves other methods to the routes behind it: a project's id may be `import`, too."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (Match.NONE, {}) if match is Match.PARTIAL else (match, child)


router = APIRouter(tags=["projects"], route_class=_ThisMethodOnly)

MAX_IMPORT_BYTES: Final = 5 << 20
_ZIP: Final = "application/zip"
_BYTES: Final = {_ZIP: {"schema": {"type": "string", "format": "binary"}, "example": "PK…"}}
_EXAMPLE: Final = {
    "id": "p-01k9y3zj0c6f0m8d2h4v5w7x9q",
    "name": "The web shop",
    "policy": {"ask": ["deleting"], "plan_tasks": None, "plan_cost": None},
    "limits": {},
    "created_at": 1795305600000,
    "updated_at": 1795305600000,
    "imported": {"agents": 4, "sessions": 2, "messages": 16},
}


class ImportedProject(Project):
    """A project that was made out of an archive.

    Attributes:
        imported: What the archive held, by kind. Files are named in it, but their bytes are not in it.
    """

    model_config = ConfigDict(frozen=True)

    imported: Mapping[str, int]


class _Wanted(BaseModel):
    """How the new project is to be called, and where its archive is if the body is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[
        str | None,
        Query(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            description="The new project's id; the service makes one without it.",
            examples=["shop-2"],
        ),
    ] = None
    name: Annotated[ProjectName | None, Query(description="Its name; the archive's without it.")] = None
    from_project: Annotated[
        str | None,
        Query(
            max_length=255,
            description="A project of yours that has the archive among its files; then there is no body.",
            examples=["shop"],
        ),
    ] = None
    path: Annotated[
        str | None,
        Query(
            max_length=MAX_PATH_CHARACTERS,
            description="With `from_project`: the archive, relative to that project's root.",
            examples=["backup/shop-2.zip"],
        ),
    ] = None


@router.get(
    "/my/projects/{project_id}/export",
    operation_id="export_project",
    summary="Take a project with you",
    response_class=Response,
    responses={
        200: {"description": "The archive.", "content": _BYTES},
        303: {
            "description": "The archive is too large for an answer: read it from the store.",
            "headers": {"Location": {"description": "Its address there.", "schema": {"type": "string"}}},
        },
        **documented(409, 413),
    },
)
async def export_project(space: Space, services: ServicesOf) -> Response:
    """A zip of JSON lines: agents with their versions, sessions, messages, tasks, plans, approvals, events, memories.

    Files are listed in it; their bytes are at `…/files/`. It holds no credentials and no addresses.

    Over 4.5 MB it is answered by 303 with an address of the store, good for ten minutes unless the deployment says
    otherwise. Go there without the token: whoever has the address may read the archive. The store keeps the latest one
    until the project is deleted. Over 64 MiB unpacked or 20,000 lines: 413.
    """
    seconds = services.settings.presigned_seconds
    offered = await services.exporter.offer(space.tenant, most=MAX_ANSWER_BYTES, seconds=seconds)
    if not isinstance(offered, bytes):
        return Response(status_code=303, headers={"Location": offered.url})
    # The id may be anything; what a browser suggests as a file's name is plain.
    named = {"Content-Disposition": 'attachment; filename="project.zip"'}
    return Response(offered, media_type=_ZIP, headers=named)


@router.post(
    "/my/projects/import",
    status_code=201,
    operation_id="import_project",
    summary="Make a project out of an archive",
    responses={
        201: {"description": "The project.", "content": {"application/json": {"example": _EXAMPLE}}},
        **documented(404, 409, 413, 429),
    },
    openapi_extra={"requestBody": {"required": False, "content": _BYTES}},
)
async def import_project(
    request: Request,
    user: User,
    services: ServicesOf,
    idempotency: Idempotency,
    wanted: Annotated[_Wanted, Query()],
    response: Response,
) -> ImportedProject:
    """The body is an archive of at most 5 MiB; what it names keeps its ids in the new project.

    A larger one is uploaded to a project that exists (`…/file-uploads/`), and named by `from_project` and `path`.

    Tasks that had not ended are imported as canceled. 422 says what in the archive is wrong, and where; then nothing
    is made.
    """
    data = await request.body()
    if len(data) > MAX_IMPORT_BYTES:
        raise TooLarge(f"an archive takes at most {MAX_IMPORT_BYTES} bytes")
    version = ""
    if wanted.from_project is not None or wanted.path is not None:
        if data:
            raise InvalidRequest("from_project and path name the archive: send no body beside them")
        stored = await _stored(services, user, wanted)
        data, version = stored.data, stored.info.version
    imported = await services.importer.import_project(
        user, data, project_id=wanted.id, name=wanted.name, repeat=_repeat(idempotency, wanted, version)
    )
    project = await services.projects.get(TenantContext(user.user_id, imported.project_id))
    response.headers["Location"] = f"{project_address(project.id)}/"
    return ImportedProject(**project.model_dump(), imported=imported.counts)


async def _stored(services: Services, user: UserContext, wanted: _Wanted) -> FileBody:
    """The archive among the caller's own files.

    Raises:
        InvalidRequest: Only one of the two is named, or it is no path.
        NotFound: The caller has no such project or file.
        TooLarge: The file is larger than any archive.
    """
    if wanted.from_project is None or wanted.path is None:
        raise InvalidRequest("from_project and path go together: name the project and the file of the archive")
    path = workspace_path(wanted.path)
    try:
        tenant = TenantContext(user.user_id, wanted.from_project)
    except InvalidRequest as error:
        raise no_project(wanted.from_project) from error
    await services.projects.get(tenant)
    info = await services.files.head(tenant, path)
    if info is not None and info.size > MAX_ARCHIVE_BYTES:
        raise TooLarge(f"an archive takes at most {MAX_ARCHIVE_BYTES} bytes")
    # Bounded once more: the file may have been replaced by a larger one.
    body = None if info is None else await services.files.read(tenant, path, length=MAX_ARCHIVE_BYTES)
    if body is None:
        raise no_file(path)
    return body


def _repeat(idempotency: IdempotencyKey, wanted: _Wanted, version: str) -> Repeat | None:
    """What makes the request safe to repeat.

    Args:
        version: Of the file that the archive is, if it is one.
    """
    repeat = idempotency.repeat("import", "user")
    if repeat is None:
        return None
    # What is asked for stands in the query as well as in the body.
    asked = f"{repeat.fingerprint} {wanted.model_dump_json()} {version}"
    return replace(repeat, fingerprint=hashlib.sha256(asked.encode()).hexdigest())
