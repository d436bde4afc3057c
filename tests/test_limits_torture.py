"""Never more than the limit, and nothing lost or stuck, whatever is killed, stopped and continued.

Short in the suite. For long: ``SKUNKQUEUE_TORTURE=600 python -m pytest tests/test_limits_torture.py`` (seconds), with
``SKUNKQUEUE_TORTURE_SEED`` to repeat one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from typing import NamedTuple

import pytest
from pools import PoolProcess, alive, suspend, until
from test_worker_faults import store_url  # noqa: F401

SECONDS = float(os.environ.get("SKUNKQUEUE_TORTURE", "6"))
SEED = int(os.environ.get("SKUNKQUEUE_TORTURE_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
LEASE = 1.5
POOLS = 3
KEYS = {"one": range(3), "three": range(10, 13), "rate": range(20, 22), "fair": range(30, 33), "plain": range(40, 41)}
AT_ONCE = {"one": 1, "three": 3}
PER, MOST = 3.0, 60


class Marks(NamedTuple):
    """The starts and ends of the runs of each key, as intervals."""

    intervals: dict
    starts: dict


class Watch(threading.Thread):
    """Notes when each process that leaves marks was last seen alive."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder = folder
        self.seen = {}
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.003):
            for file in self.folder.glob("marks-*"):
                pid = int(file.name.split("-")[1])
                now = time.monotonic()
                if alive(pid):
                    self.seen[pid] = now


