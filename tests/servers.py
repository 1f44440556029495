"""Servers for contract tests: the stand-ins as processes of their own, and servers that behave badly or take notes."""

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 40.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def stand_in(module: str, log: Path, *arguments: str, path: str = "/") -> Iterator[str]:
    """Runs `python -m module --port P …` until the block ends; ready when `path` gets any answer."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--port", str(port), *arguments], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url + path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{module} did not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except (urllib.error.URLError, OSError):
        return False


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: Any


Answer = Callable[[Request], bytes | None]


def http(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} Status\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, list[Request]]]:
    """A loopback server and the requests it got; where `answer` gives `None`, the client waits for ever."""
    requests: list[Request] = []
    over = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            method, path, _ = self.rfile.readline().decode("latin-1").split(" ", 2)
            length = 0
            while line := self.rfile.readline().strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = self.rfile.read(length)
            request = Request(method, path, json.loads(body) if body[:1] in (b"{", b"[") else body)
            requests.append(request)
            reply = answer(request)
            if reply is None:
                over.wait(30)
            else:
                self.wfile.write(reply)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is the client's business here."""

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}", requests
        finally:
            over.set()
            listening.shutdown()
            thread.join()


BROKEN: dict[str, bytes] = {
    "closes the connection": b"",
    "speaks another protocol": b"\x00\x01\x02 no http \r\n\r\n",
    "answers 500": http(500, b"Internal Server Error", "text/plain"),
    "answers 502 with a page": http(502, b"<html><body>Bad gateway</body></html>", "text/html"),
    "answers 200 with a page": http(200, b"<html><body>Log in to this network</body></html>", "text/html"),
    "answers cut JSON": http(200, b'{"result": [{"a": '),
    "answers an empty list": http(200, b"[]"),
    "answers a number": http(200, b"5"),
    "answers null": http(200, b"null"),
    "answers another shape": http(200, b'{"result": {"unexpected": [1, {"a": null}]}, "status": "ok", "time": 0}'),
}
"""What a broken server, a proxy or a captive portal in its place sends back."""
