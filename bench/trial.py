"""One queue put to work: its runs fired by a process of their own, drained by its workers, timed by what jobs leave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers import marks
from bench.processes import ROOT, Program, ask, cpu_of, ending, until

WARM = 0.02
"""The share of a drain that passes before its clock starts: workers have started, connections are open."""


class Drained(NamedTuple):
    """How fast a queue was worked off, and the processor seconds that 10,000 runs took."""

    rate: float
    cpu: float


@dataclass
class Queue:
    """A queue as measured: in which environment, with which jobs, worked by which command."""

    name: str
    python: str
    app: str
    worker: Callable[[int], Sequence[Sequence[str]]]
    """The commands that work it with so many processes."""
    env: Mapping[str, str] = field(default_factory=dict)
    stop: signal.Signals = signal.SIGTERM
    limit: float = 120.0


class Trial:
    """A queue, with a folder for its marks and logs."""

    def __init__(self, queue: Queue, folder: Path) -> None:
        self.queue = queue
        self.folder = folder
        self.log = folder / "log"
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "SKUNKQUEUE_KEY": "a key for benchmarks",
            "BENCH_MARKS": str(folder),
            **{name: value.format(folder=folder) for name, value in queue.env.items()},
        }
        marks.reset(str(folder))

    def send(self, what: str, count: int) -> Any:
        """Have its process fire; gives what that measured: see ``bench.peers.send``."""
        command = [self.queue.python, "-m", "bench.peers.send", self.queue.app, what, str(count)]
        return json.loads(ask(command, self.env, self.log).splitlines()[-1])

    @contextlib.contextmanager
    def working(self, processes: int = 1) -> Iterator[list[Program]]:
        """Workers at work."""
        programs = [self.start(command) for command in self.queue.worker(processes)]
        with ending(programs):
            yield programs

    def start(self, command: Sequence[str]) -> Program:
        return Program(command, self.env, self.log, stop=self.queue.stop)

    def drain(self, count: int, processes: int = 1, server: int | None = None) -> Drained:
        """Work off ``count`` runs that are waiting; the processor of a server counts too."""
        marks.reset(str(self.folder))
        with self.working(processes) as programs:

            def spent() -> float:
                return sum(each.cpu() for each in programs) + (cpu_of(server) if server else 0.0)

            def reached(wanted: float) -> tuple[float, int]:
                def enough() -> int:
                    done = marks.counted(str(self.folder))
                    return done if done >= wanted else 0

                done = until(enough, self.queue.limit, f"{self.queue.name} did not run {wanted:g} runs", programs)
                return time.perf_counter(), done

            began, first = reached(max(1.0, count * WARM))
            before = spent()
            ended, last = reached(count)
            return Drained((last - first) / (ended - began), (spent() - before) * 10_000 / (last - first))

    @contextlib.contextmanager
    def idling(self, processes: int = 1) -> Iterator[list[Program]]:
        """Workers that have shown that they work, and have nothing to do."""
        with self.working(processes) as programs:
            self.send("idle", 5)
            yield programs

    def first_job(self) -> float:
        """Seconds from starting a worker until it starts the job that was waiting."""
        marks.reset(str(self.folder))
        starts = marks.Starts(str(self.folder))
        ask([self.queue.python, "-c", f"import {self.queue.app} as app; app.fire_stamp()"], self.env, self.log)
        began = marks.now()
        programs = [self.start(command) for command in self.queue.worker(1)]
        with ending(programs):
            took = (starts.next() - began) / 1e9
        starts.close()
        return took


@contextlib.contextmanager
def trial(queue: Queue) -> Iterator[Trial]:
    """A trial of a queue, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="skunkqueue-bench-") as folder:
        yield Trial(queue, Path(folder))
