"""Metrics in the format of Prometheus: of a store, from its survey; of a pool, from what it has counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from skunkqueue.metrics.runs import BUCKETS, RunCounts
from skunkqueue.metrics.survey import RouteState

CONTENT_TYPE: Final[str] = CONTENT_TYPE_LATEST

ROUTE: Final = ("queue", "route")
GAUGES: Final[Sequence[tuple[str, str, Callable[[RouteState], float | None]]]] = (
    ("queued", "Runs that could start now, and wait.", lambda route: route.queued),
    ("scheduled", "Runs that are due later, or wait for their retry.", lambda route: route.scheduled),
    ("oldest_seconds", "How long the first run that could start has waited.", lambda route: route.oldest),
    ("running", "Runs that are being executed.", lambda route: route.running),
    ("workers", "Workers alive.", lambda route: route.workers),
    ("busy_workers", "Workers that execute something.", lambda route: route.busy),
)
"""Of each route: the name behind ``skunkqueue_``, what it is, and its value; None leaves the route out."""

ENDED: Final = ("succeeded", "failed", "cancelled")


class _Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def page(families: Iterable[Metric]) -> bytes:
    """The families as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(list(families)))
    return generate_latest(registry)


def of_store(routes: Sequence[RouteState] | None, took: float) -> Iterator[Metric]:
    """What a survey of a store found, and how many seconds it took; ``routes`` is None if the store did not answer."""
    yield GaugeMetricFamily("skunkqueue_store_up", "Whether the store answers.", value=routes is not None)
    if routes is None:
        return
    yield GaugeMetricFamily("skunkqueue_survey_seconds", "How long the store took to tell all this.", value=took)
    for name, what, value_of in GAUGES:
        family = GaugeMetricFamily(f"skunkqueue_{name}", what, labels=ROUTE)
        for route in routes:
            value = value_of(route)
            if value is not None:
                family.add_metric([route.queue, route.route], value)
        yield family
    ended = GaugeMetricFamily("skunkqueue_ended", "Ended runs that are still kept.", labels=(*ROUTE, "state"))
    for route in routes:
        for state in ENDED:
            ended.add_metric([route.queue, route.route, state], getattr(route, state))
    yield ended


def of_pool(queue: str, counts: RunCounts) -> Iterator[Metric]:
    """What a pool has counted since it started."""
    labels = (*ROUTE, "job")
    yield GaugeMetricFamily("skunkqueue_pool_ready", "Whether the pool can work.", value=not counts.why_not_ready())
    runs = CounterMetricFamily("skunkqueue_runs", "Attempts that ended, and how.", labels=(*labels, "outcome"))
    for (key, outcome), number in counts.outcomes().items():
        runs.add_metric([queue, *key, outcome], number)
    yield runs
    times = HistogramMetricFamily("skunkqueue_run_seconds", "How long attempts took.", labels=labels)
    for key, (numbers, total) in counts.times().items():
        times.add_metric([queue, *key], list(zip(_BOUNDS, accumulate(numbers), strict=True)), total)
    yield times
    deaths = CounterMetricFamily("skunkqueue_worker_deaths", "Workers that died.", labels=ROUTE)
    for route, number in counts.deaths().items():
        deaths.add_metric([queue, route], number)
    yield deaths


_BOUNDS: Final = [*map(repr, BUCKETS), "+Inf"]
