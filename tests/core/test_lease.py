"""A worker holds its message while it works, and stops before it loses it."""

import asyncio
import time

import pytest

from worker_space.errors import ClaimLost, Unavailable
from worker_space.jobs.lease import Heartbeat

pytestmark = pytest.mark.anyio


class Message:
    """Counts extensions; answers as told."""

    def __init__(self, *failures: Exception) -> None:
        self.extended: list[int] = []
        self.failures = list(failures)

    async def extend(self, seconds: int) -> None:
        self.extended.append(seconds)
        if len(self.extended) > 1 and self.failures:
            raise self.failures[0] if len(self.failures) == 1 else self.failures.pop(0)


async def _heartbeat(message: Message, *, visibility: int = 2, deadline: float = 60.0) -> Heartbeat:
    heartbeat = Heartbeat(message.extend, visibility_seconds=visibility, deadline=time.monotonic() + deadline)
    await heartbeat.begin()
    return heartbeat


async def test_work_longer_than_the_visibility_keeps_the_message_hidden() -> None:
    message = Message()
    heartbeat = await _heartbeat(message)

    async def work() -> str:
        await asyncio.sleep(2.2)
        return "done"

    assert await heartbeat.keep(work()) == "done"
    assert message.extended == [2, 2, 2, 2]


async def test_work_stops_when_the_message_is_somebody_elses() -> None:
    message = Message(ClaimLost("gone"))
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    began = time.monotonic()
    with pytest.raises(ClaimLost):
        await (await _heartbeat(message)).keep(work())
    assert stopped.is_set()
    assert time.monotonic() - began < 1.5


async def test_work_stops_before_its_time_is_over_when_the_queue_does_not_answer() -> None:
    message = Message(Unavailable("sqs", "down"))
    began = time.monotonic()
    with pytest.raises(ClaimLost):
        await (await _heartbeat(message)).keep(asyncio.sleep(30))
    assert time.monotonic() - began < 2.0


async def test_one_failed_heartbeat_is_made_good_by_the_next() -> None:
    message = Message(Unavailable("sqs", "down"), Unavailable("sqs", "down"))
    message.failures = [Unavailable("sqs", "down")]
    heartbeat = await _heartbeat(message)

    async def work() -> int:
        await asyncio.sleep(0.9)
        message.failures = []
        await asyncio.sleep(1.6)
        return 1

    assert await heartbeat.keep(work()) == 1


async def test_work_stops_before_the_invocation_ends() -> None:
    with pytest.raises(ClaimLost):
        await (await _heartbeat(Message(), deadline=1.0)).keep(asyncio.sleep(30))


async def test_an_error_of_the_work_is_the_callers() -> None:
    async def work() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await (await _heartbeat(Message())).keep(work())
