"""A stop is never lost, whenever it comes; and a pool that has ended can be started again."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading

import pytest
from pools import LIMIT, until

from skunkqueue import SkunkQueue, WorkerPool
from skunkqueue.worker.pool import pool as module

queue = SkunkQueue("stops", "memory://stops")


@queue.event
def add(first, second):
    return first + second


def make_pool(of=queue, **options):
    return WorkerPool(of, in_process=True, log=io.StringIO(), **options)


def in_background(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def ends(thread):
    thread.join(LIMIT)
    return not thread.is_alive()


def in_with(pool):
    with pool:
        pool.listen()


def started(pool):
    pool.start()
    until(lambda: not pool.running)


STARTS = {"listen": WorkerPool.listen, "run_until_idle": WorkerPool.run_until_idle, "with": in_with, "start": started}
STOPS = {"shutdown": WorkerPool.shutdown, "die": WorkerPool.die}
starts = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
stops = pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)


@starts
@stops
def test_a_stop_before_the_start_is_obeyed(start, stop):
    pool = make_pool()

    stop(pool)

    assert ends(in_background(lambda: start(pool)))


@pytest.mark.parametrize("start", [WorkerPool.listen, in_with], ids=["listen", "with"])
@stops
def test_a_stop_at_any_moment_of_the_start_is_obeyed(start, stop, monkeypatch):
    """The stop comes just before and just after each step that a start makes."""
    moments = 0

    class Stepping(module.Engine):
        def __init__(self, *arguments):
            step()
            super().__init__(*arguments)
            step()

        def run(self):
            step()
            super().run()

    def step():
        nonlocal moments
        moments += 1
        if moments == at:
            in_background(lambda: stop(pool)).join(0.2)  # it may have to wait for the step to be over

    monkeypatch.setattr(module, "Engine", Stepping)
    for at in range(1, 4):
        moments, pool = 0, make_pool()
        assert ends(in_background(lambda pool=pool: start(pool))), f"the stop at moment {at} was lost"
        assert moments >= at


def test_stops_that_race_with_a_start_are_obeyed():
    for n in range(100):
        pool = make_pool()
        listening = in_background(pool.listen)
        (pool.die if n % 2 else pool.shutdown)()
        assert ends(listening), f"the stop of round {n} was lost"


def test_a_stop_between_entering_and_listening_is_obeyed():
    with make_pool() as pool:
        pool.shutdown()
        until(lambda: not pool.running)

        assert ends(in_background(pool.listen))


@starts
@stops
def test_a_pool_that_was_stopped_can_be_started_again(start, stop):
    pool = make_pool()
    for _ in range(3):
        stop(pool)
        assert ends(in_background(lambda: start(pool)))

        run = add.fire(1, 2)
        pool.run_until_idle()
        assert run.result == 3


def test_a_pool_started_while_it_stops_is_started_again():
    pool = make_pool()
    for _ in range(20):
        pool.start()
        assert add.fire(1, 2).wait(LIMIT) == 3
        pool.shutdown()
    until(lambda: not pool.running)


def test_a_pool_of_its_own_queue_can_be_entered_again(tmp_path):
    url = f"sqlite:///{tmp_path}/again.db"
    pool = make_pool("again", conn_url=url)
    job = SkunkQueue("again", url).event(add.function)
    for _ in range(3):
        with pool:
            assert job.fire(1, 2).wait(LIMIT) == 3


def test_the_ways_of_starting_follow_each_other_in_any_order():
    pool = make_pool()
    for first in STARTS.values():
        for second in STARTS.values():
            for start in (first, second):
                pool.shutdown()
                assert ends(in_background(lambda start=start: start(pool)))
    with pool:
        assert add.fire(1, 2).wait(LIMIT) == 3


def test_a_signal_before_the_engine_is_there_is_obeyed(monkeypatch):
    class Signalled(module.Engine):
        def __init__(self, *arguments):
            signal.raise_signal(signal.SIGTERM)
            super().__init__(*arguments)

    monkeypatch.setattr(module, "Engine", Signalled)
    pool = make_pool()

    pool.listen()

    monkeypatch.undo()
    run = add.fire(1, 2)
    pool.run_until_idle()
    assert run.result == 3


@pytest.mark.alone
@pytest.mark.parametrize("start", [WorkerPool.listen, in_with], ids=["listen", "with"])
def test_a_signal_at_any_line_of_the_start_is_obeyed(start):
    """A signal is answered between any two steps of the very thread that starts, also while it holds the lock."""
    at, lines, waits = 0, 0, False

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename not in (module.__file__, threading.__file__):
            return None
        lines += event == "line"
        if event == "line" and lines == at:
            sys.settrace(None)
            pool.on_signal(signal.SIGTERM, None)
        return trace

    def join():
        nonlocal waits
        waits = waits or lines < at  # the start is over, and no signal has come yet
        WorkerPool.join(pool)

    def traced():
        sys.settrace(trace)
        start(pool)

    while not waits:
        at, lines, pool = at + 1, 0, make_pool()
        pool.join = join
        assert ends(in_background(traced)), f"the signal at line {at} of the start was lost"
    assert at > 20


IN_A_CALLBACK = """
import os, signal, sys
from skunkqueue.cli import main, serve  # all that is imported later is imported with the signals caught

def profile(frame, event, _):
    global seen
    # What is raised in here, after an import, is dropped by Python, with a line on stderr.
    if event == "call" and frame.f_code.co_name == "cb" and "importlib" in frame.f_code.co_filename:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            seen += 1
            if seen == int(sys.argv[1]):
                os.kill(os.getpid(), int(sys.argv[2]))
                sys.setprofile(None)

seen = 0
sys.setprofile(profile)
main(["work", "-q", "demo", "--url", sys.argv[3]])
"""


@pytest.mark.parametrize("words", [["work", "-q", "demo"], ["runs"], ["--help"]], ids=lambda words: words[0])
@pytest.mark.parametrize("moment", [1, 3])
def test_a_ctrl_c_that_python_drops_before_any_command_began_is_obeyed(tmp_path, moment, words):
    code = (
        IN_A_CALLBACK.replace("import main, serve", "import main")
        .replace("if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:", "if began:")
        .replace("sys.setprofile(profile)", "sys.setprofile(profile)\nbegan = True")
        .replace("seen = 0", "seen = 0; began = False")
        .replace(
            '["work", "-q", "demo", "--url", sys.argv[3]]', repr([*words, "--url", f"sqlite:///{tmp_path}/runs.db"])
        )
    )

    ended = subprocess.run(
        [sys.executable, "-c", code, str(moment), str(int(signal.SIGINT))],
        timeout=LIMIT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ended.returncode == 130, ended.stderr
    assert "Exception ignored" in ended.stderr  # else the signal did not come at such a moment


@pytest.mark.parametrize("moment", [1, 30])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_python_drops_is_obeyed(tmp_path, number, moment):
    arguments = [str(moment), str(int(number)), f"sqlite:///{tmp_path}/runs.db"]

    ended = subprocess.run(
        [sys.executable, "-c", IN_A_CALLBACK, *arguments], timeout=LIMIT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert "Exception ignored" in ended.stderr  # else the signal did not come at such a moment
