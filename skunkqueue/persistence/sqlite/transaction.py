"""One transaction of the SQLite store: what it writes, how it changes the counts, and which keys it announces."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, Final, NamedTuple

from skunkqueue.envelope import Claim, Envelope, Exchange, Outcome, Record, State, Want
from skunkqueue.persistence import EXPIRED, REMEMBERED, WORKER_GONE, Key, RunKey, WorkKey
from skunkqueue.persistence.sqlite import sql as sql
from skunkqueue.persistence.sqlite.rows import (
    LONG,
    LONG_VALUE,
    STATES,
    Lane,
    Row,
    bytes_of,
    claim_of,
    envelope_of,
    lane_of,
    lapses_of,
    mend_ids,
    number_of,
    records_of,
    row_of,
    state_of,
    storable,
    storable_id,
)
from skunkqueue.persistence.sqlite.sql import CANCELLED, FAILED, LANES_AT_ONCE, QUEUED, RUNNING, SUCCEEDED
from skunkqueue.routes import base_route

FEW_LANES: Final = 12
"""Up to so many lanes are looked at without asking which there are."""

EXPIRED_AT_ONCE: Final = 1000
"""How many expired runs one claim ends before it returns what it has."""

UNKNOWN_ROUTE: Final = "its record is damaged: nobody knows its route"

Pair = tuple[Claim, Outcome]
Cursor = sqlite3.Connection | sqlite3.Cursor
"""What a statement can be executed on: a connection of ours, or a cursor of the user's."""


class Met(Exception):
    """A row was not as expected: the transaction is rolled back, and repeated run by run."""


