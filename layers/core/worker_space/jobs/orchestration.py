"""A claimed task of the orchestrator from its record to the end of the claim."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from worker_space.ending import canceled, failed
from worker_space.errors import RequestError, RunError, TaskCanceled, Unavailable
from worker_space.home import Home
from worker_space.jobs.conversation import conversation
from worker_space.jobs.finishing import Finishing
from worker_space.jobs.journal import Journal
from worker_space.jobs.orchestrator import Orchestrator
from worker_space.jobs.spending import spending_of
from worker_space.ledger import Claim, Ledger, Stale
from worker_space.models import Usage
from worker_space.planning import PlanBook
from worker_space.ports import Records
from worker_space.records import Item
from worker_space.tenancy import Key
from worker_space.texts import Texts
from worker_space.usage import Budget

__all__ = ["Orchestration"]

_PLAN_TRIES: Final = 5
_log = logging.getLogger(__name__)


class Orchestration:
    """Runs the orchestrator's tasks; what a plan has become meanwhile is looked at again."""

    def __init__(
        self,
        *,
        records: Records,
        texts: Texts,
        ledger: Ledger,
        plans: PlanBook,
        orchestrator: Orchestrator,
        finishing: Finishing,
        budget: Budget,
    ) -> None:
        self._records = records
        self._texts = texts
        self._ledger = ledger
        self._plans = plans
        self._orchestrator = orchestrator
        self._finishing = finishing
        self._budget = budget

    async def run(self, claim: Claim, home: Home | None) -> None:
        """Run a claimed task of the orchestrator up to its next pause or its end, and see to what follows.

        Args:
            home: The worker space as rehydrated; `None` when it is gone, and the fence will say so.

        Raises:
            Unavailable: A dependency does not answer, or the plan keeps changing; another attempt may go on.
            ClaimLost: Another attempt has the task.
        """
        tenant, key = claim.delivery.tenant, Key.task(claim.delivery.task)
        spending = spending_of(self._budget, claim, None if home is None else home.space)
        for _ in range(_PLAN_TRIES):
            journal = Journal(self._ledger, self._texts, claim)
            task: Item = {}
            done: Sequence[str] = ()
            try:
                found, (goal, history), _ = await asyncio.gather(
                    self._records.get(tenant, key),
                    conversation(self._records, self._texts, claim.delivery),
                    journal.resume(),
                )
                task = found or {}
                done = await self._plans.done(tenant, task)
                outcome = await self._orchestrator.run(
                    claim, task, journal, goal=goal, history=history, spending=spending
                )
            except TaskCanceled:
                outcome = canceled(done)
            except (RunError, RequestError) as error:
                outcome = failed(error)
            used = Usage(input_tokens=journal.progress.input_tokens, output_tokens=journal.progress.output_tokens)
            facts = {**outcome.facts, **used.model_dump()}
            if (cost := self._budget.cost_micros(self._orchestrator.model, used)) is not None:
                facts["cost_micros"] = cost
            try:
                outcome = replace(outcome, facts=facts)
                await self._finishing.end(
                    claim, outcome, question="", effects=done, remembered_in=None, spending=spending, task=task
                )
                return
            except Stale as stale:
                _log.info("task %s is looked at again: %s", claim.delivery.task, stale)
        raise Unavailable("the table", "the plan changed at every try")
