"""What a job server does by the clock: extends the leases of its workers' jobs, says that it is there, and purges."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim
from skunkqueue.errors import StoreError
from skunkqueue.gearman.server.jobs import ServerJob
from skunkqueue.gearman.server.service import Service
from skunkqueue.persistence import Persister

EVERY: Final = 2.0
"""Seconds between two beats."""
STEP: Final = 500
ROUNDS: Final = 40
"""Steps of purging for each beat at most."""


class Beat(NamedTuple):
    """What a beat found: which claims are still held, what was ordered, and whether other servers are there."""

    held: frozenset[str]
    orders: Sequence[str]
    is_alone: bool


class Upkeep:
    """Beats, for as long as ``tick`` is called."""

    def __init__(self, service: Service, addresses: Callable[[], Sequence[str]]) -> None:
        self._service = service
        self._addresses = addresses
        self._seen: list[str] = []
        self._at = 0.0
        self._is_beating = False

    def tick(self) -> float:
        """Beat if it is time; gives in how many seconds to call this again."""
        now = ticks()
        if now >= self._at and not self._is_beating:
            self._at = now + min(EVERY, self._service.calls.lease / 4)
            self._begin()
        return max(0.01, self._at - now)

    def _begin(self) -> None:
        service = self._service
        claims = {job.id: job.claim for job in service.jobs if job.claim is not None}
        about = json.dumps({"queue": service.queue.name, "routes": [], "gearman": list(self._addresses())})
        self._is_beating = True

        def beat(store: Persister, now: float) -> Beat:
            service.queue.clock.measure()
            return self._beat(store, list(claims.values()), about)

        service.calls.ask(beat, lambda found: self._end(claims, found))

    def _beat(self, store: Persister, claims: Sequence[Claim], about: str) -> Beat:
        """On the store's thread."""
        now = self._service.queue.clock.now()
        held = store.extend(claims, until=now + self._service.calls.lease) if claims else set()
        orders = store.beat(self._service.name, about, seen=self._seen, until=now + self._service.calls.lease)
        self._seen = [order.id for order in orders]
        for _ in range(ROUNDS):
            if store.purge(now=now, limit=STEP) < STEP:
                break
        others = [other for name, other in store.workers(now=now).items() if name != self._service.name]
        return Beat(frozenset(held), [order.text for order in orders], not any(map(self._is_sibling, others)))

    def _is_sibling(self, about: str) -> bool:
        try:
            told = json.loads(about)
            return "gearman" in told and told["queue"] == self._service.queue.name
        except (ValueError, KeyError, TypeError):
            return False

    def _end(self, claims: dict[str, Claim], found: Any) -> None:
        self._is_beating = False
        if isinstance(found, StoreError):
            return
        service = self._service
        service.is_alone = found.is_alone
        for order in found.orders:
            verb, _, id = order.partition(" ")
            if verb == "cancel":
                self.cancelled(id)
        for id in set(claims) - found.held:
            job = service.jobs.get(id)
            if job is not None and job.claim is claims[id]:  # else it has ended meanwhile, and was claimed anew
                self._take_away(job)

    def cancelled(self, id: str) -> None:
        """A job was cancelled elsewhere."""
        job = self._service.jobs.get(id)
        if job is not None and job.peer is not None:
            self._take_away(job)

    def _take_away(self, job: ServerJob) -> None:
        """Its worker cannot be told: what it says of it later is refused.

        Whoever awaits it is told when it ends, or now if it has ended.
        """
        job.release()
        self._service.jobs.forget(job)

    def leave(self) -> None:
        """Say that this server is gone."""
        name = self._service.name
        self._service.calls.ask(lambda store, now: store.beat(name, "{}", until=now), lambda answer: None)
