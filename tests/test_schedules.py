"""Schedules on every store, with a handed clock: what ticks, how often, and what becomes of missed ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from skunkqueue import SkunkQueue
from skunkqueue.codec import encode_value
from skunkqueue.envelope import Filter, Outcome, State, Want, open_body
from skunkqueue.errors import StoreAway
from skunkqueue.ids import new_token
from skunkqueue.routes import is_internal
from skunkqueue.schedules import book, paused
from skunkqueue.schedules.declared import definition_of, rules_of
from skunkqueue.schedules.definition import TICKS
from skunkqueue.schedules.keeper import Keeper
from skunkqueue.schedules.when import Adaptive
from skunkqueue.signing import verify_body

START = datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()
LEASE = 15.0
HOUR = 3600.0


@pytest.fixture
def queue():
    with SkunkQueue("demo", "memory://schedules") as queue:
        yield queue


@pytest.fixture
def job(queue):
    return queue.event(len, name="count")


class World:
    """A store, its schedules, and pools that keep them."""

    def __init__(self, store, queue):
        self.store = store
        self.queue = queue
        self.now = START
        self.pools = [Keeper(store, "demo", ["default", "other"], f"pool-{n}", LEASE) for n in range(3)]

    def declare(self, firing, name="x", args=("abc",), pace=None, **rules):
        checked = rules_of(rules)._replace(pace=pace)
        return book.declare(self.store, definition_of(firing, name, checked, args, {}), now=self.now)

    def keep(self, pool=0):
        return self.pools[pool].keep(self.now)

    def walk(self, until, pool=0, most=10_000):
        """Go from look to look, as a pool does."""
        for _ in range(most):
            kept = self.keep(pool)
            if kept.next is None or kept.next > until:
                break
            self.now = max(kept.next, self.now)
        self.now = until
        self.keep(pool)

    def runs(self):
        """The runs made, oldest first."""
        found = []
        after = None
        while page := self.store.find(Filter("demo"), now=self.now, after=after, limit=500):
            found += page
            after = page[-1].id
        return [record for record in reversed(found) if not is_internal(record.envelope.route)]

    def ticks(self):
        """When the runs are due, in seconds from the start."""
        return [round(record.envelope.due - START, 3) for record in self.runs()]

    def claim(self):
        want = Want("demo", ("default",), "w", new_token(), 1)
        (claim,) = self.store.claim([want], now=self.now, until=self.now + 1e6)
        return claim

    def end(self, value=None, failed=False):
        """One of the runs ends now."""
        outcome = Outcome.failed("ValueError: no") if failed else Outcome.complete(encode_value(value))
        assert self.store.commit([(self.claim(), outcome)], now=self.now)


@pytest.fixture
def world(store, queue):
    return World(store, queue)


# -- ticks -----------------------------------------------------------------------------------------------------------


def test_many_pools_make_one_run_a_tick(world, job):
    world.declare(job, every="90s")

    for world.now in (START, START + 89, START + 90.5, START + 91, START + 180):
        for pool in range(3):
            world.keep(pool)

    assert world.ticks() == [90]  # the second is left out: the first has not run

    world.end()
    for world.now in (START + 269, START + 271):
        for pool in range(3):
            world.keep(pool)

    assert world.ticks() == [90, 270]


def test_pools_that_look_at_the_same_moment_make_one_run(world, job):
    world.declare(job, every=HOUR)
    world.now = START + HOUR
    want = Want("demo", ("default" + TICKS,), "dead", new_token(), 10)

    (held,) = world.store.claim([want], now=world.now, until=world.now + LEASE)
    kept = world.keep()

    assert world.ticks() == []  # the other one has it
    assert kept.next == pytest.approx(world.now + LEASE)
    world.now += LEASE
    assert world.keep(1).made == 1
    assert world.store.commit([(held, Outcome.again(due=START))], now=world.now) == set()
    assert world.ticks() == [HOUR]


def test_a_pool_that_dies_between_put_and_commit_makes_no_tick_twice(world, job, monkeypatch):
    world.declare(job, every=HOUR)
    world.now = START + HOUR
    pool = world.pools[0]

    with monkeypatch.context() as patch:
        patch.setattr(pool, "_step_all", lambda *rest: (Keeper._step_all(pool, *rest), die())[0])
        with pytest.raises(StoreAway):
            pool.keep(world.now)
    assert world.ticks() == [HOUR]
    world.now += LEASE + 1
    world.keep(1)

    assert world.ticks() == [HOUR]
    world.walk(START + 2 * HOUR, pool=1)
    assert world.ticks() == [HOUR]  # it has not run yet


def die():
    raise StoreAway("killed")


def test_a_tick_is_due_when_it_was_to_come_and_has_the_arguments_and_options(world, job):
    world.declare(job.options(routes=["other"], priority="high", expires=60, retries=4), every=HOUR)
    world.now = START + HOUR + 5

    world.keep()

    (record,) = world.runs()
    envelope = record.envelope
    assert (envelope.route, envelope.due, envelope.expires) == ("other^high", START + HOUR, START + HOUR + 60)
    assert record.state == State.QUEUED


def test_a_job_of_several_routes_runs_on_each(world, job):
    world.declare(job.options(routes=["default", "other"]), every=HOUR)
    world.now = START + HOUR

    world.keep()
    world.keep(1)

    assert sorted(record.envelope.route for record in world.runs()) == ["default", "other"]


def test_only_pools_of_the_route_keep_a_schedule(world, job, store):
    world.declare(job.options(routes="elsewhere"), every=HOUR)
    world.now = START + HOUR

    world.keep()
    assert world.ticks() == []
    Keeper(store, "demo", ["elsewhere"], "p", LEASE).keep(world.now)

    assert world.ticks() == [HOUR]


def test_an_interval_keeps_its_phase_over_restarts(world, job):
    world.declare(job, every=100, overlap="queue")
    world.walk(START + 250)
    world.now = START + 260
    world.declare(job, every=100, overlap="queue")

    world.walk(START + 500, pool=1)

    assert world.ticks() == [100, 200, 300, 400, 500]


# -- missed ticks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missed", "made"), [("once", [400]), ("all", [100, 200, 300, 400]), ("skip", [])])
def test_what_was_missed_while_no_pool_was_there(world, job, missed, made):
    world.declare(job, every=100, missed=missed, **({} if missed == "all" else {"overlap": "queue"}))

    world.now = START + 470
    world.keep()

    assert world.ticks() == made
    world.walk(START + 600)
    assert world.ticks() == [*made, 500, 600]


def test_a_tick_that_is_a_little_late_is_not_missed(world, job):
    world.declare(job, every=HOUR, missed="skip")

    world.now = START + HOUR + 30
    world.keep()

    assert world.ticks() == [HOUR]


def test_a_store_away_over_three_ticks(world, job, monkeypatch):
    world.declare(job, every=100, missed="all")
    world.walk(START + 100)
    with monkeypatch.context() as patch:
        patch.setattr(type(world.store), "exchange", lambda *_, **__: die())
        for world.now in (START + 200, START + 300, START + 400):
            with pytest.raises(StoreAway):
                world.keep()

    world.now = START + 450
    world.keep(1)

    assert world.ticks() == [100, 200, 300, 400]


def test_a_thousand_missed_ticks_are_made_in_steps(world, job):
    world.declare(job, every=1, missed="all")

    world.now = START + 1100
    world.keep()

    assert world.ticks() == list(range(1, 1101))


def test_a_clock_that_is_set_makes_no_tick_twice(world, job):
    world.declare(job, every="0 * * * *", overlap="queue")
    world.walk(START + 2 * HOUR + 10)
    assert world.ticks() == [HOUR, 2 * HOUR]

    world.now -= 1.5 * HOUR  # back
    world.walk(START + 3 * HOUR)
    assert world.ticks() == [HOUR, 2 * HOUR, 3 * HOUR]

    world.now += 5 * HOUR  # forth
    world.walk(START + 9 * HOUR)
    assert world.ticks() == [HOUR, 2 * HOUR, 3 * HOUR, 8 * HOUR, 9 * HOUR]


# -- overlap ---------------------------------------------------------------------------------------------------------


def test_a_tick_is_left_out_while_the_last_run_runs(world, job):
    world.declare(job, every=100)
    world.walk(START + 100)
    claim = world.claim()

    world.walk(START + 350)
    assert world.ticks() == [100]
    world.store.commit([(claim, Outcome.complete(None))], now=world.now)
    world.walk(START + 400)

    assert world.ticks() == [100, 400]


def test_a_tick_is_queued_beside_the_last_run_if_that_is_wished(world, job):
    world.declare(job, every=100, overlap="queue")
    world.walk(START + 100)
    world.claim()

    world.walk(START + 300)

    assert world.ticks() == [100, 200, 300]


# -- deployments -----------------------------------------------------------------------------------------------------


def test_a_changed_schedule_leaves_no_ghost(world, job):
    world.declare(job, every=100, overlap="queue")
    world.walk(START + 100)

    world.declare(job, every=30, overlap="queue")
    world.walk(START + 200)

    assert world.ticks() == [100, 130, 160, 190]
    assert len(list(book.every(world.store, "demo", now=world.now))) == 1


def test_a_changed_option_does_not_shift_the_ticks(world, job):
    world.declare(job, every=100, overlap="queue")
    world.walk(START + 150)

    world.declare(job.options(retries=3), every=100, overlap="queue")
    world.walk(START + 300)

    assert world.ticks() == [100, 200, 300]


def test_a_schedule_can_change_and_change_back(world, job):
    world.declare(job, every=100, overlap="queue")
    world.declare(job, every=30, overlap="queue")
    world.now = START + 20
    world.declare(job, every=100, overlap="queue")

    world.walk(START + 200)

    assert world.ticks() == [120]
    assert len(list(book.every(world.store, "demo", now=world.now))) == 1


def test_a_schedule_can_move_to_another_route(world, job):
    world.declare(job, every=100, overlap="queue")
    world.declare(job.options(routes="other"), every=100, overlap="queue")

    world.walk(START + 100)

    assert [record.envelope.route for record in world.runs()] == ["other"]


def test_what_a_module_no_longer_declares_is_ended(world, job):
    for name, module in (("a", "shop.jobs"), ("b", "shop.jobs"), ("c", "other.jobs"), ("d", "")):
        rules = rules_of({"every": 100})._replace(origin=module)
        book.declare(world.store, definition_of(job, name, rules, ("abc",), {}), now=world.now)

    ended = book.forget_undeclared(world.store, "demo", {"shop.jobs"}, {"b"}, now=world.now)

    left = {definition.name for _, definition, _ in book.readable(book.every(world.store, "demo", now=world.now))}
    assert ended == 1
    assert left == {"b", "c", "d"}


def test_a_declared_schedule_whose_job_is_gone_ends(world, job):
    rules = rules_of({"every": 100})._replace(origin="shop.jobs")
    book.declare(world.store, definition_of(job, "x", rules, ("abc",), {}), now=world.now)
    world.walk(START + 100)
    world.store.commit([(world.claim(), Outcome.failed("UnknownJob: there is no module shop"))], now=world.now)

    world.walk(START + 500)

    assert world.ticks() == [100]
    assert list(book.every(world.store, "demo", now=world.now)) == []


def test_an_ended_schedule_makes_no_ticks_and_can_be_made_anew(world, job):
    world.declare(job, every=100)

    assert book.unschedule(world.store, "demo", "x", now=world.now)
    assert not book.unschedule(world.store, "demo", "x", now=world.now)
    world.walk(START + 300)
    assert world.ticks() == []
    world.declare(job, every=100)
    world.walk(START + 400)

    assert world.ticks() == [400]


def test_schedules_of_two_queues_know_nothing_of_each_other(world, job, store):
    world.declare(job, every=100)

    assert not book.unschedule(store, "another", "x", now=world.now)
    Keeper(store, "another", ["default"], "p", LEASE).keep(START + 100)

    assert world.ticks() == []


def test_a_schedule_is_listed_also_where_a_pool_takes_or_puts_it_back_meanwhile(world, job, store, monkeypatch):
    world.declare(job, every=100)
    want = Want("demo", ("default" + TICKS,), "w", new_token(), 1)
    claims = store.claim([want], now=START + 100, until=START + 200)
    assert claims
    find = store.find

    def find_then_move(which, **options):
        """A pool puts it back between the look at those that are queued, and that at those that run."""
        found = find(which, **options)
        while claims:
            store.commit([(claims.pop(), Outcome.untouched())], now=START + 100)
        return found

    monkeypatch.setattr(store, "find", find_then_move)

    assert [record.state for record in book.every(store, "demo", now=START + 100)] == ["queued"]


# -- pauses ----------------------------------------------------------------------------------------------------------


def test_a_paused_schedule_makes_no_ticks(world, job):
    world.declare(job, every=100, missed="all")
    paused.pause(world.store, "demo", paused.SCHEDULE, "x", now=world.now, until=None)

    world.walk(START + 250)
    assert world.ticks() == []
    assert paused.resume(world.store, "demo", paused.SCHEDULE, "x", now=world.now)
    world.walk(START + 300)

    assert world.ticks() == [300]
    assert not paused.resume(world.store, "demo", paused.SCHEDULE, "x", now=world.now)


def test_a_pause_ends_by_itself(world, job):
    world.declare(job, every=100)
    paused.pause(world.store, "demo", paused.SCHEDULE, "x", now=world.now, until=None)
    paused.pause(world.store, "demo", paused.SCHEDULE, "x", now=world.now, until=START + 250)
    paused.pause(world.store, "demo", paused.SCHEDULE, "y", now=world.now, until=None)

    world.walk(START + 300)

    assert world.ticks() == [300]
    assert [pause.name for pause in paused.pauses(world.store, "demo", now=world.now)] == ["y"]


# -- intervals that follow the runs ----------------------------------------------------------------------------------


def test_an_adaptive_interval_follows_what_the_runs_bring(world, job):
    world.declare(job, every=Adaptive(100, 400))
    world.keep()
    assert world.ticks() == [0]  # the first at once

    world.now = START + 10
    world.end(failed=True)
    world.walk(START + 209)
    assert world.ticks() == [0]
    world.walk(START + 211)
    assert world.ticks() == [0, 210]  # twice the least after the failure

    world.end(value=["news"])
    world.walk(START + 330)
    assert world.ticks()[2:] == [311]
    world.walk(START + 2000)
    assert len(world.ticks()) == 3  # the last has not ended


def test_a_function_says_when_to_run_next(world, queue, job):
    pace = queue.event(lambda last: 5.0, name="pace")
    world.declare(job, every=lambda last: 5.0, pace=pace)
    world.keep()
    world.now = START + 10
    world.end(value=1)

    world.walk(START + 15)
    (asked,) = [record for record in world.runs() if record.envelope.due > START]
    world.now = START + 20
    world.end(value=42.0)
    world.walk(START + 60)

    assert asked.id.startswith(world.runs()[0].id[:12])
    assert sorted(world.ticks()) == [0, round(asked.envelope.due - START, 3), 52]  # 42 s after the end, at 10


# -- faults ----------------------------------------------------------------------------------------------------------


def test_a_damaged_schedule_ends_and_holds_nobody_up(world, job):
    world.declare(job, every=100)
    good = world.store.get([world.declare(job, "y", every=100)])
    (record,) = good.values()
    bad = record.envelope._replace(id="0000" + 24 * "b", body=record.envelope.body[:-9])
    world.store.put([bad])

    world.now = START + 100
    kept = world.keep()

    assert kept.made == 2
    assert "0000bbbb" in kept.troubles[0]
    assert world.store.get([bad.id])[bad.id].state == State.FAILED


def test_what_is_to_be_signed_cannot_be_smuggled_into_a_schedule(world, queue):
    def inner(value):
        return value

    pickled = queue.event(inner, name="inner")
    id = world.declare(pickled, args=(object,), every=100)
    (record,) = world.store.get([id]).values()
    body = bytearray(record.envelope.body)
    body[body.index(b"abc") if b"abc" in body else -1] ^= 1
    forged = record.envelope._replace(id="0000" + 24 * "c", body=bytes(body))
    world.store.put([forged])

    world.now = START + 100
    world.keep()

    assert world.store.get([forged.id])[forged.id].state == State.FAILED
    assert len(world.runs()) == 1


def test_what_a_schedule_pickles_is_signed_for_each_run(world, queue):
    job = queue.event(lambda value: value, name="pickled")
    world.declare(job, args=(Adaptive,), every=100, overlap="queue")

    world.walk(START + 200)

    first, second = (record.envelope for record in world.runs())
    for envelope in (first, second):
        verify_body(open_body(envelope.body), id=envelope.id, queue="demo")
    assert open_body(first.body).signature != open_body(second.body).signature


def test_nothing_is_left_behind(world, job):
    world.declare(job, every=100)
    paused.pause(world.store, "demo", paused.ROUTE, "default", now=world.now, until=None)
    world.walk(START + 100)
    world.end()
    book.unschedule(world.store, "demo", "x", now=world.now)
    paused.resume(world.store, "demo", paused.ROUTE, "default", now=world.now)

    world.now += timedelta(days=30).total_seconds()
    while world.store.purge(now=world.now):
        pass

    assert world.store.count() == {}
