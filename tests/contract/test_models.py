"""What `ports.Model` promises, asked of each provider over a server that speaks its protocol on this machine."""

import asyncio
import json
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from pydantic_ai import exceptions

from worker_space.adapters.aws import make_client
from worker_space.adapters.model import PydanticAIModels
from worker_space.adapters.model_messages import VERDICTS
from worker_space.errors import InvalidRequest, ModelError, Unavailable
from worker_space.models import AssistantTurn, ModelReply, ModelRequest, ToolCall, ToolResult, ToolSpec, Turn, UserTurn
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio

TENANT = TenantContext("u1", "p1")
KEY = "sk-test-0123456789abcdef"
PROMPT = "a private question that no error message may repeat"
READ = ToolSpec(
    name="read_file",
    description="Read a file.",
    parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)


@dataclass
class Answer:
    """One HTTP answer; `delay` is in seconds.

    Attributes:
        pieces: The body in pieces sent one by one, in place of `body`.
        gap: Seconds before each piece but the first.
        cut: The connection is closed behind the last piece, without an end of the body.
    """

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    pieces: Sequence[bytes] | None = None
    gap: float = 0.0
    cut: bool = False


@dataclass
class Provider:
    """A model provider on this machine: it answers from a list, and keeps what it was asked."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    called: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def provider() -> Iterator[Provider]:
    state = Provider()
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            state.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            state.paths.append(self.path)
            state.keys.append(self.headers["authorization"])
            state.called.set()
            answer = state.answers.pop(0) if state.answers else Answer(599, b"{}")
            stopped.wait(answer.delay)
            if answer.pieces is not None:
                self.stream(answer, answer.pieces)
                return
            headers = {"content-type": "application/json", "content-length": str(len(answer.body)), **answer.headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            try:
                # In one write: two would wait for each other on a quiet connection.
                self.wfile.write(f"HTTP/1.1 {answer.status} Answer\r\n{head}\r\n".encode() + answer.body)
            except OSError:
                self.close_connection = True

        def stream(self, answer: Answer, pieces: Sequence[bytes]) -> None:
            headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **answer.headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.close_connection = answer.cut
            try:
                self.wfile.write(f"HTTP/1.1 {answer.status} Answer\r\n{head}\r\n".encode())
                for number, piece in enumerate(pieces):
                    stopped.wait(answer.gap if number else 0)
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                if not answer.cut:
                    self.wfile.write(b"0\r\n\r\n")
            except OSError:
                state.hung_up.set()
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def models(provider: Provider) -> AsyncIterator[PydanticAIModels]:
    models = PydanticAIModels(
        region="eu-central-1", openai_base_url=f"{provider.url}/v1", openai_api_key=KEY, backoff_seconds=0.01
    )
    yield models
    await models.close()


@pytest.fixture
def bedrock(provider: Provider) -> Iterator[PydanticAIModels]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", provider.url)
        client = make_client("bedrock-runtime", region="eu-central-1", timeout_seconds=5.0)
    yield PydanticAIModels(region="eu-central-1", bedrock_client=client, backoff_seconds=0.01)
    client.close()


def completion(
    content: str | None = "Hello.", calls: Sequence[tuple[str, str, str]] = (), reason: str = "stop"
) -> Answer:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}
            for key, name, arguments in calls
        ]
    body = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": reason, "message": message}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    return Answer(200, json.dumps(body).encode())


def converse(*content: dict[str, Any], reason: str = "end_turn") -> Answer:
    body = {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": reason,
        "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10},
        "metrics": {"latencyMs": 1},
    }
    return Answer(200, json.dumps(body).encode())


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


def refusal(status: int, message: str, **more: str) -> Answer:
    return Answer(status, json.dumps({"error": {"message": message, **more}}).encode())


def ask(*turns: Turn, model: str = "openai:m", **more: Any) -> ModelRequest:
    return ModelRequest(
        model=model, system_prompt="Be brief.", turns=turns or (UserTurn(content=PROMPT),), tools=(READ,), **more
    )


async def test_an_answer_comes_with_its_tokens(provider: Provider, models: PydanticAIModels) -> None:
    provider.answers = [completion("Hello.")]
    reply = await models.request(TENANT, ask())
    assert reply.content == "Hello."
    assert reply.tool_calls == ()
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 3)
    assert reply.finish_reason == "stop"
    assert provider.paths == ["/v1/chat/completions"]
    assert provider.keys == [f"Bearer {KEY}"]


async def test_the_provider_gets_prompt_history_tools_and_settings(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [completion(None, [("x1", "read_file", '{"path": "a"}')], "tool_calls"), completion("Done.")]
    first = await models.request(TENANT, ask(UserTurn(content="Read a.")))
    assert first.tool_calls == (ToolCall(id="x1", name="read_file", arguments={"path": "a"}),)
    await models.request(
        TENANT,
        ask(
            UserTurn(content="Hi."),
            AssistantTurn(content="Hello."),
            UserTurn(content="Read a."),
            first.as_turn(),
            ToolResult(call_id="x1", name="read_file", content='{"error": "gone"}', is_error=True),
            temperature=0.5,
            max_tokens=9,
        ),
    )
    body = provider.asked[1]
    assert [(message["role"], message.get("content")) for message in body["messages"]] == [
        ("system", "Be brief."),
        ("user", "Hi."),
        ("assistant", "Hello."),
        ("user", "Read a."),
        ("assistant", None),
        ("tool", '{"error":"gone"}'),
    ]
    assert body["messages"][4]["tool_calls"][0]["id"] == body["messages"][5]["tool_call_id"] == "x1"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.5, 9)
    (tool,) = body["tools"]
    assert tool["function"]["name"] == "read_file"
    assert tool["function"]["parameters"]["required"] == ["path"]
    assert "temperature" not in provider.asked[0]


async def test_two_results_follow_the_answer_that_asked_for_them(provider: Provider, models: PydanticAIModels) -> None:
    provider.answers = [
        completion("Both.", [("x1", "read_file", '{"path": "a"}'), ("x2", "read_file", '{"path": "b"}')], "tool_calls"),
        completion("Done."),
    ]
    first = await models.request(TENANT, ask())
    results = [ToolResult(call_id=key, name="read_file", content=f'"{key}"') for key in ("x2", "x1")]
    await models.request(TENANT, ask(UserTurn(content="Go."), first.as_turn(), *results))
    roles = [(message["role"], message.get("tool_call_id")) for message in provider.asked[1]["messages"][-3:]]
    assert roles == [("assistant", None), ("tool", "x1"), ("tool", "x2")]


async def test_a_journalled_answer_of_another_library_version_is_sent_by_its_text_and_calls(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [completion()]
    calls = (ToolCall(id="x1", name="read_file", arguments={"path": "a"}),)
    turn = AssistantTurn(content="I read.", tool_calls=calls, provider='[{"kind": "of another time"}]')
    await models.request(
        TENANT, ask(UserTurn(content="Go."), turn, ToolResult(call_id="x1", name="read_file", content="{}"))
    )
    sent = provider.asked[0]["messages"][2]
    assert (sent["content"], sent["tool_calls"][0]["function"]["name"]) == ("I read.", "read_file")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [('{"path": ', '{"path": '), ("[1]", "[1]"), ("", {}), ("null", "null"), ("[" * 9_000, "[" * 9_000)],
    ids=["cut", "list", "empty", "null", "deep"],
)
async def test_arguments_that_are_no_object_stay_text_and_can_be_sent_back(
    provider: Provider, models: PydanticAIModels, text: str, arguments: object
) -> None:
    provider.answers = [completion(None, [("x1", "read_file", text)], "tool_calls"), completion("Sorry.")]
    reply = await models.request(TENANT, ask())
    assert reply.tool_calls[0].arguments == arguments
    result = ToolResult(call_id="x1", name="read_file", content='{"error": "no JSON"}', is_error=True)
    assert (await models.request(TENANT, ask(UserTurn(content="Go."), reply.as_turn(), result))).content == "Sorry."


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


async def test_requests_at_the_same_time_share_one_client(provider: Provider, models: PydanticAIModels) -> None:
    provider.answers = [completion() for _ in range(20)]
    replies = await asyncio.gather(*(models.request(TENANT, ask(model=f"openai:m{number}")) for number in range(20)))
    assert [reply.content for reply in replies] == ["Hello."] * 20
    assert {body["model"] for body in provider.asked} == {f"m{number}" for number in range(20)}


async def test_any_number_of_model_names_can_be_prepared_and_closing_twice_is_fine() -> None:
    models = PydanticAIModels(region="eu-central-1", openai_api_key=KEY)
    for number in range(200):
        models.warm_up(f"openai:gpt-{number}")
    await models.close()
    await models.close()


async def test_a_prompt_s_special_tokens_and_empty_history_reach_the_provider_safely(
    provider: Provider, models: PydanticAIModels
) -> None:
    provider.answers = [completion()]
    await models.request(
        TENANT, ask(UserTurn(content="<|im_start|>system"), AssistantTurn(content=""), UserTurn(content="Go."))
    )
    roles = [message["role"] for message in provider.asked[0]["messages"]]
    assert roles == ["system", "user", "user"]


async def test_a_cancelled_request_ends_at_once(provider: Provider, models: PydanticAIModels) -> None:
    provider.answers = [Answer(200, completion().body, delay=5.0)]
    task = asyncio.create_task(models.request(TENANT, ask()))
    assert await asyncio.to_thread(provider.called.wait, 5)
    start = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - start < 1


def test_a_name_that_nobody_serves_is_refused_with_what_to_set() -> None:
    models = PydanticAIModels(region="eu-central-1")
    for name in ("offline:rules", "bedrock:eu.amazon.nova-pro-v1:0"):
        models.check(name)
    for name, hint in (
        ("openai:gpt-5-mini", "OPENAI_API_KEY"),
        ("offline:other", "offline:rules"),
        ("acme:m", "openai:NAME"),
        ("openai:", "openai:NAME"),
        ("", "offline:rules"),
    ):
        with pytest.raises(InvalidRequest, match=hint):
            models.check(name)
    PydanticAIModels(region="eu-central-1", openai_api_key=KEY).check("openai:m")
    PydanticAIModels(region="eu-central-1", openai_base_url="http://127.0.0.1:9/v1").check("openai:m")


async def test_a_name_that_nobody_serves_is_refused_when_asked_too() -> None:
    with pytest.raises(InvalidRequest, match="OPENAI_API_KEY"):
        await PydanticAIModels(region="eu-central-1").request(TENANT, ask())


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


async def test_the_offline_model_answers_like_any_other() -> None:
    models = PydanticAIModels(region="eu-central-1")
    request = ask(UserTurn(content="Analyse a.py"), model="offline:rules")
    first = await models.request(TENANT, request)
    assert first.tool_calls == (ToolCall(id="call_1", name="read_file", arguments={"path": "a.py"}),)
    assert first.usage.input_tokens > 0
    result = ToolResult(
        call_id="call_1",
        name="read_file",
        content=json.dumps({"path": "a.py", "content": "x = 1\n", "end_line": 1, "total_lines": 1, "size": 6}),
    )
    # Another worker goes on with what the first one has journalled.
    journalled = ModelReply.model_validate_json(first.model_dump_json()).as_turn()
    other = PydanticAIModels(region="eu-central-1")
    reply = await other.request(TENANT, request.model_copy(update={"turns": (*request.turns, journalled, result)}))
    assert "`x`" in reply.content
    assert reply.tool_calls == ()


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


def test_importing_the_adapter_imports_no_model_library_and_offline_needs_none_of_the_providers() -> None:
    code = (
        "import sys; from worker_space.adapters.model import PydanticAIModels; assert 'pydantic_ai' not in sys.modules;"
        "models = PydanticAIModels(region='x', openai_api_key='k'); models.check('openai:m');"
        "assert 'pydantic_ai' not in sys.modules; models.warm_up('offline:rules');"
        "assert 'pydantic_ai' in sys.modules; assert 'openai' not in sys.modules; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fine", done.stderr


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
