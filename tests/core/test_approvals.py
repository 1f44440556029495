"""A run that needs the user's word stops, gives its worker back, and goes on by the answer; each answer counts once."""

import asyncio
import json

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
from worker_space.agents import AgentChanges
from worker_space.consent import ApprovalState
from worker_space.errors import NotFound, ToolError
from worker_space.events import EventType
from worker_space.tenancy import Key

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stack() -> MemoryStack:
    return await project(MemoryStack(settings=settings(max_attempts=3)))


# -- the pause -------------------------------------------------------------------------------------------------


async def test_a_deletion_waits_for_the_users_word_and_holds_no_place_meanwhile(stack: MemoryStack) -> None:
    stack.model.script = [calls(DELETE_A), says("done")]
    sent = await send(stack)
    await stack.work(TENANT)
    (asked,) = await pending(stack)
    assert (asked.kind, asked.tool, asked.risk, asked.arguments) == (
        "tool", "delete_file", "deleting", {"path": "a.txt"},
    )  # fmt: skip
    assert (asked.task_id, asked.session_id, asked.agent_version) == (sent.task_id, sent.session_id, 1)
    assert asked.expires_at - asked.created_at == 86_400_000
    waiting = await task(stack, sent)
    assert (waiting["state"], waiting["approval_id"], waiting["due_at"]) == (
        "input-required", asked.id, asked.expires_at,
    )  # fmt: skip
    held = await runtime(stack)
    assert not held.get("running")
    assert held["waiting"] == {sent.task_id}
    assert await paths(stack) == {"a.txt", "b.txt", "c.txt"}
    assert await answer(stack, sent) is None
    required = (await events(stack, sent))[-1]
    assert (required.type, required.task_id) == (EventType.APPROVAL_REQUIRED, sent.task_id)
    assert required.data == {
        "approval_id": asked.id,
        "kind": "tool",
        "tool": "delete_file",
        "arguments": {"path": "a.txt"},
        "expires_at": asked.expires_at,
    }


async def test_the_session_waits_for_the_word_and_other_sessions_do_not(stack: MemoryStack) -> None:
    stack.model.script = [calls(DELETE_A)]
    sent = await send(stack)
    await stack.work(TENANT)
    behind, beside = await send(stack, "behind", session_id=sent.session_id), await send(stack, "beside")
    await stack.work(TENANT)
    assert [(await task(stack, each))["state"] for each in (sent, behind, beside)] == [
        "input-required", "submitted", "completed",
    ]  # fmt: skip
    stack.model.script = [says("kept"), says("next")]
    await approvals(stack).reject(TENANT, (await pending(stack))[0].id)
    await stack.work(TENANT)
    assert [await answer(stack, each) for each in (sent, behind)] == ["kept", "next"]


async def test_who_waits_for_the_answer_is_told_at_once_that_the_user_is_needed(stack: MemoryStack) -> None:
    stack.model.script = [calls(DELETE_A)]
    sent = await send(stack)
    await stack.work(TENANT)
    async with asyncio.timeout(2):
        found, message = await stack.parts.services.collaborators.bus.wait_for_result(TENANT, sent, seconds=20)
    (asked,) = await pending(stack)
    assert (found.state.value, found.approval_id, message) == ("input-required", asked.id, None)


async def test_writing_is_free_and_what_the_policy_names_is_not(stack: MemoryStack) -> None:
    write: tuple[str, dict[str, object]] = ("write_file", {"path": "new.txt", "content": "x"})
    stack.model.script = [calls(write), says("done")]
    await send(stack)
    await stack.work(TENANT)
    assert "new.txt" in await paths(stack)
    await policy(stack, ask=["write_file"])
    stack.model.script = [calls(("write_file", {"path": "other.txt", "content": "x"}), DELETE_A), says("done")]
    await send(stack)
    await stack.work(TENANT)
    (asked,) = await pending(stack)
    assert (asked.tool, asked.risk) == ("write_file", "writing")
    assert "other.txt" not in await paths(stack)
    await approvals(stack).confirm(TENANT, asked.id)
    await stack.work(TENANT)
    assert await pending(stack) == []
    assert await paths(stack) == {"b.txt", "c.txt", "new.txt", "other.txt"}


