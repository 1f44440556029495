"""Counters that are durable and true across environments, and what is read from them.

An agent's runtime item holds them: the transaction that ends a task writes that item anyway, so each task counts once,
whoever ends it and however often it was tried. Durations are kept as a histogram, four buckets to each doubling, so
that percentiles (to about 10 %) need no list of all durations and can be added up over agents.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

__all__ = ["TaskMetrics", "counted", "counters", "task_metrics"]

_COUNT: Final = "count_"
_DURATION: Final = "ms_"
_INPUT: Final = "input_tokens"
_OUTPUT: Final = "output_tokens"
_COST: Final = "cost_micros"
_PER_DOUBLING: Final = 4
_BUCKETS: Final = 4 * 24
STATES: Final = ("completed", "failed", "canceled")


class TaskMetrics(BaseModel):
    """What came of ended tasks.

    Attributes:
        tasks_processed: All that ended, whatever came of them.
        p50_ms: Half of the completed tasks took at most about so long from acceptance to answer, in milliseconds;
            `None` before the first.
        p95_ms: Likewise for 95 of 100.
        cost_micros: In millionths of the deployment's currency; 0 where no prices are configured.
    """

    model_config = ConfigDict(frozen=True)

    tasks_processed: int
    completed: int
    failed: int
    canceled: int
    p50_ms: int | None = None
    p95_ms: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0


def counters(state: str, *, milliseconds: int | None, facts: Mapping[str, Any]) -> dict[str, int]:
    """What the end of a task adds to its agent's runtime item.

    Args:
        milliseconds: From acceptance to the answer; only completed tasks have a duration.
        facts: The task's own: tokens and cost.
    """
    added = {f"{_COUNT}{state}": 1}
    if milliseconds is not None:
        added[f"{_DURATION}{_bucket(milliseconds)}"] = 1
    for name in (_INPUT, _OUTPUT, _COST):
        if facts.get(name):
            added[name] = int(facts[name])
    return added


def counted(runtime: Mapping[str, Any]) -> dict[str, int]:
    """The counters of a runtime item, without what else is kept there."""
    return {
        name: int(value)
        for name, value in runtime.items()
        if name in {_INPUT, _OUTPUT, _COST} or name.startswith((_COUNT, _DURATION))
    }


def task_metrics(runtimes: Iterable[Mapping[str, Any]]) -> TaskMetrics:
    """The sum over these runtime items."""
    total: dict[str, int] = {}
    for runtime in runtimes:
        for name, value in counted(runtime).items():
            total[name] = total.get(name, 0) + value
    ended = {state: total.get(f"{_COUNT}{state}", 0) for state in STATES}
    durations = (name for name in total if name.startswith(_DURATION))
    histogram = {int(name.removeprefix(_DURATION)): total[name] for name in durations}
    return TaskMetrics(
        tasks_processed=sum(ended.values()),
        **ended,
        p50_ms=_percentile(histogram, 0.50),
        p95_ms=_percentile(histogram, 0.95),
        input_tokens=total.get(_INPUT, 0),
        output_tokens=total.get(_OUTPUT, 0),
        cost_micros=total.get(_COST, 0),
    )


def _bucket(milliseconds: int) -> int:
    return min(_BUCKETS, max(0, math.ceil(_PER_DOUBLING * math.log2(max(1, milliseconds)))))


def _percentile(histogram: Mapping[int, int], share: float) -> int | None:
    """The upper edge of the bucket that holds it."""
    wanted = share * sum(histogram.values())
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= wanted:
            return round(2 ** (bucket / _PER_DOUBLING))
    return None
