"""``skunkqueue.testing.drain``: running what was fired inside a test."""

import asyncio
import contextvars
import io
import os
import sqlite3
import threading
import time
from unittest import mock

import pytest

from skunkqueue import JobFailed, Retry, SkunkQueue, WorkerPool, WrongCall, current_run
from skunkqueue.envelope import open_body
from skunkqueue.errors import PayloadError
from skunkqueue.testing import drain, reset
from skunkqueue.worker.child.resolve import Resolver


@pytest.fixture(params=["memory", "sqlite"])
def queue(request, tmp_path):
    url = "memory://drained" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"
    queue = SkunkQueue("drained", url)
    yield queue
    if queue.one_process:
        reset(queue)
    queue.close()


@pytest.fixture
def memory():
    queue = SkunkQueue("drained", "memory://by-reference")
    yield queue
    reset(queue)


seen = []


def note(value):
    seen.append((value, threading.current_thread()))
    return value


async def note_async(value):
    await asyncio.sleep(0)
    return note(value)


async def ticket_of_the_connection(value):
    return connection.execute("select ?", (value,)).fetchone()[0]


connection = sqlite3.connect(":memory:")
tenant = contextvars.ContextVar("tenant", default="unset")


def test_drain_runs_all_that_is_ripe_and_all_that_it_fires():
    queue = SkunkQueue("drained", "memory://drain")

    @queue.event(routes=["one"])
    def first(n):
        return n + 1

    @queue.event(routes=["two"])
    def second(n):
        return first.fire(n).id

    ran, later = second.fire(1), first.fire_at(60, 5)
    drain(queue, "one", "two")

    assert ran.state == "succeeded"
    assert queue.runs(route="one", state="succeeded")[0].result == 2
    assert later.state == "scheduled"


def test_drain_finds_the_routes_by_itself_and_gives_the_log():
    queue = SkunkQueue("drained", "memory://drain2")

    @queue.event(routes=["somewhere"])
    def fails():
        raise ValueError("boom")

    run = fails.fire()

    assert "ValueError: boom" in drain(queue)
    assert run.state == "failed"


# -- here


@pytest.mark.parametrize("function", [note, note_async])
def test_runs_are_executed_on_the_thread_that_drains(queue, function):
    seen.clear()
    run = queue.event(function).fire(1)

    drain(queue)

    assert run.result == 1
    assert seen == [(1, threading.current_thread())]


def test_what_is_kept_per_thread_is_there(memory):
    run = memory.event(ticket_of_the_connection).fire(5)

    drain(memory)

    assert run.result == 5


def test_runs_see_the_context_of_the_caller_and_leave_it_alone(memory):
    @memory.event
    def job():
        before = tenant.get()
        tenant.set("changed")
        return before

    runs = [job.fire(), job.fire()]
    contextvars.copy_context().run(lambda: (tenant.set("the caller's"), drain(memory)))

    assert [run.result for run in runs] == ["the caller's", "the caller's"]


@pytest.mark.parametrize("function", [note, note_async, lambda value: asyncio.run(note_async(value))])
def test_a_test_that_is_a_coroutine_may_drain_too(queue, function):
    async def test():
        run = queue.event(name="job")(function).fire(1)
        drain(queue)
        task = asyncio.current_task()
        await asyncio.sleep(0)
        return run.result, task is asyncio.current_task()

    assert asyncio.run(test()) == (1, True)


def test_what_a_run_waits_for_is_executed_before_it_goes_on(queue):
    inner = queue.event(name="inner", routes="inner")(note)
    inner_async = queue.event(name="inner async")(note_async)

    def outer():
        return inner.fire(1).wait(5) + inner_async.fire(2).wait(5), current_run().id

    async def outer_async():
        return await inner.fire(3) + await inner_async.fire(4), current_run().id

    if not queue.one_process:
        pytest.skip("functions that close over a queue travel by value there, and meet another pool of connections")
    runs = [queue.event(name="outer")(outer).fire(), queue.event(name="outer async")(outer_async).fire()]
    drain(queue)

    assert [run.result for run in runs] == [(3, runs[0].id), (7, runs[1].id)]


def test_routes_that_jobs_fire_at_are_found_as_they_come(memory):
    @memory.event(routes="second")
    def second(value):
        return value

    @memory.event
    def first():
        return second.fire("found").id

    run = first.fire()
    drain(memory)

    assert memory.runs(route="second")[0].result == "found"
    assert memory.runs(route="second")[0].id == run.result


# -- what happens to runs


def test_retries_timeouts_and_marks_are_as_in_any_pool(queue):
    def again():
        if current_run().attempt < 3:
            raise Retry(after=0)
        return current_run().attempt

    retried = queue.event(again).fire()
    once = queue.event(name="once", at_most_once=True)(note).fire("once")
    late = queue.event(name="late", timeout=0.1)(time.sleep).fire(30)
    began = time.monotonic()
    drain(queue)

    assert retried.result == 3
    assert once.result == "once"
    assert late.error == "TimeoutError: did not end within 0.1 s"
    assert time.monotonic() - began < 15  # a sleep is woken on the main thread


