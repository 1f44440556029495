"""Take one delivery: claim its task, run the agent, end the task, and see to what follows from its end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from worker_space.agents import Agent
from worker_space.bus import ORCHESTRATING, AgentBus
from worker_space.clock import now_ms
from worker_space.consent import Decision, Question, ask
from worker_space.context import AgentContext, MemoryOfAgent
from worker_space.ending import Outcome, canceled, failed
from worker_space.errors import (
    ClaimLost,
    Lost,
    NotFound,
    RequestError,
    RunError,
    TaskCanceled,
    Unavailable,
)
from worker_space.events import EventType, NewEvent
from worker_space.jobs.agent_run import AgentRun, Answer
from worker_space.jobs.assignments import assignment
from worker_space.jobs.conversation import conversation
from worker_space.jobs.deltas import Deltas
from worker_space.jobs.finishing import Finishing
from worker_space.jobs.journal import Journal
from worker_space.jobs.lease import Heartbeat
from worker_space.jobs.orchestration import Orchestration
from worker_space.jobs.permission import Permission
from worker_space.jobs.settling import Settling
from worker_space.jobs.spending import spending_of
from worker_space.ledger import Claim, Ledger, Refusal, Stale, still_mine
from worker_space.models import Turn, Usage
from worker_space.planning import PlanBook
from worker_space.ports import Files, Lease, Model, Queues, Records
from worker_space.records import All, Item, Update
from worker_space.registry import AgentRegistry, Home
from worker_space.steps import effects_of
from worker_space.tasks import ORCHESTRATOR, Delivery, TaskState
from worker_space.telemetry import Fact, Measure, count, logged_with, span
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts
from worker_space.tools.tool import Patterns, ToolContext
from worker_space.usage import Budget

__all__ = ["TaskWorker", "attempts_spent"]

_log = logging.getLogger(__name__)


class TaskWorker:
    """Runs deliveries; stateless between them.

    Args:
        visibility_seconds: For how long each heartbeat hides the message.
        max_model_calls: Most model calls of one task.
        approval_seconds: How long the user may answer what a run asks.
    """

    def __init__(
        self,
        *,
        records: Records,
        queues: Queues,
        files: Files,
        model: Model,
        patterns: Patterns,
        texts: Texts,
        context: AgentContext,
        registry: AgentRegistry,
        ledger: Ledger,
        bus: AgentBus,
        settling: Settling,
        orchestration: Orchestration,
        finishing: Finishing,
        plans: PlanBook,
        budget: Budget,
        visibility_seconds: int,
        max_model_calls: int,
        approval_seconds: int,
    ) -> None:
        self._records = records
        self._queues = queues
        self._files = files
        self._model = model
        self._patterns = patterns
        self._texts = texts
        self._context = context
        self._registry = registry
        self._ledger = ledger
        self._bus = bus
        self._settling = settling
        self._orchestration = orchestration
        self._finishing = finishing
        self._plans = plans
        self._budget = budget
        self._visibility = visibility_seconds
        self._max_model_calls = max_model_calls
        self._approval_seconds = approval_seconds

    async def handle(self, delivery: Delivery, lease: Lease, *, deadline: float) -> None:
        """Work on a delivery until it may be acknowledged.

        Args:
            deadline: When the invocation ends, on the monotonic clock.

        Raises:
            ClaimLost: Somebody else has the task: leave the message to the queue's own clock.
            Unavailable: A dependency does not answer: the message comes again.
        """

        def extend(seconds: int) -> Awaitable[None]:
            return self._queues.extend(delivery.tenant, lease, seconds)

        heartbeat = Heartbeat(extend, visibility_seconds=self._visibility, deadline=deadline)
        home, _ = await asyncio.gather(self._home(delivery.tenant), heartbeat.begin())
        if not heartbeat.has_time:
            raise ClaimLost("this invocation has no time left: the message stays for the next")
        claim, agent = await self._claim(delivery, home, lease.message_id)
        if isinstance(claim, Refusal):
            _log.info("a delivery of task %s is not run: %s", delivery.task, claim.why)
            await self._refused(delivery, claim)
            return
        with logged_with(attempt=claim.attempt):
            _begun(claim)
            try:
                await heartbeat.keep(self._run(claim, agent, home))
            except Unavailable as error:
                await self._give_back(claim, error, extend)
                raise

    async def _give_back(self, claim: Claim, error: Unavailable, extend: Callable[[int], Awaitable[None]]) -> None:
        """Note and tell why the attempt ended, and let the next one begin soon, each later than the one before."""
        told = NewEvent(
            type=EventType.ERROR,
            task_id=claim.delivery.task,
            agent_id=claim.delivery.agent,
            data={"code": "unavailable", "message": str(error)[:500], "attempt": claim.attempt},
        )
        why = Update(
            key=Key.task(claim.delivery.task), set={"last_error": str(error)[:500]}, when=All(*still_mine(claim))
        )
        try:
            await self._records.write(claim.delivery.tenant, why)
            await self._ledger.tell(claim, [told])
            await extend(min(2**claim.attempt, self._visibility))
        except (Lost, Unavailable) as problem:
            _log.info("task %s comes again when its message's time is over: %s", claim.delivery.task, problem)

    async def _home(self, tenant: TenantContext, *, fresh: bool = False) -> Home | None:
        try:
            return await self._registry.home(tenant, fresh=fresh)
        except NotFound:
            return None

    async def _claim(
        self, delivery: Delivery, home: Home | None, message_id: str
    ) -> tuple[Claim | Refusal, Agent | None]:
        for _ in range(5):
            agent = None if home is None else home.agents.get(delivery.agent)
            if delivery.agent == ORCHESTRATOR:
                agent = ORCHESTRATING
            if agent is None and home is not None and home.cached:
                home = await self._home(delivery.tenant, fresh=True)
                continue
            try:
                return await self._ledger.claim(delivery, agent, message_id=message_id), agent
            except Stale:
                home = await self._home(delivery.tenant, fresh=True)
        raise Unavailable("the table", "the agent changed at every try")

    async def _refused(self, delivery: Delivery, refusal: Refusal) -> None:
        tenant = delivery.tenant
        if refusal.why == "ended":
            await self._settling.settle(tenant, refusal.task)
        elif refusal.why == "waits":
            # Whoever let it wait may have died before it had sent those that this let in.
            await self._settling.send_following(tenant, refusal.task)
        elif refusal.why in {"agent_deleted", "attempts_spent", "canceled"}:
            item = refusal.task or await self._records.get(tenant, Key.task(delivery.task)) or {}
            if not item or item["dispatch"] != delivery.dispatch or TaskState(item["state"]).ended:
                return
            outcome = {
                "agent_deleted": Outcome(
                    state=TaskState.FAILED,
                    code="agent_deleted",
                    content="The agent was deleted before it could answer this message.",
                ),
                "attempts_spent": Outcome(
                    state=TaskState.FAILED,
                    code="attempts_spent",
                    content=attempts_spent(item),
                ),
                "canceled": canceled(await effects_of(self._ledger, self._texts, tenant, delivery.task)),
            }[refusal.why]
            if not await self._bus.end_waiting(tenant, item, outcome):
                raise ClaimLost("the task has changed since it was looked at")

    # -- the run ---------------------------------------------------------------------------------
    async def _run(self, claim: Claim, current: Agent | None, home: Home | None) -> None:
        if claim.delivery.agent == ORCHESTRATOR:
            await self._orchestration.run(claim, home)
            return
        delivery = claim.delivery
        tenant, journal = delivery.tenant, Journal(self._ledger, self._texts, claim)
        question = ""
        model = ""
        remembered_in: int | None = None
        spending = spending_of(self._budget, claim, None if home is None else home.space)
        recall = None
        try:
            (agent, task), (question, history, briefing) = await asyncio.gather(
                self._pinned(claim, current), self._asked_of(delivery, home)
            )
            model = agent.config.model
            remembered_in = agent.context_generation
            permission = Permission(self._records, claim, await Decision.of_task(self._texts, tenant, task))
            (recalled, recall), _, _ = await asyncio.gather(
                self._context.recall(tenant, agent, question, task_id=delivery.task),
                journal.resume() if claim.resumed else asyncio.sleep(0),
                permission.begin(None if home is None else home.space),
            )
            tools = ToolContext(
                tenant=tenant,
                files=self._files,
                patterns=self._patterns,
                memory=MemoryOfAgent(self._context.store_of(tenant, agent.id, generation=agent.context_generation)),
                agent_id=agent.id,
            )
            run = AgentRun(
                tenant=tenant,
                agent=agent,
                model=self._model,
                tools=tools,
                journal=journal,
                deltas=lambda: Deltas(self._ledger, claim),
                question=question,
                history=history,
                recalled=recalled,
                briefing=briefing,
                permission=permission,
                spending=spending,
                max_model_calls=self._max_model_calls,
            )
            with span("invoke_agent", _invoking(agent, delivery)):
                came = await run.answer()
            if isinstance(came, Question):
                outcome = await self._asked(claim, agent, task, came)
            else:
                outcome = await self._completed(claim, came)
        except TaskCanceled:
            outcome = canceled(journal.progress.effects)
        except (RunError, RequestError) as error:
            outcome = failed(error)
        used = Usage(input_tokens=journal.progress.input_tokens, output_tokens=journal.progress.output_tokens)
        facts = {
            "recall": recall,
            **used.model_dump(),
            "cost_micros": self._budget.cost_micros(model, used) or None,
        }
        known = {name: value for name, value in facts.items() if value is not None}
        outcome = replace(outcome, facts={**outcome.facts, **known})
        await self._finishing.end(
            claim,
            outcome,
            question=question,
            effects=journal.progress.effects,
            remembered_in=remembered_in,
            spending=spending,
        )

    async def _pinned(self, claim: Claim, current: Agent | None) -> tuple[Agent, Item]:
        """The agent at the version that the task began with, and the task as it stands (empty at a first attempt)."""
        if not claim.resumed and current is not None:
            return current, {}
        task = await self._records.get(claim.delivery.tenant, Key.task(claim.delivery.task)) or {}
        version = task.get("agent_version")
        # What the user cleared since the task began is nothing that it may recall or add to.
        begun_in = {"context_generation": int(task.get("context_generation", 1))}
        if current is not None and current.version == version:
            return current.model_copy(update=begun_in), task
        try:
            pinned = await self._registry.version(claim.delivery.tenant, claim.delivery.agent, int(version or 0))
            return pinned.model_copy(update=begun_in), task
        except NotFound as error:
            raise RunError("The agent was deleted before it could answer this message.") from error

    async def _asked_of(self, delivery: Delivery, home: Home | None) -> tuple[str, list[Turn], str]:
        """What the agent is to do, what was said before it, and what else it is told."""
        if delivery.plan is None:
            return *await conversation(self._records, self._texts, delivery), ""
        given = await assignment(self._plans, self._texts, delivery.tenant, delivery.ticket, home)
        return given.instructions, [], given.briefing

    async def _completed(self, claim: Claim, answer: Answer) -> Outcome:
        key = f"{claim.delivery.task}/answer.{claim.attempt}"
        kept = await self._texts.keep(claim.delivery.tenant, key, answer.content)
        return Outcome(state=TaskState.COMPLETED, content=answer.content, content_key=kept.get("content_key"))

    async def _asked(self, claim: Claim, agent: Agent, task: Item, question: Question) -> Outcome:
        """The pause of a run that needs the user's word."""
        asked = await ask(
            self._texts,
            claim.delivery.tenant,
            question,
            ticket=claim.delivery.ticket,
            agent_version=agent.version,
            epoch=claim.delivery.epoch,
            seconds=self._approval_seconds,
            before=task.get("approvals", ()),
        )
        return Outcome(
            state=TaskState.INPUT_REQUIRED,
            also={"approval": asked.approval},
            events=[asked.event],
            facts=asked.facts,
            due_at=asked.expires_at,
        )


def _begun(claim: Claim) -> None:
    """Tell whoever operates it that a task is worked on."""
    delivery = claim.delivery
    _log.info("task %s is begun, attempt %d", delivery.task, claim.attempt)
    failed_before = claim.attempt - delivery.base > 1
    if failed_before:
        count(Measure.RETRIED)
    elif delivery.base == 0 and delivery.at:
        count(Measure.QUEUE_AGE_MS, max(0, now_ms() - delivery.at))


def _invoking(agent: Agent, delivery: Delivery) -> dict[str, Fact]:
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": agent.id,
        "gen_ai.conversation.id": delivery.session,
    }


def attempts_spent(item: Item) -> str:
    """What the user is told of a task that no attempt could finish."""
    text = f"The task was begun {item['attempt']} times and never came to its end."
    return f"{text} The last time: {item['last_error']}." if "last_error" in item else text
