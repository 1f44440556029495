"""The supervisor of the embedded stack: ``python -m worker_space_local.stack``.

Starts the stand-ins (aws, redis, qdrant; the issuer in this process), then the API and the worker, each a process of
its own that can be killed alone. While all is ready, ``endpoints.json`` in the data folder says where everything is.

``JWT_ISSUER``, ``JWT_AUDIENCE``, ``JWT_JWKS_URL``, ``UPSTASH_REDIS_REST_URL`` and ``QDRANT_URL`` in the environment
replace what the stand-ins would say; a stand-in that is replaced is not started.
"""

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from worker_space_local.issuer import ENDPOINTS_FILE, Issuer
from worker_space_local.layout import SERVICES, Ports, lay_out, processes
from worker_space_local.processes import Process, free_ports, port_is_free

DEFAULT_PORT = 8000
DEFAULT_DATA_DIR = ".local"
CREDENTIALS_FILE = "credentials.json"
LOCK_FILE = "stack.lock"
_START_SECONDS = 120.0
_ORPHAN_SECONDS = 8.0
_FIRST_STOP_SECONDS = 2.2
_SECOND_STOP_SECONDS = 2.4
_WITHOUT = {
    "redis": "the stack goes on without its cache, slower",
    "qdrant": "the stack goes on without recall",
}


class StackError(Exception):
    """The stack cannot start; the message is one sentence that says why and what to do."""


