"""The contract of `ports.Embedder`: vectors in the order of the texts, or `Unavailable`, soon and without secrets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

from tests.servers import BROKEN, Answer, Request, free_port, http, server
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.embedding import BedrockEmbedder, OpenAIEmbedder, make_embedder
from worker_space.errors import InvalidRequest, Unavailable
from worker_space.ports import Embedder
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio

U1 = TenantContext("u1", "p")
TITAN = "amazon.titan-embed-text-v2:0"
LIMIT_SECONDS = 2.0


def vector(text: str) -> list[float]:
    return [float(len(text)), 1.0, 0.0]


def openai_answer(request: Request) -> bytes:
    texts = request.body["input"]
    data = [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
    # The order of the answers is not promised; their index is.
    return http(200, json.dumps({"object": "list", "data": data[::-1], "model": request.body["model"]}).encode())


def titan_answer(request: Request) -> bytes:
    return http(200, json.dumps({"embedding": vector(request.body["inputText"]), "inputTextTokenCount": 3}).encode())


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@contextmanager
def bedrock_client(url: str) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        client = make_client("bedrock-runtime", region="eu-central-1")
    yield client
    client.close()


@asynccontextmanager
async def embedder(kind: str, url: str, executor: ThreadPoolExecutor) -> AsyncIterator[Embedder]:
    if kind == "openai":
        made = OpenAIEmbedder("text-embedding-3-small", dimensions=3, base_url=f"{url}/v1", api_key="sk-secret")
        yield made
        await made.close()
        return
    with bedrock_client(url) as client:
        titan = BedrockEmbedder(TITAN, dimensions=3, client=client, calls=AwsCalls(executor))
        yield titan
        await titan.close()


KINDS: dict[str, Answer] = {"openai": openai_answer, "bedrock": titan_answer}


@pytest.mark.parametrize("kind", KINDS)
async def test_each_text_gets_its_vector_in_the_texts_order(kind: str, executor: ThreadPoolExecutor) -> None:
    texts = ["a", "", "half a character: \ud800", "東京", "x" * 20_000]
    with server(KINDS[kind]) as (url, _):
        async with embedder(kind, url, executor) as made:
            vectors = await made.embed(U1, texts)
            assert await made.embed(U1, []) == []
    # An empty text is sent as a space, a long one cut.
    assert [list(each) for each in vectors] == [vector(text[:6_000] or " ") for text in texts]


async def test_openai_is_asked_once_for_all_texts_with_key_and_length() -> None:
    with server(openai_answer) as (url, requests):
        made = OpenAIEmbedder("text-embedding-3-small", dimensions=3, base_url=url, api_key="k")
        await made.embed(U1, ["one", "two"])
        other = OpenAIEmbedder("nomic-embed-text", dimensions=3, base_url=url)
        await other.embed(U1, ["one"])
        await made.close()
        await other.close()
    first, second = (request.body for request in requests)
    assert (first["model"], first["input"], first["dimensions"]) == ("text-embedding-3-small", ["one", "two"], 3)
    # A server that only speaks like OpenAI may refuse the length.
    assert "dimensions" not in second


async def test_titan_is_asked_for_its_own_model_and_length(executor: ThreadPoolExecutor) -> None:
    with server(titan_answer) as (url, requests):
        async with embedder("bedrock", url, executor) as made:
            await made.embed(U1, ["one"])
    (request,) = requests
    assert request.path == "/model/amazon.titan-embed-text-v2%3A0/invoke"
    assert request.body == {"inputText": "one", "dimensions": 3, "normalize": True}


async def unavailable(made: Embedder) -> tuple[str, float]:
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await made.embed(U1, ["what the user wrote"])
    assert caught.value.dependency == "embedding"
    for secret in ("sk-secret", "what the user wrote", "u1"):
        assert secret not in str(caught.value)
    return str(caught.value), time.monotonic() - started


@pytest.fixture(params=["nobody listens", "hangs", *BROKEN])
def broken(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "nobody listens":
        yield f"http://127.0.0.1:{free_port()}"
        return
    with server(lambda _: BROKEN.get(request.param)) as (url, _):
        yield url


async def test_a_broken_server_is_unavailable_within_two_seconds_and_then_at_once(
    broken: str, executor: ThreadPoolExecutor
) -> None:
    async def twice(kind: str) -> tuple[float, float]:
        async with embedder(kind, broken, executor) as made:
            return (await unavailable(made))[1], (await unavailable(made))[1]

    for first, second in await asyncio.gather(*(twice(kind) for kind in KINDS)):
        assert first < LIMIT_SECONDS
        assert second < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
async def test_a_refusal_is_unavailability_and_does_not_keep_others_from_asking(
    kind: str, status: int, executor: ThreadPoolExecutor
) -> None:
    refused = http(status, b'{"error": {"message": "about what the user wrote, sk-secret"}, "message": "u1"}')
    answers: list[Callable[[Request], bytes | None]] = [lambda _: refused, KINDS[kind]]
    with server(lambda request: answers[0](request)) as (url, _):
        async with embedder(kind, url, executor) as made:
            await unavailable(made)
            if status == 429 and kind == "bedrock":
                # AWS says by this that it is overloaded: it is left alone for a moment.
                return
            answers.pop(0)
            assert len(await made.embed(U1, ["one"])) == 1


@pytest.mark.parametrize(
    "wrong", [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0, float("nan"), 2.0], [], ["a", "b", "c"], None]
)
async def test_a_vector_that_cannot_be_compared_is_not_handed_out(wrong: Any, executor: ThreadPoolExecutor) -> None:
    def answer(request: Request) -> bytes:
        body: dict[str, Any] = {"embedding": wrong}
        return http(200, json.dumps({**body, "data": [{"index": 0, **body}]}).encode())

    with server(answer) as (url, _):
        for kind in KINDS:
            async with embedder(kind, url, executor) as made:
                await unavailable(made)


async def test_fewer_vectors_than_texts_are_unusable() -> None:
    with server(lambda _: http(200, b'{"data": [{"index": 0, "embedding": [1, 2, 3]}]}')) as (url, _):
        made = OpenAIEmbedder("m", dimensions=3, base_url=url)
        with pytest.raises(Unavailable):
            await made.embed(U1, ["one", "two"])
        await made.close()


def test_httpx_has_no_error_that_is_not_translated() -> None:
    roots = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)
    errors = [each for each in vars(httpx).values() if isinstance(each, type) and issubclass(each, Exception)]
    # Of setting cookies by hand, which nothing here does.
    assert [each for each in errors if not issubclass(each, roots)] == [httpx.CookieConflict]


# -- by name


def no_bedrock() -> tuple[Any, AwsCalls]:
    raise AssertionError("no Bedrock model was named")


def test_a_model_is_made_by_its_name() -> None:
    made = make_embedder(
        "openai:text-embedding-3-small",
        dimensions=None,
        openai_base_url=None,
        openai_api_key="sk-1",
        bedrock=no_bedrock,
    )
    assert (made.dimensions, made.space) == (1536, "openai:text-embedding-3-small:1536")
    assert "k" not in repr(made).split("api_key")[1].replace("<set>", "")
    own = make_embedder(
        "openai:nomic-embed-text",
        dimensions=768,
        openai_base_url="http://o/v1",
        openai_api_key=None,
        bedrock=no_bedrock,
    )
    assert own.dimensions == 768
    calls: Any = object()
    titan = make_embedder(
        f"bedrock:{TITAN}",
        dimensions=512,
        openai_base_url=None,
        openai_api_key=None,
        bedrock=lambda: (object(), calls),
    )
    assert (titan.dimensions, titan.space) == (512, f"bedrock:{TITAN}:512")


@pytest.mark.parametrize(
    ("model", "dimensions", "key", "told"),
    [
        ("openai:unheard-of", None, "k", "WORKER_SPACE_EMBEDDING_DIMENSIONS"),
        ("openai:text-embedding-3-small", None, None, "OPENAI_API_KEY"),
        (f"bedrock:{TITAN}", 300, None, "256, 512, 1024"),
        ("bedrock:cohere.embed-v4:0", 1024, None, "no embedding model"),
        ("offline:rules", 3, "k", "no embedding model"),
        ("openai:", 3, "k", "no embedding model"),
        ("", 3, "k", "no embedding model"),
    ],
)
def test_a_model_that_is_not_served_is_refused_with_what_to_do(
    model: str, dimensions: int | None, key: str | None, told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        make_embedder(model, dimensions=dimensions, openai_base_url=None, openai_api_key=key, bedrock=no_bedrock)
