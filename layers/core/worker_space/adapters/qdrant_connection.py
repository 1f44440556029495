"""The connection to Qdrant: one client for one event loop, a deadline round each call, and its errors translated.

Importing the client takes over a second in a cold environment. It happens on first use, in a worker thread, and
outside the deadline of the call that needed it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from worker_space.adapters.breaker import Breaker
from worker_space.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient

__all__ = ["CONFLICT", "NOT_FOUND", "WRONG_INPUT", "QdrantConnection"]

_T = TypeVar("_T")

WRONG_INPUT: Final = 400
_WRONG_KEY: Final = (401, 403)
NOT_FOUND: Final = 404
CONFLICT: Final = 409
_SERVER_ERROR: Final = 500
_DEPENDENCY: Final = "qdrant"


def _client(url: str, api_key: str | None) -> "AsyncQdrantClient":
    import httpx
    from qdrant_client import AsyncQdrantClient

    return AsyncQdrantClient(
        url=url,
        # As a header: given as `api_key` it makes the client warn about plain HTTP, which the embedded stack speaks.
        headers={"api-key": api_key} if api_key else None,
        check_compatibility=False,
        # The deadline is the breaker's; this one only ends a request that nobody waits for any more.
        timeout=5,
        # Without limits of ours the client opens a new connection for every request to this machine.
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=8),
    )


def _failure(error: Exception) -> str | None:
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

    if isinstance(error, UnexpectedResponse):
        return f"HTTP {error.status_code}" if (error.status_code or _SERVER_ERROR) >= _SERVER_ERROR else None
    if isinstance(error, ResponseHandlingException):
        return type(error.source).__name__
    # The client asserts the shape of an answer, or stumbles over it.
    if isinstance(error, (ApiException, AssertionError, AttributeError, LookupError, TypeError, ValueError)):
        return type(error).__name__
    return None


class QdrantConnection:
    """Runs calls against Qdrant's REST interface.

    Args:
        url: QDRANT_URL; without a port, 6333.
        api_key: QDRANT_API_KEY; a key that reads and writes every collection of the stack.
        timeout_seconds: Deadline of each call. After a call without an answer further ones fail at once for 2 s.
        refused: Called when the server does not accept the key.
    """

    def __init__(
        self, url: str, api_key: str | None, *, timeout_seconds: float, refused: Callable[[], None] | None = None
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._refused = refused
        self._breaker = Breaker(_DEPENDENCY, _failure, timeout_seconds=timeout_seconds)
        self._connecting = asyncio.Lock()
        self._connected: AsyncQdrantClient | None = None

    async def __call__(self, call: Callable[["AsyncQdrantClient"], Awaitable[_T]], *, even_if_open: bool = False) -> _T:
        """The call's result.

        Raises:
            NotFound: The server has no such collection.
            Unavailable: No usable answer, or a refusal.
        """
        async with self._connecting:
            if self._connected is None:
                self._connected = await asyncio.to_thread(_client, self._url, self._api_key)
            client = self._connected
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import UnexpectedResponse

        try:
            return await self._breaker(lambda: call(client), even_if_open=even_if_open)
        except UnexpectedResponse as error:
            if error.status_code == NOT_FOUND:
                raise NotFound("this agent has no context collection") from error
            if error.status_code in _WRONG_KEY and self._refused is not None:
                self._refused()
            raise Unavailable(_DEPENDENCY, f"HTTP {error.status_code}") from error
        except QdrantException as error:
            raise Unavailable(_DEPENDENCY, "HTTP 429") from error

    async def close(self) -> None:
        """Close the connections; the next call would open new ones."""
        client, self._connected = self._connected, None
        if client is not None:
            await client.close()
