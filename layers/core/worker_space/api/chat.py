"""`…/chat/`: sessions, messages and their answers."""

import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict

from worker_space.api.deps import EXISTING, Idempotency, IdempotencyKey, Preference, Preferred, SessionId, Space
from worker_space.api.pages import Listing, PageAsked, encode
from worker_space.api.problems import documented, task_canceled, task_failed
from worker_space.errors import TooLarge
from worker_space.messages import MAX_CONTENT_BYTES, ChatSession, Message, MessageRequest, MessageResponse, NewSession
from worker_space.space import UserWorkerSpace
from worker_space.tasks import Task, TaskState
from worker_space.tenancy import Key, project_address

__all__ = ["Accepted", "router"]

router = APIRouter(tags=["chat"], prefix="/my/projects/{project_id}/chat")

_ANSWER_SECONDS: Final = 26.5
"""Accepting and waiting together: what is left of API Gateway's 30 s is for the answer itself."""
_PAGE_BYTES: Final = 3_000_000
"""Lambda answers with at most 6 MB, and JSON within JSON grows."""
_TITLE_CHARACTERS: Final = 80

_SESSION: Final = {
    "id": "session_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "title": "About the checkout",
    "target_agent": "coder",
    "message_count": 1,
    "open_tasks": 0,
    "created_at": 1795305600000,
    "updated_at": 1795305602000,
}
_TASK: Final = {
    "id": "task_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "type": "message",
    "state": "submitted",
    "session_id": _SESSION["id"],
    "agent_id": "agent_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "payload": {"message": 0},
    "attempt": 0,
    "created_at": 1795305600000,
}
_ANSWER: Final = {
    "id": _TASK["id"],
    "role": "assistant",
    "content": "main.py defines one function …",
    "agent_id": _TASK["agent_id"],
    "mode": "direct",
    "session_id": _SESSION["id"],
    "created_at": 1795305602000,
}
_MESSAGE: Final = {
    "number": 0,
    "role": "user",
    "content": "Analyse main.py",
    "agent_id": _TASK["agent_id"],
    "task_id": _TASK["id"],
    "status": "ok",
    "created_at": 1795305600000,
}


class Accepted(BaseModel):
    """A message whose answer is still to come; `href` is where to follow its task."""

    model_config = ConfigDict(frozen=True)

    task: Task
    href: str


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


_ACCEPTED: Final = {
    **_shown("The answer is still to come.", {"task": _TASK, "href": f"/my/projects/shop/tasks/{_TASK['id']}"}),
    "model": Accepted,
}


async def _bounded(request: MessageRequest) -> MessageRequest:
    if len(request.content.encode()) > MAX_CONTENT_BYTES:
        raise TooLarge(f"a message takes at most {MAX_CONTENT_BYTES} bytes: put the text in a file and name the file")
    return request


MessageBody = Annotated[MessageRequest, Depends(_bounded)]


# -- sessions ------------------------------------------------------------------------------------------------


@router.post(
    "/sessions/",
    status_code=201,
    operation_id="create_session",
    summary="Open a chat session",
    responses={201: _shown("The session.", _SESSION), **documented(400, 409, 413, 429)},
)
async def create_session(new: NewSession, space: Space, idempotency: Idempotency, response: Response) -> ChatSession:
    """`target_agent` answers the messages that name no agent themselves."""
    if new.target_agent is not None:
        await space.get_agent(new.target_agent)
    session = await space.sessions.create(space.tenant, new, repeat=idempotency.repeat("session"))
    response.headers["Location"] = f"{_chat(space)}/sessions/{session.id}"
    return session


@router.get(
    "/sessions/",
    operation_id="list_sessions",
    summary="List the chat sessions",
    dependencies=[EXISTING],
    responses={200: _shown("A page.", {"items": [_SESSION], "next": None}), **documented()},
)
async def list_sessions(space: Space, page: PageAsked) -> Listing[ChatSession]:
    """The newest first."""
    after = page.after(Key.sessions())
    sessions, following = await space.sessions.page(space.tenant, limit=page.limit, after=after)
    return Listing(items=sessions, next=encode(following))


@router.get(
    "/sessions/{session_id}",
    operation_id="get_session",
    summary="Look at a chat session",
    dependencies=[EXISTING],
    responses={200: _shown("The session.", _SESSION), **documented()},
)
async def get_session(session_id: SessionId, space: Space) -> ChatSession:
    """`open_tasks` counts the message being answered and those that wait behind it."""
    return await space.sessions.get(space.tenant, session_id)


