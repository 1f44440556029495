"""A deleted chat session is forgotten: by its agents too, whoever was late and whatever was down."""

from typing import Any

import pytest

from tests.core.planning import Planned, make_plan, part
from tests.core.stages import TENANT, Died, Fate, due_now, new_project, send
from tests.memory_stack import MemoryStack
from worker_space.errors import NotFound, Unavailable
from worker_space.forgetting import Forgetting
from worker_space.messages import NewSession
from worker_space.ports import ContextEntry
from worker_space.records import Update
from worker_space.tenancy import Key

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stack() -> MemoryStack:
    stack = MemoryStack()
    await new_project(stack)
    return stack


class Down:
    """A memory that does not answer."""

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: object, **__: object) -> None:
            raise Unavailable("qdrant", "down")

        return fail


async def _agent(stack: MemoryStack, name: str = "coder") -> str:
    return (await stack.parts.services.collaborators.registry.get(TENANT, name)).id


async def _kept(stack: MemoryStack, name: str = "coder") -> set[str]:
    entries, _ = await stack.memory.entries(TENANT, await _agent(stack, name), limit=100)
    return {entry.id for entry in entries}


async def _delete(stack: MemoryStack, session: str, **instead: Any) -> None:
    parts = stack.compose(**instead) if instead else stack.parts
    await parts.services.collaborators.sessions.delete(TENANT, session)


async def _noted(stack: MemoryStack) -> int:
    return len((await stack.records.query(TENANT, Key.forgettings())).items)


async def _sweep(stack: MemoryStack, session: str, *, last: bool = False) -> int:
    """The sweeper's look at the note, a moment after the deletion or when no worker can be at it any more."""
    past = {"due_at": 1, **({"until": 1} if last else {})}
    await stack.records.write(TENANT, Update(key=Key.forgetting(session), set=past))
    return (await stack.parts.sweeper.sweep(seconds=5))["settled"]


async def _planned(stack: MemoryStack) -> str:
    """A project, and in it a session whose only message became a plan of two agents' tasks, which are done."""
    planned = await Planned.make(stack)
    stack.model.script = [make_plan(part("a", "coder"), part("b", "writer", "a"))]
    await planned.send("SECRET")
    await stack.work(TENANT)
    return planned.session_id


def _late(session: str) -> ContextEntry:
    return ContextEntry(
        id="task_late", text="SECRET", kind="interaction", created_at=1, task_id="task_late", session_id=session
    )


async def test_agents_forget_a_deleted_session_and_nothing_else(stack: MemoryStack) -> None:
    first = await send(stack, "SECRET")
    await send(stack, "another", session=first.session_id, agent="writer")
    other = await send(stack, "kept")
    await stack.work(TENANT)
    await stack.memory.add(
        TENANT, await _agent(stack), ContextEntry(id="note_1", text="tabs", kind="note", created_at=1)
    )
    await _delete(stack, first.session_id)
    assert await _kept(stack) == {other.task_id, "note_1"}
    assert await _kept(stack, "writer") == set()


async def test_the_agents_of_a_plan_forget_its_session() -> None:
    stack = MemoryStack()
    session = await _planned(stack)
    assert len(await _kept(stack)) == len(await _kept(stack, "writer")) == 1
    await _delete(stack, session)
    assert await _kept(stack) == await _kept(stack, "writer") == set()


async def test_a_session_goes_while_memory_is_down_and_is_forgotten_later(stack: MemoryStack) -> None:
    sent = await send(stack, "SECRET")
    await stack.work(TENANT)
    await _delete(stack, sent.session_id, memory=Down())
    with pytest.raises(NotFound):
        await stack.parts.services.collaborators.sessions.get(TENANT, sent.session_id)
    assert await _kept(stack) == {sent.task_id}
    down = stack.compose(memory=Down())
    await stack.records.write(TENANT, Update(key=Key.forgetting(sent.session_id), set={"due_at": 1, "until": 1}))
    assert (await down.sweeper.sweep(seconds=5))["left"] == 1
    assert await _sweep(stack, sent.session_id) == 1
    assert await _kept(stack) == set()


async def test_a_late_writer_does_not_bring_a_deleted_session_back(stack: MemoryStack) -> None:
    sent = await send(stack, "SECRET")
    await stack.work(TENANT)
    await _delete(stack, sent.session_id)
    for last in (False, True):
        await stack.memory.add(TENANT, await _agent(stack), _late(sent.session_id))
        assert await _noted(stack) == 1
        assert await _sweep(stack, sent.session_id, last=last) == 1
        assert await _kept(stack) == set()
    assert await _noted(stack) == 0


async def test_the_last_look_comes_when_no_worker_can_be_at_it_any_more(stack: MemoryStack) -> None:
    sent = await send(stack, "SECRET")
    await stack.work(TENANT)
    await _delete(stack, sent.session_id)
    (item,) = (await stack.records.query(TENANT, Key.forgettings())).items
    longest = stack.settings.worker_timeout_seconds + stack.settings.visibility_seconds
    assert item["until"] - item["due_at"] >= (longest - 60) * 1000
    await _sweep(stack, sent.session_id)
    (item,) = (await stack.records.query(TENANT, Key.forgettings())).items
    assert item["due_at"] == item["until"]


async def test_a_settled_task_of_a_deleted_session_is_not_remembered(stack: MemoryStack) -> None:
    stack.parts = stack.compose(memory=Down())
    sent = await send(stack, "SECRET")
    await stack.work(TENANT)
    await _delete(stack, sent.session_id)
    stack.parts = stack.compose()
    await due_now(stack)
    await stack.parts.sweeper.sweep(seconds=5)
    assert await _kept(stack) == set()


@pytest.mark.parametrize("too_late", [False, True])
async def test_whatever_step_a_deletion_dies_at_another_one_ends_it(too_late: bool) -> None:
    steps = 0
    while True:
        stack = MemoryStack()
        session = await _planned(stack)
        fate = Fate(steps, too_late=too_late)
        try:
            await _delete(
                stack,
                session,
                records=fate.over(stack.records, "write"),
                memory=fate.over(stack.memory, "forget_session"),
            )
        except Died:
            try:
                await _delete(stack, session)
            except NotFound:
                assert await _sweep(stack, session) == 1
        assert await _kept(stack) == await _kept(stack, "writer") == set(), steps
        if not fate.struck:
            break
        steps += 1
    assert steps >= 8


async def test_a_session_that_nobody_answered_leaves_no_note(stack: MemoryStack) -> None:
    sessions = stack.parts.services.collaborators.sessions
    session = await sessions.create(TENANT, NewSession())
    await _delete(stack, session.id)
    assert await _noted(stack) == 0


async def test_nothing_is_noted_of_a_session_that_is_gone_or_is_not_being_deleted(stack: MemoryStack) -> None:
    sent = await send(stack)
    forgetting = Forgetting(records=stack.records, memory=stack.memory, run_seconds=60)
    for session in (sent.session_id, "session_gone"):
        with pytest.raises(NotFound):
            await forgetting.note(TENANT, session, {"agent_1"})
    assert await _noted(stack) == 0


async def test_a_deleted_project_keeps_no_note(stack: MemoryStack) -> None:
    sent = await send(stack)
    await stack.work(TENANT)
    await _delete(stack, sent.session_id)
    await stack.parts.services.projects.delete(TENANT)
    assert await _noted(stack) == 0
