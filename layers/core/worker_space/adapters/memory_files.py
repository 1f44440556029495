"""The User Workspace and large contents in the memory of one process: for tests and trials, with S3's semantics."""

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from worker_space.errors import ConditionFailed, InvalidRequest
from worker_space.paths import workspace_path
from worker_space.ports import FileBody, FileInfo, FilePage, SignedRequest
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """What one signed request may do; `found` is the object of a download."""

    request: SignedRequest
    tenant: TenantContext
    path: str
    found: _Object | None = None


class MemoryFiles:
    """Implements `ports.Files`; safe under threads.

    Signed requests have addresses that nobody serves: `perform` answers them as S3 would.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[tuple[TenantContext, str], _Object] = {}
        self._grants: dict[str, _Grant] = {}

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
        """See `ports.Files`."""
        headers = {"Content-Length": str(size), "Content-Type": content_type}
        if sha256 is not None:
            headers["x-amz-checksum-sha256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
        if if_absent:
            headers["If-None-Match"] = "*"
        elif if_version is not None:
            headers["If-Match"] = f'"{if_version}"'
        return self._grant("PUT", tenant, path, seconds, headers)

    async def sign_download(
        self, tenant: TenantContext, path: str, *, seconds: int
    ) -> tuple[FileInfo, SignedRequest] | None:
        """See `ports.Files`."""
        with self._lock:
            found = self._objects.get(_key(tenant, path))
        return None if found is None else (found.info(path), self._grant("GET", tenant, path, seconds, {}, found))

    def _grant(
        self,
        method: str,
        tenant: TenantContext,
        path: str,
        seconds: int,
        headers: Mapping[str, str],
        found: _Object | None = None,
    ) -> SignedRequest:
        _key(tenant, path)
        url = f"https://memory.invalid/{secrets.token_urlsafe(24)}"
        request = SignedRequest(method=method, url=url, headers=dict(headers), expires_at=_now() + seconds * 1000)
        with self._lock:
            self._grants[url] = _Grant(request=request, tenant=tenant, path=path, found=found)
        return request

    async def perform(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes = b""
    ) -> tuple[int, bytes]:
        """Make a signed request: the status and the content that S3 would answer."""
        with self._lock:
            grant = self._grants.get(url)
        sent = {name.casefold(): value for name, value in headers.items()} | {"content-length": str(len(content))}
        if (
            grant is None
            or grant.request.method != method
            or grant.request.expires_at <= time.time() * 1000
            or any(sent.get(name.casefold()) != value for name, value in grant.request.headers.items())
            or any(name.startswith("x-amz-") and name != "x-amz-checksum-sha256" for name in sent)
        ):
            return 403, b""
        if grant.found is not None:
            return 200, grant.found.data
        checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
        if sent.get("x-amz-checksum-sha256", checksum) != checksum:
            return 400, b""
        version = sent.get("if-match")
        try:
            await self.write(
                grant.tenant,
                grant.path,
                content,
                if_version=None if version is None else version.strip('"'),
                if_absent="if-none-match" in sent,
                content_type=sent["content-type"],
            )
        except ConditionFailed:
            return 412, b""
        return 200, b""

    async def remains(self, tenant: TenantContext) -> int:
        """See `ports.Files`."""
        with self._lock:
            return sum(owner == tenant for owner, _ in self._objects)

    async def erase(self, tenant: TenantContext) -> int:
        """See `ports.Files`."""
        with self._lock:
            mine = [key for key in self._objects if key[0] == tenant]
            for key in mine:
                del self._objects[key]
            # What was signed for a download holds the bytes.
            self._grants = {
                url: grant for url, grant in self._grants.items() if grant.tenant != tenant or grant.found is None
            }
        return len(mine)

    async def ping(self) -> None:
        """See `ports.Files`."""


class MemoryContent:
    """Implements `ports.Content`; safe under threads.

    What is handed out has an address that nobody serves: `perform` answers it as S3 would.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[tuple[TenantContext, str], bytes] = {}
        self._handed_out: dict[str, tuple[TenantContext, SignedRequest, bytes]] = {}

    async def put(self, tenant: TenantContext, key: str, text: str) -> None:
        """See `ports.Content`."""
        with self._lock:
            self._texts[_key(tenant, key)] = text.encode()

    async def get(self, tenant: TenantContext, key: str) -> str | None:
        """See `ports.Content`."""
        with self._lock:
            found = self._texts.get(_key(tenant, key))
        return None if found is None else found.decode()

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

    async def hand_out(
        self, tenant: TenantContext, key: str, data: bytes, *, filename: str, content_type: str, seconds: int
    ) -> SignedRequest:
        """See `ports.Content`."""
        url = f"https://memory.invalid/{secrets.token_urlsafe(24)}"
        request = SignedRequest(method="GET", url=url, headers={}, expires_at=_now() + seconds * 1000)
        with self._lock:
            self._texts[_key(tenant, key)] = data
            self._handed_out[url] = (tenant, request, data)
        return request

    async def perform(self, method: str, url: str) -> tuple[int, bytes]:
        """Make a signed request: the status and the content that S3 would answer."""
        with self._lock:
            granted = self._handed_out.get(url)
        if granted is None or granted[1].method != method or granted[1].expires_at <= time.time() * 1000:
            return 403, b""
        return 200, granted[2]

    async def remains(self, tenant: TenantContext) -> int:
        """See `ports.Content`."""
        with self._lock:
            return sum(owner == tenant for owner, _ in self._texts)

    async def erase(self, tenant: TenantContext) -> int:
        """See `ports.Content`."""
        with self._lock:
            mine = [key for key in self._texts if key[0] == tenant]
            for key in mine:
                del self._texts[key]
            self._handed_out = {url: given for url, given in self._handed_out.items() if given[0] != tenant}
        return len(mine)


def _key(tenant: TenantContext, path: str) -> tuple[TenantContext, str]:
    if workspace_path(path) != path:
        raise InvalidRequest(f"{path[:80]!r} is not normalised")
    return tenant, path


def _now() -> int:
    # S3 tells whole seconds.
    return int(time.time()) * 1000
