"""Limits as pools keep them, on every store: never more than the limit, nothing held up that may start."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing
from datetime import timedelta

import going as module
import pytest
from click.testing import CliRunner
from pools import until

from skunkqueue import JobMixin, Limit, SkunkQueue, WorkerPool, WrongCall
from skunkqueue.cli.commands import skunq
from skunkqueue.envelope import Outcome, State, Want
from skunkqueue.ids import new_token
from skunkqueue.limits.turns import is_turn
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.policy import Notes, encode_notes
from skunkqueue.routes import key_of_route
from skunkqueue.testing import drain
from skunkqueue.worker.pool.completer import Completer
from skunkqueue.worker.pool.slot import Slot


@pytest.fixture
def queue(pools_url):
    with SkunkQueue("demo", pools_url) as queue:
        yield queue


@pytest.fixture
def lone():
    """A queue in memory, for what does not differ from store to store."""
    with SkunkQueue("demo", f"memory://lone-{time.monotonic_ns()}") as queue:
        yield queue


def working(queue, *routes, **options):
    return WorkerPool(queue, routes or ("default",), in_process=True, log=io.StringIO(), **options)


@pytest.fixture
def going():
    module.here = module.Going()
    return module.here


def of_key(key, *_):
    return key


def turns(queue):
    counts = queue.store.count()
    return sum(n for (_, route, state), n in counts.items() if "~turns" in route and state in ("queued", "running"))


# -- at once ---------------------------------------------------------------------------------------------------------


def test_no_more_than_the_limit_of_each_key_go_on_at_once_over_all_pools(queue, going):
    job = queue.event(module.work, name="work", limit=Limit(2, key=of_key))
    runs = job.fire_many([(f"key {n % 3}", 0.02) for n in range(60)])

    with working(queue, *["default"] * 4), working(queue, *["default"] * 4):
        assert len(runs.wait(60)) == 60

    assert going.most.keys() == {"key 0", "key 1", "key 2"}
    assert max(going.most.values()) == 2


def test_with_several_runs_at_a_time_in_a_worker_the_limit_holds_as_well(queue, going):
    job = queue.event(module.work, name="work", limit=Limit(3))
    runs = job.fire_many([("all", 0.02)] * 40)

    with working(queue, concurrency=8), working(queue, concurrency=8):
        runs.wait(60)

    assert 2 <= going.most["all"] <= 3  # a slow store may bring the third when the first has ended


def test_runs_fired_one_by_one_use_the_whole_limit_while_others_go_on(queue, going):
    job = queue.event(module.work, name="work", limit=Limit(3))

    with working(queue, *["default"] * 5):
        began = time.monotonic()
        runs = []
        for _ in range(3):
            runs.append(job.fire("all", 2.0))
            time.sleep(0.1)
        for run in runs:
            run.wait(30)

    assert going.most == {"all": 3}
    assert time.monotonic() - began < 5.5


def test_the_next_run_of_a_key_is_claimed_with_what_ends_the_one_before(lone, going, monkeypatch):
    """Or the key's permit goes back with it. Each further exchange would be time in which the limit is not used."""
    seen = []
    exchange = MemoryPersister.exchange

    def recorded(self, outcomes, wants, **options):
        ends = [claim for claim, each in outcomes if each.kind == "complete" and not is_turn(claim.envelope.route)]
        if ends:
            asks = any(key_of_route(route) for want in wants for route in want.routes)
            seen.append(asks or any(outcome.kind == "again" for _, outcome in outcomes))
        return exchange(self, outcomes, wants, **options)

    monkeypatch.setattr(MemoryPersister, "exchange", recorded)
    job = lone.event(module.work, name="work", limit=Limit(1, key="one"))
    runs = job.fire_many([("one", 0.06)] * 12)
    with working(lone, *["default"] * 2):
        runs.wait(60)

    assert going.most == {"one": 1}
    assert len(seen) == 12
    assert seen.count(True) >= 10  # not with the last


