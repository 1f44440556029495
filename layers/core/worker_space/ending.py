"""The last transaction of a claim: outcome, answer, running set and the mailbox's next, all or nothing.

A claim ends with its task (completed, failed, canceled), or the task goes on without this worker: it waits for the
user's word (`input-required`) or for its plan (`delegated`), or it is handed over to another agent (`submitted`).

A finish does not read before it writes. It first assumes that nobody waits behind the task; where somebody does, the
failed condition brings the item as stored, and the second try hands on to exactly that successor:

```
 accept(m2)   read session: active = m1 ──────────── append to waiting ✓ if active is still there
 end(m1)                    ─── waiting is empty? ✗ (m2) ── active := m2, dispatch(m2) = 1 ✓ ── send m2
```

If `end(m1)` comes first, the accept's condition on `active` fails and the accept reads again: exactly one of the two
dispatches m2.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from worker_space.clock import now_ms
from worker_space.errors import ClaimLost, ConditionFailed, Lost, OverBudget, RequestError, RunError, Unavailable
from worker_space.events import EventCursor, EventType, NewEvent, shown
from worker_space.ledger import Stale
from worker_space.metrics import counters
from worker_space.places import group_of, leave_agent, leave_session
from worker_space.ports import Records
from worker_space.records import All, Condition, Equals, Exists, Item, Put, Update, Write
from worker_space.tasks import Delivery, TaskState, Ticket, due_shard
from worker_space.telemetry import Measure, count
from worker_space.tenancy import Key, TenantContext

__all__ = ["Ending", "Followed", "Following", "Outcome", "Successor", "canceled", "end_task", "failed"]

_log = logging.getLogger(__name__)
_TRIES: Final = 30
_EFFECTS_SHOWN: Final = 20
_TOLD: Final = {
    TaskState.COMPLETED: EventType.TASK_COMPLETED,
    TaskState.FAILED: EventType.TASK_FAILED,
    TaskState.CANCELED: EventType.TASK_CANCELED,
}

_MEASURES: Final = {
    TaskState.COMPLETED: Measure.COMPLETED,
    TaskState.FAILED: Measure.FAILED,
    TaskState.CANCELED: Measure.CANCELED,
    TaskState.INPUT_REQUIRED: Measure.APPROVALS_ASKED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a claim ended.

    Attributes:
        state: completed, failed or canceled end the task; input-required and delegated let it wait without a worker;
            submitted hands it over (`handover`).
        content: The answer, or why there is none; stored as a message of the session.
        content_key: Where the content is kept instead, when it is too large for the table.
        code: A failure's stable name for programs.
        reached: Of a failure by a limit, its name (`limit`) and when to ask again (`until`), where waiting helps.
        facts: Further attributes for the task's record (tokens, recall).
        drop: Attributes to take from the task's record.
        events: What the session is told beside the end itself.
        also: Further writes of the same transaction, by labels of the caller's own. None may touch the task, its
            session, the agent's runtime item or (where the task ends) the space.
        sends: Deliveries of tasks that `also` makes; kept and returned with those of the end itself.
        due_at: When the sweeper is to look at a task that waits, epoch milliseconds.
        handover: With whom a submitted task goes on: its dispatch number counts on from this one's.
    """

    state: TaskState
    content: str = ""
    content_key: str | None = None
    code: str | None = None
    reached: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    drop: Sequence[str] = ()
    events: Sequence[NewEvent] = ()
    also: Mapping[str, Write] = field(default_factory=dict)
    sends: Sequence[Delivery] = ()
    due_at: int | None = None
    handover: Ticket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """A task that is dispatched by another one's end.

    Attributes:
        ticket: With the dispatches and attempts so far.
        state: What it must be in until then.
    """

    ticket: Ticket
    state: TaskState = TaskState.SUBMITTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What follows from a task's end.

    Attributes:
        writes: By label.
        successors: Tasks to dispatch.
        events: What the session is told of it.
        ended: How many further tasks `writes` end.
    """

    writes: Mapping[str, Write] = field(default_factory=dict)
    successors: Sequence[Successor] = ()
    events: Sequence[NewEvent] = ()
    ended: int = 0


class Following(Protocol):
    """Who must know of a task's end in the same transaction: its plan."""

    def writes(self, outcome: Outcome) -> Followed:
        """What follows from the outcome, by what is known."""

    async def learn(self, found: Mapping[str, Item]) -> None:
        """Conditions failed; `found` holds the items as stored, by label (also `next:` and the task's id)."""


