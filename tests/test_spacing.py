"""Keys of calls, windows and debouncing, on every store with a handed clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from skunkqueue import SkunkQueue, StoreRefused, WrongCall
from skunkqueue.envelope import Outcome, State, Want
from skunkqueue.ids import new_token
from skunkqueue.options import Options
from skunkqueue.spacing import WINDOWS, put_spaced
from skunkqueue.testing import drain
from skunkqueue.testing.makers import sealed

START = datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp()


class World:
    """A store on which runs with one key are fired."""

    def __init__(self, store):
        self.store = store
        self.now = START
        self.number = 0

    def fire(self, key="mail\n7", body=b"", **options):
        self.number += 1
        body = body or b"body %d" % self.number
        envelope = sealed(self.number, due=self.now, body=body, unique=key)
        changed = Options().changed(options)
        return put_spaced(self.store, envelope, changed, lambda run: b"for " + run.encode(), now=self.now)

    def claim(self):
        want = Want("demo", ("foo",), "w", new_token(), 1)
        (claim,) = self.store.claim([want], now=self.now, until=self.now + 1e6)
        return claim

    def end(self, claim=None):
        claim = claim or self.claim()
        self.store.commit([(claim, Outcome.complete(None))], now=self.now)

    def record(self, id):
        return self.store.get([id])[id]


@pytest.fixture
def world(store):
    return World(store)


# -- windows -----------------------------------------------------------------------------------------------------------


def test_within_a_window_only_the_first_runs(world):
    first = world.fire(window=600)
    assert world.fire(window=600) == first
    world.end()
    world.now += 599
    assert world.fire(window=600) == first
    assert world.fire("mail\n8", window=600) != first

    world.now += 2
    second = world.fire(window=600)

    assert second != first
    assert world.record(second).envelope.body.startswith(b"body")
    assert world.fire(window=600) == second


def test_who_meets_a_window_whose_run_is_missing_puts_it(world, monkeypatch):
    first_put = world.store.put
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put", lambda some, **rest: first_put(some) if WINDOWS in some[0].route else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.fire(window=600)  # its sender dies in between

    id = world.fire(window=600)

    assert world.record(id).envelope.body == b"for " + id.encode()
    assert world.fire(window=600) == id


def test_windows_leave_nothing_behind(world):
    world.fire(window=600)
    world.end()

    for world.now in (START + 86400, START + 10 * 86400):
        while world.store.purge(now=world.now):
            pass

    assert world.store.count() == {}


# -- debouncing --------------------------------------------------------------------------------------------------------


def test_each_fire_moves_the_run_and_the_last_arguments_count(world):
    ids = []
    for _ in range(3):
        world.now += 4
        ids.append(world.fire(debounce=5))

    assert [world.record(id).state for id in ids] == [State.CANCELLED, State.CANCELLED, State.QUEUED]
    last = world.record(ids[-1])
    assert (last.ripe, last.envelope.body) == (world.now + 5, b"body 3")


def test_a_fire_while_the_run_runs_leads_to_one_more(world):
    first = world.fire(debounce=5)
    world.now += 5
    running = world.claim()
    assert running.id == first

    second, third = world.fire(debounce=5), world.fire(debounce=5)

    assert [world.record(id).state for id in (first, second, third)] == [
        State.RUNNING, State.CANCELLED, State.QUEUED,
    ]  # fmt: skip
    world.end(running)
    world.now += 5
    assert world.claim().id == third


def test_what_is_about_to_start_is_not_held_back(world):
    first = world.fire(debounce=5)
    world.now += 4.9

    second = world.fire(debounce=5)

    assert {world.record(id).state for id in (first, second)} == {State.QUEUED}


def test_it_gives_up_where_all_keys_are_taken(world):
    for _ in range(19):
        world.fire(debounce=5)
        world.now += 5
        world.claim()
    world.fire(debounce=5)
    world.now += 5
    world.claim()

    with pytest.raises(StoreRefused, match="others with its key"):
        world.fire(debounce=5)


# -- as people fire ----------------------------------------------------------------------------------------------------


@pytest.fixture
def queue(tmp_path):
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        yield queue


def test_a_function_makes_the_key_of_a_call(queue):
    @queue.event(unique=lambda user, text=None: user)
    def mail(user, text=None):
        return user

    first = mail.fire(7)
    assert mail.fire(7, text="other") == first
    assert mail.fire(8) != first
    assert mail.fire_many([(7,), (8,), (9,)])[0] == first
    assert asyncio.run(mail.afire(7)) == first
    drain(queue)

    assert mail.fire(7) != first


def test_windows_and_debouncing_work_from_end_to_end(queue):
    @queue.event(unique=str, window=timedelta(minutes=10))
    def welcome(user):
        return user

    @queue.event(routes=["default", "other"])
    def index(page):
        return page

    run = welcome.fire(7)
    late = index.options(unique="x", debounce=60)
    runs = [late.fire(n) for n in range(3)]
    drain(queue)

    assert welcome.fire(7) == run
    assert run.result == 7
    assert [each.state for each in runs] == [State.CANCELLED, State.CANCELLED, State.SCHEDULED]
    assert len(queue.runs()) == 1 + 6


def test_what_is_wrong_is_said(queue):
    with pytest.raises(WrongCall, match="unique is a function"):
        queue.event(unique="user")(print)
    with pytest.raises(WrongCall, match="more than 0 seconds"):
        queue.event(window=0)(print)
    with pytest.raises(WrongCall, match="give one of them"):
        queue.event(unique=str, window=5, debounce=5)(print)
    job = queue.event(lambda value: value, name="same")
    with pytest.raises(WrongCall, match="was given none"):
        job.options(window=5).fire(1)
    with pytest.raises(WrongCall, match="via= does not go"):
        job.options(window=5, unique="x", via=object()).fire(1)
    for wrong in (None, "", b"x", "a\nb", 1.5):
        with pytest.raises(WrongCall, match="a printable text or a whole number"):
            queue.event(unique=lambda value: value)(lambda value: value).fire(wrong)


# -- keys without more -------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """A queue, a job whose keys are made by a function, and how many envelopes each call of its store put."""
    sizes = []
    with SkunkQueue("demo", "memory://keys") as queue:
        put = type(queue.store).put
        monkeypatch.setattr(
            type(queue.store), "put", lambda store, some, **given: sizes.append(len(some)) or put(store, some, **given)
        )
        yield queue, queue.event(lambda user, text="": text, name="index", unique=lambda user, text="": user), sizes


def test_runs_with_keys_of_their_own_are_put_together(counted):
    queue, job, sizes = counted

    runs = list(job.fire_many([(1, "a"), (2, "b"), (1, "c"), (3, "d")]))

    assert sizes == [4]
    assert runs[2].id == runs[0].id
    assert len({run.id for run in runs}) == 3
    assert {record.envelope.unique for record in queue.store.get([run.id for run in runs]).values()} == {
        "index\n1", "index\n2", "index\n3"
    }  # fmt: skip
    assert job.fire(2).id == runs[1].id
    drain(queue)
    assert [run.result for run in runs] == ["a", "b", "a", "d"]
    assert job.fire(2).id != runs[1].id


def test_so_are_those_that_are_fired_at_the_same_time(counted):
    _, job, sizes = counted

    async def fire():
        return await asyncio.gather(*[job.afire(n % 10) for n in range(50)])

    runs = asyncio.run(fire())

    assert len({run.id for run in runs}) == 10
    assert sum(sizes) == 50
    assert len(sizes) < 10


def test_a_key_made_by_a_function_goes_with_a_transaction_of_ones_own(tmp_path):
    import sqlite3

    with SkunkQueue("demo", f"sqlite:///{tmp_path}/runs.db") as queue:
        job = queue.event(lambda user: user, name="index", unique=lambda user: user)
        first = job.fire(1)
        with sqlite3.connect(tmp_path / "runs.db") as mine:
            assert job.options(via=mine).fire(1).id == first.id
            second = job.options(via=mine).fire(2)
        mine.close()

        assert second.state == State.QUEUED
        assert job.fire(2).id == second.id


def test_a_text_given_for_one_run_goes_before_the_function(counted):
    queue, job, _ = counted

    run = job.options(unique="mine").fire(1)

    assert queue.store.get([run.id])[run.id].envelope.unique.endswith("mine")
