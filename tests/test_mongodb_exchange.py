"""How MongoDB commits and claims at the same time, where that changes nothing; and when one half fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("pymongo")

from mongo_servers import client_of, fresh_url
from pools import LIMIT

from skunkqueue.envelope import Outcome, State
from skunkqueue.errors import StoreAway, StoreRefused
from skunkqueue.persistence.mongodb import MongoPersister, open_url
from skunkqueue.persistence.mongodb.beside import Beside
from skunkqueue.testing.makers import LATE, NOW, ids_of, record_of, sealed, take, want

DONE = Outcome.complete(b"value")


@pytest.fixture
def store(shared_mongodb: str) -> Iterator[MongoPersister]:
    url = fresh_url(shared_mongodb)
    opened = open_url(url)
    opened.put([sealed(n) for n in range(8)])
    yield opened
    opened.close()
    with client_of(url) as client:
        client.drop_database(client.get_default_database())


def meeting(store: MongoPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a commit waits until a claim is under way as well, and a claim for a commit."""
    both = threading.Barrier(2)

    def after_the_other(verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            both.wait(LIMIT)
            return verb(*args, **options)

        return call

    for name in ("commit", "_claim"):
        monkeypatch.setattr(store, name, after_the_other(getattr(store, name)))


def test_commit_and_claim_are_under_way_at_the_same_time(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = take(store, "A", limit=3)
    meeting(store, monkeypatch)

    done = store.exchange([(claim, DONE) for claim in held], [want("B", limit=9)], now=NOW, until=LATE)

    assert done.taken == set(ids_of(held))
    assert ids_of(done.claims) == [sealed(n).id for n in range(3, 8)]
    assert done.next_ripe == LATE  # the end of a lease of B's: what A held has ended


@pytest.mark.parametrize("outcome", [Outcome.untouched(), Outcome.again(due=NOW)], ids=["untouched", "again"])
def test_what_is_put_back_can_be_claimed_by_the_same_exchange(store: MongoPersister, outcome: Outcome) -> None:
    (claim,) = take(store, "A", limit=1)

    done = store.exchange([(claim, outcome)], [want("B", limit=8)], now=NOW, until=LATE)

    assert len(done.claims) == 8


def test_a_run_whose_lease_has_ended_is_not_claimed_by_the_exchange_that_commits_it(store: MongoPersister) -> None:
    held = take(store, "A", limit=3)

    done = store.exchange([(claim, DONE) for claim in held], [want("B", limit=9)], now=LATE + 1, until=LATE + 9)

    assert done.taken == set(ids_of(held))
    assert set(ids_of(done.claims)).isdisjoint(done.taken)


def test_a_commit_that_comes_again_is_taken_although_the_same_exchange_claims_the_run(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was handed back, so it can be claimed, and until then it bears the token of who handed it back."""
    late, other = take(store, "A", limit=2)
    store.commit([(late, Outcome.untouched()), (other, Outcome.untouched())], now=NOW)
    lost = other._replace(token="older")
    claimed, commit, claim = threading.Event(), store.commit, store._claim

    def commit_late(*args: Any, **options: Any) -> set[str]:
        assert claimed.wait(LIMIT)
        return commit(*args, **options)

    def claim_first(*args: Any, **options: Any) -> Any:
        try:
            return claim(*args, **options)
        finally:
            claimed.set()

    monkeypatch.setattr(store, "commit", commit_late)
    monkeypatch.setattr(store, "_claim", claim_first)

    done = store.exchange([(late, DONE), (lost, DONE)], [want("B", limit=9)], now=NOW, until=LATE)

    assert done.taken == {late.id}
    assert len(done.claims) == 8
    assert {record_of(store, id).state for id in (late.id, lost.id)} == {State.RUNNING}


@pytest.mark.parametrize("error", [StoreRefused("too large"), StoreAway("gone")])
def test_what_was_claimed_is_handed_back_if_the_commit_fails(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nobody would learn of these claims before their leases end."""
    held = take(store, "A", limit=3)
    commit, errors = store.commit, [error]

    def fail_once(*args: Any, **options: Any) -> set[str]:
        if errors:
            raise errors.pop()
        return commit(*args, **options)

    monkeypatch.setattr(store, "commit", fail_once)
    with pytest.raises(type(error)):
        store.exchange([(claim, DONE) for claim in held], [want("B", limit=2)], now=NOW, until=LATE)

    assert [record_of(store, claim.id).state for claim in held] == [State.RUNNING] * 3
    again = store.exchange([(claim, DONE) for claim in held], [want("C", limit=9)], now=NOW, until=LATE)
    assert again.taken == set(ids_of(held))
    assert ids_of(again.claims) == [sealed(n).id for n in range(3, 8)]
    assert {claim.lapses for claim in again.claims} == {0}


def test_outcomes_are_committed_if_the_claim_fails(store: MongoPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next try needs to claim only; and no write of this exchange comes after its error."""
    held = take(store, "A", limit=3)

    def fail(*args: Any, **options: Any) -> Any:
        raise StoreAway("gone")

    monkeypatch.setattr(store, "_claim", fail)
    with pytest.raises(StoreAway):
        store.exchange([(claim, DONE) for claim in held], [want("B")], now=NOW, until=LATE)

    assert [record_of(store, claim.id).state for claim in held] == [State.SUCCEEDED] * 3


def test_claims_are_given_although_the_server_does_not_say_when_to_look_again(
    store: MongoPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise StoreAway("gone")

    monkeypatch.setattr(store._claimer, "next_ripe", fail)

    done = store.exchange([], [want("A", limit=99)], now=NOW, until=LATE)

    assert (len(done.claims), done.next_ripe) == (8, NOW)
    with pytest.raises(StoreAway):
        store.exchange([], [want("B", limit=99)], now=NOW, until=LATE)


# -- the thread beside -------------------------------------------------------------------------------------------------


def test_a_call_is_made_here_while_the_thread_is_busy() -> None:
    beside, may_end = Beside(), threading.Event()
    first = beside.start(lambda: may_end.wait(LIMIT))

    second = beside.start(threading.current_thread)

    assert second.result(0) is threading.current_thread()
    may_end.set()
    assert first.result(LIMIT)
    third = beside.start(threading.current_thread)
    assert third.result(LIMIT).name == "skunkqueue-beside"
    beside.close()
    third.result().join(LIMIT)
    assert not third.result().is_alive()


def test_what_a_call_raises_is_raised_where_its_result_is_asked_for() -> None:
    beside = Beside()

    failed = beside.start(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        failed.result(LIMIT)
    assert beside.start(lambda: 7).result(LIMIT) == 7
    beside.close()


def test_a_forked_process_has_a_thread_of_its_own() -> None:
    beside, may_end = Beside(), threading.Event()
    under_way = beside.start(lambda: may_end.wait(LIMIT))
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if beside.start(lambda: 7).result(LIMIT) == 7 else 1)
        except BaseException:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    may_end.set()
    under_way.result(LIMIT)
    beside.close()
