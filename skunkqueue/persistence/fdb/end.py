"""Writes what becomes of runs: outcomes of claims, and cancel, reopen, promote and discard from the desk.

Each run is read before it is written, with a conflict, and compared with the claim's token or the state that is asked
for. So a write that comes late, or twice, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from skunkqueue.envelope import Claim, Outcome, old_place
from skunkqueue.persistence import kept_at_least
from skunkqueue.persistence.fdb.repair import repair
from skunkqueue.persistence.fdb.rows import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Row
from skunkqueue.persistence.fdb.step import Step
from skunkqueue.persistence.fdb.tokens import forget

Pair = tuple[Claim, Outcome]

LASTING: Final = frozenset({"started", "progress"})
"""The outcomes that do not end a claim."""


def commit(step: Step, outcomes: Sequence[Pair]) -> set[str]:
    """Write outcomes; returns the ids taken: those whose run still bears the claim's token."""
    rows = step.load([claim.id for claim, _ in outcomes])
    taken: set[str] = set()
    for claim, outcome in outcomes:
        row = rows.get(claim.id)
        if row is None or row.damaged or row.token != claim.token:
            continue
        taken.add(claim.id)
        if row.state != RUNNING:  # a repeated commit: it counts as taken, and changes nothing
            continue
        if outcome.notes is not None:
            step.change(row, "notes", outcome.notes)
        _CHANGES[outcome.kind](step, row, outcome)
    over: dict[str, set[str]] = {}
    for claim, outcome in outcomes:
        if outcome.kind not in LASTING:
            over.setdefault(claim.token, set()).add(claim.id)
    forget(step, over)
    return taken


def _complete(step: Step, row: Row, outcome: Outcome) -> None:
    step.change(row, "value", outcome.value)
    step.change(row, "error", None)
    step.end(row, SUCCEEDED, outcome.keep)


def _failed(step: Step, row: Row, outcome: Outcome) -> None:
    step.change(row, "value", outcome.value)
    step.change(row, "error", outcome.error)
    step.end(row, FAILED, outcome.keep)


def _again(step: Step, row: Row, outcome: Outcome) -> None:
    step.change(row, "error", outcome.error)
    _back(step, row, old_place(row.due, step.now) if outcome.due is None else outcome.due)


def _untouched(step: Step, row: Row, outcome: Outcome) -> None:
    _back(step, row, old_place(row.due, step.now))


def _back(step: Step, row: Row, ripe: float) -> None:
    """Back into the queue. The token stays, so that a repeated commit is recognized; the worker is cleared."""
    step.leave(row)
    row.worker, row.state, row.ripe = None, QUEUED, float(ripe)
    step.enter(row)
    step.signal(row)


def _started(step: Step, row: Row, outcome: Outcome) -> None:
    step.write(row)


def _progress(step: Step, row: Row, outcome: Outcome) -> None:
    row.progress = outcome.progress
    step.change(row, "note", outcome.note)
    step.write(row)


_CHANGES: Final[Mapping[str, Callable[[Step, Row, Outcome], None]]] = {
    "complete": _complete,
    "failed": _failed,
    "again": _again,
    "untouched": _untouched,
    "started": _started,
    "progress": _progress,
}


def extend(step: Step, claims: Sequence[Claim], until: float) -> set[str]:
    """Lengthen leases; returns the ids still held."""
    rows = step.load([claim.id for claim in claims])
    held: set[str] = set()
    for claim in claims:
        row = rows.get(claim.id)
        if row is None or row.damaged or row.token != claim.token or row.state != RUNNING:
            continue
        held.add(claim.id)
        if row.ripe < until:
            step.leave(row)
            row.ripe = until
            step.enter(row)
    return held


# -- the desk --------------------------------------------------------------------------------------------------------


def cancel(step: Step, ids: Iterable[str]) -> tuple[list[Row], list[Row]]:
    """Cancel open runs; returns them by id, and those whose long fields are still to be read."""
    wanted = list(ids)
    rows = step.load(wanted)
    cancelled = []
    for id in wanted:
        row = rows.get(id)
        if row is not None and row.damaged:
            row = repair(step, id)
        if row is not None and row.open:
            step.cancel(row, None)
            cancelled.append(row)
    return cancelled, step.fill(cancelled)


def reopen(step: Step, ids: Iterable[str]) -> set[str]:
    """Queue failed or cancelled runs again; returns those that were."""
    wanted = list(ids)
    rows = step.load(wanted)
    badly = [
        row
        for id in wanted
        if (row := rows.get(id)) is not None and row.state in (FAILED, CANCELLED) and not row.expired(step.now)
    ]
    keys = {row.id: step.space.unique(row.lane, row.unique) for row in badly if row.unique is not None}
    asked = {key: step.tr[key] for key in keys.values()}
    taken = {key for key, future in asked.items() if future.value is not None}
    reopened = set()
    for row in badly:
        key = keys.get(row.id)
        if key is not None and key in taken:
            continue
        if key is not None:
            taken.add(key)
        step.reopen(row)
        reopened.add(row.id)
    return reopened


def promote(step: Step, ids: Iterable[str]) -> set[str]:
    """Make runs ripe that are queued for later; returns those that were."""
    wanted = list(ids)
    rows = step.load(wanted)
    later = [
        row
        for id in wanted
        if (row := rows.get(id)) is not None and not row.damaged and row.state == QUEUED and row.ripe > step.now
    ]
    for row in later:
        step.queue(row, step.now)
    return {row.id for row in later}


def discard(step: Step, ids: Iterable[str]) -> set[str]:
    """Have ended runs kept no longer; returns those that have ended."""
    wanted = list(ids)
    rows = step.load(wanted)
    ended = set()
    for id in wanted:
        row = rows.get(id)
        if row is not None and row.damaged:
            row = repair(step, id)
        if row is not None and not row.open:
            step.leave(row)
            row.ripe = min(row.ripe, kept_at_least(row.ended, step.now))
            step.enter(row)
            ended.add(id)
    return ended
