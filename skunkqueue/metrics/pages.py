"""The pages that are served: those about a store and its routes, and those about one pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from skunkqueue.clock import Clock
from skunkqueue.errors import StoreAway
from skunkqueue.metrics.http import Answer, Page, Query
from skunkqueue.metrics.runs import RunCounts
from skunkqueue.metrics.survey import RouteState, survey
from skunkqueue.metrics.surveyor import FRESH, Surveyor, Told
from skunkqueue.printable import printable

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from skunkqueue.persistence import Persister

AWAY = HTTPStatus.SERVICE_UNAVAILABLE


async def healthz(query: Query) -> Answer:
    """That this process answers."""
    return Answer.text("ok")


class StorePages:
    """What a store tells of all its routes, or of those of one queue; asked at most every ``fresh`` seconds."""

    def __init__(self, store: Persister, queue: str | None = None, *, fresh: float = FRESH) -> None:
        self._store = store
        self._queue = queue
        self._clock = Clock(store.offset)
        self._surveyor: Surveyor[list[RouteState]] = Surveyor(self._survey, fresh=fresh)

    def pages(self) -> Mapping[str, Page]:
        return {
            "/metrics": self._metrics,
            "/routes.json": self._routes,
            "/readyz": self._readyz,
            "/healthz": healthz,
        }

    def _survey(self) -> list[RouteState]:
        if self._store.missing:
            raise StoreAway(self._store.missing)
        return survey(self._store, now=self._clock.now(), queue=self._queue)

    async def _metrics(self, query: Query) -> Answer:
        from skunkqueue.metrics import families

        told = await self._surveyor.latest()
        return _measured(families.of_store(told.value, told.took))

    async def _readyz(self, query: Query) -> Answer:
        told = await self._surveyor.latest()
        return Answer.text("ok") if told.error is None else _away(told)

    async def _routes(self, query: Query) -> Answer:
        """Of all routes, or of those that the query names. One that is named is there, though nothing is on it."""
        told = await self._surveyor.latest()
        if told.value is None:
            return _away(told)
        queue, route = query.get("queue"), query.get("route")
        rows = [each for each in told.value if queue in (None, each.queue) and route in (None, each.route)]
        if not rows and queue is not None and route is not None:
            rows = [RouteState(queue, route)]
        return Answer.json({"routes": [_row(each) for each in rows]})


def _row(route: RouteState) -> dict[str, Any]:
    """A route for autoscalers, with what is open in one number: what waits and what runs."""
    return {**route.row(), "open": route.queued + route.running}


def _away(told: Told[Any]) -> Answer:
    return Answer.text(printable(str(told.error)), AWAY)


def _measured(found: Iterable[Metric]) -> Answer:
    from skunkqueue.metrics import families

    return Answer(families.page(found), families.CONTENT_TYPE)


@dataclass
class PoolPages:
    """What a pool knows of its own runs. No page asks the store."""

    queue: str
    counts: RunCounts = field(default_factory=RunCounts)

    def pages(self) -> Mapping[str, Page]:
        return {"/metrics": self._metrics, "/readyz": self._readyz, "/healthz": healthz}

    async def _metrics(self, query: Query) -> Answer:
        from skunkqueue.metrics import families

        return _measured(families.of_pool(self.queue, self.counts))

    async def _readyz(self, query: Query) -> Answer:
        why_not = self.counts.why_not_ready()
        return Answer.text(why_not, AWAY) if why_not else Answer.text("ok")
