"""A project's open tasks, found without an index of their own: ids sort by age, and what is open is mostly new."""

from collections.abc import AsyncIterator

from worker_space.ports import Records
from worker_space.records import Item
from worker_space.tasks import TaskState, Ticket
from worker_space.tenancy import Key, TenantContext

__all__ = ["open_tasks"]

_PAGE = 200


async def open_tasks(records: Records, tenant: TenantContext, *, most: int | None = None) -> AsyncIterator[Item]:
    """The tasks that have not ended, the newest first: so nobody who waits is let in by the end of those before it.

    Tasks of plans come last: the end of the task that answers for a plan takes most of them along.

    Args:
        most: How many there are, if that is known: the search ends with the last of them. `None` reads all tasks.
    """
    after: str | None = None
    found = 0
    of_plans: list[Item] = []
    while most is None or found < most:
        page = await records.query(tenant, Key.tasks(), limit=_PAGE, after=after, descending=True)
        for item in page.items:
            if TaskState(item["state"]).ended:
                continue
            found += 1
            if Ticket.model_validate(item["ticket"]).plan is not None:
                of_plans.append(item)
            else:
                yield item
        if page.after is None:
            break
        after = page.after
    for item in of_plans:
        yield item
