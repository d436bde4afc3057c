"""What every test gets: a store of each kind, and a home of its own."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

pytest.register_assert_rewrite("skunkqueue.testing")

from gearman_servers import (  # noqa: E402 - fixtures
    HAS_FAILED,
    closed_connections,  # noqa: F401
    gearman_peer,  # noqa: F401
    gearman_run,  # noqa: F401
    gearmand,  # noqa: F401
    job_server,  # noqa: F401
)

from skunkqueue.persistence import Persister  # noqa: E402 - after the line above, or it comes too late
from skunkqueue.persistence.memory import MemoryPersister  # noqa: E402

# Whoever started the tests in the background may have these ignored, and what is started here would inherit it.
for _name in ("SIGHUP", "SIGQUIT", "SIGTERM"):
    signal.signal(getattr(signal, _name), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Python takes a module that was written twice within a second, with as many bytes, for what it was compiled from first.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note on a test that it has failed, for the fixtures that clean up behind it."""
    report = yield
    item.stash[HAS_FAILED] = item.stash.get(HAS_FAILED, False) or report.failed
    return report


Opener = Callable[[], Persister]
"""Gives one more handle to the same data."""


def absent(what: str) -> NoReturn:
    """What a test needs is not there: skips at home, fails in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def memory(request: pytest.FixtureRequest) -> Opener:
    store = MemoryPersister(request.node.name)
    return lambda: store


def sqlite(request: pytest.FixtureRequest) -> Opener:
    if find_spec("skunkqueue.persistence.sqlite") is None:
        absent("there is no SQLite store yet")
    from skunkqueue.persistence.sqlite import open_url

    folder: Path = request.getfixturevalue("tmp_path")
    return lambda: open_url(f"sqlite:///{folder}/runs.db")


def redis(request: pytest.FixtureRequest) -> Opener:
    if find_spec("skunkqueue.persistence.redis") is None:
        absent("there is no Redis store yet")
    from skunkqueue.persistence.redis import open_url

    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    return lambda: open_url(server.url)


def fakeredis(request: pytest.FixtureRequest) -> Opener:
    """Redis in Python, for a machine without a server. It shows our scripts and what they answer.

    What it cannot show: connections that break, a server that is full or restarts, TLS, sentinels and clusters, speed.
    """
    pytest.importorskip("lupa")
    from redis_server import fake_redis

    from skunkqueue.persistence.redis import open_url

    url = fake_redis(request.getfixturevalue("monkeypatch"))
    return lambda: open_url(url)


def mongodb(request: pytest.FixtureRequest) -> Opener:
    return on_mongodb(request, request.getfixturevalue("shared_mongodb"))


def ferretdb(request: pytest.FixtureRequest) -> Opener:
    """MongoDB's protocol on PostgreSQL, which differs from the server in Java on nearly every question."""
    return on_mongodb(request, request.getfixturevalue("shared_ferretdb"))


def on_mongodb(request: pytest.FixtureRequest, server: str) -> Opener:
    """On a database of its own, which is dropped afterwards."""
    from mongo_servers import client_of, fresh_url

    from skunkqueue.persistence.mongodb import open_url

    # The one in Java finds without indexes, and on a busy machine is not through with thousands in 15 seconds.
    url = fresh_url(f"{server}{'&' if '?' in server else '/?'}socketTimeoutMS=100000")

    def drop() -> None:
        client = client_of(url)
        client.drop_database(client.get_default_database())
        client.close()

    request.addfinalizer(drop)
    return lambda: open_url(url)


def fdb(request: pytest.FixtureRequest) -> Opener:
    from fdb_servers import drop, fresh_name

    file, name = request.getfixturevalue("shared_fdb"), fresh_name()
    from skunkqueue.persistence.fdb import open_url

    request.addfinalizer(lambda: drop(file, name))
    return lambda: open_url(f"fdb://{file}?prefix={name}")