class Transaction:
    """One transaction. ``carefully`` writes run by run, and checks for each whether it was written."""

    def __init__(self, now: float, *, carefully: bool = False) -> None:
        self.now: float = now
        self.late: float = 0.0
        """What was to be added to the times of the call."""
        self.result: Exchange = Exchange(set(), [], None)
        self._write = _write_each if carefully else _write_all
        self._moved: dict[Lane, list[int]] = {}
        self._ended: list[str] = []
        self._queued: set[Lane] = set()

    def delay(self, late: float) -> None:
        """The times of the call were reckoned before the clock was set: add this to them."""
        self.now += late
        self.late = late

    def keys(self) -> set[Key]:
        """The keys to announce: those who wait for one of them are woken."""
        return {*map(RunKey, self._ended), *[WorkKey(q, base_route(r)) for q, r in self._queued]}

    def move(self, lane: Lane, before: int, after: int, n: int = 1) -> None:
        """Note that so many runs went from one state to another."""
        counts = self._moved.setdefault(lane, [0] * len(STATES))
        counts[before] -= n
        counts[after] += n

    def flush(self, db: sqlite3.Connection) -> None:
        """Write the counts, once for each lane."""
        changed = [(*counts, *lane) for lane, counts in self._moved.items() if any(counts)]
        db.executemany(sql.COUNT, changed)

    # commit

    def commit(self, db: sqlite3.Connection, outcomes: Sequence[Pair]) -> set[str]:
        """Write outcomes; returns the ids taken. Raises Met if one was not taken, unless ``carefully``."""
        taken: set[str] = set()
        for kind, pairs in _by_kind(outcomes):
            writing = WRITINGS[kind]
            if self.late and kind == "again":
                pairs = [(c, o if o.due is None else o._replace(due=o.due + self.late)) for c, o in pairs]
            changed = self._write(db, writing.sql, writing.rows(self.now, pairs))
            if changed is None:
                written = [claim for claim, _ in pairs]
            else:
                written = [claim for (claim, _), was in zip(pairs, changed, strict=True) if was]
                taken.update(c.id for (c, _), was in zip(pairs, changed, strict=True) if not was and _bears(db, c))
            taken.update([claim.envelope.id for claim in written])
            _move_bodies(db, pairs)
            self._note(db, writing.state, written)
        return taken

    def _note(self, db: sqlite3.Connection, state: int, written: Sequence[Claim]) -> None:
        """Count and announce runs that changed state; release what they held as open runs."""
        if state == RUNNING:
            return
        lanes = Counter([claim.envelope[1:3] for claim in written])
        for lane, n in lanes.items():
            self.move(lane, RUNNING, state, n)
        if state == QUEUED:
            self._queued.update(lanes)
        else:
            self._ended += [claim.envelope.id for claim in written]
            _release(db, [claim.envelope for claim in written])

    # claim

    def claim(
        self, db: sqlite3.Connection, want: Want, until: float, there: set[Lane] | None = None
    ) -> Iterator[Claim]:
        """Lease what a want may have, route by route; ``there``: the lanes that there are, where that is known."""
        left = want.limit
        if want.repeated:
            held = self._held(db, want, until)
            left -= len(held)
            yield from held
        for route in want.routes:
            if left <= 0:
                return
            if there is not None and (want.queue, route) not in there:
                continue
            rows = self._ripe(db, (want.queue, route), left)
            if rows:
                left -= len(rows)
                yield from self._lease(db, want, route, rows, until)

    def _held(self, db: sqlite3.Connection, want: Want, until: float) -> list[Claim]:
        """The runs that the token holds, leased again, so that none whose lease ended is given out a second time."""
        ids = [id for (id,) in db.execute(sql.HELD, (want.token, want.limit)).fetchall()]
        db.executemany(sql.EXTEND, [(until, id, want.token) for id in ids])
        return [claim_of(record) for record in records_of(db, ids)]

    def _ripe(self, db: sqlite3.Connection, lane: Lane, limit: int) -> list[Row]:
        """The first ``limit`` ripe runs, in order. Expired runs before them are ended."""
        ended = 0
        while ended <= EXPIRED_AT_ONCE:
            rows = db.execute(sql.RIPE, (*lane, self.now, limit)).fetchall()
            if mend_ids(db, [row[0] for row in rows]):
                continue
            over = [row[0] for row in rows if number_of(row[3], inf) <= self.now]
            if not over:
                return rows
            self.end(db, records_of(db, over), EXPIRED)
            ended += len(over)
        return []

    def _lease(self, db: sqlite3.Connection, want: Want, route: str, rows: list[Row], until: float) -> list[Claim]:
        queue, token, worker = want.queue, want.token, want.worker
        db.execute(sql.LEASE, (until, token, storable(worker), queue, route, self.now, len(rows)))
        taken_over = sum([state_of(row[8]) > QUEUED for row in rows])
        self.move((queue, route), QUEUED, RUNNING, len(rows) - taken_over)
        return [
            Claim(
                envelope_of(db, id, queue, route, due, body, expires, unique, keep),
                token, worker, until, lapses_of(lapses) + (state_of(state) > QUEUED), bytes_of(notes or b""),
            )
            for id, due, body, expires, unique, keep, lapses, notes, state in rows
        ]  # fmt: skip

    # the desk

    def end(self, db: sqlite3.Connection, records: Sequence[Record], error: str | None) -> None:
        """End open runs as cancelled, and take their leases away."""
        envelopes = [record.envelope for record in records]
        db.executemany(sql.CANCEL, [(self.now + max(e.keep, REMEMBERED), self.now, error, e.id) for e in envelopes])
        for record in records:
            self.move(lane_of(record), STATES.index(record.state), CANCELLED)
        self._ended += [record.id for record in records]
        _release(db, envelopes)

    def reopen(self, db: sqlite3.Connection, record: Record) -> bool:
        """Queue a failed or cancelled run as if it had never run; returns whether that was possible."""
        envelope = record.envelope
        badly = record.state in (State.FAILED, State.CANCELLED)
        if not badly or (envelope.expires is not None and envelope.expires <= self.now):
            return False
        if envelope.unique is not None and not _take_key(db, envelope):
            return False
        db.execute(sql.REOPEN, (self.now, record.id))
        if envelope.expires is not None:
            db.execute(sql.PUT_EXPIRING, (envelope.expires, envelope.id))
        self.move(lane_of(record), STATES.index(record.state), QUEUED)
        self._queued.add(lane_of(record))
        return True

    def promote(self, db: sqlite3.Connection, record: Record) -> bool:
        """Make a run ripe that is queued for later; returns whether it was."""
        is_later = db.execute(sql.PROMOTE, (self.now, record.id, self.now)).rowcount > 0
        if is_later:
            self._queued.add(lane_of(record))
        return is_later

    def discard(self, db: sqlite3.Connection, id: str) -> bool:
        """Have an ended run kept no longer; returns whether it has ended."""
        return db.execute(sql.DISCARD, (self.now, REMEMBERED, storable_id(id))).rowcount > 0

    # housekeeping

    def purge_kept(self, db: sqlite3.Connection, limit: int) -> int:
        """Delete ended runs past their keep."""
        rows: list[Row] = []
        for state in (SUCCEEDED, FAILED, CANCELLED):
            rows += db.execute(sql.OVER, (-state, self.now, limit - len(rows))).fetchall()
            rows += db.execute(sql.NEVER_OVER, (-state, limit - len(rows))).fetchall()
        if mend_ids(db, [row[0] for row in rows]):
            return self.purge_kept(db, limit)
        db.executemany("DELETE FROM run WHERE id = ?", [(id,) for id, *_ in rows])
        db.executemany("DELETE FROM long WHERE id = ?", [(id,) for id, _, _, is_long in rows if is_long])
        for (lane, state), n in Counter((lane, state) for _, lane, state, _ in rows).items():
            db.execute(sql.COUNT_OUT[state], (n, lane))
        return len(rows)

    def purge_strange(self, db: sqlite3.Connection, limit: int) -> int:
        """Put damaged runs that nobody would find where they belong; what is open, and of no route, is ended."""
        records = records_of(db, [id for (id,) in db.execute(sql.STRANGE, (limit,)).fetchall()])
        for record in records:
            state = STATES.index(record.state)
            lane = db.execute(sql.LANE_NUMBER, lane_of(record)).fetchone()
            if state > RUNNING:
                db.execute(sql.PUT_BACK, (-state, min(record.ripe, self.now + record.envelope.keep), record.id))
            elif lane is not None:
                db.execute(sql.PUT_BACK, (lane[0], self.now, record.id))
            else:
                self.end(db, [record], UNKNOWN_ROUTE)
        return len(records)

    def purge_expired(self, db: sqlite3.Connection, limit: int) -> int:
        """End open runs past their ``expires`` that are not leased."""
        return self._end_all(db, db.execute(sql.PAST_EXPIRES, (self.now, self.now, limit)).fetchall(), EXPIRED)

    def purge_workers(self, db: sqlite3.Connection, limit: int) -> int:
        """Delete workers whose heartbeat has expired, and their orders."""
        gone = db.execute(sql.GONE, (self.now, limit)).fetchall()
        db.executemany(sql.FORGET_WORKER, [(storable_id(name), storable_id(name)) for (name,) in gone])
        # Orders for a worker that never sent a heartbeat would stay for ever.
        db.execute("DELETE FROM told WHERE worker NOT IN (SELECT name FROM worker)")
        return len(gone)

    def purge_addressed(self, db: sqlite3.Connection, limit: int) -> int:
        """End open runs addressed to a worker that is gone."""
        rows: list[Row] = []
        for (lane,) in db.execute(sql.ADDRESSED, (self.now,)).fetchall():
            rows += db.execute(sql.UNLEASED, (lane, self.now, limit)).fetchall()
        return self._end_all(db, sorted(rows)[:limit], WORKER_GONE)

    def _end_all(self, db: sqlite3.Connection, rows: Sequence[Row], error: str) -> int:
        self.end(db, records_of(db, [row[0] for row in rows]), error)
        return len(rows)


