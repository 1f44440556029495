"""What an agent is doing, and what came of its tasks, as read from its runtime item."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from worker_space.agents import Agent
from worker_space.metrics import TaskMetrics, task_metrics

__all__ = ["Activity", "AgentMetrics", "AgentStatus"]


class Activity(StrEnum):
    """An agent's state in one word; the first that fits, in this order."""

    DISABLED = "disabled"
    BUSY = "busy"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    IDLE = "idle"


class AgentStatus(BaseModel):
    """What an agent is doing now.

    Attributes:
        status: `disabled` (takes no new messages), `busy` (a task runs or waits for a place), `waiting_for_approval`
            (nothing runs, and some task waits for the user's word) or `idle`.
        registered: Whether the bus gives it new messages.
        running: Tasks being worked on.
        parked: Tasks that wait for one of them to end.
        waiting: Tasks that wait for the user's word.
    """

    model_config = ConfigDict(frozen=True)

    agent_id: str
    status: Activity
    registered: bool
    running: int
    parked: int
    waiting: int
    max_concurrency: int

    @classmethod
    def of(cls, agent: Agent, runtime: Mapping[str, Any]) -> "AgentStatus":
        """The status of an agent whose runtime item is `runtime`."""
        running, parked, waiting = (len(runtime.get(name, ())) for name in ("running", "parked", "waiting"))
        status = Activity.IDLE
        if not agent.config.enabled:
            status = Activity.DISABLED
        elif running or parked:
            status = Activity.BUSY
        elif waiting:
            status = Activity.WAITING_FOR_APPROVAL
        return cls(
            agent_id=agent.id,
            status=status,
            registered=runtime.get("registered", True),
            running=running,
            parked=parked,
            waiting=waiting,
            max_concurrency=agent.config.max_concurrency,
        )


class AgentMetrics(TaskMetrics):
    """What came of an agent's tasks since it was made; counted in the table, so true in every environment.

    Attributes:
        in_flight: Tasks being worked on now.
    """

    agent_id: str
    in_flight: int

    @classmethod
    def of_agent(cls, agent_id: str, runtime: Mapping[str, Any]) -> "AgentMetrics":
        """The metrics of the agent whose runtime item is `runtime`."""
        in_flight = len(runtime.get("running", ()))
        return cls(agent_id=agent_id, in_flight=in_flight, **task_metrics([runtime]).model_dump())
