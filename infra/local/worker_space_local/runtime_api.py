"""Lambda on this machine: functions run by AWS's own runtime client, each environment against a Runtime API of its own.

An environment is one process of ``python -m awslambdaric``. It takes one invocation at a time, is frozen between two,
killed when one takes longer than its function's timeout, and forgotten when its process ends; the next invocation then
starts a fresh one. (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html)

What Lambda has and this has not: memory limits, a read-only file system, asynchronous invocations with their retries.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from worker_space_local.server import HOST

INIT_SECONDS: Final = 60.0
"""How long a start may take. Lambda gives it 10 s and then starts again inside the first invocation's own time; here
a machine may be busy with other things."""

_PATH: Final = "/2018-06-01/runtime"
_ANSWER_BYTES: Final = 6 * 1024 * 1024 + 100


@dataclass(frozen=True, kw_only=True)
class Function:
    """What is run, and how.

    Args:
        name: as the context object gives it.
        folder: its code, ``/var/task`` on Lambda.
        variables: its environment, as its template sets it.
        python: the interpreter.
        libraries: what ``PYTHONPATH`` names behind the folder: the layers' ``python``, then the runtime's own packages.
        timeout_seconds: an invocation's time.
        log: the environments' output goes there.
        runtime: as the template names it; ``python`` may be another version where that one is missing.
        region: what ``AWS_REGION`` says.
    """

    name: str
    folder: Path
    variables: Mapping[str, str]
    python: Path
    libraries: tuple[Path, ...]
    timeout_seconds: float
    log: Path
    runtime: str = "python3.13"
    region: str = "us-east-1"
    handler: str = "app.handler"
    memory_mb: int = 1024


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an invocation came to.

    Args:
        payload: the function's answer or, with ``failed``, Lambda's error object (``errorType``, ``errorMessage``).
        failed: Lambda's ``FunctionError``.
        environment: which one ran it; the first invocation of an environment is a cold start.
        seconds: from the call to the answer, a cold start included.
    """

    payload: Any
    failed: bool
    environment: str
    seconds: float


@dataclass(kw_only=True)
class _Invocation:
    event: bytes
    deadline_ms: int
    arn: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    done: threading.Event = field(default_factory=threading.Event)
    payload: Any = None
    failed: bool = False

    def end(self, payload: Any, *, failed: bool) -> None:
        """Settle it, unless it is settled."""
        if not self.done.is_set():
            self.payload, self.failed = payload, failed
            self.done.set()


