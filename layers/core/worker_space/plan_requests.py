"""What a user asks of plans: make one, carry it out, stop it, try one of its tasks again.

Making, executing and retrying are messages of a session for the orchestrator, so that whatever they lead to is answered
there, in the order of the messages.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from worker_space.approvals import Approvals
from worker_space.bus import AgentBus, Sent
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Conflict, NotFound, Unavailable
from worker_space.idempotency import Repeat, find_repeat
from worker_space.ids import is_id, new_id
from worker_space.messages import NewSession
from worker_space.plan_changes import cancel, check_retry
from worker_space.planning import PlanBook
from worker_space.plans import NewPlan, Plan, PlanState, planned
from worker_space.ports import Records
from worker_space.registry import AgentRegistry
from worker_space.sessions import ChatSessions
from worker_space.steering import task_of
from worker_space.tasks import Task, TaskState
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["PlanReply", "PlanRequests"]

_TRIES: Final = 10
_TITLE_CHARACTERS: Final = 80
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReply:
    """What came of a request so far.

    Attributes:
        plan_id: Of the plan, which may not be there yet.
        plan: As it is once the request has been carried out.
        task: The task of the request's message.
        outcome: Why there is no plan, if the task has ended without one.
    """

    plan_id: str
    task: Task
    plan: Plan | None = None
    outcome: str | None = None


class PlanRequests:
    """Carries out what users ask of plans."""

    def __init__(
        self,
        *,
        records: Records,
        bus: AgentBus,
        plans: PlanBook,
        registry: AgentRegistry,
        sessions: ChatSessions,
        approvals: Approvals,
        texts: Texts,
    ) -> None:
        self._records = records
        self._bus = bus
        self._plans = plans
        self._registry = registry
        self._sessions = sessions
        self._approvals = approvals
        self._texts = texts

    async def create(
        self, tenant: TenantContext, new: NewPlan, *, wait_seconds: float, repeat: Callable[[str], Repeat | None]
    ) -> PlanReply:
        """Have a plan made for a goal, or take the user's own; it runs at once if the request says so.

        Args:
            wait_seconds: How long to wait for the plan; 0 returns at once.
            repeat: Gives the request's record for a creation of that kind.

        Raises:
            InvalidRequest: The tasks make no plan.
            NotFound: There is no such project or session.
            RequestError: As `AgentBus.send_task`.
        """
        plan_id = new_id("plan")
        facts: dict[str, Any] = {"plan_id": plan_id} | ({} if new.execute else {"draft": True})
        if new.tasks is not None:
            home = await self._registry.home(tenant, fresh=True)
            planned(new.tasks, lambda target: agent.id if (agent := home.find(target)) is not None else None)
            given = json.dumps([task.model_dump(mode="json") for task in new.tasks])
            facts["plan_tasks"] = await self._texts.keep(tenant, f"{plan_id}/tasks", given)
        session_id = new.session_id
        if session_id is None:
            title = new.goal.strip().splitlines()[0][:_TITLE_CHARACTERS]
            session_id = (
                await self._sessions.create(tenant, NewSession(title=title), repeat=repeat("plan-session"))
            ).id
        elif not is_id("session", session_id):
            raise NotFound(f"this project has no chat session {session_id[:80]!r}")
        sent = await self._bus.send_task(
            tenant,
            session_id=session_id,
            content=new.goal,
            target_agent=None,
            orchestrate=True,
            facts=facts,
            repeat=repeat("plan"),
        )
        return await self._reply(tenant, sent, wait_seconds)

    async def execute(
        self, tenant: TenantContext, plan_id: str, *, wait_seconds: float, repeat: Repeat | None = None
    ) -> PlanReply:
        """Carry out a proposed plan; where it waits for the user's word, this is it.

        Raises:
            NotFound: The project has no such plan.
            Conflict: The plan is not proposed (any more).
            RequestError: As `AgentBus.send_task`.
        """
        # Read first: what an equal request has moved meanwhile, that is then known.
        plan = await self._plans.get(tenant, plan_id)
        if (known := await self._known(tenant, repeat)) is not None:
            return await self._reply(tenant, known, wait_seconds)
        if plan.state is not PlanState.PROPOSED:
            raise Conflict(f"the plan is {plan.state.value}: only a proposed plan can be executed")
        if plan.approval_id is not None:
            await self._approvals.confirm(tenant, plan.approval_id, repeat=repeat)
            sent = await self._sent(tenant, plan.task_id)
        else:
            sent = await self._order(tenant, plan, "Execute the plan.", {"verb": "execute"}, repeat)
        return await self._reply(tenant, sent, wait_seconds)

    async def retry(
        self, tenant: TenantContext, plan_id: str, key: str, *, wait_seconds: float, repeat: Repeat | None = None
    ) -> PlanReply:
        """Run a failed or canceled task of an ended plan anew, with all that failed because of it, and answer again.

        Raises:
            NotFound: The project has no such plan, or the plan no such task.
            Conflict: The plan is not over, the task has completed, or what it depends on has not.
            RequestError: As `AgentBus.send_task`.
        """
        plan = await self._plans.get(tenant, plan_id)
        if (known := await self._known(tenant, repeat)) is not None:
            return await self._reply(tenant, known, wait_seconds)
        check_retry(plan, key)
        order = {"verb": "retry", "key": key}
        sent = await self._order(tenant, plan, f"Retry the task {key!r} of the plan.", order, repeat)
        return await self._reply(tenant, sent, wait_seconds)

    async def cancel(self, tenant: TenantContext, plan_id: str) -> Plan:
        """Stop a plan: what waits ends at once, what runs before its next model call or tool effect.

        Returns:
            The plan; still running if the worker that has it in hand must stop first.

        Raises:
            NotFound: The project has no such plan.
            Conflict: The plan has ended.
        """
        for _ in range(_TRIES):
            stored = await self._plans.stored(tenant, plan_id)
            if stored is None:
                raise NotFound(f"this project has no plan {plan_id[:80]!r}")
            change = cancel(stored.plan, "Canceled by the user.", now=now_ms())
            task = await self._records.get(tenant, Key.task(stored.plan.task_id))
            try:
                if task is None or TaskState(task["state"]).ended:
                    # Nobody answers for it: it was only proposed.
                    await self._records.write(tenant, *stored.moved(change, now_ms()).values())
                else:
                    await self._bus.cancel_task(tenant, task["id"])
            except (ConditionFailed, Conflict):
                continue
            return await self._plans.get(tenant, plan_id)
        raise Unavailable("the table", "the plan changed at every try")

    # -- in common -----------------------------------------------------------------------------------
    async def _order(
        self, tenant: TenantContext, plan: Plan, content: str, order: dict[str, str], repeat: Repeat | None
    ) -> Sent:
        if repeat is None:
            repeat = await self._once(tenant, plan, order)
        return await self._bus.send_task(
            tenant,
            session_id=plan.session_id,
            content=content,
            target_agent=None,
            orchestrate=True,
            facts={"plan_id": plan.id, "plan_order": order},
            repeat=repeat,
        )

    async def _once(self, tenant: TenantContext, plan: Plan, order: dict[str, str]) -> Repeat:
        """Lets what is asked for twice of the same plan as it is happen once."""
        as_it_is = f"{plan.version} {json.dumps(order)}"
        same = Repeat(kind=f"plan-order:{plan.id}", key=as_it_is, fingerprint="")
        while (task_id := await find_repeat(self._records, tenant, same)) is not None:
            task = await self._records.get(tenant, Key.task(task_id))
            if task is not None and not TaskState(task["state"]).ended:
                break
            # Whoever carries an order out changes the plan before its task ends.
            if (await self._plans.get(tenant, plan.id)).version != plan.version:
                break
            # It came to nothing (it was canceled before its turn, say): this is another one.
            same = replace(same, key=f"{as_it_is} after {task_id}")
        return same

    async def _known(self, tenant: TenantContext, repeat: Repeat | None) -> Sent | None:
        """What an earlier request with this key sent."""
        task_id = None if repeat is None else await find_repeat(self._records, tenant, repeat)
        return None if task_id is None else await self._sent(tenant, task_id)

    async def _sent(self, tenant: TenantContext, task_id: str) -> Sent:
        item = await self._records.get(tenant, Key.task(task_id))
        if item is None:
            raise NotFound(f"this project has no task {task_id!r}")
        return Sent(task_id=task_id, session_id=item["session_id"], number=item["number"], agent_id=item["agent_id"])

    async def _reply(self, tenant: TenantContext, sent: Sent, seconds: float) -> PlanReply:
        """The plan, as soon as the message has led to it."""
        until, pause = time.monotonic() + seconds, _FIRST_PAUSE
        while True:
            item = await self._records.get(tenant, Key.task(sent.task_id))
            if item is None:
                raise NotFound(f"this project has no task {sent.task_id!r}")
            stored, task = await self._plans.stored(tenant, item["plan_id"]), task_of(item)
            if stored is not None and stored.plan.task_id == task.id and not _confirmed(stored.plan, item):
                return PlanReply(plan_id=item["plan_id"], task=task, plan=stored.plan)
            if task.state.ended:
                answer = await self._records.get(tenant, Key.message(sent.session_id, sent.number + 1))
                text = "" if answer is None else await self._texts.read(tenant, answer)
                return PlanReply(plan_id=item["plan_id"], task=task, outcome=text or "there is no plan")
            left = until - time.monotonic()
            if left <= 0:
                return PlanReply(plan_id=item["plan_id"], task=task)
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)


def _confirmed(plan: Plan, task: Any) -> bool:
    """Whether the user has confirmed a plan that has not begun yet."""
    return plan.state is PlanState.PROPOSED and "decision" in task and not TaskState(task["state"]).ended
