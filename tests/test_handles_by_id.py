"""A handle from an id: what a web page, a session or another process keeps of a run."""

from __future__ import annotations

import asyncio

import pytest
from hands import Hands

from skunkqueue import Run, RunGone, SkunkQueue, StoreAway, WrongCall

UNKNOWN = "0196f3a2b8c15f0e6d1b2c3d4e5f"
NO_IDS = ["", None, 5, b"0196", "a\nb", "\ud800", "x\x00y", "\x1b[2J", "x" * 201, [UNKNOWN]]


@pytest.fixture
def queue(store, monkeypatch):
    """A queue on a store of each kind."""
    with SkunkQueue("demo", "memory://handles") as queue:
        monkeypatch.setattr(queue.connection, "store", store)
        yield queue


@pytest.fixture
def add(queue):
    @queue.event(routes=["default"])
    def add(first, second):
        return first + second

    return add


def test_an_id_gives_the_handle_of_its_run(queue, add):
    fired = add.fire_at(3600, 4, 5)

    run = queue.run(fired.id)

    assert run == fired
    assert (run.state, run.due) == ("scheduled", fired.due)
    assert run.promote()
    Hands(queue).succeed(9)
    assert (run.wait(5), run.state, run.result) == (9, "succeeded", 9)
    assert queue.run(fired.id).result == 9


def test_an_id_that_never_was_says_so_at_once(queue, add):
    add.fire(1, 2)

    with pytest.raises(RunGone, match=f"there is no run {UNKNOWN} on queue demo"):
        queue.run(UNKNOWN)


def test_an_id_of_another_queue_is_none_of_this_one(queue, add):
    fired = add.fire(1, 2)

    with SkunkQueue("other", "memory://handles") as other, pytest.raises(RunGone):
        other.run(fired.id)


def test_a_run_that_is_no_longer_kept_says_so(queue, add):
    fired = add.options(keep=0).fire(1, 2)
    Hands(queue).succeed(3)
    while queue.store.purge(now=queue.clock.now() + 9e6):
        pass

    with pytest.raises(RunGone):
        queue.run(fired.id)


def test_the_end_of_an_id_is_refused_with_how_to_find_the_whole(queue, add):
    """Whoever knows an id has its run, in a web page for instance; an ending could be guessed."""
    end = add.fire(1, 2).id[-8:]

    with pytest.raises(RunGone, match=f"an id has 28 characters: .* `skunq show {end}` tells the whole of it"):
        queue.run(end)
    with pytest.raises(RunGone) as raised:
        queue.run("somebody-else's")
    assert "28 characters" not in str(raised.value)


def test_a_handle_of_nothing_says_so_whatever_it_is_asked(queue):
    run = Run(queue, UNKNOWN)

    with pytest.raises(RunGone):
        run.state
    with pytest.raises(RunGone):
        run.wait()
    with pytest.raises(RunGone):
        asyncio.run(run._awaited())
    assert (run.result, run.error, run.attempts, run.due, run.progress, run.note) == (None, None, 0, None, None, None)
    assert (run.cancel(), run.promote()) == (False, False)


@pytest.mark.parametrize("verb", ["run", "cancel", "promote"])
@pytest.mark.parametrize("id", NO_IDS, ids=repr)
def test_what_is_no_id_is_a_wrong_call(verb, id):
    with SkunkQueue("demo", "memory://no-ids") as queue, pytest.raises(WrongCall, match=r"\bid\b"):
        getattr(queue, verb)(id)


def test_while_the_store_is_away_nothing_is_said_of_an_id(monkeypatch):
    def away(ids):
        raise StoreAway("away")

    with SkunkQueue("demo", "memory://handles-away") as queue:
        monkeypatch.setattr(queue.store, "get", away)

        with pytest.raises(StoreAway):
            queue.run(UNKNOWN)
        assert Run(queue, UNKNOWN).state == "queued"
