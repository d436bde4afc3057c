"""The heartbeat of a pool, every third of a lease: extend its leases, report its workers, fetch orders, purge a bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Claim, Order
from skunkqueue.errors import StoreError
from skunkqueue.persistence import Source

CLEAN_AT_ONCE = 500
"""Most things that one step of purging does; exchanges go in between."""
CLEAN_EVERY = 30.0
"""Seconds between purges that found little to do."""


class Beaten(NamedTuple):
    """The result of a heartbeat: which of the claims asked about are still held, until when (ticks), and orders by
    worker; the first time also the source's warnings for the operator.

    ``until`` is None if the source could not be asked.
    """

    asked: Sequence[Claim]
    held: set[str]
    until: float | None
    orders: dict[str, list[Order]]
    warnings: Sequence[str]


class Heartbeat:
    """Sends heartbeats for the workers of a pool. ``beat`` runs on the exchanger's thread, ``collect`` on the engine's.

    ``run`` has a function called on the exchanger's thread, between exchanges.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        lease: float,
        about: Mapping[str, Callable[[], str]],
        run: Callable[[Callable[[], None]], None],
    ) -> None:
        self._source = source
        self._clock = clock
        self._lease = lease
        self._about = about
        self._run = run
        self._clean_at = 0.0
        self._seen: dict[str, list[str]] = {worker: [] for worker in about}
        self._lock = threading.Lock()
        self._beaten: list[Beaten] = []
        self._warned = False
        self.under_way = False

    def beat(self, claims: Sequence[Claim]) -> None:
        """Send one heartbeat. Raises StoreError if the source is away; what was done before counts all the same."""
        held: set[str] = set()
        until = None
        warnings: Sequence[str] = ()
        orders: dict[str, list[Order]] = {}
        try:
            began = ticks()
            self._clock.measure()
            held = self._source.extend(claims, until=self._clock.now() + self._lease) if claims else set()
            until = began + self._lease
            for worker, about in self._about.items():
                orders[worker] = self._new_orders(worker, about())
            if not self._warned:
                warnings = self._source.warnings()
                self._warned = True
            if began >= self._clean_at:
                self._clean_at = began + CLEAN_EVERY
                self._run(self._clean)
        finally:
            with self._lock:
                self._beaten.append(Beaten(claims, held, until, orders, warnings))
                self.under_way = False

    def _clean(self) -> None:
        """One bounded step; where there is more to do, another one follows after the next exchange."""
        if self._source.purge(now=self._clock.now(), limit=CLEAN_AT_ONCE) >= CLEAN_AT_ONCE:
            self._run(self._clean)

    def _new_orders(self, worker: str, about: str) -> list[Order]:
        seen = self._seen[worker]
        found = self._source.beat(worker, about, seen=seen, until=self._clock.now() + self._lease)
        self._seen[worker] = [order.id for order in found]
        return [order for order in found if order.id not in seen]

    def collect(self) -> list[Beaten]:
        with self._lock:
            beaten, self._beaten = self._beaten, []
            return beaten

    def stop(self) -> None:
        """Report that the workers are gone. If that fails, their heartbeats expire by themselves."""
        try:
            for worker, about in self._about.items():
                self._source.beat(worker, about(), seen=self._seen[worker], until=self._clock.now())
        except StoreError:
            pass
