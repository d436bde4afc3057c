"""Keeps the gates that a pool has claimed: looks at what they wait for, promotes or cancels the runs behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from skunkqueue.envelope import Claim, Outcome, Record, is_waiting
from skunkqueue.errors import PayloadError
from skunkqueue.gates.gate import LONGEST_LOOK, Gate, Look, Progress, look, next_look, progress_of, read
from skunkqueue.limits.turns import put_turns
from skunkqueue.persistence import Persister

WINDOW: Final = 200
"""Runs that a gate looks at beyond the first that has not ended."""
AT_ONCE: Final = 2000
"""Runs that all gates of one step look at together, about."""


class _Item(NamedTuple):
    claim: Claim
    gate: Gate
    progress: Progress


class Stepped(NamedTuple):
    """What a step did: the outcomes for the gates' claims, how many runs it let go, and which gates await each run.

    ``together``: at how many gates it looked.
    """

    outcomes: list[tuple[Claim, Outcome]]
    released: int
    awaited: dict[str, list[str]]
    together: int = 1


def step_all(store: Persister, claims: Sequence[Claim], now: float) -> Stepped:
    """Look at what these gates wait for."""
    stepped = Stepped([], 0, {}, len(claims))
    items = [item for claim in claims if (item := _read(claim, stepped)) is not None]
    size = max(4, min(WINDOW, AT_ONCE // max(1, len(items))))
    records = _get(store, [id for item in items for id in (item.gate.run, *_window(item.gate, item.progress, size))])
    held = [item for item in items if _is_wanted(item, records, stepped)]
    freed: list[str] = []
    ended: list[str] = []
    for item in held:
        found = _look(store, item, records, size, now)
        stepped.outcomes.append((item.claim, _judged(item, found, records[item.gate.run], now, freed, ended, stepped)))
    if freed:
        store.promote(freed, now=now)
        put_turns(store, [records[id].envelope._replace(due=now) for id in freed], now)
    if ended:
        store.cancel(ended, now=now)
    return stepped._replace(released=len(freed))


def _read(claim: Claim, stepped: Stepped) -> _Item | None:
    try:
        gate = read(claim.envelope)
    except PayloadError as error:
        stepped.outcomes.append((claim, Outcome.failed(str(error))))
        return None
    return _Item(claim, gate, progress_of(gate, claim.notes))


def _is_wanted(item: _Item, records: dict[str, Record], stepped: Stepped) -> bool:
    """Whether the run behind the gate has not ended; else the gate has."""
    record = records.get(item.gate.run)
    if record is not None and record.open:
        return True
    stepped.outcomes.append((item.claim, Outcome.complete(None)))
    return False


def _get(store: Persister, ids: Sequence[str]) -> dict[str, Record]:
    records: dict[str, Record] = {}
    for start in range(0, len(ids), WINDOW):
        records.update(store.get(ids[start : start + WINDOW]))
    return records


def _window(gate: Gate, progress: Progress, size: int) -> Sequence[str]:
    return () if progress.is_open or progress.lost else gate.ids[progress.seen : progress.seen + size]


def _look(store: Persister, item: _Item, records: dict[str, Record], size: int, now: float) -> Look:
    """Look on for as long as all that was looked at has ended."""
    gate, progress = item.gate, item.progress
    if progress.is_open or progress.lost:
        return Look(progress, is_met=progress.is_open, lost=progress.lost)
    found = look(gate, progress, records, size, now)
    while not (found.is_met or found.lost) and found.progress.seen >= progress.seen + size:
        progress, size = found.progress, WINDOW
        found = look(gate, progress, _get(store, _window(gate, progress, size)), size, now)
    return found


def _judged(
    item: _Item, found: Look, run: Record, now: float, freed: list[str], ended: list[str], stepped: Stepped
) -> Outcome:
    gate, progress = item.gate, found.progress
    if found.lost and gate.on_lost == "cancel" and is_waiting(run):  # else somebody has promoted it: it goes on
        if not progress.lost:  # first the reason: who waits for the run reads it as soon as that is cancelled
            return Outcome.again(due=now, error=found.lost, notes=progress._replace(lost=found.lost).packed())
        ended.append(gate.run)
        return Outcome.failed(found.lost)
    if not (found.is_met or found.lost):
        if progress.seen < len(gate.ids):
            stepped.awaited.setdefault(gate.ids[progress.seen], []).append(item.claim.id)
        return Outcome.again(due=next_look(progress, now, stepped.together), notes=progress.packed())
    progress = progress if progress.is_open else progress._replace(is_open=True, since=now)
    if gate.at > now:
        return Outcome.again(due=gate.at, notes=progress.packed())
    if is_waiting(run):
        freed.append(gate.run)
    return Outcome.again(due=now + LONGEST_LOOK, notes=progress.packed())
