"""FoundationDB: a key a run and a key its place, one transaction an exchange; woken by watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from skunkqueue.envelope import Claim, Envelope, Exchange, Filter, Order, Outcome, Record, Want
from skunkqueue.persistence import Key, Limits, Persister
from skunkqueue.persistence.fdb import end as ending
from skunkqueue.persistence.fdb import housekeeping, look
from skunkqueue.persistence.fdb.claim import OF_CLAIM, Claiming
from skunkqueue.persistence.fdb.client import client
from skunkqueue.persistence.fdb.clock import StoreClock
from skunkqueue.persistence.fdb.connect import Blind, Link
from skunkqueue.persistence.fdb.crowd import Crowd
from skunkqueue.persistence.fdb.lanes import GRACE
from skunkqueue.persistence.fdb.notify import Notifier
from skunkqueue.persistence.fdb.parts import BYTES, RUNS, in_parts, parts
from skunkqueue.persistence.fdb.put import put
from skunkqueue.persistence.fdb.rows import FIELDS, STATES, Row
from skunkqueue.persistence.fdb.step import Step
from skunkqueue.persistence.fdb.url import Target, parse_url
from skunkqueue.persistence.fdb.via import put_via
from skunkqueue.persistence.url import StoreConfig

default_cfg: StoreConfig = {"backend": "fdb", "conn_url": "", "dbname": "skunkqueue"}

LARGEST: Final = 4_000_000
"""Bytes of a body or a value: a transaction has ten million at most, with all that is in it."""

T = TypeVar("T")
Pair = tuple[Claim, Outcome]


class FDBPersister(Persister):
    """Runs in a FoundationDB, below one directory of its directory layer. Thread-safe.

    A process that was forked from one that had used FoundationDB cannot use it: each call then raises StoreError.
    Raises StoreAway, StoreRefused, StoreVersion or StoreError.
    """

    is_far = True
    takes_via = "a transaction of FoundationDB"
    limits: Limits = Limits(body=LARGEST, value=LARGEST, batch=BYTES, items=RUNS)

    def __init__(self, target: Target) -> None:
        self.url: str = target.url
        self.target = target
        self._link = Link(target)
        self._crowd = Crowd()
        self._notifier = Notifier(self._link)
        self._clock = StoreClock(self._link)
        self._sweep = housekeeping.Sweep()

    @property
    def database(self) -> Any:
        """The ``fdb.Database``, or the ``fdb.Tenant``, that holds the runs: for transactions of your own."""
        return self._link.database

    def __repr__(self) -> str:
        return f"FDBPersister({self.url!r})"

    # the path of a job

    def put(self, envelopes: Sequence[Envelope], *, via: Any = None) -> list[str]:
        """Store runs. ``via`` is the transaction that your ``@fdb.transactional`` function is given: the runs are then
        stored when it is committed, together with all else in it or not at all.
        """
        if via is not None:
            return put_via(via, envelopes, self._link, client(self.url))
        if len(envelopes) == 1:
            return self._put(envelopes)
        return _joined(in_parts(self._put, envelopes, _size_of_body))

    def _put(self, envelopes: Sequence[Envelope]) -> list[str]:
        fresh = self._link.known.fresh(envelopes)
        first = None if fresh is None else Blind(fresh.version, fresh.put)
        return self._link.run(lambda step: put(step, envelopes), recent=True, first=first)

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        return self.exchange((), wants, now=now, until=until).claims

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        return _union(in_parts(lambda some: self._do(lambda step: ending.extend(step, some, until)), claims))

    def commit(self, outcomes: Sequence[Pair], *, now: float) -> set[str]:
        return _union(in_parts(lambda some: self._commit(some, now), outcomes, _size_of_outcome))

    def _commit(self, outcomes: Sequence[Pair], now: float) -> set[str]:
        return self._do(lambda step: ending.commit(step, outcomes), now)

    def exchange(self, outcomes: Sequence[Pair], wants: Sequence[Want], *, now: float, until: float) -> Exchange:
        """One transaction; more only for what is too much for one."""
        *before, last = list(parts(outcomes, _size_of_outcome)) or [()]
        taken: set[str] = set()
        for part in before:
            taken |= self.commit(part, now=now)
        claims: list[Claim] = []
        left, patient = list(wants), True
        while True:
            written, done = self._exchange(last, left, now, until, patient=patient)
            self._fill(done.left, OF_CLAIM)
            taken, last = taken | written, ()
            if patient and done.leaves and not claims:
                patient = False
                time.sleep(GRACE)  # so many claimers that wake for one run do not all meet over it
                continue
            new = done.claims
            claims += new
            left = _unfilled(left, new)
            if len(new) < RUNS or not left:
                return Exchange(taken, _by_want(wants, claims), done.next_ripe if wants else None)

    def _exchange(
        self, outcomes: Sequence[Pair], wants: Sequence[Want], now: float, until: float, *, patient: bool
    ) -> tuple[set[str], Claiming]:
        def both(step: Step) -> tuple[set[str], Claiming]:
            taken = ending.commit(step, outcomes) if outcomes else set()
            return taken, Claiming(step, self._crowd, wants, until, RUNS, patient=patient)

        return self._do(both, now)

    def _fill(self, rows: Sequence[Row], names: Sequence[str] = FIELDS) -> None:
        """Read what is long of runs that one transaction had no time for: in others, some of them in each."""
        while rows:
            rows = self._link.run(partial(Step.fill, rows=rows, names=names))

    # the desk

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        return _joined(in_parts(lambda some: self._cancel(some, now), sorted(set(ids))))

    def _cancel(self, ids: Sequence[str], now: float) -> list[Record]:
        rows, left = self._do(lambda step: ending.cancel(step, ids), now)
        self._fill(left)
        return [row.record() for row in rows]

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        return _union(in_parts(lambda some: self._do(lambda step: ending.reopen(step, some), now), sorted(set(ids))))

    def promote(self, ids: Iterable[str], *, now: float) -> set[str]:
        return _union(in_parts(lambda some: self._do(lambda step: ending.promote(step, some), now), sorted(set(ids))))

    def discard(self, ids: Iterable[str], *, now: float) -> set[str]:
        return _union(in_parts(lambda some: self._do(lambda step: ending.discard(step, some), now), sorted(set(ids))))

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        return self._get(ids, look.WHOLE)

    def _get(self, ids: Iterable[str], shown: look.Shown) -> dict[str, Record]:
        return _merged(in_parts(lambda some: look.get(self._link.run, some, shown), list(dict.fromkeys(ids))))

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        return look.find(self._link.run, which, now, after, limit)

    def get_brief(self, ids: Iterable[str]) -> dict[str, Record]:
        return self._get(ids, look.BRIEFLY)

    def find_brief(
        self, which: Filter, *, now: float, after: str | None = None, limit: int = 100, values: int | None = None
    ) -> list[Record]:
        shown = look.BRIEFLY if values is None else look.Shown(brief=True, values=values)
        return look.find(self._link.run, which, now, after, limit, shown)

    def open_of(self, ids: Iterable[str]) -> dict[str, float]:
        wanted = list(dict.fromkeys(ids))
        return _merged(in_parts(lambda some: self._link.run(lambda step: look.open_of(step, some)), wanted))

    def count(self) -> dict[tuple[str, str, str], int]:
        counts = self._link.run(look.counts)
        return {
            (queue, route, str(state)): number
            for (queue, route), numbers in counts.items()
            for state, number in zip(STATES, numbers, strict=True)
            if number
        }

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        return self._link.run(lambda step: housekeeping.beat(step, worker, about, seen, until))

    def tell(self, worker: str, order: str) -> None:
        self._do(lambda step: housekeeping.tell(step, worker, order), time.time())

    def workers(self, *, now: float) -> dict[str, str]:
        found = self._link.run(housekeeping.alive)
        return {worker: about for worker, (until, about) in found.items() if until > now}

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        done = 0
        for clean in (
            housekeeping.purge_ended,
            housekeeping.purge_expired,
            partial(housekeeping.purge_workers, self._sweep),
            housekeeping.purge_addressed,
        ):
            done += self._purge(clean, now, limit - done)
        self._link.run(self._purge_left, now=now)
        return done

    def _purge_left(self, step: Step) -> None:
        housekeeping.purge_left(self._sweep, step)
        self._link.forget(step)

    def _purge(self, clean: Callable[[Step, int], int], now: float, limit: int) -> int:
        """Clean in transactions of their own, each of a size that one may have."""
        done = 0
        while True:
            most = min(limit - done, RUNS)
            some = self._do(partial(_with_limit, clean, most), now)
            done += some
            if some < most or done >= limit:
                return done

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        self._notifier.wait(keys, timeout)

    def rouse(self, keys: Sequence[Key]) -> bool:
        self._notifier.rouse(keys)
        return True

    def offset(self) -> float | None:
        """The cluster's clock minus ours; see ``clock``."""
        return self._clock.offset()

    def close(self) -> None:
        self._notifier.close()
        self._link.close()

    def _do(self, work: Callable[[Step], T], now: float = 0.0) -> T:
        """A transaction that is not to be done twice where the answer to its commit was lost."""
        return self._link.run(work, now=now, receipt=True, met=self._met)

    def _met(self, step: Step) -> None:
        """A claim met another one."""
        new = [lane for lane in step.crowded if not self._crowd.is_in(lane)]
        self._crowd.met(step.crowded)
        if new:
            self._link.run(lambda joining: self._crowd.join(joining, new), now=step.now)


