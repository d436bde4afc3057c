"""Workers that run several at a time, on threads and on a loop, and what happens beside what."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
from pools import LIMIT, alive, children, marks, until
from test_worker_faults import jobs, pool, store_url  # noqa: F401

from skunkqueue.clock import ticks
from skunkqueue.worker import frames
from skunkqueue.worker.child.concurrent import Concurrent
from skunkqueue.worker.child.execute import Invocation, Task
from skunkqueue.worker.child.link import Link as WorkerLink
from skunkqueue.worker.child.loop import new_loop
from skunkqueue.worker.child.places import FREE, LOOP, TAKING, Places
from skunkqueue.worker.child.serial import Serial
from skunkqueue.worker.pool.process import Pipes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


class Link:
    """What a worker says, kept."""

    def __init__(self):
        self.said = []

    def write(self, frame):
        self.said.append(frames.HEAD.unpack_from(frame)[1:])

    def interrupts(self):
        return []


class Opens:
    """An executor whose job is a plain or async function of nothing."""

    def __init__(self, function, opening=lambda: None):
        self.function = function
        self.opening = opening

    def async_body(self, task):
        return task.body if inspect.iscoroutinefunction(self.function) else None

    def open(self, task, body=None):
        self.opening()
        return Invocation(self, "job", (), {})

    def current(self, task, call):
        return None

    def close(self):
        pass

    def returned(self, task, call, value, began):
        return frames.done(task.number, 0.0, 0.0, b"", b"")

    def raised(self, task, call, error, began):
        return frames.timed(frames.RAISED, task.number, 0.0, 0.0)


@pytest.fixture
def between():
    """What lies between a pool and its worker, and the worker's end of it."""
    pipes = Pipes(ticks() + 1000)
    link = WorkerLink(pipes.ends()._replace(tickets=os.dup(pipes.ticket_ends.fileno())))
    yield pipes, link
    link.tickets.close()
    pipes.close_worker_side()
    pipes.close_pool_side()


def give(pipes, first, last):
    """Hand out runs of these numbers, as a pool does."""
    runs = [b"".join(frames.run(number, 1, b"id", b"body")) for number in range(first, last + 1)]
    os.write(pipes.to_worker, b"".join(runs))
    pipes.tickets.send(frames.tickets(first, last))


def said(pipes):
    """What the worker has said so far: kinds and numbers."""
    try:
        data = os.read(pipes.from_worker, 1 << 20)
    except BlockingIOError:
        return []
    return [(kind, number) for kind, number, _ in frames.Splitter().feed(data)]


def serving(worker):
    thread = threading.Thread(target=worker.serve, daemon=True)
    thread.start()
    return thread


def kind(frame):
    return frames.HEAD.unpack_from(frame)[1]


async def nothing():
    pass


async def hog():
    time.sleep(30)


TASK = Task(7, 1, "id", b"")


@pytest.mark.parametrize("job", [lambda: None, nothing])
def test_an_interrupt_that_comes_between_a_ticket_and_its_start_is_not_lost(job):
    worker = Serial(Link(), Opens(job))

    worker.interrupt(7)
    first, second = worker.run(TASK), worker.run(TASK._replace(number=8))
    if worker._loop is not None:
        worker._loop.close()

    assert (kind(first), kind(second)) == (frames.INTERRUPTED, frames.DONE)


def test_an_interrupt_does_not_fall_into_the_import_of_a_job():
    opened = []
    worker = Serial(Link(), Opens(lambda: None, lambda: (worker.interrupt(7), opened.append(True))))

    assert kind(worker.run(TASK)) == frames.INTERRUPTED
    assert opened


@sqlite
@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_worker_interrupted_amid_an_import_is_replaced(jobs, pool, tmp_path, concurrency):  # noqa: F811
    (tmp_path / "slow_to_import.py").write_text(
        "import time, os\nimport robust_jobs\nrobust_jobs.leave_mark('begun')\n"
        "end = time.monotonic() + 3\nwhile time.monotonic() < end: time.sleep(0.01)\nwhole = True\n"
    )
    with pool("foo", concurrency=concurrency) as started:
        first = jobs.imports_late.fire("slow_to_import")
        until(lambda: marks(tmp_path, "begun"))
        assert first.cancel()

        assert jobs.imports_late.fire("slow_to_import").wait(LIMIT) is True
        assert jobs.add.fire(1, 1).wait(LIMIT) == 2
        until(lambda: started.log().count(" started, process ") == 2)


