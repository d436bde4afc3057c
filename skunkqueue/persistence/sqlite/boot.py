"""The clock that all processes of this machine share. The file keeps it in one row: the base of this boot."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from math import isfinite

from skunkqueue.clock import ticks
from skunkqueue.persistence.sqlite import sql
from skunkqueue.persistence.sqlite.rows import Row, number_of
from skunkqueue.persistence.steps import STEP, first_id_at, is_at_once, measured


def boot_id() -> str | None:
    """The id of this boot of the machine; None if it is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None


def base_of(db: sqlite3.Connection, boot: str) -> float | None:
    """The base that this boot's processes share, if there is one yet."""
    found = db.execute(sql.CLOCK, (boot,)).fetchone()
    base = None if found is None else number_of(found[0], None)
    return base if base is not None and isfinite(base) else None


def follow(db: sqlite3.Connection, boot: str) -> float:
    """Make the base follow the wall clock, within a transaction; returns the base."""
    old, new = base_of(db, boot), measured()
    if old is not None and abs(new - old) < STEP:
        return old
    if old is None:
        _end_all(db, new + ticks())
    else:
        anchor = number_of(db.execute(sql.CLOCK, (boot,)).fetchone()[1], 0.0)
        anchor = anchor if isfinite(anchor) else 0.0
        _move(db, old, new, old + anchor)
    db.execute("DELETE FROM clock")
    db.execute(sql.SET_CLOCK, (boot, new, ticks()))
    return new


def _end_all(db: sqlite3.Connection, now: float) -> None:
    """After a reboot: end all leases and heartbeats, because no process that held one is left."""
    for (lane,) in db.execute(sql.BUSY_LANES).fetchall():
        db.execute(sql.END_LEASES, (now, lane))
    db.execute(sql.END_BEATS, (now,))


def _move(db: sqlite3.Connection, old: float, new: float, since: float) -> None:
    """After the wall clock was set: move leases and heartbeats, so that they last as long as before.

    ``since`` is when the old base was taken, as shown by the old clock.
    """
    step, was, now = new - old, old + ticks(), new + ticks()
    for (lane,) in db.execute(sql.BUSY_LANES).fetchall():
        db.execute(sql.MOVE_LEASES, (step, lane))
    db.execute(sql.MOVE_BEATS, (step,))
    if step < 0:
        sent = db.execute(sql.SENT_AFTER, (first_id_at(now),)).fetchall()
    else:
        sent = db.execute(sql.WOULD_EXPIRE, (was, now, first_id_at(since), first_id_at(was + 1))).fetchall()
    _move_sent(db, sent, step)


def _move_sent(db: sqlite3.Connection, sent: Sequence[Row], step: float) -> None:
    """Move runs that a wrong clock fired to run as soon as possible: else they would be due late, or have expired."""
    for id, due, expires in sent:
        if not is_at_once(id, number_of(due, 0.0)):
            continue
        db.execute(sql.MOVE_DUE, (step, step, step, id))
        if expires is not None:
            db.execute(sql.RELEASE_EXPIRING, (expires, id))
            db.execute(sql.PUT_EXPIRING, (expires + step, id))