def test_what_may_not_start_stays_queued_and_holds_up_nothing_else(queue, going):
    held = queue.event(module.hold, name="hold", limit=Limit(1, key=of_key))
    other = queue.event(module.work, name="other")
    with working(queue, *["default"] * 2):
        waiting = held.fire_many([("a",)] * 50)
        until(lambda: any(run.state == State.RUNNING for run in waiting))
        assert [other.fire(n).wait(30) for n in range(20)] == list(range(20))
        assert queue.count()[State.RUNNING] == 1
        assert queue.count()[State.QUEUED] == 49
        going.release.set()
        assert waiting.wait(30) == ["a"] * 50


def test_failed_attempts_keep_the_limit_and_come_back_to_it(queue, going):
    job = queue.event(module.flaky, name="flaky", retries=5, backoff=0.05, limit=Limit(2))
    with working(queue, *["default"] * 4):
        assert sorted(job.fire_many([(n,) for n in range(10)]).wait(60)) == list(range(10))

    assert going.most == {"all": 2}
    assert set(going.tries.values()) == {3}


@pytest.mark.parametrize(
    "options", [{"fair_by": of_key}, {"limit": Limit(1000, key=of_key, per=1, burst=1000)}], ids=["fair_by", "rate"]
)
def test_what_comes_back_after_its_turn_has_left_gets_another_in_time(queue, going, options):
    """Not only when the lease would have ended that the first attempt had."""
    job = queue.event(module.fail_once, name="fail_once", retries=1, backoff=0.2, **options)
    quick = queue.event(module.same, name="quick")

    with working(queue):
        quick.fire_many([(n,) for n in range(300)]).wait(60)  # from then on it asks for many at a time
        job.fire("a", 0.5).wait(60)

    assert going.starts[1] - going.starts[0] < 10  # a lease is 15 s


def test_what_a_pool_hands_back_after_its_turn_has_left_is_run_by_another_in_time(queue, going):
    job = queue.event(module.work, name="work", fair_by=of_key)
    quick = queue.event(module.same, name="quick")

    with working(queue):
        quick.fire_many([(n,) for n in range(300)]).wait(60)  # from then on it asks for many at a time
        runs = job.fire_many([("a", 0.5), *[("a", 0.002)] * 20])
        until(lambda: going.now["a"])
        time.sleep(0.2)  # the turn leaves
    began = time.monotonic()
    with working(queue):
        runs.wait(60)

    assert time.monotonic() - began < 10


def test_a_careful_run_that_is_cancelled_as_it_starts_makes_room(lone, going, monkeypatch):
    hit = []
    exchange = MemoryPersister.exchange

    def cancelled(self, outcomes, wants, **options):
        for claim, outcome in outcomes:
            if outcome.kind == "started" and not is_turn(claim.envelope.route) and not hit:
                hit.append(claim.id)
                self.cancel([claim.id], now=options["now"])
        return exchange(self, outcomes, wants, **options)

    monkeypatch.setattr(MemoryPersister, "exchange", cancelled)
    job = lone.event(module.work, name="work", limit=Limit(1), at_most_once=True)
    with working(lone, *["default"] * 2):
        first = job.fire("first")
        until(lambda: hit)
        assert job.fire("second").wait(10) == "second"

    assert (first.state, going.order) == ("cancelled", ["second"])


@pytest.mark.parametrize(
    "options", [{"fair_by": of_key}, {"limit": Limit(1000, key=of_key, per=1, burst=1000)}], ids=["fair_by", "rate"]
)
def test_the_first_run_of_a_limit_at_once_that_was_none_before_waits_for_no_lease(lone, going, options):
    old = lone.event(module.work, name="work", **options)
    new = lone.event(module.work, name="work", limit=Limit(1, key=of_key))
    with working(lone, *["default"] * 2):
        runs = old.fire_many([("a", 0.4)] * 3)
        time.sleep(0.1)
        began = time.monotonic()
        new.fire("a").wait(60)
        runs.wait(60)

    assert time.monotonic() - began < 10  # a lease is 15 s


