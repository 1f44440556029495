"""Deciding who does what: a model is asked, corrected once, and replaced by counting words if it comes to nothing."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worker_space import lexical
from worker_space.agents import Agent
from worker_space.decisions import Assign, Candidate, PlannedTask, parse_decision
from worker_space.errors import InvalidRequest, OverBudget, RunError
from worker_space.jobs.journal import Journal
from worker_space.models import AssistantTurn, ModelReply, ModelRequest, Turn
from worker_space.orchestration_prompts import correction_request, decision_request
from worker_space.plans import MAX_INSTRUCTIONS_BYTES, PlanTask, planned
from worker_space.ports import Model
from worker_space.tenancy import TenantContext
from worker_space.usage import Spending

__all__ = ["Choice", "Decider"]

_REQUESTS: Final = 2
"""Most model calls for one decision: the second is told what was wrong with the first."""
_BY_WORDS: Final = "chosen by the words of the request, because the model came to no usable decision"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was decided: one agent, or the tasks of a plan.

    Attributes:
        reason: Why this agent.
    """

    agent: Agent | None = None
    reason: str = ""
    tasks: tuple[PlanTask, ...] = ()


class Decider:
    """Chooses among a project's agents.

    Args:
        model: The name of the model that is asked.
    """

    def __init__(self, models: Model, model: str) -> None:
        self._models = models
        self._model = model

    async def decide(
        self,
        tenant: TenantContext,
        journal: Journal,
        agents: Sequence[Agent],
        goal: str,
        history: Sequence[Turn],
        *,
        spending: Spending,
        plan_only: bool,
    ) -> Choice:
        """Who is to answer `goal`. There always is a choice, however bad the model's answers are.

        Args:
            journal: Holds the answers that were given in this task before; none is asked for again.
            agents: At least one.
            spending: Reserves and books what the model calls use.
            plan_only: The user wants a plan, even if it has one task only.

        Raises:
            OverBudget: What the day allows is used up.
            Unavailable: The model does not answer; another attempt may go on.
            Lost: As `Journal.model`.
        """
        candidates = [Candidate.of(agent) for agent in agents]
        by_id = {agent.id: agent for agent in agents}
        request = decision_request(self._model, candidates, goal, history, plan_only=plan_only)
        for number in range(_REQUESTS):
            try:
                reply = await self._reply(tenant, journal, request, number, spending)
            except OverBudget:
                raise
            except (InvalidRequest, RunError) as error:
                _log.warning("the model made no decision: %s", type(error).__name__)
                break
            try:
                return _choice(parse_decision(reply, candidates), by_id, goal, plan_only=plan_only)
            except InvalidRequest as error:
                request = correction_request(request, reply, str(error))
        nearest = Assign(agent=_nearest(goal, candidates), reason=_BY_WORDS)
        return _choice(nearest, by_id, goal, plan_only=plan_only)

    async def _reply(
        self, tenant: TenantContext, journal: Journal, request: ModelRequest, number: int, spending: Spending
    ) -> ModelReply:
        """The model's answer of that number in this task."""
        given = [turn for turn in journal.progress.turns if isinstance(turn, AssistantTurn)]
        if number < len(given):
            turn = given[number]
            return ModelReply(content=turn.content, tool_calls=turn.tool_calls, provider=turn.provider or "{}")
        began = time.monotonic()
        calls = journal.progress.model_calls
        reply = await spending.call(request, calls, lambda bounded: self._models.request(tenant, bounded))
        milliseconds = round((time.monotonic() - began) * 1000)
        await journal.model(reply, milliseconds=milliseconds, spending=spending)
        return reply


def _choice(decided: Assign | Sequence[PlannedTask], agents: dict[str, Agent], goal: str, *, plan_only: bool) -> Choice:
    """What a decision amounts to.

    Raises:
        InvalidRequest: It is no plan; the message is fit for the model.
    """
    if isinstance(decided, Assign):
        if not plan_only:
            return Choice(agent=agents[decided.agent], reason=decided.reason)
        decided = [PlannedTask(key="task", agent=decided.agent, instructions=_beginning(goal))]
    tasks = planned(decided, lambda name: name if name in agents else None)
    if len(tasks) == 1 and not plan_only:
        return Choice(agent=agents[tasks[0].agent_id])
    return Choice(tasks=tasks)


def _nearest(goal: str, candidates: Sequence[Candidate]) -> str:
    """The agent whose description shares most with the request; the first where none shares anything."""
    described = [" ".join((each.name, each.role, each.description, *each.capabilities)) for each in candidates]
    scores = lexical.score(goal, described)
    return candidates[scores.index(max(scores))].id


def _beginning(goal: str) -> str:
    return goal.encode()[:MAX_INSTRUCTIONS_BYTES].decode(errors="ignore")
