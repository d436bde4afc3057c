"""What every test gets: a store of each kind, and a home of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

pytest.register_assert_rewrite("skunkqueue.testing")

from skunkqueue.persistence import Persister  # noqa: E402 - after the line above, or it comes too late
from skunkqueue.persistence.memory import MemoryPersister  # noqa: E402

# Whoever started the tests in the background may have these ignored, and what is started here would inherit it.
for _name in ("SIGHUP", "SIGQUIT", "SIGTERM"):
    signal.signal(getattr(signal, _name), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

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
}
"""By name, what makes a fresh, empty store for a test."""


@pytest.fixture(params=STORES)
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
    """Long random walks are slow; in CI the real server walks all seeds, so its stand-in walks only the first few."""
    for item in items:
        if _is_long_walk(item.name):
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
