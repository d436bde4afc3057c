"""The contract of a store.

Verbs about runs, plain frozen values in and out. Every verb is plural, because batching decides speed on every store.
Time is an argument: a store has no clock, so a test never sleeps. Policy never enters: a store compares, sets, and
returns what took. ``skunkqueue.persistence.memory`` is the same contract in dictionaries, written to be read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from skunkqueue.envelope import Asked, Caught, Claim, Envelope, Exchange, Filter, Order, Outcome, Record, Want
from skunkqueue.errors import WrongCall

REMEMBERED = 60.0
"""Seconds that an ended run's id is remembered at least, whatever its ``keep``."""

EXPIRED = "expired"
WORKER_GONE = "its worker is gone"


class Limits(NamedTuple):
    """What a store takes, as bytes and numbers; None is no limit that anybody would meet.

    ``body`` is of one envelope's body, ``value`` of what one outcome carries, ``batch`` of all that goes in one call,
    ``items`` how many that are.
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


Key = WorkKey | RunKey | WorkerKey
"""What ``wait`` and ``rouse`` are given. ``kind`` is never given: by it a run's key and a worker's are never equal."""


class Channel:
    """A way to speak to a source without waiting for it: what is asked goes out at once, its answer is heard later.

    So a pool does without threads that wait for each other. One question of each kind at a time, all on one thread.
    Whatever raises, but ``close``, ends the channel: close it, and ask elsewhere what was asked here, with the wants as
    repeated.
    """

    answer_fd: int = -1
    """A descriptor that can be read when the answer to ``ask`` comes, or the channel has ended."""

    caught_fd: int = -1
    """The same for ``watch``."""

    later_fd: int = -1
    """A descriptor that can be read when ``later`` has something; -1 where nothing is ever told."""

    def ask(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> bool:
        """Begin an ``exchange``; False, and nothing was sent, where it is not one for a channel."""
        raise NotImplementedError

    def answer(self) -> Exchange | None:
        """What came of ``ask``; None while the answer is not all there."""
        raise NotImplementedError

    def watch(self, keys: Sequence[Key], timeout: float, asked: Asked) -> None:
        """Begin to ``wait``, and then to claim, by the source's own clock, for as long as from ``now`` to ``until``.

        ``rouse`` ends the wait.
        """
        raise NotImplementedError

    def caught(self) -> Caught | None:
        """What came of ``watch``; None while the answer is not all there."""
        raise NotImplementedError

    def later(self) -> list[tuple[str, float]]:
        """Routes of the queue on which a run was put that is due later, and when, as far as it was told since."""
        return []

    def cut(self) -> None:
        """End it at the other side, before what was asked here is asked elsewhere, so that it is not done after that.

        Its descriptors stay until it is closed. Does not raise.
        """

    def close(self) -> None:
        """Hang up."""


class Source:
    """Anything that claims can be taken from and outcomes given to. All that a pool needs."""

    url: str = ""
    """Where it is, for logs; never with a secret in it."""

    wakes_one: bool = False
    """Whether something that happens to a key wakes only one of those who wait for it, whoever that is: then nobody may
    wait for work that he could not claim."""

    limits: Limits = Limits()
    """What it takes; whoever calls it splits by them before."""

    is_far: bool = False
    """Whether whoever calls it mostly waits for somebody else, so that a pool had better do something meanwhile."""

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
        """Lease claims until then, never shorter than they are. Gives the ids still held, lapsed or not."""
        raise NotImplementedError

    def commit(self, outcomes: Sequence[tuple[Claim, Outcome]], *, now: float) -> set[str]:
        """Write what became of claims. Gives the ids taken: those whose row still bears the claim's token.

        A repeated commit is told "taken" and changes nothing. Raises StoreAway or StoreFull for what concerns the whole
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
        """Sleep until something may have happened to one of the keys. A hint: may return early, may miss one.

        Never outlasts ``timeout`` seconds; the caller always looks again. Keys of several
        kinds may come together.
        """
        time.sleep(min(timeout, 0.05))

    def rouse(self, keys: Sequence[Key]) -> bool:
        """Have the waits on one of these keys that are under way here, on this handle, return at once; the others stay.

        Says whether that can be done: False where waits are so short that nobody would mind.
        """
        return False

    def channel(self, queue: str) -> Channel | None:
        """A channel for the pool of a queue; None where every call has to be waited for, now and always.

        Raises StoreError where there is none now.
        """
        return None

    def offset(self) -> float | None:
        """How far the store's clock is ahead of this process's wall clock, in seconds; None if it has none."""
        return None

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        """Say that a worker is there until then; get its orders. An order stays until its id is named in ``seen``.

        ``until`` of now (or before) unregisters it.
        """
        return []

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        """Clean up to ``limit`` things; gives how many it did."""
        return 0

    def warnings(self) -> Sequence[str]:
        """What an operator should know of how the source is set up, with the consequences; said once, in the log."""
        return ()

    def close(self) -> None:
        """Let go of connections. A closed source may be used again: it opens anew."""


class Persister(Source):
    """A store: keeps runs from the moment they are fired until nobody needs their result."""

    takes_via: str = ""
    """What ``via`` of ``put`` may be, for people: "a redis.Pipeline"; empty where there is no such thing."""

    ids_per_queue: bool = False
    """Whether an id is of its queue only, so that the same id on two queues is two runs; else it is of the store.
    Senders make ids that collide with nobody, so nobody meets the difference who does not mean to."""

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
        """For a store that takes none: raise WrongCall where it is given one."""
        if via is not None:
            raise WrongCall(f"via= is for stores with transactions of your own; {self.url} has none")

    # the desk

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        """End open runs as cancelled and take their leases away. Gives the records of those it took, by id.

        A record still names the worker that held it.
        """
        raise NotImplementedError

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        """Queue failed or cancelled runs again, ripe now, as if never run. Gives the ids it took.

        Not where the unique key is taken by another open run, and not past ``expires``.
        """
        raise NotImplementedError

    def promote(self, ids: Iterable[str], *, now: float) -> set[str]:
        """Make runs ripe now that are queued for later, scheduled or to be tried again. Gives the ids it took.

        Their ``due`` stays. What is ripe, running, ended or unknown is left as it is.
        """
        raise NotImplementedError

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records there are."""
        raise NotImplementedError

    def await_end(self, id: str, timeout: float) -> Record | None:
        """The record of a run once it has ended, or as it is after so many seconds or sooner; None if it is not there.

        ``get`` and ``wait``, which a store may do in one trip.
        """
        record = self.get([id]).get(id)
        if record is None or not record.open or timeout <= 0:
            return record
        self.wait([RunKey(id)], timeout)
        return self.get([id]).get(id)

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        """Records by id, newest first; ``after`` is the id of the last one of the page before."""
        raise NotImplementedError

    def count(self) -> dict[tuple[str, str, str], int]:
        """How many runs by (queue, route, stored state), without scanning; zeros are left out."""
        raise NotImplementedError

    # the workers

    def tell(self, worker: str, order: str) -> None:
        """Leave an order for a worker; it gets it with its next beat, and ``wait`` on its key returns."""
        raise NotImplementedError

    def workers(self, *, now: float) -> dict[str, str]:
        """What each worker whose beat has not ended said about itself."""
        raise NotImplementedError
