"""Workers that run several at a time, on threads and on a loop, and what happens beside what."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from pools import LIMIT, alive, children, marks, until
from test_worker_faults import jobs, pool, store_url  # noqa: F401

from skunkqueue.worker import frames
from skunkqueue.worker.child.concurrent import Concurrent
from skunkqueue.worker.child.execute import Invocation, Task
from skunkqueue.worker.child.serial import Serial

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

    def open(self, task):
        self.opening()
        return Invocation(self, "job", (), {})

    def current(self, task):
        return None

    def returned(self, task, call, value, began):
        return frames.done(task.number, 0.0, 0.0, b"", b"")

    def raised(self, task, call, error, began):
        return frames.timed(frames.RAISED, task.number, 0.0, 0.0)


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
    if worker._runner is not None:
        worker._runner.close()

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
def test_the_same_where_several_run(job, when):
    link = Link()
    worker = Concurrent(link, Opens(job, lambda: when != "before" and worker.interrupt(7)), 2)
    if when == "before":
        worker.interrupt(7)

    async def run():
        worker._begin(7)
        await worker._run(asyncio.get_running_loop(), TASK)

    asyncio.run(run())

    assert link.said == [(frames.STARTED, 7), (frames.INTERRUPTED, 7)]
    assert not worker._places
    assert not worker._hit


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
        worker._runner.close()
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


@sqlite
def test_the_copy_of_a_worker_that_forked_in_a_job_does_not_stay(jobs, pool):  # noqa: F811
    with pool("foo", concurrency=2) as started:
        assert jobs.fork_and_return.fire().wait(LIMIT) == "parent"
        (worker,) = started.workers()
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
