"""A plan in words: for its user, before it begins."""

from typing import Any

from worker_space.home import Home
from worker_space.plans import Plan

__all__ = ["agent_name", "as_proposal", "as_question"]


def agent_name(home: Home, agent_id: str) -> str:
    """How an agent is called."""
    agent = home.agents.get(agent_id)
    return "an agent that was deleted" if agent is None else agent.config.name


def as_question(plan: Plan, home: Home) -> dict[str, Any]:
    """A plan as the user is asked about it."""
    return {
        "plan_id": plan.id,
        "tasks": [
            {
                "key": task.key,
                "agent": agent_name(home, task.agent_id),
                "instructions": task.instructions,
                "depends_on": list(task.depends_on),
            }
            for task in plan.tasks
        ],
    }


def as_proposal(plan: Plan, home: Home) -> str:
    """A proposed plan in words."""
    lines = [f"I propose a plan ({plan.id}); nothing of it has begun."]
    for task in plan.tasks:
        behind = f", after {', '.join(task.depends_on)}" if task.depends_on else ""
        lines.append(f"- **{task.key}** ({agent_name(home, task.agent_id)}{behind}): {task.instructions}")
    return "\n".join(lines)
