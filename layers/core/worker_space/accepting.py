"""Accept a message: message, task, mailbox and the space's last use, in one transaction.

Whether the message is the session's first open one, and whether its agent has a place, was read before; the conditions
hold the transaction to what was read.
"""

from collections.abc import Mapping
from typing import Any, Final

from worker_space.agents import Agent
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Conflict, LimitReached
from worker_space.events import EventCursor, EventType, NewEvent, shown
from worker_space.ledger import Stale
from worker_space.limits import USER_MINUTE, Intake
from worker_space.places import MAX_PARKED, choose_slot, park
from worker_space.ports import Records
from worker_space.projects import Space, SpaceState
from worker_space.records import All, Any_, Check, Equals, Exists, Item, Missing, Put, SizeBelow, Update, Write
from worker_space.tasks import ORCHESTRATOR, Delivery, TaskState, Ticket, due_shard
from worker_space.telemetry import trace_id
from worker_space.tenancy import Key, TenantContext

__all__ = ["MAX_WAITING", "accept_message"]

MAX_WAITING: Final = 100
"""Most messages that may wait behind the one a session is answering."""

_NO_LIMITS: Final = Intake()


async def accept_message(
    records: Records,
    tenant: TenantContext,
    *,
    task_id: str,
    session_id: str,
    space: Space,
    agent: Agent,
    session: Item,
    runtime: Item,
    message: Mapping[str, Any],
    content: str,
    events: EventCursor,
    turn: int,
    only_if_idle: bool = False,
    facts: Mapping[str, Any] | None = None,
    redispatch_ms: int,
    intake: Intake = _NO_LIMITS,
    idempotency: Put | None = None,
) -> Delivery | None:
    """Store a message and its task; the delivery to send now, or `None` while it waits its turn.

    Args:
        session: The session as read: the head of its mailbox and the next number.
        runtime: The agent's runtime item as read.
        message: The user's message without its number (`content` or `content_key`, `role`).
        content: The message's text, for the session's events.
        events: Where the session's events end, as far as known.
        only_if_idle: Refuse where the session is answering another message.
        facts: Further attributes of the task.
        turn: See `choose_slot`.
        redispatch_ms: After how long the sweeper sends what nobody began.
        intake: What the limits of the project and its user ask of the write.
        idempotency: The record that makes a repeated request find this task.

    Raises:
        Stale: The space, agent, session, runtime, usage, events or idempotency record is not as read.
        LimitReached: Too many messages wait in this session.
        Conflict: The session is busy (`only_if_idle`).
    """
    now = now_ms()
    number = int(session["next_number"])
    ticket = Ticket(
        task=task_id,
        session=session_id,
        agent=agent.id,
        number=number,
        slots=agent.config.max_concurrency,
        at=now,
        trace=trace_id(),
    )
    head = "active" not in session
    if only_if_idle and not head:
        raise Conflict(f"this session is answering another message: its task {session['active']} has not ended")
    told = _told(ticket, session, content, waits=not head)
    slot = choose_slot(runtime, ticket.slots, turn) if head else None
    delivery = None
    if slot is not None:
        delivery = ticket.deliver(
            user_id=tenant.user_id,
            project_id=tenant.project_id,
            epoch=space.epoch,
            generation=space.generation,
            slot=slot,
            last_event=events.last + len(told),
        )
    task: dict[str, Any] = {
        "id": task_id,
        "type": "message",
        "mode": _mode(agent.id),
        "user_id": tenant.user_id,
        "project_id": tenant.project_id,
        "state": TaskState.SUBMITTED.value,
        "epoch": space.epoch,
        "session_id": session_id,
        "agent_id": agent.id,
        "number": number,
        "ticket": ticket.model_dump(),
        "attempt": 0,
        "dispatch": 0 if delivery is None else delivery.dispatch,
        "created_at": now,
        "updated_at": now,
        **(facts or {}),
    }
    if delivery is not None:
        task |= {"due_shard": due_shard(task_id), "due_at": now + redispatch_ms}
    labelled: dict[str, Write] = {
        "message": Put(
            key=Key.message(session_id, number),
            item={**message, "number": number, "agent_id": agent.id, "task_id": task_id, "created_at": now},
            when=Missing("sk"),
        ),
        "task": Put(key=Key.task(task_id), item=task, when=Missing("sk")),
        "session": _into_mailbox(ticket, events.last + len(told), head=head, now=now),
        "space": Update(
            key=Key.space(),
            set={"last_accept": now, **intake.set},
            add={"open_tasks": 1, **intake.add},
            when=All(
                Equals("state", SpaceState.ACTIVE.value),
                Equals("epoch", space.epoch),
                Equals("generation", space.generation),
                *intake.when,
            ),
        ),
        **intake.also,
    }
    if agent.id != ORCHESTRATOR:
        labelled["agent"] = Check(key=Key.agent(agent.id), when=Equals("version", agent.version))
    if head and delivery is None:
        labelled["runtime"] = park(ticket, most=MAX_PARKED)
    if idempotency is not None:
        labelled["idempotency"] = idempotency
    labelled |= events.writes(told)
    await _write_or_stale(records, tenant, labelled)
    return delivery


