"""What `ports.Model` promises of requests that fail: who has to act, how often it is tried, and what is told of it."""

import time

import pytest
from pydantic_ai import exceptions

from tests.contract.model_servers import KEY, PROMPT, TENANT, Answer, Provider, ask, completion, refusal
from worker_space.adapters.model import PydanticAIModels
from worker_space.adapters.model_messages import VERDICTS
from worker_space.errors import ModelError, Unavailable

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_a_passing_failure_is_repeated_until_it_passes(
    provider: Provider, models: PydanticAIModels, status: int
) -> None:
    provider.answers = [refusal(status, "not now"), refusal(status, "not now"), completion()]
    assert (await models.request(TENANT, ask())).content == "Hello."
    assert len(provider.asked) == 3


async def test_a_failure_that_stays_is_reported_after_three_requests(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [refusal(503, "busy")] * 9
    with pytest.raises(Unavailable, match="openai:m answered HTTP 503") as caught:
        await models.request(TENANT, ask())
    assert caught.value.dependency == "model"
    assert len(provider.asked) == 3


async def test_a_wait_that_the_provider_asks_for_is_kept_or_the_request_ends(
    provider: Provider, models: PydanticAIModels
) -> None:
    busy = refusal(429, "busy")
    busy.headers["retry-after-ms"] = "300"
    provider.answers = [busy, completion()]
    start = time.monotonic()
    await models.request(TENANT, ask())
    assert time.monotonic() - start >= 0.3
    busy.headers["retry-after-ms"] = "60000"
    provider.answers = [busy, completion()]
    with pytest.raises(Unavailable, match="429"):
        await models.request(TENANT, ask(timeout_seconds=5.0))
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_the_operators_matter(
    provider: Provider, models: PydanticAIModels, status: int
) -> None:
    provider.answers = [refusal(status, "organization org-123 of key ...cdef has no access")]
    with pytest.raises(ModelError, match=rf"credentials \(HTTP {status}\)") as caught:
        await models.request(TENANT, ask())
    assert "org-123" not in str(caught.value)
    assert len(provider.asked) == 1


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_refusal_is_final_and_shows_the_provider_s_reason(
    provider: Provider, models: PydanticAIModels, status: int
) -> None:
    provider.answers = [refusal(status, "The model `m` has retired.")]
    with pytest.raises(ModelError, match=rf"openai:m refused .*HTTP {status}.*has retired"):
        await models.request(TENANT, ask())
    assert len(provider.asked) == 1


async def test_an_exhausted_quota_is_final(provider: Provider, models: PydanticAIModels) -> None:
    provider.answers = [refusal(429, "You have no credit.", code="insufficient_quota")]
    with pytest.raises(ModelError, match="no credit"):
        await models.request(TENANT, ask())
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    "reason",
    [
        f"Incorrect API key provided: {KEY}.",
        "Incorrect API key provided: sk-test-****cdef.",
        f"Cannot answer: {PROMPT}",
        f"x: {'Be brief.'} {PROMPT[:30]}",
        "long " * 500,
    ],
)
async def test_no_key_and_nothing_of_the_prompt_is_in_an_error(
    provider: Provider, models: PydanticAIModels, reason: str
) -> None:
    provider.answers = [refusal(400, reason)]
    with pytest.raises(ModelError) as caught:
        await models.request(TENANT, ask())
    text = str(caught.value)
    assert KEY not in text
    assert "sk-test" not in text
    assert PROMPT[:30] not in text
    assert len(text) < 500
    assert KEY not in repr(models)


async def test_a_provider_that_hangs_is_given_up_in_time(provider: Provider, models: PydanticAIModels) -> None:
    provider.answers = [Answer(200, completion().body, delay=5.0)]
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer within 0\.3 s|in time"):
        await models.request(TENANT, ask(timeout_seconds=0.3))
    assert time.monotonic() - start < 1.5
    provider.answers = [completion()]
    assert (await models.request(TENANT, ask())).content == "Hello."


async def test_a_provider_that_is_not_there_is_unavailable() -> None:
    models = PydanticAIModels(region="eu-central-1", openai_base_url="http://127.0.0.1:9/v1", backoff_seconds=0.01)
    with pytest.raises(Unavailable, match="no connection") as caught:
        await models.request(TENANT, ask())
    assert not caught.value.begun
    await models.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"index": 0, "finish_reason": "odd", "message": {"role": "assistant", "tool_calls": 3}}]}',
        completion("a").body.replace(b'"a"', b'"\\ud800"'),
        completion("").body,
        completion(" \n").body,
        completion(None).body,
    ],
    ids=range(15),
)
async def test_an_unusable_answer_is_a_model_error(provider: Provider, models: PydanticAIModels, body: bytes) -> None:
    provider.answers = [Answer(200, body)]
    with pytest.raises(ModelError):
        await models.request(TENANT, ask())
    assert len(provider.asked) == 1


async def test_an_answer_cut_before_its_first_word_says_what_to_change(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [completion("", reason="length")]
    with pytest.raises(ModelError, match="raise the agent's max_tokens") as refused:
        await models.request(TENANT, ask())
    assert refused.value.used == (7, 3)


# Raised by parts of the library that a single request to a model does not use: agents, tools, fallbacks, durability.
_ELSEWHERE = {
    "AgentRunError", "ApprovalRequired", "CallDeferred", "ConcurrencyLimitExceeded", "FallbackExceptionGroup",
    "IncompleteToolCall", "ModelRetry", "RetryModelRequest", "RunCancelled", "RunTimedOut", "SkipModelRequest",
    "SkipToolExecution",
    "SkipToolValidation", "SuspendedResponseExpired", "ToolFailed", "ToolFailedError", "ToolRetryError",
    "UndrainedPendingMessagesError", "UsageLimitExceeded",
}  # fmt: skip
_VERDICTS = {
    "ContentFilterError": "refused",
    "ModelAPIError": "unusable",
    "ModelAuthenticationError": "refused",
    "ModelConnectionError": "passing",
    "ModelContextWindowExceededError": "refused",
    "ModelHTTPError": "by status",
    "ModelNotFoundError": "refused",
    "ModelOverloadedError": "passing",
    "ModelQuotaExceededError": "refused",
    "ModelRateLimitError": "passing",
    "ModelRequestRejectedError": "refused",
    "ModelRequestTimeout": "passing",
    "ModelServerError": "passing",
    "ModelTimeoutError": "passing",
    "ModelUnavailableError": "passing",
    "OutputTokenLimitExceeded": "unusable",
    "UnexpectedModelBehavior": "unusable",
    "UserError": "refused",
}


def test_every_error_of_the_library_has_a_verdict() -> None:
    """A new version of the library with a new error fails here: somebody must decide who acts on it."""
    found = {
        name: kind
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
        # Its private classes are an HTTP error and a category at once.
        if kind.__module__ == exceptions.__name__ and not name.startswith("_")
    }
    decided = {
        name: next((verdict for base, verdict in VERDICTS if issubclass(kind, base)), None)
        for name, kind in found.items()
        if name not in _ELSEWHERE
    }
    assert decided == _VERDICTS
