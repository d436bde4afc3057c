"""The engine, the exchanger and the workers where things happen at an unlucky moment."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import pytest
from pools import LIMIT, until
from troubled import Troubled, make_pool

from skunkqueue import SkunkQueue, codec, current_run
from skunkqueue.clock import Clock
from skunkqueue.envelope import Envelope, Seal, Want, pack_body, pack_head
from skunkqueue.ids import new_id, new_token
from skunkqueue.worker.pool.exchanger import Exchanger

queue = SkunkQueue("demo", "memory://engine")
ran = []


@queue.event(routes=["foo"])
def note(name, seconds=0.0):
    ran.append(name)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)
    return name


@pytest.fixture
def store():
    """An empty store that can be told to misbehave."""
    ran.clear()
    queue.store.__init__("engine")
    yield Troubled(queue.store)
    queue.close()


def states(runs):
    return [str(run.state) for run in runs]


# -- the exchanger -----------------------------------------------------------------------------------------------------


def test_an_exchanger_is_not_free_before_what_it_brought_has_been_collected(store):
    poked = threading.Event()
    exchanger = Exchanger(store, Clock(store.offset), "demo", 5.0, poked.set)
    exchanger.start()
    exchanger.carry([], [], [Want("demo", ("foo",), "w", new_token(), 1)])
    assert poked.wait(LIMIT)

    assert not exchanger.free
    assert len(exchanger.collect()) == 1
    assert exchanger.free
    exchanger.close(1.0)


# -- what strangers and bad jobs send -----------------------------------------------------------------------------


def put_raw(store, body, id=None):
    now = queue.clock.now()
    envelope = Envelope(new_id(now) if id is None else id, "demo", "foo", now, body)
    store.put([envelope])
    return envelope.id


def body_of(seal=None):
    head = pack_head("test_engine:note", "test_engine:note", seal or Seal())
    return pack_body(head, b"", codec.encode_call(("raw",), {}, "auto"))


@pytest.mark.parametrize("id", ["x" * 300, "ü" * 200, "\udc80"])
def test_an_id_that_no_frame_can_carry_fails_its_run_and_no_pool(store, id):
    put_raw(store, body_of(), id)
    run = note.fire("after")

    make_pool(store, in_process=True).run_until_idle()

    assert (str(store.get([id])[id].state), run.state) == ("failed", "succeeded")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("field", ["timeout", "first", "limit", "keep_failed"])
def test_a_duration_that_is_none_fails_its_run_and_no_pool(store, wrong, field):
    id = put_raw(store, body_of(Seal(**{field: wrong})))

    make_pool(store, in_process=True).run_until_idle()

    assert str(store.get([id])[id].state) == "failed"
    assert ran == []


@queue.event(routes=["foo"])
def babble(data):
    """Writes into what is open, as a job might whose file descriptors went astray."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if fd > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                os.write(fd, data)
    time.sleep(60)


@pytest.mark.parametrize(
    "data", [b"complete nonsense, and more of it", b"\x05\x00\x00\x00\x63\x01\x00\x00\x00", b"\0" * 64]
)
def test_a_job_that_writes_into_the_pipe_of_its_worker_is_poison_and_no_pool_dies_of_it(store, data):
    bad = babble.fire(data)
    good = how_long_leased.fire()  # fails in a process of its own, for the store is not there: but it is run
    with make_pool(store):
        until(lambda: bad.state == "failed", 60)
        until(lambda: good.state == "failed")
    assert "poison" in bad.error


@queue.event(routes=["foo"])
def chatter(times):
    for n in range(times):
        current_run().progress(n / times, "x" * 5000)


def test_progress_told_too_often_costs_no_more_than_the_last_word(store):
    run = chatter.fire(20_000)
    before = store.count_of("exchange")

    make_pool(store).run_until_idle()

    assert run.state == "succeeded"
    record = store.get([run.id])[run.id]
    assert record.progress == 19_999 / 20_000
    assert len(record.note) == 500
    assert store.count_of("exchange") - before < 2000


# -- the end of a burst ------------------------------------------------------------------------------------------------


def test_a_pool_that_is_idle_already_looks_once_more_before_it_ends_because_nothing_is_left(store):
    let_go = threading.Event()
    store.before = lambda verb, *_: verb == "wait" and let_go.wait(LIMIT)  # nobody is told of what comes
    try:
        with make_pool(store, in_process=True) as pool:
            until(lambda: store.count_of("exchange") and store.count_of("wait") >= 2)
            run = note.fire("late")

            pool.run_until_idle()

            assert run.state == "succeeded"
    finally:
        let_go.set()


# -- leases ----------------------------------------------------------------------------------------------------------


@queue.event(routes=["foo"])
def how_long_leased():
    """Seconds for which this run is leased yet, while it runs."""
    return queue.store.get([current_run().id])[current_run().id].ripe - queue.clock.now()


def test_claims_that_arrive_after_their_lease_has_ended_are_not_started_before_they_are_extended(store):
    claimed = []

    def late(verb, *_):
        if verb == "exchange" and not claimed and how_long.state == "running":
            claimed.append(True)
            time.sleep(1.2)

    store.after = late
    how_long = how_long_leased.fire()

    make_pool(store, in_process=True, lease=0.6).run_until_idle()

    assert how_long.result > 0
    assert claimed


# -- claims ----------------------------------------------------------------------------------------------------------


def slow(verb, *_):
    if verb == "exchange":
        time.sleep(0.06)  # longer than the engine lingers, so that things happen meanwhile


def test_a_worker_that_becomes_free_while_another_look_is_under_way_gets_its_backlog_at_once(store):
    store.before = slow
    runs = [note.options(routes=["bar"]).fire(i, 0.03) for i in range(10)]
    began = time.monotonic()

    make_pool(store, "foo", "bar", in_process=True).run_until_idle()

    assert states(runs) == ["succeeded"] * len(runs)  # burst did not end too early
    assert time.monotonic() - began < 9  # nor did it wait until it looked anyway


def test_behind_a_cancelled_run_the_next_one_starts_and_burst_does_not_end(store):
    first, second = note.fire("first", 60), note.fire("second")
    pool = make_pool(store, in_process=True)
    thread = threading.Thread(target=pool.run_until_idle)
    thread.start()
    until(lambda: "first" in ran)

    assert first.cancel()
    thread.join(9)  # sooner than a pool looks anyway

    assert not thread.is_alive()
    assert states([first, second]) == ["cancelled", "succeeded"]


def test_a_listener_that_hangs_does_not_keep_the_pool_from_looking(store, monkeypatch):
    monkeypatch.setattr("skunkqueue.worker.pool.fetcher.LOOK_ANYWAY", 0.5)
    let_go = threading.Event()
    store.before = lambda verb, *_: verb == "wait" and let_go.wait(LIMIT)

    with make_pool(store, in_process=True):
        until(lambda: store.count_of("wait") >= 2)
        time.sleep(0.2)
        run = note.fire("found")
        until(lambda: run.state == "succeeded", 10)
        let_go.set()