def test_a_cancelled_run_makes_room_at_once(queue, going):
    going.release.set()
    job = queue.event(module.hold, name="hold", limit=Limit(1))
    with working(queue, *["default"] * 2):
        first = job.fire("first")
        until(lambda: first.state == State.RUNNING)
        second, third = job.fire("second"), job.fire("third")
        assert third.cancel()
        assert first.cancel()
        assert second.wait(30) == "second"
    assert queue.count()[State.CANCELLED] == 2


def test_for_later_promoted_and_reopened_limited_runs_get_their_turn(queue, going):
    job = queue.event(module.bad_at_first, name="work", limit=Limit(1))
    with working(queue):
        began = time.monotonic()
        assert job.fire_at(0.5, "later").wait(30) == "later"
        assert 0.5 <= time.monotonic() - began < 5
        run = job.fire_at(1000, "promoted")
        assert run.promote()
        assert run.wait(30) == "promoted"
        bad = job.fire("bad")
        until(lambda: bad.state == State.FAILED)
        if not queue.one_process:
            answer = CliRunner().invoke(skunq, ["retry", "--url", queue._address.url, bad.id])
            assert answer.exit_code == 0, answer.output
            assert queue.run(bad.id).wait(30) == "bad"


def test_a_burst_ends_when_all_limited_runs_that_may_start_have_run(queue, going):
    one = queue.event(module.work, name="one", limit=Limit(1, key=of_key))
    five = queue.event(module.work, name="five", limit=Limit(5))
    fair = queue.event(module.work, name="fair", fair_by=of_key)
    rate = queue.event(module.same, name="rate", limit=Limit(2, per=1000))
    for job in (one, five, fair):
        job.fire_many([(n % 7, 0.001) for n in range(50)])
    rate.fire_many([(n,) for n in range(5)])

    working(queue, *["default"] * 3).run_until_idle()

    assert queue.count() == {"queued": 4, "running": 0, "succeeded": 151, "failed": 0, "cancelled": 0}


def test_a_pool_that_stops_gives_permits_back(queue, going):
    job = queue.event(module.work, name="work", limit=Limit(1, key=of_key))
    runs = job.fire_many([(n % 5, 0.02) for n in range(100)])
    for _ in range(3):
        with working(queue, *["default"] * 2, lease=600):
            time.sleep(0.5)
    with working(queue, *["default"] * 2, lease=600):
        runs.wait(30)

    assert set(going.most.values()) == {1}
    assert Counter(going.order) == dict.fromkeys(range(5), 20)


def test_a_paused_route_starts_no_limited_run(queue, going):
    job = queue.event(module.work, name="work", limit=Limit(1))
    with working(queue):
        queue.pause("default")
        time.sleep(0.5)
        run = job.fire("a")
        time.sleep(0.5)
        assert run.state == State.QUEUED
        queue.resume("default")
        assert run.wait(30) == "a"


def test_a_limit_that_was_changed_holds_for_what_is_fired_from_then_on(queue, going):
    before = queue.event(module.work, name="work", limit=Limit(4, key=lambda *_: "k"))
    after = queue.event(module.work, name="work", limit=Limit(2, key=lambda *_: "k"))
    with working(queue, *["default"] * 6):
        old = before.fire_many([("old", 0.02)] * 40)
        time.sleep(0.2)
        new = after.fire_many([("new", 0.02)] * 40)
        rate = queue.event(module.work, name="work", limit=Limit(500, key=lambda *_: "k", per=1)).fire_many(
            [("r", 0)] * 20
        )
        again = before.fire_many([("again", 0.1)] * 60)
        for runs in (old, new, rate, again):
            runs.wait(60)

    assert going.most["new"] <= 2
    assert going.most["old"] <= 4
    assert 2 < going.most["again"] <= 4


def test_text_keys_are_shared_by_jobs_and_made_keys_are_of_each_job(lone, going):
    shared = [
        lone.event(lambda: module.work("shared", 0.01, "shared"), name=name, limit=Limit(1, key="openai"))
        for name in ("one", "other")
    ]
    own = [
        lone.event(lambda key: module.work("own", 0.01, "own"), name=name, limit=Limit(1, key=of_key))
        for name in ("a", "b")
    ]
    with working(lone, *["default"] * 4):
        runs = [job.fire() for job in shared * 10] + [job.fire("k") for job in own * 10]
        for run in runs:
            run.wait(30)

    assert going.most["shared"] == 1
    assert going.most["own"] == 2


