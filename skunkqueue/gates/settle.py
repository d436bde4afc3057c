"""Looks at all gates and schedules of a queue at once, for who executes runs itself and does not want to wait."""

from __future__ import annotations

from skunkqueue.envelope import Filter, State
from skunkqueue.gates.gate import GATES
from skunkqueue.persistence import Persister
from skunkqueue.schedules.definition import TICKS
from skunkqueue.schedules.keeper import Keeper

MOST = 10_000


def settle(store: Persister, queue: str, *, now: float, lease: float) -> bool:
    """Open or end the gates that may be, and make the ticks that have come; returns whether anything has changed."""
    routes = _routes(store, queue)
    if not routes:
        return False
    before = _gates(store, queue, routes, now)
    store.promote(before, now=now)
    kept = Keeper(store, queue, routes, f"{queue}-settle", lease).keep(now)
    return kept.made > 0 or len(_gates(store, queue, routes, now)) < len(before)


def _routes(store: Persister, queue: str) -> list[str]:
    """The routes of jobs whose schedules or gates are open."""
    found = {route for its, route, state in store.count() if its == queue and state in ("queued", "running")}
    ours = {route.removesuffix(kind) for route in found for kind in (TICKS, GATES) if route.endswith(kind)}
    return sorted(ours)


def _gates(store: Persister, queue: str, routes: list[str], now: float) -> list[str]:
    which = [Filter(queue, route + GATES, State.QUEUED) for route in routes]
    return [record.id for each in which for record in store.find(each, now=now, limit=MOST)]
