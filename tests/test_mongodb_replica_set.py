"""What only a replica set does: change streams, step-downs, lost replies, transactions; here by a peer on the wire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("pymongo")

from mongo_peer import NOT_PRIMARY, Body, Lost, ReplicaSet, written
from pools import LIMIT, until
from pymongo import MongoClient
from pymongo.errors import AutoReconnect
from test_docs import ROOT, blocks

from skunkqueue import SkunkQueue
from skunkqueue.envelope import Outcome
from skunkqueue.errors import StoreAway
from skunkqueue.persistence import Key, WorkKey
from skunkqueue.persistence.mongodb import MongoPersister, notify, open_url
from skunkqueue.persistence.mongodb.documents import document_of
from skunkqueue.persistence.mongodb.errors import speaking_within_transaction
from skunkqueue.testing.makers import LATE, NOW, sealed, want

FOO = WorkKey("demo", "foo")
PUT = {
    "operationType": "insert", "ns": {"db": "peer", "coll": "runs"}, "documentKey": {"_id": "1"},
    "fullDocument": {"queue": "demo", "route": "foo", "ripe": NOW},
}  # fmt: skip
DUPLICATE = {"ok": 1, "n": 0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "E11000 duplicate key"}]}
CONFLICT = {
    "ok": 0, "code": 112, "codeName": "WriteConflict", "errmsg": "write conflict",
    "errorLabels": ["TransientTransactionError"],
}  # fmt: skip


@pytest.fixture
def peer() -> Iterator[ReplicaSet]:
    made = ReplicaSet()
    yield made
    made.close()


@pytest.fixture
def store(peer: ReplicaSet) -> Iterator[MongoPersister]:
    opened = open_url(peer.url)
    yield opened
    opened.close()


# -- change streams --------------------------------------------------------------------------------------------------


@pytest.fixture
def watching(store: MongoPersister, peer: ReplicaSet, monkeypatch: pytest.MonkeyPatch) -> MongoPersister:
    """The store, with its stream open, and with waits that look only when it tells them to."""
    store.wait([FOO], 0.1)
    until(store._notifier._is_announced)
    for name in ("SHORTEST", "LONGEST_OF_WORK", "LONGEST_OF_RUNS", "LONGEST_OF_ALL"):
        monkeypatch.setattr(notify, name, 1000.0)
    return store


def streams(peer: ReplicaSet) -> list[Body]:
    """The streams of this process, without that by which it saw that there are any."""
    return peer.streams[1:]


def ends(store: MongoPersister, change: Callable[[], object], *keys: Key) -> bool:
    """Whether a change ends a wait that is under way."""
    over = threading.Event()
    threading.Thread(target=lambda: (store.wait(keys, LIMIT), over.set()), daemon=True).start()
    until(lambda: store._notifier._waits)
    time.sleep(0.1)  # for its first look
    assert not over.is_set()
    change()
    return over.wait(LIMIT / 2)


def test_a_server_with_streams_is_watched_by_one_however_many_wait(watching: MongoPersister, peer: ReplicaSet) -> None:
    threads = [threading.Thread(target=watching.wait, args=([WorkKey("demo", f"r{n}")], 0.2)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (stream,) = streams(peer)
    assert (stream["aggregate"], stream["$db"]) == (1, "peer")  # of the whole database
    assert [next(iter(stage)) for stage in stream["pipeline"]] == ["$changeStream", "$match", "$project"]
    assert not any("change streams" in text for text in watching.warnings())


def test_an_event_ends_the_waits_on_its_route(watching: MongoPersister, peer: ReplicaSet) -> None:
    def put() -> None:
        peer.runs = [document_of(sealed(1))]
        peer.emit(PUT)

    assert ends(watching, put, FOO)


def test_a_stream_whose_cursor_dies_goes_on_behind_the_last_event(watching: MongoPersister, peer: ReplicaSet) -> None:
    """As after a step-down: the driver resumes by the token, so nothing is missed."""
    peer.emit({**PUT, "fullDocument": {"queue": "other", "route": "foo", "ripe": NOW}})
    peer.emit({"ok": 0, "code": 43, "codeName": "CursorNotFound", "errmsg": "cursor not found"})
    until(lambda: len(streams(peer)) == 2)

    assert "resumeAfter" in streams(peer)[1]["pipeline"][0]["$changeStream"]
    assert watching._notifier._is_announced()


@pytest.mark.parametrize(
    "end",
    [
        {"operationType": "invalidate"},
        {"ok": 0, "code": 286, "codeName": "ChangeStreamHistoryLost", "errmsg": "resume point may no longer be there"},
    ],
    ids=["invalidate", "history lost"],
)
def test_a_stream_that_cannot_be_resumed_is_opened_anew_and_all_waits_look(
    watching: MongoPersister, peer: ReplicaSet, end: Body
) -> None:
    def put_unannounced() -> None:
        peer.runs = [document_of(sealed(1))]
        peer.emit(end)

    assert ends(watching, put_unannounced, FOO)
    assert "resumeAfter" not in streams(peer)[-1]["pipeline"][0]["$changeStream"]


def test_without_a_stream_waits_look_by_themselves(
    store: MongoPersister, peer: ReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.answers["aggregate"] = lambda body: {"ok": 0, "code": 40573, "errmsg": "$changeStream needs a replica set"}

    def put() -> None:
        peer.runs = [document_of(sealed(1))]

    store.wait([FOO], 0)
    assert ends(store, put, FOO)
    assert any("change streams" in text for text in store.warnings())


# -- step-downs and lost replies ---------------------------------------------------------------------------------------


def test_a_primary_that_steps_down_costs_a_put_a_retry(
    store: MongoPersister, peer: ReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the driver once, by the store for a while."""
    monkeypatch.setattr("skunkqueue.persistence.mongodb.PUT_RETRY", LIMIT)
    peer.then("insert", *[NOT_PRIMARY] * 5)

    assert store.put([sealed(1)]) == [sealed(1).id]

    assert [body["documents"][0]["_id"] for body in peer.named("insert")] == [sealed(1).id] * 6
    concern = peer.named("insert")[0]["writeConcern"]
    assert concern == {"w": "majority", "j": True}


