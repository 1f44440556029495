"""What every `ports.Content` promises, asked of the one in memory and of S3."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.servers import http, server
from tests.stand_ins import Aws
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.memory_files import MemoryContent
from worker_space.adapters.s3 import S3Content, S3Files
from worker_space.errors import InvalidRequest, Unavailable
from worker_space.ports import Content
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "s3"])
def content(request: pytest.FixtureRequest, names: Names) -> Iterator[Content]:
    if request.param == "memory":
        yield MemoryContent()
        return
    aws: Aws = request.getfixturevalue("aws")
    request.getfixturevalue("aws_endpoint")
    client = make_client("s3", region=aws.region, timeout_seconds=10.0)
    with ThreadPoolExecutor(8) as executor:
        yield S3Content(client, AwsCalls(executor), names, aws.bucket)
    client.close()


@pytest.fixture
def tenant() -> TenantContext:
    return TenantContext(f"u{uuid4().hex[:8]}", "p1")


async def keys(content: Content, tenant: TenantContext) -> list[str]:
    return [key async for key in content.all_keys(tenant)]


async def test_a_text_is_read_back_and_can_be_stored_again(content: Content, tenant: TenantContext) -> None:
    await content.put(tenant, "task_1/2", "Grüße\n\0")
    assert await content.get(tenant, "task_1/2") == "Grüße\n\0"
    await content.put(tenant, "task_1/2", "")
    assert await content.get(tenant, "task_1/2") == ""
    assert await content.get(tenant, "task_1/3") is None


async def test_all_keys_are_told_and_deleted(content: Content, tenant: TenantContext) -> None:
    for key in ("a", "b/c", "b/d"):
        await content.put(tenant, key, key)
    assert await keys(content, tenant) == ["a", "b/c", "b/d"]
    await content.delete(tenant, ["a", "b/d", "missing"])
    assert await keys(content, tenant) == ["b/c"]
    await content.delete(tenant, [])
    await content.delete(tenant, await keys(content, tenant))
    assert await keys(content, tenant) == []


async def test_tenants_share_no_text(content: Content, tenant: TenantContext) -> None:
    stranger = TenantContext(tenant.user_id, "p10")
    await content.put(tenant, "a", "mine")
    assert await content.get(stranger, "a") is None
    assert await keys(content, stranger) == []
    await content.delete(stranger, ["a"])
    assert await content.get(tenant, "a") == "mine"


@pytest.mark.parametrize("key", ["", "../a", "a/../b", "/a", "a//b"])
async def test_a_key_never_leaves_the_tenants_prefix(content: Content, tenant: TenantContext, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await content.put(tenant, key, "x")
    with pytest.raises(InvalidRequest):
        await content.get(tenant, key)
    with pytest.raises(InvalidRequest):
        await content.delete(tenant, [key])


async def test_more_keys_than_a_page_of_s3_are_told_and_deleted(
    aws: Aws, aws_endpoint: str, names: Names, tenant: TenantContext
) -> None:
    client = make_client("s3", region=aws.region, timeout_seconds=20.0)
    with ThreadPoolExecutor(8) as executor:
        content = S3Content(client, AwsCalls(executor), names, aws.bucket)
        root = names.content(tenant)
        list(
            executor.map(
                lambda number: client.put_object(Bucket=aws.bucket, Key=f"{root}k{number:04d}", Body=b""), range(1_005)
            )
        )
        found = await keys(content, tenant)
        assert found == [f"k{number:04d}" for number in range(1_005)]
        await content.delete(tenant, found)
        assert await keys(content, tenant) == []
    client.close()


async def test_contents_are_no_files_of_the_users(
    aws: Aws, aws_endpoint: str, names: Names, tenant: TenantContext
) -> None:
    client = make_client("s3", region=aws.region, timeout_seconds=10.0)
    with ThreadPoolExecutor(8) as executor:
        content = S3Content(client, AwsCalls(executor), names, aws.bucket)
        files = S3Files(client, AwsCalls(executor), names, aws.bucket)
        await content.put(tenant, "a", "backend")
        await files.write(tenant, "b", b"user")
        assert [info.path for info in (await files.list(tenant, recursive=True)).files] == ["b"]
        assert await keys(content, tenant) == ["a"]
    client.close()


async def test_a_missing_bucket_is_the_operators_business(
    aws: Aws, aws_endpoint: str, names: Names, tenant: TenantContext
) -> None:
    client = make_client("s3", region=aws.region, timeout_seconds=10.0)
    with ThreadPoolExecutor(8) as executor:
        content = S3Content(client, AwsCalls(executor), names, "no-such-bucket")
        with pytest.raises(Unavailable):
            await content.put(tenant, "a", "x")
        with pytest.raises(Unavailable):
            await content.get(tenant, "a")
        with pytest.raises(Unavailable):
            await keys(content, tenant)
        with pytest.raises(Unavailable):
            await content.delete(tenant, ["a"])
    client.close()


async def test_a_key_that_s3_did_not_delete_is_not_taken_for_deleted(names: Names, tenant: TenantContext) -> None:
    body = (
        b'<?xml version="1.0"?><DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Error><Key>a</Key><Code>InternalError</Code><Message>m</Message></Error></DeleteResult>"
    )
    with server(lambda _: http(200, body, "application/xml")) as (url, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        client = make_client("s3", region="eu-central-1")
        with ThreadPoolExecutor(1) as executor, pytest.raises(Unavailable, match="InternalError"):
            await S3Content(client, AwsCalls(executor), names, "bucket").delete(tenant, ["a"])
        client.close()
