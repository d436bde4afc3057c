"""Total-queue check: whatever is killed or frozen when, accepted = finished + waiting, and nothing is written twice.

Short in the suite. For long: ``SKUNKQUEUE_TORTURE=600 python -m pytest tests/test_torture.py`` (seconds), with
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
from collections import Counter

import pytest
from pools import PoolProcess, alive, traced, until
from test_worker_faults import store_url  # noqa: F401
from troubled import Said

from skunkqueue import WorkerPool, codec

SECONDS = float(os.environ.get("SKUNKQUEUE_TORTURE", "6"))
SEED = int(os.environ.get("SKUNKQUEUE_TORTURE_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
POOLS = 3
LEASE = 1.5
AT_A_TIME = 2000
"""Runs waiting, at most: so that the end comes soon after the last blow."""


class Producer(threading.Thread):
    """Fires runs of every kind, and cancels some; remembers what was accepted."""

    def __init__(self, jobs, chance):
        super().__init__(daemon=True)
        self.jobs = jobs
        self.chance = chance
        self.accepted = {}  # id -> (kind, number)
        self.cancelled = set()
        self.over = threading.Event()
        self.error = None
        self._number = 0

    def run(self):
        try:
            while not self.over.wait(self.chance.uniform(0.005, 0.05)):
                count = self.jobs.queue.count()
                if count.get("queued", 0) + count.get("running", 0) < AT_A_TIME:
                    self._fire()
        except BaseException as error:
            self.error = error

    def _fire(self):
        kind = self.chance.choice(["quick", "slow", "waiting", "once", "flaky", "overdue"])
        job = getattr(self.jobs, kind)
        first = self._number
        self._number += self.chance.choice([1, 1, 1, 5, 60] if kind == "quick" else [1, 1, 5])
        numbers = range(first, self._number)
        if len(numbers) == 1 and self.chance.random() < 0.3:
            runs = [job.fire_at(self.chance.uniform(0, 1), first)]
        else:
            runs = job.fire_many([(number,) for number in numbers])
        for run, number in zip(runs, numbers, strict=True):
            self.accepted[run.id] = kind, number
        if self.chance.random() < 0.1 and runs[0].cancel():
            self.cancelled.add(runs[0].id)


class Pools:
    """Some pools that are maltreated."""

    def __init__(self, folder, url, chance):
        self.folder, self.url, self.chance = folder, url, chance
        self.ever, self.now, self.frozen = [], [], {}

    def fill_up(self):
        self.now = [pool for pool in self.now if pool.process.poll() is None]
        while len(self.now) < POOLS:
            routes = self.chance.choice([("foo", "bar"), ("bar", "foo", "foo")])
            options = {"concurrency": self.chance.choice([1, 1, 3]), "max_runs": self.chance.choice([None, None, 20])}
            self.now.append(PoolProcess(self.folder, self.url, *routes, lease=LEASE, kill_after=1, **options))
            self.ever.append(self.now[-1])

    def blow(self):
        """One of the things that happen to pools."""
        pool = self.chance.choice(self.now)
        blow = self.chance.choice(["KILL", "TERM", "INT", "worker", "worker", "worker", "STOP", "STOP worker"])
        if blow == "worker":
            self._kill_worker(pool, signal.SIGKILL)
        elif blow == "STOP worker":
            self._kill_worker(pool, signal.SIGSTOP)
        else:
            with contextlib.suppress(ProcessLookupError):
                pool.send(getattr(signal, f"SIG{blow}"))
                if blow == "STOP":
                    self.frozen[pool.pid] = time.monotonic() + self.chance.uniform(0.1, 2 * LEASE)

    def _kill_worker(self, pool, number):
        workers = [pid for pid in pool.workers() if alive(pid) and os.getpgid(pid) == pid]
        if workers:
            pid = self.chance.choice(workers)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if number == signal.SIGSTOP:
                self.frozen[pid] = time.monotonic() + self.chance.uniform(0.1, 2 * LEASE)

    def thaw(self, all=False):
        for pid, when in list(self.frozen.items()):
            if all or time.monotonic() > when:
                del self.frozen[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def end(self):
        self.thaw(all=True)
        for pool in self.now:
            with contextlib.suppress(ProcessLookupError):
                pool.send(signal.SIGTERM)
        for pool in self.now:
            pool.ends(60)


def torment(jobs, folder, url, seconds, chance):
    """Give blows for so long; gives what was accepted, and the pools there were."""
    producer, pools = Producer(jobs, random.Random(chance.random())), Pools(folder, url, chance)
    producer.start()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            pools.fill_up()
            time.sleep(chance.uniform(0.1, 0.5))
            pools.thaw()
            pools.blow()
    finally:
        producer.over.set()
        producer.join(60)
        pools.end()
    assert producer.error is None, producer.error
    return producer, pools


def finish(jobs, url):
    """Let one healthy pool do what is left; gives the records of all."""
    log = Said()

    def left():
        with WorkerPool("demo", ["foo", "foo", "bar", "bar"], url, lease=LEASE, log=log) as pool:
            pool.run_until_idle()
        count = jobs.queue.count()
        return not count.get("queued") and not count.get("running")

    until(left, 120, "not all came to an end")


def check(jobs, producer, started):
    records = jobs.queue.store.get(producer.accepted)
    lost = producer.accepted.keys() - records.keys()
    assert not lost, f"lost: {sorted(lost)[:5]}"
    states = Counter(str(record.state) for record in records.values())
    assert states == {state: n for state, n in jobs.queue.count().items() if n}
    for id, (kind, number) in producer.accepted.items():
        record, times = records[id], started[number]
        about = f"{kind} {number} ({id}) is {record.state}, {record.error}, started {times} times"
        if record.state == "succeeded":
            assert codec.decode_value(record.value, codec.default_keys) == number, about
            assert times >= 1, about
        elif record.state == "failed":
            assert "poison" in record.error or (kind == "once"), about
        else:
            assert record.state == "cancelled", about
            assert id in producer.cancelled, about
        if kind == "once":
            assert times <= 1, about
        assert not (id in producer.cancelled and record.state != "cancelled"), about
    return states


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_nothing_accepted_is_lost_or_written_twice_whatever_is_killed(store_url, tmp_path, monkeypatch):  # noqa: F811
    print(f"seed {SEED}")  # so that it can be repeated
    url = store_url
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    monkeypatch.setenv("MARKS", str(tmp_path))
    jobs = sys.modules.get("torture_jobs")
    jobs = importlib.reload(jobs) if jobs else importlib.import_module("torture_jobs")
    jobs.queue.count()

    producer, pools = torment(jobs, tmp_path, url, SECONDS, random.Random(SEED))
    finish(jobs, url)
    states = check(jobs, producer, traced(tmp_path))

    print(dict(states), f"{len(pools.ever)} pools")
    for pool in pools.ever:
        log = pool.log()
        assert "Traceback" not in log or log.endswith("KeyboardInterrupt\n"), log[-3000:]  # Ctrl-C as it started
        assert "database is locked" not in log
    workers = [pid for pool in pools.ever for pid in pool.workers()]
    until(lambda: not any(alive(pid) for pid in workers), 10, "workers were left behind")
    jobs.queue.close()
