"""Handles of runs: a Run, or the Runs of several routes; and the current run within a job."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, overload

from skunkqueue.clock import ticks
from skunkqueue.codec import decode_value
from skunkqueue.durations import seconds
from skunkqueue.envelope import Envelope, Record, State
from skunkqueue.errors import JobCancelled, JobFailed, RunGone, SkunkError, StoreAway, WaitTimeout, WrongCall
from skunkqueue.watcher import fetch

if TYPE_CHECKING:
    from skunkqueue.queue import SkunkQueue

R = TypeVar("R")

GLANCE: Final = 1.0
"""Seconds after which a waiter looks again, woken or not: a wake-up is a hint and may be missed."""


class Run(Generic[R]):
    """One firing of a job on one route.

    ``state``, ``result`` and the like ask the store; if it is away, they return what was known last. They never block
    for long and never raise. ``wait`` and ``await run`` return the value.
    """

    __slots__ = ("__weakref__", "_absent", "_envelope", "_queue", "_record", "_settled", "_value", "id")

    def __init__(
        self, queue: SkunkQueue, id: str, envelope: Envelope | None = None, record: Record | None = None
    ) -> None:
        self.id = id
        self._queue = queue
        self._envelope = envelope  # of a run fired here, so that it can be put again
        self._record = record
        self._settled = record is not None and record.state == State.SUCCEEDED
        self._absent = False
        self._value: tuple[R] | None = None

    def __repr__(self) -> str:
        return f"<Run {self.id} {'' if self._record is None else self._record.state}>".replace(" >", ">")

    # what is known of it

    @property
    def state(self) -> State:
        """``scheduled``, ``queued``, ``running``, ``succeeded``, ``failed`` or ``cancelled``."""
        _glance([self])
        return self._shown()

    @property
    def result(self) -> R | None:
        """The value, once the run succeeded and as far as it can be read here; else None."""
        _glance([self])
        return self._result()

    @property
    def error(self) -> str | None:
        """In one line, why it failed or was cancelled, or why it is tried again."""
        _glance([self])
        return None if self._record is None else self._record.error

    @property
    def attempts(self) -> int:
        """How often it was started, this time included."""
        _glance([self])
        return 0 if self._record is None else attempts(self._record)

    @property
    def due(self) -> datetime | None:
        """When it was asked to run, in local time."""
        if self._envelope is None and self._record is None:
            _glance([self])
        envelope = self._envelope or (None if self._record is None else self._record.envelope)
        return None if envelope is None else datetime.fromtimestamp(envelope.due, UTC).astimezone()

    @property
    def progress(self) -> float | None:
        """The progress that the job last reported, from 0 to 1; None before that."""
        _glance([self])
        return None if self._record is None else self._record.progress

    @property
    def note(self) -> str | None:
        """The note that the job reported with its progress."""
        _glance([self])
        return None if self._record is None else self._record.note

    # what can be done with it

    def wait(self, timeout: float | timedelta | None = None) -> R:
        """Wait for the value; ``timeout`` is seconds or a timedelta, None for as long as it takes.

        Raises JobFailed, JobCancelled, RunGone, WaitTimeout (a TimeoutError), or a PayloadError where the value cannot
        be read here. While the store is away it goes on trying.
        """
        _wait([self], timeout)
        return self._outcome()

    def cancel(self) -> bool:
        """Cancel the run, interrupting it if it runs. Returns whether it did: False if the run had ended before."""
        return not self._settled and self._queue.cancel_all([self.id]) > 0

    def promote(self) -> bool:
        """Have it start now, if it is scheduled or waits for its retry. Returns whether it did."""
        return not self._settled and self._queue.promote_all([self.id]) > 0

    def fire(self) -> Run[R]:
        """Put the same run again, after an error that left unknown whether it is stored. It is never stored twice."""
        return _fire_again([self])[0]

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        await _all_ended([self])
        return self._outcome()

    # from the record

    def _saw(self, record: Record | None) -> None:
        self._absent = record is None
        if record is not None:
            self._record = record
            self._settled = self._settled or record.state == State.SUCCEEDED

    def _shown(self) -> State:
        if self._record is None:
            return State.QUEUED
        return self._record.shown(self._queue.clock.now()) if self._record.open else self._record.state

    def _result(self) -> R | None:
        try:
            return self._read() if self._settled and self._succeeded() else None
        except SkunkError:
            return None

    def _succeeded(self) -> bool:
        return self._record is not None and self._record.state == State.SUCCEEDED

    def _read(self) -> R:
        if self._value is None:
            data = None if self._record is None else self._record.value
            self._value = (cast(R, None if data is None else decode_value(data)),)
        return self._value[0]

    def _outcome(self) -> R:
        """The value of a run that ended, or why there is none."""
        if self._record is None or (self._absent and not self._settled):
            raise RunGone(f"run {self.id} is no longer kept, or never reached the store")
        if self._succeeded():
            return self._read()
        if self._record.state == State.CANCELLED:
            raise JobCancelled(self._record.error or "cancelled")
        raise _failure(self._record)


def inert(queue: SkunkQueue, envelope: Envelope, reason: str) -> Run[Any]:
    """A run that is never put."""
    record = Record(envelope, State.CANCELLED, envelope.due, error=reason)
    run: Run[Any] = Run(queue, envelope.id, None, record)
    run._settled = True
    return run


def _fire_again(runs: Sequence[Run[R]]) -> list[Run[R]]:
    again: dict[int, Run[R]] = {}
    stores = _by_store(runs)
    envelopes = [[_envelope_of(run) for run in some] for some in stores]
    for some, envelopes_there in zip(stores, envelopes, strict=True):
        fired = some[0]._queue.put(envelopes_there)
        again.update((id(run), new) for run, new in zip(some, fired, strict=True))
    return [again[id(run)] for run in runs]


def _envelope_of(run: Run[Any]) -> Envelope:
    if run._envelope is None:
        raise WrongCall(f"run {run.id} was not fired from here, so it cannot be fired again from here")
    return run._envelope


def attempts(record: Record) -> int:
    """How often it was started, this time included."""
    from skunkqueue.policy import decode_notes  # late: whoever only fires need not load the judge

    counted = decode_notes(record.notes).starts
    return counted + (record.state in (State.RUNNING, State.SUCCEEDED))


def _failure(record: Record) -> JobFailed:
    line = record.error or "failed"
    try:
        details = decode_value(record.value) if record.value else {}
        told = [str(details.get(name, "")) for name in ("type", "message", "traceback")]
    except (SkunkError, AttributeError):
        told = ["", "", ""]
    kind, message, trace = told
    return JobFailed(message or ("" if kind else line), kind, trace)


# -- looking and waiting ---------------------------------------------------------------------------------------------


def look(runs: Sequence[Run[Any]]) -> None:
    """Ask the store, once, about all of them that may have changed. Raises what the store raises."""
    for changing in _by_store(run for run in runs if not run._settled):
        records = fetch(changing[0]._queue.store, [run.id for run in changing])
        for run in changing:
            run._saw(records.get(run.id))


def _by_store(runs: Iterable[Run[R]]) -> list[list[Run[R]]]:
    """The runs of each store, in the order given."""
    found: dict[int, list[Run[R]]] = {}
    for run in runs:
        found.setdefault(id(run._queue.connection), []).append(run)
    return list(found.values())


def _glance(runs: Sequence[Run[Any]]) -> None:
    with suppress(SkunkError):
        for some in _by_store(run for run in runs if not run._settled):
            with suppress(SkunkError):  # then what was known last has to do; another store may be there
                look(some)


def _wait(runs: Sequence[Run[Any]], timeout: float | timedelta | None) -> None:
    """Return when all have ended or are gone. Raises WaitTimeout."""
    limit = math.inf if timeout is None else ticks() + seconds(timeout, "timeout")
    left = list(runs)
    pause = 0.05
    while left:
        away: StoreAway | None = None
        try:
            left = _unended(left, min(limit - ticks(), GLANCE))
            if left:
                _rest(left, limit)
            pause = 0.05
        except StoreAway as error:
            away = error
        if away is not None:
            time.sleep(min(pause, _rest(left, limit, away)))
            pause = min(2 * pause, GLANCE)


def _unended(runs: list[Run[Any]], patience: float) -> list[Run[Any]]:
    """Those that have not ended, when the last of them has, or after so many seconds."""
    last = runs[-1]
    if not last._settled:
        last._saw(last._queue.store.await_end(last.id, patience))
    look(runs[:-1])
    return [run for run in runs if not run._settled and not run._absent and run._record and run._record.open]


def _rest(left: list[Run[Any]], limit: float, away: StoreAway | None = None) -> float:
    """Seconds until the limit. Raises WaitTimeout when there are none."""
    rest = limit - ticks()
    if rest > 0:
        return rest
    first = left[0]
    why = "the store is away" if away is not None else f"it is {first._shown()}"
    others = f" ({len(left) - 1} others neither)" if len(left) > 1 else ""
    raise WaitTimeout(f"run {first.id} has not ended within the time given{others}: {why}") from away


async def _all_ended(runs: Sequence[Run[Any]]) -> None:
    """Await the end of all, on the store's watcher thread."""
    for waiting in _by_store(run for run in runs if not run._settled):
        records = await waiting[0]._queue.watcher.ended([run.id for run in waiting])
        for run in waiting:
            run._saw(records.get(run.id))


