"""Tallies: how many agents or sessions a project has, kept on the space's record by the writes that make and delete.

A tally that is not there yet (the project is older than it, or was imported) is counted once by a query. Whoever sets
it does so in the transaction of their own change and only while it is still missing, so of two who count at once one
counts again.
"""

from dataclasses import dataclass
from typing import Final

from worker_space.errors import LimitReached
from worker_space.ports import Records
from worker_space.records import All, AtMost, Condition, Exists, Item, Missing, Update
from worker_space.tenancy import Key, TenantContext

__all__ = ["AGENTS", "SESSIONS", "Tally"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One count of a project's things.

    Attributes:
        limit: The limit's name (`allowances`), and what is counted.
        attribute: Where the space's record keeps the count.
        things: The keys of what is counted.
    """

    limit: str
    attribute: str
    things: Key

    async def count(self, records: Records, tenant: TenantContext, space: Item) -> int:
        """How many there are, by the space's record as read, or by a query where it does not say."""
        if self.attribute in space:
            return int(space[self.attribute])
        return len((await records.query(tenant, self.things)).items)

    def one_more(self, space: Item, count: int, *, most: int | None, when: Condition) -> Update:
        """The change of the space's record that belongs to making one; its condition fails where there is no room.

        Args:
            space: The record as read.
            count: What `count` said of it.
            most: The limit; `None` is without one.
            when: What else must hold of the space.
        """
        if self.attribute not in space and (most is None or count < most):
            return Update(key=Key.space(), set={self.attribute: count + 1}, when=All(when, Missing(self.attribute)))
        room: Condition = Exists(self.attribute) if most is None else AtMost(self.attribute, most - 1)
        return Update(key=Key.space(), add={self.attribute: 1}, when=All(when, room))

    def check_room(self, space: Item, count: int, *, most: int | None) -> None:
        """Say why `one_more` failed, if there was no room.

        Args:
            space: The record as it was stored then.
            count: As many as there were when it was built, if the record does not say.

        Raises:
            LimitReached: There are as many as there may be.
        """
        count = int(space.get(self.attribute, count))
        if most is not None and count >= most:
            raise LimitReached(
                f"this project has {count} {self.limit} of at most {most}: delete some first",
                retry_after=None,
                limit=self.limit,
            )

    def one_less(self, space: Item | None, count: int) -> Update:
        """The change of the space's record that belongs to deleting one.

        Args:
            space: The record as read, or `None` for the guess that it keeps this count.
            count: What `count` said of it; not used for the guess.
        """
        if space is None or self.attribute in space:
            return Update(key=Key.space(), add={self.attribute: -1}, when=Exists(self.attribute))
        not_yet = All(Exists("sk"), Missing(self.attribute))
        return Update(key=Key.space(), set={self.attribute: count - 1}, when=not_yet)


AGENTS: Final = Tally(limit="agents", attribute="agent_count", things=Key.agents())
SESSIONS: Final = Tally(limit="sessions", attribute="session_count", things=Key.sessions())
