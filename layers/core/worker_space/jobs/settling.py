"""What follows from a task's end: the waiting are told, the next are sent, the agent remembers.

All of it may be done twice. It comes before the message is acknowledged, so whoever gets the message again does what a
worker that died has left; what cannot be done now is left to the sweeper.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from worker_space.bus import AgentBus
from worker_space.clock import now_ms
from worker_space.context import AgentContext
from worker_space.dispatch import Dispatch
from worker_space.errors import ConditionFailed, NotFound, Unavailable
from worker_space.ports import Records
from worker_space.records import Equals, Item, Update
from worker_space.tasks import Delivery, TaskState, due_shard
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["Settling"]

_LATER_MS: Final = 60_000
_log = logging.getLogger(__name__)


class Settling:
    """Does what a task's end still owes."""

    def __init__(
        self, *, records: Records, bus: AgentBus, dispatch: Dispatch, context: AgentContext, texts: Texts
    ) -> None:
        self._records = records
        self._bus = bus
        self._dispatch = dispatch
        self._context = context
        self._texts = texts

    async def follow_up(
        self, ended: Delivery, deliveries: Sequence[Delivery], *, question: str, answer: str | None
    ) -> None:
        """See to everything after the last transaction of a task, at once.

        Args:
            deliveries: Who is let in by this end.
            answer: Remembered with its question, if there is one.

        Raises:
            Unavailable: Something of it could not be done: the message must come again.
        """
        followed = await asyncio.gather(
            self._bus.announce(ended.tenant, ended.task),
            self._dispatch.send_all(deliveries),
            self._remember(ended, question, answer),
            return_exceptions=True,
        )
        # Only when all have come to their end: what is left running would go on in the next invocation.
        for error in followed:
            if error is not None:
                raise error

    async def _remember(self, ended: Delivery, question: str, answer: str | None) -> None:
        """Put a completed interaction into the agent's memory, now or, when that is down, later by the sweeper."""
        if answer is None:
            return
        try:
            await self._context.add_interaction(
                ended.tenant,
                ended.agent,
                task_id=ended.task,
                session_id=ended.session,
                question=question,
                answer=answer,
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
            when=Equals("state", TaskState.COMPLETED.value),
        )
        try:
            await self._records.write(ended.tenant, later)
        except ConditionFailed:
            _log.info("task %s is gone: nothing is remembered", ended.task)

    async def settle(self, tenant: TenantContext, item: Item) -> None:
        """Do again what follows from a task's end: an earlier worker may have died before it had done all of it.

        Raises:
            Unavailable: Something of it could not be done yet.
        """
        deliveries = [Delivery.model_validate(each) for each in item.get("next", [])]
        await asyncio.gather(self._bus.announce(tenant, item["id"]), self._dispatch.send_all(deliveries))
        if item["state"] == TaskState.COMPLETED.value:
            question, answer = await self._records.get_many(
                tenant,
                [
                    Key.message(item["session_id"], item["number"]),
                    Key.message(item["session_id"], item["number"] + 1),
                ],
            )
            if question is not None and answer is not None:
                try:
                    await self._context.add_interaction(
                        tenant,
                        item["agent_id"],
                        task_id=item["id"],
                        session_id=item["session_id"],
                        question=await self._texts.read(tenant, question),
                        answer=await self._texts.read(tenant, answer),
                    )
                except NotFound:
                    _log.info("the agent of task %s was deleted: nothing is remembered", item["id"])
        if "due_at" in item:
            settled = Update(
                key=Key.task(item["id"]), remove=["due_shard", "due_at"], when=Equals("due_at", item["due_at"])
            )
            try:
                await self._records.write(tenant, settled)
            except ConditionFailed:
                _log.info("task %s was settled by somebody else", item["id"])
