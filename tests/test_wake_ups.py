"""A run begins as soon as an idle worker of its route exists, whoever hears of it, with every safety net out of reach.

A wake-up that is lost would here be found after two minutes only, so nothing depends on how fast this machine is.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from contextlib import ExitStack

import pytest
from pools import PoolProcess, until
from troubled import Said

from skunkqueue import SkunkQueue, WorkerPool
from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Envelope, Seal
from skunkqueue.ids import new_id
from skunkqueue.persistence import WorkKey
from skunkqueue.policy import NONE
from skunkqueue.worker.pool.engine import Engine
from skunkqueue.worker.pool.exchanger import SHORT, Exchanger
from skunkqueue.worker.pool.fetcher import Fetcher
from skunkqueue.worker.pool.settings import Settings, make_slots
from skunkqueue.worker.pool.slot import Held

NEVER = 120.0
LIMIT = 20.0
"""Far beyond what any of this takes, far below NEVER."""

NETS = "skunkqueue.worker.pool.fetcher"
NETS_OFF = f"import {NETS} as nets; nets.LOOK_ANYWAY = nets.LATE = {NEVER}\n"

started: dict[int, float] = {}
gate = threading.Event()


def begin(number):
    started[number] = time.monotonic()


def hold(number):
    started[number] = time.monotonic()
    gate.wait(NEVER)


def pause(number, seconds):
    started[number] = time.monotonic()
    time.sleep(seconds)


@pytest.fixture(autouse=True)
def nets_off(monkeypatch):
    started.clear()
    gate.clear()
    for name in ("LOOK_ANYWAY", "LATE"):
        monkeypatch.setattr(f"{NETS}.{name}", NEVER)
    yield
    gate.set()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request, tmp_path):
    if request.param == "redis":
        server = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        return server.url
    return f"sqlite:///{tmp_path}/runs.db" if request.param == "sqlite" else f"memory://{tmp_path}"


@pytest.fixture
def queue(url):
    with SkunkQueue("demo", url) as queue:
        yield queue


@pytest.fixture
def pools(queue):
    """Starts pools on threads of this process; all are stopped at the end."""
    with ExitStack() as stack:

        def start(*routes, **options):
            pool = WorkerPool(queue, routes, in_process=True, lease=2 * NEVER, log=Said(), **options)
            stack.enter_context(pool)
            until(lambda: all(worker.ready for worker in pool._engine._slots))
            time.sleep(0.1)  # it looks, and begins to wait
            return pool

        yield start
        gate.set()


def begins(number, message="a run did not begin"):
    until(lambda: number in started, LIMIT, message)


@pytest.mark.parametrize("routes", ["ab", "abc", "aab", "aabbc"])
def test_a_pool_of_several_routes_hears_of_each_of_them_again_and_again(queue, pools, routes):
    job = queue.event(begin)
    pools(*routes)
    order = random.Random(routes)

    for number in range(25):
        route = order.choice(routes)
        run = job.options(routes=route).fire(number)
        begins(number, f"run {number} on {route} did not begin")
        if order.random() < 0.7:
            run.wait(LIMIT)


def test_a_busy_worker_of_a_pool_takes_no_wake_up_from_an_idle_pool(queue, pools):
    begin_job, hold_job = queue.event(begin), queue.event(hold)
    pools("a", "b")
    hold_job.options(routes="a").fire(0)
    begins(0)
    time.sleep(0.2)
    pools("a")

    for number in range(1, 6):
        begin_job.options(routes="a").fire(number).wait(LIMIT)
        begins(number)


@pytest.mark.parametrize("route", ["a", "b"])
def test_a_pool_is_heard_by_address_while_its_other_worker_is_busy(url, queue, pools, route):
    crowd = SkunkQueue("demo", url, queue_type="broadcast")
    hold_job, begin_job = queue.event(hold), crowd.event(begin)
    pools("a", "b")
    until(lambda: len(queue.alive_on(["a", "b"])) == 2)
    hold_job.options(routes="ab".replace(route, "")).fire(0)
    begins(0)
    time.sleep(0.2)

    for number in range(1, 4):
        begin_job.options(routes=route).fire(number).wait(LIMIT)
        begins(number)


def test_who_knows_of_a_later_run_may_stop(queue, pools):
    job = queue.event(begin)
    first = pools("a")
    pools("a")
    due = time.monotonic() + 0.6
    job.options(routes="a").fire_at(0.6, 0)

    time.sleep(0.2)
    first.shutdown()

    begins(0)
    assert started[0] >= due - 0.05


@pytest.mark.parametrize("ahead", [0, 5, 91 * 86400])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_who_knows_of_a_later_run_may_die(shared_redis, tmp_path, how, ahead):
    """Also where a clock was ahead: this machine's, while the store's is right, or both before they were set back."""
    with shared_redis.client() as client:
        client.flushall()
    queue = SkunkQueue("demo", shared_redis.url)
    job = queue.event(routes=["a"])(begin)
    options = {"prelude": NETS_OFF, "lease": 2 * NEVER}
    with (
        PoolProcess(tmp_path, queue.url, "a", **options) as one,
        PoolProcess(tmp_path, queue.url, "a", **options) as two,
    ):
        one.up()
        two.up()
        time.sleep(0.8)
        new_id(queue.clock.now() + ahead)
        run = job.fire_at(1.5, 0)
        time.sleep(0.3)

        one.send(how)

        until(lambda: run.state == "succeeded", LIMIT)


REOPENING = """
from pathlib import Path
from time import sleep
from skunkqueue.persistence.redis import RedisPersister
opened, first = [], RedisPersister.channel