def test_a_timeout_on_another_thread_ends_what_executes_python(queue):
    def hogs():
        while True:
            time.sleep(0.01)

    run = queue.event(timeout=0.1)(hogs).fire()
    thread = threading.Thread(target=drain, args=(queue,))
    thread.start()
    thread.join(30)

    assert run.error == "TimeoutError: did not end within 0.1 s"


def test_the_timeout_of_a_run_that_waits_reaches_through_what_it_waits_for(memory):
    slept = []

    @memory.event
    def inner():  # which is handed back, and then executed for its own sake
        slept.append(time.monotonic())
        time.sleep(30 if len(slept) == 1 else 0)

    @memory.event(timeout=0.2)
    def outer():
        inner.fire().wait()

    run = outer.fire()
    began = time.monotonic()
    drain(memory, "default")

    assert run.error == "TimeoutError: did not end within 0.2 s"
    assert time.monotonic() - began < 15
    assert len(slept) == 2


def test_a_lease_is_extended_while_a_run_lasts(queue):
    def lasts():
        time.sleep(0.5)
        return "kept"

    run = queue.event(lasts).fire()
    assert "refused" not in drain(queue, lease=0.2)
    assert run.result == "kept"
    assert run._record.lapses == 0


def test_a_run_that_is_cancelled_while_it_lasts_is_interrupted(memory):
    @memory.event
    def cancels_itself():
        memory.cancel(current_run().id)
        time.sleep(30)

    run = cancels_itself.fire()
    began = time.monotonic()
    drain(memory, lease=0.2)

    assert run.state == "cancelled"
    assert time.monotonic() - began < 15


def test_ctrl_c_hands_the_run_back_and_ends_the_drain(memory):
    @memory.event
    def interrupted():
        raise KeyboardInterrupt

    run, other = interrupted.fire(), memory.event(note).fire(1)
    with pytest.raises(KeyboardInterrupt):
        drain(memory)

    assert (run.state, run.attempts) == ("queued", 0)
    assert other.state == "queued"


def test_progress_can_be_seen_at_once(memory):
    @memory.event
    def reports():
        current_run().progress(0.5, "half")
        return run.progress, run.note

    run = reports.fire()
    drain(memory)

    assert run.result == (0.5, "half")


# -- by reference, on memory://


def test_a_job_of_a_test_is_the_very_function_with_what_it_closes_over(memory):
    sent, smtp = [], mock.MagicMock()

    @memory.event
    def mail(to):
        sent.append(to)
        smtp.send(to)
        return threading.Lock is not None

    mail.fire("a")
    mail.options(priority="high").fire("b")
    drain(memory)

    assert sent == ["b", "a"]
    assert smtp.send.mock_calls == [mock.call("b"), mock.call("a")]


def test_a_worker_opens_what_is_referred_to_without_an_import_and_sees_at_a_glance_that_it_is_async(memory):
    @memory.event
    async def job():
        pass

    body = open_body(job.fire()._envelope.body)

    assert Resolver().knows(body)
    assert Resolver().glance(body).function is job.function


def test_a_function_is_kept_as_long_as_its_run(memory):
    kept = []

    def define():
        lock = threading.Lock()  # which cannot be pickled

        @memory.event
        def job():
            with lock:
                kept.append("run")

        return job.fire()

    run = define()
    drain(memory)

    assert (run.state, kept) == ("succeeded", ["run"])


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_pool_in_this_process_has_the_very_function_too(memory, concurrency):
    lock, sent = threading.Lock(), []

    @memory.event
    def mail(to):
        with lock:
            sent.append(to)

    runs = mail.fire_many([(n,) for n in range(20)])
    with WorkerPool(memory, in_process=True, concurrency=concurrency):
        runs.wait(30)

    assert sorted(sent) == list(range(20))


def test_arguments_and_results_travel_as_in_production(memory):
    given, returned = [1], []

    @memory.event
    def job(value):
        value.append(2)
        returned.append(value)
        return value

    run = job.fire(given)
    drain(memory)

    assert (given, run.result, returned) == ([1], [1, 2], [[1, 2]])
    assert run.result is not returned[0]
    with pytest.raises(PayloadError):
        job.fire(threading.Lock())


def test_a_result_that_could_not_travel_fails(memory):
    run = memory.event(name="lock")(lambda: threading.Lock()).fire()
    drain(memory)

    with pytest.raises(JobFailed, match="PayloadError"):
        run.wait(0)


def test_reset_forgets_the_runs_of_a_memory_store_and_of_no_other(memory, tmp_path):
    memory.event(note).fire(1)

    reset(memory)

    assert memory.runs() == []
    with pytest.raises(WrongCall, match="memory://"):
        reset(SkunkQueue("kept", f"sqlite:///{tmp_path}/kept.db"))


def test_functions_of_a_memory_store_travel_to_worker_processes_and_what_cannot_costs_its_own_run():
    queue = SkunkQueue("demo", "memory://processes")
    box, lock = [40], threading.Lock()

    @queue.event
    def add(value):
        return [box[0] + value, os.getpid()]

    @queue.event
    def locked():
        return lock

    with WorkerPool(queue, "default", log=io.StringIO()):
        bad, good = locked.fire(), add.fire(2)

        value, pid = good.wait(30)
        assert value == 42 and pid != os.getpid()
        with pytest.raises(JobFailed, match="cannot pickle"):
            bad.wait(30)
