"""SkunkQueue: a named queue on one store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, Unpack, overload

from skunkqueue.clock import Clock
from skunkqueue.connection import Connection, connect, let_go, pool_url
from skunkqueue.envelope import OPEN, Envelope, Filter, Record, State, address, base_route, check_name
from skunkqueue.errors import StoreAway, StoreFull, StoreRefused, WrongCall
from skunkqueue.job import Job
from skunkqueue.options import Given, Options, choice, did_you_mean
from skunkqueue.persistence import Persister
from skunkqueue.persistence.halves import by_halves
from skunkqueue.persistence.put import put
from skunkqueue.persistence.url import find_backend, locate, without_secrets
from skunkqueue.run import Run, Runs

if TYPE_CHECKING:
    from skunkqueue.batcher import Batcher
    from skunkqueue.job import AsyncJob
    from skunkqueue.watcher import Watcher

P = ParamSpec("P")
R = TypeVar("R")

QUEUE_TYPES: Final = ("direct", "broadcast")
STORED: Final = (State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED)
MOST_PAYLOAD: Final = 1 << 20
PAGE: Final = 500


class SkunkQueue:
    """A queue: makes jobs of functions, and inspects and changes their runs.

    ``conn_url`` is a URL (``sqlite:///file``, ``memory://``, ``redis://host``), or give a ``default_cfg``; with nothing
    given it is SKUNKQUEUE_URL, else this user's embedded file. With ``queue_type="broadcast"`` every worker alive on
    the route gets what is fired. ``max_payload`` is the largest body of a run, in bytes. The store is opened at first
    use. Thread-safe; survives a fork; pickles as name and configuration, without secrets.
    """

    def __init__(
        self,
        name: str,
        conn_url: str | None = None,
        backend: str | None = None,
        dbname: Any = None,
        queue_type: str = "direct",
        *,
        max_payload: int = MOST_PAYLOAD,
    ) -> None:
        self.name = check_name(name, "queue name")
        self.queue_type = choice("queue_type", queue_type, QUEUE_TYPES)
        if isinstance(max_payload, bool) or not isinstance(max_payload, int) or max_payload < 1:
            raise WrongCall(f"max_payload is a number of bytes; got {max_payload!r}")
        self.max_payload = max_payload
        self._address = locate(conn_url, backend, dbname)
        self._connection: Connection | None = None
        self._batchers: dict[int, Batcher] = {}  # by process: their threads do not come along where one forks

    def __repr__(self) -> str:
        return f"SkunkQueue({self.name!r}, {self.url!r})"

    def __reduce__(self) -> Any:
        return _rebuild, (self.name, *self._address._replace(url=self.url), self.queue_type, self.max_payload)

    def __enter__(self) -> SkunkQueue:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where its store is, without secrets."""
        return without_secrets(self._address.url)

    @property
    def full_url(self) -> str:
        """Where the store is, with its secrets: for the pool's own workers, never for a log."""
        return self._address.url

    @property
    def one_process(self) -> bool:
        """Whether its runs are seen by this process alone."""
        return find_backend(self._address.backend).one_process

    @property
    def broadcast(self) -> bool:
        return self.queue_type == "broadcast"

    # the store

    @property
    def connection(self) -> Connection:
        connection = self._connection
        if connection is None or not connection.is_here:
            connection = self._connection = connect(self._address, self)
        return connection

    @property
    def store(self) -> Persister:
        """The store, which queues of equal configuration share within a process."""
        return self.connection.store

    @property
    def clock(self) -> Clock:
        """The store's time."""
        return self.connection.clock

    def now(self) -> float:
        """Store time for a new run; this process's time if the store is away, as the put then raises."""
        try:
            return self.clock.now()
        except StoreAway:
            return time.time()

    @property
    def watcher(self) -> Watcher:
        return self.connection.watch()

    @property
    def batcher(self) -> Batcher:
        """The one that puts what coroutines fire."""
        found = self._batchers.get(os.getpid())
        if found is None:
            from skunkqueue.batcher import Batcher

            found = self._batchers.setdefault(os.getpid(), Batcher(self))
        return found

    def close(self) -> None:
        """Close the connection to the store. A closed queue may be used again: it opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            let_go(connection, self)

    # jobs

    @overload
    def event(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJob[P, R]: ...
    @overload
    def event(self, function: Callable[P, R], /) -> Job[P, R]: ...
    @overload
    def event(self, *, name: str | None = None, **options: Unpack[Given]) -> Decorator: ...
    def event(self, function: Any = None, /, **options: Any) -> Any:  # type: ignore[misc] # mypy and Unpack
        """Make a job of a function: ``@queue.event`` or ``@queue.event(routes=["foo"], retries=3)``.

        Options: ``routes`` (a name or several; ``default``), ``name``, ``retries`` (0), ``backoff`` (the first delay, a
        Backoff, or a function of the attempt), ``timeout``, ``expires`` (so long after it was due), ``keep`` (a day;
        failed runs at least seven), ``priority`` (``high``, ``normal``, ``low``), ``serializer`` (``auto``, or
        ``plain`` to refuse what would have to be pickled), ``at_most_once``, ``retry_on`` and ``give_up_on``
        (exception types). Durations are seconds or timedeltas. Raises WrongCall.
        """
        name = options.pop("name", None)
        checked = Options().changed(options)
        if function is None:
            return lambda function: Job(function, self, name, checked)
        if not callable(function) and not isinstance(function, classmethod):
            raise WrongCall(f"event is given a function, or options by name like routes={function!r}")
        return Job(function, self, name, checked)

    job = event

    def put(self, envelopes: Sequence[Envelope], *, via: Any = None) -> list[Run[Any]]:
        """Store runs, in one call if the store takes that; gives their handles.

        A StoreAway holds the runs whose fate is in doubt. A StoreRefused names those that the store does not take;
        the others are stored.
        """
        try:
            ids = put(self.store, envelopes) if via is None else self._put_via(envelopes, via)
        except StoreRefused as error:
            kept = [] if isinstance(error, StoreFull) or not error.refused else envelopes
            error.accepted = Runs([Run(self, e.id, e) for e in kept if e.id not in error.refused])
            raise
        except StoreAway as error:
            if via is None:
                error.runs = Runs([Run(self, envelope.id, envelope) for envelope in envelopes])
            raise
        return [
            Run(self, id, envelope if id == envelope.id else None) for id, envelope in zip(ids, envelopes, strict=True)
        ]

    def _put_via(self, envelopes: Sequence[Envelope], via: Any) -> list[str]:
        if not self.store.takes_via:
            self.store.refuse_via(via)
        return self.store.put(envelopes, via=via)

    def alive_on(self, routes: Iterable[str]) -> list[str]:
        """The workers alive on any of these routes of this queue."""
        wanted = set(routes)
        workers = self.store.workers(now=self.clock.now())
        return sorted(worker for worker, about in workers.items() if _serves(about, self.name, wanted))

    # the desk

    def cancel(self, run: Run[Any] | Runs[Any] | str) -> bool:
        """Cancel a run, interrupting it if it runs. Returns whether it did: False if the run had ended before."""
        if isinstance(run, Run | Runs):
            return run.cancel()
        if not isinstance(run, str):
            raise WrongCall(f"cancel is given a run or its id; got {run!r}")
        return self.cancel_all([run]) > 0

    def cancel_all(self, ids: Iterable[str]) -> int:
        """Cancel runs by id and send the orders to their workers; returns how many were cancelled."""
        now = self.clock.now()
        found, failed = by_halves(lambda some: self.store.cancel(some, now=now), list(ids))
        cancelled = [record for records in found for record in records]
        for record in cancelled:
            if record.worker is not None:
                # The lease is gone already: a worker that is not told learns it at its pool's next beat.
                with suppress(StoreAway):
                    self.store.tell(record.worker, f"cancel {record.id}")
        _refuse(failed, "cancelled")
        return len(cancelled)

    def promote(self, run: Run[Any] | Runs[Any] | str) -> bool:
        """Have a run start now that is scheduled, or waits for its retry. Says whether that took: False where it is not
        queued for later. Its ``due`` stays as it was.
        """
        if isinstance(run, Run | Runs):
            return run.promote()
        if not isinstance(run, str):
            raise WrongCall(f"promote is given a run or its id; got {run!r}")
        return self.promote_all([run]) > 0

    def promote_all(self, ids: Iterable[str]) -> int:
        """Promote runs by id; gives how many that took."""
        now = self.clock.now()
        found, failed = by_halves(lambda some: self.store.promote(some, now=now), list(ids))
        _refuse(failed, "promoted")
        return sum(map(len, found))

    def kill_all_by_route(self, route: str) -> int:
        """Cancel what waits on a route, whatever its priority, and interrupt what runs there; gives how many."""
        check_name(route, "route")
        # What runs may go back into the queue while one looks, hence the second look at what is queued.
        routes = [route, *map(address, self.alive_on([route]))]  # what was broadcast lies at the workers' addresses
        states = (*sorted(OPEN), State.QUEUED)
        return sum(self._kill(Filter(self.name, each, state)) for state in states for each in routes)

    def _kill(self, which: Filter) -> int:
        killed, after = 0, None
        while page := self.store.find(which, now=self.clock.now(), after=after, limit=PAGE):
            killed += self.cancel_all([record.id for record in page])
            after = page[-1].id
        return killed

    def runs(self, *, state: str | None = None, route: str | None = None, limit: int | None = 100) -> list[Run[Any]]:
        """The runs of this queue, newest first; of a state (``scheduled`` too), of a route with all its priorities."""
        which = Filter(self.name, None if route is None else check_name(route, "route"), _state(state))
        return [Run(self, record.id, None, record) for record in self._find(which, limit)]

    def _find(self, which: Filter, limit: int | None) -> list[Record]:
        found: list[Record] = []
        while limit is None or len(found) < limit:
            wanted = PAGE if limit is None else min(PAGE, limit - len(found))
            after = found[-1].id if found else None
            page = self.store.find(which, now=self.clock.now(), after=after, limit=wanted)
            found += page
            if len(page) < wanted:
                break
        return found

    def count(self) -> dict[State, int]:
        """How many runs of this queue are in each stored state; what is scheduled counts as queued."""
        counted = dict.fromkeys(STORED, 0)
        for (queue, _, state), number in self.store.count().items():
            if queue == self.name:
                counted[State(state)] += number
        return counted


class Decorator(Protocol):
    """What ``queue.event(...)`` with options gives."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJob[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Job[P, R]: ...


def _state(state: str | None) -> State | None:
    if state is None:
        return None
    try:
        return State(state)
    except ValueError:
        raise WrongCall(f"there is no state {state!r}{did_you_mean(state, State)}") from None


def _refuse(failed: Sequence[tuple[str, Exception]], what: str) -> None:
    """Raise StoreRefused for the runs that the store could not deal with; the others are done."""
    if not failed:
        return
    id, why = failed[0]
    others = f" (and {len(failed) - 1} others)" if len(failed) > 1 else ""
    error = StoreRefused(f"run {id}{others} cannot be {what}: {why}")
    error.refused = {id: str(why) for id, why in failed}
    raise error from why


def _serves(about: str, queue: str, routes: set[str]) -> bool:
    import json

    try:
        told = json.loads(about)
        return bool(told["queue"] == queue and routes.intersection(map(base_route, told["routes"])))
    except (ValueError, KeyError, TypeError):
        return False


def _rebuild(name: str, backend: str, url: str, queue_type: str, max_payload: int) -> SkunkQueue:
    """A queue that came by pickle; in a worker of a pool on the same store, with the pool's URL."""
    known = pool_url()
    full = known if known and without_secrets(known) == url else url
    return SkunkQueue(name, full, backend, queue_type=queue_type, max_payload=max_payload)
