"""What HTTP says of a file beside its bytes: its type as it is kept, and the headers of an answer about it."""

import re
from email.utils import formatdate
from typing import Final
from urllib.parse import quote

from worker_space.api.conditions import etag
from worker_space.errors import InvalidRequest
from worker_space.ports import FileInfo

__all__ = ["BINARY", "file_headers", "type_to_keep"]

BINARY: Final = "application/octet-stream"
_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+-]{1,64}/[\w!#$&^.+-]{1,64}[ \t]*(?:;[\x20-\x7e]{0,128})?", re.ASCII)


def type_to_keep(content_type: str | None) -> str:
    """The type to store a file under.

    Raises:
        InvalidRequest: It is no media type, or one of a form that holds files.
    """
    if content_type is None:
        return BINARY
    if not _MEDIA_TYPE.fullmatch(content_type):
        raise InvalidRequest("the Content-Type is no media type: send one such as text/plain; charset=utf-8")
    essence = content_type.partition(";")[0].strip().casefold()
    if essence == "multipart/form-data":
        raise InvalidRequest("send the file's bytes themselves, not a form that holds them")
    # What `curl --data-binary` says of any file: it tells nothing about this one.
    return BINARY if essence == "application/x-www-form-urlencoded" else content_type


def file_headers(info: FileInfo) -> dict[str, str]:
    """What every answer about a file carries. It is the user's content and must never run in the API's origin."""
    kind = info.content_type or ""
    name = quote(info.path.rpartition("/")[2], safe="")
    return {
        "Content-Type": kind if _MEDIA_TYPE.fullmatch(kind) else BINARY,
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-cache",
        "ETag": etag(info),
        "Last-Modified": formatdate(info.modified_at / 1000, usegmt=True),
        "Accept-Ranges": "bytes",
        "X-Modified-At": str(info.modified_at),
    }
