"""The plan book: plans as stored, and their progress, which happens in the transactions that end their tasks.

No worker waits for another task. Whoever ends the last task that one waits for dispatches that one, and whoever ends
the last task of all dispatches the task that answers for the plan:

```
 parent   make plan ── delegated ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ submitted ── compose ── completed
 a              └ dispatched ── end(a): plan v1 → v2 ✓ ┐                  ↑
 b              └ dispatched ── end(b): plan v1 → v2 ✗ ┴ v2 → v3 ✓ ┐      │
 c (a, b)                                                          └ dispatched ── end(c): v3 → v4 ✓
```

An end guesses that the plan is as last read; if its version has moved on, the failed condition brings the plan as
stored, and the end is tried again with what follows from that.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker_space.clock import now_ms
from worker_space.ending import Followed, Following, Outcome, Successor
from worker_space.errors import NotFound
from worker_space.events import EventType, NewEvent
from worker_space.plan_changes import Change, cancel, child_ended, end
from worker_space.plan_records import PLAN, StoredPlan
from worker_space.plans import Plan, PlanFailure, PlanState, PlanTask, PlanTaskState
from worker_space.ports import Records
from worker_space.records import Item
from worker_space.tasks import TaskState, Ticket
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["PlanBook", "plan_told"]

_SHOWN: Final = 400
_REASON_CHARACTERS: Final = 1_000


class PlanBook:
    """Finds plans, and says what the end of a task means for its plan."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def get(self, tenant: TenantContext, plan_id: str) -> Plan:
        """One plan.

        Raises:
            NotFound: The project has no such plan.
        """
        stored = await self.stored(tenant, plan_id)
        if stored is None:
            raise NotFound(f"this project has no plan {plan_id[:80]!r}")
        return stored.plan

    async def stored(self, tenant: TenantContext, plan_id: str) -> StoredPlan | None:
        """A plan with what its owner does not see."""
        item = await self._records.get(tenant, Key.plan(plan_id))
        return None if item is None else StoredPlan.of(item)

    async def page(self, tenant: TenantContext, *, limit: int, after: str | None) -> tuple[Sequence[Plan], str | None]:
        """Plans, the newest first."""
        page = await self._records.query(tenant, Key.plans(), limit=limit, after=after, descending=True)
        return [StoredPlan.of(item).plan for item in page.items], page.after

    async def following(self, tenant: TenantContext, task: Item) -> "PlanFollowing | None":
        """Who must know of a task's end, by its record: nobody, where it is in no plan and answers for none.

        Args:
            task: With `plan_id`, if it has to do with a plan.
        """
        if (plan_id := task.get("plan_id")) is None:
            return None
        stored = await self.stored(tenant, plan_id)
        return ChildEnd(stored, task["id"]) if "plan_key" in task else ParentEnd(stored, task["id"])

    async def outputs(self, tenant: TenantContext, texts: Texts, tasks: Sequence[PlanTask]) -> Sequence[str]:
        """What these tasks came to, in their order; empty where there is no output.

        Raises:
            Unavailable: The table or the content store does not answer.
        """
        keys = [Key.task(task.task_id) for task in tasks if task.task_id is not None]
        items = [item for item in await self._records.get_many(tenant, keys) if item is not None] if keys else []
        done = [item for item in items if item["state"] == TaskState.COMPLETED.value]
        found = await asyncio.gather(*(texts.read(tenant, item) for item in done))
        by_id = dict(zip((item["id"] for item in done), found, strict=True))
        return [by_id.get(task.task_id or "", "") for task in tasks]

    async def done(self, tenant: TenantContext, task: Item) -> Sequence[str]:
        """What has been completed of the plan that a task answers for, in words for the user."""
        plan = await self._answered_for(tenant, task)
        tasks = () if plan is None else plan.tasks
        return [f"the plan's task {task.key!r}" for task in tasks if task.state is PlanTaskState.COMPLETED]

    async def left_running(self, tenant: TenantContext, task: Item) -> Sequence[str]:
        """Tasks on the bus of a plan that is over with the task that answered for it."""
        plan = await self._answered_for(tenant, task)
        return _on_the_bus(plan) if plan is not None and plan.state.ended else []

    async def _answered_for(self, tenant: TenantContext, task: Item) -> Plan | None:
        if "plan_id" not in task or "plan_key" in task:
            return None
        stored = await self.stored(tenant, task["plan_id"])
        return stored.plan if stored is not None and stored.plan.task_id == task["id"] else None


