"""What a claim may spend: its reservations are fenced like all its writes."""

from worker_space.ledger import Claim, lost_or_canceled, still_mine
from worker_space.projects import Space
from worker_space.records import All, Missing
from worker_space.usage import Budget, Spending

__all__ = ["spending_of"]


def spending_of(budget: Budget, claim: Claim, space: Space | None) -> Spending:
    """The spending of one attempt at a task.

    Args:
        space: The project's record as rehydrated; `None` when the project is gone, and the fence will say so.
    """
    return budget.spending(
        claim.delivery.tenant,
        space=space,
        task_id=claim.delivery.task,
        attempt=claim.attempt,
        fence=All(*still_mine(claim), Missing("cancel_requested")),
        lost=lambda task: lost_or_canceled(claim, task),
    )
