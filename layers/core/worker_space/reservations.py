"""Reservations of a day's tokens and money, and the days' items that they are counted on.

A reservation is an item of its own. Whoever ends it deletes it in the transaction that changes the counts, so of two
who would end it one does.
"""

from dataclasses import dataclass
from typing import Final, Literal

from worker_space.allowances import day_ends
from worker_space.errors import ConditionFailed, OverBudget
from worker_space.ports import Records
from worker_space.records import All, Any_, AtMost, Condition, Delete, Equals, Exists, Item, Missing, Update, Write
from worker_space.tenancy import Key, TenantContext

__all__ = ["Account", "Scope", "ended", "lapse", "over_budget", "used_of"]

_KEPT_SECONDS: Final = 7 * 24 * 3600

Scope = Literal["tenant", "user"]


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

    def left(self, item: Item) -> tuple[int | None, int | None]:
        """Tokens and money that are not committed yet; `None` without a limit."""
        tokens = None if self.tokens is None else self.tokens - int(item.get("committed_tokens", 0))
        cost = None if self.cost is None else self.cost - int(item.get("committed_cost", 0))
        return tokens, cost

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


def used_of(item: Item, what: str) -> str:
    """What is used of a day, in words."""
    spent, committed = int(item.get(f"spent_{what}", 0)), int(item.get(f"committed_{what}", 0))
    return f"{spent} spent and {committed - spent} reserved" if committed > spent else f"{spent} used"


def over_budget(account: Account, day: str, used: str, needed: int, *, money: bool) -> OverBudget:
    """What a model call that does not fit fails with.

    Args:
        used: What is used of the limit, and the limit.
        needed: What the call may need, at the least.
    """
    date = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    return OverBudget(
        f"The limit of the day is reached: {account.whose} {used}, and this model call may need {needed}."
        f" The day {date} ends at midnight UTC; then ask again.",
        money=money,
    )
