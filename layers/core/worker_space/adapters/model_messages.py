"""Our turns, tools and errors in Pydantic AI's words, and back: the one seam to that library."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import httpx2
from botocore.exceptions import BotoCoreError
from pydantic import ValidationError
from pydantic_ai import exceptions
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    PartDeltaEvent,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.messages import ModelRequest as LibraryRequest
from pydantic_ai.models import Model as LibraryModel
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from worker_space.errors import ModelError, Unavailable
from worker_space.models import AssistantTurn, ModelReply, ModelRequest, ToolCall, ToolResult, Usage, UserTurn

__all__ = [
    "FAILURES",
    "VERDICTS",
    "is_about_the_key",
    "streamed",
    "to_error",
    "to_messages",
    "to_parameters",
    "to_reply",
    "to_settings",
]

Verdict = Literal["passing", "refused", "unusable", "by status"]

# Read from the top: the first class that the error is an instance of decides. An HTTP error is also an instance of
# its category, so the plain HTTP entry only meets statuses that have none. A test holds the library's errors to this.
VERDICTS: Final[tuple[tuple[type[BaseException], Verdict], ...]] = (
    (exceptions.ModelQuotaExceededError, "refused"),
    (exceptions.ModelRateLimitError, "passing"),
    (exceptions.ModelUnavailableError, "passing"),
    (exceptions.ModelServerError, "passing"),
    (exceptions.ModelConnectionError, "passing"),
    (exceptions.ModelRequestTimeout, "passing"),
    (exceptions.ModelHTTPError, "by status"),
    (exceptions.ModelRequestRejectedError, "refused"),
    (exceptions.ContentFilterError, "refused"),
    (exceptions.UnexpectedModelBehavior, "unusable"),
    (exceptions.ModelAPIError, "unusable"),
    (exceptions.UserError, "refused"),
    # A certificate, a proxy or a body that broke off, from where the library does not wrap its HTTP client's errors.
    (httpx2.TransportError, "passing"),
    (httpx2.HTTPError, "unusable"),
    # Failures of the connection are wrapped; what is left is missing credentials, region or the like.
    (BotoCoreError, "refused"),
    # An answer that is JSON, but not of the shape or type that the provider's library expects.
    (ValueError, "unusable"),
    (TypeError, "unusable"),
    (AttributeError, "unusable"),
    (LookupError, "unusable"),
    (RecursionError, "unusable"),
)
FAILURES: Final = tuple(error for error, _ in VERDICTS)


class _BrokeOff(exceptions.ModelConnectionError):
    """A stream that ended before its answer did."""


_PASSING_STATUSES: Final = frozenset({408, 409, 425, 429})
_REASON_MAX: Final = 300
_ECHO: Final = 24
_KEY: Final = re.compile(r"(?i)\b(?:sk|pk|rk|key|bearer|AKIA|ASIA)[-_ ]?[A-Za-z0-9*._-]{8,}")


def to_messages(request: ModelRequest) -> list[ModelMessage]:
    """The conversation, the system prompt first; what stands between two answers is one message."""
    messages: list[ModelMessage] = []
    parts: list[ModelRequestPart] = [SystemPromptPart(request.system_prompt)] if request.system_prompt else []
    for turn in request.turns:
        if isinstance(turn, UserTurn):
            parts.append(UserPromptPart(turn.content))
        elif isinstance(turn, ToolResult):
            parts.append(_to_result(turn))
        elif answer := _to_responses(turn):
            if parts:
                messages.append(LibraryRequest(parts))
                parts = []
            messages.extend(answer)
    if parts:
        messages.append(LibraryRequest(parts))
    return messages


def _to_result(turn: ToolResult) -> ToolReturnPart:
    """A failed call is marked; the library wraps its text in `{"error": …}` where a provider has no mark for it."""
    if not turn.is_error:
        return ToolReturnPart(turn.name, turn.content, turn.call_id)
    content = turn.content
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("error"), str) and len(value) == 1:
        content = value["error"]
    return ToolReturnPart(turn.name, content, turn.call_id, outcome="failed")


def _to_responses(turn: AssistantTurn) -> Sequence[ModelMessage]:
    if turn.provider is not None:
        try:
            return ModelMessagesTypeAdapter.validate_json(turn.provider)
        except ValidationError:
            # Journalled by another version of the library: text and calls are what every version understands.
            pass
    parts: list[ModelResponsePart] = [TextPart(turn.content)] if turn.content.strip() else []
    for call in turn.tool_calls:
        arguments = call.arguments if isinstance(call.arguments, str) else dict(call.arguments)
        parts.append(ToolCallPart(call.name, arguments, call.id))
    return [ModelResponse(parts)] if parts else []


def to_parameters(request: ModelRequest) -> ModelRequestParameters:
    """The tools that the model may call."""
    return ModelRequestParameters(
        function_tools=[
            ToolDefinition(
                name=tool.name, description=tool.description, parameters_json_schema=dict(tool.parameters), strict=False
            )
            for tool in request.tools
        ]
    )


def to_settings(request: ModelRequest, seconds: float) -> ModelSettings:
    """Settings of one try that may take `seconds`."""
    settings = ModelSettings()
    if not request.model.startswith(("bedrock:", "offline:")):
        # Bedrock's timeouts belong to its client.
        settings["timeout"] = seconds
    if request.temperature is not None:
        settings["temperature"] = request.temperature
    if request.max_tokens is not None:
        settings["max_tokens"] = request.max_tokens
    return settings


async def streamed(
    model: LibraryModel,
    messages: list[ModelMessage],
    settings: ModelSettings,
    parameters: ModelRequestParameters,
    on_text: Callable[[str], None],
) -> ModelResponse:
    """The whole answer, after its text went to `on_text` as it came; together the pieces are the answer's text."""
    if isinstance(model, FunctionModel):
        response = await model.request(messages, settings, parameters)
        text = response.text or ""
        for start in range(0, len(text), _PIECE_CHARACTERS):
            on_text(text[start : start + _PIECE_CHARACTERS])
        return response
    written = False
    async with model.request_stream(messages, settings, parameters) as stream:
        async for event in stream:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                # As the library joins the texts of one answer.
                piece = ("\n\n" if written and event.previous_part_kind != "text" else "") + event.part.content
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                piece = event.delta.content_delta
            else:
                continue
            if piece:
                written = True
                on_text(piece)
    response = stream.get()
    if response.finish_reason in {None, "stop"} and "finish_reason" not in (response.provider_details or {}):
        # The library takes such an end for a good one; but a connection that is closed halfway looks the same.
        raise _BrokeOff(model.model_name, "the stream ended before the answer did")
    return response


