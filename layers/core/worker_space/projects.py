"""Projects, and the record of the worker space behind each."""

import zlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from worker_space.allowances import LimitChanges
from worker_space.errors import NotFound
from worker_space.naming import visible
from worker_space.policy import PolicyChanges, ToolPolicy
from worker_space.tenancy import TenantContext

__all__ = [
    "SPACE_SHARDS",
    "NewProject",
    "Project",
    "ProjectChanges",
    "Space",
    "SpaceState",
    "no_project",
    "space_shard",
]

SPACE_SHARDS: Final = ("space0", "space1", "space2", "space3")


def space_shard(tenant: TenantContext) -> str:
    """Where the sweeper finds a space: beside the tasks' places, so that neither holds the other up."""
    return SPACE_SHARDS[zlib.crc32(tenant.token.encode()) % len(SPACE_SHARDS)]


class SpaceState(StrEnum):
    """Whether the backend holds a queue for the project.

    `dormant` (none; nothing is paid) → `waking` (queue and mapping are being made) → `active` → `hibernating` (they are
    being taken away) → `dormant`. A message wakes a hibernating project, too. A deleted project's record stays as
    `deleted`, so that a late worker finds a newer epoch and can bring nothing back.
    """

    DORMANT = "dormant"
    WAKING = "waking"
    ACTIVE = "active"
    HIBERNATING = "hibernating"
    DELETED = "deleted"


class Space(BaseModel):
    """The worker space's own record.

    Attributes:
        epoch: Grows with every reset, erasure or deletion; work of an older epoch cannot write.
        generation: Of the queue: SQS refuses the name of a queue deleted less than 60 s ago. 0 before the first.
        active_since: When its queue was made, epoch milliseconds; means something only while it is active.
        resetting: A reset has begun and not ended: nothing wakes the space until then.
        last_accept: When a message was last accepted, epoch milliseconds.
        open_tasks: Tasks of this epoch that have not ended: counted in the transactions that accept and end them.
        policy: What waits for the user's word.
        policy_version: One more with each change of the policy; what it allows is done under this as a condition.
        limits: Those that the owner has set (`allowances`).
        operator_limits: Those that the deployment's operator has set for this project; `None` lifts one.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    state: SpaceState
    epoch: int
    generation: int
    created_at: int
    updated_at: int
    active_since: int = 0
    resetting: bool = False
    last_accept: int = 0
    open_tasks: int = 0
    policy: ToolPolicy = ToolPolicy()
    policy_version: int = 0
    limits: Mapping[str, int] = Field(default_factory=dict)
    operator_limits: Mapping[str, int | None] = Field(default_factory=dict)


ProjectName = Annotated[str, Field(min_length=1, max_length=128, examples=["The web shop"]), AfterValidator(visible)]


class NewProject(BaseModel):
    """What a client says to make a project.

    Attributes:
        id: The client's own id, unique among the user's projects; the service makes one when it is missing.
        name: For people, 1 to 128 characters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["shop"])
    name: ProjectName


class ProjectChanges(BaseModel):
    """What of a project to change; what is not sent stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ProjectName | None = None
    policy: PolicyChanges | None = None
    limits: LimitChanges | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(f"say what to change: {', '.join(type(self).model_fields)}")
        return self


class Project(BaseModel):
    """A project as its owner sees it; times in epoch milliseconds.

    Attributes:
        policy: Which calls of its agents, and which plans, wait for the user's word.
        limits: Those that the owner has set, below the deployment's own.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    policy: ToolPolicy = ToolPolicy()
    limits: Mapping[str, int] = Field(default_factory=dict)
    created_at: int
    updated_at: int


def no_project(project_id: str) -> NotFound:
    """What a missing project and somebody else's look like, wherever it is noticed."""
    return NotFound(f"there is no project {project_id[:80]!r}")
