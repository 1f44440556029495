"""What follows from a task's end: the waiting are told, the next are sent, the agent remembers.

All of it may be done twice. It comes before the message is acknowledged, so whoever gets the message again does what a
worker that died has left; what cannot be done now is left to the sweeper.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worker_space.bus import AgentBus
from worker_space.clock import now_ms
from worker_space.context import AgentContext
from worker_space.dispatch import Dispatch
from worker_space.errors import ConditionFailed, NotFound, Unavailable
from worker_space.planning import PlanBook
from worker_space.ports import Records
from worker_space.records import Equals, Item, OneOf, Update
from worker_space.tasks import ORCHESTRATOR, Delivery, TaskState, due_shard
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["Interaction", "Settling"]

_LATER_MS: Final = 60_000
# A canceled task is none of the agent's experience.
_REMEMBERED: Final = (TaskState.COMPLETED.value, TaskState.FAILED.value)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """What an agent remembers of a task.

    Attributes:
        success: False for a failed one, which is listed but never recalled.
        generation: Its context's, when the task began.
    """

    question: str
    answer: str
    success: bool
    generation: int


class Settling:
    """Does what a task's end still owes."""

    def __init__(
        self,
        *,
        records: Records,
        bus: AgentBus,
        dispatch: Dispatch,
        context: AgentContext,
        texts: Texts,
        plans: PlanBook,
    ) -> None:
        self._records = records
        self._bus = bus
        self._dispatch = dispatch
        self._context = context
        self._texts = texts
        self._plans = plans

    async def follow_up(self, ended: Delivery, deliveries: Sequence[Delivery], interaction: Interaction | None) -> None:
        """See to everything after the last transaction of a task, at once.

        Args:
            deliveries: Who is let in by this end.
            interaction: What the agent remembers of it, if anything.

        Raises:
            Unavailable: Something of it could not be done: the message must come again.
        """
        followed = await asyncio.gather(
            self._bus.announce(ended.tenant, ended.task),
            self._dispatch.send_all(deliveries),
            self._remember(ended, interaction),
            return_exceptions=True,
        )
        # Only when all have come to their end: what is left running would go on in the next invocation.
        for error in followed:
            if error is not None:
                raise error

    async def _remember(self, ended: Delivery, interaction: Interaction | None) -> None:
        """Put an interaction into the agent's memory, now or, when that is down, later by the sweeper."""
        if interaction is None:
            return
        try:
            await self._context.add_interaction(
                ended.tenant,
                ended.agent,
                task_id=ended.task,
                session_id=ended.session,
                question=interaction.question,
                answer=interaction.answer,
                success=interaction.success,
                generation=interaction.generation,
            )
        except NotFound:
            _log.info("task %s ended after its agent was deleted: nothing is remembered", ended.task)
        except Unavailable as error:
            _log.warning("the memory of task %s is left to the sweeper: %s", ended.task, error)
            await self._leave_to_the_sweeper(ended)

    async def _leave_to_the_sweeper(self, ended: Delivery) -> None:
        later = Update(
            key=Key.task(ended.task),
            set={"due_shard": due_shard(ended.task), "due_at": now_ms() + _LATER_MS},
            when=OneOf("state", _REMEMBERED),
        )
        try:
            await self._records.write(ended.tenant, later)
        except ConditionFailed:
            _log.info("task %s is gone: nothing is remembered", ended.task)

    async def hand_on(self, deliveries: Sequence[Delivery]) -> None:
        """Send those whom a claim's end has let in.

        Raises:
            Unavailable: The queue does not answer: the message must come again.
        """
        await self._dispatch.send_all(deliveries)

    async def send_following(self, tenant: TenantContext, item: Item) -> None:
        """Announce again that nobody works on a task now, and send again whom that let in.

        Raises:
            Unavailable: The queue does not answer.
        """
        deliveries = [Delivery.model_validate(each) for each in item.get("next", [])]
        await asyncio.gather(self._bus.announce(tenant, item["id"]), self._dispatch.send_all(deliveries))

    async def settle(self, tenant: TenantContext, item: Item) -> None:
        """Do again what follows from a task's end: an earlier worker may have died before it had done all of it.

        Raises:
            Unavailable: Something of it could not be done yet.
        """
        await asyncio.gather(self.send_following(tenant, item), self._bus.stop_plan_of(tenant, item))
        # Who only handed a request on remembers nothing of it; nor does who never began.
        began = "agent_version" in item and item["agent_id"] != ORCHESTRATOR
        if began and item["state"] in _REMEMBERED and "forgotten" not in item:
            await self._remember_again(tenant, item)
        if "due_at" in item:
            settled = Update(
                key=Key.task(item["id"]), remove=["due_shard", "due_at"], when=Equals("due_at", item["due_at"])
            )
            try:
                await self._records.write(tenant, settled)
            except ConditionFailed:
                _log.info("task %s was settled by somebody else", item["id"])

    async def _remember_again(self, tenant: TenantContext, item: Item) -> None:
        spoken = await self._spoken(tenant, item)
        if spoken is None:
            return
        question, answer = spoken
        try:
            await self._context.add_interaction(
                tenant,
                item["agent_id"],
                task_id=item["id"],
                session_id=item["session_id"],
                question=question,
                answer=answer,
                success=item["state"] == TaskState.COMPLETED.value,
                generation=int(item.get("context_generation", 1)),
            )
        except NotFound:
            _log.info("the agent of task %s was deleted: nothing is remembered", item["id"])

    async def _spoken(self, tenant: TenantContext, item: Item) -> tuple[str, str] | None:
        """What the agent was asked and answered; `None` when that has been deleted since."""
        if "plan_key" in item:
            stored = await self._plans.stored(tenant, item["plan_id"])
            tasks = () if stored is None else stored.plan.tasks
            asked = next((task.instructions for task in tasks if task.task_id == item["id"]), None)
            if asked is None:
                return None
            return asked, item["error"]["message"] if "error" in item else await self._texts.read(tenant, item)
        numbers = (item["number"], item["number"] + 1)
        question, answer = await self._records.get_many(
            tenant, [Key.message(item["session_id"], number) for number in numbers]
        )
        if question is None or answer is None:
            return None
        return await self._texts.read(tenant, question), await self._texts.read(tenant, answer)