def _with_limit(clean: Callable[[Step, int], int], limit: int, step: Step) -> int:
    return clean(step, limit)


def _joined(lists: Iterable[list[T]]) -> list[T]:
    return [item for each in lists for item in each]


def _merged(dicts: Iterable[dict[str, T]]) -> dict[str, T]:
    return {id: item for each in dicts for id, item in each.items()}


def _union(sets: Iterable[set[str]]) -> set[str]:
    return {item for each in sets for item in each}


def _size_of_body(envelope: Envelope) -> int:
    return len(envelope.body)


def _size_of_outcome(pair: Pair) -> int:
    return len(pair[1].value or b"") + len(pair[1].error or "")


def _unfilled(wants: Sequence[Want], claims: Sequence[Claim]) -> list[Want]:
    """What is left of wants. What their tokens held before was given first, so they are repeated no more."""
    given: dict[str, int] = {}
    for claim in claims:
        given[claim.token] = given.get(claim.token, 0) + 1
    left = [want._replace(limit=want.limit - given.get(want.token, 0), repeated=False) for want in wants]
    return [want for want in left if want.limit > 0]


def _by_want(wants: Sequence[Want], claims: Sequence[Claim]) -> list[Claim]:
    """The claims in the order of the wants."""
    order = {want.token: n for n, want in enumerate(wants)}
    return sorted(claims, key=lambda claim: order[claim.token])


def open_url(url: str) -> FDBPersister:
    """The store at an fdb:// URL. Nothing is opened yet. Raises WrongCall for an invalid one."""
    import fdb  # noqa: F401 - an ImportError says what to install

    return FDBPersister(parse_url(url))
