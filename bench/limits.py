"""What limits cost: runs a second of limited jobs, beside the same job without a limit.

``python -m bench.limits [URL] [RUNS] [WORKERS]``: on a SQLite file of its own unless given, 20,000 runs, one worker
process. Each case fires its runs first; then a pool executes them all and ends. Prints the runs a second and the
processor seconds for 10,000 runs, of pool and workers together, both without what a pool costs that has nothing to
do; and the shares of the unlimited ones. At the end, how much of a limit is used where enough waits, at once and in a
time. Give a store that is used for nothing else.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time

from skunkqueue import Limit, SkunkQueue, WorkerPool

queue = SkunkQueue("bench-limits", os.environ.get("BENCH_LIMITS_URL", "memory://none"))


def by_key(key: int) -> int:
    return key


@queue.event
def plain(key: int) -> int:
    return key


@queue.event(limit=Limit(1, key=by_key))
def one(key: int) -> int:
    return key


@queue.event(limit=Limit(5, key=by_key))
def five(key: int) -> int:
    return key


@queue.event(fair_by=by_key)
def fair(key: int) -> int:
    return key


@queue.event(limit=Limit(1_000_000, key=by_key, per=1, burst=1000))
def rate(key: int) -> int:
    return key


@queue.event(limit=Limit(60, per=3, burst=1))
def steady(key: int) -> int:
    return key


@queue.event(limit=Limit(5))
def slow(key: int) -> int:
    time.sleep(PAUSE)
    return key


PAUSE = 0.05

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


def spent() -> float:
    """Processor seconds of this process and of the workers that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def burst(workers: int) -> tuple[float, float]:
    """Seconds, and seconds of processor, until a pool has executed all there is."""
    began, used = time.monotonic(), spent()
    with open(os.devnull, "w") as log:
        WorkerPool(queue, ["default"] * workers, log=log, imports=["bench.limits"]).run_until_idle()
    return time.monotonic() - began, spent() - used


def measured(job: str, runs: int, keys: int, workers: int) -> tuple[float, float]:
    """Runs a second, and processor seconds for 10,000 runs."""
    idle, idle_used = min(burst(workers) for _ in range(2))
    globals()[job].fire_many([(n % keys,) for n in range(runs)])
    before = queue.count()["succeeded"]
    took, used = burst(workers)
    assert queue.count()["succeeded"] - before == runs
    return runs / (took - idle), (used - idle_used) / runs * 10_000


def used_of_the_limit(runs: int = 600) -> float:
    """How much of five at once eight workers use; 1 is all."""
    idle, _ = min(burst(8) for _ in range(2))
    slow.fire_many([(n,) for n in range(runs)])
    return runs * PAUSE / 5 / (burst(8)[0] - idle)


def used_of_the_rate(runs: int = 200) -> float:
    """How much of sixty in three seconds eight workers use; 1 is all."""
    idle, _ = min(burst(8) for _ in range(2))
    done = steady.fire_many([(n,) for n in range(runs)])
    began = time.monotonic()
    with open(os.devnull, "w") as log, WorkerPool(queue, ["default"] * 8, log=log, imports=["bench.limits"]):
        done.wait(600)
        return (runs - 1) / 20 / (time.monotonic() - began - idle)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] else f"sqlite:///{tempfile.mkdtemp()}/runs.db"
    runs, workers = (int(word) for word in (*sys.argv[2:], *("20000", "1")[len(sys.argv[2:]) :]))
    if os.environ.get("BENCH_LIMITS_URL") != url:
        os.environ["BENCH_LIMITS_URL"] = url  # the workers import this module
        os.execv(sys.executable, [sys.executable, "-m", "bench.limits", url, str(runs), str(workers)])
    import bench.limits as module  # as the workers know it

    print(f"{module.queue.url}, {runs:,} runs, {workers} worker processes")
    best: tuple[float, float] | None = None
    for name, job, keys in CASES:
        speed, used = module.measured(job, runs, keys, workers)
        best = best or (speed, used)
        shares = f"{speed / best[0]:5.2f}   {used:6.2f} s of processor {best[1] / used:5.2f}"
        print(f"{name:40} {speed:10,.0f} /s {shares}", flush=True)
    print(f"of five at once, jobs of {PAUSE * 1000:.0f} ms use {module.used_of_the_limit():.2f}")
    print(f"of sixty in three seconds, {module.used_of_the_rate():.2f} are used")


if __name__ == "__main__":
    main()