class Stack:
    """The embedded stack, up while the context is open.

    Args:
        data_dir: where everything is kept; made if it is not there. One stack at a time.
        port: the API's port; ``None`` or 0 for any free one.
        say: called with each line for people.
        environment: base of the children's environment, by default this process's.
        services: which processes to start; the issuer always runs.
    """

    def __init__(
        self,
        *,
        data_dir: Path | str,
        port: int | None = None,
        say: Callable[[str], object] = print,
        environment: Mapping[str, str] | None = None,
        services: tuple[str, ...] = SERVICES,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.endpoints: dict[str, Any] = {}
        self.credentials: dict[str, str] = {}
        self.environment: dict[str, str] = dict(os.environ if environment is None else environment)
        self.status: int | None = None
        self._given_port = port
        self._say = say
        self._services = services
        self._processes: dict[str, Process] = {}
        self._reported: set[str] = set()
        self._lifeline = self._held = -1
        self._resources = ExitStack()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._changes = threading.RLock()
        self._monitor: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start everything and return when all of it answers.

        Raises:
            StackError: another stack has the data folder, the port is taken, a setting is wrong, or a process does not
                come up.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def request_stop(self) -> None:
        """Ask a running start, or ``wait``, to give up; safe in a signal handler."""
        self._stopping.set()

    def wait(self) -> int:
        """Wait until a stop is requested or the stack has ended by itself; returns its exit status."""
        while not self._stopping.is_set() and not self._ended.is_set():
            self._ended.wait(0.1)
        return self.status or 0

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send one process a signal, as an outage would."""
        self._processes[name].signal(number)

    def pid(self, name: str) -> int:
        """Return the process id of one process; a restart changes it."""
        found = self._processes[name].pid
        assert found is not None
        return found

    # Starting

    def _start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        (self.data_dir / "logs").mkdir(exist_ok=True)
        self._lock()
        (self.data_dir / ENDPOINTS_FILE).unlink(missing_ok=True)
        if self._given_port and not port_is_free(self._given_port):
            raise StackError(
                f"Port {self._given_port} is taken: stop what listens there or set WORKER_SPACE_PORT to another port"
            )
        api, aws, redis, qdrant = free_ports(4)
        ports = Ports(api=self._given_port or api, aws=aws, redis=redis, qdrant=qdrant)
        issuer = self._resources.enter_context(Issuer(self.data_dir))
        read, write = os.pipe()
        self._lifeline = read
        self._resources.callback(os.close, read)
        self._resources.callback(os.close, write)
        layout = lay_out(self.environment, self.data_dir, ports, issuer)
        self.endpoints, self.credentials, self.environment = layout.endpoints, layout.credentials, layout.environment
        _check_settings(layout.environment)
        self._processes = processes(layout, self._services)
        # The worker may start with the stand-ins: it asks again until they answer. The API may not.
        first = [name for name in self._processes if name != "api"]
        self._launch(first)
        self._await([name for name in first if name != "worker"])
        self._launch([name for name in self._processes if name == "api"])
        self._await(list(self._processes))
        self._publish()
        self._monitor = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._monitor.start()

    def _lock(self) -> None:
        lock = self._resources.enter_context((self.data_dir / LOCK_FILE).open("a+"))
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while not _locked(lock):
            lock.seek(0)
            holder = lock.read().strip()
            # The children hold the lock too: after the death of a supervisor they need some seconds to end.
            if _alive(holder) or time.monotonic() > deadline:
                where = str(self.data_dir)
                advice = "stop it or set WORKER_SPACE_DATA_DIR"
                raise StackError(f"Another stack (process {holder}) uses {where!r}: {advice}")
            time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._held = lock.fileno()

    def _launch(self, names: list[str]) -> None:
        for name in names:
            self._processes[name].start(self._lifeline, self._held)

    def _await(self, names: list[str]) -> None:
        started = time.monotonic()
        waiting, reported = set(names), 1.0
        while waiting:
            if self._stopping.is_set():
                raise StackError("The stack was stopped while it started")
            for name in sorted(waiting):
                process = self._processes[name]
                if process.status is not None:
                    raise StackError(
                        f"The process {name} ended with status {process.status} while it started, see {process.log}:\n"
                        f"{process.last_lines()}"
                    )
                if process.ready():
                    waiting.discard(name)
            passed = time.monotonic() - started
            if waiting and passed > _START_SECONDS:
                names_left = ", ".join(sorted(waiting))
                raise StackError(f"Not ready after {passed:.0f} s: {names_left}; see {self.data_dir / 'logs'}")
            if waiting and passed > reported:
                self._say(f"starting {', '.join(sorted(waiting))} ({passed:.0f} s)")
                reported = passed + 2
            if waiting:
                time.sleep(0.03)

    def _publish(self) -> None:
        pids = {name: process.pid for name, process in self._processes.items() if process.running}
        _write(self.data_dir / CREDENTIALS_FILE, self.credentials, mode=0o600)
        _write(self.data_dir / ENDPOINTS_FILE, {**self.endpoints, "processes": pids}, mode=0o644)

    # Running

    def _watch(self) -> None:
        while not self._stopping.wait(0.1):
            with self._changes:
                if self._stopping.is_set():
                    return
                for name, process in self._processes.items():
                    if process.status is not None and not self._mourn(name, process):
                        return

    def _mourn(self, name: str, process: Process) -> bool:
        """React to a process that has ended; tells whether the stack goes on."""
        if name == "aws":
            self._say(f"aws ended with status {process.status}: the stack stops; see {process.log}")
            self.status = 1
            self._ended.set()
            return False
        if name in _WITHOUT:
            if name not in self._reported:
                self._reported.add(name)
                self._publish()
                self._say(f"{name} ended with status {process.status}: {_WITHOUT[name]}")
            return True
        if time.monotonic() - process.started_at < 2 and name in self._reported:
            return True
        status = process.status
        self._reported.add(name)
        process.start(self._lifeline, self._held)
        self._publish()
        self._say(f"{name} ended with status {status}: started again")
        return True

    # Stopping

    def stop(self) -> None:
        """Stop everything within five seconds: API and worker first, then the stand-ins, which save their state."""
        self._stopping.set()
        with self._changes:
            if self._held >= 0:
                # Without the lock the file is another stack's.
                (self.data_dir / ENDPOINTS_FILE).unlink(missing_ok=True)
            self._stop([name for name in self._processes if name in ("api", "worker")], _FIRST_STOP_SECONDS)
            self._stop([name for name in self._processes if name not in ("api", "worker")], _SECOND_STOP_SECONDS)
            self._processes.clear()
        if self._monitor is not None and self._monitor is not threading.current_thread():
            self._monitor.join()
        self._resources.close()

    def _stop(self, names: list[str], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for name in names:
            self._processes[name].signal(signal.SIGTERM)
        for name in names:
            if not self._processes[name].stop(deadline):
                self._say(f"{name} did not stop in time and was killed")


def _check_settings(environment: Mapping[str, str]) -> None:
    # Of all that the command line does only this needs the product, which takes a third of a second to load.
    from worker_space.errors import InvalidRequest
    from worker_space.settings import Settings

    try:
        # The API and the worker would find it out one by one, each time in its log.
        Settings.from_environment(environment)
    except InvalidRequest as error:
        raise StackError(str(error)) from error


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write(path: Path, content: Mapping[str, Any], *, mode: int) -> None:
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        json.dump(content, file, indent=1)
    part.replace(path)


def serve(*, data_dir: Path | str | None = None, port: int | None = None, say: Callable[[str], object] = print) -> int:
    """Run the stack until Ctrl-C or SIGTERM, from the main thread; returns the exit status.

    Args:
        data_dir: by default ``WORKER_SPACE_DATA_DIR``, else ``.local``.
        port: by default ``WORKER_SPACE_PORT``, else 8000.
        say: called with each line for people.

    Returns:
        0 after a requested stop, 1 when the AWS stand-in died, 2 when the stack could not start.
    """
    folder = data_dir or os.environ.get("WORKER_SPACE_DATA_DIR") or DEFAULT_DATA_DIR
    if port is None:
        text = os.environ.get("WORKER_SPACE_PORT") or str(DEFAULT_PORT)
        if not text.isdigit() or int(text) > 65535:
            say(f"WORKER_SPACE_PORT is {text!r}: set it to a port number")
            return 2
        port = int(text)
    stack = Stack(data_dir=folder, port=port, say=say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stack.request_stop())
    started = time.monotonic()
    try:
        with stack:
            say(f"Worker Space listens on {stack.endpoints['api']} (started in {time.monotonic() - started:.1f} s)")
            return stack.wait()
    except StackError as exc:
        say(str(exc))
        return 2


if __name__ == "__main__":
    sys.exit(serve())
