"""What `ports.Model` promises of a request and its answer, over a server that speaks its protocol on this machine."""

import asyncio
import json
import subprocess
import sys
import time

import pytest

from tests.contract.model_servers import KEY, TENANT, Answer, Provider, ask, completion
from worker_space.adapters.model import PydanticAIModels
from worker_space.errors import InvalidRequest
from worker_space.models import AssistantTurn, ModelReply, ToolCall, ToolResult, UserTurn

pytestmark = pytest.mark.anyio


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


def test_importing_the_adapter_imports_no_model_library_and_offline_needs_none_of_the_providers() -> None:
    code = (
        "import sys; from worker_space.adapters.model import PydanticAIModels; assert 'pydantic_ai' not in sys.modules;"
        "models = PydanticAIModels(region='x', openai_api_key='k'); models.check('openai:m');"
        "assert 'pydantic_ai' not in sys.modules; models.warm_up('offline:rules');"
        "assert 'pydantic_ai' in sys.modules; assert 'openai' not in sys.modules; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fine", done.stderr