# -- several -------------------------------------------------------------------------------------------------------


_RANK: Final = {
    state: rank
    for rank, state in enumerate(
        (State.SCHEDULED, State.QUEUED, State.RUNNING, State.FAILED, State.CANCELLED, State.SUCCEEDED)
    )
}
"""The least advanced first, then the worst."""


class Runs(Sequence[Run[R]], Generic[R]):
    """The runs of one firing on several routes or workers, or of a ``fire_many``; in that order."""

    __slots__ = ("__weakref__", "runs")

    def __init__(self, runs: Sequence[Run[R]] = ()) -> None:
        self.runs = list(runs)

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, at: int) -> Run[R]: ...
    @overload
    def __getitem__(self, at: slice) -> Runs[R]: ...
    def __getitem__(self, at: int | slice) -> Run[R] | Runs[R]:
        return Runs(self.runs[at]) if isinstance(at, slice) else self.runs[at]

    def __iter__(self) -> Iterator[Run[R]]:
        return iter(self.runs)

    def __repr__(self) -> str:
        return f"<Runs of {len(self.runs)}>"

    @property
    def state(self) -> State:
        """The state of the least advanced, then of the worst. Of no runs at all: ``succeeded``."""
        _glance(self.runs)
        return min((run._shown() for run in self.runs), key=_RANK.__getitem__, default=State.SUCCEEDED)

    @property
    def results(self) -> list[R | None]:
        """The values in order, None for those that have none (yet)."""
        _glance(self.runs)
        return [run._result() for run in self.runs]

    @property
    def result(self) -> list[R | None]:
        """The same as ``results``, so that whoever holds a handle need not know of which kind."""
        return self.results

    @property
    def error(self) -> str | None:
        """The first error there is."""
        _glance(self.runs)
        return next((run._record.error for run in self.runs if run._record and run._record.error), None)

    def wait(self, timeout: float | timedelta | None = None) -> list[R]:
        """The values in order, when all have ended. Raises the first failure, as ``Run.wait`` does."""
        _wait(self.runs, timeout)
        return [run._outcome() for run in self.runs]

    def cancel(self) -> bool:
        """Cancel all; returns whether any was cancelled."""
        stores = _by_store(run for run in self.runs if not run._settled)
        return sum([some[0]._queue.cancel_all([run.id for run in some]) for some in stores]) > 0

    def promote(self) -> bool:
        """Have those start now that are scheduled or wait for their retry; returns whether there were any."""
        waiting = [run for run in self.runs if not run._settled]
        return bool(waiting) and waiting[0]._queue.promote_all([run.id for run in waiting]) > 0

    def fire(self) -> Runs[R]:
        """Put the very same runs again, as ``Run.fire``."""
        return Runs(_fire_again(self.runs))

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self._awaited().__await__()

    async def _awaited(self) -> list[R]:
        await _all_ended(self.runs)
        return [run._outcome() for run in self.runs]


