"""Chains as pools work on them: one step follows the other at once, though no timer of a pool helps."""

from __future__ import annotations

import io
import threading
import time

import pytest
from pools import until

from skunkqueue import SkunkQueue, WorkerPool
from skunkqueue.clock import ticks
from skunkqueue.gates import gate
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.testing.makers import ids_of, sealed
from skunkqueue.worker.pool import awaited, timekeeper


@pytest.fixture
def queue(pools_url):
    with SkunkQueue("demo", pools_url) as queue:
        yield queue


@pytest.fixture
def nobody_looks(monkeypatch):
    """No pool looks at a gate a second time, unless it has been told something."""
    monkeypatch.setattr(gate, "FIRST_LOOK", 600.0)
    monkeypatch.setattr(gate, "LONGEST_LOOK", 600.0)


def working(queue, *routes, **options):
    return WorkerPool(queue, routes or ["default", "default"], in_process=True, log=io.StringIO(), **options)


def grow(seen=()):
    return [*seen, time.monotonic()]


def slow(seconds):
    time.sleep(seconds)
    return seconds


def last_of(members):
    return len(members)


@pytest.mark.parametrize("pools", [1, 2])
def test_gates_that_are_fired_soon_after_others_are_seen_at_once(queue, pools, monkeypatch):
    """Pools are told of a gate once a second at most. Those of the next chains they find as runs come and end."""
    monkeypatch.setattr(timekeeper, "OFTEN", 60.0)
    job = queue.event(grow)
    report = queue.event(last_of)
    with working(queue), working(queue) if pools == 2 else io.StringIO():
        for _ in range(10):
            assert len(job.then(job).then(job).then(job).fire().wait(30)) == 4
        for _ in range(3):
            members = job.fire_many([()] * 20)
            assert report.after(members).fire(members).wait(30) == 20


@pytest.mark.parametrize("pools", [1, 2])
def test_all_that_wait_for_one_run_go_on_when_it_ends(queue, nobody_looks, pools):
    """Each has a gate of its own, and no pool looks at these again."""
    job, report = queue.event(slow), queue.event(last_of)
    with working(queue, lease=600), working(queue, lease=600) if pools == 2 else io.StringIO():
        run = job.fire(1.0)
        waiting = [report.after(run).fire([n]) for n in range(20)]
        assert [each.wait(30) for each in waiting] == [1] * 20


# -- where another pool executes what is waited for -----------------------------------------------------------------


def test_a_step_on_another_route_follows_at_once(queue, nobody_looks):
    """The pool that keeps the gate does not execute what it waits for, and is not told by the one that does."""
    one, other = queue.event(slow, routes="one"), queue.event(slow, name="other", routes="other")
    with working(queue, "one", lease=600), working(queue, "other", lease=600):
        for seconds in (0.5, 0.4):
            assert one.then(other).then(one).then(other).fire(seconds).wait(30) == seconds


def test_a_member_that_ends_last_on_another_route_is_noticed_at_once(queue, nobody_looks):
    job, report = queue.event(slow, routes="one"), queue.event(last_of, routes="other")
    with working(queue, "one", lease=600), working(queue, "other", lease=600):
        members = job.fire_many([(0.5,), (0.1,), (0.4,)])
        assert report.after(members).fire(members).wait(30) == 3


def test_many_that_wait_for_something_else_keep_none_from_being_noticed(queue, nobody_looks, monkeypatch):
    monkeypatch.setattr(awaited, "MOST", 2)
    job, other = queue.event(slow, routes="one"), queue.event(slow, name="other", routes="other")
    never = [job.options(routes="nowhere").fire(0) for _ in range(7)]
    with working(queue, "one", lease=600), working(queue, "other", lease=600):
        waiting = [other.after(run).fire(0) for run in never]
        assert job.then(other).fire(1.0).wait(30) == 1.0
        assert job.then(other).fire(0.5).wait(30) == 0.5

    assert {str(run.state) for run in waiting} == {"waiting"}


