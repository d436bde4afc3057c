"""A run put through a connection of the user's own: with their rows or not at all."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skunkqueue import SkunkQueue
from skunkqueue.errors import StoreAway, StoreError, StoreRefused, StoreVersion, WrongCall
from skunkqueue.persistence import WorkKey
from skunkqueue.persistence import sqlite as module
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.testing.makers import EVERY_BYTE, LATE, count_states, ids_of, sealed, take

LONG = b"x" * 5000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLitePersister]:
    store = SQLitePersister(str(tmp_path / "runs.db"))
    store.count()
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("CREATE TABLE book (name TEXT)")
    yield store
    store.close()


@pytest.fixture
def via(store: SQLitePersister) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(store.path)) as db:
        yield db


def books(store: SQLitePersister) -> int:
    with closing(sqlite3.connect(store.path)) as db:
        return int(db.execute("SELECT count(*) FROM book").fetchone()[0])


KINDS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "immediate": {"isolation_level": "IMMEDIATE"},
    "exclusive": {"isolation_level": "EXCLUSIVE"},
    "by hand": {"isolation_level": None},
}
if sys.version_info >= (3, 12):
    KINDS["never by itself"] = {"autocommit": False}
    KINDS["by itself"] = {"autocommit": True}


@pytest.fixture(params=KINDS)
def any_via(request: pytest.FixtureRequest, store: SQLitePersister) -> Iterator[sqlite3.Connection]:
    """Connections with each way to begin a transaction; one is begun where it does not begin by itself."""
    with closing(sqlite3.connect(store.path, **KINDS[request.param])) as db:
        if request.param in ("by hand", "by itself"):
            db.execute("BEGIN")
        yield db


@pytest.mark.parametrize("first", ["row", "run"])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_run_goes_with_the_users_own_rows(
    store: SQLitePersister, any_via: sqlite3.Connection, first: str, end: str
) -> None:
    def insert() -> None:
        any_via.execute("INSERT INTO book VALUES ('one')")

    if first == "row":
        insert()
    ids = store.put([sealed(1), sealed(2, route="bar", body=LONG), sealed(3, expires=LATE)], via=any_via)
    if first == "run":
        insert()

    assert (store.count(), books(store)) == ({}, 0)
    any_via.execute(end)

    committed = end == "COMMIT"
    assert ids == [sealed(n).id for n in (1, 2, 3)]
    assert books(store) == committed
    assert [c.envelope.body for c in take(store, "A", "foo", "bar")] == [b"body", b"body", LONG] * committed
    assert count_states(store) == ({"running": 3} if committed else {})
    assert not any_via.in_transaction or KINDS.get("never by itself") == {"autocommit": False}


def test_a_with_block_ends_it(store: SQLitePersister, via: sqlite3.Connection) -> None:
    with pytest.raises(KeyError), via:
        store.put([sealed(1)], via=via)
        raise KeyError
    assert store.count() == {}

    with via:
        store.put([sealed(1)], via=via)
    assert count_states(store) == {"queued": 1}


def test_a_savepoint_takes_back_what_was_put_in_it(store: SQLitePersister, via: sqlite3.Connection) -> None:
    store.put([sealed(1)], via=via)
    via.execute("SAVEPOINT mine")
    store.put([sealed(2)], via=via)
    via.execute("ROLLBACK TO mine")
    store.put([sealed(3)], via=via)
    via.commit()

    assert ids_of(take(store)) == [sealed(1).id, sealed(3).id]
    assert count_states(store) == {"running": 2}


def test_an_id_that_is_there_stands_and_so_does_a_unique_key(store: SQLitePersister, via: sqlite3.Connection) -> None:
    store.put([sealed(1), sealed(2, unique="key")])

    ids = store.put([sealed(1, body=b"other"), sealed(3), sealed(3)], via=via)
    ids += store.put([sealed(4, unique="key"), sealed(5, unique="new"), sealed(6, unique="new")], via=via)
    via.commit()

    assert ids == [sealed(n).id for n in (1, 3, 3, 2, 5, 5)]
    assert count_states(store) == {"queued": 4}
    assert store.get([sealed(1).id])[sealed(1).id].envelope.body == b"body"


def test_a_key_taken_in_a_transaction_that_is_rolled_back_is_free(
    store: SQLitePersister, via: sqlite3.Connection
) -> None:
    store.put([sealed(1, unique="key")], via=via)
    via.rollback()

    assert store.put([sealed(2, unique="key")]) == [sealed(2).id]


def test_how_the_connection_gives_rows_and_text_is_no_matter(store: SQLitePersister, via: sqlite3.Connection) -> None:
    def rows(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
        return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}

    store.put([sealed(1, unique="key", body=EVERY_BYTE)])
    via.row_factory, via.text_factory = rows, bytes  # type: ignore[assignment]

    assert store.put([sealed(2, unique="key"), sealed(3)], via=via) == [sealed(1).id, sealed(3).id]
    assert (via.row_factory, via.text_factory) == (rows, bytes)
    via.commit()
    assert count_states(store) == {"queued": 2}


def test_what_fails_leaves_the_transaction_as_it_was(
    store: SQLitePersister, via: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skunkqueue.persistence.sqlite import transaction

    via.execute("INSERT INTO book VALUES ('one')")
    monkeypatch.setattr(transaction, "_put_rare", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.put([sealed(1)], via=via)
    assert via.in_transaction
    via.commit()
    assert (store.count(), books(store)) == ({}, 1)

    with pytest.raises(ZeroDivisionError):
        store.put([sealed(1)], via=via)
    assert not via.in_transaction


def test_a_connection_that_cannot_keep_the_promise_is_refused(store: SQLitePersister, tmp_path: Path) -> None:
    other = SQLitePersister(str(tmp_path / "other.db"))
    other.count()
    other.close()
    attached = sqlite3.connect(tmp_path / "other.db")
    attached.execute("ATTACH ? AS queue", (store.path,))
    hiding = sqlite3.connect(store.path)
    hiding.execute("CREATE TEMP TABLE run (id)")
    closed = sqlite3.connect(store.path)
    closed.close()
    elsewhere = ThreadPoolExecutor(1)
    of_a_thread = elsewhere.submit(sqlite3.connect, store.path).result()
    open_ones = [
        sqlite3.connect(store.path, isolation_level=None), sqlite3.connect(":memory:"),
        sqlite3.connect(tmp_path / "other.db"), attached, hiding,
    ]  # fmt: skip
    words = [
        "execute BEGIN first", "to no file; the queue is in", "other.db; the queue is in", "attached, as 'queue'",
        "hides",
    ]  # fmt: skip

    for via, word in [
        (object(), "via is a sqlite3.Connection; got object"), (closed, "cannot be used here"),
        (of_a_thread, "same thread"), *zip(open_ones, words, strict=True),
    ]:  # fmt: skip
        with pytest.raises(WrongCall, match=word):
            store.put([sealed()], via=via)

    assert store.count() == {}
    for each in open_ones:
        assert not each.in_transaction
        each.close()
    elsewhere.submit(of_a_thread.close).result()
    elsewhere.shutdown()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="autocommit came with Python 3.12")
def test_a_connection_that_commits_by_itself_is_refused(store: SQLitePersister) -> None:
    via = sqlite3.connect(store.path, autocommit=True)  # type: ignore[call-overload]
    with closing(via), pytest.raises(WrongCall, match="execute BEGIN first"):
        store.put([sealed()], via=via)


def test_another_name_of_the_file_is_the_same_file(store: SQLitePersister, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(store.path)
    with closing(sqlite3.connect(tmp_path / "link.db")) as via, via:
        store.put([sealed()], via=via)

    assert count_states(store) == {"queued": 1}


def test_a_file_without_tables_gets_them_first(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with closing(sqlite3.connect(path)) as via, closing(SQLitePersister(str(path))) as store:
        with via:
            store.put([sealed()], via=via)

        assert count_states(store) == {"queued": 1}


@pytest.mark.parametrize(
    ("pragma", "error"), [("user_version = 2000", StoreVersion), ("application_id = 7", StoreError)]
)
def test_a_file_of_another_kind_is_refused(
    store: SQLitePersister, via: sqlite3.Connection, pragma: str, error: type[Exception]
) -> None:
    via.execute(f"PRAGMA {pragma}")
    via.commit()

    with closing(SQLitePersister(store.path)) as anew, pytest.raises(error):
        anew.put([sealed()], via=via)
    assert not via.in_transaction


def test_a_read_that_is_out_of_date_is_said_with_what_to_do(store: SQLitePersister, via: sqlite3.Connection) -> None:
    via.execute("BEGIN")
    via.execute("SELECT * FROM book").fetchall()
    store.put([sealed(1)])

    with pytest.raises(StoreAway, match="BEGIN IMMEDIATE"):
        store.put([sealed(2)], via=via)

    via.rollback()
    store.put([sealed(2)], via=via)
    via.commit()
    assert count_states(store) == {"queued": 2}


def test_one_that_may_only_read_is_said(store: SQLitePersister) -> None:
    via = sqlite3.connect(f"file:{store.path}?mode=ro", uri=True)
    with closing(via), pytest.raises(StoreRefused, match="read-only"):
        store.put([sealed()], via=via)


def test_while_another_writes_it_is_waited_for(store: SQLitePersister, via: sqlite3.Connection) -> None:
    via.execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreAway, match="held by another writer"):
            store.put([sealed()], via=via)
        assert not via.in_transaction
    store.put([sealed()], via=via)
    via.commit()
    assert count_states(store) == {"queued": 1}


def test_firing_within_a_transaction_that_is_open_waits_for_nothing(tmp_path: Path) -> None:
    """The first fire of a process asks for the store's clock, which may have to be written."""
    url = f"sqlite:///{tmp_path}/runs.db"
    with SkunkQueue("demo", url) as queue:
        queue.store.count()

        @queue.event
        def job(value: int) -> int:
            return value

        with closing(sqlite3.connect(tmp_path / "runs.db")) as via:
            via.execute("CREATE TABLE book (name TEXT)")
            via.execute("INSERT INTO book VALUES ('one')")
            begun = time.monotonic()
            run = job.options(via=via, unique="key").fire(1)
            again = job.options(via=via, unique="key").fire(1)
            runs = job.options(via=via).fire_many([(n,) for n in range(700)])
            took = time.monotonic() - begun
            assert queue.count()["queued"] == 0
            via.commit()

        assert run.id == again.id
        assert took < 10 * module.CLOCK_PATIENCE
        assert queue.count()["queued"] == 1 + len(runs.runs) == 701


def test_who_waits_hears_of_it_soon_after_the_commit(store: SQLitePersister, via: sqlite3.Connection) -> None:
    heard = threading.Event()
    keys = [WorkKey("demo", "foo")]
    thread = threading.Thread(target=lambda: (store.wait(keys, 0), store.wait(keys, 30), heard.set()))
    thread.start()
    store.put([sealed()], via=via)

    assert not heard.wait(0.5)
    via.commit()

    assert heard.wait(5)
    thread.join()


def test_what_is_committed_between_two_waits_ends_the_second(store: SQLitePersister, via: sqlite3.Connection) -> None:
    """Nobody rings for it, so the waiter remembers what it knew when its last wait ended."""
    keys = [WorkKey("demo", "foo"), WorkKey("demo", "bar")]
    store.wait(keys, 0)
    store.wait(keys, 0)
    for n, route in enumerate(["foo", "bar^high", "foo"]):
        store.put([sealed(n, route=route)], via=via)
        via.commit()

        begun = time.monotonic()
        store.wait(keys, 30)
        assert time.monotonic() - begun < 5

    begun = time.monotonic()
    store.wait(keys, 0.3)
    assert time.monotonic() - begun >= 0.29
