"""The cache on Upstash Redis, over its REST interface.

The SDK has no deadline of its own and repeats every command, so its retries are off, `Breaker` sets the deadline, and
only commands that may happen twice are sent: the answer to one that ran can be lost.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import httpx
from upstash_redis.asyncio import Redis
from upstash_redis.errors import UpstashError

from worker_space.adapters.breaker import Breaker
from worker_space.errors import Unavailable
from worker_space.tenancy import Names, TenantContext

__all__ = ["UpstashCache"]

_T = TypeVar("_T")

_DEPENDENCY: Final = "redis"

# The SDK does not check the shape of an answer: over what is no JSON, or not Upstash's, it stumbles.
_STUMBLES: Final = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
_NO_ANSWER: Final = (httpx.HTTPError, httpx.InvalidURL, *_STUMBLES)


def _failure(error: Exception) -> str | None:
    return type(error).__name__ if isinstance(error, _NO_ANSWER) else None


class UpstashCache:
    """`Cache` on `upstash_redis.asyncio`, for one event loop.

    Args:
        url: UPSTASH_REDIS_REST_URL.
        token: UPSTASH_REDIS_REST_TOKEN; it is not kept outside the SDK's client.
        names: Spells the keys.
        timeout_seconds: Deadline of each call. After a call without an answer further ones fail at once for 2 s.
        refused: Called when the server refuses a command: the SDK does not tell whether for its token.
        clock: Epoch seconds. Clocks of two machines may differ: a sign is seen a little longer or shorter.
    """

    def __init__(
        self,
        url: str,
        token: str,
        names: Names,
        *,
        timeout_seconds: float = 1.5,
        refused: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._redis = Redis(url=url.rstrip("/"), token=token, rest_retries=0, allow_telemetry=False)
        self._names = names
        self._refused = refused
        self._breaker = Breaker(_DEPENDENCY, _failure, timeout_seconds=timeout_seconds)

    async def load(self, tenant: TenantContext) -> Mapping[str, str]:
        """All fields of the tenant's hash, in one round trip; empty when there is none."""
        fields = await self._execute(dict, "HGETALL", self._names.cached_agents(tenant))
        return {str(field): str(value) for field, value in fields.items()}

    async def store(self, tenant: TenantContext, fields: Mapping[str, str], *, ttl_seconds: int) -> None:
        """Set these fields and the hash's time to live, in one transaction; nothing without fields."""
        if not fields:
            return
        key = self._names.cached_agents(tenant)
        pairs = (part for pair in fields.items() for part in pair)
        await self._transaction(["HSET", key, *pairs], ["EXPIRE", key, ttl_seconds])

    async def forget(self, tenant: TenantContext, field: str) -> None:
        """Drop one field."""
        await self._execute(int, "HDEL", self._names.cached_agents(tenant), field)

    async def clear(self, tenant: TenantContext) -> None:
        """Drop the tenant's two keys."""
        await self._execute(int, "DEL", self._names.cached_agents(tenant), self._names.ended_tasks(tenant))

    async def remains(self, tenant: TenantContext) -> int:
        """The fields of the tenant's hash and its signs, those included that have expired within their set."""
        fields, signs = self._names.cached_agents(tenant), self._names.ended_tasks(tenant)
        return sum(map(int, await self._transaction(["HLEN", fields], ["ZCARD", signs])))

    async def wake(self, tenant: TenantContext, task_id: str, *, ttl_seconds: int) -> None:
        """Leave the sign that a task has ended, in one transaction that takes away what has expired.

        One sorted set holds all signs of a tenant, scored by when they expire: `clear` need not look for keys.
        """
        key, now = self._names.ended_tasks(tenant), self._clock()
        await self._transaction(
            ["ZADD", key, now + ttl_seconds, task_id],
            ["ZREMRANGEBYSCORE", key, "-inf", now],
            ["EXPIRE", key, ttl_seconds],
        )

    async def woken(self, tenant: TenantContext, task_id: str) -> bool:
        """Whether that sign is there, in one command: whoever waits for an answer asks often."""
        (expires_at,) = await self._execute(list, "ZMSCORE", self._names.ended_tasks(tenant), task_id)
        return expires_at is not None and float(expires_at) > self._clock()

    async def ping(self) -> None:
        """Ask the server for a sign of life."""
        await self._execute(str, "PING", even_if_open=True)

    async def close(self) -> None:
        """Close the connections; the cache cannot be used any more."""
        await self._redis.close()

    async def _execute(self, expected: type[_T], *command: str | int, even_if_open: bool = False) -> _T:
        async def call() -> _T:
            answer: object = await self._redis.execute(list(command))
            if not isinstance(answer, expected):
                raise TypeError(f"{command[0]} was answered with {type(answer).__name__}")
            return answer

        try:
            return await self._breaker(call, even_if_open=even_if_open)
        except UpstashError as error:
            self._tell()
            # Its text quotes the command, and with it the tenant's key.
            raise Unavailable(_DEPENDENCY, f"it refuses {command[0]}") from error

    async def _transaction(self, *commands: list[str | int | float]) -> Sequence[Any]:
        transaction = self._redis.multi()
        for command in commands:
            transaction.execute(command)

        async def call() -> Sequence[Any]:
            answers: Sequence[Any] = await transaction.exec()
            if len(answers) != len(commands):  # the SDK pairs commands with answers, however few there are
                raise ValueError(f"{len(commands)} commands got {len(answers)} answers")
            return answers

        try:
            return await self._breaker(call)
        except UpstashError as error:
            self._tell()
            raise Unavailable(_DEPENDENCY, "it refuses the transaction") from error

    def _tell(self) -> None:
        if self._refused is not None:
            self._refused()
