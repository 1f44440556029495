"""The deadline and the circuit breaker round a dependency's calls."""

import asyncio

import pytest

from worker_space.adapters.breaker import Breaker
from worker_space.errors import NotFound, Unavailable

pytestmark = pytest.mark.anyio


class Dependency:
    """A dependency that can be broken, its breaker, and a clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls = 0
        self.error: Exception | None = None
        self.breaker = Breaker(
            "thing",
            lambda error: "broken" if isinstance(error, OSError) else None,
            timeout_seconds=0.05,
            pause_seconds=2.0,
            clock=lambda: self.now,
        )

    async def answer(self) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls

    async def hang(self) -> None:
        self.calls += 1
        await asyncio.sleep(60)


@pytest.fixture
def dependency() -> Dependency:
    return Dependency()


async def test_an_answer_comes_through(dependency: Dependency) -> None:
    assert await dependency.breaker(dependency.answer) == 1


async def test_a_failure_is_unavailability_and_the_next_call_is_not_made(dependency: Dependency) -> None:
    dependency.error = OSError("connection refused by 10.0.0.1")
    with pytest.raises(Unavailable, match="thing is unavailable: broken") as caught:
        await dependency.breaker(dependency.answer)
    assert caught.value.__cause__ is dependency.error
    dependency.now += 1.9
    with pytest.raises(Unavailable):
        await dependency.breaker(dependency.answer)
    assert dependency.calls == 1


async def test_no_answer_within_the_deadline_is_a_failure(dependency: Dependency) -> None:
    for _ in range(2):
        with pytest.raises(Unavailable):
            await dependency.breaker(dependency.hang)
    assert dependency.calls == 1


async def test_after_the_pause_one_call_is_tried_and_its_answer_closes_the_circuit(dependency: Dependency) -> None:
    dependency.error = OSError()
    with pytest.raises(Unavailable):
        await dependency.breaker(dependency.answer)
    dependency.error = None
    dependency.now += 2.0
    assert await dependency.breaker(dependency.answer) == 2
    assert await dependency.breaker(dependency.answer) == 3


async def test_a_failed_trial_opens_the_circuit_again(dependency: Dependency) -> None:
    dependency.error = OSError()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await dependency.breaker(dependency.answer)
        dependency.now += 2.0
    assert dependency.calls == 3
    dependency.now -= 0.1
    with pytest.raises(Unavailable):
        await dependency.breaker(dependency.answer)
    assert dependency.calls == 3


async def test_only_one_of_many_callers_pays_for_the_trial(dependency: Dependency) -> None:
    with pytest.raises(Unavailable):
        await dependency.breaker(dependency.hang)
    dependency.now += 2.0
    results = await asyncio.gather(*(dependency.breaker(dependency.hang) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert dependency.calls == 2


async def test_a_canceled_trial_leaves_the_next_call_its_trial(dependency: Dependency) -> None:
    dependency.error = OSError()
    with pytest.raises(Unavailable):
        await dependency.breaker(dependency.answer)
    dependency.now += 2.0
    trial = asyncio.ensure_future(dependency.breaker(dependency.hang))
    await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    dependency.error = None
    assert await dependency.breaker(dependency.answer) == 3


async def test_an_error_that_is_an_answer_keeps_the_circuit_closed(dependency: Dependency) -> None:
    dependency.error = NotFound("nothing there")
    for _ in range(3):
        with pytest.raises(NotFound):
            await dependency.breaker(dependency.answer)
    assert dependency.calls == 3


async def test_whoever_wants_to_know_how_it_is_now_really_asks_and_closes_the_circuit() -> None:
    asked: list[str] = []

    async def call() -> str:
        asked.append("x")
        if len(asked) == 1:
            raise ConnectionError
        return "up"

    breaker = Breaker("it", lambda error: type(error).__name__, timeout_seconds=1.0)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await breaker(call)
    assert len(asked) == 1
    assert await breaker(call, even_if_open=True) == "up"
    assert await breaker(call) == "up"
    assert len(asked) == 3
