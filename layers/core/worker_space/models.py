"""What passes between an agent's run and a language model, in words of our own.

`adapters/model.py` alone translates to and from a model library. A reply carries the library's own form of itself as
opaque JSON (`provider`): it is journalled as it came and handed back unchanged on the next request, so that nothing a
provider needs (signatures, reasoning items) is lost between two steps or two workers.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AssistantTurn",
    "ModelReply",
    "ModelRequest",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "Turn",
    "Usage",
    "UserTurn",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolSpec(_Frozen):
    """A tool as the model is told of it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments object."""


class ToolCall(_Frozen):
    """One call that the model asks for."""

    id: str
    name: str
    arguments: Mapping[str, Any] | str
    """The arguments object, or the text as it came where that is no JSON object."""


class UserTurn(_Frozen):
    """What the user said."""

    kind: Literal["user"] = "user"
    content: str


class AssistantTurn(_Frozen):
    """An earlier answer: of this run (with `provider`) or of the session's history (text only)."""

    kind: Literal["assistant"] = "assistant"
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    provider: str | None = None
    """The model library's JSON of this answer, opaque to us."""


class ToolResult(_Frozen):
    """What a tool returned, or (`is_error`) why it refused."""

    kind: Literal["tool"] = "tool"
    call_id: str
    name: str
    content: str
    is_error: bool = False


Turn = UserTurn | AssistantTurn | ToolResult


class ModelRequest(_Frozen):
    """One request to a model.

    Attributes:
        model: `provider:name`, such as `offline:rules`, `openai:gpt-5-mini` or `bedrock:eu.amazon.nova-pro-v1:0`.
        system_prompt: The agent's instructions, with what was recalled for this message appended.
        turns: The conversation, oldest first; the last is a user turn or a tool result.
        tools: The tools the model may call.
        temperature: 0.0 to 2.0, or `None` for the provider's default.
        max_tokens: Most tokens of the answer, or `None` for the provider's default.
        timeout_seconds: How long the caller waits, in seconds.
    """

    model: str
    system_prompt: str
    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    timeout_seconds: float = 120.0


class Usage(_Frozen):
    """Tokens of one request as the provider counted them; 0 where it does not say."""

    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)


class ModelReply(_Frozen):
    """A model's answer: text, tool calls, or both."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    provider: str
    usage: Usage = Usage()
    finish_reason: str | None = None

    def as_turn(self) -> AssistantTurn:
        return AssistantTurn(content=self.content, tool_calls=self.tool_calls, provider=self.provider)
