"""The HTTP API as the command line uses it: where it is, who asks, and its errors as sentences."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote

import click
import httpx

from worker_space_local.cli.screen import clean

Json: TypeAlias = dict[str, Any]

START_HINT: Final = "start the stack with `make serve` (or `worker-space serve`)"
DEFAULT_USER: Final = "me"
TOKEN_SECONDS: Final = 8 * 3600
_PAGE: Final = 100
# The API itself waits up to 25 s for an agent's answer.
_TIMEOUT: Final = httpx.Timeout(40.0, connect=5.0)


class ClientError(click.ClickException):
    """A command cannot do its work; the message says why, in one sentence. Click prints it and ends with status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))


class Unreachable(ClientError):
    """The API does not answer at all."""


class Problem(ClientError):
    """The API refused a request.

    Attributes:
        status: The HTTP status.
        body: The problem document, empty when the answer was none.
    """

    def __init__(self, status: int, body: Mapping[str, Any], reason: str) -> None:
        super().__init__(_sentence(status, body, reason))
        self.status = status
        self.body = body


def _sentence(status: int, body: Mapping[str, Any], reason: str) -> str:
    said = [str(body[key]) for key in ("title", "detail") if body.get(key)]
    if len(said) == 2 and said[0].rstrip(".").casefold() == said[1].rstrip(".").casefold():
        said.pop()
    text = ": ".join(said) or f"the API refused with {reason or 'an answer of its own'}"
    errors = body.get("errors")
    if isinstance(errors, list) and errors:
        text += " (" + "; ".join(_one_error(error) for error in errors[:5]) + ")"
    return f"{text} [{status}]"


