"""The room that a day's limits leave one model call: what is spent is gone, what is reserved may come back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from worker_space.allowances import Allowances, day_ends
from worker_space.clock import now_ms
from worker_space.errors import OverBudget
from worker_space.models import Usage
from worker_space.records import Item
from worker_space.reservations import Account, Counted, Scope

__all__ = ["Room"]

_LEAST_OUTPUT: Final = 256
_ENOUGH_OUTPUT: Final = 1_024
"""Less is worth a little waiting for what others have reserved: most answers would be cut off by it."""
_SOON_MS: Final = 60_000
"""When to ask again where nothing but calls under way is in the way: few last longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """Output tokens at most, below 0 where not even the input fits, and the limit that says so."""

    output: int
    account: Account | None = None
    money: bool = False


class Room:
    """What limits leave a call; the days' items are given by scope as last seen, and count as empty where they are not.

    Args:
        read: Tokens of its input, at most.
        wanted: Tokens of its output, at most.
    """

    def __init__(
        self, allowances: Allowances, accounts: Sequence[Account], *, model: str, read: int, wanted: int
    ) -> None:
        self._allowances = allowances
        self._accounts = accounts
        self._model = model
        self._read = read
        self._wanted = wanted
        self._least = min(wanted, _LEAST_OUTPUT)

    def output(self, days: Mapping[Scope, Item]) -> int:
        """As many output tokens as all limits leave now, and not more than wanted."""
        return self._bound(days, "committed").output

    def may_grow(self, days: Mapping[Scope, Item]) -> bool:
        """Whether it is worth while to wait: the call fits into what is not spent, and little of that is free now."""
        best = self._bound(days, "spent").output
        return best >= self._least and self.output(days) < min(best, _ENOUGH_OUTPUT)

    def check(self, days: Mapping[Scope, Item], day: str) -> None:
        """Refuse the call where the room is too small for any answer.

        Raises:
            OverBudget: It says whether the day is used up or what it leaves is reserved, and so when to ask again.
        """
        kinds: tuple[Counted, ...] = ("spent", "committed")
        for counted in kinds:
            bound = self._bound(days, counted)
            if bound.account is not None and bound.output < self._least:
                used = self._used(bound.account, days.get(bound.account.scope, {}), money=bound.money)
                raise _over_budget(used, day, money=bound.money, for_now=counted == "committed")

    def _bound(self, days: Mapping[Scope, Item], counted: Counted) -> _Bound:
        bound = _Bound(output=self._wanted)
        read_cost = self._allowances.cost_micros(self._model, Usage(input_tokens=self._read))
        for account in self._accounts:
            tokens, cost = account.left(days.get(account.scope, {}), counted)
            if tokens is not None and tokens - self._read < bound.output:
                bound = _Bound(output=tokens - self._read, account=account)
            if cost is not None:
                payable: int | None = -1
                if read_cost <= cost:
                    payable = self._allowances.affordable_output(self._model, self._read, cost)
                if payable is not None and payable < bound.output:
                    bound = _Bound(output=payable, account=account, money=True)
        return bound

    def _used(self, account: Account, item: Item, *, money: bool) -> str:
        """What is used of a limit, and what the call may need of it at the least."""
        what, of, needed = "tokens", f"{account.tokens} tokens", self._read + self._least
        if money:
            least = Usage(input_tokens=self._read, output_tokens=self._least)
            what, of = "cost", f"{account.cost} millionths of the currency"
            needed = self._allowances.cost_micros(self._model, least)
        spent, committed = int(item.get(f"spent_{what}", 0)), int(item.get(f"committed_{what}", 0))
        used = f"{spent} spent and {committed - spent} reserved" if committed > spent else f"{spent} used"
        return f"{account.whose} {used} of {of}, and this model call may need {needed}"


def _over_budget(used: str, day: str, *, money: bool, for_now: bool) -> OverBudget:
    if for_now:
        text = f"What the day leaves is reserved for model calls under way: {used}. Ask again in a minute."
        return OverBudget(text, money=money, until=now_ms() + _SOON_MS)
    date = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    text = f"The limit of the day is reached: {used}. The day {date} ends at midnight UTC; then ask again."
    return OverBudget(text, money=money, until=day_ends(day))
