"""The limit that SQLite sets: the least SQL that puts runs, claims them by 64 with lease and token, commits results.

``python bench/raw_sqlite.py`` prints how much of it the store keeps; both sides run in turns, in one process each,
with ``synchronous=FULL``.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter

BODY = os.urandom(180)
"""About what a call with two numbers takes, sealed."""

TABLE = """
    CREATE TABLE run (id TEXT PRIMARY KEY, state INTEGER DEFAULT 0, ripe REAL, token TEXT, body BLOB, value BLOB)
    WITHOUT ROWID"""
INDEX = "CREATE INDEX open ON run (ripe, id) WHERE state < 2"
PUT = "INSERT INTO run (id, ripe, body) VALUES (?, ?, ?)"
CLAIM = "SELECT id, body FROM run WHERE state < 2 AND ripe <= ? ORDER BY ripe, id LIMIT ?"
LEASE = "UPDATE run SET state = 1, ripe = ?, token = ? WHERE id IN ({})"
COMMIT = "UPDATE run SET state = 2, value = ? WHERE id = ? AND token = ? AND state = 1"

PUT_AT, NOW, UNTIL = 1.0, 2.0, 100.0


def raw_put_one(path: str, n: int) -> float:
    """Runs stored per second, one in each transaction."""
    return _put(path, n, 1)


def raw_put_many(path: str, n: int, batch: int = 500) -> float:
    """Runs stored per second, ``batch`` in each transaction."""
    return _put(path, n, batch)


def raw_drain(path: str, n: int, batch: int = 64) -> float:
    """Runs claimed and committed per second; each transaction commits the last claims and takes the next."""
    _put(path, n, 500)
    db = _connect(path)
    lease = LEASE.format(", ".join("?" * batch))
    done: list[tuple[str, bytes]] = []
    token, turn, drained = "", 0, 0
    begun = perf_counter()
    while drained < n:
        db.execute("BEGIN IMMEDIATE")
        db.executemany(COMMIT, [(b"x", id, token) for id, _ in done])
        drained += len(done)
        turn += 1
        token = f"{turn:024x}"
        done = db.execute(CLAIM, (NOW, batch)).fetchall()
        ids = [id for id, _ in done]
        db.execute(lease, (UNTIL, token, *ids, *[None] * (batch - len(ids))))
        db.execute("COMMIT")
    took = perf_counter() - begun
    assert db.execute("SELECT count(*) FROM run WHERE state = 2").fetchone()[0] == n
    db.close()
    return n / took


def _put(path: str, n: int, batch: int) -> float:
    db = _connect(path)
    db.execute(TABLE)
    db.execute(INDEX)
    ids = [f"{number:028x}" for number in range(n)]
    begun = perf_counter()
    for first in range(0, n, batch):
        db.execute("BEGIN IMMEDIATE")
        db.executemany(PUT, [(id, PUT_AT, BODY) for id in ids[first : first + batch]])
        db.execute("COMMIT")
    took = perf_counter() - begun
    db.close()
    return n / took


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


# -- the same through the store ----------------------------------------------------------------------------------------


def store_put_one(path: str, n: int) -> float:
    """Like ``raw_put_one``, through the store."""
    return _store_put(path, n, 1)


def store_put_many(path: str, n: int, batch: int = 500) -> float:
    """Like ``raw_put_many``, through the store."""
    return _store_put(path, n, batch)


def store_drain(path: str, n: int, batch: int = 64) -> float:
    """Like ``raw_drain``, through the store's ``exchange``."""
    from skunkqueue.envelope import Claim, Outcome, Want
    from skunkqueue.persistence.sqlite import SQLitePersister

    _store_put(path, n, 500)
    store = SQLitePersister(path)
    complete = Outcome.complete(b"x")
    claims: list[Claim] = []
    turn, drained = 0, 0
    begun = perf_counter()
    while drained < n:
        turn += 1
        want = Want("demo", ("foo^high", "foo", "foo^low"), "worker-1", f"{turn:024x}", batch)
        done = store.exchange([(claim, complete) for claim in claims], [want], now=NOW, until=UNTIL)
        drained += len(done.taken)
        claims = done.claims
    took = perf_counter() - begun
    assert store.count() == {("demo", "foo", "succeeded"): n}
    store.close()
    return n / took


def _store_put(path: str, n: int, batch: int) -> float:
    from skunkqueue.envelope import Envelope
    from skunkqueue.persistence.sqlite import SQLitePersister

    store = SQLitePersister(path)
    store.count()
    envelopes = [Envelope(f"{number:028x}", "demo", "foo", PUT_AT, BODY) for number in range(n)]
    begun = perf_counter()
    for first in range(0, n, batch):
        store.put(envelopes[first : first + batch])
    took = perf_counter() - begun
    store.close()
    return n / took


Measure = Callable[[str, int], float]

PAIRS: list[tuple[str, int, Measure, Measure]] = [
    ("put one by one", 3000, raw_put_one, store_put_one),
    ("put by 500", 50_000, raw_put_many, store_put_many),
    ("drain by 64", 30_000, raw_drain, store_drain),
]


def main(rounds: int = 5) -> None:
    """Print the rates, and the median of the rounds' ratios."""
    for name, n, raw, store in PAIRS:
        rates = [(_once(raw, n), _once(store, n)) for _ in range(rounds)]
        ratios = sorted(ours / limit for limit, ours in rates)
        limit, ours = (max(each) for each in zip(*rates, strict=True))
        print(f"{name:16} raw {limit:9,.0f}/s   store {ours:9,.0f}/s   ratio {ratios[len(ratios) // 2]:.2f}", end="")
        print(f"   ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def _once(measure: Measure, n: int) -> float:
    with tempfile.TemporaryDirectory(prefix="skunkqueue-bench-") as folder:
        return measure(os.path.join(folder, "bench.db"), n)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
