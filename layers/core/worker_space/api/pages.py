"""Lists come in pages: `?limit=` entries, and `next` as the `?cursor=` of the following page."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from worker_space.errors import InvalidRequest
from worker_space.tenancy import Key

__all__ = ["Listing", "PageAsked", "PageRequest", "encode", "fitting"]

T = TypeVar("T")
Shown = TypeVar("Shown", bound=BaseModel)
_MAX_CURSOR: Final = 2_048
_PAGE_BYTES: Final = 3_000_000
"""Lambda answers with at most 6 MB, in which each quote of a JSON text takes two bytes."""


class Listing(BaseModel, Generic[T]):
    """A page of a list."""

    model_config = ConfigDict(frozen=True)

    items: Sequence[T]
    next: str | None = Field(default=None, description="The cursor of the next page; null at the end.")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a client asked for.

    Attributes:
        cursor: As the client sent it.
    """

    limit: int
    cursor: str | None

    def after(self, prefix: Key) -> str | None:
        """The sort key to go on from.

        Raises:
            InvalidRequest: The cursor is not one of this very listing.
        """
        return self.checked(lambda place: place.startswith(prefix.sort) and len(place) > len(prefix.sort))

    def checked(self, belongs: Callable[[str], bool]) -> str | None:
        """The place to go on from, if `belongs` accepts it.

        Raises:
            InvalidRequest: The cursor is not one of this very listing.
        """
        if self.cursor is None:
            return None
        try:
            place = base64.b64decode(
                self.cursor + "=" * (-len(self.cursor) % 4), altchars=b"-_", validate=True
            ).decode()
        except (binascii.Error, ValueError):
            place = ""
        if not place or len(place.encode()) > 1_024 or not belongs(place):
            raise InvalidRequest("the cursor is not of this list: use the `next` of an earlier page, unchanged")
        return place


async def _page_request(
    limit: Annotated[int, Query(ge=1, le=100, description="Most entries of the page.")] = 50,
    cursor: Annotated[
        str | None, Query(max_length=_MAX_CURSOR, description="`next` of the page before.", examples=[None])
    ] = None,
) -> PageRequest:
    return PageRequest(limit, cursor)


PageAsked = Annotated[PageRequest, Depends(_page_request)]


def encode(place: str | None) -> str | None:
    """The cursor that stands for a place in a listing."""
    return None if place is None else base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def fitting(items: Sequence[Shown], following: str | None, place: Callable[[Shown], Key]) -> Listing[Shown]:
    """A page of as many of these as one answer takes, at least one.

    Args:
        following: The place to go on from behind all of them.
        place: Where an item is kept.
    """
    room = _PAGE_BYTES
    for count, item in enumerate(items):
        room -= len(item.model_dump_json().encode())
        if room < 0 and count > 0:
            return Listing(items=items[:count], next=encode(place(items[count - 1]).sort))
    return Listing(items=items, next=encode(following))
