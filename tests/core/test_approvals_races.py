"""Approvals where processes die and people answer at once: one answer counts, and its effect happens once."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.core.approvals import TENANT, answer, approvals, events, paths, pending, project, runtime, send, task
from tests.memory_stack import MemoryStack, calls, says, settings
from worker_space.agents import AgentChanges
from worker_space.bus import Sent
from worker_space.composition import Parts
from worker_space.consent import ApprovalState
from worker_space.errors import ClaimLost, Conflict, Unavailable
from worker_space.events import EventType
from worker_space.records import Update
from worker_space.tasks import Delivery
from worker_space.tenancy import Key

DELETE_A: tuple[str, dict[str, object]] = ("delete_file", {"path": "a.txt"})


class Died(Exception):
    """The process is gone in this very moment."""


class Fuse:
    """Kills the process at the nth change of any store, before or after the store has seen it; once."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after, self.burnt = at, after, False

    def wrap(self, store: object, *changing: str) -> Any:
        fuse = self

        class Fused:
            def __getattr__(self, name: str) -> Any:
                real = getattr(store, name)
                if name not in changing:
                    return real

                async def change(*given: Any, **named: Any) -> Any:
                    fuse.left -= 1
                    if fuse.left == 0 and not fuse.after:
                        fuse.burnt = True
                        raise Died
                    done = await real(*given, **named)
                    if fuse.left == 0:
                        fuse.burnt = True
                        raise Died
                    return done

                return change

        return Fused()


class Counting:
    """Files that count what was really taken away."""

    def __init__(self, files: object) -> None:
        self._files, self.deleted = files, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    async def delete(self, *given: Any, **named: Any) -> None:
        await self._files.delete(*given, **named)  # type: ignore[attr-defined]
        self.deleted += 1


async def _mortal(at: int, *, after: bool) -> tuple[MemoryStack, Counting, Fuse, Parts]:
    stack = await project(MemoryStack(settings=settings(redispatch_seconds=1, max_attempts=4)))
    files, fuse = Counting(stack.files), Fuse(at, after=after)
    parts = stack.compose(
        records=fuse.wrap(stack.records, "write"),
        files=fuse.wrap(files, "delete"),
        queues=fuse.wrap(stack.queues, "send"),
        cache=fuse.wrap(stack.cache, "wake"),
    )
    return stack, files, fuse, parts


async def _work(stack: MemoryStack, parts: Parts) -> None:
    while (message := stack.queues.receive(TENANT, 1)) is not None:
        try:
            delivery = Delivery.model_validate_json(message.body)
            await parts.worker.handle(delivery, message.lease, deadline=time.monotonic() + 60)
            stack.queues.delete(message.lease)
        except (Died, ClaimLost, Unavailable):
            continue


async def _until_it_has_ended(stack: MemoryStack, parts: Parts, sent: Sent, say: Callable[[str], Any]) -> None:
    for _ in range(12):
        await _work(stack, parts)
        if (now := await task(stack, sent))["state"] in {"completed", "failed", "canceled"}:
            return
        if now["state"] == "input-required":
            try:
                await say(now["approval_id"])
            except Died:
                continue
        else:
            # What was committed and not sent, the sweeper sends.
            await stack.records.write(TENANT, Update(key=Key.task(sent.task_id), set={"due_at": 1}))
            await stack.parts.sweeper.sweep(seconds=1)
        # The messages of the dead come back.
        stack.clock[0] += 2000
    raise AssertionError(f"it never came to its end: {await task(stack, sent)}")


@pytest.mark.anyio
@pytest.mark.parametrize("after", [False, True], ids=["before the store has seen it", "after it has"])
async def test_a_death_at_any_change_leaves_one_question_one_answer_and_one_effect(after: bool) -> None:
    for at in range(1, 60):
        stack, files, fuse, parts = await _mortal(at, after=after)

        async def model(request: Any, stack: MemoryStack = stack) -> None:
            asked = any(turn.kind == "tool" for turn in request.turns)
            stack.model.script = [says("done")] if asked else [calls(DELETE_A)]

        stack.model.before = model
        sent = await send(stack)
        await _until_it_has_ended(stack, parts, sent, partial(parts.services.approvals.confirm, TENANT))
        assert await answer(stack, sent) == "done", (at, await task(stack, sent))
        assert files.deleted == 1, at
        assert await paths(stack) == {"b.txt", "c.txt"}
        found, _ = await approvals(stack).page(TENANT, limit=10, after=None)
        assert [each.state for each in found] == [ApprovalState.CONFIRMED], at
        kinds = [event.type for event in await events(stack, sent)]
        assert kinds.count(EventType.APPROVAL_REQUIRED) == kinds.count(EventType.APPROVAL_RESOLVED) == 1
        # Only an answer that was lost before it was saved is paid for again.
        assert len(stack.model.requests) <= 3
        held = await runtime(stack)
        assert not held.get("running")
        assert not held.get("waiting")
        if not fuse.burnt:
            assert at > 8, "nothing was killed"
            return
    raise AssertionError("it never ran without a death")


