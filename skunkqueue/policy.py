"""The judge: decides the outcome of a run from what happened to it. All policy is here; a store only compares and sets.

Failures and timeouts use up ``retries``; deaths count towards poison; a run that is handed back counts for neither.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgpack

from skunkqueue.durations import LONGEST, Duration, seconds
from skunkqueue.envelope import Claim, Outcome, Seal
from skunkqueue.notes import MOST_DEATHS, NONE, Attempted, Notes, decode_notes, encode_notes

POISON: Final = MOST_DEATHS
"""So many deaths of its workers fail a run."""

FIRST_PAUSE: Final = 0.5
UNASKED_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 15.0
"""Seconds before a run of an unknown job is offered again."""


class Backoff:
    """How long to wait before trying again: ``first``, then ``factor`` times as long each time, at most ``limit``.

    With ``jitter``, a random time between zero and that, so that runs that failed together are not retried at once.
    ``first`` and ``limit`` are seconds, timedeltas or texts like "5m".
    """

    __slots__ = ("factor", "first", "jitter", "limit")

    # Not a dataclass: a worker process imports this module, and dataclasses cost more than all the rest of it.
    def __init__(
        self, first: Duration = 1.0, factor: float = 2.0, limit: Duration = 600.0, jitter: bool = True
    ) -> None:
        self.first: float = seconds(first, "first of Backoff")
        self.factor: float = seconds(factor, "factor of Backoff")
        self.limit: float = seconds(limit, "limit of Backoff")
        self.jitter: bool = bool(jitter)

    def _key(self) -> tuple[float, float, float, bool]:
        return self.first, self.factor, self.limit, self.jitter

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backoff) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[type[Backoff], tuple[float, float, float, bool]]:
        return type(self), self._key()

    def __repr__(self) -> str:
        return f"Backoff(first={self.first:g}, factor={self.factor:g}, limit={self.limit:g}, jitter={self.jitter})"


def delay_after(failures: int, seal: Seal) -> float:
    """Seconds to wait after so many failures (1 or more)."""
    try:
        longest = min(seal.limit, seal.first * seal.factor ** (failures - 1))
    except OverflowError:
        longest = seal.limit
    if not seal.jitter:
        return longest
    from random import uniform  # late: a worker process never asks

    return uniform(0.0, longest)  # noqa: S311 - jitter is no secret


# -- what can happen to a claim that a worker has --------------------------------------------------------------------


class Raised(NamedTuple):
    """The job raised, or could not be called, or its result could not be sent.

    ``final``: trying again is of no use. ``asked``: it raised Retry. ``after``: seconds it wants to wait.
    """

    type: str
    message: str
    traceback: str = ""
    final: bool = False
    asked: bool = False
    after: float | None = None


class TimedOut(NamedTuple):
    """It did not end within its timeout."""

    timeout: float


class Died(NamedTuple):
    """Its worker died. ``how`` names the signal or exit code; ``alone``: nothing else was running in that worker."""

    how: str
    alone: bool = True


class Stopped(NamedTuple):
    """It was interrupted because its worker or pool stops, after it had started."""


class Unknown(NamedTuple):
    """The worker cannot have its job, or not open the run: another worker may, or this one later.

    ``every``: it cannot have any run of that job, so that those need not be asked one by one. ``asked``: it was asked
    about this one.
    """

    message: str
    traceback: str = ""
    every: bool = False
    asked: bool = True


Happening = Raised | TimedOut | Died | Stopped | Unknown


class Entry(NamedTuple):
    """What the judge says of a claim before it runs: an ``outcome`` that ends it, or how it is to be run.

    ``careful``: to be marked as started in the store first. ``alone``: to run with no other beside it, since its worker
    or its pool may have died of it.
    """

    outcome: Outcome | None
    notes: Notes
    careful: bool
    alone: bool = False


def admit(claim: Claim, seal: Seal, now: float = 0.0) -> Entry:
    """Judge a claim before it runs: its past decides whether and how it may run. ``now`` is store time."""
    if not claim.lapses and not claim.notes and not seal.at_most_once:
        return _ORDINARY
    notes = decode_notes(claim.notes)
    if notes.mark is not None and claim.lapses > notes.mark:
        if notes.begun is not None:  # how long it took nobody knows: at most until now
            began, worker = notes.begun
            notes = notes.failed(Attempted(began, max(0.0, now - began), worker, "its pool vanished"))
        notes = notes._replace(starts=notes.starts + 1, deaths=(*notes.deaths, "its pool vanished"), mark=None)
        if seal.at_most_once:
            return Entry(_fail(_VANISHED, seal, notes), notes, False)
        if len(notes.deaths) >= POISON:
            return Entry(_poison(seal, notes), notes, False)
    alone = bool(claim.lapses or notes.suspect)
    return Entry(None, notes, seal.at_most_once or alone, alone)


_ORDINARY: Final = Entry(None, NONE, False)
_VANISHED: Final = Raised("", "its pool vanished while it ran, and at_most_once forbids to run it again", final=True)


def mark(claim: Claim, notes: Notes, now: float | None = None) -> Outcome:
    """What is written before a careful run starts (at ``now``): a lapse after this mark is a death."""
    begun = None if now is None else (now, claim.worker)
    return Outcome.started(notes=encode_notes(notes._replace(mark=claim.lapses, begun=begun)))


def hand_back(notes: Notes, *, marked: bool = False) -> Outcome:
    """A run that was not started goes back with no attempt spent, and without the mark that it may bear."""
    if notes is NONE and not marked:
        return Outcome.untouched()
    return Outcome.untouched(notes=encode_notes(notes._replace(mark=None)))


class Tried(NamedTuple):
    """The attempt that is judged: when it began (store time), how many seconds it took, which worker had it."""

    started: float
    took: float
    worker: str


def judge(
    what: Happening, seal: Seal, notes: Notes, *, now: float, patience: float = 600.0, tried: Tried | None = None
) -> Outcome:
    """What becomes of a run that did not simply return a value. ``now`` is store time, ``patience`` in seconds.

    ``tried`` goes into the history of the run, if it counts as an attempt.
    """
    if tried is not None and (error := _error_of(what)):
        notes = notes.failed(Attempted(*tried, error))
    # Whatever else happens to it, it has started: from here on its job is known.
    notes = notes._replace(mark=None, unknown=notes.unknown if isinstance(what, Unknown) else None)
    if isinstance(what, Raised):
        return _raised(what, seal, notes, now)
    if isinstance(what, TimedOut):
        return _raised(_late(what), seal, notes, now)
    if isinstance(what, Died):
        return _died(what, seal, notes)
    if isinstance(what, Unknown):
        return _unknown(what, seal, notes, now, patience)
    if seal.at_most_once:
        return _fail(Raised("", "interrupted, and at_most_once forbids to run it again"), seal, _started(notes))
    return Outcome.untouched(notes=encode_notes(notes))


def _error_of(what: Happening) -> str:
    """What an attempt failed with; empty where it was none, or is not known to be at fault."""
    if isinstance(what, Raised):
        return _line(what)
    if isinstance(what, TimedOut):
        return _line(_late(what))
    return f"its worker died ({what.how})" if isinstance(what, Died) and what.alone else ""


def _late(what: TimedOut) -> Raised:
    return Raised("TimeoutError", f"did not end within {what.timeout:g} s")


def _raised(what: Raised, seal: Seal, notes: Notes, now: float) -> Outcome:
    counts = seal.retries > 0 or not what.asked
    notes = _started(notes)._replace(failures=notes.failures + counts)
    if what.final or seal.at_most_once or (counts and notes.failures > seal.retries):
        return _fail(what, seal, notes)
    delay = what.after if what.after is not None else delay_after(max(notes.failures, 1), seal)
    return Outcome.again(due=now + min(delay, LONGEST), error=_line(what), notes=encode_notes(notes))


def _died(what: Died, seal: Seal, notes: Notes) -> Outcome:
    if seal.at_most_once:
        return _fail(Raised("", f"its worker died ({what.how})"), seal, _started(notes))
    if not what.alone:
        return Outcome.again(
            error=f"beside it a worker died ({what.how})", notes=encode_notes(notes._replace(suspect=True))
        )
    notes = _started(notes)._replace(deaths=(*notes.deaths, what.how))
    if len(notes.deaths) >= POISON:
        return _poison(seal, notes)
    return Outcome.again(error=f"its worker died ({what.how})", notes=encode_notes(notes))


def _unknown(what: Unknown, seal: Seal, notes: Notes, now: float, patience: float) -> Outcome:
    since = now if notes.unknown is None else notes.unknown
    if now - since >= patience:
        return _fail(Raised("UnknownJob", what.message, what.traceback), seal, notes)
    # At first a short pause, as a worker that knows the job may be waiting for it; then longer and longer ones.
    # A worker puts back a great many unasked, to see what lies behind them: another one is to have them soon.
    first = FIRST_PAUSE if what.asked else UNASKED_PAUSE
    pause = min(max(first, (now - since) / 4), LONGEST_PAUSE, max(0.05, patience / 10), since + patience - now)
    return Outcome.again(due=now + pause, error=what.message, notes=encode_notes(notes._replace(unknown=since)))


def _started(notes: Notes) -> Notes:
    return notes._replace(starts=notes.starts + 1)


def _poison(seal: Seal, notes: Notes) -> Outcome:
    text = f"poison: {len(notes.deaths)} workers died of it ({', '.join(notes.deaths)})"
    return _fail(Raised("", text), seal, notes)


def _fail(what: Raised, seal: Seal, notes: Notes) -> Outcome:
    details = {"type": what.type, "message": what.message, "traceback": what.traceback}
    value: bytes = b"m" + msgpack.packb(details, unicode_errors="replace")
    return Outcome.failed(_line(what), value=value, notes=encode_notes(notes), keep=seal.keep_failed)


def _line(what: Raised) -> str:
    """One line for people."""
    text = f"{what.type}: {what.message}" if what.type and what.message else what.type or what.message
    line = " ".join(text.split())
    return line if len(line) <= 500 else line[:499] + "…"
