"""How a stand-in runs: small ASGI helpers, and uvicorn with one worker on loopback."""

import asyncio
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeAlias, TypeVar

import uvicorn

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_T = TypeVar("_T")

HOST = "127.0.0.1"


async def read_body(receive: Receive) -> bytes:
    """Read a request's whole body."""
    message = await receive()
    if not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts = [message["body"]]
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
    return b"".join(parts)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Await ``work`` as long as the client is there; when it goes, ``work`` is cancelled and ``None`` returned.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None
    finally:
        task.cancel()
        gone.cancel()


def headers_of(scope: Scope) -> dict[str, str]:
    """Return a request's headers by lower-case name."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def answer(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send one complete answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, status: int, body: Any, *headers: tuple[bytes, bytes]) -> None:
    """Send one JSON answer."""
    content = json.dumps(body, separators=(",", ":")).encode()
    length = (b"content-length", str(len(content)).encode())
    await answer(send, status, content, [(b"content-type", b"application/json"), length, *headers])


def server_of(app: App, port: int) -> uvicorn.Server:
    """Return a server of an app on 127.0.0.1; connections that are still open when it stops get one second."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=HOST,
            port=port,
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=3600,
        )
    )


async def serve(server: uvicorn.Server, closing: Callable[[], Awaitable[None]] | None = None) -> None:
    """Serve until the server is told to stop; then ``closing`` is awaited, on the same event loop."""
    try:
        await server.serve()
    finally:
        if closing is not None:
            await closing()


def run(
    app: App,
    port: int,
    *,
    closing: Callable[[], Awaitable[None]] | None = None,
    stopped: Callable[[], None] | None = None,
) -> None:
    """Serve an app on 127.0.0.1 until SIGTERM or SIGINT.

    Args:
        app: the ASGI application.
        port: where to listen.
        closing: awaited when serving has ended, to close what belongs to the event loop.
        stopped: called last, without an event loop.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # uvicorn raises a caught signal again when it has stopped; that must not end the process before ``stopped``.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        asyncio.run(serve(server_of(app, port), closing))
    finally:
        if stopped is not None:
            stopped()
