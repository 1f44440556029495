"""The orchestrator: decides who does what, sets plans going, and answers for them. It runs like an agent's task.

```
 message ── decide ──┬── one agent ──────────── handed over: that agent answers
                     └── a plan ──┬─ too large ── input-required ── confirmed ┐
                                  └────────────────────────────── delegated ──┴─ … ── compose ── completed
```

What a model has answered is journalled before anything is done about it, so a worker that takes over goes on from
there and does not pay for it again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from worker_space.allowances import Allowances
from worker_space.clock import now_ms
from worker_space.consent import ApprovalState, Decision, Question, ask
from worker_space.ending import Outcome
from worker_space.errors import Conflict, InvalidRequest, NotFound
from worker_space.home import Home
from worker_space.ids import new_id
from worker_space.jobs.composing import Composer, listed, results_of
from worker_space.jobs.deciding import Decider
from worker_space.jobs.journal import Journal
from worker_space.jobs.plan_start import Work, handed_over, set_going
from worker_space.jobs.plan_words import as_proposal, as_question
from worker_space.ledger import Claim, Ledger
from worker_space.models import Turn, Usage
from worker_space.plan_changes import Change, begin, retry
from worker_space.plan_records import PLAN, StoredPlan
from worker_space.planning import PlanBook, plan_told
from worker_space.plans import NewPlanTask, Plan, PlanState, PlanTask, planned
from worker_space.ports import Model
from worker_space.projects import Space
from worker_space.records import Check, Equals, Item
from worker_space.registry import AgentRegistry
from worker_space.tasks import TaskState
from worker_space.tenancy import Key
from worker_space.texts import Texts
from worker_space.usage import Spending

__all__ = ["Orchestrator"]

_GOAL_CHARACTERS: Final = 4_000
_USUAL_RUN: Final = Usage(input_tokens=40_000, output_tokens=4_000)
"""What a task of a plan is taken to use: a handful of model calls, each with a file or two before it."""


class Orchestrator:
    """Runs the tasks that no agent was named for.

    Args:
        model: The name of the model that decides and composes; agents have their own.
        approval_tasks: A plan of more tasks waits for the user's word, unless the project's policy says otherwise.
        approval_seconds: For how long.
    """

    def __init__(
        self,
        *,
        models: Model,
        texts: Texts,
        registry: AgentRegistry,
        ledger: Ledger,
        plans: PlanBook,
        allowances: Allowances,
        model: str,
        approval_tasks: int,
        approval_seconds: int,
    ) -> None:
        self.model = model
        self._texts = texts
        self._registry = registry
        self._ledger = ledger
        self._plans = plans
        self._decider = Decider(models, model)
        self._composer = Composer(models, model, ledger)
        self._allowances = allowances
        self._approval_tasks = approval_tasks
        self._approval_seconds = approval_seconds

    async def run(
        self,
        claim: Claim,
        task: Item,
        journal: Journal,
        *,
        goal: str,
        history: Sequence[Turn],
        spending: Spending,
    ) -> Outcome:
        """Go on from where the task's record, its plan and the journal stand, up to the next pause or the end.

        The outcome's writes are conditional on the plan and the space as read here: where they have changed
        (`ledger.Stale`), run it again.

        Args:
            task: The record as read after the claim.
            journal: Resumed.
            goal: The user's message.
            history: What was said before it, oldest first.
            spending: Reserves and books what model calls use.

        Raises:
            Unavailable: A dependency does not answer; another attempt may go on.
            ClaimLost: Another attempt has the task.
            TaskCanceled: The user canceled it.
        """
        work = Work(claim=claim, task=task, journal=journal, goal=goal, history=history, spending=spending)
        stored = await self._plans.stored(work.tenant, task["plan_id"]) if "plan_id" in task else None
        if stored is not None and stored.plan.task_id == task["id"]:
            if stored.plan.state is PlanState.PROPOSED:
                return await self._decided(work, stored)
            if stored.plan.state is PlanState.RUNNING:
                return self._wait(stored) if stored.plan.open else await self._compose(work, stored)
            return Outcome(state=TaskState.CANCELED, content=f"The plan is {stored.plan.state.value} already.")
        if "plan_order" in task:
            return await self._ordered(work, stored, task["plan_order"])
        return await self._decide(work)

    # -- who does what -----------------------------------------------------------------------------
    async def _decide(self, work: Work) -> Outcome:
        home = await self._registry.home(work.tenant, fresh=True)
        agents = [agent for agent in home.agents.values() if agent.config.enabled]
        if not agents:
            return Outcome(
                state=TaskState.FAILED,
                code="no_agents",
                content="This project has no agent that could answer: make one, or enable one.",
            )
        if "plan_tasks" in work.task:
            given = json.loads(await self._texts.read(work.tenant, work.task["plan_tasks"]))
            try:
                tasks = planned([NewPlanTask.model_validate(each) for each in given], _taking_tasks(home))
            except InvalidRequest as error:
                # The agents have changed since it was accepted.
                return Outcome(state=TaskState.FAILED, code="invalid_plan", content=str(error))
            return await self._propose(work, home, tasks, asked_for=True)
        choice = await self._decider.decide(
            work.tenant,
            work.journal,
            agents,
            work.goal,
            work.history,
            spending=work.spending,
            plan_only="plan_id" in work.task,
        )
        if choice.agent is None:
            return await self._propose(work, home, choice.tasks, asked_for=False)
        return handed_over(work, choice)

    # -- plans -------------------------------------------------------------------------------------
    async def _propose(self, work: Work, home: Home, tasks: tuple[PlanTask, ...], *, asked_for: bool) -> Outcome:
        """A new plan: told as an answer, put to the user, or set going.

        Args:
            asked_for: Its tasks are the user's own, so nobody has to be asked about them.
        """
        now = now_ms()
        plan = Plan(
            id=work.task.get("plan_id") or new_id("plan"),
            goal=work.goal if len(work.goal) <= _GOAL_CHARACTERS else f"{work.goal[: _GOAL_CHARACTERS - 1]}…",
            session_id=work.delivery.session,
            task_id=work.delivery.task,
            tasks=tasks,
            created_at=now,
            updated_at=now,
        )
        if work.task.get("draft"):
            completed = await self._completed(work, as_proposal(plan, home))
            return replace(
                completed,
                also={PLAN: StoredPlan(plan=plan).new()},
                events=[plan_told(plan, work.delivery.ticket)],
            )
        if not asked_for and (len(tasks) > self._most_tasks(home.space) or self._is_dear(tasks, home)):
            return await self._ask(work, plan, home)
        return await self._set_going(
            work, home, StoredPlan(plan=plan), _begun(plan, work), new=True, asked_for=asked_for
        )

    def _most_tasks(self, space: Space) -> int:
        return self._approval_tasks if space.policy.plan_tasks is None else space.policy.plan_tasks

    def _is_dear(self, tasks: Sequence[PlanTask], home: Home) -> bool:
        """Whether runs of a usual length would cost more than the policy lets pass; without a price, nobody knows."""
        most, models = home.space.policy.plan_cost, [home.agents[task.agent_id].config.model for task in tasks]
        if most is None:
            return False
        if any(self._allowances.price(model) is None for model in models):
            return True
        return sum(self._allowances.cost_micros(model, _USUAL_RUN) for model in models) > most

    async def _ask(self, work: Work, plan: Plan, home: Home) -> Outcome:
        asked = await ask(
            self._texts,
            work.tenant,
            Question(kind="plan", effect=f"{work.delivery.task}#{plan.id}", arguments=as_question(plan, home)),
            ticket=work.delivery.ticket,
            agent_version=None,
            epoch=work.delivery.epoch,
            seconds=self._approval_seconds,
            before=work.task.get("approvals", ()),
        )
        plan = plan.model_copy(update={"approval_id": asked.approval_id})
        return Outcome(
            state=TaskState.INPUT_REQUIRED,
            also={PLAN: StoredPlan(plan=plan).new(), "approval": asked.approval},
            events=[plan_told(plan, work.delivery.ticket), asked.event],
            facts={**asked.facts, "plan_id": plan.id},
            due_at=asked.expires_at,
        )

    async def _decided(self, work: Work, stored: StoredPlan) -> Outcome:
        """The user has answered what was asked about a plan, or the time for it is over."""
        decision = await Decision.of_task(self._texts, work.tenant, work.task)
        if decision is None or decision.approval_id != stored.plan.approval_id:
            # Sent for another reason: it goes on waiting.
            return Outcome(state=TaskState.INPUT_REQUIRED, due_at=now_ms() + self._approval_seconds * 1000)
        if decision.verdict is ApprovalState.CONFIRMED:
            home = await self._registry.home(work.tenant, fresh=True)
            return await self._set_going(work, home, stored, _begun(stored.plan, work), asked_for=True)
        why = "nobody confirmed it in time"
        if decision.verdict is ApprovalState.REJECTED:
            why = f"it was rejected: {decision.reason}" if decision.reason else "it was rejected"
        return Outcome(state=TaskState.CANCELED, content=f"The plan was not carried out: {why}.")

    async def _ordered(self, work: Work, stored: StoredPlan | None, order: Mapping[str, Any]) -> Outcome:
        """The user wants a proposed plan carried out, or a task of an ended one tried again."""
        if stored is None:
            return Outcome(state=TaskState.FAILED, code="plan_conflict", content="The plan was deleted.")

        home = await self._registry.home(work.tenant, fresh=True)
        try:
            if order["verb"] == "retry":
                changed = retry(stored.plan, order["key"], work.delivery.task, make_id=_task_id, now=now_ms())
            else:
                changed = _begun(stored.plan, work)
            return await self._set_going(work, home, stored, changed, asked_for=True)
        except (Conflict, NotFound) as error:
            return Outcome(state=TaskState.FAILED, code="plan_conflict", content=str(error))

    async def _set_going(
        self,
        work: Work,
        home: Home,
        stored: StoredPlan,
        changed: Change,
        *,
        new: bool = False,
        asked_for: bool = False,
    ) -> Outcome:
        more, late = len(changed.made), self._ledger.redispatch_ms
        if (most := self._most_open(home.space)) is not None and home.space.open_tasks + more > most:
            # A model was asked since that was read: some may have ended. The policy stays the one that was decided by.
            count = (await self._registry.home(work.tenant, fresh=True)).space.open_tasks
            if count + more > most:
                return Outcome(
                    state=TaskState.FAILED,
                    code="limit_reached",
                    content=f"The plan has {more} tasks to begin, and this project has {count} open tasks of at most"
                    f" {most}: let some end, or cancel some, and ask again.",
                    reached={"limit": "open_tasks"},
                )
        return set_going(work, home, stored, changed, redispatch_ms=late, most_open=most, new=new, asked_for=asked_for)

    def _most_open(self, space: Space) -> int | None:
        return self._allowances.of(space.limits, space.operator_limits).open_tasks

    def _wait(self, stored: StoredPlan) -> Outcome:
        """It was sent though tasks of its plan are open; as it is looked at again later, no end can be missed."""
        unchanged = Check(key=Key.plan(stored.plan.id), when=Equals("version", stored.plan.version))
        return Outcome(state=TaskState.DELEGATED, also={PLAN: unchanged}, due_at=now_ms() + self._ledger.redispatch_ms)

    # -- the answer --------------------------------------------------------------------------------
    async def _compose(self, work: Work, stored: StoredPlan) -> Outcome:
        home = await self._registry.home(work.tenant)
        results = await results_of(self._plans, self._texts, work.tenant, stored.plan, home)
        if not any(result.state == TaskState.COMPLETED.value for result in results):
            reasons = f"No task of the plan was completed.\n\n{listed(results)}"
            return Outcome(state=TaskState.FAILED, code="plan_failed", content=reasons)
        # An order to try again says little of what was wanted at first.
        goal = stored.plan.goal if "plan_order" in work.task else work.goal
        content = await self._composer.compose(
            work.claim, work.journal, goal, results, spending=work.spending, calls=stored.calls
        )
        return await self._completed(work, content)

    async def _completed(self, work: Work, content: str) -> Outcome:
        key = f"{work.delivery.task}/answer.{work.claim.attempt}"
        kept = await self._texts.keep(work.tenant, key, content)
        return Outcome(state=TaskState.COMPLETED, content=content, content_key=kept.get("content_key"))


def _taking_tasks(home: Home) -> Callable[[str], str | None]:
    """Finds the id of an agent that takes new tasks by its id or name."""

    def find(target: str) -> str | None:
        agent = home.find(target)
        return agent.id if agent is not None and agent.config.enabled else None

    return find


def _task_id() -> str:
    return new_id("task")


def _begun(plan: Plan, work: Work) -> Change:
    return begin(plan, work.delivery.task, make_id=_task_id, now=now_ms())
