"""Programs that the benchmark starts: watched (processor, memory) with all their children, and ended by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 60.0
TICK = 1.0 / os.sysconf("SC_CLK_TCK")


class Program:
    """One program and its descendants; its output goes to a file."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        stop: signal.Signals = signal.SIGTERM,
        cwd: Path = ROOT,
    ) -> None:
        self.command = list(command)
        self.log = log
        self._stop = stop
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd,
                start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

    def check(self) -> None:
        """Raises RuntimeError with the end of its log where it has ended by itself."""
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(self.command)} ended with {self.process.returncode}:\n{tail}")

    def tree(self) -> list[int]:
        """Its pid and those of all its descendants."""
        return descendants(self.pid)

    def cpu(self) -> float:
        """Processor seconds of all of them so far, and of those they have buried."""
        return sum(map(cpu_of, self.tree()))

    def cpu_fine(self) -> float:
        """Processor seconds of the threads alive, to the nanosecond."""
        return sum(map(cpu_of_threads, self.tree()))

    def end(self) -> None:
        """Ask it to stop, then kill what is left of it, each by its pid."""
        born = {pid: started_at(pid) for pid in self.tree()}
        if self.process.poll() is None:
            self.process.send_signal(self._stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(8)
        for pid, time_of_birth in born.items():
            if time_of_birth is not None and started_at(pid) == time_of_birth:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(LIMIT)


@contextlib.contextmanager
def ending(programs: Sequence[Program]) -> Iterator[None]:
    """Whatever happens, end these."""
    try:
        yield
    finally:
        for program in programs:
            program.end()


def ask(command: Sequence[str], env: Mapping[str, str], log: Path, *, limit: float = 600.0) -> str:
    """Run a program to its end; gives what it printed. Raises RuntimeError where it fails."""
    with log.open("ab") as errors:
        done = subprocess.run(
            list(command), env=dict(env), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            timeout=limit, start_new_session=True,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-2000:]}")
    return done.stdout.decode()


# -- what /proc says


def descendants(pid: int) -> list[int]:
    """A pid and those of all below it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _stat(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def started_at(pid: int) -> str | None:
    """When a process started, which tells it from a later one with its pid. None where it is gone."""
    stat = _stat(pid)
    return stat[19] if stat and stat[0] != "Z" else None


def cpu_of(pid: int) -> float:
    """Processor seconds of a process and of its buried children, to the tick."""
    stat = _stat(pid)
    return sum(map(int, stat[11:15])) * TICK if stat else 0.0


def cpu_of_threads(pid: int) -> float:
    """Processor seconds of a process's living threads, by the scheduler's own account."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_of(pid: int) -> tuple[float, float]:
    """Megabytes resident, and the proportional share where pages are shared with others."""
    kilobytes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, number, *_ = line.split()
        kilobytes[name] = int(number)
    return kilobytes["Rss:"] / 1024, kilobytes["Pss:"] / 1024


def until(what, limit: float, message: str, programs: Sequence[Program] = (), step: float = 0.005):  # type: ignore[no-untyped-def]
    """Wait until something is true; gives it. Raises TimeoutError, or RuntimeError where a program ended."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := what():
            return found
        for program in programs:
            program.check()
        time.sleep(step)
    raise TimeoutError(f"{message} within {limit:g} s")
