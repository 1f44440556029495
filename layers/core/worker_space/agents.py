"""Agents: what a project's owner configures, and the record kept of it."""

import json
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from worker_space.naming import visible

__all__ = ["Agent", "AgentChanges", "AgentConfig"]

_MODEL: Final = r"^[a-z][a-z0-9_-]{0,31}:[^\s\x00-\x1f]{1,200}$"
_AN_ID: Final = re.compile(r"(?:agent|approval|erasure|plan|session|task)_[0-9a-z]{26}")

_METADATA_BYTES: Final = 16 * 1024
_METADATA_DEPTH: Final = 16
# DynamoDB keeps 38 digits, and nothing closer to zero than 10^-130.
_METADATA_NUMBER: Final = 10**37
_METADATA_LEAST: Final = 1e-100


def _name(value: str) -> str:
    value = visible(value)
    if "/" in value or "\\" in value:
        raise ValueError("a name must not hold slashes: it stands in addresses")
    if _AN_ID.fullmatch(value):
        raise ValueError("a name must not look like an id of this service")
    return value


def _storable(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse what the table cannot hold or other clients could not read."""
    try:
        size = len(json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode())
    except ValueError as error:
        raise ValueError("metadata must be Unicode text and finite numbers") from error
    if size > _METADATA_BYTES:
        raise ValueError(f"metadata has {size} bytes as JSON; at most {_METADATA_BYTES} are kept")
    _check_values(metadata, _METADATA_DEPTH)
    return metadata


def _check_values(value: JsonValue, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if depth == 0:
            raise ValueError(f"metadata is nested deeper than {_METADATA_DEPTH} levels")
        for part in value.values() if isinstance(value, dict) else value:
            _check_values(part, depth - 1)
    elif isinstance(value, (int, float)) and abs(value) > _METADATA_NUMBER:
        raise ValueError("metadata holds a number too large to be kept")
    elif isinstance(value, float) and 0 < abs(value) < _METADATA_LEAST:
        raise ValueError("metadata holds a number too close to zero to be kept")


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("a tool is named twice")
    return values


Name = Annotated[str, Field(min_length=1, max_length=64, examples=["coder"]), AfterValidator(_name)]


def _prompt(value: str) -> str:
    if not value.strip():
        raise ValueError("a system prompt needs some text")
    if "\x00" in value:
        raise ValueError("a system prompt must not hold NUL characters")
    return value


Prompt = Annotated[
    str,
    Field(min_length=1, max_length=32_000, examples=["You are a careful reviewer of Python code."]),
    AfterValidator(_prompt),
]
ModelName = Annotated[str, Field(pattern=_MODEL, examples=["offline:rules", "openai:gpt-5-mini"])]
Tools = Annotated[
    tuple[str, ...], Field(max_length=32, examples=[["read_file", "list_directory"]]), AfterValidator(_unique)
]
Concurrency = Annotated[int, Field(ge=1, le=10, strict=True)]
# So close to zero that the table could not keep it, it is zero.
Temperature = Annotated[float, Field(ge=0.0, le=2.0), AfterValidator(lambda value: round(value, 6))]
MaxTokens = Annotated[int, Field(ge=1, le=200_000, strict=True)]
Enabled = Annotated[bool, Field(strict=True)]
Metadata = Annotated[
    dict[str, JsonValue],
    Field(max_length=32, examples=[{"role": "reviewer", "capabilities": ["analyse", "review"]}]),
    AfterValidator(_storable),
]


class AgentConfig(BaseModel):
    """What makes an agent.

    Attributes:
        name: Unique in the project (without regard to case), 1 to 64 characters.
        system_prompt: The agent's instructions, at most 32,000 characters.
        model: `provider:name`; `offline:rules` needs no network and no key. Without one, the deployment's default.
        tools: Names of workspace tools the agent may call; unknown names are refused.
        max_concurrency: Most tasks of this agent at once, 1 to 10.
        temperature: 0.0 to 2.0, or the provider's default.
        max_tokens: Most tokens of one model answer, or the provider's default.
        enabled: Whether it takes new messages; what it was given before, it still answers.
        metadata: Free facts, at most 16 KiB as JSON, among them `role` (text) and `capabilities` (list of texts).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    system_prompt: Prompt
    model: ModelName = "offline:rules"
    tools: Tools = ()
    max_concurrency: Concurrency = 3
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    enabled: Enabled = True
    metadata: Metadata = Field(default_factory=dict)


class AgentChanges(BaseModel):
    """The attributes of an agent to change; what is not sent stays. `null` resets temperature and max_tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name | None = None
    system_prompt: Prompt | None = None
    model: ModelName | None = None
    tools: Tools | None = None
    max_concurrency: Concurrency | None = None
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    enabled: Enabled | None = None
    metadata: Metadata | None = None

    def apply(self, config: AgentConfig) -> AgentConfig:
        """The configuration with these changes."""
        nullable = {"temperature", "max_tokens"}
        sent = {
            key: value
            for key, value in self.model_dump(exclude_unset=True).items()
            if value is not None or key in nullable
        }
        return AgentConfig.model_validate({**config.model_dump(), **sent})


class Agent(BaseModel):
    """An agent as stored: its configuration, and what the service adds.

    Attributes:
        id: Made by the service; a rename keeps it.
        version: 1 at creation, one more with every update.
        created_at: Epoch milliseconds.
        updated_at: Epoch milliseconds.
        context_generation: One more with every clearing of its context; what was begun in an earlier one is not
            recalled any more.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    version: int
    config: AgentConfig
    created_at: int
    updated_at: int
    context_generation: int = 1

    @property
    def capabilities(self) -> list[str]:
        value: Any = self.config.metadata.get("capabilities", [])
        return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []
