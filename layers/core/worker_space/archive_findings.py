"""What the lines of an archive say of one another, and whether they agree."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from worker_space.archive_lines import (
    KINDS,
    AgentLine,
    ApprovalLine,
    ContextLine,
    Count,
    CounterLine,
    EventLine,
    FileLine,
    Line,
    MessageLine,
    PlanLine,
    SessionLine,
    StepLine,
    TaskLine,
    Time,
    Version,
)
from worker_space.decisions import PlannedTask
from worker_space.errors import InvalidRequest
from worker_space.ids import is_id
from worker_space.messages import MAX_CONTENT_BYTES, MessageContent
from worker_space.models import ModelReply, ToolResult, Usage
from worker_space.paths import workspace_path
from worker_space.plans import Plan, planned
from worker_space.tasks import TaskState

__all__ = ["Findings"]

_MAX_ITEM_BYTES: Final = 256 * 1024
# Kept elsewhere when they are long; everything else of a line has to fit into one item of the table.
_TEXTS: Final = ("content", "body", "arguments", "edited", "output", "text")


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Usage(Usage):
    input_tokens: Count = 0
    output_tokens: Count = 0


class _Reply(ModelReply):
    usage: _Usage = _Usage()


class _Model(_Body):
    reply: _Reply
    ms: Count | None = None


class _Intent(_Body):
    name: str
    intent: Mapping[str, Any]


class _Results(_Body):
    results: Sequence[ToolResult]
    effect: str | None = None
    ms: Count | None = None


class _PlanNumbers(_Body):
    version: Version
    created_at: Time
    updated_at: Time
    ended_at: Time | None


_ASKED: Final[TypeAdapter[str]] = TypeAdapter(MessageContent)
_BODIES: Final[Mapping[str, type[_Body]]] = {"model": _Model, "intent": _Intent, "results": _Results}


class Findings:
    """What the lines of an archive add up to; each is checked against those before it.

    Args:
        check_agent: Raises `RequestError` for an agent that this deployment cannot run.

    Attributes:
        agents: Ids of the project's agents; of deleted ones there are versions only.
        sessions: Ids of its sessions, and the number that the next message of each gets.
        tasks: Ids of its tasks.
        open_tasks: Those of them that had not ended.
        counts: Lines by kind.
        newest_events: The number of each session's newest event; sessions without events are not in it.
    """

    def __init__(self, check_agent: Callable[[AgentLine], None]) -> None:
        self.agents: set[str] = set()
        self.sessions: dict[str, int] = {}
        self.tasks: set[str] = set()
        self.open_tasks: set[str] = set()
        self.counts: dict[str, int] = {name.partition(".")[0]: 0 for name in KINDS}
        self.newest_events: dict[str, int] = {}
        self._check_agent = check_agent
        self._once: set[tuple[Any, ...]] = set()
        self._names: set[str] = set()
        self._versions: dict[str, int] = {}
        self._open_places: set[tuple[str, int]] = set()

    def take(self, name: str, line: Line) -> None:
        """Check one line against all before it.

        Raises:
            InvalidRequest: It contradicts them.
        """
        size = len(line.model_copy(update=dict.fromkeys(_TEXTS, "")).model_dump_json().encode())
        if size > _MAX_ITEM_BYTES:
            raise InvalidRequest(f"it has {size} bytes beside its text: at most {_MAX_ITEM_BYTES} are kept")
        key = _key(name, line)
        if key in self._once:
            raise InvalidRequest("it is there twice")
        self._once.add(key)
        kind = name.partition(".")[0]
        self.counts[kind] += 1
        check = getattr(self, f"_{kind}")
        check(line)

    def check_whole(self) -> None:
        """Check what only the end of an archive tells.

        Raises:
            InvalidRequest: Something is missing.
        """
        for agent_id, version in self._versions.items():
            # By its versions a clearing finds an agent's memory, and a task the agent that it began with.
            if ("agent_versions.jsonl", agent_id, version) not in self._once:
                raise InvalidRequest(f"agent_versions.jsonl: version {version} of the agent {agent_id} is missing")

    def _agents(self, line: AgentLine) -> None:
        name = line.config.name.casefold()
        if name in self._names:
            raise InvalidRequest(f"an agent named {line.config.name!r} is there already")
        self._names.add(name)
        self._check_agent(line)
        self.agents.add(line.id)
        self._versions[line.id] = line.version

    def _agent_versions(self, line: AgentLine) -> None:
        if line.version > self._versions.get(line.id, line.version):
            raise InvalidRequest(f"version {line.version} is newer than its agent")

    def _sessions(self, line: SessionLine) -> None:
        if line.next_number % 2:
            raise InvalidRequest("next_number: messages are numbered in pairs")
        self.sessions[line.id] = line.next_number

    def _tasks(self, line: TaskLine) -> None:
        self._in_session(line.session_id, line.number)
        self.tasks.add(line.id)
        if not line.state.ended:
            self.open_tasks.add(line.id)
            if line.type == "message":
                self._open_message(line)
        elif line.ended_at is None:
            raise InvalidRequest("ended_at: a task that has ended has a time")
        if line.state is TaskState.FAILED and line.error is None:
            raise InvalidRequest("error: a task that has failed says why")

    def _open_message(self, line: TaskLine) -> None:
        """It is answered where it is imported: so its answer's place has to be free, and one of the session's own."""
        if line.number % 2:
            raise InvalidRequest("number: messages have even numbers, their answers the next odd ones")
        if (place := (line.session_id, line.number)) in self._open_places:
            raise InvalidRequest("number: another task has not ended at this place of the session")
        self._open_places.add(place)

    def _steps(self, line: StepLine) -> None:
        self._of_task(line.task_id)
        body = _json(line.body)
        try:
            _BODIES[line.kind].model_validate(body)
        except ValidationError as error:
            at = ".".join(str(part)[:40] for part in error.errors()[0]["loc"])
            raise InvalidRequest(f"body: {at} is not what a step of kind {line.kind} has") from error

    def _messages(self, line: MessageLine) -> None:
        self._in_session(line.session_id, line.number)
        if (line.role == "assistant") != bool(line.number % 2):
            raise InvalidRequest("number: messages have even numbers, their answers the next odd ones")
        if line.role == "user":
            _check_asked(line.content)
        if line.role == "assistant" and (line.session_id, line.number - 1) in self._open_places:
            raise InvalidRequest("number: it answers a message whose task has not ended")

    def _plans(self, line: PlanLine) -> None:
        plan = line.plan
        if not is_id("plan", plan.id):
            raise InvalidRequest("plan.id: it is no id of a plan")
        _check_numbers(plan)
        if plan.session_id not in self.sessions:
            raise InvalidRequest("plan.session_id: the archive has no such session")
        ids = [plan.task_id, *(task.task_id for task in plan.tasks if task.task_id is not None)]
        if not all(is_id("task", task_id) for task_id in ids):
            raise InvalidRequest("plan: it names a task by something that is no id")
        if plan.approval_id is not None and not is_id("approval", plan.approval_id):
            raise InvalidRequest("plan.approval_id: it is no id of an approval")
        given = [
            PlannedTask(key=task.key, agent=task.agent_id, instructions=task.instructions, depends_on=task.depends_on)
            for task in plan.tasks
        ]
        planned(given, lambda agent_id: agent_id if is_id("agent", agent_id) else None)

    def _approvals(self, line: ApprovalLine) -> None:
        self._of_task(line.task_id)
        _json(line.arguments)
        if line.edited is not None:
            _json(line.edited)

    def _events(self, line: EventLine) -> None:
        if line.session_id not in self.sessions:
            raise InvalidRequest("session_id: the archive has no such session")
        expected = self.newest_events.get(line.session_id, 0) + 1
        if line.seq != expected:
            raise InvalidRequest(f"seq: event {expected} of this session comes next")
        self.newest_events[line.session_id] = line.seq

    def _context(self, line: ContextLine) -> None:
        if line.agent_id not in self.agents:
            raise InvalidRequest("agent_id: the archive has no such agent")

    def _counters(self, line: CounterLine) -> None:
        """They refer to nothing: agents and sessions may be gone."""

    def _files(self, line: FileLine) -> None:
        if workspace_path(line.path) != line.path:
            raise InvalidRequest("path: it is no path of a workspace")

    def _in_session(self, session_id: str, number: int) -> None:
        if session_id not in self.sessions:
            raise InvalidRequest("session_id: the archive has no such session")
        if number >= self.sessions[session_id]:
            raise InvalidRequest("number: its session has no such place yet")

    def _of_task(self, task_id: str) -> None:
        if task_id not in self.tasks:
            raise InvalidRequest("task_id: the archive has no such task")


_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "agents.jsonl": ("id",),
    "agent_versions.jsonl": ("id", "version"),
    "sessions.jsonl": ("id",),
    "tasks.jsonl": ("id",),
    "steps.jsonl": ("task_id", "number"),
    "messages.jsonl": ("session_id", "number"),
    "approvals.jsonl": ("id",),
    "events.jsonl": ("session_id", "seq"),
    "context.jsonl": ("agent_id", "id"),
    "counters.jsonl": ("agent_id",),
    "files.jsonl": ("path",),
}


def _check_asked(content: str) -> None:
    """Hold what a user said to what the API takes from one; what an agent answered has no such bound."""
    if (size := len(content.encode())) > MAX_CONTENT_BYTES:
        raise InvalidRequest(f"content: it has {size} bytes; a message takes at most {MAX_CONTENT_BYTES}")
    try:
        _ASKED.validate_python(content)
    except ValidationError as error:
        raise InvalidRequest(f"content: {str(error.errors()[0]['msg']).removeprefix('Value error, ')}") from error


def _check_numbers(plan: Plan) -> None:
    """Refuse versions and times that no plan of a service has."""
    try:
        _PlanNumbers.model_validate(plan.model_dump(include=set(_PlanNumbers.model_fields)))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(f"plan.{first['loc'][0]}: {first['msg']}") from error


def _key(name: str, line: Line) -> tuple[Any, ...]:
    if isinstance(line, PlanLine):
        return name, line.plan.id
    return name, *(getattr(line, attribute) for attribute in _KEYS[name])


def _json(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("a text that is to be JSON is none") from error
    if not isinstance(value, dict):
        raise InvalidRequest("a text that is to be a JSON object is none")
    return value
