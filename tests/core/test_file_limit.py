"""The bytes of a project's files stay within their limit, whoever writes them, and in doubt count rather than not."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, SlowRecords, calls, says, settings
from worker_space.adapters.memory_files import MemoryFiles
from worker_space.agents import AgentChanges
from worker_space.allowances import LimitChanges
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, LimitReached, NotFound, Unavailable
from worker_space.limit_status import limit_status
from worker_space.limits import grant
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import NewSession
from worker_space.models import ToolResult
from worker_space.ports import FileInfo
from worker_space.projects import NewProject, ProjectChanges
from worker_space.records import Item, Put, Update
from worker_space.stored_files import MeteredFiles
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")
LIMIT = 100


async def _nothing() -> None:
    return


class Store(MemoryFiles):
    """Files that can fail, or keep a writer waiting, in the middle of a write."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Exception | None = None
        self.stored_all_the_same = False
        self.listings = 0
        self.holding: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self.behind_a_listing: Callable[[], Awaitable[None]] = _nothing
        self.behind_a_deletion: Callable[[], Awaitable[None]] = _nothing

    async def write(self, tenant: TenantContext, path: str, data: bytes, **facts: Any) -> FileInfo:
        if self.holding is not None and path == "held":
            self.reached.set()
            await self.holding.wait()
        if self.fails is not None:
            if self.stored_all_the_same:
                await super().write(tenant, path, data, **facts)
            raise self.fails
        return await super().write(tenant, path, data, **facts)

    async def list(self, *arguments: Any, **named: Any) -> Any:
        self.listings += 1
        page = await super().list(*arguments, **named)
        await self.behind_a_listing()
        return page

    async def delete(self, *arguments: Any, **named: Any) -> None:
        await super().delete(*arguments, **named)
        await self.behind_a_deletion()


class Bench:
    def __init__(self, limit: int | None = LIMIT) -> None:
        self.store, self.records, self.limit = Store(), SlowRecords(), limit
        self.files = MeteredFiles(self.store, self.records, limit_of=self._limit)

    async def _limit(self, _: TenantContext) -> int | None:
        return self.limit

    async def open(self) -> "Bench":
        await self.records.write(TENANT, Put(key=Key.space(), item={"state": "active"}))
        return self

    async def item(self) -> Item:
        return await self.records.get(TENANT, Key.usage("files")) or {}

    async def counted(self) -> int:
        return int((await self.item())["bytes"])

    async def really(self) -> int:
        return sum(info.size for info in (await self.store.list(TENANT, recursive=True)).files)

    async def set(self, **changes: Any) -> None:
        await self.records.write(TENANT, Update(key=Key.usage("files"), set=changes))

    async def minutes_later(self) -> None:
        await self.set(counted_at=0)


@pytest.fixture
async def bench() -> Bench:
    return await Bench().open()


def text(size: int) -> bytes:
    return b"x" * size


async def test_without_a_limit_nothing_is_counted() -> None:
    bench = await Bench(None).open()
    await bench.files.write(TENANT, "a", text(500))
    await bench.files.delete(TENANT, "a")
    assert await bench.item() == {}


async def test_what_fits_is_stored_and_what_does_not_is_refused(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(60))
    with pytest.raises(LimitReached, match="60 bytes of at most 100, and 41 more do not fit") as refused:
        await bench.files.write(TENANT, "b", text(41))
    assert (refused.value.limit, refused.value.retry_after) == ("file_bytes", None)
    assert await bench.store.head(TENANT, "b") is None
    await bench.files.write(TENANT, "b", text(40))
    assert await bench.counted() == await bench.really() == 100


async def test_a_replaced_file_counts_as_what_it_is_now(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(90))
    await bench.files.write(TENANT, "a", text(100))
    await bench.files.write(TENANT, "a", text(10))
    await bench.files.write(TENANT, "b", text(90))
    assert await bench.counted() == 100
    await bench.files.delete(TENANT, "b")
    await bench.files.delete(TENANT, "nothing")
    assert await bench.counted() == 10


