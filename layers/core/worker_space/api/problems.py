"""Every error as `application/problem+json` (RFC 9457), with a `type` that stays the same for programs.

One table gives each branch of the error tree its status and type; a test keeps it complete.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from worker_space.clock import now_ms
from worker_space.errors import (
    ClaimLost,
    ConditionFailed,
    Conflict,
    InvalidRequest,
    LimitReached,
    Lost,
    ModelError,
    NotFound,
    OverBudget,
    PaymentRequired,
    RequestError,
    RunError,
    TaskCanceled,
    TooLarge,
    ToolError,
    Unauthorized,
    Unavailable,
    WorkerSpaceError,
)
from worker_space.tasks import Task

__all__ = [
    "KINDS",
    "MEDIA_TYPE",
    "Gone",
    "Kind",
    "MalformedBody",
    "PreconditionFailed",
    "Problem",
    "RangeOutside",
    "add_handlers",
    "documented",
    "problem",
    "problem_of",
    "task_canceled",
    "task_failed",
    "unexpected",
]

MEDIA_TYPE: Final = "application/problem+json"
_URN: Final = "urn:worker-space:problem:"
_MAX_PROBLEMS: Final = 10
_RETRY_SECONDS: Final = 2
_log = logging.getLogger(__name__)


class MalformedBody(RequestError):
    """The body is no JSON."""


class PreconditionFailed(RequestError):
    """`If-Match` or `If-None-Match` does not hold."""


class Gone(RequestError):
    """The address is of an earlier release."""


class RangeOutside(RequestError):
    """The range begins behind the file's end."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size} bytes: ask for a range that begins before its end")
        self.size = size


@dataclass(frozen=True, slots=True)
class Kind:
    """What clients see of one kind of problem."""

    status: int
    name: str
    title: str

    @property
    def type(self) -> str:
        """The stable URN."""
        return f"{_URN}{self.name}"


_INTERNAL: Final = Kind(500, "internal-error", "Something went wrong on our side")
_CONFLICT: Final = Kind(409, "conflict", "The request contradicts what is stored")
_TASK_FAILED: Final = Kind(502, "task-failed", "The agent's run failed")
_TASK_CANCELED: Final = Kind(409, "task-canceled", "The task was canceled")

KINDS: Final[Mapping[type[WorkerSpaceError], Kind]] = MappingProxyType(
    {
        WorkerSpaceError: _INTERNAL,
        RequestError: Kind(400, "bad-request", "The request cannot be served"),
        InvalidRequest: Kind(422, "invalid-request", "A value in the request is wrong"),
        MalformedBody: Kind(400, "malformed-body", "The body cannot be read"),
        Unauthorized: Kind(401, "unauthorized", "A valid token is needed"),
        NotFound: Kind(404, "not-found", "There is no such thing"),
        Gone: Kind(410, "gone", "The address has moved"),
        Conflict: _CONFLICT,
        PreconditionFailed: Kind(412, "precondition-failed", "A precondition does not hold"),
        TooLarge: Kind(413, "too-large", "Too large"),
        RangeOutside: Kind(416, "range-not-satisfiable", "The range is outside the file"),
        LimitReached: Kind(429, "limit-reached", "A limit is reached"),
        PaymentRequired: Kind(402, "payment-required", "The money of the day is spent"),
        ToolError: Kind(422, "tool-refused", "The tool refused the call"),
        RunError: Kind(502, "run-failed", "The agent's run cannot go on"),
        ModelError: Kind(502, "model-failed", "The model refused"),
        OverBudget: Kind(502, "over-budget", "The tokens or the money of the day are used up"),
        Unavailable: Kind(503, "unavailable", "A dependency does not answer"),
        Lost: _CONFLICT,
        ConditionFailed: _CONFLICT,
        ClaimLost: _CONFLICT,
        TaskCanceled: _TASK_CANCELED,
    }
)

# A run's failures that are limits, by their codes.
_OVER_BUDGET: Final[Mapping[str, Kind]] = MappingProxyType(
    {"limit_reached": KINDS[LimitReached], "payment_required": KINDS[PaymentRequired]}
)

