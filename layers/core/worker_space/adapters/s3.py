"""The User Workspace and large contents in one S3 bucket: one prefix a tenant, nothing above it is ever named.

Conditions are S3's own (`If-Match`, `If-None-Match`) and hold against every other client.
"""

import base64
from collections.abc import AsyncIterator, Sequence
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, Final
from urllib.parse import quote

from botocore.exceptions import ClientError

from worker_space.adapters.aws import AwsCalls
from worker_space.adapters.credentials import ClientOf
from worker_space.adapters.s3_bucket import Bucket
from worker_space.errors import ConditionFailed, InvalidRequest, Unavailable
from worker_space.paths import workspace_path
from worker_space.ports import FileBody, FileInfo, FilePage, SignedRequest
from worker_space.tenancy import Names, TenantContext

__all__ = ["S3Content", "S3Files"]

_EFFECT: Final = "effect"
_FACTS: Final = ("ETag", "LastModified", "ContentLength")
_KEPT: Final = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")
# Sorts behind everything that can follow it in a key of ours.
_LAST: Final = "\U0010ffff"


class S3Files(Bucket):
    """Implements `ports.Files`.

    The arguments are `Bucket`'s.
    """

    def __init__(
        self,
        client: Any,
        calls: AwsCalls,
        names: Names,
        bucket: str,
        *,
        client_of: ClientOf | None = None,
        signer_of: ClientOf | None = None,
    ) -> None:
        super().__init__(client, calls, names, bucket, dependency="files", client_of=client_of, signer_of=signer_of)

    def _key(self, tenant: TenantContext, path: str) -> str:
        # The second wall: whoever forgot to normalise a path cannot leave the prefix either.
        if workspace_path(path) != path:
            raise InvalidRequest(f"{path[:80]!r} is not normalised")
        return f"{self._names.workspace(tenant)}{path}"

    async def head(self, tenant: TenantContext, path: str) -> FileInfo | None:
        """See `ports.Files`."""
        answer = await self._call(self._client_of(tenant).head_object, *_FACTS, Key=self._key(tenant, path))
        return None if answer is None else _info(path, answer, answer["ContentLength"])

    async def read(
        self, tenant: TenantContext, path: str, *, start: int = 0, length: int | None = None
    ) -> FileBody | None:
        """See `ports.Files`."""
        arguments = {"Key": self._key(tenant, path)}
        if start or length is not None:
            arguments["Range"] = f"bytes={start}-{'' if length is None else start + max(1, length) - 1}"
        try:
            answer = await self._call(self._get(tenant), *_FACTS, **arguments)
        except ClientError:
            # The range begins behind the end; S3 also says so of an empty file.
            info = await self.head(tenant, path)
            return None if info is None else FileBody(info=info, data=b"", start=start)
        if answer is None:
            return None
        total = answer.get("ContentRange", "").rpartition("/")[2]
        size = int(total) if total else answer["ContentLength"]
        data = answer["Body"] if length is None else answer["Body"][:length]
        return FileBody(info=_info(path, answer, size), data=data, start=start)

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
        arguments: dict[str, Any] = {"Key": self._key(tenant, path), "Body": data, "Metadata": _metadata(effect)}
        if content_type is not None:
            arguments["ContentType"] = content_type
        if if_absent:
            arguments["IfNoneMatch"] = "*"
        elif if_version is not None:
            arguments["IfMatch"] = f'"{if_version}"'
        answer = await self._call(self._client_of(tenant).put_object, "ETag", **arguments)
        if answer is None:
            raise ConditionFailed([{}])
        return FileInfo(
            path=path,
            size=len(data),
            version=answer["ETag"].strip('"'),
            modified_at=int(
                parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp() * 1000
            ),
            content_type=content_type,
            effect=effect,
        )

    async def delete(self, tenant: TenantContext, path: str, *, if_version: str | None = None) -> None:
        """See `ports.Files`."""
        arguments = {"Key": self._key(tenant, path)}
        if if_version is not None:
            arguments["IfMatch"] = f'"{if_version}"'
        if await self._call(self._client_of(tenant).delete_object, **arguments) is None and if_version is not None:
            raise ConditionFailed([{}])

    async def copy(
        self, tenant: TenantContext, source: str, target: str, *, if_version: str, effect: str | None = None
    ) -> FileInfo:
        """See `ports.Files`."""
        old = await self._call(self._client_of(tenant).head_object, *_FACTS, Key=self._key(tenant, source))
        if old is None or old["ETag"].strip('"') != if_version:
            raise ConditionFailed([{}])
        answer = await self._call(
            self._client_of(tenant).copy_object,
            "CopyObjectResult",
            Key=self._key(tenant, target),
            CopySource={"Bucket": self._bucket, "Key": self._key(tenant, source)},
            CopySourceIfMatch=f'"{if_version}"',
            IfNoneMatch="*",
            # The copy must not carry the mark of whoever wrote the source, and S3 replaces all or nothing.
            MetadataDirective="REPLACE",
            Metadata={key: value for key, value in old["Metadata"].items() if key != _EFFECT} | _metadata(effect),
            **{name: old[name] for name in _KEPT if name in old},
        )
        if answer is None:
            raise ConditionFailed([{}])
        result = answer["CopyObjectResult"]
        return FileInfo(
            path=target,
            size=old["ContentLength"],
            version=result["ETag"].strip('"'),
            modified_at=int(result["LastModified"].timestamp() * 1000),
            content_type=old.get("ContentType"),
            effect=effect,
        )

    async def list(
        self,
        tenant: TenantContext,
        folder: str = "",
        *,
        recursive: bool = False,
        limit: int = 1000,
        after: str | None = None,
    ) -> FilePage:
        """See `ports.Files`. A page may hold fewer than `limit`: objects that no path can name are left out."""
        root = self._names.workspace(tenant)
        below = f"{self._key(tenant, folder)}/" if folder else root
        arguments: dict[str, Any] = {"Prefix": below, "MaxKeys": max(1, min(limit, 1000))}
        if not recursive:
            arguments["Delimiter"] = "/"
        if after is not None:
            # Behind a folder means behind everything in it, else S3 would show the folder once more.
            arguments["StartAfter"] = f"{root}{after}{_LAST if after.endswith('/') else ''}"
        answer = await self._call(self._client_of(tenant).list_objects_v2, "Name", **arguments)
        if answer is None:
            raise Unavailable(self._dependency, "NoSuchBucket")
        objects = answer.get("Contents", ())
        prefixes = [entry["Prefix"] for entry in answer.get("CommonPrefixes", ())]
        last = max((*prefixes, *(entry["Key"] for entry in objects)), default=None)
        return FilePage(
            files=[
                FileInfo(
                    path=path,
                    size=entry["Size"],
                    version=entry["ETag"].strip('"'),
                    modified_at=int(entry["LastModified"].timestamp() * 1000),
                )
                for entry in objects
                if (path := _path(root, entry["Key"])) is not None
            ],
            folders=[path for prefix in prefixes if (path := _path(root, prefix.removesuffix("/"))) is not None],
            after=last.removeprefix(root) if last is not None and answer.get("IsTruncated") else None,
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
        """See `ports.Files`. S3 refuses `x-amz-…` headers that are not signed, so nobody forges an effect's mark."""
        arguments: dict[str, Any] = {"ContentLength": size, "ContentType": content_type}
        headers = {"Content-Length": str(size), "Content-Type": content_type}
        if sha256 is not None:
            arguments["ChecksumSHA256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
            headers["x-amz-checksum-sha256"] = arguments["ChecksumSHA256"]
        if if_absent:
            headers["If-None-Match"] = arguments["IfNoneMatch"] = "*"
        elif if_version is not None:
            headers["If-Match"] = arguments["IfMatch"] = f'"{if_version}"'
        return await self._sign(tenant, "put_object", "PUT", seconds, headers, Key=self._key(tenant, path), **arguments)

    async def sign_download(
        self, tenant: TenantContext, path: str, *, seconds: int
    ) -> tuple[FileInfo, SignedRequest] | None:
        """See `ports.Files`."""
        key = self._key(tenant, path)
        answer = await self._call(self._client_of(tenant).head_object, *_FACTS, Key=key)
        if answer is None:
            return None
        arguments = {"ResponseContentDisposition": _attachment(path)}
        if (version := answer.get("VersionId")) is not None:
            arguments["VersionId"] = version
        signed = await self._sign(tenant, "get_object", "GET", seconds, {}, Key=key, **arguments)
        return _info(path, answer, answer["ContentLength"]), signed

    async def remains(self, tenant: TenantContext) -> int:
        """See `ports.Files`."""
        return await self._count(tenant, self._names.workspace(tenant))

    async def erase(self, tenant: TenantContext) -> int:
        """See `ports.Files`."""
        return await self._purge(tenant, self._names.workspace(tenant))


class S3Content(Bucket):
    """Implements `ports.Content`.

    The arguments are `Bucket`'s.
    """

    def __init__(
        self,
        client: Any,
        calls: AwsCalls,
        names: Names,
        bucket: str,
        *,
        client_of: ClientOf | None = None,
        signer_of: ClientOf | None = None,
    ) -> None:
        super().__init__(client, calls, names, bucket, dependency="content", client_of=client_of, signer_of=signer_of)

    def _key(self, tenant: TenantContext, key: str) -> str:
        if workspace_path(key) != key:
            raise InvalidRequest(f"{key[:80]!r} is no key of a content")
        return f"{self._names.content(tenant)}{key}"

    async def put(self, tenant: TenantContext, key: str, text: str) -> None:
        """See `ports.Content`."""
        await self._call(
            self._client_of(tenant).put_object,
            "ETag",
            Key=self._key(tenant, key),
            Body=text.encode(),
            ContentType="text/plain; charset=utf-8",
        )

    async def get(self, tenant: TenantContext, key: str) -> str | None:
        """See `ports.Content`."""
        answer = await self._call(self._get(tenant), "ETag", Key=self._key(tenant, key))
        return None if answer is None else answer["Body"].decode()

    async def all_keys(self, tenant: TenantContext) -> AsyncIterator[str]:
        """See `ports.Content`."""
        root = self._names.content(tenant)
        arguments: dict[str, Any] = {"Prefix": root}
        while True:
            answer = await self._call(self._client_of(tenant).list_objects_v2, "Name", **arguments)
            if answer is None:
                raise Unavailable(self._dependency, "NoSuchBucket")
            for entry in answer.get("Contents", ()):
                yield entry["Key"].removeprefix(root)
            if not answer.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = answer["NextContinuationToken"]

    async def delete(self, tenant: TenantContext, keys: Sequence[str]) -> None:
        """See `ports.Content`."""
        for start in range(0, len(keys), 1000):
            await self._delete(tenant, [{"Key": self._key(tenant, key)} for key in keys[start : start + 1000]])

    async def hand_out(
        self, tenant: TenantContext, key: str, data: bytes, *, filename: str, content_type: str, seconds: int
    ) -> SignedRequest:
        """See `ports.Content`."""
        place = self._key(tenant, key)
        client = self._client_of(tenant)

        def put(**arguments: Any) -> Any:
            # As a stream, and a new one for each try: the client's deadline then is for each piece, not for all of it.
            return client.put_object(Body=BytesIO(data), **arguments)

        answer = await self._call(put, "ETag", Key=place, ContentType=content_type)
        if answer is None:
            raise Unavailable(self._dependency, "NoSuchBucket")
        arguments = {"ResponseContentDisposition": _attachment(filename)}
        if (version := answer.get("VersionId")) is not None:
            arguments["VersionId"] = version
        return await self._sign(tenant, "get_object", "GET", seconds, {}, Key=place, **arguments)

    async def remains(self, tenant: TenantContext) -> int:
        """See `ports.Content`."""
        return await self._count(tenant, self._names.content(tenant))

    async def erase(self, tenant: TenantContext) -> int:
        """See `ports.Content`."""
        return await self._purge(tenant, self._names.content(tenant))


def _info(path: str, answer: Any, size: int) -> FileInfo:
    return FileInfo(
        path=path,
        size=size,
        version=answer["ETag"].strip('"'),
        modified_at=int(answer["LastModified"].timestamp() * 1000),
        content_type=answer.get("ContentType"),
        effect=answer.get("Metadata", {}).get(_EFFECT),
    )


def _metadata(effect: str | None) -> dict[str, str]:
    return {} if effect is None else {_EFFECT: effect}


def _attachment(path: str) -> str:
    """Have a browser keep the file under its name instead of showing it (RFC 6266)."""
    return f"attachment; filename*=UTF-8''{quote(path.rpartition('/')[2], safe='')}"


def _path(root: str, key: str) -> str | None:
    """The path of a key below the tenant's prefix, unless none can name it: a folder's mark, or what others put."""
    path = key.removeprefix(root)
    try:
        return path if workspace_path(path) == path else None
    except InvalidRequest:
        return None
