"""What every `ports.Files` promises, asked of the one in memory and of S3."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.servers import BROKEN, http, server
from tests.stand_ins import Aws
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.memory_files import MemoryFiles
from worker_space.adapters.s3 import S3Files
from worker_space.errors import ConditionFailed, InvalidRequest, Unavailable
from worker_space.ports import Files
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="session")
def s3_executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture(params=["memory", "s3"])
def files(request: pytest.FixtureRequest, s3_executor: ThreadPoolExecutor, names: Names) -> Iterator[Files]:
    if request.param == "memory":
        yield MemoryFiles()
        return
    aws: Aws = request.getfixturevalue("aws")
    request.getfixturevalue("aws_endpoint")
    client = make_client("s3", region=aws.region, timeout_seconds=10.0)
    yield S3Files(client, AwsCalls(s3_executor), names, aws.bucket)
    client.close()


@pytest.fixture
def tenant() -> TenantContext:
    """A pair of its own for each test; one bucket is shared by all."""
    return TenantContext(f"u{uuid4().hex[:8]}", "p1")


@pytest.fixture
def stranger(tenant: TenantContext) -> TenantContext:
    """The neighbour whose names begin like the tenant's."""
    return TenantContext(tenant.user_id, "p10")


async def test_a_written_file_is_read_back_with_its_facts(files: Files, tenant: TenantContext) -> None:
    written = await files.write(tenant, "src/main.py", b"print()", content_type="text/x-python", effect="task_1#2")
    body = await files.read(tenant, "src/main.py")
    head = await files.head(tenant, "src/main.py")
    assert body is not None
    assert head is not None
    assert body.data == b"print()"
    for info in (written, body.info, head):
        assert (info.path, info.size, info.content_type, info.effect) == (
            "src/main.py",
            7,
            "text/x-python",
            "task_1#2",
        )
        assert info.version == written.version
        assert abs(info.modified_at - written.modified_at) <= 2_000
    assert '"' not in written.version


async def test_a_missing_file_is_none(files: Files, tenant: TenantContext) -> None:
    assert await files.head(tenant, "a") is None
    assert await files.read(tenant, "a") is None
    assert await files.read(tenant, "a", start=5, length=3) is None


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        *((0, None, b"0123456789"), (3, None, b"3456789"), (3, 4, b"3456"), (0, 4, b"0123"), (8, 100, b"89")),
        *((10, None, b""), (10, 5, b""), (99, 1, b""), (0, 0, b""), (4, 0, b"")),
    ],
)
async def test_a_part_of_a_file_can_be_read(
    files: Files, tenant: TenantContext, start: int, length: int | None, expected: bytes
) -> None:
    await files.write(tenant, "digits", b"0123456789", effect="t#1")
    body = await files.read(tenant, "digits", start=start, length=length)
    assert body is not None
    assert (body.data, body.start, body.info.size, body.info.effect) == (expected, start, 10, "t#1")


@pytest.mark.parametrize("length", [None, 10])
async def test_an_empty_file_has_no_bytes(files: Files, tenant: TenantContext, length: int | None) -> None:
    await files.write(tenant, "empty", b"")
    body = await files.read(tenant, "empty", length=length)
    assert body is not None
    assert (body.data, body.info.size) == (b"", 0)


async def test_a_write_replaces_the_whole_file_and_its_facts(files: Files, tenant: TenantContext) -> None:
    old = await files.write(tenant, "a", b"old", effect="t#1")
    new = await files.write(tenant, "a", b"newer")
    head = await files.head(tenant, "a")
    assert head is not None
    assert new.version != old.version
    assert (head.size, head.version, head.effect) == (5, new.version, None)


async def test_a_write_under_a_version_needs_that_version(files: Files, tenant: TenantContext) -> None:
    first = await files.write(tenant, "a", b"1")
    second = await files.write(tenant, "a", b"2", if_version=first.version)
    with pytest.raises(ConditionFailed):
        await files.write(tenant, "a", b"3", if_version=first.version)
    with pytest.raises(ConditionFailed):
        await files.write(tenant, "b", b"3", if_version=first.version)
    head = await files.head(tenant, "a")
    assert head is not None
    assert head.version == second.version
    assert await files.head(tenant, "b") is None


async def test_a_write_of_a_new_file_needs_its_absence(files: Files, tenant: TenantContext) -> None:
    await files.write(tenant, "a", b"1", if_absent=True)
    with pytest.raises(ConditionFailed):
        await files.write(tenant, "a", b"2", if_absent=True)
    await files.delete(tenant, "a")
    await files.write(tenant, "a", b"3", if_absent=True)


