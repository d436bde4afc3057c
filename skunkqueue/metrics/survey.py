"""What a store tells of each route: how much waits and for how long, what runs, what has ended, and who works on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from skunkqueue.envelope import Filter, Record, State, Want
from skunkqueue.ids import new_token
from skunkqueue.notes import decode_notes
from skunkqueue.persistence import Persister
from skunkqueue.routes import base_route, is_internal

ADDRESSED: Final = "@"
"""Stands for the addresses of all workers, where runs lie that were broadcast."""

FEW: Final = 1000
"""Up to so many queued runs of a route, those that are due later are counted by listing them."""

MOST_ROUTES: Final = 1000
"""Routes that are asked about one by one."""

_STORED: Final = frozenset(State) - {State.SCHEDULED}


@dataclass
class RouteState:
    """One route of a queue, with all its priorities.

    ``queued`` could run now; ``unknown`` of them could if there were a worker that can have their job: others put them
    back again and again; ``why`` says what was not found. ``scheduled`` are due later, or wait for their retry; None
    where the route has so many queued runs that telling these apart would load the store: then ``queued`` is all.
    ``oldest`` is for how many seconds the first of those that could run has waited; None where the store does not say.
    ``succeeded``, ``failed`` and ``cancelled`` are those still kept. ``busy`` of the ``workers`` execute something.
    """

    queue: str
    route: str
    queued: int = 0
    unknown: int = 0
    scheduled: int | None = 0
    oldest: float | None = 0.0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    workers: int = 0
    busy: int = 0
    sub_routes: list[str] = field(default_factory=list, repr=False)
    """Where its runs lie: the route itself, those of other priorities; of ADDRESSED the addresses."""
    why: str = field(default="", repr=False)

    def row(self) -> dict[str, Any]:
        """The same for programs."""
        hidden = ("sub_routes", "oldest", "why")
        named = {name: value for name, value in vars(self).items() if name not in hidden}
        return {**named, "oldest_seconds": None if self.oldest is None else round(self.oldest, 3)}


def survey(store: Persister, *, now: float, queue: str | None = None) -> list[RouteState]:
    """All routes that have runs or workers, of one queue or of all. ``now`` is the store's time.

    Costs a count, a list of the workers, and for each route with open runs a question or two. Raises StoreError.
    """
    found = _Found()
    for (of, lane, state), number in sorted(store.count().items()):
        if queue in (None, of):
            found.count(of, lane, state, number)
    for about in workers(store, now=now, queue=queue):
        found.worker(about)
    for route in found.open_routes()[:MOST_ROUTES]:
        _look(store, route, now)
    return [found.by_name[name] for name in sorted(found.by_name)]


def workers(store: Persister, *, now: float, queue: str | None = None) -> list[Mapping[str, Any]]:
    """The description of each worker that is alive, as far as it can be read."""
    read = (_read(about) for about in store.workers(now=now).values())
    return [about for about in read if about and queue in (None, about.get("queue"))]


def first_ripe(store: Persister, queue: str, routes: Sequence[str], *, now: float) -> float | None:
    """When the first open run of these sub-routes is ripe, in the order of claims: asks for work, but for none.

    Of a run that is running, it is the end of its lease. None: there is no open run, or the store does not say.
    """
    want = Want(queue, tuple(routes), "metrics", new_token(), 0)
    return store.exchange([], [want], now=now, until=now).next_ripe


class _Found:
    def __init__(self) -> None:
        self.by_name: dict[tuple[str, str], RouteState] = {}

    def route(self, queue: str, route: str) -> RouteState:
        name = ADDRESSED if route.startswith(ADDRESSED) else base_route(route)
        return self.by_name.setdefault((queue, name), RouteState(queue, name))

    def count(self, queue: str, lane: str, state: str, number: int) -> None:
        if state not in _STORED or is_internal(lane):
            return
        route = self.route(queue, lane)
        setattr(route, state, getattr(route, state) + number)
        if state in (State.QUEUED, State.RUNNING) and lane not in route.sub_routes:
            route.sub_routes.append(lane)

    def worker(self, about: Mapping[str, Any]) -> None:
        for name in about["routes"]:
            route = self.route(about["queue"], name)
            route.workers += 1
            route.busy += bool(about.get("running"))

    def open_routes(self) -> list[RouteState]:
        """Those with open runs, the fullest first."""
        return sorted((each for each in self.by_name.values() if each.sub_routes), key=lambda each: -each.queued)


def _look(store: Persister, route: RouteState, now: float) -> None:
    """Find out how long the first waits, and how many are due later."""
    ripe = first_ripe(store, route.queue, route.sub_routes[:MOST_ROUTES], now=now)
    is_listed = 0 < route.queued <= FEW and route.route != ADDRESSED
    route.oldest = None if ripe is None else max(0.0, now - ripe)
    later = put_off(store, route.queue, route.route, now=now) if is_listed else []
    if ripe is not None and ripe > now:
        route.queued, route.scheduled = 0, route.queued
    elif route.queued and not is_listed:
        route.scheduled = None
    elif is_listed:
        route.scheduled = len(later)
        route.queued = max(0, route.queued - route.scheduled)
    _count_unknown(route, [record for record in later if unknown_since(record) is not None], now)


def _count_unknown(route: RouteState, unknown: Sequence[Record], now: float) -> None:
    """These are put off for a moment each time that a worker meets them, and wait all the same."""
    if unknown:
        route.unknown, route.why = len(unknown), unknown[0].error or ""
        route.queued += len(unknown)
        route.scheduled = max(0, (route.scheduled or 0) - len(unknown))
        route.oldest = max(route.oldest or 0.0, *(now - (unknown_since(record) or now) for record in unknown))


def put_off(store: Persister, queue: str, route: str, *, now: float) -> list[Record]:
    """The runs of a route that are due later, or wait for their retry or a worker that can have them: no more than
    ``FEW``, briefly.
    """
    found = store.find_brief(Filter(queue, route, State.SCHEDULED), now=now, limit=FEW, values=0)
    return [record for record in found if not is_internal(record.envelope.route)]


def unknown_since(record: Record) -> float | None:
    """When a worker first met a run that could not have its job; None if none has."""
    return decode_notes(record.notes).unknown


def _read(about: str) -> dict[str, Any] | None:
    """What a worker says of itself; None where that cannot be read."""
    try:
        told = json.loads(about)
        is_sound = isinstance(told["queue"], str) and all(isinstance(name, str) for name in told["routes"])
    except (ValueError, LookupError, TypeError):
        return None
    return told if is_sound else None
