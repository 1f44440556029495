"""Places with an agent: who may run at once, and who waits for one of them to leave.

Flow control: an agent has as many message groups as tasks it may run, and SQS keeps one message of a group in flight.
Guarantee: the running set on the agent's runtime item, which a claim may join only while there is room.
"""

from typing import Final

from worker_space.records import All, Any_, Exists, Item, Missing, SizeAtLeast, SizeBelow, Update
from worker_space.tasks import Ticket
from worker_space.tenancy import Key

__all__ = ["MAX_PARKED", "choose_slot", "park"]

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
