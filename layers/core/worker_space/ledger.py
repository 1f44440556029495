"""The task ledger: claim and journal, between `accepting` and `ending`. Each transition is one conditional transaction.

Two clocks meet here, SQS's and the worker's own, and neither is trusted with the truth:

```
 worker A   claim(attempt 1) ── model call ─ ─ ─ (stalls) ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ journal(attempt 1) ✗ ClaimLost
 SQS                 └─ visibility ────────┐ redelivers the same dispatch
 worker B                                  claim(attempt 2) ── resume ── end(attempt 2) ✓
```

Whatever A believes, its writes carry `attempt = 1` as a condition, and the table says 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker_space.agent_records import as_known
from worker_space.agents import Agent
from worker_space.clock import now_ms
from worker_space.errors import ClaimLost, ConditionFailed, TaskCanceled, Unavailable
from worker_space.events import EventCursor, EventType, NewEvent
from worker_space.places import MAX_PARKED, park
from worker_space.ports import Records
from worker_space.records import (
    All,
    Any_,
    Check,
    Condition,
    Equals,
    Exists,
    Has,
    Item,
    Missing,
    Put,
    SizeBelow,
    Update,
    Write,
)
from worker_space.tasks import ORCHESTRATOR, Delivery, TaskState, Ticket, due_shard
from worker_space.tenancy import Key, TenantContext

__all__ = ["Claim", "Ledger", "Refusal", "Stale", "lost_or_canceled", "request_cancel", "still_mine"]

_TRIES: Final = 20
_ORCHESTRATIONS: Final = 10
"""Most requests that one project's orchestrator works on at once."""


class Stale(Exception):
    """What the caller had read has changed since; read `what` again and repeat. Never leaves the core."""

    def __init__(self, what: str, item: Item) -> None:
        super().__init__(f"the {what} has changed")
        self.what = what
        self.item = item


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to work on a task, until somebody else claims it with a higher attempt.

    Attributes:
        resumed: An earlier attempt may have journalled steps.
        events: Where the session's events end, as this worker knows.
    """

    delivery: Delivery
    attempt: int
    resumed: bool
    events: EventCursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a delivery may not run; it is acknowledged all the same.

    Attributes:
        why: `superseded`, `ended`, `waits` (for the user's word or its plan), `agent_deleted`, `attempts_spent`,
            `canceled`, `copy`, `parked` or `gone`.
        task: The task as stored, where it was looked at.
    """

    why: str
    task: Item


