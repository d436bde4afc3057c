"""Several runs at a time in one worker, on Redis: what that costs, beside queues made for it; afire beside fire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bench import bare
from bench.conditions import load
from bench.on_redis import skunk
from bench.peers import environments
from bench.peers.known import PEERS, Peer
from bench.peers.marks import NAP
from bench.server import Server
from bench.table import Figure, Part, median, ratio, spread
from bench.trial import Queue, trial

ASYNC = ("Taskiq list", "arq", "SAQ", "streaQ")
"""The peers whose workers are event loops."""
SEVERAL = (4, 32, 100)
NAPS = 100
"""Runs at a time where jobs sleep."""
OURS = (("noop", (1, *SEVERAL)), ("anoop", (1, *SEVERAL)), ("nap", (NAPS,)), ("anap", (NAPS,)))
"""Our jobs, and how many at a time."""

Say = Callable[[str], None]
Rates = dict[tuple[str, str, int], list[float]]
"""By whose, which job, how many at a time."""


def measure(quick: bool, peers: Sequence[Peer], say: Say) -> Part:
    """All of it."""
    rounds, count = (1, 3_000) if quick else (3, 10_000)
    beside = [peer for peer in PEERS if peer.name in ASYNC and peer in peers]
    for peer in beside:
        say(f"Concurrency: setting up {peer.name}")
        environments.environment(*peer.environment)
    rates: Rates = {}
    before = load()
    with Server() as server:
        for number in range(rounds):
            say(f"Concurrency: round {number + 1} of {rounds}")
            for job, several in OURS:
                for at_once in several:
                    queue = _ours(server.url, job, at_once)
                    _drain(server, queue, count // 2 if "nap" in job else count, rates, ("SkunkQueue", job, at_once))
            for peer in beside:
                for job, at_once in (("anoop", NAPS), ("anap", NAPS)):
                    queue = peer.queue(server.url, "fast", BENCH_JOB=job, BENCH_CONCURRENCY=str(at_once))
                    _drain(server, queue, count // 5, rates, (peer.name, job, at_once))
            for job, rate_of in (("nap", bare.threads), ("anap", bare.tasks)):
                rates.setdefault(("bare", job, NAPS), []).append(rate_of(NAPS, NAP, count // 2))
            server.empty()
            with trial(_ours(server.url, "noop", 1)) as ours:
                for what in ("one", "beside"):
                    rate = ours.send(what, count // 10)
                    rates.setdefault(("SkunkQueue", "fire" if what == "one" else "afire", 1), []).append(rate)
    conditions = [
        f"one worker process; sleepers of {NAP * 1000:g} ms, {NAPS} at a time; afire by 200 coroutines of one loop",
        "peers: Taskiq list, arq, SAQ and streaQ, each in its fastest set-up, all jobs async",
        f"{before} before, {load()} after; medians of {rounds} alternating rounds, ratios of the rounds'",
    ]
    return Part("Concurrency", _figures(rates), conditions, [_table(rates)])


def _ours(url: str, job: str, at_once: int) -> Queue:
    queue = skunk(url)
    commands = [[*command, "--concurrency", str(at_once)] for command in queue.worker(1)]
    return replace(queue, worker=lambda processes: commands, env={**queue.env, "BENCH_JOB": job})


def _drain(server: Server, queue: Queue, count: int, rates: Rates, key: tuple[str, str, int]) -> None:
    server.empty()
    with trial(queue) as one:
        one.send("one" if key[0] in ASYNC and key[0] != "streaQ" else "many", count)
        rates.setdefault(key, []).append(one.drain(count, 1, server.pid).rate)


def _figures(rates: Rates) -> list[Figure]:
    ours = {key[1:]: each for key, each in rates.items() if key[0] == "SkunkQueue"}
    figures = []
    for at_once in SEVERAL:
        figures.append(_compared(f"no-ops, {at_once} at a time / one", ours["noop", at_once], ours["noop", 1]))
    for at_once in (1, *SEVERAL):
        title = f"async no-ops / functions, {at_once} at a time"
        figures.append(_compared(title, ours["anoop", at_once], ours["noop", at_once]))
    possible = NAPS / NAP
    for job, title, least in (("anap", "async sleepers", 0.8), ("nap", "sleepers in threads", 0.6)):
        rate = median(ours[job, NAPS])
        basis = f"{rate:,.0f}/s of {possible:,.0f}/s"
        figures.append(Figure(f"{title} / possible", rate / possible, basis, least=least))
        figures.append(_compared(f"{title} / bare sleepers here", ours[job, NAPS], rates["bare", job, NAPS], least))
    figures.append(_compared("afire / fire", ours["afire", 1], ours["fire", 1], 1.0))
    for job, title in (("anoop", "async no-ops"), ("anap", "async sleepers")):
        theirs = {name: each for (name, kind, _), each in rates.items() if name in ASYNC and kind == job}
        if theirs:
            best = max(theirs, key=lambda name: median(theirs[name]))
            figures.append(_compared(f"{title} / best peer's ({best})", ours[job, NAPS], theirs[best], 1.0))
    return figures


def _compared(title: str, ours: list[float], theirs: list[float], least: float = 0.5) -> Figure:
    return Figure(title, ratio(ours, theirs), f"{median(ours):,.0f}/s of {median(theirs):,.0f}/s", least=least)


def _table(rates: Rates) -> tuple[str, list[str], list[list[str]]]:
    rows = [[name, job, str(at_once), spread(each)] for (name, job, at_once), each in rates.items()]
    return "Rates per second: median (least to most)", ["whose", "what", "at a time", "/s"], rows
