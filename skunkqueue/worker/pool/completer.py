"""Makes outcomes from what happened to runs, each with a log entry to write once the source has taken it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Final

import msgpack

from skunkqueue.clock import Clock, ticks
from skunkqueue.codec import timed
from skunkqueue.durations import span
from skunkqueue.envelope import Claim, Outcome, Seal, open_body, open_head, peek_head
from skunkqueue.errors import Corrupt, PayloadError
from skunkqueue.notes import NONE
from skunkqueue.policy import Died, Happening, Raised, Stopped, TimedOut, Tried, Unknown, admit, hand_back, judge, mark
from skunkqueue.referred import by_value
from skunkqueue.worker import frames
from skunkqueue.worker.pool.log import Log
from skunkqueue.worker.pool.log_entry import ERROR, INFO, WARNING, LogEntry
from skunkqueue.worker.pool.renewal import modules_of
from skunkqueue.worker.pool.slot import Held, JobKey, Slot

MOST_ID: Final = 255
MOST_UNKNOWN: Final = 1000
"""Jobs that no worker here can have, remembered so that each is logged once."""


class Completer:
    """Collects outcomes, each with its log entry, until they are sent. All on the engine's thread.

    ``is_timed``: the source is a store, and keeps with each run when it ran and for how long.
    """

    def __init__(
        self, clock: Clock, log: Log, patience: float, in_process: bool = True, *, is_timed: bool = False
    ) -> None:
        self.is_timed = is_timed
        self._in_process = in_process
        self._clock = clock
        self._log = log
        self._patience = patience
        self._unknown: set[tuple[str, str]] = set()  # jobs and why a worker cannot have them, as logged
        self.outcomes: list[tuple[Claim, Outcome]] = []
        self.reports: list[LogEntry | None] = []
        self.gone: Callable[[Claim], None] = lambda claim: None
        """Is told of runs that end without an outcome, as their lease was taken away."""
        self._progress: dict[tuple[str, str], int] = {}  # index of a claim's progress among the outcomes

    def take(self) -> tuple[list[tuple[Claim, Outcome]], list[LogEntry | None]]:
        """Take the outcomes and, in the same order, their reports."""
        outcomes, self.outcomes = self.outcomes, []
        reports, self.reports = self.reports, []
        self._progress.clear()
        return outcomes, reports

    def note(self, claim: Claim, outcome: Outcome, report: LogEntry | None = None) -> None:
        self.outcomes.append((claim, outcome))
        self.reports.append(report)

    def admit(self, slot: Slot, claim: Claim) -> Held | None:
        """Check a new claim; None if its past or its bytes already decide its outcome."""
        try:
            head = peek_head(claim.envelope.body)
            check_id(claim.envelope.id)
            if not self._in_process and type(claim.envelope.body) is not bytes:
                claim = claim._replace(envelope=by_value(claim.envelope))
        except PayloadError as error:
            raised = Raised(type(error).__name__, str(error), final=True)
            outcome = judge(raised, Seal(), NONE, now=self._clock.now())
            self._conclude(slot, claim, "?", outcome, "unread")
            return None
        entry = admit(claim, head.seal, self._clock.now() if claim.lapses else 0.0)
        name = head.name or head.ref
        if entry.outcome is not None:
            self._conclude(slot, claim, name, entry.outcome, "and is not run again")
            return None
        held = Held(claim, head.seal, entry.notes, name, entry.careful, entry.alone)
        known = slot.unknown.get(job_key(claim)) if slot.unknown else None
        if known is not None and known.holds():
            self.judge(slot, held, known.what._replace(asked=False), 0.0)
            return None
        return held

    def progress(self, held: Held, fraction: float, note: str) -> None:
        """Note a run's progress. Of several that wait to be sent, only the last is kept."""
        pair = held.claim, Outcome.at(fraction, note)
        at = self._progress.setdefault((held.claim.id, held.claim.token), len(self.outcomes))
        if at < len(self.outcomes):
            self.outcomes[at] = pair
        else:
            self.note(*pair)

    def mark(self, held: Held) -> None:
        """Have the run marked as started in the store."""
        self.note(held.claim, mark(held.claim, held.notes, self._clock.now() if self.is_timed else None))

    def hand_back(self, slot: Slot, many: Sequence[Held]) -> None:
        """Hand back runs that were not started; no attempt is counted.

        Later runs may be on their way to this slot. They are handed back too, or they would run first.
        """
        for held in many:
            slot.gave_back = True
            outcome = hand_back(held.notes, marked=held.careful)
            self.note(held.claim, outcome, told(slot, "handed back", held.claim, held.name, ", not started"))

    def judge(self, slot: Slot, held: Held, what: Happening, took: float) -> bool:
        """Judge what happened to a run; False if its lease was taken away, so that it is not ours to judge."""
        spent = f"after {span(took)}"
        if held.cause in ("cancel", "lost"):
            verb, text = ("cancelled", "") if held.cause == "cancel" else ("stopped", ": its lease was taken away")
            self._log.say_all([told(slot, verb, held.claim, held.name, f" {spent}{text}", took=took)])
            self.gone(held.claim)
            return False
        if isinstance(what, Unknown):
            self._tell_unknown(slot, held, what)
        if held.importing and isinstance(what, Stopped):
            self.hand_back(slot, [held])
            return True
        now = self._clock.now()
        tried = Tried(now - took, took, slot.name) if self.is_timed else None
        outcome = judge(what, held.seal, held.notes, now=now, patience=self._patience, tried=tried)
        traceback = ""
        if isinstance(what, Raised | Unknown) and (outcome.kind == "failed" or self._log.verbose):
            traceback = what.traceback
        level = INFO if isinstance(what, Unknown) else WARNING
        if isinstance(what, Unknown) and not what.asked and outcome.kind == "again" and not self._log.verbose:
            self.note(held.claim, outcome)  # there may be very many, and of their job it has been told
            return True
        self._conclude(slot, held.claim, held.name, outcome, spent, took=took, traceback=traceback, level=level)
        return True

    def _tell_unknown(self, slot: Slot, held: Held, what: Unknown) -> None:
        """Say, once for each job and reason, that a worker cannot have it."""
        slot.learn_strange(job_key(held.claim) if what.every else None, what)
        key = (held.name, what.message)
        if key in self._unknown:
            return
        text = f"{slot.label} cannot run {held.name}; its runs wait up to {self._patience:g} s for a worker that can: "
        self._log.say(
            text + what.message + ("" if self._in_process else _folder()),
            what="unknown job", worker=slot.label, level=ERROR, error=what.message, traceback=what.traceback,
        )  # fmt: skip
        if len(self._unknown) >= MOST_UNKNOWN:
            self._unknown.clear()
        self._unknown.add(key)

    def forget_unknown(self) -> None:
        """New workers may have what those before them could not, or still not: then that is said again."""
        self._unknown.clear()

    def judge_death(self, slot: Slot, held: Held, how: str, alone: bool, killed: bool) -> bool:
        """Judge a run whose worker is dead; ``killed`` by this pool, because of one of its runs."""
        took = max(0.0, ticks() - held.since) if held.since else 0.0
        if held.importing and not killed:
            return self.judge(slot, held, Unknown(f"its worker died ({how}) while it imported the job"), took)
        if held.cause:
            return self.judge(slot, held, because(held), took)
        # If this pool killed the worker because of another run, this one counts as stopped.
        return self.judge(slot, held, Stopped() if killed else Died(how, alone), took)

    def base(self) -> float:
        """What store time is ahead of the ticks. Only for a run that has ended: before the first claim, the clock would
        have to ask the store, which may hang.
        """
        return self._clock.now() - ticks()

    def _conclude(
        self,
        slot: Slot,
        claim: Claim,
        name: str,
        outcome: Outcome,
        spent: str,
        *,
        took: float | None = None,
        traceback: str = "",
        level: int = WARNING,
    ) -> None:
        error = outcome.error or ""
        if outcome.kind == "failed":
            what, text, level = "failed", f" {spent}: {error}", ERROR
        elif outcome.kind == "again":
            wait = "" if outcome.due is None else f" in {span(max(0.0, outcome.due - self._clock.now()))}"
            what, text = "retries", f"{wait} {spent}: {error}"
        else:
            what, text, level, error = "handed back", f" {spent}", INFO, ""
        report = told(slot, what, claim, name, text, took=took, error=error, traceback=traceback, level=level)
        self.note(claim, outcome, report)


