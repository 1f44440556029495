"""The User Workspace and large contents in the memory of one process: for tests and trials, with S3's semantics."""

import hashlib
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from worker_space.errors import ConditionFailed, InvalidRequest
from worker_space.paths import workspace_path
from worker_space.ports import FileBody, FileInfo, FilePage
from worker_space.tenancy import TenantContext

__all__ = ["MemoryContent", "MemoryFiles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    data: bytes
    modified_at: int
    content_type: str | None
    effect: str | None

    def info(self, path: str) -> FileInfo:
        return FileInfo(
            path=path,
            size=len(self.data),
            version=hashlib.md5(self.data, usedforsecurity=False).hexdigest(),
            modified_at=self.modified_at,
            content_type=self.content_type,
            effect=self.effect,
        )


class MemoryFiles:
    """Implements `ports.Files`; safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[tuple[TenantContext, str], _Object] = {}

    def _info(self, tenant: TenantContext, path: str) -> FileInfo | None:
        found = self._objects.get(_key(tenant, path))
        return None if found is None else found.info(path)

    async def head(self, tenant: TenantContext, path: str) -> FileInfo | None:
        """See `ports.Files`."""
        with self._lock:
            return self._info(tenant, path)

    async def read(
        self, tenant: TenantContext, path: str, *, start: int = 0, length: int | None = None
    ) -> FileBody | None:
        """See `ports.Files`."""
        with self._lock:
            found = self._objects.get(_key(tenant, path))
        if found is None:
            return None
        end = None if length is None else start + length
        return FileBody(info=found.info(path), data=found.data[start:end], start=start)

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
        """See `ports.Files`."""
        stored = _Object(data=data, modified_at=_now(), content_type=content_type, effect=effect)
        with self._lock:
            found = self._info(tenant, path)
            if if_absent:
                holds = found is None
            else:
                holds = if_version is None or (found is not None and found.version == if_version)
            if not holds:
                raise ConditionFailed([{}])
            self._objects[_key(tenant, path)] = stored
        return stored.info(path)

    async def delete(self, tenant: TenantContext, path: str, *, if_version: str | None = None) -> None:
        """See `ports.Files`."""
        with self._lock:
            found = self._info(tenant, path)
            if if_version is not None and (found is None or found.version != if_version):
                raise ConditionFailed([{}])
            self._objects.pop(_key(tenant, path), None)

    async def copy(
        self, tenant: TenantContext, source: str, target: str, *, if_version: str, effect: str | None = None
    ) -> FileInfo:
        """See `ports.Files`."""
        with self._lock:
            found = self._objects.get(_key(tenant, source))
            if found is None or found.info(source).version != if_version or self._info(tenant, target) is not None:
                raise ConditionFailed([{}])
            stored = _Object(data=found.data, modified_at=_now(), content_type=found.content_type, effect=effect)
            self._objects[_key(tenant, target)] = stored
        return stored.info(target)

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
        below = f"{_key(tenant, folder)[1]}/" if folder else ""
        with self._lock:
            objects = {path: found for (owner, path), found in self._objects.items() if owner == tenant}
        names = set()
        for path in objects:
            if path.startswith(below):
                head, slash, _ = path[len(below) :].partition("/")
                names.add(path if recursive else f"{below}{head}{slash}")
        ordered = sorted(name for name in names if after is None or name > after)
        taken = ordered[: max(1, min(limit, 1000))]
        return FilePage(
            files=[objects[name].info(name) for name in taken if not name.endswith("/")],
            folders=[name.removesuffix("/") for name in taken if name.endswith("/")],
            after=taken[-1] if len(taken) < len(ordered) else None,
        )

    async def ping(self) -> None:
        """See `ports.Files`."""


class MemoryContent:
    """Implements `ports.Content`; safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[tuple[TenantContext, str], str] = {}

    async def put(self, tenant: TenantContext, key: str, text: str) -> None:
        """See `ports.Content`."""
        with self._lock:
            self._texts[_key(tenant, key)] = text

    async def get(self, tenant: TenantContext, key: str) -> str | None:
        """See `ports.Content`."""
        with self._lock:
            return self._texts.get(_key(tenant, key))

    async def all_keys(self, tenant: TenantContext) -> AsyncIterator[str]:
        """See `ports.Content`."""
        with self._lock:
            keys = sorted(key for owner, key in self._texts if owner == tenant)
        for key in keys:
            yield key

    async def delete(self, tenant: TenantContext, keys: Sequence[str]) -> None:
        """See `ports.Content`."""
        with self._lock:
            for key in keys:
                self._texts.pop(_key(tenant, key), None)


def _key(tenant: TenantContext, path: str) -> tuple[TenantContext, str]:
    if workspace_path(path) != path:
        raise InvalidRequest(f"{path[:80]!r} is not normalised")
    return tenant, path


def _now() -> int:
    # S3 tells whole seconds.
    return int(time.time()) * 1000
