"""Composing the answer to a goal from what the tasks of its plan came to."""

import logging
import time
from collections.abc import Sequence
from typing import Final

from worker_space.errors import InvalidRequest, RunError, Unavailable
from worker_space.home import Home
from worker_space.jobs.deltas import Deltas
from worker_space.jobs.journal import Journal
from worker_space.jobs.plan_words import agent_name
from worker_space.ledger import Claim, Ledger
from worker_space.models import AssistantTurn
from worker_space.orchestration_prompts import TaskResult, composition_request
from worker_space.planning import PlanBook
from worker_space.plans import Plan
from worker_space.ports import Model
from worker_space.tenancy import TenantContext
from worker_space.texts import Texts
from worker_space.usage import Spending

__all__ = ["Composer", "listed", "results_of"]

_OUTPUT_CHARACTERS: Final = 20_000
_log = logging.getLogger(__name__)


class Composer:
    """Writes final answers.

    Args:
        model: The name of the model that is asked.
    """

    def __init__(self, models: Model, model: str, ledger: Ledger) -> None:
        self._models = models
        self._model = model
        self._ledger = ledger

    async def compose(
        self,
        claim: Claim,
        journal: Journal,
        goal: str,
        results: Sequence[TaskResult],
        *,
        spending: Spending,
        calls: int,
    ) -> str:
        """The answer: the model's, or a plain list of the results where it gives none.

        Args:
            spending: Reserves and books what the model call uses.
            calls: Model calls of this task that were about something else, before the plan began.

        Raises:
            Unavailable: The model does not answer; another attempt may go on. After the last one there is a list.
            Lost: As `Journal.model`.
        """
        given = [turn for turn in journal.progress.turns if isinstance(turn, AssistantTurn)][calls:]
        if given:
            return given[0].content
        tenant, deltas, began = claim.delivery.tenant, Deltas(self._ledger, claim), time.monotonic()
        request = composition_request(self._model, goal, results)
        try:
            reply = await spending.call(
                request,
                journal.progress.model_calls,
                lambda bounded: deltas.during(self._models.request(tenant, bounded, on_text=deltas.add)),
            )
        except (InvalidRequest, RunError) as error:
            _log.warning("the model composed no answer: %s", type(error).__name__)
            return listed(results)
        except Unavailable as error:
            if claim.attempt - claim.delivery.base < self._ledger.max_attempts:
                raise
            _log.warning("the model composed no answer: %s", error)
            return listed(results)
        content = reply.content.encode(errors="replace").decode()
        if reply.tool_calls or not content.strip():
            return listed(results)
        whole = reply.model_copy(update={"content": content})
        milliseconds = round((time.monotonic() - began) * 1000)
        await journal.model(whole, milliseconds=milliseconds, spending=spending)
        return content


def listed(results: Sequence[TaskResult]) -> str:
    """The results one after the other, each under its own heading."""
    parts = []
    for result in results:
        output = result.output.strip()
        if len(output) > _OUTPUT_CHARACTERS:
            output = f"{output[:_OUTPUT_CHARACTERS]} … (cut)"
        if result.state == "completed":
            parts.append(f"## {result.key} ({result.agent})\n\n{output}")
        else:
            parts.append(f"## {result.key} ({result.agent}): {result.state}\n\n{output or 'No reason was given.'}")
    return "\n\n".join(parts)


async def results_of(plans: PlanBook, texts: Texts, tenant: TenantContext, plan: Plan, home: Home) -> list[TaskResult]:
    """What the tasks of a plan came to: the answer of each, or the reason why there is none.

    Raises:
        Unavailable: An answer cannot be read now.
    """
    outputs = await plans.outputs(tenant, texts, plan.tasks)
    return [
        TaskResult(
            key=task.key,
            agent=agent_name(home, task.agent_id),
            state=task.state.value,
            output=output if task.error is None else task.error.message,
            instructions=task.instructions,
        )
        for task, output in zip(plan.tasks, outputs, strict=True)
    ]