# -- putting ---------------------------------------------------------------------------------------------------------


def put_new(db: Cursor, envelopes: Sequence[Envelope]) -> None:
    """Put runs that are all new and have no unique keys. Raises Met if an id exists already."""
    counts: dict[Lane, int] = {}
    for envelope in envelopes:
        lane = envelope[1:3]
        counts[lane] = counts.get(lane, 0) + 1
    lanes = {lane: _count_in(db, lane, n) for lane, n in counts.items()}
    try:
        db.executemany(sql.PUT, [row_of(envelope, lanes[envelope[1:3]]) for envelope in envelopes])
    except sqlite3.IntegrityError as error:
        raise Met from error
    _put_rare(db, envelopes)


def put_one(db: Cursor, envelope: Envelope) -> str:
    """Put one run that may exist already, or whose unique key may be taken; returns the id of the run that counts."""
    if db.execute("SELECT 1 FROM run WHERE id = ?", (envelope.id,)).fetchone():
        return envelope.id
    lane = _count_in(db, (envelope.queue, envelope.route), 1)
    if envelope.unique is not None and not _take_key(db, envelope):
        _count_in(db, (envelope.queue, envelope.route), -1)
        return str(db.execute(sql.KEY_HOLDER, (lane, storable(envelope.unique))).fetchone()[0])
    db.execute(sql.PUT, row_of(envelope, lane))
    _put_rare(db, [envelope])
    return envelope.id


