"""SQLite: one file, one table that matters; the store for one machine, and the one people meet first."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote

from skunkqueue.clock import ticks
from skunkqueue.envelope import (
    Claim,
    Envelope,
    Exchange,
    Filter,
    Order,
    Outcome,
    Record,
    State,
    Want,
    base_route,
)
from skunkqueue.errors import StoreError, WrongCall
from skunkqueue.persistence import (
    EXPIRED,
    REMEMBERED,
    WORKER_GONE,
    Persister,
    run_key,
    url_path,
    work_key,
    worker_key,
)
from skunkqueue.persistence.sqlite_file import File
from skunkqueue.persistence.sqlite_wake import Bell, Ear, kind_of

default_cfg = {"backend": "sqlite", "conn_url": "", "dbname": ""}

STATES: Final = (State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED)
QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = range(5)
ENDED_SHELF: Final = 0

LONG: Final = 700
"""Bytes of a body from which on it lies in a table of its own: a row is written three times, a long body once."""

EXPIRED_AT_ONCE: Final = 1000
"""How many expired runs one claim ends before it gives what it has."""

LOOK = 0.05
"""Seconds between looks at the file's version while waiting: the safety net under the wake-up sockets."""

SLEW: Final = 0.02
"""How fast the store's clock may follow a wall clock that was set: seconds per second."""

Pair = tuple[Claim, Outcome]
Lane = tuple[str, str]
Rows = list[tuple[Any, ...]]

# -- SQL -------------------------------------------------------------------------------------------------------------

COUNTED = "UPDATE lane SET queued = queued + ? WHERE queue = ? AND route = ? RETURNING n"
NEW_LANE = "INSERT INTO lane (queued, queue, route) VALUES (?, ?, ?) RETURNING n"
COUNT = """
    UPDATE lane SET queued = queued + ?, running = running + ?, succeeded = succeeded + ?, failed = failed + ?,
        cancelled = cancelled + ?
    WHERE queue = ? AND route = ?"""
LANE = "(SELECT n FROM lane WHERE queue = ? AND route = ?)"

PUT = """
    INSERT INTO run (id, lane, shelf, ripe, due, expires, uniq, keep, body)
    VALUES (?1, ?2, ?2, ?3, ?3, ?4, ?5, ?6, ?7)"""
PUT_LONG = "INSERT INTO long (id, body) VALUES (?, ?)"
PUT_EXPIRING = "INSERT OR IGNORE INTO expiring (expires, id) VALUES (?, ?)"
TAKE_KEY = "INSERT INTO taken (lane, uniq, id) VALUES (?, ?, ?)"
KEY_HOLDER = "SELECT id FROM taken WHERE lane = ? AND uniq = ?"

RIPE = f"""
    SELECT id, due, body, expires, uniq, keep, state + lapses, notes FROM run
    WHERE shelf = {LANE} AND ripe <= ? ORDER BY ripe, id LIMIT ?"""
LEASE = f"""
    UPDATE run SET lapses = lapses + state, state = {RUNNING}, ripe = ?, token = ?, worker = ?
    WHERE id IN (SELECT id FROM run WHERE shelf = {LANE} AND ripe <= ? ORDER BY ripe, id LIMIT ?)"""
TAKEN_OVER = f"""
    SELECT count(*) FROM (SELECT state FROM run WHERE shelf = {LANE} AND ripe <= ? ORDER BY ripe, id LIMIT ?)
    WHERE state = {RUNNING}"""
NEXT_RIPE = f"SELECT ripe FROM run WHERE shelf = {LANE} ORDER BY ripe LIMIT 1"
HELD = f"SELECT id FROM run WHERE token = ? AND state = {RUNNING} ORDER BY id LIMIT ?"

MINE = f"WHERE id = ? AND token = ? AND state = {RUNNING}"
EXTEND = f"UPDATE run SET ripe = max(ripe, ?) {MINE}"
BEARER = "SELECT token FROM run WHERE id = ?"
COMPLETE = f"""
    UPDATE run SET shelf = {ENDED_SHELF}, state = {SUCCEEDED}, ripe = ?, ended = ?, value = ?, error = NULL,
        notes = ifnull(?, notes) {MINE}"""
FAIL = f"""
    UPDATE run SET shelf = {ENDED_SHELF}, state = {FAILED}, ripe = ?, ended = ?, value = ?, error = ?,
        notes = ifnull(?, notes) {MINE}"""