async def test_a_copy_counts_as_a_file_of_its_own(bench: Bench) -> None:
    info = await bench.files.write(TENANT, "a", text(60))
    with pytest.raises(LimitReached):
        await bench.files.copy(TENANT, "a", "b", if_version=info.version)
    small = await bench.files.write(TENANT, "a", text(50))
    await bench.files.copy(TENANT, "a", "b", if_version=small.version)
    assert await bench.counted() == 100
    with pytest.raises(ConditionFailed):
        await bench.files.copy(TENANT, "a", "c", if_version="other")


async def test_files_that_were_there_before_the_limit_are_counted(bench: Bench) -> None:
    await bench.store.write(TENANT, "old/file", text(70))
    with pytest.raises(LimitReached, match="70 bytes"):
        await bench.files.write(TENANT, "new", text(31))
    await bench.files.write(TENANT, "new", text(30))


async def test_over_a_lowered_limit_files_may_still_shrink(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(80))
    bench.limit = 50
    with pytest.raises(LimitReached):
        await bench.files.write(TENANT, "a", text(81))
    await bench.files.write(TENANT, "a", text(60))
    await bench.files.delete(TENANT, "a")
    assert await bench.counted() == 0


async def test_a_refused_condition_gives_the_bytes_back(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(10))
    with pytest.raises(ConditionFailed):
        await bench.files.write(TENANT, "a", text(50), if_absent=True)
    with pytest.raises(ConditionFailed):
        await bench.files.write(TENANT, "a", text(50), if_version="other")
    with pytest.raises(ConditionFailed):
        await bench.files.delete(TENANT, "a", if_version="other")
    bench.store.fails = ConditionFailed([{}])
    kept = await bench.store.head(TENANT, "a")
    assert kept is not None
    with pytest.raises(ConditionFailed):
        await bench.files.write(TENANT, "a", text(50), if_version=kept.version)
    item = await bench.item()
    assert item["bytes"] == 10
    assert [name for name in item if name.startswith("held:")] == []


@pytest.mark.parametrize("stored", [True, False])
async def test_in_doubt_bytes_count_until_the_files_are_counted_anew(bench: Bench, stored: bool) -> None:
    await bench.files.write(TENANT, "a", text(50))
    bench.store.fails, bench.store.stored_all_the_same = Unavailable("the file store", "gone"), stored
    with pytest.raises(Unavailable):
        await bench.files.write(TENANT, "b", text(50))
    bench.store.fails = None
    assert await bench.counted() == 100
    with pytest.raises(LimitReached):
        await bench.files.write(TENANT, "c", text(50))
    # When its time is over, only what is really there counts.
    (name,) = [name for name in await bench.item() if name.startswith("held:")]
    await bench.set(**{name: {"bytes": 50, "until": 0}})
    await bench.minutes_later()
    if stored:
        with pytest.raises(LimitReached):
            await bench.files.write(TENANT, "c", text(50))
    else:
        await bench.files.write(TENANT, "c", text(50))
    assert await bench.counted() == await bench.really() == 100


async def test_files_are_counted_anew_at_most_once_a_minute(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(100))
    before = bench.store.listings
    for _ in range(5):
        with pytest.raises(LimitReached):
            await bench.files.write(TENANT, "b", text(1))
    assert bench.store.listings == before
    await bench.minutes_later()
    for _ in range(5):
        with pytest.raises(LimitReached):
            await bench.files.write(TENANT, "b", text(1))
    assert bench.store.listings == before + 1


async def test_what_others_changed_in_the_bucket_is_noticed_on_the_next_day(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(10))
    await bench.store.write(TENANT, "by another program", text(85))
    await bench.files.write(TENANT, "b", text(5))
    assert await bench.counted() == 15
    await bench.set(day="20200101")
    await bench.files.delete(TENANT, "b")
    await bench.files.write(TENANT, "b", text(5))
    assert await bench.counted() == await bench.really() == 100