@pytest.mark.anyio
async def test_a_worker_that_dies_behind_the_pause_has_paused_and_lets_in_who_waited_for_its_place() -> None:
    stack = await project(MemoryStack())
    registry = stack.parts.services.collaborators.registry
    await registry.update(TENANT, "coder", AgentChanges(max_concurrency=1))
    stack.model.script = [calls(DELETE_A), says("second"), says("first")]
    first = await send(stack)
    parked: list[Sent] = []

    async def another(request: Any) -> None:
        stack.model.before = None
        parked.append(await send(stack, "another"))

    stack.model.before = another
    dead_after_the_pause = Fuse(1, after=False)
    parts = stack.compose(queues=dead_after_the_pause.wrap(stack.queues, "send"))
    await _work(stack, parts)
    assert (await task(stack, first))["state"] == "input-required"
    assert (await runtime(stack)).get("parked", []) == []
    stack.clock[0] += 2000
    await stack.work(TENANT)
    assert (await task(stack, first))["state"] == "input-required"
    assert await answer(stack, parked[0]) == "second"
    assert len(await pending(stack)) == 1


# -- at once -----------------------------------------------------------------------------------------------------


def _at_once(*doings: Callable[[], Coroutine[Any, Any, Any]]) -> list[Any]:
    """Each in a thread and event loop of its own, all beginning together; results or errors."""
    together = threading.Barrier(len(doings))

    def one(doing: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        together.wait(10)
        try:
            return asyncio.run(doing())
        except Conflict as error:
            return error

    with ThreadPoolExecutor(len(doings)) as pool:
        return list(pool.map(one, doings))


def _asked() -> tuple[MemoryStack, Counting, Sent, str]:
    async def prepare() -> tuple[MemoryStack, Counting, Sent, str]:
        stack = await project(MemoryStack())
        files = Counting(stack.files)
        stack.parts = stack.compose(files=files)
        stack.model.script = [calls(DELETE_A), says("done")]
        sent = await send(stack)
        await stack.work(TENANT)
        return stack, files, sent, (await pending(stack))[0].id

    return asyncio.run(prepare())


def test_of_confirm_and_reject_at_once_one_wins_and_the_other_learns_what_was_decided() -> None:
    winners = set()
    for _ in range(40):
        stack, files, sent, asked = _asked()
        service = approvals(stack)
        confirmed, rejected = _at_once(
            partial(service.confirm, TENANT, asked),
            partial(service.reject, TENANT, asked),
        )
        (lost,) = [each for each in (confirmed, rejected) if isinstance(each, Conflict)]
        won = rejected if lost is confirmed else confirmed
        assert f"it is {won.state.value}" in str(lost)
        winners.add(won.state)
        asyncio.run(stack.work(TENANT))
        assert files.deleted == (won.state is ApprovalState.CONFIRMED)
        assert asyncio.run(answer(stack, sent)) == "done"
    assert winners == {ApprovalState.CONFIRMED, ApprovalState.REJECTED}, "the race did not take place"


def test_many_confirmations_at_once_are_one() -> None:
    for _ in range(15):
        stack, files, sent, asked = _asked()
        service = approvals(stack)
        confirm = partial(service.confirm, TENANT, asked)
        found = _at_once(confirm, confirm, confirm, confirm)
        assert {each.state for each in found} == {ApprovalState.CONFIRMED}
        assert len(asyncio.run(stack.work(TENANT))) == 1
        assert files.deleted == 1
        kinds = [event.type for event in asyncio.run(events(stack, sent))]
        assert kinds.count(EventType.APPROVAL_RESOLVED) == 1


def test_of_confirm_and_cancel_at_once_both_tell_the_truth() -> None:
    seen = set()
    for _ in range(40):
        stack, files, sent, asked = _asked()
        service, bus = approvals(stack), stack.parts.services.collaborators.bus
        confirmed, canceled = _at_once(
            partial(service.confirm, TENANT, asked),
            partial(bus.cancel_task, TENANT, sent.task_id),
        )
        asyncio.run(stack.work(TENANT))
        assert not isinstance(canceled, Conflict)
        # Confirmed first, the task is canceled before anybody has begun it again: nothing is done either way.
        assert (asyncio.run(task(stack, sent))["state"], files.deleted) == ("canceled", 0)
        state = asyncio.run(service.get(TENANT, asked)).state
        assert (state is ApprovalState.CONFIRMED) == (not isinstance(confirmed, Conflict))
        assert state in {ApprovalState.CONFIRMED, ApprovalState.CANCELED}
        seen.add(state)
        assert not asyncio.run(runtime(stack)).get("waiting")
    assert seen == {ApprovalState.CONFIRMED, ApprovalState.CANCELED}, "the race did not take place"


def test_of_sweeps_that_let_the_time_run_out_at_once_one_does_it() -> None:
    for _ in range(15):
        stack, files, sent, asked = _asked()
        asyncio.run(stack.records.write(TENANT, Update(key=Key.approval(asked), set={"expires_at": 1})))
        service, as_read = approvals(stack), asyncio.run(task(stack, sent))
        expire = partial(service.expire, TENANT, as_read)
        assert sorted(_at_once(expire, expire, expire)) == [False, False, True]
        asyncio.run(stack.work(TENANT))
        assert files.deleted == 0
        assert asyncio.run(answer(stack, sent)) == "done"
