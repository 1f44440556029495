"""Tokens and money of model calls: reserved before each call, settled after, so that parallel workers never overspend.

A day's item holds what was spent and what is committed (spent, and reserved for calls under way). A call is made only
after its reservation was written under the condition that what is committed then stays within the limit:

```
 worker A   reserve 900 (committed 0 → 900) ✓ ── call ── settle 400 (committed → 400, spent → 400)
 worker B   reserve 900 ✗ (at most 1000) ── what is left is 100: refused, or a shorter answer is asked for
 sweeper                                      a reservation whose worker died is ended: its input stays as spent
```

A reservation is an item of its own, and whoever ends it deletes it in the transaction that changes the counts: of a
worker that settles late and a sweeper, one does. Where nothing but reservations is in the way, a call waits a little
for them to be settled.

Where no such limit is set, nothing is reserved: what was used is counted on the project's day by the transaction that
saves the answer, at no further call. So a limit that is set later knows what the day has used.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from worker_space.allowances import Allowances, day_of
from worker_space.clock import now_ms
from worker_space.errors import ClaimLost, ConditionFailed, Lost, ModelError, RequestError, RunError, Unavailable
from worker_space.model_calls import watched_call
from worker_space.models import AssistantTurn, ModelReply, ModelRequest, Usage
from worker_space.ports import Records
from worker_space.projects import Space
from worker_space.records import (
    Check,
    Condition,
    Delete,
    Equals,
    Exists,
    Item,
    Missing,
    Put,
    Write,
)
from worker_space.reservations import Account, Scope, ended, lapse
from worker_space.room import Room
from worker_space.tasks import due_shard
from worker_space.tenancy import Key, TenantContext

__all__ = ["Budget", "Spending", "estimated_input"]

_OUTPUT_TOKENS: Final = 4_096
"""Reserved for an answer whose agent sets no `max_tokens`, and asked for: no call may exceed its reservation."""
_FRAME_TOKENS: Final = 16
_TRIES: Final = 50
_OWED: Final = "usage"
_SETTLE_PAUSES: Final = (0.1, 0.5, 0.0)
_PATIENCE_SECONDS: Final = 20.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
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
        patience_seconds: So long a call waits for the reservations of others to be settled.
    """

    def __init__(
        self,
        records: Records,
        allowances: Allowances,
        *,
        hold_seconds: int,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._records = records
        self._allowances = allowances
        self._hold_ms = hold_seconds * 1000
        self._patience = patience_seconds

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
        project = Account(
            scope="tenant", whose="this project has", tokens=limits.tokens_per_day, cost=limits.cost_per_day
        )
        person = Account(scope="user", whose="you have", tokens=user.tokens_per_day, cost=user.cost_per_day)
        # A project's day is counted always; a user's, which all their projects would write, where it is limited.
        accounts = [project, *([person] if person.limited else [])]
        return Spending(
            records=self._records,
            allowances=self._allowances,
            tenant=tenant,
            accounts=accounts,
            task_id=task_id,
            attempt=attempt,
            hold_ms=self._hold_ms,
            patience=self._patience,
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
    """Reserves and settles the model calls of one attempt at a task; without a limit it counts what they used."""

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
        patience: float,
        fence: Check,
        lost: Callable[[Item], Lost],
    ) -> None:
        self._records = records
        self._allowances = allowances
        self._tenant = tenant
        self._accounts = accounts
        self._limited = any(account.limited for account in accounts)
        self._task_id = task_id
        self._attempt = attempt
        self._hold_ms = hold_ms
        self._patience = patience
        self._fence = fence
        self._lost = lost
        self._held: Item | None = None
        self._model = ""
        self._owed_tokens = 0
        self._owed_cost = 0

    async def call(
        self, request: ModelRequest, number: int, ask: Callable[[ModelRequest], Awaitable[ModelReply]]
    ) -> ModelReply:
        """Make a model call within the limits: reserve, ask, settle.

        Args:
            number: Which of the task's model calls it is.
            ask: Asks the model; what it raises gives the reservation back, but for the tokens of an answer that cannot
                be used, for the input of one that had begun or is not wanted any more, and where the worker itself is
                stopped: then the call may have been paid.

        Raises:
            OverBudget, RunError, Lost: As `reserve`.
        """
        request = await self.reserve(request, number)
        try:
            reply = await watched_call(
                request, ask, cost=lambda used: self._allowances.cost_micros(request.model, used)
            )
        except (RequestError, RunError, Unavailable, Lost) as error:
            if isinstance(error, ModelError) and error.used is not None:
                # An answer that cannot be used is paid for all the same.
                await self.settle(Usage(input_tokens=error.used[0], output_tokens=error.used[1]))
            elif isinstance(error, Lost) or (isinstance(error, Unavailable) and error.begun):
                # Nobody says how much of an answer came: its input counts, as where a worker dies.
                await self.settle(Usage(input_tokens=estimated_input(request)))
            else:
                await self.release()
            if isinstance(error, Unavailable | ClaimLost):
                await self._book_now()
            raise
        await self.settle(reply.usage)
        return reply

    async def reserve(self, request: ModelRequest, number: int) -> ModelRequest:
        """Set aside what a call may use, at most; the request to make then, whose answer is bounded to it.

        Where only reservations of others leave less than the call needs, it waits for them to be settled.

        Args:
            number: Which of the task's model calls it is. A reservation of the same call by an earlier attempt is
                ended by this.

        Raises:
            OverBudget: Less is left than the call needs; it says of what, and until when.
            RunError: The model has no price, and there is a limit of money.
            Lost: Another attempt has the task, or it has ended, or it is to stop.
        """
        self._model = request.model
        if not self._limited:
            return request
        self._check_priced(request.model)
        read = estimated_input(request)
        wanted = request.max_tokens or _OUTPUT_TOKENS
        room = Room(self._allowances, self._accounts, model=request.model, read=read, wanted=wanted)
        place = Key.reservation(self._task_id, number)
        stored: dict[Scope, Item] = {}
        day = day_of(now_ms())
        until, pause, tries = time.monotonic() + self._patience, _FIRST_PAUSE, _TRIES
        while tries:
            tries -= 1
            if (today := day_of(now_ms())) != day:
                day, stored = today, {}
            output = room.output(stored)
            if time.monotonic() < until and room.may_grow(stored):
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spread, not a secret
                # The next try is written as if there were room: if not, its failure tells what is there now, and
                # whether the task is still wanted.
                pause, stored, tries = min(2 * pause, _LONGEST_PAUSE), {}, _TRIES
                continue
            room.check(stored, day)
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
                    stored = {}
                    continue
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
        tokens, cost = usage.input_tokens + usage.output_tokens, self._allowances.cost_micros(self._model, usage)
        if not self._limited:
            self._owed_tokens += tokens
            self._owed_cost += cost
        await self._end(tokens, cost)

    # -- without a limit -------------------------------------------------------------------------
    def owed(self) -> Mapping[str, Write]:
        """The writes by label that count what was used without a reservation and is not counted yet.

        They belong into the transaction that saves what was paid for: then each call counts once.
        """
        if self._owed_tokens == self._owed_cost == 0:
            return {}
        # Where nothing is limited there is the project's account alone.
        day = day_of(now_ms())
        return {_OWED: self._accounts[0].book(day, self._owed_tokens, self._owed_cost)}

    def counted(self) -> None:
        """What `owed` said was written."""
        self._owed_tokens = self._owed_cost = 0

    async def _book_now(self) -> None:
        """Count what no answer is saved with: the attempt ends here, and the next one knows nothing of it."""
        if not (owed := self.owed()):
            return
        try:
            await self._records.write(self._tenant, Check(key=self._fence.key, when=Exists("sk")), *owed.values())
            self.counted()
        except (ConditionFailed, Unavailable) as error:
            _log.warning("what a call of task %s used is not counted: %s", self._task_id, error)

    # -- with one --------------------------------------------------------------------------------
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
