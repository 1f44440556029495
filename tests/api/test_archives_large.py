"""Archives too large for an answer or a body go by the store: one address out, one of the caller's own files in."""

import asyncio
import secrets
from typing import Any

import pytest

from tests.api.archive_world import bring, export, opened, say
from tests.api.service import Service, kind
from worker_space.adapters.memory_files import MemoryContent
from worker_space.errors import Unavailable
from worker_space.ports import SignedRequest
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio
SHOP, COPY = TenantContext("alice", "shop"), TenantContext("alice", "copy")


async def keys(service: Service, tenant: TenantContext) -> list[str]:
    return [key async for key in service.stack.content.all_keys(tenant)]


async def long_chats(service: Service, *, megabytes: int) -> None:
    """A project whose messages and answers come to so much, and cannot be packed into less than half of it."""
    project = await service.project()
    session = (await service.call("POST", f"{project}/chat/sessions/", json={})).json()["id"]
    async with service.worker():
        for _ in range(megabytes):
            text = secrets.token_hex(250_000)
            assert (await say(service, f"{project}/chat/{session}/message/", text)).status_code == 200


async def fetched(service: Service, project: str = "shop") -> bytes:
    """The archive, by way of the store."""
    answer = await service.call("GET", f"/my/projects/{project}/export")
    assert (answer.status_code, answer.content) == (303, b""), answer.text
    assert answer.headers["cache-control"] == "no-store"
    status, data = await service.stack.content.perform("GET", answer.headers["location"])
    assert status == 200
    return data


async def test_a_project_with_long_chats_goes_out_and_comes_back_by_the_store(service: Service) -> None:
    await long_chats(service, megabytes=11)
    data = await fetched(service)
    assert len(data) > 5 << 20
    assert sum(len(line["content"]) for line in opened(data)["messages.jsonl"]) > 10_000_000
    refused = await bring(service, data)
    assert (refused.status_code, kind(refused)) == (413, "too-large")
    await service.project("shelf")
    asked = {"path": "backup/shop.zip", "size": len(data)}
    given = (await service.call("POST", "/my/projects/shelf/file-uploads/", json=asked)).json()
    assert (await service.stack.files.perform("PUT", given["url"], given["headers"], data))[0] == 200
    made = await bring(service, b"", "?id=copy&from_project=shelf&path=backup/shop.zip")
    assert (made.status_code, made.json()["id"]) == (201, "copy"), made.text
    assert opened(await fetched(service, "copy")) == opened(data)


async def test_the_store_keeps_one_archive_of_a_project_and_an_address_stays_with_what_it_was_given_for(
    service: Service,
) -> None:
    await long_chats(service, megabytes=10)
    before = await keys(service, SHOP)
    first = (await service.call("GET", "/my/projects/shop/export")).headers["location"]
    async with service.worker():
        await say(service, "/my/projects/shop/chat/", "one more")
    later = await fetched(service)
    assert sorted({*await keys(service, SHOP)} - {*before}) == ["export.zip"]
    _, earlier = await service.stack.content.perform("GET", first)
    assert len(opened(later)["messages.jsonl"]) == len(opened(earlier)["messages.jsonl"]) + 2


@pytest.mark.parametrize("how", ["", "?erase=true"])
async def test_a_project_that_goes_takes_its_archive_along(service: Service, how: str) -> None:
    await long_chats(service, megabytes=10)
    await fetched(service)
    assert (await service.call("DELETE", f"/my/projects/shop/{how}")).is_success
    assert await keys(service, SHOP) == []
    assert await service.stack.content.remains(SHOP) == 0


@pytest.mark.parametrize(("again", "said"), [(False, (404, "not-found")), (True, (409, "conflict"))])
async def test_an_archive_that_is_stored_behind_its_projects_end_does_not_stay(
    service: Service, again: bool, said: tuple[int, str]
) -> None:
    await long_chats(service, megabytes=10)
    stack = service.stack

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack.content, name)

        async def hand_out(self, tenant: TenantContext, key: str, data: bytes, **named: Any) -> SignedRequest:
            await stack.parts.services.projects.delete(tenant)
            if again:
                await service.project()
            return await stack.content.hand_out(tenant, key, data, **named)

    service.replace(exporter=stack.compose(content=Late()).services.exporter)
    answer = await service.call("GET", "/my/projects/shop/export")
    assert (answer.status_code, kind(answer)) == said
    assert await keys(service, SHOP) == []


