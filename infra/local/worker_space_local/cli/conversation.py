"""One message and its answer, as it happens: the calls an agent makes, what it says, and where the time went."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker_space_local.cli.interrupt import Interrupt
from worker_space_local.cli.preview import Preview
from worker_space_local.cli.screen import clean, markdown, say, seconds, warn
from worker_space_local.cli.telling import Story, tell_calls, tell_results
from worker_space_local.client import Client, ClientError, Json, Problem, segment
from worker_space_local.event_stream import EventStream

ENDED: Final = frozenset({"completed", "failed", "canceled"})
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
_FIRST_PATIENCE: Final = 1.0
_PATIENCE: Final = 5.0
"""Seconds without any news after which the person is told that nothing has happened yet."""
_NO_EVENTS: Final = frozenset({404, 405, 501})
AUTO: Final = "auto"
"""In the place of an agent's name: the project's orchestrator chooses."""


class TookTooLong(ClientError):
    """A task did not end in the time given; it goes on without us."""


def send(client: Client, project: str, text: str, agent: str | None, session: str | None) -> Json:
    """Send a message, in a new session where none is given, and return its task without waiting for the answer."""
    body = {"content": text, **({"target_agent": agent} if agent else {})}
    where = "" if session is None else f"{segment(session)}/message/"
    answer = client.post(f"{segment(project)}/chat/{where}", body, Prefer="respond-async")
    task = answer.get("task")
    if isinstance(task, dict):
        return task
    # A server may answer at once all the same: then `id` is the task's.
    if isinstance(answer.get("id"), str):
        return client.task(project, answer["id"])
    raise ClientError("the API took the message but named no task")


def agent_of(client: Client, project: str, session: str | None, agent: str | None) -> str | None:
    """Whom a message goes to when nobody is named: the session's own agent, else `analyst`; `None` names nobody."""
    if agent == AUTO:
        return None
    if agent is not None:
        return agent
    if session is not None:
        found = client.get(f"{segment(project)}/chat/sessions/{segment(session)}")
        if found.get("target_agent"):
            return None
    return "analyst"


class Follower:
    """Follows the messages of one conversation, each to its end.

    It reads the session's event stream, and goes on behind the last event it has seen. An API that tells no events
    is asked for the task again and again instead.

    Args:
        client: The API.
        project: The project's id.
    """

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._project = project
        self._streams: dict[str, EventStream] = {}

    def follow(self, task: Json, name: str, *, timeout: float) -> tuple[Json, str]:
        """Print what happens until a message's task has ended.

        Args:
            task: The task as it was accepted.
            name: What to call its agent.
            timeout: Seconds to wait for the end.

        Returns:
            The ended task, and what to call the agent that ended it.

        Raises:
            TookTooLong: It has not ended in time.
            KeyboardInterrupt: Ctrl-C was pressed; at the latest when the wait for the next event is over.
        """
        began = time.monotonic()
        session = str(task["session_id"])
        stream = self._streams.setdefault(session, EventStream(self._client, self._project, session))
        with Interrupt() as interrupt, Preview() as preview:
            story = Story(self._client, self._project, str(task["id"]), name, preview)
            patience = _FIRST_PATIENCE
            while (left := began + timeout - time.monotonic()) > 0:
                interrupt.check()
                try:
                    events = stream.read(wait=min(left, patience))
                except Problem as problem:
                    if problem.status not in _NO_EVENTS or stream.last:
                        raise
                    warn("… this API tells no events: its task is looked at instead")
                    return _poll(self._client, self._project, task, name, interrupt, timeout=left), name
                if story.tell(events):
                    ended = self._client.task(self._project, str(task["id"]))
                    return ended, story.name(ended["agent_id"])
                if not events:
                    warn(f"… still waiting ({time.monotonic() - began:.0f} s)")
                patience = _FIRST_PATIENCE if events else _PATIENCE
        raise _took_too_long(self._client.task(self._project, str(task["id"])), timeout)


def _took_too_long(task: Json, timeout: float) -> TookTooLong:
    return TookTooLong(
        f"no answer after {timeout:.0f} s (task {task['id']} is {task['state']}); it goes on in the background"
    )


def _poll(client: Client, project: str, task: Json, name: str, interrupt: Interrupt, *, timeout: float) -> Json:
    """Print what an agent does until its task has ended, by looking at the task."""
    began = news = time.monotonic()
    told, pause, patience = 0, _FIRST_PAUSE, 1.0
    while True:
        interrupt.check()
        # The task first: when it says that it has ended, the steps read after it are all there are.
        task = client.task(project, str(task["id"]))
        if int(task.get("steps", 0)) > told:
            steps = client.steps(project, str(task["id"]))
            for step in steps[told:]:
                _tell_step(name, step)
            told, pause, patience, news = len(steps), _FIRST_PAUSE, 1.0, time.monotonic()
        if task["state"] in ENDED:
            return task
        now = time.monotonic()
        if now - began > timeout:
            raise _took_too_long(task, timeout)
        if now - news > patience:
            what = "waiting for a worker" if task["state"] == "submitted" else f"{name} is working"
            warn(f"… {what} ({now - began:.0f} s)")
            patience += 5.0
        time.sleep(pause)
        pause = min(pause * 1.3, _LONGEST_PAUSE)


def _tell_step(name: str, step: Mapping[str, Any]) -> None:
    if step.get("kind") == "model":
        tell_calls(name, step.get("tool_calls") or ())
    elif step.get("kind") == "results":
        tell_results(step.get("results") or ())


def tell_end(name: str, task: Json) -> bool:
    """Print the answer, or why there is none; whether there is one."""
    if task["state"] == "completed":
        say(f"{name}:")
        markdown(str(task.get("answer") or "(an empty answer)"))
        return True
    error = task.get("error") or {}
    reason = clean(str(error.get("message") or "no reason was given"))
    say(f"{name}: no answer, the task was {task['state']}" + (f": {reason}" if task["state"] == "failed" else ""))
    return False


def time_line(task: Json, steps: Sequence[Json]) -> str:
    """Where the time went.

    `queue` lasts until a worker began; `model` and `tools` are as journalled. The journal ends before the model call
    that answers, so that call and the answer's storing are what lies behind the last step: `last answer`.
    """
    created, started, ended = (task.get(key) for key in ("created_at", "started_at", "ended_at"))
    if not isinstance(created, int) or not isinstance(ended, int):
        return "time: not known"
    total = ended - created
    began = started if isinstance(started, int) else ended
    models = [step for step in steps if step.get("kind") == "model"]
    results = [step for step in steps if step.get("kind") == "results"]
    calls = sum(len(step.get("tool_calls") or ()) for step in models)
    model, tools = (sum(float(step.get("ms") or 0) for step in some) for some in (models, results))
    last = ended - max([began, *(int(step["at"]) for step in steps if isinstance(step.get("at"), int))])
    parts = [
        f"queue {seconds(began - created)}",
        f"model {seconds(model)} ({_count(len(models), 'call')})",
        f"tools {seconds(tools)} ({_count(calls, 'call')})",
        f"last answer {seconds(last)}",
        f"the rest {seconds(ended - began - model - tools - last)}",
    ]
    again = f"; {task['attempt']} attempts" if int(task.get("attempt") or 0) > 1 else ""
    return f"time: {seconds(total)} in all: {', '.join(parts)}{again}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
