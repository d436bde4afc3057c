"""SkunkQueue: a named queue on one store."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, Protocol, Self, TypeVar, Unpack, cast, overload

from skunkqueue.clock import Clock, ticks
from skunkqueue.connection import Connection, connect, full_url, home, let_go, remember_url
from skunkqueue.envelope import OPEN, Envelope, Filter, Record, State, StateName, is_shown, stored_like
from skunkqueue.errors import RunGone, StoreAway, StoreFull, StoreRefused, WrongCall
from skunkqueue.hooks import Hooks
from skunkqueue.ids import check_id
from skunkqueue.job import Job
from skunkqueue.options import Given, GivenRoutesApart, GivenToEvent, Options, QueueType, Several, choice, did_you_mean
from skunkqueue.persistence import Persister
from skunkqueue.persistence.halves import by_halves
from skunkqueue.persistence.put import put
from skunkqueue.persistence.url import Address, find_backend, locate, without_secrets
from skunkqueue.printable import printable, said
from skunkqueue.routes import address, base_route, check_name, is_internal, key_of_route
from skunkqueue.run import Run, Runs
from skunkqueue.schedules.desk import Schedules
from skunkqueue.schedules.registry import registry

if TYPE_CHECKING:
    from skunkqueue.batcher import Batcher
    from skunkqueue.classes import ClassCalls
    from skunkqueue.job import AsyncJob, AsyncSpreadJob, SpreadJob
    from skunkqueue.watcher import Watcher

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound=Callable[..., Any])

QUEUE_TYPES: Final = ("direct", "broadcast")
SCHEDULED: Final = ("every", "zone", "missed", "overlap")
STORED: Final = (State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED)
MOST_PAYLOAD: Final = 1 << 20
PAGE: Final = 500
LONG: Final = 1.0
"""Seconds after which a store that does not answer is not asked once more."""


class _Configured(Schedules):
    """A queue's configuration, apart so that type checkers look at the ``__new__`` of SkunkQueue first."""

    def __init__(
        self,
        name: str,
        conn_url: str | None = None,
        backend: str | None = None,
        dbname: Any = None,
        queue_type: QueueType = "direct",
        *,
        max_payload: int = MOST_PAYLOAD,
    ) -> None:
        self.name: str = check_name(name, "queue name")
        self.queue_type: QueueType = cast(QueueType, choice("queue_type", queue_type, QUEUE_TYPES))
        if isinstance(max_payload, bool) or not isinstance(max_payload, int) or max_payload < 1:
            raise WrongCall(f"max_payload is a number of bytes; got {said(max_payload)}")
        self.max_payload = max_payload
        self._address = locate(conn_url, backend, dbname)
        remember_url(self._address.url, self.name)
        self.last: Run[Any] | Runs[Any] | None = None
        """The run of the last call that was added; None before that."""
        self._connection: Connection | None = None
        self.hooks: Hooks = Hooks()
        self._told_at = {}
        self._batchers: dict[int, Batcher] = {}  # by process: their threads do not come along where one forks


