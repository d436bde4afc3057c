"""Pools on a MongoDB: faults of workers and pools, many at once, the first demo, a durable server that is killed."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("pymongo")

from mongo_servers import URL, FerretServer, JavaServer, client_of, fresh_url
from pools import LIMIT, PoolProcess, marks, traced, until
from redis_server import CuttingProxy
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

from skunkqueue import SkunkQueue, StoreAway, WorkerPool


@pytest.fixture
def store_url(shared_mongodb: str) -> Iterator[str]:
    url = fresh_url(shared_mongodb)
    yield url
    with client_of(url) as client:
        client.drop_database(client.get_default_database())


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
from skunkqueue.persistence.mongodb import default_cfg
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
from skunkqueue.persistence.mongodb import default_cfg

with WorkerPool('demo', ['foo'], **default_cfg) as pool:
    pool.listen()
"""


def test_the_first_demo_gives_nine_in_two_processes(tmp_path: Path) -> None:
    """Word for word but for the brackets of print, on the port that default_cfg names."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 27017)) == 0:
            pytest.skip("another server has the port 27017, and it is not ours to write to")
    (tmp_path / "demo.py").write_text(DEMO)
    (tmp_path / "demo_worker.py").write_text(DEMO_WORKER)
    with JavaServer(27017):
        worker = subprocess.Popen([sys.executable, tmp_path / "demo_worker.py"], stderr=subprocess.DEVNULL)
        try:
            said = subprocess.run([sys.executable, tmp_path / "demo.py"], capture_output=True, text=True, timeout=LIMIT)
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
    """The one in Java finds without indexes, so it gets fewer."""
    many, runs = load("many_jobs", store_url, tmp_path, monkeypatch), 5000 if os.environ.get(URL) else 2000
    with PoolProcess(tmp_path, store_url, "foo", "foo") as one, PoolProcess(tmp_path, store_url, "foo", "foo") as two:
        producers = start_producers(tmp_path, runs // 4)
        errors = [producer.communicate(timeout=200)[1] for producer in producers]
        until(lambda: many.queue.count().get("succeeded") == runs, 200, f"all done: {many.queue.count()}")
        assert (one.stop(), two.stop()) == (0, 0)
    many.queue.close()

    assert errors == [""] * 4
    assert traced(tmp_path) == Counter(range(runs))
    for each in (one, two):
        assert "Traceback" not in each.log()
        assert "away" not in each.log()


# -- idle ------------------------------------------------------------------------------------------------------------


def test_an_idle_pool_sends_few_commands(store_url: str) -> None:
    """Where there are no change streams, eleven looks for work a second, and a beat now and then."""
    server, _, database = store_url.rpartition("/")
    if "127.0.0.1" not in server:
        pytest.skip("the server is not on this machine")
    with CountingProxy(int(server.rpartition(":")[2])) as proxy:
        url = f"mongodb://127.0.0.1:{proxy.port}/{database}"
        with SkunkQueue("demo", url) as queue, WorkerPool(queue, "foo", in_process=True, log=io.StringIO()):
            queue.event(routes=["foo"])(len).fire("all is open").wait(LIMIT)
            time.sleep(2)  # in which it slows down
            before, began = proxy.replies, time.monotonic()
            time.sleep(3)
            rate = (proxy.replies - before) / (time.monotonic() - began)

    assert 0 < rate <= 20


class CountingProxy(CuttingProxy):
    """Counts what a server answers."""

    replies = 0

    def _is_lost(self) -> bool:
        self.replies += 1
        return False


@pytest.mark.alone
def test_an_idle_pool_costs_next_to_nothing_and_starts_a_run_soon(
    jobs: ModuleType,  # noqa: F811
    store_url: str,
    tmp_path: Path,
) -> None:
    """It does not poll in a busy loop, nor once in a while only.

    The bounds leave room for others that use the machine; ``python -m bench mongodb`` measures.
    """
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

    assert used < 0.03, f"{100 * used:.1f} % of a processor"
    assert sorted(took)[7] < 0.2, f"median {1000 * sorted(took)[7]:.0f} ms"  # from fire to end


# -- a durable server that is killed ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ferret() -> Iterator[FerretServer]:
    with FerretServer() as server:
        yield server


@pytest.fixture
def durable(ferret: FerretServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    url = fresh_url(ferret.url)
    module = load("robust_jobs", url, tmp_path, monkeypatch)
    module.URL = url
    module.queue.count()
    yield module
    module.queue.close()


def kill_all(server: FerretServer) -> None:
    server.kill_postgres()
    server.kill_ferretdb()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["ferretdb", "postgres"])
def test_a_pool_outlives_a_killed_server_commits_what_it_finished_and_does_not_spin(
    ferret: FerretServer, durable: ModuleType, tmp_path: Path, what: str
) -> None:
    with PoolProcess(tmp_path, durable.URL, "foo") as pool:  # noqa: F811
        run = durable.marked.fire("long", 1.0, "kept")
        until(lambda: marks(tmp_path, "long"))
        getattr(ferret, f"kill_{what}")()
        before = pool.cpu()
        pool.said("the store is away")
        until(lambda: marks(tmp_path, "long.done"))
        time.sleep(3)
        assert pool.process.poll() is None
        assert pool.cpu() - before < 1.0  # of more than three seconds
        getattr(ferret, f"start_{what}")()

        assert run.wait(LIMIT) == "kept"
        assert marks(tmp_path, "long") == 1
        pool.said("the store is back")
        assert durable.add.fire(1, 2).wait(LIMIT) == 3


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_was_accepted_before_a_server_was_killed_is_run_exactly_once(
    ferret: FerretServer, durable: ModuleType, tmp_path: Path
) -> None:
    """Fired by a thread that goes on while one process of PostgreSQL is killed, then all of it and FerretDB at once."""
    accepted: list[object] = []
    doubtful: list[object] = []
    over = threading.Event()

    def fire() -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                accepted.append(durable.marked.fire(f"n{number}", 0.0, number))
            except StoreAway as error:
                doubtful.extend(error.runs)

    with PoolProcess(tmp_path, durable.URL, "foo", "foo"):
        producer = threading.Thread(target=fire)
        producer.start()
        for _ in range(2):
            until(lambda n=len(accepted): len(accepted) > n + 30, 60)
            ferret.kill_a_connection()
            until(lambda n=len(accepted): len(accepted) > n + 30, 60)
            kill_all(ferret)
            time.sleep(1)
            ferret.start_postgres()
            ferret.start_ferretdb()
        until(lambda n=len(accepted): len(accepted) > n + 30, 60)
        over.set()
        producer.join()
        for run in doubtful:
            with contextlib.suppress(StoreAway):
                run.fire()  # type: ignore[attr-defined]  # which puts the very same run
        for run in [*accepted, *doubtful]:
            run.wait(LIMIT)  # type: ignore[attr-defined]

    assert len(accepted) > 90
    started = {name: marks(tmp_path, name) for name in os.listdir(tmp_path) if name.startswith("n")}
    assert {name for name, times in started.items() if times > 1} == set()
