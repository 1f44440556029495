"""The embedded stack as processes of its own, and users who talk to it over HTTP."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.fake_openai import FakeOpenAI
from worker_space_local.issuer import sign_token
from worker_space_local.stack import Stack

_OPEN: list[httpx.Client] = []


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    yield
    while _OPEN:
        _OPEN.pop().close()


class User:
    """One user's client; closed when the test ends."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.name = name
        self.http = httpx.Client(
            base_url=stack.endpoints["api"],
            headers={"authorization": f"Bearer {sign_token(stack.data_dir, name, 3600)}"},
            timeout=60,
        )
        _OPEN.append(self.http)

    def project(self, project_id: str) -> "Project":
        """Make a project and return its client."""
        answer = self.http.post("/my/projects/", json={"id": project_id, "name": project_id})
        assert answer.status_code == 201, answer.text
        return Project(self, project_id)


class Project:
    """One project of a user."""

    def __init__(self, user: User, project_id: str) -> None:
        self.user, self.base = user, f"/my/projects/{project_id}"

    def call(self, method: str, path: str, status: int, **arguments: Any) -> Any:
        """One request; its JSON, after its status was checked."""
        answer = self.user.http.request(method, f"{self.base}{path}", **arguments)
        assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
        return answer.json() if answer.content else None

    def put(self, path: str, text: str) -> None:
        answer = self.user.http.put(f"{self.base}/files/{path}", content=text.encode())
        assert answer.status_code in (200, 201), answer.text

    def agent(self, name: str, **config: Any) -> Any:
        body = {"name": name, "system_prompt": f"You are {name}.", "model": "openai:test", **config}
        return self.call("POST", "/agents/", 201, json=body)

    def session(self) -> str:
        return str(self.call("POST", "/chat/sessions/", 201, json={})["id"])

    def send(self, session: str, content: str, agent: str) -> str:
        """Send a message without waiting; its task's id."""
        body = {"content": content, "target_agent": agent}
        answer = self.call("POST", f"/chat/{session}/message/", 202, json=body, headers={"prefer": "respond-async"})
        return str(answer["task"]["id"])

    def ask(self, session: str, content: str, agent: str) -> Any:
        return self.call("POST", f"/chat/{session}/message/", 200, json={"content": content, "target_agent": agent})

    def task(self, task_id: str) -> Any:
        return self.call("GET", f"/tasks/{task_id}", 200)

    def ended(self, task_id: str, *, seconds: float = 90) -> Any:
        """The task once it has ended."""
        return until(
            lambda: (task := self.task(task_id))["state"] in ("completed", "failed", "canceled") and task, seconds
        )

    def messages(self, session: str) -> list[Any]:
        found: list[Any] = self.call("GET", f"/chat/{session}/messages/", 200, params={"limit": 100})["items"]
        return found


def until(true: Callable[[], Any], seconds: float = 20) -> Any:
    """What `true` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="session")
def model_server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def model(model_server: FakeOpenAI) -> FakeOpenAI:
    """The server as if it was asked nothing yet; stacks and tests share it."""
    model_server.forget()
    return model_server


def environment(model: FakeOpenAI, *, visibility_seconds: int) -> dict[str, str]:
    """For a stack whose `openai:` models are the fake server's.

    Args:
        model: The server.
        visibility_seconds: After so long what a worker let lie is begun anew, and asks the model again. Short where a
            worker is killed; elsewhere longer than a busy machine may stand still.
    """
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WORKER_SPACE_"))},
        "OPENAI_BASE_URL": model.url,
        "OPENAI_API_KEY": "none",
        "WORKER_SPACE_VISIBILITY_SECONDS": str(visibility_seconds),
        "WORKER_SPACE_SWEEP_SECONDS": "1",
    }


@pytest.fixture(scope="session")
def stack(model_server: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = environment(model_server, visibility_seconds=30)
    with Stack(data_dir=tmp_path_factory.mktemp("stack"), environment=settings, say=lambda line: None) as up:
        yield up


@pytest.fixture
def own_stack(model: FakeOpenAI, tmp_path: Path) -> Iterator[Stack]:
    """A stack of the test's own, to break."""
    settings = environment(model, visibility_seconds=8)
    with Stack(data_dir=tmp_path / "data", environment=settings, say=lambda line: None) as up:
        yield up


@pytest.fixture
def user(stack: Stack) -> Callable[[str], User]:
    return lambda name: User(stack, name)
