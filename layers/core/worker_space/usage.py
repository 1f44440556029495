"""Tokens and money of model calls: reserved before each call, settled after, so that parallel workers never overspend.

A day's item holds what was spent and what is committed (spent, and reserved for calls under way). A call is made only
after its reservation was written under the condition that what is committed then stays within the limit:

```
 worker A   reserve 900 (committed 0 → 900) ✓ ── call ── settle 400 (committed → 400, spent → 400)
 worker B   reserve 900 ✗ (at most 1000) ── what is left is 100: refused, or a shorter answer is asked for
 sweeper                                      a reservation whose worker died is ended: its input stays as spent
```

A reservation is an item of its own, and whoever ends it deletes it in the transaction that changes the counts: of a
worker that settles late and a sweeper, one does. Nothing of this is written where no such limit is set.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from worker_space.allowances import Allowances, day_of
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Lost, ModelError, RequestError, RunError, Unavailable
from worker_space.models import AssistantTurn, ModelReply, ModelRequest, Usage
from worker_space.ports import Records
from worker_space.projects import Space
from worker_space.records import (
    Check,
    Condition,
    Delete,
    Equals,
    Item,
    Missing,
    Put,
    Write,
)
from worker_space.reservations import Account, Scope, ended, lapse, over_budget, used_of
from worker_space.tasks import due_shard
from worker_space.tenancy import Key, TenantContext

__all__ = ["Budget", "Spending", "estimated_input"]

_OUTPUT_TOKENS: Final = 4_096
"""Reserved for an answer whose agent sets no `max_tokens`, and asked for: no call may exceed its reservation."""
_LEAST_OUTPUT: Final = 256
_FRAME_TOKENS: Final = 16
_TRIES: Final = 50
_SETTLE_PAUSES: Final = (0.1, 0.5, 0.0)
_log = logging.getLogger(__name__)


def estimated_input(request: ModelRequest) -> int:
    """Tokens of a request's input at most.

    Tokenizers that work on bytes never make more tokens than bytes. Of ASCII text, prose or code, they make one of
    three or four; half as many tokens as bytes is taken for it, and one a byte for all other text, which old
    vocabularies hardly know. Where that should not suffice after all, `settle` books what was really used.
    """
    turns = [turn.content for turn in request.turns]
    calls = [turn.tool_calls for turn in request.turns if isinstance(turn, AssistantTurn)]
    called = [json.dumps(call.model_dump(mode="json")) for several in calls for call in several]
    tools = [json.dumps(tool.model_dump(mode="json"), ensure_ascii=False) for tool in request.tools]
    text = "".join([request.system_prompt, *turns, *called, *tools])
    size = len(text.encode(errors="replace"))
    ascii_size = len(text.encode("ascii", errors="ignore"))
    frames = 1 + len(turns) + len(called) + len(tools)
    return size - ascii_size + (ascii_size + 1) // 2 + frames * _FRAME_TOKENS


class Budget:
    """Makes the spending of each task, and ends what dead workers have reserved.

    Args:
        hold_seconds: A reservation that was not settled after so long is ended by the sweeper: its worker is dead.
    """

    def __init__(self, records: Records, allowances: Allowances, *, hold_seconds: int) -> None:
        self._records = records
        self._allowances = allowances
        self._hold_ms = hold_seconds * 1000

    def spending(
        self,
        tenant: TenantContext,
        *,
        space: Space | None,
        task_id: str,
        attempt: int,
        fence: Condition,
        lost: Callable[[Item], Lost],
    ) -> "Spending":
        """What one attempt at a task spends.

        Args:
            space: The project's record as rehydrated, with its own limits.
            fence: What holds of the task as long as this attempt has it.
            lost: What it means that the task, as stored, is not so.
        """
        user = self._allowances.user
        own, by_operator = ({}, {}) if space is None else (space.limits, space.operator_limits)
        limits = self._allowances.of(own, by_operator)
        accounts = (
            Account(scope="tenant", whose="this project has", tokens=limits.tokens_per_day, cost=limits.cost_per_day),
            Account(scope="user", whose="you have", tokens=user.tokens_per_day, cost=user.cost_per_day),
        )
        return Spending(
            records=self._records,
            allowances=self._allowances,
            tenant=tenant,
            accounts=[each for each in accounts if each.tokens is not None or each.cost is not None],
            task_id=task_id,
            attempt=attempt,
            hold_ms=self._hold_ms,
            fence=Check(key=Key.task(task_id), when=fence),
            lost=lost,
        )

    def cost_micros(self, model: str, usage: Usage) -> int:
        """What these tokens of a model cost, in millionths of the currency; 0 where no price is set."""
        return self._allowances.cost_micros(model, usage)

    async def expire(self, tenant: TenantContext, item: Item) -> bool:
        """End an overdue reservation, as the sweeper found it; False when somebody else has ended or renewed it."""
        return await lapse(self._records, tenant, item)


class Spending:
    """Reserves and settles the model calls of one attempt at a task; without a limit it does nothing at all."""

    def __init__(
        self,
        *,
        records: Records,
        allowances: Allowances,
        tenant: TenantContext,
        accounts: Sequence[Account],
        task_id: str,
        attempt: int,
        hold_ms: int,
        fence: Check,
        lost: Callable[[Item], Lost],
    ) -> None:
        self._records = records
        self._allowances = allowances
        self._tenant = tenant
        self._accounts = accounts
        self._task_id = task_id
        self._attempt = attempt
        self._hold_ms = hold_ms
        self._fence = fence
        self._lost = lost
        self._held: Item | None = None
        self._model = ""

    async def call(
        self, request: ModelRequest, number: int, ask: Callable[[ModelRequest], Awaitable[ModelReply]]
    ) -> ModelReply:
        """Make a model call within the limits: reserve, ask, settle.

        Args:
            number: Which of the task's model calls it is.
            ask: Asks the model; what it raises gives the reservation back, but for the tokens of an answer that cannot
                be used, and where the worker itself is stopped: then the call may have been paid.

        Raises:
            OverBudget, RunError, Lost: As `reserve`.
        """
        request = await self.reserve(request, number)
        try:
            reply = await ask(request)
        except (RequestError, RunError, Unavailable) as error:
            used = error.used if isinstance(error, ModelError) else None
            if used is None:
                await self.release()
            else:
                # An answer that cannot be used is paid for all the same.
                await self.settle(Usage(input_tokens=used[0], output_tokens=used[1]))
            raise
        await self.settle(reply.usage)
        return reply

    async def reserve(self, request: ModelRequest, number: int) -> ModelRequest:
        """Set aside what a call may use, at most; the request to make then, whose answer is bounded to it.

        Args:
            number: Which of the task's model calls it is. A reservation of the same call by an earlier attempt is
                ended by this.

        Raises:
            OverBudget: Less is left than the call needs; the text says of what, and until when.
            RunError: The model has no price, and there is a limit of money.
            Lost: Another attempt has the task, or it has ended, or it is to stop.
        """
        if not self._accounts:
            return request
        self._check_priced(request.model)
        self._model = request.model
        read = estimated_input(request)
        wanted = request.max_tokens or _OUTPUT_TOKENS
        place = Key.reservation(self._task_id, number)
        stored: dict[Scope, Item] = {}
        day = day_of(now_ms())
        for _ in range(_TRIES):
            if (today := day_of(now_ms())) != day:
                day, stored = today, {}
            output = self._affordable(request.model, read, wanted, stored, day)
            held = self._reservation(request.model, read, output, day)
            writes: list[Write] = [
                self._fence,
                Put(key=place, item=held, when=Missing("sk")),
                *(account.commit(day, held["tokens"], held["cost"]) for account in self._accounts),
            ]
            try:
                await self._records.write(self._tenant, *writes)
            except ConditionFailed as error:
                if error.items[0] is not None:
                    raise self._lost(error.items[0]) from error
                if error.items[1] is not None:
                    await lapse(self._records, self._tenant, error.items[1])
                found = zip(self._accounts, error.items[2:], strict=True)
                stored |= {account.scope: item for account, item in found if item is not None}
                continue
            self._held = {**held, "sk": place.sort}
            return request.model_copy(update={"max_tokens": output})
        raise Unavailable("the table", "the day's usage changed at every try")

    def _check_priced(self, model: str) -> None:
        if any(account.cost is not None for account in self._accounts) and self._allowances.price(model) is None:
            raise RunError(
                f"The model {model} has no price here, and what may be spent in a day is limited: choose another"
                " model, or have the operator set its price (WORKER_SPACE_PRICES)."
            )

    def _affordable(self, model: str, read: int, wanted: int, stored: Mapping[Scope, Item], day: str) -> int:
        """As many output tokens as all limits leave room for, and not more than wanted."""
        output = wanted
        least = min(wanted, _LEAST_OUTPUT)
        read_cost = self._allowances.cost_micros(model, Usage(input_tokens=read))
        for account in self._accounts:
            item = stored.get(account.scope, {})
            tokens, cost = account.left(item)
            if tokens is not None:
                output = min(output, tokens - read)
                if output < least:
                    used = f"{used_of(item, 'tokens')} of {account.tokens} tokens"
                    raise over_budget(account, day, used, read + least, money=False)
            if cost is not None:
                payable = self._allowances.affordable_output(model, read, cost)
                output = output if payable is None else min(output, payable)
                if output < least or read_cost > cost:
                    needed = self._allowances.cost_micros(model, Usage(input_tokens=read, output_tokens=least))
                    used = f"{used_of(item, 'cost')} of {account.cost} millionths of the currency"
                    raise over_budget(account, day, used, needed, money=True)
        return output

    def _reservation(self, model: str, read: int, output: int, day: str) -> dict[str, Any]:
        cost = self._allowances.cost_micros
        return {
            "user_id": self._tenant.user_id,
            "project_id": self._tenant.project_id,
            "task_id": self._task_id,
            "attempt": self._attempt,
            "day": day,
            "accounts": [account.scope for account in self._accounts],
            "tokens": read + output,
            "cost": cost(model, Usage(input_tokens=read, output_tokens=output)),
            "input_tokens": read,
            "input_cost": cost(model, Usage(input_tokens=read)),
            "due_shard": due_shard(self._task_id),
            "due_at": now_ms() + self._hold_ms,
        }

    async def settle(self, usage: Usage) -> None:
        """Book what the call really used in place of what was reserved.

        An answer that is paid for is not lost for a table that does not answer: then the sweeper ends the reservation.
        """
        await self._end(usage.input_tokens + usage.output_tokens, self._allowances.cost_micros(self._model, usage))

    async def release(self) -> None:
        """Give the reservation back: the provider refused the call or did not answer it."""
        await self._end(0, 0)

    async def _end(self, tokens: int, cost: int) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        mine = Delete(key=Key(held["sk"]), when=Equals("attempt", held["attempt"]))
        for pause in _SETTLE_PAUSES:
            try:
                await self._records.write(self._tenant, mine, *ended(held, tokens=tokens, cost=cost))
                return
            except ConditionFailed:
                # Ended by the sweeper or by the next attempt, or the project was deleted.
                _log.info("a reservation of task %s was ended by somebody else", self._task_id)
                return
            except Unavailable as error:
                _log.warning("a reservation of task %s is not settled yet: %s", self._task_id, error)
                await asyncio.sleep(pause)
