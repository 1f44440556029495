"""The offline model in the orchestrator's place: it chooses an agent, makes a plan, and puts results together."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import TypeAdapter

from worker_space.adapters.offline.dialogue import Call
from worker_space.adapters.offline.parts import Part, parts
from worker_space.adapters.offline.routing import Choice, choose
from worker_space.decisions import ASSIGN, INSTRUCTIONS_CHARACTERS, MAKE_PLAN, Candidate
from worker_space.orchestration_prompts import COMPOSER, ORCHESTRATOR, TaskResult

__all__ = ["orchestrate", "outputs_given"]

_MOST_TASKS: Final = 8
_KEY_WORDS: Final = 3
_AGENTS: Final = re.compile(r"<agents>(\[.*\])</agents>\s*\Z", re.S)
_RESULTS: Final = re.compile(r"<results>(\[.*\])</results>\s*\Z", re.S)
_ADDRESSED: Final = re.compile(r"\s*@\S")
# As the worker puts them behind an agent's own instructions, each output under its task's name.
_INPUTS: Final = re.compile(r"\n<inputs>\n(.*?)\n</inputs>", re.S)
_HEADING: Final = re.compile(r"(?:\A|(?<=\n))## [a-z0-9_-]{1,40}(?: \([^\n]{1,64}\))?\n")
_CANDIDATES: Final = TypeAdapter(list[Candidate])
_TASK_RESULTS: Final = TypeAdapter(list[TaskResult])
_NO_KEY: Final = frozenset({"a", "an", "the", "and", "of", "to", "in", "for", "my", "our", "it", "please", "all"})


def orchestrate(system_prompt: str, message: str, tools: Sequence[str]) -> Call | str | None:
    """The decision or the composed answer that this prompt asks for; `None` if it asks for neither."""
    if system_prompt.startswith(ORCHESTRATOR) and MAKE_PLAN in tools:
        agents = _read(_AGENTS, _CANDIDATES, system_prompt)
        return _decide(message, agents, may_assign=ASSIGN in tools) if agents else "This project has no agents."
    if system_prompt.startswith(COMPOSER) and not tools:
        return _compose(_read(_RESULTS, _TASK_RESULTS, system_prompt))
    return None


def outputs_given(system_prompt: str) -> str:
    """What the tasks came to that this one builds on, where the agent works on a task of a plan."""
    found = _INPUTS.search(system_prompt)
    if found is None:
        return ""
    outputs = [output.strip() for output in _HEADING.split(found[1])[1:]]
    return "\n\n".join(output for output in outputs if output)


def _read(block: re.Pattern[str], kind: TypeAdapter[list[Any]], system_prompt: str) -> list[Any]:
    match = block.search(system_prompt)
    try:
        return [] if match is None else kind.validate_python(json.loads(match[1]))
    except (ValueError, RecursionError):
        return []


@dataclass(frozen=True, slots=True)
class _Task:
    """Neighbouring parts of one agent; `places` are theirs."""

    choice: Choice
    text: str
    places: tuple[int, ...]
    needs: frozenset[int]


def _decide(goal: str, agents: Sequence[Candidate], *, may_assign: bool) -> Call:
    addressed = _ADDRESSED.match(goal) is not None and choose(goal, agents).named
    tasks = _tasks([Part(text=goal, said=goal)] if addressed else parts(goal), agents)
    if may_assign and len({task.choice.agent.id for task in tasks}) == 1:
        choice = tasks[0].choice if len(tasks) == 1 else choose(goal, agents)
        return Call(ASSIGN, {"agent": tasks[0].choice.agent.id, "reason": choice.reason})
    keys = _keys(tasks)
    key_of = {place: key for key, task in zip(keys, tasks, strict=True) for place in task.places}
    return Call(
        MAKE_PLAN,
        {
            "tasks": [
                {
                    "key": key,
                    "agent": task.choice.agent.id,
                    "instructions": task.text[:INSTRUCTIONS_CHARACTERS],
                    "depends_on": list(dict.fromkeys(key_of[place] for place in sorted(task.needs))),
                }
                for key, task in zip(keys, tasks, strict=True)
            ]
        },
    )


def _tasks(found: Sequence[Part], agents: Sequence[Candidate]) -> list[_Task]:
    """A task for each part; what speaks for no agent, or for the same one, stays with the part before."""
    tasks: list[_Task] = []
    for place, part in enumerate(found):
        choice = choose(part.said, agents)
        last = tasks[-1] if tasks else None
        task = _Task(choice, part.text, (place,), frozenset(part.needs))
        if last is None:
            tasks.append(task)
        elif not choice.fits or choice.agent.id == last.choice.agent.id or len(tasks) == _MOST_TASKS:
            tasks[-1] = _joined(last, task, part.joint, last.choice)
        elif not last.choice.fits:
            tasks[-1] = _joined(last, task, part.joint, choice)
        else:
            tasks.append(task)
    return tasks


def _joined(first: _Task, second: _Task, joint: str, choice: Choice) -> _Task:
    places = (*first.places, *second.places)
    joint = joint if joint.strip() else "\n"
    text = second.text if joint == "\n" else second.text[:1].lower() + second.text[1:]
    return replace(
        first,
        choice=choice,
        text=first.text + joint + text,
        places=places,
        needs=(first.needs | second.needs) - frozenset(places),
    )


def _keys(tasks: Sequence[_Task]) -> list[str]:
    """Short names such as `review_main_py`, each once."""
    keys: list[str] = []
    for task in tasks:
        words = [word for word in re.findall(r"[a-z0-9]+", task.text.lower()) if word not in _NO_KEY]
        key = "_".join(words[:_KEY_WORDS])[:32].strip("_") or "task"
        keys.append(key if key not in keys else f"{key}_{len(keys) + 1}")
    return keys


def _compose(results: Sequence[TaskResult]) -> str:
    """Each result under its agent's name, as it came; what did not come about says why."""
    names = [result.agent for result in results]
    done = sum(result.state == "completed" for result in results)
    sections = [] if done == len(results) else [f"{done} of {len(results)} parts were completed."]
    for result in results:
        heading = result.agent if names.count(result.agent) == 1 else f"{result.agent}: {result.key}"
        body = result.output.strip()
        if result.state != "completed":
            what = "was canceled" if result.state == "canceled" else "failed"
            body = f"This part {what}: {body}" if body else f"This part {what}."
        sections.append(f"## {heading}\n\n{body or 'No text came of this part.'}")
    return "\n\n".join(sections) or "There is nothing to report."