# -- rates -----------------------------------------------------------------------------------------------------------


def test_no_more_start_in_a_time_than_the_rate_allows_and_not_many_less(queue, going):
    starts = going.starts
    job = queue.event(module.call, name="call", limit=Limit(60, key="api", per=3))
    runs = job.fire_many([()] * 160)

    with working(queue, *["default"] * 3), working(queue, *["default"] * 3):
        runs.wait(60)

    starts.sort()
    took = starts[-1] - starts[0]
    most = max(sum(at <= each < at + 3 for each in starts) for at in starts)
    assert most <= 60
    assert took < 160 / 20 / 0.4  # bench/limits.py measures how much less


def test_after_a_lull_so_many_start_at_once_as_burst_says(queue, going):
    starts = going.starts
    job = queue.event(module.call, name="call", limit=Limit(10, per=100, burst=4))

    with working(queue, *["default"] * 2):
        runs = job.fire_many([()] * 6)
        until(lambda: len(starts) == 4)
        time.sleep(1)
        assert len(starts) == 4
        assert queue.count()[State.QUEUED] == 2
        runs.cancel()


# -- turns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [{"fair_by": of_key}, {"limit": Limit(1, key=of_key)}], ids=["fair_by", "limit"])
def test_a_tenant_with_many_queued_runs_delays_the_first_of_another_by_less_than_a_second_of_work(queue, going, limit):
    number = 2_000 if "fdb" in queue.url or "mongodb" in queue.url else 20_000
    job = queue.event(module.work, name="work", **limit)
    job.fire_many([("large", 0.002)] * number)

    with working(queue, *["default"] * 2):
        until(lambda: len(going.order) > 50, 60)
        small = [job.fire(f"small {n}", 0.002) for n in range(3)]
        began, before = time.monotonic(), len(going.order)
        for run in small:
            run.wait(30)
        between = len(going.order) - before
        took = time.monotonic() - began

    assert between * 0.002 < 1.0
    assert took < 10
    assert going.order[-1] == "large" or between < number


def test_keys_take_turns(lone, going):
    job = lone.event(module.work, name="work", fair_by=of_key)
    job.fire_many([("a", 0.005)] * 200)
    job.fire_many([("b", 0.005)] * 50)
    job.fire_many([("c", 0.005)] * 50)

    with working(lone):
        until(lambda: len(going.order) >= 100)

    first = Counter(going.order[:100])
    assert all(first[key] >= 15 for key in "abc"), first


# -- whatever else fires ---------------------------------------------------------------------------------------------


class Report(JobMixin):
    routes = ("default",)
    limit = Limit(1, key=of_key)

    def work(self, key):
        return f"report {key}"


def test_classes_chains_schedules_windows_and_async_fires_have_limits(lone, going):
    import asyncio

    job = lone.event(module.work, name="work", limit=Limit(1, key=of_key))
    tail = lone.event(module.work, name="tail", limit=Limit(1, key="tail"))
    late = lone.event(lambda key: key, name="late", limit=Limit(1), unique=of_key, window=100)
    with working(lone, *["default"] * 3):
        lone += Report()("x")
        assert lone.last.wait(30) == "report x"
        assert job.then(tail).fire("a").wait(30) == "a"
        assert job.after([job.fire("b"), job.fire("b")]).fire("b").wait(30) == "b"
        lone.schedule("often", job.args("tick", 0.001), every=1)
        until(lambda: going.order.count("tick") >= 2)
        assert lone.schedules()[0].routes == ("default",)
        lone.unschedule("often")
        assert late.fire("k").wait(30) == "k"

        async def many():
            return await asyncio.gather(*[job.afire("async") for _ in range(10)])

        for run in asyncio.run(many()):
            assert run.wait(30) == "async"
    assert set(going.most.values()) == {1}


