"""What an archive of a project holds: a manifest, the project, and lines of JSON by kind.

A line has what its owner can see over the API, and what an equal project needs beside it. It never has a name of the
tenant, a place in a queue or in a store, an address or a credential: those are made anew where it is imported. The text
of a message, step or approval stands in its line, wherever it is kept.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from worker_space.agents import AgentConfig
from worker_space.allowances import PROJECT_LIMITS
from worker_space.consent import ApprovalState
from worker_space.events import EventType
from worker_space.ids import Kind, is_id
from worker_space.plans import Plan
from worker_space.policy import ToolPolicy
from worker_space.projects import ProjectName
from worker_space.tasks import ORCHESTRATOR, Failure, TaskState

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "KINDS",
    "MANIFEST",
    "MAX_ARCHIVE_BYTES",
    "MAX_LINES",
    "MAX_ONE_TEXT",
    "MAX_TEXT_BYTES",
    "PROJECT",
    "AgentLine",
    "ApprovalLine",
    "ContextLine",
    "CounterLine",
    "EventLine",
    "FileLine",
    "Line",
    "Manifest",
    "MessageLine",
    "PlanLine",
    "ProjectFacts",
    "SessionLine",
    "StepLine",
    "TaskLine",
    "line_of",
]

FORMAT: Final = "worker-space-project"
FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
PROJECT: Final = "project.json"

MAX_LINES: Final = 20_000
"""Of all kinds together: as many as one request can store."""
MAX_TEXT_BYTES: Final = 64 * 1024 * 1024
"""Unpacked, all kinds together: what one request can read or store in its time, and hold in its memory."""
MAX_ARCHIVE_BYTES: Final = MAX_TEXT_BYTES + (1 << 20)
"""Packed: what does not let itself be packed becomes a little larger."""

MAX_ONE_TEXT: Final = 8 * 1024 * 1024
"""Characters of one text. JSON that is kept as text may hold what UTF-8 cannot (half a surrogate pair), escaped."""


class Line(BaseModel):
    """One line of an archive; unknown members are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _id_of(*kinds: Kind, also: str | None = None) -> AfterValidator:
    def check(value: str) -> str:
        if value != also and not any(is_id(kind, value) for kind in kinds):
            raise ValueError(f"{value[:40]!r} is no id of {' or '.join(kinds)}")
        return value

    return AfterValidator(check)


def _limit_name(value: str) -> str:
    if value not in PROJECT_LIMITS:
        raise ValueError(f"{value[:40]!r} is no limit of a project: there are {', '.join(PROJECT_LIMITS)}")
    return value


Time = Annotated[int, Field(ge=0, le=10**14, strict=True)]
Count = Annotated[int, Field(ge=0, le=10**12, strict=True)]
# As `allowances` takes them from a project's owner.
Limit = Annotated[int, Field(ge=0, le=10**15, strict=True)]
Version = Annotated[int, Field(ge=1, le=99_999_999, strict=True)]
Number = Annotated[int, Field(ge=0, le=10**11, strict=True)]
Text = Annotated[str, Field(max_length=MAX_ONE_TEXT)]
Word = Annotated[str, Field(min_length=1, max_length=256)]
CounterName = Annotated[
    str,
    Field(pattern=r"^(?:count_(?:completed|failed|canceled)|ms_[0-9]{1,3}|input_tokens|output_tokens|cost_micros)$"),
]
LimitName = Annotated[str, AfterValidator(_limit_name)]
AgentId = Annotated[str, _id_of("agent")]
# The orchestrator is no agent of the project, but it answers and asks as one.
SpeakerId = Annotated[str, _id_of("agent", also=ORCHESTRATOR)]
SessionId = Annotated[str, _id_of("session")]
TaskId = Annotated[str, _id_of("task")]
PlanId = Annotated[str, _id_of("plan")]
ApprovalId = Annotated[str, _id_of("approval")]


