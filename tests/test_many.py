"""Many runs, producers and pools on one SQLite file: each run exactly once, and nobody is told that it is locked."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections import Counter

import pytest
from pools import HERE, PoolProcess, traced, until

RUNS = 20_000
PRODUCERS = 4


@pytest.fixture
def many(tmp_path, monkeypatch):
    """The module of the job, on a new file."""
    monkeypatch.setenv("SKUNKQUEUE_URL", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setenv("MARKS", str(tmp_path))
    module = sys.modules.get("many_jobs")
    module = importlib.reload(module) if module else importlib.import_module("many_jobs")
    yield module
    module.queue.close()


def start_producers(folder, share):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / "many_jobs.py"), str(i * share), str(share)],
            env=env,
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(PRODUCERS)
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_pools_and_four_producers_run_each_of_20_000_exactly_once(many, tmp_path):
    url = f"sqlite:///{tmp_path}/runs.db"
    many.queue.count()  # the file is there
    with PoolProcess(tmp_path, url, "foo", "foo") as one, PoolProcess(tmp_path, url, "foo", "foo") as two:
        producers = start_producers(tmp_path, RUNS // PRODUCERS)
        errors = [producer.communicate(timeout=200)[1] for producer in producers]
        until(lambda: many.queue.count().get("succeeded") == RUNS, 200, f"all done: {many.queue.count()}")

        assert one.stop() == 0
        assert two.stop() == 0

    assert errors == [""] * PRODUCERS
    assert traced(tmp_path) == Counter(range(RUNS))
    for pool in (one, two):
        log = pool.log()
        assert "locked" not in log
        assert "away" not in log
        assert "refused" not in log
        assert "Traceback" not in log
        assert log.count(" finished ") > 0