async def test_a_reading_tool_that_asks_is_asked_for_one_by_one_in_the_order_of_the_calls(stack: MemoryStack) -> None:
    await policy(stack, ask=["read_file"])
    reads: list[tuple[str, dict[str, object]]] = [("read_file", {"path": path}) for path in ("a.txt", "b.txt")]
    stack.model.script = [
        calls(("list_directory", {}), reads[0], ("find_files", {"pattern": "*"}), reads[1]),
        says("x"),
    ]
    sent = await send(stack)
    await stack.work(TENANT)
    (first,) = await pending(stack)
    assert first.arguments == {"path": "a.txt"}
    await approvals(stack).confirm(TENANT, first.id)
    await stack.work(TENANT)
    (second,) = await pending(stack)
    assert second.arguments == {"path": "b.txt"}
    await approvals(stack).reject(TENANT, second.id, reason="private")
    await stack.work(TENANT)
    results = [json.loads(text) for text in told(stack)]
    assert [sorted(result)[0] for result in results] == ["entries", "content", "files", "error"]
    assert results[3] == {"error": "the user rejected this call: private"}
    assert await answer(stack, sent) == "x"


async def test_a_call_that_cannot_work_is_the_models_to_mend_and_nobody_is_asked(stack: MemoryStack) -> None:
    stack.model.script = [
        calls(("delete_file", {"path": "missing.txt"}), ("delete_file", {"path": "../x"})),
        says("no"),
    ]
    sent = await send(stack)
    await stack.work(TENANT)
    assert await pending(stack) == []
    assert await answer(stack, sent) == "no"
    assert all("error" in text for text in told(stack))


async def test_large_arguments_are_asked_about_whole_and_listed_cut(stack: MemoryStack) -> None:
    await policy(stack, ask=["writing"])
    content = "x" * 100_000
    stack.model.script = [calls(("write_file", {"path": "big.txt", "content": content})), says("done")]
    sent = await send(stack)
    await stack.work(TENANT)
    (listed,) = await pending(stack)
    assert listed.truncated
    whole = await approvals(stack).get(TENANT, listed.id)
    assert (whole.truncated, whole.arguments) == (False, {"path": "big.txt", "content": content})
    assert len(str(await stack.records.get(TENANT, Key.approval(listed.id)))) < 2_000
    assert len(str((await events(stack, sent))[-1].data)) < 5_000
    edited = {"path": "big.txt", "content": "y" * 100_000}
    shown = await approvals(stack).confirm(TENANT, listed.id, arguments=edited)
    assert shown.edited_arguments == edited
    await stack.work(TENANT)
    body = await stack.files.read(TENANT, "big.txt")
    assert body is not None
    assert body.data == b"y" * 100_000
    await stack.parts.services.collaborators.sessions.delete(TENANT, sent.session_id)
    assert [key async for key in stack.content.all_keys(TENANT)] == []
    with pytest.raises(NotFound):
        await approvals(stack).get(TENANT, listed.id)


# -- the answer --------------------------------------------------------------------------------------------------


async def test_a_confirmed_call_is_made_and_the_run_goes_on_behind_it(stack: MemoryStack) -> None:
    stack.model.script = [calls(DELETE_A), says("done")]
    sent = await send(stack)
    await stack.work(TENANT)
    (asked,) = await pending(stack)
    confirmed = await approvals(stack).confirm(TENANT, asked.id)
    assert (confirmed.state, confirmed.resolved_at is not None) == (ApprovalState.CONFIRMED, True)
    assert (await runtime(stack)).get("waiting") is None
    await stack.work(TENANT)
    assert await paths(stack) == {"b.txt", "c.txt"}
    assert await answer(stack, sent) == "done"
    assert json.loads(told(stack)[0]) == {"path": "a.txt", "deleted": True}
    assert len(stack.model.requests) == 2
    kinds = [event.type.value for event in await events(stack, sent)]
    assert kinds == [
        "message_created", "task_submitted", "task_started", "step", "approval_required", "approval_resolved",
        "task_started", "step", "message_created", "task_completed",
    ]  # fmt: skip
    resolved = (await events(stack, sent))[5]
    assert resolved.data == {"approval_id": asked.id, "verdict": "confirmed"}
    space = await stack.records.get(TENANT, Key.space())
    assert space is not None
    assert space["open_tasks"] == 0