@pytest.mark.parametrize("job", [lambda: None, nothing])
@pytest.mark.parametrize("when", ["before", "while it is opened"])
def test_the_same_where_several_run(between, job, when):
    pipes, link = between
    worker = Concurrent(link, Opens(job, lambda: when != "before" and worker.interrupt(7)), 2)
    if when == "before":
        worker.interrupt(7)

    give(pipes, 7, 7)
    pipes.no_more()
    worker.serve()

    assert said(pipes) == [(frames.STARTED, 7), (frames.INTERRUPTED, 7)]
    assert not worker._places._at
    assert not worker._places._hit


def test_an_async_job_that_holds_up_its_loop_is_interrupted():
    worker = Serial(Link(), Opens(hog))

    def interrupt(*_):
        worker.on_signal(signal.SIGURG, None)

    worker._link.interrupts = lambda: [7]
    before = signal.signal(signal.SIGURG, interrupt)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGURG))
    timer.start()
    began = time.monotonic()
    try:
        assert kind(worker.run(TASK)) == frames.INTERRUPTED
    finally:
        signal.signal(signal.SIGURG, before)
        worker._loop.close()
    assert time.monotonic() - began < 20


@sqlite
def test_an_async_job_that_holds_up_the_loop_holds_up_no_result_of_its_neighbours(jobs, pool, tmp_path):  # noqa: F811
    with pool("foo", concurrency=3) as started:
        slow = jobs.marked.fire("slow", 1.0)
        until(lambda: marks(tmp_path, "slow"))
        hog = jobs.async_hog.fire("hog", 60)
        until(lambda: marks(tmp_path, "hog"))

        assert slow.wait(LIMIT) is None
        assert hog.state == "running"
        started.send(signal.SIGKILL)


def test_a_run_that_ends_in_the_same_round_as_a_neighbour_holds_up_the_loop_is_told_all_the_same(between):
    pipes, link = between
    started, release = [], threading.Event()

    async def second_holds_up():
        started.append(1)
        if len(started) == 2:
            release.wait(LIMIT)

    thread = serving(Concurrent(link, Opens(second_holds_up), 3))
    give(pipes, 1, 2)
    heard = []
    until(lambda: heard.extend(said(pipes)) or (frames.DONE, 1) in heard)
    assert (frames.DONE, 2) not in heard

    give(pipes, 3, 3)  # the place that is free again is used as well
    release.set()
    until(lambda: heard.extend(said(pipes)) or {(frames.DONE, 2), (frames.DONE, 3)} <= set(heard))
    pipes.no_more()
    thread.join(LIMIT)
    assert not thread.is_alive()


@sqlite
def test_the_copy_of_a_worker_that_forked_in_a_job_does_not_stay(jobs, pool):  # noqa: F811
    with pool("foo", concurrency=2) as started:
        assert jobs.fork_and_return.fire().wait(LIMIT) == "parent"
        (worker,) = started.up().workers()
        until(lambda: not any(alive(pid) for pid in children(worker)), 10)


@sqlite
def test_a_rough_stop_interrupts_all_that_run_however_lately_they_started(jobs, pool, tmp_path):  # noqa: F811
    runs = [jobs.marked.fire(f"s{i}", 60) for i in range(4)] + [jobs.async_sleep.fire(f"a{i}", 60) for i in range(4)]
    for _ in range(3):
        started = pool("foo", concurrency=8, kill_after=60)
        until(lambda s=started: s.log().count(" took ") >= 4)

        assert started.stop(signal.SIGINT) == 0
        assert [(run.state, run.attempts) for run in runs] == [("queued", 0)] * 8


