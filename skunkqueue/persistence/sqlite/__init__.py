"""SQLite: one file, one table that matters; the store for one machine, and the one people meet first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from urllib.parse import parse_qsl, quote

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Envelope, Exchange, Filter, Order, Record, Want, base_route, with_priorities
from skunkqueue.errors import WrongCall
from skunkqueue.persistence import Limits, Persister, work_key, worker_key
from skunkqueue.persistence.sqlite import sql as sql
from skunkqueue.persistence.sqlite.file import File
from skunkqueue.persistence.sqlite.notify import SQLiteNotifier, WakeSocket, kind_of
from skunkqueue.persistence.sqlite.rows import STATES, found, readable, records_of, storable
from skunkqueue.persistence.sqlite.transaction import Met, Pair, Transaction, next_ripe, put_new, put_one
from skunkqueue.persistence.url import url_path

default_cfg = {"backend": "sqlite", "conn_url": "", "dbname": ""}

LOOK: Final = 0.2
"""Seconds between looks at the file's version while waiting: the safety net under the wake-up sockets."""

LOOK_ALONE: Final = 0.025
"""The same where there are no sockets."""

SLEW: Final = 0.02
"""How fast the store's clock may follow a wall clock that was set: seconds per second."""


class SQLitePersister(Persister):
    """Runs in one SQLite file. Safe to share between threads and processes; survives a fork."""

    limits = Limits(body=900_000_000, value=450_000_000)
    """SQLite takes values and rows of 1,000,000,000 bytes."""

    def __init__(self, path: str, *, durability: str = "full", make_folder: bool = False) -> None:
        """The file at an absolute path. ``durability`` of "normal" may lose the last moments in a power cut."""
        self.path = path
        self.url = f"sqlite:///{quote(path)}" + ("" if durability == "full" else f"?durability={durability}")
        self._file = File(path, full=durability == "full", make_folder=make_folder)
        self._notifier = SQLiteNotifier(path + "-wake")

    # the path of a job

    def put(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not envelopes:
            return []
        ids = self._put_new(envelopes) or self._put_each(envelopes)
        self._ring(lambda: {work_key(e.queue, base_route(e.route)) for e in envelopes}, "w")
        return ids

    def _put_new(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Put what is all new; where something was there already, nothing is done and nothing given."""
        if any(envelope.unique is not None for envelope in envelopes):
            return []
        try:
            with self._file.writing() as db:
                put_new(db, envelopes)
        except Met:
            return []
        return [envelope.id for envelope in envelopes]

    def _put_each(self, envelopes: Sequence[Envelope]) -> list[str]:
        with self._file.writing() as db:
            return [put_one(db, envelope) for envelope in envelopes]

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
        self._ring(step.keys)
        return step.result

    def _exchange(self, step: Transaction, outcomes: Sequence[Pair], wants: Sequence[Want], until: float) -> None:
        with self._file.writing() as db:
            taken = step.commit(db, outcomes)
            claims = [claim for want in wants for claim in step.claim(db, want, until)]
            step.flush(db)
            step.result = Exchange(taken, claims, next_ripe(db, wants, claims, step.now))

    def extend(self, claims: Sequence[Claim], *, until: float) -> set[str]:
        with self._file.writing() as db:
            return {c.id for c in claims if db.execute(sql.EXTEND, (until, c.id, c.token)).rowcount}

    # the desk

    def cancel(self, ids: Iterable[str], *, now: float) -> list[Record]:
        step = Transaction(now)
        with self._file.writing() as db:
            found = [record for record in records_of(db, sorted(set(ids))) if record.open]
            step.end(db, found, None)
            step.flush(db)
            cancelled = records_of(db, [record.id for record in found])
        self._ring(step.keys)
        return cancelled

    def reopen(self, ids: Iterable[str], *, now: float) -> set[str]:
        step = Transaction(now)
        with self._file.writing() as db:
            taken = {record.id for record in records_of(db, sorted(set(ids))) if step.reopen(db, record)}
            step.flush(db)
        self._ring(step.keys)
        return taken

    def promote(self, ids: Iterable[str], *, now: float) -> set[str]:
        step = Transaction(now)
        with self._file.writing() as db:
            taken = {record.id for record in records_of(db, sorted(set(ids))) if step.promote(db, record)}
        self._ring(step.keys)
        return taken

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        with self._file.reading() as db:
            return {record.id: record for record in records_of(db, list(ids))}

    def find(self, which: Filter, *, now: float, after: str | None = None, limit: int = 100) -> list[Record]:
        with self._file.reading() as db:
            return found(db, which, now, after, limit)

    def count(self) -> dict[tuple[str, str, str], int]:
        with self._file.reading() as db:
            rows = db.execute(sql.COUNTS).fetchall()
        return {
            (queue, route, str(state)): n
            for queue, route, *counts, _ in rows
            for state, n in zip(STATES, counts, strict=True)
            if n
        }

    # the workers

    def beat(self, worker: str, about: str, *, seen: Sequence[str] = (), until: float) -> list[Order]:
        with self._file.writing() as db:
            name = storable(worker)
            db.execute("REPLACE INTO worker (name, about, until) VALUES (?, ?, ?)", (name, storable(about), until))
            numbers = [(name, int(order)) for order in seen if order.isdecimal()]
            db.executemany("DELETE FROM told WHERE worker = ? AND n = ?", numbers)
            left = db.execute("SELECT n, text FROM told WHERE worker = ? ORDER BY n", (name,)).fetchall()
        return [Order(str(n), readable(text)) for n, text in left]

    def tell(self, worker: str, order: str) -> None:
        with self._file.writing() as db:
            db.execute("INSERT INTO told (worker, text) VALUES (?, ?)", (storable(worker), storable(order)))
        self._ring(lambda: {worker_key(worker)}, "o")

    def workers(self, *, now: float) -> dict[str, str]:
        with self._file.reading() as db:
            rows = db.execute("SELECT name, about FROM worker WHERE until > ?", (now,)).fetchall()
        return {readable(name): readable(about) for name, about in rows}

    # housekeeping

    def purge(self, *, now: float, limit: int = 1000) -> int:
        step = Transaction(now)
        with self._file.writing() as db:
            done = 0
            for clean in (step.purge_kept, step.purge_expired, step.purge_workers, step.purge_addressed):
                done += clean(db, limit - done)
            step.flush(db)
            db.execute("DELETE FROM lane WHERE queued + running + succeeded + failed + cancelled = 0")
        self._file.give_back()
        self._ring(step.keys)
        return done

    def wait(self, keys: Sequence[str], timeout: float) -> None:
        end = time.monotonic() + timeout
        ids = [key[4:] for key in keys if key.startswith("run:")]
        only_runs = len(ids) == len(keys)
        ear = self._notifier.ear("".join(sorted({kind_of(key) for key in keys})))
        if self._news_at_first(ear, ids, only_runs):
            return
        wanted = frozenset(key.encode("utf-8", "replace") for key in keys)
        version, signs = self._version(), self._signs(keys)
        while (left := end - time.monotonic()) > 0:
            if _heard(ear, wanted, min(left, LOOK)):
                return
            version, before = self._version(), version
            # Every commit changes the version, a pool's own beat too; only what concerns the keys is news.
            if version != before and (self._ended(ids) or self._signs(keys) != signs):
                return

    def _signs(self, keys: Sequence[str]) -> list[object]:
        """What changes when something happens to a work or worker key: how many are queued, the last order."""
        found: list[object] = []
        with self._file.reading() as db:
            for key in keys:
                kind, _, name = key.partition(":")
                if kind == "work":
                    queue, _, route = name.partition("/")
                    found += db.execute(sql.QUEUED_ON, (queue, *with_priorities(route))).fetchone()
                elif kind == "worker":
                    found += db.execute(sql.LAST_TOLD, (name,)).fetchone()
        return found

    def _news_at_first(self, ear: WakeSocket | None, ids: Sequence[str], only_runs: bool) -> bool:
        """What may have happened since the caller looked, and before anybody could ring."""
        unheard = ear is None or ear.fresh
        if ear is not None:
            ear.fresh = False
        return self._ended(ids) or (unheard and not only_runs)

    def _ended(self, ids: Sequence[str]) -> bool:
        """Whether one of these runs is not open."""
        with self._file.reading() as db:
            return any(db.execute(sql.IS_OPEN, (id,)).fetchone() is None for id in ids)

    def _version(self) -> object:
        with self._file.reading() as db:
            return db.execute("PRAGMA data_version").fetchone()[0]

    def _ring(self, keys: Callable[[], set[str]], kinds: str = "") -> None:
        """Wake those who wait; the keys are only made when there is somebody."""
        listening = self._notifier.kinds()
        if listening and (not kinds or kinds in listening):
            self._notifier.ring(keys())

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
        self._notifier.close()
        self._file.close()


# -- waiting, and the clock ------------------------------------------------------------------------------------------


def _heard(ear: WakeSocket | None, wanted: frozenset[bytes], timeout: float) -> bool:
    if ear is not None:
        return ear.hear(wanted, timeout)
    time.sleep(min(timeout, LOOK_ALONE))
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
        raise WrongCall(f"a SQLite URL is sqlite:// or sqlite:///relative.db or sqlite:////absolute.db; got {url!r}")
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
