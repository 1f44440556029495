"""Metrics are durable: counted in the table, and the same in every environment."""

import pytest

from tests.memory_stack import MemoryStack, says
from tests.mission.world import ALICE, BLOG, answered, session_in, space_of
from worker_space import UserWorkerSpace
from worker_space.errors import ModelError
from worker_space.models import ModelReply, Usage

pytestmark = pytest.mark.anyio


async def test_the_missions_numbers_are_there(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await space.initialize()
    await answered(stack, space, "hello")
    metrics = await space.get_metrics()
    assert (metrics.user_id, metrics.project_id) == ("alice", "shop")
    assert metrics.active_agents == 4
    assert metrics.cache_size is not None
    assert metrics.cache_size >= 4
    assert metrics.total_tasks_processed == 1
    assert 0 <= metrics.uptime_seconds < 60
    assert metrics.is_healthy


async def test_tasks_are_counted_by_what_became_of_them(stack: MemoryStack, space: UserWorkerSpace) -> None:
    for _ in range(3):
        await answered(stack, space, "hello")
    stack.model.script = [ModelError("no")]
    await answered(stack, space, "fail")
    sent = await space.send_task(await session_in(space), "x", "writer")
    await space.cancel_task(sent.task_id)
    await space.send_task(await session_in(space), "waits", "coder")
    metrics = await space.get_metrics()
    assert metrics.total_tasks_processed == 5
    assert metrics.tasks_by_state == {"completed": 3, "failed": 1, "canceled": 1, "open": 1}
    # One waits, and the canceled one's delivery is void but still there.
    assert metrics.queue_depth == 2
    assert metrics.p50_ms is not None
    assert metrics.p95_ms is not None
    assert 1 <= metrics.p50_ms <= metrics.p95_ms
    coder, writer = await space.get_agent_metrics("coder"), await space.get_agent_metrics("writer")
    assert (coder.completed, coder.failed, coder.canceled) == (3, 1, 0)
    assert (writer.completed, writer.failed, writer.canceled) == (0, 0, 1)


async def test_tokens_are_added_up(stack: MemoryStack, space: UserWorkerSpace) -> None:
    for number in (1, 2):
        usage = Usage(input_tokens=100 * number, output_tokens=10 * number)
        stack.model.script = [says("x").model_copy(update={"usage": usage})]
        await answered(stack, space, "hello")
    metrics = await space.get_metrics()
    assert (metrics.input_tokens, metrics.output_tokens) == (300, 30)
    assert ModelReply.model_fields["usage"].default == Usage()


async def test_another_environment_sees_the_same_numbers_and_another_project_none_of_them(
    stack: MemoryStack, space: UserWorkerSpace
) -> None:
    await answered(stack, space, "hello")
    elsewhere = space_of(stack, ALICE, stack.compose())
    mine, theirs = await space.get_metrics(), await elsewhere.get_metrics()
    assert theirs.model_copy(update={"uptime_seconds": mine.uptime_seconds}) == mine
    assert (await space_of(stack, BLOG).get_metrics()).total_tasks_processed == 0


async def test_a_cleanup_does_not_take_the_numbers_away(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await answered(stack, space, "hello")
    await space.cleanup()
    metrics = await space.get_metrics()
    assert (metrics.total_tasks_processed, metrics.active_agents, metrics.uptime_seconds) == (1, 0, 0)
    stack.clock[0] += 61
    await answered(stack, space, "again")
    again = await space.get_metrics()
    assert (again.total_tasks_processed, again.active_agents) == (2, 4)


async def test_a_deleted_agents_tasks_still_count(stack: MemoryStack, space: UserWorkerSpace) -> None:
    await answered(stack, space, "hello")
    await space.delete_agent("coder")
    assert (await space.get_metrics()).total_tasks_processed == 1
