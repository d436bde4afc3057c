"""The spool folder beside a bare loop of open, parse, call, unlink; and how long a job waits for its processor.

    python bench/spool.py [FILES] [FOLDER]

The figures of one run are comparable with each other only: machines differ by a factor of three from day to day. Rounds
alternate, so that a busy moment hits all of them; shown is of each the least disturbed, and the median of how many
times the bare loop of its own round it took.
"""

from __future__ import annotations

import os
import pickle
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from skunkqueue.spool import Hermes
from skunkqueue.spool.inbox import AGED

FILES = 10_000
ROUNDS = 5
DROPS = 200
WAYS: dict[str, dict[str, Any]] = {
    "4 threads": {},
    "1 thread": {"threads": 1},
    "1 process": {"workers": 1},
    "2 processes": {"workers": 2},
}
MAIL = {
    "type": "email",
    "from": "no@mail.com",
    "rcpt": "test@example.com",
    "subject": "Test email",
    "body": "Hi there!",
}


def send_email(task: dict[str, Any]) -> bool:
    return True


def fill(folder: Path, count: int) -> None:
    data = pickle.dumps(MAIL)
    for number in range(count):
        (folder / f"email-{number:06}").write_bytes(data)


def bare(folder: Path) -> float:
    processors = {"email": send_email}
    began = time.perf_counter()
    for name in os.listdir(folder / "in"):
        path = os.path.join(folder, "in", name)
        with open(path, "rb") as file:
            task = pickle.load(file)
        processors[task["type"]](task)
        os.unlink(path)
    return time.perf_counter() - began


def hermes(folder: Path, count: int, **options: Any) -> float:
    """From the first claim to the last commit of a backlog: workers are up, and the last file was done a while ago."""
    fill(folder / "in", count)
    time.sleep(2 * AGED)
    with open(folder / "log", "w") as log:
        running = Hermes(folder, log=log, **options)
        running.register({"email": send_email})
        with running:
            filled = os.stat(folder / "in").st_mtime_ns
            while os.stat(folder / "in").st_mtime_ns == filled:
                time.sleep(0.001)
            began = time.perf_counter()
            while any(os.scandir(folder / "in")) or any(os.scandir(folder / "work")):
                time.sleep(0.01)
            return time.perf_counter() - began


def latency(folder: Path) -> list[float]:
    """From the rename into in/ to the start of the processor, one at a time, in milliseconds."""
    started = threading.Event()
    at = [0.0]

    def note(task: dict[str, Any]) -> None:
        at[0] = time.perf_counter()
        started.set()

    waits = []
    with open(folder / "log", "w") as log, Hermes(folder, log=log) as running:
        running.register({"email": note})
        time.sleep(1.0)
        for number in range(DROPS):
            draft = folder / "draft"
            draft.write_bytes(pickle.dumps(MAIL))
            began = time.perf_counter()
            os.rename(draft, folder / "in" / f"email-{number}")
            started.wait(30)
            started.clear()
            waits.append((at[0] - began) * 1000)
            time.sleep(0.02 + number % 7 / 1000)
    return waits


def fresh(folder: str | None, measure: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        (Path(place) / "in").mkdir()
        return measure(Path(place))


def bare_filled(folder: Path, count: int) -> float:
    fill(folder / "in", count)
    return bare(folder)


def median_ratio(times: list[float], bares: list[float]) -> float:
    return statistics.median(took / bare for took, bare in zip(times, bares, strict=True))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else FILES
    place = sys.argv[2] if len(sys.argv) > 2 else None
    bares: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        bares.append(fresh(place, lambda folder: bare_filled(folder, count)))
        for name, options in WAYS.items():
            times[name].append(fresh(place, partial(hermes, count=count, **options)))
    base = min(bares)
    print(f"bare loop             {base / count * 1e6:6.1f} us a file, {count / base:8,.0f} files/s")
    for name in WAYS:
        took = min(times[name])
        print(
            f"Hermes, {name:12}  {took / count * 1e6:6.1f} us a file, {count / took:8,.0f} files/s, "
            f"{took / base:.2f} times the bare loop (median {median_ratio(times[name], bares):.2f})"
        )
    waits = fresh(place, latency)
    print(f"rename to start       {statistics.median(waits):6.2f} ms median, {max(waits):.2f} ms worst of {len(waits)}")


if __name__ == "__main__":
    main()
