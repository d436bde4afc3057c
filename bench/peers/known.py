"""The queues on Redis that are measured beside ours, each in its fastest recommended set-up and in its safest.

``fast`` is without results, and at most once where there is a choice; ``safe`` is with results, and at least once
where the queue can. Each setting was tried against its neighbours (more threads, a larger prefetch), and the
fastest was kept.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.peers.environments import environment
from bench.trial import Queue

SETUPS = ("fast", "safe")


@dataclass(frozen=True)
class Peer:
    """A queue of others: how it is installed and worked."""

    name: str
    packages: tuple[str, ...]
    """What its environment is made of; the first one is the queue, the last one its driver."""
    app: str
    worker: Callable[[str, int], list[str]]
    """The program and arguments of one worker process: by set-up, and which one it is."""
    runs: int
    """How many a drain takes: some seconds' worth."""
    again: tuple[str, ...] = ()
    """The set-ups that are at least once."""
    env: Mapping[str, str] = field(default_factory=dict)
    bulk: bool = False
    stop: signal.Signals = signal.SIGTERM
    said: str = ""
    """Its set-up in words, for the conditions."""

    @property
    def environment(self) -> tuple[str, tuple[str, ...]]:
        return re.split(r"\W", self.packages[0])[0], self.packages

    def queue(self, url: str, setup: str, **env: str) -> Queue:
        """It, in one set-up, on a server."""
        bin = environment(*self.environment)

        def worker(processes: int) -> list[list[str]]:
            commands = [self.worker(setup, number) for number in range(processes)]
            return [[str(bin / program), *arguments] for program, *arguments in commands]

        settings = {"BENCH_URL": url, "BENCH_SETUP": setup, **self.env, **env}
        return Queue(f"{self.name}, {setup}", str(bin / "python"), self.app, worker, settings, self.stop)


def _celery(setup: str, number: int) -> list[str]:
    app = ["celery", "-A", "bench.peers.celery_app", "worker", "-c", "1", "-n", f"w{number}@%h"]
    return [*app, "-P", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat"]


def _dramatiq(setup: str, number: int) -> list[str]:
    return ["dramatiq", "bench.peers.dramatiq_app", "-p", "1", "-t", "4"]


def _rq(setup: str, number: int) -> list[str]:
    return ["python", "-m", "bench.peers.rq_worker"]


def _huey(setup: str, number: int) -> list[str]:
    return ["huey_consumer", "bench.peers.huey_app.huey", "-w", "1", "-k", "thread", "-n"]


def _taskiq(setup: str, number: int) -> list[str]:
    ack = "when_saved" if setup == "safe" else "when_received"
    return ["taskiq", "worker", "bench.peers.taskiq_app:broker", "-w", "1", "--ack-type", ack]


def _arq(setup: str, number: int) -> list[str]:
    return ["arq", "bench.peers.arq_app.WorkerSettings"]


def _saq(setup: str, number: int) -> list[str]:
    return ["saq", "bench.peers.saq_app.settings"]


def _streaq(setup: str, number: int) -> list[str]:
    return ["streaq", "run", "bench.peers.streaq_app:worker"]


DRIVER = ("hiredis", "redis")
TASKIQ = ("taskiq>=0.13", "taskiq-redis", "uvloop", *DRIVER)

PEERS = [
    Peer(
        "Celery",
        ("celery[redis]", *DRIVER),
        "bench.peers.celery_app",
        _celery,
        runs=4_000,
        again=("safe",),
        said="solo pool, prefetch 64; fast: acknowledged early, results ignored; safe: acks_late, results",
    ),
    Peer(
        "Dramatiq",
        ("dramatiq[redis]", *DRIVER),
        "bench.peers.dramatiq_app",
        _dramatiq,
        runs=15_000,
        again=SETUPS,
        env={"dramatiq_queue_prefetch": "128"},
        said="4 threads, prefetch 128; at least once by nature; safe: results",
    ),
    Peer(
        "RQ",
        ("rq", *DRIVER),
        "bench.peers.rq_app",
        _rq,
        runs=3_000,
        again=("safe",),
        bulk=True,
        said="SimpleWorker (no fork for each job); fast: no results; safe: results, Retry(max=3)",
    ),
    Peer(
        "Huey",
        ("huey", *DRIVER),
        "bench.peers.huey_app",
        _huey,
        runs=15_000,
        said="one worker thread, -n; at most once by nature; safe: results; notify_result where idle",
    ),
    Peer(
        "Taskiq list",
        TASKIQ,
        "bench.peers.taskiq_app",
        _taskiq,
        runs=8_000,
        env={"BENCH_BROKER": "list"},
        said="uvloop, 100 at a time; at most once by nature; safe: results",
    ),
    Peer(
        "Taskiq stream",
        TASKIQ,
        "bench.peers.taskiq_app",
        _taskiq,
        runs=10_000,
        again=("safe",),
        env={"BENCH_BROKER": "stream"},
        said="uvloop, 100 at a time; fast: acknowledged when received; safe: when saved, results",
    ),
    Peer(
        "arq",
        ("arq", "uvloop", "hiredis", "redis<6"),
        "bench.peers.arq_app",
        _arq,
        runs=4_000,
        again=SETUPS,
        said="max_jobs 100, poll_delay 0.01 (0.001 where idle); at least once by nature; safe: results",
    ),
    Peer(
        "SAQ",
        ("saq", "typing_extensions", "uvloop", "hiredis", "redis<8"),
        "bench.peers.saq_app",
        _saq,
        runs=6_000,
        again=("safe",),
        said="30 at a time; fast: nothing kept, tried once; safe: results, retries 3",
    ),
    Peer(
        "streaQ",
        ("streaq", "uvloop", "hiredis", "coredis"),
        "bench.peers.streaq_app",
        _streaq,
        runs=8_000,
        again=SETUPS,
        bulk=True,
        said="32 at a time; at least once by nature; safe: results",
    ),
]
