"""Starting and ending worker processes when the system gives nothing, or a job pulls at the ropes."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time

import pytest
from pools import LIMIT, alive, until
from troubled import Troubled, make_pool

from skunkqueue import SkunkQueue
from skunkqueue.clock import ticks
from skunkqueue.worker.crew import Worker
from skunkqueue.worker.process import Guard, Pipes, Process

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
    monkeypatch.setattr("skunkqueue.worker.process._shared_bytes", none_left)
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
    worker = Worker("w", "foo.1", "demo", "foo", 1)

    for _ in range(5000):
        worker.start_later()

    assert worker.start_at <= ticks() + 5.0


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
