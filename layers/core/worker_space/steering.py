"""Steering what is open already: end what waits, cancel, send again, let the parked go on."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

from worker_space.clock import now_ms
from worker_space.dispatch import Dispatch
from worker_space.ending import Ending, Outcome, canceled, end_task
from worker_space.errors import ClaimLost, ConditionFailed, Conflict, NotFound, Unavailable
from worker_space.events import EventCursor, NewEvent
from worker_space.ledger import Ledger, Stale, request_cancel
from worker_space.planning import PlanBook
from worker_space.ports import Cache, Records
from worker_space.records import All, Condition, Equals, Item, Missing, Update, Write
from worker_space.registry import AgentRegistry
from worker_space.steps import effects_of
from worker_space.tasks import Delivery, Failure, Task, TaskState, Ticket, due_shard
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["Steering", "next_turn", "task_of"]

_SIGN_TTL_SECONDS: Final = 120
_TRIES: Final = 20
_STOP_LATER_MS: Final = 60_000
_log = logging.getLogger(__name__)


@cache
def _turns() -> Iterator[int]:
    # Spreads dispatches of one moment over free slots; a plain number, nothing of any tenant. Begun at the first call,
    # not at import: environments that are restored from one snapshot would all begin alike.
    return itertools.count(secrets.randbelow(1 << 16))


def next_turn() -> int:
    """A number that grows with each call in this process (`places.choose_slot`)."""
    return next(_turns())


def task_of(item: Item) -> Task:
    """The task kept in a table item."""
    error = item.get("error")
    return Task(
        id=item["id"],
        type=item["type"],
        state=TaskState(item["state"]),
        session_id=item["session_id"],
        agent_id=item["agent_id"],
        payload={"message": item["number"], **({"plan_key": item["plan_key"]} if "plan_key" in item else {})},
        mode=item.get("mode", "direct"),
        plan_id=item.get("plan_id"),
        approval_id=item.get("approval_id") if item["state"] == TaskState.INPUT_REQUIRED.value else None,
        attempt=item["attempt"],
        agent_version=item.get("agent_version"),
        steps=item.get("steps", 0),
        recall=item.get("recall"),
        input_tokens=item.get("input_tokens", 0),
        output_tokens=item.get("output_tokens", 0),
        cost_micros=item.get("cost_micros", 0),
        error=None if error is None else Failure.model_validate(error),
        created_at=item["created_at"],
        started_at=item.get("started_at"),
        ended_at=item.get("ended_at"),
        cancel_requested="cancel_requested" in item,
    )


def _void(approval_id: str) -> Update:
    """The approval that a task waited for, when it has ended without it."""
    return Update(
        key=Key.approval(approval_id),
        set={"state": "canceled", "resolved_at": now_ms()},
        when=Equals("state", "pending"),
    )


class Steering:
    """Moves open tasks from outside of any worker."""

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
    ) -> None:
        self._records = records
        self._cache = cache
        self._dispatch = dispatch
        self._texts = texts
        self._registry = registry
        self._ledger = ledger
        self._plans = plans

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
            done = await effects_of(self._ledger, self._texts, tenant, task_id) if item["attempt"] else ()
            if await self.end_waiting(tenant, item, canceled([*done, *await self._plans.done(tenant, item)])):
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
        following = await self._plans.following(tenant, item)
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
            events=EventCursor(ticket.session, int((session or {}).get("last_event", 0))),
            session=session or {},
            runtime=runtime or {},
            following=following,
        )
        if following is not None and following.running:
            # Whoever dies before it has asked them all to stop has left that to the sweeper.
            outcome = replace(outcome, due_at=now_ms() + _STOP_LATER_MS)
        if "approval_id" in item and item["state"] == TaskState.INPUT_REQUIRED.value:
            outcome = replace(outcome, also={**outcome.also, "approval": _void(item["approval_id"])})
        try:
            deliveries = await self.end(tenant, ending, outcome)
        except (ClaimLost, Stale):
            return False
        await asyncio.gather(
            self.announce(tenant, ticket.task),
            *(self._dispatch.send_or_leave_it(tenant, delivery) for delivery in deliveries),
            *(self._stop(tenant, task_id) for task_id in (following.stop if following is not None else ())),
        )
        return True

    async def stop_plan_of(self, tenant: TenantContext, item: Item) -> None:
        """Stop what still runs of a plan whose task, as read, has ended: whoever ended it may have died before that."""
        for task_id in await self._plans.left_running(tenant, item):
            await self._stop(tenant, task_id)

    async def _stop(self, tenant: TenantContext, task_id: str) -> None:
        try:
            await self.cancel_task(tenant, task_id)
        except (NotFound, Conflict):
            # It has ended, or is gone.
            return
        except Unavailable as error:
            _log.warning("task %s of a canceled plan is stopped by the sweeper: %s", task_id, error)

    async def send_again(
        self,
        tenant: TenantContext,
        item: Item,
        *also: Write,
        changes: Mapping[str, Any] | None = None,
        drop: Sequence[str] = (),
        events: Sequence[NewEvent] = (),
    ) -> bool:
        """Dispatch an open task anew, which makes every earlier delivery of it void; False when it has changed since.

        Args:
            also: Further writes that happen with it or not at all.
            changes: Further attributes of the task; a new `ticket` counts for this dispatch.
            drop: Attributes to take from the task.
            events: What its session is told.

        Raises:
            NotFound: The project is gone.
        """
        space = (await self._registry.home(tenant, fresh=True)).space
        pinned = item["attempt"] == 0 or "agent_version" in item
        ticket = Ticket.model_validate((changes or {}).get("ticket", item["ticket"])).model_copy(
            update={"dispatch": item["dispatch"], "attempts": item["attempt"], "unpinned": not pinned}
        )
        cursor = EventCursor(ticket.session)
        if events:
            await cursor.look(self._records, tenant)
        slots = (await self._records.get(tenant, Key.runtime(ticket.agent)) or {}).get("max", ticket.slots)
        delivery = ticket.deliver(
            user_id=tenant.user_id,
            project_id=tenant.project_id,
            epoch=item["epoch"],
            generation=max(space.generation, 1),
            slot=next_turn() % slots,
            last_event=cursor.last + len(events),
        )
        as_read: list[Condition] = [
            Equals("state", item["state"]),
            Equals("attempt", item["attempt"]),
            Equals("dispatch", item["dispatch"]),
            Equals("due_at", item["due_at"]) if "due_at" in item else Missing("due_at"),
        ]
        sent: dict[str, Any] = {
            **(changes or {}),
            "state": TaskState.SUBMITTED.value,
            "dispatch": delivery.dispatch,
            "due_shard": due_shard(ticket.task),
            # Ever later: what waits behind a long task is not lost, and each dispatch leaves a void delivery behind.
            "due_at": now_ms() + self._ledger.redispatch_ms * min(delivery.dispatch, 8),
            "updated_at": now_ms(),
        }
        dispatched = Update(key=Key.task(ticket.task), set=sent, remove=drop, when=All(*as_read))
        for _ in range(_TRIES):
            told = cursor.writes(events)
            try:
                await self._records.write(tenant, dispatched, *also, *told.values())
            except ConditionFailed as error:
                if any(item is not None for item in error.items[: 1 + len(also)]):
                    return False
                await cursor.look(self._records, tenant)
                continue
            # A number that lies behind is no more than a guess that costs the claim another look.
            await self._dispatch.send(delivery)
            return True
        raise Unavailable("the table", "too many events of this session are written at once")

    async def fail_waiting(self, tenant: TenantContext, agent_id: str) -> None:
        """End the tasks of a deleted agent that wait for the user's word: what it asked for is not done any more."""
        runtime = await self._records.get(tenant, Key.runtime(agent_id)) or {}
        for task_id in runtime.get("waiting", ()):
            task = await self._records.get(tenant, Key.task(task_id))
            if task is not None and task["state"] == TaskState.INPUT_REQUIRED.value:
                done = await effects_of(self._ledger, self._texts, tenant, task_id)
                said = f" Done before that: {'; '.join(done)}." if done else ""
                gone = f"The agent was deleted while it waited for your word.{said}"
                # Whoever is first, the answer or this end, decides.
                await self.end_waiting(
                    tenant, task, Outcome(state=TaskState.FAILED, code="agent_deleted", content=gone)
                )

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