def _mode(agent_id: str) -> str:
    return "orchestrated" if agent_id == ORCHESTRATOR else "direct"


def _told(ticket: Ticket, session: Item, content: str, *, waits: bool) -> list[NewEvent]:
    ids = {"task_id": ticket.task, "agent_id": ticket.agent}
    message = {"number": ticket.number, "role": "user", **shown(content)}
    told = [NewEvent(type=EventType.MESSAGE_CREATED, data=message, **ids)]
    if session.get("last_agent", ticket.agent) != ticket.agent:
        told.append(NewEvent(type=EventType.AGENT_SWITCHED, data={"agent_id": ticket.agent}, **ids))
    submitted = {"mode": _mode(ticket.agent), "waits": waits}
    return [*told, NewEvent(type=EventType.TASK_SUBMITTED, data=submitted, **ids)]


def _into_mailbox(ticket: Ticket, last_event: int, *, head: bool, now: int) -> Update:
    unchanged_number = Equals("next_number", ticket.number)
    changes = {
        "next_number": ticket.number + 2,
        "last_agent": ticket.agent,
        "last_event": last_event,
        "updated_at": now,
    }
    if head:
        nobody_before = Missing("active")
        return Update(
            key=Key.session(ticket.session),
            set={"active": ticket.task, **changes},
            when=All(unchanged_number, nobody_before, Missing("closing")),
        )
    somebody_before = Exists("active")
    room = Any_(Missing("waiting"), SizeBelow("waiting", MAX_WAITING))
    return Update(
        key=Key.session(ticket.session),
        set=changes,
        append={"waiting": [ticket.model_dump()]},
        when=All(unchanged_number, somebody_before, room, Missing("closing")),
    )


async def _write_or_stale(records: Records, tenant: TenantContext, labelled: Mapping[str, Write]) -> None:
    try:
        await records.write(tenant, *labelled.values())
    except ConditionFailed as error:
        failed = [(what, item) for what, item in zip(labelled, error.items, strict=True) if item is not None]
        # The order matters where several failed: a repeated request first, then what the caller may not know yet.
        for first in ("idempotency", "space", "agent", "session", "runtime", USER_MINUTE):
            for what, item in failed:
                if what == first:
                    if what == "session" and len(item.get("waiting", ())) >= MAX_WAITING:
                        raise LimitReached(
                            f"{MAX_WAITING} messages wait in this session already: let some be answered first",
                            retry_after=5,
                        ) from error
                    if what == "runtime" and len(item.get("parked", ())) >= MAX_PARKED:
                        raise LimitReached(
                            f"{MAX_PARKED} tasks wait for this agent already: let some be answered first",
                            retry_after=30,
                        ) from error
                    raise Stale(what, item) from error
        raise Stale("events", {}) from error