def read_marks(folder, seen, mark):
    """What was marked. A run that has no end went on for as long as its process was seen alive, or to its thread's next
    run."""
    intervals, starts = defaultdict(list), defaultdict(list)
    for file in folder.glob("marks-*"):
        pid = int(file.name.split("-")[1])
        data, began = file.read_bytes(), {}
        for key, at, what in mark.iter_unpack(data[: len(data) // mark.size * mark.size]):
            if what > 0:
                for other, then in began.items():  # a thread executes one at a time: that one was interrupted
                    intervals[other].append((then, at))
                began = {key: at}
                starts[key].append(at)
            else:
                intervals[key].append((began.pop(key), at))
        for key, at in began.items():
            intervals[key].append((at, max(at, seen.get(pid, at))))
    return Marks(intervals, starts)


def most_at_once(intervals):
    """How many went on at the same time, at most."""
    changes = sorted([(at, 1) for at, _ in intervals] + [(at, -1) for _, at in intervals])
    going = most = 0
    for _, change in changes:
        going += change
        most = max(most, going)
    return most


def most_within(starts, seconds):
    """How many starts there were within so many seconds, at most."""
    starts, first, most = sorted(starts), 0, 0
    for n, at in enumerate(starts):
        while starts[first] <= at - seconds:
            first += 1
        most = max(most, n + 1 - first)
    return most


class Producer(threading.Thread):
    """Fires runs of every kind, as long as not many are open."""

    def __init__(self, jobs, chance):
        super().__init__(daemon=True)
        self.jobs, self.chance = jobs, chance
        self.fired = defaultdict(int)
        self.over = threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.over.wait(self.chance.uniform(0.05, 0.3)):
                if not is_more_open(self.jobs.queue, 300):
                    self._fire()
        except BaseException as error:
            self.error = error

    def _fire(self):
        for kind, keys in KEYS.items():
            seconds = self.chance.choice([0.001, 0.02, 0.1])
            calls = [(self.chance.choice(keys), seconds) for _ in range(self.chance.choice([1, 20]))]
            self.fired[kind] += len(getattr(self.jobs, kind).fire_many(calls))


def is_more_open(queue, number):
    count = queue.count()
    return count["queued"] + count["running"] > number


class Torment:
    """Pools that are killed, stopped and continued; a pool and its workers are not stopped both at the same time."""

    def __init__(self, folder, url, chance):
        self.folder, self.url, self.chance = folder, url, chance
        self.ever, self.now, self.frozen = [], [], {}

    def fill_up(self):
        self.now = [pool for pool in self.now if pool.process.poll() is None]
        while len(self.now) < POOLS:
            routes = ["foo"] * self.chance.choice([1, 2])
            places = self.chance.choice([1, 1, 4])
            pool = PoolProcess(self.folder, self.url, *routes, lease=LEASE, kill_after=1, concurrency=places)
            self.now.append(pool)
            self.ever.append(self.now[-1])

    def blow(self):
        pool = self.chance.choice(self.now)
        blow = self.chance.choice(["KILL", "TERM", "INT", "worker", "STOP", "STOP", "STOP worker"])
        if pool in self.frozen.values():
            return
        if blow in ("worker", "STOP worker"):
            workers = [pid for pid in pool.workers() if alive(pid) and os.getpgid(pid) == pid]
            if workers:
                self.send(self.chance.choice(workers), blow != "worker", pool)
        elif blow == "STOP":
            self.send(pool.pid, True, pool)
        else:
            with contextlib.suppress(ProcessLookupError):
                pool.send(getattr(signal, f"SIG{blow}"))

    def send(self, pid, stops, pool):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP if stops else signal.SIGKILL)
            if stops:
                self.frozen[pid, time.monotonic() + self.chance.uniform(0.1, 2.5 * LEASE)] = pool

    def thaw(self, all=False):
        for pid, when in list(self.frozen):
            if all or time.monotonic() > when:
                del self.frozen[pid, when]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def end(self):
        self.thaw(all=True)
        for pool in self.now:
            with contextlib.suppress(ProcessLookupError):
                pool.send(signal.SIGTERM)
        for pool in self.now:
            pool.ends(60)


@pytest.fixture
def jobs(store_url, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SKUNKQUEUE_URL", store_url)
    monkeypatch.setenv("MARKS", str(tmp_path))
    module = sys.modules.get("limited_jobs")
    module = importlib.reload(module) if module else importlib.import_module("limited_jobs")
    yield module
    module.queue.close()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_never_more_than_the_limit_and_nothing_stuck_whatever_is_killed_and_stopped(jobs, store_url, tmp_path):  # noqa: F811
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    watch, torment, producer = (
        Watch(tmp_path),
        Torment(tmp_path, store_url, chance),
        Producer(jobs, random.Random(SEED)),
    )
    watch.start()
    producer.start()
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            torment.fill_up()
            time.sleep(chance.uniform(0.05, 0.4))
            torment.thaw()
            torment.blow()
    finally:
        torment.thaw(all=True)
        producer.over.set()
        producer.join(60)
        torment.end()
    assert producer.error is None, producer.error
    fired = producer.fired
    with PoolProcess(tmp_path, store_url, "foo", "foo", "foo", lease=LEASE):
        until(lambda: not is_more_open(jobs.queue, 0), 90, "some are stuck")
        until(lambda: not _turns(jobs.queue), 20, f"turns are left: {_turns(jobs.queue)}")
        watch.over.set()

    count = jobs.queue.count()
    marks = read_marks(tmp_path, watch.seen, jobs.MARK)
    print(dict(fired), dict(count), {key: len(starts) for key, starts in sorted(marks.starts.items())})
    assert count["succeeded"] == sum(fired.values()), count
    for kind, most in AT_ONCE.items():
        for key in KEYS[kind]:
            assert most_at_once(marks.intervals[key]) <= most, (kind, key)
    for key in KEYS["rate"]:
        assert most_within(marks.starts[key], PER) <= MOST, key


def _turns(queue):
    counts = queue.store.count()
    return {key: n for key, n in counts.items() if "~turns" in key[1] and key[2] in ("queued", "running")}


def test_the_worker_of_a_suspended_pool_ends_before_another_may_execute_its_run(jobs, store_url, tmp_path):  # noqa: F811
    watch = Watch(tmp_path)
    watch.start()
    with PoolProcess(tmp_path, store_url, "foo", lease=LEASE) as first:
        run = jobs.one.fire(1, 4.0)
        until(lambda: list(tmp_path.glob("marks-*")), message="it did not start")
        suspend(first, store_url)
        with PoolProcess(tmp_path, store_url, "foo", lease=LEASE):
            assert run.wait(60) == 1
            first.send(signal.SIGCONT)
            until(lambda: "died (exit code 213)" in first.log())
            assert jobs.one.fire(1, 0.0).wait(30) == 1
        watch.over.set()

    marks = read_marks(tmp_path, watch.seen, jobs.MARK)
    assert len(marks.starts[1]) == 3
    assert most_at_once(marks.intervals[1]) == 1
    assert run.attempts == 1
