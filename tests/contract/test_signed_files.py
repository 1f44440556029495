"""What every `ports.Files` promises of signed requests and of erasing, asked of the one in memory and of S3."""

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest

from tests.stand_ins import Aws
from worker_space.adapters.aws import AwsCalls, make_client, make_signer
from worker_space.adapters.memory_files import MemoryContent, MemoryFiles
from worker_space.adapters.s3 import S3Content, S3Files
from worker_space.errors import InvalidRequest, Unavailable
from worker_space.ports import Content, Files, SignedRequest
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio
TYPE = {"Content-Type": "text/plain"}


class Store:
    """Files and contents over one store, and a client of it that has nothing but an address."""

    def __init__(self, files: Files, content: Content) -> None:
        self.files = files
        self.content = content

    async def perform(
        self, signed: SignedRequest, content: bytes = b"", *, method: str = "", url: str = "", **instead: str | None
    ) -> tuple[int, bytes]:
        """Make a signed request; with other headers `instead`, or without those that are `None`."""
        headers: dict[str, str] = dict(signed.headers)
        for name, value in instead.items():
            headers.pop(name.replace("_", "-"), None)
            if value is not None:
                headers[name.replace("_", "-")] = value
        if isinstance(self.files, MemoryFiles):
            return await self.files.perform(method or signed.method, url or signed.url, headers, content)
        if "Content-Length" not in instead:
            # What a client says of itself; the signature decides whether it is true.
            headers.pop("Content-Length", None)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.request(
                method or signed.method, url or signed.url, headers=headers, content=content or None
            )
        return answer.status_code, b"" if answer.is_error else answer.content


@pytest.fixture(params=["memory", "s3", "s3 without versions"])
def store(request: pytest.FixtureRequest, names: Names) -> Iterator[Store]:
    if request.param == "memory":
        yield Store(MemoryFiles(), MemoryContent())
        return
    aws: Aws = request.getfixturevalue("aws")
    request.getfixturevalue("aws_endpoint")
    client = make_client("s3", region=aws.region, timeout_seconds=20.0)
    bucket = aws.bucket
    if "without" in request.param:
        bucket = f"plain-{secrets.token_hex(6)}"
        where: Any = {"LocationConstraint": "eu-central-1"}
        client.create_bucket(
            Bucket=bucket, **({} if aws.region == "us-east-1" else {"CreateBucketConfiguration": where})
        )
    with ThreadPoolExecutor(16) as executor:
        calls = AwsCalls(executor)
        yield Store(S3Files(client, calls, names, bucket), S3Content(client, calls, names, bucket))
    client.close()


@pytest.fixture
def tenant() -> TenantContext:
    return TenantContext(f"u{uuid4().hex[:8]}", "p1")


@pytest.fixture
def stranger(tenant: TenantContext) -> TenantContext:
    """The neighbour whose names begin like the tenant's."""
    return TenantContext(tenant.user_id, "p10")


async def read(store: Store, tenant: TenantContext, path: str) -> bytes | None:
    body = await store.files.read(tenant, path)
    return None if body is None else body.data


# -- contents that are handed out


async def handed_out(store: Store, signed: SignedRequest, *, method: str = "", url: str = "") -> tuple[int, bytes]:
    if isinstance(store.content, MemoryContent):
        return await store.content.perform(method or signed.method, url or signed.url)
    return await store.perform(signed, method=method, url=url)


async def test_a_content_is_handed_out_under_one_key_by_an_address_of_its_own(
    store: Store, tenant: TenantContext, request: pytest.FixtureRequest
) -> None:
    asked: Any = {"filename": "project.zip", "content_type": "application/zip", "seconds": 60}
    large = secrets.token_bytes(3_000_000)
    first = await store.content.hand_out(tenant, "export.zip", large, **asked)
    second = await store.content.hand_out(tenant, "export.zip", b"second", **asked)
    assert (first.method, first.headers) == ("GET", {})
    assert first.expires_at <= time.time() * 1000 + 60_000
    without_versions = request.node.callspec.params["store"] == "s3 without versions"
    assert await handed_out(store, first) == (200, b"second" if without_versions else large)
    assert await handed_out(store, second) == (200, b"second")
    assert [key async for key in store.content.all_keys(tenant)] == ["export.zip"]
    assert (await handed_out(store, second, method="PUT"))[0] == 403
    for url in (second.url.replace("export.zip", "other.zip"), second.url[:-1] + "g"):
        if url != second.url:
            assert (await handed_out(store, second, url=url))[0] == 403
    await store.content.erase(tenant)
    assert await store.content.remains(tenant) == 0
    assert (await handed_out(store, second))[0] in {403, 404}