@pytest.mark.parametrize(
    ("reason", "said"),
    [("I need it", "the user rejected this call: I need it"), (None, "the user rejected this call")],
)
async def test_a_rejected_call_is_not_made_and_the_model_is_told_why(
    stack: MemoryStack, reason: str | None, said: str
) -> None:
    stack.model.script = [calls(DELETE_A), says("kept")]
    sent = await send(stack)
    await stack.work(TENANT)
    rejected = await approvals(stack).reject(TENANT, (await pending(stack))[0].id, reason=reason)
    assert (rejected.state, rejected.reason) == (ApprovalState.REJECTED, reason)
    await stack.work(TENANT)
    assert "a.txt" in await paths(stack)
    assert [json.loads(text) for text in told(stack)] == [{"error": said}]
    assert [turn.is_error for turn in stack.model.requests[-1].turns if turn.kind == "tool"] == [True]
    assert await answer(stack, sent) == "kept"


async def test_edited_arguments_are_used_and_the_model_is_told_of_them(stack: MemoryStack) -> None:
    stack.model.script = [calls(DELETE_A), says("done")]
    await send(stack)
    await stack.work(TENANT)
    (asked,) = await pending(stack)
    confirmed = await approvals(stack).confirm(TENANT, asked.id, arguments={"path": "./b.txt"})
    assert (confirmed.arguments, confirmed.edited_arguments) == ({"path": "a.txt"}, {"path": "b.txt"})
    await stack.work(TENANT)
    assert await paths(stack) == {"a.txt", "c.txt"}
    assert json.loads(told(stack)[0]) == {
        "path": "b.txt",
        "deleted": True,
        "arguments_as_changed_by_the_user": {"path": "b.txt"},
    }


@pytest.mark.parametrize("wrong", [{"path": "../x"}, {}, {"path": "a.txt", "force": True}, {"path": 1}])
async def test_edited_arguments_that_do_not_fit_change_nothing(stack: MemoryStack, wrong: dict[str, object]) -> None:
    stack.model.script = [calls(DELETE_A), says("done")]
    await send(stack)
    await stack.work(TENANT)
    (asked,) = await pending(stack)
    with pytest.raises(ToolError):
        await approvals(stack).confirm(TENANT, asked.id, arguments=wrong)
    assert [each.id for each in await pending(stack)] == [asked.id]


async def test_a_word_counts_for_one_call_only(stack: MemoryStack) -> None:
    """The same call again, in the next answer or beside it, asks again."""
    again: tuple[str, dict[str, object]] = ("write_file", {"path": "w.txt", "content": "x"})
    await policy(stack, ask=["writing"])
    stack.model.script = [calls(again, again), calls(again), says("done")]
    sent = await send(stack)
    seen = []
    for _ in range(3):
        await stack.work(TENANT)
        (asked,) = await pending(stack)
        seen.append(asked.id)
        await approvals(stack).confirm(TENANT, asked.id)
    await stack.work(TENANT)
    assert len(set(seen)) == 3
    assert await answer(stack, sent) == "done"


async def test_waiting_for_words_uses_up_no_attempts(stack: MemoryStack) -> None:
    await policy(stack, ask=["reading"])
    stack.model.script = [*(calls(("list_directory", {})) for _ in range(7)), says("done")]
    sent = await send(stack)
    for _ in range(7):
        await stack.work(TENANT)
        (asked,) = await pending(stack)
        await approvals(stack).confirm(TENANT, asked.id)
    await stack.work(TENANT)
    assert await answer(stack, sent) == "done"
    assert (await task(stack, sent))["attempt"] == 8 > 2 * stack.settings.max_attempts


async def test_the_run_goes_on_with_the_agent_it_began_with(stack: MemoryStack) -> None:
    registry = stack.parts.services.collaborators.registry
    before = (await registry.get(TENANT, "coder")).config.system_prompt
    stack.model.script = [calls(DELETE_A), says("done")]
    await send(stack)
    await stack.work(TENANT)
    await registry.update(TENANT, "coder", AgentChanges(system_prompt="New.", tools=("read_file",)))
    await approvals(stack).confirm(TENANT, (await pending(stack))[0].id)
    await stack.work(TENANT)
    assert "a.txt" not in await paths(stack)
    assert stack.model.requests[-1].system_prompt.startswith(before)
