"""How a request goes on once it is decided who does what: with one agent, or with a plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from worker_space.clock import now_ms
from worker_space.consent import at_policy
from worker_space.ending import Outcome
from worker_space.events import EventType, NewEvent
from worker_space.home import Home
from worker_space.jobs.deciding import Choice
from worker_space.jobs.journal import Journal
from worker_space.ledger import Claim
from worker_space.models import Turn
from worker_space.plan_changes import Change
from worker_space.plan_records import PLAN, StoredPlan
from worker_space.planning import plan_told
from worker_space.records import All, AtMost, Condition, Equals, Exists, Item, Update
from worker_space.tasks import Delivery, TaskState, Ticket
from worker_space.tenancy import Key, TenantContext
from worker_space.usage import Spending

__all__ = ["Work", "handed_over", "set_going"]

_REASON_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One claimed task of the orchestrator.

    Attributes:
        task: Its record as read after the claim.
        goal: The user's message.
        history: What was said before it, oldest first.
    """

    claim: Claim
    task: Item
    journal: Journal
    goal: str
    history: Sequence[Turn]
    spending: Spending

    @property
    def tenant(self) -> TenantContext:
        return self.claim.delivery.tenant

    @property
    def delivery(self) -> Delivery:
        return self.claim.delivery

    def later(self) -> Ticket:
        """With which the task goes on after a pause: attempts before it do not count as failures."""
        spent = self.claim.attempt
        return self.delivery.ticket.model_copy(
            update={"dispatch": self.delivery.dispatch, "attempts": spent, "base": spent}
        )


def set_going(
    work: Work,
    home: Home,
    stored: StoredPlan,
    changed: Change,
    *,
    redispatch_ms: int,
    most_open: int | None = None,
    new: bool = False,
    asked_for: bool = False,
) -> Outcome:
    """Set a plan going: its tasks are made, and those that wait for nothing are sent.

    Args:
        changed: What this makes of the plan.
        redispatch_ms: After how long the sweeper sends what nobody began.
        most_open: The project's limit of open tasks.
        new: It is not stored yet.
        asked_for: By the user, whatever the policy says of its size.
    """
    slots = {agent.id: agent.config.max_concurrency for agent in home.agents.values()}
    calls = work.journal.progress.model_calls
    begun = replace(stored, ticket=work.later(), slots=slots, calls=calls)
    labelled, deliveries = begun.begun(
        changed,
        work.tenant,
        epoch=work.delivery.epoch,
        generation=work.delivery.generation,
        last_event=work.claim.events.last + 1,
        due_at=now_ms() + redispatch_ms,
    )
    if new:
        labelled[PLAN] = begun.after(changed).new()
    same_epoch = All(Exists("sk"), Equals("epoch", work.delivery.epoch))
    conditions: list[Condition] = [same_epoch]
    if not asked_for:
        conditions.append(at_policy(home.space.policy_version))
    if most_open is not None:
        conditions.append(AtMost("open_tasks", most_open - len(changed.made)))
    counted = Update(key=Key.space(), add={"open_tasks": len(changed.made)}, when=All(*conditions))
    return Outcome(
        state=TaskState.DELEGATED,
        also={**labelled, "space": counted},
        sends=deliveries,
        events=[plan_told(changed.plan, work.delivery.ticket)],
        facts={"plan_id": stored.plan.id},
    )


def handed_over(work: Work, choice: Choice) -> Outcome:
    """Let the chosen agent answer the message itself; the task stays the same."""
    agent = choice.agent
    assert agent is not None
    ticket = work.later().model_copy(
        update={
            "agent": agent.id,
            "slots": agent.config.max_concurrency,
            "first_step": work.journal.number,
            "unpinned": True,
        }
    )
    told = {"agent_id": agent.id, "name": agent.config.name, "reason": choice.reason[:_REASON_CHARACTERS]}
    return Outcome(
        state=TaskState.SUBMITTED,
        handover=ticket,
        drop=("agent_version",),
        events=[NewEvent(type=EventType.AGENT_SWITCHED, task_id=ticket.task, agent_id=agent.id, data=told)],
    )