async def test_what_is_handed_out_is_in_the_tenants_prefix(store: Store, tenant: TenantContext) -> None:
    with pytest.raises(InvalidRequest):
        await store.content.hand_out(tenant, "../a", b"x", filename="a", content_type="text/plain", seconds=60)


# -- uploads


async def test_a_signed_upload_stores_that_file(store: Store, tenant: TenantContext) -> None:
    before = time.time() * 1000
    signed = await store.files.sign_upload(tenant, "ä b/c+d.txt", size=5, seconds=60, content_type="text/plain")
    assert signed.method == "PUT"
    assert signed.headers == {"Content-Length": "5", **TYPE}
    assert before + 58_000 < signed.expires_at <= time.time() * 1000 + 60_000
    assert (await store.perform(signed, b"hello"))[0] == 200
    head = await store.files.head(tenant, "ä b/c+d.txt")
    assert head is not None
    assert (head.size, head.content_type, head.effect) == (5, "text/plain", None)
    assert head.version == hashlib.md5(b"hello").hexdigest()


async def test_an_empty_file_can_be_uploaded(store: Store, tenant: TenantContext) -> None:
    signed = await store.files.sign_upload(tenant, "empty", size=0, seconds=60)
    assert (await store.perform(signed, b"", Content_Length="0"))[0] == 200
    assert await read(store, tenant, "empty") == b""


async def test_another_size_type_or_mark_is_refused(store: Store, tenant: TenantContext) -> None:
    signed = await store.files.sign_upload(tenant, "a", size=5, seconds=60, content_type="text/plain")
    for content in (b"hell", b"hello!"):
        assert (await store.perform(signed, content))[0] == 403
    assert (await store.perform(signed, b"hello", Content_Type="text/html"))[0] == 403
    assert (await store.perform(signed, b"hello", Content_Type=None))[0] == 403
    assert (await store.perform(signed, b"hello", x_amz_meta_effect="task_1#1"))[0] == 403
    assert (await store.perform(signed, b"hello", method="GET"))[0] == 403
    assert await read(store, tenant, "a") is None


async def test_another_address_is_refused(store: Store, tenant: TenantContext, stranger: TenantContext) -> None:
    await store.files.write(stranger, "a", b"secret")
    signed = await store.files.sign_upload(tenant, "a", size=5, seconds=60)
    for url in (
        signed.url.replace("_projectp1/", "_projectp10/"),
        signed.url.replace("X-Amz-Expires=60", "X-Amz-Expires=900"),
        signed.url[:-1] + ("0" if signed.url[-1] != "0" else "1"),
    ):
        if url != signed.url:
            assert (await store.perform(signed, b"hello", url=url))[0] == 403
    assert await read(store, stranger, "a") == b"secret"
    assert await read(store, tenant, "a") is None


async def test_another_content_than_the_checksums_is_refused(store: Store, tenant: TenantContext) -> None:
    checksum = hashlib.sha256(b"hello")
    signed = await store.files.sign_upload(tenant, "a", size=5, seconds=60, sha256=checksum.hexdigest())
    assert signed.headers["x-amz-checksum-sha256"] == base64.b64encode(checksum.digest()).decode()
    assert (await store.perform(signed, b"jello"))[0] == 400
    assert (await store.perform(signed, b"jello", x_amz_checksum_sha256=None))[0] == 403
    assert await read(store, tenant, "a") is None
    assert (await store.perform(signed, b"hello"))[0] == 200


async def test_an_upload_under_a_version_needs_that_version(store: Store, tenant: TenantContext) -> None:
    first = await store.files.write(tenant, "a", b"one")
    signed = await store.files.sign_upload(tenant, "a", size=3, seconds=60, if_version=first.version)
    assert (await store.perform(signed, b"two", If_Match=None))[0] == 403
    assert (await store.perform(signed, b"two", If_Match='"other"'))[0] == 403
    await store.files.write(tenant, "a", b"mine")
    assert (await store.perform(signed, b"two"))[0] == 412
    assert await read(store, tenant, "a") == b"mine"
    await store.files.write(tenant, "a", b"one")
    assert (await store.perform(signed, b"two"))[0] == 200


