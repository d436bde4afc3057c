"""Waiting at a MongoDB: by looking now and then, by what this process does itself, and by a change stream."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("pymongo")

from mongo_servers import client_of, fresh_url
from pymongo.errors import OperationFailure

from skunkqueue.envelope import Outcome
from skunkqueue.persistence import Key, RunKey, WorkerKey, WorkKey
from skunkqueue.persistence.mongodb import MongoPersister, notify, open_url
from skunkqueue.persistence.mongodb.stream import ANYTHING, News, Stream, read_event
from skunkqueue.routes import HIGH
from skunkqueue.testing.makers import NOW, sealed, take, take_one

SOON = 20.0
FOO = WorkKey("demo", "foo")


@pytest.fixture
def store(shared_mongodb: str) -> Iterator[MongoPersister]:
    url = fresh_url(shared_mongodb)
    opened = open_url(url)
    opened.warnings()
    yield opened
    opened.close()
    with client_of(url) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture
def other(store: MongoPersister) -> Iterator[MongoPersister]:
    """Another handle, as of another process."""
    opened = open_url(store.target.secret)
    yield opened
    opened.close()


def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait looks by itself but once, so that what ends it is a call."""
    for name in ("SHORTEST", "LONGEST_OF_WORK", "LONGEST_OF_RUNS", "LONGEST_OF_ORDERS", "LONGEST_OF_ALL"):
        monkeypatch.setattr(notify, name, 1000.0)


def ends(store: MongoPersister, keys: list[Key], change: Callable[[], object]) -> bool:
    """Whether a change ends a wait on another thread at once, and nothing else does before."""
    has_met, over = threading.Event(), threading.Event()

    def wait() -> None:
        store.wait(keys, 0)  # each thread knows by itself what it has met
        has_met.set()
        store.wait(keys, SOON)
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    has_met.wait()
    time.sleep(0.1)
    assert not over.is_set()
    change()
    return over.wait(SOON / 2)


# -- this process ----------------------------------------------------------------------------------------------------


