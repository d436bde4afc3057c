"""A store that is full, gone, slow or flaky: a pool hears its workers and signals, waits at rest, and goes on."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import re
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from pools import LIMIT, PoolProcess, marks, until
from test_worker_faults import jobs, pool  # noqa: F401
from troubled import Troubled, make_pool

from skunkqueue.errors import StoreAway, StoreRefused

pytestmark = pytest.mark.alone


@pytest.fixture
def store_url(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"


def spent(*pids):
    """Seconds of processor that these processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def assert_at_rest(*pids, seconds=4.0):
    before = spent(*pids)
    time.sleep(seconds)
    used = spent(*pids) - before
    assert used < 0.2 * seconds, f"{used:.2f} s of processor in {seconds:g} s of waiting"


class Full:
    """Lets a process write no file beyond this size, as a full disk would, until it is over."""

    def __init__(self, pid, size):
        self.pid, self.size = pid, size

    def __enter__(self):
        _, self.most = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (self.size, self.most))

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (self.most, self.most))


def test_a_pool_whose_disk_is_full_waits_at_rest_and_goes_on_when_there_is_room(jobs, pool, tmp_path):  # noqa: F811
    with pool("foo", "foo") as started:
        started.up()
        assert jobs.add.fire(1, 1).wait(LIMIT) == 2
        with Full(started.pid, 30_000):
            runs = [jobs.marked.fire(f"run{i}", 0.0, i) for i in range(50)]
            started.said("the store is away")
            assert_at_rest(started.pid, *started.up().workers())
        started.said("the store is back")
        assert [run.wait(LIMIT) for run in runs] == list(range(50))
        assert [marks(tmp_path, f"run{i}") for i in range(50)] == [1] * 50
        assert started.stop() == 0
    assert started.log().count("the store is away") < 5


def test_a_pool_whose_folder_is_gone_for_a_while_waits_at_rest_and_goes_on(tmp_path, monkeypatch):
    there, away = tmp_path / "there", tmp_path / "away"
    there.mkdir()
    monkeypatch.setenv("SKUNKQUEUE_URL", f"sqlite:///{there}/runs.db")
    module = importlib.reload(importlib.import_module("robust_jobs"))
    runs = [module.marked.fire(f"run{i}", 0.5, i) for i in range(5)]
    with PoolProcess(tmp_path, os.environ["SKUNKQUEUE_URL"], "foo") as started:
        until(lambda: marks(tmp_path, "run1"))
        os.rename(there, away)
        started.said("the store is away")
        assert_at_rest(started.pid, *started.up().workers())
        assert not there.exists()  # nobody begins anew in its place
        os.rename(away, there)
        started.said("the store is back")

        assert [run.wait(LIMIT) for run in runs] == list(range(5))
        assert [marks(tmp_path, f"run{i}") for i in range(5)] == [1] * 5
        assert started.stop() == 0
    module.queue.close()


def test_a_pool_that_starts_before_its_store_is_there_waits_for_it(jobs, tmp_path):  # noqa: F811
    there = tmp_path / "later"
    with PoolProcess(tmp_path, f"sqlite:///{there}/runs.db", "foo") as started:
        started.said("the store is away")
        assert_at_rest(started.pid, seconds=2.0)
        there.mkdir()
        started.said("the store is back")
        assert started.stop() == 0


def test_a_pool_may_be_stopped_while_its_store_is_away(jobs, pool, tmp_path):  # noqa: F811
    started = pool("foo", lease=2)
    run = jobs.sleep_long.fire("long", 60)
    until(lambda: marks(tmp_path, "long"))
    with Full(started.pid, 30_000):
        began = time.monotonic()
        assert started.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 2 + 10
    assert "gave up on the store" in started.log()
    assert run.state == "running"  # nobody heard of it; its lease runs out
    with pool("foo", lease=2):
        until(lambda: marks(tmp_path, "long") == 2)
        run.cancel()


