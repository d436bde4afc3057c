"""The limit that a FoundationDB sets: the least of its binding that puts runs, claims them by 64 with lease and token,
and commits their results.

``python -m bench.raw_fdb [CLUSTER FILE]`` prints how much of it the store keeps; both sides run in turns.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from time import perf_counter
from typing import Any, NamedTuple

BODY = os.urandom(180)
"""About what a call with two numbers takes, sealed."""

PUT_AT, NOW, UNTIL = 1.0, 2.0, 100.0
PREFIX = "skunkqueue-bench"
READY, HELD, DONE = b"raw-r", b"raw-h", b"raw-d"
AT = struct.Struct(">d")


@contextmanager
def opened(file: str) -> Iterator[Any]:
    """The cluster, without what is measured in it."""
    import fdb

    if not fdb.is_api_version_selected():
        fdb.api_version(710)
    db = fdb.open(file or None)
    emptied(db)
    yield db
    emptied(db)


def emptied(db: Any) -> None:
    import fdb

    for prefix in (READY, HELD, DONE):
        db.clear_range_startswith(prefix)
    fdb.directory.remove_if_exists(db, (PREFIX,))


def transact(db: Any, work: Callable[[Any], Any]) -> Any:
    """As ``@fdb.transactional`` does it."""
    tr = db.create_transaction()
    while True:
        try:
            result = work(tr)
            tr.commit().wait()
            return result
        except Exception as error:
            tr.on_error(error).wait()


def raw_put_one(file: str, n: int) -> float:
    """Runs stored per second, one in each transaction: a set, and its commit."""
    with opened(file) as db:
        begun = perf_counter()
        _fill(db, n, 1)
        return n / (perf_counter() - begun)


def raw_put_many(file: str, n: int, batch: int = 100) -> float:
    """Runs stored per second, ``batch`` in each transaction."""
    with opened(file) as db:
        begun = perf_counter()
        _fill(db, n, batch)
        return n / (perf_counter() - begun)


def raw_drain(file: str, n: int, batch: int = 64) -> float:
    """Runs claimed and committed per second.

    One transaction: the last claims are read where they are held, cleared, and their results set; then the first ready
    ones are read, cleared, and held with token and lease.
    """
    with opened(file) as db:
        _fill(db, n, 100)
        done: list[tuple[bytes, bytes]] = []
        turn = drained = 0
        begun = perf_counter()
        while drained < n:
            turn += 1
            token = b"%024x" % turn

            def exchange(
                tr: Any, done: list[tuple[bytes, bytes]] = done, token: bytes = token
            ) -> list[tuple[bytes, bytes]]:
                for id, future in [(id, tr[HELD + id]) for id, _ in done]:
                    if future.value is not None:
                        tr.clear(HELD + id)
                        tr[DONE + id] = b"x"
                found = tr.snapshot.get_range(READY, READY + b"\xff", limit=batch).to_list()
                for pair in found:
                    tr.add_read_conflict_key(pair.key)
                    tr.clear(pair.key)
                    tr[HELD + pair.key[len(READY) + 8 :]] = token + AT.pack(UNTIL) + pair.value
                return [(pair.key[len(READY) + 8 :], token) for pair in found]

            drained += len(done)
            done = transact(db, exchange)
        return n / (perf_counter() - begun)


def _fill(db: Any, n: int, batch: int) -> None:
    for first in range(0, n, batch):

        def put(tr: Any, first: int = first) -> None:
            for number in range(first, min(first + batch, n)):
                tr[READY + AT.pack(PUT_AT) + b"%028x" % number] = BODY

        transact(db, put)


# -- the same through the store ----------------------------------------------------------------------------------------


def url_of(file: str) -> str:
    return f"fdb://{file}?prefix={PREFIX}"


@contextmanager
def store_at(file: str) -> Iterator[Any]:
    from skunkqueue.persistence.fdb import open_url

    with opened(file), closing(open_url(url_of(file))) as store:
        store.count()
        yield store


def store_put_one(file: str, n: int) -> float:
    """Like ``raw_put_one``, through the store."""
    return _store_put(file, n, 1)


def store_put_many(file: str, n: int, batch: int = 100) -> float:
    """Like ``raw_put_many``, through the store."""
    return _store_put(file, n, batch)


def _store_put(file: str, n: int, batch: int) -> float:
    with store_at(file) as store:
        begun = perf_counter()
        _store_fill(store, n, batch)
        return n / (perf_counter() - begun)


def _store_fill(store: Any, n: int, batch: int) -> None:
    from skunkqueue.envelope import Envelope

    envelopes = [Envelope(f"{number:028x}", "demo", "foo", PUT_AT, BODY) for number in range(n)]
    for first in range(0, n, batch):
        store.put(envelopes[first : first + batch])


def store_drain(file: str, n: int, batch: int = 64) -> float:
    """Like ``raw_drain``, through the store's ``exchange``."""
    with store_at(file) as store:
        _store_fill(store, n, 100)
        begun = perf_counter()
        _drained(store, "worker-1", batch)
        return n / (perf_counter() - begun)


def _drained(store: Any, worker: str, batch: int) -> int:
    """Exchange until there is nothing more to claim; returns how many runs were committed."""
    from skunkqueue.envelope import Claim, Outcome, Want

    complete = Outcome.complete(b"x")
    claims: list[Claim] = []
    turn = drained = 0
    while True:
        turn += 1
        want = Want("demo", ("foo^high", "foo", "foo^low"), worker, f"{worker}-{turn:018x}", batch)
        done = store.exchange([(claim, complete) for claim in claims], [want], now=NOW, until=UNTIL)
        drained += len(done.taken)
        claims = done.claims
        if not claims:
            return drained


class Crowded(NamedTuple):
    """How several claimers drained a backlog: transactions begun again for a conflict, of a thousand; runs a second."""

    retried: float
    rate: float


def crowded(file: str, claimers: int, n: int, batch: int = 16) -> Crowded:
    """Claimers on threads of this process, each with a handle of its own, on one route."""
    from skunkqueue.persistence.fdb import open_url

    with ExitStack() as stack:
        _store_fill(stack.enter_context(store_at(file)), n, 100)
        handles = [stack.enter_context(closing(open_url(url_of(file)))) for _ in range(claimers)]
        for handle in handles:
            handle.count()
        threads = [
            threading.Thread(target=_drained, args=(handle, f"w{number}", batch))
            for number, handle in enumerate(handles)
        ]
        begun = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = perf_counter() - begun
        links = [handle._link for handle in handles]
        conflicts, transactions = (sum(getattr(link, name) for link in links) for name in ("conflicts", "transactions"))
        return Crowded(1000 * conflicts / transactions, n / took)


Measure = Callable[[str, int], float]

PAIRS: list[tuple[str, int, Measure, Measure]] = [
    ("put one by one", 500, raw_put_one, store_put_one),
    ("put by 100", 5_000, raw_put_many, store_put_many),
    ("drain by 64", 5_000, raw_drain, store_drain),
]


def main(file: str = "", rounds: int = 5) -> None:
    """Print the rates, and the median of the rounds' ratios."""
    for name, n, raw, store in PAIRS:
        rates = [(raw(file, n), store(file, n)) for _ in range(rounds)]
        ratios = sorted(ours / limit for limit, ours in rates)
        limit, ours = (max(each) for each in zip(*rates, strict=True))
        print(f"{name:16} raw {limit:9,.0f}/s   store {ours:9,.0f}/s   ratio {ratios[len(ratios) // 2]:.2f}", end="")
        print(f"   ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
