"""What a pool leaves behind in its process when it has ended: nothing."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skunkqueue import SkunkQueue, WorkerPool

LIMIT = 30.0
SOON = 0.5
"""Seconds after a pool's end by which its last thread has ended."""


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        server = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        return str(server.url)
    return f"sqlite:///{tmp_path}/runs.db" if request.param == "sqlite" else f"memory://{request.node.name}"


def by_shutdown(pool: WorkerPool, work: Callable[[], object]) -> None:
    with pool:
        work()
        pool.shutdown()


def by_die(pool: WorkerPool, work: Callable[[], object]) -> None:
    with pool:
        work()
        pool.die()


def by_leaving(pool: WorkerPool, work: Callable[[], object]) -> None:
    with pool:
        work()


def by_burst(pool: WorkerPool, work: Callable[[], object]) -> None:
    pool.run_until_idle()


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("skunkqueue")}


@pytest.mark.parametrize("end", [by_shutdown, by_die, by_leaving, by_burst])
@pytest.mark.parametrize("in_process", [True, False])
def test_no_thread_is_left_after_a_pool(
    url: str, in_process: bool, end: Callable[[WorkerPool, Callable[[], object]], None]
) -> None:
    with SkunkQueue("demo", url) as queue:

        @queue.event
        def job() -> int:
            return 9

        def work() -> None:
            assert job.fire().wait(LIMIT) == 9
            time.sleep(0.3)  # until nothing is left but to wait

        job.fire()
        before = threads()
        pool = WorkerPool(queue, ["default", "other"], in_process=in_process, log=io.StringIO())

        end(pool, work)

        until = time.monotonic() + SOON
        while (left := threads() - before) and time.monotonic() < until:
            time.sleep(0.01)
        assert left == set()
