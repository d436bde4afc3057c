"""Runs that wait for others, on every store with a handed clock: when they are let go, and why they are not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from skunkqueue import SkunkQueue
from skunkqueue.codec import encode_value
from skunkqueue.envelope import GATED, Filter, Outcome, State, Want
from skunkqueue.errors import StoreAway
from skunkqueue.gates.gate import Gate, gate_id, packed_ids, unpacked_ids
from skunkqueue.ids import new_token
from skunkqueue.routes import HIGH, LOW, is_internal
from skunkqueue.schedules.keeper import Keeper
from skunkqueue.times import NOW

START = datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def queue():
    with SkunkQueue("demo", "memory://gates") as queue:
        yield queue


@pytest.fixture
def job(queue):
    return queue.event(len, name="count")


class World:
    """A store with runs and gates, and pools that keep them."""

    def __init__(self, store):
        self.store = store
        self.now = START
        self.numbers = 0
        self.pools = [Keeper(store, "demo", ["default"], f"pool-{n}", 15.0) for n in range(2)]

    def put(self, job, number=1):
        """Members, put straight away; gives their ids."""
        envelopes = []
        for _ in range(number):
            self.numbers += 1
            (one,) = job._envelopes([job._plan.body(b"", ("abc",), {})], NOW)
            id = f"{int(START * 1000):012x}{self.numbers:016x}"
            envelopes.append(one._replace(id=id, due=START))
        return self.store.put(envelopes)

    def after(self, job, ids, on="succeeded", on_lost="cancel", at=0.0):
        """A run that waits for these; gives its id."""
        (run,) = self.put(job)
        envelope = self.store.get([run])[run].envelope
        self.store.cancel([run], now=self.now)
        waiting = envelope._replace(id=f"{int(run, 16) + (1 << 60):028x}", due=GATED)
        gate = Gate(waiting.id, ids, on, on_lost, at, self.now)
        self.store.put([waiting, gate.envelope("demo", "default", 3600.0)])
        return waiting.id

    def keep(self, pool=0, seconds=31.0):
        """Time passes, and a pool looks."""
        self.now += seconds
        return self.pools[pool].keep(self.now)

    def record(self, id):
        return self.store.get([id])[id]

    def shown(self, id):
        return self.record(id).shown(self.now)

    def end(self, id, value=None, failed=False):
        """One of the runs ends now."""
        routes = ("default" + HIGH, "default", "default" + LOW)
        claims = self.store.claim([Want("demo", routes, "w", new_token(), 1000)], now=self.now, until=self.now + 1e6)
        for claim in claims:
            if claim.id == id:
                done = Outcome.failed("ValueError: no") if failed else Outcome.complete(encode_value(value))
            else:
                done = Outcome.again(due=self.now)
            assert self.store.commit([(claim, done)], now=self.now) == {claim.id}


@pytest.fixture
def world(store):
    return World(store)


def test_a_run_waits_until_all_have_succeeded(world, job):
    ids = world.put(job, 3)
    run = world.after(job, ids)
    assert world.shown(run) == State.WAITING

    for id in (ids[1], ids[0]):
        world.end(id)
        world.keep()
        assert world.shown(run) == State.WAITING
    world.end(ids[2])
    kept = world.keep()

    assert kept.made == 1
    assert world.shown(run) == State.QUEUED


def test_a_run_whose_run_failed_is_cancelled_with_the_reason(world, job):
    ids = world.put(job, 3)
    run, then = world.after(job, ids), None
    then = world.after(job, [run])

    world.end(ids[1], failed=True)
    world.keep()
    world.keep()

    assert [world.record(id).state for id in (run, then)] == [State.CANCELLED, State.CANCELLED]
    why = f"run {ids[1]}, which it waited for, failed: ValueError: no"
    assert world.record(gate_id(run)).error == why
    assert world.record(gate_id(then)).error == f"run {run}, which it waited for, was cancelled"


@pytest.mark.parametrize(
    ("on", "failed", "shown"),
    [
        ("succeeded", [False, False], "queued"),
        ("succeeded", [False, True], "cancelled"),
        ("failed", [True, False], "queued"),
        ("failed", [False, True], "queued"),
        ("failed", [False, False], "cancelled"),
        ("ended", [True, True], "queued"),
        ("ended", [False, True], "queued"),
    ],
)
def test_what_a_run_waits_for(world, job, on, failed, shown):
    ids = world.put(job, 2)
    run = world.after(job, ids, on)

    for id, fails in zip(ids, failed, strict=True):
        world.end(id, failed=fails)
        world.keep()

    assert world.shown(run) == shown


def test_a_failure_is_noticed_before_the_first_has_ended(world, job):
    ids = world.put(job, 3)
    lost, met = world.after(job, ids), world.after(job, ids, "failed")

    world.end(ids[2], failed=True)
    world.keep()

    assert (world.shown(lost), world.shown(met)) == (State.CANCELLED, State.QUEUED)


def test_a_run_may_run_although_what_it_waited_for_is_lost(world, job):
    (id,) = world.put(job)
    run = world.after(job, [id], on_lost="run")

    world.store.cancel([id], now=world.now)
    world.keep()

    assert world.shown(run) == State.QUEUED


def test_a_run_may_wait_for_a_time_as_well(world, job):
    (id,) = world.put(job)
    run = world.after(job, [id], at=START + 1000)
    world.end(id)

    world.keep()
    assert world.shown(run) == State.WAITING
    world.keep(seconds=1000)

    assert world.shown(run) == State.QUEUED


def test_a_run_that_is_cancelled_while_it_waits_stays_so(world, job):
    (id,) = world.put(job)
    run = world.after(job, [id])

    world.store.cancel([run], now=world.now)
    world.end(id)
    world.keep()

    assert world.shown(run) == State.CANCELLED
    assert world.record(gate_id(run)).state == State.SUCCEEDED


def test_a_run_that_was_promoted_by_hand_goes_on_though_what_it_waited_for_is_lost(world, job):
    ids = world.put(job)
    run = world.after(job, ids)
    world.keep()
    assert world.store.promote([run], now=world.now) == {run}

    world.end(ids[0], failed=True)
    world.keep()
    world.keep()

    assert world.shown(run) == State.QUEUED
    world.end(run)
    world.keep()
    assert not world.record(gate_id(run)).open


def test_what_was_never_there_is_lost_after_a_while(world, job):
    run = world.after(job, ["0196f3a2b8c15f0e6d1b2c3d4e5f"])

    world.keep(seconds=10)
    assert world.shown(run) == State.WAITING  # it may be on its way
    world.keep(seconds=60)

    assert world.shown(run) == State.CANCELLED
    assert "is no longer kept" in world.record(gate_id(run)).error


def test_a_lost_promotion_costs_a_moment_and_not_the_run(world, job, monkeypatch):
    (id,) = world.put(job)
    run = world.after(job, [id])
    world.end(id)
    with monkeypatch.context() as patch:
        patch.setattr(type(world.store), "promote", lambda *_, **__: set())
        world.keep()
    assert world.shown(run) == State.WAITING

    world.keep()

    assert world.shown(run) == State.QUEUED


def test_a_run_that_was_let_go_and_is_put_back_waits_for_nothing_any_more(world, job):
    (id,) = world.put(job)
    run = world.after(job, [id])
    world.end(id)
    world.keep()
    (claim,) = world.store.claim([Want("demo", ("default",), "old", "t", 1)], now=world.now, until=world.now + 9)

    world.store.commit([(claim, Outcome.untouched())], now=world.now)

    assert world.shown(run) == State.QUEUED


def test_a_gate_outlives_the_pool_that_kept_it(world, job, monkeypatch):
    (id,) = world.put(job)
    run = world.after(job, [id])
    world.end(id)
    with monkeypatch.context() as patch:
        patch.setattr(world.pools[0], "_step_all", lambda *_: (_ for _ in ()).throw(StoreAway("killed")))
        with pytest.raises(StoreAway):
            world.keep()

    assert world.keep(1, seconds=1).made == 0  # the lease of the first still holds
    world.keep(1, seconds=15)

    assert world.shown(run) == State.QUEUED


def test_a_gate_of_many_opens_once(world, job):
    ids = world.put(job, 700)
    run = world.after(job, ids)
    claims = world.store.claim([Want("demo", ("default",), "w", "t", 700)], now=world.now, until=world.now + 1e6)

    made = 0
    for at in range(0, 700, 100):
        some = claims[at : at + 100]
        world.store.commit([(claim, Outcome.complete(None)) for claim in some], now=world.now)
        made += world.keep(at % 2).made
        made += world.keep(1).made

    assert made == 1
    assert world.shown(run) == State.QUEUED


def test_nothing_is_left_behind(world, job):
    (id,) = world.put(job)
    run = world.after(job, [id])
    world.end(id)
    world.keep()
    world.end(run)
    world.keep()

    assert world.record(gate_id(run)).state == State.SUCCEEDED
    world.now += 30 * 86400
    while world.store.purge(now=world.now):
        pass
    assert world.store.count() == {}


def test_gates_are_no_runs_of_a_queue(world, job):
    (id,) = world.put(job)
    run = world.after(job, [id])

    open_ones = world.store.find(Filter("demo", state=State.QUEUED), now=world.now)

    assert {record.id for record in open_ones if not is_internal(record.envelope.route)} == {id, run}


def test_ids_in_sequence_take_little_room():
    ids = [f"{(5 << 64) + n:028x}" for n in range(10_000)]

    assert packed_ids(ids) == ((ids[0], 9999),)
    assert unpacked_ids(packed_ids(ids)) == ids
    odd = [ids[3], ids[7], "mine", ids[8], ids[9], ids[2]]
    assert unpacked_ids(packed_ids(odd)) == odd


def test_the_reason_is_there_before_the_run_is_cancelled(world, job, monkeypatch):
    (id,) = world.put(job)
    run = world.after(job, [id])
    world.end(id, failed=True)

    with monkeypatch.context() as patch:
        patch.setattr(type(world.store), "cancel", lambda *_, **__: (_ for _ in ()).throw(StoreAway("killed")))
        with pytest.raises(StoreAway):
            world.keep()
    assert world.shown(run) == State.WAITING
    assert "failed: ValueError: no" in world.record(gate_id(run)).error

    world.keep()
    assert world.shown(run) == State.CANCELLED
