"""A run as a document of MongoDB: what a person reads in a shell, what a damaged one costs, what text it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("pymongo")

from mongo_servers import client_of, fresh_url
from pymongo.collection import Collection

from skunkqueue import SkunkQueue
from skunkqueue.envelope import Filter, Outcome, State
from skunkqueue.persistence import BRIEF
from skunkqueue.persistence.mongodb import MongoPersister, open_url
from skunkqueue.persistence.mongodb.documents import (
    document_of,
    key_of,
    place_of,
    shelf_of,
    shelf_of_ended,
    shown,
    storable,
)
from skunkqueue.testing import drain
from skunkqueue.testing.makers import LATE, NOW, UNICODE, record_of, sealed, take, take_one


@pytest.fixture
def url(shared_mongodb: str) -> Iterator[str]:
    made = fresh_url(shared_mongodb)
    yield made
    with client_of(made) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture
def store(url: str) -> Iterator[MongoPersister]:
    with closing(open_url(url)) as opened:
        yield opened


def test_a_person_with_a_shell_sees_the_job_its_arguments_and_its_result(url: str, store: MongoPersister) -> None:
    queue = SkunkQueue("demo", url)

    @queue.event(routes=["foo"])
    def add(first: int, second: int, *, note: str = "") -> int:
        return first + second

    run = add.fire(4, 5, note=UNICODE)
    drain(queue)

    with client_of(url) as client:
        (document,) = client.get_default_database().runs.find()
    assert (document["_id"], document["queue"], document["route"], document["state"]) == (
        run.id, "demo", "foo", "succeeded",
    )  # fmt: skip
    assert document["job"].endswith(".add")
    assert (document["args"], document["kwargs"]) == ([4, 5], {"note": UNICODE})
    assert document["result"] == run.wait() == 9
    for name in ("due_at", "ripe_at", "ended_at"):
        assert isinstance(document[name], datetime)
    assert abs(document["due_at"].replace(tzinfo=UTC).timestamp() - document["due"]) < 0.002
    queue.close()


def test_every_plain_value_is_shown_as_the_nearest_there_is(store: MongoPersister, url: str) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6000)
    values = {
        "int": 1, "large": 1 << 70, "text": "a\udce9", "set": {1}, "tuple": (1, None), "bytes": b"\x00",
        "date": date(2026, 1, 2), "delta": timedelta(seconds=1), "decimal": Decimal("1.50"), "moment": moment,
        "uuid": UUID(int=7), 5: {"a.b": 1, "$c": 2},
    }  # fmt: skip
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]

    with client_of(url) as client:
        runs = client.get_default_database().runs
        runs.insert_one({"_id": "1", "args": shown(values), "deep": shown(deep)})
        found = runs.find_one({"_id": "1"})["args"]

    assert (found["int"], found["large"], found["text"], found["set"]) == (1, str(1 << 70), "a?", [1])
    assert (found["tuple"], found["date"], found["delta"]) == ([1, None], "2026-01-02", "0:00:01")
    assert (str(found["decimal"]), found["moment"], found["5"]) == ("1.50", moment, {"a.b": 1, "$c": 2})


def test_a_long_unique_key_is_held_by_its_digest(store: MongoPersister) -> None:
    keys = ["x" * 5000, "x" * 4999 + "y"]
    store.put([sealed(n, unique=key) for n, key in enumerate(keys)])

    assert store.put([sealed(10 + n, unique=key) for n, key in enumerate(keys)]) == [sealed(0).id, sealed(1).id]
    assert len(key_of(sealed(unique=keys[0])) or "") < 200
    assert storable("plain") == "plain"


ROUTES = ["foo", "foo^high", "foo^low", "foo^other", "foo.bar:1-2", "foo~ticks", "mail~0a1b^high", "@worker-1:2"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_shelf_says_whose_runs_lie_there(route: str) -> None:
    assert place_of(shelf_of("demo", route)) == ("demo", route, None)
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        assert place_of(shelf_of_ended(state, "demo", route)) == ("demo", route, state)


@pytest.mark.parametrize("shelf", [None, 3, "", "/", "foo", "demo/foo", "~failed", "~/", b"\xff", "~later/demo/foo^2"])
def test_a_damaged_shelf_is_counted_somewhere(shelf: object) -> None:
    queue, route, state = place_of(shelf)

    assert (queue, route) in (("?", "?"), ("demo", "foo"))
    assert state in (None, State.FAILED, State.QUEUED)


def test_counting_asks_for_shelves_only(store: MongoPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the index has the answer, and for the few runs that are held, of which the documents are read."""
    asked: list[object] = []
    real = Collection.aggregate

    def aggregate(self: Any, pipeline: Any, *args: Any, **options: Any) -> Any:
        asked.append((pipeline, options))
        return real(self, pipeline, *args, **options)

    monkeypatch.setattr(Collection, "aggregate", aggregate)
    store.put([sealed(n, route=route) for n, route in enumerate(["foo", "foo", "foo^high", "bar"])])
    take(store, limit=1)

    assert store.count() == {
        ("demo", "foo", "running"): 1, ("demo", "foo", "queued"): 1, ("demo", "foo^high", "queued"): 1,
        ("demo", "bar", "queued"): 1,
    }  # fmt: skip
    group = {"$group": {"_id": "$shelf", "n": {"$sum": 1}}}
    assert asked == [([{"$match": {"held": {"$exists": True}}}, group], {}), ([group], {"hint": "ripe"})]


