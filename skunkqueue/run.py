"""Handles of runs: a Run, or the Runs of several routes; and the current run within a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, overload

from skunkqueue import facts
from skunkqueue.codec import decode_value
from skunkqueue.connection import at_home
from skunkqueue.durations import Duration
from skunkqueue.envelope import GATED, Envelope, Record, State
from skunkqueue.errors import JobCancelled, JobFailed, RunGone, SkunkError, WaitTimeout, WrongCall
from skunkqueue.persistence import BRIEF
from skunkqueue.printable import said
from skunkqueue.times import as_datetime, as_local
from skunkqueue.waiting import all_ended, by_store, glance, wait_for

if TYPE_CHECKING:
    from skunkqueue.queue import SkunkQueue

R = TypeVar("R")


class Run(Generic[R]):
    """One firing of a job on one route.

    ``state``, ``result`` and the like ask the store; if it is away, they return what was known last. They never block
    for long and never raise, but for the ``state`` of a run of which nothing is known but an id that the store does not
    have (RunGone). ``wait`` and ``await run`` return the value.

    All handles of one run are equal. A handle can be pickled: where it is unpickled it uses the connection that the
    process there has to the same store.
    """

    __slots__ = ("__weakref__", "_absent", "_envelope", "_queue", "_record", "_settled", "_value", "id")

    def __init__(
        self, queue: SkunkQueue, id: str, envelope: Envelope | None = None, record: Record | None = None
    ) -> None:
        self.id: str = id
        self._queue = queue
        self._envelope = envelope  # of a run fired here, so that it can be put again
        self._record = record
        self._settled = record is not None and record.state == State.SUCCEEDED
        self._absent = False
        self._value: tuple[R] | None = None

    def __repr__(self) -> str:
        return f"<Run {self.id} {'' if self._record is None else self._record.state}>".replace(" >", ">")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Run):
            return NotImplemented
        return self.id == other.id and self._queue.name == other._queue.name

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> Any:
        # Without the value: it is read from the record again, and need not be something that can be pickled.
        flags = {"_settled": self._settled, "_absent": self._absent}
        return type(self), (self._queue, self.id, self._envelope, self._record), (None, flags)

    if not TYPE_CHECKING:  # a checker knows what is there

        def __getattr__(self, name: str) -> Any:
            from skunkqueue.elsewhere import OF_A_RUN, unknown_attribute  # late: only mistakes need it

            return unknown_attribute(self, name, OF_A_RUN)

    # what is known of it

    @property
    def state(self) -> State:
        """``waiting``, ``scheduled``, ``queued``, ``running``, ``succeeded``, ``failed`` or ``cancelled``."""
        glance([self])
        return self._shown()

    @property
    def result(self) -> R | None:
        """The value, once the run succeeded and as far as it can be read here; else None."""
        glance([self])
        return self._result()

    @property
    def error(self) -> str | None:
        """In one line, why it failed or was cancelled, or why it is tried again."""
        glance([self])
        return self._error()

    @property
    def attempts(self) -> int:
        """How often it was started, this time included."""
        glance([self])
        return 0 if self._record is None else attempts(self._record)

    @property
    def due(self) -> datetime | None:
        """When it was asked to run, in local time; None for a run that waits, or waited, for others."""
        if self._envelope is None and self._record is None:
            glance([self])
        envelope = self._envelope or (None if self._record is None else self._record.envelope)
        return None if envelope is None or envelope.due == GATED else as_local(as_datetime(envelope.due))

    @property
    def progress(self) -> float | None:
        """The progress that the job last reported, from 0 to 1; None before that."""
        glance([self])
        return None if self._record is None else self._record.progress

    @property
    def note(self) -> str | None:
        """The note that the job reported with its progress."""
        glance([self])
        return None if self._record is None else self._record.note

    # the call, and how it went

    @property
    def job(self) -> str | None:
        """The name of the job; None if the envelope cannot be read here."""
        envelope = self._sealed()
        return None if envelope is None else facts.job_of(envelope)

    @property
    def args(self) -> tuple[Any, ...] | None:
        """The arguments by position, where they are plain. None where they are pickled: see ``open_call``."""
        return None if (call := self._call()) is None else call.args

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The arguments by name, where they are plain. None where they are pickled: see ``open_call``."""
        return None if (call := self._call()) is None else call.kwargs

    @property
    def headers(self) -> dict[str, str]:
        """The texts by name that ``options(headers=...)`` sent along."""
        envelope = self._sealed()
        return {} if envelope is None else facts.headers(envelope)

    def open_call(self) -> facts.Arguments:
        """The arguments (``args`` and ``kwargs``), unpickled where need be, once their signature has been checked.

        Raises BadSignature or another PayloadError where they cannot be had here, and RunGone.
        """
        envelope = self._sealed()
        if envelope is None:
            raise RunGone(f"there is no run {self.id}: it never was, or is no longer kept")
        return facts.opened_arguments(envelope)

    @property
    def started(self) -> datetime | None:
        """When its last attempt started, in local time; None before that, or where nobody has told."""
        glance([self])
        if self._record is None:
            return None
        found = facts.times(self._record)
        since = self._running_since() if self._record.state == State.RUNNING else found and found[0]
        return None if since is None else as_local(as_datetime(since))

    @property
    def took(self) -> float | None:
        """Seconds that its last attempt took, once that has ended."""
        glance([self])
        if self._record is None or self._record.state == State.RUNNING:
            return None
        found = facts.times(self._record)
        return None if found is None else found[1]

    @property
    def worker(self) -> str | None:
        """The worker that has it or had it last, as its log calls it (``foo.1``); None before the first."""
        glance([self])
        return None if self._record is None or not self._record.worker else facts.worker_label(self._record.worker)

    @property
    def history(self) -> list[facts.Attempt]:
        """The attempts that have ended, oldest first, each with its error; of very many, the last ones."""
        glance([self])
        return [] if self._record is None else facts.history(self._record)

    def _sealed(self) -> Envelope | None:
        if self._envelope is not None:
            return self._envelope
        if self._record is None:
            glance([self])
        if self._record is None or len(self._record.envelope.body) < BRIEF:
            return None if self._record is None else self._record.envelope
        with suppress(SkunkError):  # long bodies are read only when they are asked for
            whole = self._queue.store.get([self.id]).get(self.id)
            self._envelope = whole.envelope if whole is not None else None
        return self._envelope or self._record.envelope

    def _call(self) -> facts.Arguments | None:
        envelope = self._sealed()
        return None if envelope is None else facts.arguments_of(envelope)

    def _running_since(self) -> float | None:
        with suppress(SkunkError):
            if self._record is not None:
                return facts.running_since(self._record, self._queue.store.workers(now=self._now()))
        return None

    @property
    def after(self) -> Runs[Any]:
        """The runs that it waits for, or waited for; those of the same queue. Empty if there are none."""
        from skunkqueue.gates.gate import gate_id, read

        with suppress(SkunkError):
            record = self._queue.store.get([gate_id(self.id)]).get(gate_id(self.id))
            if record is not None:
                return Runs([Run[Any](self._queue, id) for id in read(record.envelope).ids])
        return Runs()

    # what can be done with it

    def wait(self, timeout: Duration | None = None) -> R:
        """Wait for the value. ``timeout``: seconds, a timedelta or a text like "5m", 0 or less for a look, None for as
        long as it takes. After two seconds, stderr is told where no worker serves the route.

        Raises JobFailed, JobCancelled, RunGone, WaitTimeout (a TimeoutError), or a PayloadError where the value cannot
        be read here. While the store is away it goes on trying.
        """
        wait_for([self], timeout)
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
        await all_ended([self])
        return self._outcome()

    # from the record

    def _saw(self, record: Record | None) -> None:
        self._absent = record is None
        if record is not None:
            self._record = record
            self._settled = self._settled or record.state == State.SUCCEEDED

    def _is_open(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return not self._settled and not self._absent and (self._record is None or self._record.open)

    def _shown(self) -> State:
        if self._record is None:
            if self._absent and self._envelope is None:
                raise RunGone(f"there is no run {self.id}: it never was, or is no longer kept")
            return State.QUEUED
        return self._record.shown(self._now()) if self._record.open else self._record.state

    def _now(self) -> float:
        try:
            return self._queue.clock.now_at_last()
        except SkunkError:
            return time.time()

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
            with at_home(self._queue.address):
                self._value = (cast(R, None if data is None else decode_value(data)),)
        return self._value[0]

    def _error(self) -> str | None:
        return None if self._record is None else self._record.error or self._why_cancelled()

    def _why_cancelled(self) -> str | None:
        """The reason that its gate gave, if it waited for others."""
        record = self._record
        if record is None or record.state != State.CANCELLED or record.envelope.due != GATED:
            return None
        from skunkqueue.gates.gate import gate_id

        with suppress(SkunkError):
            gate = self._queue.store.get([gate_id(self.id)]).get(gate_id(self.id))
            return None if gate is None else gate.error
        return None

    def _outcome(self) -> R:
        """The value of a run that ended, or why there is none."""
        if self._record is None or (self._absent and not self._settled):
            raise RunGone(f"run {self.id} is no longer kept, or never reached the store")
        if self._succeeded():
            return self._read()
        if self._record.open:  # who was promoted does not wait for it any more
            state = self._shown()
            raise WaitTimeout(f"run {self.id} has not ended: it is {state}", str(state), self._record.error)
        if self._record.state == State.CANCELLED:
            raise JobCancelled(self._record.error or self._why_cancelled() or "cancelled")
        raise _failure(self._record)


def inert(queue: SkunkQueue, envelope: Envelope, reason: str) -> Run[Any]:
    """A run that is never put."""
    record = Record(envelope, State.CANCELLED, envelope.due, error=reason)
    run: Run[Any] = Run(queue, envelope.id, None, record)
    run._settled = True
    return run


def _fire_again(runs: Sequence[Run[R]]) -> list[Run[R]]:
    again: dict[int, Run[R]] = {}
    stores = by_store(runs)
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
    from skunkqueue.notes import decode_notes  # late: whoever only fires need not load the judge

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


# -- several -------------------------------------------------------------------------------------------------------


_RANK: Final = {
    state: rank
    for rank, state in enumerate(
        (State.WAITING, State.SCHEDULED, State.QUEUED, State.RUNNING, State.FAILED, State.CANCELLED, State.SUCCEEDED)
    )
}
"""The least advanced first, then the worst."""


class Runs(Sequence[Run[R]], Generic[R]):
    """The runs of one firing on several routes or workers, or of a ``fire_many``; in that order."""

    __slots__ = ("__weakref__", "runs")

    def __init__(self, runs: Sequence[Run[R]] = ()) -> None:
        self.runs: list[Run[R]] = list(runs)

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

    def __eq__(self, other: object) -> bool:
        return self.runs == other.runs if isinstance(other, Runs) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.runs))

    def __reduce__(self) -> Any:
        return type(self), (self.runs,)

    @property
    def state(self) -> State:
        """The state of the least advanced, then of the worst. Of no runs at all: ``succeeded``."""
        glance(self.runs)
        return min((run._shown() for run in self.runs), key=_RANK.__getitem__, default=State.SUCCEEDED)

    @property
    def results(self) -> list[R | None]:
        """The values in order, None for those that have none (yet)."""
        glance(self.runs)
        return [run._result() for run in self.runs]

    @property
    def result(self) -> list[R | None]:
        """The same as ``results``, so that whoever holds a handle need not know of which kind."""
        return self.results

    @property
    def error(self) -> str | None:
        """The first error there is."""
        glance(self.runs)
        return next((error for run in self.runs if (error := run._error())), None)

    def wait(self, timeout: Duration | None = None) -> list[R]:
        """The values in order, when all have ended. Raises the first failure, as ``Run.wait`` does."""
        wait_for(self.runs, timeout)
        return [run._outcome() for run in self.runs]

    def cancel(self) -> bool:
        """Cancel all; returns whether any was cancelled."""
        stores = by_store(run for run in self.runs if not run._settled)
        return sum([some[0]._queue.cancel_all([run.id for run in some]) for some in stores]) > 0

    def promote(self) -> bool:
        """Have those start now that are scheduled or wait for their retry; returns whether there were any."""
        stores = by_store(run for run in self.runs if not run._settled)
        return sum([some[0]._queue.promote_all([run.id for run in some]) for some in stores]) > 0

    def fire(self) -> Runs[R]:
        """Put the very same runs again, as ``Run.fire``."""
        return Runs(_fire_again(self.runs))

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self._awaited().__await__()

    async def _awaited(self) -> list[R]:
        await all_ended(self.runs)
        return [run._outcome() for run in self.runs]


# -- from inside -----------------------------------------------------------------------------------------------------

LONGEST_NOTE: Final = 500


class CurrentRun:
    """The run that a job is inside of: its ``id``, ``attempt`` (from 1), the name of its ``job``, its ``headers``, and
    the ``state`` that the queue's lifespans have made in this worker.
    """

    __slots__ = ("_report", "attempt", "headers", "id", "job", "state")

    def __init__(
        self,
        id: str,
        attempt: int,
        report: Callable[[float, str], None],
        job: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
        state: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.id: str = id
        self.attempt: int = attempt
        self.job: str = job
        self.headers: Mapping[str, str] = headers
        self.state: Mapping[str, Any] = state
        self._report = report

    def __repr__(self) -> str:
        return f"<CurrentRun {self.id} attempt {self.attempt}>"

    def progress(self, fraction: float, note: str = "") -> None:
        """Tell whoever asks (``run.progress``, ``skunq show``) how far it is, from 0 to 1; a note is cut at 500."""
        number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
        if not number or not 0 <= fraction <= 1:
            raise WrongCall(f"progress is a number from 0 to 1; got {said(fraction)}")
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
