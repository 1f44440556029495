"""One S3 bucket: calls with their refusals in our words, signed addresses, and erasing all that a prefix holds.

404 under a condition, 412 and 409 (another write of the key was under way) all mean that somebody else came first.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from worker_space.adapters.aws import AwsCalls, error_code, make_signer
from worker_space.adapters.credentials import ClientOf, the_same
from worker_space.errors import ConditionFailed, Unavailable
from worker_space.ports import SignedRequest
from worker_space.tenancy import Names, TenantContext

__all__ = ["Bucket"]

_Marker: TypeAlias = Mapping[str, str]
_LOST: Final = frozenset({"ConditionalRequestConflict", "PreconditionFailed", "409", "412"})
_MISSING: Final = frozenset({"404", "NoSuchKey"})
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
# S3 takes 1,000, but a call has to end within the client's deadline.
_ERASED_AT_ONCE: Final = 250


class Bucket:
    """What files and contents have in common.

    Args:
        client: A boto3 S3 client, for what is nobody's in particular.
        calls: Runs it.
        names: Of the stack.
        bucket: Name of the bucket.
        dependency: What errors call it.
        client_of: Finds the client for a tenant's objects; without it, `client` is everybody's.
        signer_of: Likewise, the one that signs addresses.
    """

    def __init__(
        self,
        client: Any,
        calls: AwsCalls,
        names: Names,
        bucket: str,
        *,
        dependency: str,
        client_of: ClientOf | None = None,
        signer_of: ClientOf | None = None,
    ) -> None:
        self._client = client
        self._calls = calls
        self._names = names
        self._bucket = bucket
        self._dependency = dependency
        self._client_of = client_of or the_same(client)
        self._signer_of = signer_of or the_same(make_signer(client))

    async def _call(self, operation: Callable[..., Any], *expected: str, **arguments: Any) -> Any:
        """One call on the bucket, as `None` where the object is missing.

        Args:
            operation: The client's method.
            expected: What S3's answer always holds: a proxy in its place may answer 200 as well.
            arguments: The method's.

        Raises:
            ConditionFailed: Its condition did not hold.
            Unavailable: S3 does not answer, or refuses for a reason that only the operator can take away.
        """
        try:
            answer = await self._calls(self._dependency, operation, Bucket=self._bucket, **arguments)
        except ClientError as error:
            code = error_code(error)
            if code in _MISSING:
                return None
            if code in _LOST:
                raise ConditionFailed([{}]) from error
            if code in ("416", "InvalidRange"):
                raise
            raise Unavailable(self._dependency, code) from error
        if any(name not in answer for name in expected):
            raise Unavailable(self._dependency, "the answer is not S3's")
        return answer

    def _get(self, tenant: TenantContext) -> Callable[..., Any]:
        """Gives an object with its bytes, which have to be read in the same worker thread."""
        client = self._client_of(tenant)

        def get(**arguments: Any) -> Any:
            answer = client.get_object(**arguments)
            with answer["Body"] as body:
                return {**answer, "Body": body.read()}

        return get

    async def ping(self) -> None:
        """Ask S3 for a sign of life: where the bucket is, which permits nobody to look into it."""
        if await self._call(self._client.get_bucket_location, "LocationConstraint") is None:
            raise Unavailable(self._dependency, "NoSuchBucket")

    # -- addresses -------------------------------------------------------------------------------------------
    async def _sign(
        self,
        tenant: TenantContext,
        operation: str,
        method: str,
        seconds: int,
        headers: Mapping[str, str],
        **arguments: Any,
    ) -> SignedRequest:
        """A presigned request (Signature Version 4, in the query).

        Args:
            headers: What the client has to send: the headers that `arguments` become, so that they are signed.
            arguments: The operation's.

        Raises:
            Unavailable: There are no credentials, or the bucket's address would send the file in the clear.
        """
        expires_at = (int(time.time()) + seconds) * 1000
        url: str = await self._calls(
            self._dependency,
            self._signer_of(tenant, lasting=seconds).generate_presigned_url,
            ClientMethod=operation,
            Params={"Bucket": self._bucket, **arguments},
            ExpiresIn=seconds,
            HttpMethod=method,
        )
        place = urlsplit(url)
        if place.scheme != "https" and place.hostname not in _LOOPBACK:
            raise Unavailable(self._dependency, "addresses are given for an https endpoint only")
        return SignedRequest(method=method, url=url, headers=dict(headers), expires_at=expires_at)

    # -- erasing ---------------------------------------------------------------------------------------------
    async def _count(self, tenant: TenantContext, prefix: str) -> int:
        """Versions, delete markers and unfinished uploads below `prefix`."""
        count = 0
        for page_of in (self._uploads, self._versions):
            found, after = await page_of(tenant, prefix)
            count += len(found)
            while after:
                found, after = await page_of(tenant, prefix, after)
                count += len(found)
        return count

    async def _purge(self, tenant: TenantContext, prefix: str) -> int:
        """Delete what `_count` counts.

        Each turn asks for the first page anew: what is deleted cannot be the place to go on from.
        """
        count = 0
        client = self._client_of(tenant)
        while uploads := (await self._uploads(tenant, prefix))[0]:
            for upload in uploads:
                await self._call(client.abort_multipart_upload, **upload)
            count += len(uploads)
        while versions := (await self._versions(tenant, prefix))[0]:
            await self._delete(tenant, versions)
            count += len(versions)
        return count

    async def _versions(
        self, tenant: TenantContext, prefix: str, after: _Marker | None = None
    ) -> tuple[list[dict[str, str]], _Marker]:
        """A page of versions and delete markers, and where to go on (nowhere: empty)."""
        list_versions = self._client_of(tenant).list_object_versions
        answer = await self._call(list_versions, "Name", Prefix=prefix, MaxKeys=_ERASED_AT_ONCE, **(after or {}))
        if answer is None:
            raise Unavailable(self._dependency, "NoSuchBucket")
        entries = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
        found = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
        return found, _marker(answer, "KeyMarker", "VersionIdMarker")

    async def _uploads(
        self, _: TenantContext, prefix: str, after: _Marker | None = None
    ) -> tuple[list[dict[str, str]], _Marker]:
        """A page of unfinished multipart uploads, and where to go on (nowhere: empty).

        Asked for with the function's own permissions: AWS knows no condition that would limit it to a prefix.
        """
        answer = await self._call(self._client.list_multipart_uploads, "Bucket", Prefix=prefix, **(after or {}))
        if answer is None:
            raise Unavailable(self._dependency, "NoSuchBucket")
        found = [{"Key": entry["Key"], "UploadId": entry["UploadId"]} for entry in answer.get("Uploads", ())]
        return found, _marker(answer, "KeyMarker", "UploadIdMarker")

    async def _delete(self, tenant: TenantContext, objects: Sequence[Mapping[str, str]]) -> None:
        """Delete objects, or the versions that they name."""
        deletion = {"Objects": [dict(one) for one in objects], "Quiet": True}
        answer = await self._call(self._client_of(tenant).delete_objects, Delete=deletion)
        if answer is None or answer.get("Errors"):
            raise Unavailable(self._dependency, answer["Errors"][0]["Code"] if answer else "NoSuchBucket")


def _marker(answer: Any, *names: str) -> _Marker:
    return {name: answer[f"Next{name}"] for name in names} if answer.get("IsTruncated") else {}