class Manifest(BaseModel):
    """What the archive is.

    Attributes:
        exported_at: Epoch milliseconds.
        counts: Lines by the file that they stand in.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["worker-space-project"]
    version: Version
    exported_at: Time
    counts: Mapping[str, Count]


class ProjectFacts(Line):
    """The project itself; its id is given where it is imported."""

    name: ProjectName
    policy: ToolPolicy
    limits: Mapping[LimitName, Limit]
    created_at: Time


class AgentLine(Line):
    """An agent, or one of its versions."""

    id: AgentId
    version: Version
    config: AgentConfig
    created_at: Time
    updated_at: Time


class SessionLine(Line):
    """A chat session. `next_number` is the number that its next message gets."""

    id: SessionId
    title: Annotated[str, Field(max_length=200)]
    target_agent: Word | None = None
    last_agent: SpeakerId | None = None
    next_number: Number
    created_at: Time
    updated_at: Time


class MessageLine(Line):
    """A message of a session."""

    session_id: SessionId
    number: Number
    role: Literal["user", "assistant"]
    content: Text
    agent_id: SpeakerId
    task_id: TaskId
    status: Literal["ok", "failed", "canceled"] = "ok"
    created_at: Time


class TaskLine(Line):
    """A task. One that had not ended is imported as canceled.

    Attributes:
        output: What a plan's task came to; a message's answer is a message.
    """

    id: TaskId
    type: Literal["message", "plan_task"]
    mode: Literal["direct", "orchestrated"] = "direct"
    state: TaskState
    session_id: SessionId
    agent_id: SpeakerId
    number: Number
    plan_id: PlanId | None = None
    plan_key: Word | None = None
    output: Text | None = None
    agent_version: Count | None = None
    approvals: tuple[ApprovalId, ...] = ()
    attempt: Count = 0
    steps: Count = 0
    recall: Word | None = None
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost_micros: Count = 0
    error: Failure | None = None
    created_at: Time
    started_at: Time | None = None
    updated_at: Time
    ended_at: Time | None = None


class StepLine(Line):
    """A journalled step of a task; `body` is JSON as text."""

    task_id: TaskId
    number: Annotated[int, Field(ge=0, le=999_999, strict=True)]
    kind: Literal["model", "intent", "results"]
    attempt: Count
    at: Time
    body: Text


class PlanLine(Line):
    """A plan; `former` are tasks that a retry has replaced."""

    plan: Plan
    former: tuple[TaskId, ...] = ()


class ApprovalLine(Line):
    """A question to the user, and its answer; `arguments` and `edited` are JSON as text."""

    id: ApprovalId
    kind: Literal["tool", "plan"]
    state: ApprovalState
    task_id: TaskId
    session_id: SessionId
    agent_id: SpeakerId
    agent_version: Count | None = None
    tool: Word | None = None
    risk: Word | None = None
    effect: Word
    arguments: Text
    arguments_digest: Word
    edited: Text | None = None
    edited_digest: Word | None = None
    reason: Annotated[str, Field(max_length=4_000)] | None = None
    created_at: Time
    expires_at: Time
    resolved_at: Time | None = None


class EventLine(Line):
    """An event of a session; a session's are numbered from 1 without a gap."""

    session_id: SessionId
    seq: Annotated[int, Field(ge=1, le=10**11, strict=True)]
    type: EventType
    at: Time
    task_id: TaskId | None = None
    agent_id: SpeakerId | None = None
    data: Mapping[str, JsonValue]


class ContextLine(Line):
    """One thing that an agent remembers."""

    agent_id: AgentId
    id: Word
    # As the API takes a note; what is kept of a task is shorter.
    text: Annotated[str, Field(min_length=1, max_length=8_000)]
    kind: Literal["interaction", "note"]
    created_at: Time
    task_id: TaskId | None = None
    session_id: SessionId | None = None
    success: bool = True


class CounterLine(Line):
    """What an agent's ended tasks added up to (`metrics`), also of sessions that were deleted since."""

    agent_id: SpeakerId
    counts: Annotated[Mapping[CounterName, Count], Field(max_length=200)]


class FileLine(Line):
    """A file that the User Workspace had: its bytes are not in the archive."""

    path: Annotated[str, Field(min_length=1, max_length=1_024)]
    size: Count
    version: Word


KINDS: Final[Mapping[str, type[Line]]] = {
    "agents.jsonl": AgentLine,
    "agent_versions.jsonl": AgentLine,
    "sessions.jsonl": SessionLine,
    "tasks.jsonl": TaskLine,
    "steps.jsonl": StepLine,
    "messages.jsonl": MessageLine,
    "plans.jsonl": PlanLine,
    "approvals.jsonl": ApprovalLine,
    "events.jsonl": EventLine,
    "context.jsonl": ContextLine,
    "counters.jsonl": CounterLine,
    "files.jsonl": FileLine,
}
"""The kinds of lines by their files, in the order in which they refer to one another."""


def line_of(kind: type[Line], values: Mapping[str, Any]) -> Line:
    """The line that shows these of an item's attributes that its kind has."""
    return kind.model_validate({name: values[name] for name in kind.model_fields if name in values})
