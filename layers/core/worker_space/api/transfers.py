"""`…/file-uploads/` and `…/file-downloads/`: addresses of the store itself, for files too large to pass through here.

They stand beside `…/files/`, not below it: a file of the user's may be called `uploads`.
"""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from worker_space.api.conditions import Preconditions
from worker_space.api.deps import EXISTING, ServicesOf, Space
from worker_space.api.files import IfMatch, IfNoneMatch, check_new_file, no_file
from worker_space.api.media import type_to_keep
from worker_space.api.problems import documented
from worker_space.errors import TooLarge
from worker_space.paths import MAX_PATH_CHARACTERS, workspace_path

__all__ = ["router"]

router = APIRouter(tags=["files"], prefix="/my/projects/{project_id}", dependencies=[EXISTING])


class UploadRequest(BaseModel):
    """The one file that may be uploaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(max_length=MAX_PATH_CHARACTERS, description="The file, relative to the project's root.")
    size: int = Field(ge=0, strict=True, description="Bytes; exactly so many can be uploaded.")
    content_type: str | None = Field(default=None, max_length=256, description="Kept and given back.")
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-fA-F]{64}$",
        description="The content's SHA-256 in hexadecimal digits; other content is then refused.",
    )


class DownloadRequest(BaseModel):
    """The one file that may be downloaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(max_length=MAX_PATH_CHARACTERS, description="The file, relative to the project's root.")


class Upload(BaseModel):
    """A request that stores the file, without a token. Whoever has the URL may make it, so keep it to yourself.

    Attributes:
        headers: To be sent exactly as they are.
        expires_at: Epoch milliseconds; an upload that has begun by then goes on.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    method: str
    url: str
    headers: Mapping[str, str]
    expires_at: int


class Download(Upload):
    """A request that reads the file, likewise; the file is given as it is now.

    Attributes:
        size: Bytes.
        version: For `If-Match`.
    """

    size: int
    version: str


_URL: Final = "https://bucket.s3.eu-central-1.amazonaws.com/useralice_projectshop/data/sales.parquet?X-Amz-Algorithm=…"
_UPLOAD: Final = {
    "path": "data/sales.parquet",
    "method": "PUT",
    "url": _URL,
    "headers": {"Content-Length": "73400320", "Content-Type": "application/octet-stream", "If-None-Match": "*"},
    "expires_at": 1795306200000,
}
_DOWNLOAD: Final = {
    **_UPLOAD,
    "method": "GET",
    "headers": {},
    "size": 73400320,
    "version": "0f343b0931126a20f133d67c2b018a3b",
}


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


def _takes(example: Any) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"example": example}}}}


@router.post(
    "/file-uploads/",
    status_code=201,
    operation_id="create_upload",
    summary="Get an address to upload a large file to",
    responses={201: _shown("The request to make.", _UPLOAD), **documented(400, 409, 412, 413, 429)},
    openapi_extra=_takes({"path": "data/sales.parquet", "size": 73400320}),
)
async def create_upload(
    asked: UploadRequest,
    space: Space,
    services: ServicesOf,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Upload:
    """For one file of this path, size and type, for ten minutes unless the deployment says otherwise.

    Nothing is stored before the upload. `If-Match` and `If-None-Match: *` are checked now and once more by the store,
    which answers 412 when somebody else came first; its `ETag` is the file's new version. The store refuses any other
    size, type or address with 403, and other content than that of `sha256` with 400.
    """
    path = workspace_path(asked.path)
    kept_type = type_to_keep(asked.content_type)
    most = services.settings.max_upload_bytes
    if asked.size > most:
        raise TooLarge(f"a file has at most {most} bytes here")
    info = await services.files.head(space.tenant, path)
    if_version, if_absent = Preconditions(if_match, if_none_match).check(info)
    if info is None:
        await check_new_file(services, space.tenant, path)
    signed = await services.files.sign_upload(
        space.tenant,
        path,
        size=asked.size,
        seconds=services.settings.presigned_seconds,
        content_type=kept_type,
        sha256=asked.sha256,
        if_version=if_version,
        if_absent=if_absent,
    )
    return Upload(path=path, method=signed.method, url=signed.url, headers=signed.headers, expires_at=signed.expires_at)


@router.post(
    "/file-downloads/",
    status_code=201,
    operation_id="create_download",
    summary="Get an address to download a file from",
    responses={201: _shown("The request to make.", _DOWNLOAD), **documented(400, 413)},
    openapi_extra=_takes({"path": "data/sales.parquet"}),
)
async def create_download(asked: DownloadRequest, space: Space, services: ServicesOf) -> Download:
    """For this file as it is now, for ten minutes unless the deployment says otherwise; ranges work, too."""
    path = workspace_path(asked.path)
    found = await services.files.sign_download(space.tenant, path, seconds=services.settings.presigned_seconds)
    if found is None:
        raise no_file(path)
    info, signed = found
    return Download(
        path=path,
        method=signed.method,
        url=signed.url,
        headers=signed.headers,
        expires_at=signed.expires_at,
        size=info.size,
        version=info.version,
    )
