"""One call of a model as those who operate it see it: counted, measured, and nothing of what was said.

Spans and their facts have the names of OpenTelemetry's conventions for generative AI.
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/)
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from worker_space.errors import ModelError
from worker_space.models import ModelReply, ModelRequest, Usage
from worker_space.telemetry import Fact, Measure, Span, count, span

__all__ = ["watched_call"]

_PROVIDERS: Final[Mapping[str, str]] = MappingProxyType(
    {"bedrock": "aws.bedrock", "offline": "offline", "openai": "openai"}
)


async def watched_call(
    request: ModelRequest, ask: Callable[[ModelRequest], Awaitable[ModelReply]], *, cost: Callable[[Usage], int]
) -> ModelReply:
    """Ask, and tell who listens how long it took and what it used.

    Args:
        cost: What tokens of this model cost, in millionths of the currency.
    """
    provider, _, name = request.model.partition(":")
    # A fixed set of words: what is counted by it must not grow with what users write.
    by = provider if provider in _PROVIDERS else "other"
    facts: dict[str, Fact] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(by, by),
        "gen_ai.request.model": name,
    }
    if request.max_tokens is not None:
        facts["gen_ai.request.max_tokens"] = request.max_tokens
    began = time.monotonic()
    with span(f"chat {name}", facts) as told:
        try:
            reply = await ask(request)
        except Exception as error:
            count(Measure.MODEL_ERRORS, provider=by)
            if isinstance(error, ModelError) and error.used is not None:
                # An answer that cannot be used is paid for all the same.
                _paid(told, Usage(input_tokens=error.used[0], output_tokens=error.used[1]), by, cost)
            raise
        _paid(told, reply.usage, by, cost)
    count(Measure.MODEL_CALLS, provider=by)
    count(Measure.MODEL_MS, round((time.monotonic() - began) * 1000), provider=by)
    return reply


def _paid(told: Span, used: Usage, provider: str, cost: Callable[[Usage], int]) -> None:
    told.note({"gen_ai.usage.input_tokens": used.input_tokens, "gen_ai.usage.output_tokens": used.output_tokens})
    count(Measure.TOKENS_IN, used.input_tokens, provider=provider)
    count(Measure.TOKENS_OUT, used.output_tokens, provider=provider)
    count(Measure.COST_MICROS, cost(used), provider=provider)
