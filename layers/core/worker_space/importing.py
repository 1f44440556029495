"""Import: an archive becomes a project that equals the one it was exported from.

Agents, sessions, tasks, plans and approvals keep their ids: they lie in the new project's own partition. What had not
ended when it was exported ends as canceled, and says so; nothing of an archive ever runs by itself. Files are not in an
archive: the User Workspace of the new project is as it was.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias, cast

from worker_space.agents import AgentConfig
from worker_space.allowances import Allowances
from worker_space.archive_lines import (
    KINDS,
    AgentLine,
    ApprovalLine,
    ContextLine,
    CounterLine,
    EventLine,
    MessageLine,
    PlanLine,
    SessionLine,
    StepLine,
    TaskLine,
)
from worker_space.archive_reading import Archive, read_archive
from worker_space.clock import now_ms
from worker_space.consent import ApprovalState
from worker_space.construction import Construction, Site
from worker_space.errors import LimitReached
from worker_space.events import EventType
from worker_space.idempotency import Repeat
from worker_space.metrics import counters
from worker_space.plan_records import StoredPlan
from worker_space.plans import Plan, PlanFailure, PlanState, PlanTaskState
from worker_space.ports import ContextEntry, ContextStore
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext, UserContext
from worker_space.texts import INLINE_BYTES, Texts

__all__ = ["Imported", "Importer"]

_Kept: TypeAlias = Sequence[Mapping[str, Any]]

_AT_ONCE: Final = 8
# Of long ones, which go to the content store; and lines that wait for their texts.
_TEXTS_AT_ONCE: Final = 16
_LINES_AT_ONCE: Final = 200
_REASON: Final = "Canceled: this had not ended when the project was exported."


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import made.

    Attributes:
        counts: What the archive held, by kind.
    """

    project_id: str
    counts: Mapping[str, int]


class Importer:
    """Makes projects out of archives.

    Args:
        check_config: Raises `InvalidRequest` for an agent's configuration that this deployment cannot run.
        make_id: Gives an id to a project whose client names none.
    """

    def __init__(
        self,
        *,
        construction: Construction,
        texts: Texts,
        memory: ContextStore,
        allowances: Allowances,
        check_config: Callable[[AgentConfig], None],
        make_id: Callable[[], str],
    ) -> None:
        self._construction = construction
        self._texts = texts
        self._memory = memory
        self._allowances = allowances
        self._check_config = check_config
        self._make_id = make_id

    async def import_project(
        self,
        user: UserContext,
        data: bytes,
        *,
        project_id: str | None = None,
        name: str | None = None,
        repeat: Repeat | None = None,
    ) -> Imported:
        """Make a project out of an archive, or nothing at all.

        Args:
            data: The zip file, as it was exported.
            project_id: The new project's id; the service makes one when it is missing.
            name: The new project's name; the archive's when it is missing.

        Raises:
            InvalidRequest: The archive is not in order, or names tools or models that are not served here; the message
                says what and in which line.
            Conflict: The user has a project with this id.
            LimitReached: The user may have no more projects, or the project would have more than a project may have.
            Unavailable: The table, the content store or the memory does not answer.
        """
        archive = await asyncio.to_thread(read_archive, data, check_agent=lambda line: self._check_config(line.config))
        found = archive.found
        tenant = TenantContext(user.user_id, project_id or self._make_id())
        if repeat is not None and (known := await self._construction.made_before(tenant, repeat)) is not None:
            return Imported(project_id=known, counts=found.counts)
        self._check_room(archive)
        project = archive.project
        facts: dict[str, Any] = {
            "policy": project.policy.model_dump(mode="json", exclude_none=True),
            "limits": dict(project.limits),
        }
        site = await self._construction.begin(
            tenant, name=name or project.name, created_at=project.created_at, facts=facts
        )
        try:
            await _Building(self._construction, self._texts, self._memory, archive, site).build()
            made = await self._construction.finish(site, repeat)
        except Exception:
            # A request that is cancelled has no time left for this: then the sweeper clears.
            await self._construction.abandon(site)
            raise
        return Imported(project_id=made, counts=found.counts)

    def _check_room(self, archive: Archive) -> None:
        limits = self._allowances.of(archive.project.limits, {})
        found = archive.found
        for limit, most, count in (
            ("agents", limits.agents, len(found.agents)),
            ("sessions", limits.sessions, len(found.sessions)),
        ):
            if most is not None and count > most:
                message = f"the archive has {count} {limit}: a project may have {most}"
                raise LimitReached(message, retry_after=None, limit=limit)


