"""What a claim costs where few runs wait, where a million do, and where a million are due later."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench.table import Figure, median
from skunkqueue.envelope import Envelope, Outcome, Want
from skunkqueue.ids import new_id

FEW = 1_000
BATCH = 64
TURNS = 300
BODY = b"x" * 120
NOW = 2_000_000_000.0
CHUNK = 500

Costs = dict[str, list[float]]


def costs(open_store: Callable[[str], Any], many: int, turns: int = TURNS) -> Costs:
    """Seconds of each claim of 64, in turns among three stores: few waiting, many waiting, few among many due later."""
    with ExitStack() as stack:
        stores = {}
        for name, waiting, later in (("few", FEW, 0), ("many", many, 0), ("later", FEW, many)):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="skunkqueue-bench-"))
            stores[name] = store = open_store(folder)
            stack.callback(store.close)
            _fill(store, later, NOW + 3600.0)
            _fill(store, waiting, NOW - 3600.0)
        took: Costs = {name: [] for name in stores}
        for turn in range(turns):
            for name, store in stores.items():
                took[name].append(_claim(store, f"{turn:024x}"))
        return took


def figures(took: Costs, many: int, most: float = 1.2) -> list[Figure]:
    """As ratios to the claim among few."""
    few = median(took["few"])

    def figure(what: str, name: str) -> Figure:
        basis = f"{median(took[name]) * 1e6:.0f} us of {few * 1e6:.0f} us for {BATCH}"
        return Figure(what, median(took[name]) / few, basis, most=most)

    return [
        figure(f"claim with {many:,} waiting / with {FEW:,}", "many"),
        figure(f"claim with {many:,} due later / without", "later"),
    ]


def _fill(store: Any, count: int, due: float) -> None:
    for _ in range(0, count, CHUNK):
        store.put([Envelope(new_id(NOW), "bench", "work", due, BODY) for _ in range(CHUNK)])


def _claim(store: Any, token: str) -> float:
    """Only the claim is timed; what it took is committed, and as much is put in its place."""
    want = Want("bench", ("work^high", "work", "work^low"), "worker-1", token, BATCH)
    began = time.perf_counter()
    claims = store.claim([want], now=NOW, until=NOW + 15)
    took = time.perf_counter() - began
    assert len(claims) == BATCH
    store.commit([(claim, Outcome.complete(b"result")) for claim in claims], now=NOW)
    store.put([Envelope(new_id(NOW), "bench", "work", NOW - 1.0, BODY) for _ in range(BATCH)])
    return took
