"""The table: the truth."""

from collections.abc import Sequence
from typing import Protocol

from worker_space.records import Item, Page, Write
from worker_space.tenancy import Key, TenantContext, UserContext

__all__ = ["QUEUE_FIELDS", "DueItems", "Owner", "Records", "SpacesByToken"]


Owner = TenantContext | UserContext


class Records(Protocol):
    """The table, the truth. Reads are consistent."""

    async def get(self, owner: Owner, key: Key) -> Item | None:
        """One item, or `None`."""

    async def get_many(self, owner: Owner, keys: Sequence[Key]) -> Sequence[Item | None]:
        """At most 100 items in one call, in the order of `keys`, `None` for each that is missing."""

    async def query(
        self,
        owner: Owner,
        prefix: Key,
        *,
        limit: int | None = None,
        after: str | None = None,
        descending: bool = False,
    ) -> Page:
        """Items whose sort key begins with `prefix`, from one partition.

        Args:
            limit: Most items of the page; `None` reads to the end (1 call per 1 MB).
            after: Go on behind this sort key (an earlier page's `after`); it need not exist.
            descending: Newest (largest sort key) first.
        """

    async def write(self, owner: Owner, *writes: Write) -> None:
        """All writes or none; at most 100, no two on one item.

        Raises:
            ConditionFailed: A condition did not hold; it carries the items as stored. A collision with a
                transaction under way is repeated by the adapter and reported as `Unavailable` if it stays.
        """


class DueItems(Protocol):
    """The sweeper's sparse index: items that carry `due_shard` and `due_at`, of all tenants, oldest first."""

    async def due(self, shard: str, before: int, limit: int, *, since: int = 0) -> Sequence[tuple[TenantContext, Item]]:
        """At most `limit` items of `shard` whose `due_at` (epoch milliseconds) is from `since` to `before`, inclusive.

        The index follows the table with a delay: an item may be listed as it was a moment ago.
        """


QUEUE_FIELDS = ("user_id", "project_id", "state", "generation", "releasing")
"""What `SpacesByToken` tells of a space."""


class SpacesByToken(Protocol):
    """The spaces' records for who has only names of queues. Reads are consistent."""

    async def spaces(self, tokens: Sequence[str]) -> Sequence[Item | None]:
        """`QUEUE_FIELDS` of at most 100 tenants' spaces, no tenant twice; `None` for each that is missing."""
