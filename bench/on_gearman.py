"""Gearman: our clients and workers beside pygearman's and the C tool's on gearmand, and our server beside gearmand."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from bench import gearman_servers
from bench.conditions import load, versions
from bench.gearman_servers import find, running
from bench.table import Figure, Part

Say = Callable[[str], None]

OURS: Final = "bench.peers.gearman_app"
PYGEARMAN: Final = "bench.peers.pygearman_app"
LINE: Final = b"01234567890123456789\n"


class Counts:
    """How many jobs each measurement takes."""

    def __init__(self, quick: bool) -> None:
        self.rounds = 2 if quick else 15  # many short ones: some meet a machine that does nothing else
        self.ones = 200 if quick else 500
        self.many = 1000 if quick else 3000


class Seconds:
    """Of a job, in each round: what the figures are ratios of."""

    def __init__(self) -> None:
        self.rows: dict[str, list[float]] = {}

    def add(self, what: str, seconds: float) -> None:
        """``seconds`` is NaN of a round in which no call worked: that round does not count."""
        row = self.rows.setdefault(what, [])
        if not math.isnan(seconds):
            row.append(seconds)

    def told(self, what: str) -> str:
        best, middle, worst = (pick(self.rows[what]) * 1e6 for pick in (min, statistics.median, max))
        return f"{what} {best:.0f} us (median {middle:.0f}, worst {worst:.0f})"

    def figure(self, what: str, ours: str, theirs: str, **required: float) -> Figure:
        """Our seconds in units of theirs; of each the best round, which other work on the machine disturbed least."""
        basis = f"{self.told(ours)}; {self.told(theirs)}"
        return Figure(what, min(self.rows[ours]) / min(self.rows[theirs]), basis, **required)

    def speed(self, what: str, ours: str, theirs: str, **required: float) -> Figure:
        """How many times as many jobs a second."""
        basis = f"{self.told(ours)}; {self.told(theirs)}"
        return Figure(what, min(self.rows[theirs]) / min(self.rows[ours]), basis, **required)


def measure(quick: bool, say: Say) -> Part:
    """Some minutes; a tenth of that if ``quick``."""
    counts, seconds = Counts(quick), Seconds()
    conditions = [f"gearmand: {_version()}", versions(["pygearman"]), load()]
    _workers(counts, seconds, say)
    _servers(counts, seconds, say)
    figures = [
        seconds.figure("one at a time: our client and worker / pygearman's", "ours", "pygearman", most=0.7),
        seconds.figure("one at a time: our client and worker / C's", "ours", "C", most=1.2),
        seconds.figure("one at a time: our client / C's, with C's worker", "our client, C worker", "C"),
        seconds.speed("many in flight: ours / pygearman's", "ours, many", "pygearman, many", least=5.0),
        seconds.speed("our server, memory / gearmand, C client and worker", "C on ours", "C on gearmand", least=0.3),
        seconds.speed("background submits: ours on memory / gearmand", "memory, background", "gearmand, background"),
        seconds.figure("durable background submits: SQLite / memory", "SQLite, background", "memory, background"),
    ]
    conditions.append("ratios are those of the best rounds, of 15 that alternate")
    conditions.append(
        "pygearman's client fails where JOB_CREATED and WORK_COMPLETE come in one read; its seconds are the median "
        f"of calls that worked, and {seconds.rows['pygearman, failed'][-1]:.0f} did not in the last round"
    )
    return Part("Gearman", figures, [*conditions, load()], [])


def _workers(counts: Counts, seconds: Seconds, say: Say) -> None:
    """Each pair of client and worker on a gearmand of its own, in turn."""
    with ExitStack() as stack:
        ports = [stack.enter_context(gearman_servers.gearmand()) for _ in range(4)]
        ours, ahead, theirs, c = ports
        stack.enter_context(running(_python(OURS, "worker", ours)))
        stack.enter_context(running(_python(OURS, "ahead", ahead)))
        stack.enter_context(running(_python(PYGEARMAN, "worker", theirs)))
        stack.enter_context(running(_c_worker(c)))
        time.sleep(2.0)
        for number in range(counts.rounds):
            say(f"clients and workers, round {number + 1} of {counts.rounds}")
            seconds.add("ours", _run(OURS, "one", ours, counts.ones)[0])
            took, failed = _run(PYGEARMAN, "one", theirs, counts.ones)
            seconds.add("pygearman", took)
            seconds.add("pygearman, failed", failed)
            seconds.add("C", _c_client(c, counts.ones))
            seconds.add("our client, C worker", _run(OURS, "one", c, counts.ones)[0])
            seconds.add("ours, many", _run(OURS, "many", ahead, counts.many)[0])
            seconds.add("pygearman, many", _run(PYGEARMAN, "many", theirs, counts.ones)[0])


def _servers(counts: Counts, seconds: Seconds, say: Say) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="skunkqueue-bench-"))
        gearmand = stack.enter_context(gearman_servers.gearmand())
        memory = stack.enter_context(gearman_servers.ours("memory://"))
        sqlite = stack.enter_context(gearman_servers.ours(f"sqlite:////{folder}/jobs.db"))
        stack.enter_context(running(_c_worker(memory)))
        stack.enter_context(running(_c_worker(gearmand)))
        time.sleep(1.0)
        for number in range(counts.rounds):
            say(f"servers, round {number + 1} of {counts.rounds}")
            seconds.add("C on ours", _c_client(memory, counts.ones))
            seconds.add("C on gearmand", _c_client(gearmand, counts.ones))
            for name, port in (("gearmand", gearmand), ("memory", memory), ("SQLite", sqlite)):
                seconds.add(f"{name}, background", _run(OURS, "background", port, counts.many)[0])


def _run(module: str, *words: object) -> list[float]:
    """The numbers that a client prints."""
    command = _python(module, *words)
    found = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=120)
    return [float(word) for word in found.stdout.split()]


def _python(module: str, *words: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, words)]


def _c_worker(port: int) -> list[str]:
    return [find("gearman", "gearman-tools"), "-w", "-h", "127.0.0.1", "-p", str(port), "-f", "echo"]


def _c_client(port: int, count: int) -> float:
    """Seconds of a job: the tool submits a job for each line and waits for it."""
    command = [find("gearman", "gearman-tools"), "-h", "127.0.0.1", "-p", str(port), "-f", "echo", "-n"]
    began = time.perf_counter()
    subprocess.run(command, input=LINE * count, stdout=subprocess.DEVNULL, check=True, timeout=120)
    return (time.perf_counter() - began) / count


def _version() -> str:
    command = [find("gearmand", "gearman-job-server"), "--version"]
    words = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    return words[1] if len(words) > 1 else "unknown"
