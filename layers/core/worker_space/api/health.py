"""`/health` and `/ready`: for load balancers and people; without a token, and without a word about anybody's data."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from worker_space.api.deps import ServicesOf

__all__ = ["router"]

router = APIRouter(tags=["health"])
_DEADLINE_SECONDS: Final = 2.0
# Without these nothing is right; without the others everything is slower, or agents remember nothing.
_NEEDED: Final = frozenset({"table", "queue", "files"})
_log = logging.getLogger(__name__)


class Health(BaseModel):
    """This process answers."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ok"] = "ok"


class DependencyState(BaseModel):
    """Whether a dependency answered, and after how many milliseconds."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    ms: int


class Readiness(BaseModel):
    """`degraded`: something that the service can do without does not answer."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "degraded", "unavailable"]
    dependencies: Mapping[str, DependencyState]


_DEPENDENCIES: Final = {"table": {"ok": True, "ms": 3}, "redis": {"ok": True, "ms": 1}}


@router.get(
    "/health",
    operation_id="health",
    summary="Ask whether the service runs",
    responses={200: {"description": "It runs.", "content": {"application/json": {"example": {"status": "ok"}}}}},
)
async def health() -> Health:
    """Asks no dependency."""
    return Health()


@router.get(
    "/ready",
    operation_id="ready",
    summary="Ask whether the service can work",
    responses={
        200: {
            "description": "It can, perhaps with limits (`degraded`).",
            "content": {"application/json": {"example": {"status": "ok", "dependencies": _DEPENDENCIES}}},
        },
        503: {"description": "The table, the queue or the files do not answer.", "model": Readiness},
    },
)
async def ready(services: ServicesOf, response: Response) -> Readiness:
    """Asks every dependency at once, for at most 2 s."""
    names = list(services.dependencies)
    states = await asyncio.gather(*(_ask(name, services.dependencies[name]) for name in names))
    found = dict(zip(names, states, strict=True))
    silent = {name for name, state in found.items() if not state.ok}
    if silent & _NEEDED:
        response.status_code = 503
        return Readiness(status="unavailable", dependencies=found)
    return Readiness(status="degraded" if silent else "ok", dependencies=found)


async def _ask(name: str, ping: Callable[[], Awaitable[None]]) -> DependencyState:
    began = time.monotonic()
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            await ping()
        ok = True
    except Exception as error:  # noqa: BLE001 - whatever it is, the dependency is not ready, and the log says so
        _log.warning("%s is not ready: %s", name, type(error).__name__)
        ok = False
    return DependencyState(ok=ok, ms=round((time.monotonic() - began) * 1000))
