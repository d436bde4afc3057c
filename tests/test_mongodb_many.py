"""Many claimers at a MongoDB at once: each run once, out of each other's way, and a share for each of them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest

pytest.importorskip("pymongo")

from mongo_servers import client_of, fresh_url
from pymongo.errors import BulkWriteError, OperationFailure, WriteError

from skunkqueue.envelope import Outcome
from skunkqueue.persistence.mongodb import MongoPersister, open_url
from skunkqueue.persistence.mongodb.documents import shelf_of
from skunkqueue.persistence.mongodb.probe import Features
from skunkqueue.testing import random_walk
from skunkqueue.testing.makers import LATE, NOW, ids_of, record_of, sealed, take, want

CLAIMERS = 8
SHELF = shelf_of("demo", "foo")


@pytest.fixture
def url(shared_mongodb: str) -> Iterator[str]:
    made = fresh_url(shared_mongodb)
    yield made
    with client_of(made) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture
def open_handle(url: str) -> Iterator[Callable[[], MongoPersister]]:
    """One more handle to the store, at every call, as of other processes; all are closed afterwards."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(open_url(url)))


@pytest.fixture
def store(open_handle: Callable[[], MongoPersister]) -> MongoPersister:
    return open_handle()


@pytest.mark.slow
def test_eight_claimers_take_each_run_once_and_all_of_them_get_some(
    store: MongoPersister, open_handle: Callable[[], MongoPersister]
) -> None:
    runs = 1500
    store.put([sealed(n) for n in range(runs)])
    handles = [open_handle() for _ in range(CLAIMERS)]
    given: list[list[str]] = [[] for _ in range(CLAIMERS)]
    errors: list[BaseException] = []
    start = threading.Barrier(CLAIMERS)

    def claim_all(number: int) -> None:
        calls = 0
        end = time.monotonic() + 60
        try:
            start.wait()
            # A claimer gives up a call in which others were faster again and again; a pool then calls once more.
            while sum(map(len, given)) < runs and time.monotonic() < end:
                calls += 1
                given[number] += ids_of(take(handles[number], f"{number}-{calls}", limit=4))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=claim_all, args=(n,)) for n in range(CLAIMERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert Counter(id for ids in given for id in ids) == Counter({sealed(n).id: 1 for n in range(runs)})
    assert all(given), [len(ids) for ids in given]
    assert any(handle._claimer.widths for handle in handles)


def test_a_claimer_that_was_slower_than_others_looks_again(
    store: MongoPersister, open_handle: Callable[[], MongoPersister]
) -> None:
    """What it found was taken before it could take it; it takes what comes behind."""
    store.put([sealed(n) for n in range(20)])
    other = open_handle()
    plan = store._claimer._plan
    raced: list[str] = []
    widths: list[int] = []  # of each look

    def plan_and_be_late(*args: Any) -> Any:
        widths.append(store._claimer.widths.get(SHELF, 1))
        planned = plan(*args)
        if not raced:
            raced.extend(ids_of(take(other, "other", limit=5)))
        return planned

    store._claimer._plan = plan_and_be_late  # type: ignore[method-assign]
    claims = take(store, "slow", limit=5)

    assert raced == [sealed(n).id for n in range(5)]
    assert len(claims) == 5  # those behind, or those behind these
    assert set(ids_of(claims)).isdisjoint(raced)
    assert widths == [1, 2]


@pytest.mark.parametrize("in_order", [True, False])
def test_a_claimer_among_others_begins_anywhere_among_the_first_runs_and_leaves_none(
    store: MongoPersister, in_order: bool
) -> None:
    """On the route where others were faster only; another comes in order, and so does one that was listed before."""
    store._features = Features(sorts_by_index=in_order, streams=False)
    store.put([sealed(n) for n in range(100)] + [sealed(n, route="bar") for n in range(200, 208)])
    store._claimer.widths[SHELF] = 8
    begun = set()

    taken: list[str] = []
    for number in range(30):
        ids = ids_of(take(store, f"{number}", "bar", "foo", limit=4))
        begun.add(ids[0] if ids else "")
        taken += ids

    assert taken[:8] == [sealed(n).id for n in range(200, 208)]
    assert set(taken[8:]) == {sealed(n).id for n in range(100)}
    assert len(taken) == 108
    assert taken[8:] != sorted(taken[8:])  # of 25 times, one was not at the very first


def test_a_claimer_that_is_alone_again_takes_runs_in_order(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it lost nothing it begins nearer to the first one, now and then; here each time."""
    monkeypatch.setattr(random, "random", lambda: 0.0)
    store.put([sealed(n) for n in range(50)])
    store._claimer.widths[SHELF] = 8

    early = [id for token in "ABC" for id in ids_of(take(store, token, limit=2))]

    left = sorted({sealed(n).id for n in range(50)} - set(early))
    assert store._claimer.widths == {}
    assert ids_of(take(store, "D", limit=50)) == left


def test_a_run_that_changed_after_it_was_found_is_given_as_it_is_now(
    store: MongoPersister, open_handle: Callable[[], MongoPersister]
) -> None:
    """Another has claimed it and given it back, with notes, between the look and the taking."""
    store.put([sealed(1)])
    other = open_handle()
    plan = store._claimer._plan
    late = [True]

    def plan_and_be_late(*args: Any) -> Any:
        planned = plan(*args)
        if late.pop() if late else False:
            (claim,) = take(other, "other")
            other.commit([(claim, Outcome.untouched(notes=b"new"))], now=NOW)
        return planned

    store._claimer._plan = plan_and_be_late  # type: ignore[method-assign]
    (claim,) = take(store, "slow")

    assert (claim.notes, claim.lapses) == (b"new", 0)
    assert record_of(store, claim.id).token == "slow"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(40, 200, 20))
def test_many_random_walks_find_no_difference(shared_ferretdb: str, first: int) -> None:
    """Beyond the forty of the contract, on the server that does two things at the same time; each on a database."""
    for seed in range(first, first + 20):
        with closing(open_url(fresh_url(shared_ferretdb))) as walked:
            random_walk(walked, seed=seed)
            walked._link.client.drop_database(walked.target.dbname)


def test_a_batch_that_meets_another_is_written_again(store: MongoPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PostgreSQL ends one of two that wait for each other. What it had done before counts."""
    store.put([sealed(n) for n in range(6)])
    collection, calls = type(store._link.runs), []
    real = collection.bulk_write

    def bulk_write(self: Any, writes: Any, **options: Any) -> Any:
        calls.append(len(writes))
        if len(calls) % 2:  # half of it is done, or all of it where it is one
            real(self, writes[: (len(writes) + 1) // 2], **options)
            raise OperationFailure("deadlock detected", 1)
        return real(self, writes, **options)

    monkeypatch.setattr(collection, "bulk_write", bulk_write)
    claims = take(store, limit=4)
    extended = store.extend(claims, until=LATE)
    taken = store.commit([(claim, Outcome.complete(b"value")) for claim in claims], now=NOW)
    cancelled = store.cancel([sealed(4).id, sealed(5).id], now=NOW)

    assert ids_of(claims) == [sealed(n).id for n in range(4)]
    assert {claim.lapses for claim in claims} == {0}
    assert extended == taken == set(ids_of(claims))
    assert [record.id for record in cancelled] == [sealed(4).id, sealed(5).id]
    assert store.count() == {("demo", "foo", "succeeded"): 4, ("demo", "foo", "cancelled"): 2}


@pytest.mark.parametrize("many", [1, 6])
def test_a_put_that_meets_another_is_repeated(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """As FerretDB 2 says it, of a batch and of one. What had been put before stands, and holds its key."""
    store.put([sealed(9, unique="key")])
    collection, calls = type(store._link.runs), []
    real = collection.insert_many

    def insert_one(self: Any, document: Any) -> Any:
        calls.append(1)
        if len(calls) < 4:
            raise WriteError("deadlock detected", 16908292)
        return real(self, [document], ordered=False)

    def insert_many(self: Any, documents: Any, **options: Any) -> Any:
        calls.append(len(documents))
        if len(calls) < 4:
            with suppress(BulkWriteError):  # what was there
                real(self, documents[:1], **options)
            raise BulkWriteError({"writeErrors": [{"index": 1, "code": 16908292, "errmsg": "deadlock detected"}]})
        return real(self, documents, **options)

    monkeypatch.setattr(collection, "insert_one", insert_one)
    monkeypatch.setattr(collection, "insert_many", insert_many)
    monkeypatch.setattr("skunkqueue.persistence.mongodb.PUT_RETRY", 0.0)
    if many == 1:
        assert store.put([sealed(0, unique="other")]) == [sealed(0).id]
    else:
        first = [sealed(n, unique=f"{n}") for n in range(5)]
        assert store.put([*first, sealed(5, unique="key")]) == [*ids_of(first), sealed(9).id]

    assert store.count() == {("demo", "foo", "queued"): 2 if many == 1 else 6}


def test_an_earlier_want_takes_what_a_later_repeated_one_held_too_long(store: MongoPersister) -> None:
    store.put([sealed(1), sealed(2)])
    take(store, "B")
    wants = [want("A", limit=1, repeated=True), want("B", limit=5, repeated=True)]

    claims = store.claim(wants, now=LATE, until=LATE + 9)

    assert [(claim.id, claim.token, claim.lapses) for claim in claims] == [
        (sealed(1).id, "A", 1),
        (sealed(2).id, "B", 0),
    ]


def test_many_may_use_a_new_database_at_the_same_time(open_handle: Callable[[], MongoPersister]) -> None:
    """Each makes the indexes, if it is the first."""
    handles = [open_handle() for _ in range(6)]
    errors: list[BaseException] = []
    start = threading.Barrier(len(handles))

    def begin(number: int) -> None:
        try:
            start.wait()
            handles[number].put([sealed(number, unique="one")])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(len(handles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert handles[0].count() == {("demo", "foo", "queued"): 1}
