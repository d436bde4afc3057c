"""pygearman for Gearman: a worker that gives back what it gets, and clients that say how long a job takes.

python -m bench.peers.pygearman_app worker PORT | one PORT COUNT | many PORT COUNT
Prints the median seconds of a call that worked, and how many did not: its client raises KeyError, or gives up, when
JOB_CREATED and WORK_COMPLETE come in one read. Then it is made anew.
"""

from __future__ import annotations

import math
import statistics
import sys
import time

import gearman

DATA = b"0123456789" * 2


def worker(host: str) -> None:
    found = gearman.GearmanWorker([host])
    found.register_task(b"echo", lambda worker, job: job.data)
    found.work()


def one(host: str, count: int) -> None:
    """One job at a time."""
    _submit(host, count, 1)


def many(host: str, count: int) -> None:
    """As many at a time as it does without its fault every time."""
    _submit(host, count, BATCH)


def _submit(host: str, count: int, batch: int) -> None:
    client = gearman.GearmanClient([host])
    faults, took = 0, []
    end = time.monotonic() + PATIENCE
    while len(took) < count // batch and time.monotonic() < end:
        began = time.perf_counter()
        try:
            requests = client.submit_multiple_jobs([{"task": "echo", "data": DATA} for _ in range(batch)])
        except KeyError:
            requests = []
        if requests and all(request.state == "COMPLETE" for request in requests):
            took.append((time.perf_counter() - began) / batch)
        else:
            faults += 1
            client.shutdown()
            client = gearman.GearmanClient([host])
    print(statistics.median(took) if took else math.nan, faults)


BATCH = 10
PATIENCE = 20.0

if __name__ == "__main__":
    role, port, *rest = sys.argv[1:]
    {"worker": worker, "one": one, "many": many}[role](f"127.0.0.1:{port}", *(int(word) for word in rest))
