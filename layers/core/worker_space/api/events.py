"""`…/chat/{session_id}/events`: what happens in a session, as server-sent events (WHATWG HTML, section 9.2).

Each answer ends: with the events that are there, or empty after a wait. A client that reads it as a stream, as every
EventSource does, comes again with the number of the last event it has seen; so nothing is missed or seen twice, and
the same code serves behind a gateway that cannot stream.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field

from worker_space.api.deps import ServicesOf, SessionId, Space
from worker_space.api.problems import documented
from worker_space.api.services import Services
from worker_space.errors import InvalidRequest, NotFound
from worker_space.events import Event, EventLog
from worker_space.projects import SpaceState, no_project
from worker_space.stream_tickets import StreamTicket, StreamTickets
from worker_space.tenancy import Key, TenantContext, project_address

__all__ = ["router"]

router = APIRouter(tags=["chat"], prefix="/my/projects/{project_id}/chat")

_MOST_EVENTS: Final = 200
_MOST_BYTES: Final = 1_000_000
"""Lambda answers with at most 6 MB; what is left comes with the next answer."""
_MOST_SECONDS: Final = 25.0
"""API Gateway gives up after 30 s, whatever the deployment waits for answers."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
_RETRY: Final = "retry: 200\n"
"""Milliseconds until a client comes again."""
_SEQ_DIGITS: Final = 12
_EXAMPLE: Final = (
    _RETRY + '\nid: 3\nevent: task_started\ndata: {"seq":3,"type":"task_started","at":1795305602000,'
    '"task_id":"task_01k9y3zj0c6f0m8d2h4v5w7x9q","agent_id":"agent_01k9y3zj0c6f0m8d2h4v5w7x9q","data":{"attempt":1}}\n\n'
)


class OpenedTicket(StreamTicket):
    """A ticket, and the address that it is a part of."""

    href: str = Field(description="What to give to `new EventSource(…)`, behind the API's own address.")


@router.get(
    "/{session_id}/events",
    operation_id="stream_events",
    summary="Follow what happens in a session",
    response_class=Response,
    responses={
        200: {
            "description": "The events behind the given number, or a comment if none came within the wait.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
        **documented(),
    },
)
async def stream_events(
    session_id: SessionId,
    space: Space,
    services: ServicesOf,
    request: Request,
    last_event: Annotated[
        str | None,
        Header(alias="Last-Event-ID", description="Only events behind this number; an EventSource sends it by itself."),
    ] = None,
    last_event_id: Annotated[
        str | None, Query(description="The same, for a client's first request.", examples=["0"])
    ] = None,
    wait: Annotated[
        float | None, Query(ge=0, le=3600, description="Seconds to wait for an event; 0 answers at once.")
    ] = None,
    ticket: Annotated[str | None, Query(description="In place of a token, from `…/events/ticket`.")] = None,
) -> Response:
    """Server-sent events: `id:` is the event's number, `event:` its type, `data:` the event as JSON.

    An answer holds what is there, at most 200 events, and otherwise waits for the first one. Read it as a stream that
    ends early and is opened again: any EventSource does.
    """
    after = _number(last_event or last_event_id)
    most = min(services.settings.answer_wait_seconds, _MOST_SECONDS)
    seconds = most if wait is None else min(wait, most)
    events = await _events(services, space.tenant, session_id, after, seconds, request)
    return Response(
        _RETRY + "\n" + ("".join(map(_block, events)) or ": nothing has happened\n\n"),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


@router.post(
    "/{session_id}/events/ticket",
    status_code=201,
    operation_id="create_stream_ticket",
    summary="Get a ticket for a session's events",
    responses={
        201: {
            "description": "The ticket.",
            "content": {
                "application/json": {
                    "example": {
                        "ticket": "YWxpY2U.q3…",
                        "expires_in": 60,
                        "href": "/my/projects/shop/chat/session_01k9…/events?ticket=YWxpY2U.q3…",
                    }
                }
            },
        },
        **documented(),
    },
)
async def create_stream_ticket(
    session_id: SessionId, space: Space, services: ServicesOf, request: Request
) -> OpenedTicket:
    """For a browser's EventSource, which cannot send a token: the stream takes the ticket in its address.

    It opens this one stream within a minute, then for as long as the stream is followed, an hour and this request's
    token's life at most. Each request makes another one.
    """
    await _session(services, space.tenant, session_id)
    until: int = request.scope["token_expires_at"]
    made = await StreamTickets(services.records).issue(space.tenant, session_id, until=until)
    stream = f"{project_address(space.tenant.project_id)}/chat/{session_id}/events"
    return OpenedTicket(**made.model_dump(), href=f"{stream}?ticket={made.ticket}")


async def _session(services: Services, tenant: TenantContext, session_id: str) -> None:
    """Find out in one call that project and session are there."""
    space, session = await services.records.get_many(tenant, [Key.space(), Key.session(session_id)])
    if space is None or space["state"] == SpaceState.DELETED.value:
        raise no_project(tenant.project_id)
    if session is None:
        raise NotFound(f"this project has no chat session {session_id[:80]!r}")


async def _events(
    services: Services, tenant: TenantContext, session_id: str, after: int, seconds: float, request: Request
) -> Sequence[Event]:
    until = time.monotonic() + seconds
    log = EventLog(services.records)
    found, _ = await asyncio.gather(
        log.page(tenant, session_id, after=after, limit=_MOST_EVENTS), _session(services, tenant, session_id)
    )
    pause = _FIRST_PAUSE
    while not found and (left := until - time.monotonic()) > 0 and not await request.is_disconnected():
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
        found = await log.page(tenant, session_id, after=after, limit=_MOST_EVENTS)
    return _bounded(found)


def _bounded(events: Sequence[Event]) -> Sequence[Event]:
    """As many of the events as one answer takes, at least one."""
    size = 0
    for place, event in enumerate(events):
        size += len(_block(event).encode())
        if place and size > _MOST_BYTES:
            return events[:place]
    return events


def _block(event: Event) -> str:
    return f"id: {event.seq}\nevent: {event.type.value}\ndata: {event.model_dump_json(exclude_none=True)}\n\n"


def _number(given: str | None) -> int:
    """The number of the last event that a client has seen; 0 for none."""
    if not given:
        return 0
    if not (given.isascii() and given.isdigit() and len(given) <= _SEQ_DIGITS):
        raise InvalidRequest("Last-Event-ID is the number of an event: send the `id` of the last one you have seen")
    return int(given)
