"""A small API on loopback for the command line's tests: the real shapes, scripted answers, every request kept."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

AGENT = {"id": "agent_1", "name": "analyst", "model": "offline:rules", "max_concurrency": 3, "tools": ["read_file"]}
STEPS: list[dict[str, Any]] = [
    {
        "number": 0,
        "kind": "model",
        "at": 1_050,
        "ms": 20,
        "tool_calls": [{"name": "read_file", "arguments": {"path": "a.py"}}],
        "results": [],
    },
    {
        "number": 1,
        "kind": "results",
        "at": 1_080,
        "ms": 30,
        "tool_calls": [],
        "results": [{"name": "read_file", "path": "a.py", "is_error": False}],
    },
]


def task(state: str, **more: Any) -> dict[str, Any]:
    """A task as the API shows it."""
    base = {"id": "task_1", "session_id": "session_1", "agent_id": "agent_1", "attempt": 1, "steps": 0}
    return {**base, "state": state, "created_at": 1_000, "started_at": 1_020, "ended_at": None, "error": None, **more}


class FakeApi:
    """The API of one test.

    Attributes:
        states: What a task is at each look at it; the last stays.
        files: Bytes by path, per project.
        refuse: Problem documents by (method, regular expression of the path).
        refuse_once: Likewise, for one request each.
        requests: (method, path, body) of each request.
    """

    def __init__(self) -> None:
        done = task("completed", steps=2, ended_at=1_200, answer="# Report\n\nIt has **one** class.")
        self.states: list[dict[str, Any]] = [task("submitted"), task("working", steps=1), done]
        self.projects: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.steps: list[dict[str, Any]] = STEPS
        self.refuse: list[tuple[str, str, dict[str, Any]]] = []
        self.refuse_once: list[tuple[str, str, dict[str, Any]]] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.tokens: set[str] = set()
        self._looks = 0
        self._lock = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                data = self.rfile.read(length)
                with api._lock:
                    status, body = api._answer(self.command, self.path, data, self.headers)
                raw = json.dumps(body).encode() if isinstance(body, dict) else body
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sent(self, method: str, path: str) -> list[Any]:
        """The bodies of all requests of this kind."""
        return [body for how, where, body in self.requests if how == method and re.fullmatch(path, where)]

    def _answer(self, method: str, target: str, data: bytes, headers: Any) -> tuple[int, Any]:
        url = urlsplit(target)
        path, query = url.path, parse_qs(url.query)
        body: Any = data
        if method == "POST":
            body = json.loads(data) if data and data != b"null" else None
        self.requests.append((method, path, body))
        if path == "/health":
            return 200, {"status": "ok"}
        self.tokens.add(headers["authorization"].removeprefix("Bearer "))
        for refusal in (*self.refuse_once, *self.refuse):
            how, pattern, problem = refusal
            if how == method and re.fullmatch(pattern, path):
                if refusal in self.refuse_once:
                    self.refuse_once.remove(refusal)
                return problem["status"], problem
        parts = [unquote(part) for part in path.removeprefix("/my/projects/").split("/")]
        return self._project(method, parts, query, body, headers)

    def _project(self, method: str, parts: list[str], query: Any, body: Any, headers: Any) -> tuple[int, Any]:
        project = parts[0]
        if parts == [""]:
            if method == "GET":
                return 200, {"items": list(self.projects.values()), "next": None}
            if body["id"] in self.projects:
                return 409, {"status": 409, "title": "Conflict"}
            self.projects[body["id"]] = body
            self.files[body["id"]] = {}
            return 201, body
        if project not in self.projects:
            return 404, {"status": 404, "title": "Not found", "detail": f"you have no project {project!r}"}
        match parts[1:]:
            case [""]:
                return 200, self.projects[project]
            case ["agents", ""] if method == "GET":
                return 200, {"items": [AGENT], "next": None}
            case ["agents", ""]:
                return 201, {**body, "id": "agent_2"}
            case ["agents", _]:
                return 200, AGENT
            case ["files", ""]:
                return 200, self._list(project, query)
            case ["files", *where]:
                return self._put(project, "/".join(where), body, headers)
            case ["chat", ""] | ["chat", _, "message", ""]:
                return 202, {"task": task("submitted"), "href": "/my/projects/p/tasks/task_1"}
            case ["chat", "sessions", session]:
                return 200, {"id": session, "target_agent": "coder"}
            case ["tasks", ""]:
                return 200, {"items": self.states[-1:], "next": None}
            case ["tasks", _, "steps", ""]:
                now = self.states[min(self._looks, len(self.states)) - 1]
                return 200, {"items": self.steps[: now["steps"]], "next": None}
            case ["tasks", _, "cancel"]:
                self.states = [task("canceled", ended_at=1_100)]
                return 202, task("working")
            case ["tasks", _]:
                self._looks += 1
                return 200, self.states[min(self._looks, len(self.states)) - 1]
        return 404, {"status": 404, "title": "Not found", "detail": "no such route"}

    def _list(self, project: str, query: Any) -> dict[str, Any]:
        # Two at a time, so that a client that ignores the cursor loses files.
        begin = int(query.get("cursor", ["0"])[0])
        entries = [
            {"path": path, "kind": "file", "size": len(data), "version": hashlib.md5(data).hexdigest()}
            for path, data in sorted(self.files[project].items())
        ]
        return {"items": entries[begin : begin + 2], "next": str(begin + 2) if len(entries) > begin + 2 else None}

    def _put(self, project: str, path: str, data: bytes, headers: Any) -> tuple[int, Any]:
        there = self.files[project].get(path)
        version = None if there is None else f'"{hashlib.md5(there).hexdigest()}"'
        if headers.get("if-match") != version or (there is not None and headers.get("if-none-match")):
            return 412, {"status": 412, "title": "Precondition failed"}
        self.files[project][path] = data
        return 200 if there is not None else 201, {"path": path}
