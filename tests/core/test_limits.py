"""Limits of agents, sessions, open tasks, messages and projects: exact, also for those who come at once."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.memory_stack import MemoryStack, SlowRecords, settings
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.agents import AgentConfig
from worker_space.allowances import Allowances, LimitChanges, day_ends, day_of, minute_ends, minute_of
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, InvalidRequest, LimitReached, PaymentRequired
from worker_space.idempotency import Repeat
from worker_space.limit_status import limit_status
from worker_space.limits import Admission
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import NewSession
from worker_space.projects import NewProject, ProjectChanges
from worker_space.records import All, Item, Update
from worker_space.space import UserWorkerSpace
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
ALICE = UserContext("alice")
TENANT = TenantContext("alice", "shop")
OTHER = TenantContext("alice", "garden")
NOW = 1_795_348_800_000
NOW_MINUTE = minute_of(NOW)


async def made(**limits: object) -> MemoryStack:
    stack = MemoryStack(settings=settings(**limits), records=SlowRecords())
    await stack.parts.services.projects.create(ALICE, NewProject(id="shop", name="Shop"))
    return stack


def face(stack: MemoryStack, tenant: TenantContext = TENANT) -> UserWorkerSpace:
    manager = WorkerSpaceManager(stack.parts.services.collaborators)
    return manager.get_or_create(tenant.user_id, tenant.project_id)


def config(name: str) -> AgentConfig:
    return AgentConfig(name=name, system_prompt="You help.")


async def stored(stack: MemoryStack, key: Key) -> Item:
    item = await stack.records.get(TENANT, key)
    assert item is not None
    return item


async def used(stack: MemoryStack, name: str, scope: str = "project") -> int | None:
    services = stack.parts.services
    status = await limit_status(services.records, services.allowances, TENANT)
    return next(each.used for each in status if (each.name, each.scope) == (name, scope))


def outcomes(stack: MemoryStack, count: int, work: Callable[[int], Awaitable[Any]]) -> tuple[int, int]:
    """How many of `count` threads that begin at once succeeded, and how many found the limit reached."""
    gate = threading.Barrier(count)

    def run(number: int) -> bool:
        gate.wait()
        try:
            asyncio.run(work(number))  # type: ignore[arg-type]
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(run, range(count)))
    return done.count(True), done.count(False)


async def forget_the_counts(stack: MemoryStack) -> None:
    """As a project of an earlier release has none."""
    await stack.records.write(TENANT, Update(key=Key.space(), remove=["agent_count", "session_count"]))


# -- agents and sessions -------------------------------------------------------------------------------------


async def test_a_project_has_at_most_as_many_agents_as_it_may_have() -> None:
    stack = await made(limit_agents=5)
    space = face(stack)
    await space.create_agent(config("fifth"))
    with pytest.raises(LimitReached, match="5 agents of at most 5") as refused:
        await space.create_agent(config("sixth"))
    assert (refused.value.limit, refused.value.retry_after) == ("agents", None)
    await space.delete_agent("fifth")
    await space.create_agent(config("sixth"))
    assert await used(stack, "agents") == 5


async def test_agents_made_at_once_do_not_pass_the_limit_together() -> None:
    for counted in (True, False):
        stack = await made(limit_agents=9)
        if not counted:
            await forget_the_counts(stack)
        registry = stack.parts.services.collaborators.registry
        work = lambda number, registry=registry: registry.create(TENANT, config(f"a{number}"))  # noqa: E731
        results = await asyncio.to_thread(outcomes, stack, 12, work)
        assert results == (5, 7)
        assert len((await stack.records.query(TENANT, Key.agents())).items) == 9
        assert (await stored(stack, Key.space()))["agent_count"] == 9


async def test_agents_of_a_project_without_a_count_are_counted_once() -> None:
    stack = await made(limit_agents=5)
    await forget_the_counts(stack)
    space = face(stack)
    await space.create_agent(config("fifth"))
    assert (await stored(stack, Key.space()))["agent_count"] == 5
    await forget_the_counts(stack)
    await space.delete_agent("fifth")
    assert (await stored(stack, Key.space()))["agent_count"] == 4
    await forget_the_counts(stack)
    assert await used(stack, "agents") == 4


async def test_a_repeated_creation_finds_what_it_made_although_the_limit_is_reached() -> None:
    stack = await made(limit_agents=5, limit_sessions=1)
    space = face(stack)
    repeat = Repeat(kind="agent", key="k", fingerprint="f")
    first = await space.create_agent(config("fifth"), repeat=repeat)
    assert (await space.create_agent(config("fifth"), repeat=repeat)).id == first.id
    again = Repeat(kind="session", key="k", fingerprint="f")
    session = await space.sessions.create(TENANT, NewSession(), repeat=again)
    assert (await space.sessions.create(TENANT, NewSession(), repeat=again)).id == session.id


async def test_a_project_has_at_most_as_many_sessions_as_it_may_have() -> None:
    stack = await made(limit_sessions=2)
    space = face(stack)
    first = await space.sessions.create(TENANT, NewSession())
    await space.sessions.create(TENANT, NewSession())
    with pytest.raises(LimitReached, match="2 sessions of at most 2"):
        await space.sessions.create(TENANT, NewSession())
    await space.sessions.delete(TENANT, first.id)
    await space.sessions.create(TENANT, NewSession())
    assert await used(stack, "sessions") == 2


async def test_sessions_opened_at_once_do_not_pass_the_limit_together() -> None:
    stack = await made(limit_sessions=4)
    sessions = stack.parts.services.collaborators.sessions
    results = await asyncio.to_thread(outcomes, stack, 10, lambda _: sessions.create(TENANT, NewSession()))
    assert results == (4, 6)


async def test_a_session_deleted_by_two_at_once_is_counted_once() -> None:
    stack = await made()
    space = face(stack)
    kept = await space.sessions.create(TENANT, NewSession())
    doomed = await space.sessions.create(TENANT, NewSession())

    def run(_: int) -> str:
        try:
            asyncio.run(space.sessions.delete(TENANT, doomed.id))
        except Exception as error:
            return type(error).__name__
        return "deleted"

    def both() -> list[str]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(run, range(4)))

    said = await asyncio.to_thread(both)
    assert "deleted" in said
    assert set(said) <= {"deleted", "NotFound"}
    assert await used(stack, "sessions") == 1
    assert (await space.sessions.get(TENANT, kept.id)).id == kept.id


# -- projects ------------------------------------------------------------------------------------------------


async def test_a_user_has_at_most_as_many_projects_as_they_may_have() -> None:
    stack = await made(user_limit_projects=2)
    projects = stack.parts.services.projects
    await projects.create(ALICE, NewProject(id="garden", name="Garden"))
    with pytest.raises(LimitReached, match="2 projects") as refused:
        await projects.create(ALICE, NewProject(id="third", name="Third"))
    assert refused.value.limit == "projects"
    await projects.create(UserContext("bob"), NewProject(id="third", name="Third"))
    await projects.delete(OTHER)
    await projects.create(ALICE, NewProject(id="third", name="Third"))
    assert await used(stack, "projects", "user") == 2


async def test_projects_made_at_once_do_not_pass_the_limit_together() -> None:
    stack = await made(user_limit_projects=4)
    projects = stack.parts.services.projects
    gate = threading.Barrier(8)

    def run(number: int) -> str:
        gate.wait()
        try:
            asyncio.run(projects.create(ALICE, NewProject(id=f"p{number}", name="P")))
        except Exception as error:
            return type(error).__name__
        return "made"

    def all_at_once() -> list[str]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(run, range(8)))

    said = await asyncio.to_thread(all_at_once)
    # One that lost every race says so instead of waiting for ever; nobody passes the limit.
    assert 1 <= said.count("made") <= 3
    assert set(said) <= {"made", "LimitReached", "Conflict"}
    assert len((await stack.records.query(ALICE, Key.projects())).items) == 1 + said.count("made")


# -- open tasks ----------------------------------------------------------------------------------------------


async def test_a_project_has_at_most_as_many_open_tasks_as_it_may_have() -> None:
    stack = await made(limit_open_tasks=2)
    space = face(stack)
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    await space.send_task(session.id, "one", None)
    await space.send_task(session.id, "two", None)
    with pytest.raises(LimitReached, match="2 open tasks of at most 2") as refused:
        await space.send_task(session.id, "three", None)
    assert refused.value.limit == "open_tasks"
    assert refused.value.retry_after is not None
    await stack.work(TENANT)
    await space.send_task(session.id, "three", None)
    assert await used(stack, "open_tasks") == 1


async def test_messages_sent_at_once_do_not_pass_the_limit_of_open_tasks_together() -> None:
    stack = await made(limit_open_tasks=3)
    space = face(stack)
    sessions = [await space.sessions.create(TENANT, NewSession(target_agent="coder")) for _ in range(8)]
    results = await asyncio.to_thread(
        outcomes, stack, 8, lambda number: space.send_task(sessions[number].id, "hello", None)
    )
    assert results == (3, 5)
    assert len((await stack.records.query(TENANT, Key.tasks())).items) == 3


async def test_a_repeated_message_finds_its_task_although_the_limit_is_reached() -> None:
    stack = await made(limit_open_tasks=1)
    space = face(stack)
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    repeat = Repeat(kind="message", key="k", fingerprint="f")
    first = await space.send_task(session.id, "one", None, repeat=repeat)
    assert (await space.send_task(session.id, "one", None, repeat=repeat)).task_id == first.task_id


# -- messages a minute ---------------------------------------------------------------------------------------


async def admit(records: MemoryRecords, allowances: Allowances, now: int, tenant: TenantContext = TENANT) -> None:
    """What accepting a message does about minutes, at a time of the test's own."""
    while True:
        admission = Admission(allowances, allowances.of({}, {}), now=now)
        space, *found = await records.get_many(tenant, [Key.space(), *admission.keys])
        intake = admission.admit(space or {}, found)
        accept = Update(key=Key.space(), set=intake.set, add={"accepted": 1, **intake.add}, when=All(*intake.when))
        try:
            await records.write(tenant, accept, *intake.also.values())
            return
        except ConditionFailed:
            continue


