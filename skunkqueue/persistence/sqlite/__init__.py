"""SQLite: one file, with one main table. The store for one machine, and the default."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Envelope, Exchange, Filter, Order, Record, Want
from skunkqueue.errors import StoreAway, WrongCall
from skunkqueue.keys import user_folder
from skunkqueue.persistence import Key, Limits, Persister, RunKey, WorkerKey, WorkKey
from skunkqueue.persistence.sqlite import sql as sql
from skunkqueue.persistence.sqlite.boot import base_of, boot_id, follow
from skunkqueue.persistence.sqlite.file import PATIENCE, File
from skunkqueue.persistence.sqlite.find import found
from skunkqueue.persistence.sqlite.notify import SQLiteNotifier, WakeSocket, kind_of, written
from skunkqueue.persistence.sqlite.rows import (
    EVERY,
    STATES,
    briefs_of,
    lanes_of,
    mend_named,
    number_of,
    readable,
    records_of,
    storable,
)
from skunkqueue.persistence.sqlite.transaction import Met, Pair, Transaction, lanes_there, next_ripe, put_new, put_one
from skunkqueue.persistence.sqlite.via import check_connection, put_via
from skunkqueue.persistence.steps import Steps
from skunkqueue.persistence.url import StoreConfig, url_path, without_secrets
from skunkqueue.routes import base_route, woken_by

default_cfg: StoreConfig = {"backend": "sqlite", "conn_url": "", "dbname": ""}

DEFAULTS: Final[Mapping[str, Any]] = {"durability": "full", "timeout": PATIENCE}
"""The parameters of a URL."""

LOOK: Final = 0.2
"""Seconds between looks at the file's version while waiting, in case a wake-up message was lost."""

Sign = tuple[object, ...]

LONGEST_TIMEOUT: Final = 1_000_000.0

LOOK_ALONE: Final = 0.025
"""The same where there are no sockets."""

CLOCK_PATIENCE: Final = 0.5
"""Seconds to wait for other writers before the clock is set where it is only read; it can be done at any later time."""


