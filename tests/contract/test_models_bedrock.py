"""What `ports.Model` promises, asked of Bedrock by its own protocol: whole answers and streamed ones."""

import json
import time
import zlib
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from tests.contract.model_servers import TENANT, Answer, Provider, ask
from worker_space.adapters.aws import make_client
from worker_space.adapters.model import PydanticAIModels
from worker_space.errors import ModelError, Unavailable
from worker_space.models import ToolCall, ToolResult, UserTurn

pytestmark = pytest.mark.anyio


@pytest.fixture
def bedrock(provider: Provider) -> Iterator[PydanticAIModels]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", provider.url)
        client = make_client("bedrock-runtime", region="eu-central-1", timeout_seconds=5.0)
    yield PydanticAIModels(region="eu-central-1", bedrock_client=client, backoff_seconds=0.01)
    client.close()


def converse(*content: dict[str, Any], reason: str = "end_turn") -> Answer:
    body = {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": reason,
        "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10},
        "metrics": {"latencyMs": 1},
    }
    return Answer(200, json.dumps(body).encode())


def event(kind: str, payload: dict[str, Any], message_type: str = "event") -> bytes:
    """One message of an AWS event stream (length, header length, checksum, headers, payload, checksum)."""
    headers = b""
    names = {":message-type": message_type, ":content-type": "application/json"}
    names[":event-type" if message_type == "event" else ":exception-type"] = kind
    for name, value in names.items():
        headers += bytes([len(name)]) + name.encode() + b"\x07" + len(value).to_bytes(2, "big") + value.encode()
    body = json.dumps(payload).encode()
    prelude = (16 + len(headers) + len(body)).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = prelude + zlib.crc32(prelude).to_bytes(4, "big") + headers + body
    return message + zlib.crc32(message).to_bytes(4, "big")


def converse_stream(*pieces: bytes, **more: Any) -> Answer:
    """An answer of Bedrock's `ConverseStream`."""
    return Answer(200, pieces=pieces, headers={"content-type": "application/vnd.amazon.eventstream"}, **more)


def said(text: str) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})