def test_drain_takes_turns_and_keeps_rates(lone):
    one = lone.event(lambda key: key, name="one", limit=Limit(1, key=of_key))
    rate = lone.event(lambda key: key, name="rate", limit=Limit(2, per=1000, burst=2))
    nested = lone.event(lambda: one.fire("inner").wait(), name="nested", limit=Limit(1))
    runs = [*one.fire_many([(n % 3,) for n in range(9)]), nested.fire()]
    rate.fire_many([(n,) for n in range(5)])

    drain(lone)

    assert {run.state for run in runs} == {State.SUCCEEDED}
    assert runs[-1].result == "inner"
    assert lone.count()[State.QUEUED] == 3


def test_a_transaction_of_ones_own_takes_no_limited_run(tmp_path):
    queue = SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db")
    job = queue.event(len, name="count", limit=Limit(1))
    queue.count()
    refused = "via= does not go with a limit"
    with closing(sqlite3.connect(tmp_path / "runs.db")) as via, pytest.raises(WrongCall, match=refused):
        job.options(via=via).fire("abc")


def test_the_queue_shows_limited_runs_on_their_route_and_nothing_of_ours(tmp_path):
    url = f"sqlite:///{tmp_path}/runs.db"
    queue = SkunkQueue("demo", url)
    job = queue.event(lambda key: key, name="work", routes="mail", limit=Limit(3, key=of_key, per=timedelta(minutes=1)))
    runs = job.fire_many([("a",), ("b",)])

    def said(*words):
        answer = CliRunner().invoke(skunq, [*words, "--url", url], terminal_width=200)
        assert answer.exit_code == 0, answer.output
        assert "~" not in answer.output
        assert "^" not in answer.output
        return answer.output

    assert queue.count()[State.QUEUED] == 2
    assert [run.id for run in queue.runs(route="mail")] == [run.id for run in reversed(runs)]
    assert len(json.loads(said("runs", "--json", "-r", "mail"))) == 2
    assert {row["route"] for row in json.loads(said("runs", "--json"))} == {"mail"}
    (route,) = json.loads(said("top", "--json"))["routes"]
    assert (route["route"], route["queued"]) == ("mail", 2)
    assert "3 in 1m 00s" in said("show", runs[0].id)
    assert json.loads(said("show", "--json", runs[0].id))["limit"] == {"count": 3, "per": 60.0, "burst": 1}
    assert queue.kill_all_by_route("mail") == 2
    assert queue.count()[State.QUEUED] == 0


def test_when_all_is_done_no_turn_is_left(queue, going):
    jobs = [
        queue.event(module.work, name="one", limit=Limit(1, key=of_key)),
        queue.event(module.work, name="five", limit=Limit(5, key=of_key)),
        queue.event(module.work, name="fair", fair_by=of_key),
        queue.event(module.work, name="rate", limit=Limit(1000, per=1, key=of_key)),
    ]
    with working(queue, *["default"] * 3, lease=1.5):
        for job in jobs:
            job.fire_many([(n % 10, 0.001) for n in range(30)]).wait(60)
        until(lambda: turns(queue) == 0)


def test_a_hundred_of_each_kind_fired_one_by_one_while_pools_come_and_go(queue, going):
    jobs = [
        queue.event(module.work, name="one", limit=Limit(1, key=of_key)),
        queue.event(module.work, name="three", limit=Limit(3, key=of_key)),
        queue.event(module.work, name="fair", fair_by=of_key),
    ]
    runs = defaultdict(list)
    for n in range(10):
        with working(queue, *["default"] * 2, lease=600):
            for job in jobs:
                runs[job.name] += [job.fire(f"{job.name} {n % 4}", 0.002) for _ in range(10)]
    working(queue, "default").run_until_idle()

    assert {name: Counter(str(run.state) for run in each) for name, each in runs.items()} == {
        name: {"succeeded": 100} for name in ("one", "three", "fair")
    }
    assert all(most <= (1 if key.startswith("one") else 3) for key, most in going.most.items() if "fair" not in key)