def turned(keeper, ids, is_so):
    """What it tells until that is so."""
    told, end = [], time.monotonic() + 30
    while not is_so(told) and time.monotonic() < end:
        told += keeper.keep(ids)
        time.sleep(0.005)
    return told


def test_a_run_that_is_not_there_is_told_once_and_others_are_waited_for(monkeypatch):
    """What a gate waits for may be put later. It is not asked for again and again until then."""
    monkeypatch.setattr(awaited, "AGAIN", 600.0)
    store, asked = MemoryPersister(), []
    open_of = MemoryPersister.open_of
    monkeypatch.setattr(MemoryPersister, "open_of", lambda self, ids: asked.append(len(ids)) or open_of(self, ids))
    store.put([sealed(1)])
    keeper = awaited.Awaited(store, lambda call: call(), lambda: None)
    ids = [sealed(n).id for n in (1, 2)]

    assert turned(keeper, ids, bool) == [sealed(2).id]
    assert turned(keeper, ids, lambda _: len(asked) >= 2) == []
    store.cancel([sealed(1).id], now=0.0)
    assert turned(keeper, ids, bool) == ids_of([sealed(1)])

    keeper.close()
    assert asked[0] == 2 and set(asked[1:]) == {1}


def test_a_wait_that_ends_for_another_reason_is_followed_by_the_next(monkeypatch):
    """Nobody else wakes the pool for that. Among many, those are asked for again whose wait it was."""
    monkeypatch.setattr(awaited, "MOST", 1)
    store, asked = MemoryPersister(), []
    open_of = MemoryPersister.open_of
    monkeypatch.setattr(MemoryPersister, "open_of", lambda self, ids: asked.append(ids) or open_of(self, ids))
    monkeypatch.setattr(MemoryPersister, "wait", lambda self, keys, timeout: None)
    store.put([sealed(n) for n in range(3)])
    keeper = awaited.Awaited(store, lambda call: call(), lambda: None)
    ids = [sealed(n).id for n in range(3)]

    for _ in range(9):
        keeper.keep(ids)
        until(lambda: not keeper._is_waiting)
        assert keeper.until() <= ticks() + 0.3
        time.sleep(max(0.0, keeper.until() - ticks()))

    keeper.close()
    assert [ids.index(one) for (one,) in asked] == [1, 1, 1, 1, 2, 2, 2, 2]


def test_waits_grow_long_until_something_new_is_awaited_or_there_is_much():
    keeper = awaited.Awaited(MemoryPersister(), lambda call: call(), lambda: None)

    def length(number=1, *, is_new=False):
        keeper.is_new = is_new
        keeper._advance(number)
        return keeper._length

    assert [length() for _ in range(5)] == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert length(is_new=True) == 1.0
    assert length() == 2.0
    assert length(awaited.MOST + 1) == 1.0


def test_what_is_newly_awaited_ends_a_long_wait(queue, nobody_looks, monkeypatch):
    """Else it would be part of the next one only, which may be an hour later here."""
    monkeypatch.setattr(awaited, "LONGEST", 3600.0)
    monkeypatch.setattr(awaited, "SHORTEST", 0.5)
    monkeypatch.setattr(awaited.Awaited, "_advance", lambda self, number: setattr(self, "_length", 3600.0))
    one, other = queue.event(slow, routes="one"), queue.event(slow, name="other", routes="other")
    with working(queue, "one", lease=600), working(queue, "other", lease=600):
        waiting = other.after(one.options(routes="nowhere").fire(0)).fire(0)
        until(lambda: any(thread.name == "skunkqueue-awaited" for thread in threading.enumerate()))
        assert one.then(other).fire(1.5).wait(30) == 1.5

    assert waiting.state == "waiting"


def test_nothing_is_asked_where_nothing_is_awaited_or_has_been_only_for_a_moment(monkeypatch):
    monkeypatch.setattr(awaited, "YOUNG", 600.0)
    keeper = awaited.Awaited(MemoryPersister(), lambda call: call(), lambda: None)

    assert list(keeper.keep([])) == list(keeper.keep([sealed(1).id])) == list(keeper.keep([])) == []

    assert keeper._listener is None
