"""What SQS gave up on: the task is sent once more if nobody ever began it, else it fails; nothing vanishes."""

import logging

from worker_space.bus import AgentBus
from worker_space.clock import now_ms
from worker_space.ending import Outcome
from worker_space.errors import ClaimLost
from worker_space.jobs.settling import Settling
from worker_space.ports import Records
from worker_space.tasks import Delivery, TaskState
from worker_space.tenancy import Key

__all__ = ["DeadLetters"]

_log = logging.getLogger(__name__)


class DeadLetters:
    """Decides about deliveries that came to the dead-letter queue."""

    def __init__(self, *, records: Records, bus: AgentBus, settling: Settling) -> None:
        self._records = records
        self._bus = bus
        self._settling = settling

    async def handle(self, delivery: Delivery) -> None:
        """See to the task of a dead delivery.

        Raises:
            ClaimLost: The task is changing right now: look at it again.
            Unavailable: A dependency does not answer: the letter stays.
        """
        tenant = delivery.tenant
        item = await self._records.get(tenant, Key.task(delivery.task))
        if item is None or item["epoch"] != delivery.epoch:
            _log.info("a dead letter's task %s is gone", delivery.task)
        elif TaskState(item["state"]).ended:
            await self._settling.settle(tenant, item)
        elif item["dispatch"] != delivery.dispatch:
            _log.info("a dead letter's task %s was dispatched anew since", delivery.task)
        elif item["state"] in {TaskState.INPUT_REQUIRED.value, TaskState.DELEGATED.value}:
            # It needs no worker now; those that its pause let in may not have been sent.
            await self._settling.send_following(tenant, item)
        elif item["attempt"] == 0 and "given_up_at" not in item:
            # Its dispatches say nothing: it may have been parked, or sent by the sweeper, without anybody beginning it.
            if not await self._bus.send_again(tenant, item, changes={"given_up_at": now_ms()}):
                raise ClaimLost("the task has changed since it was looked at")
        else:
            outcome = Outcome(
                state=TaskState.FAILED,
                code="dead_letter",
                content="The task could not be run: the queue gave up after its last delivery.",
            )
            if not await self._bus.end_waiting(tenant, item, outcome):
                raise ClaimLost("the task has changed since it was looked at")