async def test_a_deleted_file_is_gone_and_a_missing_one_no_error(files: Files, tenant: TenantContext) -> None:
    await files.write(tenant, "a", b"1")
    await files.delete(tenant, "a")
    await files.delete(tenant, "a")
    assert await files.head(tenant, "a") is None
    assert (await files.list(tenant)).files == []


async def test_a_delete_under_a_version_needs_that_version(files: Files, tenant: TenantContext) -> None:
    first = await files.write(tenant, "a", b"1")
    second = await files.write(tenant, "a", b"2")
    with pytest.raises(ConditionFailed):
        await files.delete(tenant, "a", if_version=first.version)
    assert await files.head(tenant, "a") is not None
    await files.delete(tenant, "a", if_version=second.version)
    with pytest.raises(ConditionFailed):
        await files.delete(tenant, "a", if_version=second.version)


async def test_a_copy_has_the_content_and_the_mark_of_its_own_call(files: Files, tenant: TenantContext) -> None:
    source = await files.write(tenant, "ä b+c%41.txt", b"text", content_type="text/x-odd", effect="t#1")
    copied = await files.copy(tenant, "ä b+c%41.txt", "new/ö.txt", if_version=source.version, effect="t#2")
    body = await files.read(tenant, "new/ö.txt")
    assert body is not None
    assert body.data == b"text"
    for info in (copied, body.info):
        assert (info.path, info.size, info.version) == ("new/ö.txt", 4, source.version)
        assert (info.content_type, info.effect) == ("text/x-odd", "t#2")
    kept = await files.head(tenant, "ä b+c%41.txt")
    assert kept is not None
    assert kept.effect == "t#1"


async def test_a_copy_without_a_mark_does_not_inherit_one(files: Files, tenant: TenantContext) -> None:
    source = await files.write(tenant, "a", b"text", effect="t#1")
    assert (await files.copy(tenant, "a", "b", if_version=source.version)).effect is None
    head = await files.head(tenant, "b")
    assert head is not None
    assert head.effect is None


async def test_a_copy_needs_the_sources_version_and_a_free_target(files: Files, tenant: TenantContext) -> None:
    old = await files.write(tenant, "a", b"1")
    new = await files.write(tenant, "a", b"2")
    with pytest.raises(ConditionFailed):
        await files.copy(tenant, "a", "b", if_version=old.version)
    with pytest.raises(ConditionFailed):
        await files.copy(tenant, "missing", "b", if_version=old.version)
    assert await files.head(tenant, "b") is None
    await files.write(tenant, "b", b"mine")
    with pytest.raises(ConditionFailed):
        await files.copy(tenant, "a", "b", if_version=new.version)
    body = await files.read(tenant, "b")
    assert body is not None
    assert body.data == b"mine"


async def test_a_listing_shows_files_and_folders_of_one_level(files: Files, tenant: TenantContext) -> None:
    for path in ("b.txt", "a/1", "a/x/2", "a-b/3", "ab/4", "é/5"):
        await files.write(tenant, path, path.encode())
    root = await files.list(tenant)
    assert [(info.path, info.size) for info in root.files] == [("b.txt", 5)]
    assert list(root.folders) == ["a-b", "a", "ab", "é"]
    assert root.after is None
    below = await files.list(tenant, "a")
    assert [info.path for info in below.files] == ["a/1"]
    assert list(below.folders) == ["a/x"]
    everything = await files.list(tenant, recursive=True)
    assert [info.path for info in everything.files] == ["a-b/3", "a/1", "a/x/2", "ab/4", "b.txt", "é/5"]
    assert list(everything.folders) == []
    head = await files.head(tenant, "a/1")
    assert head is not None
    assert everything.files[1].version == head.version
    assert [info.path for info in (await files.list(tenant, "a", recursive=True)).files] == ["a/1", "a/x/2"]
    assert await files.list(tenant, "missing") == await files.list(tenant, "b.txt")


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_of_a_listing_hold_everything_once(
    files: Files, tenant: TenantContext, limit: int, recursive: bool
) -> None:
    for path in ("a", "a-b", "a/1", "a/2", "a/x/1", "a0", "b/1", "c"):
        await files.write(tenant, path, b"")
    whole = await files.list(tenant, recursive=recursive)
    seen_files: list[str] = []
    seen_folders: list[str] = []
    after: str | None = None
    for _ in range(20):
        page = await files.list(tenant, recursive=recursive, limit=limit, after=after)
        assert len(page.files) + len(page.folders) <= limit
        seen_files += [info.path for info in page.files]
        seen_folders += page.folders
        after = page.after
        if after is None:
            break
    assert after is None
    assert seen_files == [info.path for info in whole.files]
    assert seen_folders == list(whole.folders)


