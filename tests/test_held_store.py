"""A store that others hold up (a stopped writer, a stopped server): pools can be stopped, and a fire does not wait."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pools import LIMIT, PoolProcess, alive, children, marks, until

from skunkqueue import SkunkQueue, StoreAway

pytestmark = pytest.mark.alone

LEASE = 3.0
SLACK = 4.0
"""Seconds beyond a limit that a loaded machine may take."""

Hold = Callable[[], AbstractContextManager[object]]

STOPPED = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextmanager
def transaction_of_another(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    with open(f"{path}-turn", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def stopped_process(path: Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
    finally:
        process.kill()
        process.communicate()


@contextmanager
def stopped_server(server: Any) -> Iterator[None]:
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


ON_SQLITE = {"a transaction": transaction_of_another, "the lock file": lock_file, "a stopped process": stopped_process}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("a transaction", "the lock file")]


@pytest.fixture(params=["a stopped process", "redis", *SLOW])
def held(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Hold]]:
    """A store's URL, and what holds the store up as long as it is entered."""
    if request.param in ON_SQLITE:
        path = tmp_path / "runs.db"
        url, hold = f"sqlite:///{path}", lambda: ON_SQLITE[request.param](path)
        yield url, hold
        return
    from redis_server import RedisServer

    with RedisServer() as server:
        yield server.url, lambda: stopped_server(server)