@pytest.fixture(scope="session")
def shared_mongodb() -> Iterator[str]:
    """The URL of one server for all tests that only need a store; each has a database of its own."""
    pytest.importorskip("pymongo")
    from mongo_servers import URL, JavaServer

    if os.environ.get(URL):
        yield os.environ[URL]
        return
    with JavaServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def shared_fdb() -> Iterator[str]:
    """The cluster file of one cluster for all tests that only need a store; each has a directory of its own."""
    from fdb_servers import CLUSTER, FakeCluster, binding

    binding()
    if os.environ.get(CLUSTER):
        yield os.environ[CLUSTER]
        return
    with FakeCluster() as cluster:
        yield str(cluster.file)


@pytest.fixture(scope="session")
def shared_ferretdb() -> Iterator[str]:
    """The URL of one FerretDB for all tests that only need a store."""
    pytest.importorskip("pymongo")
    from mongo_servers import FerretServer

    with FerretServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[object]:
    """One server for all tests that only need a store; emptied before each."""
    pytest.importorskip("redis")
    from redis_server import RedisServer

    with RedisServer() as server:
        yield server


STORES: dict[str, Callable[[pytest.FixtureRequest], Opener]] = {
    "memory": memory,
    "sqlite": sqlite,
    "redis": redis,
    "fakeredis": fakeredis,
    "mongodb": mongodb,
    "fdb": fdb,
    "ferretdb": ferretdb,
}
"""By name, what makes a fresh, empty store for a test."""

SLOW = ("ferretdb",)

PLAYED = {
    "test_after", "test_brief_reads", "test_handlers", "test_limits", "test_limits_pools", "test_pauses",
    "test_schedule_pools", "test_schedules",
}  # fmt: skip
"""Modules that take long on each store: on MongoDB and FoundationDB they are among the long tests."""

LONG_WITHOUT_INDEXES = "test_a_batch_of_thousands_is_one_call[mongodb]"
"""The server in Java finds by looking at each document."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in STORES])
def open_store(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """One more handle to this test's store, at every call; all are closed afterwards."""
    opener = STORES[request.param](request)
    opened: list[Persister] = []

    def open_one() -> Persister:
        opened.append(opener())
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Opener) -> Persister:
    """A fresh, empty store of each kind."""
    return open_store()


@pytest.fixture(autouse=True)
def a_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's runs or key."""
    monkeypatch.delenv("SKUNKQUEUE_URL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SKUNKQUEUE_KEY", "a key for tests")


@pytest.hookimpl(tryfirst=True)  # before those are left out whose marks are not asked for
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long random walks are slow, and whole pools on stores that have the contract suite and pools of their own; in CI
    the real server walks all seeds, so its stand-in walks only the first few."""
    for item in items:
        is_long = _is_long_walk(item.name) or item.name == LONG_WITHOUT_INDEXES
        if is_long or (item.path.stem in PLAYED and re.search(r"\[(mongodb|fdb)", item.name)):
            item.add_marker(pytest.mark.slow)
    if os.environ.get("CI") == "true":
        spared = [item for item in items if _is_long_walk(item.name) and "[fakeredis-" in item.name]
        config.hook.pytest_deselected(items=spared)
        gone = {id(item) for item in spared}
        items[:] = [item for item in items if id(item) not in gone]


def _is_long_walk(name: str) -> bool:
    test, _, parameters = name.rstrip("]").partition("[")
    seed = parameters.rpartition("-")[2]
    return test == "test_the_random_walk_finds_no_difference" and seed.isdigit() and int(seed) >= 8


@pytest.fixture
def pools_url(store, request, tmp_path):
    """The URL of each store, for pools, which open it by themselves."""
    if store.url.startswith("memory"):
        return f"memory://pools-{time.monotonic_ns()}"
    if "fake" in request.node.callspec.id:
        pytest.skip("the stand-in lives in one connection")
    return f"sqlite:///{tmp_path}/runs.db" if store.url.startswith("sqlite") else store.url
