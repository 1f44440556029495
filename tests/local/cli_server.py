"""A small API on loopback for the command line's tests: the real shapes, scripted answers, every request kept."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_NOTHING = b": nothing\n\n"
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
        tells_events: Whether there is an event stream; then a task is at its last state from the beginning.
        story: What each message's stream tells behind its beginning, instead of what follows from `states`.
        events: What the session's stream has told so far.
        files: Bytes by path, per project.
        archive: What an export gives.
        at_address: Whether it gives an address of the store instead.
        imported_from: The project and file of each import that names them, with the file's bytes.
        refuse: Problem documents by (method, regular expression of the path).
        refuse_once: Likewise, for one request each.
        requests: (method, path, body) of each request.
        version: Gives a content's version; MD5, as S3 does, unless a test says otherwise.
        grants: What the store was asked to take or give, by the path of the address.
        at_store: (method, headers in lower case) of each request to the store.
        then: Called with method and path when the answer to a request is made, before it is sent.
        damage: What the store gives instead of a content, for one that loses bytes.
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
        self.archive = b"PK archive"
        self.at_address = False
        self.imported_from: list[tuple[str, str, bytes]] = []
        self.tokens: set[str] = set()
        self.version: Callable[[bytes], str] = lambda data: hashlib.md5(data).hexdigest()
        self.grants: dict[str, tuple[str, dict[str, Any], Any]] = {}
        self.at_store: list[tuple[str, dict[str, str]]] = []
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self.then: Callable[[str, str], None] = lambda method, path: None
        self.tells_events = True
        self.story: list[dict[str, Any]] | None = None
        self.events: list[dict[str, Any]] = []
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
                    api.then(self.command, self.path)
                raw = json.dumps(body).encode() if isinstance(body, dict) else body
                if raw == _NOTHING:
                    time.sleep(0.05)
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                if status == 303:
                    self.send_header("location", body["location"])
                if isinstance(body, bytes):
                    self.send_header("etag", f'"{api.version(body)}"')
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve

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
        if method == "POST" and headers.get("content-type") != "application/zip":
            body = json.loads(data) if data and data != b"null" else None
        self.requests.append((method, path, body))
        if path == "/health":
            return 200, {"status": "ok"}
        if path.startswith("/store/"):
            return self._store(method, path, data, headers)
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
        if (method, parts) == ("POST", ["import"]):
            if "from_project" in query:
                source, where = query["from_project"][0], query["path"][0]
                self.imported_from.append((source, where, self.files[source][where]))
            made = {"id": query.get("id", ["p-1"])[0], "name": query.get("name", ["Shop"])[0]}
            imported = {"agents": 4, "sessions": 2, "messages": 16, "tasks": 8, "files": 3}
            return 201, {**made, "imported": imported}
        if project not in self.projects:
            return 404, {"status": 404, "title": "Not found", "detail": f"you have no project {project!r}"}
        match parts[1:]:
            case [""]:
                return 200, self.projects[project]
            case ["export"] if self.at_address:
                self.files["archives"] = {"shop.zip": self.archive}
                self.grants["/store/archive"] = ("archives", {"path": "shop.zip"}, {})
                return 303, {"location": f"{self.url}/store/archive"}
            case ["export"]:
                return 200, self.archive
            case ["agents", ""] if method == "GET":
                return 200, {"items": [AGENT], "next": None}
            case ["agents", ""]:
                return 201, {**body, "id": "agent_2"}
            case ["agents", _]:
                return 200, AGENT
            case ["files", ""]:
                return 200, self._list(project, query)
            case ["files", *where] if method == "DELETE":
                del self.files[project]["/".join(where)]
                return 204, b""
            case ["files", *where] if method == "PUT":
                return self._put(project, "/".join(where), body, headers)
            case ["files", *where]:
                return self._read(project, "/".join(where), headers)
            case ["file-uploads", ""]:
                return self._grant(project, "PUT", body, headers)
            case ["file-downloads", ""]:
                return self._grant(project, "GET", body, headers)
            case ["chat", ""] | ["chat", _, "message", ""]:
                self._begin()
                return 202, {"task": task("submitted"), "href": "/my/projects/p/tasks/task_1"}
            case ["chat", _, "events"] if self.tells_events:
                behind = int(headers["last-event-id"])
                told = [event for event in self.events if event["seq"] > behind]
                lines = [f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in told]
                return 200, "".join(lines).encode() or _NOTHING
            case ["approvals", _] if method == "GET":
                return 200, {"id": "approval_1", "arguments": {"path": "a.py"}}
            case ["approvals", _, "confirm" | "reject"]:
                return 200, {"id": "approval_1"}
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

    def tell(self, *events: dict[str, Any]) -> None:
        """Add events of the task to the session's stream."""
        for event in events:
            number = len(self.events) + 1
            known = {"seq": number, "at": number, "task_id": "task_1", "agent_id": "agent_1", "data": {}}
            self.events.append({**known, **event})

    def _begin(self) -> None:
        """A message has come."""
        if not self.tells_events:
            return
        self._looks = len(self.states)
        self.tell({"type": "message_created", "data": {"role": "user"}}, {"type": "task_submitted"})
        last = self.states[-1]
        kinds = {"model": "tool_calls", "results": "results"}
        steps = [
            {"type": "step", "data": {"kind": step["kind"].replace("results", "tool"), what: step[what]}}
            for step in self.steps[: last["steps"]]
            for what in [kinds[step["kind"]]]
        ]
        end = [{"type": f"task_{last['state']}"}] if last["state"] in {"completed", "failed", "canceled"} else []
        self.tell(*([*steps, *end] if self.story is None else self.story))

    def _list(self, project: str, query: Any) -> dict[str, Any]:
        # Two at a time, so that a client that ignores the cursor loses files.
        begin = int(query.get("cursor", ["0"])[0])
        entries = [
            {"path": path, "kind": "file", "size": len(data), "version": self.version(data)}
            for path, data in sorted(self.files[project].items())
        ]
        return {"items": entries[begin : begin + 2], "next": str(begin + 2) if len(entries) > begin + 2 else None}

    def _read(self, project: str, path: str, headers: Any) -> tuple[int, Any]:
        there = self.files[project].get(path)
        if there is None:
            return 404, {"status": 404, "title": "Not found", "detail": f"there is no file {path!r}"}
        if headers.get("if-match") not in (None, f'"{self.version(there)}"'):
            return 412, {"status": 412, "title": "Precondition failed"}
        return 200, self.damage(there)

    def _put(self, project: str, path: str, data: bytes, headers: Any) -> tuple[int, Any]:
        there = self.files[project].get(path)
        version = None if there is None else f'"{self.version(there)}"'
        if headers.get("if-match") != version or (there is not None and headers.get("if-none-match")):
            return 412, {"status": 412, "title": "Precondition failed"}
        self.files[project][path] = data
        # The bytes, for the version that the handler makes of them; no client reads them.
        return 200 if there is not None else 201, data

    def _grant(self, project: str, method: str, body: dict[str, Any], headers: Any) -> tuple[int, Any]:
        there = self.files[project].get(body["path"])
        if method == "GET" and there is None:
            return 404, {"status": 404, "title": "Not found"}
        named = {name: headers[name] for name in ("If-Match", "If-None-Match") if headers.get(name)}
        if method == "PUT":
            named |= {"Content-Length": str(body["size"]), "Content-Type": "application/octet-stream"}
        address = f"/store/{len(self.grants)}"
        self.grants[address] = (project, body, named)
        facts = {} if there is None else {"size": len(there), "version": self.version(there)}
        return 201, {"method": method, "url": f"{self.url}{address}", "headers": named, **facts}

    def _store(self, method: str, path: str, data: bytes, headers: Any) -> tuple[int, Any]:
        """S3, as far as it differs from the API."""
        self.at_store.append((method, {name.lower(): value for name, value in headers.items()}))
        project, body, named = self.grants[path]
        if any(headers.get(name) != value for name, value in named.items()):
            return 403, b"<Error><Code>SignatureDoesNotMatch</Code><Message>Not this one</Message></Error>"
        if method == "GET":
            return 200, self.damage(self.files[project][body["path"]])
        if hashlib.sha256(data).hexdigest() != body["sha256"]:
            return 400, b"<Error><Code>BadDigest</Code><Message>The SHA256 did not match</Message></Error>"
        status, _ = self._put(project, body["path"], data, headers)
        return (200, data) if status < 400 else (412, b"<Error><Code>PreconditionFailed</Code></Error>")
