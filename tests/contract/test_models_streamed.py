"""What `ports.Model` promises of an answer that comes in pieces, from a provider and from the offline model."""

import asyncio
import json
import time
from typing import Any

import pytest

from tests.contract.model_servers import KEY, TENANT, Answer, Provider, ask, completion, refusal
from worker_space.adapters.model import PydanticAIModels
from worker_space.errors import ModelError, Unavailable
from worker_space.models import ToolCall, ToolResult, UserTurn

pytestmark = pytest.mark.anyio


def chunk(*, reason: str | None = None, usage: bool = False, **delta: Any) -> bytes:
    """One piece of an OpenAI-compatible stream."""
    body: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
    if usage:
        body["usage"] = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    else:
        body["choices"] = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def stream(*words: str, reason: str = "stop", **more: Any) -> Answer:
    """A whole streamed answer in words."""
    said = [chunk(content=word) for word in words]
    return Answer(200, pieces=[*said, chunk(reason=reason), chunk(usage=True), DONE], **more)


async def test_a_streamed_answer_comes_in_pieces_and_is_the_plain_answer(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [stream("Hel", "lo", ".", gap=0.1), completion("Hello.")]
    pieces: list[tuple[str, float]] = []
    streamed = await models.request(TENANT, ask(), on_text=lambda piece: pieces.append((piece, time.monotonic())))
    plain = await models.request(TENANT, ask())
    assert [piece for piece, _ in pieces] == ["Hel", "lo", "."]
    assert pieces[2][1] - pieces[0][1] > 0.1, "the pieces were kept back until the answer was whole"
    same = {"content", "tool_calls", "usage", "finish_reason"}
    assert streamed.model_dump(include=same) == plain.model_dump(include=same)
    first, second = provider.asked
    assert first == {**second, "stream": True, "stream_options": {"include_usage": True}}


async def test_streamed_tool_calls_are_the_plain_ones_and_can_be_sent_back(
    provider: Provider, models: PydanticAIModels
) -> None:
    function = {"name": "read_file", "arguments": ""}
    provider.answers = [
        Answer(
            200,
            pieces=[
                chunk(content="I look."),
                chunk(tool_calls=[{"index": 0, "id": "x1", "type": "function", "function": function}]),
                chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"path": '}}]),
                chunk(tool_calls=[{"index": 0, "function": {"arguments": '"a"}'}}]),
                chunk(reason="tool_calls"),
                chunk(usage=True),
                DONE,
            ],
        ),
        completion("Done."),
    ]
    pieces: list[str] = []
    reply = await models.request(TENANT, ask(), on_text=pieces.append)
    assert pieces == ["I look."]
    assert reply.content == "I look."
    assert reply.tool_calls == (ToolCall(id="x1", name="read_file", arguments={"path": "a"}),)
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.finish_reason) == (7, 3, "tool_call")
    result = ToolResult(call_id="x1", name="read_file", content="{}")
    await models.request(TENANT, ask(UserTurn(content="Go."), reply.as_turn(), result))
    sent = provider.asked[1]["messages"][2]
    assert (sent["content"], sent["tool_calls"][0]["id"]) == ("I look.", "x1")


async def test_a_stream_that_fails_before_its_first_piece_is_repeated(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [
        refusal(503, "busy"),
        Answer(200, pieces=[b'data: {"error": {"message": "overloaded", "type": "server_error", "code": 503}}\n\n']),
        stream("Hello."),
    ]
    pieces: list[str] = []
    assert (await models.request(TENANT, ask(), on_text=pieces.append)).content == "Hello."
    assert pieces == ["Hello."]
    assert len(provider.asked) == 3


@pytest.mark.parametrize(
    "end",
    [
        [],
        [b'data: {"error": {"message": "overloaded", "type": "server_error", "code": 503}}\n\n'],
    ],
    ids=["cut", "error"],
)
@pytest.mark.parametrize("cut", [True, False], ids=["closed", "ended"])
async def test_a_stream_that_breaks_off_is_unavailable_and_no_piece_comes_twice(
    provider: Provider, models: PydanticAIModels, end: list[bytes], cut: bool
) -> None:
    provider.answers = [Answer(200, pieces=[chunk(content="Hel"), *end], cut=cut), stream("Hello.")]
    pieces: list[str] = []
    with pytest.raises(Unavailable) as broken:
        await models.request(TENANT, ask(), on_text=pieces.append)
    assert broken.value.begun, "nobody would book what has come"
    assert pieces == ["Hel"]
    assert len(provider.asked) == 1


async def test_the_deadline_covers_the_whole_stream_and_ends_it_at_the_provider(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [Answer(200, pieces=[chunk(content="word ")] * 400, gap=0.02)]
    pieces: list[str] = []
    start = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within") as late:
        await models.request(TENANT, ask(timeout_seconds=0.5), on_text=pieces.append)
    assert late.value.begun
    assert time.monotonic() - start < 1.5
    assert 3 < len(pieces) < 100
    assert await asyncio.to_thread(provider.hung_up.wait, 5), "the provider goes on writing for nobody"


@pytest.mark.parametrize(
    "answer",
    [
        completion("Hello."),
        Answer(200, b""),
        Answer(200, b"no stream", headers={"content-type": "text/plain"}),
        Answer(200, pieces=[b"data: no json\n\n"]),
        Answer(200, pieces=[b"data: 5\n\n"]),
        Answer(200, pieces=[DONE]),
        stream(),
        stream(" \n"),
        stream("\ud800"),
    ],
    ids=["plain", "empty", "text", "no json", "number", "only done", "no word", "blank", "half a pair"],
)
async def test_a_stream_that_cannot_be_used_is_a_model_error(
    provider: Provider, models: PydanticAIModels, answer: Answer
) -> None:
    provider.answers = [answer]
    pieces: list[str] = []
    with pytest.raises(ModelError):
        await models.request(TENANT, ask(), on_text=pieces.append)
    assert len(provider.asked) == 1
    "".join(pieces).encode()


async def test_a_refusal_of_a_stream_is_told_as_of_a_plain_request(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [refusal(400, "too many tokens"), refusal(401, f"bad key {KEY}")]
    with pytest.raises(ModelError, match="too many tokens"):
        await models.request(TENANT, ask(), on_text=lambda piece: None)
    with pytest.raises(ModelError, match="credentials") as caught:
        await models.request(TENANT, ask(), on_text=lambda piece: None)
    assert KEY not in str(caught.value)


async def test_a_stream_stopped_by_its_length_is_an_answer(provider: Provider, models: PydanticAIModels) -> None:
    provider.answers = [stream("Half an ans", reason="length")]
    reply = await models.request(TENANT, ask(), on_text=lambda piece: None)
    assert (reply.content, reply.finish_reason) == ("Half an ans", "length")


async def test_the_offline_model_streams_the_very_answer_it_gives_plainly() -> None:
    models = PydanticAIModels(region="eu-central-1")
    pieces: list[str] = []
    for text in ("Analyse a.py", "What can you do?"):
        pieces.clear()
        request = ask(UserTurn(content=text), model="offline:rules")
        streamed = await models.request(TENANT, request, on_text=pieces.append)
        plain = await models.request(TENANT, request)
        assert streamed.model_copy(update={"provider": ""}) == plain.model_copy(update={"provider": ""})
        assert "".join(pieces) == plain.content
    assert len(pieces) > 1