# -- one behind the other, in a worker that executes several at a time ----------------------------------------------


@pytest.fixture
def spread(lone, going):
    """A job with a limit of two at once; a worker with eight places has learned that its runs are quick."""
    job = lone.event(module.work, name="work", limit=Limit(2, key="k"))
    hold = lone.event(module.hold, name="hold", limit=Limit(2, key="k"))
    with working(lone, concurrency=8) as pool:
        job.fire_many([("quick", 0.0)] * 400).wait(60)
        going.most.clear()
        yield job, hold, pool


def test_several_runs_of_a_limit_are_claimed_together_and_start_one_behind_the_other(spread, going, monkeypatch):
    job, _, _ = spread
    got = []
    exchange = MemoryPersister.exchange

    def recorded(self, outcomes, wants, **options):
        result = exchange(self, outcomes, wants, **options)
        got.append(Counter(claim.token for claim in result.claims if key_of_route(claim.envelope.route)))
        return result

    monkeypatch.setattr(MemoryPersister, "exchange", recorded)
    del going.order[:]
    job.fire_many([(n, 0.001, "all") for n in range(200)]).wait(60)

    assert going.most == {"all": 2}
    assert max(max(each.values(), default=0) for each in got) > 5
    assert sorted(going.order) == list(range(200))


def test_of_one_at_once_they_keep_their_order(lone, going):
    job = lone.event(module.work, name="work", limit=Limit(1, key="k"))
    with working(lone, concurrency=8):
        job.fire_many([(n, 0.0005, "all") for n in range(400)]).wait(60)

    assert going.most == {"all": 1}
    assert going.order == list(range(400))


def test_what_is_behind_a_long_run_is_given_back(spread, going):
    job, hold, _ = spread
    long = hold.fire("long")
    until(lambda: long.state == State.RUNNING)
    job.fire_many([("quick", 0.0)] * 100).wait(30)

    also = hold.fire_many([("long too",), ("third",)])
    until(lambda: State.RUNNING in {run.state for run in also})
    time.sleep(0.3)
    assert sorted(run.state for run in (long, *also)) == ["queued", "running", "running"]
    going.release.set()
    also.wait(30)


def test_where_the_pool_stops_it_is_handed_back_and_lost_nowhere(lone, going):
    job = lone.event(module.work, name="work", limit=Limit(2, key="k"))
    runs = job.fire_many([("all", 0.002)] * 600)
    for _ in range(3):
        with working(lone, concurrency=4):
            time.sleep(0.2)
    with working(lone, concurrency=4):
        runs.wait(60)

    assert going.most == {"all": 2}
    assert len(going.order) == 600
    assert {run.attempts for run in runs} == {1}


def test_one_that_is_cancelled_does_not_start_and_those_behind_it_do(spread, going):
    job, _, _ = spread
    del going.order[:]
    runs = job.fire_many([(n, 0.004, "all") for n in range(60)])
    for run in list(runs)[20:40:4]:
        run.cancel()
    until(lambda: not any(run.state in ("queued", "running") for run in runs))

    cancelled = [n for n, run in enumerate(runs) if run.state == State.CANCELLED]
    assert set(going.order) | set(cancelled) == set(range(60))
    assert len(going.order) == len(set(going.order))
    assert all(run.state == State.SUCCEEDED for n, run in enumerate(runs) if n not in cancelled)
    assert going.most == {"all": 2}


def test_a_failure_ends_none_of_those_behind_it(lone, going):
    job = lone.event(module.bad_at_first, name="bad", limit=Limit(1, key="k"), retries=1, backoff=0.01)
    with working(lone, concurrency=4):
        lone.event(module.same, name="same", limit=Limit(1, key="k")).fire_many([("q",)] * 300).wait(60)
        runs = job.fire_many([("bad",)] + [(n,) for n in range(30)])
        runs.wait(30)

    assert going.tries["bad"] == 2
    assert all(going.tries[n] == 1 for n in range(30))


