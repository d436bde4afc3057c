"""Ours for Gearman: a worker that gives back what it gets, and clients that print the seconds of a job.

python -m bench.peers.gearman_app worker PORT | ahead PORT | one PORT COUNT | many PORT COUNT | background PORT COUNT
"""

from __future__ import annotations

import statistics
import sys
import time

from skunkqueue.gearman import GearmanClient, GearmanWorker

DATA = b"0123456789" * 2


def worker(host: str) -> None:
    found = GearmanWorker([host])
    found.register_task("echo", lambda worker, job: job.data)
    found.work()


class Ahead(GearmanWorker):
    """Takes many jobs at a time: they are all short."""

    ahead = 100


def ahead(host: str) -> None:
    found = Ahead([host])
    found.register_task("echo", lambda worker, job: job.data)
    found.work()


def one(host: str, count: int) -> None:
    """One job at a time."""
    client = GearmanClient([host])
    took = []
    for _ in range(count):
        began = time.perf_counter()
        assert client.submit_job("echo", DATA).complete
        took.append(time.perf_counter() - began)
    print(statistics.median(took))


def many(host: str, count: int) -> None:
    """All of them at once."""
    client = GearmanClient([host])
    client.submit_job("echo", DATA)
    began = time.perf_counter()
    requests = client.submit_multiple_jobs([{"task": "echo", "data": DATA} for _ in range(count)])
    took = time.perf_counter() - began
    assert all(request.result == DATA for request in requests)
    print(took / count)


def background(host: str, count: int) -> None:
    """All of them at once, until the server has accepted the last."""
    client = GearmanClient([host])
    began = time.perf_counter()
    client.submit_multiple_jobs([{"task": "later", "data": DATA} for _ in range(count)], background=True)
    print((time.perf_counter() - began) / count)


if __name__ == "__main__":
    role, port, *rest = sys.argv[1:]
    {"worker": worker, "ahead": ahead, "one": one, "many": many, "background": background}[role](
        f"127.0.0.1:{port}", *(int(word) for word in rest)
    )