class SQLitePersister(Persister):
    """Runs in one SQLite file. Safe to share between threads and processes; survives a fork."""

    takes_via = "a sqlite3.Connection to the same file"
    limits: Limits = Limits(body=900_000_000, value=450_000_000)
    """SQLite takes values and rows of 1,000,000,000 bytes."""

    def __init__(
        self, path: str, *, durability: str = "full", timeout: float = PATIENCE, make_folder: bool = False
    ) -> None:
        """The file at an absolute path. With ``durability`` "normal", a power cut may lose the last commits.

        ``timeout`` is how many seconds a call waits while others write, before it raises StoreAway.
        """
        self.path = path
        given = {"durability": durability, "timeout": timeout}
        query = urlencode({name: value for name, value in given.items() if value != DEFAULTS[name]})
        self.url: str = f"sqlite:///{quote(path)}" + (query and f"?{query}")
        self._file = File(path, full=durability == "full", make_folder=make_folder, patience=timeout)
        self._notifier = SQLiteNotifier(path + "-wake")
        self._steps = Steps()
        self._seen = threading.local()
        self._waiters: list[_Waiter] = []

    @property
    def missing(self) -> str:
        is_there = os.path.exists(self.path) or os.path.exists(self.path + "-wal")  # without its file, that is told
        return "" if is_there else f"there is no file {self.path}: nothing was fired there yet"

    # the path of a job

    def put(self, envelopes: Sequence[Envelope], *, via: Any = None) -> list[str]:
        """Store runs. ``via`` is a ``sqlite3.Connection`` of yours to the same file: the runs are then stored when you
        commit, together with your own rows or not at all. A waiting worker finds them within ``LOOK`` seconds.
        """
        if via is not None:
            return self._put_via(envelopes, via)
        if not envelopes:
            return []
        ids = self._put_new(envelopes) or self._put_each(envelopes)
        self._notify(lambda: {WorkKey(e.queue, base_route(e.route)) for e in envelopes}, "w")
        return ids

    def _put_via(self, envelopes: Sequence[Envelope], via: Any) -> list[str]:
        with self._file.reading():  # which checks that the file is ours, and of a known version
            check_connection(via, self.path)
        return put_via(via, envelopes, self.path) if envelopes else []

    def _put_new(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Put runs that are all new. If one exists already, or has a unique key, stores nothing and returns []."""
        if any(envelope.unique is not None for envelope in envelopes):
            return []
        try:
            with self._writing() as db:
                put_new(db, self._corrected(envelopes))
        except Met:
            return []
        return [envelope.id for envelope in envelopes]

    def _put_each(self, envelopes: Sequence[Envelope]) -> list[str]:
        with self._writing() as db:
            return [put_one(db, envelope) for envelope in self._corrected(envelopes)]

    def _corrected(self, envelopes: Sequence[Envelope]) -> Sequence[Envelope]:
        """The envelopes, as if those that were sealed before the clock was set had been sealed after it."""
        return [self._steps.corrected(envelope) for envelope in envelopes] if self._steps.has_stepped else envelopes

    def claim(self, wants: Sequence[Want], *, now: float, until: float) -> list[Claim]:
        return self.exchange((), wants, now=now, until=until).claims

    def commit(self, outcomes: Sequence[Pair], *, now: float) -> set[str]:
        return self.exchange(outcomes, (), now=now, until=now).taken

    def exchange(self, outcomes: Sequence[Pair], wants: Sequence[Want], *, now: float, until: float) -> Exchange:
        step = Transaction(now)
        try:
            self._exchange(step, outcomes, wants, until)
        except Met:
            step = Transaction(now, carefully=True)
            self._exchange(step, outcomes, wants, until)
        self._notify(step.keys)
        return step.result

    def _exchange(self, step: Transaction, outcomes: Sequence[Pair], wants: Sequence[Want], until: float) -> None:
        with self._writing(step) as db:
            taken = step.commit(db, outcomes)
            there = lanes_there(db, wants)
            claims = [claim for want in wants for claim in step.claim(db, want, until + step.late, there)]
            step.flush(db)
            step.result = Exchange(taken, claims, next_ripe(db, wants, claims, step.now, there))

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        with self._writing() as db:
            return {c.id for c in claims if db.execute(sql.EXTEND, (until, c.id, c.token)).rowcount}

    # the desk

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        step, named = Transaction(now), sorted(set(ids))
        with self._writing(step) as db:
            mend_named(db, named)
            found = [record for record in records_of(db, named) if record.open]
            step.end(db, found, None)
            step.flush(db)
            cancelled = records_of(db, [record.id for record in found])
        self._notify(step.keys)
        return cancelled

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        step, named = Transaction(now), sorted(set(ids))
        with self._writing(step) as db:
            mend_named(db, named)
            taken = {record.id for record in records_of(db, named) if step.reopen(db, record)}
            step.flush(db)
        self._notify(step.keys)
        return taken

    def promote(self, ids: Iterable[str], *, now: float) -> set[str]:
        step, named = Transaction(now), sorted(set(ids))
        with self._writing(step) as db:
            mend_named(db, named)
            taken = {record.id for record in records_of(db, named) if step.promote(db, record)}
        self._notify(step.keys)
        return taken

    def discard(self, ids: Iterable[str], *, now: float) -> set[str]:
        step, named = Transaction(now), sorted(set(ids))
        with self._writing(step) as db:
            mend_named(db, named)
            return {id for id in named if step.discard(db, id)}

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        with self._file.reading() as db:
            return {record.id: record for record in records_of(db, list(ids))}

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        with self._file.reading() as db:
            return found(db, which, now, after, limit)

    def get_brief(self, ids: Iterable[str]) -> dict[str, Record]:
        with self._file.reading() as db:
            return {record.id: record for record in briefs_of(db, list(ids))}

    def find_brief(
        self, which: Filter, *, now: float, after: str | None = None, limit: int = 100, values: int | None = None
    ) -> list[Record]:
        with self._file.reading() as db:
            return found(db, which, now, after, limit, EVERY if values is None else values)

    def open_of(self, ids: Iterable[str]) -> dict[str, float]:
        with self._file.reading() as db:
            rows = [(id, db.execute(sql.EXPIRES, (id,)).fetchone()) for id in ids]
        return {id: _expires_at(*row) for id, row in rows if row is not None}

    def count(self) -> dict[tuple[str, str, str], int]:
        with self._file.reading() as db:
            lanes = lanes_of(db)
        return {
            (queue, route, str(state)): n
            for queue, route, counts, _ in lanes
            for state, n in zip(STATES, counts, strict=True)
            if n > 0
        }

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        with self._writing() as db:
            name = storable(worker)
            db.execute("REPLACE INTO worker (name, about, until) VALUES (?, ?, ?)", (name, storable(about), until))
            numbers = [(name, int(order)) for order in seen if order.isdecimal()]
            db.executemany("DELETE FROM told WHERE worker = ? AND n = ?", numbers)
            left = db.execute("SELECT n, text FROM told WHERE worker = ? ORDER BY n", (name,)).fetchall()
        return [Order(str(n), readable(text)) for n, text in left]

    def tell(self, worker: str, order: str) -> None:
        with self._writing() as db:
            db.execute("INSERT INTO told (worker, text) VALUES (?, ?)", (storable(worker), storable(order)))
        self._notify(lambda: {WorkerKey(worker)}, "o")

    def workers(self, *, now: float) -> dict[str, str]:
        with self._file.reading() as db:
            rows = db.execute("SELECT name, about FROM worker WHERE until > ?", (now,)).fetchall()
        return {readable(name): readable(about) for name, about in rows}

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        step = Transaction(now)
        with self._writing(step) as db:
            done = 0
            for clean in (step.purge_kept, step.purge_expired, step.purge_workers, step.purge_addressed):
                done += clean(db, limit - done)
            if done == 0:
                done = step.purge_strange(db, limit)
            step.flush(db)
            db.execute("DELETE FROM lane WHERE queued + running + succeeded + failed + cancelled = 0")
        self._file.give_back()
        self._notify(step.keys)
        return done

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        waiter = _Waiter(frozenset(keys), self._notifier.socket_for("".join(sorted({kind_of(key) for key in keys}))))
        self._waiters.append(waiter)
        try:
            self._wait(keys, waiter, time.monotonic() + timeout)
        finally:
            self._waiters.remove(waiter)

    def _wait(self, keys: Sequence[Key], waiter: _Waiter, end: float) -> None:
        ids, waker = [key.id for key in keys if isinstance(key, RunKey)], waiter.waker
        only_runs = len(ids) == len(keys)
        wanted = frozenset(map(written, keys))
        version, signs = self._version(), self._signs(keys)
        known = self._news_at_first(waker, ids, only_runs)
        if self._put_meanwhile(keys, signs):
            known = _was_woken(waker, wanted, 0) or True  # messages about the same puts are old news
        if known:
            return
        while not waiter.roused and (left := end - time.monotonic()) > 0:
            if _was_woken(waker, wanted, min(left, LOOK)):
                break
            version, before = self._version(), version
            # Every commit changes the version, a pool's own beat too; only what concerns the keys is news.
            if version != before and (self._ended(ids) or self._signs(keys) != signs):
                break
        if not only_runs:
            self._put_meanwhile(keys, self._signs(keys))

    def rouse(self, keys: Sequence[Key]) -> bool:
        for waiter in [each for each in list(self._waiters) if not each.keys.isdisjoint(keys)]:
            waiter.roused = True
            if waiter.waker is not None:
                self._notifier.rouse(waiter.waker)
        return True

    def _signs(self, keys: Sequence[Key]) -> list[Sign]:
        """Values that change with a key. Work: how many runs are queued, and how many exist. Worker: its last order."""
        with self._file.reading() as db:
            return [_sign(db, key) for key in keys]

    def _news_at_first(self, waker: WakeSocket | None, ids: Sequence[str], only_runs: bool) -> bool:
        """Whether something may have happened after the caller looked, and before its socket could receive messages."""
        unreachable = waker is None or waker.fresh
        if waker is not None:
            waker.fresh = False
        return self._ended(ids) or (unreachable and not only_runs)

    def _put_meanwhile(self, keys: Sequence[Key], signs: Sequence[Sign]) -> bool:
        """Whether runs were put since this thread's last wait: a put via the user's own connection sends no message."""
        before: Mapping[object, object] = self._seen.__dict__.get("puts", {})
        puts = {key: sign[-1] for key, sign in zip(keys, signs, strict=True) if len(sign) > 1}
        if puts:
            self._seen.puts = puts
        return any(before.get(key, n) != n for key, n in puts.items())

    def _ended(self, ids: Sequence[str]) -> bool:
        """Whether one of these runs is not open."""
        with self._file.reading() as db:
            return any(db.execute(sql.IS_OPEN, (id,)).fetchone() is None for id in ids)

    def _version(self) -> object:
        with self._file.reading() as db:
            return db.execute("PRAGMA data_version").fetchone()[0]

    def _notify(self, keys: Callable[[], set[Key]], kinds: str = "") -> None:
        """Wake those who wait. The keys are only computed when somebody waits."""
        listening = self._notifier.kinds()
        if listening and (not kinds or kinds in listening):
            self._notifier.notify(keys())

    def offset(self) -> float | None:
        """The clock that all processes of this machine share: ``ticks``, on a base that follows the wall clock.

        0 if the machine has no boot id: the ticks of two processes may then not be comparable.
        """
        boot = boot_id()
        if boot is None:
            return 0.0
        with self._file.reading() as db:
            base = base_of(db, boot)
        if base is not None:
            self._steps.take(base)
        if base is None or self._steps.is_behind():
            with suppress(StoreAway):  # perhaps the caller's own open transaction holds the file: another time
                self._follow(boot, CLOCK_PATIENCE)
        base = self._steps.base
        return 0.0 if base is None else base + ticks() - time.time()

    def _follow(self, boot: str, patience: float | None = None) -> None:
        """Have the clock follow the wall clock, and wake who waits for work: there may be runs that are due now."""
        lanes: list[tuple[str, str]] = []
        with self._file.writing(patience) as db:
            before, base = self._steps.base, follow(db, boot)
            if base != before:
                lanes = [(queue, route) for queue, route, counts, _ in lanes_of(db) if counts[sql.QUEUED] > 0]
        self._steps.take(base)
        if lanes:
            self._notify(lambda: {WorkKey(queue, base_route(route)) for queue, route in lanes}, "w")

    @contextmanager
    def _writing(self, step: Transaction | None = None) -> Iterator[sqlite3.Connection]:
        """A transaction that writes, after the clock has followed the wall clock where that was set.

        Looked at within the transaction: whoever moves the clock holds the file, and who comes after sees that it was
        set. The times of a ``step`` that were reckoned before that are corrected.
        """
        for is_last in (False, True):
            with self._file.writing() as db:
                if is_last or not self._steps.is_behind() or (boot := boot_id()) is None:
                    if step is not None and self._steps.has_stepped:
                        step.delay(self._steps.late(step.now))
                    yield db
                    return
            self._follow(boot)

    def close(self) -> None:
        self._notifier.close()
        self._file.close()


# -- waiting and the clock -------------------------------------------------------------------------------------------


class _Waiter:
    """A wait that is under way, and the socket that wakes it."""

    def __init__(self, keys: frozenset[Key], waker: WakeSocket | None) -> None:
        self.keys = keys
        self.waker = waker
        self.roused = False


def _sign(db: sqlite3.Connection, key: Key) -> Sign:
    if isinstance(key, WorkKey):
        return tuple(db.execute(sql.QUEUED_ON, (key.queue, *woken_by(key.route))).fetchone())
    return tuple(db.execute(sql.LAST_TOLD, (key.worker,)).fetchone()) if isinstance(key, WorkerKey) else ()


def _was_woken(waker: WakeSocket | None, wanted: frozenset[bytes], timeout: float) -> bool:
    if waker is not None:
        return waker.receive(wanted, timeout)
    time.sleep(min(timeout, LOOK_ALONE))
    return False


# -- where it is -----------------------------------------------------------------------------------------------------


def _expires_at(expires: object, ripe: object, is_held: bool) -> float:
    """When an open run can only end as expired; what is damaged does not count."""
    until = number_of(expires, math.inf)
    return max(until, number_of(ripe, 0.0)) if is_held else until


def open_url(url: str) -> SQLitePersister:
    """The store at ``sqlite://`` (the user's own), ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

    ``?durability=normal`` is faster, but a power cut may lose the last commits; ``full`` is the default. ``?timeout=5``
    is how many seconds a call waits while others write, before it raises StoreAway. Raises WrongCall.
    """
    options = _options(url)
    path, shown = url_path(url), without_secrets(url)
    if not path:
        return SQLitePersister(_own_path(), make_folder=True, **options)
    if not path.startswith("/") or path == "/" or path.endswith(":memory:"):
        raise WrongCall(f"a SQLite URL is sqlite:// or sqlite:///relative.db or sqlite:////absolute.db; got {shown}")
    return SQLitePersister(os.path.abspath(path[1:]), **options)


def _options(url: str) -> dict[str, Any]:
    given = dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))
    if unknown := given.keys() - DEFAULTS.keys():
        raise WrongCall(f"a SQLite URL knows the parameters {' and '.join(DEFAULTS)}; got {', '.join(sorted(unknown))}")
    durability = given.get("durability", "full")
    if durability not in ("full", "normal"):
        raise WrongCall(f"durability is full or normal; got {durability!r}")
    return {"durability": durability, "timeout": _timeout(given.get("timeout", str(PATIENCE)))}


def _timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= LONGEST_TIMEOUT:
        raise WrongCall(f"timeout is a number of seconds, from 0 to {LONGEST_TIMEOUT:g}; got {text!r}")
    return seconds


def _own_path() -> str:
    return os.path.join(user_folder("SKUNKQUEUE_URL"), "queue.db")
