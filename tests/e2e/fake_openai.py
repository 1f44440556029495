"""An OpenAI-compatible server on loopback that answers by a rule, keeps what it was asked, and can be held up."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Rule = Callable[[dict[str, Any]], dict[str, Any]]


def says(text: str) -> dict[str, Any]:
    """An answer in words."""
    return {"role": "assistant", "content": text}


def calls(name: str, **arguments: object) -> dict[str, Any]:
    """An answer that asks for one tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{name}", "type": "function", "function": function}],
    }


def question(request: dict[str, Any]) -> str:
    """The newest message of the user in a request."""
    content = next(turn["content"] for turn in reversed(request["messages"]) if turn["role"] == "user")
    assert isinstance(content, str)
    return content


def results(request: dict[str, Any]) -> list[str]:
    """What the tools of this run have returned so far."""
    turns = request["messages"]
    last = max(index for index, turn in enumerate(turns) if turn["role"] == "user")
    return [turn["content"] for turn in turns[last:] if turn["role"] == "tool"]


def pieces(request: dict[str, Any], message: dict[str, Any]) -> Iterator[bytes]:
    """An answer as a stream tells it: word by word, its tool calls whole, then why it ends and what it cost."""
    head = {"id": "r", "object": "chat.completion.chunk", "created": 1, "model": request["model"]}
    deltas: list[dict[str, Any]] = [
        {"content": word} for word in re.findall(r"\S+\s*|\s+", message.get("content") or "")
    ]
    if message.get("tool_calls"):
        deltas.append({"tool_calls": [{"index": at, **call} for at, call in enumerate(message["tool_calls"])]})
    for delta in deltas:
        yield _line({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _line({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if request.get("stream_options", {}).get("include_usage"):
        yield _line({**head, "choices": [], "usage": _USAGE})
    yield b"data: [DONE]\n\n"


_USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def _line(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class FakeOpenAI:
    """The server. Its rule may block; each request runs in a thread of its own.

    Attributes:
        gap: Seconds between two pieces of a streamed answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with fake._lock:
                    fake.requests.append(request)
                if request.get("stream"):
                    self.stream(request, fake.rule(request))
                    return
                body = json.dumps(
                    {
                        "id": "r",
                        "object": "chat.completion",
                        "created": 1,
                        "model": request["model"],
                        "choices": [{"index": 0, "finish_reason": "stop", "message": fake.rule(request)}],
                        "usage": _USAGE,
                    }
                ).encode()
                try:
                    self.send_response(200)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def stream(self, request: dict[str, Any], message: dict[str, Any]) -> None:
                try:
                    self.send_response(200)
                    self.send_header("content-type", "text/event-stream")
                    self.send_header("transfer-encoding", "chunked")
                    self.end_headers()
                    for piece in pieces(request, message):
                        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                        time.sleep(fake.gap)
                    self.wfile.write(b"0\r\n\r\n")
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def forget(self) -> None:
        """Be as if nothing was asked yet, with the first rule again."""
        with self._lock:
            self.requests: list[dict[str, Any]] = []
        self.gap = 0.0
        self.rule: Rule = lambda request: says(f"You said: {question(request)}")

    def asked(self, text: str) -> list[dict[str, Any]]:
        """The requests whose newest user message holds `text`."""
        with self._lock:
            return [request for request in self.requests if text in question(request)]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