async def test_nothing_of_another_tenant_is_seen_or_touched(
    files: Files, tenant: TenantContext, stranger: TenantContext
) -> None:
    mine = await files.write(tenant, "a/secret", b"mine")
    assert await files.head(stranger, "a/secret") is None
    assert await files.read(stranger, "a/secret") is None
    with pytest.raises(ConditionFailed):
        await files.copy(stranger, "a/secret", "b", if_version=mine.version)
    with pytest.raises(ConditionFailed):
        await files.delete(stranger, "a/secret", if_version=mine.version)
    await files.delete(stranger, "a/secret")
    await files.write(stranger, "a/secret", b"theirs")
    for recursive in (False, True):
        page = await files.list(stranger, "a", recursive=recursive, after="")
        assert [info.size for info in page.files] == [6]
    body = await files.read(tenant, "a/secret")
    assert body is not None
    assert body.data == b"mine"


@pytest.mark.parametrize("path", ["../p10/a", "a/../../b", "/a", "", "a//b", "./a", "a/", "%2e%2e/a", "a\\b"])
async def test_a_path_that_is_not_normalised_reaches_no_store(files: Files, tenant: TenantContext, path: str) -> None:
    good = await files.write(tenant, "good", b"")
    with pytest.raises(InvalidRequest):
        await files.head(tenant, path)
    with pytest.raises(InvalidRequest):
        await files.read(tenant, path)
    with pytest.raises(InvalidRequest):
        await files.write(tenant, path, b"")
    with pytest.raises(InvalidRequest):
        await files.delete(tenant, path)
    with pytest.raises(InvalidRequest):
        await files.copy(tenant, "good", path, if_version=good.version)
    with pytest.raises(InvalidRequest):
        await files.copy(tenant, path, "new", if_version=good.version)
    if path:
        with pytest.raises(InvalidRequest):
            await files.list(tenant, path)


async def test_of_racing_writers_of_one_version_exactly_one_wins(files: Files, tenant: TenantContext) -> None:
    start = await files.write(tenant, "counter", b"start")

    async def attempt(text: str) -> bool:
        try:
            await files.write(tenant, "counter", text.encode(), if_version=start.version)
        except ConditionFailed:
            return False
        return True

    for turn in range(5):
        # Never the same content twice: a version is a digest of it.
        won = await asyncio.gather(*(attempt(f"{turn} {number}") for number in range(12)))
        assert sum(won) == 1
        body = await files.read(tenant, "counter")
        assert body is not None
        assert body.data == f"{turn} {won.index(True)}".encode()
        start = body.info


async def test_of_racing_creators_exactly_one_wins(files: Files, tenant: TenantContext) -> None:
    async def attempt(number: int) -> bool:
        try:
            await files.write(tenant, "new", f"{number}".encode(), if_absent=True)
        except ConditionFailed:
            return False
        return True

    won = await asyncio.gather(*(attempt(number) for number in range(12)))
    assert sum(won) == 1


async def test_a_living_store_answers(files: Files) -> None:
    await files.ping()


# -- S3 alone ------------------------------------------------------------------------------------------------


async def test_objects_that_no_path_names_are_left_out(
    aws: Aws, aws_endpoint: str, s3_executor: ThreadPoolExecutor, names: Names, tenant: TenantContext
) -> None:
    client = make_client("s3", region=aws.region, timeout_seconds=10.0)
    files = S3Files(client, AwsCalls(s3_executor), names, aws.bucket)
    for name in ("folder/", "a:b", "ok", "x/CON", "folder/in"):
        client.put_object(Bucket=aws.bucket, Key=names.workspace(tenant) + name, Body=b"")
    assert [info.path for info in (await files.list(tenant, recursive=True)).files] == ["folder/in", "ok"]
    assert [info.path for info in (await files.list(tenant, "folder")).files] == ["folder/in"]
    client.close()


async def test_the_key_is_the_tenants_prefix_and_the_path(
    aws: Aws, aws_endpoint: str, s3_executor: ThreadPoolExecutor, names: Names, tenant: TenantContext
) -> None:
    client = make_client("s3", region=aws.region, timeout_seconds=10.0)
    await S3Files(client, AwsCalls(s3_executor), names, aws.bucket).write(tenant, "src/ä.py", b"x")
    assert client.get_object(Bucket=aws.bucket, Key=f"{tenant.token}/src/ä.py")["Body"].read() == b"x"
    client.close()


