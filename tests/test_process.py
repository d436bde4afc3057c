"""Starting and ending worker processes when the system gives nothing, or a job pulls at the ropes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from pools import LIMIT, alive, until
from troubled import Troubled, make_pool

from skunkqueue import SkunkQueue
from skunkqueue.clock import ticks
from skunkqueue.worker.pool.process import Guard, Pipes, Process
from skunkqueue.worker.pool.slot import Slot

queue = SkunkQueue("demo", "memory://process")
SETUP = {"concurrency": 1, "max_result": 1 << 20, "imports": []}


@queue.event(routes=["foo"])
def size_of(data):
    return len(data)


@queue.event(routes=["foo"])
def leave_the_group():
    os.setpgid(0, os.getpgid(os.getppid()))
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


@queue.event(routes=["foo"])
def close_all():
    os.closerange(3, 1000)
    return "closed"


@queue.event(routes=["foo"])
def become(program, *arguments):
    os.execv(program, [program, *arguments])


@queue.event(routes=["foo"])
def print_much(megabytes):
    for _ in range(megabytes):
        print("x" * 1_000_000)
    return "printed"


@queue.event(routes=["foo"])
def first_write_of_a_print():
    reader, writer = os.pipe2(os.O_DIRECT)  # a packet for each write
    os.dup2(writer, sys.stdout.fileno())
    print("lines", "stay", "whole")
    return os.read(reader, 100)


@queue.event(routes=["foo"])
def leave_daemon_threads():
    for _ in range(3):
        threading.Thread(target=lambda: [time.sleep(0.01) for _ in range(10_000)], daemon=True).start()
    return "left"


@queue.event(routes=["foo"])
def block_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    time.sleep(60)


@queue.event(routes=["foo"])
def with_a_pool_of_processes():
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return workers.map(abs, [-1, -2, -3])


@queue.event(routes=["foo"])
def end_what_it_forked():
    """As multiprocessing ends its processes."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(20)
    return child.exitcode


@pytest.fixture
def store():
    queue.store.__init__("process")
    yield Troubled(queue.store)
    queue.close()


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_a_worker_that_cannot_be_started_leaves_no_descriptor_open(monkeypatch):
    guard = Guard()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = open_files()

    for _ in range(20):
        with pytest.raises(OSError, match="nowhere"):
            Process(SETUP, {}, guard, ticks() + 60)

    assert open_files() == before
    guard.close()


def test_pipes_for_which_no_descriptor_is_left_leave_none_open(monkeypatch):
    def none_left(*_):
        raise OSError(24, "Too many open files")

    before = open_files()
    monkeypatch.setattr("skunkqueue.worker.pool.process.shared_bytes", none_left)
    for _ in range(20):
        with pytest.raises(OSError, match="Too many"):
            Pipes(0.0)

    assert open_files() == before