def _folder() -> str:
    """In which folder this pool's workers are, as the end of a sentence; nothing where it is gone."""
    with contextlib.suppress(OSError):
        return f"; its folder is {os.getcwd()}"
    return ""


def job_key(claim: Claim) -> JobKey:
    """Which job it is. All scripts have one module name, and so by value it is the function that counts."""
    try:
        body = open_body(claim.envelope.body)
    except Corrupt:  # whoever opens it reports that
        return "", 0
    return open_head(body.head).ref, hash(body.code)


def told(
    slot: Slot,
    what: str,
    claim: Claim,
    name: str,
    text: str = "",
    *,
    took: float | None = None,
    error: str = "",
    traceback: str = "",
    level: int = INFO,
) -> LogEntry:
    """The log entry about a run; ``text`` ends the sentence that the other fields begin."""
    id = claim.envelope.id
    return LogEntry(what, slot.label, id, name, took, text, id, error, traceback, level)


def taken(slot: Slot, held: Held) -> LogEntry:
    """The log entry about a claim that is handed to a worker."""
    id = held.claim[0][0]
    return tuple.__new__(LogEntry, ("took", slot.label, id, held.name, None, "", id, "", "", INFO))


def refused(claim: Claim, report: LogEntry | None) -> LogEntry:
    """The log entry about a run whose outcome the source did not take."""
    return (report or LogEntry(run=claim.id, text=claim.id)).refused()


