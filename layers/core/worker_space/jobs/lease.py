"""The right to work on a delivery, as long as its message stays hidden from other workers.

SQS's clock decides when a message is given to somebody else. A worker keeps its message hidden by a heartbeat; one
that cannot (the queue does not answer, the process was stalled) must have stopped *before* its time is over, so that
it never works beside its successor.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from worker_space.errors import ClaimLost, Unavailable

__all__ = ["Heartbeat"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Heartbeat:
    """Extends one message's visibility while work is going on.

    Args:
        extend: Hides the message for so many seconds from now.
        visibility_seconds: How long each extension lasts; it is renewed three times as often.
        deadline: When the invocation itself ends, on this process's monotonic clock.
    """

    def __init__(self, extend: Callable[[int], Awaitable[None]], *, visibility_seconds: int, deadline: float) -> None:
        self._extend = extend
        self._visibility = visibility_seconds
        self._deadline = deadline
        # Long enough to stop in: the margin of 10 s that a model call's deadline keeps, less for short test settings.
        self._margin = min(10.0, visibility_seconds / 4)
        self._hidden_until = 0.0

    async def begin(self) -> None:
        """Shorten the message's visibility, so that a killed worker's task is retried soon."""
        asked = time.monotonic()
        await self._extend(self._visibility)
        self._hidden_until = asked + self._visibility

    @property
    def has_time(self) -> bool:
        """Whether the invocation lasts long enough for work that begins now."""
        return self._deadline - 2 * self._margin > time.monotonic()

    async def keep(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, while the message is kept hidden.

        Raises:
            ClaimLost: The time was over, or the message has gone to somebody else; `work` was cancelled.
        """
        task = asyncio.ensure_future(work)
        beating = asyncio.ensure_future(self._beat())
        try:
            await asyncio.wait({task, beating}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise ClaimLost("the message could not be kept hidden any longer")
        finally:
            task.cancel()
            beating.cancel()
            # Not suppressed: a cancellation that reaches this very coroutine meanwhile is its caller's wish.
            await asyncio.gather(task, beating, return_exceptions=True)

    async def _beat(self) -> None:
        """Returns when work must stop."""
        while True:
            left = min(self._hidden_until, self._deadline) - self._margin - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(self._visibility / 3, left))
            asked = time.monotonic()
            if asked >= self._deadline - self._margin:
                return
            try:
                await self._extend(self._visibility)
                self._hidden_until = asked + self._visibility
            except ClaimLost:
                return
            except Unavailable as error:
                _log.warning("a heartbeat failed: %s", error)
