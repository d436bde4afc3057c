"""The heartbeat of a pool, every third of a lease: extend its leases, report its workers, fetch orders, purge a bit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Claim, Order
from skunkqueue.persistence import Source
from skunkqueue.persistence.halves import WHOLE, by_halves

CLEAN_AT_ONCE = 500
"""Most things that one step of purging does; exchanges go in between."""
CLEAN_EVERY = 30.0
"""Seconds between purges that found little to do."""


class Beaten(NamedTuple):
    """The result of a heartbeat: which of the claims asked about are still held, until when (ticks), and orders by
    worker; the first time also the source's warnings for the operator.

    ``until`` is None if the source could not be asked; ``is_whole`` says whether all of it was done.
    """

    asked: Sequence[Claim]
    held: set[str]
    until: float | None
    orders: dict[str, list[Order]]
    warnings: Sequence[str]
    is_whole: bool = True


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
        self._troubles: list[str] = []  # to be told with the next beat
        self.under_way: bool = False

    def beat(self, claims: Sequence[Claim]) -> None:
        """Send one heartbeat. Raises StoreError if the source is away; what was done before counts all the same."""
        held: set[str] = set()
        until = None
        orders: dict[str, list[Order]] = {}
        is_whole = False
        try:
            began = ticks()
            self._clock.measure()
            held = self._extend(claims) if claims else set()
            until = began + self._lease
            for worker, about in self._about.items():
                orders[worker] = self._new_orders(worker, about())
            if not self._warned:
                self._troubles += self._source.warnings()
                self._warned = True
            if began >= self._clean_at:
                self._clean_at = began + CLEAN_EVERY
                self._run(self._clean)
            is_whole = True
        finally:
            with self._lock:
                self._beaten.append(Beaten(claims, held, until, orders, self._troubles, is_whole))
                self._troubles = []
                self.under_way = False

    def _extend(self, claims: Sequence[Claim]) -> set[str]:
        """Extend; a lease that cannot be extended by itself is given up, and with it nobody else's."""
        until = self._clock.now() + self._lease
        held, failed = by_halves(lambda some: self._source.extend(some, until=until), claims)
        self._troubles += [f"the lease of {claim.id} cannot be extended: {error}" for claim, error in failed]
        return set().union(*held)

    def _clean(self) -> None:
        """One bounded step; where there is more to do, another one follows after the next exchange."""
        try:
            if self._source.purge(now=self._clock.now(), limit=CLEAN_AT_ONCE) >= CLEAN_AT_ONCE:
                self._run(self._clean)
        except WHOLE:
            raise
        except Exception as error:
            self._troubles.append(f"the store cannot be cleaned: {error}")

    def _new_orders(self, worker: str, about: str) -> list[Order]:
        seen = self._seen[worker]
        try:
            found = self._source.beat(worker, about, seen=seen, until=self._clock.now() + self._lease)
        except WHOLE:
            raise
        except Exception as error:
            self._troubles.append(f"worker {worker} cannot say that it is there: {error}")
            return []
        self._seen[worker] = [order.id for order in found]
        return [order for order in found if order.id not in seen]

    def collect(self) -> list[Beaten]:
        with self._lock:
            beaten, self._beaten = self._beaten, []
            return beaten

    def stop(self) -> None:
        """Say that the workers are gone; if that cannot be said, their beats run out by themselves.

        Then clean once more: where this was the last pool, nobody else does.
        """
        with suppress(Exception):  # a fault of a driver must not spoil the end either
            for worker, about in self._about.items():
                self._source.beat(worker, about(), seen=self._seen[worker], until=self._clock.now())
            self._source.purge(now=self._clock.now(), limit=CLEAN_AT_ONCE)