async def test_a_count_beside_a_write_that_is_under_way_counts_it(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(10))
    bench.store.holding = asyncio.Event()
    writing = asyncio.ensure_future(bench.files.write(TENANT, "held", text(40)))
    await bench.store.reached.wait()
    await bench.minutes_later()
    with pytest.raises(LimitReached):
        await bench.files.write(TENANT, "c", text(51))
    bench.store.holding.set()
    await writing
    assert await bench.counted() == await bench.really() == 50


async def test_a_count_that_a_write_has_overtaken_is_not_used(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(50))
    await bench.minutes_later()

    async def write_one_more() -> None:
        bench.store.behind_a_listing = _nothing
        await bench.set(counted_at=now_ms() - 1)
        await bench.files.write(TENANT, "b", text(40))

    bench.store.behind_a_listing = write_one_more
    with pytest.raises(LimitReached):
        await bench.files.write(TENANT, "c", text(51))
    assert await bench.counted() == await bench.really() == 90


async def test_what_was_deleted_before_a_count_is_not_subtracted_behind_it(bench: Bench) -> None:
    await bench.files.write(TENANT, "a", text(50))
    await bench.files.write(TENANT, "b", text(50))

    async def count_anew() -> None:
        bench.store.behind_a_deletion = _nothing
        await bench.minutes_later()
        with pytest.raises(LimitReached):
            await bench.files.write(TENANT, "c", text(60))

    bench.store.behind_a_deletion = count_anew
    await bench.files.delete(TENANT, "a")
    assert await bench.counted() == await bench.really() == 50


async def test_an_upload_is_counted_when_it_is_allowed(bench: Bench) -> None:
    await bench.files.sign_upload(TENANT, "big", size=80, seconds=600)
    with pytest.raises(LimitReached):
        await bench.files.sign_upload(TENANT, "bigger", size=21, seconds=600)
    await bench.minutes_later()
    with pytest.raises(LimitReached):
        await bench.files.write(TENANT, "a", text(21))
    await bench.files.write(TENANT, "a", text(20))
    # The upload was never made.
    (name,) = [name for name in await bench.item() if name.startswith("held:")]
    await bench.set(**{name: {"bytes": 80, "until": 0}})
    await bench.minutes_later()
    await bench.files.write(TENANT, "b", text(80))
    assert await bench.counted() == 100


@pytest.mark.parametrize("given_up", ["deleted", "replaced", "moved"])
async def test_what_an_address_may_store_again_stays_counted(bench: Bench, given_up: str) -> None:
    await bench.files.sign_upload(TENANT, "big", size=40, seconds=600)
    big = await bench.store.write(TENANT, "big", text(40))
    if given_up == "deleted":
        await bench.files.delete(TENANT, "big")
    elif given_up == "replaced":
        await bench.files.write(TENANT, "big", b"")
    else:
        await bench.files.copy(TENANT, "big", "there", if_version=big.version)
        await bench.files.delete(TENANT, "big")
    elsewhere = 40 if given_up == "moved" else 0
    with pytest.raises(LimitReached):
        await bench.files.write(TENANT, "c", text(61 - elsewhere))
    await bench.files.write(TENANT, "c", text(60 - elsewhere))
    await bench.store.write(TENANT, "big", text(40))
    assert await bench.really() == 100
    # When its time is over, it counts as any file.
    (name,) = [name for name in await bench.item() if name.startswith("held:")]
    await bench.set(**{name: {**(await bench.item())[name], "until": 0}})
    await bench.minutes_later()
    await bench.files.delete(TENANT, "big")
    await bench.files.write(TENANT, "d", text(40))
    assert await bench.counted() == await bench.really() == 100


async def test_another_projects_files_do_not_count(bench: Bench) -> None:
    other = TenantContext("bob", "shop")
    await bench.records.write(other, Put(key=Key.space(), item={"state": "active"}))
    await bench.files.write(TENANT, "a", text(100))
    await bench.files.write(other, "a", text(100))
    assert await bench.counted() == 100


@pytest.mark.parametrize("state", ["deleted", None])
async def test_a_late_writer_brings_no_count_of_a_deleted_project_back(state: str | None) -> None:
    bench = Bench()
    if state is not None:
        await bench.records.write(TENANT, Put(key=Key.space(), item={"state": state}))
    with pytest.raises(NotFound):
        await bench.files.write(TENANT, "a", text(1))
    assert await bench.item() == {}
    assert await bench.really() == 0


