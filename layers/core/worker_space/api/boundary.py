"""The outermost ring: every request is identified, authenticated, bounded in size and time, and ends in an answer."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker_space.api.auth import TokenVerifier, bearer_token
from worker_space.api.problems import problem_of, unexpected
from worker_space.errors import InvalidRequest, TooLarge, Unavailable, WorkerSpaceError
from worker_space.serving import serving
from worker_space.stream_tickets import StreamTickets, tenant_of
from worker_space.telemetry import logged_with
from worker_space.tenancy import TenantContext, UserContext

__all__ = ["MAX_BODY_BYTES", "REQUEST_SECONDS", "Boundary"]

MAX_BODY_BYTES: Final = 10_000_000
REQUEST_SECONDS: Final = 28.0
"""The function is given 29 s, API Gateway gives up after 30."""
_PROTECTED: Final = ("/my/projects", "/my/erasures")
_PROJECT: Final = re.compile(r"/my/projects/(?P<project>[^/]+)(?:/|$)")
_GATEWAY_ID: Final = re.compile(r"[A-Za-z0-9+/=_-]{8,64}")
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_QUIET: Final = frozenset({"/health", "/ready"})
_log = logging.getLogger(__name__)
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
        told = _Told(scope)
        with ExitStack() as fields:
            fields.enter_context(logged_with(correlation_id=correlation_id))
            try:
                await self._answer(scope, receive, send, told, fields)
            finally:
                told.say()

    async def _answer(self, scope: Scope, receive: Receive, send: Send, told: "_Told", fields: ExitStack) -> None:
        correlation_id = scope["correlation_id"]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                told.status = message["status"]
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
                    fields.enter_context(serving(await self._identify(scope, headers)))
                    fields.enter_context(logged_with(**_tenant_of(scope)))
                await self._app(scope, _bounded(headers, receive), sending)
            return
        except TimeoutError as error:
            late = Unavailable("the service", f"the request took over {REQUEST_SECONDS:g} s")
            failure: Exception = late if deadline.expired() else error
        except Exception as error:  # noqa: BLE001 - the last place that can answer; `unexpected` logs it
            failure = error
        if told.status:
            # Half an answer is out: only a broken connection tells the client.
            raise failure
        if isinstance(failure, WorkerSpaceError):
            response = problem_of(failure, path, correlation_id=correlation_id)
        else:
            response = unexpected(failure, path, correlation_id=correlation_id)
        await response(scope, receive, sending)

    async def _identify(self, scope: Scope, headers: Headers) -> UserContext:
        """Find out who calls, and put them into the scope.

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
                return tenant.user
        caller = await self._verifier().caller(bearer_token(given))
        scope["user_context"] = caller.user
        scope["token_expires_at"] = caller.until
        return caller.user


class _Told:
    """Says of each request what came of it: by its route and never by its address, which names files and tickets.

    Attributes:
        status: Of the answer, once it has begun.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._began = time.monotonic()
        self.status = 0

    def say(self) -> None:
        """Write the line."""
        method = self._scope["method"] if self._scope["method"] in _METHODS else "another method"
        route = getattr(self._scope.get("route"), "path", "no route")
        milliseconds = round((time.monotonic() - self._began) * 1000)
        level = logging.DEBUG if route in _QUIET and self.status < 400 else logging.INFO
        _log.log(level, "%s %s answered %d in %d ms", method, route, self.status, milliseconds)


def _tenant_of(scope: Scope) -> dict[str, str]:
    """The pseudonym of the user and the project that the path names, for the log."""
    user, named = scope.get("user_context"), _PROJECT.match(scope["path"])
    if not isinstance(user, UserContext) or named is None:
        return {}
    try:
        return {"tenant": TenantContext(user.user_id, named["project"]).pseudonym}
    except InvalidRequest:
        # No project can have this id.
        return {}


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
    """The gateway's or Lambda's own id where there is one, so that its log and the client's report meet.

    One that a client sends is not taken: it would be the client's text in every log of the work that follows.
    """
    event, context = scope.get("aws.event"), scope.get("aws.context")
    request = event.get("requestContext", {}) if isinstance(event, Mapping) else {}
    if isinstance(given := request.get("requestId"), str) and _GATEWAY_ID.fullmatch(given):
        return given
    return str(getattr(context, "aws_request_id", None) or secrets.token_hex(16))
