"""What happens in a session, told line by line: whom it goes to, what they call, what waits for a word."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from worker_space_local.cli.preview import Preview
from worker_space_local.cli.screen import clean, clock, one_line, say, warn
from worker_space_local.client import Client, ClientError, Json, Problem, segment

__all__ = ["ORCHESTRATOR", "Story", "tell_calls", "tell_results"]

ORCHESTRATOR: Final = "orchestrator"
_ENDS: Final = ("task_completed", "task_failed", "task_canceled")


class Story:
    """Tells the events that belong to one message.

    Args:
        client: The API.
        project: The project's id.
        task_id: The message's task.
        name: What to call the agent that the message went to.
        preview: Where text is shown while it grows.
    """

    def __init__(self, client: Client, project: str, task_id: str, name: str, preview: Preview) -> None:
        self._client = client
        self._project = project
        self._task_id = task_id
        self._first_name = name
        self._preview = preview
        self._names: dict[str, str] = {ORCHESTRATOR: ORCHESTRATOR}
        self._keys: dict[str, str] = {}
        self._of_others: set[str] = set()
        self._begun = False
        self._tellers: Mapping[str, Callable[[Json], None]] = {
            "step": self._step,
            "attempt_restarted": self._restarted,
            "agent_switched": self._switched,
            "plan_created": self._planned,
            "error": self._trouble,
        }

    def tell(self, events: Sequence[Json]) -> bool:
        """Tell these events, the next of the session; whether the message's task has ended with one of them."""
        for place, event in enumerate(events):
            if not self._is_ours(event):
                continue
            kind = str(event.get("type"))
            if kind in _ENDS:
                self._preview.clear()
                if event.get("task_id") == self._task_id:
                    return True
                self._part_ended(kind, event)
            elif kind == "approval_required":
                self._preview.clear()
                self._ask(event, later=events[place + 1 :])
            elif (teller := self._tellers.get(kind)) is not None:
                teller(event)
        return False

    def name(self, agent_id: object) -> str:
        """What people call an agent."""
        known = str(agent_id)
        if known not in self._names:
            try:
                found = self._client.get(f"{segment(self._project)}/agents/{segment(known)}")
                self._names[known] = one_line(str(found.get("name", "agent")))
            except Problem:
                # Deleted meanwhile; its work is told all the same.
                self._names[known] = "agent"
        return self._names[known]

    def _is_ours(self, event: Json) -> bool:
        """Whether an event is of this message: of its task, or of a task of its plan."""
        task_id = event.get("task_id")
        if event.get("type") == "message_created" and event.get("data", {}).get("role") == "user":
            if task_id == self._task_id:
                self._begun = True
                self._names.setdefault(str(event.get("agent_id")), self._first_name)
            else:
                self._of_others.add(str(task_id))
            return False
        return self._begun and task_id not in self._of_others

    def _step(self, event: Json) -> None:
        data = event.get("data", {})
        if data.get("kind") == "text":
            self._preview.add(str(data.get("text", "")))
            return
        self._preview.clear()
        name = self.name(event.get("agent_id"))
        if data.get("kind") == "model":
            tell_calls(name, data.get("tool_calls") or ())
        elif data.get("kind") == "tool":
            tell_results(data.get("results") or ())

    def _restarted(self, event: Json) -> None:
        self._preview.clear()
        warn(f"… {self.name(event.get('agent_id'))} begins again (attempt {event.get('data', {}).get('attempt')})")

    def _switched(self, event: Json) -> None:
        data = event.get("data", {})
        if isinstance(data.get("name"), str) and data.get("agent_id"):
            self._names[str(data["agent_id"])] = one_line(data["name"])
        reason = f": {one_line(str(data['reason']), 200)}" if data.get("reason") else ""
        say(f"{self.name(data.get('agent_id', event.get('agent_id')))} takes it{reason}")

    def _planned(self, event: Json) -> None:
        self._preview.clear()
        data = event.get("data", {})
        say("plan:" if data.get("state") != "proposed" else f"plan {clean(str(data.get('plan_id')))}, not begun:")
        for task in data.get("tasks") or ():
            key = one_line(str(task.get("key")))
            if task.get("task_id"):
                self._keys[str(task["task_id"])] = key
            after = ", ".join(one_line(str(other)) for other in task.get("depends_on") or ())
            instructions = one_line(str(task.get("instructions", "")), 100)
            say(f"  {key} ({self.name(task.get('agent_id'))}{f', after {after}' if after else ''}): {instructions}")

    def _part_ended(self, kind: str, event: Json) -> None:
        task_id = str(event.get("task_id"))
        what = self._keys.get(task_id, self.name(event.get("agent_id")))
        message = event.get("data", {}).get("message")
        ended = {"task_completed": "is done", "task_failed": "failed", "task_canceled": "was canceled"}[kind]
        say(f"  {what} {ended}" + (f": {one_line(str(message), 200)}" if message else ""))

    def _trouble(self, event: Json) -> None:
        warn(f"… {one_line(str(event.get('data', {}).get('message', 'something went wrong')), 200)}")

    # -- approvals -------------------------------------------------------------------------------
    def _ask(self, event: Json, *, later: Sequence[Json]) -> None:
        data = event.get("data", {})
        approval_id = str(data.get("approval_id"))
        what = "a plan" if data.get("kind") == "plan" else one_line(str(data.get("tool")))
        arguments = "" if data.get("kind") == "plan" else f" {shown(data.get('arguments'))}"
        say(f"{self.name(event.get('agent_id'))} wants your word for {what}{arguments}".rstrip())
        if any(
            other.get("type") in {"approval_resolved", "approval_expired"}
            and other.get("data", {}).get("approval_id") == approval_id
            for other in later
        ):
            return
        place = f"{segment(self._project)}/approvals/{segment(approval_id)}"
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            until = clock(data.get("expires_at"))
            warn(f"… it waits until {until}: POST /my/projects/{place}/confirm or …/reject")
            return
        try:
            self._decide(place, edits=data.get("kind") != "plan")
        except ClientError as error:
            say(f"! {error}")

    def _decide(self, place: str, *, edits: bool) -> None:
        options = "[y]es, [n]o or [e]dit" if edits else "[y]es or [n]o"
        while True:
            said = click.prompt(f"? {options}", default="", show_default=False).strip().casefold()
            if said in {"y", "yes"}:
                self._client.post(f"{place}/confirm")
            elif said in {"n", "no"}:
                reason = click.prompt("? why (may be empty)", default="", show_default=False).strip()
                self._client.post(f"{place}/reject", {"reason": reason} if reason else None)
            elif said in {"e", "edit"} and edits:
                # The event may have cut long values: what is edited are the exact ones.
                exact = json.dumps(self._client.get(place).get("arguments"), ensure_ascii=False)
                say(clean(exact))
                try:
                    arguments = json.loads(click.prompt("? arguments as JSON", default=exact, show_default=False))
                except ValueError as error:
                    say(f"! this is no JSON: {error}")
                    continue
                self._client.post(f"{place}/confirm", {"arguments": arguments})
            else:
                continue
            return


def tell_calls(name: str, calls: Sequence[Mapping[str, Any]]) -> None:
    """Print the tool calls that an agent makes."""
    for call in calls:
        say(f"{name} calls {one_line(str(call.get('name')))} {shown(call.get('arguments'))}".rstrip())


def tell_results(results: Sequence[Mapping[str, Any]]) -> None:
    """Print those results that are refusals."""
    for result in results:
        if result.get("is_error"):
            path = f" {one_line(str(result['path']))}" if result.get("path") else ""
            say(f"  {one_line(str(result.get('name')))}{path} was refused")


def shown(arguments: object) -> str:
    """A call's arguments in one line; a path stands without its name."""
    if not isinstance(arguments, Mapping):
        return one_line(str(arguments or ""))
    parts = []
    for key, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value)
        parts.append(one_line(text) if key == "path" else f"{clean(str(key))}={one_line(text)}")
    return " ".join(parts)