@pytest.fixture
def jobs(held: tuple[str, Hold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("SKUNKQUEUE_URL", held[0])
    monkeypatch.setenv("MARKS", str(tmp_path))
    module = importlib.reload(importlib.import_module("robust_jobs"))
    yield module
    module.queue.close()


def idle(jobs: Any, folder: Path) -> None:
    assert jobs.add.fire(1, 2).wait(LIMIT) == 3
    time.sleep(0.5)  # so that it waits for work


def at_work(jobs: Any, folder: Path) -> None:
    jobs.marked.fire("short", 1.0)
    until(lambda: marks(folder, "short"))


@contextmanager
def nothing_left(pool: PoolProcess) -> Iterator[None]:
    """What the pool started is gone when it has ended."""
    started = [pool.pid, *children(pool.pid), *pool.workers()]
    yield
    pool.ends(LIMIT)
    until(lambda: not any(map(alive, started)), 2.0, "processes of the pool are left")


@pytest.mark.parametrize("doing", [idle, at_work])
def test_a_gentle_stop_waits_at_most_a_lease_for_a_store_that_is_held_up(held, jobs, tmp_path, doing):  # type: ignore[no-untyped-def]
    url, hold = held
    with PoolProcess(tmp_path, url, "foo", "bar", lease=LEASE) as pool:
        doing(jobs, tmp_path)
        with hold(), nothing_left(pool):
            began = time.monotonic()
            pool.send(signal.SIGTERM)
            pool.ends(LIMIT)
            assert time.monotonic() - began < 1.0 + LEASE + SLACK


@pytest.mark.parametrize("doing", [idle, at_work])
def test_a_third_signal_ends_a_pool_at_once_whatever_its_threads_wait_for(held, jobs, tmp_path, doing):  # type: ignore[no-untyped-def]
    url, hold = held
    with PoolProcess(tmp_path, url, "foo", "bar", lease=120) as pool:
        doing(jobs, tmp_path)
        with hold(), nothing_left(pool):
            time.sleep(1.5)  # its threads are at it by now
            for _ in range(3):
                with contextlib.suppress(ProcessLookupError):
                    pool.send(signal.SIGTERM)
                time.sleep(0.3)
            began = time.monotonic()
            pool.ends(LIMIT)
            assert time.monotonic() - began < 2.0 + SLACK


def test_a_pool_whose_engine_hangs_ends_with_the_third_signal(tmp_path):  # type: ignore[no-untyped-def]
    hanging = (
        "import threading\nfrom skunkqueue.worker.pool import engine\n"
        "engine.Engine._turn = lambda self: print('hangs', flush=True) or threading.Event().wait()\n"
    )
    with PoolProcess(tmp_path, f"sqlite:///{tmp_path}/runs.db", "foo", prelude=hanging) as pool:
        pool.said("hangs")
        with nothing_left(pool):
            for _ in range(3):
                pool.send(signal.SIGTERM)
                time.sleep(0.2)
            began = time.monotonic()
            pool.ends(LIMIT)
            assert time.monotonic() - began < 3.0 + SLACK


def test_a_pool_that_starts_while_its_store_is_held_up_can_be_stopped(held, tmp_path):  # type: ignore[no-untyped-def]
    url, hold = held
    with SkunkQueue("demo", url) as queue:
        queue.count()
    with hold(), PoolProcess(tmp_path, url, "foo", lease=LEASE) as pool:
        pool.said("serves foo")
        with nothing_left(pool):
            began = time.monotonic()
            pool.send(signal.SIGTERM)
            pool.ends(LIMIT)
            assert time.monotonic() - began < LEASE + SLACK


def test_a_pool_goes_on_when_its_store_is_free_again(held, jobs, tmp_path):  # type: ignore[no-untyped-def]
    url, hold = held
    with PoolProcess(tmp_path, url, "foo", lease=LEASE) as pool:
        at_work(jobs, tmp_path)
        with hold():
            pool.said("the store is away")
        pool.said("the store is back")

        assert jobs.add.fire(1, 2).wait(LIMIT) == 3
        assert pool.stop() == 0


def test_a_fire_waits_a_few_seconds_then_raises_what_to_do(held, jobs):  # type: ignore[no-untyped-def]
    _, hold = held
    jobs.add.fire(1, 2)
    with hold():
        began = time.monotonic()
        with pytest.raises(StoreAway) as found:
            jobs.add.fire(3, 4)
        assert time.monotonic() - began < 5.0 + SLACK
    (run,) = found.value.runs

    run.fire()

    assert run.state == "queued"


def test_the_first_fire_of_a_process_waits_no_longer(held, jobs):  # type: ignore[no-untyped-def]
    """It asks for the store's time before it puts."""
    url, hold = held
    jobs.add.fire(1, 2)
    jobs.queue.close()
    with SkunkQueue("demo", url) as queue:
        job = queue.event(print)
        with hold():
            began = time.monotonic()
            with pytest.raises(StoreAway):
                job.fire(3)
            assert time.monotonic() - began < 5.0 + SLACK
        assert job.fire(3).state == "queued"


def test_many_threads_that_fire_wait_side_by_side_not_one_after_the_other(held, jobs):  # type: ignore[no-untyped-def]
    _, hold = held
    jobs.add.fire(1, 2)
    took: list[float] = []

    def fire() -> None:
        began = time.monotonic()
        with contextlib.suppress(StoreAway):
            jobs.add.fire(3, 4)
        took.append(time.monotonic() - began)

    with hold():
        threads = [threading.Thread(target=fire) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
    assert len(took) == 5
    assert max(took) < 5.0 + SLACK


def test_the_url_says_how_long_a_call_waits(tmp_path):  # type: ignore[no-untyped-def]
    path = tmp_path / "runs.db"
    with SkunkQueue("demo", f"sqlite:///{path}?timeout=0.2") as queue:
        job = queue.event(print)
        job.fire()
        with transaction_of_another(path):
            began = time.monotonic()
            with pytest.raises(StoreAway, match="was held by another writer for too long"):
                job.fire()
            assert 0.2 <= time.monotonic() - began < 0.2 + SLACK


def test_closing_a_store_waits_for_no_thread_that_waits(tmp_path):  # type: ignore[no-untyped-def]
    path = tmp_path / "runs.db"
    queue = SkunkQueue("demo", f"sqlite:///{path}?timeout=60")
    job = queue.event(print)
    job.fire()
    with transaction_of_another(path):
        thread = threading.Thread(target=job.fire)
        thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        queue.close()
        assert time.monotonic() - began < 3.0
    thread.join(LIMIT)
    assert queue.count()["queued"] == 2
    open_files = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert open_files.count(str(path)) <= 2  # the ones that count has opened; the thread has closed what it used
    queue.close()