def _count_in(db: Cursor, lane: Lane, n: int) -> int:
    """Add ``n`` to the queued runs of a lane, which is created if needed; returns the lane's number."""
    found = db.execute(sql.COUNT_IN, (n, *lane)).fetchone() or db.execute(sql.NEW_LANE, (n, *lane)).fetchone()
    number: int = found[0]
    return number


def _put_rare(db: Cursor, envelopes: Sequence[Envelope]) -> None:
    """Store what only few runs have: a long body, an expiry."""
    long = [(e.id, e.body) for e in envelopes if len(e.body) >= LONG]
    if long:
        db.executemany(sql.PUT_LONG, long)
    expiring = [(e.expires, e.id) for e in envelopes if e.expires is not None]
    if expiring:
        db.executemany(sql.PUT_EXPIRING, expiring)


def _take_key(db: Cursor, envelope: Envelope) -> bool:
    """Hold the unique key of a run; False where another open run holds it."""
    lane = _count_in(db, (envelope.queue, envelope.route), 0)
    try:
        db.execute(sql.TAKE_KEY, (lane, storable(envelope.unique or ""), envelope.id))
    except sqlite3.IntegrityError:
        return False
    return True


def _release(db: sqlite3.Connection, envelopes: Iterable[Envelope]) -> None:
    """Release the unique keys and expiries of runs that have ended."""
    for envelope in [e for e in envelopes if e.unique is not None or e.expires is not None]:
        if envelope.unique is not None:
            db.execute(sql.RELEASE_KEY, (envelope.id, storable(envelope.unique), envelope.id))
        if envelope.expires is not None:
            db.execute(sql.RELEASE_EXPIRING, (envelope.expires, envelope.id))


# -- committing ------------------------------------------------------------------------------------------------------


def _complete(now: float, pairs: Sequence[Pair]) -> list[Row]:
    return [(_kept(now, c, o), now, o.value, o.notes, c.envelope.id, c.token) for c, o in pairs]


def _failed(now: float, pairs: Sequence[Pair]) -> list[Row]:
    return [(_kept(now, c, o), now, o.value, _text(o.error), o.notes, c.id, c.token) for c, o in pairs]


def _again(now: float, pairs: Sequence[Pair]) -> list[Row]:
    return [(o.due, now, _text(o.error), o.notes, c.id, c.token) for c, o in pairs]


def _untouched(now: float, pairs: Sequence[Pair]) -> list[Row]:
    return [(now, o.notes, c.id, c.token) for c, o in pairs]


def _notes(now: float, pairs: Sequence[Pair]) -> list[Row]:
    return [(o.notes, c.id, c.token) for c, o in pairs]


def _progress(now: float, pairs: Sequence[Pair]) -> list[Row]:
    return [(o.progress, _text(o.note), o.notes, c.id, c.token) for c, o in pairs]


def _kept(now: float, claim: Claim, outcome: Outcome) -> float:
    keep = claim.envelope.keep if outcome.keep is None else outcome.keep
    return now + (keep if keep > REMEMBERED else REMEMBERED)


def _text(text: str | None) -> str | bytes | None:
    return None if text is None else storable(text)


