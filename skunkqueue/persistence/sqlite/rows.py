"""Converts rows of the SQLite store to values and back."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from skunkqueue.envelope import DAY, Claim, Envelope, Record, State
from skunkqueue.persistence import BRIEF as BRIEF_SIZE
from skunkqueue.persistence.sqlite.sql import (
    BEARER,
    BODY,
    BRIEF_AT,
    BRIEF_OF,
    COUNTS,
    FORGET_ID,
    MEND_ID,
    NO_TEXT,
    PLACE_OF_BODY,
    QUEUED,
    RECORD_AT,
    RECORD_OF,
    SAME_ID,
)

STATES: Final = (State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED)

LONG: Final = 700
"""A body of this many bytes or more is stored in a table of its own: a row is written three times, a long body once."""

LONG_VALUE: Final = 2000
"""The body of a run with a value of this many bytes or more is stored elsewhere, too: it would be behind the value."""

EVERY: Final = 1 << 62
"""Values of every size."""

LOST: Final = "?"
"""The queue and route of a run whose lane is missing."""

N = TypeVar("N", float, None)

_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")

Row = tuple[Any, ...]
Lane = tuple[str, str]
Counted = tuple[str, str, tuple[int, ...], int]
"""A lane: its queue, its route, its counts by state, its number."""


def row_of(envelope: Envelope, lane: int) -> Row:
    """The row of a new run."""
    id, _, _, due, body, expires, unique, keep = envelope
    return (
        id, lane, lane, due, due, expires, None if unique is None else storable(unique), keep,
        body if len(body) < LONG else None,
    )  # fmt: skip


def records_of(db: sqlite3.Connection, ids: Iterable[str]) -> list[Record]:
    """The records that exist, in the order of the ids."""
    rows = (_row(db, id, (RECORD_OF, RECORD_AT)) for id in ids)
    return [record_of(db, row) for row in rows if row is not None]


def _row(db: sqlite3.Connection, id: str, statements: tuple[str, str], *before: int) -> Row | None:
    """The row of a run; it may be named by what its id is shown as, if that is no text."""
    found: Row | None = db.execute(statements[0], (*before, storable(id))).fetchone()
    raw = raw_id(id) if found is None else None
    if raw is None:
        return found
    place = db.execute(SAME_ID, (raw, raw)).fetchone()
    return None if place is None else db.execute(statements[1], (*before, place[0])).fetchone()


def briefs_of(db: sqlite3.Connection, ids: Iterable[str]) -> list[Record]:
    """As ``records_of``, with no more of a long body than its start."""
    rows = (_row(db, id, (BRIEF_OF, BRIEF_AT), EVERY) for id in ids)
    return [record_of(db, row, brief=True) for row in rows if row is not None]


def record_of(db: sqlite3.Connection, row: Row, *, brief: bool = False) -> Record:
    id, queue, route, due, body, expires, unique, keep, state, ripe, token, worker, lapses, notes, value, *rest = row
    error, progress, note, ended = rest
    if brief and body is None:
        body = start_of_body(db, id)
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
        readable_id(id), text_of(queue) or LOST, text_of(route) or LOST, number_of(due, 0.0), bytes_of(body),
        number_of(expires, None), None if unique is None else readable(unique), number_of(keep, DAY),
    )  # fmt: skip


def body_of(db: sqlite3.Connection, id: str) -> bytes:
    """A long body; if it is missing, an empty one, which is reported as unreadable when the run is executed."""
    found = db.execute(BODY, (storable_id(id),)).fetchone()
    return b"" if found is None else bytes_of(found[0])


def start_of_body(db: sqlite3.Connection, id: str) -> bytes:
    """The start of a long body, without reading the rest."""
    found = db.execute(PLACE_OF_BODY, (storable_id(id),)).fetchone()
    if found is None:
        return b""
    try:
        with db.blobopen("long", "body", found[0], readonly=True) as blob:
            return blob.read(BRIEF_SIZE)
    except sqlite3.OperationalError:  # it is damaged, a number
        return body_of(db, id)


def is_text(id: object) -> bool:
    """Whether an id can be given to SQLite as text again."""
    return isinstance(id, str) and (id.isascii() or readable(id) == id)


def storable_id(id: object) -> object:
    """An id as it was read, so that it can be given to SQLite again."""
    return id.encode("utf-8", "surrogateescape") if isinstance(id, str) and not is_text(id) else id


def mend_ids(db: sqlite3.Connection, ids: Sequence[object]) -> bool:
    """Give runs whose id is no text the id that they are shown with; returns whether there were any among these."""
    wrong = [id for id in ids if not is_text(id)]
    for id in wrong:
        raw = id if isinstance(id, bytes) else str(id).encode("utf-8", "surrogateescape")
        db.execute(MEND_ID, (readable_id(id), raw, raw))
        db.execute(FORGET_ID, (raw, raw, readable_id(id)))  # where there is a run with that id already
    return bool(wrong)


def raw_id(shown: str) -> bytes | None:
    """The bytes of an id that is shown like that; None if none is."""
    raw = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), shown.encode("utf-8", "surrogatepass"))
    return raw if readable_id(raw) == shown else None


def mend_named(db: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Give runs whose id is no text the id that they are shown with, where they are named by that."""
    absent = [id for id in ids if db.execute(BEARER, (storable(id),)).fetchone() is None]
    mend_ids(db, list(filter(None, map(raw_id, absent))))


def readable_id(id: object) -> str:
    """The id, or of one that is no text what it is shown as."""
    if isinstance(id, str):
        return (
            id
            if id.isascii() or is_text(id)
            else id.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        )
    return id.decode("utf-8", "backslashreplace") if isinstance(id, bytes) else str(id)


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
        return stored if stored.isascii() else stored.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if not isinstance(stored, bytes):
        return str(stored)
    try:
        return stored.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return stored.decode("utf-8", "replace")


def lanes_of(db: sqlite3.Connection) -> list[Counted]:
    """The lanes: queue, route, counts by state, number. A count that is damaged is 0."""
    return [_lane(*row) for row in db.execute(COUNTS).fetchall()]


def lanes_with(db: sqlite3.Connection, queue: str | None, route: str | None, most: int) -> list[Counted]:
    """Up to ``most`` of a queue or route, if given, and possibly some others: of many lanes it reads few.

    In a damaged file a name that is no text sorts after all texts: those are among the others.
    """
    named, names = named_lanes(queue, route)
    where = f"{named} OR {NO_TEXT}" if names else "1"
    return [_lane(*row) for row in db.execute(f"{COUNTS} WHERE {where} LIMIT ?", (*names, most)).fetchall()]


def named_lanes(queue: str | None, route: str | None) -> tuple[str, tuple[str, ...]]:
    """The condition on lanes of a queue and route, if given, that an index answers; with its values."""
    conditions, names = [], []
    if queue is not None:
        conditions.append("queue = ?")
        names.append(queue)
    if route is not None:
        conditions.append("route >= ? AND route < ? AND (route = ? OR route > ?)")
        names += [route, f"{route}_", route, f"{route}^"]  # "_" is what comes after "^"
    return " AND ".join(conditions) or "1", tuple(names)


def _lane(queue: object, route: object, *counts: object) -> Counted:
    *each, number = [n if isinstance(n, int) else 0 for n in counts]
    return text_of(queue) or LOST, text_of(route) or LOST, tuple(each), number
