"""A model provider on this machine that gives the answers it is told to give, and what it is asked."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from worker_space.models import ModelRequest, ToolSpec, Turn, UserTurn
from worker_space.tenancy import TenantContext

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


@contextmanager
def listening() -> Iterator[Provider]:
    """A provider that answers on a port of its own."""
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
    try:
        yield state
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()


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


def refusal(status: int, message: str, **more: str) -> Answer:
    return Answer(status, json.dumps({"error": {"message": message, **more}}).encode())


def ask(*turns: Turn, model: str = "openai:m", **more: Any) -> ModelRequest:
    return ModelRequest(
        model=model, system_prompt="Be brief.", turns=turns or (UserTurn(content=PROMPT),), tools=(READ,), **more
    )
