"""Accept a message: message, task, mailbox and the space's last use, in one transaction.

Whether the message is the session's first open one, and whether its agent has a place, was read before; the conditions
hold the transaction to what was read.
"""

from collections.abc import Mapping
from typing import Any, Final

from worker_space.agents import Agent
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, LimitReached
from worker_space.ledger import Stale
from worker_space.places import MAX_PARKED, choose_slot, park
from worker_space.ports import Records
from worker_space.projects import Space, SpaceState
from worker_space.records import All, Any_, Check, Equals, Exists, Item, Missing, Put, SizeBelow, Update, Write
from worker_space.tasks import Delivery, TaskState, Ticket, due_shard
from worker_space.tenancy import Key, TenantContext

__all__ = ["MAX_WAITING", "accept_message"]

MAX_WAITING: Final = 100
"""Most messages that may wait behind the one a session is answering."""


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
    turn: int,
    redispatch_ms: int,
    idempotency: Put | None = None,
) -> Delivery | None:
    """Store a message and its task; the delivery to send now, or `None` while it waits its turn.

    Args:
        session: The session as read: the head of its mailbox and the next number.
        runtime: The agent's runtime item as read.
        message: The user's message without its number (`content` or `content_key`, `role`).
        turn: See `choose_slot`.
        redispatch_ms: After how long the sweeper sends what nobody began.
        idempotency: The record that makes a repeated request find this task.

    Raises:
        Stale: The space, agent, session, runtime or idempotency record is not as read.
        LimitReached: Too many messages wait in this session.
    """
    now = now_ms()
    number = int(session["next_number"])
    ticket = Ticket(task=task_id, session=session_id, agent=agent.id, number=number, slots=agent.config.max_concurrency)
    head = "active" not in session
    slot = choose_slot(runtime, ticket.slots, turn) if head else None
    delivery = None
    if slot is not None:
        delivery = ticket.deliver(
            user_id=tenant.user_id,
            project_id=tenant.project_id,
            epoch=space.epoch,
            generation=space.generation,
            slot=slot,
        )
    task: dict[str, Any] = {
        "id": task_id,
        "type": "message",
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
        "session": _into_mailbox(session_id, ticket, number, head=head, now=now),
        "space": Update(
            key=Key.space(),
            set={"last_accept": now},
            when=All(
                Equals("state", SpaceState.ACTIVE.value),
                Equals("epoch", space.epoch),
                Equals("generation", space.generation),
            ),
        ),
        "agent": Check(key=Key.agent(agent.id), when=Equals("version", agent.version)),
    }
    if head and delivery is None:
        labelled["runtime"] = park(ticket, most=MAX_PARKED)
    if idempotency is not None:
        labelled["idempotency"] = idempotency
    await _write_or_stale(records, tenant, labelled)
    return delivery


def _into_mailbox(session_id: str, ticket: Ticket, number: int, *, head: bool, now: int) -> Update:
    unchanged_number = Equals("next_number", number)
    if head:
        nobody_before = Missing("active")
        return Update(
            key=Key.session(session_id),
            set={"active": ticket.task, "next_number": number + 2, "updated_at": now},
            when=All(unchanged_number, nobody_before, Missing("closing")),
        )
    somebody_before = Exists("active")
    room = Any_(Missing("waiting"), SizeBelow("waiting", MAX_WAITING))
    return Update(
        key=Key.session(session_id),
        set={"next_number": number + 2, "updated_at": now},
        append={"waiting": [ticket.model_dump()]},
        when=All(unchanged_number, somebody_before, room, Missing("closing")),
    )


async def _write_or_stale(records: Records, tenant: TenantContext, labelled: Mapping[str, Write]) -> None:
    try:
        await records.write(tenant, *labelled.values())
    except ConditionFailed as error:
        failed = [(what, item) for what, item in zip(labelled, error.items, strict=True) if item is not None]
        # The order matters where several failed: a repeated request first, then what the caller may not know yet.
        for first in ("idempotency", "space", "agent", "session", "runtime"):
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
        raise Stale(*failed[0]) from error
