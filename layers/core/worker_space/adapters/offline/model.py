"""The rules behind Pydantic AI's `FunctionModel`: conversation in, one tool call or the answer out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from worker_space.adapters.offline.answers import Desk, reply
from worker_space.adapters.offline.dialogue import Call, Exchange, Result, play
from worker_space.adapters.offline.orchestrating import orchestrate, outputs_given

__all__ = ["offline_model"]


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What the rules look at: who they speak for, what was said before, the message, and this run's calls."""

    system_prompt: str
    earlier: Sequence[str]
    message: str
    done: Sequence[Exchange]
    characters: int


def offline_model() -> FunctionModel:
    """The model `offline:rules`."""
    return FunctionModel(_respond, model_name="rules")


# A coroutine function, though it awaits nothing: a plain one would be run in another thread, which costs more than it.
async def _respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    conversation = _conversation(messages)
    outcome = _next(conversation, info)
    part: TextPart | ToolCallPart
    if isinstance(outcome, str):
        part = TextPart(outcome)
        written = len(outcome)
    else:
        part = ToolCallPart(outcome.tool, dict(outcome.arguments), _call_id(conversation))
        written = len(part.args_as_json_str())
    # About four characters a token, as an orientation: rules have no tokens.
    usage = RequestUsage(input_tokens=max(1, conversation.characters // 4), output_tokens=max(1, written // 4))
    return ModelResponse([part], usage=usage, finish_reason="stop" if isinstance(outcome, str) else "tool_call")


def _next(conversation: _Conversation, info: AgentInfo) -> Call | str:
    tools = tuple(tool.name for tool in info.function_tools)
    decided = orchestrate(conversation.system_prompt, conversation.message, tools)
    if decided is not None:
        return decided
    desk = Desk.of(conversation.system_prompt, conversation.earlier, tools, outputs_given(conversation.system_prompt))
    return play(reply(desk, conversation.message), frozenset(tools), conversation.done)


def _call_id(conversation: _Conversation) -> str:
    return f"call_{len(conversation.done) + 1}"


def _conversation(messages: Sequence[ModelMessage]) -> _Conversation:
    system: list[str] = []
    said: list[str] = []
    calls: dict[str, Call] = {}
    done: list[Exchange] = []
    characters = 0
    for message in messages:
        if isinstance(message, ModelResponse):
            for call in message.tool_calls:
                calls[call.tool_call_id] = Call(call.tool_name, _arguments(call))
                characters += len(call.args_as_json_str())
            characters += len(message.text or "")
            continue
        for part in message.parts:
            if isinstance(part, SystemPromptPart):
                system.append(part.content)
                characters += len(part.content)
            elif isinstance(part, UserPromptPart):
                text = (
                    part.content
                    if isinstance(part.content, str)
                    else " ".join(piece for piece in part.content if isinstance(piece, str))
                )
                said.append(text)
                characters += len(text)
                # A new message is a new run: what tools said before it may no longer be so.
                done = []
            elif isinstance(part, ToolReturnPart):
                content = part.model_response_str(wrap_if_error=False)
                characters += len(content)
                call_made = calls.get(part.tool_call_id)
                if call_made is not None:
                    done.append(Exchange(call_made, Result.parse(content, failed=part.outcome != "success")))
    return _Conversation(
        system_prompt="\n".join(system),
        earlier=said[:-1],
        message=said[-1] if said else "",
        done=done,
        characters=characters,
    )


def _arguments(call: ToolCallPart) -> dict[str, Any]:
    try:
        value = call.args if isinstance(call.args, dict) else json.loads(call.args or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