async def test_a_minute_takes_so_many_messages_and_the_next_begins_anew() -> None:
    records, allowances = MemoryRecords(), Allowances(settings(limit_messages_per_minute=3))
    for second in (0, 1, 2):
        await admit(records, allowances, NOW + second * 1_000)
    with pytest.raises(LimitReached, match="3 messages in this minute") as refused:
        await admit(records, allowances, NOW + 3_000)
    assert (refused.value.retry_after, refused.value.until) == (57, NOW + 60_000)
    assert refused.value.until == minute_ends(NOW_MINUTE)
    await admit(records, allowances, NOW + 60_000)


async def test_messages_at_once_do_not_pass_the_limit_of_a_minute_together() -> None:
    for before in (None, NOW - 60_000):
        records, allowances = SlowRecords(), Allowances(settings(limit_messages_per_minute=5))
        if before is not None:
            await admit(records, allowances, before)
        stack = MemoryStack(records=records)
        results = await asyncio.to_thread(outcomes, stack, 12, lambda _, r=records, a=allowances: admit(r, a, NOW))  # type: ignore[misc]
        assert results == (5, 7)


async def test_a_clock_that_is_a_little_ahead_is_believed_and_one_that_is_far_off_is_not() -> None:
    records, allowances = MemoryRecords(), Allowances(settings(limit_messages_per_minute=1))
    await admit(records, allowances, NOW + 60_000)
    with pytest.raises(LimitReached):
        await admit(records, allowances, NOW)
    await records.write(TENANT, Update(key=Key.space(), set={"minute": NOW_MINUTE + 5_000}))
    await admit(records, allowances, NOW)


