"""`…/files/`: the user's own access to the files of one project, under the path rules that agents obey, too."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from worker_space.api.conditions import Preconditions, check_change, etag, parse_range, require_match, unchanged
from worker_space.api.deps import EXISTING, ServicesOf, Space
from worker_space.api.media import BINARY, file_headers, type_to_keep
from worker_space.api.pages import Listing, PageAsked, PageRequest, encode
from worker_space.api.problems import PreconditionFailed, documented
from worker_space.api.services import Services
from worker_space.errors import ConditionFailed, Conflict, InvalidRequest, NotFound, TooLarge, ToolError
from worker_space.paths import workspace_path
from worker_space.ports import FileInfo
from worker_space.tenancy import TenantContext, project_address
from worker_space.tools.tool import ToolContext
from worker_space.tools.writing import check_new_path

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_UPLOAD_BYTES",
    "FileEntry",
    "IfMatch",
    "IfNoneMatch",
    "check_new_file",
    "no_file",
    "router",
]

router = APIRouter(tags=["files"], prefix="/my/projects/{project_id}/files", dependencies=[EXISTING])

MAX_UPLOAD_BYTES: Final = 5 << 20
MAX_ANSWER_BYTES: Final = 4_500_000
"""Lambda answers with at most 6 MB, and bytes grow by a third on their way out of it."""
_BYTES: Final = {BINARY: {"schema": {"type": "string", "format": "binary"}, "example": "print('hello')\n"}}


class FileEntry(BaseModel):
    """A file or a folder; of a folder only the path is known.

    Attributes:
        size: Bytes.
        version: For `If-Match`.
        modified_at: Epoch milliseconds.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    kind: Literal["file", "folder"] = "file"
    size: int | None = None
    version: str | None = None
    modified_at: int | None = None

    @classmethod
    def of(cls, info: FileInfo) -> "FileEntry":
        """The view of a stored file."""
        return cls(path=info.path, size=info.size, version=info.version, modified_at=info.modified_at)


_FILE: Final = {
    "path": "src/main.py",
    "kind": "file",
    "size": 15,
    "version": "0f343b0931126a20f133d67c2b018a3b",
    "modified_at": 1795305600000,
}
_FOLDER: Final = {"path": "src/lib", "kind": "folder", "size": None, "version": None, "modified_at": None}

FilePath = Annotated[
    str, Path(alias="path", description="The file, relative to the project's root.", examples=["src/main.py"])
]
IfMatch = Annotated[str | None, Header(description="Only if the file is at this version.", max_length=1_024)]
Known = Annotated[str | None, Header(description="Versions that the client has.")]
IfNoneMatch = Annotated[str | None, Header(description="`*`: only if there is no such file.", max_length=1_024)]


async def _meant_so(request: Request) -> None:
    check_change(request.headers)


_CHANGING: Final = [Depends(_meant_so)]


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


def no_file(path: str) -> NotFound:
    """The error for a file that the project does not have."""
    return NotFound(f"there is no file {path[:200]!r}")


async def check_new_file(services: Services, tenant: TenantContext, path: str) -> None:
    """Refuse a new file where a folder is, or below a file.

    Raises:
        Conflict: It cannot be there.
    """
    try:
        await check_new_path(ToolContext(tenant=tenant, files=services.files, patterns=services.patterns), path)
    except ToolError as error:
        raise Conflict(str(error)) from error


def _cursor(page: PageRequest, folder: str) -> str | None:
    """The path to go on from; it must lie in the folder and be one that a listing can give."""

    def belongs(place: str) -> bool:
        try:
            normal = workspace_path(place, allow_root=True)
        except InvalidRequest:
            return False
        return normal == place.removesuffix("/") and (not folder or place.startswith(f"{folder}/"))

    return page.checked(belongs)


@router.get(
    "/",
    operation_id="list_files",
    summary="List a folder",
    responses={200: _shown("A page.", {"items": [_FOLDER, _FILE], "next": None}), **documented()},
)
async def list_files(
    space: Space,
    services: ServicesOf,
    page: PageAsked,
    path: Annotated[str, Query(description="The folder; the root without it.", examples=["src"])] = "",
    recursive: Annotated[bool, Query(description="All files below, without folders.")] = False,
) -> Listing[FileEntry]:
    """In the order of their paths. A folder is there as long as a file is in it."""
    folder = workspace_path(path, allow_root=True)
    found = await services.files.list(
        space.tenant, folder, recursive=recursive, limit=page.limit, after=_cursor(page, folder)
    )
    entries = [FileEntry.of(info) for info in found.files]
    entries += [FileEntry(path=name, kind="folder") for name in found.folders]
    entries.sort(key=lambda entry: entry.path)
    return Listing(items=entries, next=encode(found.after))