def test_when_a_worker_is_killed_those_behind_are_run_by_the_next(pools_url, store, tmp_path):
    if store.url.startswith("memory"):
        pytest.skip("processes share no memory")
    from pools import PoolProcess

    with SkunkQueue("demo", pools_url) as queue:
        job = queue.event(module.work, name="work", limit=Limit(2, key="k"))
        runs = job.fire_many([("all", 0.005)] * 300)
        with PoolProcess(tmp_path, pools_url, "default", concurrency=4) as pool:
            for _ in range(3):
                until(lambda: queue.count()["running"] > 2)
                time.sleep(0.15)
                for pid in pool.workers():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
            runs.wait(60)

        assert {run.state for run in runs} == {State.SUCCEEDED}


def suspect(queue, job, *args):
    """A run that has killed its worker once, as far as the store knows: the next one executes nothing beside it."""
    run = job.fire_at(3600, *args)
    now, route = queue.now(), queue.store.get([run.id])[run.id].envelope.route
    later = now + 4000  # so that no pool is quicker
    (claim,) = queue.store.claim([Want("demo", (route,), "w", new_token(), 1)], now=later, until=later + 60)
    again = Outcome.again(due=now, notes=encode_notes(Notes(suspect=True)))
    assert queue.store.commit([(claim, again)], now=now)
    return run


def test_nothing_that_follows_starts_beside_a_run_that_is_to_run_alone(lone, going):
    job = lone.event(module.work, name="work", limit=Limit(1, key="k"))
    other = lone.event(module.work, name="other")
    with working(lone, concurrency=4):
        job.fire_many([("quick", 0.0)] * 400).wait(60)
        runs = job.fire_many([("short", 0.003, "all")] * 300)
        time.sleep(0.1)
        before = going.most["all"]
        alone = suspect(lone, other, "alone", 0.3, "all")
        alone.wait(30)
        runs.wait(30)

    assert before == going.most["all"] == 1


def test_nothing_waits_behind_a_run_that_waits_to_run_alone(lone, going):
    """It may wait for as long as a run of another job takes."""
    job = lone.event(module.work, name="work", limit=Limit(2, key="k"))
    hold = lone.event(module.hold, name="hold")
    with working(lone, concurrency=4):
        job.fire_many([("quick", 0.0)] * 400).wait(60)
        long = hold.fire("long")
        until(lambda: long.state == State.RUNNING)
        waits = suspect(lone, job, "alone", 0.0)
        job.fire_many([("quick", 0.0)] * 30).wait(30)
        assert waits.state in (State.QUEUED, State.RUNNING)
        going.release.set()
        waits.wait(30)


def test_one_long_run_has_nothing_given_back_that_follows_others(lone, going, monkeypatch):
    given = []
    hand_back = Completer.hand_back
    monkeypatch.setattr(
        Completer, "hand_back", lambda self, slot, many: given.extend(many) or hand_back(self, slot, many)
    )
    one = lone.event(module.work, name="one", limit=Limit(1, key="one"))
    hold = lone.event(module.hold, name="hold", limit=Limit(1, key="one"))
    other = lone.event(module.work, name="other", limit=Limit(1, key="other"))
    with working(lone, concurrency=4):
        one.fire_many([("quick", 0.0)] * 400).wait(60)
        long = hold.fire("long")
        behind = one.fire_many([("quick", 0.0)] * 30)
        until(lambda: long.state == State.RUNNING)
        time.sleep(0.5)
        given.clear()
        other.fire_many([("other", 0.0)] * 1000).wait(60)
        assert len(given) < 300
        going.release.set()
        behind.wait(30)


def test_a_worker_is_replaced_in_time_whatever_follows_there(lone, going, monkeypatch):
    left = []
    leave = Slot.leave
    monkeypatch.setattr(Slot, "leave", lambda self: left.append(self.runs) or leave(self))
    job = lone.event(module.work, name="work", limit=Limit(4, key="k"))
    with working(lone, concurrency=4, max_runs=20):
        job.fire_many([("all", 0.0005)] * 300).wait(60)

    assert max(left) <= 20
