"""What `make run` does: the stack, a folder, a question, the answer as it comes about, then a stack to play with."""

import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import quote

from worker_space_local.cli import folder as folders
from worker_space_local.cli import pushing
from worker_space_local.cli.conversation import Follower, send, tell_end, time_line
from worker_space_local.cli.screen import one_line, say, warn
from worker_space_local.cli.synced import Synced
from worker_space_local.client import (
    DEFAULT_USER,
    Client,
    ClientError,
    Connection,
    Json,
    answers,
    data_dir,
    make_token,
    read_endpoints,
)

SAMPLE: Final = Path(__file__).resolve().parents[3] / "examples" / "shop"
_INTERRUPTED: Final = 130
_NOT_STARTED: Final = 2


def serve_stack() -> int:
    """Run the stack until Ctrl-C or SIGTERM; the exit status."""
    from worker_space_local.stack import serve

    return serve(data_dir=data_dir(), say=say)


def run(folder: Path | None, text: str | None, agent: str, *, once: bool, timeout: float) -> int:
    """Start the stack (or use the one that runs), send a folder, ask, and show what happens.

    Args:
        folder: The project's files; by default the sample's.
        text: The question; by default one that fits the folder.
        agent: Who answers.
        once: End after the answer instead of serving on.
        timeout: Seconds to wait for the answer.

    Returns:
        The exit status: with `once` 0 only if there was an answer; 2 if the stack could not start; 130 if it was
        interrupted before the answer.

    Raises:
        ClientError: The folder cannot be used; nothing was started.
    """
    folder = SAMPLE if folder is None else folder
    state = data_dir()
    selection = folders.select(folder, but=state)
    question = text or default_question(selection)
    visit = _Visit(folder=folder, selection=selection, question=question, agent=agent, timeout=timeout)
    try:
        with _interruptible():
            running = _running(state)
            if running is not None:
                say(f"using the stack that runs at {running['api']}")
                answered = visit.go(running, state)
                if not once:
                    visit.tell_how_to_go_on(running, state)
                return 0 if answered else 1
            return _run_own(visit, state, once=once)
    except KeyboardInterrupt:
        warn("interrupted")
        return _INTERRUPTED


def _run_own(visit: "_Visit", state: Path, *, once: bool) -> int:
    from worker_space_local.stack import DEFAULT_PORT, Stack, StackError

    given = os.environ.get("WORKER_SPACE_PORT")
    if given and not (given.isdigit() and int(given) <= 65535):
        raise ClientError(f"WORKER_SPACE_PORT is {given!r}: set it to a port number")
    # Nobody is told the address of a stack that ends at once, so any free port will do.
    port = int(given) if given else (None if once else DEFAULT_PORT)
    say("starting the stack")
    try:
        with Stack(data_dir=state, port=port, say=say) as stack:
            answered = visit.go(stack.endpoints, state)
            if once:
                return 0 if answered else 1
            curl = visit.tell_how_to_go_on(stack.endpoints, state)
            say("Ctrl-C stops it.")
            try:
                return stack.wait()
            except KeyboardInterrupt:
                say("stopping")
                return 0
            finally:
                curl.unlink(missing_ok=True)
    except StackError as error:
        warn(f"Error: {error}")
        return _NOT_STARTED


def _running(state: Path) -> Json | None:
    """The endpoints of a stack that answers; one that was killed leaves a file nobody answers for."""
    endpoints = read_endpoints(state)
    return endpoints if endpoints is not None and answers(str(endpoints["api"])) else None


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, once: a second one must not break into the stopping."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def default_question(selection: folders.Selection) -> str:
    """A question that the folder can answer."""
    for path in ("src/app.py", "app.py", "main.py", "src/main.py"):
        if path in selection.files:
            return f"Analyse {path}"
    return "What is in this project?"


class _Visit:
    """One folder, one question."""

    def __init__(
        self, *, folder: Path, selection: folders.Selection, question: str, agent: str, timeout: float
    ) -> None:
        self._folder = folder
        self._selection = selection
        self._question = question
        self._agent = agent
        self._timeout = timeout
        self._project = ""

    def go(self, endpoints: Json, state: Path) -> bool:
        """Send the folder and ask; whether there was an answer. A refusal is told, not raised."""
        self._project = folders.project_id(self._folder, state)
        connection = Connection(api=str(endpoints["api"]), token=make_token(state, DEFAULT_USER), local=True)
        try:
            with Client(connection) as client:
                self._send_folder(client)
                return self._ask(client)
        except ClientError as error:
            warn(f"Error: {error}")
            return False

    def _send_folder(self, client: Client) -> None:
        made = client.ensure_project(self._project, self._folder.resolve().name or self._project)
        say(f"project {self._project}{' (new)' if made else ''}: files of {self._folder}")
        folders.tell_skipped(self._selection)
        synced = Synced.of(client.connection, DEFAULT_USER, self._project, self._folder)
        pushing.tell(pushing.push(client, self._project, self._selection, synced))

    def _ask(self, client: Client) -> bool:
        say()
        say(f"you to {self._agent}: {one_line(self._question, 500)}")
        task = send(client, self._project, self._question, self._agent, None)
        task, name = Follower(client, self._project).follow(task, self._agent, timeout=self._timeout)
        answered = tell_end(name, task)
        say()
        say(time_line(task, client.steps(self._project, str(task["id"]))))
        return answered

    def tell_how_to_go_on(self, endpoints: Json, state: Path) -> Path:
        """Print the address, a token and requests to paste; the file that carries the token for curl."""
        token = make_token(state, DEFAULT_USER)
        # In a file, so that the lines stay short and the token out of the process list.
        curl = state.resolve() / f"curl-{DEFAULT_USER}.conf"
        curl.unlink(missing_ok=True)
        with os.fdopen(os.open(curl, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f'header = "Authorization: Bearer {token}"\n')
        place = f"{endpoints['api']}/my/projects/{self._project}"
        file_path = next(
            (path for path in self._selection.files if path.endswith(".md")), next(iter(self._selection.files))
        )
        begin = f"curl -sS -K {shlex.quote(str(curl))}"
        body = '{"content": "List the files", "target_agent": "analyst"}'
        say()
        say(f"the stack runs at {endpoints['api']}; a token of user {DEFAULT_USER} for 8 hours:")
        say(token)
        say("try:")
        say(f"  {begin} {place}/agents/")
        say(f"  {begin} {shlex.quote(f'{place}/files/{quote(file_path)}')}")
        say(f"  {begin} -H 'Content-Type: application/json' -d {shlex.quote(body)} {place}/chat/")
        return curl