@router.get(
    "/{path:path}",
    operation_id="read_file",
    summary="Read a file",
    response_class=Response,
    responses={
        200: {"description": "The file.", "content": _BYTES},
        206: {"description": "The range; Content-Range says which.", "content": _BYTES},
        304: {"description": "The client has this version already."},
        **documented(412, 413, 416),
    },
)
async def read_file(
    name: FilePath,
    space: Space,
    services: ServicesOf,
    range_: Annotated[str | None, Header(alias="Range", description="One range: `bytes=0-99`.")] = None,
    if_range: Annotated[str | None, Header(description="The version that the range is of.")] = None,
    if_match: IfMatch = None,
    if_none_match: Known = None,
) -> Response:
    """As bytes. Files over 4.5 MB come in ranges, or whole from an address of `…/file-downloads/`.

    A range's answer may be shorter than asked for, never longer.
    """
    path = workspace_path(name)
    asked = parse_range(range_)
    info: FileInfo | None = None
    if if_none_match is not None or asked is not None:
        if (info := await services.files.head(space.tenant, path)) is None:
            raise no_file(path)
        require_match(info, if_match)
        if if_none_match is not None and unchanged(info, if_none_match):
            return Response(status_code=304, headers=file_headers(info))
        if if_range is not None and if_range.strip() != etag(info):
            asked = None
    if asked is not None and info is not None:
        return await _part(services, space.tenant, path, *asked.resolve(info.size), if_match=if_match)
    body = await services.files.read(space.tenant, path, length=MAX_ANSWER_BYTES + 1)
    if body is None:
        raise no_file(path)
    require_match(body.info, if_match)
    _check_size(body.info, space.tenant)
    return Response(body.data, headers=file_headers(body.info))


async def _part(
    services: Services, tenant: TenantContext, path: str, first: int, last: int, *, if_match: str | None
) -> Response:
    body = await services.files.read(tenant, path, start=first, length=min(last - first + 1, MAX_ANSWER_BYTES))
    if body is None:
        raise no_file(path)
    require_match(body.info, if_match)
    if not body.data:
        raise Conflict("the file became shorter at this moment: ask again")
    place = f"bytes {first}-{first + len(body.data) - 1}/{body.info.size}"
    return Response(body.data, status_code=206, headers={**file_headers(body.info), "Content-Range": place})


def _check_size(info: FileInfo, tenant: TenantContext) -> None:
    # Text of this type leaves Lambda as JSON in JSON, where each quote takes two bytes.
    most = MAX_ANSWER_BYTES * 2 // 3 if "application/json" in (info.content_type or "") else MAX_ANSWER_BYTES
    if info.size > most:
        raise TooLarge(
            f"the file has {info.size} bytes, an answer at most {most}: ask for it in parts, by Range, or POST its"
            f" path to {project_address(tenant.project_id)}/file-downloads/ for an address that gives it whole"
        )


@router.head(
    "/{path:path}",
    operation_id="head_file",
    summary="Ask for a file's size, type and version",
    response_class=Response,
    responses={
        200: {"description": "As reading it, without the bytes.", "content": _BYTES},
        304: {"description": "The client has this version already."},
        **documented(412),
    },
)
async def head_file(
    name: FilePath, space: Space, services: ServicesOf, if_match: IfMatch = None, if_none_match: Known = None
) -> Response:
    """`Content-Length` is the file's size."""
    path = workspace_path(name)
    info = await services.files.head(space.tenant, path)
    if info is None:
        raise no_file(path)
    require_match(info, if_match)
    if if_none_match is not None and unchanged(info, if_none_match):
        return Response(status_code=304, headers=file_headers(info))
    return Response(headers={**file_headers(info), "Content-Length": str(info.size)})


@router.put(
    "/{path:path}",
    operation_id="write_file",
    summary="Store a file",
    dependencies=_CHANGING,
    response_model=FileEntry,
    responses={
        200: _shown("It was replaced.", _FILE),
        201: {**_shown("It was made.", _FILE), "model": FileEntry},
        **documented(409, 412, 413, 429),
    },
    openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
)
async def write_file(
    name: FilePath,
    space: Space,
    services: ServicesOf,
    request: Request,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
    content_type: Annotated[str | None, Header(description="Kept and given back.", max_length=256)] = None,
) -> Response:
    """The body is the file, at most 5 MiB. `If-Match` and `If-None-Match: *` make sure that no other edit is lost."""
    path = workspace_path(name)
    kept_type = type_to_keep(content_type)
    info = await services.files.head(space.tenant, path)
    if_version, if_absent = Preconditions(if_match, if_none_match).check(info)
    data = await _body(request, space.tenant)
    if info is None:
        await check_new_file(services, space.tenant, path)
    try:
        stored = await services.files.write(
            space.tenant, path, data, if_version=if_version, if_absent=if_absent, content_type=kept_type
        )
    except ConditionFailed as error:
        raise PreconditionFailed("the file was changed at this moment: read it again") from error
    return Response(
        FileEntry.of(stored).model_dump_json(),
        status_code=201 if info is None else 200,
        headers={"ETag": etag(stored)},
        media_type="application/json",
    )


async def _body(request: Request, tenant: TenantContext) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > MAX_UPLOAD_BYTES:
        raise _too_large(tenant)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_UPLOAD_BYTES:
            raise _too_large(tenant)
    return bytes(data)


def _too_large(tenant: TenantContext) -> TooLarge:
    return TooLarge(
        f"a file stored here has at most {MAX_UPLOAD_BYTES} bytes: POST the path and size of a larger one to"
        f" {project_address(tenant.project_id)}/file-uploads/ for an address that takes it"
    )


@router.delete(
    "/{path:path}",
    status_code=204,
    operation_id="delete_file",
    summary="Delete a file",
    dependencies=_CHANGING,
    responses={204: {"description": "It is gone."}, **documented(412)},
)
async def delete_file(name: FilePath, space: Space, services: ServicesOf, if_match: IfMatch = None) -> None:
    """With `If-Match` only that version is deleted."""
    path = workspace_path(name)
    info = await services.files.head(space.tenant, path)
    if info is None and if_match is None:
        raise no_file(path)
    if_version, _ = Preconditions(if_match, None).check(info)
    try:
        await services.files.delete(space.tenant, path, if_version=if_version)
    except ConditionFailed as error:
        raise PreconditionFailed("the file was changed at this moment: read it again") from error
