"""The file under the SQLite store: opening it, its schema and version, transactions, and what its errors mean."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from skunkqueue.errors import StoreAway, StoreError, StoreFull, StoreRefused, StoreVersion, WrongStore
from skunkqueue.persistence.sqlite.left_log import (
    LOCK,
    Identity,
    check_beneath_log,
    check_log,
    identity,
    log_of,
    name_id,
    store_id,
)
from skunkqueue.persistence.sqlite.lock import WriteLock
from skunkqueue.persistence.sqlite.sql import APPLICATION, GIVE_ID, MAJOR, SCHEMA

PATIENCE: Final = 5.0
"""Seconds to wait for the writes of others before giving up, where the URL does not say."""

CLOSING: Final = 0.5
"""Seconds that ``close`` waits for a thread that uses a connection; later, that thread closes it when it is done."""

GLANCE: Final = 0.2
"""Seconds between checks whether the file was moved or deleted: a check costs a tenth of a put."""

MUCH: Final = 10_000
"""More free pages (of 4 KB) than this are worth giving back to the disk."""

LITTLE: Final = 2000
"""With fewer pages in use than this, giving back takes no noticeable time."""


class File:
    """One SQLite file: a connection that writes and one that reads, each under its lock, opened when first needed.

    Threads may share it. Connections are closed before a fork and opened anew after it, on both sides: SQLite keeps
    its locks per process, and a child that inherited them could lose data.
    """

    def __init__(self, path: str, *, full: bool = True, make_folder: bool = False, patience: float = PATIENCE) -> None:
        self.path = path
        self.full = full
        self.make_folder = make_folder
        self.patience = patience
        self._writer = _Connection()
        self._reader = _Connection()
        self._write_lock = WriteLock(path + LOCK)
        weakref.finalize(self, _close_both, self._writer, self._reader)
        _files.add(self)

    @contextmanager
    def writing(self, patience: float | None = None) -> Iterator[sqlite3.Connection]:
        """A transaction that writes; it is committed at the end and rolled back by any error.

        Waits up to ``patience`` seconds (the file's own, if None) for other writers: threads of this process,
        other processes of ours, and others that use the file. Raises StoreAway, StoreFull, StoreVersion or StoreError.
        """
        give_up = time.monotonic() + (self.patience if patience is None else patience)
        connection = self._writer
        with self._using(connection, give_up):
            try:
                db = self._ready(connection)
                if not self._write_lock.take(_left(give_up)):
                    raise _refusal(sqlite3.SQLITE_BUSY, self.path)
                _patiently(db, "BEGIN IMMEDIATE", give_up)
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                connection.undo(error)
                if isinstance(error, sqlite3.Error):
                    raise explained(error, self.path) from error
                raise
            finally:
                self._write_lock.give()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection that reads; it never waits for one that writes. Raises like ``writing``."""
        connection = self._reader
        with self._using(connection):
            try:
                yield self._ready(connection)
            except sqlite3.Error as error:
                connection.undo(error)
                raise explained(error, self.path) from error

    def give_back(self) -> None:
        """Give disk space back after a great backlog is gone, when VACUUM has few pages to copy.

        Otherwise the file keeps its free pages and uses them again: giving them back bit by bit (auto_vacuum) would
        cost each run 5 %.
        """
        connection = self._writer
        with self._using(connection):
            try:
                db = self._ready(connection)
                free = _asked(db, "freelist_count")
                if free > MUCH and _asked(db, "page_count") - free < LITTLE:
                    db.execute("VACUUM")
            except sqlite3.Error as error:
                connection.undo(error)

    def close(self) -> None:
        """Close both connections; the next use opens them anew. Waits for no writer that waits for another."""
        for connection in (self._writer, self._reader):
            if not connection.lock.acquire(timeout=CLOSING):
                connection.to_close = True
                if not connection.lock.acquire(blocking=False):  # else it has just come free, and nobody would close it
                    continue
            connection.to_close = True
            self._let_go(connection)

    @contextmanager
    def _using(self, connection: _Connection, give_up: float | None = None) -> Iterator[None]:
        """Have a connection for this thread alone. Raises StoreAway if other threads have it until ``give_up``."""
        if not connection.lock.acquire(timeout=-1 if give_up is None else _left(give_up)):
            raise _refusal(sqlite3.SQLITE_BUSY, self.path)
        try:
            yield
        finally:
            self._let_go(connection)

    def _let_go(self, connection: _Connection) -> None:
        if connection.to_close:
            connection.to_close = False
            connection.close()
            if connection is self._writer:
                self._write_lock.close()
        connection.lock.release()

    def _ready(self, connection: _Connection) -> sqlite3.Connection:
        """The connection, opened if need be, to the file that is at the path now."""
        if connection.db is not None:
            if connection.pid == os.getpid() and connection.leads_to(self.path):
                return connection.db
            connection.abandon()
        check_log(self.path, connection.file, connection.log)
        if self.make_folder:
            self._make_folder()
        connection.db = self._open()
        if connection is self._writer:
            connection.db.execute("PRAGMA busy_timeout = 0")  # waiting is done here, see _patiently
        connection.pid = os.getpid()
        connection.file, connection.log = identity(self.path), log_of(self.path)
        connection.looked = time.monotonic()
        return connection.db

    def _make_folder(self) -> None:
        folder = os.path.dirname(self.path)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreFull(f"the folder for the store, {folder}, cannot be made: {error.strerror}") from error

    def _open(self) -> sqlite3.Connection:
        check_beneath_log(self.path)
        db = sqlite3.connect(
            self.path, timeout=self.patience, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            db.text_factory = text_of_file
            db.execute(f"PRAGMA synchronous = {'FULL' if self.full else 'NORMAL'}")
            db.execute("PRAGMA cache_size = -16000")
            db.execute("PRAGMA temp_store = MEMORY")
            _prepare(db, self.path, time.monotonic() + self.patience)
            name_id(self.path, store_id(db))
        except BaseException:
            db.close()
            raise
        return db


class _Connection:
    """A connection, the lock that guards it, and what tells whether it still leads to the file at the path."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.db: sqlite3.Connection | None = None
        self.pid = 0
        self.file: Identity | None = None
        self.log: Identity | None = None  # as long as it is kept open: then no other can have its identity
        self.looked = 0.0
        self.to_close = False
        """Whether the thread that uses it is to close it afterwards."""

    def leads_to(self, path: str) -> bool:
        """Whether the file at the path is the one that was opened; checked at most every ``GLANCE`` seconds."""
        now = time.monotonic()
        if now - self.looked < GLANCE:
            return True
        self.looked = now
        return self.file == identity(path)

    def undo(self, error: BaseException) -> None:
        """After an error: roll back, and close a connection that cannot be trusted any more."""
        if self.db is None:
            return
        try:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and _code(error) in _UNTRUSTED:
                self.close()
        except sqlite3.Error:
            self.close()

    def close(self) -> None:
        db, self.db = self.db, None
        if db is not None:
            self.log = None
            with suppress(sqlite3.Error):
                db.close()

    def abandon(self) -> None:
        """Forget the connection and never close it: closing would delete, by name, a journal that others now use."""
        if self.db is not None:
            import ctypes  # rarely needed, and slow to import

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.db))
        self.db = None


def _close_both(*connections: _Connection) -> None:
    """Close both when the ``File`` is collected, but not what was inherited by a fork that Python did not see."""
    for connection in connections:
        if connection.pid == os.getpid():
            connection.close()


def _left(give_up: float) -> float:
    return max(0.0, give_up - time.monotonic())


def _patiently(db: sqlite3.Connection, statement: str, give_up: float) -> None:
    """Execute, and retry while another process holds the file. SQLite's own handler soon sleeps 100 ms at a time."""
    try:
        db.execute(statement)
        return
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_BUSY:
            raise
    _retry(db, statement, give_up)


def _retry(db: sqlite3.Connection, statement: str, give_up: float) -> None:
    pause = 0.0002
    while True:
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
        try:
            db.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        pause = min(pause * 1.5, 0.004)


# -- schema ----------------------------------------------------------------------------------------------------------


def _prepare(db: sqlite3.Connection, path: str, give_up: float) -> None:
    """Check that the file is ours and of a known version; create the schema in a new one. Many may do so at once."""
    if not _is_ours(db, path):
        _patiently(db, "PRAGMA journal_mode = WAL", give_up)
        _patiently(db, "BEGIN IMMEDIATE", give_up)
        if not _is_ours(db, path):
            for statement in (*SCHEMA, *GIVE_ID):
                db.execute(statement)
        db.execute("COMMIT")
    elif store_id(db) is None:
        _give_id(db, give_up)
    if _asked(db, "journal_mode") != "wal":
        _patiently(db, "PRAGMA journal_mode = WAL", give_up)


def _give_id(db: sqlite3.Connection, give_up: float) -> None:
    """Give an id to a store of an early version. One that cannot be written now has none for now."""
    try:
        _patiently(db, "BEGIN IMMEDIATE", give_up)
        for statement in GIVE_ID:
            db.execute(statement)
        db.execute("COMMIT")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")


def text_of_file(data: bytes) -> str:
    """Text as it lies in the file. Damaged, it must not raise: the driver would give up the whole query."""
    return data.decode("utf-8", "surrogateescape")


def _is_ours(db: sqlite3.Connection, path: str) -> bool:
    """False for an empty file. Raises StoreVersion or StoreError for what we must not touch."""
    # In this order: another process may be creating the schema now, and commits the tables and the id together.
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application, version = _asked(db, "application_id"), _asked(db, "user_version")
    if application == APPLICATION:
        if version >= (MAJOR + 1) * 1000:
            raise StoreVersion(
                f"{path} was written by a newer SkunkQueue (store version {version // 1000}, this one knows "
                f"{MAJOR}); upgrade skunkqueue here, or use another file"
            )
        return True
    if application or tables:
        raise WrongStore(f"{path} is a database of another program; give SkunkQueue a file of its own")
    return False


def _asked(db: sqlite3.Connection, pragma: str) -> Any:
    return db.execute(f"PRAGMA {pragma}").fetchone()[0]


# -- errors ----------------------------------------------------------------------------------------------------------

_UNTRUSTED: Final = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL}
)

