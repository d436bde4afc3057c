"""Memory: the contract implemented with dictionaries, written to be read. Every other store must behave like it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Envelope, Exchange, Filter, Order, Outcome, Record, State, Want, old_place
from skunkqueue.persistence import (
    EXPIRED,
    REMEMBERED,
    WORKER_GONE,
    Key,
    Persister,
    RunKey,
    WorkerKey,
    WorkKey,
    kept_at_least,
)
from skunkqueue.persistence.records import Records
from skunkqueue.persistence.steps import Steps, is_of_wrong_clock, measured, moved
from skunkqueue.persistence.url import StoreConfig, url_path
from skunkqueue.routes import base_route

default_cfg: StoreConfig = {"backend": "memory", "conn_url": "", "dbname": ""}


class MemoryPersister(Persister):
    """Runs in this process, for tests and notebooks. Gone when the process ends."""

    def __init__(self, name: str = "") -> None:
        self.url: str = f"memory://{name}"
        self._records = Records()
        self._orders: dict[str, list[Order]] = {}
        self._beats: dict[str, tuple[str, float]] = {}
        self._told = 0
        self._changed = threading.Condition()
        self._changes: Counter[Key] = Counter()  # of work and worker keys
        self._waits: list[_Wait] = []
        self._seen = threading.local()
        self._steps = Steps()

    # the path of a job

    def put(self, envelopes: Sequence[Envelope], *, via: Any = None) -> list[str]:
        self.refuse_via(via)
        with self._changed:
            ids = [self._put(envelope) for envelope in envelopes]
            self._happened({WorkKey(e.queue, base_route(e.route)) for e in envelopes})
        return ids

    def _put(self, envelope: Envelope) -> str:
        if envelope.id in self._records:
            return envelope.id
        taken = self._open_with(envelope)
        if taken is not None:
            return taken.id
        self._records[envelope.id] = Record(envelope, State.QUEUED, envelope.due)
        return envelope.id

    def _open_with(self, envelope: Envelope) -> Record | None:
        """The open run that has the unique key of this one, if it is another."""
        if envelope.unique is None:
            return None
        found = self._records.open_with(envelope.queue, envelope.route, envelope.unique)
        return None if found is None or found.id == envelope.id else found

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        with self._changed:
            late = self._steps.late(now)
            return [claim for want in wants for claim in self._claim(want, now + late, until + late)]

    def _claim(self, want: Want, now: float, until: float) -> Iterator[Claim]:
        left = want.limit
        for record in self._held_by(want)[:left]:
            left -= 1
            # Leased again, so that a run whose lease ended meanwhile is not claimed a second time below.
            yield self._hold(record._replace(ripe=max(record.ripe, until)))
        for route in want.routes:
            given: set[str] = set()  # they are ripe again at once where the lease is that short
            while left and (ripe := self._others_ripe(want.queue, route, now, left, given)):
                for one in ripe:
                    given.add(one.id)
                    if _is_expired(one, now):
                        self._end(one._replace(token=None), State.CANCELLED, now, error=EXPIRED)
                    else:
                        left -= 1
                        yield self._lease(one, want, until)

    def _held_by(self, want: Want) -> list[Record]:
        if not want.repeated:
            return []
        held = (r for r in self._records.values() if r.state == State.RUNNING and r.token == want.token)
        return sorted(held, key=lambda record: record.id)

    def _others_ripe(self, queue: str, route: str, now: float, limit: int, given: set[str]) -> list[Record]:
        return [r for r in self._ripe(queue, route, now, limit + len(given)) if r.id not in given][:limit]

    def _ripe(self, queue: str, route: str, now: float, limit: int) -> list[Record]:
        return self._records.ripe(queue, route, now, limit)

    def _lease(self, record: Record, want: Want, until: float) -> Claim:
        lapses = record.lapses + (record.state == State.RUNNING)
        return self._hold(
            record._replace(state=State.RUNNING, ripe=until, token=want.token, worker=want.worker, lapses=lapses)
        )

    def _hold(self, record: Record) -> Claim:
        self._records[record.id] = record
        return _claim_of(record)

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        with self._changed:
            held = {claim.id: record for claim in claims if (record := self._running(claim)) is not None}
            for record in held.values():
                self._records[record.id] = record._replace(ripe=max(record.ripe, until))
            return set(held)

    def _running(self, claim: Claim) -> Record | None:
        record = self._records.get(claim.id)
        mine = record is not None and record.token == claim.token and record.state == State.RUNNING
        return record if mine else None

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]], *, now: float) -> set[str]:
        with self._changed:
            late = self._steps.late(now)
            return {claim.id for claim, outcome in outcomes if self._commit(claim, _delayed(outcome, late), now + late)}

    def _commit(self, claim: Claim, outcome: Outcome, now: float) -> bool:
        record = self._records.get(claim.id)
        if record is None or record.token != claim.token:
            return False
        if record.state == State.RUNNING:  # else a repeated commit: counts as taken, changes nothing
            if outcome.notes is not None:
                record = record._replace(notes=outcome.notes)
            _WRITE[outcome.kind](self, record, outcome, now)
        return True

    def _complete(self, record: Record, outcome: Outcome, now: float) -> None:
        self._end(record, State.SUCCEEDED, now, value=outcome.value, keep=outcome.keep)

    def _failed(self, record: Record, outcome: Outcome, now: float) -> None:
        self._end(record, State.FAILED, now, value=outcome.value, error=outcome.error, keep=outcome.keep)

    def _again(self, record: Record, outcome: Outcome, now: float) -> None:
        due = old_place(record.envelope.due, now) if outcome.due is None else outcome.due
        self._queue(record._replace(error=outcome.error), due)

    def _untouched(self, record: Record, outcome: Outcome, now: float) -> None:
        self._queue(record, old_place(record.envelope.due, now))

    def _started(self, record: Record, outcome: Outcome, now: float) -> None:
        self._records[record.id] = record

    def _progress(self, record: Record, outcome: Outcome, now: float) -> None:
        self._records[record.id] = record._replace(progress=outcome.progress, note=outcome.note)

    def _queue(self, record: Record, ripe: float) -> None:
        """Back into the queue. The token stays, so that a repeated commit is recognized; the worker is cleared."""
        self._records[record.id] = record._replace(state=State.QUEUED, ripe=ripe, worker=None)
        self._happened([WorkKey(record.envelope.queue, base_route(record.envelope.route))])

    def _end(
        self,
        record: Record,
        state: State,
        now: float,
        value: bytes | None = None,
        error: str | None = None,
        keep: float | None = None,
    ) -> Record:
        kept = now + max(record.envelope.keep if keep is None else keep, REMEMBERED)
        ended = record._replace(state=state, ripe=kept, value=value, error=error, ended=now)
        self._records[record.id] = ended
        self._happened([RunKey(record.id)])
        return ended

    def exchange(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> Exchange:
        with self._changed:
            taken = self.commit(outcomes, now=now)
            claims = self.claim(wants, now=now, until=until)
            routes = {(want.queue, route) for want in wants for route in want.routes}
            return Exchange(taken, claims, self._records.next_ripe(routes))

    # the desk

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        with self._changed:
            found = [self._records[i] for i in sorted(set(ids)) if i in self._records]
            return [self._end(record._replace(token=None), State.CANCELLED, now) for record in found if record.open]

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        with self._changed:
            return {i for i in sorted(set(ids)) if i in self._records and self._reopen(self._records[i], now)}

    def _reopen(self, record: Record, now: float) -> bool:
        ended_badly = record.state in (State.FAILED, State.CANCELLED)
        if not ended_badly or _is_expired(record, now) or self._open_with(record.envelope) is not None:
            return False
        self._records[record.id] = Record(record.envelope, State.QUEUED, now)
        self._happened([WorkKey(record.envelope.queue, base_route(record.envelope.route))])
        return True

    def promote(self, ids: Iterable[str], *, now: float) -> set[str]:
        with self._changed:
            return {i for i in sorted(set(ids)) if i in self._records and self._promote(self._records[i], now)}

    def _promote(self, record: Record, now: float) -> bool:
        is_later = record.state == State.QUEUED and record.ripe > now
        if is_later:
            self._records[record.id] = record._replace(ripe=now)
            self._happened([WorkKey(record.envelope.queue, base_route(record.envelope.route))])
        return is_later

    def discard(self, ids: Iterable[str], *, now: float) -> set[str]:
        with self._changed:
            ended = [r for i in set(ids) if (r := self._records.get(i)) is not None and not r.open]
            for record in ended:
                self._records[record.id] = record._replace(ripe=min(record.ripe, kept_at_least(record.ended, now)))
            return {record.id for record in ended}

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        with self._changed:
            return {i: self._records[i] for i in ids if i in self._records}

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        with self._changed:
            found = (r for r in self._records.values() if which.fits(r, now) and (after is None or r.id < after))
            return sorted(found, key=lambda record: record.id, reverse=True)[:limit]

    def count(self) -> dict[tuple[str, str, str], int]:
        with self._changed:
            return dict(self._records.counts)

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        with self._changed:
            self._beats[worker] = (about, until)
            left = [order for order in self._orders.get(worker, []) if order.id not in seen]
            self._orders[worker] = left
            return list(left)

    def tell(self, worker: str, order: str) -> None:
        with self._changed:
            self._told += 1
            self._orders.setdefault(worker, []).append(Order(f"{self._told:016d}", order))
            self._happened([WorkerKey(worker)])

    def workers(self, *, now: float) -> dict[str, str]:
        with self._changed:
            return {worker: about for worker, (about, until) in self._beats.items() if until > now}

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        with self._changed:
            done = 0
            for clean in (self._purge_kept, self._purge_expired, self._purge_workers, self._purge_addressed):
                done += clean(now, limit - done)
            return done

    def _purge_kept(self, now: float, limit: int) -> int:
        over = self._records.over(now, limit)
        for record in over:
            del self._records[record.id]
        return len(over)

    def _purge_expired(self, now: float, limit: int) -> int:
        over = [r for r in self._records.expired(now) if _is_unleased(r, now)]
        for record in over[:limit]:
            self._end(record._replace(token=None), State.CANCELLED, now, error=EXPIRED)
        return min(len(over), limit)

    def _purge_workers(self, now: float, limit: int) -> int:
        gone = sorted(worker for worker, (_, until) in self._beats.items() if until <= now)[:limit]
        for worker in gone:
            del self._beats[worker]
            self._orders.pop(worker, None)
        # Orders for a worker that never sent a heartbeat would stay for ever.
        for worker in [w for w in self._orders if w not in self._beats]:
            del self._orders[worker]
        return len(gone)

    def _purge_addressed(self, now: float, limit: int) -> int:
        alive = self.workers(now=now)
        lost = [r for r in self._records.addressed() if _is_unleased(r, now) and _addressee(r) not in alive]
        for record in sorted(lost, key=lambda r: r.id)[:limit]:
            self._end(record._replace(token=None), State.CANCELLED, now, error=WORKER_GONE)
        return min(len(lost), limit)

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        end = time.monotonic() + timeout
        wait = _Wait(frozenset(keys))
        with self._changed:
            self._waits.append(wait)
            try:
                while not (self._news(keys) or wait.roused) and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
            finally:
                self._waits.remove(wait)

    def rouse(self, keys: Sequence[Key]) -> bool:
        with self._changed:
            for wait in self._waits:
                wait.roused = wait.roused or not wait.keys.isdisjoint(keys)
            self._changed.notify_all()
        return True

    def _news(self, keys: Sequence[Key]) -> bool:
        """Whether anything happened to a key since this thread last waited for it, so that no event is missed."""
        seen: dict[Key, int] = self._seen.__dict__.setdefault("changes", {})
        ended = any(isinstance(key, RunKey) and not self._is_open(key.id) for key in keys)
        news = ended or any(self._changes[key] != seen.get(key, 0) for key in keys)
        seen.update({key: self._changes[key] for key in keys if not isinstance(key, RunKey)})
        return news

    def _is_open(self, id: str) -> bool:
        return id in self._records and self._records[id].open

    def _happened(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key.kind != "run":
                self._changes[key] += 1
        self._changed.notify_all()

    def offset(self) -> float | None:
        """The clock of this process: it follows the wall clock, and leases last as long as before."""
        with self._changed:
            before, since = self._steps.base, self._steps.since
            if before is None or self._steps.is_behind():
                base = measured()
                self._steps.take(base)
                if before is not None:
                    self._follow(base - before, base + ticks(), before + since)
            return (self._steps.base or 0.0) + ticks() - time.time()

    def _follow(self, step: float, now: float, since: float) -> None:
        self._records = Records([_moved(record, step, now, since) for record in self._records.values()])
        self._beats = {worker: (about, until + step) for worker, (about, until) in self._beats.items()}
        self._happened({WorkKey(r.envelope.queue, base_route(r.envelope.route)) for r in self._records.values()})

    def clear(self) -> None:
        """Forget everything, as a new store would know nothing: for the time between two tests."""
        with self._changed:
            self._records = Records()
            self._orders.clear()
            self._beats.clear()
            self._changed.notify_all()


class _Wait:
    """A wait that is under way."""

    def __init__(self, keys: frozenset[Key]) -> None:
        self.keys = keys
        self.roused = False


_WRITE = {
    "complete": MemoryPersister._complete,
    "failed": MemoryPersister._failed,
    "again": MemoryPersister._again,
    "untouched": MemoryPersister._untouched,
    "started": MemoryPersister._started,
    "progress": MemoryPersister._progress,
}


def _claim_of(record: Record) -> Claim:
    return Claim(record.envelope, record.token or "", record.worker or "", record.ripe, record.lapses, record.notes)


def _delayed(outcome: Outcome, late: float) -> Outcome:
    """The outcome; if it was reckoned before the wall clock was set, with its due moved."""
    return outcome._replace(due=outcome.due + late) if late and outcome.due is not None else outcome


def _is_expired(record: Record, now: float) -> bool:
    expires = record.envelope.expires
    return expires is not None and expires <= now


def _is_unleased(record: Record, now: float) -> bool:
    return record.state == State.QUEUED or record.ripe <= now


def _moved(record: Record, step: float, now: float, since: float) -> Record:
    """A record after the wall clock was set, see ``skunkqueue.persistence.steps``."""
    envelope, ripe = record.envelope, record.ripe
    if record.open and is_of_wrong_clock(envelope, step, now, since):
        envelope = moved(envelope, step)
        ripe = envelope.due if ripe == record.envelope.due else ripe
    if record.state == State.RUNNING:
        ripe = record.ripe + step
    return record._replace(envelope=envelope, ripe=ripe)


def _addressee(record: Record) -> str:
    return base_route(record.envelope.route)[1:]


_stores: dict[str, MemoryPersister] = {}
_lock = threading.Lock()


def open_url(url: str) -> MemoryPersister:
    """The one store of this process with that name: ``memory://name``."""
    name = url_path(url)
    with _lock:
        return _stores.setdefault(name, MemoryPersister(name))
