"""Where what happened becomes an outcome, and a line of the log that is written once the outcome has been taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Claim, Outcome, Seal, peek_head
from skunkqueue.errors import Corrupt
from skunkqueue.policy import NONE, Died, Happening, Raised, Stopped, TimedOut, admit, hand_back, judge, mark
from skunkqueue.worker.crew import Held, Worker
from skunkqueue.worker.journal import Journal

MOST_ID: Final = 255


class Court:
    """Gathers outcomes, each with its line, until they are carried to the source. All on the engine's thread."""

    def __init__(self, clock: Clock, journal: Journal, patience: float) -> None:
        self._clock = clock
        self._journal = journal
        self._patience = patience
        self.outcomes: list[tuple[Claim, Outcome]] = []
        self.reports: list[str] = []
        self._progress: dict[tuple[str, str], int] = {}  # where among the outcomes the last one of a claim is

    def take(self) -> tuple[list[tuple[Claim, Outcome]], list[str]]:
        """What has gathered: outcomes and, in the same order, their lines."""
        outcomes, self.outcomes = self.outcomes, []
        reports, self.reports = self.reports, []
        self._progress.clear()
        return outcomes, reports

    def note(self, claim: Claim, outcome: Outcome, report: str = "") -> None:
        self.outcomes.append((claim, outcome))
        self.reports.append(report)

    def admit(self, worker: Worker, claim: Claim) -> Held | None:
        """Look at a new claim; None where its past or its bytes already decide its end."""
        try:
            head = peek_head(claim.envelope.body)
            check_id(claim.envelope.id)
        except Corrupt as error:
            outcome = judge(Raised("Corrupt", str(error), final=True), Seal(), NONE, now=self._clock.now())
            self._conclude(worker, claim, "?", outcome, "unread")
            return None
        entry = admit(claim, head.seal)
        name = head.name or head.ref
        if entry.outcome is not None:
            self._conclude(worker, claim, name, entry.outcome, "before it started")
            return None
        return Held(claim, head.seal, entry.notes, name, entry.careful)

    def progress(self, held: Held, fraction: float, note: str) -> None:
        """How far a run has come; of several that gather only the last is told."""
        pair = held.claim, Outcome.at(fraction, note)
        at = self._progress.setdefault((held.claim.id, held.claim.token), len(self.outcomes))
        if at < len(self.outcomes):
            self.outcomes[at] = pair
        else:
            self.note(*pair)

    def mark(self, held: Held) -> None:
        """Have it marked as started in the store."""
        self.note(held.claim, mark(held.claim, held.notes))

    def hand_back(self, worker: Worker, many: Sequence[Held]) -> None:
        """What was not started goes back with no attempt spent."""
        for held in many:
            report = f"{worker.label} handed back {held.claim.id} {held.name}, not started"
            self.note(held.claim, hand_back(held.notes, marked=held.careful), report)

    def judge(self, worker: Worker, held: Held, what: Happening, took: float) -> bool:
        """Judge what happened to a run; False where it is no longer ours to judge."""
        spent = f"after {took * 1000:.2f} ms"
        if held.cause in ("cancel", "lost"):
            claim = held.claim
            self._journal.say(f"{worker.label} stopped {claim.id} {held.name} {spent}: its lease was taken away")
            return False
        outcome = judge(what, held.seal, held.notes, now=self._clock.now(), patience=self._patience)
        self._conclude(worker, held.claim, held.name, outcome, spent)
        if isinstance(what, Raised) and what.traceback and (outcome.kind == "failed" or self._journal.verbose):
            self.reports[-1] += "\n" + what.traceback.rstrip()
        return True

    def judge_death(self, worker: Worker, held: Held, how: str, alone: bool, killed: bool) -> bool:
        """Judge a run whose worker is dead; ``killed`` by this pool, because of one of its runs."""
        took = max(0.0, ticks() - held.since) if held.since else 0.0
        if held.cause:
            return self.judge(worker, held, because(held), took)
        # Where this pool killed it, an innocent neighbour died with the run that was meant.
        return self.judge(worker, held, Stopped() if killed else Died(how, alone), took)

    def _conclude(self, worker: Worker, claim: Claim, name: str, outcome: Outcome, spent: str) -> None:
        if outcome.kind == "failed":
            line = f"failed {claim.id} {name} {spent}: {outcome.error}"
        elif outcome.kind == "again":
            wait = "" if outcome.due is None else f" in {max(0.0, outcome.due - self._clock.now()):.1f} s"
            line = f"retries {claim.id} {name}{wait} {spent}: {outcome.error}"
        else:
            line = f"handed back {claim.id} {name} {spent}"
        self.note(claim, outcome, f"{worker.label} {line}")


def check_id(id: str) -> None:
    """A frame has room for so much. Raises Corrupt."""
    if len(id) > MOST_ID or not id.isascii():
        try:
            size = len(id.encode())
        except UnicodeEncodeError as error:
            raise Corrupt("the run's id is not text") from error
        if size > MOST_ID:
            raise Corrupt(f"the run's id is {size} bytes long, at most {MOST_ID} can be handled")


def because(held: Held) -> Happening:
    """Why it was interrupted."""
    return TimedOut(held.seal.timeout or 0.0) if held.cause == "timeout" else Stopped()
