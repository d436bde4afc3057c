"""The promises about workers and their orders, purge, and handles that are shared or opened again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

from skunkqueue.envelope import DAY, Filter, Outcome, Record, State
from skunkqueue.persistence import (
    EXPIRED,
    REMEMBERED,
    WORKER_GONE,
    Persister,
    RunKey,
    WorkerKey,
    WorkKey,
)
from skunkqueue.persistence.url import without_secrets
from skunkqueue.routes import HIGH, address
from skunkqueue.testing.makers import (
    EVERY_BYTE,
    LATE,
    LEASE,
    NOW,
    UNICODE,
    Promises,
    count_states,
    ids_of,
    record_of,
    sealed,
    take,
    take_one,
    want,
)
from skunkqueue.testing.waits import LONG, SOON


class WorkerPromises(Promises):
    """What ``beat``, ``tell`` and ``workers`` promise."""

    def test_a_worker_is_there_until_its_beat_ends(self, store: Persister) -> None:
        """Each heartbeat replaces the description of the worker, and the time until which it is there."""
        store.beat("w1", "first", until=NOW + 10.1)
        store.beat("w2", UNICODE, until=NOW + 20)
        assert store.workers(now=NOW) == {"w1": "first", "w2": UNICODE}

        store.beat("w1", "second", until=NOW + 30)

        assert store.workers(now=NOW + 10.1) == {"w1": "second", "w2": UNICODE}
        assert store.workers(now=NOW + 20) == {"w1": "second"}
        assert store.workers(now=NOW + 30) == {}

    def test_a_beat_until_now_unregisters(self, store: Persister) -> None:
        """So a worker that has stopped is not listed as alive. A later heartbeat registers it again."""
        store.beat("w1", "about", until=NOW + 60)
        store.beat("w1", "about", until=NOW)
        assert store.workers(now=NOW) == {}

        store.beat("w1", "back", until=NOW + 60)

        assert store.workers(now=NOW) == {"w1": "back"}

    def test_a_beat_gives_the_orders_of_its_worker_in_order(self, store: Persister) -> None:
        """Anyone may send them. A worker gets only its own, oldest first, each with an id of its own."""
        store.beat("w1", "", until=NOW + 60)
        store.beat("w2", "", until=NOW + 60)
        for text in ("first", UNICODE, "first"):
            self.open_again(store).tell("w1", text)
        store.tell("w2", "other")

        orders = store.beat("w1", "", until=NOW + 60)

        assert [order.text for order in orders] == ["first", UNICODE, "first"]
        assert len({order.id for order in orders}) == 3
        assert [order.text for order in store.beat("w2", "", until=NOW + 60)] == ["other"]

    def test_an_order_stays_until_it_was_seen(self, store: Persister) -> None:
        """If the reply of a heartbeat is lost, no order is lost; an order that was seen does not come again."""
        store.beat("w1", "", until=NOW + 60)
        store.tell("w1", "first")
        store.tell("w1", "second")

        first = store.beat("w1", "", until=NOW + 60)
        assert store.beat("w1", "", until=NOW + 60) == first
        assert store.beat("w1", "", seen=[first[0].id], until=NOW + 60) == first[1:]
        store.tell("w1", "third")
        rest = store.beat("w1", "", seen=[first[0].id, "unknown"], until=NOW + 60)

        assert [order.text for order in rest] == ["second", "third"]
        assert store.beat("w1", "", seen=[order.id for order in rest], until=NOW + 60) == []

    def test_an_order_told_after_others_were_seen_is_a_new_one(self, store: Persister) -> None:
        """Its id was never used before, so that a repeated ``seen`` does not remove it."""
        store.beat("w1", "", until=NOW + 60)
        store.tell("w1", "first")
        seen = [order.id for order in store.beat("w1", "", until=NOW + 60)]
        store.beat("w1", "", seen=seen, until=NOW + 60)

        store.tell("w1", "second")

        assert [order.text for order in store.beat("w1", "", seen=seen, until=NOW + 60)] == ["second"]


class PurgePromises(Promises):
    """What ``purge`` promises."""

    def test_an_ended_run_is_purged_when_its_keep_is_over(self, store: Persister) -> None:
        """Not a moment before. A purged run is as if it had never existed."""
        store.put([sealed(1, keep=100.1), sealed(2, keep=200.0), sealed(3, keep=100.1)])
        first, second = take(store, limit=2)
        store.commit([(first, Outcome.complete(b"")), (second, Outcome.failed("no"))], now=NOW)
        store.cancel([sealed(3).id], now=NOW)

        assert store.purge(now=NOW + 100) == 0
        assert store.purge(now=NOW + 100.1) == 2

        assert set(store.get(sealed(n).id for n in (1, 2, 3))) == {sealed(2).id}
        assert [record.id for record in store.find(Filter(), now=NOW)] == [sealed(2).id]
        assert count_states(store) == {"failed": 1}
        assert store.commit([(first, Outcome.complete(b""))], now=NOW) == set()
        assert store.put([sealed(1)]) == [sealed(1).id]
        assert record_of(store, sealed(1).id).state == State.QUEUED

    def test_an_ended_run_outlives_a_purge_for_a_minute(self, store: Persister) -> None:
        """So that the store still recognises a repeated put or commit within that minute."""
        store.put([sealed(1, keep=0.0)])
        claim = take_one(store)
        store.commit([(claim, Outcome.complete(b"", notes=b""))], now=NOW)

        assert store.purge(now=NOW + REMEMBERED - 0.1) == 0
        assert store.commit([(claim, Outcome.complete(b""))], now=NOW + REMEMBERED - 0.1) == {claim.id}
        assert store.purge(now=NOW + REMEMBERED) == 1
        assert store.get([claim.id]) == {}

    def test_open_runs_are_not_purged(self, store: Persister) -> None:
        """However long they have been waiting or running."""
        store.put([sealed(n, keep=0.0) for n in (1, 2)])
        take(store, limit=1)

        assert store.purge(now=NOW + 9 * DAY) == 0
        assert count_states(store) == {"queued": 1, "running": 1}

    def test_purge_ends_open_runs_past_their_expiry(self, store: Persister) -> None:
        """They end as cancelled, with the error "expired" and no token, and are kept like other ended runs."""
        store.put([sealed(1, expires=NOW + 5), sealed(2, expires=NOW + 9, route="bar"), sealed(3, expires=NOW + 99)])
        take(store)

        assert store.purge(now=LATE) == 2

        wanted = Record(sealed(2, expires=NOW + 9, route="bar"), State.CANCELLED, LATE + DAY, error=EXPIRED, ended=LATE)
        assert record_of(store, sealed(2).id) == wanted
        ended = record_of(store, sealed(1).id)
        assert (ended.state, ended.token, ended.worker, ended.error) == (State.CANCELLED, None, "worker-1", EXPIRED)
        assert record_of(store, sealed(3).id).state == State.RUNNING

    def test_purge_leaves_a_leased_run_past_its_expiry(self, store: Persister) -> None:
        """It started in time, and may run to its end."""
        store.put([sealed(expires=NOW + 5)])
        claim = take_one(store)

        assert store.purge(now=NOW + LEASE - 0.1) == 0
        assert store.commit([(claim, Outcome.complete(b""))], now=NOW + LEASE - 0.1) == {claim.id}

    def test_purge_ends_runs_addressed_to_a_worker_that_is_gone(self, store: Persister) -> None:
        """No other worker will ever claim them. Those of a worker that is there stay, whatever their priority."""
        store.beat("here", "", until=NOW + 60)
        store.beat("gone", "", until=NOW + 5)
        routes = [address("here"), address("here") + HIGH, address("gone"), address("gone") + HIGH, address("never")]
        store.put([sealed(n, route=route) for n, route in enumerate(routes)])

        store.purge(now=NOW + 5)

        records = [record_of(store, sealed(n).id) for n in range(5)]
        assert [str(record.state) for record in records] == ["queued"] * 2 + ["cancelled"] * 3
        assert [record.error for record in records] == [None] * 2 + [WORKER_GONE] * 3

    def test_purge_leaves_a_leased_run_of_a_worker_that_is_gone(self, store: Persister) -> None:
        """While the lease lasts, its holder may still commit; after that, the token is cleared."""
        store.put([sealed(route=address("gone"))])
        (claim,) = take(store, "A", address("gone"))

        store.purge(now=NOW + LEASE - 0.1)
        assert record_of(store, claim.id).state == State.RUNNING
        store.purge(now=NOW + LEASE)

        record = record_of(store, claim.id)
        assert (record.state, record.error, record.token) == (State.CANCELLED, WORKER_GONE, None)

    def test_purge_goes_in_bounded_steps(self, store: Persister) -> None:
        """At most ``limit`` things at a time, until there is nothing more to do."""
        store.put([sealed(n, keep=0.0) for n in range(5)])
        store.cancel([sealed(n).id for n in range(5)], now=NOW)
        store.put([sealed(n, expires=NOW + 9) for n in range(5, 10)])

        done = [store.purge(now=NOW + REMEMBERED, limit=2) for _ in range(20)]

        assert max(done) <= 2
        assert sum(done) == 10
        assert done[-1] == 0
        assert count_states(store) == {"cancelled": 5}

    def test_one_step_of_purge_does_no_more_than_its_limit(self, store: Persister) -> None:
        """The rest stays for the next step."""
        store.put([sealed(n, keep=0.0) for n in range(5)])
        store.cancel([sealed(n).id for n in range(5)], now=NOW)

        assert store.purge(now=NOW + REMEMBERED, limit=2) == 2
        assert count_states(store) == {"cancelled": 3}

    def test_nothing_is_left_behind(self, store: Persister) -> None:
        """When all is done and purged, no run, count, worker, key or row is left."""
        store.put([sealed(n, unique=str(n), keep=9.0, expires=NOW + DAY) for n in range(6)])
        store.put([sealed(6, route=address("w1")), sealed(7, queue="other", route="foo" + HIGH)])
        store.beat("w1", UNICODE, until=NOW + 9)
        store.tell("w1", "order")
        outcomes = [Outcome.complete(EVERY_BYTE, notes=EVERY_BYTE), Outcome.failed("no"), Outcome.again(due=NOW)]
        store.commit(list(zip(take(store, limit=3), outcomes, strict=True)), now=NOW)
        store.exchange([], [want("B", limit=1)], now=NOW, until=LATE)
        store.cancel([sealed(7).id], now=NOW)
        store.wait([WorkKey("demo", "foo"), RunKey(sealed(1).id), WorkerKey("w1")], 0)

        store.purge(now=NOW + DAY)
        store.cancel([sealed(n).id for n in range(8)], now=NOW + DAY)
        for _ in range(3):
            store.purge(now=NOW + 9 * DAY)

        assert store.purge(now=NOW + 9 * DAY) == 0
        assert store.count() == {}
        assert store.workers(now=NOW) == {}
        assert store.find(Filter(), now=NOW) == []
        assert not self.left_behind(store)


class HandlePromises(Promises):
    """What every handle promises: threads can share it, it can be one of many, and it opens again once closed."""

    def test_claimers_at_once_never_get_the_same_run(self, store: Persister) -> None:
        """Each run goes to exactly one of them, whether they share a handle or have their own."""
        store.put([sealed(n) for n in range(300)])
        handles = [store, store, self.open_again(store), self.open_again(store)]
        given: list[list[str]] = [[] for _ in handles]

        def claim_all(number: int) -> None:
            turn = 0
            while claims := take(handles[number], f"token-{number}-{turn}", limit=7):
                given[number] += ids_of(claims)
                turn += 1

        at_once([lambda number=number: claim_all(number) for number in range(len(handles))])  # type: ignore[misc]

        assert sorted(id for ids in given for id in ids) == [sealed(n).id for n in range(300)]

    def test_senders_at_once_with_one_unique_key_make_one_run(self, store: Persister) -> None:
        """All of them get the same id."""
        handles = [store, store, self.open_again(store), self.open_again(store)]
        ids: list[str] = []

        at_once(
            [
                lambda number=number: ids.extend(handles[number].put([sealed(number, unique="user-7")]))  # type: ignore[misc]
                for number in range(len(handles))
            ]
        )

        assert len(ids) == 4
        assert len(set(ids)) == 1
        assert count_states(store) == {"queued": 1}

    def test_of_a_commit_and_a_cancel_at_once_one_is_taken(self, store: Persister) -> None:
        """Each run is either committed or cancelled, never both, never neither."""
        store.put([sealed(n) for n in range(100)])
        claims = take(store, limit=100)
        other = self.open_again(store)
        taken: list[str] = []
        cancelled: list[str] = []

        def commit_each() -> None:
            for claim in claims:
                taken.extend(store.commit([(claim, Outcome.complete(b""))], now=NOW))

        def cancel_each() -> None:
            for claim in reversed(claims):
                cancelled.extend(record.id for record in other.cancel([claim.id], now=NOW))

        at_once([commit_each, cancel_each])

        assert sorted(taken + cancelled) == ids_of(claims)
        wanted = {"succeeded": len(taken), "cancelled": len(cancelled)}
        assert count_states(store) == {state: number for state, number in wanted.items() if number}

    def test_a_closed_handle_opens_anew(self, store: Persister) -> None:
        """Closing releases connections, not runs; closing twice does no harm."""
        store.put([sealed(1)])
        other = self.open_again(store)
        other.count()
        other.close()
        other.close()

        assert other.put([sealed(2)]) == [sealed(2).id]
        assert ids_of(take(other)) == [sealed(1).id, sealed(2).id]

    def test_a_store_says_where_it_is_without_a_secret(self, store: Persister) -> None:
        """Its URL goes into logs."""
        assert "://" in store.url
        assert without_secrets(store.url) == store.url

    def test_a_store_says_how_far_its_clock_is_ahead(self, store: Persister) -> None:
        """In seconds, or None where it has no clock."""
        offset = store.offset()

        assert offset is None or math.isfinite(offset)


def at_once(works: Sequence[Callable[[], object]]) -> None:
    """Do all of them at the same time on threads; raises the first error."""
    start = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def do(work: Callable[[], object]) -> None:
        try:
            start.wait(SOON)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=do, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    for error in errors:
        raise error
    assert not any(thread.is_alive() for thread in threads), "it did not end"
