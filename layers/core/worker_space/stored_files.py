"""The User Workspace with a limit: what would make a project's files too large together is refused."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from worker_space.errors import ConditionFailed, Unavailable
from worker_space.file_meter import HOLD_SECONDS, FileMeter
from worker_space.ports import FileBody, FileInfo, FilePage, Files, Records, SignedRequest
from worker_space.tenancy import TenantContext

__all__ = ["MeteredFiles"]

_TRIES: Final = 8


class MeteredFiles:
    """`ports.Files` whose writes are kept within their project's limit; without a limit it only passes on.

    Args:
        limit_of: The limit of a project's bytes, or `None`.
    """

    def __init__(
        self, files: Files, records: Records, *, limit_of: Callable[[TenantContext], Awaitable[int | None]]
    ) -> None:
        self._files = files
        self._meter = FileMeter(files, records)
        self._limit_of = limit_of

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
        """See `ports.Files`.

        Raises:
            LimitReached: The project's files would have more bytes than they may have.
        """
        facts: dict[str, Any] = {"content_type": content_type, "effect": effect}
        limit = await self._limit_of(tenant)
        if limit is None:
            return await self._files.write(tenant, path, data, if_version=if_version, if_absent=if_absent, **facts)
        for _ in range(_TRIES):
            old = await self._files.head(tenant, path)
            if (if_absent and old is not None) or (if_version is not None and _version(old) != if_version):
                raise ConditionFailed([{}])
            # Always over the very version that was looked at: else nobody knows how much was replaced.
            facts |= {"if_absent": old is None, "if_version": _version(old)}
            growth = len(data) - (0 if old is None else old.size)
            counted = self._meter.growing(tenant, growth, limit)
            if growth <= 0:
                counted = self._meter.shrinking(tenant, path, -growth)
            try:
                async with counted:
                    return await self._files.write(tenant, path, data, **facts)
            except ConditionFailed:
                if if_absent or if_version is not None:
                    raise
        raise Unavailable("the file store", "the file changed at every try")

    async def delete(self, tenant: TenantContext, path: str, *, if_version: str | None = None) -> None:
        """See `ports.Files`."""
        if await self._limit_of(tenant) is None:
            await self._files.delete(tenant, path, if_version=if_version)
            return
        for _ in range(_TRIES):
            old = await self._files.head(tenant, path)
            if if_version is not None and _version(old) != if_version:
                raise ConditionFailed([{}])
            if old is None:
                return
            try:
                async with self._meter.shrinking(tenant, path, old.size):
                    await self._files.delete(tenant, path, if_version=old.version)
                    return
            except ConditionFailed:
                if if_version is not None:
                    raise
        raise Unavailable("the file store", "the file changed at every try")

    async def copy(
        self, tenant: TenantContext, source: str, target: str, *, if_version: str, effect: str | None = None
    ) -> FileInfo:
        """See `ports.Files`.

        Raises:
            LimitReached: The project's files would have more bytes than they may have, be it for a moment.
        """
        limit = await self._limit_of(tenant)
        if limit is None:
            return await self._files.copy(tenant, source, target, if_version=if_version, effect=effect)
        found = await self._files.head(tenant, source)
        if found is None or found.version != if_version:
            raise ConditionFailed([{}])
        async with self._meter.growing(tenant, found.size, limit):
            return await self._files.copy(tenant, source, target, if_version=if_version, effect=effect)

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
        """See `ports.Files`; the bytes are counted when the upload is allowed, in full, made or not.

        Raises:
            LimitReached: The project's files would have more bytes than they may have.
        """
        limit = await self._limit_of(tenant)
        if limit is not None:
            await self._meter.hold(tenant, size, limit, seconds=seconds + HOLD_SECONDS, path=path)
        return await self._files.sign_upload(
            tenant,
            path,
            size=size,
            seconds=seconds,
            content_type=content_type,
            sha256=sha256,
            if_version=if_version,
            if_absent=if_absent,
        )

    # -- what changes no size --------------------------------------------------------------------
    async def head(self, tenant: TenantContext, path: str) -> FileInfo | None:
        """See `ports.Files`."""
        return await self._files.head(tenant, path)

    async def read(
        self, tenant: TenantContext, path: str, *, start: int = 0, length: int | None = None
    ) -> FileBody | None:
        """See `ports.Files`."""
        return await self._files.read(tenant, path, start=start, length=length)

    async def list(
        self,
        tenant: TenantContext,
        folder: str = "",
        *,
        recursive: bool = False,
        limit: int = 1000,
        after: str | None = None,
    ) -> FilePage:
        """See `ports.Files`."""
        return await self._files.list(tenant, folder, recursive=recursive, limit=limit, after=after)

    async def sign_download(
        self, tenant: TenantContext, path: str, *, seconds: int
    ) -> tuple[FileInfo, SignedRequest] | None:
        """See `ports.Files`."""
        return await self._files.sign_download(tenant, path, seconds=seconds)

    async def remains(self, tenant: TenantContext) -> int:
        """See `ports.Files`."""
        return await self._files.remains(tenant)

    async def erase(self, tenant: TenantContext) -> int:
        """See `ports.Files`."""
        return await self._files.erase(tenant)

    async def ping(self) -> None:
        """See `ports.Files`."""
        await self._files.ping()


def _version(info: FileInfo | None) -> str | None:
    return None if info is None else info.version