async def test_a_copy_keeps_what_others_noted_on_the_object(
    aws: Aws, aws_endpoint: str, s3_executor: ThreadPoolExecutor, names: Names, tenant: TenantContext
) -> None:
    client = make_client("s3", region=aws.region, timeout_seconds=10.0)
    files = S3Files(client, AwsCalls(s3_executor), names, aws.bucket)
    root = names.workspace(tenant)
    client.put_object(Bucket=aws.bucket, Key=f"{root}a", Body=b"x", Metadata={"mtime": "7"}, CacheControl="no-store")
    head = await files.head(tenant, "a")
    assert head is not None
    await files.copy(tenant, "a", "b", if_version=head.version, effect="t#1")
    copied = client.head_object(Bucket=aws.bucket, Key=f"{root}b")
    assert copied["Metadata"] == {"mtime": "7", "effect": "t#1"}
    assert copied["CacheControl"] == "no-store"
    client.close()


async def test_a_bucket_that_is_not_there_is_the_operators_business(
    aws: Aws, aws_endpoint: str, s3_executor: ThreadPoolExecutor, names: Names, tenant: TenantContext
) -> None:
    client = make_client("s3", region=aws.region, timeout_seconds=10.0)
    files = S3Files(client, AwsCalls(s3_executor), names, "no-such-bucket")
    with pytest.raises(Unavailable):
        await files.read(tenant, "a")
    with pytest.raises(Unavailable):
        await files.write(tenant, "a", b"")
    with pytest.raises(Unavailable):
        await files.list(tenant)
    with pytest.raises(Unavailable):
        await files.ping()
    client.close()


@pytest.mark.parametrize("behaviour", BROKEN)
async def test_a_broken_store_is_unavailable_not_empty(
    behaviour: str, s3_executor: ThreadPoolExecutor, names: Names, tenant: TenantContext
) -> None:
    with server(lambda _: BROKEN[behaviour]) as (url, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        client = make_client("s3", region="eu-central-1", timeout_seconds=1.0)
        files = S3Files(client, AwsCalls(s3_executor), names, "bucket")
        for call in (
            files.head(tenant, "a"),
            files.read(tenant, "a"),
            files.read(tenant, "a", length=10),
            files.list(tenant),
            files.write(tenant, "a", b"x"),
            files.copy(tenant, "a", "b", if_version="1"),
        ):
            with pytest.raises(Unavailable):
                await call
        client.close()


async def test_a_store_that_never_answers_is_unavailable_within_two_seconds(
    s3_executor: ThreadPoolExecutor, names: Names, tenant: TenantContext
) -> None:
    with server(lambda _: None) as (url, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        client = make_client("s3", region="eu-central-1")
        files = S3Files(client, AwsCalls(s3_executor), names, "bucket")
        async with asyncio.timeout(2.0):
            with pytest.raises(Unavailable):
                await files.read(tenant, "a")
        client.close()


def refusal(status: int, code: str) -> bytes:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>m</Message></Error>'.encode()
    return http(status, body, "application/xml")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refusal(412, "PreconditionFailed"), ConditionFailed),
        (refusal(409, "ConditionalRequestConflict"), ConditionFailed),
        (refusal(404, "NoSuchKey"), ConditionFailed),
        (refusal(404, "NoSuchBucket"), Unavailable),
        (refusal(403, "AccessDenied"), Unavailable),
        (refusal(503, "SlowDown"), Unavailable),
        (refusal(400, "SomethingNew"), Unavailable),
    ],
)
async def test_what_s3_answers_to_a_conditional_change_is_told_in_our_words(
    answer: bytes, expected: type[Exception], s3_executor: ThreadPoolExecutor, names: Names, tenant: TenantContext
) -> None:
    facts = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nLast-Modified: Sun, 22 Nov 2026 06:00:00 GMT\r\nContent-Length: 0\r\n\r\n'
    with (
        server(lambda request: facts if request.method == "HEAD" else answer) as (url, _),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL", url)
        client = make_client("s3", region="eu-central-1")
        files = S3Files(client, AwsCalls(s3_executor), names, "bucket")
        with pytest.raises(expected):
            await files.delete(tenant, "a", if_version="1")
        with pytest.raises(expected):
            await files.copy(tenant, "a", "b", if_version="1")
        with pytest.raises(expected):
            await files.write(tenant, "a", b"", if_version="1")
        client.close()