def channel(self, queue):
    opened.append(queue)
    if len(opened) > 1:
        Path(MARKS, f"opening-{len(opened)}").touch()
        while not Path(MARKS, "put").exists(): sleep(0.01)
    return first(self, queue)

RedisPersister.channel = channel
"""


def test_what_is_put_for_later_while_a_pool_connects_anew_begins_on_time(shared_redis, tmp_path):
    """Behind its last look, before it is subscribed to what is put for later; and who knew of it dies."""
    with shared_redis.client() as client:
        client.flushall()
    options = {"lease": 2 * NEVER}
    prelude = f"MARKS = {str(tmp_path)!r}\n{REOPENING}{NETS_OFF}"
    with SkunkQueue("demo", shared_redis.url) as queue:
        job = queue.event(routes=["a"])(begin)
        with PoolProcess(tmp_path, queue.url, "a", prelude=prelude, **options) as one:
            one.up()
            until(lambda: job.fire(0).wait(LIMIT) is None, LIMIT)
            time.sleep(SHORT)  # a connection that broke sooner is put off
            with shared_redis.client() as client:
                client.client_kill_filter(_type="pubsub")
                client.client_kill_filter(_type="normal", skipme=True)
            until(lambda: (tmp_path / "opening-2").exists(), LIMIT)
            with PoolProcess(tmp_path, queue.url, "a", prelude=NETS_OFF, **options) as two:
                two.up()
                run = job.fire_at(4.0, 1)
                time.sleep(0.5)
                two.send(signal.SIGKILL)
            (tmp_path / "put").touch()

            until(lambda: run.state == "succeeded", LIMIT)


UNOPENED = REOPENING.replace("return first", "if len(opened) == 2: raise OSError('not yet')\n    return first")


def test_a_channel_that_cannot_be_opened_at_once_is_opened_soon(shared_redis, tmp_path):
    """Until then nobody hears of what is put for later, and who knew of it dies."""
    with shared_redis.client() as client:
        client.flushall()
    prelude = f"MARKS = {str(tmp_path)!r}\n{UNOPENED}{NETS_OFF}"
    with SkunkQueue("demo", shared_redis.url) as queue:
        job = queue.event(routes=["a"])(begin)
        with PoolProcess(tmp_path, queue.url, "a", prelude=prelude, lease=2 * NEVER) as one:
            one.up()
            until(lambda: job.fire(0).wait(LIMIT) is None, LIMIT)
            time.sleep(SHORT)
            with shared_redis.client() as client:
                client.client_kill_filter(_type="pubsub")
                client.client_kill_filter(_type="normal", skipme=True)
            until(lambda: (tmp_path / "opening-2").exists(), LIMIT)
            with PoolProcess(tmp_path, queue.url, "a", prelude=NETS_OFF, lease=2 * NEVER) as two:
                two.up()
                run = job.fire_at(4.0, 1)
                time.sleep(0.5)
                two.send(signal.SIGKILL)
            (tmp_path / "put").touch()

            until(lambda: run.state == "succeeded", LIMIT)


def test_a_pool_killed_amid_a_run_is_noticed_though_its_lease_is_short(shared_redis, tmp_path):
    with shared_redis.client() as client:
        client.flushall()
    queue = SkunkQueue("demo", shared_redis.url)
    job = queue.event(routes=["a"])(pause)
    with PoolProcess(tmp_path, queue.url, "a", lease=4) as one, PoolProcess(tmp_path, queue.url, "a", lease=4) as two:
        one.up()
        two.up()
        run = job.fire(0, 2.0)
        until(lambda: run.state == "running")
        holder = until(lambda: next((pool for pool in (one, two) if f"took {run.id}" in pool.log()), None))
        killed = time.monotonic()

        holder.send(signal.SIGKILL)

        until(lambda: run.state == "succeeded", LIMIT)
        assert time.monotonic() - killed < 4 + 1 + 2 + 2  # lease, a moment, the run itself, a slow machine


def test_no_run_waits_behind_a_long_one_while_another_worker_idles(queue, pools):
    """A worker of quick runs gets more ahead, and then meets one that takes long: what is behind it goes elsewhere."""
    quick, long = queue.event(begin), queue.event(hold)
    kinds = [quick, queue.event(begin, at_most_once=True)]
    pools("a", "a")

    for number in range(0, 1000, 500):
        runs = [quick.options(routes="a").fire_many([(n,) for n in range(number, number + 400)]).runs[-1]]
        runs.append(long.options(routes="a").fire(number + 400))
        runs += [kinds[n % 2].options(routes="a").fire(number + 410 + n) for n in range(20)]
        for n in range(20):
            begins(number + 410 + n, f"run {n}, behind a long one, did not begin")
        gate.set()
        runs[1].wait(LIMIT)
        gate.clear()


@pytest.mark.parametrize("once_first", [True, False])
def test_a_run_that_is_marked_first_waits_for_no_other_while_a_place_is_free(queue, pools, once_first):
    once, plain = queue.event(begin, at_most_once=True), queue.event(begin)
    held = queue.event(hold, at_most_once=once_first)
    pools("a", concurrency=4)
    held.options(routes="a").fire(0)
    begins(0)

    for number, job in enumerate((once, plain, once, once, plain), 1):
        job.options(routes="a").fire(number)
        begins(number, f"run {number} did not begin beside a long one")


def test_what_a_pool_may_have_died_of_still_runs_alone():
    settings = Settings("pool", "demo", ("a",), concurrency=4)
    (slot,) = make_slots(settings)
    slot.ready = True
    alone, other = (Held(a_claim(), Seal(), NONE, "job", alone, alone) for alone in (True, False))

    slot.waiting.append(alone)
    slot.held[1] = other
    assert slot.to_mark() is None
    slot.held.clear()
    assert slot.to_mark() is alone
    slot.marking = None
    slot.waiting.append(other)
    slot.held[1] = alone
    assert slot.to_mark() is None
    slot.waiting.clear()
    assert slot.room(None) == 0


def a_claim():
    return Claim(Envelope(new_id(0.0), "demo", "a", 0.0, b""), "token", "worker", 0.0)


def test_random_fires_at_random_pools_all_begin_when_they_may(queue, pools):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    order = random.Random(seed)
    job = queue.event(pause)
    letters = "abc"[: order.randint(2, 3)]
    shapes = [[order.choice(letters) for _ in range(order.randint(1, 3))] for _ in range(order.randint(1, 3))]
    shapes.append(list(letters))
    print(f"pools {shapes}")
    for shape in shapes:
        pools(*shape, concurrency=order.choice([1, 1, 3]))

    for number in range(40):
        route = order.choice(letters)
        fired, delay = job.options(routes=route), order.choice([0, 0, 0, 0.02, 0.3])
        fired.fire_at(delay, number, order.choice([0, 0, 0.01, 0.1])) if delay else fired.fire(number, 0)
        if order.random() < 0.5:
            time.sleep(order.random() * 0.1)

    until(lambda: len(started) == 40, LIMIT, f"{set(range(40)) - set(started)} did not begin")


def test_a_watch_is_roused_for_who_idles_and_not_for_who_is_soon_through(shared_redis):
    """One that runs quick jobs has room for more ahead, but a watch claims only for those who could begin at once."""
    settings = Settings("pool", "demo", ("a", "b"))
    slots = make_slots(settings)
    for slot in slots:
        slot.ready, slot.look_at, slot._ahead, slot.since = True, ticks() + NEVER, 8, ticks() + NEVER
    with SkunkQueue("demo", shared_redis.url) as queue:
        exchanger = Exchanger(queue.store, queue.clock, "demo", NEVER, lambda: None)
        fetcher = Fetcher(queue.store, queue.clock, settings, slots, exchanger, lambda: None)
        fetcher._served = {"a"}

        assert fetcher._leaves_out_a_slot()
        envelope = Envelope(new_id(0.0), "demo", "b", 0.0, b"")
        slots[1].held[1] = Held(Claim(envelope, "token", slots[1].name, 0.0), Seal(), NONE, "job", False)
        assert not fetcher._leaves_out_a_slot()
        fetcher.close()


def test_what_is_announced_while_a_watch_looks_is_looked_for_after_it(tmp_path, monkeypatch):
    """The watch may have looked before it was there; for the slots that it claims for, nobody else looks."""
    settings = Settings("pool", "demo", ("a",))
    (slot,) = make_slots(settings)
    slot.ready = True
    looking, go_on = threading.Event(), threading.Event()
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        exchange = type(queue.store).exchange

        def slowly(store, *args, **options):
            looking.set()
            assert go_on.wait(LIMIT)
            return exchange(store, *args, **options)

        exchanger = Exchanger(queue.store, queue.clock, "demo", NEVER, lambda: None)
        fetcher = Fetcher(queue.store, queue.clock, settings, [slot], exchanger, lambda: None)
        slot.look_at = ticks() + NEVER
        fetcher.look_out()
        monkeypatch.setattr(type(queue.store), "exchange", slowly)
        until(lambda: queue.store.rouse([WorkKey("demo", "a")]) and looking.wait(0.1))

        fetcher.call_all()
        assert fetcher.wants(anyway=False) == []
        go_on.set()
        (delivery,) = until(exchanger.collect)
        fetcher.learn(delivery, False)

        assert fetcher.until() <= ticks()
        assert len(fetcher.wants(anyway=False)) == 1
        fetcher.close()


def test_a_watch_whose_channel_was_given_up_claims_for_nobody(shared_redis, monkeypatch):
    """Only the connection that exchanges is cut. What the other one waits for is asked elsewhere, and not twice."""
    given_up, fired = threading.Event(), threading.Event()
    attend = Engine._attend

    def slow_to_attend(engine):
        if engine._channel is not None and engine._exchanger.channel is not engine._channel and not fired.is_set():
            given_up.set()
            fired.wait(LIMIT)
        attend(engine)

    with shared_redis.client() as client, SkunkQueue("demo", shared_redis.url) as queue:
        client.flushall()
        job = queue.event(begin)
        with WorkerPool(queue, in_process=True, lease=2 * NEVER, log=Said()) as pool:
            exchanger = until(lambda: getattr(pool._engine, "_exchanger", None))
            channel = until(lambda: exchanger.watching and exchanger.channel)
            monkeypatch.setattr(Engine, "_attend", slow_to_attend)
            port = channel._talk._sock.getsockname()[1]
            (cut,) = [each for each in client.client_list() if each["addr"].endswith(f":{port}")]
            client.execute_command("CLIENT", "KILL", "ID", cut["id"])
            assert given_up.wait(LIMIT)
            until(lambda: exchanger._deliveries)  # the thread has asked, and got nothing

            job.fire(0)
            fired.set()

            begins(0)


def test_a_user_without_a_right_to_channels_fires_and_works_all_the_same(tmp_path):
    """Redis 7 gives a new user none. Then nobody is told, and a pool alone looks in time all the same."""
    from redis_server import RedisServer

    with RedisServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">secret", "~skunk:*", "+@all", "resetchannels")
        with SkunkQueue("demo", f"redis://me:secret@127.0.0.1:{server.port}/0") as queue:
            job = queue.event(begin)
            with WorkerPool(queue, in_process=True, lease=2 * NEVER, log=Said()):
                later, now = job.fire_at(0.5, 1), job.fire(0)

                now.wait(LIMIT)
                later.wait(LIMIT)
                assert started[0] < started[1]