class _Environment:
    """One process and the Runtime API that it asks."""

    def __init__(self, function: Function) -> None:
        self.name = f"{function.name}-{uuid.uuid4().hex[:8]}"
        self.function = function
        self.ready = threading.Event()
        self.init_error: Any = None
        self._next: queue.SimpleQueue[_Invocation | None] = queue.SimpleQueue()
        self._current: _Invocation | None = None
        self._closed = False
        self._server = ThreadingHTTPServer((HOST, 0), self._requests())
        self._server.daemon_threads = True
        self._serving = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name=self.name, daemon=True
        )
        self._serving.start()
        with function.log.open("ab") as log:
            self._process = subprocess.Popen(
                # -S: only what the path names can be imported, as in Lambda, and nothing of this machine's packages.
                # -B: /opt is read-only there.
                [str(function.python), "-S", "-B", "-m", "awslambdaric", function.handler],
                cwd=function.folder,
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watching = threading.Thread(target=self._watch, name=f"{self.name}-end", daemon=True)
        self._watching.start()

    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, event: Any) -> tuple[Any, bool]:
        """One invocation: the payload, and whether it is an error."""
        seconds = self.function.timeout_seconds
        if not self.ready.wait(INIT_SECONDS) or self.init_error is not None or not self.alive():
            self.close()
            return self.init_error or _error("Sandbox.Init", f"not initialised within {INIT_SECONDS:g} s"), True
        function = f"arn:aws:lambda:{self.function.region}:123456789012:function:{self.function.name}"
        invocation = _Invocation(
            event=json.dumps(event).encode(), deadline_ms=int((time.time() + seconds) * 1000), arn=function
        )
        self._current = invocation
        if not self.alive():
            # Its end may have been noticed before there was an invocation to fail.
            invocation.end(self._exit_error(), failed=True)
        self._next.put(invocation)
        if not invocation.done.wait(seconds):
            message = f"RequestId: {invocation.id} Error: Task timed out after {seconds:.2f} seconds"
            invocation.end(_error("Sandbox.Timedout", message), failed=True)
            self.close()
        self._current = None
        return invocation.payload, invocation.failed

    def close(self) -> None:
        """Kill the process and stop serving; once is enough."""
        if self._closed:
            return
        self._closed = True
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._watching.join()
        self._next.put(None)
        self._server.shutdown()
        self._server.server_close()
        self._serving.join()

    def _watch(self) -> None:
        self._process.wait()
        if (current := self._current) is not None:
            current.end(self._exit_error(), failed=True)
        if not self.ready.is_set():
            self.init_error = self.init_error or self._exit_error()
            self.ready.set()

    def _exit_error(self) -> dict[str, str]:
        status = self._process.returncode
        how = f"signal: {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return _error("Runtime.ExitError", f"Runtime exited with error: {how}")

    def _signal(self, number: int) -> None:
        # Once it was waited for, its number may be another process's.
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _variables(self) -> dict[str, str]:
        function = self.function
        # What Lambda sets besides the function's own variables, and nothing of this process's environment.
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
        reserved = {
            "_HANDLER": function.handler,
            "AWS_DEFAULT_REGION": function.region,
            "AWS_REGION": function.region,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            # What it is where the template asks for JSON and names no level.
            "AWS_LAMBDA_LOG_LEVEL": "INFO",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": self.name,
            "AWS_LAMBDA_RUNTIME_API": f"{HOST}:{self._server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
            # Nobody listens there; segments are datagrams.
            "AWS_XRAY_DAEMON_ADDRESS": f"{HOST}:2000",
            "LAMBDA_TASK_ROOT": str(function.folder),
            "LAMBDA_RUNTIME_DIR": str(function.libraries[-1]),
            "LANG": "en_US.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(map(str, (function.folder, *function.libraries))),
            "TZ": ":UTC",
        }
        if both := sorted(set(reserved) & set(function.variables)):
            raise ValueError(f"{function.name} sets variables that Lambda reserves: {', '.join(both)}")
        return {**reserved, **function.variables}

    # -- the Runtime API

    def _requests(self) -> type[BaseHTTPRequestHandler]:
        environment = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path != f"{_PATH}/invocation/next":
                    self._answer(404)
                    return
                invocation = environment._give()
                if invocation is None:
                    # The environment is being killed; nobody reads this.
                    self.close_connection = True
                    return
                self._answer(
                    200,
                    invocation.event,
                    {
                        "Lambda-Runtime-Aws-Request-Id": invocation.id,
                        "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
                        "Lambda-Runtime-Invoked-Function-Arn": invocation.arn,
                        "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0",
                    },
                )

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length") or 0))
                self._answer(202 if environment._take(self.path, content) else 404, b'{"status": "OK"}')

            def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Requests

    def _give(self) -> _Invocation | None:
        """The next invocation; until it comes the process is frozen, as between two invocations on Lambda."""
        self.ready.set()
        try:
            return self._next.get_nowait()
        except queue.Empty:
            self._signal(signal.SIGSTOP)
            invocation = self._next.get()
            self._signal(signal.SIGCONT)
            return invocation

    def _take(self, path: str, content: bytes) -> bool:
        if len(content) > _ANSWER_BYTES:
            message = f"Response payload size ({len(content)} bytes) exceeded maximum allowed payload size"
            content = json.dumps(_error("Function.ResponseSizeTooLarge", message)).encode()
            path = path.removesuffix("response") + "error" if path.endswith("/response") else path
        payload = json.loads(content or b"null")
        if path == f"{_PATH}/init/error":
            self.init_error = payload
            self.ready.set()
            return True
        current = self._current
        for what in ("response", "error"):
            if current is not None and path == f"{_PATH}/invocation/{current.id}/{what}":
                current.end(payload, failed=what == "error")
                return True
        return False


def _error(kind: str, message: str) -> dict[str, str]:
    return {"errorType": kind, "errorMessage": message}


class LocalFunction:
    """A function with as many environments as invocations overlap; killed when the context closes."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self._idle: list[_Environment] = []
        self._changes = threading.Lock()

    def __enter__(self) -> Self:
        """Nothing is started before the first invocation."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the environments."""
        with self._changes:
            while self._idle:
                self._idle.pop().close()

    def invoke(self, event: Any) -> Outcome:
        """Run the handler once and wait for what it comes to; safe to call from several threads."""
        started = time.monotonic()
        with self._taken() as environment:
            payload, failed = environment.run(event)
        return Outcome(payload=payload, failed=failed, environment=environment.name, seconds=time.monotonic() - started)

    @contextlib.contextmanager
    def _taken(self) -> Iterator[_Environment]:
        with self._changes:
            environment = None
            while self._idle and environment is None:
                found = self._idle.pop()
                if found.alive():
                    environment = found
                else:
                    found.close()
        environment = environment or _Environment(self.function)
        try:
            yield environment
        finally:
            with self._changes:
                if environment.alive():
                    self._idle.append(environment)
                else:
                    environment.close()