# -- time ----------------------------------------------------------------------------------------------------


class Counting:
    """A content store that takes its time, and counts what is under way at once."""

    def __init__(self, below: MemoryContent) -> None:
        self._below = below
        self._now = 0
        self.most: dict[str, int] = {"get": 0, "put": 0}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._below, name)
        if name not in self.most:
            return found

        async def counted(*arguments: Any) -> Any:
            self._now += 1
            self.most[name] = max(self.most[name], self._now)
            await asyncio.sleep(0.002)
            self._now -= 1
            return await found(*arguments)

        return counted


async def test_long_texts_are_read_and_stored_several_at_a_time_and_not_all_at_once(service: Service) -> None:
    project = await service.project()
    async with service.worker():
        session = (await say(service, f"{project}/chat/", "first")).json()["session_id"]
        for _ in range(20):
            text = "x" * 40_000
            assert (await say(service, f"{project}/chat/{session}/message/", text)).status_code == 200
    store = Counting(service.stack.content)
    service.services = service.stack.compose(content=store).services
    data = await export(service)
    assert 8 <= store.most["get"] <= 16
    assert (await bring(service, data)).status_code == 201
    assert 8 <= store.most["put"] <= 16
    assert opened(await export(service, "copy")) == opened(data)


async def test_an_import_that_fails_waits_for_the_texts_that_are_still_on_their_way(service: Service) -> None:
    await long_chats(service, megabytes=3)
    data = await export(service)
    stack = service.stack

    class Broken:
        def __init__(self) -> None:
            self._count = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(stack.content, name)

        async def put(self, tenant: TenantContext, key: str, text: str) -> None:
            self._count += 1
            if self._count % 3 == 0:
                raise Unavailable("it", "down")
            await asyncio.sleep(0.05)
            await stack.content.put(tenant, key, text)

    service.services = stack.compose(content=Broken()).services
    assert (await bring(service, data)).status_code == 503
    await asyncio.sleep(0.1)
    assert await keys(service, COPY) == []


# -- an archive among one's own files ------------------------------------------------------------------------


async def put(service: Service, data: bytes, path: str = "a.zip") -> None:
    await service.stack.files.write(SHOP, path, data)


@pytest.mark.parametrize(
    ("query", "content", "said"),
    [
        ("?from_project=shop", b"", (422, "go together")),
        ("?path=a.zip", b"", (422, "go together")),
        ("?from_project=shop&path=a.zip", b"PK", (422, "no body")),
        ("?from_project=shop&path=../a.zip", b"", (422, "a.zip")),
        ("?from_project=shop&path=/", b"", (422, "")),
        ("?from_project=shop&path=", b"", (422, "")),
        ("?from_project=shop&path=b.zip", b"", (404, "there is no file 'b.zip'")),
        ("?from_project=shop&path=folder", b"", (404, "there is no file 'folder'")),
        ("?from_project=nobodys&path=a.zip", b"", (404, "nobodys")),
        ("?from_project=%00&path=a.zip", b"", (404, "project")),
        ("?from_project=shop&path=large.zip", b"", (413, "bytes")),
        ("?from_project=shop&path=folder/none.zip", b"", (422, "no zip file")),
    ],
)
async def test_a_file_that_cannot_be_imported_is_refused_and_nothing_is_made(
    service: Service, query: str, content: bytes, said: tuple[int, str]
) -> None:
    await service.project()
    await put(service, await export(service))
    await put(service, b"none", "folder/none.zip")
    if "large" in query:
        await put(service, bytes((65 << 20) + 1), "large.zip")
    answer = await bring(service, content, f"{query}&id=copy")
    assert answer.status_code == said[0], answer.text
    assert said[1] in answer.json()["detail"]
    assert (await service.call("GET", "/my/projects/copy/")).status_code == 404


async def test_an_import_of_a_file_that_is_repeated_makes_one_project_as_long_as_the_file_is_the_same(
    service: Service,
) -> None:
    await service.project()
    await put(service, await export(service))
    query, key = "?from_project=shop&path=a.zip", {"Idempotency-Key": "k1"}
    first = await bring(service, b"", query, **key)
    again = await bring(service, b"", query, **key)
    assert (again.status_code, again.json()) == (201, first.json())
    await service.call("PATCH", "/my/projects/shop/", json={"name": "Another"})
    await put(service, await export(service))
    other = await bring(service, b"", query, **key)
    assert (other.status_code, kind(other)) == (409, "conflict")