async def test_an_upload_of_a_new_file_needs_its_absence(store: Store, tenant: TenantContext) -> None:
    signed = await store.files.sign_upload(tenant, "a", size=3, seconds=60, if_absent=True)
    assert (await store.perform(signed, b"two", If_None_Match=None))[0] == 403
    assert (await store.perform(signed, b"one"))[0] == 200
    assert (await store.perform(signed, b"two"))[0] == 412
    assert await read(store, tenant, "a") == b"one"


async def test_of_racing_uploads_over_one_version_exactly_one_wins(store: Store, tenant: TenantContext) -> None:
    start = await store.files.write(tenant, "a", b"start")
    for turn in range(3):
        contents = [f"{turn} {number}".encode() for number in range(8)]
        signed = await store.files.sign_upload(tenant, "a", size=3, seconds=60, if_version=start.version)
        answers = await asyncio.gather(*(store.perform(signed, content) for content in contents))
        assert sorted(status for status, _ in answers) == [200, *[412] * 7]
        body = await store.files.read(tenant, "a")
        assert body is not None
        assert body.data == contents[[status for status, _ in answers].index(200)]
        start = body.info


@pytest.mark.parametrize("path", ["../p10/a", "a/../../b", "/a", "", "a//b", "a/", "%2e%2e/a"])
async def test_nothing_is_signed_for_a_path_that_is_not_normalised(
    store: Store, tenant: TenantContext, path: str
) -> None:
    with pytest.raises(InvalidRequest):
        await store.files.sign_upload(tenant, path, size=1, seconds=60)
    with pytest.raises(InvalidRequest):
        await store.files.sign_download(tenant, path, seconds=60)


# -- downloads


async def test_a_signed_download_gives_that_file(store: Store, tenant: TenantContext, stranger: TenantContext) -> None:
    written = await store.files.write(tenant, "ä b/c+d.txt", b"hello", content_type="text/plain")
    found = await store.files.sign_download(tenant, "ä b/c+d.txt", seconds=60)
    assert found is not None
    info, signed = found
    assert (info.size, info.version, info.content_type) == (5, written.version, "text/plain")
    assert (signed.method, signed.headers) == ("GET", {})
    assert await store.perform(signed) == (200, b"hello")
    assert (await store.perform(signed, method="PUT"))[0] == 403
    assert (await store.perform(signed, url=f"{signed.url}x"))[0] == 403
    assert await store.files.sign_download(stranger, "ä b/c+d.txt", seconds=60) is None
    assert await store.files.sign_download(tenant, "none", seconds=60) is None


@pytest.mark.parametrize("store", ["memory", "s3"], indirect=True)
async def test_a_download_gives_the_file_that_was_asked_for_though_it_changes(
    store: Store, tenant: TenantContext
) -> None:
    await store.files.write(tenant, "a", b"old")
    found = await store.files.sign_download(tenant, "a", seconds=60)
    await store.files.write(tenant, "a", b"newer")
    assert found is not None
    assert await store.perform(found[1]) == (200, b"old")


async def test_an_address_is_not_shown_where_a_request_is(store: Store, tenant: TenantContext) -> None:
    signed = await store.files.sign_upload(tenant, "a", size=1, seconds=60)
    assert signed.url not in repr(signed)


@pytest.mark.parametrize("store", ["memory", "s3"], indirect=True)
async def test_an_address_ends_with_its_time(store: Store, tenant: TenantContext) -> None:
    await store.files.write(tenant, "a", b"x")
    found = await store.files.sign_download(tenant, "a", seconds=1)
    signed = await store.files.sign_upload(tenant, "b", size=1, seconds=1)
    assert found is not None
    await asyncio.sleep(1.1)
    assert (await store.perform(found[1]))[0] == 403
    assert (await store.perform(signed, b"x"))[0] == 403
    assert await read(store, tenant, "b") is None


# -- erasing


async def test_erasing_leaves_nothing_of_the_tenants_and_all_of_the_others(
    store: Store, tenant: TenantContext, stranger: TenantContext
) -> None:
    for number in range(3):
        await store.files.write(tenant, "a", f"{number}".encode())
        await store.content.put(tenant, "c", f"{number}")
    await store.files.write(tenant, "b/deleted", b"x")
    await store.files.delete(tenant, "b/deleted")
    await store.files.write(stranger, "a", b"theirs")
    await store.content.put(stranger, "c", "theirs")
    for port in (store.files, store.content):
        held = await port.remains(tenant)
        assert held >= 1
        assert await port.erase(tenant) == held
        assert await port.remains(tenant) == 0
        assert await port.erase(tenant) == 0
    assert await read(store, tenant, "a") is None
    assert await store.content.get(tenant, "c") is None
    assert await read(store, stranger, "a") == b"theirs"
    assert await store.content.get(stranger, "c") == "theirs"


