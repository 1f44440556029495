"""Embeddings by a model's name: the port `Embedder`, over an OpenAI-compatible server or Amazon Titan in Bedrock.

What goes wrong here costs meaning, never an answer: callers store and search by words alone then. So every failure is
`Unavailable`, and a server that gives no answer is left alone for a moment.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from worker_space.adapters.breaker import Breaker
from worker_space.errors import InvalidRequest, Unavailable
from worker_space.tenancy import TenantContext

if TYPE_CHECKING:
    import httpx

    from worker_space.adapters.aws import AwsCalls

__all__ = ["BedrockEmbedder", "OpenAIEmbedder", "make_embedder"]

_DEPENDENCY: Final = "embedding"
_TIMEOUT_SECONDS: Final = 1.8
_OPENAI: Final = "https://api.openai.com/v1"
# Both families take 8,192 tokens; scripts without spaces have about one token for a character.
_MOST_CHARACTERS: Final = 6_000
_TITAN: Final = "amazon.titan-embed-text-v2:"
_TITAN_LENGTHS: Final = (256, 512, 1024)
_LENGTHS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "openai:text-embedding-3-small": 1536,
        "openai:text-embedding-3-large": 3072,
        "openai:text-embedding-ada-002": 1536,
    }
)


class _Unusable(Exception):
    """An answer that is no list of vectors of the right length."""


class OpenAIEmbedder:
    """`POST …/embeddings` of OpenAI and of servers that speak like it, for one event loop.

    Args:
        model: The model's name at the server.
        dimensions: Length of its vectors. OpenAI's third generation is asked to give this length; others are not.
        base_url: Such as `http://127.0.0.1:11434/v1`; `None` is OpenAI.
        api_key: Sent as a bearer token where there is one.
        timeout_seconds: Deadline of each call. After a call without an answer further ones fail at once for 2 s.
    """

    def __init__(
        self,
        model: str,
        *,
        dimensions: int,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self.dimensions = dimensions
        self.space = f"openai:{model}:{dimensions}"
        self._model = model
        self._url = f"{(base_url or _OPENAI).rstrip('/')}/embeddings"
        self._api_key = api_key
        self._breaker = Breaker(_DEPENDENCY, _failure, timeout_seconds=timeout_seconds)
        self._client: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self.space!r}, api_key <{'set' if self._api_key else 'not set'}>)"

    async def embed(self, tenant: TenantContext, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, of its first 6,000 characters, in one request.

        Raises:
            Unavailable: There is no usable answer.
        """
        if not texts:
            return []
        body: dict[str, Any] = {
            "model": self._model,
            "input": [_cut(text) for text in texts],
            "encoding_format": "float",
        }
        if self._model.startswith("text-embedding-3"):
            # Servers that only speak like OpenAI refuse a length that their model does not offer, or any.
            body["dimensions"] = self.dimensions

        async def call() -> Sequence[Sequence[float]]:
            answer = await self._connected().post(self._url, json=body)
            answer.raise_for_status()
            data = sorted(answer.json()["data"], key=lambda each: each["index"])
            return _checked([each["embedding"] for each in data], len(texts), self.dimensions)

        return await _asked(self._breaker, call)

    async def close(self) -> None:
        """Close the connections; the next call would open new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _connected(self) -> "httpx.AsyncClient":
        if self._client is None:
            import httpx

            self._client = httpx.AsyncClient(
                headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else None,
                # The deadline is the breaker's; this one only ends a request that nobody waits for any more.
                timeout=5.0,
                limits=httpx.Limits(max_connections=16, max_keepalive_connections=4),
            )
        return self._client


class BedrockEmbedder:
    """Amazon Titan Text Embeddings V2, which takes one text a call.

    Args:
        model: `amazon.titan-embed-text-v2:0`.
        dimensions: 256, 512 or 1024.
        client: A `bedrock-runtime` client with deadlines and without retries.
        calls: Runs it in worker threads.
        timeout_seconds: Deadline of each call. After a call without an answer further ones fail at once for 2 s.
    """

    def __init__(
        self,
        model: str,
        *,
        dimensions: int,
        client: Any,
        calls: "AwsCalls",
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self.dimensions = dimensions
        self.space = f"bedrock:{model}:{dimensions}"
        self._model = model
        self._client = client
        self._calls = calls
        self._breaker = Breaker(_DEPENDENCY, _failure, timeout_seconds=timeout_seconds)

    async def embed(self, tenant: TenantContext, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, of its first 6,000 characters; the calls go out together.

        Raises:
            Unavailable: There is no usable answer.
        """

        async def call() -> Sequence[Sequence[float]]:
            answers = await asyncio.gather(
                *(self._calls(_DEPENDENCY, self._invoke, text=_cut(text)) for text in texts), return_exceptions=True
            )
            # Only when all have come to their end: what is left running would go on in the next invocation.
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
            return _checked(answers, len(texts), self.dimensions)

        return await _asked(self._breaker, call)

    async def close(self) -> None:
        """Nothing is open that outlives the client."""

    def _invoke(self, *, text: str) -> Any:
        answer = self._client.invoke_model(
            modelId=self._model,
            contentType="application/json",
            accept="application/json",
            body=json.dumps({"inputText": text, "dimensions": self.dimensions, "normalize": True}),
        )
        return json.loads(answer["body"].read())["embedding"]