def test_a_worker_needs_no_room_on_a_disk(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")

    pipes = Pipes(0.0)

    pipes.close_worker_side()
    pipes.close_pool_side()


def test_a_worker_that_never_starts_is_tried_for_ever():
    worker = Slot("w", "foo.1", "demo", "foo", 1)

    for _ in range(5000):
        worker.start_later()

    assert worker.start_at <= ticks() + 5.0


@pytest.mark.slow
def test_no_descriptor_is_left_open_by_workers_that_are_renewed(store):
    runs = size_of.fire_many([(b"",)] * 8)
    pool = make_pool(store, max_runs=1)
    pool.run_until_idle()  # the first time opens what stays open
    before = open_files()
    for _ in range(2):
        runs = size_of.fire_many([(b"",)] * 8)
        pool.run_until_idle()
        assert runs.results == [0] * 8

    until(lambda: open_files() <= before, message=f"{open_files()} open files, {before} before")
    assert pool.log.getvalue().count(" started, process ") >= 24


def test_a_worker_that_left_its_process_group_is_killed_all_the_same(store):
    run = leave_the_group.options(timeout=3).fire()  # that the module is imported counts as well
    with make_pool(store, kill_after=0.2) as pool:
        until(lambda: run.state == "failed")
        pool.log.said("died (SIGKILL)")
    pids = [int(line.split()[-1]) for line in pool.log.getvalue().splitlines() if " started, process " in line]
    assert not any(alive(pid) for pid in pids)


def test_a_pool_is_at_rest_after_large_runs(store):
    with make_pool(store):
        runs = size_of.fire_many([(b"x" * 900_000,)] * 40)
        until(lambda: runs.state == "succeeded", LIMIT)
        spent = time.process_time()
        time.sleep(2)
        assert time.process_time() - spent < 1.0  # it would be two, spinning


def test_a_job_that_closes_every_descriptor_costs_its_own_worker_only(store):
    bad, good = close_all.fire(), size_of.fire_many([(b"",)] * 10)

    make_pool(store).run_until_idle()

    assert "poison" in bad.error
    assert good.results == [0] * 10
    assert all(run.attempts == 1 for run in good.runs)


def test_a_job_that_becomes_another_program_is_a_death_and_is_ended_by_its_timeout(store):
    gone = become.fire("/bin/true")
    stays = become.options(timeout=3).fire("/bin/sleep", "300")

    with make_pool(store, kill_after=0.2) as pool:
        until(lambda: gone.state == "failed" and stays.state == "failed", 60)

    assert gone.error.count("exit code 0") == 3
    assert "did not end within 3 s" in stays.error
    pool.log.said("died (SIGKILL)")


def test_jobs_that_print_much_leave_threads_or_fork_disturb_nobody(store, capfd):
    runs = [print_much.fire(5), leave_daemon_threads.fire(), with_a_pool_of_processes.fire(), size_of.fire(b"abc")]
    pool = make_pool(store)
    pool.run_until_idle()

    assert [run.result for run in runs] == ["printed", "left", [1, 2, 3], 3]
    assert len(capfd.readouterr().out) > 5_000_000
    assert pool.log.getvalue().count(" started, process ") == 1


def test_lines_that_several_workers_print_stay_whole(store, monkeypatch):
    """For each is one write: of several they would be torn, as all write to the same."""
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # as in many a container
    run = first_write_of_a_print.fire()

    make_pool(store).run_until_idle()

    assert run.result == b"lines stay whole\n"


def test_what_a_job_forks_can_be_ended(store):
    run = end_what_it_forked.fire()

    make_pool(store).run_until_idle()

    assert run.result == -signal.SIGTERM


def test_a_job_that_blocks_every_signal_is_killed_when_its_time_is_up(store):
    bad, good = block_signals.options(timeout=3).fire(), size_of.fire(b"abc")
    with make_pool(store, kill_after=0.2) as pool:
        until(lambda: bad.state == "failed")
        until(lambda: good.state == "succeeded")
    assert "did not end within 3 s" in bad.error
    pool.log.said("is killed")


def test_a_worker_that_dies_before_it_is_ready_is_started_again_after_a_pause(store, monkeypatch, tmp_path):
    (tmp_path / "dies_first.py").write_text(
        "import os, sys\nif not os.path.exists('there'): open('there', 'w').close(); os._exit(9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = size_of.fire(b"abc")

    pool = make_pool(store, imports=("dies_first",))
    pool.run_until_idle()

    assert run.result == 3
    assert "died (exit code 9)" in pool.log.getvalue()


@pytest.mark.parametrize("shell", ["/bin/sh", "/nowhere/sh"])
def test_when_the_pool_is_gone_its_guard_kills_the_groups_left(monkeypatch, shell):
    monkeypatch.setattr("skunkqueue.worker.pool.process.SHELL", shell)
    sleepers = [subprocess.Popen(["sleep", "60"], process_group=0) for _ in range(3)]
    guard = Guard()
    for sleeper in sleepers:
        guard.watch(sleeper.pid)
    guard.forget(sleepers[1].pid)

    guard.close()  # as when the pool's end of the pipe closes

    assert [sleepers[n].wait(30) for n in (0, 2)] == [-signal.SIGKILL, -signal.SIGKILL]
    assert sleepers[1].poll() is None
    sleepers[1].kill()
    sleepers[1].wait()
