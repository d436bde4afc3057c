"""Whoever waits is told soon: of an end among thousands, of an expiry that no pool sees, of a store that is back."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from itertools import pairwise

import pytest
from pools import until
from troubled import Said, Troubled

from skunkqueue import JobCancelled, SkunkQueue, WorkerPool, waiting, watcher
from skunkqueue.clock import Clock, ticks
from skunkqueue.errors import StoreAway
from skunkqueue.pauses import LONGEST, pause_after
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.worker.pool import fetcher as fetching
from skunkqueue.worker.pool import listener as listening
from skunkqueue.worker.pool.exchanger import Exchanger
from skunkqueue.worker.pool.fetcher import Fetcher
from skunkqueue.worker.pool.heartbeat import Beaten
from skunkqueue.worker.pool.leases import Leases
from skunkqueue.worker.pool.listener import Listener
from skunkqueue.worker.pool.settings import Settings, make_slots

NEVER = 120.0
LIMIT = 20.0
"""Far beyond what any of this takes, far below NEVER."""


@pytest.fixture(params=["memory", "sqlite", "redis"])
def queue(request, tmp_path):
    url = f"memory://{tmp_path}" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"
    if request.param == "redis":
        server = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        url = server.url
    with SkunkQueue("demo", url) as queue:
        yield queue


def pause(seconds):
    time.sleep(seconds)
    return seconds


async def cancelled(awaited):
    try:
        await awaited
    except JobCancelled as error:
        return str(error)


# -- many ------------------------------------------------------------------------------------------------------------


def test_an_end_is_told_to_each_of_thousands_of_awaits(queue, monkeypatch):
    """Looks between wake-ups are out of reach, so each run must be waited for."""
    monkeypatch.setattr(watcher, "LONGEST", NEVER)
    runs = queue.event(pause).fire_many([(0,)] * (2 * watcher.PAGE + 50)).runs

    async def one_by_one():
        tasks = [asyncio.ensure_future(cancelled(run)) for run in runs]
        await asyncio.sleep(3.0)  # all are waited for, for long
        for at in (0, len(runs) // 2, -1):
            queue.store.cancel([runs[at].id], now=queue.clock.now())
            await asyncio.wait_for(asyncio.shield(tasks[at]), LIMIT)
        queue.store.cancel([run.id for run in runs], now=queue.clock.now())
        await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)

    asyncio.run(one_by_one())


def test_who_awaits_a_run_that_was_reopened_is_not_told_how_it_ended_before(tmp_path, monkeypatch):
    """The store was asked for an earlier await, before the run was reopened, and answers after the later one."""
    asked, go_on = threading.Event(), threading.Event()
    with SkunkQueue("demo", f"memory://{tmp_path}") as queue:
        fired = queue.event(pause).fire(0)
        fired.cancel()
        get_brief = queue.store.get_brief

        def slow(ids):
            found = get_brief(ids)
            asked.set()
            go_on.wait(LIMIT)
            return found

        monkeypatch.setattr(queue.store, "get_brief", slow)

        async def both():
            early = asyncio.ensure_future(queue.watcher.ended([fired.id]))
            await asyncio.to_thread(asked.wait, LIMIT)
            queue.store.reopen([fired.id], now=queue.clock.now())
            later = asyncio.ensure_future(queue.watcher.ended([fired.id]))
            await asyncio.sleep(0.05)
            go_on.set()
            (told,) = (await asyncio.wait_for(early, LIMIT)).values()
            assert told.state == "cancelled"
            await asyncio.sleep(0.2)
            assert not later.done()
            later.cancel()

        asyncio.run(both())


# -- expiry ----------------------------------------------------------------------------------------------------------


def test_who_waits_for_a_run_is_told_when_it_expires_though_there_is_no_pool(queue, monkeypatch):
    monkeypatch.setattr(waiting, "GLANCE", NEVER)
    fired = queue.event(pause, expires=0.6).fire(0)
    began = time.monotonic()

    with pytest.raises(JobCancelled, match="expired"):
        fired.wait(LIMIT)

    assert time.monotonic() - began > 0.3
    assert (fired.state, fired.error) == ("cancelled", "expired")


def test_who_awaits_a_run_is_told_when_it_expires_though_there_is_no_pool(queue, monkeypatch):
    monkeypatch.setattr(watcher, "LONGEST", NEVER)
    job = queue.event(pause)
    ever, soon, later = (job.options(expires=expires).fire(0) for expires in (None, 0.5, 1.0))

    async def both():
        task = asyncio.ensure_future(cancelled(ever))
        assert await asyncio.wait_for(cancelled(later), LIMIT) == "expired"
        assert await asyncio.wait_for(cancelled(soon), LIMIT) == "expired"
        assert not task.done()
        ever.cancel()
        await asyncio.wait_for(task, LIMIT)

    asyncio.run(both())


def test_several_are_waited_for_beyond_the_expiry_of_one(queue):
    job = queue.event(pause)
    runs = [job.options(expires=0.4).fire(0), job.fire_at(1.2, 0)]
    with pytest.raises(JobCancelled, match="expired"):
        runs[0].wait(LIMIT)

    with WorkerPool(queue, in_process=True, log=Said()):
        assert runs[1].wait(LIMIT) == 0


def test_a_run_that_runs_does_not_expire(queue):
    with WorkerPool(queue, in_process=True, log=Said()):
        fired = queue.event(pause, expires=0.5).fire(1.5)

        assert fired.wait(LIMIT) == 1.5


def test_a_store_that_ends_nothing_is_not_asked_in_a_loop():
    store = Troubled(MemoryPersister("nothing"))
    store.inner.purge = lambda *, now, limit: 0
    expiry = watcher.Expiry(store, Clock(store.offset))

    first = time.time() - 1
    for _ in range(100):
        expiry.end(first)

    assert store.count_of("purge") == 1
    assert 0 < expiry.left(first) <= watcher.LONGEST


def test_runs_that_expire_shortly_after_each_other_are_each_ended_in_time():
    store = Troubled(MemoryPersister("shortly"))
    expiry = watcher.Expiry(store, Clock(store.offset))

    for _ in range(5):
        at = time.time() + 0.02
        time.sleep(0.03)
        expiry.end(at)

    assert store.count_of("purge") == 5


# -- a store that is back --------------------------------------------------------------------------------------------


def test_pauses_grow_to_half_a_second_and_are_random():
    assert all(LONGEST / 2 <= pause_after(failures) <= LONGEST <= 0.5 for failures in range(5, 2000, 7))
    assert len({pause_after(50) for _ in range(20)}) > 1
    assert pause_after(1) <= 0.05


class Away:
    """A store that is away for some seconds, from its first call of one of these verbs on; notes each try."""

    def __init__(self, *verbs, seconds=4.0):
        self.verbs, self.seconds = verbs, seconds
        self.tries = []

    def __call__(self, verb, *_):
        if verb in self.verbs:
            self.tries.append(time.monotonic())
            if self.tries[-1] - self.tries[0] < self.seconds:
                raise StoreAway("gone for a while")

    @property
    def is_over(self):
        return bool(self.tries) and self.tries[-1] - self.tries[0] >= self.seconds

    def assert_tried_each_half_second(self):
        gaps = [after - before for before, after in pairwise(self.tries)]
        longest = max(gap for gap, at in zip(gaps, self.tries, strict=False) if at - self.tries[0] < self.seconds)
        assert longest < LONGEST + 0.4, gaps


def patched(store, monkeypatch, away, *verbs):
    for verb in verbs:
        inner = getattr(store, verb)
        monkeypatch.setattr(
            store, verb, lambda *a, verb=verb, inner=inner, **more: (away(verb), inner(*a, **more))[1], raising=False
        )


@pytest.mark.alone
@pytest.mark.parametrize("how", ["wait", "await"])
def test_a_caller_tries_a_store_that_is_away_each_half_second(how, tmp_path, monkeypatch):
    with SkunkQueue("demo", f"memory://{tmp_path}") as queue:
        fired = queue.event(pause).fire(0)
        fired.cancel()
        away = Away("get", "await_end")
        patched(queue.store, monkeypatch, away, "get")

        with pytest.raises(JobCancelled):
            if how == "wait":
                fired.wait(LIMIT)
            else:
                asyncio.run(asyncio.wait_for(fired._awaited(), LIMIT))

        away.assert_tried_each_half_second()


@pytest.mark.alone
@pytest.mark.parametrize("verb", ["exchange", "beat"])
def test_a_pool_tries_a_store_that_is_away_each_half_second(verb, tmp_path, monkeypatch):
    with SkunkQueue("demo", f"memory://{tmp_path}") as queue:
        away = Away(verb)
        patched(queue.store, monkeypatch, away, verb)
        with WorkerPool(queue, in_process=True, log=Said()):
            fired = queue.event(pause).fire(0)
            until(lambda: away.is_over)
            assert fired.wait(LIMIT) == 0

    away.assert_tried_each_half_second()


@pytest.mark.alone
@pytest.mark.parametrize("how", ["wait", "await"])
def test_a_redis_that_was_away_is_used_again_at_once(how):
    """An outage of this length cost the pools three seconds more, and the callers one."""
    from redis_server import RedisServer

    with RedisServer() as server, SkunkQueue("demo", server.url) as queue:
        job = queue.event(pause)
        with WorkerPool(queue, in_process=True, log=Said()):
            job.fire(0).wait(LIMIT)
            server.stop()
            time.sleep(3.3)
            server.start()
            back = time.monotonic()
            fired = job.fire(0)

            assert (fired.wait(LIMIT) if how == "wait" else asyncio.run(fired._awaited())) == 0
            assert time.monotonic() - back < 1.5


def test_a_rouse_that_fails_does_not_say_that_the_store_is_away(tmp_path):
    store = Troubled(MemoryPersister("rouse"))
    store.before = lambda verb, *_: (_ for _ in ()).throw(StoreAway("slow")) if verb == "rouse" else None
    settings = Settings("pool", "demo", ("a",))
    exchanger = Exchanger(store, Clock(store.offset), "demo", NEVER, lambda: None)
    fetcher = Fetcher(store, Clock(store.offset), settings, make_slots(settings), exchanger, lambda: None)
    fetcher._listener.watching = True

    exchanger._try(fetcher._end_wait)

    assert store.count_of("rouse") == 1
    assert exchanger.away is None
    fetcher.close()


# -- a process that was stopped --------------------------------------------------------------------------------------


class Stopped:
    """``ticks`` of a process that is stopped at a moment of the test's choice."""

    def __init__(self):
        self.skipped = 0.0

    def __call__(self):
        return ticks() + self.skipped