AGAIN = f"""
    UPDATE run SET state = {QUEUED}, ripe = ifnull(?, due), worker = NULL, error = ?, notes = ifnull(?, notes) {MINE}"""
UNTOUCHED = f"UPDATE run SET state = {QUEUED}, ripe = due, worker = NULL, notes = ifnull(?, notes) {MINE}"
STARTED = f"UPDATE run SET notes = ifnull(?, notes) {MINE}"
PROGRESS = f"UPDATE run SET progress = ?, note = ?, notes = ifnull(?, notes) {MINE}"

CANCEL = f"""
    UPDATE run SET shelf = {ENDED_SHELF}, state = {CANCELLED}, ripe = ?, ended = ?, value = NULL, error = ?,
        token = NULL WHERE id = ?"""
REOPEN = f"""
    UPDATE run SET shelf = lane, state = {QUEUED}, ripe = ?, token = NULL, worker = NULL, lapses = 0, notes = NULL,
        value = NULL, error = NULL, progress = NULL, note = NULL, ended = NULL WHERE id = ?"""
RELEASE_KEY = "DELETE FROM taken WHERE lane = (SELECT lane FROM run WHERE id = ?1) AND uniq = ?2 AND id = ?1"
RELEASE_EXPIRING = "DELETE FROM expiring WHERE expires = ? AND id = ?"

RECORD = """
    SELECT run.id, queue, route, due, body, expires, uniq, keep, state, ripe, token, worker, lapses, notes, value,
        error, progress, note, ended
    FROM run {index} JOIN lane ON lane.n = run.lane"""
RECORDS = RECORD.format(index="")
BAD = RECORD.format(index="INDEXED BY run_bad") + " WHERE state >= 3"
BODY = "SELECT body FROM long WHERE id = ?"

OVER = (
    f"SELECT id, lane, state, body IS NULL FROM run WHERE shelf = {ENDED_SHELF} AND ripe <= ? ORDER BY ripe, id LIMIT ?"
)
PAST_EXPIRES = f"""
    SELECT expiring.id FROM expiring JOIN run ON run.id = expiring.id
    WHERE expiring.expires <= ?1 AND (state = {QUEUED} OR state = {RUNNING} AND ripe <= ?1)
    ORDER BY expiring.expires, expiring.id LIMIT ?2"""
ADDRESSED = """
    SELECT n FROM lane WHERE route >= '@' AND route < 'A' AND queued + running > 0
        AND substr(route, 2, instr(route || '^', '^') - 2) NOT IN (SELECT name FROM worker WHERE until > ?)"""
UNLEASED = f"SELECT id FROM run WHERE shelf = ?1 AND (state = {QUEUED} OR ripe <= ?2) ORDER BY id LIMIT ?3"


