"""Converts rows of the SQLite store to values and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from skunkqueue.envelope import DAY, Claim, Envelope, Filter, Record, State, base_route
from skunkqueue.persistence.sqlite.sql import (
    BODY,
    COUNTS,
    FIND_SORTING,
    FIND_WALKING,
    FOUND,
    QUEUED,
    RECORD_OF,
    RUNNING,
)

STATES: Final = (State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED)

LONG: Final = 700
"""A body of this many bytes or more is stored in a table of its own: a row is written three times, a long body once."""

FEW: Final = 5000
"""Up to so many runs on a shelf, sorting them is always cheap."""

LOST: Final = "?"
"""The queue and route of a run whose lane is missing."""

N = TypeVar("N", float, None)

LAST: Final = "\U0010ffff"
"""Above every id."""

Row = tuple[Any, ...]
Lane = tuple[str, str]


def row_of(envelope: Envelope, lane: int) -> Row:
    """The row of a new run."""
    id, _, _, due, body, expires, unique, keep = envelope
    return (
        id, lane, due, expires, None if unique is None else storable(unique), keep, body if len(body) < LONG else None
    )  # fmt: skip


def records_of(db: sqlite3.Connection, ids: Iterable[str]) -> list[Record]:
    """The records that exist, in the order of the ids."""
    rows = (db.execute(RECORD_OF, (id,)).fetchone() for id in ids)
    return [record_of(db, row) for row in rows if row is not None]


def record_of(db: sqlite3.Connection, row: Row) -> Record:
    id, queue, route, due, body, expires, unique, keep, state, ripe, token, worker, lapses, notes, value, *rest = row
    error, progress, note, ended = rest
    envelope = envelope_of(db, id, queue, route, due, body, expires, unique, keep)
    return Record(
        envelope, STATES[state_of(state)], number_of(ripe, 0.0), text_of(token), text_of(worker), lapses_of(lapses),
        bytes_of(notes or b""), None if value is None else bytes_of(value), text_of(error), number_of(progress, None),
        text_of(note), number_of(ended, None),
    )  # fmt: skip


def envelope_of(
    db: sqlite3.Connection,
    id: str,
    queue: str,
    route: str,
    due: float,
    body: bytes | None,
    expires: float | None,
    unique: str | bytes | None,
    keep: float,
) -> Envelope:
    if body is None:
        body = body_of(db, id)
    return Envelope(
        id, queue or LOST, route or LOST, number_of(due, 0.0), bytes_of(body), number_of(expires, None),
        None if unique is None else readable(unique), number_of(keep, DAY),
    )  # fmt: skip


def body_of(db: sqlite3.Connection, id: str) -> bytes:
    """A long body; if it is missing, an empty one, which is reported as unreadable when the run is executed."""
    found = db.execute(BODY, (id,)).fetchone()
    return b"" if found is None else bytes_of(found[0])


# A column of SQLite holds values of any type. A damaged value must affect its own run only.


def number_of(stored: object, otherwise: N) -> float | N:
    return float(stored) if isinstance(stored, float | int) else otherwise


def bytes_of(stored: object) -> bytes:
    return stored if isinstance(stored, bytes) else str(stored).encode("utf-8", "replace")


def text_of(stored: object) -> str | None:
    return None if stored is None else readable(stored if isinstance(stored, str | bytes) else str(stored))


def state_of(stored: object) -> int:
    """The number of a state. Any other value counts as queued, so that the run can be claimed or cancelled."""
    return stored if isinstance(stored, int) and 0 <= stored < len(STATES) else QUEUED


def lapses_of(stored: object) -> int:
    return stored if isinstance(stored, int) else 0


def claim_of(record: Record) -> Claim:
    return Claim(record.envelope, record.token or "", record.worker or "", record.ripe, record.lapses, record.notes)


def lane_of(record: Record) -> Lane:
    return record.envelope.queue, record.envelope.route


def storable(text: str) -> str | bytes:
    """Text as SQLite can hold it: as bytes where it is not valid Unicode (a lone surrogate, from a file's name)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def readable(stored: object) -> str:
    if isinstance(stored, str):
        return stored
    if not isinstance(stored, bytes):
        return str(stored)
    try:
        return stored.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return stored.decode("utf-8", "replace")


# -- finding ---------------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A lane's number, and its counts by state."""

    n: int
    counts: tuple[int, ...]


def found(db: sqlite3.Connection, which: Filter, now: float, after: str | None, limit: int) -> list[Record]:
    """The records for ``find``, read in one of two ways: all runs from the newest on, or sorted from their shelves."""
    lanes = [(_Place(n, tuple(counts)), _fits(which, queue, route)) for queue, route, *counts, n in db.execute(COUNTS)]
    places = [place for place, fits in lanes if fits]
    if not places:
        return []
    sorting = which.state is not None and _is_cheaper(which.state, [place for place, _ in lanes], places, limit)
    tests = _tests(which, places, sorting)
    find = (FIND_SORTING if sorting else FIND_WALKING).format(" AND ".join(tests) or "1")
    last = (now,) if which.state == State.SCHEDULED else ()
    rows = db.execute(FOUND.format(find), (LAST if after is None else after, *last, limit)).fetchall()
    return [record_of(db, row) for row in rows]


def _fits(which: Filter, queue: str, route: str) -> bool:
    return which.queue in (None, queue) and which.route in (None, base_route(route))


def _tests(which: Filter, places: Sequence[_Place], sorting: bool) -> list[str]:
    """The conditions of the query; none of them contains text from the caller."""
    tests = []
    if sorting and which.state is not None:
        tests.append(f"shelf IN ({', '.join(map(str, _shelves(which.state, places)))})")
    if which.queue is not None or which.route is not None:
        tests.append(f"lane IN ({', '.join(str(place.n) for place in places)})")
    if which.state is not None:
        tests.append(f"state = {_stored(which.state)}")
    if which.state == State.SCHEDULED:
        tests.append("ripe > ?")
    return tests


def _stored(state: State) -> int:
    return QUEUED if state == State.SCHEDULED else STATES.index(state)


def _shelves(state: State, places: Sequence[_Place]) -> list[int]:
    return [place.n for place in places] if _stored(state) <= RUNNING else [-_stored(state)]


def _is_cheaper(state: State, lanes: Sequence[_Place], places: Sequence[_Place], limit: int) -> bool:
    """Whether sorting the shelves reads fewer rows than reading all runs until enough match."""
    stored = _stored(state)
    matching = sum(place.counts[stored] for place in places)
    if stored <= RUNNING:
        on_shelves = sum(place.counts[QUEUED] + place.counts[RUNNING] for place in places)
    else:
        on_shelves = sum(place.counts[stored] for place in lanes)
    total = sum(sum(place.counts) for place in lanes)
    return on_shelves <= FEW or on_shelves * matching <= limit * total
