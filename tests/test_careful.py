"""Runs that are marked before they start wait behind no neighbour where a worker, or a place in it, is free."""

from __future__ import annotations

import itertools
import threading

import pytest
from pools import LIMIT, marks, until
from test_worker_faults import jobs, pool, store_url  # noqa: F401

from skunkqueue.clock import ticks
from skunkqueue.envelope import Claim, Envelope, Outcome, Seal, Want
from skunkqueue.policy import Notes, encode_notes
from skunkqueue.worker.pool.heartbeat import Beaten
from skunkqueue.worker.pool.leases import Leases
from skunkqueue.worker.pool.lull import Lull
from skunkqueue.worker.pool.settings import Settings
from skunkqueue.worker.pool.slot import SOON, Held, Slot


def test_a_run_at_most_once_claimed_ahead_of_a_long_one_goes_to_another_worker(jobs, pool, tmp_path):  # noqa: F811
    quick = jobs.add.fire_many([(n, 1) for n in range(600)])  # so that workers claim far ahead
    long = jobs.marked.fire("long", 20)
    once = jobs.add.options(at_most_once=True).fire_many([(n, 2) for n in range(8)])

    with pool("foo", "foo"):
        assert quick.wait(LIMIT) == list(range(1, 601))
        until(lambda: marks(tmp_path, "long"))
        assert once.wait(10) == list(range(2, 10))
        assert long.state == "running"
        assert {run.attempts for run in once} == {1}
        long.cancel()


@pytest.mark.parametrize("first", [True, False])
def test_a_run_at_most_once_and_those_after_it_take_the_free_places(jobs, pool, tmp_path, first):  # noqa: F811
    with pool("foo", concurrency=4):
        long = jobs.marked.options(at_most_once=first).fire("long", 20)
        until(lambda: marks(tmp_path, "long"))

        once = jobs.marked.options(at_most_once=True).fire("once", 0.5, "once")
        others = [jobs.add.options(at_most_once=n % 2 == 0).fire(n, 1) for n in range(6)]

        assert [run.wait(10) for run in others] == list(range(1, 7))
        assert once.wait(10) == "once"
        assert long.state == "running"
        assert once.attempts == 1
        long.cancel()


def make_suspect(jobs, *arguments, after):  # noqa: F811
    """A run that is to run alone, ripe after so many seconds."""
    queue = jobs.queue
    run = jobs.marked.fire(*arguments)
    now = queue.now()
    (claim,) = queue.store.claim([Want("demo", ("foo",), "w", "token", 1)], now=now, until=now + 60)
    outcome = Outcome.again(due=now + after, notes=encode_notes(Notes(suspect=True)))
    assert queue.store.commit([(claim, outcome)], now=now)
    return run


def test_while_a_run_waits_that_is_to_run_alone_the_other_places_of_its_worker_are_used(jobs, pool, tmp_path):  # noqa: F811
    alone = make_suspect(jobs, "alone", 0.1, "done", after=1.5)
    with pool("foo", concurrency=4):
        long = jobs.marked.fire("long", 60)
        until(lambda: marks(tmp_path, "long") and alone.state == "running")

        others = [jobs.marked.fire(f"other{n}", 0.2, n) for n in range(24)]

        assert [run.wait(LIMIT) for run in others] == list(range(24))
        assert (str(long.state), marks(tmp_path, "alone")) == ("running", 0)
        long.cancel()
        assert alone.wait(LIMIT) == "done"


def test_a_run_that_is_to_run_alone_runs_though_others_come_all_the_time(jobs, pool, tmp_path):  # noqa: F811
    alone = make_suspect(jobs, "alone", 0.1, "done", after=0.5)
    over = threading.Event()

    def keep_busy():
        for n in itertools.count():
            if over.wait(0.1):
                return
            jobs.marked.fire(f"busy{n}", 0.6)

    busy = threading.Thread(target=keep_busy)
    with pool("foo", concurrency=4):
        busy.start()
        try:
            assert alone.wait(LIMIT) == "done"
        finally:
            over.set()
            busy.join()


def test_a_worker_takes_nothing_new_for_longer_and_longer_and_a_fifth_of_the_time():
    lull, now, on, longest = Lull(), 1000.0, 0.0, 0.0
    while longest < 60:
        until = lull.until(now)
        assert now < until
        assert lull.is_on(until - 1e-6) == lull.is_on(now)
        if lull.is_on(now):
            on, longest = on + until - now, max(longest, until - now)
        elif longest:
            assert on <= (until - 1000.0) / 5 + 1e-6
        now = until


def test_the_next_run_that_is_to_run_alone_begins_with_a_short_wait():
    lull = Lull()
    for now in range(100):
        lull.is_on(float(now))
    lull.over()

    assert lull.is_on(200.0)
    assert lull.until(200.0) == 200.25


def suspect(id):
    """A run that is to run alone."""
    envelope = Envelope(id, "demo", "foo", 0.0, b"", None, None, 60.0)
    claim = Claim(envelope, "token", "w", 0.0, 0, b"")
    return Held(claim, Seal(), Notes(suspect=True), "job", careful=True, alone=True)


def test_what_waits_behind_a_long_run_that_is_to_run_alone_is_taken_back_for_other_workers():
    slot = Slot("w", "foo.1", "demo", "foo", 4)
    slot.held[1] = suspect("a")
    slot.waiting.append(suspect("b"))

    assert slot.is_stuck_from == float("inf")  # not known to have started
    slot.begun(1, 100.0)

    assert slot.is_stuck_from == 100.0 + 2 * SOON
    assert [held.claim.id for held in slot.take_back()] == ["b"]


def test_a_run_that_is_to_run_alone_is_not_handed_out_with_those_that_were_recalled():
    slot = Slot("w", "foo.1", "demo", "foo", 4)
    slot.recalled.append(suspect("a"))
    slot.waiting.append(suspect("b"))

    assert slot.to_mark() is None


def test_a_run_whose_permit_is_lost_while_it_is_being_marked_is_handed_back():
    """Else it would start once it is marked, though it may no longer run."""
    slot = Slot("w", "foo.1", "demo", "foo", 1)
    slot.waiting.append(suspect("a"))
    marking = slot.to_mark()
    permit = Claim(Envelope("permit", "demo", "foo~turns", 0.0, b"", None, None, 0.0), "other", "w", 0.0, 0, b"")
    back = []
    leases = Leases(
        [slot], Settings("pool", "demo", ("foo",)), None, None, None, None, lambda _, many: back.extend(many)
    )
    leases.others_lost = lambda lost: {*lost, (marking.claim.id, marking.claim.token)}

    leases.beaten(Beaten([permit, marking.claim], {marking.claim.id}, ticks() + 9, {}, ()))

    assert (back, slot.marking, slot.busy) == ([marking], None, False)
