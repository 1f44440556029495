"""What FastAPI hands to the routes: the caller's worker space, and the request's own conditions."""

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Header, Path, Request, Security
from fastapi.security import HTTPBearer

from worker_space.api.services import Services
from worker_space.errors import InvalidRequest, NotFound, Unauthorized
from worker_space.idempotency import Repeat
from worker_space.ids import is_id
from worker_space.manager import WorkerSpaceManager
from worker_space.projects import no_project
from worker_space.serving import serving_project
from worker_space.space import UserWorkerSpace
from worker_space.tenancy import UserContext

__all__ = [
    "EXISTING",
    "AgentTarget",
    "ApprovalId",
    "Idempotency",
    "IdempotencyKey",
    "Preference",
    "Preferred",
    "ServicesOf",
    "SessionId",
    "Space",
    "TaskId",
    "User",
    "get_user_worker_space",
]

_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
# For the document only: `boundary.Boundary` has checked the token before any route is looked for.
_BEARER: Final = HTTPBearer(bearerFormat="JWT", auto_error=False, description="A token of the deployment's issuer.")


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services()
    return services


ServicesOf = Annotated[Services, Depends(_services)]


async def _user(request: Request, _: Annotated[Any, Security(_BEARER)]) -> UserContext:
    user = request.scope.get("user_context")
    if not isinstance(user, UserContext):
        raise Unauthorized("send a token: Authorization: Bearer …")
    return user


User = Annotated[UserContext, Depends(_user)]


async def get_user_worker_space(
    project_id: Annotated[str, Path(description="The project's id.", examples=["shop"])],
    user: User,
    services: ServicesOf,
) -> UserWorkerSpace:
    """The worker space of the token's user and the path's project, and no other.

    It is made for this one request; whether the project exists, its first operation finds out.

    Raises:
        NotFound: No project can have this id.
    """
    try:
        space = WorkerSpaceManager(services.collaborators).get_or_create(user.user_id, project_id)
    except InvalidRequest as error:
        raise no_project(project_id) from error
    serving_project(project_id)
    return space


Space = Annotated[UserWorkerSpace, Depends(get_user_worker_space)]


async def _existing(space: Space, services: ServicesOf) -> None:
    await services.projects.get(space.tenant)


EXISTING: Final = Depends(_existing)
"""For routes whose own operation would not notice that the project is missing or deleted."""


async def _session_id(
    session_id: Annotated[str, Path(description="The chat session's id.", examples=["session_01k9…"])],
) -> str:
    if not is_id("session", session_id):
        raise NotFound(f"this project has no chat session {session_id[:80]!r}")
    return session_id


SessionId = Annotated[str, Depends(_session_id)]


async def _task_id(task_id: Annotated[str, Path(description="The task's id.", examples=["task_01k9…"])]) -> str:
    if not is_id("task", task_id):
        raise NotFound(f"this project has no task {task_id[:80]!r}")
    return task_id


TaskId = Annotated[str, Depends(_task_id)]


async def _approval_id(
    approval_id: Annotated[str, Path(description="The approval's id.", examples=["approval_01k9…"])],
) -> str:
    if not is_id("approval", approval_id):
        raise NotFound(f"this project has no approval {approval_id[:80]!r}")
    return approval_id


ApprovalId = Annotated[str, Depends(_approval_id)]
AgentTarget = Annotated[str, Path(alias="agent_id", description="The agent's id or name.", examples=["coder"])]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The client's key and a digest of the body it came with; without a key nothing is repeated."""

    key: str | None
    fingerprint: str = ""

    def repeat(self, kind: str, scope: Literal["tenant", "user"] = "tenant") -> Repeat | None:
        """The record of this request, for a creation of this kind."""
        if self.key is None:
            return None
        return Repeat(kind=kind, key=self.key, fingerprint=self.fingerprint, scope=scope)


async def _idempotency(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Makes the request safe to repeat for a day: the same key and body create once. "
            "1 to 255 printable ASCII characters.",
            examples=["7f9c2ba4-0f6e-4a55-b0d6-6c1d6d6d4e9d"],
        ),
    ] = None,
) -> IdempotencyKey:
    if idempotency_key is None:
        return IdempotencyKey(None)
    if not _KEY.fullmatch(idempotency_key):
        raise InvalidRequest("an Idempotency-Key has 1 to 255 printable ASCII characters")
    return IdempotencyKey(idempotency_key, hashlib.sha256(await request.body()).hexdigest())


Idempotency = Annotated[IdempotencyKey, Depends(_idempotency)]


@dataclass(frozen=True, slots=True)
class Preference:
    """How long the client wants to wait (RFC 7240).

    Attributes:
        seconds: At most so long; 0 answers at once.
        applied: What `Preference-Applied` says, or `None` when the client said nothing.
    """

    seconds: float
    applied: str | None


async def _preference(
    services: ServicesOf,
    prefer: Annotated[
        list[str] | None,
        Header(
            description="`respond-async` answers 202 at once; `wait=N` waits at most N seconds for the answer.",
            examples=[["respond-async"]],
        ),
    ] = None,
) -> Preference:
    most = services.settings.answer_wait_seconds
    wait: int | None = None
    at_once = False
    for part in ",".join(prefer or ()).split(","):
        name, _, value = part.split(";")[0].partition("=")
        name, value = name.strip().casefold(), value.strip().strip('"')
        if name == "respond-async":
            at_once = True
        elif name == "wait" and wait is None and value.isascii() and value.isdigit() and len(value) < 10:
            wait = int(value)
    if wait is not None:
        seconds = min(float(wait), most)
        return Preference(seconds, f"wait={seconds:g}")
    return Preference(0.0, "respond-async") if at_once else Preference(most, None)


Preferred = Annotated[Preference, Depends(_preference)]
