"""The promises about workers and their orders, purge, wait, channels, and handles that are shared or opened again."""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from skunkqueue.envelope import DAY, HIGH, Asked, Filter, Outcome, Record, State, address
from skunkqueue.persistence import (
    EXPIRED,
    REMEMBERED,
    WORKER_GONE,
    Key,
    Persister,
    RunKey,
    WorkerKey,
    WorkKey,
)
from skunkqueue.persistence.url import without_secrets
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

T = TypeVar("T")

SOON = 20.0
"""A wait that is woken ends within so many seconds, even on the slowest machine."""

LONG = 40.0
"""The timeout of a wait that is to be woken."""


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


class WaitPromises(Promises):
    """What ``wait`` promises. It may end without a change, but a change always ends it."""

    def test_wait_never_outlasts_its_timeout(self, store: Persister) -> None:
        """Even with no keys, or with keys of what does not exist."""
        begun = time.monotonic()

        mixed: list[Key] = [RunKey(sealed().id), WorkerKey("w1"), WorkKey("demo", "bar")]
        every: list[list[Key]] = [[], [WorkKey("demo", "foo")], mixed]

        for keys in every:
            store.wait(keys, 0)
            store.wait(keys, 0.1)

        assert time.monotonic() - begun < SOON

    def test_a_put_ends_a_wait_for_work(self, store: Persister) -> None:
        """A put of any priority, on any of the routes waited for."""
        keys = [WorkKey("demo", "bar"), WorkKey("demo", "foo")]

        self.wakes(store, keys, lambda other: other.put([sealed(1)]))
        self.wakes(store, keys, lambda other: other.put([sealed(2, route="bar" + HIGH)]))

    def test_a_put_to_a_worker_ends_its_wait(self, store: Persister) -> None:
        """A worker's own address is a route too."""
        self.wakes(store, [WorkKey("demo", address("w1"))], lambda other: other.put([sealed(route=address("w1"))]))

    def test_a_run_that_goes_back_ends_a_wait_for_work(self, store: Persister) -> None:
        """A run that was handed back, is to run again, or was reopened: another pool may take it at once."""
        store.put([sealed(n) for n in range(3)])
        first, second, third = take(store)
        store.commit([(third, Outcome.failed("no"))], now=NOW)
        keys = [WorkKey("demo", "foo")]

        self.wakes(store, keys, lambda other: other.commit([(first, Outcome.untouched())], now=NOW))
        self.wakes(store, keys, lambda other: other.exchange([(second, Outcome.again())], [], now=NOW, until=LATE))
        self.wakes(store, keys, lambda other: other.reopen([third.id], now=NOW))

    def test_an_end_ends_a_wait_for_a_run(self, store: Persister) -> None:
        """The run may have succeeded, failed, been cancelled or expired."""
        store.put([sealed(n, expires=NOW + 60) for n in range(5)])
        done, failed, swapped = take(store, limit=3)
        ends: list[tuple[str, Callable[[Persister], object]]] = [
            (done.id, lambda other: other.commit([(done, Outcome.complete(b""))], now=NOW)),
            (failed.id, lambda other: other.commit([(failed, Outcome.failed("no"))], now=NOW)),
            (
                swapped.id,
                lambda o: o.exchange([(swapped, Outcome.complete(b""))], [want("B", "x")], now=NOW, until=LATE),
            ),
            (sealed(3).id, lambda other: other.cancel([sealed(3).id], now=NOW)),
            (sealed(4).id, lambda other: other.purge(now=NOW + 60)),
        ]

        for id, end in ends:
            self.wakes(store, [RunKey(id)], end)

    def test_an_order_ends_a_wait_of_its_worker(self, store: Persister) -> None:
        """So that a cancel reaches a job at once, not at the next heartbeat of its worker."""
        store.beat("w1", "", until=NOW + 60)

        self.wakes(store, [WorkerKey("w1")], lambda other: other.tell("w1", "order"))

    def test_a_change_between_the_look_and_the_wait_is_not_lost(self, store: Persister) -> None:
        """A caller that has waited on a key, then looks, and then waits again, is woken by a change in between."""
        other = self.open_again(store)
        store.put([sealed(9, route="bar")])
        (claim,) = take(store, "B", "bar")
        changes: list[tuple[Key, Callable[[], object]]] = [
            (WorkKey("demo", "foo"), lambda: other.put([sealed(1)])),
            (WorkerKey("w1"), lambda: other.tell("w1", "order")),
            (RunKey(claim.id), lambda: other.commit([(claim, Outcome.complete(b""))], now=NOW)),
        ]

        for key, change in changes:
            store.wait([key], 0)
            assert take(store) == []
            change()
            begun = time.monotonic()
            store.wait([key], LONG)
            assert time.monotonic() - begun < SOON
            store.cancel([sealed(1).id], now=NOW)

    def test_a_rouse_ends_the_waits_on_its_keys_and_no_others(self, store: Persister) -> None:
        """For keys of every kind. In a store that cannot do this, no wait may be long."""
        store.put([sealed(1, route="bar")])
        (claim,) = take(store, "B", "bar")
        keys: list[Key] = [WorkKey("demo", "foo"), WorkerKey("w1"), RunKey(claim.id)]
        other = WorkKey("demo", "other")
        for key in keys:
            alone, among = self.waiting(store, [key]), self.waiting(store, [other, key])
            left, can = self.waiting(store, [other]), False

            end = time.monotonic() + SOON
            while (alone.is_alive() or among.is_alive()) and time.monotonic() < end:
                can = store.rouse([key])  # repeated, as it may not have waited yet
                time.sleep(0.02)
            assert not alone.is_alive() and not among.is_alive()
            assert left.is_alive() or not can

            while left.is_alive() and time.monotonic() < end:
                store.rouse([other])
                time.sleep(0.02)
            assert not left.is_alive()

    def waiting(self, store: Persister, keys: Sequence[Key]) -> threading.Thread:
        """A thread that waits for what does not happen, for several times as long as a test may take."""

        def wait() -> None:
            store.wait(keys, 0)
            ready.set()
            store.wait(keys, 10 * LONG)

        ready = threading.Event()
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert ready.wait(SOON)
        return thread

    def test_a_line_exchanges_as_the_store_does(self, store: Persister) -> None:
        """Outcomes are taken or refused, and claims are given. A store without a channel promises nothing here."""
        store.put([sealed(n) for n in range(4)])
        one, stolen = take(store, limit=2)
        store.cancel([stolen.id], now=NOW)
        outcomes = [(one, Outcome.complete(b"done")), (stolen, Outcome.complete(b"late"))]
        channel = store.channel("demo")
        if channel is None:
            return
        with closing(channel):
            assert channel.answer() is None
            assert channel.ask(outcomes, [want("B", limit=1)], now=NOW, until=LATE)
            got = self.heard(channel.answer_fd, channel.answer)
            assert channel.answer() is None

            assert got.taken == {one.id}
            assert [(claim.id, claim.token, claim.until) for claim in got.claims] == [(sealed(2).id, "B", LATE)]
            assert got.next_ripe is not None
            assert got.next_ripe <= NOW
            assert channel.ask([], [want("C", limit=5)], now=NOW, until=LATE)
            assert ids_of(self.heard(channel.answer_fd, channel.answer).claims) == [sealed(3).id]
            assert record_of(store, one.id).value == b"done"

    def test_a_line_gives_again_what_was_claimed_before(self, store: Persister) -> None:
        """So that a claim is not lost with its answer."""
        store.put([sealed(1), sealed(2)])
        (claim,) = take(store, "A", limit=1)
        channel = store.channel("demo")
        if channel is None:
            return
        with closing(channel):
            assert channel.ask([], [want("A", limit=1, repeated=True)], now=NOW, until=LATE)
            assert ids_of(self.heard(channel.answer_fd, channel.answer).claims) == [claim.id]

    def test_a_line_claims_what_ends_its_wait(self, store: Persister) -> None:
        """The claims have the token asked for. Their leases last as long as asked, from the time of the claim."""
        keys = [WorkKey("demo", "foo"), WorkKey("demo", "bar")]
        wants = [want("A", limit=1), want("B", limit=5)]
        channel = store.channel("demo")
        if channel is None:
            return
        with closing(channel):
            channel.watch(keys, LONG, Asked(wants, NOW, LATE))
            assert channel.caught() is None
            assert channel.ask([], [want("C")], now=NOW, until=LATE)  # it answers while it waits
            assert self.heard(channel.answer_fd, channel.answer).claims == []

            self.open_again(store).put([sealed()])
            caught = self.heard(channel.caught_fd, channel.caught)

            assert caught.wants == wants
            (claim,) = caught.result.claims
            assert (claim.id, claim.token, claim.lapses) == (sealed().id, "A", 0)
            assert math.isclose(claim.until - caught.now, LATE - NOW, abs_tol=1e-4)
            assert store.extend([claim], until=LATE) == {claim.id}
            assert store.commit([(claim, Outcome.complete(b"done"))], now=NOW) == {claim.id}

    def test_a_line_whose_wait_is_over_claims_nothing_where_nothing_is(self, store: Persister) -> None:
        """Whether its timeout has passed or it was roused. It tells when the next run ripens, and can wait again."""
        keys, later = [WorkKey("demo", "foo")], time.time() + DAY
        store.put([sealed(due=later)])
        channel = store.channel("demo")
        if channel is None:
            return
        with closing(channel):
            for timeout in (0.05, 10 * LONG):
                channel.watch(keys, timeout, Asked([want("A")], NOW, LATE))
                caught = self.heard(channel.caught_fd, channel.caught, meanwhile=lambda: store.rouse(keys))
                assert (caught.result.claims, caught.result.next_ripe) == ([], later)
        assert count_states(store) == {"queued": 1}

    def heard(self, fd: int, hear: Callable[[], T | None], meanwhile: Callable[[], object] | None = None) -> T:
        """The answer, as soon as it is complete."""
        end = time.monotonic() + SOON
        while (found := hear()) is None:
            assert time.monotonic() < end, "nothing was heard"
            if not select.select([fd], [], [], 0.1)[0] and meanwhile is not None:
                meanwhile()
        return found

    def test_the_end_of_a_run_can_be_awaited(self, store: Persister) -> None:
        """The record comes when the run ends, whoever ends it, at once if it has ended; None at the timeout if not."""
        store.put([sealed(1)])
        claim = take_one(store)
        store.put([sealed(2)])
        found: list[Record | None] = []

        def waiter() -> None:
            while not found or found[-1] is None:
                found.append(store.await_end(claim.id, LONG))

        thread = threading.Thread(target=waiter, daemon=True)
        thread.start()
        time.sleep(0.05)
        self.open_again(store).commit([(claim, Outcome.complete(b"done"))], now=NOW)
        thread.join(SOON)

        assert not thread.is_alive()
        assert found[-1] == record_of(store, claim.id)
        begun = time.monotonic()
        assert store.await_end(claim.id, LONG) == found[-1]
        assert store.await_end("unknown", LONG) is None
        for patience in (0.05, 0, -1):
            assert store.await_end(sealed(2).id, patience) is None
        assert time.monotonic() - begun < SOON

    def wakes(self, store: Persister, keys: Sequence[Key], change: Callable[[Persister], object]) -> None:
        """Wait on a thread, make the change through another handle, and check that the wait ends."""
        ready, woken = threading.Event(), threading.Event()

        def waiter() -> None:
            store.wait(keys, 0)
            ready.set()
            store.wait(keys, LONG)
            woken.set()

        thread = threading.Thread(target=waiter, daemon=True)
        thread.start()
        try:
            assert ready.wait(SOON)
            change(self.open_again(store))
            assert woken.wait(SOON), f"a wait for {keys} was not woken"
        finally:
            thread.join(LONG + SOON)


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
