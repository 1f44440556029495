"""`…/approvals/`: what runs ask their user before they go on, and the user's answers."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from worker_space.api.deps import EXISTING, ApprovalId, ServicesOf, Space
from worker_space.api.pages import Listing, PageAsked, encode
from worker_space.api.problems import documented
from worker_space.consent import Approval, ApprovalState
from worker_space.tenancy import Key

__all__ = ["router"]

router = APIRouter(tags=["approvals"], prefix="/my/projects/{project_id}/approvals")

_EXAMPLE: Final = {
    "id": "approval_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "kind": "tool",
    "state": "pending",
    "task_id": "task_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "session_id": "session_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "agent_id": "agent_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "agent_version": 3,
    "tool": "delete_file",
    "risk": "deleting",
    "arguments": {"path": "notes/old.md"},
    "edited_arguments": None,
    "truncated": False,
    "reason": None,
    "created_at": 1795305600000,
    "expires_at": 1795392000000,
    "resolved_at": None,
}
_CONFIRMED: Final = {**_EXAMPLE, "state": "confirmed", "resolved_at": 1795305660000}
_REJECTED: Final = {**_CONFIRMED, "state": "rejected", "reason": "I still need it."}


def _text(value: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("it must be text that UTF-8 can hold: it has half a surrogate pair")
    return value


class Confirmation(BaseModel):
    """How a call is confirmed.

    Attributes:
        arguments: All arguments of the call, in the place of those that the agent chose; the tool stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arguments: dict[str, Any] | None = Field(default=None, examples=[{"path": "notes/older.md"}])


class Rejection(BaseModel):
    """Why a call is rejected: the agent is told, and goes on without it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Annotated[str, Field(max_length=2_000, examples=["I still need it."]), AfterValidator(_text)] | None = None


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


@router.get(
    "/",
    operation_id="list_approvals",
    summary="List what waits for your word, and what was decided",
    dependencies=[EXISTING],
    responses={200: _shown("A page.", {"items": [_EXAMPLE], "next": None}), **documented()},
)
async def list_approvals(
    space: Space,
    services: ServicesOf,
    page: PageAsked,
    state: Annotated[ApprovalState | None, Query(description="Only approvals in this state.")] = None,
) -> Listing[Approval]:
    """The newest first; long arguments are cut. With `state`, a page may hold fewer than its limit: `next` tells."""
    approvals, after = await services.approvals.page(
        space.tenant, limit=page.limit, after=page.after(Key.approvals()), state=state
    )
    return Listing(items=approvals, next=encode(after))


@router.get(
    "/{approval_id}",
    operation_id="get_approval",
    summary="Look at an approval",
    responses={200: _shown("The approval.", _EXAMPLE), **documented()},
)
async def get_approval(approval_id: ApprovalId, space: Space, services: ServicesOf) -> Approval:
    """With the exact arguments of the call that waits."""
    return await services.approvals.get(space.tenant, approval_id)


@router.post(
    "/{approval_id}/confirm",
    operation_id="confirm_approval",
    summary="Let the agent do it",
    responses={200: _shown("It is confirmed.", _CONFIRMED), **documented(400, 409, 413)},
)
async def confirm_approval(
    approval_id: ApprovalId, space: Space, services: ServicesOf, confirmation: Confirmation | None = None
) -> Approval:
    """The run goes on with the call, once. Confirming again changes nothing; 409 when it was decided otherwise.

    A plan's approval takes no arguments.
    """
    arguments = None if confirmation is None else confirmation.arguments
    return await services.approvals.confirm(space.tenant, approval_id, arguments=arguments)


@router.post(
    "/{approval_id}/reject",
    operation_id="reject_approval",
    summary="Do not let the agent do it",
    responses={200: _shown("It is rejected.", _REJECTED), **documented(400, 409, 413)},
)
async def reject_approval(
    approval_id: ApprovalId, space: Space, services: ServicesOf, rejection: Rejection | None = None
) -> Approval:
    """The agent is told and goes on without the call. Rejecting again changes nothing; 409 when decided otherwise."""
    reason = None if rejection is None else rejection.reason
    return await services.approvals.reject(space.tenant, approval_id, reason=reason)
