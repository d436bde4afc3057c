"""What a run waits for, drawn for ``skunq show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from skunkqueue.errors import PayloadError
from skunkqueue.facts import job_of
from skunkqueue.gates.gate import Gate, gate_id, read

if TYPE_CHECKING:
    from skunkqueue.cli.desk import Desk
    from skunkqueue.envelope import Record

MOST: Final = 20
"""Runs that are told of those that one waits for; of more, how many there are."""
DEEP: Final = 20


def gate_of(desk: Desk, id: str) -> tuple[Gate, Record] | None:
    """The gate of a run, with its own run; None if it waits for nothing, or that is no longer kept."""
    record = desk.store.get([gate_id(id)]).get(gate_id(id))
    try:
        return None if record is None else (read(record.envelope), record)
    except PayloadError:
        return None


def rows(desk: Desk, id: str) -> list[dict[str, Any]]:
    """What a run waits for, for programs."""
    found = gate_of(desk, id)
    ids = [] if found is None else found[0].ids
    records = desk.store.get(ids[:1000])
    return [{"id": one, **_told(records.get(one), desk.now)} for one in ids[:1000]]


def lines(desk: Desk, id: str, deep: int = 0, seen: set[str] | None = None) -> Iterator[str]:
    """What a run waits for, and what that waits for, as an indented list; each only once, where several lead to it."""
    seen = set() if seen is None else seen
    found = gate_of(desk, id)
    if found is None or deep > DEEP:
        return
    gate = found[0]
    some: Sequence[str] = gate.ids[:MOST]
    records = desk.store.get(some)
    for one in some:
        told = _told(records.get(one), desk.now)
        above = "  (above)" if one in seen else ""
        yield f"{'  ' * deep}{one}  {told['state'] or 'no longer kept'}  {told['job'] or ''}".rstrip() + above
        if not above:
            seen.add(one)
            yield from lines(desk, one, deep + 1, seen)
    if len(gate.ids) > MOST:
        yield f"{'  ' * deep}and {len(gate.ids) - MOST:,} more"


def reason(desk: Desk, id: str) -> str:
    """Why the gate of a run cancelled it; empty if it did not."""
    found = gate_of(desk, id)
    return (found[1].error or "") if found is not None else ""


def _told(record: Record | None, now: float) -> dict[str, Any]:
    if record is None:
        return {"state": None, "job": None}
    return {"state": str(record.shown(now)), "job": job_of(record.envelope)}
