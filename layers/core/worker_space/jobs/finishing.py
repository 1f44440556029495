"""The end of a claim as its worker makes it: the outcome is stored, and what follows from it is seen to."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from worker_space.bus import AgentBus
from worker_space.ending import Ending, Following, Outcome, canceled
from worker_space.errors import TaskCanceled, Unavailable
from worker_space.jobs.settling import Interaction, Settling
from worker_space.ledger import Claim, Ledger, lost_or_canceled, still_mine
from worker_space.planning import PlanBook
from worker_space.records import All, Item, Missing
from worker_space.tasks import Delivery, TaskState
from worker_space.tenancy import TenantContext
from worker_space.usage import Spending

__all__ = ["Finishing"]

_END_PAUSES: Final = (0.3, 1.0, 3.0)
_log = logging.getLogger(__name__)


class Finishing:
    """Ends claims."""

    def __init__(self, *, bus: AgentBus, ledger: Ledger, plans: PlanBook, settling: Settling) -> None:
        self._bus = bus
        self._ledger = ledger
        self._plans = plans
        self._settling = settling

    async def end(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        question: str,
        effects: Sequence[str],
        remembered_in: int | None,
        spending: Spending,
        task: Item | None = None,
    ) -> None:
        """End the claim, and see to what follows.

        Args:
            remembered_in: The generation of the agent's context that the interaction belongs to, if to any.
            spending: What the claim's model calls were made by; what they used is counted with the end.
            task: The orchestrator's own, as read.
        """
        delivery = claim.delivery
        following = await self._following(delivery, task)
        if delivery.plan is not None and outcome.state is TaskState.COMPLETED:
            # Its answer is no message of the session: those that build on it, and its plan's answer, read it here.
            kept = {"content": outcome.content} if outcome.content_key is None else {"content_key": outcome.content_key}
            outcome = replace(outcome, facts={**outcome.facts, **kept})
        outcome = replace(outcome, also={**outcome.also, **spending.owed()})
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
            following=following,
            lost=lambda task: lost_or_canceled(claim, task),
        )
        try:
            deliveries = await self._end_or_try_again(delivery.tenant, ending, outcome)
        except TaskCanceled:
            outcome = replace(canceled(effects), facts=outcome.facts, also=spending.owed())
            deliveries = await self._end_or_try_again(delivery.tenant, replace(ending, when=mine), outcome)
        if outcome.state in {TaskState.SUBMITTED, TaskState.DELEGATED}:
            # The task goes on, and whoever waits for it goes on waiting.
            await self._settling.hand_on(deliveries)
            return
        interaction = None
        if remembered_in is not None and outcome.state in {TaskState.COMPLETED, TaskState.FAILED}:
            interaction = Interaction(
                question=question,
                answer=outcome.content,
                success=outcome.state is TaskState.COMPLETED,
                generation=remembered_in,
            )
        await self._settling.follow_up(delivery, deliveries, interaction)

    async def _following(self, delivery: Delivery, task: Item | None) -> Following | None:
        if delivery.plan is not None:
            return await self._plans.following(
                delivery.tenant, {"id": delivery.task, "plan_id": delivery.plan, "plan_key": ""}
            )
        return None if task is None else await self._plans.following(delivery.tenant, task)

    async def _end_or_try_again(self, tenant: TenantContext, ending: Ending, outcome: Outcome) -> Sequence[Delivery]:
        """The last answer is saved by the end itself: a short outage must not cost another paid model call."""
        for pause in _END_PAUSES:
            try:
                return await self._bus.end(tenant, ending, outcome)
            except Unavailable as error:
                _log.warning("task %s is not ended yet: %s", ending.ticket.task, error)
                await asyncio.sleep(pause)
        return await self._bus.end(tenant, ending, outcome)
