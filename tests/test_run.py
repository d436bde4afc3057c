"""What a caller learns of a run, and what a job learns of its own."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import threading
import time
from datetime import datetime, timedelta

import pytest
from hands import Hands, Unreachable

from skunkqueue import (
    BadSignature,
    JobCancelled,
    JobFailed,
    RunGone,
    Runs,
    SkunkQueue,
    StoreAway,
    WaitTimeout,
    WrongCall,
    current_run,
)
from skunkqueue.clock import Clock
from skunkqueue.codec import Keys, encode_value
from skunkqueue.envelope import Outcome, State
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.policy import Notes, encode_notes
from skunkqueue.run import CurrentRun, set_current
from skunkqueue.watcher import Watcher

LIMIT = 30

_names = itertools.count()


@pytest.fixture
def queue():
    with SkunkQueue("demo", f"memory://run-{next(_names)}") as queue:
        yield queue


@pytest.fixture
def add(queue):
    @queue.event
    def add(first, second):
        return first + second

    return add


@pytest.fixture
def hands(queue):
    return Hands(queue)


def unreachable(queue):
    queue.connection.store = store = Unreachable(queue.store)
    return store


# -- one run


def test_a_run_goes_from_queued_over_running_to_succeeded(add, hands):
    run = add.fire(4, 5)
    assert (run.state, run.result, run.error, run.attempts) == ("queued", None, None, 0)

    (claim,) = hands.take()
    assert (run.state, run.result, run.attempts) == ("running", None, 1)

    hands.commit(claim, Outcome.complete(encode_value(9)))
    assert (run.state, run.result, run.error, run.attempts) == ("succeeded", 9, None, 1)
    assert run.wait() == 9


def test_states_read_like_their_words(add):
    assert f"{add.fire(4, 5).state}" == "queued"


def test_a_run_of_later_is_scheduled(add):
    run = add.fire_at(timedelta(hours=1), 4, 5)

    assert run.state == State.SCHEDULED
    assert abs(run.due - datetime.now().astimezone() - timedelta(hours=1)) < timedelta(minutes=1)


def test_attempts_count_earlier_starts(add, hands):
    run = add.fire(4, 5)
    (claim,) = hands.take()
    hands.commit(claim, Outcome.again(due=None, error="ValueError: once", notes=encode_notes(Notes(starts=1))))

    assert (run.state, run.attempts, run.error) == ("queued", 1, "ValueError: once")
    hands.take()
    assert run.attempts == 2


def test_progress_can_be_read(add, hands):
    run = add.fire(4, 5)
    (claim,) = hands.take()
    hands.commit(claim, Outcome.at(0.4, "half way"))

    assert (run.progress, run.note) == (0.4, "half way")


def test_a_failure_tells_the_type_the_message_and_the_remote_traceback(add, hands):
    run = add.fire(4, 5)
    hands.fail("ZeroDivisionError", "division by zero", "Traceback: line 7")

    with pytest.raises(JobFailed) as caught:
        run.wait(LIMIT)

    failure = caught.value
    assert (failure.type, failure.message) == ("ZeroDivisionError", "division by zero")
    assert "Traceback: line 7" in str(failure)
    assert (run.state, run.result, run.error) == ("failed", None, "ZeroDivisionError: division by zero")


@pytest.mark.parametrize("details", [None, b"m\x01", b"junk", b""])
def test_a_failure_without_readable_details_tells_its_line(add, hands, details):
    run = add.fire(4, 5)
    (claim,) = hands.take()
    hands.commit(claim, Outcome.failed("poison: three workers died", value=details))

    with pytest.raises(JobFailed, match=r"^poison: three workers died$"):
        run.wait(LIMIT)


def test_a_cancelled_run_says_so(add):
    run = add.fire(4, 5)

    assert run.cancel() is True
    assert run.cancel() is False
    assert run.state == "cancelled"
    with pytest.raises(JobCancelled):
        run.wait(LIMIT)


def test_an_expired_run_is_cancelled_as_expired(queue, add, hands):
    run = add.options(expires=5).fire(4, 5)
    assert hands.take(late=6) == []

    with pytest.raises(JobCancelled, match="expired"):
        run.wait(LIMIT)


def test_a_run_that_ended_cannot_be_cancelled(add, hands):
    run = add.fire(4, 5)
    hands.succeed(9)

    assert run.cancel() is False
    assert run.state == "succeeded"


def test_a_purged_run_is_gone(queue, add, hands):
    run = add.fire(4, 5)
    hands.succeed(9)
    queue.store.purge(now=queue.clock.now() + 10 * 86400)

    with pytest.raises(RunGone):
        run.wait(LIMIT)
    assert (run.state, run.result) == ("queued", None)


def test_what_was_seen_is_remembered_after_the_purge(queue, add, hands):
    run = add.fire(4, 5)
    hands.succeed(9)
    assert run.state == "succeeded"
    queue.store.purge(now=queue.clock.now() + 10 * 86400)

    assert (run.state, run.result, run.wait(0)) == ("succeeded", 9, 9)


def test_a_wait_of_no_time_looks_once(add, hands):
    run = add.fire(4, 5)
    with pytest.raises(WaitTimeout, match="it is queued"):
        run.wait(0)
    with pytest.raises(TimeoutError):
        run.wait(0.01)

    hands.succeed(9)

    assert run.wait(0) == 9


@pytest.mark.parametrize("timeout", ["5", float("nan"), float("inf")])
def test_a_wrong_timeout_is_refused(add, timeout):
    with pytest.raises(WrongCall, match="timeout is a number of seconds"):
        add.fire(4, 5).wait(timeout)


def test_waiting_is_woken(add, hands):
    run = add.fire(4, 5)
    threading.Timer(0.1, hands.succeed, [9]).start()

    assert run.wait(timedelta(seconds=LIMIT)) == 9


def test_a_result_that_cannot_be_trusted_is_none_and_waiting_says_why(add, hands, monkeypatch):
    run = add.fire(4, 5)
    (claim,) = hands.take()
    hands.commit(claim, Outcome.complete(encode_value({1: object}, Keys(b"a stranger"))))
    monkeypatch.setenv("SKUNKQUEUE_KEY", "ours")

    assert (run.state, run.result) == ("succeeded", None)
    with pytest.raises(BadSignature, match="set SKUNKQUEUE_KEY on both"):
        run.wait(LIMIT)


def test_state_and_result_never_raise(queue, add, hands):
    run, other = add.fire(4, 5), add.fire(6, 7)
    hands.succeed(9)
    assert run.state == "succeeded"
    unreachable(queue).away = True

    assert (run.state, run.result, run.error, run.attempts, run.progress) == ("succeeded", 9, None, 1, None)
    assert (other.state, other.result, other.error, other.attempts) == ("queued", None, None, 0)
    assert add.state == "queued"


def test_waiting_goes_on_while_the_store_is_away(queue, add, hands):
    run = add.fire(4, 5)
    store = unreachable(queue)
    store.away = True

    with pytest.raises(WaitTimeout, match="the store is away"):
        run.wait(0.1)

    hands.queue = SkunkQueue("demo", queue.url)
    hands.queue.connection.store = store._store
    hands.succeed(9)
    threading.Timer(0.2, setattr, [store, "away", False]).start()
    assert run.wait(LIMIT) == 9


def test_a_run_whose_fate_is_in_doubt_can_be_fired_again_without_harm(queue, add, hands):
    store = unreachable(queue)
    store.lost = True
    with pytest.raises(StoreAway) as caught:
        add.fire(4, 5)
    store.lost = False
    (run,) = caught.value.runs

    assert run.fire().id == run.id
    assert len(hands.take()) == 1


def test_a_run_that_was_only_found_cannot_be_fired_again(queue, add):
    add.fire(4, 5)

    with pytest.raises(WrongCall, match="not fired from here"):
        queue.runs()[0].fire()


def test_a_run_can_be_handed_to_another_process(queue, add, hands):
    run = pickle.loads(pickle.dumps(add.fire(4, 5)))
    hands.succeed(9)

    assert run.wait(LIMIT) == 9


# -- several runs


@pytest.fixture
def spread(queue):
    @queue.event(routes=["left", "right"])
    def spread(value):
        return value

    return spread


def test_several_routes_give_a_sequence_of_runs(queue, spread):
    runs = spread.fire(1)
    Hands(queue, "left").succeed("l")

    assert isinstance(runs, Runs)
    assert [run.state for run in runs] == ["succeeded", "queued"]
    assert (runs.results, runs.state, spread.state, spread.result) == (["l", None], "queued", "queued", ["l", None])

    Hands(queue, "right").succeed("r")

    assert runs.wait(LIMIT) == ["l", "r"] == spread.result
    assert runs.state == "succeeded"


def test_several_runs_fail_with_the_first_failure_after_all_have_ended(queue, spread):
    runs = spread.fire(1)
    Hands(queue, "right").fail(message="right")
    with pytest.raises(WaitTimeout):
        runs.wait(0.01)
    Hands(queue, "left").succeed("l")

    assert runs.state == "failed"
    assert runs.error == "ValueError: right"
    with pytest.raises(JobFailed, match="right"):
        runs.wait(LIMIT)


def test_the_state_of_several_is_the_least_advanced_then_the_worst(queue, spread):
    left, right = Hands(queue, "left"), Hands(queue, "right")
    runs = spread.fire(1)
    (claim,) = left.take()
    assert runs.state == "queued"
    right.succeed()
    assert runs.state == "running"
    left.commit(claim, Outcome.failed("no"))
    assert runs.state == "failed"

    cancelled = spread.fire(2)
    left.succeed()
    assert cancelled.cancel() is True
    assert cancelled.state == "cancelled"
    assert cancelled.cancel() is False


def test_slices_and_indices_of_runs_are_runs(spread):
    runs = spread.fire(1)

    assert isinstance(runs[:1], Runs)
    assert runs[-1] is runs.runs[1]
    assert len(runs) == 2


def test_thousands_of_runs_are_asked_for_in_pages(queue, add, hands):
    store = unreachable(queue)
    runs = add.fire_many((number, 0) for number in range(2500))
    hands.take(2500)
    store.calls.clear()

    assert runs.state == "running"
    assert store.calls == ["get_brief"] * 3


def test_an_empty_handle_has_no_results_and_nothing_to_wait_for():
    runs = Runs()

    assert (runs.wait(0), runs.results, runs.state, runs.cancel(), runs.error) == ([], [], "succeeded", False, None)
    assert asyncio.run(runs._awaited()) == []


# -- await


def test_a_run_can_be_awaited(add, hands):
    run = add.fire(4, 5)

    async def wait():
        threading.Timer(0.05, hands.succeed, [9]).start()
        return await run

    assert asyncio.run(asyncio.wait_for(wait(), LIMIT)) == 9


def test_awaiting_a_failure_raises_it(add, hands):
    run = add.fire(4, 5)
    hands.fail()

    async def wait():
        return await run

    with pytest.raises(JobFailed):
        asyncio.run(wait())


def test_a_thousand_awaits_share_one_thread(queue, add, hands):
    runs = [add.fire(number, 0) for number in range(1000)]

    async def one(run):
        return await run

    async def all_of_them():
        waiting = [asyncio.ensure_future(one(run)) for run in runs]
        while sum(len(page._waiting) for page in queue.watcher._pages) < 1000:
            await asyncio.sleep(0.01)
        assert (
            sum(page._alive for page in queue.watcher._pages) <= 2
        )  # the second only where the first was in a long wait
        await asyncio.to_thread(hands.work, add=add)
        return await asyncio.gather(*waiting)

    assert asyncio.run(asyncio.wait_for(all_of_them(), LIMIT)) == list(range(1000))


def test_a_late_await_is_not_kept_waiting_by_an_early_one(queue, add, hands):
    run = add.fire(4, 5)
    hands.succeed(9)
    (record,) = queue.store.get([run.id]).values()
    waiting, end = threading.Event(), threading.Event()

    class LongWaits(MemoryPersister):
        """A store that once it waits is deaf until the end of the test."""

        def get(self, ids):
            return {id: record if id == run.id else record._replace(state=State.QUEUED) for id in ids}

        def wait(self, keys, timeout):
            if timeout > 0.01:
                waiting.set()
                end.wait(LIMIT)

    async def both():
        watcher = Watcher(LongWaits(), queue.clock)
        early = asyncio.ensure_future(watcher.ended(["early"]))
        await asyncio.to_thread(waiting.wait, LIMIT)
        late = await watcher.ended([run.id])
        early.cancel()
        return late

    try:
        assert asyncio.run(asyncio.wait_for(both(), LIMIT)) == {run.id: record}
    finally:
        end.set()


def test_an_await_that_is_cancelled_leaves_nothing_behind(queue, add, hands):
    run = add.fire(4, 5)

    async def wait():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run._awaited(), 0.05)
        assert not any(page._waiting for page in queue.watcher._pages)
        hands.succeed(9)
        return await run

    assert asyncio.run(asyncio.wait_for(wait(), LIMIT)) == 9


def test_the_watcher_ends_when_nobody_waits(add, hands, monkeypatch):
    monkeypatch.setattr("skunkqueue.watcher.LINGER", 0.01)
    run = add.fire(4, 5)
    hands.succeed(9)

    async def wait():
        return await run

    asyncio.run(wait())

    (watcher,) = run._queue.watcher._pages
    end = time.monotonic() + LIMIT
    while watcher._thread is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert watcher._thread is None
    assert watcher._alive == 0
    assert asyncio.run(wait()) == 9


def test_awaiting_goes_on_while_the_store_is_away(queue, add, hands):
    run = add.fire(4, 5)
    hands.succeed(9)
    store = unreachable(queue)
    store.away = True
    threading.Timer(0.1, setattr, [store, "away", False]).start()

    async def wait():
        return await run

    assert asyncio.run(asyncio.wait_for(wait(), LIMIT)) == 9


def test_whoever_awaits_hears_of_any_other_error():
    class Broken(MemoryPersister):
        def get(self, ids):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(Watcher(Broken(), Clock(lambda: None)).ended(["one", "two"]))


# -- from inside


def test_outside_of_a_job_there_is_no_current_run():
    with pytest.raises(WrongCall, match="worker executes"):
        current_run()


def test_a_job_tells_its_progress():
    said = []
    set_current(CurrentRun("an id", 2, lambda fraction, note: said.append((fraction, note))))
    try:
        current_run().progress(0.4, "x" * 600)
        current_run().progress(1)
        with pytest.raises(WrongCall, match="from 0 to 1"):
            current_run().progress(1.5)
        with pytest.raises(WrongCall, match="from 0 to 1"):
            current_run().progress(float("nan"))
        assert (current_run().id, current_run().attempt) == ("an id", 2)
    finally:
        set_current(None)

    assert said == [(0.4, "x" * 500), (1.0, "")]


# -- whatever is asked, the store is


ASKED = ("state", "result", "error", "attempts", "progress", "note")


@pytest.mark.parametrize("name", ASKED)
def test_each_property_asks_the_store_by_itself(queue, add, hands, name):
    expected = {"state": "running", "result": None, "error": None, "attempts": 1, "progress": 0.5, "note": "half way"}
    run = add.fire(1, 2)
    (claim,) = hands.take()
    hands.commit(claim, Outcome.at(0.5, "half way"))

    assert getattr(run, name) == expected[name]

    store = unreachable(queue)
    getattr(run, name)
    assert store.calls == ["get_brief"]


# -- runs of several stores


@pytest.fixture
def stores():
    with (
        SkunkQueue("one", f"memory://run-{next(_names)}") as one,
        SkunkQueue("two", f"memory://run-{next(_names)}") as two,
    ):
        yield one, two


@pytest.fixture
def mixed(stores):
    """Runs that alternate between two stores."""
    one, two = (queue.event(name="job")(len) for queue in stores)
    return Runs([one.fire("1"), two.fire("12"), one.fire("123"), two.fire("1234")])


def succeed_all(stores):
    for queue in stores:
        hands = Hands(queue)
        for claim in hands.take():
            hands.commit(claim, Outcome.complete(encode_value(f"{queue.name}-{claim.id}")))


def results_of(runs):
    return [f"{run._queue.name}-{run.id}" for run in runs]


def test_runs_of_several_stores_are_waited_for_and_looked_at(stores, mixed):
    assert mixed.state == "queued"
    assert mixed.results == [None] * 4

    succeed_all(stores)

    assert mixed.results == results_of(mixed)
    assert mixed.state == "succeeded"
    assert mixed.wait(LIMIT) == results_of(mixed)
    assert asyncio.run(awaiting(mixed)) == results_of(mixed)


async def awaiting(runs):
    return await runs


def test_runs_of_several_stores_are_waited_for_before_they_end(stores, mixed):
    later = threading.Timer(0.1, succeed_all, (stores,))
    later.start()
    try:
        assert mixed.wait(LIMIT) == results_of(mixed)
    finally:
        later.join()


def test_runs_of_several_stores_are_awaited_before_they_end(stores, mixed):
    later = threading.Timer(0.1, succeed_all, (stores,))
    later.start()
    try:
        assert asyncio.run(awaiting(mixed)) == results_of(mixed)
    finally:
        later.join()


def test_runs_of_several_stores_are_cancelled(stores, mixed):
    assert mixed.cancel()

    assert [run.state for run in mixed] == ["cancelled"] * 4
    assert not mixed.cancel()


def test_runs_of_several_stores_are_promoted(stores, mixed):
    waiting = Runs([queue.event(len).fire_at(3600, "") for queue in stores])

    assert not mixed.promote()
    assert waiting.promote()
    assert [run.state for run in waiting] == ["queued", "queued"]


def test_runs_of_several_stores_are_fired_again_each_on_its_own(stores, mixed):
    again = mixed.fire()

    assert [run.id for run in again] == [run.id for run in mixed]
    assert [run._queue for run in again] == [run._queue for run in mixed]
    assert [len(queue.runs()) for queue in stores] == [2, 2]


def test_of_several_stores_one_that_is_away_hides_nothing_of_the_other(stores, mixed):
    succeed_all(stores)
    unreachable(stores[0]).away = True

    assert mixed.results == [None, results_of(mixed)[1], None, results_of(mixed)[3]]
    with pytest.raises(WaitTimeout, match="the store is away"):
        mixed.wait(0.2)
