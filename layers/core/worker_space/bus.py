"""The agent bus: messages in, one FIFO queue per project, answers out."""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker_space.accepting import accept_message
from worker_space.agents import Agent
from worker_space.clock import now_ms
from worker_space.dispatch import Dispatch
from worker_space.ending import Ending, Outcome, end_task
from worker_space.errors import (
    ClaimLost,
    ConditionFailed,
    Conflict,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from worker_space.idempotency import Repeat, remember
from worker_space.ids import new_id
from worker_space.ledger import Ledger, Stale, request_cancel
from worker_space.messages import MAX_CONTENT_BYTES
from worker_space.ports import Cache, Records
from worker_space.projects import SpaceState
from worker_space.records import All, Condition, Equals, Item, Missing, Update
from worker_space.registry import AgentRegistry, Home
from worker_space.tasks import Delivery, Failure, Task, TaskState, Ticket, due_shard
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["AgentBus", "Sent", "task_of"]

_ACCEPT_SECONDS: Final = 10.0
_SIGN_TTL_SECONDS: Final = 120
_log = logging.getLogger(__name__)
# Spreads dispatches of one moment over free slots; a plain number, nothing of any tenant. Environments begin apart.
_turns: Final = itertools.count(secrets.randbelow(1 << 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that was accepted."""

    task_id: str
    session_id: str
    number: int
    agent_id: str


def task_of(item: Item) -> Task:
    """The task kept in a table item."""
    error = item.get("error")
    return Task(
        id=item["id"],
        type=item["type"],
        state=TaskState(item["state"]),
        session_id=item["session_id"],
        agent_id=item["agent_id"],
        payload={"message": item["number"]},
        attempt=item["attempt"],
        agent_version=item.get("agent_version"),
        steps=item.get("steps", 0),
        recall=item.get("recall"),
        input_tokens=item.get("input_tokens", 0),
        output_tokens=item.get("output_tokens", 0),
        error=None if error is None else Failure.model_validate(error),
        created_at=item["created_at"],
        started_at=item.get("started_at"),
        ended_at=item.get("ended_at"),
        cancel_requested="cancel_requested" in item,
    )


class AgentBus:
    """Accepts messages, sends their tasks, waits for results and cancels."""

    def __init__(
        self,
        *,
        records: Records,
        cache: Cache,
        dispatch: Dispatch,
        texts: Texts,
        registry: AgentRegistry,
        ledger: Ledger,
    ) -> None:
        self._records = records
        self._cache = cache
        self._dispatch = dispatch
        self._texts = texts
        self._registry = registry
        self._ledger = ledger
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
        repeat: Repeat | None = None,
    ) -> Sent:
        """Accept one message for an agent.

        Raises:
            InvalidRequest: The content is over 1 MiB, or no agent is named.
            NotFound: There is no such project, session or agent.
            LimitReached: 100 messages wait in the session already.
            Conflict: The Idempotency-Key was used with another body, or the session is being deleted.
            Unavailable: The table does not answer. The message may have been stored all the same: repeat it with
                an Idempotency-Key.
        """
        if len(content.encode()) > MAX_CONTENT_BYTES:
            raise InvalidRequest(f"a message takes at most {MAX_CONTENT_BYTES} bytes: send a file instead")
        task_id = new_id("task")
        message = {"role": "user", **await self._texts.keep(tenant, f"{task_id}/message", content)}
        until = time.monotonic() + _ACCEPT_SECONDS
        home = await self._registry.home(tenant)
        for tries in itertools.count():
            if home.space.state is not SpaceState.ACTIVE:
                home = await self._dispatch.wake(tenant)
            session, agent, runtime, home = await self._read_heads(tenant, session_id, target_agent, home)
            try:
                delivery = await accept_message(
                    self._records,
                    tenant,
                    task_id=task_id,
                    session_id=session_id,
                    space=home.space,
                    agent=agent,
                    session=session,
                    runtime=runtime,
                    message=message,
                    turn=next(_turns),
                    redispatch_ms=self._ledger.redispatch_ms,
                    idempotency=None if repeat is None else remember(repeat, task_id),
                )
            except Stale as stale:
                if stale.what == "idempotency" and repeat is not None:
                    return await self._sent_before(tenant, repeat.same(stale.item))
                if time.monotonic() > until:
                    break
                if stale.what in {"space", "agent"}:
                    home = await self._registry.home(tenant, fresh=True)
                elif tries > 1:
                    await asyncio.sleep(0.002 * (next(_turns) % 16 + 1))
                continue
            if delivery is not None:
                await self._dispatch.send_or_leave_it(tenant, delivery)
            number = int(session["next_number"])
            return Sent(task_id=task_id, session_id=session_id, number=number, agent_id=agent.id)
        raise Unavailable("the table", "too many messages reach this session at once")

    async def _read_heads(
        self, tenant: TenantContext, session_id: str, target: str | None, home: Home
    ) -> tuple[Item, Agent, Item, Home]:
        agent = None if target is None else home.find(target)
        if target is not None and agent is None and home.cached:
            home = await self._registry.home(tenant, fresh=True)
            agent = home.find(target)
        # Without a target the session names one: all candidates are read with it, in the same call.
        candidates = [agent] if agent is not None else list(home.agents.values())[:99] if target is None else []
        keys = [Key.session(session_id), *(Key.runtime(each.id) for each in candidates)]
        session, *runtimes = await self._records.get_many(tenant, keys)
        if session is None:
            raise NotFound(f"this project has no chat session {session_id[:80]!r}")
        if "closing" in session:
            raise Conflict("this chat session is being deleted")
        if target is None and "target_agent" in session:
            target = str(session["target_agent"])
            agent = home.find(target)
            if agent is None or agent not in candidates:
                return await self._read_heads(tenant, session_id, target, home)
        if target is None:
            raise InvalidRequest("name a target_agent: this session has none of its own")
        if agent is None:
            raise NotFound(f"this project has no agent {target[:80]!r}")
        return session, agent, runtimes[candidates.index(agent)] or {}, home

    async def _sent_before(self, tenant: TenantContext, task_id: str) -> Sent:
        item = await self._records.get(tenant, Key.task(task_id))
        if item is None:
            raise Conflict("what this Idempotency-Key made has been deleted: use a new key")
        return Sent(task_id=task_id, session_id=item["session_id"], number=item["number"], agent_id=item["agent_id"])

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
        """Wait until the task has ended, or for `seconds`: a sign in the cache says when to look, the table decides."""
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
                if task.state.ended:
                    self._usual_wait += 0.2 * (time.monotonic() - began - self._usual_wait)
                    return task, answer
                table_at = time.monotonic() + 1.0
        return await self.result(tenant, sent)

    async def announce(self, tenant: TenantContext, task_id: str) -> None:
        """Tell whoever waits that a task has ended; without the cache they find out from the table."""
        try:
            await self._cache.wake(tenant, task_id, ttl_seconds=_SIGN_TTL_SECONDS)
        except Unavailable as error:
            _log.info("task %s ended without a sign in the cache: %s", task_id, error)

    # -- end, cancel, send again -----------------------------------------------------------------
    async def end(self, tenant: TenantContext, ending: Ending, outcome: Outcome) -> Sequence[Delivery]:
        """End a task (see `ending.end_task`); the caller then sends the deliveries and announces the end."""
        return await end_task(self._records, tenant, ending, outcome)

    async def cancel_task(self, tenant: TenantContext, task_id: str) -> Task:
        """Cancel a task: at once while it waits; a running one stops before its next model call or tool effect.

        Raises:
            NotFound: The project has no such task.
            Conflict: The task has ended.
        """
        for _ in range(10):
            item = await self._records.get(tenant, Key.task(task_id))
            if item is None:
                raise NotFound(f"this project has no task {task_id[:80]!r}")
            if TaskState(item["state"]).ended:
                raise Conflict(f"the task has ended already: it is {item['state']}")
            if item["state"] == TaskState.WORKING.value:
                if await request_cancel(self._records, tenant, task_id) is None:
                    break
                continue
            if await self.end_waiting(tenant, item, Outcome(state=TaskState.CANCELED, content="Canceled by the user.")):
                break
        else:
            raise Unavailable("the table", "the task changed at every try")
        item = await self._records.get(tenant, Key.task(task_id))
        if item is None:
            raise NotFound(f"this project has no task {task_id[:80]!r}")
        return task_of(item)

    async def end_waiting(self, tenant: TenantContext, item: Item, outcome: Outcome) -> bool:
        """End a task that nobody works on, as read; False when it has changed since."""
        ticket = Ticket.model_validate(item["ticket"])
        session, runtime, space = await self._records.get_many(
            tenant, [Key.session(ticket.session), Key.runtime(ticket.agent), Key.space()]
        )
        as_read = All(
            Equals("state", item["state"]), Equals("attempt", item["attempt"]), Equals("dispatch", item["dispatch"])
        )
        ending = Ending(
            ticket=ticket,
            epoch=item["epoch"],
            generation=(space or {}).get("generation", 1),
            slot=(runtime or {}).get(f"slot:{ticket.task}", 0),
            redispatch_ms=self._ledger.redispatch_ms,
            when=as_read,
            session=session or {},
            runtime=runtime or {},
        )
        try:
            deliveries = await self.end(tenant, ending, outcome)
        except ClaimLost:
            return False
        await asyncio.gather(
            self.announce(tenant, ticket.task),
            *(self._dispatch.send_or_leave_it(tenant, delivery) for delivery in deliveries),
        )
        return True

    async def send_again(self, tenant: TenantContext, item: Item, *also: Update) -> bool:
        """Dispatch an open task anew, which makes every earlier delivery of it void; False when it has changed since.

        Args:
            also: Further changes that happen with it or not at all.

        Raises:
            NotFound: The project is gone.
        """
        space = (await self._registry.home(tenant, fresh=True)).space
        ticket = Ticket.model_validate(item["ticket"]).model_copy(
            update={"dispatch": item["dispatch"], "attempts": item["attempt"]}
        )
        slots = (await self._records.get(tenant, Key.runtime(ticket.agent)) or {}).get("max", ticket.slots)
        delivery = ticket.deliver(
            user_id=tenant.user_id,
            project_id=tenant.project_id,
            epoch=item["epoch"],
            generation=max(space.generation, 1),
            slot=next(_turns) % slots,
        )
        as_read: list[Condition] = [
            Equals("state", item["state"]),
            Equals("attempt", item["attempt"]),
            Equals("dispatch", item["dispatch"]),
            Equals("due_at", item["due_at"]) if "due_at" in item else Missing("due_at"),
        ]
        changes: dict[str, Any] = {
            "state": TaskState.SUBMITTED.value,
            "dispatch": delivery.dispatch,
            "due_shard": due_shard(ticket.task),
            # Ever later: what waits behind a long task is not lost, and each dispatch leaves a void delivery behind.
            "due_at": now_ms() + self._ledger.redispatch_ms * min(delivery.dispatch, 8),
            "updated_at": now_ms(),
        }
        try:
            dispatched = Update(key=Key.task(ticket.task), set=changes, when=All(*as_read))
            await self._records.write(tenant, dispatched, *also)
        except ConditionFailed:
            return False
        await self._dispatch.send(delivery)
        return True

    async def release_parked(self, tenant: TenantContext, agent_id: str) -> None:
        """Dispatch an agent's parked tasks: its limit was raised, or it is gone and they must say so."""
        runtime = await self._records.get(tenant, Key.runtime(agent_id)) or {}
        # As many as wait now, no more: what is sent out may be parked again at once, at the end of the list.
        for _ in range(len(runtime.get("parked", ()))):
            runtime = await self._records.get(tenant, Key.runtime(agent_id)) or {}
            if not runtime.get("parked"):
                return
            first: Mapping[str, Any] = runtime["parked"][0]
            unpark = Update(key=Key.runtime(agent_id), remove=["parked[0]"], when=Equals("parked[0]", first))
            task = await self._records.get(tenant, Key.task(first["task"]))
            if task is not None and not TaskState(task["state"]).ended:
                await self.send_again(tenant, task, unpark)
                continue
            try:
                await self._records.write(tenant, unpark)
            except ConditionFailed:
                continue

    async def status(self, tenant: TenantContext, agent_id: str) -> Mapping[str, int]:
        """How many tasks of an agent run and how many wait for one of them to end."""
        runtime = await self._records.get(tenant, Key.runtime(agent_id)) or {}
        return {"running": len(runtime.get("running", ())), "parked": len(runtime.get("parked", ()))}
