"""Reservations of a day's tokens and money, and the days' items that they are counted on.

A reservation is an item of its own. Whoever ends it deletes it in the transaction that changes the counts, so of two
who would end it one does.
"""

from dataclasses import dataclass
from typing import Final, Literal

from worker_space.allowances import day_ends
from worker_space.errors import ConditionFailed
from worker_space.ports import Records
from worker_space.records import All, Any_, AtMost, Condition, Delete, Equals, Exists, Item, Missing, Update, Write
from worker_space.tenancy import Key, TenantContext

__all__ = ["Account", "Counted", "Scope", "ended", "lapse"]

_KEPT_SECONDS: Final = 7 * 24 * 3600

Scope = Literal["tenant", "user"]
Counted = Literal["committed", "spent"]
"""What counts as used: what is spent and reserved, or what is spent alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A day's item with the limits that hold for it.

    Attributes:
        whose: The beginning of a sentence about it.
    """

    scope: Scope
    whose: str
    tokens: int | None
    cost: int | None

    def key(self, day: str) -> Key:
        """Where the day's counts are kept."""
        return Key.usage(f"day{day}", self.scope)

    @property
    def limited(self) -> bool:
        """Whether anything is limited in it."""
        return self.tokens is not None or self.cost is not None

    def left(self, item: Item, counted: Counted) -> tuple[int | None, int | None]:
        """Tokens and money that are neither spent nor, as `counted` says, reserved; `None` without a limit."""
        tokens = None if self.tokens is None else self.tokens - int(item.get(f"{counted}_tokens", 0))
        cost = None if self.cost is None else self.cost - int(item.get(f"{counted}_cost", 0))
        return tokens, cost

    def book(self, day: str, tokens: int, cost: int) -> Update:
        """The change that counts what was used without a reservation, of which nothing is refused."""
        return Update(
            key=self.key(day),
            add={"committed_tokens": tokens, "committed_cost": cost, "spent_tokens": tokens, "spent_cost": cost},
            set={"expires_at": day_ends(day) // 1000 + _KEPT_SECONDS},
        )

    def commit(self, day: str, tokens: int, cost: int) -> Update:
        """The change that commits so much more, under the condition that it fits."""
        conditions: list[Condition] = []
        for attribute, most, more in (
            ("committed_tokens", self.tokens, tokens),
            ("committed_cost", self.cost, cost),
        ):
            if most is not None:
                room: Condition = AtMost(attribute, most - more)
                conditions.append(Any_(Missing(attribute), room) if more <= most else room)
        return Update(
            key=self.key(day),
            add={"committed_tokens": tokens, "committed_cost": cost},
            set={"expires_at": day_ends(day) // 1000 + _KEPT_SECONDS},
            when=All(*conditions) if conditions else None,
        )


def ended(reservation: Item, *, tokens: int, cost: int) -> list[Write]:
    """The changes of the days' items by which a reservation is replaced with what is booked for it."""
    return [
        Update(
            key=Key.usage(f"day{reservation['day']}", scope),
            add={
                "committed_tokens": tokens - reservation["tokens"],
                "committed_cost": cost - reservation["cost"],
                "spent_tokens": tokens,
                "spent_cost": cost,
            },
            # A day that is gone already is not made again.
            when=Exists("committed_tokens"),
        )
        for scope in reservation["accounts"]
    ]


async def lapse(records: Records, tenant: TenantContext, reservation: Item) -> bool:
    """End a reservation whose worker said nothing: the call may have been paid, so its input counts as spent.

    Returns:
        False when somebody else has ended or renewed it.
    """
    place = Key(reservation["sk"])
    as_read = All(Equals("attempt", reservation["attempt"]), Equals("due_at", reservation["due_at"]))
    booked = ended(reservation, tokens=reservation["input_tokens"], cost=reservation["input_cost"])
    # Without its day, which its time to live has cleared away, nothing is left to be put right.
    for writes in ([Delete(key=place, when=as_read), *booked], [Delete(key=place, when=as_read)]):
        try:
            await records.write(tenant, *writes)
            return True
        except ConditionFailed as error:
            if error.items[0] is not None:
                return False
    return False
