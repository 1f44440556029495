"""Take one delivery: claim its task, run the agent, end the task, and see to what follows from its end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from worker_space.agents import Agent
from worker_space.bus import AgentBus
from worker_space.context import AgentContext, MemoryOfAgent
from worker_space.ending import Ending, Outcome, canceled
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
from worker_space.jobs.deltas import Deltas
from worker_space.jobs.journal import Journal
from worker_space.jobs.lease import Heartbeat
from worker_space.jobs.settling import Settling
from worker_space.ledger import Claim, Ledger, Refusal, Stale, lost_or_canceled, still_mine
from worker_space.models import AssistantTurn, Turn, UserTurn
from worker_space.ports import Files, Lease, Model, Queues, Records
from worker_space.records import All, Item, Missing, Update
from worker_space.registry import AgentRegistry, Home
from worker_space.steps import effects_of
from worker_space.tasks import Delivery, TaskState
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts
from worker_space.tools.tool import Patterns, ToolContext

__all__ = ["TaskWorker", "attempts_spent"]

_HISTORY_MESSAGES: Final = 20
_HISTORY_CHARACTERS: Final = 60_000
_END_PAUSES: Final = (0.3, 1.0, 3.0)
_log = logging.getLogger(__name__)


class TaskWorker:
    """Runs deliveries; stateless between them.

    Args:
        visibility_seconds: For how long each heartbeat hides the message.
        max_model_calls: Most model calls of one task.
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
        visibility_seconds: int,
        max_model_calls: int,
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
        self._visibility = visibility_seconds
        self._max_model_calls = max_model_calls

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
            await self._refused(delivery, claim)
            return
        try:
            await heartbeat.keep(self._run(claim, agent))
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
    async def _run(self, claim: Claim, current: Agent | None) -> None:
        delivery = claim.delivery
        tenant, journal = delivery.tenant, Journal(self._ledger, self._texts, claim)
        question = ""
        recall = None
        try:
            agent, (question, history) = await asyncio.gather(
                self._pinned(claim, current), self._conversation(delivery)
            )
            (recalled, recall), _ = await asyncio.gather(
                self._context.recall(tenant, agent.id, question, task_id=delivery.task),
                journal.resume() if claim.resumed else asyncio.sleep(0),
            )
            tools = ToolContext(
                tenant=tenant,
                files=self._files,
                patterns=self._patterns,
                memory=MemoryOfAgent(self._context, tenant, agent.id),
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
                max_model_calls=self._max_model_calls,
            )
            answer = await run.answer()
            outcome = await self._completed(claim, answer)
        except TaskCanceled:
            outcome = canceled(journal.progress.effects)
        except (RunError, RequestError) as error:
            # A request error is one of the agent's configuration: a model or tool that is served no more.
            outcome = Outcome(state=TaskState.FAILED, code="run_failed", content=str(error))
        facts = {
            "recall": recall,
            "input_tokens": journal.progress.input_tokens,
            "output_tokens": journal.progress.output_tokens,
        }
        outcome = replace(outcome, facts={name: value for name, value in facts.items() if value is not None})
        await self._end(claim, outcome, question=question, effects=journal.progress.effects)

    async def _pinned(self, claim: Claim, current: Agent | None) -> Agent:
        """The agent at the version that the task began with."""
        if not claim.resumed and current is not None:
            return current
        task = await self._records.get(claim.delivery.tenant, Key.task(claim.delivery.task)) or {}
        version = task.get("agent_version")
        if current is not None and current.version == version:
            return current
        try:
            return await self._registry.version(claim.delivery.tenant, claim.delivery.agent, int(version or 0))
        except NotFound as error:
            raise RunError("The agent was deleted before it could answer this message.") from error

    async def _conversation(self, delivery: Delivery) -> tuple[str, list[Turn]]:
        """The message to answer, and what was said before it: one query."""
        tenant = delivery.tenant
        behind = Key.message(delivery.session, delivery.number + 1).sort
        page = await self._records.query(
            tenant, Key.messages(delivery.session), limit=_HISTORY_MESSAGES + 1, after=behind, descending=True
        )
        if not page.items or page.items[0]["number"] != delivery.number:
            raise RunError("The message was deleted before it could be answered.")
        question = await self._texts.read(tenant, page.items[0])
        return question, await self._history(tenant, page.items[1:])

    async def _history(self, tenant: TenantContext, newest_first: Sequence[Item]) -> list[Turn]:
        """Whole turns, the newest that fit; turns without an answer are left out."""
        unanswered = {item["task_id"] for item in newest_first if item.get("status", "ok") != "ok"}
        answered = {item["task_id"] for item in newest_first if item["role"] == "assistant"} - unanswered
        turns: list[Turn] = []
        room = _HISTORY_CHARACTERS
        for item in newest_first:
            if item["task_id"] not in answered:
                continue
            text = await self._texts.read(tenant, item)
            room -= len(text)
            if room < 0:
                break
            turns.append(UserTurn(content=text) if item["role"] == "user" else AssistantTurn(content=text))
        turns.reverse()
        # A model takes a conversation from a user's turn on.
        return turns[1:] if turns and isinstance(turns[0], AssistantTurn) else turns

    async def _completed(self, claim: Claim, answer: Answer) -> Outcome:
        key = f"{claim.delivery.task}/answer.{claim.attempt}"
        kept = await self._texts.keep(claim.delivery.tenant, key, answer.content)
        return Outcome(state=TaskState.COMPLETED, content=answer.content, content_key=kept.get("content_key"))

    # -- the end and after -----------------------------------------------------------------------
    async def _end(self, claim: Claim, outcome: Outcome, *, question: str, effects: Sequence[str]) -> None:
        delivery = claim.delivery
        mine = All(*still_mine(claim))
        ending = Ending(
            ticket=delivery.ticket,
            epoch=delivery.epoch,
            generation=delivery.generation,
            slot=delivery.slot,
            redispatch_ms=self._ledger.redispatch_ms,
            # Who was told that the task is to stop must not find an answer afterwards.
            when=mine if outcome.state is TaskState.CANCELED else All(mine, Missing("cancel_requested")),
            events=claim.events,
            lost=lambda task: lost_or_canceled(claim, task),
        )
        try:
            deliveries = await self._end_or_try_again(delivery.tenant, ending, outcome)
        except TaskCanceled:
            facts = outcome.facts
            outcome = replace(canceled(effects), facts=facts)
            deliveries = await self._end_or_try_again(delivery.tenant, replace(ending, when=mine), outcome)
        answer = outcome.content if outcome.state is TaskState.COMPLETED else None
        await self._settling.follow_up(delivery, deliveries, question=question, answer=answer)

    async def _end_or_try_again(self, tenant: TenantContext, ending: Ending, outcome: Outcome) -> Sequence[Delivery]:
        """The last answer is saved by the end itself: a short outage must not cost another paid model call."""
        for pause in _END_PAUSES:
            try:
                return await self._bus.end(tenant, ending, outcome)
            except Unavailable as error:
                _log.warning("task %s is not ended yet: %s", ending.ticket.task, error)
                await asyncio.sleep(pause)
        return await self._bus.end(tenant, ending, outcome)


def attempts_spent(item: Item) -> str:
    """What the user is told of a task that no attempt could finish."""
    text = f"The task was begun {item['attempt']} times and never came to its end."
    return f"{text} The last time: {item['last_error']}." if "last_error" in item else text
