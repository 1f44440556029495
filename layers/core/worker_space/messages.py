"""Chat sessions, their messages, and the shapes of sending one."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "MAX_CONTENT_BYTES",
    "ChatSession",
    "Message",
    "MessageContent",
    "MessageRequest",
    "MessageResponse",
    "NewSession",
]

MAX_CONTENT_BYTES: Final = 1024 * 1024

OnBusy = Literal["enqueue", "reject", "interrupt"]
"""What a message does in a session that is answering: wait its turn, be refused, or cancel what is open there."""


def _content(value: str) -> str:
    if not value.strip():
        raise ValueError("a message needs some text")
    if "\x00" in value:
        raise ValueError("a message must not hold NUL characters")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("a message must be text that UTF-8 can hold: it has half a surrogate pair")
    return value


MessageContent = Annotated[str, AfterValidator(_content), Field(examples=["Analyse main.py"])]


class MessageRequest(BaseModel):
    """One message to an agent.

    Attributes:
        content: At most 1 MiB as UTF-8.
        target_agent: The agent's id or name. Without one the session's agent answers, or the orchestrator chooses.
        on_busy: While the session is answering: `enqueue` waits behind it, `reject` is refused (409), `interrupt`
            cancels what is open in the session.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: MessageContent
    target_agent: Annotated[str, Field(min_length=1, max_length=128, examples=["coder"])] | None = None
    on_busy: OnBusy = "enqueue"


class MessageResponse(BaseModel):
    """An agent's answer; `id` is its task's."""

    model_config = ConfigDict(frozen=True)

    id: str
    role: Literal["assistant"] = "assistant"
    content: str
    agent_id: str
    mode: Literal["direct", "orchestrated"] = "direct"
    session_id: str
    created_at: int


class Message(BaseModel):
    """A message of a session as stored.

    Attributes:
        number: Its place: a turn's message has an even number, its answer the next odd one.
        agent_id: Who answers, or answered.
        status: `ok`, or `failed` / `canceled` where the turn ended without an answer; `content` then says why.
        created_at: Epoch milliseconds.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    role: Literal["user", "assistant"]
    content: str
    agent_id: str
    task_id: str
    status: Literal["ok", "failed", "canceled"] = "ok"
    created_at: int


class NewSession(BaseModel):
    """What a client says to open a session; everything is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(default="", max_length=200, examples=["About the checkout"])
    target_agent: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="The agent that answers messages which name none."
    )


class ChatSession(BaseModel):
    """A chat session; `open_tasks` counts the message being answered and those that wait behind it."""

    model_config = ConfigDict(frozen=True)

    id: str
    title: str
    target_agent: str | None = None
    message_count: int
    open_tasks: int
    created_at: int
    updated_at: int
