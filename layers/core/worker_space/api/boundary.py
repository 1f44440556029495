"""The outermost ring: every request is identified, authenticated, bounded in size and time, and ends in an answer."""

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker_space.api.auth import TokenVerifier, bearer_token
from worker_space.api.problems import problem_of, unexpected
from worker_space.errors import TooLarge, Unavailable, WorkerSpaceError
from worker_space.stream_tickets import StreamTickets, tenant_of

__all__ = ["MAX_BODY_BYTES", "REQUEST_SECONDS", "Boundary"]

MAX_BODY_BYTES: Final = 10_000_000
REQUEST_SECONDS: Final = 28.0
"""The function is given 29 s, API Gateway gives up after 30."""
_PROTECTED: Final = ("/my/projects", "/my/erasures")
_STREAM: Final = re.compile(r"/my/projects/(?P<project>[^/]+)/chat/(?P<session>[^/]+)/events/?")


class Boundary:
    """ASGI middleware.

    The token is checked before the body is read and before the router looks: without one, everything below
    `/my/projects` and `/my/erasures` looks the same. The user goes into the scope as `user_context`, the one place
    routes take it from.

    Args:
        verifier: Gives the deployment's token verifier.
        tickets: Gives what checks the tickets of event streams, the one thing that may stand for a token.
    """

    def __init__(
        self, app: ASGIApp, *, verifier: Callable[[], TokenVerifier], tickets: Callable[[], StreamTickets]
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._tickets = tickets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        correlation_id = _correlation_id(scope)
        scope["correlation_id"] = correlation_id
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = correlation_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        path = scope["path"]
        deadline = asyncio.timeout(REQUEST_SECONDS)
        try:
            async with deadline:
                headers = Headers(scope=scope)
                if path.startswith(_PROTECTED):
                    await self._identify(scope, headers)
                await self._app(scope, _bounded(headers, receive), sending)
            return
        except TimeoutError as error:
            late = Unavailable("the service", f"the request took over {REQUEST_SECONDS:g} s")
            failure: Exception = late if deadline.expired() else error
        except Exception as error:  # noqa: BLE001 - the last place that can answer; `unexpected` logs it
            failure = error
        if started:
            # Half an answer is out: only a broken connection tells the client.
            raise failure
        if isinstance(failure, WorkerSpaceError):
            response = problem_of(failure, path, correlation_id=correlation_id)
        else:
            response = unexpected(failure, path, correlation_id=correlation_id)
        await response(scope, receive, sending)

    async def _identify(self, scope: Scope, headers: Headers) -> None:
        """Put the caller into the scope.

        Raises:
            Unauthorized: Neither a token nor, for an event stream, a ticket says who calls.
        """
        given = headers.getlist("authorization")
        stream = _STREAM.fullmatch(scope["path"])
        if stream is not None and scope["method"] == "GET" and not given:
            ticket = QueryParams(scope["query_string"]).getlist("ticket")
            if len(ticket) == 1:
                tenant = tenant_of(ticket[0], stream["project"])
                await self._tickets().open(tenant, stream["session"], ticket[0])
                scope["user_context"] = tenant.user
                return
        caller = await self._verifier().caller(bearer_token(given))
        scope["user_context"] = caller.user
        scope["token_expires_at"] = caller.until


def _bounded(headers: Headers, receive: Receive) -> Receive:
    """The request's body, refused as soon as it is known to be too large."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
        raise TooLarge(f"the body has {length[:20]} bytes: send at most {MAX_BODY_BYTES}")
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY_BYTES:
            # The framework turns any other error that comes from reading a body into 400.
            raise HTTPException(413)
        return message

    return bounded


def _correlation_id(scope: Scope) -> str:
    """Lambda's or the gateway's own id where there is one, so that its log and the client's report meet."""
    context = scope.get("aws.context")
    return str(getattr(context, "aws_request_id", None) or secrets.token_hex(16))