class SkunkQueue(_Configured):
    """A queue: makes jobs of functions, and inspects and changes their runs.

    ``conn_url`` is a URL (``sqlite:///file``, ``memory://``, ``redis://host``), or give a ``default_cfg``; with nothing
    given it is SKUNKQUEUE_URL, else this user's embedded file. With ``queue_type="broadcast"`` every worker alive on
    the route gets what is fired. ``max_payload`` is the largest body of a run, in bytes. The store is opened at first
    use. Thread-safe; survives a fork. Pickles as name and configuration, without secrets: unpickled, it has those that
    the process there was given for the same store.
    """

    if TYPE_CHECKING:

        @overload
        def __new__(
            cls,
            name: str,
            conn_url: str | None = None,
            backend: str | None = None,
            dbname: Any = None,
            *,
            queue_type: Literal["broadcast"],
            max_payload: int = ...,
        ) -> BroadcastQueue: ...
        @overload
        def __new__(
            cls,
            name: str,
            conn_url: str | None = None,
            backend: str | None = None,
            dbname: Any = None,
            queue_type: QueueType = "direct",
            *,
            max_payload: int = ...,
        ) -> SkunkQueue: ...
        def __new__(cls, *args: Any, **options: Any) -> Any: ...
    else:

        def __new__(cls, *args: Any, **options: Any) -> Any:
            if cls.__init__ is _Configured.__init__:  # else it takes what it likes
                _check_parameters(options)
            return super().__new__(cls)

    last: Run[Any] | Runs[Any]

    def __repr__(self) -> str:
        return f"SkunkQueue({self.name!r}, {self.url!r})"

    def __reduce__(self) -> Any:
        rebuild = _rebuild_at_home if self._address == home() else _rebuild
        return rebuild, (self.name, *self._address._replace(url=self.url), self.queue_type, self.max_payload)

    def __enter__(self) -> SkunkQueue:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    if not TYPE_CHECKING:  # a checker knows what is there

        def __getattr__(self, name: str) -> Any:
            from skunkqueue.elsewhere import OF_A_QUEUE, unknown_attribute  # late: only mistakes need it

            return unknown_attribute(self, name, OF_A_QUEUE)

    @property
    def url(self) -> str:
        """Where its store is, without secrets."""
        return without_secrets(self._address.url)

    @property
    def address(self) -> Address:
        """Where the store is, with its secrets."""
        return self._address

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
        """Store time for a new run; this process's time if the store is away, as the put then raises.

        Raises StoreAway if that took long to tell: then the put would take as long once more.
        """
        began = ticks()
        try:
            return self.clock.now_at_last()
        except StoreAway:
            if ticks() - began > LONG:
                raise
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
    def event(  # type: ignore[overload-overlap] # the first that fits is meant
        self, *, routes: Several, name: str | None = None, **options: Unpack[GivenRoutesApart]
    ) -> SpreadDecorator: ...
    @overload
    def event(self, *, name: str | None = None, **options: Unpack[GivenToEvent]) -> Decorator: ...
    def event(self, function: Any = None, /, **options: Any) -> Any:  # type: ignore[misc] # mypy and Unpack
        """Make a job of a function: ``@queue.event`` or ``@queue.event(routes=["foo"], retries=3)``.

        Options: ``routes`` (a name or several; ``default``), ``name``, ``retries`` (0), ``backoff`` (the first delay, a
        Backoff, or a function of the attempt), ``timeout``, ``expires`` (so long after it was due), ``keep`` (a day;
        failed runs at least seven), ``priority`` (``high``, ``normal``, ``low``), ``serializer`` (``auto``, or
        ``plain`` to refuse what would have to be pickled), ``at_most_once``, ``retry_on`` and ``give_up_on``
        (exception types), ``limit`` (a Limit), ``fair_by`` (a function of the arguments: its values take turns).
        Durations are seconds or timedeltas. With ``every`` (and ``zone``, ``missed``, ``overlap``, see ``schedule``)
        it runs again and again, as soon as a worker has imported it. Raises WrongCall.
        """
        name = options.pop("name", None)
        scheduled: dict[str, Any] = {option: options.pop(option) for option in SCHEDULED if option in options}
        checked = Options().changed(options)
        if function is None:
            return lambda function: self._job(function, name, checked, scheduled)
        return self._job(function, name, checked, scheduled)

    def _job(self, function: Any, name: str | None, options: Options, scheduled: dict[str, Any]) -> Job[Any, Any]:
        if not callable(function) and not isinstance(function, classmethod):
            raise WrongCall(f"event is given a function, or options by name like routes={said(function)}")
        job: Job[Any, Any] = Job(function, self, name, options)
        registry.made_by(job._module)
        if scheduled:
            from skunkqueue.schedules.declared import give_schedule

            give_schedule(job, scheduled)
        return job

    job = event

    def around(self, function: A, /) -> A:
        """Have a generator function of the run executed around each attempt of this queue's jobs, in the worker.

        It yields once: there the job runs, and what the job raises is raised; it must let that through. The first that
        is given is outermost. An async generator is for async jobs only. It gets ``current_run()``. Raises WrongCall.
        """
        self.hooks.add_around(function)
        return function

    def lifespan(self, function: A, /) -> A:
        """Have a generator function executed once in each worker, before its first run of this queue and at its end.

        The mapping that it yields is part of ``current_run().state``. Where it raises, the worker cannot run the jobs
        of this queue: their runs wait for another one, for the pool's ``patience``. Raises WrongCall.
        """
        self.hooks.add_lifespan(function)
        return function

    def on(self, *events: EndName, **options: Unpack[Given]) -> HandlerDecorator:
        """Have a function called for each run of this queue that ends so: ``@queue.on("failed")``, ``"succeeded"``, or
        both. It gets the run.

        It becomes a job: its runs are put by whoever commits the end, and executed by workers like all others, on the
        route of the run that ended unless ``routes`` says another. At least once for each end; where it raises, its own
        run fails, and the other one stays as it is. For the runs of handlers none is called. All options of ``event``
        but those of schedules. Pools know of it once a worker has imported it. Raises WrongCall.
        """
        from skunkqueue.handlers.declared import check_events, give_handler, handling

        ends = check_events(events)
        checked = Options().changed(options)

        def decorate(function: Any) -> Any:
            if not callable(function):
                raise WrongCall(f"on(...) is for a function of the run that has ended; got {said(function)}")
            handle = handling(function, self, lambda: job, lambda run, record: Run(self, run, None, record))
            job: Job[Any, Any] = self._job(handle, None, checked, {})
            give_handler(job, ends, "routes" in options)
            return job

        return decorate

    def add(self, call: ClassCalls) -> Run[Any] | Runs[Any]:
        """Fire a call of a class that is a job, ``Report()(args)``, or several with ``&``; gives the last run."""
        from skunkqueue.classes import calls_of

        self.last = calls_of(call).fire(self)
        return self.last

    def __iadd__(self, call: ClassCalls) -> Self:
        """``queue += Report()(args)``: the same; its run is ``queue.last``."""
        self.add(call)
        return self

    def put(self, envelopes: Sequence[Envelope], *, via: Any = None) -> list[Run[Any]]:
        """Store runs, in one call if the store takes that; gives their handles.

        A StoreAway holds the runs whose fate is in doubt. A StoreRefused names those that the store does not take;
        the others are stored.
        """
        try:
            ids = self._put_all(envelopes) if via is None else self._put_via(envelopes, via)
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

    def _put_all(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not any(map(_is_limited, envelopes)):
            return put(self.store, envelopes)
        from skunkqueue.limits.turns import put_with_turns

        return put_with_turns(self.store, envelopes, self.now())

    def put_turns(self, envelopes: Iterable[Envelope]) -> None:
        """Have those of these runs started when they are due that have a limit, where they were put without that."""
        limited = [envelope for envelope in envelopes if _is_limited(envelope)]
        if limited:
            from skunkqueue.limits.turns import put_turns

            put_turns(self.store, limited, self.now())

    def _put_via(self, envelopes: Sequence[Envelope], via: Any) -> list[str]:
        if any(map(_is_limited, envelopes)):
            raise WrongCall("via= does not go with a limit or fair_by: these need to know what else is in the store")
        if not self.store.takes_via:
            self.store.refuse_via(via)
        return self.store.put(envelopes, via=via)

    def alive_on(self, routes: Iterable[str]) -> list[str]:
        """The workers alive on any of these routes of this queue."""
        wanted = set(routes)
        workers = self.store.workers(now=self.clock.now_at_last())
        return sorted(worker for worker, about in workers.items() if _serves(about, self.name, wanted))

    # the desk

    def cancel(self, run: Run[Any] | Runs[Any] | str) -> bool:
        """Cancel a run, interrupting it if it runs. Returns whether it did: False if the run had ended before."""
        if isinstance(run, Run | Runs):
            return run.cancel()
        return self.cancel_all([_id_of(run, "cancel")]) > 0

    def cancel_all(self, ids: Iterable[str]) -> int:
        """Cancel runs by id and send the orders to their workers; returns how many were cancelled."""
        now = self.clock.now_at_last()
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
        return self.promote_all([_id_of(run, "promote")]) > 0

    def promote_all(self, ids: Iterable[str]) -> int:
        """Promote runs by id; gives how many that took."""
        now = self.clock.now_at_last()
        found, failed = by_halves(lambda some: self.store.promote(some, now=now), list(ids))
        promoted = [id for some in found for id in some]
        if promoted:
            from skunkqueue.limits.turns import start_limited

            start_limited(self.store, promoted, now)
        _refuse(failed, "promoted")
        return len(promoted)

    def kill_all_by_route(self, route: str) -> int:
        """Cancel what waits on a route, whatever its priority, and interrupt what runs there; gives how many."""
        check_name(route, "route")
        # What runs may go back into the queue while one looks, hence the second look at what is queued.
        routes = [route, *map(address, self.alive_on([route]))]  # what was broadcast lies at the workers' addresses
        states = (*sorted(OPEN), State.QUEUED)
        return sum(self._kill(Filter(self.name, each, state)) for state in states for each in routes)

    def _kill(self, which: Filter) -> int:
        killed, after = 0, None
        while page := self.store.find_brief(which, now=self.clock.now_at_last(), after=after, limit=PAGE, values=0):
            killed += self.cancel_all([record.id for record in page if not is_internal(record.envelope.route)])
            after = page[-1].id
        return killed

    def run(self, id: str) -> Run[Any]:
        """A handle of the run with this id, which was fired here or anywhere else.

        The whole id: whoever knows it has the run, while an ending could be guessed. Raises RunGone where the store has
        no such run on this queue: it never was, or is no longer kept.
        """
        check_id(id)
        record = self.store.get_brief([id]).get(id)
        if record is None or record.envelope.queue != self.name:
            raise RunGone(f"there is no run {printable(id)} on queue {self.name} of {self.url}{_whole_id(id)}")
        return Run(self, id, None, record)

    def runs(
        self, *, state: StateName | None = None, route: str | None = None, limit: int | None = 100
    ) -> list[Run[Any]]:
        """The runs of this queue, newest first; of a state (``scheduled`` too), of a route with all its priorities."""
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise WrongCall(f"limit is a number of runs, or None for all; got {said(limit)}")
        wanted = _state(state)
        which = Filter(self.name, None if route is None else check_name(route, "route"), stored_like(wanted))
        return [Run(self, record.id, None, record) for record in self._find(which, limit, wanted)]

    def _find(self, which: Filter, limit: int | None, state: State | None) -> list[Record]:
        found: list[Record] = []
        after: str | None = None
        while limit is None or len(found) < limit:
            wanted = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self.store.find_brief(which, now=self.clock.now_at_last(), after=after, limit=wanted)
            found += [record for record in page if is_shown(record, state)]
            after = page[-1].id if page else None
            if len(page) < wanted:
                break
        return found

    def count(self) -> dict[State, int]:
        """How many runs of this queue are in each stored state; what is scheduled counts as queued."""
        counted = dict.fromkeys(STORED, 0)
        for (queue, route, state), number in self.store.count().items():
            if queue == self.name and not is_internal(route):
                counted[State(state)] += number
        return counted


EndName = Literal["succeeded", "failed"]
"""How a run may end that a handler is called for."""


class HandlerDecorator(Protocol):
    """What ``queue.on(...)`` gives."""

    def __call__(self, function: Callable[[Run[Any]], R], /) -> Job[[Run[Any]], R]: ...


class Decorator(Protocol):
    """What ``queue.event(...)`` with options gives."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJob[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Job[P, R]: ...


class SpreadDecorator(Protocol):
    """The same for several routes, or for all workers: what the job fires are Runs."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncSpreadJob[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SpreadJob[P, R]: ...


if TYPE_CHECKING:

    class BroadcastQueue(SkunkQueue):
        """What ``SkunkQueue(..., queue_type="broadcast")`` is for a type checker."""

        @overload  # type: ignore[override]
        def event(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncSpreadJob[P, R]: ...
        @overload
        def event(self, function: Callable[P, R], /) -> SpreadJob[P, R]: ...
        @overload
        def event(self, *, name: str | None = None, **options: Unpack[Given]) -> SpreadDecorator: ...
        def event(self, function: Any = None, /, **options: Any) -> Any: ...  # type: ignore[misc]

        job = event  # type: ignore[assignment]


def _check_parameters(given: Iterable[str]) -> None:
    known = ("name", "conn_url", "backend", "dbname", "queue_type", "max_payload")
    for word in given:
        if word not in known:
            hint = "; here it is conn_url" if word in ("url", "broker", "uri", "dsn") else did_you_mean(word, known)
            raise WrongCall(f"SkunkQueue takes no {word!r}{hint}")


def _is_limited(envelope: Envelope) -> bool:
    return "^" in envelope.route and key_of_route(envelope.route) != ""


def _whole_id(id: str) -> str:
    """The end of an error about what may be the end of an id, as skunq shows it."""
    if not re.fullmatch("[0-9a-f]{4,27}", id):
        return ""
    return f"; an id has 28 characters: if this is the end of one, `skunq show {id}` tells the whole of it"


def _id_of(run: object, verb: str) -> str:
    if isinstance(run, str):
        return check_id(run)
    raise WrongCall(f"{verb} is given a run or its id; got {said(run)}")


def _state(state: str | None) -> State | None:
    if state is None:
        return None
    try:
        return State(state)
    except ValueError:
        raise WrongCall(f"there is no state {said(state)}{did_you_mean(state, State)}") from None


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


def _rebuild_at_home(name: str, backend: str, url: str, queue_type: QueueType, max_payload: int) -> SkunkQueue:
    """A queue of the store that its pickle lay in, which may have another host name here."""
    there = home()
    if there is None:
        return _rebuild(name, backend, url, queue_type, max_payload)
    return SkunkQueue(name, there.url, there.backend, queue_type=queue_type, max_payload=max_payload)


def _rebuild(name: str, backend: str, url: str, queue_type: QueueType, max_payload: int) -> SkunkQueue:
    """A queue that came by pickle, with the secrets that this process has for its store."""
    return SkunkQueue(name, full_url(url, name), backend, queue_type=queue_type, max_payload=max_payload)
