"""Plans: a goal split into tasks of several agents, which depend on one another and run side by side where they can."""

import re
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker_space.decisions import MOST_PLANNED, PlannedTask
from worker_space.errors import InvalidRequest, NotFound
from worker_space.messages import MessageContent

__all__ = [
    "MAX_INSTRUCTIONS_BYTES",
    "NewPlan",
    "NewPlanTask",
    "Plan",
    "PlanFailure",
    "PlanState",
    "PlanTask",
    "PlanTaskState",
    "in_order",
    "planned",
]

MAX_INSTRUCTIONS_BYTES: Final = 8 * 1024
"""Of one task: twenty of them stay far below what one item of the table takes."""

_KEY: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class PlanState(StrEnum):
    """A plan's life: proposed → running → completed, failed or canceled; a retry sets an ended plan running again.

    `completed` means that the goal was answered from what was done; single tasks may have failed all the same.
    """

    PROPOSED = "proposed"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        return self in {PlanState.COMPLETED, PlanState.FAILED, PlanState.CANCELED}


class PlanTaskState(StrEnum):
    """How far a plan's task is: `waiting` for others of the plan, `ready` (on the bus or running), or ended."""

    WAITING = "waiting"
    READY = "ready"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        return self in {PlanTaskState.COMPLETED, PlanTaskState.FAILED, PlanTaskState.CANCELED}


class PlanFailure(BaseModel):
    """Why a task of a plan has no output: a stable `code` for programs and a sentence for people."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str


class PlanTask(BaseModel):
    """One task of a plan.

    Attributes:
        key: Names it within the plan.
        agent_id: Whose task it is.
        depends_on: Keys of the tasks whose outputs it is given; it begins when all of them have completed.
        task_id: The task on the bus; `None` until the plan has begun. A retry makes a new one.
        error: Why it failed or was canceled.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    agent_id: str
    instructions: str
    depends_on: tuple[str, ...] = ()
    state: PlanTaskState = PlanTaskState.WAITING
    task_id: str | None = None
    error: PlanFailure | None = None


def _instructions(value: str) -> str:
    if not value.strip():
        raise ValueError("instructions need some text")
    if len(value.encode(errors="replace")) > MAX_INSTRUCTIONS_BYTES:
        raise ValueError(
            f"instructions take at most {MAX_INSTRUCTIONS_BYTES} bytes: put the text in a file and name it"
        )
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("instructions must be text without NUL characters that UTF-8 can hold")
    return value


class NewPlanTask(BaseModel):
    """A task of a plan as its author writes it.

    Attributes:
        key: Lower-case letters, digits, `_` and `-`, at most 40; unique in the plan.
        agent: The agent's id or name.
        instructions: At most 8 KiB. The agent sees these and the outputs of `depends_on`, nothing else of the plan.
        depends_on: Keys of other tasks of the plan.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern=rf"^{_KEY.pattern}$", examples=["review"])
    agent: str = Field(min_length=1, max_length=128, examples=["analyst"])
    instructions: Annotated[str, AfterValidator(_instructions), Field(examples=["Review src/cart.py"])]
    depends_on: tuple[str, ...] = Field(default=(), max_length=MOST_PLANNED, examples=[[]])


class NewPlan(BaseModel):
    """What a client says to make a plan.

    Attributes:
        goal: What is to be reached, at most 1 MiB; it becomes a message of the session.
        session_id: The session that it belongs to; a new one is opened when it is missing.
        tasks: The plan itself, 1 to 20 tasks; without them the orchestrator makes one.
        execute: Run it at once; otherwise it is only proposed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    goal: MessageContent = Field(examples=["Review src/cart.py and write a README"])
    session_id: str | None = Field(default=None, max_length=128)
    tasks: tuple[NewPlanTask, ...] | None = Field(default=None, min_length=1, max_length=MOST_PLANNED)
    execute: bool = False


class Plan(BaseModel):
    """A plan as its owner sees it.

    Attributes:
        goal: The beginning of the message that it is to answer.
        session_id: Where its answer and its events go.
        task_id: The task that answers the message; a retry or a later execution makes a new one.
        version: One more with every change.
        approval_id: What it waits for, if it was too large to be run without the user's word.
        created_at: Epoch milliseconds.
        ended_at: Likewise, once it has ended.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    goal: str
    session_id: str
    task_id: str
    state: PlanState = PlanState.PROPOSED
    version: int = 1
    tasks: tuple[PlanTask, ...]
    approval_id: str | None = None
    created_at: int
    updated_at: int
    ended_at: int | None = None

    def task(self, key: str) -> PlanTask:
        """The task of that key.

        Raises:
            NotFound: The plan has none.
        """
        found = next((task for task in self.tasks if task.key == key), None)
        if found is None:
            raise NotFound(f"this plan has no task {key[:80]!r}")
        return found

    @property
    def open(self) -> bool:
        """Whether a task may still run."""
        return any(not task.state.ended for task in self.tasks)


def planned(tasks: Sequence[NewPlanTask | PlannedTask], find: Callable[[str], str | None]) -> tuple[PlanTask, ...]:
    """The tasks of a plan, once they make one.

    Args:
        find: Gives the id of the agent with an id or name, `None` if there is none.

    Raises:
        InvalidRequest: They make none; the message says what is wrong, fit for a person or a model.
    """
    if not 1 <= len(tasks) <= MOST_PLANNED:
        raise InvalidRequest(f"a plan has 1 to {MOST_PLANNED} tasks, not {len(tasks)}")
    keys = [task.key for task in tasks]
    for key in keys:
        if not _KEY.fullmatch(key):
            raise InvalidRequest(
                f"{key[:80]!r} is no key of a task: use 1 to 40 of a-z, 0-9, _ and -, beginning with a letter or digit"
            )
        if keys.count(key) > 1:
            raise InvalidRequest(f"two tasks have the key {key!r}: keys are unique in a plan")
    made = tuple(_planned(task, keys, find) for task in tasks)
    if len(order := in_order(made)) < len(made):
        circle = ", ".join(repr(key) for key in keys if key not in order)
        raise InvalidRequest(f"these tasks wait for one another in a circle: {circle}")
    return made


def _planned(task: NewPlanTask | PlannedTask, keys: Collection[str], find: Callable[[str], str | None]) -> PlanTask:
    agent_id = find(task.agent)
    if agent_id is None:
        raise InvalidRequest(f"the task {task.key!r} is for {task.agent[:80]!r}: this project has no such agent")
    try:
        _instructions(task.instructions)
    except ValueError as error:
        raise InvalidRequest(f"the task {task.key!r}: {error}") from None
    depends_on = tuple(dict.fromkeys(task.depends_on))
    for other in depends_on:
        if other == task.key:
            raise InvalidRequest(f"the task {task.key!r} depends on itself")
        if other not in keys:
            raise InvalidRequest(f"the task {task.key!r} depends on {other[:80]!r}, which is no task of this plan")
    return PlanTask(key=task.key, agent_id=agent_id, instructions=task.instructions, depends_on=depends_on)


def in_order(tasks: Sequence[PlanTask]) -> list[str]:
    """Keys, each behind those it depends on; those in a circle, and behind one, are left out."""
    order: list[str] = []
    left = list(tasks)
    while True:
        next_ones = [task for task in left if all(key in order for key in task.depends_on)]
        if not next_ones:
            return order
        order += [task.key for task in next_ones]
        left = [task for task in left if task not in next_ones]
