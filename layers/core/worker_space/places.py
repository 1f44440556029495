"""Places with an agent and in a session: who may run at once, and who waits for one of them to leave.

Flow control: an agent has as many message groups as tasks it may run, and SQS keeps one message of a group in flight.
Guarantee: the running set on the agent's runtime item, which a claim may join only while there is room.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker_space.records import All, Any_, Equals, Exists, Has, Item, Missing, SizeAtLeast, SizeBelow, Update
from worker_space.tasks import Ticket
from worker_space.tenancy import Key

__all__ = ["MAX_PARKED", "choose_slot", "group_of", "leave_agent", "leave_session", "park"]

_OWN_GROUPS: Final = 1_000
MAX_PARKED: Final = 200
"""Most tasks that may wait for a place with one agent: they lie on one item, which every place taken rewrites."""


def choose_slot(runtime: Item, slots: int, turn: int) -> int | None:
    """The agent's message group for a new dispatch, or `None` when all are taken and the task had better wait.

    Args:
        runtime: The agent's runtime item: who runs, and in which slot.
        slots: The agent's max_concurrency.
        turn: A number that grows, so that dispatches of the same moment spread over the free slots.
    """
    taken = {runtime.get(f"slot:{task}") for task in runtime.get("running", ())}
    if len(runtime.get("running", ())) >= slots:
        return None
    free = [slot for slot in range(slots) if slot not in taken]
    return free[turn % len(free)] if free else None


def group_of(ticket: Ticket, turn: int) -> int:
    """The agent's message group for a task that is dispatched without a look at which groups are free.

    A plan's task gets a group of its own: behind a long task it would wait though its agent has room. How many run at
    once, the claim sees to.
    """
    return turn % ticket.slots if ticket.plan is None else _OWN_GROUPS + zlib.crc32(ticket.task.encode())


def park(ticket: Ticket, *, most: int) -> Update:
    """The change that lets a task wait for a place with its agent.

    Args:
        most: Tasks that may wait there already.
    """
    # Whoever leaves the running set dispatches the next parked task; so parking is allowed only while it is full.
    still_full = SizeAtLeast("running", "max")
    return Update(
        key=Key.runtime(ticket.agent),
        append={"parked": [ticket.model_dump()]},
        when=All(Exists("running"), still_full, Any_(Missing("parked"), SizeBelow("parked", most))),
    )


def _position(tickets: Sequence[Mapping[str, Any]], task_id: str) -> int | None:
    return next((index for index, ticket in enumerate(tickets) if ticket["task"] == task_id), None)


def leave_session(ticket: Ticket, session: Item, now: int) -> tuple[Update | None, Ticket | None]:
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


def leave_agent(ticket: Ticket, runtime: Item) -> tuple[Update | None, Ticket | None]:
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