def test_a_third_signal_does_not_wait_for_the_store(jobs, pool, tmp_path):  # noqa: F811
    started = pool("foo", lease=120)
    jobs.sleep_long.fire("long", 60)
    until(lambda: marks(tmp_path, "long"))
    with Full(started.pid, 30_000):
        began = time.monotonic()
        started.send(signal.SIGINT)
        until(lambda: "stopped" in started.log() or "handed back" in started.log())
        time.sleep(1)
        started.send(signal.SIGINT)
        time.sleep(0.5)
        started.send(signal.SIGINT)
        assert started.ends() == 0
        assert time.monotonic() - began < 20  # the lease would be two minutes


# -- a store that hangs ----------------------------------------------------------------------------------------------


class Hang:
    """Holds up every call to a store from now on, until it is let go."""

    def __init__(self, store):
        self.store = store
        self.over = threading.Event()
        self.held = threading.Event()

    def __enter__(self):
        self.store.before = self._hang
        return self

    def __exit__(self, *_):
        self.store.before = lambda *_: None
        self.over.set()

    def _hang(self, verb, *_):
        if verb in ("exchange", "extend", "beat", "purge", "offset"):
            self.held.set()
            self.over.wait(LIMIT)


def took_of(started, run):
    """The milliseconds that the lines of a run name."""
    lines = [line for line in started.log.getvalue().splitlines() if run.id in line]
    return [float(took) for line in lines for took in re.findall(r" after ([\d.]+) ms", line)]


def test_while_a_store_hangs_timeouts_are_enforced_and_the_pool_is_at_rest(jobs, tmp_path):  # noqa: F811
    store = Troubled(jobs.queue.store)
    with make_pool(store, lease=3) as started:
        run = jobs.sleep_long.options(timeout=1.5).fire("long", 60)
        until(lambda: marks(tmp_path, "long"))
        with Hang(store) as hang:
            assert hang.held.wait(LIMIT)
            before = time.process_time()
            time.sleep(5)
            assert time.process_time() - before < 1.5
            assert run.state == "running"
        until(lambda: run.state == "failed")
        assert "did not end within 1.5 s" in run.error
        took = float(
            until(lambda: started.log.getvalue().partition(f"failed {run.id} ")[2].partition(" after ")[2]).split()[0]
        )
        assert took < 4000  # it was interrupted in time, not when the store was back
        assert jobs.add.fire(1, 1).wait(LIMIT) == 2


def test_while_a_store_hangs_a_gentle_stop_is_answered(jobs, tmp_path):  # noqa: F811
    store = Troubled(jobs.queue.store)
    started = make_pool(store, lease=1)
    started.start()
    jobs.add.fire(1, 1).wait(LIMIT)
    with Hang(store) as hang:
        assert hang.held.wait(LIMIT)
        began = time.monotonic()
        started.shutdown()
        until(lambda: not started.running)
        assert time.monotonic() - began < 15
    assert "pool stops" in started.log.getvalue()


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_a_store_that_fails_and_loses_replies_at_random_loses_and_doubles_nothing(jobs, tmp_path, seed):  # noqa: F811
    chance = random.Random(seed)
    store = Troubled(jobs.queue.store)

    def trouble(verb, *_):
        if verb in ("exchange", "extend", "beat", "purge", "wait", "offset"):
            dice = chance.random()
            if dice < 0.15:
                raise StoreAway("gone for a moment")
            if dice < 0.2:
                raise StoreRefused("full for a moment")
            if dice < 0.22:
                raise ValueError("a fault in a driver")
            if dice < 0.4:
                time.sleep(0.05)

    store.before = store.after = trouble
    runs = [jobs.marked.fire(f"run{i}", 0.0, i) for i in range(150)]
    with make_pool(store, "foo", "foo"):
        until(lambda: all(run.state == "succeeded" for run in runs), 60)
        store.before = store.after = lambda *_: None

    assert [marks(tmp_path, f"run{i}") for i in range(150)] == [1] * 150
    assert [run.result for run in runs] == list(range(150))