def test_a_pool_stopped_just_as_it_begins_to_watch_is_not_late_by_what_was_left(monkeypatch):
    stopped = Stopped()
    monkeypatch.setattr(fetching, "ticks", stopped)
    store = MemoryPersister("stopped")
    settings = Settings("pool", "demo", ("a",))
    (slot,) = slots = make_slots(settings)
    exchanger = Exchanger(store, Clock(store.offset), "demo", NEVER, lambda: None)
    fetcher = Fetcher(store, Clock(store.offset), settings, slots, exchanger, lambda: None)
    slot.ready, slot.look_at = True, stopped() + 5.0

    def watch(*_):
        stopped.skipped = 60.0
        exchanger._watch = type(exchanger._watch).CHANNEL
        return True

    monkeypatch.setattr(exchanger, "watch", watch)
    fetcher.look_out()

    assert fetcher.until() <= stopped()
    fetcher.close()


def test_a_listener_stopped_before_it_waits_waits_no_longer(monkeypatch):
    stopped, waits, over = Stopped(), [], threading.Event()
    monkeypatch.setattr(listening, "ticks", stopped)
    stopped.skipped = 60.0
    listener = Listener(waits.append, over.set, "listener")

    listener.watch(stopped() - 50.0)

    assert over.wait(LIMIT)
    assert waits == [0.0]
    listener.close()