async def test_files_and_contents_are_erased_apart(store: Store, tenant: TenantContext) -> None:
    await store.files.write(tenant, "a", b"x")
    await store.content.put(tenant, "c", "x")
    await store.content.erase(tenant)
    assert await read(store, tenant, "a") == b"x"
    await store.content.put(tenant, "c", "x")
    await store.files.erase(tenant)
    assert await store.content.get(tenant, "c") == "x"


@pytest.mark.parametrize("store", ["memory", "s3"], indirect=True)
async def test_what_was_signed_for_a_download_dies_with_the_file(store: Store, tenant: TenantContext) -> None:
    await store.files.write(tenant, "a", b"x")
    found = await store.files.sign_download(tenant, "a", seconds=60)
    await store.files.erase(tenant)
    assert found is not None
    status, content = await store.perform(found[1])
    assert (status in (403, 404), content) == (True, b"")


# -- S3 alone


async def test_versions_marks_and_unfinished_uploads_are_counted_and_erased_page_by_page(
    aws: Aws, aws_endpoint: str, names: Names, tenant: TenantContext, stranger: TenantContext
) -> None:
    client = make_client("s3", region=aws.region, timeout_seconds=60.0)
    with ThreadPoolExecutor(8) as executor:
        files = S3Files(client, AwsCalls(executor), names, aws.bucket)
        root, beside = names.workspace(tenant), names.workspace(stranger)

        def put(number: int) -> None:
            client.put_object(Bucket=aws.bucket, Key=f"{root}f{number % 200:04d}", Body=b"")

        list(executor.map(put, range(300)))
        client.delete_object(Bucket=aws.bucket, Key=f"{root}f0000")
        client.create_multipart_upload(Bucket=aws.bucket, Key=f"{root}part")
        client.create_multipart_upload(Bucket=aws.bucket, Key=f"{beside}part")
        assert await files.remains(tenant) == 302
        assert await files.erase(tenant) == 302
        assert await files.remains(tenant) == 0
        assert await files.remains(stranger) == 1
        listed = client.list_object_versions(Bucket=aws.bucket, Prefix=root)
        assert "Versions" not in listed
        assert "DeleteMarkers" not in listed
        await files.erase(stranger)
    client.close()


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "bucket-1.s3.us-east-1.amazonaws.com"),
        ("eu-central-1", "bucket-1.s3.eu-central-1.amazonaws.com"),
        ("cn-north-1", "bucket-1.s3.cn-north-1.amazonaws.com.cn"),
    ],
)
async def test_on_aws_an_address_is_https_at_the_buckets_own_host(
    region: str, host: str, monkeypatch: pytest.MonkeyPatch, names: Names, tenant: TenantContext
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    client = make_client("s3", region=region)
    with ThreadPoolExecutor(1) as executor:
        files = S3Files(client, AwsCalls(executor), names, "bucket-1")
        checksum = hashlib.sha256(b"").hexdigest()
        signed = await files.sign_upload(tenant, "a", size=7, seconds=90, sha256=checksum, if_version="v")
    client.close()
    place = urlsplit(signed.url)
    query = parse_qs(place.query)
    assert (place.scheme, place.netloc, place.path) == ("https", host, f"/{names.workspace(tenant)}a")
    assert query["X-Amz-SignedHeaders"] == ["content-length;content-type;host;if-match;x-amz-checksum-sha256"]
    assert query["X-Amz-Expires"] == ["90"]
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    signed_names = set(query["X-Amz-SignedHeaders"][0].split(";")) - {"host"}
    assert {name.casefold() for name in signed.headers} == signed_names


async def test_no_address_sends_a_file_over_a_network_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, names: Names, tenant: TenantContext
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example")
    client = make_client("s3", region="eu-central-1")
    with ThreadPoolExecutor(1) as executor, pytest.raises(Unavailable, match="https"):
        await S3Files(client, AwsCalls(executor), names, "b").sign_upload(tenant, "a", size=1, seconds=60)
    client.close()


def test_an_endpoint_of_ones_own_is_addressed_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example")
    client = make_client("s3", region="eu-central-1")
    signer = make_signer(client)
    url = cast("str", signer.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"}))
    assert url.startswith("https://store.example/b/k?")
    client.close()
    signer.close()