def not_kept(claim: Claim, report: LogEntry | None, reason: str) -> LogEntry:
    """The log entry about a run that failed because the source could not store its outcome."""
    told = report or LogEntry(run=claim.id)
    return told._replace(
        what="failed", text=f": {reason}", subject=claim.id, error=reason, took=None, traceback="", level=ERROR
    )


def check_id(id: str) -> None:
    """Raise Corrupt for an id that a frame cannot hold."""
    if len(id) > MOST_ID or not id.isascii():
        try:
            size = len(id.encode())
        except UnicodeEncodeError as error:
            raise Corrupt("the run's id is not text") from error
        if size > MOST_ID:
            raise Corrupt(f"the run's id is {size} bytes long, at most {MOST_ID} can be handled")


def because(held: Held) -> Happening:
    """Why it was interrupted."""
    if held.importing and held.cause == "timeout":
        return Unknown(f"its job was not imported within its timeout of {held.seal.timeout:g} s")
    return TimedOut(held.seal.timeout or 0.0) if held.cause == "timeout" else Stopped()


# -- reading the frames of workers ----------------------------------------------------------------------------------


class Reader:
    """Reads the frames of workers for the completer. ``look`` is called when the engine should look for more work,
    ``announced`` with the schedules that a worker's code declares.
    """

    def __init__(
        self,
        completer: Completer,
        look: Callable[[], None],
        broken: Callable[[str], None],
        announced: Callable[[Slot, bytes], None] = lambda slot, data: None,
    ) -> None:
        self._announced = announced
        self._completer = completer
        self._look = look
        self._broken = broken

    def take_in(self, slot: Slot, data: bytes, starts: Sequence[int]) -> None:
        """Read whole frames; ``starts`` are their offsets in the data."""
        count, total = 0, 0.0
        outcomes, reports = self._completer.outcomes, self._completer.reports
        is_timed, base = self._completer.is_timed, None
        label, entry = slot.label, tuple.__new__  # what NamedTuple does, without the call
        for start in starts:
            length, kind, number = frames.HEAD.unpack_from(data, start)
            if kind == frames.STARTED:
                slot.begun(number, frames.ONE.unpack_from(data, start + frames.PREFIX)[0])
                continue
            if kind != frames.DONE:
                _READERS[kind](self, slot, number, data[start + frames.PREFIX : start + 4 + length])
                continue
            _, _, _, at, took, size = frames.DONE_HEAD.unpack_from(data, start)
            held = slot.ended(number, at)
            if held is None:
                continue
            count += 1
            total += took
            if slot.unknown:
                slot.unknown.clear()  # perhaps what it imported for this run makes others known as well
            if held.cause == "stop":
                self._judge(slot, held, Stopped(), took)
                continue
            middle = start + frames.DONE_HEAD.size + size
            text = data[middle - size : middle].decode("utf-8", "replace")
            value = data[middle : start + 4 + length]
            if is_timed:
                base = self._completer.base() if base is None else base
                value = timed(value, base + at - took, took)
            outcomes.append((held.claim, Outcome("complete", value)))
            id = held.claim[0][0]
            reports.append(entry(LogEntry, ("finished", label, id, held.name, took, text, id, "", "", INFO)))
        if count:
            slot.learn(count, total)

    def _judge(self, slot: Slot, held: Held, what: Happening, took: float) -> None:
        if not self._completer.judge(slot, held, what, took):
            self._look()  # with no outcome to send, nothing else would make the engine look

    def _raised(self, slot: Slot, number: int, rest: bytes) -> None:
        held, took = self._ended(slot, number, rest)
        if held is not None:
            what: Happening = Raised(*msgpack.unpackb(rest[16:], use_list=False))
            self._judge(slot, held, because(held) if held.cause in ("stop", "timeout") else what, took)

    def _unknown(self, slot: Slot, number: int, rest: bytes) -> None:
        at, took = frames.TWO.unpack_from(rest)
        held = slot.ended(number, at)
        if held is not None:
            slot.imported -= modules_of(held.claim)
            self._judge(slot, held, Unknown(*msgpack.unpackb(rest[16:], use_list=False)), took)

    def _importing(self, slot: Slot, number: int, rest: bytes) -> None:
        held = slot.held.get(number)
        if held is not None:
            held.importing = rest == b"\x01"
            if not held.importing:
                slot.imported |= modules_of(held.claim)  # an Unknown that follows takes it back

    def _interrupted(self, slot: Slot, number: int, rest: bytes) -> None:
        held, took = self._ended(slot, number, rest)
        if held is not None:
            self._judge(slot, held, because(held), took)

    def _ended(self, slot: Slot, number: int, rest: bytes) -> tuple[Held | None, float]:
        at, took = frames.TWO.unpack_from(rest)
        held = slot.ended(number, at)
        slot.learn(1, took)
        return held, took

    def _progress(self, slot: Slot, number: int, rest: bytes) -> None:
        held = slot.held.get(number)
        if held is not None:
            fraction = frames.ONE.unpack_from(rest)[0]
            self._completer.progress(held, fraction, rest[8:].decode("utf-8", "replace"))

    def _ready(self, slot: Slot, number: int, rest: bytes) -> None:
        slot.ready = True
        slot.failed_starts = 0
        self._look()

    def _schedules(self, slot: Slot, number: int, rest: bytes) -> None:
        self._announced(slot, rest)

    def _cannot_start(self, slot: Slot, number: int, rest: bytes) -> None:
        slot.broken = rest.decode("utf-8", "replace")
        self._broken(slot.broken)


_READERS: Final[dict[int, Callable[[Reader, Slot, int, bytes], None]]] = {
    frames.READY: Reader._ready,
    frames.BROKEN: Reader._cannot_start,
    frames.RAISED: Reader._raised,
    frames.UNKNOWN: Reader._unknown,
    frames.INTERRUPTED: Reader._interrupted,
    frames.PROGRESS: Reader._progress,
    frames.IMPORTING: Reader._importing,
    frames.SCHEDULES: Reader._schedules,
}
