"""What the sweeper does with each kind of item that is due."""

from worker_space.approvals import Approvals
from worker_space.bus import AgentBus
from worker_space.ending import Outcome
from worker_space.hibernation import Hibernation
from worker_space.jobs.settling import Settling
from worker_space.jobs.task_worker import attempts_spent
from worker_space.ledger import Ledger
from worker_space.lifecycle import Projects
from worker_space.ports import Records
from worker_space.projects import SpaceState
from worker_space.records import Item
from worker_space.reset import Reset
from worker_space.tasks import TaskState, Ticket
from worker_space.tenancy import Key, TenantContext
from worker_space.usage import Budget

__all__ = ["OverdueReservations", "OverdueSpaces", "OverdueTasks"]


class OverdueTasks:
    """Tasks that nobody began or finished, that wait for a word nobody said, or whose end still owes something."""

    def __init__(
        self, *, records: Records, bus: AgentBus, settling: Settling, ledger: Ledger, approvals: Approvals
    ) -> None:
        self._records = records
        self._bus = bus
        self._settling = settling
        self._ledger = ledger
        self._approvals = approvals

    async def see_to(self, tenant: TenantContext, item: Item) -> str:
        """Settle, expire, fail or send again.

        Raises:
            NotFound: The project is gone.
            Unavailable: A dependency does not answer.
        """
        state = TaskState(item["state"])
        if state.ended:
            await self._settling.settle(tenant, item)
            return "settled"
        space = await self._records.get(tenant, Key.space())
        if space is None or space["state"] == SpaceState.DELETED.value:
            # It goes with its project.
            return "kept"
        if space["epoch"] > item["epoch"]:
            reset = Outcome(state=TaskState.CANCELED, content="Canceled: the worker space was reset.")
            return "canceled" if await self._bus.end_waiting(tenant, item, reset) else "left"
        if state is TaskState.INPUT_REQUIRED:
            return "expired" if await self._approvals.expire(tenant, item) else "kept"
        if item["attempt"] - Ticket.model_validate(item["ticket"]).base >= self._ledger.max_attempts:
            spent = Outcome(state=TaskState.FAILED, code="attempts_spent", content=attempts_spent(item))
            return "failed" if await self._bus.end_waiting(tenant, item, spent) else "left"
        return "sent" if await self._bus.send_again(tenant, item) else "left"


class OverdueSpaces:
    """Spaces that may be idle, and those whose hibernation, reset or deletion was left half done."""

    def __init__(self, *, records: Records, projects: Projects, hibernation: Hibernation, reset: Reset) -> None:
        self._records = records
        self._projects = projects
        self._hibernation = hibernation
        self._reset = reset

    async def see_to(self, tenant: TenantContext, _: Item) -> str:
        """Go on with what the space's own record says is to be done.

        Raises:
            Unavailable: A dependency does not answer: it stays due.
        """
        space = await self._records.get(tenant, Key.space()) or {}
        if space.get("state") == SpaceState.DELETED.value:
            await self._projects.purge(tenant)
            return "settled"
        if "resetting" in space:
            return await self._reset.see_to(tenant)
        return await self._hibernation.see_to(tenant)


class OverdueReservations:
    """Reservations of tokens and money whose worker died."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    async def see_to(self, tenant: TenantContext, item: Item) -> str:
        """Give back what was not used.

        Raises:
            Unavailable: The table does not answer.
        """
        return "expired" if await self._budget.expire(tenant, item) else "kept"
