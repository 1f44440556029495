"""A plan as the table keeps it, and the writes that a change of it amounts to.

Whoever changes a plan states the version that it was read at; of two changes at once one is made, and the other looks
again. The tasks on the bus that a change makes or drops are written in the same transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from worker_space.places import group_of
from worker_space.plan_changes import Change
from worker_space.plans import Plan, PlanTask
from worker_space.records import All, Equals, Item, Missing, Put, Update, Write
from worker_space.tasks import Delivery, TaskState, Ticket, due_shard
from worker_space.tenancy import Key, TenantContext

__all__ = ["PLAN", "StoredPlan", "child_label"]

PLAN: Final = "plan"
"""The label of a plan's own write in a transaction."""

_FORMER_KEPT: Final = 2_000
_INTERNAL: Final = ("ticket", "slots", "calls", "former")


def child_label(task_id: str) -> str:
    """The label of a write to one of a plan's tasks."""
    return f"{PLAN}:{task_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """A plan with what its owner does not see.

    Attributes:
        ticket: With which the task that answers for the plan goes on when the plan is over.
        slots: How many tasks an agent may run at once, by its id, as when the plan began.
        calls: Model calls that its task had made when the plan began: what was asked later composes the answer.
        former: Tasks on the bus that a retry has replaced: a deletion finds them here.
    """

    plan: Plan
    ticket: Ticket | None = None
    slots: Mapping[str, int] = field(default_factory=dict)
    calls: int = 0
    former: tuple[str, ...] = ()

    @classmethod
    def of(cls, item: Item) -> Self:
        """The plan kept in a table item."""
        shown = {name: value for name, value in item.items() if name not in _INTERNAL}
        return cls(
            plan=Plan.model_validate(shown),
            ticket=Ticket.model_validate(item["ticket"]) if "ticket" in item else None,
            slots=item.get("slots", {}),
            calls=item.get("calls", 0),
            former=tuple(item.get("former", ())),
        )

    def item(self) -> dict[str, Any]:
        """The table item that keeps it."""
        internal = {
            "ticket": None if self.ticket is None else self.ticket.model_dump(),
            "slots": dict(self.slots),
            "calls": self.calls,
            "former": list(self.former[-_FORMER_KEPT:]),
        }
        item = {**self.plan.model_dump(mode="json", exclude_none=True), **internal}
        return {name: value for name, value in item.items() if value is not None}

    @property
    def task_ids(self) -> list[str]:
        """Every task on the bus that was ever made for it."""
        return [*self.former, *(task.task_id for task in self.plan.tasks if task.task_id is not None)]

    def new(self) -> Put:
        """The write that stores it first."""
        return Put(key=Key.plan(self.plan.id), item=self.item(), when=Missing("sk"))

    def after(self, change: Change) -> Self:
        """The same with what has changed of the plan."""
        before = {task.key: task.task_id for task in self.plan.tasks}
        replaced = tuple(old for task in change.made if (old := before.get(task.key)) is not None)
        return replace(self, plan=change.plan, former=(*self.former, *replaced))

    def moved(self, change: Change, now: int) -> dict[str, Write]:
        """The writes of a change to the plan as it is here, but for tasks that are new on the bus."""
        labelled: dict[str, Write] = {
            PLAN: Put(
                key=Key.plan(self.plan.id), item=self.after(change).item(), when=Equals("version", self.plan.version)
            )
        }
        for task in change.dropped:
            assert task.task_id is not None
            labelled[child_label(task.task_id)] = _dropped(task, now)
        return labelled

    # -- its tasks on the bus ------------------------------------------------------------------------
    def child(self, task: PlanTask, *, at: int) -> Ticket:
        """The ticket of one of its tasks before its first dispatch.

        Args:
            at: From when on its time is counted, epoch milliseconds.
        """
        assert task.task_id is not None
        assert self.ticket is not None
        return Ticket(
            task=task.task_id,
            session=self.plan.session_id,
            agent=task.agent_id,
            number=self.ticket.number,
            slots=self.slots.get(task.agent_id, 1),
            plan=self.plan.id,
            at=at,
            trace=self.ticket.trace,
        )

    def begun(
        self, change: Change, tenant: TenantContext, *, epoch: int, generation: int, last_event: int, due_at: int
    ) -> tuple[dict[str, Write], list[Delivery]]:
        """The writes of a change that sets the plan, as it is here, running, and what is to be sent after them.

        Args:
            last_event: The session's newest event as far as known.
            due_at: When the sweeper is to send what nobody has begun by then, epoch milliseconds.
        """
        labelled = self.moved(change, change.plan.updated_at)
        ready = {task.key for task in change.ready}
        deliveries = []
        for turn, task in enumerate(change.made):
            ticket = self.child(task, at=change.plan.updated_at)
            item = self._child_item(ticket, task, tenant, epoch)
            if task.key in ready:
                delivery = ticket.deliver(
                    user_id=tenant.user_id,
                    project_id=tenant.project_id,
                    epoch=epoch,
                    generation=generation,
                    slot=group_of(ticket, turn),
                    last_event=last_event,
                )
                deliveries.append(delivery)
                item |= {"dispatch": delivery.dispatch, "due_shard": due_shard(ticket.task), "due_at": due_at}
            labelled[child_label(ticket.task)] = Put(key=Key.task(ticket.task), item=item, when=Missing("sk"))
        return labelled, deliveries

    def _child_item(self, ticket: Ticket, task: PlanTask, tenant: TenantContext, epoch: int) -> dict[str, Any]:
        return {
            "id": ticket.task,
            "type": "plan_task",
            "mode": "orchestrated",
            "user_id": tenant.user_id,
            "project_id": tenant.project_id,
            "state": TaskState.SUBMITTED.value,
            "epoch": epoch,
            "session_id": ticket.session,
            "agent_id": ticket.agent,
            "number": ticket.number,
            "ticket": ticket.model_dump(),
            "plan_id": self.plan.id,
            "plan_key": task.key,
            "attempt": 0,
            "dispatch": 0,
            "created_at": ticket.at,
            "updated_at": ticket.at,
        }


def _dropped(task: PlanTask, now: int) -> Update:
    """The end of a task that was never dispatched."""
    assert task.task_id is not None
    changes: dict[str, Any] = {"state": task.state.value, "ended_at": now, "updated_at": now}
    if task.error is not None:
        changes["error"] = task.error.model_dump()
    never_sent = All(Equals("state", TaskState.SUBMITTED.value), Equals("dispatch", 0))
    return Update(key=Key.task(task.task_id), set=changes, when=never_sent)