async def test_a_users_minute_is_counted_over_all_projects() -> None:
    records = MemoryRecords()
    allowances = Allowances(settings(limit_messages_per_minute=None, user_limit_messages_per_minute=4))
    for tenant in (TENANT, OTHER, TENANT, OTHER):
        await admit(records, allowances, NOW, tenant)
    with pytest.raises(LimitReached, match="you sent 4 messages"):
        await admit(records, allowances, NOW, OTHER)
    await admit(records, allowances, NOW, TenantContext("bob", "shop"))


async def test_the_limit_of_a_minute_holds_for_real_messages() -> None:
    stack = await made(limit_messages_per_minute=0)
    space = face(stack)
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    with pytest.raises(LimitReached, match="in this minute"):
        await space.send_task(session.id, "hello", None)
    assert (await stack.records.query(TENANT, Key.tasks())).items == []


async def test_a_users_limit_of_a_minute_holds_for_real_messages() -> None:
    stack = await made(user_limit_messages_per_minute=1_000)
    space = face(stack)
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    for _ in range(3):
        await space.send_task(session.id, "hello", None)
    item = await stack.records.get(ALICE, Key.usage("minute", "user"))
    assert item is not None
    assert 1 <= item["minute_count"] <= 3


async def test_messages_at_the_turn_of_a_users_minute_are_all_counted() -> None:
    stack = await made(user_limit_messages_per_minute=1_000)
    space = face(stack)
    sessions = [await space.sessions.create(TENANT, NewSession(target_agent="coder")) for _ in range(8)]
    await space.send_task(sessions[0].id, "hello", None)
    place = Key.usage("minute", "user")
    await stack.records.write(ALICE, Update(key=place, set={"minute": minute_of(now_ms()) - 1, "minute_count": 999}))
    began = minute_of(now_ms())
    results = await asyncio.to_thread(
        outcomes, stack, 8, lambda number: space.send_task(sessions[number].id, "hello", None)
    )
    assert results == (8, 0)
    item = await stack.records.get(ALICE, place)
    assert item is not None
    assert item["minute_count"] == 8 or minute_of(now_ms()) != began