class PlanFollowing(Following):
    """A plan that a task's end concerns, as last seen.

    Attributes:
        stop: Tasks that the end leaves without a purpose and that may be running: whoever ended it asks them to stop.
    """

    def __init__(self, stored: StoredPlan | None) -> None:
        self._stored = stored
        self.stop: Sequence[str] = ()

    @property
    def running(self) -> bool:
        """Whether there is such a task, as far as known."""
        return False

    async def learn(self, found: Mapping[str, Item]) -> None:
        if PLAN in found:
            self._stored = StoredPlan.of(found[PLAN]) if found[PLAN] else None

    def _followed(self, stored: StoredPlan, change: Change, now: int, successors: Sequence[Successor]) -> Followed:
        return Followed(
            writes=stored.moved(change, now),
            successors=successors,
            events=[_dropped_told(task) for task in change.dropped],
            ended=len(change.dropped),
        )


class ChildEnd(PlanFollowing):
    """A task of a plan ends: what waited for it goes on, or will never begin; after the last one the answer is due."""

    def __init__(self, stored: StoredPlan | None, task_id: str) -> None:
        super().__init__(stored)
        self._task_id = task_id

    def writes(self, outcome: Outcome) -> Followed:
        stored, now = self._stored, now_ms()
        if stored is None:
            return Followed()
        state = PlanTaskState(outcome.state.value)
        change = child_ended(stored.plan, self._task_id, state, _failure(outcome), now=now)
        if change is None:
            return Followed()
        after = stored.after(change)
        successors = [Successor(ticket=after.child(task, at=now)) for task in change.ready]
        if change.over and stored.ticket is not None:
            successors.append(Successor(ticket=stored.ticket, state=TaskState.DELEGATED))
        return self._followed(stored, change, now, successors)


class ParentEnd(PlanFollowing):
    """The task that answers for a plan ends, and the plan with it."""

    def __init__(self, stored: StoredPlan | None, task_id: str) -> None:
        super().__init__(stored)
        self._task_id = task_id

    def writes(self, outcome: Outcome) -> Followed:
        stored, now = self._stored, now_ms()
        self.stop = ()
        if stored is None or stored.plan.task_id != self._task_id or stored.plan.state.ended:
            return Followed()
        if outcome.state is TaskState.COMPLETED and stored.plan.state is PlanState.PROPOSED:
            # Its answer is the proposal.
            return Followed()
        if outcome.state is TaskState.CANCELED:
            change = cancel(stored.plan, outcome.content[:_REASON_CHARACTERS], now=now)
        else:
            change = end(stored.plan, PlanState(outcome.state.value), now=now)
        self.stop = _on_the_bus(stored.plan)
        return self._followed(stored, change, now, ())

    @property
    def running(self) -> bool:
        stored = self._stored
        return stored is not None and stored.plan.task_id == self._task_id and bool(_on_the_bus(stored.plan))


def _on_the_bus(plan: Plan) -> list[str]:
    return [task.task_id for task in plan.tasks if task.state is PlanTaskState.READY and task.task_id is not None]


def plan_told(plan: Plan, ticket: Ticket) -> NewEvent:
    """What a session is told of a new plan."""
    data: dict[str, Any] = {
        "plan_id": plan.id,
        "state": plan.state.value,
        "tasks": [
            {
                "key": task.key,
                "agent_id": task.agent_id,
                "instructions": task.instructions[:_SHOWN],
                "depends_on": list(task.depends_on),
                **({} if task.task_id is None else {"task_id": task.task_id}),
            }
            for task in plan.tasks
        ],
    }
    return NewEvent(type=EventType.PLAN_CREATED, task_id=ticket.task, agent_id=ticket.agent, data=data)


def _dropped_told(task: PlanTask) -> NewEvent:
    failed = task.state is PlanTaskState.FAILED
    data = {} if task.error is None else {"code": task.error.code, "message": task.error.message}
    return NewEvent(
        type=EventType.TASK_FAILED if failed else EventType.TASK_CANCELED,
        task_id=task.task_id,
        agent_id=task.agent_id,
        data=data,
    )


def _failure(outcome: Outcome) -> PlanFailure | None:
    if outcome.state is TaskState.COMPLETED:
        return None
    code = outcome.code or outcome.state.value
    return PlanFailure(code=code, message=outcome.content[:_REASON_CHARACTERS])