def _lost(_: Item) -> Lost:
    return ClaimLost("the task was ended or taken over by somebody else")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a claim was ended from.

    Attributes:
        ticket: Names the task, its session and agent.
        epoch: Of the space, for the deliveries of those that come next.
        generation: Of the queue they are sent to.
        slot: The message group that becomes free, if the task ran.
        redispatch_ms: After how long the sweeper sends what is handed on but not begun.
        when: What must hold of the task (who may end it).
        events: Where the session's events end, as far as known.
        session: The session as last seen; the guess that nobody waits when it is `None`.
        runtime: The agent's runtime item as last seen; the guess that nobody is parked when it is `None`.
        following: The task's plan, if it is part of one.
        lost: What it means that the task, as stored, is not as `when` says.
    """

    ticket: Ticket
    epoch: int
    generation: int
    slot: int
    redispatch_ms: int
    when: Condition
    events: EventCursor
    session: Item | None = None
    runtime: Item | None = None
    following: Following | None = None
    lost: Callable[[Item], Lost] = _lost


def canceled(effects: Sequence[str]) -> Outcome:
    """The end of a task that the user canceled; the answer says what had been done before."""
    done = "; ".join(effects[:_EFFECTS_SHOWN]) if effects else "nothing was changed"
    if len(effects) > _EFFECTS_SHOWN:
        done += f"; and {len(effects) - _EFFECTS_SHOWN} more"
    return Outcome(state=TaskState.CANCELED, content=f"Canceled by the user. Done before that: {done}.")


def failed(error: RunError | RequestError) -> Outcome:
    """The end of a task whose run cannot go on.

    A request error is one of the agent's configuration: a model or tool that is served no more.
    """
    code = error.code if isinstance(error, RunError) else RunError.code
    reached: dict[str, Any] = {}
    if isinstance(error, OverBudget):
        reached = {"limit": error.limit} | ({} if error.until is None else {"until": error.until})
    return Outcome(state=TaskState.FAILED, code=code, content=str(error), reached=reached)


async def end_task(records: Records, tenant: TenantContext, ending: Ending, outcome: Outcome) -> Sequence[Delivery]:
    """End a claim and hand its places on.

    Returns:
        The deliveries that are due now; they are also kept on the task, so that a repeat can send them again.

    Raises:
        Lost: The task is not as `ending.when` says; which kind, `ending.lost` knows.
        Stale: The condition of one of `outcome.also` did not hold; `what` is its label.
    """
    end = _End(tenant, ending, outcome)
    if ending.events.last == 0:
        await ending.events.look(records, tenant)
    for _ in range(_TRIES):
        labelled, deliveries, told = end.writes()
        try:
            await records.write(tenant, *labelled.values())
            ending.events.written(told)
            _note(ending.ticket, outcome)
            return deliveries
        except ConditionFailed as error:
            found = {what: item for what, item in zip(labelled, error.items, strict=True) if item is not None}
        await end.learn(records, found)
    raise Unavailable("the table", "the session's mailbox changed at every try")


def _note(ticket: Ticket, outcome: Outcome) -> None:
    """Tell whoever operates it how a claim ended, without a word of what was said."""
    _log.info("task %s is %s%s", ticket.task, outcome.state, f" ({outcome.code})" if outcome.code else "")
    if outcome.state in _MEASURES:
        count(_MEASURES[outcome.state])
    if outcome.state.ended and ticket.at:
        count(Measure.DURATION_MS, max(0, now_ms() - ticket.at), outcome=outcome.state.value)


class _End:
    """One end, with what is known of its surroundings so far."""

    def __init__(self, tenant: TenantContext, ending: Ending, outcome: Outcome) -> None:
        ticket = ending.ticket
        self._tenant = tenant
        self._ending = ending
        self._outcome = outcome
        # A plan's task has no place in the session's mailbox.
        self._session: Item = {} if ticket.plan is not None else {"sk": "", "active": ticket.task}
        if ending.session is not None:
            self._session = ending.session
        self._runtime: Item = {"sk": "", "running": frozenset({ticket.task})}
        if ending.runtime is not None:
            self._runtime = ending.runtime
        self._gone: set[str] = set()
        self._same_epoch = True

    async def learn(self, records: Records, found: Mapping[str, Item]) -> None:
        ending, outcome = self._ending, self._outcome
        if "task" in found:
            raise ending.lost(found["task"])
        for what, item in found.items():
            if what in outcome.also:
                raise Stale(what, item)
        if EventCursor.collided(found):
            await ending.events.look(records, self._tenant)
        if "space" in found:
            # Reset or deleted since: what was counted for the old epoch counts no more.
            self._same_epoch = False
        self._session = found.get("session", self._session)
        self._runtime = found.get("runtime", self._runtime)
        self._gone |= {what.removeprefix("next:") for what in found if what.startswith("next:")}
        if ending.following is not None:
            await ending.following.learn(found)
        if self._gone and not {"session", "runtime"} & found.keys():
            keys = [Key.session(ending.ticket.session), Key.runtime(ending.ticket.agent)]
            session, runtime = await records.get_many(self._tenant, keys)
            self._session, self._runtime = session or {}, runtime or {}

    def writes(self) -> tuple[dict[str, Write], list[Delivery], list[NewEvent]]:
        ending, outcome, ticket, now = self._ending, self._outcome, self._ending.ticket, now_ms()
        session_write, successor = leave_session(ticket, self._session, now) if outcome.state.ended else (None, None)
        runtime_write, parked = leave_agent(ticket, self._runtime)
        followed = Followed()
        successors = [Successor(ticket=each) for each in (parked, successor) if each is not None]
        told = [*ending.events.owed, *outcome.events, *self._told(answered=session_write is not None)]
        if ending.following is not None and outcome.state.ended:
            followed = ending.following.writes(outcome)
            successors.extend(followed.successors)
            told.extend(followed.events)
        last_event = ending.events.last + len(told)
        # The freed message group goes to the parked task; the others take the ones beside it.
        deliveries = [
            self._deliver(each.ticket, ending.slot + place, last_event)
            for place, each in enumerate(successors)
            if each.ticket.task not in self._gone
        ]
        handed_over = None
        if outcome.handover is not None:
            handed_over = self._deliver(outcome.handover, now, last_event)
        sends = [*deliveries, *outcome.sends, *([] if handed_over is None else [handed_over])]
        labelled: dict[str, Write] = {"task": self._task(now, sends, handed_over), **outcome.also, **followed.writes}
        if session_write is not None:
            labelled["session"] = replace(session_write, set={**session_write.set, "last_event": last_event})
            labelled["answer"] = self._answer(now)
        if (left := self._left(runtime_write, now)) is not None:
            labelled["runtime"] = left
        if outcome.state.ended and self._same_epoch:
            labelled["space"] = Update(
                key=Key.space(),
                add={"open_tasks": -1 - followed.ended},
                when=All(Exists("sk"), Equals("epoch", ending.epoch)),
            )
        for each, delivery in zip(
            (each for each in successors if each.ticket.task not in self._gone), deliveries, strict=True
        ):
            labelled[f"next:{delivery.task}"] = self._dispatched(each, delivery, now)
        labelled |= ending.events.writes(told)
        return labelled, sends, told

    def _deliver(self, ticket: Ticket, turn: int, last_event: int) -> Delivery:
        return ticket.deliver(
            user_id=self._tenant.user_id,
            project_id=self._tenant.project_id,
            epoch=self._ending.epoch,
            generation=self._ending.generation,
            slot=group_of(ticket, turn),
            # Who was parked with the agent may belong to another session, whose events have numbers of their own.
            last_event=last_event if ticket.session == self._ending.ticket.session else 0,
        )

    def _task(self, now: int, sends: Sequence[Delivery], handed_over: Delivery | None) -> Update:
        outcome = self._outcome
        changes: dict[str, Any] = {
            **outcome.facts,
            "state": outcome.state.value,
            "updated_at": now,
            "next": [delivery.model_dump() for delivery in sends],
        }
        if outcome.state.ended:
            changes["ended_at"] = now
        if outcome.code:
            changes["error"] = {"code": outcome.code, "message": outcome.content, **outcome.reached}
        due_at = outcome.due_at
        if outcome.handover is not None and handed_over is not None:
            changes["dispatch"] = handed_over.dispatch
            changes["agent_id"] = handed_over.agent
            changes["ticket"] = outcome.handover.model_dump()
            due_at = now + self._ending.redispatch_ms
        remove = list(outcome.drop)
        if due_at is None:
            remove += ["due_shard", "due_at"]
        else:
            changes |= {"due_shard": due_shard(self._ending.ticket.task), "due_at": due_at}
        return Update(key=Key.task(self._ending.ticket.task), set=changes, remove=remove, when=self._ending.when)

    def _answer(self, now: int) -> Put:
        outcome, ticket = self._outcome, self._ending.ticket
        return Put(
            key=Key.message(ticket.session, ticket.number + 1),
            item={
                "number": ticket.number + 1,
                "role": "assistant",
                "content": outcome.content if outcome.content_key is None else None,
                "content_key": outcome.content_key,
                "agent_id": ticket.agent,
                "task_id": ticket.task,
                "status": "ok" if outcome.state is TaskState.COMPLETED else outcome.state.value,
                "created_at": now,
            },
        )

    def _told(self, *, answered: bool) -> list[NewEvent]:
        outcome, ticket = self._outcome, self._ending.ticket
        if not outcome.state.ended:
            return []
        ids = {"task_id": ticket.task, "agent_id": ticket.agent}
        told = []
        if answered:
            status = "ok" if outcome.state is TaskState.COMPLETED else outcome.state.value
            message = {"number": ticket.number + 1, "role": "assistant", "status": status, **shown(outcome.content)}
            told.append(NewEvent(type=EventType.MESSAGE_CREATED, data=message, **ids))
        data: dict[str, Any] = {"number": ticket.number + 1} if answered else {}
        data |= {} if ticket.plan is None else {"plan_id": ticket.plan}
        if outcome.state is not TaskState.COMPLETED:
            data |= {"message": shown(outcome.content)["content"]} | ({"code": outcome.code} if outcome.code else {})
        told.append(NewEvent(type=_TOLD[outcome.state], data=data, **ids))
        return told

    def _left(self, write: Update | None, now: int) -> Update | None:
        """The change of the agent's runtime item: who leaves, who waits for the user's word, and what is counted."""
        outcome, ticket = self._outcome, self._ending.ticket
        if outcome.state.ended:
            took = now - ticket.at if outcome.state is TaskState.COMPLETED and ticket.at else None
            added = counters(outcome.state.value, milliseconds=took, facts=outcome.facts)
            if write is None and not self._runtime:
                return None
            write = write or Update(key=Key.runtime(ticket.agent), when=Exists("sk"))
            write = replace(write, add=added)
            if ticket.task in self._runtime.get("waiting", ()):
                write = replace(write, exclude={**write.exclude, "waiting": frozenset({ticket.task})})
        elif outcome.state is TaskState.INPUT_REQUIRED and write is not None:
            write = replace(write, include={"waiting": frozenset({ticket.task})})
        return write

    def _dispatched(self, successor: Successor, delivery: Delivery, now: int) -> Update:
        waits = All(Equals("state", successor.state.value), Equals("dispatch", delivery.dispatch - 1))
        changes: dict[str, Any] = {
            "dispatch": delivery.dispatch,
            "due_shard": due_shard(delivery.task),
            # Whoever ends a task and dies before it sends has left the sending to the sweeper.
            "due_at": now + self._ending.redispatch_ms,
            "updated_at": now,
        }
        if successor.state is not TaskState.SUBMITTED:
            changes |= {"state": TaskState.SUBMITTED.value, "ticket": successor.ticket.model_dump()}
        return Update(key=Key.task(delivery.task), set=changes, when=waits)