def test_writers_at_once_do_not_pass_the_limit_together() -> None:
    bench = asyncio.run(Bench().open())
    gate = threading.Barrier(12)

    async def work(number: int) -> None:
        for turn in range(6):
            path = f"{number % 5}/{turn % 3}"
            # Everybody makes room again, so everybody gets in in the end: bytes that leak keep somebody out for good.
            while True:
                try:
                    await bench.files.write(TENANT, path, text(20 + (number * turn) % 9))
                    break
                except (LimitReached, Unavailable):
                    assert time.monotonic() < until
                    await asyncio.sleep(0.001)
            assert await bench.really() <= LIMIT
            await bench.files.delete(TENANT, path)

    def run(number: int) -> None:
        gate.wait()
        asyncio.run(work(number))

    until = time.monotonic() + 60
    with ThreadPoolExecutor(12) as pool:
        for each in [pool.submit(run, number) for number in range(12)]:
            each.result()
    really, counted = asyncio.run(bench.really()), asyncio.run(bench.counted())
    assert really == 0
    assert counted == 0


# -- the whole system ----------------------------------------------------------------------------------------


@asynccontextmanager
async def system(**limits: object) -> AsyncIterator[MemoryStack]:
    stack = MemoryStack(settings=settings(**limits))
    await stack.parts.services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    yield stack


async def test_an_agent_is_told_that_its_file_does_not_fit_and_goes_on() -> None:
    async with system(limit_file_bytes=10) as stack:
        space = WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "shop")
        await space.update_agent("coder", AgentChanges(tools=("write_file",)))
        session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
        stack.model.script = [
            calls(("write_file", {"path": "a.txt", "content": "far too long"})),
            calls(("write_file", {"path": "a.txt", "content": "short"})),
            says("Done."),
        ]
        sent = await space.send_task(session.id, "Write a.txt", None)
        await stack.work(TENANT)
        reply = await space.wait_for_result(sent, seconds=1)
        assert reply.task.state is TaskState.COMPLETED
        told = stack.model.requests[1].turns[-1]
        assert isinstance(told, ToolResult)
        assert told.is_error
        assert "at most 10" in told.content
        body = await stack.files.read(TENANT, "a.txt")
        assert body is not None
        assert body.data == b"short"


async def test_an_owner_limits_files_where_the_deployment_does_not() -> None:
    async with system() as stack:
        services = stack.parts.services
        await services.files.write(TENANT, "a", text(50))
        await services.projects.update(TENANT, ProjectChanges(limits=LimitChanges(file_bytes=60)))
        with pytest.raises(LimitReached, match="50 bytes of at most 60"):
            await services.files.write(TENANT, "b", text(20))
        await services.projects.update(TENANT, ProjectChanges(limits=LimitChanges(file_bytes=None)))
        await services.files.write(TENANT, "b", text(20))


@pytest.mark.parametrize("by_operator", [False, True])
async def test_what_was_stored_while_there_was_no_limit_counts_when_there_is_one_again(by_operator: bool) -> None:
    async with system() as stack:
        services = stack.parts.services

        async def limit(file_bytes: int | None) -> None:
            if by_operator:
                await grant(stack.records, TENANT, {"file_bytes": file_bytes})
                await services.collaborators.registry.changed(TENANT)
            else:
                await services.projects.update(TENANT, ProjectChanges(limits=LimitChanges(file_bytes=file_bytes)))

        async def used() -> int | None:
            status = await limit_status(stack.records, services.allowances, TENANT)
            return next(each.used for each in status if each.name == "file_bytes")

        await limit(60)
        await services.files.write(TENANT, "a", text(10))
        await limit(None)
        await services.files.write(TENANT, "b", text(40))
        await limit(60)
        assert await used() is None
        with pytest.raises(LimitReached, match="50 bytes of at most 60"):
            await services.files.write(TENANT, "c", text(20))
        assert await used() == 50
        await services.files.delete(TENANT, "b")
        assert await used() == 10
