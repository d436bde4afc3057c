"""Real pools in real processes, for the tests: started, watched through their log, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 30.0
"""Seconds a test waits for something that ought to happen at once; these machines are shared and slow at times."""


def until(what, limit=LIMIT, message="it did not happen"):
    """Wait for something to become true; gives what it became."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{message} within {limit:g} s")


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid):
    """The pids below a process."""
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] + [
            int(p)
            for task in Path(f"/proc/{pid}/task").iterdir()
            if task.name != str(pid)
            for p in (task / "children").read_text().split()
        ]
    return []


def traced(folder):
    """How often each number was run, by the traces that jobs left."""
    found = Counter()
    for file in folder.glob("trace-*"):
        data = file.read_bytes()
        found.update(int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8))
    return found


def suspend(pool, url):
    """Stop it, but not amid a write to SQLite, which would keep all others from writing."""
    pool.send(signal.SIGSTOP)
    while url.startswith("sqlite") and is_locked(url.removeprefix("sqlite:///")):
        pool.send(signal.SIGCONT)
        time.sleep(0.01)
        pool.send(signal.SIGSTOP)


def is_locked(file):
    """Whether somebody writes to a SQLite file."""
    with contextlib.closing(sqlite3.connect(file, timeout=0.1)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


class PoolProcess:
    """A WorkerPool in a process of its own, which logs into a file, or to the descriptor ``log``.

    ``both`` is a descriptor for what it logs and what its jobs print.
    """

    def __init__(self, folder, url, *routes, marks=None, prelude="", log=None, both=None, **options):
        self.log_file = Path(folder) / f"pool-{time.monotonic_ns()}.log"
        code = prelude + (
            "from skunkqueue.worker import WorkerPool\n"
            f"WorkerPool('demo', {list(routes)!r}, {url!r}, **{options!r}).listen()\n"
        )
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "SKUNKQUEUE_URL": url,
            "MARKS": str(marks or folder),
            "POOL_LOG": str(self.log_file),
        }
        with self.log_file.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=file if both is None else both,
                stderr=both or (file if log is None else log),
                env=env,
                cwd=folder,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def log(self):
        return self.log_file.read_text(errors="replace")

    def said(self, text, limit=LIMIT):
        """Wait until the log has this."""
        until(lambda: text in self.log(), limit, f"the log did not say {text!r}: {self.log()[-3000:]}\n")
        return self

    def up(self):
        return self.said("started, process")

    def workers(self):
        """The pids of its worker processes."""
        return [int(line.split()[-1]) for line in self.log().splitlines() if " started, process " in line]

    def send(self, number):
        os.kill(self.pid, number)

    def ends(self, limit=LIMIT):
        """Wait for its end; gives the exit code."""
        return self.process.wait(limit)

    def cpu(self):
        """Seconds of processor that the pool itself has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, number=signal.SIGTERM):
        self.send(number)
        return self.ends()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A number that the log names may long be another process's.
        left = [pid for pid in self.workers() if self._is_ours(pid)]
        for pid in (self.pid, *left) if self.process.poll() is None else left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        self.process.wait(LIMIT)

    def _is_ours(self, pid):
        """Whether this process is a worker of this pool: it has its environment."""
        with contextlib.suppress(OSError):
            return f"POOL_LOG={self.log_file}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False


def marks(folder, name):
    """How often a job that leaves marks under this name has started."""
    with contextlib.suppress(OSError):
        return len((Path(folder) / str(name)).read_text().splitlines())
    return 0
