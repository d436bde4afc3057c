"""Chains as pools work on them: one step follows the other at once, though no timer of a pool helps."""

from __future__ import annotations

import io
import time

import pytest

from skunkqueue import SkunkQueue, WorkerPool
from skunkqueue.worker.pool import timekeeper


@pytest.fixture
def queue(pools_url):
    with SkunkQueue("demo", pools_url) as queue:
        yield queue


def working(queue, **options):
    return WorkerPool(queue, ["default", "default"], in_process=True, log=io.StringIO(), **options)


def grow(seen=()):
    return [*seen, time.monotonic()]


def last_of(members):
    return len(members)


@pytest.mark.parametrize("pools", [1, 2])
def test_gates_that_are_fired_soon_after_others_are_seen_at_once(queue, pools, monkeypatch):
    """Pools are told of a gate once a second at most. Those of the next chains they find as runs come and end."""
    monkeypatch.setattr(timekeeper, "OFTEN", 60.0)
    job = queue.event(grow)
    report = queue.event(last_of)
    with working(queue), working(queue) if pools == 2 else io.StringIO():
        for _ in range(10):
            assert len(job.then(job).then(job).then(job).fire().wait(30)) == 4
        for _ in range(3):
            members = job.fire_many([()] * 20)
            assert report.after(members).fire(members).wait(30) == 20
