"""Where two features meet, each keeps what it promises: headers, gates, chains, schedules, windows, pauses, classes."""

from __future__ import annotations

import io
import time
from datetime import timedelta

import pytest
from pools import until

from skunkqueue import PartialFire, SkunkQueue, StoreAway, WorkerPool, WrongCall, current_run
from skunkqueue.envelope import GATED, Claim, Outcome, State
from skunkqueue.testing import drain
from skunkqueue.worker.pool.fetcher import FOREVER, Fetcher
from skunkqueue.worker.pool.leases import Leases
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.supervisor import Supervisor
from skunkqueue.worker.pool.timekeeper import Timekeeper

SENT = {"request": "7f3a"}


@pytest.fixture(params=["memory", "sqlite", "redis"])
def queue(request, tmp_path):
    if request.param == "memory":
        url = f"memory://together-{time.monotonic_ns()}"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/runs.db"
    else:
        server = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        url = server.url
    with SkunkQueue("demo", url) as queue:
        yield queue


@pytest.fixture
def headers(queue):
    """A job that tells the headers of its run."""

    @queue.event(name="headers")
    def headers(value=None):
        return dict(current_run().headers)

    return headers


@pytest.fixture
def same(queue):
    return queue.event(lambda value: value, name="same")


# -- headers, however a run is fired -----------------------------------------------------------------------------------


def scheduled(queue, job):
    queue.schedule("hourly", job.args(1), every=timedelta(hours=1))
    return queue.schedules()[0].fire()


@pytest.mark.parametrize(
    "fire",
    [
        lambda queue, job: job.fire(1),
        lambda queue, job: job.fire(object),  # pickled
        lambda queue, job: job.fire_at(0, 1),
        lambda queue, job: job.fire_many([(1,)])[0],
        lambda queue, job: job.after(job.fire(1)).fire(2),
        lambda queue, job: job.after(job.fire(1)).fire_many([(2,)])[0],
        lambda queue, job: job.then(job).fire(1),
        lambda queue, job: job.then(job).fire(1).after[0],
        scheduled,
    ],
    ids=["fire", "pickled", "at", "many", "after", "after_many", "then", "then_first", "schedule"],
)
def test_headers_travel_however_a_run_is_fired(queue, headers, fire):
    run = fire(queue, headers.options(headers=SENT))

    drain(queue)

    assert (run.headers, run.result) == (SENT, SENT)


@pytest.mark.parametrize("options", [{"window": 60}, {"debounce": 0.05}, {"window": 60, "keep": 0}])
def test_headers_travel_with_what_is_fired_once_for_each_key(queue, headers, options):
    run = headers.options(unique="key", headers=SENT, **options).fire(1)
    time.sleep(0.1)

    drain(queue)

    assert (run.headers, run.result) == (SENT, SENT)


def test_headers_travel_with_a_key_made_by_a_function(queue):
    @queue.event(unique=lambda value: value)
    def told(value):
        return dict(current_run().headers)

    runs = told.options(headers=SENT).fire_many([(1,), (2,)])
    drain(queue)

    assert runs.results == [SENT, SENT]
    assert told.last == runs


def test_what_stamps_runs_is_asked_where_something_is_fired_and_not_where_it_is_scheduled(queue, headers):
    fired = []
    queue.hooks.add_stamp(lambda job: fired.append(job.name) or {"stamp": "1"})

    queue.schedule("hourly", headers.options(headers=SENT).args(1), every=timedelta(hours=1))

    assert fired == []
    assert queue.schedules()[0].fire().headers == SENT


# -- keys --------------------------------------------------------------------------------------------------------------


def test_the_time_that_a_run_has_to_start_is_counted_from_the_end_of_the_debouncing(queue, same):
    began = queue.now()
    run = same.options(unique="key", debounce=1, expires=0.5).fire(1)
    assert run.state == State.SCHEDULED
    assert run.due.timestamp() >= began + 1

    until(lambda: run.state != State.SCHEDULED)
    drain(queue)

    assert run.result == 1


def test_each_fire_replaces_the_one_that_no_worker_has_come_for(queue, same, monkeypatch):
    monkeypatch.setattr("skunkqueue.spacing.OVERDUE", 0.02)
    late = same.options(unique="key", debounce=0.01)

    runs = []
    for number in range(30):
        runs.append(late.fire(number))
        time.sleep(0.05)
    drain(queue)

    assert [run.state for run in runs] == [State.CANCELLED] * 29 + [State.SUCCEEDED]
    assert runs[-1].result == 29


