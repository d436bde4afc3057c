"""Nothing is left in a Redis when all is done and purged, and all pools are gone, of any kind of key."""

from __future__ import annotations

import io
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pools import LIMIT, PoolProcess, until
from test_find_reads import Monitor

from skunkqueue import JobCancelled, SkunkQueue, WaitTimeout, WorkerPool, current_run
from skunkqueue.envelope import DAY
from skunkqueue.persistence import WorkerKey, WorkKey

SOON_GONE = 30_000
"""Milliseconds for which what wakes waiters may stay."""

OF_THE_STORE = {"queues", "until", "about", "orders", "ears"}


def kinds() -> set[str]:
    """The kinds of keys in the head of the scripts, and those of the store; channels are no keys."""
    text = files("skunkqueue.persistence.redis").joinpath("lua/shared.lua").read_text()
    head = text.partition("\n-- part ")[0]
    return set(re.findall(r"^--   :(\w+).*? {2}(?:hash|zset|string|list|set)", head, re.MULTILINE)) | OF_THE_STORE


@pytest.fixture
def server(shared_redis: Any) -> Any:
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def queue(server: Any) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", server.url) as opened:
        yield opened


def left_in(server: Any) -> dict[bytes, int]:
    """Keys that do not go by themselves soon, with their time to live."""
    with server.client() as client:
        ttls = {key: client.pttl(key) for key in client.scan_iter()}
    return {key: ttl for key, ttl in ttls.items() if ttl != -2 and not 0 <= ttl <= SOON_GONE}


def add(first: int, second: int) -> int:
    current_run().progress(0.5, "half")
    return first + second


def fail() -> None:
    raise ValueError("no")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def live(queue: SkunkQueue, server: Any) -> None:
    """Runs of each kind, and what is done with them."""
    job = queue.event(add, routes="foo", keep=0)
    run = job.fire(1, 2)
    later = [job.fire_at(3600, 1, 2), job.options(expires=3600).fire_at(3600, 1, 2), job.options(unique="k").fire(3, 4)]
    job.options(priority="high").fire(1, 2)
    bad = queue.event(fail, routes="foo", retries=1, backoff=0.1).fire()
    long = queue.event(sleep, routes="bar").fire(60)
    many = job.fire_many([(n, n) for n in range(100)])
    with WorkerPool(queue, ["foo", "bar"], in_process=True, log=io.StringIO()):
        assert run.wait(LIMIT) == 3
        assert many.wait(LIMIT) == [2 * n for n in range(100)]
        until(lambda: bad.state == "failed")
        until(lambda: long.state == "running")
        with SkunkQueue("demo", queue.url, queue_type="broadcast") as broadcast:
            told = broadcast.event(add, routes="foo").fire(1, 2)
            assert told.wait(LIMIT) == [3]  # type: ignore[comparison-overlap]
        with pytest.raises(WaitTimeout):
            later[0].wait(0.1)
        assert long.cancel()
        with pytest.raises(JobCancelled):
            long.wait(LIMIT)
        queue.store.reopen([bad.id], now=queue.now())
        assert later[0].cancel()


def test_no_key_of_any_kind_is_left_after_a_full_life(server: Any, queue: SkunkQueue) -> None:
    with Monitor(server) as monitor:
        live(queue, server)
        for delay in (1, 2 * DAY, 9 * DAY, 9 * DAY):
            queue.store.purge(now=queue.now() + delay, limit=100_000)
            queue.cancel_all(run.id for run in queue.runs(limit=None))

    assert left_in(server) == {}
    touched = {
        found for words in monitor.commands for word in words for found in re.findall(r"skunk:\{[^}]*\}:(\w+)", word)
    }
    assert kinds() - touched <= {"gone"}, "not every kind of key was used"
    assert queue.store.purge(now=queue.now() + 9 * DAY) == 0


def test_the_last_pool_takes_its_workers_along(server: Any, queue: SkunkQueue) -> None:
    for _ in range(2):
        with (
            WorkerPool(queue, ["foo"], in_process=True, log=io.StringIO()),
            WorkerPool(queue, ["foo", "bar"], in_process=True, log=io.StringIO()),
        ):
            until(lambda: len(queue.store.workers(now=queue.now())) == 3)

    assert left_in(server) == {}


def test_what_killed_pools_leave_goes_by_itself(
    server: Any, queue: SkunkQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may ever come to clean up after them."""
    with PoolProcess(tmp_path, server.url, "foo", lease=2) as pool:
        pool.up()
        until(lambda: queue.store.workers(now=queue.now()))
        worker = next(iter(queue.store.workers(now=queue.now())))
        os.kill(pool.pid, signal.SIGKILL)
        queue.store.tell(worker, "cancel nothing")
        queue.store.tell("nobody", "cancel nothing")

    left = left_in(server)
    assert {key.decode().rpartition("}:")[2].partition(":")[0] for key in left} <= OF_THE_STORE
    assert all(0 < ttl <= 3_700_000 for ttl in left.values()), left


@pytest.mark.parametrize("order", [*itertools.permutations(("beat", "wait", "tell"))], ids="-".join)
def test_what_a_worker_leaves_that_dies_between_two_beats_goes_by_itself(
    server: Any, queue: SkunkQueue, order: tuple[str, ...]
) -> None:
    """In whatever order it says that it is there, and where it waits for orders."""
    store, now = queue.store, queue.now()
    steps = {
        "beat": lambda: store.beat("worker-1", "about", until=now + 9),
        "wait": lambda: store.wait([WorkKey("demo", "foo"), WorkerKey("worker-1")], 0.1),
        "tell": lambda: store.tell("worker-1", "order"),
    }

    for step in order:
        steps[step]()

        left = left_in(server)
        assert all(0 < ttl <= 3_700_000 for ttl in left.values()), left


def test_a_long_lease_outlasts_the_time_that_is_kept(server: Any, queue: SkunkQueue) -> None:
    store = queue.store
    now = queue.now()
    store.beat("worker-1", "about", until=now + 9 * DAY)
    store.beat("worker-2", "about", until=now + 9)

    with server.client() as client:
        assert all(client.ttl(f"skunk:{{@}}:{name}") > 9 * DAY for name in ("until", "about"))