# What the framework itself refuses.
_BY_STATUS: Final[Mapping[int, tuple[Kind, str]]] = MappingProxyType(
    {
        400: (KINDS[MalformedBody], "the body could not be read: send JSON in UTF-8"),
        404: (KINDS[NotFound], "there is nothing at this address"),
        405: (
            Kind(405, "method-not-allowed", "The method is not allowed here"),
            "this address takes other methods: see the Allow header",
        ),
        413: (KINDS[TooLarge], "the body is too large: send at most 10 MB"),
    }
)


class ProblemEntry(BaseModel):
    """One wrong value."""

    model_config = ConfigDict(frozen=True)

    at: str = Field(description="Where it is, such as `body.name`.")
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details; what is not of the standard is left out where it does not apply."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field(description="A URN that stays the same for this kind of problem.")
    title: str
    status: int
    detail: str = Field(description="What was wrong, and what to do.")
    instance: str = Field(description="The path that was asked for.")
    errors: list[ProblemEntry] | None = Field(default=None, description="The wrong values, at most ten.")
    limit: str | None = Field(default=None, description="The limit that is reached, as `…/limits/` names it.")
    until: int | None = Field(
        default=None, description="When to repeat the request, epoch milliseconds, where waiting helps."
    )
    task_id: str | None = Field(default=None, description="The task whose run failed or was canceled.")
    correlation_id: str | None = Field(default=None, description="What to name when reporting an error of ours.")


