"""Pools and a Redis that goes away, restarts, forgets its scripts, drops connections, is full or has another clock."""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import subprocess
import sys
import threading
import time

import pytest
from pools import LIMIT, PoolProcess, marks, until

from skunkqueue import StoreAway, StoreError, StoreRefused
from skunkqueue.worker import WorkerPool

pytest.importorskip("redis")

from redis_server import CuttingProxy, RedisServer


def load(url, folder, monkeypatch):
    monkeypatch.setenv("SKUNKQUEUE_URL", url)
    monkeypatch.setenv("MARKS", str(folder))
    if "robust_jobs" in sys.modules:
        return importlib.reload(sys.modules["robust_jobs"])
    return importlib.import_module("robust_jobs")


@pytest.fixture
def server():
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as started:
        yield started


@pytest.fixture
def jobs(server, tmp_path, monkeypatch):
    module = load(server.url, tmp_path, monkeypatch)
    yield module
    module.queue.close()


def test_a_pool_outlives_an_outage_commits_what_it_finished_and_does_not_spin(server, jobs, tmp_path):
    with PoolProcess(tmp_path, server.url, "foo") as pool:
        run = jobs.marked.fire("long", 1.0, "kept")
        until(lambda: marks(tmp_path, "long"))
        server.kill()
        before = pool.cpu()
        pool.said("the store is away")
        until(lambda: marks(tmp_path, "long.done"))
        time.sleep(3)

        assert pool.process.poll() is None
        assert pool.cpu() - before < 0.6  # of more than three seconds
        server.start()

        assert run.wait(LIMIT) == "kept"
        assert marks(tmp_path, "long") == 1
        pool.said("the store is back")
        assert jobs.add.fire(1, 2).wait(LIMIT) == 3


def test_an_idle_pool_stops_at_once_and_leaves_no_thread_of_its_own_waiting(server, jobs, tmp_path):
    with PoolProcess(tmp_path, server.url, "foo", "bar", lease=60) as pool:
        jobs.add.fire(1, 2).wait(LIMIT)
        with server.client() as client:
            until(lambda: client.info("clients")["blocked_clients"] == 2)  # it waits for work, and for orders

        began = time.monotonic()
        assert pool.stop() == 0
        assert time.monotonic() - began < 5

    of_others = set(threading.enumerate())  # pools of other tests, on stores that cannot call a wait back
    with WorkerPool(jobs.queue, ["foo"], log=io.StringIO()):
        assert jobs.add.fire(3, 4).wait(LIMIT) == 7
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("skunkqueue-") and t not in of_others], 5)


def test_a_burst_does_what_its_jobs_fire_on_other_routes(server, jobs, tmp_path):
    """Also when that is claimed at the very moment in which all seems to be done."""
    for _ in range(100):
        run = jobs.fire_on.fire("bar")

        WorkerPool(jobs.queue, ["foo", "bar"], in_process=True, log=io.StringIO()).run_until_idle()

        assert jobs.queue.store.get([run.result])[run.result].state == "succeeded"


def test_a_pool_started_before_its_server_waits_for_it(server, tmp_path, monkeypatch):
    server.kill()
    with PoolProcess(tmp_path, server.url, "foo") as pool:
        pool.said("the store is away")
        server.start()
        jobs = load(server.url, tmp_path, monkeypatch)
        assert jobs.add.fire(1, 2).wait(LIMIT) == 3
        jobs.queue.close()


def test_a_pool_whose_server_is_away_still_answers_sigterm(server, jobs, tmp_path):
    with PoolProcess(tmp_path, server.url, "foo", lease=2) as pool:
        jobs.add.fire(1, 2).wait(LIMIT)
        server.kill()
        pool.said("the store is away")

        assert pool.stop() == 0


