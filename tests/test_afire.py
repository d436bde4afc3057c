"""Firing from event loops: what is fired at the same time is put in one call, and each caller gets its own answer."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from skunkqueue import SkunkQueue, StoreAway, StoreRefused, TooLarge
from skunkqueue.persistence.memory import MemoryPersister

LIMIT = 30


class Slow(MemoryPersister):
    """A store whose first put takes until it is let go, and which keeps what each put was given."""

    def __init__(self):
        super().__init__()
        self.puts = []
        self.begun = threading.Event()
        self.go = threading.Event()

    def put(self, envelopes, **rest):
        self.puts.append([envelope.id for envelope in envelopes])
        self.begun.set()
        assert self.go.wait(LIMIT)
        return super().put(envelopes, **rest)


@pytest.fixture
def queue():
    with SkunkQueue("demo", "memory://") as queue:
        yield queue


@pytest.fixture
def store(queue):
    queue.connection.store = Slow()
    return queue.connection.store


def job_of(queue, **options):
    @queue.event(**options)
    def add(a, b=0):
        return a + b

    return add


async def held_up(store, *fires):
    """The results of fires that gather while a first one is under way."""
    first = asyncio.ensure_future(fires[0])
    await asyncio.to_thread(store.begun.wait, LIMIT)
    others = [asyncio.ensure_future(fire) for fire in fires[1:]]
    await asyncio.sleep(0)
    store.go.set()
    return await asyncio.wait_for(asyncio.gather(first, *others, return_exceptions=True), LIMIT)


def test_what_is_fired_meanwhile_goes_with_the_next_put_in_order(queue, store):
    add = job_of(queue)

    runs = asyncio.run(held_up(store, *(add.afire(number) for number in range(200))))

    assert [len(put) for put in store.puts] == [1, 199]
    assert [id for put in store.puts for id in put] == [run.id for run in runs]
    assert sorted(run.id for run in runs) == [run.id for run in runs]
    assert {run.state for run in runs} == {"queued"}


def test_a_call_that_is_wrong_fails_alone_and_at_once(queue, store):
    store.go.set()
    add = job_of(queue)
    small = SkunkQueue("demo", "memory://", max_payload=200)

    async def fire():
        fires = [add.afire(1), add.afire(), job_of(small).afire("x" * 500), add.afire(2)]
        return await asyncio.gather(*fires, return_exceptions=True)

    first, wrong, large, second = asyncio.run(fire())

    assert isinstance(wrong, TypeError)
    assert isinstance(large, TooLarge)
    assert (first.state, second.state) == ("queued", "queued")


def test_what_the_store_refuses_fails_its_own_caller_only(queue, store):
    add = job_of(queue)
    put = store.put

    def picky(envelopes, **rest):
        if any(b"bad" in envelope.body for envelope in envelopes):
            raise StoreRefused("no bad words")
        return put(envelopes, **rest)

    store.put = picky
    first, good, bad, second = asyncio.run(
        held_up(store, add.afire(0), add.afire("good"), add.afire("bad"), add.afire("fine"))
    )

    assert isinstance(bad, StoreRefused)
    assert {run.state for run in (first, good, second)} == {"queued"}


def test_where_the_store_is_away_each_caller_holds_its_own_run(queue, store):
    store.go.set()
    add = job_of(queue)
    put, store.put = store.put, lambda *_, **__: _away()

    errors = asyncio.run(_gathered([add.afire(number) for number in range(3)]))
    store.put = put

    assert all(type(error) is StoreAway for error in errors)
    assert len(set(map(id, errors))) == 3
    assert len({error.runs[0].id for error in errors}) == 3
    assert [len(error.runs.fire()) for error in errors] == [1, 1, 1]
    assert queue.count()["queued"] == 3


def _away():
    raise StoreAway("the store is away")


async def _gathered(fires):
    return await asyncio.gather(*fires, return_exceptions=True)


def test_several_loops_fire_through_one_queue(queue):
    add = job_of(queue)
    fired = {}

    def fire(name):
        fired[name] = asyncio.run(_gathered([add.afire(name, number) for number in range(50)]))

    threads = [threading.Thread(target=fire, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)

    ids = [[run.id for run in runs] for runs in fired.values()]
    assert all(sorted(each) == each for each in ids)
    assert len({id for each in ids for id in each}) == 200
    assert queue.count()["queued"] == 200


def test_a_caller_that_is_cancelled_disturbs_nobody(queue, store):
    add = job_of(queue)

    async def fire():
        first = asyncio.ensure_future(add.afire(1))
        await asyncio.to_thread(store.begun.wait, LIMIT)
        second, third = asyncio.ensure_future(add.afire(2)), asyncio.ensure_future(add.afire(3))
        await asyncio.sleep(0)
        second.cancel()
        store.go.set()
        return await asyncio.wait_for(asyncio.gather(first, third), LIMIT)

    assert [run.state for run in asyncio.run(fire())] == ["queued", "queued"]


def test_its_options_hold_as_with_fire(queue):
    add = job_of(queue, routes=["foo", "bar"])

    async def fire():
        once = add.options(unique="x", routes="foo")
        return await once.afire(1), await once.afire(2), await add.afire_at(3600, 3)

    first, second, both = asyncio.run(fire())

    assert first.id == second.id
    assert [run.state for run in both] == ["scheduled", "scheduled"]
    assert add.last is both


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_forked_process_fires_with_a_thread_of_its_own(tmp_path):
    with SkunkQueue("demo", f"sqlite:///{tmp_path}/q.db") as queue:
        add = job_of(queue)
        asyncio.run(add.afire(1))

        pid = os.fork()
        if not pid:
            code = 1
            try:
                asyncio.run(asyncio.wait_for(add.afire(2), LIMIT))
                code = 0
            finally:
                os._exit(code)

        assert os.waitpid(pid, 0)[1] == 0
        assert queue.count()["queued"] == 2


def test_the_thread_ends_when_nothing_more_is_fired(queue):
    asyncio.run(job_of(queue).afire(1))

    for thread in threading.enumerate():
        if thread.name == "skunkqueue-afire":
            thread.join(LIMIT)
    assert "skunkqueue-afire" not in [thread.name for thread in threading.enumerate()]

    assert asyncio.run(job_of(queue).afire(2)).state == "queued"
