"""`…/agents/{agent_id}/context`: what an agent remembers, for its owner to read, search, add to and clear."""

import uuid
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker_space.api.deps import EXISTING, AgentTarget, Idempotency, Space
from worker_space.api.pages import Listing, PageAsked, encode
from worker_space.api.problems import documented
from worker_space.errors import InvalidRequest, NotFound
from worker_space.ports import ContextEntry

__all__ = ["router"]

router = APIRouter(tags=["agents"], prefix="/my/projects/{project_id}/agents/{agent_id}/context")

_NOTE: Final = {
    "id": "note_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "kind": "note",
    "text": "The user prefers tabs.",
    "created_at": 1795305600000,
    "task_id": None,
    "session_id": None,
    "success": True,
    "score": None,
}
_INTERACTION: Final = {
    "id": "task_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "kind": "interaction",
    "text": "User: Analyse main.py\nAnswer: main.py defines …",
    "created_at": 1795305602000,
    "task_id": "task_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "session_id": "session_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "success": True,
    "score": None,
}


class ContextView(BaseModel):
    """One thing an agent remembers; times in epoch milliseconds."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: str = Field(description="`interaction` (a message and its answer) or `note`.")
    text: str
    created_at: int
    task_id: str | None
    session_id: str | None
    success: bool = Field(description="False for the interaction of a failed task, which is never recalled.")
    score: float | None = Field(default=None, description="In a search; comparable within its answer only.")

    @classmethod
    def of(cls, entry: ContextEntry, score: float | None = None) -> "ContextView":
        """The view of an entry, in a search with its score."""
        return cls(
            id=entry.id,
            kind=entry.kind,
            text=entry.text,
            created_at=entry.created_at,
            task_id=entry.task_id,
            session_id=entry.session_id,
            success=entry.success,
            score=score,
        )


def _note(value: str) -> str:
    if not value.strip():
        raise ValueError("a note needs some text")
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("a note must be text without NUL characters that UTF-8 can hold")
    return value


class NewNote(BaseModel):
    """Something for an agent to remember."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[
        str, Field(min_length=1, max_length=8_000, examples=["The user prefers tabs."]), AfterValidator(_note)
    ]


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


def _is_point(place: str) -> bool:
    try:
        return str(uuid.UUID(place)) == place
    except ValueError:
        return False


@router.get(
    "",
    operation_id="list_context",
    summary="List or search what an agent remembers",
    dependencies=[EXISTING],
    responses={200: _shown("A page, or the matches.", {"items": [_INTERACTION, _NOTE], "next": None}), **documented()},
)
async def list_context(
    target: AgentTarget,
    space: Space,
    page: PageAsked,
    query: Annotated[
        str | None,
        Query(min_length=1, max_length=2_000, description="Words to look for.", examples=["tabs or spaces"]),
    ] = None,
) -> Listing[ContextView]:
    """With `query` the best matches, best first and without a next page; failed interactions are not among them.

    Without it everything, in a fixed order that is not that of time.
    """
    store = await space.get_agent_context_store(target)
    if query is not None:
        if page.cursor is not None:
            raise InvalidRequest("a search has one page: send query or cursor, not both")
        matches = await store.search(query, limit=page.limit)
        return Listing(items=[ContextView.of(match.entry, match.score) for match in matches])
    entries, after = await store.entries(limit=page.limit, after=page.checked(_is_point))
    return Listing(items=[ContextView.of(entry) for entry in entries], next=encode(after))


@router.post(
    "",
    status_code=201,
    operation_id="add_context",
    summary="Have an agent remember a note",
    dependencies=[EXISTING],
    responses={201: _shown("What it remembers.", _NOTE), **documented(400, 409, 413)},
)
async def add_context(note: NewNote, target: AgentTarget, space: Space, idempotency: Idempotency) -> ContextView:
    """The agent finds it by `search_context`, and recalls it before it answers a message of like matter."""
    return ContextView.of(await space.add_note(target, note.text, repeat=idempotency.repeat("note")))


@router.delete(
    "",
    status_code=204,
    operation_id="clear_context",
    summary="Have an agent forget everything",
    dependencies=[EXISTING],
    responses={204: {"description": "It is forgotten."}, **documented(409)},
)
async def clear_context(target: AgentTarget, space: Space) -> None:
    """Also what tasks that have begun will come to: their interactions are not recalled either."""
    await space.clear_context(target)


@router.delete(
    "/{entry_id}",
    status_code=204,
    operation_id="remove_context",
    summary="Have an agent forget one thing",
    dependencies=[EXISTING],
    responses={204: {"description": "It is forgotten."}, **documented()},
)
async def remove_context(
    entry_id: Annotated[str, Path(description="The entry's id.", examples=["note_01k9…"])],
    target: AgentTarget,
    space: Space,
) -> None:
    """By the `id` that a listing shows; a `#` in it is written `%23` in a path."""
    if not await space.remove_context(target, entry_id):
        raise NotFound(f"this agent remembers nothing under {entry_id[:80]!r}")