def produce(jobs, accepted, doubtful, stop):
    """Fire until told to stop; what could not be settled is fired again, which is harmless."""
    number = 0
    while not stop.is_set():
        try:
            accepted.append(jobs.marked.fire(f"n{number}"))
        except StoreAway as error:
            doubtful.extend(error.runs)
            time.sleep(0.05)
        number += 1
        time.sleep(0.002)


@pytest.mark.parametrize(("how", "fsync"), [("stop", "everysec"), ("kill", "always")])
def test_a_restart_under_load_loses_no_accepted_run(tmp_path, monkeypatch, how, fsync):
    with RedisServer("--appendonly", "yes", "--appendfsync", fsync) as server:
        jobs = load(server.url, tmp_path, monkeypatch)
        accepted, doubtful, stop = [], [], threading.Event()
        producer = threading.Thread(target=produce, args=(jobs, accepted, doubtful, stop))
        with PoolProcess(tmp_path, server.url, "foo", "foo", lease=3):
            producer.start()
            for _ in range(2):
                until(lambda seen=len(accepted): len(accepted) > seen + 100)
                getattr(server, how)()
                time.sleep(0.3)
                server.start()
            until(lambda seen=len(accepted): len(accepted) > seen + 50)
            stop.set()
            producer.join(LIMIT)
            for run in accepted:
                run.wait(LIMIT)
        jobs.queue.close()

    assert len(accepted) > 200


def test_connections_killed_and_scripts_flushed_under_load_cost_nothing(server, jobs, tmp_path):
    with PoolProcess(tmp_path, server.url, "foo", "foo", lease=3):
        runs = [jobs.marked.fire(f"k{i}") for i in range(400)]
        with server.client() as client:
            for _ in range(20):
                with contextlib.suppress(Exception):
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                client.script_flush()
                time.sleep(0.02)
        for run in runs:
            run.wait(LIMIT)

    assert all(marks(tmp_path, f"k{i}") == 1 for i in range(400))


@pytest.mark.parametrize("wrong", [300, -300])
def test_a_pool_whose_clock_is_five_minutes_off_steals_no_lease_and_starts_in_time(server, jobs, tmp_path, wrong):
    prelude = f"import time; real = time.time; time.time = lambda: real() + {wrong}\n"
    with PoolProcess(tmp_path, server.url, "foo", lease=2) as right:
        held = jobs.marked.fire("held", 2.5)
        until(lambda: marks(tmp_path, "held"))
        with PoolProcess(tmp_path, server.url, "foo", lease=2, prelude=prelude) as skewed:
            skewed.up()
            soon = jobs.marked.fire_at(1.0, "soon")
            asked = time.monotonic()
            soon.wait(LIMIT)
            assert time.monotonic() - asked >= 0.9
            held.wait(LIMIT)

    assert marks(tmp_path, "held") == 1
    assert held.attempts == 1
    assert "refused" not in right.log()


def test_a_full_server_refuses_clearly_and_loses_nothing(server, jobs, tmp_path):
    accepted = []
    with server.client() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
        client.config_set("maxmemory-policy", "noeviction")
        with pytest.raises(StoreRefused) as refusal:
            for number in range(100_000):
                accepted.append(jobs.marked.fire(f"m{number}", 0.0, "x" * 1000))
        with PoolProcess(tmp_path, server.url, "foo") as pool:
            pool.up()
            time.sleep(1)
            assert pool.process.poll() is None
            client.config_set("maxmemory", 0)
            for run in accepted:
                assert run.wait(LIMIT) == "x" * 1000

    assert "memory" in str(refusal.value)
    assert isinstance(refusal.value, StoreError)


def test_firing_through_a_pipeline_is_one_with_the_users_own_writes(server, jobs, tmp_path):
    with server.client() as client, client.pipeline(transaction=True) as pipe, PoolProcess(tmp_path, server.url, "foo"):
        pipe.set("order:7", "paid")
        run = jobs.add.options(via=pipe).fire(3, 4)
        assert run.state == "queued"
        assert client.get("order:7") is None
        assert jobs.queue.store.get([run.id]) == {}
        client.script_flush()

        pipe.execute()

        assert run.wait(LIMIT) == 7
        assert client.get("order:7") == b"paid"