class _Building:
    """One import under way."""

    def __init__(
        self, construction: Construction, texts: Texts, memory: ContextStore, archive: Archive, site: Site
    ) -> None:
        self._construction = construction
        self._texts = texts
        self._memory = memory
        self._archive = archive
        self._site = site
        self._tenant = site.tenant
        self._now = now_ms()
        self._counters: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._newest = dict(archive.found.newest_events)
        self._last_told: list[TaskLine] = []

    async def build(self) -> None:
        # Versions first: by them a clearing finds the memories that belong to the project.
        for version in self._lines(AgentLine, "agent_versions.jsonl"):
            await self._put(Key.agent_version(version.id, version.version), _agent(version))
        async for task, kept in self._kept(TaskLine, "tasks.jsonl", _outputs):
            await self._task(task, kept)
        async for step, kept in self._kept(StepLine, "steps.jsonl", _bodies):
            await self._put(Key.step(step.task_id, step.number), {**_plain(step, "task_id", "body"), **kept[0]})
        async for message, kept in self._kept(MessageLine, "messages.jsonl", _contents):
            item = {**_plain(message, "session_id", "content"), **kept[0]}
            await self._put(Key.message(message.session_id, message.number), item)
        for plan in self._lines(PlanLine, "plans.jsonl"):
            await self._put(Key.plan(plan.plan.id), self._plan(plan).item())
        async for approval, kept in self._kept(ApprovalLine, "approvals.jsonl", _arguments):
            await self._approval(approval, kept)
        for event in self._lines(EventLine, "events.jsonl"):
            await self._put(Key.event(event.session_id, event.seq), _plain(event, "session_id", "seq"))
        await self._end_what_was_open()
        for session in self._lines(SessionLine, "sessions.jsonl"):
            newest = {"last_event": self._newest[session.id]} if session.id in self._newest else {}
            await self._put(Key.session(session.id), {**_plain(session), **newest})
        for counter in self._lines(CounterLine, "counters.jsonl"):
            self._counters[counter.agent_id].update(counter.counts)
        for agent in self._lines(AgentLine, "agents.jsonl"):
            await self._agent(agent)
        for agent_id, counted in self._counters.items():
            # The orchestrator, and agents that were deleted: what they did still counts.
            await self._put(Key.runtime(agent_id), dict(counted))
        await self._construction.flush(self._site)
        await self._context()

    def _lines(self, kind: type[Any], name: str) -> Any:
        assert KINDS[name] is kind
        return self._archive.lines(name)

    async def _kept(
        self, kind: type[Any], name: str, texts_of: Callable[[Any], Sequence[tuple[str, str]]]
    ) -> AsyncIterator[tuple[Any, _Kept]]:
        """Lines with the attributes that stand for their texts, of which some are stored at a time.

        Args:
            texts_of: A line's texts, each with its place.
        """
        several: list[tuple[Any, Sequence[tuple[str, str]]]] = []
        far = 0
        for line in self._lines(kind, name):
            texts = texts_of(line)
            several.append((line, texts))
            far += sum(len(text) > INLINE_BYTES // 4 for _, text in texts)
            if far >= _TEXTS_AT_ONCE or len(several) == _LINES_AT_ONCE:
                for pair in await self._keep_all(several):
                    yield pair
                several, far = [], 0
        for pair in await self._keep_all(several):
            yield pair

    async def _keep_all(self, several: Sequence[tuple[Any, Sequence[tuple[str, str]]]]) -> list[tuple[Any, _Kept]]:
        keeping = [self._keep(place, text) for _, texts in several for place, text in texts]
        # All come to their end, also when one fails: what is cleared then must not come back.
        done = await asyncio.gather(*keeping, return_exceptions=True)
        for kept in done:
            if isinstance(kept, BaseException):
                raise kept
        left = iter(cast(_Kept, done))
        return [(line, list(islice(left, len(texts)))) for line, texts in several]

    async def _put(self, key: Key, item: Mapping[str, Any]) -> None:
        await self._construction.add(self._site, key, item)

    async def _keep(self, place: str, text: str) -> Mapping[str, Any]:
        # Under a name of this import's own: whoever still clears the project that was here before, perhaps the very one
        # that was exported, has listed the old names.
        return await self._texts.keep(self._tenant, f"{self._site.token}/{place}", text)

    # -- the kinds -------------------------------------------------------------------------------
    async def _agent(self, line: AgentLine) -> None:
        await self._put(Key.agent(line.id), _agent(line))
        await self._put(Key.agent_name(line.config.name), {"agent_id": line.id})
        runtime = {"max": line.config.max_concurrency, "registered": True}
        await self._put(Key.runtime(line.id), {**runtime, **self._counters.pop(line.id, {})})

    async def _task(self, line: TaskLine, kept: _Kept) -> None:
        if not line.state.ended:
            canceled = {"state": TaskState.CANCELED, "ended_at": self._now, "updated_at": self._now}
            line = line.model_copy(update=canceled)
            facts = {name: getattr(line, name) for name in ("input_tokens", "output_tokens", "cost_micros")}
            self._counters[line.agent_id].update(counters(line.state.value, milliseconds=None, facts=facts))
            self._last_told.append(line)
        space = self._site.space
        internal = {
            "user_id": self._tenant.user_id,
            "project_id": self._tenant.project_id,
            "epoch": space["epoch"],
            # As many as no delivery has: it was never sent here.
            "dispatch": 0,
        }
        for output in kept:
            internal |= output
        await self._put(Key.task(line.id), {**_plain(line, "output"), **internal})

    def _plan(self, line: PlanLine) -> StoredPlan:
        plan = line.plan
        stays = plan.state.ended or (plan.state is PlanState.PROPOSED and not self._is_open(plan))
        if not stays:
            error = PlanFailure(code="canceled", message=_REASON)
            tasks = tuple(
                task if task.state.ended else task.model_copy(update={"state": PlanTaskState.CANCELED, "error": error})
                for task in plan.tasks
            )
            ended = {"state": PlanState.CANCELED, "tasks": tasks, "ended_at": self._now, "updated_at": self._now}
            plan = plan.model_copy(update={**ended, "version": plan.version + 1})
        return StoredPlan(plan=plan, former=line.former)

    def _is_open(self, plan: Plan) -> bool:
        return plan.task_id in self._archive.found.open_tasks

    async def _approval(self, line: ApprovalLine, kept: _Kept) -> None:
        arguments, *edited = kept
        item = {**_plain(line, "arguments", "edited"), **arguments, "epoch": self._site.space["epoch"]}
        if edited:
            item["edited"] = edited[0]
        if line.state is ApprovalState.PENDING:
            item |= {"state": ApprovalState.CANCELED.value, "resolved_at": self._now}
        await self._put(Key.approval(line.id), item)

    async def _end_what_was_open(self) -> None:
        """What the end of a task says: a message, where it has one of its own, and events."""
        for line in sorted(self._last_told, key=lambda task: (task.session_id, task.number)):
            ids = {"task_id": line.id, "agent_id": line.agent_id}
            told: dict[str, Any] = {"message": _REASON}
            if line.type == "message":
                number = line.number + 1
                said = {"number": number, "role": "assistant", "status": "canceled"}
                answer = {**said, **ids, "content": _REASON, "created_at": self._now}
                await self._put(Key.message(line.session_id, number), answer)
                await self._tell(line, EventType.MESSAGE_CREATED, {**said, "content": _REASON})
                told["number"] = number
            elif line.plan_id is not None:
                told["plan_id"] = line.plan_id
            await self._tell(line, EventType.TASK_CANCELED, told)

    async def _tell(self, line: TaskLine, what: EventType, data: Mapping[str, Any]) -> None:
        seq = self._newest.get(line.session_id, 0) + 1
        self._newest[line.session_id] = seq
        event = {"type": what.value, "at": self._now, "data": data, "task_id": line.id, "agent_id": line.agent_id}
        await self._put(Key.event(line.session_id, seq), event)

    async def _context(self) -> None:
        await asyncio.gather(*(self._memory.ensure(self._tenant, agent) for agent in self._archive.found.agents))
        lines = iter(self._lines(ContextLine, "context.jsonl"))
        while several := [cast(ContextLine, line) for line in islice(lines, _AT_ONCE)]:
            await asyncio.gather(
                *(
                    self._memory.add(self._tenant, line.agent_id, ContextEntry(**line.model_dump(exclude={"agent_id"})))
                    for line in several
                )
            )


def _outputs(line: TaskLine) -> Sequence[tuple[str, str]]:
    return [] if line.output is None else [(f"{line.id}/output", line.output)]


def _bodies(line: StepLine) -> Sequence[tuple[str, str]]:
    return [(f"{line.task_id}/step/{line.number}.{line.attempt}", line.body)]


def _contents(line: MessageLine) -> Sequence[tuple[str, str]]:
    return [(f"{line.session_id}/{line.number}", line.content)]


def _arguments(line: ApprovalLine) -> Sequence[tuple[str, str]]:
    place = f"{line.task_id}/{line.id}"
    edited = [] if line.edited is None else [(f"{place}.edited", line.edited)]
    return [(place, line.arguments), *edited]


def _agent(line: AgentLine) -> dict[str, Any]:
    config = line.config.model_dump(mode="json", exclude_none=True)
    return {**_plain(line, "config"), "config": config}


def _plain(line: Any, *but: str) -> dict[str, Any]:
    """A line's members as attributes of an item."""
    members: dict[str, Any] = line.model_dump(mode="json", exclude_none=True, exclude=set(but))
    return members