def test_a_pool_that_goes_on_after_a_stop_looks_at_once(tmp_path):
    """Its engine may have been about to sleep."""
    pokes = []
    with SkunkQueue("demo", f"memory://{tmp_path}") as queue:
        pool = WorkerPool(queue, in_process=True, log=Said())
        before = signal.getsignal(signal.SIGCONT)
        pool._engine = type("Engine", (), {"poke": lambda self: pokes.append("poke")})()
        caught = pool._catch_signals()
        signal.raise_signal(signal.SIGCONT)
        pool._engine = None
        signal.raise_signal(signal.SIGCONT)
        for number, handler in caught.items():
            signal.signal(number, handler)

    assert pokes == ["poke"]
    assert signal.getsignal(signal.SIGCONT) == before


def test_a_pool_that_holds_what_is_newer_than_its_beat_beats_again_at_once():
    """It slept beyond its lease, and got a claim of that time just before it heard that it holds the others."""

    class Heart:
        under_way = False

        def beat(self, claims):
            """Done by the test."""

    settings = Settings("pool", "demo", ("a",))
    leases = Leases(make_slots(settings), settings, Heart(), None, lambda errand: None, lambda: None)
    leases.keep()
    leases._heartbeat.under_way = False
    leases.claimed(ticks() - 1.0)

    leases.beaten(Beaten((), set(), ticks() + 15.0, {}, ()))

    assert not leases.are_sure
    assert leases.until() <= ticks()


def test_a_watch_is_ended_in_time_however_shortly_after_the_one_before(monkeypatch):
    """Two runs due within a moment: the second was late by the time in which a watch is not ended twice."""
    store = MemoryPersister("pace")
    settings = Settings("pool", "demo", ("a",))
    (slot,) = slots = make_slots(settings)
    exchanger = Exchanger(store, Clock(store.offset), "demo", NEVER, lambda: None)
    fetcher = Fetcher(store, Clock(store.offset), settings, slots, exchanger, lambda: None)
    watching = type(exchanger._watch)
    monkeypatch.setattr(exchanger, "watch", lambda *_: setattr(exchanger, "_watch", watching.CHANNEL) or True)
    monkeypatch.setattr(fetching, "ROUSE_AGAIN", NEVER)
    slot.ready, slot.look_at = True, ticks() + 0.005
    for _ in range(2):
        fetcher.look_out()
        until(lambda: fetcher.until() <= ticks())
        fetcher.look_out()
        exchanger._watch, slot.look_at = watching.NOTHING, ticks() + 0.005

    assert len(exchanger._errands) == 2
    fetcher.close()
