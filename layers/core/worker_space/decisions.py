"""Decisions of the orchestrator: the agents it chooses from, what it decides, and how a model's words become that."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker_space.agents import Agent
from worker_space.errors import InvalidRequest
from worker_space.models import ModelReply

__all__ = [
    "ASSIGN",
    "INSTRUCTIONS_CHARACTERS",
    "MAKE_PLAN",
    "MOST_PLANNED",
    "Assign",
    "Candidate",
    "PlannedTask",
    "parse_decision",
]

ASSIGN: Final = "assign"
"""The tool by which a model gives a request to one agent."""
MAKE_PLAN: Final = "make_plan"
"""The tool by which it splits one."""
MOST_PLANNED: Final = 20
"""Most tasks of one plan."""
INSTRUCTIONS_CHARACTERS: Final = 8_000
"""Most characters of one task's instructions."""

_REASON_CHARACTERS: Final = 500
_DESCRIPTION_CHARACTERS: Final = 300
_CAPABILITIES: Final = 20
_CAPABILITY_CHARACTERS: Final = 80


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Candidate(_Frozen):
    """An agent as the orchestrator sees it."""

    id: str
    name: str
    role: str = ""
    description: str = ""
    capabilities: tuple[str, ...] = ()

    @classmethod
    def of(cls, agent: Agent) -> Self:
        """The agent's name, and what its metadata says; without a description, the beginning of its instructions."""
        metadata = agent.config.metadata
        described, role = metadata.get("description"), metadata.get("role")
        text = described if isinstance(described, str) and described.strip() else agent.config.system_prompt
        return cls(
            id=agent.id,
            name=agent.config.name,
            role=role[:_CAPABILITY_CHARACTERS] if isinstance(role, str) else "",
            description=_beginning(text),
            capabilities=tuple(entry[:_CAPABILITY_CHARACTERS] for entry in agent.capabilities[:_CAPABILITIES]),
        )


class Assign(_Frozen):
    """One agent is to answer; `agent` is its id."""

    agent: str
    reason: str = ""


class PlannedTask(_Frozen):
    """One task of a plan as the model proposes it; `agent` is an id, `depends_on` holds keys of other tasks."""

    key: str
    agent: str
    instructions: str
    depends_on: tuple[str, ...] = ()


def parse_decision(reply: ModelReply, agents: Sequence[Candidate]) -> Assign | Sequence[PlannedTask]:
    """What the model has decided, its agents' names turned into ids.

    Lenient where the meaning is plain: the same JSON as text in place of a tool call, an agent's name in place of its
    id, an unknown field, a single dependency that is no list, a missing key. Whether the tasks make a plan (unique
    keys, no cycles) is not looked at here.

    Raises:
        InvalidRequest: It is no decision, or names an agent that is not there; the message is fit for the model.
    """
    name, arguments = _decision(reply)
    try:
        if name == ASSIGN:
            given = Assign.model_validate(arguments)
            return Assign(agent=_resolved(given.agent, agents), reason=given.reason[:_REASON_CHARACTERS])
        plan = _Plan.model_validate(arguments)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or name}: {e['msg']}" for e in error.errors()[:5])
        raise InvalidRequest(f"the arguments of {name} are wrong: {problems}") from None
    keys = [_key(task.key) or f"task_{number}" for number, task in enumerate(plan.tasks, start=1)]
    return [
        PlannedTask(
            key=key,
            agent=_resolved(task.agent, agents),
            instructions=task.instructions,
            depends_on=tuple(dict.fromkeys(_key(other) or repr(other) for other in _listed(task.depends_on))),
        )
        for key, task in zip(keys, plan.tasks, strict=True)
    ]


class _Proposed(_Frozen):
    key: str | int | None = None
    agent: str
    instructions: str = Field(min_length=1, max_length=INSTRUCTIONS_CHARACTERS)
    depends_on: list[str | int] | str | int | None = None


class _Plan(_Frozen):
    tasks: list[_Proposed] = Field(min_length=1, max_length=MOST_PLANNED)


def _decision(reply: ModelReply) -> tuple[str, Mapping[str, Any]]:
    """The one call of the answer: a tool's name and its arguments."""
    if len(reply.tool_calls) > 1:
        names = ", ".join(call.name[:40] for call in reply.tool_calls[:5])
        raise InvalidRequest(
            f"you made {len(reply.tool_calls)} tool calls ({names}); make exactly one: {MAKE_PLAN} for several agents"
        )
    for call in reply.tool_calls:
        if call.name not in {ASSIGN, MAKE_PLAN}:
            raise InvalidRequest(f"there is no tool {call.name[:80]!r}: call {ASSIGN} or {MAKE_PLAN}")
        if isinstance(call.arguments, str):
            raise InvalidRequest(f"the arguments of {call.name} are no JSON object")
        return call.name, call.arguments
    value = _json_in(reply.content)
    for outer in ("arguments", "parameters", "input"):
        if isinstance(value, dict) and value.get("name") in {ASSIGN, MAKE_PLAN} and isinstance(value.get(outer), dict):
            value = value[outer]
    if isinstance(value, dict) and len(value) == 1 and isinstance(inner := next(iter(value.values())), dict):
        value = inner
    if isinstance(value, dict) and isinstance(value.get("tasks"), list):
        return MAKE_PLAN, value
    if isinstance(value, dict) and isinstance(value.get("agent"), str):
        return ASSIGN, value
    raise InvalidRequest(f"you answered with text; call {ASSIGN} or {MAKE_PLAN}")


def _json_in(text: str) -> object:
    """The JSON object that a text holds, bare or in a fence, whatever is said around it."""
    start, end = text.find("{"), text.rfind("}")
    try:
        return json.loads(text[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        return None


def _resolved(named: str, agents: Sequence[Candidate]) -> str:
    wanted = named.strip().strip("`'\"@").casefold()
    for agent in agents:
        if agent.id == named.strip():
            return agent.id
    found = [agent.id for agent in agents if wanted in {agent.id.casefold(), agent.name.casefold()}]
    if len(found) != 1:
        known = ", ".join(f"{agent.id} ({agent.name})" for agent in agents[:MOST_PLANNED])
        raise InvalidRequest(f"there is no agent {named[:80]!r}; use one of these ids: {known}")
    return found[0]


def _listed(value: list[str | int] | str | int | None) -> list[str | int]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _key(value: str | int | None) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(value or "").casefold()).strip("_")[:40].strip("_")


def _beginning(text: str) -> str:
    """The first paragraph of a text as one line."""
    paragraph = " ".join(text.strip().split("\n\n", 1)[0].split())
    return paragraph if len(paragraph) <= _DESCRIPTION_CHARACTERS else paragraph[: _DESCRIPTION_CHARACTERS - 1] + "…"
