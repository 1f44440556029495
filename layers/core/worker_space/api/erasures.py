"""`/my/erasures/`: what became of the projects that the caller had erased."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path

from worker_space.api.deps import ServicesOf, User
from worker_space.api.pages import Listing, PageAsked, encode
from worker_space.api.problems import documented
from worker_space.erasure_receipts import ErasureReceipt
from worker_space.tenancy import Key

__all__ = ["RECEIPT", "erasure_address", "router"]

router = APIRouter(tags=["erasures"])

_NOTHING: Final = {"found": 0, "deleted": 0, "remaining": 0}
_STORES: Final = ("table", "cache", "mappings", "queues", "memory", "contents", "files")
RECEIPT: Final = {
    "id": "erasure_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "project_id": "shop",
    "state": "certified",
    "requested_at": 1795305600000,
    "again_at": 1795306560000,
    "certified_at": 1795306581000,
    "first_pass": {
        "began_at": 1795305600100,
        "ended_at": 1795305602000,
        "stores": {name: {"found": 7, "deleted": 7, "remaining": 0} for name in _STORES},
    },
    "second_pass": {
        "began_at": 1795306580000,
        "ended_at": 1795306580900,
        "stores": dict.fromkeys(_STORES, _NOTHING),
    },
    "kept": "Of the project stays a record without any name or content …",
}


def erasure_address(erasure_id: str) -> str:
    """A receipt's path in the HTTP surface."""
    return f"/my/erasures/{erasure_id}"


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


@router.get(
    "/my/erasures/",
    operation_id="list_erasures",
    summary="List your erasures",
    responses={200: _shown("A page.", {"items": [RECEIPT], "next": None}), **documented()},
)
async def list_erasures(user: User, services: ServicesOf, page: PageAsked) -> Listing[ErasureReceipt]:
    """The newest first."""
    receipts, after = await services.erasures.page(user, limit=page.limit, after=page.after(Key.erasures()))
    return Listing(items=receipts, next=encode(after))


@router.get(
    "/my/erasures/{erasure_id}",
    operation_id="get_erasure",
    summary="Look at the receipt of an erasure",
    responses={200: _shown("The receipt.", RECEIPT), **documented()},
)
async def get_erasure(
    erasure_id: Annotated[str, Path(description="The erasure's id.", examples=["erasure_01k9…"])],
    user: User,
    services: ServicesOf,
) -> ErasureReceipt:
    """What each store held and holds, pass by pass. Only `certified_at` says that nothing is left."""
    return await services.erasures.get(user, erasure_id)
