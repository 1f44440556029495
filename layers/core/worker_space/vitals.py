"""How a worker space is: whether each of its components answers, and what has come of its work."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from worker_space.agent_records import check_live
from worker_space.clock import now_ms
from worker_space.errors import WorkerSpaceError
from worker_space.metrics import task_metrics
from worker_space.ports import Cache, ContextStore, Files, Queues, Records
from worker_space.projects import SpaceState
from worker_space.records import Item
from worker_space.runtimes import is_registered
from worker_space.tenancy import Key, TenantContext

__all__ = ["ComponentHealth", "SpaceHealth", "SpaceMetrics", "Vitals"]

_DEADLINE_SECONDS: Final = 2.0
# Without these nothing is right; without the others everything is slower, or agents remember nothing.
_NEEDED: Final = frozenset({"table", "queue", "files"})
_log = logging.getLogger(__name__)


class ComponentHealth(BaseModel):
    """Whether a component answered, and after how many milliseconds."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    ms: int


class SpaceHealth(BaseModel):
    """`degraded`: something that the space can do without does not answer.

    Attributes:
        is_healthy: Table, queue and files answer.
        components: `table`, `queue` (of this project; while it is dormant, the service), `redis`, `qdrant`, `files`.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "degraded", "unavailable"]
    is_healthy: bool
    components: Mapping[str, ComponentHealth]


class SpaceMetrics(BaseModel):
    """Numbers that are durable and true across environments.

    Attributes:
        active_agents: Agents that are registered on the bus and not disabled.
        cache_size: Fields in the project's hash; `None` when Redis does not answer.
        total_tasks_processed: Tasks that have ended, whatever came of them.
        tasks_by_state: Of those, and how many are `open` now.
        queue_depth: About how many messages wait in the queue or are in flight; `None` when SQS does not answer, or
            cannot tell because projects share queues.
        in_flight: How many tasks each agent works on now, by agent id; agents without any are left out.
        p50_ms: Half of the completed tasks took at most about so long from acceptance to answer, in milliseconds.
        p95_ms: Likewise for 95 of 100.
        cost_micros: In millionths of the deployment's currency; 0 where no prices are configured.
        uptime_seconds: Since the space became active; 0 while it is not.
    """

    model_config = ConfigDict(frozen=True)

    user_id: str
    project_id: str
    state: SpaceState
    active_agents: int
    cache_size: int | None
    total_tasks_processed: int
    tasks_by_state: Mapping[str, int]
    queue_depth: int | None
    in_flight: Mapping[str, int]
    p50_ms: int | None
    p95_ms: int | None
    input_tokens: int
    output_tokens: int
    cost_micros: int
    uptime_seconds: int
    is_healthy: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    health: ComponentHealth
    answer: Any = None


async def _ask(name: str, asking: Awaitable[Any]) -> _Asked:
    began = time.monotonic()
    answer: Any = None
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            answer = await asking
        ok = answer is not False
    except (WorkerSpaceError, TimeoutError) as error:
        _log.warning("%s of a worker space does not answer: %s", name, type(error).__name__)
        ok = False
    return _Asked(ComponentHealth(ok=ok, ms=round((time.monotonic() - began) * 1000)), answer)


class Vitals:
    """Asks every component of a project's worker space."""

    def __init__(self, *, records: Records, cache: Cache, queues: Queues, memory: ContextStore, files: Files) -> None:
        self._records = records
        self._cache = cache
        self._queues = queues
        self._memory = memory
        self._files = files

    async def look(self, tenant: TenantContext) -> tuple[SpaceHealth, SpaceMetrics]:
        """Ask all components at once, each for at most 2 s.

        Raises:
            NotFound: There is no such project.
            Unavailable: The table does not answer; without it nobody can say whose project this is.
        """
        began = time.monotonic()
        home, runtimes = await asyncio.gather(
            self._records.query(tenant, Key.home()), self._records.query(tenant, Key.runtimes())
        )
        check_live(tenant, home.items)
        table = ComponentHealth(ok=True, ms=round((time.monotonic() - began) * 1000))
        space = home.items[0]
        queue, redis, qdrant, files = await asyncio.gather(
            _ask("queue", self._queue(tenant, space)),
            _ask("redis", self._cache.load(tenant)),
            _ask("qdrant", self._memory.ping()),
            _ask("files", self._files.list(tenant, limit=1)),
        )
        components = {
            "table": table,
            "queue": queue.health,
            "redis": redis.health,
            "qdrant": qdrant.health,
            "files": files.health,
        }
        silent = {name for name, component in components.items() if not component.ok}
        healthy = not silent & _NEEDED
        health = SpaceHealth(
            status="ok" if not silent else "degraded" if healthy else "unavailable",
            is_healthy=healthy,
            components=components,
        )
        cache_size = None if redis.answer is None else len(redis.answer)
        depth = None if queue.answer is None else int(queue.answer)
        return health, _metrics(
            tenant, home.items, runtimes.items, cache_size=cache_size, queue_depth=depth, is_healthy=healthy
        )

    async def _queue(self, tenant: TenantContext, space: Item) -> int | Literal[False] | None:
        """How many messages are in the queue, `None` where nobody knows; False when an active space has none."""
        if space["state"] != SpaceState.ACTIVE.value:
            await self._queues.ping()
            return 0
        there, depth = await asyncio.gather(
            self._queues.exists(tenant, space["generation"]), self._queues.depth(tenant, space["generation"])
        )
        return depth if there else False


def _metrics(
    tenant: TenantContext,
    home: Sequence[Item],
    runtimes: Sequence[Item],
    *,
    cache_size: int | None,
    queue_depth: int | None,
    is_healthy: bool,
) -> SpaceMetrics:
    space, agents = home[0], {item["id"]: item for item in home[1:]}
    by_agent = {Key(item["sk"]).last: item for item in runtimes}
    tasks = task_metrics(runtimes)
    active = [
        agent_id
        for agent_id, item in agents.items()
        if item["config"].get("enabled", True) and is_registered(by_agent.get(agent_id, {"registered": False}))
    ]
    awake_since = space.get("active_since", 0) if space["state"] == SpaceState.ACTIVE.value else 0
    return SpaceMetrics(
        user_id=tenant.user_id,
        project_id=tenant.project_id,
        state=SpaceState(space["state"]),
        active_agents=len(active),
        cache_size=cache_size,
        total_tasks_processed=tasks.tasks_processed,
        tasks_by_state={
            "completed": tasks.completed,
            "failed": tasks.failed,
            "canceled": tasks.canceled,
            "open": max(0, space.get("open_tasks", 0)),
        },
        queue_depth=queue_depth,
        in_flight={agent_id: len(item["running"]) for agent_id, item in by_agent.items() if item.get("running")},
        p50_ms=tasks.p50_ms,
        p95_ms=tasks.p95_ms,
        input_tokens=tasks.input_tokens,
        output_tokens=tasks.output_tokens,
        cost_micros=tasks.cost_micros,
        uptime_seconds=(now_ms() - awake_since) // 1000 if awake_since else 0,
        is_healthy=is_healthy,
    )
