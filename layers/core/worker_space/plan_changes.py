"""What may happen to a plan: it begins, a task of it ends, it is canceled or ends, a task is tried again.

All of it is pure: a plan as it is, something that happens, the plan as it is then. Who stores it, and sees to it that
two things that happen at once follow one another, is `planning`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from worker_space.errors import Conflict
from worker_space.plans import Plan, PlanFailure, PlanState, PlanTask, PlanTaskState, in_order

__all__ = ["Change", "begin", "cancel", "check_retry", "child_ended", "end", "retry"]

_REASON_CHARACTERS: Final = 300
_WITHOUT_OUTPUT: Final = (PlanTaskState.FAILED, PlanTaskState.CANCELED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of a plan, and of the tasks behind it.

    Attributes:
        plan: As it is after the change; its version is one more than before.
        made: Tasks that are new on the bus, the ready ones among them.
        ready: Tasks to be dispatched now.
        dropped: Tasks on the bus that end without having begun.
        over: Nothing of the plan may run any more: its answer can be composed.
    """

    plan: Plan
    made: tuple[PlanTask, ...] = ()
    ready: tuple[PlanTask, ...] = ()
    dropped: tuple[PlanTask, ...] = ()
    over: bool = False


def begin(plan: Plan, task_id: str, *, make_id: Callable[[], str], now: int) -> Change:
    """Run a proposed plan for the task `task_id`.

    Args:
        make_id: Gives each of its tasks an id on the bus.
        now: Epoch milliseconds.

    Raises:
        Conflict: It has begun already, or was canceled.
    """
    if plan.state is not PlanState.PROPOSED:
        raise Conflict(f"the plan is {plan.state.value}: only a proposed plan can be executed")
    return _go_on(plan, task_id, make_id, now)


def child_ended(
    plan: Plan, task_id: str, state: PlanTaskState, error: PlanFailure | None, *, now: int
) -> Change | None:
    """A task on the bus has ended; `None` when that is known already or of an earlier try."""
    task = next((task for task in plan.tasks if task.task_id == task_id), None)
    if task is None or task.state.ended:
        return None
    after = _with(plan, {task.key: task.model_copy(update={"state": state, "error": error})}, now)
    if plan.state is not PlanState.RUNNING:
        return Change(plan=after)
    after, dropped = _drop_dependents(after, now)
    return _release(after, now, dropped)


def cancel(plan: Plan, reason: str, *, now: int) -> Change:
    """Stop it: what waits is canceled here and now, what is on the bus is left to whoever stops it there.

    Raises:
        Conflict: It has ended.
    """
    if plan.state.ended:
        raise Conflict(f"the plan has ended already: it is {plan.state.value}")
    why = PlanFailure(code="canceled", message=reason)
    dropped = [
        task.model_copy(update={"state": PlanTaskState.CANCELED, "error": why})
        for task in plan.tasks
        if task.state is PlanTaskState.WAITING
    ]
    after = _with(plan, {task.key: task for task in dropped}, now)
    ended = after.model_copy(update={"state": PlanState.CANCELED, "ended_at": now})
    return Change(plan=ended, dropped=tuple(task for task in dropped if task.task_id is not None))


def end(plan: Plan, state: PlanState, *, now: int) -> Change:
    """Its answer is there, or cannot be had: nothing of it is to run any more.

    Raises:
        Conflict: It has ended.
    """
    canceled = cancel(plan, "The plan has ended before it could begin.", now=now)
    return Change(plan=canceled.plan.model_copy(update={"state": state}), dropped=canceled.dropped)


