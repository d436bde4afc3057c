"""The promises about wait, rouse, channels, and the end of a run that is awaited."""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from skunkqueue.envelope import DAY, Asked, Outcome, Record
from skunkqueue.persistence import (
    Key,
    Persister,
    RunKey,
    WorkerKey,
    WorkKey,
)
from skunkqueue.routes import HIGH, address
from skunkqueue.testing.makers import (
    LATE,
    NOW,
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
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while (found := hear()) is None:
            assert time.monotonic() < end, "nothing was heard"
            if not poll.poll(100) and meanwhile is not None:
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