class _Writing(NamedTuple):
    """How an outcome is written: the statement, the state it leads to, and the values, which end in (id, token)."""

    sql: str
    state: int
    rows: Callable[[float, Sequence[Pair]], list[Row]]


WRITINGS: Final[Mapping[str, _Writing]] = {
    "complete": _Writing(sql.COMPLETE, SUCCEEDED, _complete),
    "failed": _Writing(sql.FAIL, FAILED, _failed),
    "again": _Writing(sql.AGAIN, QUEUED, _again),
    "untouched": _Writing(sql.UNTOUCHED, QUEUED, _untouched),
    "started": _Writing(sql.STARTED, RUNNING, _notes),
    "progress": _Writing(sql.PROGRESS, RUNNING, _progress),
}


def _by_kind(outcomes: Sequence[Pair]) -> Sequence[tuple[str, Sequence[Pair]]]:
    """Outcomes in groups of one kind; where one run has several, in the order given."""
    kinds = {outcome.kind for _, outcome in outcomes}
    if len(kinds) == 1:
        return [(kinds.pop(), outcomes)]
    groups: list[tuple[str, list[Pair]]] = []
    latest: dict[str, list[Pair]] = {}
    mixed = len({claim.envelope.id for claim, _ in outcomes}) < len(outcomes)
    for pair in outcomes:
        kind = pair[1].kind
        group = latest.get(kind)
        if group is None or (mixed and groups[-1][0] != kind):
            group = latest[kind] = []
            groups.append((kind, group))
        group.append(pair)
    return groups


def _move_bodies(db: sqlite3.Connection, pairs: Sequence[Pair]) -> None:
    """Keep long values from standing before the bodies of their runs."""
    long = [(claim.id, claim.token) for claim, outcome in pairs if len(outcome.value or b"") >= LONG_VALUE]
    if long:
        db.executemany(sql.MOVE_BODY, long)
        db.executemany(sql.DROP_BODY, long)


def _write_all(db: sqlite3.Connection, statement: str, rows: list[Row]) -> list[bool] | None:
    """Write rows that are all expected to be taken: one fast call. Raises Met if one was not."""
    if db.executemany(statement, rows).rowcount < len(rows):
        raise Met
    return None


def _write_each(db: sqlite3.Connection, statement: str, rows: list[Row]) -> list[bool] | None:
    return [db.execute(statement, row).rowcount > 0 for row in rows]


def _bears(db: sqlite3.Connection, claim: Claim) -> bool:
    """Whether the row still has the claim's token: then this commit repeats an earlier one."""
    return bool(db.execute(sql.BEARER, (claim.id,)).fetchone() == (claim.token,))


def lanes_there(db: sqlite3.Connection, wants: Sequence[Want]) -> set[Lane] | None:
    """Which lanes of these wants there are; None where they are so few that each is just looked at.

    The runs of a limit's key may lie on several routes, of which most keys have one.
    """
    if sum([len(want.routes) for want in wants]) <= FEW_LANES:
        return None
    found: set[Lane] = set()
    for queue in {want.queue for want in wants}:
        routes = [*dict.fromkeys(route for want in wants if want.queue == queue for route in want.routes)]
        for at in range(0, len(routes), LANES_AT_ONCE):
            some = routes[at : at + LANES_AT_ONCE]
            some += some[-1:] * (LANES_AT_ONCE - len(some))  # always one statement, which is prepared once
            found.update((queue, route) for (route,) in db.execute(sql.THERE, (queue, *some)).fetchall())
    return found


def next_ripe(
    db: sqlite3.Connection,
    wants: Sequence[Want],
    claims: Sequence[Claim],
    now: float,
    there: set[Lane] | None = None,
) -> float | None:
    """When to look again: now, if a want was filled (there may be more)."""
    given: Counter[str] = Counter([claim.token for claim in claims])
    if any(0 < want.limit <= given[want.token] for want in wants):
        return now
    lanes: set[Any] = {(want.queue, route) for want in wants for route in want.routes}
    if there is not None:
        lanes &= there
    firsts = (db.execute(sql.NEXT_RIPE, lane).fetchone() for lane in lanes)
    return min((first[0] for first in firsts if first and isinstance(first[0], float)), default=None)
