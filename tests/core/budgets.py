"""A budget over a table of its own, and the calls that are booked in it: what tests of spending begin with."""

from typing import Any

from tests.memory_stack import settings
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.allowances import Allowances, day_of
from worker_space.clock import now_ms
from worker_space.errors import ClaimLost
from worker_space.models import ModelRequest, UserTurn
from worker_space.ports import Owner
from worker_space.records import Equals, Item, Put
from worker_space.tenancy import Key, TenantContext, UserContext
from worker_space.usage import Budget, Spending, estimated_input

TENANT = TenantContext("alice", "shop")
OTHER = TenantContext("alice", "garden")
PRICES = {"openai:small": {"input": 1_000_000, "output": 2_000_000}}


def request(*, text: str = "hello", model: str = "openai:small", max_tokens: int | None = None) -> ModelRequest:
    return ModelRequest(model=model, system_prompt="", turns=(UserTurn(content=text),), max_tokens=max_tokens)


INPUT = estimated_input(request())


class Book:
    """A budget over a table of its own, with a task that is being worked on."""

    def __init__(self, records: Any = None, *, patience: float = 0.0, **limits: object) -> None:
        self.records = MemoryRecords() if records is None else records
        allowances = Allowances(settings(prices=PRICES, **limits))
        self.budget = Budget(self.records, allowances, hold_seconds=60, patience_seconds=patience)

    async def working(self, task: str, *, attempt: int = 1, tenant: TenantContext = TENANT) -> Spending:
        """What an attempt at a task spends; the table says that it has the task."""
        await self.records.write(tenant, Put(key=Key.task(task), item={"attempt": attempt}))
        return self.spending(task, attempt=attempt, tenant=tenant)

    def spending(self, task: str, *, attempt: int = 1, tenant: TenantContext = TENANT) -> Spending:
        return self.budget.spending(
            tenant,
            space=None,
            task_id=task,
            attempt=attempt,
            fence=Equals("attempt", attempt),
            lost=lambda _: ClaimLost("another attempt has the task"),
        )

    async def day(self, owner: Owner = TENANT) -> Item:
        scope: Any = "user" if isinstance(owner, UserContext) else "tenant"
        item = await self.records.get(owner, Key.usage(f"day{day_of(now_ms())}", scope))
        return {name: value for name, value in (item or {}).items() if name.startswith(("committed", "spent"))}

    async def reservations(self) -> list[Item]:
        return list((await self.records.query(TENANT, Key.all_reservations())).items)


def tokens(committed: int, spent: int) -> dict[str, int]:
    return {"committed_tokens": committed, "spent_tokens": spent}


def only_tokens(item: Item) -> dict[str, int]:
    return {name: item.get(name, 0) for name in ("committed_tokens", "spent_tokens")}
