"""Redis: our pool beside eight other queues, beside the raw limits, idle and with a million runs behind or ahead."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench import backlog, raw_redis
from bench.conditions import load, versions
from bench.peers import environments
from bench.peers.known import PEERS, SETUPS, Peer
from bench.server import Server
from bench.table import Figure, Part, late, median, ratio, spread
from bench.trial import Drained, Queue, Trial, trial

BIN = Path(sys.executable).parent
Say = Callable[[str], None]


class Counts:
    """How many runs each measurement takes."""

    def __init__(self, quick: bool) -> None:
        self.rounds = 1 if quick else 3
        self.turns = 1 if quick else 9
        self.ones = 1_000 if quick else 2_000
        self.many = 20_000 if quick else 100_000
        self.divided = 10 if quick else 1
        """What the peers' counts are divided by."""
        self.idle = 50 if quick else 250
        self.idle_seconds = 5 if quick else 30
        self.backlog = 50_000 if quick else 1_000_000
        self.memory = 20_000 if quick else 100_000


def skunk(url: str) -> Queue:
    """Ours, as ``skunq work`` runs it, with its default log going to a file."""

    def worker(processes: int) -> list[list[str]]:
        return [[str(BIN / "skunq"), "work", "-q", "bench", "-r", *["work"] * processes]]

    return Queue(
        "SkunkQueue", sys.executable, "bench.peers.skunk_app", worker, {"BENCH_URL": url, "SKUNKQUEUE_URL": url}
    )


SPREAD: Final = "SkunkQueue, 4 routes, 2 pools"
ROUTES: Final = ("work", "b", "c", "d")


def spread_out(url: str) -> Queue:
    """Ours with two pools, each with a worker for each of four routes; runs go to one route after the other."""

    def worker(processes: int) -> list[list[str]]:
        return [[str(BIN / "skunq"), "work", "-q", "bench", "-r", *routes] for routes in (ROUTES, ROUTES[::-1])]

    env = {"BENCH_URL": url, "SKUNKQUEUE_URL": url, "BENCH_ROUTES": ",".join(ROUTES)}
    return Queue(SPREAD, sys.executable, "bench.peers.skunk_app", worker, env)


def raw(url: str) -> Queue:
    """LPUSH and BRPOP."""
    app = "bench.peers.raw_app"
    return Queue("raw", sys.executable, app, lambda processes: [[sys.executable, "-m", app]], {"BENCH_URL": url})


Seen = dict[tuple[str, str], list[float]]
"""All figures by whose they are and what they say."""


