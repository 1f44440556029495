"""Counts of one invocation, printed as CloudWatch's embedded metric format when it ends, by Powertools.

Metrics cost by their number, not by how often they are written: each name with each set of dimensions is one. So the
dimensions are `service` and at most one of `outcome` and `provider`, whose values are small fixed sets.
(https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html)
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from worker_space.telemetry import Measure

__all__ = ["NAMESPACE", "Counts"]

NAMESPACE: Final = "WorkerSpace"
_VALUES: Final = 99
"""Most values of one metric in one line: at 100, the format's limit, Powertools prints on its own account."""


def _is_time(measure: Measure) -> bool:
    return measure.endswith("_ms")


class Counts:
    """What one invocation has counted.

    Args:
        service: Tells this deployment's metrics from another's in the account.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._by: dict[tuple[tuple[str, str], ...], dict[Measure, list[int]]] = defaultdict(dict)

    def add(self, measure: Measure, amount: int, **by: str) -> None:
        """Take note of `amount` more; of lengths of time each is kept, of all else the sum."""
        measured = self._by[tuple(sorted(by.items()))]
        if measure in measured and not _is_time(measure):
            measured[measure][0] += amount
        else:
            measured.setdefault(measure, []).append(amount)

    def print(self, request_id: str) -> None:
        """Print a line for each set of dimensions that anything was counted by, and forget it all.

        Args:
            request_id: The invocation's; it stands beside the values and is no dimension.
        """
        for by, measured in self._by.items():
            while measured:
                self._print_line(request_id, by, {name: values[:_VALUES] for name, values in measured.items()})
                measured = {name: values[_VALUES:] for name, values in measured.items() if len(values) > _VALUES}
        self._by.clear()

    def _print_line(
        self, request_id: str, by: tuple[tuple[str, str], ...], measured: Mapping[Measure, list[int]]
    ) -> None:
        metrics = EphemeralMetrics(namespace=NAMESPACE, service=self._service)
        for name, word in by:
            metrics.add_dimension(name=name, value=word)
        metrics.add_metadata(key="function_request_id", value=request_id)
        for measure, values in measured.items():
            unit = MetricUnit.Milliseconds if _is_time(measure) else MetricUnit.Count
            for value in values:
                metrics.add_metric(name=measure.value, unit=unit, value=value)
        metrics.flush_metrics()