# -- tokens and money, when a message comes ------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["tenant", "user"])
@pytest.mark.parametrize(
    ("what", "error"), [("tokens", LimitReached), ("cost", PaymentRequired)], ids=["tokens", "money"]
)
async def test_a_message_is_refused_when_the_day_is_used_up(scope: Any, what: str, error: type[LimitReached]) -> None:
    name = f"{'user_' if scope == 'user' else ''}limit_{what}_per_day"
    stack = await made(**{name: 1_000})
    space = face(stack)
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    await space.send_task(session.id, "first", None)
    day = day_of(now_ms())
    await stack.records.write(TENANT, Update(key=Key.usage(f"day{day}", scope), set={f"spent_{what}": 1_000}))
    with pytest.raises(LimitReached) as refused:
        await space.send_task(session.id, "second", None)
    assert type(refused.value) is error
    assert refused.value.until == day_ends(day)
    assert refused.value.limit == f"{what}_per_day"


# -- who sets them -------------------------------------------------------------------------------------------


async def test_an_owner_lowers_limits_and_takes_that_back() -> None:
    stack = await made(limit_agents=10)
    projects, space = stack.parts.services.projects, face(stack)
    changed = await projects.update(TENANT, ProjectChanges(limits=LimitChanges(agents=4)))
    assert changed.limits == {"agents": 4}
    assert changed.name == "Shop"
    with pytest.raises(LimitReached):
        await space.create_agent(config("fifth"))
    await projects.update(TENANT, ProjectChanges(limits=LimitChanges(agents=None)))
    await space.create_agent(config("fifth"))


async def test_an_owner_cannot_raise_a_limit() -> None:
    stack = await made(limit_agents=10)
    with pytest.raises(InvalidRequest, match=r"limits.agents: .* at most 10"):
        await stack.parts.services.projects.update(TENANT, ProjectChanges(limits=LimitChanges(agents=11)))


async def test_an_operator_raises_a_limit_for_one_project() -> None:
    stack = await made(limit_agents=4)
    space = face(stack)
    with pytest.raises(LimitReached):
        await space.create_agent(config("fifth"))
    await stack.records.write(TENANT, Update(key=Key.space(), set={"operator_limits": {"agents": 5}}))
    await space.create_agent(config("fifth"))
    with pytest.raises(LimitReached):
        await space.create_agent(config("sixth"))


async def test_a_lowered_limit_counts_for_the_next_message_whatever_the_cache_says() -> None:
    stack = await made()
    space = face(stack)
    session = await space.sessions.create(TENANT, NewSession(target_agent="coder"))
    await space.send_task(session.id, "one", None)
    # Behind the cache's back, as when an invalidation is lost.
    await stack.records.write(TENANT, Update(key=Key.space(), set={"limits": {"open_tasks": 1}}))
    with pytest.raises(LimitReached, match="open tasks"):
        await space.send_task(session.id, "two", None)