def test_debouncing_goes_on_while_the_route_is_paused(queue, same, monkeypatch):
    monkeypatch.setattr("skunkqueue.spacing.OVERDUE", 0.02)
    queue.pause("default")
    late = same.options(unique="key", debounce=0.01)
    with WorkerPool(queue, in_process=True, log=io.StringIO()):
        time.sleep(0.3)
        for number in range(25):
            run = late.fire(number)
            time.sleep(0.05)
        queue.resume("default")

        assert run.wait(30) == 24


def test_a_window_holds_though_its_run_is_not_kept(queue, same):
    once = same.options(unique="key", window=600, keep=0)
    first = once.fire(1)
    drain(queue)
    store, now = queue.store, queue.now()
    while store.purge(now=now + 300):
        pass

    again = once.fire(2)
    drain(queue)

    assert again == first
    assert again.result == 1
    assert queue.count()[State.SUCCEEDED] == 1


@pytest.mark.parametrize(("spacing", "puts"), [({}, 1), ({"debounce": 0.001}, 2)], ids=["in batches", "one by one"])
def test_a_fire_of_many_with_keys_tells_what_is_stored_when_the_store_goes_away(queue, monkeypatch, spacing, puts):
    once = queue.event(unique=lambda value: value, **spacing)(lambda value: value)
    monkeypatch.setattr("skunkqueue.job.BATCH", 2)
    put, calls = queue.store.put, []

    def away(envelopes, **rest):
        calls.append(1)
        if len(calls) > puts:
            raise StoreAway("gone")
        return put(envelopes, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(queue.store, "put", away)
        with pytest.raises(PartialFire) as raised:
            once.fire_many([(1,), (2,), (3,), (4,)])
        with pytest.raises(StoreAway) as alone:
            once.fire(5)

    assert [len(raised.value.accepted), len(raised.value.missing), len(alone.value.runs)] == [2, 2, 1]
    raised.value.missing.fire()
    alone.value.runs.fire()
    time.sleep(0.05)  # until the debounced ones are due
    drain(queue)
    assert queue.count()[State.SUCCEEDED] == 5


def test_a_fire_of_many_with_keys_encodes_all_before_it_stores_one(queue):
    once = queue.event(unique=lambda value: 7)(lambda value: value)

    with pytest.raises(TypeError):
        once.fire_many([(1,), (1, 2)])

    assert queue.runs() == []


def test_a_schedule_says_that_it_takes_no_key_and_waits_for_nothing(queue, same):
    keyed = queue.event(unique=lambda value: value)(lambda value: value)
    for firing in (same.options(unique="key"), same.options(unique="key", window=60), keyed):
        with pytest.raises(WrongCall, match="what a schedule runs takes none; overlap says"):
            queue.schedule("hourly", firing.args(1), every="1h")
    with pytest.raises(WrongCall, match="what a schedule runs takes none; overlap says"):
        queue.event(every="1h", unique=lambda: 1)(lambda: 1)
    with pytest.raises(WrongCall, match="waits for no other runs"):
        queue.schedule("hourly", same.after(same.fire(1)).args(1), every="1h")

    assert queue.schedules() == []


# -- chains ------------------------------------------------------------------------------------------------------------


def test_a_chain_that_cannot_be_is_refused_before_anything_is_fired(queue, same):
    for wrong in (same.options(unique="key"), same.options(expires=5), same.after(same.fire_at(60, 1))):
        with pytest.raises(WrongCall):
            same.then(wrong)

    assert [run.state for run in queue.runs()] == [State.SCHEDULED]


def test_who_waits_already_is_not_made_to_wait_for_something_else_instead(queue, same):
    one, other = same.fire(1), same.fire(2)

    with pytest.raises(WrongCall, match="give all that it is to wait for to one after"):
        same.after(one).after(other)

    assert len(same.after(one).then(same).fire(3).after[0].after) == 1


def test_methods_stand_in_chains(queue):
    class Sum:
        def __init__(self, first):
            self.first = first

        @queue.event(name="add")
        def add(self, other):
            return self.first + other

    run = Sum(10).add.then(Sum(100).add).then(Sum(1000).add).fire(1)
    drain(queue)

    assert run.result == 1111


def test_runs_that_were_cancelled_for_what_they_waited_for_tell_the_reason_together(queue, same):
    def fail():
        raise ValueError("no")

    bad = queue.event(fail, name="fail").fire()
    runs = same.after(bad).fire_many([(1,), (2,)])
    drain(queue)

    assert "ValueError: no" in runs.error
    assert runs.error == runs[0].error


def test_who_is_promoted_gets_of_what_has_not_ended_that_it_has_not(queue, same):
    told = queue.event(lambda value: f"{type(value).__name__}: {value}", name="told")
    later = same.fire_at(60, 1)
    run = told.after(later).fire(later)

    assert run.promote()
    drain(queue)

    assert run.result == f"WaitTimeout: run {later.id} has not ended: it is scheduled"


# -- pools -------------------------------------------------------------------------------------------------------------


def test_a_pause_ends_when_it_is_to_end_though_the_pool_looks_seldom(queue, same):
    with WorkerPool(queue, in_process=True, log=io.StringIO(), lease=600):
        same.fire(1).wait(30)
        queue.pause("default", until=1.5)
        time.sleep(0.5)
        run = same.fire(2)
        assert run.state == State.QUEUED

        assert run.wait(15) == 2


@pytest.mark.parametrize("at", [30 * 86400.0, GATED, 1e15])
def test_a_pool_sleeps_although_the_next_thing_to_do_is_further_than_the_kernel_sleeps(queue, same, monkeypatch, at):
    """As when a run was announced for then, while a beat and a look at the schedules are under way."""
    for each in (Supervisor, Leases, Timekeeper):
        monkeypatch.setattr(each, "until", lambda self: FOREVER)
    monkeypatch.setattr(Fetcher, "until", lambda self: at)
    monkeypatch.setattr("skunkqueue.worker.pool.engine.UNREACHED", 0.1)

    with WorkerPool(queue, in_process=True, log=io.StringIO()) as pool:
        time.sleep(0.5)
        assert pool.running


def second_time():
    if current_run().attempt < 2:
        raise ValueError("not yet")


def test_a_burst_whose_workers_are_renewed_ends_no_sooner(queue):
    run = queue.event(second_time, retries=3, backoff=0).fire()
    WorkerPool(queue, in_process=True, max_runs=1, log=io.StringIO()).run_until_idle()

    assert (run.state, run.attempts) == (State.SUCCEEDED, 2)


def test_a_burst_ends_when_a_chain_has(queue, same):
    for number in range(10):
        run = same.then(same).then(same).fire(number)

        WorkerPool(queue, in_process=True, log=io.StringIO()).run_until_idle()

        assert run.state == State.SUCCEEDED


def test_pools_of_other_routes_are_told_of_gates_too(queue, same):
    """One is told of the first gate, looks, and finds none on its own route; a moment later there is one."""
    one, other = same.options(routes="one"), same.options(routes="other")
    with (
        WorkerPool(queue, "one", in_process=True, log=io.StringIO(), lease=600),
        WorkerPool(queue, "other", in_process=True, log=io.StringIO(), lease=600),
    ):
        until(lambda: len(queue.alive_on(["one", "other"])) == 2)
        assert one.then(one).fire(1).wait(30) == 1
        assert other.then(other).fire(2).wait(30) == 2


def test_progress_does_not_make_a_pool_look_at_gates(queue, same, monkeypatch):
    looks = []
    looked = Timekeeper._looked
    monkeypatch.setattr(Timekeeper, "_looked", lambda self, troubles: looks.append(1) or looked(self, troubles))

    @queue.event
    def slow(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            current_run().progress(0.5)
            time.sleep(0.002)
        return time.time()

    with WorkerPool(queue, in_process=True, log=io.StringIO(), lease=600):
        slow.then(same).fire(0.1).wait(30)
        looks.clear()
        slow.then(same).fire(2).wait(30)

    assert len(looks) < 40  # ten a second while there are gates; with each report there would be hundreds


def test_a_run_that_ends_while_its_gate_is_looked_at_is_not_missed(queue, same):
    """The look has read it as running; nothing else would notice its end soon."""
    first = same.fire(1)
    run = same.after(first).fire(first)
    looks = []
    settings = Settings("pool", "demo", ("default",))
    timekeeper = Timekeeper(queue.store, queue.clock, settings, looks.append, lambda: None)
    timekeeper.keep()
    looks.pop()()
    assert timekeeper.minds_ends

    claim = Claim(queue.store.get([first.id])[first.id].envelope, "token", "worker", 0.0)
    timekeeper.ended([(claim, Outcome.complete(None))])
    timekeeper.collect()

    assert timekeeper.until() == 0.0
    assert not timekeeper.awaited
    assert run.state == State.WAITING


def test_a_run_that_is_tried_again_or_makes_progress_has_not_ended_for_its_gate(queue, same):
    first = same.fire(1)
    same.after(first).fire(first)
    looks = []
    timekeeper = Timekeeper(
        queue.store, queue.clock, Settings("pool", "demo", ("default",)), looks.append, lambda: None
    )
    timekeeper.keep()
    looks.pop()()
    timekeeper.collect()
    assert list(timekeeper.awaited) == [first.id]
    claim = Claim(queue.store.get([first.id])[first.id].envelope, "token", "worker", 0.0)

    for outcome in (Outcome.at(0.5), Outcome.again(due=0.0), Outcome.started(), Outcome.untouched()):
        timekeeper.ended([(claim, outcome)])

    assert list(timekeeper.awaited) == [first.id]
    assert timekeeper.until() > 0.0
