"""Pools on a FoundationDB: faults of workers and pools, many at once, the first demo, a cluster that dies or hangs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fdb_servers import binding, cluster_of_its_own, drop, fresh_name, fresh_url, ours_to_kill
from pools import LIMIT, PoolProcess, marks, traced, until
from test_many import start_producers
from test_torture import (  # noqa: F401
    test_nothing_accepted_is_lost_or_written_twice_whatever_is_killed,
)
from test_worker_faults import (  # noqa: F401 - the same on this store, whose URL is below
    jobs,
    pool,
    test_a_job_that_kills_its_worker_three_times_is_poison_and_its_neighbours_do_not_notice,
    test_a_killed_pool_leaves_no_process_and_its_runs_to_another_pool,
    test_a_pool_that_slept_past_its_lease_cannot_write_over_the_one_that_took_over,
    test_a_run_whose_worker_was_killed_runs_again_within_a_second,
    test_cancelling_a_running_job_interrupts_it_soon,
)

from skunkqueue import StoreAway

binding()


@pytest.fixture
def store_url(shared_fdb: str) -> Iterator[str]:
    name = fresh_name()
    yield f"fdb://{shared_fdb}?prefix={name}"
    drop(shared_fdb, name)


def load(name: str, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of jobs, on this store."""
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    monkeypatch.setenv("MARKS", str(folder))
    module = sys.modules.get(name)
    return importlib.reload(module) if module else importlib.import_module(name)


# -- the first demo --------------------------------------------------------------------------------------------------

DEMO = """\
# demo.py; this file launches events

from skunkqueue import SkunkQueue
from skunkqueue.persistence.fdb import default_cfg
from time import sleep
from datetime import timedelta

queue = SkunkQueue('demo', **default_cfg)

@queue.event(routes=['foo'])
def add(first, second):
    # The return value gets saved by the backend.
    return first + second

add.fire(4,5)
sleep(4)
print('result', add.result)
print('state', add.state)
add.fire_at(timedelta(seconds=60),4,5)
"""

DEMO_WORKER = """\
# demo_worker.py; this file runs a worker to consume events.

from skunkqueue.worker import WorkerPool
from skunkqueue.persistence.fdb import default_cfg

with WorkerPool('demo', ['foo'], **default_cfg) as pool:
    pool.listen()
"""


@ours_to_kill
def test_the_first_demo_gives_nine_in_two_processes(tmp_path: Path) -> None:
    """Word for word but for the brackets of print, on the cluster file that is the default."""
    (tmp_path / "demo.py").write_text(DEMO)
    (tmp_path / "demo_worker.py").write_text(DEMO_WORKER)
    with cluster_of_its_own() as cluster:
        env = {**os.environ, "FDB_CLUSTER_FILE": str(cluster.file)}
        worker = subprocess.Popen([sys.executable, tmp_path / "demo_worker.py"], stderr=subprocess.DEVNULL, env=env)
        try:
            said = subprocess.run(
                [sys.executable, tmp_path / "demo.py"], capture_output=True, text=True, timeout=LIMIT, env=env
            )
        finally:
            worker.terminate()
            worker.wait(LIMIT)

    assert said.stdout == "result 9\nstate succeeded\n", said.stderr


# -- many ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_pools_and_four_producers_run_each_of_thousands_exactly_once(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _many(store_url, tmp_path, monkeypatch, 5000)


