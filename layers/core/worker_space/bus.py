"""The agent bus: messages in, one FIFO queue per project, answers out."""

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker_space.accepting import accept_message
from worker_space.agents import Agent, AgentConfig
from worker_space.allowances import Allowances
from worker_space.clock import now_ms
from worker_space.dispatch import Dispatch
from worker_space.errors import Conflict, InvalidRequest, LimitReached, NotFound, Unavailable
from worker_space.events import EventCursor
from worker_space.idempotency import Repeat, find_repeat, remember
from worker_space.ids import new_id
from worker_space.ledger import Ledger, Stale
from worker_space.limits import Admission, Intake
from worker_space.messages import MAX_CONTENT_BYTES, OnBusy
from worker_space.planning import PlanBook
from worker_space.ports import Cache, Records
from worker_space.projects import SpaceState
from worker_space.records import Item
from worker_space.registry import AgentRegistry, Home
from worker_space.runtimes import check_takes_messages
from worker_space.steering import Steering, next_turn, task_of
from worker_space.tasks import ORCHESTRATOR, Task, TaskState
from worker_space.telemetry import Measure, count
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["ORCHESTRATING", "AgentBus", "Sent"]

_log = logging.getLogger(__name__)
_ACCEPT_SECONDS: Final = 10.0
ORCHESTRATING: Final = Agent(
    id=ORCHESTRATOR,
    version=0,
    config=AgentConfig(name=ORCHESTRATOR, system_prompt="Chooses who does what.", max_concurrency=10),
    created_at=0,
    updated_at=0,
)
"""Stands in the place of an agent in tasks that no agent was named for; no project has it among its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that was accepted."""

    task_id: str
    session_id: str
    number: int
    agent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heads:
    """What a message is accepted on, as read in one call.

    Attributes:
        home: The agents, possibly from the cache; whoever acts on one checks its version.
        space: The space's own item.
        session: The session's: the head of its mailbox and the next number.
        agent: Who is to answer.
        runtime: That agent's runtime item.
        intake: What the limits ask of the write.
    """

    home: Home
    space: Item
    session: Item
    agent: Agent
    runtime: Item
    intake: Intake


