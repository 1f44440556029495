"""The last transaction of a task: outcome, answer, running set and the mailbox's next, all or nothing.

A finish does not read before it writes. It first assumes that nobody waits behind the task; where somebody does, the
failed condition brings the item as stored, and the second try hands on to exactly that successor:

```
 accept(m2)   read session: active = m1 ──────────── append to waiting ✓ if active is still there
 end(m1)                    ─── waiting is empty? ✗ (m2) ── active := m2, dispatch(m2) = 1 ✓ ── send m2
```

If `end(m1)` comes first, the accept's condition on `active` fails and the accept reads again: exactly one of the two
dispatches m2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from worker_space.clock import now_ms
from worker_space.errors import ClaimLost, ConditionFailed, Lost, Unavailable
from worker_space.ports import Records
from worker_space.records import (
    All,
    Any_,
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
from worker_space.tasks import Delivery, TaskState, Ticket, due_shard
from worker_space.tenancy import Key, TenantContext

__all__ = ["Ending", "Outcome", "end_task"]

_TRIES: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a task ended.

    Attributes:
        state: completed, failed or canceled.
        content: The answer, or why there is none; stored as a message of the session.
        content_key: Where the content is kept instead, when it is too large for the table.
        code: A failure's stable name for programs.
        facts: Further attributes for the task's record (tokens, recall).
    """

    state: TaskState
    content: str = ""
    content_key: str | None = None
    code: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def _lost(_: Item) -> Lost:
    return ClaimLost("the task was ended or taken over by somebody else")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a task was ended from.

    Attributes:
        ticket: Names the task, its session and agent.
        epoch: Of the space, for the deliveries of those that come next.
        generation: Of the queue they are sent to.
        slot: The message group that becomes free, if the task ran.
        redispatch_ms: After how long the sweeper sends what is handed on but not begun.
        when: What must hold of the task (who may end it).
        session: The session as last seen; the guess that nobody waits when it is `None`.
        runtime: The agent's runtime item as last seen; the guess that nobody is parked when it is `None`.
        lost: What it means that the task, as stored, is not as `when` says.
    """

    ticket: Ticket
    epoch: int
    generation: int
    slot: int
    redispatch_ms: int
    when: Condition
    session: Item | None = None
    runtime: Item | None = None
    lost: Callable[[Item], Lost] = _lost


async def end_task(records: Records, tenant: TenantContext, ending: Ending, outcome: Outcome) -> Sequence[Delivery]:
    """End a task and hand its places on.

    Returns:
        The deliveries that are due now; they are also kept on the task, so that a repeat can send them again.

    Raises:
        Lost: The task is not as `ending.when` says; which kind, `ending.lost` knows.
    """
    ticket = ending.ticket
    session = ending.session if ending.session is not None else {"sk": "", "active": ticket.task}
    runtime = ending.runtime
    if runtime is None:
        runtime = {"sk": "", "running": frozenset({ticket.task})}
    gone: set[str] = set()
    for _ in range(_TRIES):
        labelled, deliveries = _writes(tenant, ending, outcome, session, runtime, gone)
        try:
            await records.write(tenant, *labelled.values())
            return deliveries
        except ConditionFailed as error:
            found = {what: item for what, item in zip(labelled, error.items, strict=True) if item is not None}
        if "task" in found:
            raise ending.lost(found["task"])
        session = found.get("session", session)
        runtime = found.get("runtime", runtime)
        gone |= {what.removeprefix("next:") for what in found if what.startswith("next:")}
        if gone and not {"session", "runtime"} & found.keys():
            session, runtime = await _look_again(records, tenant, ticket)
    raise Unavailable("the table", "the session's mailbox changed at every try")


async def _look_again(records: Records, tenant: TenantContext, ticket: Ticket) -> tuple[Item, Item]:
    session, runtime = await records.get_many(tenant, [Key.session(ticket.session), Key.runtime(ticket.agent)])
    return session or {}, runtime or {}


def _writes(
    tenant: TenantContext,
    ending: Ending,
    outcome: Outcome,
    session: Item,
    runtime: Item,
    gone: set[str],
) -> tuple[dict[str, Write], list[Delivery]]:
    ticket, now = ending.ticket, now_ms()
    session_write, successor = _leave_session(ticket, session, now)
    runtime_write, parked = _leave_agent(ticket, runtime)
    deliveries = []
    # The freed message group goes to the parked task; the mailbox's next takes the one beside it, or a free choice.
    for place, following in enumerate(each for each in (parked, successor) if each is not None):
        if following.task not in gone:
            deliveries.append(
                following.deliver(
                    user_id=tenant.user_id,
                    project_id=tenant.project_id,
                    epoch=ending.epoch,
                    generation=ending.generation,
                    slot=(ending.slot + place) % following.slots,
                )
            )
    labelled: dict[str, Write] = {
        "task": Update(
            key=Key.task(ticket.task),
            set={
                **outcome.facts,
                "state": outcome.state.value,
                "ended_at": now,
                "updated_at": now,
                "next": [delivery.model_dump() for delivery in deliveries],
                **({"error": {"code": outcome.code, "message": outcome.content}} if outcome.code else {}),
            },
            remove=["due_shard", "due_at"],
            when=ending.when,
        )
    }
    if session_write is not None:
        labelled["session"] = session_write
        labelled["answer"] = Put(
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
    if runtime_write is not None:
        labelled["runtime"] = runtime_write
    for delivery in deliveries:
        labelled[f"next:{delivery.task}"] = Update(
            key=Key.task(delivery.task),
            set={
                "dispatch": delivery.dispatch,
                "due_shard": due_shard(delivery.task),
                # Whoever ends a task and dies before it sends has left the sending to the sweeper.
                "due_at": now + ending.redispatch_ms,
                "updated_at": now,
            },
            when=All(Equals("state", TaskState.SUBMITTED.value), Equals("dispatch", delivery.dispatch - 1)),
        )
    return labelled, deliveries


def _position(tickets: Sequence[Mapping[str, Any]], task_id: str) -> int | None:
    return next((index for index, ticket in enumerate(tickets) if ticket["task"] == task_id), None)


def _leave_session(ticket: Ticket, session: Item, now: int) -> tuple[Update | None, Ticket | None]:
    """The change that takes the task out of its mailbox, and who is at the head after it."""
    waiting = session.get("waiting", [])
    key = Key.session(ticket.session)
    if session.get("active") == ticket.task:
        at_the_head = Equals("active", ticket.task)
        if not waiting:
            nobody_waits = Any_(Missing("waiting"), SizeBelow("waiting", 1))
            return Update(
                key=key, set={"updated_at": now}, remove=["active"], when=All(at_the_head, nobody_waits)
            ), None
        successor = Ticket.model_validate(waiting[0])
        this_one_waits_first = Equals("waiting[0]", waiting[0])
        return Update(
            key=key,
            set={"active": successor.task, "updated_at": now},
            remove=["waiting[0]"],
            when=All(at_the_head, this_one_waits_first),
        ), successor
    index = _position(waiting, ticket.task)
    if index is not None:
        place = f"waiting[{index}]"
        return Update(key=key, remove=[place], when=Equals(place, waiting[index])), None
    return None, None


def _leave_agent(ticket: Ticket, runtime: Item) -> tuple[Update | None, Ticket | None]:
    """The change that takes the task out of its agent's running or parked tasks, and whom that lets in."""
    parked = runtime.get("parked", [])
    key = Key.runtime(ticket.agent)
    if ticket.task in runtime.get("running", ()):
        runs = Has("running", ticket.task)
        leave = frozenset({ticket.task})
        if not parked:
            nobody_parked = Any_(Missing("parked"), SizeBelow("parked", 1))
            return Update(
                key=key,
                exclude={"running": leave},
                remove=[f"slot:{ticket.task}"],
                when=All(Exists("running"), runs, nobody_parked),
            ), None
        admitted = Ticket.model_validate(parked[0])
        this_one_is_first = Equals("parked[0]", parked[0])
        return Update(
            key=key,
            exclude={"running": leave},
            remove=[f"slot:{ticket.task}", "parked[0]"],
            when=All(runs, this_one_is_first),
        ), admitted
    index = _position(parked, ticket.task)
    if index is not None:
        place = f"parked[{index}]"
        return Update(key=key, remove=[place], when=Equals(place, parked[index])), None
    if parked and len(runtime.get("running", ())) < runtime.get("max", 1):
        # It was let in but never began: the place that it was given goes to the next, or nobody would ever let it in.
        admitted = Ticket.model_validate(parked[0])
        return Update(key=key, remove=["parked[0]"], when=Equals("parked[0]", parked[0])), admitted
    return None, None