_CANNOT_WRITE: Final = frozenset(
    {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE}
)

_MEANING: Final[dict[int, tuple[type[StoreError], str]]] = {
    sqlite3.SQLITE_FULL: (StoreFull, "the disk that holds {path} is full; nothing was stored. Make room"),
    sqlite3.SQLITE_READONLY: (StoreFull, "{path} is read-only; nothing was stored. Make it and its folder writable"),
    sqlite3.SQLITE_PERM: (StoreFull, "{path} may not be written; nothing was stored. See to its permissions"),
    sqlite3.SQLITE_TOOBIG: (StoreRefused, "{path} cannot hold anything as large as that; nothing was stored"),
    sqlite3.SQLITE_NOMEM: (StoreFull, "there is no memory left to use {path}; nothing was stored"),
    sqlite3.SQLITE_BUSY: (StoreAway, "{path} was held by another writer for too long; see which one is stuck"),
    sqlite3.SQLITE_LOCKED: (StoreAway, "{path} was held by another writer for too long; see which one is stuck"),
    sqlite3.SQLITE_CANTOPEN: (StoreAway, "{path} cannot be opened; see that its folder is there and may be written"),
    sqlite3.SQLITE_IOERR: (StoreAway, "{path} cannot be read or written ({error}); see to its disk"),
    sqlite3.SQLITE_CORRUPT: (StoreError, "{path} is damaged ({error}); restore it, or move it away to start anew"),
    sqlite3.SQLITE_NOTADB: (WrongStore, "{path} is not a SkunkQueue store; give another file, or move it away"),
}  # fmt: skip