def test_what_this_process_does_ends_its_waits_without_a_look(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    seldom(monkeypatch)
    store.put([sealed(n, route="bar") for n in range(2)])
    one, two = take(store, "A", "bar")

    assert ends(store, [FOO], lambda: store.put([sealed(5, route="foo" + HIGH)]))
    assert ends(store, [RunKey(one.id)], lambda: store.commit([(one, Outcome.complete(b""))], now=NOW))
    assert ends(store, [WorkKey("demo", "bar")], lambda: store.commit([(two, Outcome.untouched())], now=NOW))
    assert ends(store, [WorkerKey("w1")], lambda: store.tell("w1", "order"))


# -- looking ---------------------------------------------------------------------------------------------------------


def test_a_run_that_nobody_takes_does_not_end_every_wait_at_once(store: MongoPersister) -> None:
    """The pool that waits cannot take it; it looks again once a second all the same."""
    store.put([sealed()])
    store.wait([FOO], SOON)

    began = time.monotonic()
    store.wait([FOO], SOON)

    assert 0.8 < time.monotonic() - began < SOON / 2


def test_a_second_run_ends_a_wait_that_knew_of_the_first(store: MongoPersister) -> None:
    store.put([sealed(1)])
    store.wait([FOO], SOON)
    store.wait([FOO], 0)
    store.put([sealed(2)])

    began = time.monotonic()
    store.wait([FOO], SOON)

    assert time.monotonic() - began < notify.KNOWN_WORK


def test_an_order_that_was_met_ends_no_further_wait(store: MongoPersister) -> None:
    store.tell("w1", "order")
    store.wait([WorkerKey("w1")], SOON)

    began = time.monotonic()
    store.wait([WorkerKey("w1")], 0.3)

    assert time.monotonic() - began >= 0.29


def test_a_wait_for_later_work_ends_when_it_ripens(store: MongoPersister) -> None:
    store.put([sealed(due=time.time() + 0.7)])

    began = time.monotonic()
    store.wait([FOO], SOON)

    assert 0.4 < time.monotonic() - began < SOON / 2


def test_looks_grow_rare_while_nothing_comes(store: MongoPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    look = store._notifier._look
    monkeypatch.setattr(store._notifier, "_look", lambda *args: (looks.append(time.monotonic()), look(*args))[1])

    store.wait([FOO], 2.0)

    assert 5 < len(looks) < 50
    assert looks[2] - looks[1] < looks[-2] - looks[-3] + 0.05


@pytest.mark.parametrize("when", ["before it asks for a stream", "before it looks"])
def test_a_wait_does_not_open_a_store_that_is_closed_at_that_moment(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    notifier = store._notifier
    name = "_is_announced" if when == "before it asks for a stream" else "_look"
    step = getattr(notifier, name)
    notifier._has_stream = True

    def close_first(*args: Any) -> Any:
        store.close()
        return step(*args)

    monkeypatch.setattr(notifier, name, close_first)
    began = time.monotonic()
    store.wait([FOO], SOON)

    assert time.monotonic() - began < SOON / 2
    assert store._link._client is None


def test_a_wait_on_a_closed_store_waits_and_does_not_open_it(store: MongoPersister) -> None:
    store.close()

    began = time.monotonic()
    store.wait([FOO], 0.2)

    assert 0.15 < time.monotonic() - began < SOON / 2
    assert store._link._client is None
    store.put([sealed()])  # which does
    store.wait([FOO], SOON)
    assert time.monotonic() - began < SOON / 2


# -- the change stream, as a peer that does what a replica set does ---------------------------------------------------


class Peer:
    """Change streams that do what they are told: events, errors and ends, in order."""

    def __init__(self) -> None:
        self.script: queue.Queue[Any] = queue.Queue()
        self.opened = 0

    def watch(self) -> Peer:
        self.opened += 1
        self.alive = True
        return self

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def try_next(self) -> Any:
        try:
            said = self.script.get(timeout=0.05)
        except queue.Empty:
            return None
        if isinstance(said, Exception):
            raise said
        if said == "invalidate":
            self.alive = False
            return {"operationType": "invalidate"}
        return said


def put_event(route: str, ripe: float) -> dict[str, Any]:
    return {
        "operationType": "insert", "ns": {"coll": "runs"}, "documentKey": {"_id": "1"},
        "fullDocument": {"queue": "demo", "route": route, "ripe": ripe},
    }  # fmt: skip


def changed_event(id: str, **fields: Any) -> dict[str, Any]:
    return {
        "operationType": "update", "ns": {"coll": "runs"}, "documentKey": {"_id": id},
        "updateDescription": {"updatedFields": fields},
    }  # fmt: skip


TOLD = {"operationType": "update", "ns": {"coll": "workers"}, "documentKey": {"_id": "w1"}}


def test_an_event_is_read_for_what_it_says() -> None:
    assert read_event(put_event("foo^high", 5.0)) == News(("demo", "foo^high"), 5.0)
    assert read_event(changed_event("7", state="failed")) == News(ended="7")
    assert read_event(changed_event("7", state="queued")) == ANYTHING
    assert read_event(TOLD) == News(worker="w1")
    assert read_event({"operationType": "invalidate"}) == ANYTHING


@pytest.fixture
def peer(store: MongoPersister) -> Iterator[Peer]:
    """The store, on a server that has change streams, these."""
    made = Peer()
    store._notifier._open_stream = lambda tell: Stream(made.watch, tell)
    yield made
    store._notifier.close()


def test_an_event_ends_the_waits_that_it_concerns_and_no_others(
    store: MongoPersister, other: MongoPersister, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written behind the store's back, so that only the stream can tell."""
    other.put([sealed(9, route="bar")])
    claim = take_one_of(other, "bar")
    store.wait([FOO], 0.1)  # opens the stream
    seldom(monkeypatch)

    def put() -> None:
        other.put([sealed(1)])
        peer.script.put(put_event("foo" + HIGH, NOW))

    def end() -> None:
        other.commit([(claim, Outcome.complete(b""))], now=NOW)
        peer.script.put(changed_event(claim.id, state="succeeded"))

    def tell() -> None:
        other.tell("w1", "order")
        peer.script.put(TOLD)

    assert ends(store, [FOO], put)
    assert ends(store, [RunKey(claim.id)], end)
    assert ends(store, [WorkerKey("w1")], tell)
    looked = threading.Event()
    monkeypatch.setattr(store._notifier, "_look", lambda *_: looked.set())
    store._notifier.announced(News(("demo", "other")))
    assert not looked.is_set()


def take_one_of(store: MongoPersister, route: str) -> Any:
    (claim,) = take(store, "B", route)
    return claim


def test_a_run_announced_for_later_is_looked_for_when_it_ripens(
    store: MongoPersister, other: MongoPersister, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.wait([FOO], 0.1)
    seldom(monkeypatch)
    due = time.time() + 1.0

    def put() -> None:
        other.put([sealed(1, due=due)])
        peer.script.put(put_event("foo", due))

    assert ends(store, [FOO], put)
    assert time.time() >= due
    assert take_one(store, now=time.time()).id == sealed(1).id


@pytest.mark.parametrize(
    "how", ["invalidate", OperationFailure("history lost", 286), OperationFailure("cursor killed", 237)], ids=str
)
def test_a_stream_that_ends_is_opened_anew_and_all_waits_look(
    store: MongoPersister, other: MongoPersister, peer: Peer, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    """What happened in between was not announced."""
    store.wait([FOO], 0.1)
    seldom(monkeypatch)

    def put_while_it_is_down() -> None:
        other.put([sealed(1)])
        peer.script.put(how)

    assert ends(store, [FOO], put_while_it_is_down)
    end = time.monotonic() + SOON
    while peer.opened < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert peer.opened == 2


def test_while_a_stream_is_down_waits_look_by_themselves(
    store: MongoPersister, other: MongoPersister, peer: Peer
) -> None:
    store.wait([FOO], 0.1)
    assert store._notifier._is_announced()

    peer.watch = lambda: (_ for _ in ()).throw(OperationFailure("not now", 40573))  # type: ignore[method-assign]
    peer.script.put(OperationFailure("gone", 286))
    end = time.monotonic() + SOON
    while store._notifier._is_announced() and time.monotonic() < end:
        time.sleep(0.01)

    assert not store._notifier._is_announced()
    assert ends(store, [FOO], lambda: other.put([sealed(1)]))


def test_a_stream_that_is_opened_while_the_store_is_closed_does_not_stay(
    store: MongoPersister, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait that opens it began before, and learns of it afterwards."""
    open_stream = store._notifier._open_stream

    def open_and_close(tell: Callable[[News], None]) -> Stream | None:
        stream = open_stream(tell)
        store.close()
        return stream

    monkeypatch.setattr(store._notifier, "_open_stream", open_and_close)
    store.wait([FOO], SOON)

    assert store._notifier._stream is None
    for thread in threading.enumerate():
        if thread.name == "skunkqueue-stream":
            thread.join(SOON)
            assert not thread.is_alive()


def test_there_is_one_stream_however_many_wait(store: MongoPersister, peer: Peer) -> None:
    threads = [threading.Thread(target=store.wait, args=([WorkKey("demo", str(n))], 0.3)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    streams = [thread for thread in threading.enumerate() if thread.name == "skunkqueue-stream"]
    assert len(streams) == 1
    store.close()
    streams[0].join(SOON)
    assert not streams[0].is_alive()
