"""Answers in a table of an SQLite file."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from skunkqueue.cache.key import CachedCall
from skunkqueue.cache.stores import AnswerStore, KeptAnswer, Place
from skunkqueue.errors import StoreAway, StoreRefused, WrongCall
from skunkqueue.persistence.url import url_path

PATIENCE: Final = 5.0
"""Seconds to wait for the writes of others."""

SWEEP: Final = 60.0
"""Seconds between sweeps of what has expired."""


def open_place(place: Place) -> AnswerStore:
    """The file of ``sqlite:///name.db``, relative to the current folder, or of ``sqlite:////folder/name.db``."""
    path = url_path(place.url).removeprefix("/")
    if not path:
        raise WrongCall("the URL of a cache in SQLite names a file, like sqlite:///cache.db; this one names none")
    return SQLiteCache(path, place.collection)


class SQLiteCache(AnswerStore):
    """One connection to the file, for all threads of this process in turn."""

    def __init__(self, path: str, table: str) -> None:
        self._path = path
        self._answers = '"{}"'.format(table.replace('"', '""'))
        self._claims = '"{}_claims"'.format(table.replace('"', '""'))
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._swept = 0.0

    def get(self, key: str, *, now: float) -> KeptAnswer | None:
        with self._transaction() as db:
            select = f"SELECT value, made FROM {self._answers} WHERE key = ? AND expires > ?"  # noqa: S608
            found = db.execute(select, (key, now)).fetchone()
        return None if found is None else KeptAnswer(bytes(found[0]), float(found[1]))

    def put(self, question: CachedCall, answer: KeptAnswer, *, expires: float) -> None:
        with self._transaction() as db:
            db.execute(
                f"INSERT OR REPLACE INTO {self._answers} (key, name, arguments, value, made, expires)"  # noqa: S608
                " VALUES (?, ?, ?, ?, ?, ?)",
                (*question, answer.value, answer.made, expires),
            )
            self._sweep(db)

    def forget(self, key: str) -> None:
        with self._transaction() as db:
            db.execute(f"DELETE FROM {self._answers} WHERE key = ?", (key,))  # noqa: S608

    def claim(self, key: str, token: str, *, now: float, until: float) -> bool:
        with self._transaction() as db:
            done = db.execute(
                f"INSERT INTO {self._claims} (key, token, until) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE"  # noqa: S608
                " SET token = excluded.token, until = excluded.until WHERE until <= ? OR token = excluded.token",
                (key, token, until, now),
            )
        return done.rowcount > 0

    def extend(self, key: str, token: str, *, until: float) -> None:
        with self._transaction() as db:
            extend = f"UPDATE {self._claims} SET until = ? WHERE key = ? AND token = ?"  # noqa: S608
            db.execute(extend, (until, key, token))

    def release(self, key: str, token: str) -> None:
        with self._transaction() as db:
            db.execute(f"DELETE FROM {self._claims} WHERE key = ? AND token = ?", (key, token))  # noqa: S608

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _sweep(self, db: sqlite3.Connection) -> None:
        now = time.time()
        if now - self._swept > SWEEP:
            self._swept = now
            db.execute(f"DELETE FROM {self._answers} WHERE expires <= ?", (now,))  # noqa: S608
            db.execute(f"DELETE FROM {self._claims} WHERE until <= ?", (now,))  # noqa: S608

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, each statement committed by itself. Turns SQLite's errors into ours."""
        with self._lock:
            try:
                yield self._opened()
            except (sqlite3.DataError, OverflowError) as error:
                raise StoreRefused(f"{self._path} does not take this: {error}") from error
            except sqlite3.Error as error:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                raise StoreAway(f"{self._path}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            found = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            self._connection = found
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = NORMAL")  # an answer that a power cut takes is computed again
            found.execute(
                f"CREATE TABLE IF NOT EXISTS {self._answers} (key TEXT PRIMARY KEY, name TEXT, arguments TEXT,"
                " value BLOB, made REAL, expires REAL) WITHOUT ROWID"
            )
            found.execute(
                f"CREATE TABLE IF NOT EXISTS {self._claims} (key TEXT PRIMARY KEY, token TEXT, until REAL)"
                " WITHOUT ROWID"
            )
        return self._connection
