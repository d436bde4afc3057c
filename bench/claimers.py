"""Several claimers on one route of one store, each a process: how much they claim together, and each of them.

    python -m bench.claimers URL CLAIMERS COUNT

fills the store with runs and prints how many each took per second, as one JSON line.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from typing import Any

from skunkqueue.envelope import Claim, Envelope, Outcome, Want
from skunkqueue.ids import new_id
from skunkqueue.persistence.url import get_backend

BATCH = 16
IN_VAIN = 4
"""Exchanges one after the other that claim nothing, after which a claimer ends: what was there is taken."""

ROUTES = ("work^high", "work", "work^low")


def shares(url: str, claimers: int, count: int) -> list[float]:
    """Runs per second that each claimer took and finished of ``count``, until the last was done."""
    _fill(url, count)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(claimers), context.Queue()
    processes = [context.Process(target=_claim_all, args=(url, n, start, results)) for n in range(claimers)]
    for process in processes:
        process.start()
    found = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    took = max(seconds for _, seconds in found)
    return [taken / took for taken, _ in found]


def _fill(url: str, count: int) -> None:
    store: Any = get_backend(url)
    due = time.time() - count
    for first in range(0, count, 500):
        some = range(first, min(first + 500, count))
        store.put([Envelope(new_id(due), "bench", "work", due + n * 0.001, b"x" * 180) for n in some])
    store.close()


def _claim_all(url: str, number: int, start: Any, results: Any) -> None:
    store: Any = get_backend(url)
    store.warnings()
    start.wait()
    began = ended = time.perf_counter()
    claims: Sequence[Claim] = ()
    taken = turn = in_vain = 0
    while in_vain < IN_VAIN:
        turn += 1
        want = Want("bench", ROUTES, f"worker-{number}", f"{number:04x}{turn:020x}", BATCH)
        outcomes = [(claim, Outcome.complete(b"x")) for claim in claims]
        now = time.time()
        done = store.exchange(outcomes, [want], now=now, until=now + 60.0)
        if done.taken:
            taken, ended = taken + len(done.taken), time.perf_counter()
        claims = done.claims
        in_vain = 0 if claims else in_vain + 1
    store.close()
    results.put((taken, ended - began))


if __name__ == "__main__":
    print(json.dumps(shares(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