# -- from inside -----------------------------------------------------------------------------------------------------

LONGEST_NOTE: Final = 500


class CurrentRun:
    """The run that a job is inside of."""

    __slots__ = ("_report", "attempt", "id")

    def __init__(self, id: str, attempt: int, report: Callable[[float, str], None]) -> None:
        self.id = id
        self.attempt = attempt
        self._report = report

    def __repr__(self) -> str:
        return f"<CurrentRun {self.id} attempt {self.attempt}>"

    def progress(self, fraction: float, note: str = "") -> None:
        """Tell whoever asks (``run.progress``, ``skunq show``) how far it is, from 0 to 1; a note is cut at 500."""
        number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
        if not number or not 0 <= fraction <= 1:
            raise WrongCall(f"progress is a number from 0 to 1; got {fraction!r}")
        self._report(float(fraction), str(note)[:LONGEST_NOTE])


_current: ContextVar[CurrentRun | None] = ContextVar("skunkqueue_current_run", default=None)


def current_run() -> CurrentRun:
    """The run that this code is executed for: its id, attempt, and ``progress``. Raises WrongCall outside of a job."""
    current = _current.get()
    if current is None:
        raise WrongCall("current_run() is for code that a worker executes, on the thread or task of the job itself")
    return current


def set_current(current: CurrentRun | None) -> None:
    """Say which run the code of this thread or task is executed for."""
    _current.set(current)