def _one_error(error: object) -> str:
    if not isinstance(error, Mapping):
        return str(error)
    place = next((error[key] for key in ("field", "pointer", "loc", "name") if error.get(key)), "")
    message = next((error[key] for key in ("detail", "message", "msg", "reason") if error.get(key)), "is wrong")
    where = ".".join(map(str, place)) if isinstance(place, list | tuple) else str(place)
    return f"{where}: {message}" if where else str(message)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the API is and who asks.

    Attributes:
        api: The API's address, without a slash at its end.
        token: The JWT sent with every request.
        local: Whether it is the stack on this machine.
    """

    api: str
    token: str = field(repr=False)
    local: bool


def data_dir() -> Path:
    """Where the stack on this machine keeps things: WORKER_SPACE_DATA_DIR, else `.local` in the current folder."""
    return Path(os.environ.get("WORKER_SPACE_DATA_DIR") or ".local")


def read_endpoints(folder: Path) -> Json | None:
    """What a running stack wrote about itself, or `None`.

    Raises:
        ClientError: The file is there but is not what a stack writes.
    """
    file = folder / "endpoints.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ClientError(
            f"{file} cannot be read ({error}); stop the stack, delete the file, then {START_HINT}"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("api"), str):
        raise ClientError(f"{file} does not name an API; stop the stack, delete the file, then {START_HINT}")
    return found


def make_token(folder: Path, user: str, seconds: int = TOKEN_SECONDS) -> str:
    """Sign a development token for the stack that runs with `folder`.

    Args:
        folder: The stack's data folder.
        user: Becomes the token's `sub`.
        seconds: How long it is valid.

    Raises:
        ClientError: No stack runs there, or it trusts another issuer than the development one.
    """
    endpoints = read_endpoints(folder)
    if endpoints is None:
        raise ClientError(f"no stack runs with {folder}/: {START_HINT}")
    if os.environ.get("JWT_JWKS_URL"):
        raise ClientError("JWT_JWKS_URL is set, so the stack trusts the tokens of your own issuer only: get one there")
    from worker_space_local.issuer import IssuerError, sign_token

    try:
        return sign_token(folder, user, seconds)
    except (IssuerError, KeyError) as error:
        raise ClientError(f"a token cannot be signed: {error}") from error


def find_connection(user: str = DEFAULT_USER) -> Connection:
    """The deployed API of WORKER_SPACE_API and WORKER_SPACE_TOKEN, else the stack on this machine.

    Args:
        user: For whom a development token is made; a deployed API takes the user from WORKER_SPACE_TOKEN.

    Raises:
        ClientError: There is neither, or the setting is incomplete; the message says what to do.
    """
    api = os.environ.get("WORKER_SPACE_API")
    if api:
        token = os.environ.get("WORKER_SPACE_TOKEN")
        if not token:
            raise ClientError("WORKER_SPACE_API is set but WORKER_SPACE_TOKEN is not: put your JWT into it")
        if not api.startswith(("http://", "https://")):
            raise ClientError(f"WORKER_SPACE_API is {api!r}: give an address that begins with https:// or http://")
        return Connection(api=api.rstrip("/"), token=token, local=False)
    folder = data_dir()
    endpoints = read_endpoints(folder)
    if endpoints is None:
        raise ClientError(f"no stack runs with {folder}/: {START_HINT}, or set WORKER_SPACE_API and WORKER_SPACE_TOKEN")
    return Connection(api=str(endpoints["api"]).rstrip("/"), token=make_token(folder, user), local=True)


class Client:
    """One user's view of the API.

    Every method raises `Problem` when the API refuses, and `Unreachable` when it does not answer.

    Args:
        connection: Where the API is and who asks.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._http = httpx.Client(
            base_url=connection.api,
            headers={"Authorization": f"Bearer {connection.token}"},
            timeout=_TIMEOUT,
            # A company's proxy is for the way out, not for this machine.
            trust_env=not connection.local,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send one request below `/my/projects/` and return its answer when it is a success.

        An answer that says where else to look (303) is one, too: the token is for the API alone and does not go there.
        """
        try:
            answer = self._http.request(method, f"/my/projects/{path}", **arguments)
        except httpx.ConnectError as error:
            hint = f": {START_HINT}" if self.connection.local else ""
            raise Unreachable(f"nothing answers at {self.connection.api}{hint}") from error
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self.connection.api} did not answer in time") from error
        except httpx.HTTPError as error:
            raise Unreachable(f"the connection to {self.connection.api} broke ({type(error).__name__})") from error
        if not answer.is_success and answer.status_code != httpx.codes.SEE_OTHER:
            raise Problem(answer.status_code, _object(answer), answer.reason_phrase)
        return answer

    def get(self, path: str) -> Json:
        """One object."""
        return _object(self.request("GET", path))

    def post(self, path: str, body: object = None, **headers: str) -> Json:
        """The answer to a POST; header names are written with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return _object(self.request("POST", path, json=body, headers=named))

    def items(self, path: str, **parameters: str) -> Iterator[Json]:
        """All entries of a list, page by page."""
        cursor: str | None = None
        while True:
            query = {**parameters, "limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
            page = _object(self.request("GET", path, params=query))
            yield from page.get("items", [])
            cursor = page.get("next")
            if not cursor:
                return

    def ensure_project(self, project: str, name: str) -> bool:
        """Make the project unless it exists; whether it was made."""
        try:
            self.get(f"{segment(project)}/")
            return False
        except Problem as problem:
            if problem.status != 404:
                raise
        try:
            self.post("", {"id": project, "name": name})
            return True
        except Problem as problem:
            if problem.status == 409:  # somebody else was faster
                return False
            raise

    def task(self, project: str, task_id: str, *, patience: float = 10.0) -> Json:
        """A task, asked for again while the API is restarting, for `patience` seconds."""
        until = time.monotonic() + patience
        while True:
            try:
                return self.get(f"{segment(project)}/tasks/{segment(task_id)}")
            except (Unreachable, Problem) as error:
                if not passing(error) or time.monotonic() > until:
                    raise
            time.sleep(0.5)

    def steps(self, project: str, task_id: str) -> list[Json]:
        """The journalled steps of a task, oldest first."""
        return list(self.items(f"{segment(project)}/tasks/{segment(task_id)}/steps/"))


def answers(api: str) -> bool:
    """Whether an API on this machine answers at `api`."""
    try:
        with httpx.Client(timeout=2.0, trust_env=False) as http:
            return http.get(f"{api}/health").is_success
    except httpx.HTTPError:
        return False


def segment(value: str) -> str:
    """A value as one segment of a URL's path."""
    return quote(value, safe="")


def passing(error: Unreachable | Problem) -> bool:
    """Whether what an error tells of may be over in a moment."""
    return isinstance(error, Unreachable) or error.status == 429 or (error.status >= 500 and error.status != 501)


def _object(answer: httpx.Response) -> Json:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
