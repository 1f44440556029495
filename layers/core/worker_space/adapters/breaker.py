"""A deadline round each call, and a circuit breaker: a dead dependency costs its deadline once, not on every call."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from worker_space.errors import Unavailable

__all__ = ["Breaker"]

_T = TypeVar("_T")

PAUSE_SECONDS: Final = 2.0


class Breaker:
    """Runs the calls of one adapter instance, on one event loop. It knows no tenant.

    ```
    closed ── a call gets no usable answer ──▶ open: calls fail at once, for `pause_seconds`
      ▲                                          │ then the next call is tried, alone; the others still fail at once
      └── it gets an answer ◀── trial ◀──────────┘ it gets none: open again
    ```

    An answer that refuses the request keeps the circuit closed: it cost no waiting, and one tenant's bad request
    must not take the dependency away from the others.

    Args:
        dependency: Named in `Unavailable`.
        failure: Says in a few words, free of tenants' data, why an error of the vendor's client means that there
            was no usable answer; `None` for an error that is an answer.
        timeout_seconds: Deadline of one call, which may consist of several requests.
        pause_seconds: How long an open circuit stays open before the next trial.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        dependency: str,
        failure: Callable[[Exception], str | None],
        *,
        timeout_seconds: float,
        pause_seconds: float = PAUSE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dependency = dependency
        self._failure = failure
        self._timeout_seconds = timeout_seconds
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._open_until: float | None = None
        self._trying = False

    async def __call__(self, call: Callable[[], Awaitable[_T]], *, even_if_open: bool = False) -> _T:
        """The call's result; errors that are answers come through as they are.

        Args:
            even_if_open: Really ask, whatever happened a moment ago: for whoever wants to know how it is now.

        Raises:
            Unavailable: There was no usable answer within the deadline, or the circuit is open.
        """
        trial = self._open_until is not None
        wait = self._open_until is not None and (self._trying or self._clock() < self._open_until)
        if wait and not even_if_open:
            raise Unavailable(self._dependency, "it gave no answer a moment ago")
        self._trying = trial
        try:
            async with asyncio.timeout(self._timeout_seconds):
                result = await call()
        except TimeoutError as error:
            self._open_until = self._clock() + self._pause_seconds
            raise Unavailable(self._dependency, f"no answer within {self._timeout_seconds} s") from error
        except Exception as error:
            reason = self._failure(error)
            if reason is None:
                self._open_until = None
                raise
            self._open_until = self._clock() + self._pause_seconds
            raise Unavailable(self._dependency, reason) from error
        finally:
            if trial:
                self._trying = False
        self._open_until = None
        return result