def make_embedder(
    model: str,
    *,
    dimensions: int | None,
    openai_base_url: str | None,
    openai_api_key: str | None,
    bedrock: Callable[[], tuple[Any, "AwsCalls"]],
) -> "OpenAIEmbedder | BedrockEmbedder":
    """The embedder of a name such as `openai:text-embedding-3-small` or `bedrock:amazon.titan-embed-text-v2:0`.

    Args:
        dimensions: Length of the vectors; needed for models whose length is not known here.
        bedrock: Makes a client and what runs its calls; asked only for a Bedrock model.

    Raises:
        InvalidRequest: No such model is served, or the length of its vectors is not known.
    """
    provider, _, name = model.partition(":")
    if provider == "bedrock" and name.startswith(_TITAN):
        length = dimensions or _TITAN_LENGTHS[-1]
        if length not in _TITAN_LENGTHS:
            raise InvalidRequest(f"WORKER_SPACE_EMBEDDING_DIMENSIONS must be one of {_TITAN_LENGTHS} for {model!r}")
        client, calls = bedrock()
        return BedrockEmbedder(name, dimensions=length, client=client, calls=calls)
    if provider != "openai" or not name:
        raise InvalidRequest(
            f"{model[:80]!r} is no embedding model of this release: use openai:NAME or bedrock:{_TITAN}0"
        )
    if not (openai_api_key or openai_base_url):
        raise InvalidRequest(f"{model[:80]!r} needs OPENAI_API_KEY, or OPENAI_BASE_URL for a server without a key")
    known = dimensions or _LENGTHS.get(model)
    if known is None:
        raise InvalidRequest(f"set WORKER_SPACE_EMBEDDING_DIMENSIONS to the length of the vectors of {model[:80]!r}")
    return OpenAIEmbedder(name, dimensions=known, base_url=openai_base_url, api_key=openai_api_key)


def _cut(text: str) -> str:
    # Servers refuse an empty text; half a character (a lone surrogate) cannot be sent at all.
    return text[:_MOST_CHARACTERS].encode(errors="replace").decode() or " "


def _checked(vectors: Sequence[Any], count: int, dimensions: int) -> Sequence[Sequence[float]]:
    if len(vectors) != count:
        raise _Unusable(f"{len(vectors)} vectors for {count} texts")
    made = [[float(number) for number in vector] for vector in vectors]
    if any(len(vector) != dimensions for vector in made):
        raise _Unusable(f"vectors of another length than {dimensions}")
    if not all(math.isfinite(number) for vector in made for number in vector):
        raise _Unusable("numbers that are not finite")
    return made


_Vectors = Sequence[Sequence[float]]


async def _asked(breaker: Breaker, call: Callable[[], Awaitable[_Vectors]]) -> _Vectors:
    from botocore.exceptions import ClientError
    from httpx import HTTPStatusError

    try:
        return await breaker(call)
    except HTTPStatusError as error:
        raise Unavailable(_DEPENDENCY, f"HTTP {error.response.status_code}") from error
    except ClientError as error:
        raise Unavailable(_DEPENDENCY, str(error.response.get("Error", {}).get("Code", "Unknown"))) from error


def _failure(error: Exception) -> str | None:
    """Why there was no usable answer; `None` for a refusal, which is an answer and cost no waiting."""
    import httpx
    from botocore.exceptions import ClientError

    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return f"HTTP {status}" if status >= 500 or status < 400 else None
    if isinstance(error, ClientError):
        return None
    if isinstance(error, Unavailable):
        return type(error.__cause__).__name__
    if isinstance(error, _Unusable):
        return str(error)
    # The client's own errors, and those of reading an answer of another shape. None of their texts is told: they
    # may quote what was sent.
    if isinstance(error, (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, LookupError, TypeError, ValueError)):
        return type(error).__name__
    return None