def retry(plan: Plan, key: str, task_id: str, *, make_id: Callable[[], str], now: int) -> Change:
    """Run a task that failed or was canceled once more, and with it all that could not run because of it.

    Args:
        task_id: Of the task that answers for the plan from now on.
        make_id: Gives each task that runs anew an id on the bus.
        now: Epoch milliseconds.

    Raises:
        NotFound: The plan has no such task.
        Conflict: The plan is not over, or the task has completed, or one that it depends on has not.
    """
    check_retry(plan, key)
    anew = {key}
    for task in map(plan.task, in_order(plan.tasks)):
        met = all(other in anew or plan.task(other).state is PlanTaskState.COMPLETED for other in task.depends_on)
        if met and anew.intersection(task.depends_on) and task.state is not PlanTaskState.COMPLETED:
            anew.add(task.key)
    fresh = {
        task.key: task.model_copy(update={"state": PlanTaskState.WAITING, "task_id": None, "error": None})
        for task in plan.tasks
        if task.key in anew
    }
    return _go_on(_with(plan, fresh, now, version=plan.version), task_id, make_id, now)


def check_retry(plan: Plan, key: str) -> None:
    """Whether a task may be retried.

    Raises:
        NotFound: The plan has no such task.
        Conflict: It may not, and why.
    """
    task = plan.task(key)
    if not plan.state.ended:
        raise Conflict(f"the plan is {plan.state.value}: a task can be retried when the plan has ended")
    if not task.state.ended:
        raise Conflict(f"the task {key!r} has not stopped yet: retry it when it has")
    if task.state is PlanTaskState.COMPLETED:
        raise Conflict(f"the task {key!r} has completed: only one that failed or was canceled can be retried")
    unmet = next((k for k in task.depends_on if plan.task(k).state is not PlanTaskState.COMPLETED), None)
    if unmet is not None:
        raise Conflict(f"the task {key!r} needs the output of {unmet!r}: retry that one, and this one follows")


def _with(plan: Plan, tasks: Mapping[str, PlanTask], now: int, *, version: int | None = None) -> Plan:
    return plan.model_copy(
        update={
            "tasks": tuple(tasks.get(task.key, task) for task in plan.tasks),
            "version": plan.version + 1 if version is None else version,
            "updated_at": now,
        }
    )


def _go_on(plan: Plan, task_id: str, make_id: Callable[[], str], now: int) -> Change:
    begun = {
        task.key: task.model_copy(update={"task_id": make_id()})
        for task in plan.tasks
        if task.state is PlanTaskState.WAITING
    }
    running = _with(plan, begun, now).model_copy(
        update={"state": PlanState.RUNNING, "task_id": task_id, "ended_at": None}
    )
    change = _release(running, now, ())
    return Change(plan=change.plan, ready=change.ready, made=tuple(change.plan.task(key) for key in begun))


def _drop_dependents(plan: Plan, now: int) -> tuple[Plan, tuple[PlanTask, ...]]:
    """Fail whatever waits for a task that will never give it an output, and what waits for that in turn."""
    dropped: list[PlanTask] = []
    for task in map(plan.task, in_order(plan.tasks)):
        if task.state is not PlanTaskState.WAITING:
            continue
        lost = next((each for each in map(plan.task, task.depends_on) if each.state in _WITHOUT_OUTPUT), None)
        if lost is not None:
            failed = task.model_copy(update={"state": PlanTaskState.FAILED, "error": _dependency_failed(lost)})
            dropped.append(failed)
            plan = _with(plan, {task.key: failed}, now, version=plan.version)
    return plan, tuple(dropped)


def _release(plan: Plan, now: int, dropped: tuple[PlanTask, ...]) -> Change:
    """Let in whatever has all its inputs now."""
    ready = {
        task.key: task.model_copy(update={"state": PlanTaskState.READY})
        for task in plan.tasks
        if task.state is PlanTaskState.WAITING
        and all(plan.task(key).state is PlanTaskState.COMPLETED for key in task.depends_on)
    }
    plan = _with(plan, ready, now, version=plan.version)
    return Change(plan=plan, ready=tuple(ready.values()), dropped=dropped, over=not plan.open)


def _dependency_failed(lost: PlanTask) -> PlanFailure:
    happened = "was canceled" if lost.state is PlanTaskState.CANCELED else "failed"
    why = "" if lost.error is None else f": {lost.error.message[:_REASON_CHARACTERS]}"
    return PlanFailure(
        code="dependency_failed", message=f"It needs the output of the task {lost.key!r}, which {happened}{why}"
    )