def test_a_primary_that_steps_down_costs_an_outcome_a_retry(store: MongoPersister, peer: ReplicaSet) -> None:
    peer.runs = [document_of(sealed(1))]
    (claim,) = store.claim([want("A")], now=NOW, until=LATE)
    peer.then("update", *[NOT_PRIMARY] * 3)

    taken = store.commit([(claim, Outcome.complete(b""))], now=NOW)

    assert taken == {claim.id}
    writes = [body["updates"][0]["q"] for body in peer.named("update")[1:]]
    assert writes == [{"_id": claim.id, "held": "A"}] * 4


def test_a_put_whose_reply_is_lost_is_repeated_and_finds_itself(
    store: MongoPersister, peer: ReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver repeats it under the same number, the store under a new one: that meets what was stored before."""
    monkeypatch.setattr("skunkqueue.persistence.mongodb.PUT_RETRY", LIMIT)

    def stored_and_lost(body: Body) -> Body:
        peer.runs = [{"_id": sealed(1).id}]
        raise Lost

    peer.then("insert", stored_and_lost, stored_and_lost, DUPLICATE)

    assert store.put([sealed(1)]) == [sealed(1).id]

    numbers = [(body["lsid"], body["txnNumber"]) for body in peer.named("insert")]
    assert numbers[0] == numbers[1] != numbers[2]


def test_an_outcome_whose_reply_is_lost_is_repeated_and_was_taken(store: MongoPersister, peer: ReplicaSet) -> None:
    """The run no longer is held by the token when it is repeated, but bears it."""
    peer.runs = [document_of(sealed(1))]
    (claim,) = store.claim([want("A")], now=NOW, until=LATE)

    def ended_and_lost(body: Body) -> Body:
        peer.runs = [{"_id": claim.id, "token": "A"}]
        raise Lost

    peer.then("update", ended_and_lost, ended_and_lost, {"ok": 1, "n": 0, "nModified": 0})

    assert store.commit([(claim, Outcome.complete(b""))], now=NOW) == {claim.id}


def test_a_set_that_stays_without_a_primary_is_away(store: MongoPersister, peer: ReplicaSet) -> None:
    peer.answers["insert"] = lambda body: NOT_PRIMARY

    with pytest.raises(StoreAway, match="cannot"):
        store.put([sealed(1)])


def test_claims_read_from_the_primary_whatever_the_url_prefers(peer: ReplicaSet) -> None:
    peer.runs = [document_of(sealed(1))]
    with closing(open_url(f"{peer.url}&readPreference=secondaryPreferred")) as store:
        store.claim([want("A")], now=NOW, until=LATE)
        store.get([sealed(1).id])
        store.wait([FOO], 0.1)

    reads = [body for body in peer.sent if next(iter(body)) in ("find", "aggregate")]
    assert len(reads) > 3
    assert {body.get("$readPreference", {"mode": "primary"})["mode"] for body in reads} == {"primary"}


# -- transactions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(peer: ReplicaSet) -> Iterator[Any]:
    with MongoClient(peer.url) as made:
        yield made


def test_a_run_is_fired_within_the_transaction_of_the_session(
    store: MongoPersister, peer: ReplicaSet, client: Any
) -> None:
    with client.start_session() as session, session.start_transaction():
        client.peer.orders.insert_one({"_id": 7}, session=session)
        assert store.put([sealed(1)], via=session) == [sealed(1).id]

    order, run = peer.named("insert")
    assert (order["insert"], run["insert"]) == ("orders", "runs")
    assert (order["lsid"], order["txnNumber"]) == (run["lsid"], run["txnNumber"])
    assert order["startTransaction"]
    assert run["autocommit"] is False
    assert "startTransaction" not in run
    assert peer.named("commitTransaction")[-1]["txnNumber"] == run["txnNumber"]


def test_a_transaction_that_is_undone_commits_nothing(store: MongoPersister, peer: ReplicaSet, client: Any) -> None:
    with pytest.raises(ZeroDivisionError), client.start_session() as session, session.start_transaction():
        store.put([sealed(1)], via=session)
        raise ZeroDivisionError

    (run,) = peer.named("insert")
    assert run["txnNumber"] in [body["txnNumber"] for body in peer.named("abortTransaction")]
    assert run["txnNumber"] not in [
        body["txnNumber"] for body in peer.named("commitTransaction") if body["lsid"] == run["lsid"]
    ]


@pytest.mark.parametrize("first", [CONFLICT, NOT_PRIMARY], ids=["conflict", "step-down"])
def test_a_transaction_that_meets_another_is_repeated_as_a_whole(
    store: MongoPersister, peer: ReplicaSet, client: Any, first: Body
) -> None:
    """By the driver's ``with_transaction``, which must see its own error for that."""
    calls = []

    def order(session: Any) -> list[str]:
        calls.append(session)
        return store.put([sealed(1)], via=session)

    peer.then("insert", {**first, "errorLabels": ["TransientTransactionError"]})
    with client.start_session() as session:
        assert session.with_transaction(order) == [sealed(1).id]

    assert len(calls) == 2
    one, two = peer.named("insert")
    assert one["txnNumber"] < two["txnNumber"]


def test_a_primary_that_is_gone_within_a_transaction_has_it_repeated_too() -> None:
    """Also where nobody listens there any longer, which is otherwise an error without the driver's own behind it."""
    error = AutoReconnect("127.0.0.1:1: [Errno 111] Connection refused")
    error._add_error_label("TransientTransactionError")

    with pytest.raises(AutoReconnect), speaking_within_transaction("mongodb://here/db"):
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except ConnectionRefusedError as refused:
            raise error from refused


@pytest.mark.parametrize("first", [None, CONFLICT], ids=["at once", "conflict"])
def test_the_example_in_the_docs_fires_within_its_transaction(
    peer: ReplicaSet, client: Any, first: Body | None
) -> None:
    (example,) = [each for each in blocks(ROOT / "docs" / "stores.md") if "with_transaction" in each.text]
    if first is not None:
        peer.then("insert", written, first)  # the user's, then ours

    with closing(SkunkQueue("demo", peer.url)) as queue:

        @queue.event
        def welcome(user: int) -> str:
            return f"welcome {user}"

        exec(compile(example.text, "docs/stores.md", "exec"), {"client": client, "welcome": welcome})

    *undone, user, run = peer.named("insert")
    assert [body["insert"] for body in undone] == ([] if first is None else ["users", "runs"])
    assert (user["insert"], user["$db"], run["insert"]) == ("users", "shop", "runs")
    assert (user["lsid"], user["txnNumber"]) == (run["lsid"], run["txnNumber"])
    assert run["documents"][0]["args"] == [7]
    assert [body["txnNumber"] for body in peer.named("commitTransaction") if body["lsid"] == run["lsid"]] == [
        run["txnNumber"]
    ]
