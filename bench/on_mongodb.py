"""MongoDB, or what speaks its protocol: our pool beside the least pymongo that does the same, and beside Celery."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench import claims
from bench.claimers import BATCH
from bench.conditions import load, versions
from bench.counting import Counting
from bench.peers import environments
from bench.peers.known import PEERS, SETUPS, Peer
from bench.processes import ROOT, ask
from bench.raw_mongodb import raw_drain, raw_put_many, raw_put_one
from bench.table import Figure, Part, late, median, ratio, spread
from bench.trial import Queue, trial

BIN = Path(sys.executable).parent
DBNAME: Final = "skunkqueue-bench"
CLAIMERS: Final = 8
Say = Callable[[str], None]


class Counts:
    """How many runs each measurement takes."""

    def __init__(self, quick: bool) -> None:
        self.rounds = 1 if quick else 5
        self.turns = 2 if quick else 15
        self.ones = 100 if quick else 200
        self.many = 3_000 if quick else 10_000
        self.peers = 200 if quick else 1_000
        self.idle = 20 if quick else 100
        self.idle_seconds = 5 if quick else 30
        self.claimed = 1_000 if quick else 5_000
        self.waiting = 10_000 if quick else 200_000
        self.turns_of_claims = 10 if quick else 50


class MongoPeer(Peer):
    """A queue of others with its driver for MongoDB, in an environment apart from that for Redis."""

    @property
    def environment(self) -> tuple[str, tuple[str, ...]]:
        name, packages = super().environment
        return f"{name}-mongodb", packages


def _on_mongodb(peer: Peer, *packages: str) -> MongoPeer:
    fields = vars(replace(peer, packages=packages, runs=0))
    return MongoPeer(**fields)


CELERY = _on_mongodb(next(peer for peer in PEERS if peer.name == "Celery"), "celery", "pymongo")


class Run:
    """One run of this part, on the server at a URL without a database; ``DBNAME`` is dropped there."""

    def __init__(self, url: str, quick: bool, peers: Sequence[str], say: Say) -> None:
        self.url = url.rstrip("/")
        self.counts = Counts(quick)
        self.peers = [peer for peer in (CELERY,) if peer.name in peers]
        self.say = say
        self.seen: dict[tuple[str, str], list[float]] = {}
        self.loads: dict[str, str] = {}
        """By what is measured: the load average of a minute, before and after."""
        self.failed: list[str] = []
        self._opened: list[str] = []

    def measure(self) -> Part:
        """All of it."""
        for peer in self.peers:
            self.say(f"MongoDB: setting up {peer.name}")
            environments.environment(*peer.environment)
        with self._loaded("fire"):
            self._fire()
        with self._loaded("drain"):
            for number in range(self.counts.rounds):
                self.say(f"MongoDB: round {number + 1} of {self.counts.rounds}")
                self._round()
        with self._loaded("idle"):
            self.say("MongoDB: idle")
            idle = self._idle()
        idle = [each._replace(basis=f"{each.basis} {self.loads['idle']}".strip()) for each in idle]
        with self._loaded("claimers"):
            self.say(f"MongoDB: {CLAIMERS} claimers")
            self._claimers()
        with self._loaded("claims"):
            self.say(f"MongoDB: claims among {self.counts.waiting:,} runs")
            costs = claims.costs(self._store, self.counts.waiting, self.counts.turns_of_claims)
            self._drop(*self._opened)
        deep = claims.figures(costs, self.counts.waiting, most=1.25)
        deep = [each._replace(basis=f"{each.basis}; {self.loads['claims']}") for each in deep]
        figures = [*self._speed(), *idle, *self._together(), *deep]
        return Part("MongoDB", figures, self._conditions(), [self._table()])

    @contextmanager
    def _loaded(self, what: str) -> Iterator[None]:
        before = load().partition(",")[0]
        yield
        after = load().removeprefix("load average ").partition(",")[0]
        self.loads[what] = f"{before} before, {after} after"

    def _note(self, whose: str, what: str, *figures: float) -> None:
        self.seen.setdefault((whose, what), []).extend(figures)

    # -- firing and draining

    def _fire(self) -> None:
        """One by one, in short turns: a shared machine is another one a minute later."""
        peers = [(peer, setup) for peer in self.peers for setup in SETUPS]
        for number in range(self.counts.turns):
            self.say(f"MongoDB: fire, turn {number + 1} of {self.counts.turns}")
            self._note("raw", "fire", raw_put_one(self.url, self.counts.ones))
            with trial(skunk(self._emptied())) as ours:
                self._note("SkunkQueue", "fire", ours.send("one", self.counts.ones))
            for peer, setup in peers if number < self.counts.rounds else []:
                with self._forgiving(peer, setup), trial(peer.queue(self._emptied(), setup)) as theirs:
                    self._note(f"{peer.name}, {setup}", "fire", theirs.send("one", self.counts.ones))

    def _round(self) -> None:
        self._note("raw", "bulk", raw_put_many(self.url, self.counts.many))
        self._note("raw", "drain", raw_drain(self.url, self.counts.many))
        with trial(skunk(self._emptied())) as ours:
            self._note("SkunkQueue", "bulk", ours.send("many", self.counts.many))
            self._note("SkunkQueue", "drain", ours.drain(self.counts.many).rate)
        for peer, setup in [(peer, setup) for peer in self.peers for setup in SETUPS]:
            with self._forgiving(peer, setup), trial(peer.queue(self._emptied(), setup)) as theirs:
                theirs.send("one", self.counts.peers)
                self._note(f"{peer.name}, {setup}", "drain", theirs.drain(self.counts.peers).rate)

    @contextmanager
    def _forgiving(self, peer: Peer, setup: str) -> Iterator[None]:
        """A peer that fails loses the figure, not us the run."""
        try:
            yield
        except (RuntimeError, TimeoutError) as error:
            self.say(f"{peer.name}, {setup} failed: {error}")
            self.failed.append(f"{peer.name}, {setup}: {str(error).splitlines()[0]}")

    # -- idle

    def _idle(self) -> list[Figure]:
        with trial(skunk(self._emptied())) as ours, ours.idling() as (pool,):
            took = ours.send("idle", self.counts.idle)
            time.sleep(2.0)
            before, began = pool.cpu_fine(), time.perf_counter()
            time.sleep(self.counts.idle_seconds)
            busy = 100 * (pool.cpu_fine() - before) / (time.perf_counter() - began)
        self._note("SkunkQueue", "start", *took)
        for peer in self.peers:
            setup = "safe"
            queue = peer.queue(self._emptied(), setup, BENCH_IDLE="yes")
            with self._forgiving(peer, setup), trial(queue) as theirs, theirs.idling():
                self._note(f"{peer.name}, {setup}", "start", *theirs.send("idle", self.counts.idle))
        return [
            Figure("idle: fire to start, median", median(took) * 1e3, most=60.0, unit=" ms"),
            Figure("idle: fire to start, 99th percentile", late(took) * 1e3, unit=" ms"),
            Figure("idle pool", busy, "of a core;", most=1.0, unit=" %"),
            Figure("idle pool: commands to the server", self._commands(), most=20.0, unit="/s"),
        ]

    def _commands(self) -> float:
        """What a server answers an idle pool per second, also what the driver asks by itself."""
        host, _, port = self.url.removeprefix("mongodb://").partition(":")
        self._emptied()
        with closing(Counting((host, int(port or 27017)))) as counting:
            queue = skunk(f"mongodb://127.0.0.1:{counting.port}/{DBNAME}")
            with trial(queue) as ours, ours.idling():
                time.sleep(2.0)
                before, began = counting.answers, time.perf_counter()
                time.sleep(self.counts.idle_seconds)
                return (counting.answers - before) / (time.perf_counter() - began)

    # -- claimers

    def _claimers(self) -> None:
        """One and several, in turns; in a process of its own, for this one has threads."""
        for _ in range(self.counts.rounds):
            for number in (1, CLAIMERS):
                command = [sys.executable, "-m", "bench.claimers", self._emptied(), str(number)]
                with trial(skunk("")) as here:
                    said = ask([*command, str(self.counts.claimed)], {**here.env, "PYTHONPATH": str(ROOT)}, here.log)
                shares = json.loads(said)
                self._note(f"claimers {number}", "rate", sum(shares))
                self._note(f"claimers {number}", "least share", number * min(shares) / sum(shares))

    # -- what it comes to

    def _speed(self) -> list[Figure]:
        return [
            self._compared("fire / raw insert", "fire", 0.8, "fire"),
            self._compared("fire_many / raw insert by 500", "bulk", 0.5, "drain"),
            self._compared("drain, one worker / raw loop", "drain", 0.5, "drain"),
            *self._beside("fire", "fire"),
            *self._beside("drain, one worker", "drain"),
        ]

    def _beside(self, title: str, what: str) -> list[Figure]:
        """Beside each set-up of each peer; nothing is required."""
        names = [f"{peer.name}, {setup}" for peer in self.peers for setup in SETUPS]
        ours = median(self.seen["SkunkQueue", what])
        found = [(name, median(self.seen[name, what])) for name in names if (name, what) in self.seen]
        return [
            Figure(f"{title} / {name}", ours / theirs, f"{ours:,.0f}/s of {theirs:,.0f}/s") for name, theirs in found
        ]

    def _compared(self, title: str, what: str, least: float, loaded: str) -> Figure:
        ours, limit = self.seen["SkunkQueue", what], self.seen["raw", what]
        rates = f"{median(ours):,.0f}/s of {median(limit):,.0f}/s"
        return Figure(title, ratio(ours, limit), f"{rates}; {self.loads[loaded]}", least=least)

    def _together(self) -> list[Figure]:
        one, many = self.seen["claimers 1", "rate"], self.seen[f"claimers {CLAIMERS}", "rate"]
        rates = f"{median(many):,.0f}/s of {median(one):,.0f}/s by {BATCH}; {self.loads['claimers']}"
        least = median(self.seen[f"claimers {CLAIMERS}", "least share"])
        return [
            Figure(f"{CLAIMERS} claimers together / one", ratio(many, one), rates, least=1.0),
            Figure(f"{CLAIMERS} claimers: the least of them / an eighth", least),
        ]

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        names = ["raw", "SkunkQueue", *(f"{peer.name}, {setup}" for peer in self.peers for setup in SETUPS)]
        body = [[name, *(self._cell(name, what) for what in ("fire", "bulk", "drain", "start"))] for name in names]
        head = ["", "fire /s", "bulk /s", "drain /s, one process", "idle: ms from fire to start"]
        return "Rates and waits: median (least to most)", head, body

    def _cell(self, name: str, what: str) -> str:
        found = self.seen.get((name, what))
        if not found:
            return ""
        return spread([each * 1e3 for each in found], "{:,.1f}") if what == "start" else spread(found)

    def _conditions(self) -> list[str]:
        lines = [
            f"{versions(['skunkqueue', 'pymongo'])}; {self._server()}",
            "majority writes and journal on both sides; raw: bench/raw_mongodb.py, by 64; puts by 500",
            "ours: at least once, leases of 15 s with fencing, results kept a day; one worker process",
            f"medians of {self.counts.rounds} alternating rounds, fire of {self.counts.turns}",
        ]
        for peer in self.peers:
            installed = environments.versions(environments.environment(*peer.environment), peer.packages)
            lines.append(f"{peer.name}, broker and results on the same server: {peer.said} ({installed})")
        return lines + [f"failed: {each}" for each in self.failed]

    def _server(self) -> str:
        from pymongo import MongoClient

        with MongoClient(self.url) as client:
            info = client.admin.command("buildInfo")
        ferretdb = info.get("ferretdb")
        return f"FerretDB {ferretdb['version']}" if ferretdb else f"MongoDB {info['version']}"

    # -- databases

    def _emptied(self) -> str:
        """The URL of the database for measurements, which is empty."""
        self._drop(DBNAME)
        return f"{self.url}/{DBNAME}"

    def _drop(self, *names: str) -> None:
        from pymongo import MongoClient

        with MongoClient(self.url) as client:
            for name in names:
                client.drop_database(name)

    def _store(self, folder: str) -> Any:
        from skunkqueue.persistence.mongodb import open_url

        self._opened.append(Path(folder).name)
        return open_url(f"{self.url}/{self._opened[-1]}")


def skunk(url: str) -> Queue:
    """Ours, as ``skunq work`` runs it, with its default log going to a file."""

    def worker(processes: int) -> list[list[str]]:
        return [[str(BIN / "skunq"), "work", "-q", "bench", "-r", *["work"] * processes]]

    env = {"BENCH_URL": url, "SKUNKQUEUE_URL": url}
    return Queue("SkunkQueue", sys.executable, "bench.peers.skunk_app", worker, env)


def measure(url: str, quick: bool, peers: Sequence[str], say: Say) -> Part:
    """All of it, beside the peers named."""
    return Run(url, quick, peers, say).measure()
