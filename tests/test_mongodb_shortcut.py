"""The plain connection on which an idle pool looks for work at a MongoDB, and when the driver is asked instead."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

pytest.importorskip("pymongo")

from mongo_servers import client_of, fresh_url
from pools import LIMIT
from redis_server import CuttingProxy

from skunkqueue.errors import StoreAway
from skunkqueue.persistence import WorkKey
from skunkqueue.persistence.mongodb import MongoPersister, open_url
from skunkqueue.persistence.mongodb.connect import Link
from skunkqueue.persistence.mongodb.shortcut import Shortcut
from skunkqueue.persistence.mongodb.url import parse_url
from skunkqueue.testing.makers import sealed

LOOK = {"find": "runs", "filter": {}, "projection": {"ripe": 1}, "limit": 20, "batchSize": 20, "singleBatch": True}


@pytest.fixture
def url(shared_mongodb: str) -> Iterator[str]:
    made = fresh_url(shared_mongodb)
    yield made
    with client_of(made) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture
def open_store() -> Iterator[Callable[[str], MongoPersister]]:
    """Opens stores, which are closed afterwards."""
    with ExitStack() as opened:
        yield lambda url: opened.enter_context(closing(open_url(url)))


@pytest.fixture
def store(url: str, open_store: Callable[[str], MongoPersister]) -> MongoPersister:
    opened = open_store(url)
    if opened._link.hello().get("setName"):
        pytest.skip("a replica set is not polled")
    opened.put([sealed(n) for n in range(3)])
    return opened


@pytest.fixture
def proxy(shared_mongodb: str) -> Iterator[CuttingProxy]:
    if "127.0.0.1" not in shared_mongodb:
        pytest.skip("the server is not on this machine")
    with CuttingProxy(int(shared_mongodb.rstrip("/").rpartition(":")[2])) as made:
        yield made


def test_a_look_finds_what_the_driver_finds(store: MongoPersister) -> None:
    found = store._notifier._shortcut.find(LOOK)

    assert found is not None
    assert sorted(each["_id"] for each in found) == [sealed(n).id for n in range(3)]
    assert {type(each["ripe"]) for each in found} == {float}


def test_a_pool_that_waits_does_not_ask_the_driver(store: MongoPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    store.wait([WorkKey("demo", "bar")], 0.1)

    def fail(*args: Any, **options: Any) -> Any:
        raise AssertionError("the driver was asked")

    monkeypatch.setattr(store._link.database(), "command", fail)
    store.wait([WorkKey("demo", "bar")], 0.1)
    store.wait([WorkKey("demo", "foo")], LIMIT)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://me:secret@127.0.0.1:{port}/db",
        "mongodb://127.0.0.1:{port}/db?tls=true",
        "mongodb://127.0.0.1:{port}/db?socketTimeoutMS=100",
        "mongodb://127.0.0.1:{port}/db?replicaSet=rs",
        "mongodb+srv://example.org/db",
    ],
)
def test_where_a_socket_is_not_all_that_is_needed_the_driver_is_asked(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asked = Shortcut(Link(parse_url(url.format(port=listening.getsockname()[1]))))

        assert asked.find(LOOK) is None
        assert asked._socket is None


def test_an_answer_that_is_lost_is_asked_of_the_driver_and_the_next_one_is_not(
    store: MongoPersister, proxy: CuttingProxy, open_store: Callable[[str], MongoPersister]
) -> None:
    flaky = open_store(f"mongodb://127.0.0.1:{proxy.port}/{store.target.dbname}")
    asked = flaky._notifier._shortcut
    flaky.wait([WorkKey("demo", "bar")], 0)  # by which it learns what the server can do
    assert asked.find(LOOK)
    first = asked._socket

    proxy.cut_after(0)
    flaky.wait([WorkKey("demo", "foo")], LIMIT)  # which ends, for there are runs

    assert proxy.cuts == 1
    assert asked.find(LOOK)
    assert asked._socket not in (None, first)


@pytest.mark.parametrize(
    "answer",
    [{"ok": 0, "code": 18, "errmsg": "who are you"}, {"ok": 1}, b"\x00" * 40, b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ids=["refused", "no batch", "zeros", "another protocol"],
)
def test_an_answer_that_is_not_as_expected_is_asked_of_the_driver(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    asked = store._notifier._shortcut
    if isinstance(answer, dict):
        monkeypatch.setattr(asked, "_ask", lambda command: answer)
    else:
        asked._socket = _answering(answer)
    assert asked.find(LOOK) is None
    assert asked._socket is None

    store.wait([WorkKey("demo", "foo")], LIMIT)


def _answering(data: bytes) -> Any:
    """A connection on which this is the answer."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
    return ours


def test_a_server_that_does_not_answer_is_away_and_is_not_asked_twice(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(command: Any) -> Any:
        raise TimeoutError

    monkeypatch.setattr(store._notifier._shortcut, "_ask", hang)

    with pytest.raises(StoreAway, match="does not answer"):
        store._notifier._shortcut.find(LOOK)


def test_a_second_thread_is_sent_to_the_driver(store: MongoPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, asking, may_end = store._notifier._shortcut, threading.Event(), threading.Event()
    ask = asked._ask

    def slowly(command: Any) -> Any:
        asking.set()
        may_end.wait(LIMIT)
        return ask(command)

    monkeypatch.setattr(asked, "_ask", slowly)
    found: list[Any] = []
    first = threading.Thread(target=lambda: found.append(asked.find(LOOK)))
    first.start()
    assert asking.wait(LIMIT)

    assert asked.find(LOOK) is None

    may_end.set()
    first.join()
    assert len(found[0]) == 3


def test_a_closed_store_has_no_such_connection_and_who_waits_for_an_answer_gets_none(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = store._notifier._shortcut
    ours, theirs = socket.socketpair()
    asked._socket = ours
    found: list[Any] = [0]
    waiting = threading.Thread(target=lambda: found.append(asked.find(LOOK)))
    with theirs:
        waiting.start()
        assert theirs.recv(4096)  # it has asked

        store.close()

        waiting.join(LIMIT)
    assert found == [0, None]
    assert asked._socket is None


def test_a_forked_process_opens_its_own_and_leaves_its_parents_alone(store: MongoPersister) -> None:
    asked = store._notifier._shortcut
    assert asked.find(LOOK)
    inherited = asked._socket
    pid = os.fork()
    if pid == 0:
        try:
            found = asked.find(LOOK)
            os._exit(0 if found and len(found) == 3 and asked._socket is not inherited else 1)
        except BaseException:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert asked.find(LOOK)
    assert asked._socket is inherited


def test_a_server_that_became_a_replica_set_is_asked_by_the_driver(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._link, "hello", lambda: {"setName": "rs"})

    assert Shortcut(store._link).find(LOOK) is None