ENDED = [
    event("contentBlockStop", {"contentBlockIndex": 0}),
    event("messageStop", {"stopReason": "end_turn"}),
    event("metadata", {"usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}, "metrics": {"latencyMs": 1}}),
]


async def test_bedrock_gets_prompt_history_and_tools_and_its_answer_is_read(
    provider: Provider, bedrock: PydanticAIModels
) -> None:
    model = "bedrock:eu.amazon.nova-pro-v1:0"
    provider.answers = [
        converse({"toolUse": {"toolUseId": "x1", "name": "read_file", "input": {"path": "a"}}}, reason="tool_use"),
        converse({"text": "Done."}),
    ]
    first = await bedrock.request(TENANT, ask(UserTurn(content="Read a."), model=model))
    assert first.tool_calls == (ToolCall(id="x1", name="read_file", arguments={"path": "a"}),)
    assert (first.usage.input_tokens, first.usage.output_tokens) == (7, 3)
    result = ToolResult(call_id="x1", name="read_file", content='{"error": "gone"}', is_error=True)
    reply = await bedrock.request(
        TENANT, ask(UserTurn(content="Read a."), first.as_turn(), result, model=model, max_tokens=9)
    )
    assert reply.content == "Done."
    body = provider.asked[1]
    assert provider.paths[1] == "/model/eu.amazon.nova-pro-v1%3A0/converse"
    assert body["system"] == [{"text": "Be brief."}]
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    sent = body["messages"][2]["content"][0]["toolResult"]
    assert (sent["toolUseId"], sent["status"], sent["content"]) == ("x1", "error", [{"text": "gone"}])
    assert body["toolConfig"]["tools"][0]["toolSpec"]["name"] == "read_file"
    assert body["inferenceConfig"]["maxTokens"] == 9


@pytest.mark.parametrize(
    ("status", "kind", "requests"),
    [
        (429, "ThrottlingException", 3),
        (500, "InternalServerException", 3),
        (503, "ServiceUnavailableException", 3),
        (400, "ValidationException", 1),
        (403, "AccessDeniedException", 1),
        (404, "ResourceNotFoundException", 1),
    ],
)
async def test_bedrock_s_failures_are_told_apart(
    provider: Provider, bedrock: PydanticAIModels, status: int, kind: str, requests: int
) -> None:
    body = json.dumps({"message": "because of that"}).encode()
    provider.answers = [Answer(status, body, {"x-amzn-errortype": kind})] * 9
    with pytest.raises(Unavailable if requests == 3 else ModelError) as caught:
        await bedrock.request(TENANT, ask(model="bedrock:amazon.nova-pro-v1:0"))
    assert len(provider.asked) == requests
    assert ("because of that" in str(caught.value)) == (requests == 1 and status != 403)


async def test_a_bedrock_that_hangs_is_given_up_in_time(provider: Provider, bedrock: PydanticAIModels) -> None:
    provider.answers = [Answer(200, converse({"text": "late"}).body, delay=2.0)]
    start = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within"):
        await bedrock.request(TENANT, ask(model="bedrock:amazon.nova-pro-v1:0", timeout_seconds=0.3))
    assert time.monotonic() - start < 1.5


async def test_bedrock_without_credentials_is_a_model_error(provider: Provider) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        patch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
        session = boto3.session.Session(region_name="eu-central-1")
        client = session.client("bedrock-runtime", endpoint_url=provider.url)
        models = PydanticAIModels(region="eu-central-1", bedrock_client=client)
        with pytest.raises(ModelError, match="credentials"):
            await models.request(TENANT, ask(model="bedrock:amazon.nova-pro-v1:0"))
        client.close()
    assert provider.asked == []


async def test_bedrock_streams_text_and_tool_calls(provider: Provider, bedrock: PydanticAIModels) -> None:
    use = {"toolUse": {"toolUseId": "x1", "name": "read_file"}}
    provider.answers = [
        converse_stream(event("messageStart", {"role": "assistant"}), said("Hel"), said("lo."), *ENDED, gap=0.02),
        converse_stream(
            event("contentBlockStart", {"contentBlockIndex": 0, "start": use}),
            event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": {"input": '{"path": '}}}),
            event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": {"input": '"a"}'}}}),
            event("contentBlockStop", {"contentBlockIndex": 0}),
            event("messageStop", {"stopReason": "tool_use"}),
        ),
    ]
    pieces: list[str] = []
    model = "bedrock:amazon.nova-pro-v1:0"
    reply = await bedrock.request(TENANT, ask(model=model), on_text=pieces.append)
    assert (pieces, reply.content) == (["Hel", "lo."], "Hello.")
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.finish_reason) == (7, 3, "stop")
    second = await bedrock.request(TENANT, ask(model=model), on_text=pieces.append)
    assert second.tool_calls == (ToolCall(id="x1", name="read_file", arguments={"path": "a"}),)
    assert provider.paths[0].endswith("/converse-stream")


@pytest.mark.parametrize(
    "end",
    [[], [event("throttlingException", {"message": "slow down"}, "exception")], [b"no event stream"]],
    ids=["cut", "exception", "garbage"],
)
async def test_a_bedrock_stream_that_breaks_off_is_not_an_answer(
    provider: Provider, bedrock: PydanticAIModels, end: list[bytes]
) -> None:
    provider.answers = [converse_stream(said("Hel"), *end), converse_stream(said("Hello."), *ENDED)]
    pieces: list[str] = []
    with pytest.raises((Unavailable, ModelError)):
        await bedrock.request(TENANT, ask(model="bedrock:amazon.nova-pro-v1:0"), on_text=pieces.append)
    assert pieces == ["Hel"]
    assert len(provider.asked) == 1


async def test_a_bedrock_stream_that_hangs_is_given_up_in_time(provider: Provider, bedrock: PydanticAIModels) -> None:
    provider.answers = [converse_stream(said("Hel"), *ENDED, gap=3.0)]
    pieces: list[str] = []
    start = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within"):
        await bedrock.request(
            TENANT, ask(model="bedrock:amazon.nova-pro-v1:0", timeout_seconds=0.5), on_text=pieces.append
        )
    assert time.monotonic() - start < 1.5
    assert pieces == ["Hel"]
