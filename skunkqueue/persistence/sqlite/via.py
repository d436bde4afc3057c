"""A connection of the user's own: runs put through it are stored with its transaction, or not at all."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from skunkqueue.envelope import Envelope
from skunkqueue.errors import StoreAway, WrongCall
from skunkqueue.persistence.sqlite.file import explained
from skunkqueue.persistence.sqlite.sql import TABLES
from skunkqueue.persistence.sqlite.transaction import Met, put_new, put_one

SAVEPOINT: Final = "skunkqueue_put"
LEGACY: Final = -1
"""``sqlite3.LEGACY_TRANSACTION_CONTROL``, new in Python 3.12."""


def put_via(via: sqlite3.Connection, envelopes: Sequence[Envelope], path: str) -> list[str]:
    """Put runs within the transaction of a connection. It is begun if needed; its owner ends it.

    A failure leaves the transaction as it was. Raises WrongCall, StoreAway, StoreRefused or StoreError.
    """
    try:
        with _within(via) as db:
            return _put(db, envelopes)
    except sqlite3.ProgrammingError as error:
        raise WrongCall(f"via cannot be used here: {error}") from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY_SNAPSHOT:
            raise StoreAway(
                "via has read in a transaction, and then others have written: roll it back, and begin it anew "
                "with BEGIN IMMEDIATE"
            ) from error
        raise explained(error, path) from error


def check_connection(via: object, path: str) -> None:
    """Raise WrongCall for anything but a connection that can put runs into this file."""
    if not isinstance(via, sqlite3.Connection):
        raise WrongCall(f"via is a sqlite3.Connection; got {type(via).__name__}")
    try:
        with _cursor(via) as db:
            files = {name: file for _, name, file in db.execute("PRAGMA database_list").fetchall()}
            temporary = {name for (name,) in db.execute("SELECT name FROM temp.sqlite_master").fetchall()}
    except sqlite3.ProgrammingError as error:
        raise WrongCall(f"via cannot be used here: {error}") from error
    except sqlite3.Error as error:
        raise explained(error, path) from error
    _check_file(files, path)
    if hidden := temporary & TABLES:
        raise WrongCall(f"via has a temporary table {min(hidden)!r}, which hides the queue's; give it another name")
    _check_transaction(via)


def _check_file(files: dict[str, str], path: str) -> None:
    """Only the main file is accepted: after a crash, SQLite may have committed one of two files and not the other."""
    if _is_same(files["main"], path):
        return
    attached = [name for name, file in files.items() if _is_same(file, path)]
    if attached:
        raise WrongCall(
            f"via has the queue's file attached, as {attached[0]!r}, and two files are not surely committed together: "
            f"open {path} itself, and keep your rows in it"
        )
    raise WrongCall(f"via is a connection to {files['main'] or 'no file'}; the queue is in {path}")


def _is_same(file: str, path: str) -> bool:
    try:
        return bool(file) and os.path.samefile(file, path)
    except OSError:
        return False


def _check_transaction(via: sqlite3.Connection) -> None:
    """Refuse a connection that commits each statement by itself: the run would stay even if later statements fail."""
    autocommit = getattr(via, "autocommit", LEGACY)
    commits_each = via.isolation_level is None if autocommit == LEGACY else autocommit is True
    if commits_each and not via.in_transaction:
        raise WrongCall("via commits each statement by itself, and has begun no transaction; execute BEGIN first")


@contextmanager
def _within(via: sqlite3.Connection) -> Iterator[sqlite3.Cursor]:
    """A cursor in the transaction, which is begun if needed. An error undoes what was done here, and nothing else."""
    begun = not via.in_transaction
    with _cursor(via) as db:
        if begun:
            db.execute("BEGIN IMMEDIATE")
        db.execute(f"SAVEPOINT {SAVEPOINT}")
        try:
            yield db
        except BaseException:
            with suppress(sqlite3.Error):  # some errors have rolled back everything already
                db.execute("ROLLBACK" if begun else f"ROLLBACK TO {SAVEPOINT}")
                if not begun:
                    db.execute(f"RELEASE {SAVEPOINT}")
            raise
        db.execute(f"RELEASE {SAVEPOINT}")


@contextmanager
def _cursor(via: sqlite3.Connection) -> Iterator[sqlite3.Cursor]:
    """A cursor that gives plain rows and text, whatever the connection is set to."""
    factory, via.text_factory = via.text_factory, str
    try:
        db = sqlite3.Cursor(via)
        db.row_factory = None
        yield db
        db.close()
    finally:
        via.text_factory = factory


def _put(db: sqlite3.Cursor, envelopes: Sequence[Envelope]) -> list[str]:
    if all(envelope.unique is None for envelope in envelopes):
        db.execute("SAVEPOINT skunkqueue_new")
        try:
            put_new(db, envelopes)
        except Met:
            db.execute("ROLLBACK TO skunkqueue_new")
        else:
            return [envelope.id for envelope in envelopes]
        finally:
            db.execute("RELEASE skunkqueue_new")
    return [put_one(db, envelope) for envelope in envelopes]