class Run:
    """One run of this part."""

    def __init__(self, quick: bool, peers: Sequence[Peer], persistence: str, say: Say) -> None:
        self.counts = Counts(quick)
        self.peers = peers
        self.persistence = persistence
        self.say = say
        self.seen: Seen = {}
        self.failed: list[str] = []

    def note(self, whose: str, what: str, *figures: float) -> None:
        self.seen.setdefault((whose, what), []).extend(figures)

    def measure(self) -> Part:
        """All of it."""
        for peer in self.peers:
            self.say(f"Redis: setting up {peer.name}")
            environments.environment(*peer.environment)
        before = load()
        with Server(self.persistence) as server:
            self.say("Redis: fire")
            self._fire(server)
            for number in range(self.counts.rounds):
                self._round(server, f"round {number + 1} of {self.counts.rounds}")
            conditions = [*self._conditions(server), f"{before} before, {load()} after firing, draining and waiting"]
            self.say("Redis: idle pool, memory")
            alone = self._alone(server)
        self.say(f"Redis: drains with {self.counts.backlog:,} runs behind, and ahead")
        alone += self._deep()
        return Part("Redis", [*self._figures(), *alone], conditions, self._tables())

    # -- rounds

    def _fire(self, server: Server) -> None:
        """One by one, in short turns: it takes little time, and the machine is another one a minute later."""
        with ExitStack() as stack:
            queues = {"SkunkQueue": skunk(server.url)}
            queues |= {f"{peer.name}, {setup}": peer.queue(server.url, setup) for peer, setup in self._setups()}
            trials = {name: stack.enter_context(trial(queue)) for name, queue in queues.items()}
            for _ in range(self.counts.turns):
                self.note("raw", "fire", raw_redis.raw_put_one(server.url, self.counts.ones))
                for name, one in trials.items():
                    server.empty()
                    with self._forgiving(name):
                        self.note(name, "fire", one.send("one", self.counts.ones))

    def _round(self, server: Server, which: str) -> None:
        self.say(f"Redis, {which}: idle")
        self._idle("raw", raw(server.url), server)
        self._idle("SkunkQueue", skunk(server.url), server)
        self._idle(SPREAD, spread_out(server.url), server, first=40)
        for peer, setup in self._setups():
            queue = peer.queue(server.url, setup, BENCH_IDLE="yes")
            self._idle(f"{peer.name}, {setup}", queue, server, ask=setup == "safe")
        self.say(f"Redis, {which}: drain, raw limits and SkunkQueue")
        self._raw(server)
        self._ours(server)
        for peer, setup in self._setups():
            self.say(f"Redis, {which}: drain, {peer.name}, {setup}")
            with self._forgiving(f"{peer.name}, {setup}"), trial(peer.queue(server.url, setup)) as theirs:
                self._drains(peer, setup, theirs, server)

    def _setups(self) -> list[tuple[Peer, str]]:
        return [(peer, setup) for peer in self.peers for setup in SETUPS]

    @contextmanager
    def _forgiving(self, name: str) -> Iterator[None]:
        """A peer that fails loses the figure, not us the run."""
        try:
            yield
        except (RuntimeError, TimeoutError) as error:
            self.say(f"{name} failed: {error}")
            self.failed.append(f"{name}: {str(error).splitlines()[0]}")

    def _raw(self, server: Server) -> None:
        self.note("raw", "bulk", raw_redis.raw_put_many(server.url, self.counts.many))
        self.note("raw", "drain 1", raw_redis.raw_drain(server.url, self.counts.many))

    def _ours(self, server: Server) -> None:
        counts = self.counts
        with trial(skunk(server.url)) as ours:
            for processes in (1, 2):
                server.empty()
                self.note("SkunkQueue", "bulk", ours.send("many", counts.many))
                self._note_drain("SkunkQueue", processes, ours.drain(counts.many, processes, server.pid))
                assert ours.send("kept", 0) == counts.many

    def _drains(self, peer: Peer, setup: str, theirs: Trial, server: Server) -> None:
        name, count = f"{peer.name}, {setup}", peer.runs // self.counts.divided
        for processes in (1, 2) if setup == "safe" else (1,):
            server.empty()
            rate = theirs.send("many" if peer.bulk else "one", count)
            if peer.bulk:
                self.note(name, "bulk", rate)
            self._note_drain(name, processes, theirs.drain(count, processes, server.pid))

    def _note_drain(self, name: str, processes: int, drained: Drained) -> None:
        self.note(name, f"drain {processes}", drained.rate)
        self.note(name, f"CPU {processes}", drained.cpu)

    def _idle(self, name: str, queue: Queue, server: Server, *, ask: bool = True, first: int = 0) -> None:
        """``first`` are runs that are not measured: where there are several workers, each has its first one."""
        server.empty()
        with self._forgiving(name), trial(queue) as one, one.idling():
            one.send("idle", first)
            self.note(name, "start", *(each * 1e6 for each in one.send("idle", self.counts.idle)))
            if ask:
                self.note(name, "result", *(each * 1e6 for each in one.send("ask", self.counts.idle)))

    # -- what only we are asked for

    def _alone(self, server: Server) -> list[Figure]:
        return [*self._idle_pool(server), self._memory(server)]

    def _idle_pool(self, server: Server) -> list[Figure]:
        server.empty()
        with trial(skunk(server.url)) as ours, ours.idling() as (pool,):
            time.sleep(2.0)
            cpu, began = pool.cpu_fine(), time.perf_counter()
            commands = server.commands(self.counts.idle_seconds) / self.counts.idle_seconds
            cpu, took = pool.cpu_fine() - cpu, time.perf_counter() - began
        return [
            Figure("idle pool", 100 * cpu / took, "of a core", most=0.5, unit=" %"),
            Figure(
                "idle pool: commands to the server", commands, "those inside scripts not counted", most=1.0, unit="/s"
            ),
        ]

    def _memory(self, server: Server) -> Figure:
        server.empty()
        with trial(skunk(server.url)) as ours:
            payload = backlog.body(ours, server.url)
            before = int(server.info("memory")["used_memory"])
            backlog.fill(server.url, self.counts.memory, payload, time.time())
            each = (int(server.info("memory")["used_memory"]) - before) / self.counts.memory
        basis = f"{each:.0f} bytes, {len(payload)} of them its payload"
        return Figure(
            "memory of a queued run beyond its payload", each - len(payload), basis, most=400.0, unit=" bytes"
        )

    def _deep(self) -> list[Figure]:
        """Drain rates in turns on three servers: nothing else there, many runs behind, many scheduled ahead."""
        count, many = self.counts.many, self.counts.backlog
        rates: dict[str, list[float]] = {"plain": [], "behind": [], "ahead": []}
        with ExitStack() as stack:
            trials = {}
            for name in rates:
                server = stack.enter_context(Server(self.persistence))
                trials[name] = ours = stack.enter_context(trial(skunk(server.url)))
                payload = backlog.body(ours, server.url)
                if name != "plain":
                    backlog.fill(server.url, many, payload, time.time() + (0 if name == "behind" else 86_400))
            for _ in range(self.counts.rounds + 2):
                for name, ours in trials.items():
                    backlog.fill(ours.env["BENCH_URL"], count, payload, time.time())
                    rates[name].append(ours.drain(count).rate)
        return [
            Figure(f"drain with {many:,} runs {what} / without", ratio(rates[name], rates["plain"]),
                   f"{median(rates[name]):,.0f}/s of {median(rates['plain']):,.0f}/s", least=0.8)
            for name, what in (("behind", "queued behind"), ("ahead", "scheduled ahead"))
        ]  # fmt: skip

    # -- what it comes to

    def _figures(self) -> list[Figure]:
        again = [f"{peer.name}, safe" for peer in self.peers if "safe" in peer.again]
        return [
            *self._compared("drain, one worker", "drain 1", again, 8.0),
            self._of_raw("drain, one worker / raw loop by 64 (aim: 0.6)", "drain 1", 0.4),
            *self._compared("drain, two workers", "drain 2", again, 5.0),
            *self._compared("fire", "fire", self._all(), 1.0),
            self._of_raw("fire / raw put", "fire", 0.7),
            *self._compared("fire_many", "bulk", self._all(), 5.0),
            self._of_raw("fire_many / raw put by 500", "bulk", 0.5),
            *self._latencies(),
            *self._cpu(),
        ]

    def _all(self) -> list[str]:
        return [f"{peer.name}, {setup}" for peer in self.peers for setup in SETUPS]

    def _best(self, what: str, names: Sequence[str], least: bool = False) -> tuple[str, float] | None:
        """The name and figure of the best of these that has this figure."""
        found = [(name, median(self.seen[name, what])) for name in names if (name, what) in self.seen]
        return (min if least else max)(found, key=lambda each: each[1]) if found else None

    def _compared(self, title: str, what: str, names: Sequence[str], least: float) -> list[Figure]:
        best = self._best(what, names)
        if best is None:
            return []
        ours, (name, theirs) = median(self.seen["SkunkQueue", what]), best
        basis = f"{ours:,.0f}/s of {theirs:,.0f}/s"
        return [Figure(f"{title} / best peer's ({name})", ours / theirs, basis, least=least)]

    def _of_raw(self, title: str, what: str, least: float) -> Figure:
        ours, limit = self.seen["SkunkQueue", what], self.seen["raw", what]
        return Figure(
            title, median(ours) / median(limit), f"{median(ours):,.0f}/s of {median(limit):,.0f}/s", least=least
        )

    def _latencies(self) -> list[Figure]:
        start, limit = self.seen["SkunkQueue", "start"], self.seen["raw", "start"]
        result = self.seen["SkunkQueue", "result"]
        return [
            _times("idle: fire to start, median / raw LPUSH to BRPOP", median(start), median(limit), 3.5),
            _times("idle: fire to start, 99th percentile / raw 99th percentile", late(start), late(limit), 5.0),
            *self._below("idle: fire to start, median", "start", median(start)),
            *self._below("idle: fire to wait() returned, median", "result", median(result)),
            _times("idle: fire to wait() returned, median / raw LPUSH to BRPOP", median(result), median(limit), None),
            *self._spread(start),
        ]

    def _spread(self, start: Sequence[float]) -> list[Figure]:
        """Four routes and two pools beside one of each: a wake-up that the wrong one hears costs seconds."""
        found = self.seen.get((SPREAD, "start"))
        if not found:
            return []
        title = "idle, four routes and two pools: fire to start"
        return [
            _times(f"{title}, median / one route's and one pool's", median(found), median(start), 1.5),
            Figure(f"{title}, longest", max(found) / 1e3, most=1000.0, unit=" ms"),
        ]

    def _below(self, title: str, what: str, ours: float) -> list[Figure]:
        best = self._best(what, self._all(), least=True)
        return [] if best is None else [_times(f"{title} / best peer's ({best[0]})", ours, best[1], 1.0)]

    def _cpu(self) -> list[Figure]:
        ours = median(self.seen["SkunkQueue", "CPU 1"])
        best = self._best("CPU 1", self._all(), least=True)
        title = "CPU of 10,000 runs, workers and server"
        if best is None:
            return [Figure(title, ours, unit=" s")]
        basis = f"{ours:.2f} s of {best[1]:.2f} s"
        return [Figure(f"{title} / best peer's ({best[0]})", ours / best[1], basis, most=1.0)]

    def _tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        names = ["raw", "SkunkQueue", *self._all()]
        rates = ["fire", "bulk", "drain 1", "drain 2", "CPU 1", "CPU 2"]
        head = ["", "fire /s", "bulk /s", "drain /s, one process", "two", "CPU s / 10,000, one", "two"]
        body = [[name, *(self._cell(name, what) for what in rates)] for name in names]
        late_head = ["", "to start, median", "99 %", "to result, median", "99 %"]
        late_body = [
            [name, *self._late_cells(name, "start"), *self._late_cells(name, "result")]
            for name in (*names[:2], SPREAD, *names[2:])
        ]
        return [
            ("Rates and processor time: median (least to most)", head, body),
            ("Microseconds on an idle queue", late_head, late_body),
        ]

    def _cell(self, name: str, what: str) -> str:
        found = self.seen.get((name, what))
        return spread(found, "{:.2f}" if what.startswith("CPU") else "{:,.0f}") if found else ""

    def _late_cells(self, name: str, what: str) -> list[str]:
        found = self.seen.get((name, what))
        return [f"{median(found):,.0f}", f"{late(found):,.0f}"] if found else ["", ""]

    def _conditions(self, server: Server) -> list[str]:
        redis_version = server.info("server")["redis_version"]
        lines = [
            f"Redis {redis_version} on 127.0.0.1 by TCP, persistence: {self.persistence} (the same for all); "
            f"{versions(['skunkqueue', 'redis', 'hiredis'])}",
            "ours: at least once, leases of 15 s with fencing, results kept a day; log as `skunq work` writes it going "
            "to a file; one worker process at a time one run, or two",
            "raw: bench/raw_redis.py, claims by 64 with lease and token, results with expiry; puts by 500",
            f"peers: one worker process each (two where said), default logs going to a file; medians of "
            f"{self.counts.rounds} alternating rounds, fire of {self.counts.turns}; jobs count themselves",
        ]
        for peer in self.peers:
            installed = environments.versions(environments.environment(*peer.environment), _distributions(peer))
            lines.append(f"{peer.name}: {peer.said} ({installed})")
        return lines + [f"failed: {each}" for each in self.failed]


def _distributions(peer: Peer) -> list[str]:
    return [peer.environment[0], peer.packages[-1].partition("<")[0]]


def _times(title: str, ours: float, theirs: float, most: float | None) -> Figure:
    return Figure(title, ours / theirs, f"{ours:,.0f} us of {theirs:,.0f} us", most=most)


def measure(quick: bool, peers: Sequence[str], persistence: str, say: Say) -> Part:
    """All of it, beside the peers named; tens of minutes with all of them."""
    return Run(quick, [peer for peer in PEERS if peer.name in peers], persistence, say).measure()
