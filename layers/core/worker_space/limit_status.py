"""How much of each limit is used now."""

from collections.abc import Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker_space.agent_records import check_live
from worker_space.allowances import (
    PROJECT_LIMITS,
    USER_LIMITS,
    Allowances,
    Source,
    day_ends,
    day_of,
    minute_ends,
    minute_of,
)
from worker_space.clock import now_ms
from worker_space.ports import Records
from worker_space.records import Item
from worker_space.tally import AGENTS, SESSIONS
from worker_space.tenancy import Key, TenantContext

__all__ = ["LimitStatus", "limit_status"]

_ALWAYS_COUNTED: Final = frozenset({"agents", "sessions", "open_tasks", "tokens_per_day", "cost_per_day"})


class LimitStatus(BaseModel):
    """One limit; money in millionths of the deployment's currency, times in epoch milliseconds."""

    model_config = ConfigDict(frozen=True)

    name: str
    scope: Literal["project", "user"] = Field(description="`user`: over all projects of yours.")
    limit: int | None = Field(description="The most; null is without a limit.")
    used: int | None = Field(description="As of now; null where it is not counted without a limit.")
    reserved: int | None = Field(default=None, description="Set aside for model calls under way.")
    until: int | None = Field(default=None, description="When it is counted anew; null for what does not pass by time.")
    source: Source = Field(description="Who decides it: the deployment, its operator for this project, or yourself.")


async def limit_status(records: Records, allowances: Allowances, tenant: TenantContext) -> Sequence[LimitStatus]:
    """Every limit of a project, then every limit of its user.

    Raises:
        NotFound: There is no such project.
    """
    now = now_ms()
    day = day_of(now)
    space, today, files, user_today, user_minute = await records.get_many(
        tenant,
        [
            Key.space(),
            Key.usage(f"day{day}"),
            Key.usage("files"),
            Key.usage(f"day{day}", "user"),
            Key.usage("minute", "user"),
        ],
    )
    check_live(tenant, [] if space is None else [space])
    assert space is not None
    own, by_operator = space.get("limits", {}), space.get("operator_limits", {})
    limits = allowances.of_record(space)
    counts = {
        "agents": await AGENTS.count(records, tenant, space),
        "sessions": await SESSIONS.count(records, tenant, space),
        "open_tasks": max(0, int(space.get("open_tasks", 0))),
        # Without its day the sum is not believed any more (`limits.files_counted_anew`).
        "file_bytes": (files or {}).get("bytes") if "day" in (files or {}) else None,
    }
    shown = [
        _status(
            name,
            "project",
            getattr(limits, name),
            allowances.source(name, own, by_operator),
            _used(name, counts, space, today or {}, now),
            day,
            now,
        )
        for name in PROJECT_LIMITS
    ]
    mine: dict[str, int | None] = {"projects": None}
    if allowances.user.projects is not None:
        mine["projects"] = len((await records.query(tenant.user, Key.projects())).items)
    for name in USER_LIMITS:
        used = _used(name, mine, user_minute or {}, user_today or {}, now)
        shown.append(_status(name, "user", getattr(allowances.user, name), "deployment", used, day, now))
    return shown


def _used(
    name: str, counts: dict[str, int | None], minute: Item, today: Item, now: int
) -> tuple[int | None, int | None]:
    """What is used, and what is reserved."""
    if name in counts:
        return counts[name], None
    if name == "messages_per_minute":
        return (int(minute.get("minute_count", 0)) if minute.get("minute") == minute_of(now) else 0), None
    what = name.removesuffix("_per_day")
    spent = int(today.get(f"spent_{what}", 0))
    return spent, max(0, int(today.get(f"committed_{what}", 0)) - spent)


def _status(
    name: str,
    scope: Literal["project", "user"],
    limit: int | None,
    source: Source,
    used: tuple[int | None, int | None],
    day: str,
    now: int,
) -> LimitStatus:
    until = None
    if name == "messages_per_minute":
        until = minute_ends(minute_of(now))
    elif name.endswith("_per_day"):
        until = day_ends(day)
    # Without a limit only that is counted whose count is kept for its own sake.
    counted = limit is not None or (scope == "project" and name in _ALWAYS_COUNTED)
    spent, reserved = used if counted else (None, None)
    return LimitStatus(name=name, scope=scope, limit=limit, used=spent, reserved=reserved, until=until, source=source)
