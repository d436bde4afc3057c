"""FoundationDB: our pool beside the least of its binding that does the same."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import claims
from bench.conditions import load, versions
from bench.processes import ROOT
from bench.raw_fdb import PREFIX, crowded, emptied, opened, raw_drain, raw_put_many, raw_put_one, url_of
from bench.table import Figure, Part, late, median, ratio
from bench.trial import Queue, trial

BIN = Path(sys.executable).parent

CLAIMERS = (1, 4, 16)


class Counts:
    """How many runs each measurement takes."""

    def __init__(self, quick: bool) -> None:
        self.rounds = 1 if quick else 5
        self.ones = 200 if quick else 1_000
        self.many = 3_000 if quick else 10_000
        self.idle = 20 if quick else 100
        self.idle_seconds = 5 if quick else 30
        self.waiting = 10_000 if quick else 100_000
        self.turns = 10 if quick else 50
        self.crowd = 3_000 if quick else 20_000


def measure(file: str, quick: bool, say: Callable[[str], None]) -> Part:
    """All of it, on the cluster of a cluster file (the default one if empty), in the directory ``skunkqueue-bench``."""
    counts, before = Counts(quick), load()
    seen: dict[str, list[float]] = {}
    for number in range(counts.rounds):
        say(f"FoundationDB: round {number + 1} of {counts.rounds}")
        for name, rate in _round(file, counts).items():
            seen.setdefault(name, []).append(rate)
    say("FoundationDB: idle")
    idle = _idle(file, counts)
    say(f"FoundationDB: claims among {counts.waiting:,} runs")
    with opened(file) as db:
        costs = claims.costs(lambda folder: _store(file, Path(folder).name), counts.waiting, counts.turns)
        emptied(db)
    crowds = [_crowd(file, claimers, counts.crowd, say) for claimers in CLAIMERS]
    figures = [*_speed(seen), *idle, *claims.figures(costs, counts.waiting, most=1.25), *crowds]
    conditions = [
        f"{versions(['skunkqueue', 'foundationdb'])}; {before} before, {load()} after",
        "raw: bench/raw_fdb.py, by 64; puts by 100",
        "ours: at least once, leases of 15 s with fencing, results kept a day; one worker process",
        "claimers: threads of one process that drain a backlog by 16, each with a handle of its own",
    ]
    return Part("FoundationDB", figures, conditions, [])


def skunk(url: str) -> Queue:
    """Ours, as ``skunq work`` runs it, with its default log going to a file."""

    def worker(processes: int) -> list[list[str]]:
        return [[str(BIN / "skunq"), "work", "-q", "bench", "-r", *["work"] * processes]]

    # The binding may be one that only this process's own path has: that of a cluster's version, or a fake for tests.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {"BENCH_URL": url, "SKUNKQUEUE_URL": url, "PYTHONPATH": path}
    return Queue("SkunkQueue", sys.executable, "bench.peers.skunk_app", worker, env)


def _round(file: str, counts: Counts) -> dict[str, float]:
    found = {
        "raw fire": raw_put_one(file, counts.ones),
        "raw fire by 100": raw_put_many(file, counts.many),
        "raw drain": raw_drain(file, counts.many),
    }
    with opened(file), trial(skunk(url_of(file))) as ours:
        found["our fire"] = ours.send("one", counts.ones)
        ours.drain(counts.ones)
        found["our fire_many"] = ours.send("many", counts.many)
        found["our drain"] = ours.drain(counts.many).rate
    return found


def _speed(seen: dict[str, list[float]]) -> list[Figure]:
    def compared(what: str, ours: str, theirs: str, least: float) -> Figure:
        basis = f"{median(seen[ours]):,.0f}/s of {median(seen[theirs]):,.0f}/s"
        return Figure(what, ratio(seen[ours], seen[theirs]), basis, least=least)

    return [
        compared("fire / raw set and commit", "our fire", "raw fire", 0.8),
        compared("fire_many / raw sets by 100", "our fire_many", "raw fire by 100", 0.5),
        compared("drain, one worker / raw loop", "our drain", "raw drain", 0.5),
    ]


def _idle(file: str, counts: Counts) -> list[Figure]:
    with opened(file), trial(skunk(url_of(file))) as ours, ours.idling() as (pool,):
        took = ours.send("idle", counts.idle)
        time.sleep(1.0)
        before, began = pool.cpu_fine(), time.perf_counter()
        time.sleep(counts.idle_seconds)
        busy = 100 * (pool.cpu_fine() - before) / (time.perf_counter() - began)
    return [
        Figure("idle: fire to start, median", median(took) * 1e3, most=15.0, unit=" ms"),
        Figure("idle: fire to start, 99th percentile", late(took) * 1e3, unit=" ms"),
        Figure("idle pool", busy, "of a core", most=1.0, unit=" %"),
    ]


def _crowd(file: str, claimers: int, runs: int, say: Callable[[str], None]) -> Figure:
    say(f"FoundationDB: {claimers} claimers")
    found = crowded(file, claimers, runs)
    return Figure(
        f"{claimers} claimers: retried of a thousand transactions",
        found.retried,
        f"{found.rate:,.0f} runs/s",
        most=50.0,
    )


def _store(file: str, name: str) -> Any:
    from skunkqueue.persistence.fdb import open_url

    return open_url(f"fdb://{file}?prefix={PREFIX}/{name}")
