"""A queue: where it is, whom it shares its store with, how it travels, and what can be done at its desk."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from hands import Hands

import skunkqueue
from skunkqueue import SkunkQueue, StoreAway, WrongCall, errors
from skunkqueue.envelope import State

_names = itertools.count()
LIMIT = 30


@pytest.fixture
def queue():
    with SkunkQueue("demo", f"memory://queue-{next(_names)}") as queue:
        yield queue


@pytest.fixture
def job(queue):
    @queue.event(routes=["foo"])
    def job(value=None):
        return value

    return job


# -- where it is


@pytest.mark.parametrize("name", ["", "a b", "a^b", "@a", None, 5, "x" * 101])
def test_a_wrong_name_is_refused(name):
    with pytest.raises(WrongCall, match="a queue name is"):
        SkunkQueue(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"conn_url": "nosql://x"}, "no store for nosql"),
        ({"backend": "oracle"}, "no backend 'oracle'"),
        ({"conn_url": "memory://x", "backend": "sqlite"}, "give one of the two"),
        ({"queue_type": "brodcast"}, "did you mean 'broadcast'"),
        ({"max_payload": 0}, "max_payload is a number of bytes"),
        ({"max_payload": "1"}, "max_payload is a number of bytes"),
    ],
)
def test_a_wrong_configuration_is_refused(options, said):
    with pytest.raises(WrongCall, match=said):
        SkunkQueue("demo", **options)


def test_nothing_is_opened_until_it_is_needed():
    queue = SkunkQueue("demo", "redis://nowhere.invalid:1")
    queue.event(len).options(timeout=5, unique="x")

    assert queue._connection is None


def test_the_environment_says_where_and_so_does_a_default_cfg(monkeypatch):
    monkeypatch.setenv("SKUNKQUEUE_URL", "memory://env")

    assert SkunkQueue("demo").url == "memory://env"
    assert SkunkQueue("demo", backend="memory", conn_url="", dbname="cfg").url == "memory://cfg"
    monkeypatch.delenv("SKUNKQUEUE_URL")
    assert SkunkQueue("demo").url == "sqlite://"


def test_queues_of_equal_configuration_share_a_store_until_the_last_is_closed(monkeypatch):
    one, two = SkunkQueue("one", "memory://shared"), SkunkQueue("two", "memory://shared")
    closed = []
    assert one.store is two.store
    assert one.clock is two.clock
    monkeypatch.setattr(type(one.store), "close", lambda self: closed.append(self))

    store = one.store
    one.close()
    assert closed == []
    two.close()
    two.close()
    assert closed == [store]


def test_a_closed_queue_opens_anew(queue, job):
    job.fire(1)
    queue.close()

    job.fire(2)

    assert len(queue.runs()) == 2


def test_threads_that_come_first_at_once_get_one_store():
    queue = SkunkQueue("demo", f"memory://queue-{next(_names)}")
    gate, stores = threading.Barrier(8), []

    def come():
        gate.wait(LIMIT)
        stores.append(queue.connection)

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)

    assert len(set(map(id, stores))) == 1


def test_many_threads_may_fire_at_once(queue, job):
    threads = [threading.Thread(target=lambda: [job.fire(n) for n in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)

    assert queue.count()[State.QUEUED] == 400


# -- how it travels


def test_a_queue_pickles_as_name_and_configuration():
    queue = SkunkQueue("demo", "memory://x", queue_type="broadcast", max_payload=77)

    back = pickle.loads(pickle.dumps(queue))

    assert (back.name, back.url, back.queue_type, back.max_payload) == ("demo", "memory://x", "broadcast", 77)


SECRET = "redis://me:hush@localhost:1/0"


def test_no_secret_is_in_a_pickle_or_a_repr():
    queue = SkunkQueue("demo", SECRET)

    assert b"hush" not in pickle.dumps(queue)
    assert "hush" not in repr(queue) + str(queue) + queue.url


def test_in_a_worker_of_a_pool_on_the_same_store_the_secret_comes_from_the_pool(monkeypatch):
    pickled = pickle.dumps(SkunkQueue("demo", SECRET))
    monkeypatch.setattr("skunkqueue.connection._urls", {})

    monkeypatch.setattr("skunkqueue.connection._pool_url", SECRET)
    assert pickle.loads(pickled)._address.url == SECRET
    monkeypatch.setattr("skunkqueue.connection._urls", {})
    monkeypatch.setattr("skunkqueue.connection._pool_url", "redis://me:hush@elsewhere:1/0")
    assert pickle.loads(pickled)._address.url == "redis://localhost:1/0"
    assert "hush" not in repr(pickle.loads(pickled))


@pytest.fixture
def foreign(monkeypatch):
    """The pickle of a queue of another process, whose secrets are not known here."""
    pickled = pickle.dumps(SkunkQueue("demo", "redis://them:their-own@localhost:1/0"))
    monkeypatch.setattr("skunkqueue.connection._urls", {})
    return pickled


def test_a_queue_from_elsewhere_has_the_secrets_that_this_process_was_given_for_its_store(foreign, monkeypatch):
    assert pickle.loads(foreign).full_url == "redis://localhost:1/0"

    monkeypatch.setenv("SKUNKQUEUE_URL", "redis://env:env@localhost:1/0")
    assert pickle.loads(foreign).full_url == "redis://env:env@localhost:1/0"
    SkunkQueue("other", "redis://other:other@localhost:1/0")
    assert pickle.loads(foreign).full_url == "redis://other:other@localhost:1/0"
    SkunkQueue("demo", SECRET)
    SkunkQueue("other", "redis://later:later@localhost:1/0")
    assert pickle.loads(foreign).full_url == SECRET


@pytest.mark.parametrize(
    "url", ["redis://me:hush@elsewhere:1/0", "redis://me:hush@localhost:1/1", "redis://me:a/b@localhost:1/0"]
)
def test_secrets_are_never_used_for_another_store(foreign, monkeypatch, url):
    SkunkQueue("demo", url)
    monkeypatch.setenv("SKUNKQUEUE_URL", url)

    assert pickle.loads(foreign).full_url == "redis://localhost:1/0"


def test_urls_that_cannot_be_told_apart_in_public_are_not_mixed_up():
    pickled = pickle.dumps(SkunkQueue("demo", "redis://me:a/b@here:1/0"))  # shown as redis://*** as a whole
    SkunkQueue("demo", "redis://me:c/d@there:1/0")

    assert "there" not in pickle.loads(pickled).full_url


def test_a_forked_process_opens_its_own_and_leaves_the_inherited_untouched(tmp_path):
    pytest.importorskip("skunkqueue.persistence.sqlite")
    script = f"""
