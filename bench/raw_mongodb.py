"""The limit that a MongoDB sets: the least pymongo that puts runs, claims them by 64 with lease and token, commits.

``python -m bench.raw_mongodb URL`` prints how much of it the store keeps; both sides run in turns, in one process each,
with majority writes and journal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from pymongo import MongoClient, UpdateOne, WriteConcern

BODY = os.urandom(180)
"""About what a call with two numbers takes, sealed."""

PUT_AT, NOW, UNTIL = 1.0, 2.0, 100.0
DBNAME = "skunkqueue-bench-raw"


@contextmanager
def collection(url: str) -> Iterator[Any]:
    """An empty collection with the indexes that the loop needs."""
    with MongoClient(url) as client:
        client.drop_database(DBNAME)
        runs = client.get_database(DBNAME, write_concern=WriteConcern("majority", j=True)).raw
        runs.create_index([("open", 1), ("ripe", 1), ("_id", 1)])
        runs.create_index("token", sparse=True)
        yield runs


def raw_put_one(url: str, n: int) -> float:
    """Runs stored per second, one in each call."""
    with collection(url) as runs:
        begun = perf_counter()
        for number in range(n):
            runs.insert_one(_document(number))
        return n / (perf_counter() - begun)


def raw_put_many(url: str, n: int, batch: int = 500) -> float:
    """Runs stored per second, ``batch`` in each call."""
    with collection(url) as runs:
        begun = perf_counter()
        _fill(runs, n, batch)
        return n / (perf_counter() - begun)


def raw_drain(url: str, n: int, batch: int = 64) -> float:
    """Runs claimed and committed per second: commit the last claims, find ripe ids, take them, find what was taken."""
    with collection(url) as runs:
        _fill(runs, n, 500)
        begun = perf_counter()
        done: list[Any] = []
        token, turn, drained = "", 0, 0
        while drained < n:
            if done:
                change = {"$set": {"open": False, "value": b"x"}}
                runs.bulk_write(
                    [UpdateOne({"_id": each["_id"], "token": token}, change) for each in done], ordered=False
                )
            drained += len(done)
            turn += 1
            token = f"{turn:024x}"
            ripe = {"open": True, "ripe": {"$lte": NOW}}
            ids = [each["_id"] for each in runs.find(ripe, {"_id": 1}).sort([("ripe", 1), ("_id", 1)]).limit(batch)]
            if ids:
                lease = {"$set": {"ripe": UNTIL, "token": token}}
                runs.update_many({"_id": {"$in": ids}, **ripe}, lease)
            done = list(runs.find({"token": token})) if ids else []
        return n / (perf_counter() - begun)


def _document(number: int) -> dict[str, Any]:
    return {"_id": f"{number:028x}", "open": True, "ripe": PUT_AT, "body": BODY}


def _fill(runs: Any, n: int, batch: int) -> None:
    for first in range(0, n, batch):
        runs.insert_many([_document(number) for number in range(first, min(first + batch, n))], ordered=False)


# -- the same through the store ----------------------------------------------------------------------------------------


@contextmanager
def store_at(url: str) -> Iterator[Any]:
    from skunkqueue.persistence.mongodb import open_url

    with MongoClient(url) as client:
        client.drop_database(DBNAME)
    store = open_url(f"{url.rstrip('/')}/{DBNAME}")
    store.warnings()
    yield store
    store.close()


def store_put_one(url: str, n: int) -> float:
    """Like ``raw_put_one``, through the store."""
    return _store_put(url, n, 1)


def store_put_many(url: str, n: int, batch: int = 500) -> float:
    """Like ``raw_put_many``, through the store."""
    return _store_put(url, n, batch)


def _store_put(url: str, n: int, batch: int) -> float:
    with store_at(url) as store:
        begun = perf_counter()
        _store_fill(store, n, batch)
        return n / (perf_counter() - begun)


def _store_fill(store: Any, n: int, batch: int) -> None:
    from skunkqueue.envelope import Envelope

    envelopes = [Envelope(f"{number:028x}", "demo", "foo", PUT_AT, BODY) for number in range(n)]
    for first in range(0, n, batch):
        store.put(envelopes[first : first + batch])


def store_drain(url: str, n: int, batch: int = 64) -> float:
    """Like ``raw_drain``, through the store's ``exchange``."""
    from skunkqueue.envelope import Claim, Outcome, Want

    with store_at(url) as store:
        _store_fill(store, n, 500)
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
        return n / (perf_counter() - begun)


Measure = Callable[[str, int], float]

PAIRS: list[tuple[str, int, Measure, Measure]] = [
    ("put one by one", 300, raw_put_one, store_put_one),
    ("put by 500", 5_000, raw_put_many, store_put_many),
    ("drain by 64", 3_000, raw_drain, store_drain),
]


def main(url: str, rounds: int = 5) -> None:
    """Print the rates, and the median of the rounds' ratios."""
    for name, n, raw, store in PAIRS:
        rates = [(raw(url, n), store(url, n)) for _ in range(rounds)]
        ratios = sorted(ours / limit for limit, ours in rates)
        limit, ours = (max(each) for each in zip(*rates, strict=True))
        print(f"{name:16} raw {limit:9,.0f}/s   store {ours:9,.0f}/s   ratio {ratios[len(ratios) // 2]:.2f}", end="")
        print(f"   ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
