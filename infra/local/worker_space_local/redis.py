"""The Redis stand-in: ``python -m worker_space_local.redis --port P --token T [--redis-url URL]``.

Upstash's REST interface over fakeredis in this process, or over a real Redis or Valkey server by its URL. As Upstash,
it has no blocking commands and no subscriptions.
"""

import argparse
import base64
import hmac
import json
import os
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from worker_space_local.server import Receive, Scope, Send, answer_json, headers_of, read_body, run

if TYPE_CHECKING:
    from redis.asyncio import Redis

Answer: TypeAlias = dict[str, Any]
_REFUSED = {
    *(
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "SSUBSCRIBE",
        "MONITOR",
        "BLPOP",
        "BRPOP",
        "BLMOVE",
        "BLMPOP",
        "BRPOPLPUSH",
        "BZPOPMIN",
    ),
    *(
        "BZPOPMAX",
        "BZMPOP",
        "WAIT",
        "SHUTDOWN",
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH",
        "UNWATCH",
        "SELECT",
        "HELLO",
        "AUTH",
    ),
}


def connected(url: str | None) -> "Redis":
    """Return a client that gives raw RESP2 replies, as Upstash does: of the server at ``url``, or of fakeredis."""
    if url:
        from redis.asyncio import Redis

        client: Redis = Redis.from_url(url, protocol=2)
    else:
        from fakeredis import FakeAsyncRedis

        client = FakeAsyncRedis(protocol=2)
    client.response_callbacks.clear()
    return client


def encoded(value: Any, *, base64_text: bool) -> Any:
    """Turn a reply into JSON as Upstash spells it: text in base64 when asked for, ``OK`` always plain."""
    if isinstance(value, Exception):
        return {"error": _message(value)}
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode() if base64_text and value != b"OK" else value.decode("utf-8", "replace")
    if isinstance(value, list | tuple | set):
        return [encoded(member, base64_text=base64_text) for member in value]
    if isinstance(value, dict):
        return [encoded(part, base64_text=base64_text) for pair in value.items() for part in pair]
    if isinstance(value, float):
        return encoded(repr(value), base64_text=base64_text)
    return int(value) if isinstance(value, bool) else value


def _message(error: Exception) -> str:
    text = str(error)
    # redis-py takes the code ERR away from replies; others (WRONGTYPE, NOSCRIPT, …) it leaves or turns into classes.
    return text if text.split(" ", 1)[0].isupper() else f"ERR {text}"


class Frontend:
    """The REST interface to one Redis client.

    Args:
        client: as ``connected`` makes it.
        token: what ``Authorization: Bearer`` must hold.
    """

    def __init__(self, client: "Redis", token: str) -> None:
        self._client = client
        self._authorization = f"Bearer {token}".encode()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI)."""
        headers = headers_of(scope)
        if not hmac.compare_digest(headers.get("authorization", "").encode(), self._authorization):
            await answer_json(send, 401, {"error": "WRONGPASS invalid or missing auth token"})
            return
        base64_text = headers.get("upstash-encoding") == "base64"
        path = scope["path"].rstrip("/")
        content = await read_body(receive)
        try:
            body = json.loads(content) if content else []
        except ValueError:
            await answer_json(send, 400, {"error": "ERR failed to parse the request body as JSON"})
            return
        if path in ("/pipeline", "/multi-exec"):
            if not isinstance(body, list) or not body or not all(isinstance(command, list) for command in body):
                await answer_json(send, 400, {"error": "ERR the body must be a list of commands"})
            elif path == "/pipeline":
                answers = [await self._one(command, base64_text=base64_text) for command in body]
                await answer_json(send, 200, answers)
            else:
                await self._transaction(send, body, base64_text=base64_text)
            return
        command = [unquote(part) for part in path.split("/")[1:]] if path else body
        if not isinstance(command, list) or not command:
            await answer_json(send, 400, {"error": "ERR empty command"})
            return
        answer = await self._one(command, base64_text=base64_text)
        await answer_json(send, 400 if "error" in answer else 200, answer)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.aclose()

    async def _one(self, command: list[Any], *, base64_text: bool) -> Answer:
        if refusal := _refusal(command):
            return refusal
        from redis.exceptions import RedisError

        try:
            reply = await self._client.execute_command(*map(_argument, command))  # type: ignore[no-untyped-call]
        except RedisError as exc:
            return {"error": _message(exc)}
        return {"result": encoded(reply, base64_text=base64_text)}

    async def _transaction(self, send: Send, commands: list[list[Any]], *, base64_text: bool) -> None:
        from redis.exceptions import RedisError

        for command in commands:
            if refusal := _refusal(command):
                await answer_json(send, 400, refusal)
                return
        pipeline = self._client.pipeline(transaction=True)
        pipeline.response_callbacks = {}
        for command in commands:
            pipeline.execute_command(*map(_argument, command))
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except RedisError as exc:
            await answer_json(send, 400, {"error": _message(exc)})
            return
        await answer_json(
            send,
            200,
            [
                {"error": _message(reply)}
                if isinstance(reply, Exception)
                else {"result": encoded(reply, base64_text=base64_text)}
                for reply in replies
            ],
        )


def _refusal(command: list[Any]) -> Answer | None:
    if not command:
        return {"error": "ERR empty command"}
    name = str(command[0]).upper()
    return {"error": f"ERR Command is not available: '{name}'"} if name in _REFUSED else None


def _argument(value: Any) -> str | int | float:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


def main(arguments: list[str] | None = None) -> None:
    """Run the stand-in until SIGTERM. Nothing is kept: it is a cache."""
    parser = argparse.ArgumentParser(description="Upstash Redis stand-in of the local stack")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--token", default=os.environ.get("UPSTASH_REDIS_REST_TOKEN"), help="default: the environment's"
    )
    parser.add_argument("--redis-url", help="a real server to use instead of fakeredis")
    given = parser.parse_args(arguments)
    if not given.token:
        parser.error("give --token or UPSTASH_REDIS_REST_TOKEN")
    frontend = Frontend(connected(given.redis_url), given.token)
    run(frontend.app, given.port, closing=frontend.close)


if __name__ == "__main__":
    main()
