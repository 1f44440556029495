"""What overtakes a question to the user: a second word, the end of its time, a cancellation, a reset, a new policy."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.approvals import (
    DELETE_A,
    TENANT,
    answer,
    approvals,
    events,
    paths,
    pending,
    policy,
    project,
    runtime,
    send,
    task,
    told,
)
from tests.memory_stack import MemoryStack, calls, says, settings
from worker_space.consent import ApprovalState
from worker_space.errors import Conflict, NotFound
from worker_space.events import EventType
from worker_space.manager import WorkerSpaceManager
from worker_space.models import ModelRequest
from worker_space.records import Update
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stack() -> MemoryStack:
    return await project(MemoryStack(settings=settings(max_attempts=3)))


# -- twice, too late, otherwise ------------------------------------------------------------------------------------


async def _asked(stack: MemoryStack) -> tuple[Any, str]:
    stack.model.script = [calls(DELETE_A), says("done")]
    sent = await send(stack)
    await stack.work(TENANT)
    return sent, (await pending(stack))[0].id


async def test_the_same_verdict_again_is_the_same_resource_and_has_its_effect_once(stack: MemoryStack) -> None:
    sent, asked = await _asked(stack)
    first = await approvals(stack).confirm(TENANT, asked)
    assert await approvals(stack).confirm(TENANT, asked) == first
    await stack.work(TENANT)
    # Its effect would be visible if it were made again.
    await stack.files.write(TENANT, "a.txt", b"new")
    assert await approvals(stack).confirm(TENANT, asked, arguments={"path": "/a.txt"}) == first
    assert await stack.work(TENANT) == []
    assert "a.txt" in await paths(stack)
    assert (await task(stack, sent))["dispatch"] == 2


async def test_another_verdict_is_refused_and_says_what_was_decided(stack: MemoryStack) -> None:
    _, asked = await _asked(stack)
    await approvals(stack).confirm(TENANT, asked, arguments={"path": "b.txt"})
    for other, says_what in [
        (approvals(stack).reject(TENANT, asked), "it is confirmed"),
        (approvals(stack).confirm(TENANT, asked), "with other arguments"),
        (approvals(stack).confirm(TENANT, asked, arguments={"path": "c.txt"}), "with other arguments"),
    ]:
        with pytest.raises(Conflict, match=says_what):
            await other
    _, asked = await _asked(stack)
    await approvals(stack).reject(TENANT, asked, reason="no")
    assert (await approvals(stack).reject(TENANT, asked, reason="never")).reason == "no"
    with pytest.raises(Conflict, match="it is rejected"):
        await approvals(stack).confirm(TENANT, asked)


async def _run_out(stack: MemoryStack, approval_id: str, sent: Any) -> None:
    await stack.records.write(TENANT, Update(key=Key.approval(approval_id), set={"expires_at": 1}))
    await stack.records.write(TENANT, Update(key=Key.task(sent.task_id), set={"due_at": 1}))


async def test_when_the_time_is_over_the_run_goes_on_without_the_call(stack: MemoryStack) -> None:
    sent, asked = await _asked(stack)
    assert not await approvals(stack).expire(TENANT, await task(stack, sent))
    await _run_out(stack, asked, sent)
    assert await approvals(stack).expire(TENANT, await task(stack, sent))
    assert not await approvals(stack).expire(TENANT, await task(stack, sent))
    assert (await events(stack, sent))[-1].type is EventType.APPROVAL_EXPIRED
    await stack.work(TENANT)
    assert "nobody answered in time" in told(stack)[0]
    assert "a.txt" in await paths(stack)
    assert await answer(stack, sent) == "done"
    with pytest.raises(Conflict, match="expired"):
        await approvals(stack).confirm(TENANT, asked)


async def test_the_sweeper_lets_the_time_run_out_and_leaves_alone_what_may_still_be_answered(
    stack: MemoryStack,
) -> None:
    sent, asked = await _asked(stack)
    await stack.records.write(TENANT, Update(key=Key.task(sent.task_id), set={"due_at": 1}))
    assert (await stack.parts.sweeper.sweep(seconds=1))["expired"] == 0
    assert (await approvals(stack).get(TENANT, asked)).state is ApprovalState.PENDING
    await _run_out(stack, asked, sent)
    assert (await stack.parts.sweeper.sweep(seconds=1))["expired"] == 1
    await stack.work(TENANT)
    assert await answer(stack, sent) == "done"


async def test_a_reset_cancels_what_was_asked(stack: MemoryStack) -> None:
    sent, asked = await _asked(stack)
    await stack.parts.services.collaborators.reset.reset(TENANT, seconds=5)
    assert (await task(stack, sent))["state"] == "canceled"
    assert (await approvals(stack).get(TENANT, asked)).state is ApprovalState.CANCELED
    assert not (await runtime(stack)).get("waiting")
    with pytest.raises(Conflict):
        await approvals(stack).confirm(TENANT, asked)
    assert "a.txt" in await paths(stack)


async def test_an_answer_that_comes_too_late_before_any_sweep_is_too_late(stack: MemoryStack) -> None:
    sent, asked = await _asked(stack)
    await _run_out(stack, asked, sent)
    with pytest.raises(Conflict, match="expired"):
        await approvals(stack).confirm(TENANT, asked)
    assert (await approvals(stack).get(TENANT, asked)).state is ApprovalState.EXPIRED
    await stack.work(TENANT)
    assert "a.txt" in await paths(stack)
    assert await answer(stack, sent) == "done"


async def test_canceling_a_task_that_waits_cancels_what_it_asked(stack: MemoryStack) -> None:
    write: tuple[str, dict[str, object]] = ("write_file", {"path": "new.txt", "content": "x"})
    stack.model.script = [calls(write, DELETE_A)]
    sent = await send(stack)
    await stack.work(TENANT)
    (asked,) = await pending(stack)
    behind = await send(stack, "behind", session_id=sent.session_id)
    await stack.parts.services.collaborators.bus.cancel_task(TENANT, sent.task_id)
    assert "Done before that: write_file new.txt" in str(await answer(stack, sent))
    assert (await approvals(stack).get(TENANT, asked.id)).state is ApprovalState.CANCELED
    for late in (approvals(stack).confirm(TENANT, asked.id), approvals(stack).reject(TENANT, asked.id)):
        with pytest.raises(Conflict, match="ended"):
            await late
    assert (await runtime(stack)).get("waiting") is None
    await stack.work(TENANT)
    assert (await task(stack, behind))["state"] == "completed"
    assert "a.txt" in await paths(stack)


async def test_a_word_for_an_older_epoch_counts_no_more(stack: MemoryStack) -> None:
    _, asked = await _asked(stack)
    await stack.records.write(TENANT, Update(key=Key.space(), add={"epoch": 1}))
    with pytest.raises(Conflict):
        await approvals(stack).confirm(TENANT, asked)
    await stack.work(TENANT)
    assert "a.txt" in await paths(stack)


async def test_a_deleted_project_has_no_approvals(stack: MemoryStack) -> None:
    _, asked = await _asked(stack)
    await stack.parts.services.projects.delete(TENANT)
    with pytest.raises(NotFound):
        await approvals(stack).confirm(TENANT, asked)
    assert await stack.records.get(TENANT, Key.approval(asked)) is None


async def test_an_approval_is_its_projects_own(stack: MemoryStack) -> None:
    _, asked = await _asked(stack)
    with pytest.raises(NotFound):
        await approvals(stack).confirm(TenantContext("bob", "shop"), asked)


# -- the policy that changes meanwhile -----------------------------------------------------------------------------


async def _while_the_model_thinks(stack: MemoryStack, do: Callable[[], Any]) -> None:
    async def before(request: ModelRequest) -> None:
        stack.model.before = None
        await do()

    stack.model.before = before


async def test_a_tightened_policy_is_never_overtaken_by_what_a_worker_has_read_before(stack: MemoryStack) -> None:
    stack.model.script = [calls(("write_file", {"path": "new.txt", "content": "x"})), says("done")]
    await send(stack)
    await _while_the_model_thinks(stack, lambda: policy(stack, ask=["writing"]))
    await stack.work(TENANT)
    (asked,) = await pending(stack)
    assert asked.tool == "write_file"
    assert "new.txt" not in await paths(stack)


async def test_a_policy_tightened_behind_the_caches_back_holds(stack: MemoryStack) -> None:
    await stack.parts.services.collaborators.registry.home(TENANT)
    cached = dict(await stack.cache.load(TENANT))
    await policy(stack, ask=["writing"])
    # The invalidation was lost.
    await stack.cache.store(TENANT, cached, ttl_seconds=300)
    stack.model.script = [calls(("write_file", {"path": "new.txt", "content": "x"})), says("done")]
    await send(stack)
    await stack.work(TENANT)
    assert len(await pending(stack)) == 1
    assert "new.txt" not in await paths(stack)


async def test_a_policy_loosened_meanwhile_asks_no_more(stack: MemoryStack) -> None:
    stack.model.script = [calls(DELETE_A), says("done")]
    sent = await send(stack)
    await _while_the_model_thinks(stack, lambda: policy(stack, ask=[]))
    await stack.work(TENANT)
    assert await pending(stack) == []
    assert await answer(stack, sent) == "done"
    assert "a.txt" not in await paths(stack)


async def test_a_word_given_holds_though_the_policy_is_tightened_after_it(stack: MemoryStack) -> None:
    sent, asked = await _asked(stack)
    await approvals(stack).confirm(TENANT, asked)
    await policy(stack, ask=["writing", "deleting"])
    await stack.work(TENANT)
    assert await pending(stack) == []
    assert await answer(stack, sent) == "done"
    assert "a.txt" not in await paths(stack)


async def test_what_a_deleted_agent_asked_for_cannot_be_confirmed_any_more(stack: MemoryStack) -> None:
    stack.model.script = [calls(("delete_file", {"path": "a.txt"}))]
    sent = await send(stack)
    await stack.work(TENANT)
    (question,) = await pending(stack)
    space = WorkerSpaceManager(stack.parts.services.collaborators).get_or_create("alice", "shop")
    await space.delete_agent("coder")
    ended = await task(stack, sent)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "agent_deleted")
    with pytest.raises(Conflict):
        await approvals(stack).confirm(TENANT, question.id)
    await stack.work(TENANT)
    assert "a.txt" in await paths(stack)
