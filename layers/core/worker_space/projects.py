"""Projects, and the record of the worker space behind each."""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker_space.errors import NotFound
from worker_space.naming import visible

__all__ = ["NewProject", "Project", "ProjectChanges", "Space", "SpaceState", "no_project"]


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
        last_accept: When a message was last accepted, epoch milliseconds.
        open_tasks: Tasks of this epoch that have not ended: counted in the transactions that accept and end them.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    state: SpaceState
    epoch: int
    generation: int
    created_at: int
    updated_at: int
    last_accept: int = 0
    open_tasks: int = 0


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
    """What of a project can be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ProjectName


class Project(BaseModel):
    """A project as its owner sees it; times in epoch milliseconds."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    created_at: int
    updated_at: int


def no_project(project_id: str) -> NotFound:
    """What a missing project and somebody else's look like, wherever it is noticed."""
    return NotFound(f"there is no project {project_id[:80]!r}")