_PIECE_CHARACTERS: Final = 80


def to_reply(response: ModelResponse, request: ModelRequest) -> ModelReply:
    """The answer in our words.

    Raises:
        ModelError: It holds neither text nor a tool call, or text that cannot be stored.
    """
    content = response.text or ""
    calls = tuple(
        ToolCall(id=part.tool_call_id, name=part.tool_name, arguments=_arguments(part)) for part in response.tool_calls
    )
    usage = Usage(
        input_tokens=max(0, response.usage.input_tokens or 0),
        output_tokens=max(0, response.usage.output_tokens or 0),
    )
    used = usage.input_tokens, usage.output_tokens
    if not content.strip() and not calls:
        why = _WHY_EMPTY.get(response.finish_reason or "", "")
        raise ModelError(f"{request.model} gave an empty answer{why}", used=used)
    try:
        provider = ModelMessagesTypeAdapter.dump_json([response]).decode()
        content.encode()
    except ValueError as error:
        raise ModelError(f"{request.model} gave an answer that is not valid text", used=used) from error
    return ModelReply(
        content=content,
        tool_calls=calls,
        provider=provider,
        usage=usage,
        finish_reason=response.finish_reason,
    )


_WHY_EMPTY: Final = {
    "length": ": it used up its tokens before it wrote anything, so raise the agent's max_tokens",
    "content_filter": ": the provider's content filter stopped it",
}


def _arguments(part: ToolCallPart) -> dict[str, Any] | str:
    """The arguments object; anything else as the text that came, for the run to tell the model."""
    if part.args is None:
        return {}
    if isinstance(part.args, dict):
        return part.args
    text: str = part.args
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def to_error(
    error: BaseException, request: ModelRequest, *, secrets: Sequence[str | None] = ()
) -> ModelError | Unavailable:
    """Our error for one of `FAILURES`, with the provider's reason but no key and nothing of the prompt."""
    verdict = next(verdict for kind, verdict in VERDICTS if isinstance(error, kind))
    status = error.status_code if isinstance(error, exceptions.ModelHTTPError) else None
    if verdict == "by status":
        verdict = "passing" if status is None or status >= 500 or status in _PASSING_STATUSES else "refused"
    if verdict == "unusable":
        return ModelError(f"the answer of {request.model} cannot be used ({type(error).__name__})")
    where = f"HTTP {status}" if status is not None else _WITHOUT_STATUS.get(type(error), type(error).__name__)
    if verdict == "passing":
        return Unavailable(
            "model", f"{request.model} answered {where}" if status is not None else f"{request.model}: {where}"
        )
    if is_about_the_key(error):
        # What providers say here holds parts of keys and names of accounts: the operator's matter, not the user's.
        return ModelError(f"the provider of {request.model} does not accept this deployment's credentials ({where})")
    reason = _shown(_reason(error), request, secrets)
    return ModelError(f"{request.model} refused the request ({where})" + (f": {reason}" if reason else ""))


def is_about_the_key(error: BaseException) -> bool:
    """Whether the provider did not accept this deployment's credentials."""
    return isinstance(error, exceptions.ModelHTTPError) and error.status_code in (401, 403)


_WITHOUT_STATUS: Final[dict[type[BaseException], str]] = {
    exceptions.ModelConnectionError: "no connection to the provider",
    exceptions.ModelTimeoutError: "the provider did not answer in time",
    _BrokeOff: "the answer broke off",
}


def _reason(error: BaseException) -> str:
    """What the provider itself says, from the places where providers say it."""
    if not isinstance(error, exceptions.ModelAPIError):
        return str(error)
    body = error.body
    for _ in range(3):
        if not isinstance(body, dict):
            break
        for name in ("message", "Message", "detail"):
            if isinstance(body.get(name), str):
                return str(body[name])
        body = body.get("error", body.get("Error"))
    return body if isinstance(body, str) and not body.lstrip().startswith("<") else ""


def _shown(reason: str, request: ModelRequest, secrets: Sequence[str | None]) -> str:
    for secret in secrets:
        if secret:
            reason = reason.replace(secret, "…")
    reason = " ".join(_KEY.sub("…", reason).split())[:_REASON_MAX]
    prompt = " ".join(" ".join([request.system_prompt, *(turn.content for turn in request.turns)]).split())
    starts = range(max(1, len(reason) - _ECHO + 1))
    if len(reason) >= _ECHO and any(reason[start : start + _ECHO] in prompt for start in starts):
        return "its reason repeats a part of the prompt and is left out"
    return reason