def problem(
    kind: Kind, detail: str, path: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """A problem as the answer to a request for `path`; `members` are added to the standard ones."""
    body = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": detail[:1_000],
        "instance": quote(path[:500], safe="/:@!$&'()*+,;=~", errors="replace"),
        **members,
    }
    return Response(
        json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"),
        status_code=kind.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def _kind(error: WorkerSpaceError) -> Kind:
    return next(KINDS[branch] for branch in type(error).__mro__ if branch in KINDS)


def problem_of(error: WorkerSpaceError, path: str, *, correlation_id: str) -> Response:
    """An error of ours as an answer. What concerns operators goes to the log and not to the caller."""
    kind = _kind(error)
    if kind is _INTERNAL:
        return unexpected(error, path, correlation_id=correlation_id)
    detail, headers = str(error), {}
    members: dict[str, Any] = {}
    if isinstance(error, Unavailable):
        _log.warning("request %s: %s", correlation_id, error)
        detail = f"{error.dependency} does not answer now: repeat the request in a moment"
        headers["Retry-After"] = str(_RETRY_SECONDS)
    elif isinstance(error, LimitReached):
        if error.retry_after is not None:
            headers["Retry-After"] = str(max(1, error.retry_after))
        members = {"limit": error.limit, "until": error.until}
    elif isinstance(error, Unauthorized):
        # RFC 6750, section 3; the reason is not told in the header, where proxies log it.
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    elif isinstance(error, RangeOutside):
        headers["Content-Range"] = f"bytes */{error.size}"
    elif isinstance(error, Lost) and not isinstance(error, TaskCanceled):
        detail = "somebody else changed this at the same time: read it again, then repeat the request"
    told = {name: value for name, value in members.items() if value is not None}
    return problem(kind, detail, path, headers=headers, **told)


def unexpected(error: BaseException, path: str, *, correlation_id: str) -> Response:
    """The answer to an error that nobody foresaw. The log gets its place, not its text: that may quote user data."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    _log.error("request %s failed: %s at %s", correlation_id, type(error).__name__, " > ".join(frames))
    detail = f"the request failed; when you report it, name the correlation id {correlation_id}"
    return problem(_INTERNAL, detail, path, correlation_id=correlation_id)


def task_failed(detail: str, path: str, *, task: Task) -> Response:
    """The answer to a message whose run failed; one that met a limit says which, and when to ask again."""
    error = task.error
    kind = None if error is None else _OVER_BUDGET.get(error.code)
    if error is None or kind is None:
        return problem(_TASK_FAILED, detail, path, task_id=task.id)
    members: dict[str, Any] = {"limit": error.limit, "until": error.until}
    headers = {}
    if error.until is not None:
        headers["Retry-After"] = str(max(1, -(-(error.until - now_ms()) // 1000)))
    told = {name: value for name, value in members.items() if value is not None}
    return problem(kind, detail, path, headers=headers, task_id=task.id, **told)


def task_canceled(detail: str, path: str, *, task_id: str) -> Response:
    """The answer to a message whose task was canceled."""
    return problem(_TASK_CANCELED, detail, path, task_id=task_id)


def _entry(error: Mapping[str, Any]) -> dict[str, str]:
    at = ".".join(str(part)[:80] for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] in {"model_attributes_type", "dict_type", "model_type"} and at == "body":
        message = "send a JSON object, with Content-Type: application/json"
    # Neither the value nor pydantic's context of it: both may be large, or secret.
    return {"at": at[:400], "message": message[:300]}


def _validation(errors: Sequence[Mapping[str, Any]], path: str) -> Response:
    malformed = next((error for error in errors if error["type"] == "json_invalid"), None)
    if malformed is not None:
        detail = f"the body is no valid JSON, at character {malformed['loc'][-1]}"
        return problem(KINDS[MalformedBody], detail, path)
    entries = [_entry(error) for error in errors[:_MAX_PROBLEMS]]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    detail = f"{entries[0]['at']}: {entries[0]['message']}{more}"
    return problem(KINDS[InvalidRequest], detail, path, errors=entries)


def add_handlers(app: FastAPI) -> None:
    """Have the application answer every error it raises as a problem."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, WorkerSpaceError)
        return problem_of(error, request.scope["path"], correlation_id=str(request.scope.get("correlation_id", "")))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation(error.errors(), request.scope["path"])

    async def frameworks(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        other = (Kind(error.status_code, "bad-request", "The request cannot be served"), "the request was refused")
        kind, detail = _BY_STATUS.get(error.status_code, other)
        return problem(kind, detail, request.scope["path"], headers=error.headers)

    app.add_exception_handler(WorkerSpaceError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, frameworks)


_DOCUMENTED: Final[Mapping[int, tuple[Kind, str, str]]] = MappingProxyType(
    {
        400: (KINDS[MalformedBody], "The body is no JSON.", "the body is no valid JSON, at character 17"),
        401: (KINDS[Unauthorized], "No valid token.", "the token has expired: get a new one"),
        402: (KINDS[PaymentRequired], "The money of the day is spent; Retry-After.", "the money of today is spent: …"),
        404: (KINDS[NotFound], "Missing, or somebody else's: both look the same.", "there is no project 'shop'"),
        409: (KINDS[Conflict], "It contradicts what is stored.", "the task has ended already: it is completed"),
        412: (KINDS[PreconditionFailed], "If-Match or If-None-Match does not hold.", "the file is at another version"),
        413: (KINDS[TooLarge], "Too large.", "the body is too large: send at most 10 MB"),
        416: (KINDS[RangeOutside], "The range begins behind the end.", "the file has 12 bytes: …"),
        422: (KINDS[InvalidRequest], "A value is wrong.", "body.name: Field required"),
        429: (KINDS[LimitReached], "A limit is reached; Retry-After says when to repeat.", "100 messages wait …"),
        500: (_INTERNAL, "An error of ours.", "the request failed; when you report it, name the correlation id …"),
        502: (_TASK_FAILED, "The run ended without an answer; `task_id` names it.", "the model refused the request"),
        503: (KINDS[Unavailable], "A dependency does not answer; Retry-After.", "the table does not answer now: …"),
    }
)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems a route may answer with, for OpenAPI; 401, 404, 422, 500 and 503 always are among them."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, 401, 404, 422, 500, 503}):
        kind, description, detail = _DOCUMENTED[status]
        example = {
            "type": kind.type,
            "title": kind.title,
            "status": status,
            "detail": detail,
            "instance": "/my/projects/shop/",
        }
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}}
        responses[status] = {"description": description, "content": content}
    return responses
