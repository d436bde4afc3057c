"""The contract of a store.

Verbs about runs, plain frozen values in and out. Every verb is plural, because batching decides speed on every store.
Time is an argument: a store has no clock, so a test never sleeps. Policy never enters: a store compares, sets, and
returns what took. ``skunkqueue.persistence.memory`` is the same contract in dictionaries, written to be read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from skunkqueue.envelope import Asked, Caught, Claim, Envelope, Exchange, Filter, Order, Outcome, Record, State, Want
from skunkqueue.errors import StoreError, WrongCall

REMEMBERED = 60.0
"""Least seconds for which the id of an ended run is remembered, whatever its ``keep``."""

EXPIRED = "expired"
WORKER_GONE = "its worker is gone"


class Limits(NamedTuple):
    """The most that a store takes; None is no limit.

    ``body``: bytes of one envelope's body. ``value``: bytes of one outcome. ``batch``: bytes of all items of one call.
    ``items``: how many items one call may have.
    """

    body: int | None = None
    value: int | None = None
    batch: int | None = None
    items: int | None = None


class WorkKey(NamedTuple):
    """What a pool waits on: a run may have become ripe on a route, which is given without its priority."""

    queue: str
    route: str
    kind: Literal["work"] = "work"


class RunKey(NamedTuple):
    """What a caller waits on: a run may have ended."""

    id: str
    kind: Literal["run"] = "run"


class WorkerKey(NamedTuple):
    """What a pool waits on: a worker may have orders."""

    worker: str
    kind: Literal["worker"] = "worker"


BRIEF = 4096
"""Bytes of a body that a brief record has at least, if the body has as many."""


def kept_at_least(ended: float | None, now: float) -> float:
    """Until when a run is kept that is discarded now."""
    return now if ended is None else max(now, ended + REMEMBERED)


def expires_at(envelope: Envelope, held_until: float | None) -> float:
    """Store time from which an open run can only end as expired; infinite if it never does."""
    if envelope.expires is None:
        return math.inf
    return envelope.expires if held_until is None else max(envelope.expires, held_until)


Key = WorkKey | RunKey | WorkerKey
"""The argument of ``wait`` and ``rouse``. ``kind`` keeps its default, so that keys of two kinds are never equal."""


class Channel:
    """Asynchronous calls to a source: a request is sent at once, and its answer is read later.

    So a pool needs no threads that wait for each other. One request of each kind at a time, all on one thread. An
    exception from any method but ``close`` ends the channel: close it, and repeat the request without it, with the
    wants marked as repeated.
    """

    answer_fd: int = -1
    """A descriptor that becomes readable when the answer to ``ask`` comes, or the channel has ended."""

    caught_fd: int = -1
    """The same for ``watch``."""

    later_fd: int = -1
    """A descriptor that becomes readable when ``later`` has something; -1 if it never has."""

    def ask(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> bool:
        """Begin an ``exchange``; False, with nothing sent, if the channel cannot do this one."""
        raise NotImplementedError

    def answer(self) -> Exchange | None:
        """The result of ``ask``; None while the answer is incomplete."""
        raise NotImplementedError

    def watch(self, keys: Sequence[Key], timeout: float, asked: Asked) -> None:
        """Begin to ``wait``, and then to claim, by the source's own clock, for as long as from ``now`` to ``until``.

        ``rouse`` ends the wait.
        """
        raise NotImplementedError

    def caught(self) -> Caught | None:
        """The result of ``watch``; None while the answer is incomplete."""
        raise NotImplementedError

    def later(self) -> list[tuple[str, float]]:
        """Routes of the queue on which later runs were put, and when they are due, as announced since the last call."""
        return []

    def cut(self) -> None:
        """End it at the other side, before what was asked here is asked elsewhere, so that it is not done after that.

        Its descriptors stay until it is closed. Does not raise.
        """

    def close(self) -> None:
        """Close the channel."""


class Source:
    """Anything that gives claims and takes outcomes. A pool needs nothing more."""

    url: str = ""
    """Where it is, for logs; never with a secret in it."""

    wakes_one: bool = False
    """Whether an event on a key wakes only one of its waiters, which may be any. Then a waiter must be able to
    claim the work that it waits for."""

    limits: Limits = Limits()
    """What it takes in one call; callers split their calls accordingly."""

    is_far: bool = False
    """Whether calls mostly wait for another process, so that a pool should do something else meanwhile."""

    # the path of a job

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        """Take what is open and ripe (``ripe <= now``), want by want, by (route as listed, ripe, id).

        A run that was still running gets one more lapse. A run past its ``expires`` is not given: it ends as cancelled,
        "expired". The claims are leased ``until``. The moving time ``ripe`` of a claimed run becomes ``until``.
        A damaged run is given with a body that nobody can read, so that the pool fails it, or is passed over; it never
        keeps the others from being claimed.
        """
        raise NotImplementedError

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        """Extend leases ``until`` then; never shortens one. Returns the ids still held, lapsed or not."""
        raise NotImplementedError

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]], *, now: float) -> set[str]:
        """Write the outcomes of claims. Returns the ids taken: those whose row still has the claim's token.

        A repeated commit counts as taken and changes nothing. Raises StoreAway or StoreFull for errors of the whole
        store; any other error makes a pool look for the outcome that is at fault, and send the others without it.
        """
        raise NotImplementedError

    def exchange(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> Exchange:
        """Commit, then claim, in as few round trips as the store allows."""
        taken = self.commit(outcomes, now=now) if outcomes else set()
        claims = self.claim(wants, now=now, until=until) if wants else []
        return Exchange(taken, claims, now if claims else None)

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        """Sleep until something may have happened to one of the keys. A hint: may return early, may miss an event.

        Never outlasts ``timeout`` seconds; the caller always looks again. Keys of several
        kinds may come together.
        """
        time.sleep(min(timeout, 0.05))

    def rouse(self, keys: Sequence[Key]) -> bool:
        """End the waits on one of these keys that are under way on this object; other waits go on.

        Returns whether that is possible: False if waits are too short for it to matter.
        """
        return False

    def channel(self, queue: str) -> Channel | None:
        """A channel for the pool of a queue; None if this source never has one.

        Raises StoreError if there is none at the moment.
        """
        return None

    def offset(self) -> float | None:
        """How far the store's clock is ahead of this process's wall clock, in seconds; None if it has none."""
        return None

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        """Register a worker ``until`` then; returns its orders. An order stays until its id is named in ``seen``.

        ``until`` of now (or before) unregisters it.
        """
        return []

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        """Purge up to ``limit`` things; returns how many it did."""
        return 0

    def warnings(self) -> Sequence[str]:
        """What an operator should know about the setup of the source, with the consequences; logged once."""
        return ()

    def close(self) -> None:
        """Close connections. A closed source may be used again: it opens new ones."""


class Persister(Source):
    """A store: keeps runs from the moment they are fired until nobody needs their result."""

    takes_via: str = ""
    """What ``via`` of ``put`` may be, for messages: "a redis.Pipeline"; empty if the store takes none."""

    ids_per_queue: bool = False
    """Whether ids are unique per queue, so that the same id on two queues is two runs; else they are unique in the
    store. Senders make ids that never collide, so the difference only shows if ids are reused on purpose."""

    @property
    def missing(self) -> str:
        """Why there is nothing to look at, where looking would make an empty store of it; empty if there is something.

        What only looks asks first. Raises nothing.
        """
        return ""

    # the path of a job

    def put(self, envelopes: Sequence[Envelope], *, via: Any = None) -> list[str]:
        """Store runs as queued, ripe when due. Putting an id twice is putting it once.

        The first envelope of an id stands: a second one changes nothing, whatever it says, whatever state the run is
        in. An id belongs to one queue. A store whose queues lie apart compares ids within a queue only: there an id put
        into a second queue is a run of its own, and the first one stays as it is.

        Gives for each its id, or, where its unique key (per queue and route) met an open run, that run's id; of two in
        one call with the same unique key the first is stored.

        ``via`` is a transaction of the caller's own, of the kind that ``takes_via`` names: the runs are stored when the
        caller commits it, together with whatever else is in it, or not at all; nobody else sees them before. The store
        neither begins nor ends it, but that it may begin one that begins by itself; where it refuses, the transaction
        stays as it was. ``wait`` may learn of it up to a second later. Raises WrongCall for a ``via`` that cannot keep
        this promise, and for a unique key where the answer is not known before the end of the transaction.
        """
        raise NotImplementedError

    def refuse_via(self, via: Any) -> None:
        """For a store that takes no ``via``: raise WrongCall if one is given."""
        if via is not None:
            raise WrongCall(f"via= is for stores with transactions of your own; {self.url} has none")

    # the desk

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        """End open runs as cancelled and take their leases away. Returns the records of those it cancelled, by id.

        A record still names the worker that held it.
        """
        raise NotImplementedError

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        """Queue failed or cancelled runs again, ripe now, as if never run. Returns the ids it reopened.

        Not where the unique key is taken by another open run, and not past ``expires``.
        """
        raise NotImplementedError

    def promote(self, ids: Iterable[str], *, now: float) -> set[str]:
        """Make runs ripe now that are queued for later, scheduled or to be tried again. Returns the ids it promoted.

        Their ``due`` stays. What is ripe, running, ended or unknown is left as it is.
        """
        raise NotImplementedError

    def discard(self, ids: Iterable[str], *, now: float) -> set[str]:
        """Keep ended runs no longer: the next ``purge`` deletes them. Returns the ids of those that have ended.

        An id is remembered ``REMEMBERED`` seconds from the end of its run all the same. What is open or unknown is left
        as it is.
        """
        raise StoreError(f"{self.url} is a store of an earlier version: it cannot delete runs before their time")

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records of those runs that exist."""
        raise NotImplementedError

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        """Records by id, newest first; ``after`` is the id of the last one of the page before."""
        raise NotImplementedError

    # The desk for those who wait or list, and would read large bodies and results in vain. By default as the above.

    def get_brief(self, ids: Iterable[str]) -> dict[str, Record]:
        """As ``get``, but a body may be cut behind its first ``BRIEF`` bytes, which have the job's name."""
        return self.get(ids)

    def find_brief(
        self, which: Filter, *, now: float, after: str | None = None, limit: int = 100, values: int | None = None
    ) -> list[Record]:
        """As ``find``, but bodies may be cut, as by ``get_brief``, and values of more than ``values`` bytes be None."""
        return self.find(which, now=now, after=after, limit=limit)

    def open_of(self, ids: Iterable[str]) -> dict[str, float]:
        """Those of these runs that are open, each with the time from which it can only end as expired, or infinity.

        For a run that is held, that is not before its lease ends. This is asked each second for all that is waited for.
        """
        records = ((id, record) for id, record in self.get(ids).items() if record.open)
        return {id: expires_at(r.envelope, r.ripe if r.state == State.RUNNING else None) for id, r in records}

    def await_end(self, id: str, timeout: float) -> Record | None:
        """The record of a run that has ended, or does so within ``timeout`` seconds, as ``get_brief``; else None.

        By default made of the others; a store may do it in one round trip.
        """
        if timeout > 0 and id in self.open_of([id]):
            self.wait([RunKey(id)], timeout)
        record = None if id in self.open_of([id]) else self.get_brief([id]).get(id)
        return None if record is None or record.open else record

    def count(self) -> dict[tuple[str, str, str], int]:
        """How many runs by (queue, route, stored state), without scanning; zeros are left out."""
        raise NotImplementedError

    # the workers

    def tell(self, worker: str, order: str) -> None:
        """Store an order for a worker: it gets it with its next beat, and ``wait`` on its key returns."""
        raise NotImplementedError

    def workers(self, *, now: float) -> dict[str, str]:
        """The ``about`` of each worker whose beat has not expired, by name."""
        raise NotImplementedError