def test_two_pools_and_four_producers_run_each_of_some_exactly_once(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _many(store_url, tmp_path, monkeypatch, 400)


def _many(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    many = load("many_jobs", url, folder, monkeypatch)
    with PoolProcess(folder, url, "foo", "foo") as one, PoolProcess(folder, url, "foo", "foo") as two:
        producers = start_producers(folder, runs // 4)
        errors = [producer.communicate(timeout=200)[1] for producer in producers]
        until(lambda: many.queue.count().get("succeeded") == runs, 200, f"all done: {many.queue.count()}")
        assert (one.stop(), two.stop()) == (0, 0)
    many.queue.close()

    assert errors == [""] * 4
    assert traced(folder) == Counter(range(runs))
    for each in (one, two):
        assert "Traceback" not in each.log()
        assert "away" not in each.log()


# -- idle ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.alone
def test_an_idle_pool_costs_next_to_nothing_and_starts_a_run_soon(
    jobs: ModuleType,  # noqa: F811
    store_url: str,
    tmp_path: Path,
) -> None:
    """The bounds are wide, as others may use the machine; ``python -m bench fdb`` measures."""
    with PoolProcess(tmp_path, store_url, "foo") as idle:
        jobs.add.fire(1, 2).wait(LIMIT)
        time.sleep(2)
        before = idle.cpu()
        time.sleep(8)
        used = (idle.cpu() - before) / 8
        took = []
        for _ in range(15):
            time.sleep(0.15)
            run = jobs.add.fire(1, 2)
            run.wait(LIMIT)
            record = jobs.queue.store.get([run.id])[run.id]
            took.append(record.ended - record.envelope.due)

    assert used < 0.1, f"{100 * used:.1f} % of a processor"
    assert sorted(took)[7] < 0.5, f"median {1000 * sorted(took)[7]:.0f} ms"  # from fire to end


# -- a cluster that dies or hangs ------------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> Iterator[Any]:
    """One of its own, to be killed."""
    with cluster_of_its_own() as cluster:
        yield cluster


def durable(cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    url = fresh_url(cluster.file) + "&timeout=1.5"
    module = load("robust_jobs", url, folder, monkeypatch)
    module.URL = url  # type: ignore[attr-defined]
    module.queue.count()
    return module


@pytest.mark.slow
@ours_to_kill
def test_a_pool_outlives_a_killed_cluster_commits_what_it_finished_and_does_not_spin(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions jump, as those of a cluster do that recovers: no lease ends by that."""
    module = durable(cluster, tmp_path, monkeypatch)
    with PoolProcess(tmp_path, module.URL, "foo") as pool:  # noqa: F811
        run = module.marked.fire("long", 1.0, "kept")
        until(lambda: marks(tmp_path, "long"))
        cluster.kill()
        before = pool.cpu()
        pool.said("the store is away")
        until(lambda: marks(tmp_path, "long.done"))
        time.sleep(3)
        assert pool.process.poll() is None
        assert pool.cpu() - before < 1.0  # of more than three seconds
        with pytest.raises(StoreAway) as away:
            module.add.fire(1, 2)
        cluster.start()

        assert run.wait(LIMIT) == "kept"
        assert marks(tmp_path, "long") == 1
        pool.said("the store is back")
        (doubtful,) = away.value.runs
        doubtful.fire()
        assert doubtful.wait(LIMIT) == 3
    module.queue.close()


@pytest.mark.slow
@ours_to_kill
def test_a_pool_hears_its_signals_while_the_cluster_hangs(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = durable(cluster, tmp_path, monkeypatch)
    with PoolProcess(tmp_path, module.URL, "foo") as pool:  # noqa: F811
        assert module.add.fire(1, 2).wait(LIMIT) == 3
        with cluster.hanging():
            before = pool.cpu()
            with pytest.raises(StoreAway):
                module.add.fire(1, 2)
            pool.said("the store is away")
            assert pool.cpu() - before < 1.0
            pool.send(15)
            pool.said("stop")
        assert pool.ends() == 0
    module.queue.close()


# -- directories -----------------------------------------------------------------------------------------------------


def test_a_pool_whose_directory_was_removed_says_so(
    shared_fdb: str,
    store_url: str,
    jobs: ModuleType,  # noqa: F811
    tmp_path: Path,
) -> None:
    with PoolProcess(tmp_path, store_url, "foo") as pool:  # noqa: F811
        assert jobs.add.fire(1, 2).wait(LIMIT) == 3

        drop(shared_fdb, store_url.rpartition("=")[2])
        pool.said("was moved or removed")
