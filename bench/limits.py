"""What limits cost: runs a second of limited jobs, beside the same job without a limit.

``python -m bench.limits [URL] [RUNS] [WORKERS]``: on a SQLite file of its own unless given, 20,000 runs, one worker
process. Each case fires its runs first; then a pool executes them all. Prints the runs a second, from the first that has
ended to the last, and the share of the unlimited ones. Give a store that is used for nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable

from skunkqueue import Limit, SkunkQueue, WorkerPool

queue = SkunkQueue("bench-limits", os.environ.get("BENCH_LIMITS_URL", "memory://none"))


def by_key(key: int, seconds: float = 0.0) -> int:
    return key


def work(key: int, seconds: float = 0.0) -> int:
    if seconds:
        time.sleep(seconds)
    return key


plain = queue.event(name="plain")(work)
one = queue.event(name="one", limit=Limit(1, key=by_key))(work)
five = queue.event(name="five", limit=Limit(5, key=by_key))(work)
fair = queue.event(name="fair", fair_by=by_key)(work)
rate = queue.event(name="rate", limit=Limit(1_000_000, key=by_key, per=1, burst=1000))(work)

CASES: list[tuple[str, str, int]] = [
    ("without a limit", "plain", 1),
    ("one at once, one key", "one", 1),
    ("five at once, one key", "five", 1),
    ("one at once, 100 keys", "one", 100),
    ("five at once, 100 keys", "five", 100),
    ("takes turns among 100 keys", "fair", 100),
    ("a rate that is never reached, one key", "rate", 1),
    ("one at once, as many keys as runs", "one", 1 << 30),
]


def measured(job: str, runs: int, keys: int, workers: int, seconds: float = 0.0) -> float:
    """Runs a second, as a pool of its own executes them."""
    fired = globals()[job].fire_many([(n % keys, seconds) for n in range(runs)])
    assert len(fired) == runs

    def done() -> int:
        return queue.count()["succeeded"] - before

    before = queue.count()["succeeded"]
    with WorkerPool(queue, ["default"] * workers, log=open(os.devnull, "w"), imports=["bench.limits"]):
        first, began = _first(done)
        while (ended := done()) < runs:
            time.sleep(0.01)
        return (ended - first) / (time.monotonic() - began)


def _first(done: Callable[[], int]) -> tuple[int, float]:
    while not (first := done()):
        time.sleep(0.005)
    return first, time.monotonic()


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{tempfile.mkdtemp()}/runs.db"
    runs, workers = (int(word) for word in (*sys.argv[2:], *("20000", "1")[len(sys.argv[2:]) :]))
    if os.environ.get("BENCH_LIMITS_URL") != url:
        os.environ["BENCH_LIMITS_URL"] = url  # the workers import this module
        os.execv(sys.executable, [sys.executable, "-m", "bench.limits", url, str(runs), str(workers)])
    import bench.limits as module  # as the workers know it

    print(f"{module.queue.url}, {runs:,} runs, {workers} worker processes")
    best = 0.0
    for name, job, keys in CASES:
        found = module.measured(job, runs, keys, workers)
        best = best or found
        print(f"{name:40} {found:10,.0f} /s  {found / best:5.2f}", flush=True)


if __name__ == "__main__":
    main()
