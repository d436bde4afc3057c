"""The judge: decides the outcome of a run from what happened to it. All policy is here; a store only compares and sets.

Failures and timeouts use up ``retries``; deaths count towards poison; a run that is handed back counts for neither.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, NamedTuple

import msgpack

from skunkqueue.durations import seconds
from skunkqueue.envelope import Claim, Outcome, Seal

POISON: Final = 3
"""So many deaths of its workers fail a run."""

MOST_NOTES: Final = 4096


class Backoff:
    """How long to wait before trying again: ``first``, then ``factor`` times as long each time, at most ``limit``.

    With ``jitter``, a random time between zero and that, so that runs that failed together are not retried at once.
    ``first`` and ``limit`` are seconds or timedeltas.
    """

    __slots__ = ("factor", "first", "jitter", "limit")

    # Not a dataclass: a worker process imports this module, and dataclasses cost more than all the rest of it.
    def __init__(
        self, first: float | timedelta = 1.0, factor: float = 2.0, limit: float | timedelta = 600.0, jitter: bool = True
    ) -> None:
        self.first = seconds(first, "first of Backoff")
        self.factor = seconds(factor, "factor of Backoff")
        self.limit = seconds(limit, "limit of Backoff")
        self.jitter = bool(jitter)

    def _key(self) -> tuple[float, float, float, bool]:
        return self.first, self.factor, self.limit, self.jitter

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backoff) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

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


class Notes(NamedTuple):
    """What the judge must remember of a run from pool to pool.

    ``starts`` that ended otherwise than well, ``failures`` that spent a retry, ``deaths`` with their signals,
    ``mark``: the lapses at the time it was marked as started, or None; ``unknown``: when a worker first did not know
    its job; ``suspect``: it was running beside others when their worker died, so it is run alone.
    """

    starts: int = 0
    failures: int = 0
    deaths: tuple[str, ...] = ()
    mark: int | None = None
    unknown: float | None = None
    suspect: bool = False


NONE: Final = Notes()


def decode_notes(notes: bytes) -> Notes:
    """Read notes. Unreadable notes count as none, so that they do not stop the run."""
    if not notes:
        return NONE
    try:
        starts, failures, deaths, mark, unknown, suspect = msgpack.unpackb(notes, use_list=False)
        return Notes(int(starts), int(failures), tuple(map(str, deaths)), mark, unknown, bool(suspect))
    except Exception:
        return NONE


def encode_notes(notes: Notes) -> bytes:
    """Write notes, within the size a store takes."""
    deaths = tuple(death[:100] for death in notes.deaths[-POISON:])
    packed: bytes = msgpack.packb(tuple(notes._replace(deaths=deaths)))
    return packed[:MOST_NOTES]


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
    """The worker does not know its job."""

    message: str


Happening = Raised | TimedOut | Died | Stopped | Unknown


class Entry(NamedTuple):
    """What the judge says of a claim before it runs: an ``outcome`` that ends it, or how it is to be run.

    ``careful``: to be marked as started in the store first, and to run alone.
    """

    outcome: Outcome | None
    notes: Notes
    careful: bool


def admit(claim: Claim, seal: Seal) -> Entry:
    """Judge a claim before it runs: its past decides whether and how it may run."""
    if not claim.lapses and not claim.notes and not seal.at_most_once:
        return _ORDINARY
    notes = decode_notes(claim.notes)
    if notes.mark is not None and claim.lapses > notes.mark:
        notes = notes._replace(starts=notes.starts + 1, deaths=(*notes.deaths, "its pool vanished"), mark=None)
        if seal.at_most_once:
            return Entry(_fail(_VANISHED, seal, notes), notes, False)
        if len(notes.deaths) >= POISON:
            return Entry(_poison(seal, notes), notes, False)
    return Entry(None, notes, bool(seal.at_most_once or claim.lapses or notes.suspect))


_ORDINARY: Final = Entry(None, NONE, False)
_VANISHED: Final = Raised("", "its pool vanished while it ran, and at_most_once forbids to run it again", final=True)


def mark(claim: Claim, notes: Notes) -> Outcome:
    """What is written before a careful run starts: a lapse after this mark is a death."""
    return Outcome.started(notes=encode_notes(notes._replace(mark=claim.lapses)))


def hand_back(notes: Notes, *, marked: bool = False) -> Outcome:
    """A run that was not started goes back with no attempt spent, and without the mark that it may bear."""
    if notes is NONE and not marked:
        return Outcome.untouched()
    return Outcome.untouched(notes=encode_notes(notes._replace(mark=None)))


def judge(what: Happening, seal: Seal, notes: Notes, *, now: float, patience: float = 600.0) -> Outcome:
    """What becomes of a run that did not simply return a value. ``now`` is store time, ``patience`` in seconds."""
    notes = notes._replace(mark=None)
    if isinstance(what, Raised):
        return _raised(what, seal, notes, now)
    if isinstance(what, TimedOut):
        text = f"did not end within {what.timeout:g} s"
        return _raised(Raised("TimeoutError", text), seal, notes, now)
    if isinstance(what, Died):
        return _died(what, seal, notes)
    if isinstance(what, Unknown):
        return _unknown(what, seal, notes, now, patience)
    if seal.at_most_once:
        return _fail(Raised("", "interrupted, and at_most_once forbids to run it again"), seal, _started(notes))
    return Outcome.untouched(notes=encode_notes(notes))


def _raised(what: Raised, seal: Seal, notes: Notes, now: float) -> Outcome:
    counts = seal.retries > 0 or not what.asked
    notes = _started(notes)._replace(failures=notes.failures + counts)
    if what.final or seal.at_most_once or (counts and notes.failures > seal.retries):
        return _fail(what, seal, notes)
    delay = what.after if what.after is not None else delay_after(max(notes.failures, 1), seal)
    return Outcome.again(due=now + delay, error=_line(what), notes=encode_notes(notes))


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
        return _fail(Raised("UnknownJob", what.message), seal, notes)
    pause = min(15.0, max(0.05, patience / 10), since + patience - now)
    return Outcome.again(due=now + pause, error=what.message, notes=encode_notes(notes._replace(unknown=since)))


def _started(notes: Notes) -> Notes:
    return notes._replace(starts=notes.starts + 1, unknown=None)


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