@router.delete(
    "/sessions/{session_id}",
    status_code=204,
    operation_id="delete_session",
    summary="Delete a chat session and its messages",
    dependencies=[EXISTING],
    responses={204: {"description": "It is gone."}, **documented(409)},
)
async def delete_session(session_id: SessionId, space: Space) -> None:
    """Open tasks are canceled first. 409: one has not stopped yet; delete the session again."""
    await space.sessions.delete(space.tenant, session_id)


# -- messages ------------------------------------------------------------------------------------------------


@router.get(
    "/{session_id}/messages/",
    operation_id="list_messages",
    summary="Read a session's messages",
    dependencies=[EXISTING],
    responses={200: _shown("A page.", {"items": [_MESSAGE], "next": None}), **documented()},
)
async def list_messages(session_id: SessionId, space: Space, page: PageAsked) -> Listing[Message]:
    """The oldest first. A page ends early where its messages are long."""
    after = page.after(Key.messages(session_id))
    messages, following = await space.sessions.messages(space.tenant, session_id, limit=page.limit, after=after)
    room = _PAGE_BYTES
    for count, message in enumerate(messages):
        room -= len(message.content.encode())
        if room < 0 and count > 0:
            last = Key.message(session_id, messages[count - 1].number)
            return Listing(items=messages[:count], next=encode(last.sort))
    return Listing(items=messages, next=encode(following))


_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: _shown("The agent's answer.", _ANSWER),
    202: _ACCEPTED,
    **documented(400, 402, 409, 413, 429, 502),
}


@router.post(
    "/{session_id}/message/",
    operation_id="send_message",
    summary="Send a message and wait for the answer",
    response_model=MessageResponse,
    responses=_ANSWERS,
)
async def send_message(
    message: MessageBody,
    session_id: SessionId,
    space: Space,
    idempotency: Idempotency,
    preference: Preferred,
    request: Request,
) -> Response:
    """Messages of a session are answered in their order, or as `on_busy` says.

    Without a `target_agent` the session's agent answers, or the orchestrator chooses one or makes a plan.

    After about 25 s, or with `Prefer: respond-async`, the answer is 202 with the task's address. A run that ended
    without an answer is 502 (failed) or 409 (canceled).
    """
    began = time.monotonic()
    return await _answer(space, session_id, message, idempotency, f"message:{session_id}", preference, request, began)


@router.post(
    "/",
    operation_id="start_chat",
    summary="Open a session with its first message",
    response_model=MessageResponse,
    responses=_ANSWERS,
)
async def start_chat(
    message: MessageBody, space: Space, idempotency: Idempotency, preference: Preferred, request: Request
) -> Response:
    """As sending a message; the answer's `session_id` names the new session, whose agent is this message's, if any."""
    began = time.monotonic()
    if message.target_agent is not None:
        await space.get_agent(message.target_agent)
    title = message.content.strip().splitlines()[0][:_TITLE_CHARACTERS]
    new = NewSession(title=title, target_agent=message.target_agent)
    session = await space.sessions.create(space.tenant, new, repeat=idempotency.repeat("chat-session"))
    return await _answer(space, session.id, message, idempotency, "chat-message", preference, request, began)


async def _answer(
    space: UserWorkerSpace,
    session_id: str,
    message: MessageRequest,
    idempotency: IdempotencyKey,
    kind: str,
    preference: Preference,
    request: Request,
    began: float,
) -> Response:
    path = request.scope["path"]
    sent = await space.send_task(
        session_id,
        message.content,
        message.target_agent,
        on_busy=message.on_busy,
        repeat=idempotency.repeat(kind),
    )
    left = began + _ANSWER_SECONDS - time.monotonic()
    reply = await space.wait_for_result(sent, seconds=max(0.0, min(preference.seconds, left)))
    headers = {} if preference.applied is None else {"Preference-Applied": preference.applied}
    if reply.response is not None:
        return Response(reply.response.model_dump_json(), headers=headers, media_type="application/json")
    if reply.task.state is TaskState.FAILED:
        return task_failed(reply.outcome or "the run failed", path, task=reply.task)
    if reply.task.state is TaskState.CANCELED:
        return task_canceled(reply.outcome or "the task was canceled", path, task_id=reply.task.id)
    href = f"{project_address(space.tenant.project_id)}/tasks/{reply.task.id}"
    accepted = Accepted(task=reply.task, href=href)
    headers |= {"Location": href}
    return Response(accepted.model_dump_json(), status_code=202, headers=headers, media_type="application/json")


def _chat(space: UserWorkerSpace) -> str:
    return f"{project_address(space.tenant.project_id)}/chat"
