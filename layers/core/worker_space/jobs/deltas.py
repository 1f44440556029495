"""A model's text on its way to those who follow the session: collected, and told a few times a second.

A piece of text is a preview. What counts is the step or the answer that comes after it, so nothing is told of an answer
that is there before the first quarter of a second is over; what is left of a text that has begun to be told comes with
it.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from worker_space.errors import Unavailable
from worker_space.events import EventType, NewEvent
from worker_space.ledger import Claim, Ledger

__all__ = ["Deltas"]

T = TypeVar("T")
_EVERY_SECONDS: Final = 0.25
_SILENT_TURNS: Final = 8
_PIECE_CHARACTERS: Final = 4_000
# Within the 100 actions of the transaction that tells them, beside its others.
_MOST_CHARACTERS: Final = 20 * _PIECE_CHARACTERS
_log = logging.getLogger(__name__)


class Deltas:
    """The text of one model call as it is produced.

    Args:
        every_seconds: Between two events.
    """

    def __init__(self, ledger: Ledger, claim: Claim, *, every_seconds: float = _EVERY_SECONDS) -> None:
        self._ledger = ledger
        self._claim = claim
        self._every = every_seconds
        self._pieces: list[str] = []
        self._writing: asyncio.Future[None] | None = None

    def add(self, text: str) -> None:
        """Take a piece; it is told with others, soon."""
        self._pieces.append(text)

    async def during(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a model call, while its text is told.

        Raises:
            ClaimLost: Another attempt has the task; the call was cut off.
            TaskCanceled: The user canceled it; the call was cut off.
        """
        calling = asyncio.ensure_future(call)
        telling = asyncio.ensure_future(self._tell())
        try:
            await asyncio.wait({calling, telling}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                # It never returns: what it raises says why the call is not wanted any more.
                telling.result()
            reply = await calling
        finally:
            calling.cancel()
            telling.cancel()
            # The next step counts its event on from the last one told: none may be under way any more, and a write
            # that is cut off in its middle has an unknown outcome.
            unfinished = [calling, telling] if self._writing is None else [calling, telling, self._writing]
            await asyncio.gather(*unfinished, return_exceptions=True)
        if self._writing is not None:
            # Who has seen the beginning sees the end, too, in the transaction of the step or answer that it belongs to.
            self._claim.events.owed.extend(self._take())
        return reply

    def _take(self) -> list[NewEvent]:
        """What has come and is not told yet, in events of a size that tells all of it; the rest of much comes later."""
        text = "".join(self._pieces).encode(errors="replace").decode()
        text, rest = text[:_MOST_CHARACTERS], text[_MOST_CHARACTERS:]
        self._pieces = [rest] if rest else []
        ids = {"task_id": self._claim.delivery.task, "agent_id": self._claim.delivery.agent}
        return [
            NewEvent(
                type=EventType.STEP,
                data={"kind": "text", "text": text[at : at + _PIECE_CHARACTERS], "attempt": self._claim.attempt},
                **ids,
            )
            for at in range(0, len(text), _PIECE_CHARACTERS)
        ]

    async def _tell(self) -> None:
        silent = 0
        while True:
            await asyncio.sleep(self._every)
            if not self._pieces:
                silent += 1
                if silent % _SILENT_TURNS == 0:
                    await self._look()
                continue
            silent = 0
            try:
                self._writing = asyncio.ensure_future(self._ledger.tell(self._claim, self._take()))
                await asyncio.shield(self._writing)
            except Unavailable as error:
                _log.info("a piece of text is not told: %s", error)

    async def _look(self) -> None:
        """Nothing has come for a while: a call that nobody wants any more must not be waited for to its end."""
        try:
            await self._ledger.check(self._claim)
        except Unavailable as error:
            _log.info("whether the task is still wanted is not known: %s", error)