class SQLitePersister(Persister):
    """Runs in one SQLite file. Safe to share between threads and processes; survives a fork."""

    def __init__(self, path: str, *, durability: str = "full", make_folder: bool = False) -> None:
        """The file at an absolute path. ``durability`` of "normal" may lose the last moments in a power cut."""
        self.path = path
        self.url = f"sqlite:///{quote(path)}" + ("" if durability == "full" else f"?durability={durability}")
        self._file = File(path, full=durability == "full", make_folder=make_folder)
        self._bell = Bell(path + "-wake")

    # the path of a job

    def put(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not envelopes:
            return []
        try:
            if any(envelope.unique is not None for envelope in envelopes):
                raise _Met
            ids = self._put_new(envelopes)
        except _Met:
            ids = self._put_each(envelopes)
        self._ring(lambda: {work_key(e.queue, base_route(e.route)) for e in envelopes}, "w")
        return ids

    def _put_new(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Put what is all new. Raises _Met, with nothing done, where an id is there already."""
        with self._file.writing() as db:
            lanes = _lanes(db, envelopes)
            try:
                db.executemany(PUT, [_row(e, lanes[e.queue, e.route]) for e in envelopes])
            except sqlite3.IntegrityError as error:
                raise _Met from error
            _put_rare(db, envelopes)
        return [envelope.id for envelope in envelopes]

    def _put_each(self, envelopes: Sequence[Envelope]) -> list[str]:
        with self._file.writing() as db:
            return [_put_one(db, envelope) for envelope in envelopes]

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        return self.exchange((), wants, now=now, until=until).claims

    def commit(self, outcomes: Sequence[Pair], *, now: float) -> set[str]:
        return self.exchange(outcomes, (), now=now, until=now).taken

    def exchange(self, outcomes: Sequence[Pair], wants: Sequence[Want], *, now: float, until: float) -> Exchange:
        try:
            step = self._exchange(_Step(now, _write_all), outcomes, wants, until)
        except _Met:
            step = self._exchange(_Step(now, _write_each), outcomes, wants, until)
        self._ring(step.keys)
        return step.result

    def _exchange(self, step: _Step, outcomes: Sequence[Pair], wants: Sequence[Want], until: float) -> _Step:
        with self._file.writing() as db:
            taken = step.commit(db, outcomes)
            claims = [claim for want in wants for claim in step.claim(db, want, until)]
            step.flush(db)
            step.result = Exchange(taken, claims, _next_ripe(db, wants, claims, step.now))
        return step

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        with self._file.writing() as db:
            return {c.id for c in claims if db.execute(EXTEND, (until, c.id, c.token)).rowcount}

    # the desk

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        step = _Step(now, _write_each)
        with self._file.writing() as db:
            found = [record for record in _records(db, sorted(set(ids))) if record.open]
            step.end(db, found, None)
            step.flush(db)
            cancelled = _records(db, [record.id for record in found])
        self._ring(step.keys)
        return cancelled

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        step = _Step(now, _write_each)
        with self._file.writing() as db:
            taken = {record.id for record in _records(db, sorted(set(ids))) if step.reopen(db, record)}
            step.flush(db)
        self._ring(step.keys)
        return taken

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        with self._file.reading() as db:
            return {record.id: record for record in _records(db, list(ids))}

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        with self._file.reading() as db:
            query = _found(db, which, now, after)
            if query is None:
                return []
            rows = db.execute(f"{query.sql} ORDER BY run.id DESC LIMIT ?", (*query.values, limit)).fetchall()
            return [_record(db, row) for row in rows]

    def count(self) -> dict[tuple[str, str, str], int]:
        with self._file.reading() as db:
            rows = db.execute("SELECT queue, route, queued, running, succeeded, failed, cancelled FROM lane").fetchall()
        return {
            (queue, route, str(state)): n
            for queue, route, *counts in rows
            for state, n in zip(STATES, counts, strict=True)
            if n
        }

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        with self._file.writing() as db:
            name = _storable(worker)
            db.execute("REPLACE INTO worker (name, about, until) VALUES (?, ?, ?)", (name, _storable(about), until))
            numbers = [(name, int(order)) for order in seen if order.isdecimal()]
            db.executemany("DELETE FROM told WHERE worker = ? AND n = ?", numbers)
            left = db.execute("SELECT n, text FROM told WHERE worker = ? ORDER BY n", (name,)).fetchall()
        return [Order(str(n), _readable(text)) for n, text in left]

    def tell(self, worker: str, order: str) -> None:
        with self._file.writing() as db:
            db.execute("INSERT INTO told (worker, text) VALUES (?, ?)", (_storable(worker), _storable(order)))
        self._ring(lambda: {worker_key(worker)}, "o")

    def workers(self, *, now: float) -> dict[str, str]:
        with self._file.reading() as db:
            rows = db.execute("SELECT name, about FROM worker WHERE until > ?", (now,)).fetchall()
        return {_readable(name): _readable(about) for name, about in rows}

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        step = _Step(now, _write_each)
        with self._file.writing() as db:
            done = 0
            for clean in (step.purge_kept, step.purge_expired, step.purge_workers, step.purge_addressed):
                done += clean(db, limit - done)
            step.flush(db)
            db.execute("DELETE FROM lane WHERE queued + running + succeeded + failed + cancelled = 0")
            _give_back(db)
        self._ring(step.keys)
        return done

    def wait(self, keys: Sequence[str], timeout: float) -> None:
        end = time.monotonic() + timeout
        ids = [key[4:] for key in keys if key.startswith("run:")]
        only_runs = len(ids) == len(keys)
        ear = self._bell.ear("".join(sorted({kind_of(key) for key in keys})))
        if self._news_at_first(ear, ids, only_runs):
            return
        wanted = frozenset(key.encode("utf-8", "replace") for key in keys)
        version = self._version()
        while (left := end - time.monotonic()) > 0:
            if _heard(ear, wanted, min(left, LOOK)):
                return
            version, before = self._version(), version
            if version != before and (not only_runs or self._ended(ids)):
                return

    def _news_at_first(self, ear: Ear | None, ids: Sequence[str], only_runs: bool) -> bool:
        """What may have happened since the caller looked, and before anybody could ring."""
        unheard = ear is None or ear.fresh
        if ear is not None:
            ear.fresh = False
        return self._ended(ids) or (unheard and not only_runs)

    def _ended(self, ids: Sequence[str]) -> bool:
        """Whether one of these runs is not open."""
        with self._file.reading() as db:
            find = f"SELECT 1 FROM run WHERE id = ? AND state <= {RUNNING}"
            return any(db.execute(find, (id,)).fetchone() is None for id in ids)

    def _version(self) -> object:
        with self._file.reading() as db:
            return db.execute("PRAGMA data_version").fetchone()[0]

    def _ring(self, keys: Callable[[], set[str]], kinds: str = "") -> None:
        """Wake those who wait; the keys are only made when there is somebody."""
        listening = self._bell.kinds()
        if listening and (not kinds or kinds in listening):
            self._bell.ring(keys())

    def offset(self) -> float | None:
        """The clock that all processes of this machine share: the wall clock of the first, carried on by ``ticks``.

        0 where the machine cannot say when it was started, so that ticks of two processes may have nothing in common.
        """
        boot = _boot_id()
        if boot is None:
            return 0.0
        with self._file.reading() as db:
            found = db.execute("SELECT base, anchor FROM clock WHERE boot = ?", (boot,)).fetchone()
        if found is None or _slewed(*found) != found:
            found = self._set_clock(boot)
        return float(found[0]) + ticks() - time.time()

    def _set_clock(self, boot: str) -> tuple[float, float]:
        with self._file.writing() as db:
            found = db.execute("SELECT base, anchor FROM clock WHERE boot = ?", (boot,)).fetchone()
            clock = (time.time() - ticks(), ticks()) if found is None else _slewed(*found)
            db.execute("DELETE FROM clock")
            db.execute("INSERT INTO clock (boot, base, anchor) VALUES (?, ?, ?)", (boot, *clock))
        return clock

    def close(self) -> None:
        self._bell.close()
        self._file.close()


class _Met(Exception):
    """Something that was there already: the transaction is undone and done again run by run."""


class _Step:
    """One transaction: what it changed in the counts, and whom to wake."""

    def __init__(self, now: float, write: Callable[[sqlite3.Connection, str, list[_Written]], list[bool]]) -> None:
        self.now = now
        self.result = Exchange(set(), [], None)
        self._write = write
        self._moved: dict[Lane, list[int]] = {}
        self._ended: list[str] = []
        self._queued: set[Lane] = set()

    def keys(self) -> set[str]:
        return {run_key(id) for id in self._ended} | {work_key(q, base_route(r)) for q, r in self._queued}

    def move(self, lane: Lane, before: int, after: int, n: int = 1) -> None:
        """Note that so many runs went from one state to another."""
        counts = self._moved.get(lane)
        if counts is None:
            counts = self._moved[lane] = [0, 0, 0, 0, 0]
        counts[before] -= n
        counts[after] += n

    def flush(self, db: sqlite3.Connection) -> None:
        for lane, counts in self._moved.items():
            if any(counts):
                db.execute(COUNT, (*counts, *lane))

    # commit

    def commit(self, db: sqlite3.Connection, outcomes: Sequence[Pair]) -> set[str]:
        taken: set[str] = set()
        for kind, pairs in _by_kind(outcomes):
            writing = _WRITINGS[kind]
            changed = self._write(db, writing.sql, [(*writing.values(self.now, c, o), c.id, c.token) for c, o in pairs])
            written = [claim for (claim, _), was in zip(pairs, changed, strict=True) if was]
            taken.update([claim.id for claim in written])
            taken.update(c.id for (c, _), was in zip(pairs, changed, strict=True) if not was and _bears(db, c))
            self._note(db, writing.state, written)
        return taken

    def _note(self, db: sqlite3.Connection, state: int, written: Sequence[Claim]) -> None:
        """Count and announce claims that came to a new state; let go of what they held as open runs."""
        if state == RUNNING:
            return
        for claim in written:
            envelope = claim.envelope
            self.move((envelope.queue, envelope.route), RUNNING, state)
        if state == QUEUED:
            self._queued.update((claim.envelope.queue, claim.envelope.route) for claim in written)
        else:
            self._ended += [claim.envelope.id for claim in written]
            _release(db, [claim.envelope for claim in written])

    # claim

    def claim(self, db: sqlite3.Connection, want: Want, until: float) -> Iterator[Claim]:
        left = want.limit
        if want.repeated:
            held = [id for (id,) in db.execute(HELD, (want.token, left)).fetchall()]
            left -= len(held)
            # Leased anew, so that a run whose lease ended meanwhile is not given a second time further down.
            db.executemany(EXTEND, [(until, id, want.token) for id in held])
            yield from map(_claim_of, _records(db, held))
        for route in want.routes:
            if left <= 0:
                return
            rows = self._ripe(db, (want.queue, route), left)
            if rows:
                left -= len(rows)
                yield from self._lease(db, want, route, rows, until)

    def _ripe(self, db: sqlite3.Connection, lane: Lane, limit: int) -> Rows:
        """The first so many that are ripe, in order; the expired ones before them end."""
        ended = 0
        while True:
            rows = db.execute(RIPE, (*lane, self.now, limit)).fetchall()
            over = [row[0] for row in rows if row[3] is not None and row[3] <= self.now]
            if not over:
                return rows
            self.end(db, _records(db, over), EXPIRED)
            ended += len(over)
            if ended > EXPIRED_AT_ONCE:
                return []

    def _lease(self, db: sqlite3.Connection, want: Want, route: str, rows: Rows, until: float) -> list[Claim]:
        queue, token, worker = want.queue, want.token, want.worker
        lane, first = (queue, route), (queue, route, self.now, len(rows))
        taken_over = db.execute(TAKEN_OVER, first).fetchone()[0] if any(row[6] for row in rows) else 0
        db.execute(LEASE, (until, token, _storable(worker), *first))
        self.move(lane, QUEUED, RUNNING, len(rows) - taken_over)
        return [
            Claim(
                Envelope(
                    id, queue, route, due, _body(db, id) if body is None else body, expires,
                    None if unique is None else _readable(unique), keep,
                ),
                token, worker, until, lapses, notes or b"",
            )
            for id, due, body, expires, unique, keep, lapses, notes in rows
        ]  # fmt: skip

    # the desk

    def end(self, db: sqlite3.Connection, records: Sequence[Record], error: str | None) -> None:
        """End open runs as cancelled, and take their leases away."""
        envelopes = [record.envelope for record in records]
        kept = [(self.now + max(e.keep, REMEMBERED), self.now, error, e.id) for e in envelopes]
        db.executemany(CANCEL, kept)
        for record in records:
            self.move(_lane(record), STATES.index(record.state), CANCELLED)
        self._ended += [record.id for record in records]
        _release(db, envelopes)

    def reopen(self, db: sqlite3.Connection, record: Record) -> bool:
        envelope = record.envelope
        badly = record.state in (State.FAILED, State.CANCELLED)
        if not badly or (envelope.expires is not None and envelope.expires <= self.now):
            return False
        if envelope.unique is not None and not _take_key(db, envelope):
            return False
        db.execute(REOPEN, (self.now, record.id))
        if envelope.expires is not None:
            db.execute(PUT_EXPIRING, (envelope.expires, envelope.id))
        self.move(_lane(record), STATES.index(record.state), QUEUED)
        self._queued.add(_lane(record))
        return True

    # housekeeping

    def purge_kept(self, db: sqlite3.Connection, limit: int) -> int:
        rows = db.execute(OVER, (self.now, limit)).fetchall()
        db.executemany("DELETE FROM run WHERE id = ?", [(id,) for id, *_ in rows])
        db.executemany("DELETE FROM long WHERE id = ?", [(id,) for id, _, _, is_long in rows if is_long])
        gone: dict[tuple[int, int], int] = {}
        for _, lane, state, _ in rows:
            gone[lane, state] = gone.get((lane, state), 0) + 1
        for (lane, state), n in gone.items():
            db.execute(f"UPDATE lane SET {STATES[state]} = {STATES[state]} - ? WHERE n = ?", (n, lane))
        return len(rows)

    def purge_expired(self, db: sqlite3.Connection, limit: int) -> int:
        return self._end_all(db, db.execute(PAST_EXPIRES, (self.now, limit)).fetchall(), EXPIRED)

    def _end_all(self, db: sqlite3.Connection, rows: Rows, error: str) -> int:
        self.end(db, _records(db, [row[0] for row in rows]), error)
        return len(rows)

    def purge_workers(self, db: sqlite3.Connection, limit: int) -> int:
        gone = db.execute(
            "SELECT name FROM worker WHERE until <= ? ORDER BY name LIMIT ?", (self.now, limit)
        ).fetchall()
        db.executemany("DELETE FROM worker WHERE name = ?", gone)
        # Orders for a worker that never beat would stay for ever.
        db.execute("DELETE FROM told WHERE worker NOT IN (SELECT name FROM worker)")
        return len(gone)

    def purge_addressed(self, db: sqlite3.Connection, limit: int) -> int:
        rows: Rows = []
        for (lane,) in db.execute(ADDRESSED, (self.now,)).fetchall():
            rows += db.execute(UNLEASED, (lane, self.now, limit)).fetchall()
        return self._end_all(db, sorted(rows)[:limit], WORKER_GONE)


# -- putting ---------------------------------------------------------------------------------------------------------


def _lanes(db: sqlite3.Connection, envelopes: Sequence[Envelope]) -> dict[Lane, int]:
    """The lanes of these envelopes, which are counted into them."""
    counts: dict[Lane, int] = {}
    for envelope in envelopes:
        lane = (envelope.queue, envelope.route)
        counts[lane] = counts.get(lane, 0) + 1
    return {lane: _count_in(db, lane, n) for lane, n in counts.items()}


def _count_in(db: sqlite3.Connection, lane: Lane, n: int) -> int:
    """The lane's number; so many more are queued in it."""
    found = db.execute(COUNTED, (n, *lane)).fetchone() or db.execute(NEW_LANE, (n, *lane)).fetchone()
    number: int = found[0]
    return number


def _row(e: Envelope, lane: int) -> tuple[Any, ...]:
    unique = None if e.unique is None else _storable(e.unique)
    return (e.id, lane, e.due, e.expires, unique, e.keep, e.body if len(e.body) < LONG else None)


def _put_rare(db: sqlite3.Connection, envelopes: Sequence[Envelope]) -> None:
    """What few runs have."""
    long = [(e.id, e.body) for e in envelopes if len(e.body) >= LONG]
    if long:
        db.executemany(PUT_LONG, long)
    expiring = [(e.expires, e.id) for e in envelopes if e.expires is not None]
    if expiring:
        db.executemany(PUT_EXPIRING, expiring)


def _put_one(db: sqlite3.Connection, envelope: Envelope) -> str:
    if db.execute("SELECT 1 FROM run WHERE id = ?", (envelope.id,)).fetchone():
        return envelope.id
    lane = _count_in(db, (envelope.queue, envelope.route), 0)
    if envelope.unique is not None:
        unique = _storable(envelope.unique)
        holder = db.execute(KEY_HOLDER, (lane, unique)).fetchone()
        if holder is not None:
            return str(holder[0])
        db.execute(TAKE_KEY, (lane, unique, envelope.id))
    _count_in(db, (envelope.queue, envelope.route), 1)
    db.execute(PUT, _row(envelope, lane))
    _put_rare(db, [envelope])
    return envelope.id


def _take_key(db: sqlite3.Connection, envelope: Envelope) -> bool:
    """Hold the unique key of a run; False where another open run holds it."""
    lane = _count_in(db, (envelope.queue, envelope.route), 0)
    try:
        db.execute(TAKE_KEY, (lane, _storable(envelope.unique or ""), envelope.id))
    except sqlite3.IntegrityError:
        return False
    return True


def _release(db: sqlite3.Connection, envelopes: Sequence[Envelope]) -> None:
    """Let go of what runs that have ended held as open ones."""
    for envelope in envelopes:
        if envelope.unique is not None:
            db.execute(RELEASE_KEY, (envelope.id, _storable(envelope.unique)))
        if envelope.expires is not None:
            db.execute(RELEASE_EXPIRING, (envelope.expires, envelope.id))


# -- committing ------------------------------------------------------------------------------------------------------

_Written = tuple[Any, ...]


class _Writing(NamedTuple):
    """How an outcome is written: the statement, its values before (id, token), and the state it leads to."""

    sql: str
    state: int
    values: Callable[[float, Claim, Outcome], _Written]


def _kept(now: float, claim: Claim, outcome: Outcome) -> float:
    return now + max(claim.envelope.keep if outcome.keep is None else outcome.keep, REMEMBERED)


_WRITINGS: Final[Mapping[str, _Writing]] = {
    "complete": _Writing(COMPLETE, SUCCEEDED, lambda now, c, o: (_kept(now, c, o), now, o.value, o.notes)),
    "failed": _Writing(
        FAIL, FAILED, lambda now, c, o: (_kept(now, c, o), now, o.value, o.error and _storable(o.error), o.notes)
    ),
    "again": _Writing(AGAIN, QUEUED, lambda now, c, o: (o.due, o.error and _storable(o.error), o.notes)),
    "untouched": _Writing(UNTOUCHED, QUEUED, lambda now, c, o: (o.notes,)),
    "started": _Writing(STARTED, RUNNING, lambda now, c, o: (o.notes,)),
    "progress": _Writing(PROGRESS, RUNNING, lambda now, c, o: (o.progress, o.note and _storable(o.note), o.notes)),
}


def _by_kind(outcomes: Sequence[Pair]) -> list[tuple[str, list[Pair]]]:
    """Outcomes in groups of one kind; where one run has several, in the order given."""
    groups: list[tuple[str, list[Pair]]] = []
    open_groups: dict[str, list[Pair]] = {}
    mixed = len({claim.envelope.id for claim, _ in outcomes}) < len(outcomes)
    for pair in outcomes:
        kind = pair[1].kind
        group = open_groups.get(kind)
        if group is None or (mixed and groups[-1][0] != kind):
            group = open_groups[kind] = []
            groups.append((kind, group))
        group.append(pair)
    return groups


def _write_all(db: sqlite3.Connection, sql: str, rows: list[_Written]) -> list[bool]:
    """Write what is expected to take. Raises _Met where one did not."""
    if db.executemany(sql, rows).rowcount < len(rows):
        raise _Met
    return [True] * len(rows)


def _write_each(db: sqlite3.Connection, sql: str, rows: list[_Written]) -> list[bool]:
    return [db.execute(sql, row).rowcount > 0 for row in rows]


def _bears(db: sqlite3.Connection, claim: Claim) -> bool:
    """Whether the row bears the claim's token still: then the commit is a repetition."""
    return db.execute(BEARER, (claim.id,)).fetchone() == (claim.token,)


def _next_ripe(db: sqlite3.Connection, wants: Sequence[Want], claims: Sequence[Claim], now: float) -> float | None:
    given: dict[str, int] = {}
    for claim in claims:
        given[claim.token] = given.get(claim.token, 0) + 1
    if any(0 < want.limit <= given.get(want.token, 0) for want in wants):
        return now
    lanes = {(want.queue, route) for want in wants for route in want.routes}
    firsts = (db.execute(NEXT_RIPE, lane).fetchone() for lane in lanes)
    return min((first[0] for first in firsts if first), default=None)


# -- reading ---------------------------------------------------------------------------------------------------------


def _records(db: sqlite3.Connection, ids: Sequence[str]) -> list[Record]:
    """The records there are, in the order of the ids."""
    rows = (db.execute(f"{RECORDS} WHERE run.id = ?", (id,)).fetchone() for id in ids)
    return [_record(db, row) for row in rows if row is not None]


def _record(db: sqlite3.Connection, row: tuple[Any, ...]) -> Record:
    id, queue, route, due, body, expires, unique, keep, state, ripe, token, worker, lapses, notes, value, *rest = row
    error, progress, note, ended = rest
    if body is None:
        body = _body(db, id)
    envelope = Envelope(id, queue, route, due, body, expires, unique and _readable(unique), keep)
    return Record(
        envelope, STATES[state], ripe, token, worker and _readable(worker), lapses, notes or b"", value,
        error and _readable(error), progress, note and _readable(note), ended,
    )  # fmt: skip


def _body(db: sqlite3.Connection, id: str) -> bytes:
    found = db.execute(BODY, (id,)).fetchone()
    if found is None:
        raise StoreError(f"the body of run {id} is missing; the file is damaged, restore it or move it away")
    body: bytes = found[0]
    return body


def _claim_of(record: Record) -> Claim:
    return Claim(record.envelope, record.token or "", record.worker or "", record.ripe, record.lapses, record.notes)


def _lane(record: Record) -> Lane:
    return record.envelope.queue, record.envelope.route


def _storable(text: str) -> str | bytes:
    """Text as SQLite can hold it: what is not Unicode (a lone surrogate, from a file's name) goes in as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _readable(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "surrogatepass")


class _Query(NamedTuple):
    sql: str
    values: tuple[Any, ...]


FEW: Final = 5000
"""Open runs up to which it is cheaper to sort those of the lanes than to walk all runs, newest first."""


def _found(db: sqlite3.Connection, which: Filter, now: float, after: str | None) -> _Query | None:
    """The query for a filter, without its order; None where the counts say that there is nothing."""
    lanes = _lanes_of(db, which)
    if not lanes:
        return None
    begin, tests, values = RECORDS + " WHERE 1", "", []
    if which.state in (State.FAILED, State.CANCELLED):
        begin = BAD
    elif which.state is not None and which.state != State.SUCCEEDED and sum(lanes.values()) <= FEW:
        tests += f" AND shelf IN ({', '.join(map(str, lanes))})"
    if which.queue is not None or which.route is not None:
        tests += f" AND run.lane IN ({', '.join(map(str, lanes))})"
    if which.state is not None:
        tests += " AND state = ?"
        values.append(QUEUED if which.state == State.SCHEDULED else STATES.index(which.state))
    for test, value in ((" AND ripe > ?", now if which.state == State.SCHEDULED else None), (" AND run.id < ?", after)):
        if value is not None:
            tests += test
            values.append(value)
    return _Query(begin + tests, tuple(values))


def _lanes_of(db: sqlite3.Connection, which: Filter) -> dict[int, int]:
    """The lanes that a filter speaks of, each with how many runs are open in it."""
    rows = db.execute("SELECT n, queue, route, queued + running FROM lane").fetchall()
    return {
        n: open
        for n, queue, route, open in rows
        if which.queue in (None, queue) and which.route in (None, base_route(route))
    }


# -- waiting, and the clock ------------------------------------------------------------------------------------------


def _heard(ear: Ear | None, wanted: frozenset[bytes], timeout: float) -> bool:
    if ear is not None:
        return ear.hear(wanted, timeout)
    time.sleep(min(timeout, LOOK / 2))
    return False


def _boot_id() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None


def _slewed(base: float, anchor: float) -> tuple[float, float]:
    """The clock a little nearer to the wall clock, where that was set: never so fast that a lease would notice."""
    passed = ticks() - anchor
    error = time.time() - ticks() - base
    if passed < 60.0 or abs(error) < 0.05:
        return base, anchor
    return base + max(-SLEW * passed, min(SLEW * passed, error)), ticks()


def _give_back(db: sqlite3.Connection) -> None:
    """Give free pages back to the disk, a few at a time, once they are a good part of the file."""
    free = db.execute("PRAGMA freelist_count").fetchone()[0]
    if free > 1000 and free * 4 > db.execute("PRAGMA page_count").fetchone()[0]:
        db.execute("PRAGMA incremental_vacuum(500)").fetchall()


# -- where it is -----------------------------------------------------------------------------------------------------


def open_url(url: str) -> SQLitePersister:
    """The store at ``sqlite://`` (the user's own), ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

    ``?durability=normal`` gives up a power cut's last moments for speed; ``full`` is the default. Raises WrongCall.
    """
    durability = _durability(url)
    path = url_path(url)
    if not path:
        return SQLitePersister(_own_path(), durability=durability, make_folder=True)
    if not path.startswith("/") or path == "/" or path.endswith(":memory:"):
        raise WrongCall(
            f"a SQLite URL is sqlite:// or sqlite:///relative.db or sqlite:////absolute.db (memory:// for none); got {url!r}"
        )
    return SQLitePersister(os.path.abspath(path[1:]), durability=durability)


def _durability(url: str) -> str:
    given = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    durability = given.pop("durability", "full")
    if given:
        raise WrongCall(f"a SQLite URL knows the parameter durability; got {', '.join(given)}")
    if durability not in ("full", "normal"):
        raise WrongCall(f"durability is full or normal; got {durability!r}")
    return durability


def _own_path() -> str:
    from platformdirs import user_data_dir  # slow to import, and only needed here

    return os.path.join(user_data_dir("skunkqueue", appauthor=False), "queue.db")