def explained(error: sqlite3.Error, path: str) -> StoreError:
    """Our error for an error of the driver, with what to do about it."""
    code = _code(error)
    if getattr(error, "sqlite_errorcode", 0) in _CANNOT_WRITE:
        return StoreFull(f"{path} cannot be written; nothing was stored. The disk may be full ({error})")
    if code == sqlite3.SQLITE_CANTOPEN and os.path.isdir(path):
        return WrongStore(f"{path} is a folder; a SQLite store is a file")
    if code == sqlite3.SQLITE_CANTOPEN and _is_read_only(path):
        code = sqlite3.SQLITE_READONLY
    return _refusal(code, path, error)


def _refusal(code: int, path: str, error: object = "") -> StoreError:
    kind, sentence = _MEANING.get(code, (StoreError, "{path} cannot be used ({error})"))
    return kind(sentence.format(path=path, error=error))


def _is_read_only(path: str) -> bool:
    folder = os.path.dirname(path)
    return os.path.isdir(folder) and not os.access(folder, os.W_OK)


def _code(error: sqlite3.Error) -> int:
    """The primary code; the extended one tells more in its upper bits."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


# -- forks -----------------------------------------------------------------------------------------------------------

_files: weakref.WeakSet[File] = weakref.WeakSet()
_paused: list[_Connection] = []


def _before_fork() -> None:
    """Close what is open. A connection that stays busy for 5 seconds is left open; the child abandons its copy."""
    for connection in [connection for file in list(_files) for connection in (file._writer, file._reader)]:
        if connection.lock.acquire(timeout=5.0):
            _paused.append(connection)
            if connection.pid == os.getpid():
                connection.close()


def _after_fork_in_parent() -> None:
    while _paused:
        _paused.pop().lock.release()


def _after_fork_in_child() -> None:
    _paused.clear()
    for file in list(_files):
        file._write_lock.forget()
        for connection in (file._writer, file._reader):
            connection.abandon()
            connection.lock = threading.Lock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
