"""Tasks: what is to be done, how far it is, and the small notes that move them between places."""

import zlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from worker_space.tenancy import TenantContext

__all__ = ["DUE_SHARDS", "ORCHESTRATOR", "Delivery", "Failure", "Task", "TaskState", "Ticket", "due_shard"]

ORCHESTRATOR: Final = "orchestrator"
"""Stands in the place of an agent's id in tasks that no agent was named for."""


class TaskState(StrEnum):
    """A task's life in A2A's words: submitted → working → completed, failed or canceled.

    A working task may stop and give its worker back: `input-required` waits for the user's word on an approval,
    `delegated` for the tasks of its plan. Both go on as `submitted`.
    """

    SUBMITTED = "submitted"
    WORKING = "working"
    INPUT_REQUIRED = "input-required"
    DELEGATED = "delegated"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        return self in {TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED}


DUE_SHARDS: Final = ("task0", "task1", "task2", "task3")


def due_shard(task_id: str) -> str:
    """Spreads open tasks over the partitions of the sweeper's index."""
    return DUE_SHARDS[zlib.crc32(task_id.encode()) % len(DUE_SHARDS)]


class Failure(BaseModel):
    """Why a task failed: a stable `code` for programs and a sentence for people.

    Attributes:
        limit: The limit that was reached, if it was one.
        until: When to ask again, epoch milliseconds, where waiting helps.
    """

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    limit: str | None = None
    until: int | None = None


class Task(BaseModel):
    """A task as its owner sees it.

    Attributes:
        type: `message`, or `plan_task` for a task of a plan.
        payload: What was asked: `message` is the number of the user's message in the session, `plan_key` the key of a
            plan's task in its plan.
        attempt: How often a worker has begun it.
        agent_version: The agent's version that runs it, fixed when the first worker began.
        steps: Journalled steps so far.
        mode: `orchestrated` when the orchestrator chose the agent or made a plan.
        plan_id: The plan that the task belongs to, or that it made.
        approval_id: What an input-required task waits for.
        recall: `ok`, `unavailable` (memory did not answer; the agent went on without) or `None` before the run.
        input_tokens: Of all model calls, as the provider counts them.
        output_tokens: Likewise.
        cost_micros: What they cost, in millionths of the deployment's currency; 0 where no price is set.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    type: str = "message"
    state: TaskState
    session_id: str
    agent_id: str
    payload: Mapping[str, Any]
    mode: str = "direct"
    plan_id: str | None = None
    approval_id: str | None = None
    attempt: int = 0
    agent_version: int | None = None
    steps: int = 0
    recall: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0
    error: Failure | None = None
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    cancel_requested: bool = False


class Ticket(BaseModel):
    """All that is needed to dispatch a task without reading it: kept where it waits.

    Attributes:
        number: Of the user's message in its session.
        slots: The agent's max_concurrency when the message was accepted; the least loaded of as many groups is used.
        dispatch: How often it has been dispatched so far.
        attempts: How often a worker had begun it when it came to wait.
        base: Attempts that do not count against the limit any more: they ended by a pause, not by a failure.
        plan: The plan whose task it is; such a task does not queue in its session.
        at: When it was accepted, epoch milliseconds; 0 where that is not known.
        unpinned: No worker has begun it with the agent that it is for now.
        first_step: The journal's steps before this one belong to whoever had the task before it was handed over.
        trace: What the request that made the task is found by in the logs; decides nothing.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    task: str
    session: str
    agent: str
    number: int
    slots: int = Field(ge=1)
    dispatch: int = 0
    attempts: int = 0
    base: int = 0
    plan: str | None = None
    at: int = 0
    first_step: int = 0
    unpinned: bool = False
    trace: str = ""

    def deliver(
        self, *, user_id: str, project_id: str, epoch: int, generation: int, slot: int, last_event: int = 0
    ) -> "Delivery":
        """The note for this task's next dispatch."""
        return Delivery(
            **self.model_dump(exclude={"dispatch"}),
            dispatch=self.dispatch + 1,
            user_id=user_id,
            project_id=project_id,
            epoch=epoch,
            generation=generation,
            slot=slot,
            last_event=last_event,
        )


class Delivery(Ticket):
    """The body of a queue message: a claim check. The task itself is in the table.

    Attributes:
        dispatch: Which dispatch of the task this is; only the newest may run.
        attempts: Attempts begun before it, so that the first claim needs no read.
        epoch: Of the space when it was sent.
        generation: Of the queue it was sent to.
        slot: Of the agent's message groups, the one it was sent in.
        last_event: The session's newest event when it was sent: a guess at the next event's number.
    """

    user_id: str
    project_id: str
    epoch: int
    generation: int
    slot: int
    last_event: int = 0

    @property
    def tenant(self) -> TenantContext:
        return TenantContext(self.user_id, self.project_id)

    @property
    def deduplication(self) -> str:
        return f"{self.task}.{self.dispatch}"

    @property
    def ticket(self) -> Ticket:
        return Ticket.model_validate(self.model_dump(include=set(Ticket.model_fields)))