def test_a_short_body_and_a_short_value_lie_as_they_are(store: MongoPersister, url: str) -> None:
    """A fire writes no byte more than without the parts that long ones have."""
    store.put([sealed(1), sealed(2, body=b"b" * BRIEF)])
    claims = take(store)
    store.commit([(claim, Outcome.complete(b"v" * BRIEF)) for claim in claims], now=NOW)

    with client_of(url) as client:
        documents = list(client.get_default_database().runs.find())
    assert [len(each["body"]) for each in documents] == [4, BRIEF]
    assert all(len(each["value"]) == BRIEF and "rest" not in each and "long" not in each for each in documents)


DAMAGE = [
    {"claimed": "many"}, {"lapses": []}, {"state": 7}, {"ripe": "soon"}, {"body": 5}, {"body": None}, {"keep": "long"},
    {"due": {}}, {"expires": "never"}, {"notes": 1}, {"shelf": 3}, {"queue": 1}, {"worker": {}}, {"unique": 4},
    {"value": 1, "error": 2, "progress": "half", "ended": []},
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_document_costs_its_own_run_only(store: MongoPersister, url: str, damage: dict[str, object]) -> None:
    store.put([sealed(n) for n in range(3)])
    with client_of(url) as client:
        client.get_default_database().runs.update_one({"_id": sealed(0).id}, {"$set": damage})

    assert {sealed(1).id, sealed(2).id} <= {claim.id for claim in take(store)}
    assert store.put([sealed(0), sealed(4)]) == [sealed(0).id, sealed(4).id]
    assert len(store.get(sealed(n).id for n in range(3))) == 3
    assert {sealed(1).id, sealed(2).id} <= {record.id for record in store.find(Filter(), now=NOW)}
    assert sum(store.count().values()) == 4
    store.cancel([sealed(n).id for n in range(5)], now=NOW)
    store.purge(now=NOW + 9e6)
    assert not store.get([sealed(1).id, sealed(2).id])


def test_a_document_holds_no_field_that_is_not_needed() -> None:
    """Each byte is written again by every claim and every outcome."""
    assert set(document_of(sealed())) == {
        "_id", "queue", "route", "state", "shelf", "ripe", "claimed", "due", "keep", "due_at", "ripe_at", "body",
    }  # fmt: skip


def test_text_that_is_no_unicode_travels(store: MongoPersister) -> None:
    """A file's name may hold a lone surrogate, and an error may quote it."""
    name = "caf\udce9"
    store.put([sealed(unique=name)])
    claim = take_one(store)
    store.beat(name, name, until=LATE)
    store.tell(name, name)
    store.commit([(claim, Outcome.at(0.5, name)), (claim, Outcome.failed(name))], now=NOW)

    record = record_of(store, claim.id)
    assert (record.envelope.unique, record.error, record.note) == (name, name, name)
    assert store.workers(now=NOW) == {name: name}
    assert [order.text for order in store.beat(name, name, until=LATE)] == [name]
