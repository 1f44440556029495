"""Cleaning up, resetting or deleting one project changes no byte of another, and stops nothing that runs there."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.memory_stack import MemoryStack
from tests.mission.world import ALICE, BLOG, BOB, answered, session_in, space_of, stored
from worker_space import UserWorkerSpace
from worker_space.models import ModelRequest
from worker_space.ports import ContextEntry

pytestmark = pytest.mark.anyio


async def _cleanup(stack: MemoryStack) -> None:
    await space_of(stack, ALICE).cleanup()


async def _reset(stack: MemoryStack) -> None:
    await space_of(stack, ALICE).reset()


async def _delete(stack: MemoryStack) -> None:
    await stack.parts.services.projects.delete(ALICE)


WAYS = pytest.mark.parametrize("end", [_cleanup, _reset, _delete])
End = Callable[[MemoryStack], Awaitable[None]]


@WAYS
async def test_no_store_of_another_project_changes(stack: MemoryStack, space: UserWorkerSpace, end: End) -> None:
    spaces = [space, space_of(stack, BLOG), space_of(stack, BOB)]
    for each in spaces:
        await stack.files.write(each.tenant, "a.txt", b"alpha")
        await each.add_context("coder", ContextEntry(id="1", text="the sky is blue", kind="note", created_at=1))
        await answered(stack, each, "hello")
        await each.initialize()
        await each.send_task(await session_in(each), "waits", "coder")
    others = (BLOG, BOB)
    before = {tenant: stored(stack, tenant) for tenant in others}
    cached = {tenant: await stack.cache.load(tenant) for tenant in others}
    await end(stack)
    for tenant in others:
        assert stored(stack, tenant) == before[tenant]
        assert await stack.cache.load(tenant) == cached[tenant] != {}
        assert list(await stack.queues.generations(tenant)) == [1]
        assert await stack.queues.depth(tenant, 1) == 1
        await stack.work(tenant)
        assert (await space_of(stack, tenant).get_metrics()).tasks_by_state["completed"] == 2
    body = await stack.files.read(ALICE, "a.txt")
    assert body is not None
    assert body.data == b"alpha"


@WAYS
async def test_a_task_that_runs_in_another_project_runs_to_its_end(stack: MemoryStack, end: End) -> None:
    blog = space_of(stack, BLOG)
    await answered(stack, space_of(stack, ALICE), "hello")
    sent = await blog.send_task(await session_in(blog), "hello", "coder")
    began, go_on = asyncio.Event(), asyncio.Event()

    async def hang(_: ModelRequest) -> None:
        began.set()
        await go_on.wait()

    stack.model.before = hang
    worker = asyncio.ensure_future(stack.work(BLOG))
    await began.wait()
    await end(stack)
    go_on.set()
    await worker
    reply = await blog.wait_for_result(sent, seconds=1)
    assert reply.response is not None
