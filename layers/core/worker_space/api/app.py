"""The application: routes, errors and the document that describes them. Made without asking any dependency."""

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from worker_space.api import (
    agents,
    approvals,
    archives,
    chat,
    context,
    erasures,
    events,
    files,
    health,
    limits,
    moved,
    plans,
    projects,
    tasks,
    tools,
    transfers,
    worker_space,
)
from worker_space.api.auth import TokenVerifier
from worker_space.api.boundary import Boundary
from worker_space.api.keys import SigningKeys
from worker_space.api.problems import Problem, add_handlers
from worker_space.api.services import Services
from worker_space.stream_tickets import StreamTickets

__all__ = ["create_app"]

_DESCRIPTION: Final = """Projects with files and AI agents that work on them.

The user comes from the bearer token alone, the project from the path. What is missing and what is somebody else's
look the same: 404. Errors are `application/problem+json` with a `type` that stays the same. Lists come in pages:
`next` is the `cursor` of the following one. Times are epoch milliseconds."""
_TAGS: Final = [
    {"name": "projects", "description": "What a user works on."},
    {"name": "erasures", "description": "What became of projects that were erased."},
    {"name": "worker space", "description": "What the backend keeps so that agents can serve a project."},
    {"name": "limits", "description": "How much a project may have and use."},
    {"name": "agents", "description": "Who works on a project's files."},
    {"name": "chat", "description": "Sessions, messages and answers."},
    {"name": "tasks", "description": "What agents do and have done."},
    {"name": "plans", "description": "Goals split into tasks of several agents."},
    {"name": "approvals", "description": "What waits for the user's word."},
    {"name": "files", "description": "The User Workspace."},
    {"name": "tools", "description": "What agents use, for the user's own hands."},
    {"name": "health", "description": "For load balancers; no token."},
]


def create_app(services: Callable[[], Services], *, keys: SigningKeys | None = None) -> FastAPI:
    """The HTTP surface over what `services` gives.

    Args:
        services: Called once a request, in its thread and loop; the first call may be slow.
        keys: The token issuer's, instead of those that the settings' URL serves.
    """
    app = FastAPI(
        title="Worker Space",
        version="1",
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # A body sent without a type is taken for JSON, too.
        strict_content_type=False,
    )
    app.state.services = services
    add_handlers(app)
    for module in (
        projects,
        archives,
        erasures,
        worker_space,
        limits,
        agents,
        context,
        chat,
        events,
        tasks,
        plans,
        approvals,
        files,
        transfers,
        tools,
        health,
        moved,
    ):
        app.include_router(module.router)
    _tolerate_slashes(app)
    app.add_middleware(Boundary, verifier=_verifier(services, keys), tickets=lambda: StreamTickets(services().records))
    _describe_problems(app)
    return app


def _verifier(services: Callable[[], Services], keys: SigningKeys | None) -> Callable[[], TokenVerifier]:
    """Gives the deployment's verifier: settings are read by the first request, the issuer's keys shared by all."""
    made: dict[tuple[str, str, str], TokenVerifier] = {}

    def verifier() -> TokenVerifier:
        settings = services().settings
        issuer = settings.jwt_issuer, settings.jwt_audience, settings.jwt_jwks_url
        if issuer not in made:
            used = keys or SigningKeys(settings.jwt_jwks_url)
            made[issuer] = TokenVerifier(issuer=settings.jwt_issuer, audience=settings.jwt_audience, keys=used)
        return made[issuer]

    return verifier


def _tolerate_slashes(app: FastAPI) -> None:
    """Serve `…/agents` like `…/agents/` and the other way round; a redirect would lose bodies and tokens on its way."""
    nothing = app.router.default

    async def other_spelling(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope["type"] != "http" or "respelled" in scope or len(path) < 2 or path.endswith("//"):
            await nothing(scope, receive, send)
            return
        respelled = path[:-1] if path.endswith("/") else f"{path}/"
        other = {**scope, "path": respelled, "respelled": True}
        try:
            await app.router(other, receive, send)
        finally:
            # For the log.
            scope["route"] = other.get("route")

    app.router.default = other_spelling


def _describe_problems(app: FastAPI) -> None:
    """Add the problem's schema, which every error response refers to, to the document."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" not in schemas:
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(problem.pop("$defs", {}))
            schemas["Problem"] = problem
        return document

    app.openapi = openapi  # type: ignore[method-assign]
