"""Waiting at a FoundationDB: a watch for each key, shared by all who wait, armed again, and lost without harm."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from fdb_servers import binding, cluster_of_its_own, drop, fresh_name, fresh_url, ours_to_kill

binding()

from skunkqueue.envelope import Outcome  # noqa: E402
from skunkqueue.persistence import Key, RunKey, WorkerKey, WorkKey  # noqa: E402
from skunkqueue.persistence.fdb import FDBPersister, notify, open_url  # noqa: E402
from skunkqueue.testing.makers import NOW, sealed, take, take_one  # noqa: E402

LIMIT = 30.0
FOO = WorkKey("demo", "foo")


@pytest.fixture
def url(shared_fdb: str) -> Iterator[str]:
    name = fresh_name()
    yield f"fdb://{shared_fdb}?prefix={name}"
    drop(shared_fdb, name)


@pytest.fixture
def store(url: str) -> Iterator[FDBPersister]:
    with closing(open_url(url)) as made:
        made.count()
        yield made


class Waiter:
    """A thread that waits; ``took`` is how long, once it has ended."""

    def __init__(self, store: FDBPersister, keys: list[Key], timeout: float = 10 * LIMIT) -> None:
        self.took = -1.0
        self._begun = threading.Event()
        self.thread = threading.Thread(target=self._wait, args=(store, keys, timeout), daemon=True)
        self.thread.start()
        assert self._begun.wait(LIMIT)

    def _wait(self, store: FDBPersister, keys: list[Key], timeout: float) -> None:
        store.wait(keys, 0)
        self._begun.set()
        begun = time.monotonic()
        store.wait(keys, timeout)
        self.took = time.monotonic() - begun

    def ends(self) -> float:
        self.thread.join(LIMIT)
        assert not self.thread.is_alive(), "it was not woken"
        return self.took


@pytest.fixture
def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a watch ends a wait."""
    monkeypatch.setattr(notify, "LOOK", 1000.0)


def armed(store: FDBPersister, name: bytes) -> Callable[[], bool]:
    return lambda: name in store._notifier._armed


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.usefixtures("never_looks")
def test_a_watch_ends_each_of_many_waits_in_a_row(store: FDBPersister, url: str) -> None:
    """It is armed again each time, and what happens meanwhile is not lost."""
    with closing(open_url(url)) as other:
        for n in range(20):
            waiter = Waiter(store, [FOO])
            other.put([sealed(n)])
            waiter.ends()
    assert len(take(store, limit=30)) == 20


@pytest.mark.usefixtures("never_looks")
def test_no_put_is_missed_by_a_thread_that_waits_looks_and_waits_again(store: FDBPersister, url: str) -> None:
    runs, got = 60, 0

    def put() -> None:
        with closing(open_url(url)) as other:
            for n in range(runs):
                other.put([sealed(n)])
                time.sleep(0.002 * (n % 5))

    producer = threading.Thread(target=put)
    producer.start()
    turn = 0
    while got < runs:
        store.wait([FOO], LIMIT)
        turn += 1
        got += len(take(store, f"token-{turn}", limit=100))
        assert turn < 10 * runs
    producer.join()


@pytest.mark.usefixtures("never_looks")
def test_all_waits_of_a_process_on_a_key_share_one_watch(store: FDBPersister) -> None:
    waiters = [Waiter(store, [FOO, WorkerKey("w1")]) for _ in range(5)]
    space = store._link.space()
    until(armed(store, space.work_signal("demo", "foo")))

    assert len(store._notifier._armed) == 2
    store.tell("w1", "order")
    for waiter in waiters:
        waiter.ends()


@pytest.mark.usefixtures("never_looks")
def test_a_wait_for_a_run_ends_with_the_run_and_not_with_its_claim(store: FDBPersister) -> None:
    store.put([sealed()])
    waiter = Waiter(store, [RunKey(sealed().id)])

    claim = take_one(store)
    store.commit([(claim, Outcome.at(0.5, "half"))], now=NOW)
    time.sleep(0.3)
    still = waiter.thread.is_alive()
    store.commit([(claim, Outcome.complete(b""))], now=NOW)

    assert still
    waiter.ends()


def test_closing_the_store_ends_the_waits_and_none_opens_it_again(store: FDBPersister) -> None:
    waiter = Waiter(store, [FOO])
    until(armed(store, store._link.space().work_signal("demo", "foo")))

    store.close()
    waiter.ends()

    assert store._link._space is None


def test_a_watch_that_was_lost_costs_a_second(store: FDBPersister) -> None:
    waiter = Waiter(store, [FOO])
    name = store._link.space().work_signal("demo", "foo")
    until(armed(store, name))
    watch = store._notifier._armed[name]
    store._notifier._armed[name] = notify._Watch(watch.value, watch.future)  # what fires is no longer known

    store.put([sealed()])

    assert waiter.ends() < LIMIT


def test_beyond_the_number_of_watches_waits_look_once_a_second(
    store: FDBPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "MOST", 0)
    waiter = Waiter(store, [FOO])
    time.sleep(0.1)

    store.put([sealed()])

    waiter.ends()
    assert store._notifier._armed == {}


def test_watches_that_nobody_waits_for_are_given_back(store: FDBPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "IDLE", 3)
    store.put([sealed(n) for n in range(10)])

    for n in range(10):
        store.wait([RunKey(sealed(n).id)], 0.01)

    assert len(store._notifier._armed) <= 4


@ours_to_kill
def test_a_wait_while_the_cluster_is_away_neither_raises_nor_spins() -> None:
    with cluster_of_its_own() as cluster, closing(open_url(fresh_url(cluster.file) + "&timeout=0.5")) as store:
        store.count()
        cluster.kill()
        begun, cpu = time.monotonic(), time.process_time()

        for _ in range(3):
            store.wait([FOO], 0.7)

        assert time.process_time() - cpu < 1.0
        assert time.monotonic() - begun >= 1.0


@ours_to_kill
def test_a_wait_survives_a_cluster_that_recovers() -> None:
    with cluster_of_its_own() as cluster, closing(open_url(fresh_url(cluster.file))) as store:
        waiter = Waiter(store, [FOO])
        until(armed(store, store._link.space().work_signal("demo", "foo")))
        cluster.kill()
        cluster.start()

        def put() -> Any:
            try:
                return store.put([sealed()])
            except Exception:
                return None

        until(put)
        waiter.ends()
