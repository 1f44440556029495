"""Find what is overdue and set it going again: the one clock that no worker has to keep."""

import logging
import time
import traceback
from typing import Final

from worker_space.bus import AgentBus
from worker_space.clock import now_ms
from worker_space.ending import Outcome
from worker_space.errors import NotFound, Unavailable
from worker_space.jobs.settling import Settling
from worker_space.jobs.task_worker import attempts_spent
from worker_space.ledger import Ledger
from worker_space.lifecycle import Projects
from worker_space.ports import DueItems
from worker_space.records import Item
from worker_space.tasks import DUE_SHARDS, TaskState
from worker_space.tenancy import Key, TenantContext

__all__ = ["Sweeper"]

_PAGE: Final = 25
_log = logging.getLogger(__name__)


class Sweeper:
    """Sends again what nobody began, takes back what nobody finished, and settles what is owed.

    Reads one sparse index, never a whole table; every change is conditional on the item as read, so two sweeps at
    once, or a sweep beside a worker, do nothing twice.
    """

    def __init__(self, *, due: DueItems, bus: AgentBus, settling: Settling, ledger: Ledger, projects: Projects) -> None:
        self._projects = projects
        self._due = due
        self._bus = bus
        self._settling = settling
        self._ledger = ledger

    async def sweep(self, *, seconds: float) -> dict[str, int]:
        """Work on overdue tasks, the oldest first, for at most `seconds`.

        Returns:
            How many were sent again, failed, settled or left for the next sweep.
        """
        until = time.monotonic() + seconds
        counts = {"sent": 0, "failed": 0, "settled": 0, "left": 0}
        for shard in DUE_SHARDS:
            seen: set[tuple[TenantContext, str]] = set()
            while time.monotonic() < until:
                found = await self._due.due(shard, now_ms(), _PAGE + len(seen))
                # The index follows the table with a delay: an item just handled may still be listed.
                fresh = [(tenant, item) for tenant, item in found if (tenant, item["sk"]) not in seen]
                if not fresh:
                    break
                for tenant, item in fresh:
                    seen.add((tenant, item["sk"]))
                    counts[await self._handle(tenant, item)] += 1
        return counts

    async def _handle(self, tenant: TenantContext, item: Item) -> str:
        try:
            if item["sk"] == Key.space().sort:
                await self._projects.purge(tenant)
                return "settled"
            if TaskState(item["state"]).ended:
                await self._settling.settle(tenant, item)
                return "settled"
            if item["attempt"] >= self._ledger.max_attempts:
                outcome = Outcome(
                    state=TaskState.FAILED,
                    code="attempts_spent",
                    content=attempts_spent(item),
                )
                return "failed" if await self._bus.end_waiting(tenant, item, outcome) else "left"
            return "sent" if await self._bus.send_again(tenant, item) else "left"
        except (NotFound, Unavailable) as error:
            _log.warning("%s stays overdue: %s", item.get("id", "a deleted project"), error)
            return "left"
        except Exception as error:  # noqa: BLE001 - said and gone past, whatever it is
            # An item that cannot be read (of another release, say) must not keep the others waiting. The error's own
            # text may quote the item, so its place has to do.
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s cannot be seen to: %s\n%s", item["sk"], type(error).__name__, where)
            return "left"