def test_a_job_that_never_comes_back_on_a_thread_does_not_keep_the_program_from_ending(tmp_path):
    code = (
        "import time, threading\n"
        "from skunkqueue import SkunkQueue, WorkerPool\n"
        "queue = SkunkQueue('demo', 'memory://')\n"
        "@queue.event\n"
        "def stuck():\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(60)\n"
        "        except BaseException: pass\n"
        "run = stuck.options(timeout=0.2).fire()\n"
        "with WorkerPool(queue, in_process=True, concurrency=2, kill_after=0.2) as pool:\n"
        "    try: run.wait(20)\n"
        "    except Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "did not end within 0.2 s" in done.stdout


# what is taken, and what is taken back


class Gate:
    """Jobs that say that they run, and end when they are let go."""

    def __init__(self, is_async):
        self.running = []
        self.open = threading.Event()
        self.function = self.wait_async if is_async else self.wait

    def wait(self):
        self.running.append(None)
        assert self.open.wait(LIMIT)

    async def wait_async(self):
        self.running.append(None)
        while not self.open.is_set():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("limit", [2, 7])
def test_what_it_has_not_started_is_taken_back_exactly(between, is_async, limit):
    gate = Gate(is_async)
    pipes, link = between
    thread = serving(Concurrent(link, Opens(gate.function), limit))
    give(pipes, 1, 50)
    until(lambda: len(gate.running) == limit)

    back = pipes.recall()
    gate.open.set()
    pipes.no_more()
    thread.join(LIMIT)

    heard = said(pipes)
    assert back == set(range(limit + 1, 51))
    assert [number for kind, number in heard if kind == frames.STARTED] == list(range(1, limit + 1))
    assert {number for kind, number in heard if kind == frames.DONE} == set(range(1, limit + 1))
    assert len(gate.running) == limit


@pytest.mark.parametrize("function", [lambda: None, nothing])
def test_a_recall_under_way_takes_each_run_or_leaves_it_to_the_worker(between, function):
    pipes, link = between
    thread = serving(Concurrent(link, Opens(function), 5))
    back = set()
    for first in range(1, 2000, 100):
        give(pipes, first, first + 99)
        back |= pipes.recall()
    pipes.no_more()
    thread.join(LIMIT)

    heard = said(pipes)
    started = [number for kind, number in heard if kind == frames.STARTED]
    done = [number for kind, number in heard if kind == frames.DONE]
    assert len(started) == len(set(started))
    assert sorted(started) == sorted(done)
    assert set(started) | back == set(range(1, 2001))
    assert not set(started) & back


def test_quick_functions_run_in_order_and_each_is_said_before_the_next_starts(between):
    pipes, link = between
    executor = Opens(lambda: None)
    worker = Concurrent(link, executor, 4)
    worker._quick.add(id(executor))
    worker._watch = worker._learn = lambda *_: None  # where the machine stalls, they would let another thread go on
    thread = serving(worker)
    give(pipes, 1, 1)  # for the loop, which hands the lead to a thread
    heard = []
    until(lambda: heard.extend(said(pipes)) or (frames.DONE, 1) in heard)

    give(pipes, 2, 100)
    pipes.no_more()
    thread.join(LIMIT)

    expected = [(kind, number) for number in range(2, 101) for kind in (frames.STARTED, frames.DONE)]
    assert said(pipes) == expected


def test_a_quick_job_that_is_slow_for_once_does_not_keep_the_others_from_starting(between):
    gate = Gate(False)
    pipes, link = between
    executor = Opens(gate.function)
    worker = Concurrent(link, executor, 3)
    worker._quick.add(id(executor))
    thread = serving(worker)

    give(pipes, 1, 3)
    until(lambda: len(gate.running) == 3)
    gate.open.set()
    pipes.no_more()
    thread.join(LIMIT)

    assert {number for kind, number in said(pipes) if kind == frames.DONE} == {1, 2, 3}


def test_an_interrupt_hits_its_run_only_however_many_follow_on_its_thread(between):
    pipes, link = between
    hit, met = [], threading.Event()

    def spin():
        if not met.is_set():
            met.set()
            with contextlib.suppress(AssertionError):
                until(lambda: False, 20)
        hit.append(None)

    executor = Opens(spin)
    worker = Concurrent(link, executor, 2)
    worker._quick.add(id(executor))
    thread = serving(worker)
    give(pipes, 1, 1)
    assert met.wait(LIMIT)
    give(pipes, 2, 300)

    worker.interrupt(1)
    for number in (1, 250, 1):
        worker.interrupt(number)
    pipes.no_more()
    thread.join(LIMIT)

    ends = {number: kind for kind, number in said(pipes) if kind != frames.STARTED}
    assert len(ends) == 300
    assert ends[1] == frames.INTERRUPTED
    assert {number for number, kind in ends.items() if kind != frames.DONE} <= {1, 250}


def test_interrupts_of_a_batch_on_the_loop_hit_their_runs_only(between):
    gate = Gate(True)
    pipes, link = between
    worker = Concurrent(link, Opens(gate.function), 20)
    thread = serving(worker)
    give(pipes, 1, 20)
    until(lambda: len(gate.running) == 20)

    for number in (3, 17):
        worker.interrupt(number)
    gate.open.set()
    pipes.no_more()
    thread.join(LIMIT)

    ends = {number: kind for kind, number in said(pipes) if kind != frames.STARTED}
    assert {number for number, kind in ends.items() if kind == frames.INTERRUPTED} == {3, 17}
    assert len(ends) == 20


def test_who_leads_where_places_become_full_and_free_again():
    places = Places(2)

    assert places.claim_loop()
    places.begin([1], lead=1)
    assert not places.depose(0)  # another ticket has been taken since
    assert places.depose(1)
    assert places.lead == TAKING
    places.begin([2], lead=2)
    assert places.lead == FREE  # both places are taken
    assert not places.pass_on(2)
    assert places.resume(1)
    assert places.lead == TAKING
    assert not places.resume(2)
    assert not places.vacate(LOOP)
    assert places.running == 0


@sqlite
@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_async_job_knows_its_own_run(jobs, pool, concurrency):  # noqa: F811
    runs = [jobs.async_own_id.fire() for _ in range(20)]
    with pool("foo", concurrency=concurrency):
        assert [run.wait(LIMIT) for run in runs] == [run.id for run in runs]


@sqlite
def test_a_death_costs_what_was_running_and_nothing_that_had_finished(jobs, pool, tmp_path):  # noqa: F811
    done = jobs.marked.fire_many([(f"d{n}", 0) for n in range(40)])
    slow = [jobs.marked.fire(f"s{n}", 5.0) for n in range(2)]
    with pool("foo", concurrency=3) as started:
        until(lambda: all(marks(tmp_path, f"s{n}") for n in range(2)))
        done.wait(LIMIT)  # else one of them may be running, too
        (worker,) = started.up().workers()
        os.kill(worker, signal.SIGKILL)

        for run in slow:
            run.wait(LIMIT)

    assert [marks(tmp_path, f"d{n}") for n in range(40)] == [1] * 40
    assert [marks(tmp_path, f"s{n}") for n in range(2)] == [2, 2]


def _broken_uvloop():
    module = types.ModuleType("uvloop")
    module.new_event_loop = lambda: 1 / 0
    return module


@pytest.mark.parametrize("found", [None, _broken_uvloop()], ids=["missing", "broken"])
def test_where_uvloop_cannot_be_used_jobs_run_on_the_loop_of_asyncio(monkeypatch, between, found):
    monkeypatch.setitem(sys.modules, "uvloop", found)
    pipes, link = between
    give(pipes, 1, 3)
    pipes.no_more()

    Concurrent(link, Opens(nothing), 2).serve()

    assert {number for kind, number in said(pipes) if kind == frames.DONE} == {1, 2, 3}
    loop = new_loop()
    loop.close()
    assert isinstance(loop, asyncio.SelectorEventLoop)


def test_uvloop_is_used_where_it_is_installed():
    uvloop = pytest.importorskip("uvloop")
    loop = new_loop()
    loop.close()

    assert isinstance(loop, uvloop.Loop)
