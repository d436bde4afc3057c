"""Random schedules of ordinary use, with every net off: nobody looks by himself from time to time.

A scene is a store, some pools, and bursts of random steps: fires now and later, cancels, retries, deaths and stops.
After each burst nothing else happens until all of its runs have ended and all who wait for them were told; a wake-up
that is lost would hold that up for two minutes, so the limit need not know how fast the machine is.

By hand, for as long as wanted: ``python tests/ordinary.py SECONDS [SEED] [STORE]``. It prints the seed of each scene,
with which ``python tests/ordinary.py 0 SEED STORE`` plays that scene again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from pools import PoolProcess, alive, until
from troubled import Said

from skunkqueue import JobCancelled, JobFailed, Run, WorkerPool

NEVER = 120.0
LIMIT = 15.0
"""Seconds that no burst takes: far beyond a slow machine, far below NEVER."""

NETS = {
    "skunkqueue.worker.pool.fetcher": ("LOOK_ANYWAY", "LATE"),
    "skunkqueue.worker.pool.exchanger": ("PATIENCE",),
    "skunkqueue.worker.pool.engine": ("ORDERS_WAIT",),
    "skunkqueue.worker.pool.heartbeat": ("CLEAN_EVERY",),
    "skunkqueue.persistence.sqlite": ("LOOK", "LOOK_ALONE"),
    "skunkqueue.persistence.redis.channel": ("LATE",),
    "skunkqueue.persistence.fdb.notify": ("LOOK",),
    "skunkqueue.waiting": ("GLANCE",),
    "skunkqueue.watcher": ("LONGEST",),
}
"""What looks by itself, by module. The beat is a third of the lease, and so are looks for ended leases."""
LEASE = 3 * NEVER

NETS_OFF = "import importlib\n" + "".join(
    f"importlib.import_module({module!r}).{name} = {NEVER}\n" for module, names in NETS.items() for name in names
)
"""The same for a pool in a process of its own."""


@contextlib.contextmanager
def nets_off():
    before = {
        (module, name): getattr(importlib.import_module(module), name) for module in NETS for name in NETS[module]
    }
    for module, name in before:
        setattr(importlib.import_module(module), name, NEVER)
    try:
        yield
    finally:
        for (module, name), value in before.items():
            setattr(importlib.import_module(module), name, value)


class Pool:
    """Some workers: on threads of this process, or in processes of their own."""

    def __init__(self, scene, routes, concurrency, in_process):
        self.routes, self.concurrency = routes, concurrency
        self.pool = self.process = None
        if in_process:
            self.log = Said()
            self.pool = WorkerPool(
                scene.jobs.queue, routes, in_process=True, lease=LEASE, concurrency=concurrency, log=self.log
            )
            self.pool.start()
            self.name = self.pool.name
        else:
            options = {"lease": LEASE, "concurrency": concurrency, "imports": ["ordinary_jobs"]}
            self.process = PoolProcess(scene.folder, scene.url, *routes, prelude=NETS_OFF, **options)

    def up(self):
        if self.pool is not None:
            until(lambda: all(slot.ready for slot in self.pool._engine._slots))
        else:
            until(lambda: len(self.process.workers()) >= len(self.routes), message=self.process.log())
            self.name = f"-{self.process.pid}-"
        return self

    def stop(self, how):
        """Stop it, or kill it; returns at once."""
        if self.process is not None:
            self.process.send(how)
        elif how == signal.SIGINT:
            self.pool.die()
        else:
            self.pool.shutdown()

    def ended(self):
        if self.process is not None:
            self.process.ends()
            self.process.__exit__()
        else:
            self.pool.join()

    def text(self):
        return self.process.log() if self.process is not None else self.log.getvalue()


class Scene:
    """One store, its pools, and what was fired."""

    def __init__(self, store, seed, url, folder):
        self.seed, self.url, self.folder, self.store = seed, url, Path(folder), store
        self.random = random.Random(f"{store} {seed}")
        os.environ["SKUNKQUEUE_URL"], os.environ["MARKS"] = url, str(folder)
        import ordinary_jobs

        self.jobs = importlib.reload(ordinary_jobs)
        self.pools, self.holds, self.told, self.fired = [], [], {}, {}
        self.dead = []  # names of pools that were killed: what they held stays theirs until the lease ends
        self.steps, self.waiters = [], []
        self.loop = asyncio.new_event_loop()
        self.looping = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.looping.start()

    # what there is

    def open(self):
        in_process = self.store == "memory" or self.random.random() < 0.5
        self.in_process = in_process
        self.letters = "abcd"[: self.random.randint(1, 4)]
        shapes = [self._shape() for _ in range(self.random.choice([0, 1, 2]))]
        for routes in (list(self.letters), *shapes):  # all routes are served
            self._start(routes)
        for pool in self.pools:
            pool.up()
        print(
            f"{self.store} seed {self.seed}: {[(p.routes, p.concurrency) for p in self.pools]} {in_process=}",
            flush=True,
        )

    def _shape(self):
        return [self.random.choice(self.letters) for _ in range(self.random.randint(1, 3))]

    def _start(self, routes):
        self.pools.append(Pool(self, routes, self.random.choice([1, 1, 4]), self.in_process))
        return self.pools[-1]

    def close(self):
        self._release()
        self._settle()
        for pool in self.pools:
            pool.stop(signal.SIGTERM)
        for pool in self.pools:
            pool.ended()
        self._end_waits()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.looping.join()
        self.loop.close()
        self.jobs.queue.close()

    def _places(self):
        places = Counter()
        for pool in self.pools:
            places.update({route: pool.concurrency * pool.routes.count(route) for route in set(pool.routes)})
        places.subtract(route for route, _ in self.holds)
        return places

    # bursts

    def play(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(self.random.choice([1, 1, 2, 3, 8])):
                self._step()
                time.sleep(self.random.choice([0, 0, 0, 0.001, 0.01, 0.05, 0.3]))
            self._settle()

    def _settle(self):
        """Until whoever waits was told, and nothing else happens meanwhile."""
        waiting = {number for number, hold in self.fired.items() if not hold}
        end = time.monotonic() + LIMIT
        while (left := [n for n in waiting if n not in self.told]) and time.monotonic() < end:
            time.sleep(0.005)
        late = [n for n in left if not self._is_with_the_dead(n)]
        if late:
            raise AssertionError(self._story(late))
        for number in list(waiting):
            del self.fired[number]
        wrong = [what for what in self.told.values() if isinstance(what, BaseException)]
        assert not wrong, f"{self._story([])} {wrong}"
        self.told.clear()

    def _is_with_the_dead(self, number):
        record = self.jobs.queue.store.get([self.runs[number].id]).get(self.runs[number].id)
        return record is not None and str(record.state) == "running" and any(n in record.worker for n in self.dead)

    def _story(self, late):
        told = [f"{n} {self.runs[n].id} {self.runs[n].state} {self.runs[n]._record}" for n in late]
        logs = "\n".join(f"--- {pool.routes}\n{pool.text()[-2500:]}" for pool in self.pools)
        return f"seed {self.seed} on {self.store}: late {told}\nsteps {self.steps[-20:]}\n{logs}"

    # fires

    runs: dict

    def _fire(self, fire, expected=None, hold=False):
        """Fire, and have somebody wait for it: a thread, or a coroutine."""
        self.number = number = getattr(self, "number", 0) + 1
        self.runs = getattr(self, "runs", {})
        self.runs[number] = run = fire(number)
        self.fired[number] = hold
        if self.random.random() < 0.5:
            self.waiters.append(threading.Thread(target=self._wait, args=(number, run, expected), daemon=True))
            self.waiters[-1].start()
        else:
            asyncio.run_coroutine_threadsafe(self._await(number, run, expected), self.loop)
        return number, run

    def _wait(self, number, run, expected):
        try:
            found = run.wait(NEVER)
        except BaseException as error:
            found = error
        self._tell(number, found, expected)

    async def _await(self, number, run, expected):
        try:
            found = await run
        except BaseException as error:
            found = error
        self._tell(number, found, expected)

    def _end_waits(self):
        """Also of runs that are with the dead: who still waits would open the store anew."""
        asyncio.run_coroutine_threadsafe(self._end_awaits(), self.loop).result(LIMIT)
        ids, queue = [run.id for run in getattr(self, "runs", {}).values()], self.jobs.queue
        queue.store.cancel(ids, now=queue.clock.now())
        for waiter in self.waiters:
            waiter.join(LIMIT)
            assert not waiter.is_alive(), "it was not told that its run is cancelled"

    async def _end_awaits(self):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _tell(self, number, found, expected):
        if expected is not None and isinstance(found, expected):
            found = number
        self.told[number] = found

    def _job(self, job):
        priority = self.random.choice(["normal", "normal", "high", "low"])
        return job.options(routes=self._route(), priority=priority)

    def _route(self):
        return self.random.choice(self.letters)

    def _some(self):
        return self._job(self.random.choice([*self.jobs.KINDS.values(), self.jobs.ONCE]))

    # steps

    def _step(self):
        names = [name for name, weight in STEPS.items() for _ in range(weight)]
        name = self.random.choice(names)
        self.steps.append(name)
        getattr(self, f"_step_{name}")()

    def _step_now(self):
        seconds = self.random.choice([0, 0, 0, 0.01, 0.05])
        self._fire(lambda number, job=self._some(): job.fire(number, seconds))

    def _step_later(self):
        due = self.random.choice([0.005, 0.02, 0.1, 0.3, 0.7])
        self._fire(lambda number, job=self._some(): job.fire_at(due, number, 0))

    def _step_pair(self):
        """Two that become due shortly after each other."""
        due, job = 0.3, self._some()
        for gap in (0, self.random.choice([0.001, 0.01, 0.05, 0.1])):
            self._fire(lambda number, gap=gap: job.fire_at(due + gap, number, 0))

    def _step_many(self):
        job, first = self._some(), getattr(self, "number", 0) + 1
        count = self.random.randint(2, 12)
        runs = iter(job.fire_many([(first + n, self.random.choice([0, 0, 0.01])) for n in range(count)]).runs)
        for _ in range(count):
            self._fire(lambda number: next(runs))

    def _step_hold(self):
        route = self._route()
        if self._places()[route] > 1:
            gate = str(self.folder / f"gate-{len(self.steps)}")
            job = self.jobs.HOLD.options(routes=route)
            number, _ = self._fire(lambda number: job.fire(number, gate), hold=True)
            self.holds.append((route, (number, gate)))

    def _step_release(self):
        self._release()

    def _release(self):
        for _, (number, gate) in self.holds:
            Path(gate).touch()
            self.fired[number] = False
        self.holds.clear()

    def _step_cancel(self):
        due = self.random.choice([0, 0.05, 30])
        job = self._some()
        _, run = self._fire(lambda number: job.fire_at(due, number, 0.2), expected=JobCancelled)
        time.sleep(self.random.choice([0, 0.05]))
        run.cancel()

    def _step_promote(self):
        job = self._some()
        _, run = self._fire(lambda number: job.fire_at(60, number, 0))
        time.sleep(self.random.choice([0, 0.05]))
        run.promote()

    def _step_expire(self):
        job = self.jobs.KINDS["function"].options(routes="nobody", expires=self.random.choice([0.1, 0.3]))
        self._fire(lambda number: job.fire(number, 0), expected=JobCancelled)

    def _step_retry(self):
        job, after = self._job(self.jobs.RETRY), self.random.choice([0, 0.05, 0.3])
        self._fire(lambda number: job.fire(number, after))

    def _step_fail(self):
        """It fails, and is then reopened."""
        job = self._job(self.jobs.FAIL)
        _, run = self._fire(lambda number: job.fire(number), expected=JobFailed)
        with contextlib.suppress(JobFailed):
            run.wait(LIMIT)
        assert self.jobs.queue.store.reopen([run.id], now=self.jobs.queue.clock.now()), self._story([self.number])
        self._fire(lambda number: Run(self.jobs.queue, run.id))

    def _step_die(self):
        if not self.in_process and not self.holds:
            self._settle()  # those beside it would be suspects, and that is another test
            job = self._job(self.jobs.DIE)
            self._fire(lambda number: job.fire(number))
            self._settle()  # and one that may run once only would fail beside it

    def _step_then(self):
        """A chain over several routes: each waits for the one before."""
        first, *others = (self._some() for _ in range(self.random.randint(2, 3)))
        seconds = self.random.choice([0, 0, 0.05, 0.5])

        def fire(number):
            chain = first
            for job in others:
                chain = chain.then(job)
            return chain.fire(number, seconds)

        self._fire(fire)

    def _step_after(self):
        """One that waits for several, or for a failure."""
        ids = []
        for _ in range(self.random.randint(1, 5)):
            seconds = self.random.choice([0, 0, 0.1])
            ids.append(self._fire(lambda number, job=self._some(), seconds=seconds: job.fire(number, seconds))[1])
        job = self._some()
        self._fire(lambda number: job.after(ids, on="ended").fire(number))

    def _step_lost(self):
        """One that waits for one that fails, or is cancelled."""
        if self.random.random() < 0.5:
            fail = self._job(self.jobs.FAIL)
            _, first = self._fire(lambda number: fail.fire(number), expected=JobFailed)
        else:
            later = self._some()
            _, first = self._fire(lambda number: later.fire_at(30, number), expected=JobCancelled)
        job = self._some()
        self._fire(lambda number: job.after(first).fire(number), expected=JobCancelled)
        if first.state == "scheduled":
            first.cancel()

    def _step_pause(self):
        route = self._route()
        self.jobs.queue.pause(route, until=self.random.choice([None, 0.5]))
        time.sleep(self.random.choice([0, 0.05, 0.2]))
        for fire in (self._step_now, self._step_later, self._step_then)[: self.random.randint(1, 3)]:
            fire()
        self._fire(lambda number: self.jobs.KINDS["function"].options(routes=route).fire(number))
        time.sleep(self.random.choice([0, 0.1, 0.7]))
        self.jobs.queue.resume(route)

    def _step_debounce(self):
        """Each fire moves the run; only the last is executed."""
        job = self.jobs.KINDS["function"].options(
            routes=self._route(), unique=f"key {self.random.random()}", debounce=2
        )
        for expected in (JobCancelled, JobCancelled, None)[self.random.randint(0, 2) :]:
            self._fire(lambda number: job.fire(number, 0), expected=expected)

    def _step_window(self):
        job = self.jobs.KINDS["function"].options(routes=self._route(), unique=f"key {self.random.random()}", window=60)
        number, first = self._fire(lambda number: job.fire(number, 0))
        assert job.fire(number + 1, 0) == first

    def _step_schedule(self):
        """Its tick comes in a second, and no other after that."""
        queue, job = self.jobs.queue, self._some()
        number = getattr(self, "number", 0) + 1
        name = f"tick {number}"
        queue.schedule(name, job.args(number, 0), every=1, overlap="queue")
        until(lambda: (found := self._schedule(name)) and found.last, LIMIT, self._story([]))
        last = self._schedule(name).last
        queue.unschedule(name)
        self._fire(lambda number: last)

    def _schedule(self, name):
        return next((each for each in self.jobs.queue.schedules() if each.name == name), None)

    def _step_kill(self):
        """An idle worker is killed, and one that is stopped meanwhile goes on."""
        if self.in_process or self.holds:
            return
        self._settle()
        pool = self.random.choice(self.pools)
        workers = [pid for pid in pool.process.workers() if alive(pid)]
        os.kill(self.random.choice(workers), signal.SIGKILL)
        for fire in (self._step_now, self._step_then, self._step_many)[: self.random.randint(1, 3)]:
            self._once_not(fire)

    def _step_freeze(self):
        """A pool is stopped, and goes on after a while."""
        if self.in_process:
            return
        pool = self.random.choice(self.pools)
        seconds = self.random.choice([0.01, 0.3, 1])
        pool.process.send(signal.SIGSTOP)  # perhaps while it writes, so that fires have to wait as well
        goes_on = threading.Timer(seconds, pool.process.send, [signal.SIGCONT])
        goes_on.start()
        fires = [self._step_now, self._step_later, self._step_then, self._step_many]
        for fire in self.random.sample(fires, 2):
            fire()
        goes_on.join()

    def _step_stop(self):
        """A pool ends, gently or not, just as others are fired; the first one serves all routes, and stays."""
        if len(self.pools) < 2:
            return
        self._release()
        self._settle()
        pool = self.pools.pop(self.random.randrange(1, len(self.pools)))
        how = self.random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
        if pool.pool is not None and how == signal.SIGKILL:
            how = signal.SIGTERM
        if how == signal.SIGKILL:
            self.dead.append(pool.name)
        before = self.random.random() < 0.5
        fires = [self._step_now, self._step_later, self._step_pair]
        for fire in fires[: self.random.randint(1, 3)] if before else ():
            self._once_not(fire)
        pool.stop(how)
        for fire in fires[: self.random.randint(1, 3)]:
            self._once_not(fire)
        pool.ended()

    def _once_not(self, fire):
        """Runs that may run once only fail where a pool is stopped roughly, as they should."""
        once, self.jobs.ONCE = self.jobs.ONCE, self.jobs.KINDS["function"]
        fire()
        self.jobs.ONCE = once

    def _step_start(self):
        if len(self.pools) < 3:
            pool = self._start(self._shape())
            if self.random.random() < 0.5:
                pool.up()
            else:
                threading.Thread(target=pool.up, daemon=True).start()
                self._step_now()
                pool.up()


STEPS = {
    "now": 8, "later": 5, "pair": 2, "many": 3, "hold": 3, "release": 2, "cancel": 2, "promote": 1, "expire": 1,
    "retry": 1, "fail": 1, "die": 1, "stop": 1, "start": 1, "then": 3, "after": 2, "lost": 1, "pause": 2, "debounce": 1,
    "window": 1, "schedule": 1, "kill": 1, "freeze": 1,
}  # fmt: skip
"""How often each step is taken."""


def play(store, seed, seconds, url, folder):
    """Play one scene for some seconds. Raises AssertionError with its story where a run or a waiter was forgotten."""
    with nets_off():
        scene = Scene(store, seed, url, folder)
        try:
            scene.open()
            scene.play(seconds)
        except BaseException:
            for pool in scene.pools:
                if pool.process is not None:
                    pool.process.__exit__()
            raise
        scene.close()


def main(seconds, seed=None, store=None):
    from redis_server import RedisServer

    end, failed = time.monotonic() + float(seconds), 0
    with RedisServer() as server:
        while True:
            chosen, number = (
                store or random.choice(["memory", "sqlite", "redis"]),
                int(seed or random.randrange(1 << 32)),
            )
            with tempfile.TemporaryDirectory() as folder, server.client() as client:
                client.flushall()
                urls = {"memory": f"memory://{folder}", "sqlite": f"sqlite:///{folder}/runs.db", "redis": server.url}
                try:
                    play(chosen, number, 20, urls[chosen], folder)
                except AssertionError as error:
                    failed += 1
                    print(f"FAILED {error}", flush=True)
            if time.monotonic() > end:
                return failed


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:])))
