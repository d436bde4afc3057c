"""A write-ahead log (``-wal``) that lies beside a file it was not written for.

Nothing in the log says which file it belongs to. Whoever replaces the file and leaves the log has SQLite lay the pages
of the one over the other: a text reads as a store, until a checkpoint writes over it. So each store has an id, and the
lock file beside it names the id of the store whose log is there.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from skunkqueue.errors import StoreAway
from skunkqueue.persistence.sqlite.sql import STORE_ID

Identity = tuple[int, int]
"""The device and the inode of a file."""

SUFFIX: Final = "-wal"
LOCK: Final = "-turn"

_ID: Final = re.compile("[0-9a-f]{32}")


def identity(path: str) -> Identity | None:
    """Which file is at the path now; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def log_of(path: str) -> Identity | None:
    """Which write-ahead log is beside the file at the path; None if there is none."""
    return identity(path + SUFFIX)


def check_log(path: str, file: Identity | None, log: Identity | None) -> None:
    """Check that the log is not the one of another file: ``file`` and ``log`` are what was opened here before.

    Raises StoreAway.
    """
    there = identity(path)
    if log is not None and there is not None and there != file and log_of(path) == log:
        raise _replaced(path)


def _replaced(path: str) -> StoreAway:
    return StoreAway(
        f"{path} was replaced, but beside it is still {path}{SUFFIX}, with the last changes of the file before; "
        f"move that file back, or move {path}{SUFFIX} and {path}-shm to where it is now"
    )


def check_beneath_log(path: str) -> None:
    """Check that the store of the log, or nothing yet, is beneath it. Raises ``sqlite3.DatabaseError`` or StoreAway.

    By SQLite and not by a look of our own: to close a file gives up all locks that this process has on it.
    """
    if log_of(path) is None:
        return  # SQLite looks for itself
    try:
        db = sqlite3.connect(f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error:
        return
    try:
        db.execute("PRAGMA schema_version").fetchone()
        found, named = store_id(db), named_id(path)
        if found is not None and named is not None and found != named and os.stat(path + SUFFIX).st_size:
            raise _replaced(path)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            raise
    finally:
        db.close()


def store_id(db: sqlite3.Connection) -> str | None:
    """The id of a store; None if it has none that can be read."""
    try:
        found = db.execute(STORE_ID).fetchone()
    except sqlite3.Error:
        return None
    return None if found is None else _valid(found[0])


def named_id(path: str) -> str | None:
    """The id of the store that was used last at this path."""
    try:
        with open(path + LOCK, "rb") as file:
            return _valid(file.read(40).decode("ascii", "replace").strip())
    except OSError:
        return None


def name_id(path: str, id: str | None) -> None:
    """Note the id of the store that is used at this path."""
    if id is None or named_id(path) == id:
        return
    with suppress(OSError):  # a folder that cannot be written
        fd = os.open(path + LOCK, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(fd, f"{id}\n".encode(), 0)
        finally:
            os.close(fd)


def _valid(id: object) -> str | None:
    return id if isinstance(id, str) and _ID.fullmatch(id) else None
