"""What one run leaves behind never reaches the next: contexts and event loops, in every mode; and what is awaited."""

from __future__ import annotations

import contextlib
import io

import leaving_jobs
import pytest
from pools import LIMIT, until

from skunkqueue import JobFailed, SkunkQueue, WorkerPool
from skunkqueue.testing import drain

MODES = {
    "process": {},
    "process of several": {"concurrency": 4},
    "thread": {"in_process": True},
    "threads": {"in_process": True, "concurrency": 4},
}


class Player:
    """Fires functions as jobs; executes them too where no pool does."""

    def __init__(self, queue, drains=False):
        self.queue = queue
        self.drains = drains

    def fire(self, function, *args, **options):
        run = self.queue.event(name=getattr(function, "__name__", "job"), routes="left", **options)(function).fire(
            *args
        )
        if self.drains:
            drain(self.queue)
        return run

    def __call__(self, function, *args, **options):
        """The value of one run."""
        return self.fire(function, *args, **options).wait(LIMIT)


@pytest.fixture(params=[*MODES, "drain"], scope="module")
def play(request, tmp_path_factory):
    """One pool for all tests, so that what a test leaves behind meets all those after it."""
    if request.param == "drain":
        yield Player(SkunkQueue("left", "memory://drained"), drains=True)
        return
    options = MODES[request.param]
    url = "memory://left" if "in_process" in options else f"sqlite:///{tmp_path_factory.mktemp('left')}/runs.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKUNKQUEUE_KEY", "a key for tests")
        queue = SkunkQueue("left", url)
        with contextlib.closing(queue), WorkerPool(queue, "left", log=io.StringIO(), **options):
            yield Player(queue)


# -- contexts


def test_a_context_variable_that_a_run_sets_is_not_seen_by_the_next(play):
    pairs = [(play(leaving_jobs.set_tenant, f"plain {n}"), play(leaving_jobs.set_tenant_async, n)) for n in range(3)]

    assert pairs == [("unset", ("unset", n)) for n in range(3)]


def test_a_job_and_its_tasks_have_contexts_as_in_any_program(play):
    assert play(leaving_jobs.tenant_in_a_task) == (("mine", "of the task"), "mine")


@pytest.mark.parametrize(
    "function",
    [
        leaving_jobs.own_id,
        leaving_jobs.own_id_async,
        leaving_jobs.own_id_in_a_task,
        leaving_jobs.own_id_in_a_thread,
        leaving_jobs.own_id_in_a_thread_with_its_context,
        leaving_jobs.own_id_in_asyncio_run,
        leaving_jobs.id_behind_a_decorator,
    ],
)
def test_current_run_is_this_run_wherever_its_context_goes(play, function):
    for _ in range(2):
        for other in (leaving_jobs.own_id, function):
            run = play.fire(other)

            assert run.wait(LIMIT) == run.id


# -- loops


@pytest.mark.parametrize(
    "function",
    [leaving_jobs.get_loop, leaving_jobs.set_loop, leaving_jobs.run_loop],
    ids=["get_event_loop", "set_event_loop", "asyncio.run"],
)
def test_a_plain_job_may_use_loops_of_its_own_and_no_other_job_notices(play, function):
    others = (leaving_jobs.get_loop, leaving_jobs.answer, leaving_jobs.set_loop, leaving_jobs.run_loop)

    assert [play(each, n) for n in range(2) for each in (function, *others)] == [n for n in range(2) for _ in range(5)]


def test_an_async_job_that_closes_its_loop_costs_itself_only(play):
    with pytest.raises(JobFailed, match="Cannot close a running event loop"):
        play(leaving_jobs.close_the_loop)

    assert [play(leaving_jobs.answer, n) for n in range(3)] == [0, 1, 2]


def test_a_plain_job_that_closes_the_loop_of_the_async_ones_costs_no_other(play):
    play(leaving_jobs.keep_the_loop)
    play(leaving_jobs.close_the_kept_loop)

    assert [play(leaving_jobs.answer, n) for n in range(3)] == [0, 1, 2]


def test_jobs_that_stop_their_loop_or_leave_it_by_an_exit_cost_themselves_at_most(play):
    assert play(leaving_jobs.stop_the_loop) == "stopped"
    play(leaving_jobs.stop_it_later)
    play(leaving_jobs.exit_in_a_task_left_behind)
    with pytest.raises(JobFailed) as failure:
        play(leaving_jobs.exit_in_a_task)

    assert failure.value.type == "SystemExit"
    run = play.fire(leaving_jobs.own_id_async)
    assert run.wait(LIMIT) == run.id
    assert run.attempts == 1


# -- what is awaited


@pytest.mark.parametrize(
    "function",
    [
        leaving_jobs.decorated,
        leaving_jobs.custom,
        leaving_jobs.generator_based,
        leaving_jobs.sometimes,
        leaving_jobs.call,
        leaving_jobs.plain_call,
    ],
    ids=["decorated", "awaitable", "generator based", "sometimes", "object", "plain object"],
)
def test_whatever_can_be_awaited_is_awaited(play, function):
    assert [play(function, n) for n in (5, 6, 7)] == [5, 6, 7]


@pytest.mark.parametrize("function", [leaving_jobs.add_one, leaving_jobs.add_in_two])
def test_the_coroutine_of_a_partial_is_awaited(play, function):
    assert play(function, 2) == 3


def test_what_a_decorator_sets_its_coroutine_sees(play):
    assert play(leaving_jobs.within_tenant, "set before") == ("set before", "other")
    assert play(leaving_jobs.set_tenant, "after") == "unset"


def test_an_error_of_a_coroutine_behind_a_decorator_is_its_own(play):
    with pytest.raises(JobFailed, match="ValueError: no"):
        play(leaving_jobs.fails, "no")


@pytest.mark.parametrize("play", ["thread", "threads", "drain"], indirect=True)
def test_a_handle_that_a_job_returns_is_not_awaited(play):
    url = play.queue.url

    def fire_another():
        return SkunkQueue("left", url).event(name="other", routes="elsewhere")(leaving_jobs.own_id).fire_at(3600)

    assert play(fire_another).state == "scheduled"


def test_a_coroutine_behind_a_decorator_keeps_its_timeout(play):
    with pytest.raises(JobFailed, match=r"did not end within 0.2 s"):
        play(leaving_jobs.hangs, timeout=0.2)

    assert play(leaving_jobs.decorated, 1) == 1


@pytest.mark.parametrize("play", MODES, indirect=True)
def test_a_coroutine_behind_a_decorator_can_be_cancelled(play):
    run = play.fire(leaving_jobs.hangs)
    until(lambda: run.state == "running")

    assert run.cancel()
    assert play(leaving_jobs.decorated, 1) == 1


@pytest.mark.parametrize("play", ["process", "thread", "drain"], indirect=True)
def test_a_coroutine_that_hogs_its_loop_is_interrupted_where_it_is_alone(play):
    with pytest.raises(JobFailed, match=r"did not end within 0.2 s"):
        play(leaving_jobs.hogs, timeout=0.2)

    assert play(leaving_jobs.decorated, 1) == 1
