"""One process of the stack: how it is started, asked whether it is ready, and stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from worker_space_local.child import LIFELINE
from worker_space_local.server import HOST

_LOG_BYTES = 10 * 1024 * 1024


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def port_is_free(port: int) -> bool:
    """Tell whether one can listen on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def answers(
    port: int,
    path: str,
    *,
    method: str = "GET",
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = 1,
) -> bool:
    """Ask an HTTP server on 127.0.0.1 for a path; tells whether it answered 200 in that time."""
    connection = HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request(method, path, body, dict(headers or {}))
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


class Process:
    """One child process.

    Args:
        name: how the stack calls it; its output goes to ``{name}.log``.
        module: what is run, with its arguments, as by ``python -m``.
        environment: its whole environment.
        logs: folder of the log files.
        ready: asks whether it can be used.
    """

    def __init__(
        self, *, name: str, module: list[str], environment: Mapping[str, str], logs: Path, ready: Callable[[], bool]
    ) -> None:
        self.name = name
        self.ready = ready
        self._command = [sys.executable, "-m", "worker_space_local.child", *module]
        self._environment = environment
        self.log = logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    def start(self, lifeline: int, held: int) -> None:
        """Start it, in a session of its own: Ctrl-C reaches the supervisor alone.

        Args:
            lifeline: reading end of the pipe whose end tells that the supervisor is gone.
            held: a descriptor that the process just keeps open: the stack's lock.
        """
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**self._environment, LIFELINE: str(lifeline)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lifeline, held),
                start_new_session=True,
            )
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int | None:
        """Its process id, once it has been started."""
        return self._process.pid if self._process else None

    @property
    def status(self) -> int | None:
        """How it ended (negative: by that signal); ``None`` while it runs or before it was started."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.running and self._process:
            self._process.send_signal(number)

    def stop(self, deadline: float) -> bool:
        """Wait for its end until ``deadline`` (monotonic), then kill it; tells whether it ended by itself."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self._process.wait()
            return False
        return True

    def last_lines(self, count: int = 5) -> str:
        """Return the end of its log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 4000))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-count:])