class Ledger:
    """Moves tasks from submitted to working, and keeps the journal of their steps.

    Args:
        records: The table.
        redispatch_seconds: A dispatched task that nobody claims for so long is due for the sweeper.
        lease_seconds: Nobody works longer on one claim; after that the task is due for the sweeper, too.
        max_attempts: After so many claims the task fails.
    """

    def __init__(self, records: Records, *, redispatch_seconds: int, lease_seconds: int, max_attempts: int) -> None:
        self._records = records
        self.redispatch_ms = redispatch_seconds * 1000
        self.lease_ms = lease_seconds * 1000
        self.max_attempts = max_attempts

    # -- claim -----------------------------------------------------------------------------------
    async def claim(self, delivery: Delivery, agent: Agent | None, *, message_id: str = "") -> Claim | Refusal:
        """Take the task of a delivery, or learn why not.

        Args:
            delivery: What came from the queue.
            agent: The agent as rehydrated; `None` when the caller found none.
            message_id: The queue message's. A task that is being worked on is taken over only by the message that
                began it, whose coming again says that its worker has let it go; a copy says nothing of the kind.

        Raises:
            Stale: The agent, or its context's generation, is newer than `agent`; load it again.
        """
        attempts, state = delivery.attempts, TaskState.SUBMITTED
        pinned = attempts > 0 and not delivery.unpinned
        task: Item = {}
        events = EventCursor(delivery.session, delivery.last_event)
        if events.last == 0:
            await events.look(self._records, delivery.tenant)
        for _ in range(_TRIES):
            if agent is None and not pinned:
                # The delivery was sent before any attempt; one may have begun since, and may still finish.
                task = await self._records.get(delivery.tenant, Key.task(delivery.task)) or {}
                if (refusal := self._may_not_run(delivery, task, message_id)) is not None:
                    return refusal
                if "agent_version" not in task:
                    return Refusal(why="agent_deleted", task=task)
                attempts, state, pinned = int(task["attempt"]), TaskState(task["state"]), True
            attempt = attempts + 1
            if attempt - delivery.base > self.max_attempts:
                return Refusal(why="attempts_spent", task=task)
            labelled = self._claim_writes(delivery, agent, attempts, state, pinned=pinned, message_id=message_id)
            told = [_begun(delivery, attempt)]
            labelled |= events.writes(told)
            try:
                await self._records.write(delivery.tenant, *labelled.values())
                events.written(told)
                return Claim(delivery=delivery, attempt=attempt, resumed=attempts > 0, events=events)
            except ConditionFailed as error:
                found = dict(zip(labelled, error.items, strict=True))
            if (stored := found["task"]) is not None:
                task = stored
                refusal = self._may_not_run(delivery, task, message_id)
                if refusal is not None:
                    return refusal
                attempts, state = int(task["attempt"]), TaskState(task["state"])
                pinned = "agent_version" in task
            elif found["space"] is not None:
                return Refusal(why="superseded", task=task)
            elif (stored := found.get("agent")) is not None:
                if not stored:
                    return Refusal(why="agent_deleted", task=task)
                raise Stale("agent", stored)
            elif EventCursor.collided(found):
                await events.look(self._records, delivery.tenant)
            else:
                ticket = delivery.ticket.model_copy(update={"attempts": attempts})
                if state is TaskState.SUBMITTED and await self._park_delivery(delivery, ticket):
                    return Refusal(why="parked", task=task)
        raise Unavailable("the table", "a task's claim found something else at every try")

    def _claim_writes(
        self, delivery: Delivery, agent: Agent | None, attempts: int, state: TaskState, *, pinned: bool, message_id: str
    ) -> dict[str, Write]:
        now = now_ms()
        same_epoch = Equals("epoch", delivery.epoch)
        newest_dispatch = Equals("dispatch", delivery.dispatch)
        as_expected = All(Equals("state", state.value), Equals("attempt", attempts))
        changes: dict[str, Any] = {
            "state": TaskState.WORKING.value,
            "message_id": message_id,
            "attempt": attempts + 1,
            "updated_at": now,
            "due_shard": due_shard(delivery.task),
            "due_at": now + self.lease_ms,
        }
        if attempts == 0:
            changes["started_at"] = now
        if not pinned and agent is not None:
            changes["agent_version"] = agent.version
            changes["context_generation"] = agent.context_generation
        room = Any_(Missing("running"), SizeBelow("running", "max"), Has("running", delivery.task))
        orchestrated = delivery.agent == ORCHESTRATOR
        labelled: dict[str, Write] = {
            "task": Update(
                key=Key.task(delivery.task),
                set=changes,
                when=All(same_epoch, newest_dispatch, as_expected, Missing("cancel_requested")),
            ),
            "runtime": Update(
                key=Key.runtime(delivery.agent),
                include={"running": frozenset({delivery.task})},
                set={f"slot:{delivery.task}": delivery.slot, **({"max": _ORCHESTRATIONS} if orchestrated else {})},
                # A deleted agent has no runtime item; a task that began before may still finish. The orchestrator's
                # is made by its first task.
                when=room if pinned or orchestrated else All(Exists("sk"), room),
            ),
            "space": Check(key=Key.space(), when=All(Exists("sk"), same_epoch)),
        }
        if not pinned and agent is not None and not orchestrated:
            labelled["agent"] = Check(key=Key.agent(delivery.agent), when=as_known(agent))
        return labelled

    @staticmethod
    def _may_not_run(delivery: Delivery, task: Item, message_id: str) -> Refusal | None:
        if not task:
            return Refusal(why="gone", task=task)
        if TaskState(task["state"]).ended:
            return Refusal(why="ended", task=task)
        if task["epoch"] != delivery.epoch or task["dispatch"] != delivery.dispatch:
            return Refusal(why="superseded", task=task)
        if task["state"] in {TaskState.INPUT_REQUIRED.value, TaskState.DELEGATED.value}:
            return Refusal(why="waits", task=task)
        if task["state"] == TaskState.WORKING.value and task.get("message_id", "") != message_id:
            return Refusal(why="copy", task=task)
        if task.get("cancel_requested"):
            return Refusal(why="canceled", task=task)
        return None

    async def _park_delivery(self, delivery: Delivery, ticket: Ticket) -> bool:
        """Put a delivered task aside while its agent is full; False when it is not full (any more).

        Parking counts as a dispatch: a delivery that comes again may neither park it twice nor begin it beside its
        ticket.
        """
        ticket = ticket.model_copy(update={"dispatch": delivery.dispatch + 1})
        try:
            await self._records.write(
                delivery.tenant,
                Update(
                    key=Key.task(ticket.task),
                    set={"dispatch": ticket.dispatch},
                    remove=["due_shard", "due_at"],
                    when=All(Equals("state", TaskState.SUBMITTED.value), Equals("dispatch", delivery.dispatch)),
                ),
                # A lowered limit may send back more than are accepted for waiting.
                park(ticket, most=2 * MAX_PARKED),
            )
            return True
        except ConditionFailed as error:
            if len((error.items[1] or {}).get("parked", ())) < 2 * MAX_PARKED:
                return False
        return await self._leave_to_the_sweeper(delivery)

    async def _leave_to_the_sweeper(self, delivery: Delivery) -> bool:
        later = {"due_shard": due_shard(delivery.task), "due_at": now_ms() + self.redispatch_ms}
        as_delivered = All(Equals("state", TaskState.SUBMITTED.value), Equals("dispatch", delivery.dispatch))
        try:
            await self._records.write(
                delivery.tenant, Update(key=Key.task(delivery.task), set=later, when=as_delivered)
            )
        except ConditionFailed:
            return False
        return True

    # -- journal ---------------------------------------------------------------------------------
    async def journal(
        self,
        claim: Claim,
        number: int,
        step: Mapping[str, Any],
        *,
        events: Sequence[NewEvent] = (),
        also: Mapping[str, Write] | None = None,
    ) -> None:
        """Save one step; it stands before every model call and every tool effect, so it also tells of a cancel.

        Args:
            events: What the session is told of it.
            also: Further writes of the same transaction, by labels of the caller's own.

        Raises:
            ClaimLost: Another attempt has the task, or it has ended.
            TaskCanceled: The user asked to cancel it.
            Stale: The condition of one of `also` did not hold; `what` is its label.
        """
        task = Update(
            key=Key.task(claim.delivery.task),
            set={"steps": number + 1, "updated_at": now_ms()},
            when=All(*still_mine(claim), Missing("cancel_requested")),
        )
        saved = Put(key=Key.step(claim.delivery.task, number), item=step)
        await self._write(claim, {"task": task, "step": saved, **(also or {})}, events)

    async def tell(self, claim: Claim, events: Sequence[NewEvent]) -> None:
        """Append events while a step is under way, such as pieces of a text that is being written.

        Raises:
            ClaimLost: Another attempt has the task, or it has ended.
            TaskCanceled: The user asked to cancel it.
        """
        mine = Check(key=Key.task(claim.delivery.task), when=All(*still_mine(claim), Missing("cancel_requested")))
        await self._write(claim, {"task": mine}, events)

    async def check(self, claim: Claim) -> None:
        """Whether the work on a claim is still wanted: one read, for a step that takes long.

        Raises:
            ClaimLost: Another attempt has the task, or it has ended.
            TaskCanceled: The user asked to cancel it.
        """
        task = await self._records.get(claim.delivery.tenant, Key.task(claim.delivery.task)) or {}
        mine = task.get("state") == TaskState.WORKING.value and task.get("attempt") == claim.attempt
        if not mine or "cancel_requested" in task:
            raise lost_or_canceled(claim, task)

    async def _write(self, claim: Claim, labelled: Mapping[str, Write], events: Sequence[NewEvent]) -> None:
        tenant, events = claim.delivery.tenant, [*claim.events.owed, *events]
        for _ in range(_TRIES):
            everything = {**labelled, **claim.events.writes(events)}
            try:
                await self._records.write(tenant, *everything.values())
                claim.events.written(events)
                return
            except ConditionFailed as error:
                found = dict(zip(everything, error.items, strict=True))
            if (task := found["task"]) is not None:
                raise lost_or_canceled(claim, task)
            for what, item in found.items():
                if what in labelled and item is not None:
                    raise Stale(what, item)
            await claim.events.look(self._records, tenant)
        raise Unavailable("the table", "too many events of this session are written at once")

    async def steps(self, tenant: TenantContext, task_id: str) -> Sequence[Item]:
        """The journal of a task, in order."""
        return (await self._records.query(tenant, Key.steps(task_id))).items