def test_a_job_that_fires_and_a_handle_that_it_returns_reach_a_server_with_a_password(tmp_path, monkeypatch):
    with RedisServer("--requirepass", "open sesame") as server:
        url = server.url.replace("redis://", "redis://:open%20sesame@")
        jobs = load(url, tmp_path, monkeypatch)
        script = tmp_path / "outer.py"
        script.write_text(
            "from skunkqueue import SkunkQueue\n"
            f"queue = SkunkQueue('demo', {url!r})\n"
            "@queue.event(routes=['bar'])\n"
            "def inner(x): return x + 1\n"
            "@queue.event(routes=['foo'])\n"
            "def outer(x): return inner.fire(x).wait(20)\n"
            "print(outer.fire(1).wait(30))\n"
            "@queue.event(routes=['foo'])\n"
            "def handle(x): return inner.fire(x)\n"
            "inside = handle.fire(2).wait(30)\n"
            "print(inside.wait(20), inside.state, inside.result, inside == queue.runs(limit=1, route='bar')[0])\n"
        )
        with PoolProcess(tmp_path, url, "foo", "bar") as pool:
            done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
            assert done.stdout.splitlines() == ["2", "3 succeeded 3 True"], done.stderr + pool.log()
            assert "sesame" not in pool.log()
        jobs.queue.close()


@pytest.mark.parametrize("options", [{}, {"concurrency": 2}], ids=["one", "several"])
def test_a_handle_is_of_the_store_that_it_came_through_whatever_name_that_has(tmp_path, monkeypatch, options):
    """As with containers: a program reaches the server by another name than the workers."""
    with RedisServer() as server, contextlib.closing(CuttingProxy(server.port)) as outside:
        theirs = server.url.replace("127.0.0.1", "localhost")
        monkeypatch.delenv("SKUNKQUEUE_URL", raising=False)
        script = tmp_path / "outer.py"
        script.write_text(
            "from skunkqueue import SkunkQueue\n"
            f"queue = SkunkQueue('demo', {outside.url!r})\n"
            "@queue.event(routes=['foo'])\n"
            "def inner(x): return x + 1\n"
            "@queue.event(routes=['foo'])\n"
            "def told(run): return inner.fire(run.wait(20)), queue.url\n"
            "run, url = told.fire(inner.fire(1)).wait(30)\n"
            "print(run.wait(20), run._queue.url == queue.url, url)\n"
        )
        with PoolProcess(tmp_path, theirs, "foo", **options) as pool:
            done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
            assert done.stdout.splitlines() == [f"3 True {theirs}"], done.stderr + pool.log()


def test_a_first_fire_without_a_server_still_holds_its_run(server, jobs):
    server.kill()
    with pytest.raises(StoreAway) as away:
        jobs.add.fire(1, 2)
    server.start()

    assert [run.id for run in away.value.runs.fire()] == [run.id for run in away.value.runs]
    assert jobs.queue.count()["queued"] == 1


def test_the_password_reaches_a_job_and_its_forks_but_not_what_they_execute(tmp_path, monkeypatch):
    with RedisServer("--requirepass", "hush") as guarded:
        url = guarded.url.replace("redis://", "redis://:hush@")
        monkeypatch.setenv("SKUNKQUEUE_URL", url)
        import pool_url_jobs

        pickled = pickle.dumps(pool_url_jobs.queue)
        assert b"hush" not in pickled
        with PoolProcess(tmp_path, url, "foo"):
            here, forked, seen, memory, mine = pool_url_jobs.look.fire(pickled).wait(LIMIT)
        pool_url_jobs.queue.close()

    assert here == forked == (url, True)
    assert (seen.strip(), mine) == ("{}", {})
    assert "succeeded" in memory  # a store in the memory of a program that a job starts is its own affair
