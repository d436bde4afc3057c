"""SQLite: our pool beside Huey's consumer and beside the raw loop, all with ``synchronous=FULL``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import claims, raw_sqlite
from bench.conditions import load, versions
from bench.processes import descendants, memory_of
from bench.table import Figure, Part, late, median, ratio, spread
from bench.trial import Queue, Trial, trial

BIN = Path(sys.executable).parent


def skunk() -> Queue:
    """Ours, as ``skunq work`` runs it, with its default log going to a file."""
    url = "sqlite:///{folder}/runs.db"

    def worker(processes: int) -> list[list[str]]:
        return [[str(BIN / "skunq"), "work", "-q", "bench", "-r", *["work"] * processes]]

    return Queue(
        "SkunkQueue", sys.executable, "bench.peers.skunk_app", worker, {"BENCH_URL": url, "SKUNKQUEUE_URL": url}
    )


def huey(setup: str, *options: str) -> Queue:
    """Huey, ``safe`` (synced, results kept) or ``fast`` (nothing synced, no results); at most once either way."""

    def worker(processes: int) -> list[list[str]]:
        app = "bench.peers.huey_sqlite_app.huey"
        return [[str(BIN / "huey_consumer"), app, "-w", str(processes), "-k", "process", "-n", *options]]

    env = {"BENCH_FILE": "{folder}/huey.db", "BENCH_SETUP": setup}
    return Queue(f"Huey, {setup}", sys.executable, "bench.peers.huey_sqlite_app", worker, env)


HUEY_QUICK = ("-d", "0.001", "-m", "0.001")
"""Huey's consumer looks for work each millisecond: its lowest latency, at the price of processor time when idle."""


class Counts:
    """How many runs each measurement takes."""

    def __init__(self, quick: bool) -> None:
        self.rounds = 2 if quick else 5
        self.turns = 3 if quick else 15
        self.ones = 500 if quick else 1_000
        self.many = 20_000 if quick else 100_000
        self.huey = 3_000 if quick else 10_000
        self.reckless = 10_000 if quick else 40_000
        self.idle = 50 if quick else 300
        self.idle_seconds = 5 if quick else 15
        self.starts = 3 if quick else 9
        self.imports = 5 if quick else 21
        self.waiting = 100_000 if quick else 1_000_000


Seen = dict[str, list[float]]


def measure(quick: bool, say: Callable[[str], None]) -> Part:
    """All of it; a few minutes."""
    counts = Counts(quick)
    seen: Seen = {}
    before = load()
    say("SQLite: fire")
    _fire(counts, seen)
    for number in range(counts.rounds):
        say(f"SQLite: fire_many and drain, round {number + 1} of {counts.rounds}")
        for name, figure in {**_raw(counts), **_ours(counts), **_huey(counts)}.items():
            seen.setdefault(name, []).append(figure)
    say("SQLite: idle")
    idle = [*_idle(counts)]
    say("SQLite: starting")
    starting = [*_imports(counts), *_first_jobs(counts)]
    say(f"SQLite: claims among {counts.waiting:,} runs")
    costs = claims.costs(_new_store, counts.waiting)
    figures = [*_speed(seen), *idle, *starting, *claims.figures(costs, counts.waiting)]
    return Part("SQLite", figures, _conditions(counts, before), [_seen_table(seen)])


def _conditions(counts: Counts, before: str) -> list[str]:
    return [
        f"{versions(['skunkqueue', 'huey'])}; {before} before, {load()} after",
        "durability: synchronous=FULL and WAL on all sides, but for Huey at its most reckless (synchronous=OFF)",
        "ours: at least once, leases of 15 s with fencing, results kept a day; one worker process; log as `skunq work` "
        "writes it (a line when a run is taken and one when it has finished) going to a file",
        "Huey: at most once (it has nothing else); safe: fsync=True, results kept; reckless: fsync=False, no results; "
        "`huey_consumer -w 1 -k process -n -d 0.001 -m 0.001`, its default log going to a file",
        "raw: bench/raw_sqlite.py, by 64; puts by 500; jobs go by reference and count themselves in shared memory",
        f"rates: medians of {counts.rounds} alternating rounds, fire of {counts.turns}; ratios: medians of the rounds'",
    ]


# -- fire and drain


def _fire(counts: Counts, seen: Seen) -> None:
    """One by one, in short turns: what a disk takes to sync changes within seconds, for whatever reason."""
    with trial(skunk()) as ours, trial(huey("safe")) as theirs:
        for _ in range(counts.turns):
            seen.setdefault("raw fire", []).append(_raw_rate(raw_sqlite.raw_put_one, counts.ones))
            seen.setdefault("our fire", []).append(ours.send("one", counts.ones))
            seen.setdefault("Huey fire", []).append(theirs.send("one", counts.ones))


def _raw(counts: Counts) -> dict[str, float]:
    measures = [
        ("raw fire by 500", raw_sqlite.raw_put_many, counts.many),
        ("raw drain by 64", raw_sqlite.raw_drain, counts.many),
    ]
    return {name: _raw_rate(raw, count) for name, raw, count in measures}


def _raw_rate(raw: Callable[[str, int], float], count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="skunkqueue-bench-") as folder:
        return raw(os.path.join(folder, "raw.db"), count)


