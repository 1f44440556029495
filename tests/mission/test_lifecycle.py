"""Cleanup, reset and health. Whatever happens to the worker space, the user's files are as they were."""

import asyncio
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, calls, says
from tests.mission.world import ALICE, BLOG, answered, make_stack, session_in, space_of, working
from worker_space import UserWorkerSpace, WorkerSpaceManager
from worker_space.errors import ClaimLost, NotFound, Unavailable
from worker_space.models import ModelRequest
from worker_space.ports import ContextEntry
from worker_space.projects import SpaceState
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio


async def _fill(stack: MemoryStack, space: UserWorkerSpace) -> dict[str, bytes]:
    await stack.files.write(space.tenant, "a.txt", b"alpha")
    await stack.files.write(space.tenant, "src/b.txt", b"beta")
    await space.add_context("coder", ContextEntry(id="1", text="the sky is blue", kind="note", created_at=1))
    await answered(stack, space, "hello")
    await space.initialize()
    return await _files(stack, space.tenant)


async def _files(stack: MemoryStack, tenant: TenantContext) -> dict[str, bytes]:
    page = await stack.files.list(tenant, recursive=True)
    bodies = {info.path: await stack.files.read(tenant, info.path) for info in page.files}
    return {path: body.data for path, body in bodies.items() if body is not None}


async def test_cleanup_cancels_deregisters_and_clears_and_keeps_context_history_and_files(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    files = await _fill(stack, space)
    session = await session_in(space)
    sent = await space.send_task(session, "never run", "coder")
    report = await space.cleanup()
    assert (report.canceled_tasks, list(report.still_running), report.deregistered_agents) == (1, [], 4)
    assert report.state is SpaceState.DORMANT
    assert (await space.wait_for_result(sent, seconds=0)).task.state is TaskState.CANCELED
    for name in ("coder", "analyst", "writer", "planner"):
        assert not (await space.get_agent_status(name)).registered
    await space.clear_agent_cache()
    assert list(await stack.queues.generations(ALICE)) == []
    assert len(await space.search_context("coder", "sky")) == 1
    messages, _ = await space.sessions.messages(ALICE, session, limit=10, after=None)
    assert messages[0].content == "never run"
    assert await _files(stack, ALICE) == files


async def test_cleanup_clears_the_cache(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await _fill(stack, space)
    assert await stack.cache.load(ALICE) != {}
    await space.cleanup()
    assert await stack.cache.load(ALICE) == {}


async def test_the_next_message_after_a_cleanup_simply_works(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await _fill(stack, space)
    for _ in range(2):
        await space.cleanup()
        stack.clock[0] += 61
        assert (await answered(stack, space, "again")).response is not None
        assert (await space.get_agent_status("writer")).registered
    assert list(await stack.queues.generations(ALICE)) == [3]


async def test_reset_ends_by_force_what_runs_and_its_late_answer_does_not_appear(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    files = await _fill(stack, space)
    session = await session_in(space)
    sent = await space.send_task(session, "slow", "coder")
    began, go_on = asyncio.Event(), asyncio.Event()

    async def hang(_: ModelRequest) -> None:
        began.set()
        await go_on.wait()

    stack.model.before = hang
    stack.model.script = [calls(("write_file", {"path": "a.txt", "content": "too late"})), says("too late")]
    worker = asyncio.ensure_future(stack.work(ALICE))
    await began.wait()
    report = await space.reset()
    assert (report.canceled_tasks, report.complete, report.state) == (1, True, SpaceState.DORMANT)
    assert await stack.cache.load(ALICE) == {}
    go_on.set()
    with pytest.raises(ClaimLost):
        await worker
    assert (await space.wait_for_result(sent, seconds=0)).task.state is TaskState.CANCELED
    messages, _ = await space.sessions.messages(ALICE, session, limit=10, after=None)
    assert [message.status for message in messages] == ["ok", "canceled"]
    assert await _files(stack, ALICE) == files
    assert len(await space.search_context("coder", "sky")) == 1
    stack.clock[0] += 61
    stack.model.before = None
    stack.model.script = []
    assert (await answered(stack, space, "again")).response is not None


@pytest.mark.parametrize("port", ["cache", "memory", "queues", "files"])
async def test_is_healthy_asks_each_component(port: str) -> None:
    stack = await make_stack()
    await answered(stack, space_of(stack, ALICE), "hello")

    class Down:
        def __getattr__(self, name: str) -> Any:
            async def fail(*_: object, **__: object) -> None:
                raise Unavailable(port, "down")

            return fail

    assert await space_of(stack, ALICE).is_healthy()
    ailing = space_of(stack, ALICE, stack.compose(**{port: Down()}))
    health, _ = await ailing.vitals()
    part = {"cache": "redis", "memory": "qdrant", "queues": "queue", "files": "files"}[port]
    assert [name for name, component in health.components.items() if not component.ok] == [part]
    assert await ailing.is_healthy() == (port in {"cache", "memory"})


async def test_a_managers_cleanup_releases_one_pair_and_hands_out_a_new_space_afterwards(stack: MemoryStack) -> None:
    manager = WorkerSpaceManager(stack.parts.services.collaborators)
    space, blog = manager.get_or_create("alice", "shop"), manager.get_or_create("alice", "blog")
    for each in (space, blog):
        await answered(stack, each, "hello")
    report = await manager.cleanup("alice", "shop")
    assert report.state is SpaceState.DORMANT
    assert manager.get_or_create("alice", "shop") is not space
    assert manager.get_or_create("alice", "blog") is blog
    assert list(await stack.queues.generations(BLOG)) == [1]
    with pytest.raises(NotFound):
        await manager.cleanup("alice", "missing")


async def test_cleanup_and_reset_may_be_repeated(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await _fill(stack, space)
    for _ in range(2):
        assert (await space.cleanup()).state is SpaceState.DORMANT
    for _ in range(2):
        assert (await space.reset()).state is SpaceState.DORMANT
    stack.clock[0] += 61
    async with working(stack, ALICE):
        assert (await answered(stack, space, "again")).response is not None
    item = await stack.records.get(ALICE, Key.space())
    assert item is not None
    assert item["open_tasks"] == 0