def _begun(delivery: Delivery, attempt: int) -> NewEvent:
    """Whoever follows the session drops the pieces of text that an attempt before this one has left."""
    again = attempt - delivery.base > 1
    return NewEvent(
        type=EventType.ATTEMPT_RESTARTED if again else EventType.TASK_STARTED,
        task_id=delivery.task,
        agent_id=delivery.agent,
        data={"attempt": attempt},
    )


def still_mine(claim: Claim) -> tuple[Condition, ...]:
    """The fence: the task is being worked on, by this attempt."""
    return Equals("state", TaskState.WORKING.value), Equals("attempt", claim.attempt)


def lost_or_canceled(claim: Claim, task: Item) -> ClaimLost | TaskCanceled:
    """What a failed fence means."""
    mine = task.get("state") == TaskState.WORKING.value and task.get("attempt") == claim.attempt
    if mine and task.get("cancel_requested"):
        return TaskCanceled("the task was canceled")
    return ClaimLost(f"attempt {claim.attempt} no longer owns the task")


async def request_cancel(records: Records, tenant: TenantContext, task_id: str) -> Item | None:
    """Note on a working task that it is to stop; the task as stored if it is not working, `None` when noted."""
    try:
        await records.write(
            tenant,
            Update(
                key=Key.task(task_id),
                set={"cancel_requested": now_ms()},
                when=Equals("state", TaskState.WORKING.value),
            ),
        )
        return None
    except ConditionFailed as error:
        return error.items[0] or {}
