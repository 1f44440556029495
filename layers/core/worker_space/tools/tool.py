"""What a tool is: one arguments model and the function, or the two phases, that carry a call out.

A reading tool runs at once. A tool with an effect works in two phases, so that the run can be journalled between
them: `plan` looks at the world and returns an *intent* (JSON: what was found, above all the version), and `perform`
makes **one conditional change** under that intent, marked with the call's own `effect`. A worker that takes a half
done call over performs it again with ``recovering=True``: the mark tells it whether the change has happened already.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Generic, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from worker_space.errors import InvalidRequest
from worker_space.models import ToolSpec
from worker_space.paths import MAX_PATH_CHARACTERS, workspace_path
from worker_space.ports import ContextMatch, Files
from worker_space.tenancy import TenantContext

__all__ = [
    "AgentMemory",
    "Arguments",
    "EffectTool",
    "FilePath",
    "FolderPath",
    "JsonObject",
    "Patterns",
    "ReadingTool",
    "Risk",
    "ToolContext",
    "together",
]

JsonObject = dict[str, Any]
T = TypeVar("T")


class Risk(StrEnum):
    """What a tool can do to the user's files; a project's policy names the levels that need approval."""

    READING = "reading"
    WRITING = "writing"
    DELETING = "deleting"


class AgentMemory(Protocol):
    """The memory of the one agent that the call is made for."""

    async def search(self, query: str, limit: int) -> Sequence[ContextMatch]:
        """What the agent remembers about `query`, best first."""

    async def remember(self, text: str, entry_id: str) -> None:
        """Store a note under `entry_id`; storing it again changes nothing."""


class Patterns(Protocol):
    """Regular expressions whose matching time is linear in the text, whatever the pattern."""

    def compile(self, pattern: str, *, case_sensitive: bool) -> Callable[[str], bool]:
        """A function that tells whether a line holds a match.

        Raises:
            ToolError: The pattern is malformed, too large, or uses what cannot be matched in linear time.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """Whom a call is made for, and what it may use. None of it comes from the model.

    Attributes:
        tenant: Owner of the files; from the verified token and the URL.
        memory: The calling agent's, or `None` where no agent calls.
        search_seconds: Longest time that one search works, in seconds.
    """

    tenant: TenantContext
    files: Files
    patterns: Patterns
    memory: AgentMemory | None = None
    agent_id: str | None = None
    search_seconds: float = 5.0


def _file_path(text: str) -> str:
    try:
        return workspace_path(text)
    except InvalidRequest as error:
        raise ValueError(str(error)) from error


def _folder_path(text: str) -> str:
    try:
        return workspace_path(text, allow_root=True)
    except InvalidRequest as error:
        raise ValueError(str(error)) from error


FilePath = Annotated[str, Field(max_length=MAX_PATH_CHARACTERS), AfterValidator(_file_path)]
"""A file's path; normalised already when a tool sees it."""

FolderPath = Annotated[str, Field(max_length=MAX_PATH_CHARACTERS), AfterValidator(_folder_path)]
"""A folder's path, `""` for the project's root; normalised already when a tool sees it."""


class Arguments(BaseModel):
    """Base of every tool's arguments: bounded, nothing unknown; `null` counts as left out where there is a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in data.items() if value is not None or name not in optional}


A = TypeVar("A", bound=Arguments)
A_contra = TypeVar("A_contra", bound=Arguments, contravariant=True)

# Keywords of pydantic's own that tell a model nothing.
_NOISE: Final = frozenset({"title", "default"})


def _specification(name: str, description: str, arguments: type[Arguments]) -> ToolSpec:
    schema = arguments.model_json_schema()
    return ToolSpec(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": {
                key: {word: value for word, value in field.items() if word not in _NOISE}
                for key, field in schema.get("properties", {}).items()
            },
            "required": schema.get("required", []),
            "additionalProperties": False,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingTool(Generic[A]):
    """A tool without an effect.

    Attributes:
        run: Carries a call out and returns its result as JSON; raises `ToolError` when the model must choose another.
    """

    name: str
    description: str
    arguments: type[A]
    run: Callable[[ToolContext, A], Awaitable[JsonObject]]
    risk: Risk = Risk.READING

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model is told of it."""
        return _specification(self.name, self.description, self.arguments)


class Performing(Protocol[A_contra]):
    """The second phase of a tool with an effect."""

    def __call__(
        self, context: ToolContext, arguments: A_contra, intent: JsonObject, *, effect: str, recovering: bool
    ) -> Awaitable[JsonObject]:
        """Make the change that was planned, at most once for one `effect`, and return the result as JSON.

        Args:
            context: Whom the call is made for.
            arguments: The validated arguments.
            intent: What `plan` returned for these arguments.
            effect: Names this call for ever (`task#step`); stored with what it writes.
            recovering: An earlier attempt may have made the change already.

        Raises:
            ToolError: The world has changed since `plan`; nothing of anybody else's was overwritten.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectTool(Generic[A]):
    """A tool that changes something.

    Attributes:
        plan: Looks at the world and returns the intent; raises `ToolError` when the call cannot work.
        perform: Makes the one conditional change.
    """

    name: str
    description: str
    arguments: type[A]
    plan: Callable[[ToolContext, A], Awaitable[JsonObject]]
    perform: Performing[A]
    risk: Risk = Risk.WRITING

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model is told of it."""
        return _specification(self.name, self.description, self.arguments)


async def together(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """The results of independent calls; when one fails, the others are ended before its error is raised."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
