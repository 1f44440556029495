"""Files and long texts."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from worker_space.tenancy import TenantContext

__all__ = ["Content", "FileBody", "FileInfo", "FilePage", "Files", "SignedRequest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """A file of the User Workspace.

    Attributes:
        path: Normalised, relative to the project's root.
        size: Bytes.
        version: The ETag, with which a later write can ask for no change in between.
        modified_at: Epoch milliseconds.
        effect: The `task#step` that wrote this version, when an agent did.
    """

    path: str
    size: int
    version: str
    modified_at: int
    content_type: str | None = None
    effect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBody:
    """Bytes of a file from `start` on."""

    info: FileInfo
    data: bytes
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePage:
    """`folders` are paths without a trailing slash; `after` goes on behind this page."""

    files: Sequence[FileInfo]
    folders: Sequence[str] = field(default=())
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A request to the store itself that its holder may make without any other credentials, until it expires.

    Attributes:
        url: Whoever has it has the right: it is neither logged nor kept.
        headers: Must be sent exactly as they are here; all of them are signed.
        expires_at: Epoch milliseconds. A transfer that has begun by then goes on.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    expires_at: int


class Files(Protocol):
    """The User Workspace in one S3 prefix. Paths are normalised already (`paths.workspace_path`)."""

    async def head(self, tenant: TenantContext, path: str) -> FileInfo | None:
        """What is known of a file without its bytes."""

    async def read(
        self, tenant: TenantContext, path: str, *, start: int = 0, length: int | None = None
    ) -> FileBody | None:
        """A file's bytes from `start`, `None` if there is no such file; `start` behind its end gives no bytes."""

    async def write(
        self,
        tenant: TenantContext,
        path: str,
        data: bytes,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        content_type: str | None = None,
        effect: str | None = None,
    ) -> FileInfo:
        """Store a file whole.

        Raises:
            ConditionFailed: It is not at `if_version` any more, or exists though `if_absent`.
        """

    async def delete(self, tenant: TenantContext, path: str, *, if_version: str | None = None) -> None:
        """Take a file away; a missing one is no error without `if_version`.

        Raises:
            ConditionFailed: It is not at `if_version` any more (also when it is gone).
        """

    async def copy(
        self, tenant: TenantContext, source: str, target: str, *, if_version: str, effect: str | None = None
    ) -> FileInfo:
        """Copy a file to a target that must not exist.

        Raises:
            ConditionFailed: The source is not at `if_version` any more, or the target exists.
        """

    async def list(
        self,
        tenant: TenantContext,
        folder: str = "",
        *,
        recursive: bool = False,
        limit: int = 1000,
        after: str | None = None,
    ) -> FilePage:
        """Files (and, unless `recursive`, folders) below `folder` (`""` is the root), in order of their paths."""

    async def sign_upload(
        self,
        tenant: TenantContext,
        path: str,
        *,
        size: int,
        seconds: int,
        content_type: str = "application/octet-stream",
        sha256: str | None = None,
        if_version: str | None = None,
        if_absent: bool = False,
    ) -> SignedRequest:
        """Let somebody store exactly this file, past us: another path, size, type or condition is refused by the store.

        Args:
            size: Bytes; the store takes at most 5 GiB at once.
            seconds: How long the request may be begun.
            sha256: 64 hexadecimal digits; the store then refuses other content.
            if_version: Stored only if the file is still at this version (`If-Match`).
            if_absent: Stored only if there is no such file (`If-None-Match`).
        """

    async def sign_download(
        self, tenant: TenantContext, path: str, *, seconds: int
    ) -> tuple[FileInfo, SignedRequest] | None:
        """Let somebody read this file as it is now, past us; `None` if there is no such file.

        A later change of the file does not reach the address; where the bucket keeps no versions, a request for a
        changed file may give the new one.
        """

    async def remains(self, tenant: TenantContext) -> int:
        """How much the store still holds for the tenant, asked anew.

        Objects with all their versions count, marks of deleted ones, and unfinished uploads.
        """

    async def erase(self, tenant: TenantContext) -> int:
        """Delete all that `remains` counts, for good; returns how much it was.

        It may take long, and may be cancelled and called again: what is gone stays gone.
        """

    async def ping(self) -> None:
        """Ask the store for a sign of life."""


class Content(Protocol):
    """Texts too large for the table: backend resources under a prefix of their own, no files of the user's."""

    async def put(self, tenant: TenantContext, key: str, text: str) -> None:
        """Store a text; the same key may be stored again."""

    async def get(self, tenant: TenantContext, key: str) -> str | None:
        """The text, or `None`."""

    def all_keys(self, tenant: TenantContext) -> AsyncIterator[str]:
        """Every key of the tenant."""

    async def delete(self, tenant: TenantContext, keys: Sequence[str]) -> None:
        """Delete these."""

    async def hand_out(
        self, tenant: TenantContext, key: str, data: bytes, *, filename: str, content_type: str, seconds: int
    ) -> SignedRequest:
        """Store bytes in the place of what lay under the key, and let somebody read exactly these, past us.

        Where the bucket keeps no versions, a request that comes after the next storing gives that one's.

        Args:
            filename: What a browser keeps them as.
            seconds: How long the request may be begun.
        """

    async def remains(self, tenant: TenantContext) -> int:
        """As `Files.remains`, of the contents."""

    async def erase(self, tenant: TenantContext) -> int:
        """As `Files.erase`, of the contents."""
