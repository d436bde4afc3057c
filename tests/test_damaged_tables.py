"""Every row of SQLite's tables beside the runs, damaged in every column: nothing stands still."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skunkqueue.envelope import DAY, FINDABLE, Filter, Outcome
from skunkqueue.persistence import RunKey, WorkerKey, WorkKey
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.testing.makers import NOW, sealed, want

TABLES = ("lane", "taken", "expiring", "worker", "told", "clock", "store", "long")
ROUTES = ("foo", "bar")
JUNK: tuple[Any, ...] = (
    None, -1, 7, 9e999, -9e999, 2**63 - 1, -(2**63), 1.5, "", "junk", b"", b"\xff\x00 junk", "CAST(x'ff00fe' AS TEXT)"
)  # fmt: skip
LIVE = [sealed(n, route="bar") for n in (90, 91)]
"""Runs on a lane of their own."""


def fill(store: SQLitePersister) -> None:
    """Rows in every table, and runs in every state."""
    store.put([sealed(n, body=b"x" * 900 if n % 2 else b"body") for n in (1, 2, 3, 4, 5)])
    store.put([sealed(6, expires=NOW + 50, unique="key"), sealed(7, route="@worker-1"), *LIVE[:1]])
    claims = store.claim([want("H", limit=4)], now=NOW, until=NOW + 15)
    store.commit([(claims[0], Outcome.complete(b"")), (claims[1], Outcome.failed("no"))], now=NOW)
    store.cancel([claims[2].id], now=NOW)
    store.beat("worker-1", '{"queue": "demo"}', until=NOW + 1000)
    store.tell("worker-1", "gentle")
    store.offset()


def use(store: SQLitePersister) -> None:
    """Every verb: none may raise."""
    ids = [sealed(n).id for n in range(1, 10)]
    store.get(ids)
    store.get_brief(ids)
    store.open_of(ids)
    for which in (Filter(), Filter("demo", "foo"), *(Filter(state=state) for state in FINDABLE)):
        store.find(which, now=NOW)
        store.find_brief(which, now=NOW, values=0)
    store.count()
    store.workers(now=NOW)
    orders = store.beat("worker-1", "{}", until=NOW + 1000)
    store.beat("worker-1", "{}", seen=[order.id for order in orders], until=NOW + 1000)
    store.tell("worker-1", "rough")
    store.offset()
    store.wait([WorkKey("demo", "foo"), RunKey(ids[3]), WorkerKey("worker-1")], 0.01)
    store.put([sealed(20, unique="key"), sealed(21, expires=NOW + 60), sealed(22, body=b"y" * 900)])
    store.promote([ids[0], ids[4]], now=NOW)
    store.reopen(ids, now=NOW)
    store.cancel(ids[4:5], now=NOW)
    for n in range(4):
        now = NOW + 100 * n
        claims = store.claim([want(f"T{n}", "foo", limit=100)], now=now, until=now + 15)
        store.extend(claims, until=now + 20)
        store.commit([(claim, Outcome.complete(b"")) for claim in claims[:2]], now=now)
        store.purge(now=now)


def places_of(path: str, table: str) -> list[tuple[int, str]]:
    """Each column of each row: the number of the row, and the column."""
    with closing(sqlite3.connect(path)) as db:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    return [(number, column) for number in range(count) for column in columns]


def damage(path: str, table: str, number: int, column: str, junk: Any) -> bool:
    """Write junk; False if SQLite does not take it there."""
    key = ", ".join(KEYS[table])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        row = db.execute(f"SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 OFFSET ?", (number,)).fetchone()
        where = " AND ".join(f"{name} IS ?" for name in KEYS[table])
        is_code = isinstance(junk, str) and junk.startswith("CAST")
        try:
            db.execute(
                f"UPDATE {table} SET {column} = {junk if is_code else '?'} WHERE {where}",
                (*(() if is_code else (junk,)), *row),
            )
        except sqlite3.Error:
            return False
    return True


KEYS = {
    "lane": ("n",), "taken": ("lane", "uniq"), "expiring": ("expires", "id"), "worker": ("name",), "told": ("n",),
    "clock": ("boot",), "store": ("rowid",), "long": ("rowid",),
}  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("filled") / "runs.db"
    with closing(SQLitePersister(str(path))) as store:
        fill(store)
    return path.read_bytes()


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
@pytest.mark.parametrize("table", TABLES)
def test_damage_of_any_row_stops_nobody(tmp_path: Path, filled: bytes, table: str, step: int) -> None:
    path = tmp_path / "runs.db"
    path.write_bytes(filled)
    failures, tried = [], 0
    places = [(number, column, junk) for number, column in places_of(str(path), table) for junk in JUNK]
    for number, column, junk in places[::step]:
        for beside in tmp_path.glob("runs.db-*[lmn]"):  # its log, and the file that names it
            beside.unlink()
        path.write_bytes(filled)
        if not damage(str(path), table, number, column, junk):
            continue
        tried += 1
        try:
            check(str(path), is_own=table == "lane")
        except Exception as error:
            failures.append(f"row {number} {column} = {junk!r}: {type(error).__name__}: {str(error)[:150]}")

    assert tried > 1
    assert not failures, f"{len(failures)} of {tried}:\n" + "\n".join(failures)


def check(path: str, *, is_own: bool) -> None:
    with closing(SQLitePersister(path)) as store:
        use(store)
        assert store.put(LIVE[1:]) == [LIVE[1].id]
        claims = store.claim([want("L", "bar", limit=10)], now=NOW + 900, until=NOW + 915)
        if not is_own:  # else it may be the lane of these
            assert {claim.id for claim in claims} == {each.id for each in LIVE}
        store.commit([(claim, Outcome.complete(b"")) for claim in claims], now=NOW + 900)
        for _ in range(3):
            store.purge(now=NOW + 99 * DAY)