class AgentBus(Steering):
    """Accepts messages, sends their tasks and waits for results; what is open already is steered (`Steering`)."""

    def __init__(
        self,
        *,
        records: Records,
        cache: Cache,
        dispatch: Dispatch,
        texts: Texts,
        registry: AgentRegistry,
        ledger: Ledger,
        plans: PlanBook,
        allowances: Allowances,
    ) -> None:
        self._allowances = allowances
        super().__init__(
            records=records,
            cache=cache,
            dispatch=dispatch,
            texts=texts,
            registry=registry,
            ledger=ledger,
            plans=plans,
        )
        # Of all tenants together, in seconds: it only says when to look first.
        self._usual_wait = 0.05

    # -- send ------------------------------------------------------------------------------------
    async def send_task(
        self,
        tenant: TenantContext,
        *,
        session_id: str,
        content: str,
        target_agent: str | None,
        orchestrate: bool = False,
        on_busy: OnBusy = "enqueue",
        facts: Mapping[str, Any] | None = None,
        repeat: Repeat | None = None,
    ) -> Sent:
        """Accept one message for an agent, or for the orchestrator where neither message nor session names one.

        Args:
            orchestrate: Give it to the orchestrator, whichever agent the session names; then `target_agent` is none.
            on_busy: What happens while the session is answering: `enqueue` waits behind it, `reject` refuses the
                message, `interrupt` cancels what is open in the session and answers this message next.
            facts: Further attributes of the task's record.

        Raises:
            InvalidRequest: The content is over 1 MiB.
            NotFound: There is no such project, session or agent.
            LimitReached: A limit of the project or its user is reached (`allowances`), or 100 messages wait in the
                session already.
            Conflict: The Idempotency-Key was used with another body, the agent is disabled or not registered on the
                bus, or the session is being deleted, or is busy (`reject`).
            Unavailable: The table does not answer. The message may have been stored all the same: repeat it with
                an Idempotency-Key.
        """
        if len(content.encode()) > MAX_CONTENT_BYTES:
            raise InvalidRequest(f"a message takes at most {MAX_CONTENT_BYTES} bytes: send a file instead")
        sent = await self._accept(
            tenant,
            session_id=session_id,
            content=content,
            target_agent=target_agent,
            orchestrate=orchestrate,
            only_if_idle=on_busy == "reject",
            facts=facts,
            repeat=repeat,
        )
        if on_busy == "interrupt":
            await self._cancel_before(tenant, sent)
        return sent

    async def _accept(
        self,
        tenant: TenantContext,
        *,
        session_id: str,
        content: str,
        target_agent: str | None,
        orchestrate: bool,
        only_if_idle: bool,
        facts: Mapping[str, Any] | None,
        repeat: Repeat | None,
    ) -> Sent:
        task_id = new_id("task")
        message = {"role": "user", **await self._texts.keep(tenant, f"{task_id}/message", content)}
        until = time.monotonic() + _ACCEPT_SECONDS
        home = await self._registry.home(tenant)
        events = EventCursor(session_id)
        for tries in itertools.count():
            if home.space.state is not SpaceState.ACTIVE:
                home = await self._dispatch.wake(tenant)
            try:
                heads = await self._read_heads(tenant, session_id, target_agent, home, orchestrate=orchestrate)
            except (Conflict, LimitReached, NotFound):
                # A request that is repeated finds what it made, whatever has become of session and agent since.
                if (known := await self._repeated(tenant, repeat)) is not None:
                    return known
                raise
            session, home = heads.session, heads.home
            events.last = max(events.last, int(session.get("last_event", 0)))
            try:
                delivery = await accept_message(
                    self._records,
                    tenant,
                    task_id=task_id,
                    session_id=session_id,
                    space=home.space,
                    agent=heads.agent,
                    session=session,
                    runtime=heads.runtime,
                    message=message,
                    content=content,
                    events=events,
                    turn=next_turn(),
                    only_if_idle=only_if_idle,
                    facts=facts,
                    redispatch_ms=self._ledger.redispatch_ms,
                    intake=heads.intake,
                    idempotency=None if repeat is None else remember(repeat, task_id),
                )
            except Conflict:
                # The session may be busy with this very message.
                if (known := await self._repeated(tenant, repeat)) is not None:
                    return known
                raise
            except Stale as stale:
                if stale.what == "idempotency" and repeat is not None:
                    return await self._sent_before(tenant, repeat.same(stale.item))
                if time.monotonic() > until:
                    break
                if stale.what in {"space", "agent"}:
                    home = await self._registry.home(tenant, fresh=True)
                elif stale.what == "events":
                    await events.look(self._records, tenant)
                elif tries > 1:
                    await asyncio.sleep(0.002 * (next_turn() % 16 + 1))
                continue
            count(Measure.ACCEPTED)
            waits = "" if delivery is not None else " and waits its turn"
            _log.info("task %s of %s is accepted%s", task_id, session_id, waits)
            if delivery is not None:
                await self._dispatch.send_or_leave_it(tenant, delivery)
            number = int(session["next_number"])
            return Sent(task_id=task_id, session_id=session_id, number=number, agent_id=heads.agent.id)
        raise Unavailable("the table", "too many messages reach this session at once")

    async def _read_heads(
        self, tenant: TenantContext, session_id: str, target: str | None, home: Home, *, orchestrate: bool = False
    ) -> _Heads:
        agent = None if target is None else home.find(target)
        if target is not None and agent is None and home.cached:
            home = await self._registry.home(tenant, fresh=True)
            agent = home.find(target)
        # Without a target the session names one: all candidates are read with it, in the same call.
        candidates = [agent] if agent is not None else []
        if target is None:
            candidates = [ORCHESTRATING, *([] if orchestrate else list(home.agents.values())[:90])]
        limits = self._allowances.of(home.space.limits, home.space.operator_limits)
        admission = Admission(self._allowances, limits, now=now_ms())
        used = admission.keys
        keys = [Key.session(session_id), Key.space(), *used, *(Key.runtime(each.id) for each in candidates)]
        session, space, *others = await self._records.get_many(tenant, keys)
        usage, runtimes = others[: len(used)], others[len(used) :]
        if session is None:
            raise NotFound(f"this project has no chat session {session_id[:80]!r}")
        if "closing" in session:
            raise Conflict("this chat session is being deleted")
        if target is None and "target_agent" in session and not orchestrate:
            target = str(session["target_agent"])
            agent = home.find(target)
            if agent is None or agent not in candidates:
                return await self._read_heads(tenant, session_id, target, home)
        if target is None:
            agent = ORCHESTRATING
        if agent is None:
            raise NotFound(f"this project has no agent {str(target)[:80]!r}")
        runtime = runtimes[candidates.index(agent)] or {}
        if home.cached and not agent.config.enabled:
            # It may have been enabled since.
            return await self._read_heads(tenant, session_id, target, await self._registry.home(tenant, fresh=True))
        if space is not None and space["state"] == SpaceState.ACTIVE.value:
            # Otherwise the space will be woken, which registers all.
            check_takes_messages(agent, runtime)
        return _Heads(
            home=home,
            space=space or {},
            session=session,
            agent=agent,
            runtime=runtime,
            intake=admission.admit(space or {}, usage),
        )

    async def _repeated(self, tenant: TenantContext, repeat: Repeat | None) -> Sent | None:
        """What an earlier request with this key sent."""
        task_id = None if repeat is None else await find_repeat(self._records, tenant, repeat)
        return None if task_id is None else await self._sent_before(tenant, task_id)

    async def _sent_before(self, tenant: TenantContext, task_id: str) -> Sent:
        item = await self._records.get(tenant, Key.task(task_id))
        if item is None:
            raise Conflict("what this Idempotency-Key made has been deleted: use a new key")
        return Sent(task_id=task_id, session_id=item["session_id"], number=item["number"], agent_id=item["agent_id"])

    async def _cancel_before(self, tenant: TenantContext, sent: Sent) -> None:
        """Cancel what is open in the session before this message, the last first: none of it is begun any more."""
        session = await self._records.get(tenant, Key.session(sent.session_id)) or {}
        before = [ticket["task"] for ticket in session.get("waiting", ()) if ticket["number"] < sent.number]
        active = session.get("active", sent.task_id)
        if active != sent.task_id:
            # Where this message is answered already (its request is repeated, say), a later one may have its turn.
            task = await self._records.get(tenant, Key.task(active))
            before = [active, *before] if task is not None and task["number"] < sent.number else before
        for task_id in reversed(before):
            try:
                await self.cancel_task(tenant, task_id)
            except (Conflict, NotFound):
                # It has ended, or its session is gone: nothing of it is in the way.
                continue

    # -- results ---------------------------------------------------------------------------------
    async def result(self, tenant: TenantContext, sent: Sent) -> tuple[Task, Item | None]:
        """The task now, and its answer's message if it has ended."""
        task, answer = await self._records.get_many(
            tenant, [Key.task(sent.task_id), Key.message(sent.session_id, sent.number + 1)]
        )
        if task is None:
            raise NotFound(f"this project has no task {sent.task_id!r}")
        if answer is None and TaskState(task["state"]).ended:
            # Both are written at once but read one by one: the end may have fallen in between.
            answer = await self._records.get(tenant, Key.message(sent.session_id, sent.number + 1))
        return task_of(task), answer

    async def wait_for_result(self, tenant: TenantContext, sent: Sent, *, seconds: float) -> tuple[Task, Item | None]:
        """Wait until the task has ended or needs the user's word, or for `seconds`.

        A sign in the cache says when to look; the table decides.
        """
        began = time.monotonic()
        until, table_at = began + seconds, began + 1.0
        pause = min(max(0.7 * self._usual_wait, 0.01), 0.25)
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            # Looking costs CPU here and money there: seldom before an answer is likely, often when it is.
            pause = min(max(0.008, (time.monotonic() - began) / 5), 0.25)
            try:
                woken = await self._cache.woken(tenant, sent.task_id)
            except Unavailable:
                woken, pause = False, max(pause, 0.1)
                table_at = min(table_at, time.monotonic() + 0.2)
            if woken or time.monotonic() >= table_at:
                task, answer = await self.result(tenant, sent)
                if task.state.ended or task.state is TaskState.INPUT_REQUIRED:
                    self._usual_wait += 0.2 * (time.monotonic() - began - self._usual_wait)
                    return task, answer
                table_at = time.monotonic() + 1.0
        return await self.result(tenant, sent)

    async def status(self, tenant: TenantContext, agent_id: str) -> Mapping[str, int]:
        """How many tasks of an agent run and how many wait for one of them to end."""
        runtime = await self._records.get(tenant, Key.runtime(agent_id)) or {}
        return {"running": len(runtime.get("running", ())), "parked": len(runtime.get("parked", ()))}