import os
from skunkqueue import SkunkQueue

queue = SkunkQueue("demo", "sqlite:///{tmp_path}/runs.db")
job = queue.event(len)
before = job.fire("parent")
opened, closed = queue.connection, []
pid = os.fork()
if pid == 0:
    opened.store.close = lambda: closed.append(1)
    ids = {{job.fire("child").id for _ in range(5)}}
    queue.close()
    right = queue.connection is not opened and not closed and before.state == "queued"
    os._exit(0 if right else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
after = job.fire("parent again")
assert queue.connection is opened
assert len({{run.id for run in queue.runs()}}) == 7
queue.close()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, timeout=60, env=env())
    assert done.returncode == 0, done.stderr.decode()


def env():
    path = os.pathsep.join([str(Path(skunkqueue.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


# -- the desk


def test_a_run_is_cancelled_by_itself_or_by_its_id(queue, job):
    first, second, third = job.fire(1), job.fire(2), job.fire(3)

    assert queue.cancel(first) is True
    assert queue.cancel(second.id) is True
    assert queue.cancel(second.id) is False
    assert queue.cancel("nobody") is False
    assert [run.state for run in (first, second, third)] == ["cancelled", "cancelled", "queued"]
    with pytest.raises(WrongCall, match="a run or its id"):
        queue.cancel(5)


def test_the_worker_of_a_cancelled_run_is_told(queue, job):
    hands = Hands(queue, "foo").beat()
    run = job.fire(1)
    hands.take()

    assert run.cancel() is True
    assert hands.orders() == [f"cancel {run.id}"]


def test_a_run_that_only_waited_has_nobody_to_be_told(queue, job):
    hands = Hands(queue, "foo").beat()
    job.fire(1).cancel()

    assert hands.orders() == []


def test_a_cancel_took_even_where_the_worker_could_not_be_told(queue, job, monkeypatch):
    run = job.fire(1)
    Hands(queue, "foo").take()

    def away(self, worker, order):
        raise StoreAway("gone")

    monkeypatch.setattr(type(queue.store), "tell", away)

    assert run.cancel() is True
    assert run.state == "cancelled"


def test_kill_all_by_route_takes_what_waits_and_what_runs_there_and_nothing_else(queue, job):
    hands = Hands(queue, "foo").beat()
    running = [job.fire(n) for n in range(3)]
    hands.take()
    waiting = [job.fire(1), job.options(priority="high").fire(2), job.fire_at(3600, 3), *job.fire_many([(1,)] * 1100)]
    elsewhere = job.options(routes="bar").fire(1)
    namesake = SkunkQueue("other", queue.url).event(routes="foo")(len).fire([])

    assert queue.kill_all_by_route("foo") == 1106
    assert queue.kill_all_by_route("foo") == 0
    assert {run.state for run in (*running, *waiting)} == {"cancelled"}
    assert (elsewhere.state, namesake.state) == ("queued", "queued")
    assert sorted(hands.orders()) == sorted(f"cancel {run.id}" for run in running)


def test_a_wrong_route_is_refused_at_the_desk(queue):
    with pytest.raises(WrongCall, match="a route is"):
        queue.kill_all_by_route("foo^high")
    with pytest.raises(WrongCall, match="a route is"):
        queue.runs(route="a b")


def test_runs_are_found_newest_first_by_state_and_route(queue, job):
    fired = [job.fire(n) for n in range(3)]
    later = job.fire_at(3600, 4)
    high = job.options(routes="bar", priority="high").fire(5)
    SkunkQueue("other", queue.url).event(len).fire([])
    Hands(queue, "foo").succeed(9)

    def ids(**which):
        return [run.id for run in queue.runs(**which)]

    everything = [high.id, later.id, *(run.id for run in reversed(fired))]
    assert ids() == everything
    assert ids(limit=2) == everything[:2]
    assert ids(limit=0) == []
    assert ids(route="bar") == [high.id]
    assert ids(state="scheduled") == [later.id]
    assert ids(state="succeeded") == [fired[0].id]
    assert queue.runs(state="succeeded")[0].result == 9
    assert queue.runs(state="succeeded")[0].wait(0) == 9


def test_more_runs_than_a_page_are_found(queue, job):
    job.fire_many([(n,) for n in range(1234)])

    assert len({run.id for run in queue.runs(limit=None)}) == 1234
    assert len(queue.runs(limit=777)) == 777
    assert len(queue.runs()) == 100


def test_a_wrong_state_is_refused(queue):
    with pytest.raises(WrongCall, match="no state 'sucess'; did you mean 'succeeded'"):
        queue.runs(state="sucess")


@pytest.mark.parametrize("limit", [-1, 2.5, "5", True], ids=repr)
def test_a_wrong_limit_is_refused(queue, limit):
    with pytest.raises(WrongCall, match="limit is a number of runs"):
        queue.runs(limit=limit)


def test_the_runs_of_this_queue_are_counted_by_stored_state(queue, job):
    for value in range(5):
        job.fire(value)
    job.fire_at(3600, 1)
    job.options(routes="bar").fire(1)
    SkunkQueue("other", queue.url).event(len).fire([])
    hands = Hands(queue, "foo")
    hands.succeed()
    hands.fail()
    hands.take(1)
    queue.runs(route="bar")[0].cancel()

    assert queue.count() == {"queued": 3, "running": 1, "succeeded": 1, "failed": 1, "cancelled": 1}


# -- the front door


def test_every_public_name_is_there():
    names = {"SkunkQueue", "Job", "Run", "Runs", "Backoff", "Retry", "Fail", "current_run"}
    tree = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }

    assert names | tree | {"WorkerPool", "default_cfg", "Adaptive", "JobMixin", "Limit", "Schedule"} == set(
        skunkqueue.__all__
    )
    for name in names | tree:
        assert getattr(skunkqueue, name).__name__ == name
    assert set(skunkqueue.__all__) <= set(dir(skunkqueue))


def test_the_pool_and_the_default_cfg_are_there():
    pytest.importorskip("skunkqueue.persistence.sqlite")

    assert skunkqueue.WorkerPool.__name__ == "WorkerPool"
    assert set(skunkqueue.default_cfg) == {"backend", "conn_url", "dbname"}


def test_a_name_that_is_not_public_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        skunkqueue.nope


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((Path(skunkqueue.__file__).parents[1] / "pyproject.toml").read_text())

    assert skunkqueue.__version__ == project["project"]["version"]


def loaded_by(statement):
    script = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=env())
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_else():
    # An editable install has loaded __future__ before.
    assert loaded_by("import skunkqueue") - {"__future__"} == {"skunkqueue"}


def test_importing_the_queue_loads_only_what_firing_needs():
    heavy = {
        "asyncio",
        "inspect",
        "difflib",
        "cloudpickle",
        "pickle",
        "platformdirs",
        "hashlib",
        "logging",
        "dataclasses",
    }
    heavy |= {
        "random",
        "json",
        "decimal",
        "uuid",
        "sqlite3",
        "redis",
        "click",
        "rich",
        "importlib.metadata",
        "subprocess",
    }

    assert loaded_by("import skunkqueue.queue") & heavy == set()


def test_killing_a_route_reaches_what_was_broadcast_to_its_workers():
    queue = SkunkQueue("killed", "memory://killed-broadcast", queue_type="broadcast")

    @queue.event(routes=["news"])
    def hear():
        return None

    about = json.dumps({"queue": "killed", "routes": ["news"]})
    queue.store.beat("host-1.1", about, until=queue.clock.now() + 60)
    runs = hear.fire()

    assert queue.kill_all_by_route("news") == 1
    assert runs.state == "cancelled"