def _ours(counts: Counts) -> dict[str, float]:
    with trial(skunk()) as ours:
        found = {"our fire_many": ours.send("many", counts.many), **_drained("our", ours, counts.many)}
        assert ours.send("kept", 0) == counts.many
        return found


def _huey(counts: Counts) -> dict[str, float]:
    with trial(huey("safe", *HUEY_QUICK)) as safe:
        safe.send("one", counts.huey)
        found = _drained("Huey", safe, counts.huey)
    with trial(huey("fast", *HUEY_QUICK)) as reckless:
        found["reckless Huey fire"] = reckless.send("one", counts.reckless)
        return {**found, **_drained("reckless Huey", reckless, counts.reckless)}


def _drained(name: str, trial: Trial, count: int) -> dict[str, float]:
    drained = trial.drain(count)
    return {f"{name} drain": drained.rate, f"{name} CPU s / 10,000": drained.cpu}


def _speed(seen: Seen) -> list[Figure]:
    def compared(what: str, ours: str, theirs: str, least: float | None) -> Figure:
        basis = f"{median(seen[ours]):,.0f}/s of {median(seen[theirs]):,.0f}/s"
        return Figure(what, ratio(seen[ours], seen[theirs]), basis, least=least)

    return [
        compared("fire / Huey's", "our fire", "Huey fire", 1.0),
        compared("fire / raw insert", "our fire", "raw fire", None),
        compared("fire_many / raw insert by 500", "our fire_many", "raw fire by 500", 0.4),
        compared("drain, one worker / Huey's", "our drain", "Huey drain", 7.0),
        compared("drain, one worker / raw loop (aim: 0.5)", "our drain", "raw drain by 64", 0.3),
        compared("drain, one worker / Huey's most reckless", "our drain", "reckless Huey drain", 1.0),
    ]


def _seen_table(seen: Seen) -> tuple[str, list[str], list[list[str]]]:
    body = [[name, spread(found, "{:,.0f}" if median(found) > 100 else "{:.2f}")] for name, found in seen.items()]
    return "Rates per second, and processor seconds per 10,000 runs", ["what", "median (least to most)"], body


# -- idle


def _idle(counts: Counts) -> list[Figure]:
    with trial(skunk()) as ours, trial(huey("safe", *HUEY_QUICK)) as theirs:
        with ours.idling() as (pool,):
            memory = memory_of(_worker_below(pool.pid))
            took = ours.send("idle", counts.idle)
            asked = ours.send("ask", counts.idle)
            busy = _share(pool.cpu_fine, counts.idle_seconds)
        with theirs.idling() as (consumer,):
            their_took = theirs.send("idle", counts.idle)
            their_busy = _share(consumer.cpu_fine, counts.idle_seconds)
    return [
        Figure("idle: fire to start, median", median(took) * 1e3, _latency(their_took), most=3.0, unit=" ms"),
        Figure("idle: fire to start, 99th percentile", late(took) * 1e3, unit=" ms"),
        Figure("idle: fire to wait() returned, median", median(asked) * 1e3, unit=" ms"),
        Figure("idle pool", busy, f"of a core; Huey {their_busy:.2f} %", most=1.0, unit=" %"),
        Figure("memory of a worker", memory[0], f"resident; its share {memory[1]:.1f} MB", most=35.0, unit=" MB"),
    ]


def _latency(took: Sequence[float]) -> str:
    return f"Huey, polling each ms: {median(took) * 1e3:.2f}, 99 % {late(took) * 1e3:.2f} ms"


def _worker_below(pool: int) -> int:
    """The process that runs the jobs: the last one below the pool."""
    return descendants(pool)[-1]


def _share(cpu: Callable[[], float], seconds: float) -> float:
    """Per cent of a core while nothing happens."""
    time.sleep(1.0)
    before, began = cpu(), time.perf_counter()
    time.sleep(seconds)
    return 100 * (cpu() - before) / (time.perf_counter() - began)


# -- starting


IMPORTS = ("import skunkqueue", "from skunkqueue import SkunkQueue", "import huey")


def _imports(counts: Counts) -> list[Figure]:
    took: dict[str, list[float]] = {statement: [] for statement in IMPORTS}
    for _ in range(counts.imports):
        for statement, found in took.items():
            code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            found.append(float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    *ours, theirs = ((statement, median(found) * 1e3) for statement, found in took.items())
    return [
        Figure(f"{statement} / {theirs[0]}", ms / theirs[1], f"{ms:.1f} ms of {theirs[1]:.1f} ms", most=0.5)
        for statement, ms in ours
    ]


def _first_jobs(counts: Counts) -> list[Figure]:
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(counts.starts):
        for queue, found in ((skunk(), ours), (huey("safe"), theirs)):
            with trial(queue) as one:
                found.append(one.first_job())
    basis = f"{median(ours) * 1e3:.0f} ms of {median(theirs) * 1e3:.0f} ms"
    return [Figure("start to first job / huey_consumer's", ratio(ours, theirs), basis, most=1.0)]


def _new_store(folder: str) -> object:
    from skunkqueue.persistence.sqlite import open_url

    return open_url(f"sqlite:///{folder}/claims.db")
