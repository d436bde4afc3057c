"""Work is shared out: no worker is idle while runs wait behind a long one of another, whatever was learned before."""

from __future__ import annotations

import io
import time

import going as module
import pytest
from pools import until

from skunkqueue import Limit, SkunkQueue, WorkerPool
from skunkqueue.envelope import State

LIMITS = {"no limit": None, "at once": Limit(4, key="k"), "rate": Limit(100_000, per=1, burst=100_000, key="k")}


@pytest.fixture
def queue(pools_url):
    with SkunkQueue("demo", pools_url) as queue:
        yield queue


@pytest.fixture
def lone():
    with SkunkQueue("demo", f"memory://lone-{time.monotonic_ns()}") as queue:
        yield queue


@pytest.fixture
def going():
    module.here = module.Going()
    return module.here


def working(queue, *routes, **options):
    return WorkerPool(queue, routes or ("default",), in_process=True, log=io.StringIO(), **options)


@pytest.mark.parametrize("limit", LIMITS)
def test_runs_that_take_longer_than_those_before_are_left_to_idle_workers(queue, going, limit):
    """Each worker has learned that it finishes hundreds soon; the first one claims all that there are."""
    job = queue.event(module.work, name="work", limit=LIMITS[limit])
    with working(queue, *["default"] * 4):
        job.fire_many([("quick", 0.0)] * 1000).wait(60)
        time.sleep(0.2)  # until all are idle
        job.fire_many([("slow", 0.1)] * 40).wait(60)

    assert 3 <= going.most["slow"] <= 4


@pytest.mark.parametrize("limit", LIMITS)
def test_so_are_they_to_the_workers_of_other_pools(lone, going, limit):
    job = lone.event(module.work, name="work", limit=LIMITS[limit])
    with working(lone), working(lone), working(lone), working(lone):
        job.fire_many([("quick", 0.0)] * 1000).wait(60)
        time.sleep(0.2)
        job.fire_many([("slow", 0.1)] * 60).wait(60)

    assert 3 <= going.most["slow"] <= 4


@pytest.mark.parametrize("limit", LIMITS)
def test_a_few_runs_of_which_none_has_ended_are_shared_out_as_well(lone, going, limit):
    job = lone.event(module.work, name="work", limit=LIMITS[limit])
    hold = lone.event(module.hold, name="hold", limit=LIMITS[limit])
    with working(lone, *["default"] * 4):
        job.fire_many([("quick", 0.0)] * 1000).wait(60)
        time.sleep(0.2)
        runs = hold.fire_many([(n,) for n in range(4)])
        until(lambda: all(run.state == State.RUNNING for run in runs))
        going.release.set()
        runs.wait(60)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_worker_that_executes_several_at_a_time_uses_all_its_places(queue, going, limit):
    """Also after long runs, when it is handed no more than it can start."""
    job = queue.event(module.work, name="work", limit=LIMITS[limit])
    hold = queue.event(module.hold, name="hold", limit=LIMITS[limit])
    with working(queue, concurrency=4):
        job.fire_many([("slow", 0.1)] * 20).wait(60)
        runs = hold.fire_many([(n,) for n in range(4)])
        until(lambda: all(run.state == State.RUNNING for run in runs))
        going.release.set()
        runs.wait(60)


def test_what_is_given_up_keeps_its_order(lone, going):
    job = lone.event(module.work, name="work")
    with working(lone):
        job.fire_many([("quick", 0.0)] * 1000).wait(60)
        del going.order[:]
        job.fire_many([(n, 0.03) for n in range(40)]).wait(60)

    assert going.order == list(range(40))
