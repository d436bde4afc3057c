"""The promises of the desk: cancel, reopen, promote, get, find, count."""

from __future__ import annotations

import threading
import time

from skunkqueue.envelope import DAY, Envelope, Filter, Outcome, Record, State
from skunkqueue.persistence import Persister, WorkKey
from skunkqueue.routes import HIGH, LOW
from skunkqueue.testing.makers import (
    EVERY_BYTE,
    LATE,
    NOW,
    Promises,
    count_states,
    ids_of,
    record_of,
    sealed,
    take,
    take_one,
)


class CancelPromises(Promises):
    """What ``cancel`` promises."""

    def test_a_queued_run_is_cancelled(self, store: Persister) -> None:
        """It ends as cancelled, now, and is kept as its envelope says. No claim gets it any more."""
        store.put([sealed(keep=1e5 / 3)])

        records = store.cancel([sealed().id], now=NOW + 0.2)

        ended = NOW + 0.2
        assert records == [Record(sealed(keep=1e5 / 3), State.CANCELLED, ended + 1e5 / 3, ended=ended)]
        assert store.get([sealed().id]) == {sealed().id: records[0]}
        assert take(store, now=LATE) == []

    def test_a_running_run_is_cancelled_and_its_lease_taken_away(self, store: Persister) -> None:
        """The record has no token any more. It still names the worker, which must be told."""
        store.put([sealed()])
        claim = take_one(store)
        store.commit([(claim, Outcome.started(notes=b"notes")), (claim, Outcome.at(0.5, "half"))], now=NOW)

        (record,) = store.cancel([claim.id], now=NOW)

        assert (record.state, record.token, record.worker) == (State.CANCELLED, None, "worker-1")
        assert (record.notes, record.progress, record.note) == (b"notes", 0.5, "half")
        assert record_of(store, claim.id) == record
        assert store.extend([claim], until=LATE) == set()
        assert take(store, "B", now=LATE) == []

    def test_a_cancelled_run_has_no_error_of_an_attempt(self, store: Persister) -> None:
        """The error of an earlier attempt does not say why the run ended."""
        store.put([sealed()])
        store.commit([(take_one(store), Outcome.again(error="no"))], now=NOW)

        (record,) = store.cancel([sealed().id], now=NOW)

        assert (record.error, record.value, record.worker) == (None, None, None)

    def test_cancel_gives_the_records_it_took_by_id(self, store: Persister) -> None:
        """Ended and unknown runs are left as they are; a run that is named twice counts once."""
        store.put([sealed(n) for n in range(5)])
        first, second = take(store, limit=2)
        store.commit([(first, Outcome.complete(b"value")), (second, Outcome.failed("no"))], now=NOW)
        before = store.get([first.id, second.id])

        records = store.cancel((sealed(n).id for n in (4, 99, 1, 0, 2, 4)), now=NOW)

        assert [record.id for record in records] == [sealed(2).id, sealed(4).id]
        assert store.get([first.id, second.id]) == before
        assert store.cancel([sealed(2).id], now=NOW) == []
        assert store.cancel([], now=NOW) == []


class ReopenPromises(Promises):
    """What ``reopen`` promises."""

    def test_a_failed_run_is_queued_as_if_never_run(self, store: Persister) -> None:
        """Notes, lapses, value, error, progress, worker and token are cleared; it is ripe now."""
        store.put([sealed(due=NOW - 5)])
        take_one(store)
        claim = take_one(store, "B", now=LATE)
        outcomes = [Outcome.at(0.5, "half"), Outcome.failed("no", value=b"why", notes=EVERY_BYTE)]
        store.commit([(claim, outcome) for outcome in outcomes], now=LATE)

        assert store.reopen([claim.id], now=LATE + 0.3) == {claim.id}

        assert record_of(store, claim.id) == Record(claim.envelope, State.QUEUED, LATE + 0.3)
        assert take(store, "C", now=LATE + 0.2) == []
        again = take_one(store, "C", now=LATE + 0.3)
        assert (again.lapses, again.notes) == (0, b"")

    def test_a_cancelled_run_is_queued_again(self, store: Persister) -> None:
        """A cancel can be taken back."""
        store.put([sealed(due=NOW + 100)])
        store.cancel([sealed().id], now=NOW)

        assert store.reopen([sealed().id], now=NOW) == {sealed().id}
        assert record_of(store, sealed().id) == Record(sealed(due=NOW + 100), State.QUEUED, NOW)

    def test_only_runs_that_ended_badly_are_reopened(self, store: Persister) -> None:
        """What is queued, running, succeeded or unknown stays as it is."""
        store.put([sealed(n) for n in range(4)])
        done, _, failed = take(store, limit=3)
        store.commit([(done, Outcome.complete(b"value")), (failed, Outcome.failed("no"))], now=NOW)
        others = [sealed(n).id for n in (0, 1, 3)]
        before = store.get(others)

        assert store.reopen(iter([*others, failed.id, failed.id, sealed(99).id]), now=NOW) == {failed.id}
        assert store.get(others) == before
        assert store.reopen([], now=NOW) == set()

    def test_a_run_is_not_reopened_where_its_unique_key_is_taken(self, store: Persister) -> None:
        """Not while another open run has the key. After that has ended, it can be reopened and holds the key again."""
        store.put([sealed(1, unique="user-7")])
        store.cancel([sealed(1).id], now=NOW)
        store.put([sealed(2, unique="user-7")])

        assert store.reopen([sealed(1).id], now=NOW) == set()
        assert record_of(store, sealed(1).id).state == State.CANCELLED
        store.cancel([sealed(2).id], now=NOW)
        assert store.reopen([sealed(1).id], now=NOW) == {sealed(1).id}
        assert store.put([sealed(3, unique="user-7")]) == [sealed(1).id]

    def test_of_two_with_one_unique_key_one_is_reopened(self, store: Persister) -> None:
        """Even when both are named in one call."""
        for number in (1, 2):
            store.put([sealed(number, unique="user-7")])
            store.cancel([sealed(number).id], now=NOW)

        assert len(store.reopen([sealed(1).id, sealed(2).id], now=NOW)) == 1
        assert count_states(store) == {"queued": 1, "cancelled": 1}

    def test_a_run_is_not_reopened_past_its_expiry(self, store: Persister) -> None:
        """It is reopened before ``expires``, but not from then on."""
        store.put([sealed(expires=NOW + 5.1)])
        store.cancel([sealed().id], now=NOW)

        assert store.reopen([sealed().id], now=NOW + 5.1) == set()
        assert store.reopen([sealed().id], now=NOW + 5) == {sealed().id}

    def test_a_reopened_run_is_not_purged_as_ended(self, store: Persister) -> None:
        """The time until which it was kept no longer applies."""
        store.put([sealed(keep=0.0)])
        store.cancel([sealed().id], now=NOW)
        store.reopen([sealed().id], now=NOW)

        assert store.purge(now=NOW + DAY) == 0
        assert record_of(store, sealed().id).state == State.QUEUED


class PromotePromises(Promises):
    """What ``promote`` promises."""

    def test_a_scheduled_run_is_made_ripe_and_stays_due(self, store: Persister) -> None:
        """It can be claimed at once; the time it was due does not change."""
        store.put([sealed(due=NOW + 100, expires=NOW + 500, unique="user-7")])
        assert take(store) == []

        assert store.promote([sealed().id], now=NOW + 0.3) == {sealed().id}

        envelope = sealed(due=NOW + 100, expires=NOW + 500, unique="user-7")
        assert record_of(store, sealed().id) == Record(envelope, State.QUEUED, NOW + 0.3)
        assert take(store, now=NOW + 0.2) == []
        assert take_one(store, now=NOW + 0.3).envelope == envelope

    def test_a_run_that_waits_for_its_retry_is_made_ripe(self, store: Persister) -> None:
        """Its notes and error are kept: it is the same attempt, only sooner."""
        store.put([sealed(due=NOW - 5)])
        claim = take_one(store)
        store.commit([(claim, Outcome.again(due=NOW + 100, error="no", notes=b"notes"))], now=NOW)
        before = record_of(store, claim.id)

        assert store.promote([claim.id], now=NOW) == {claim.id}

        assert record_of(store, claim.id) == before._replace(ripe=NOW)
        assert take_one(store, "B").notes == b"notes"

    def test_only_what_is_queued_for_later_is_promoted(self, store: Persister) -> None:
        """What is ripe, running, lapsed, ended or unknown stays as it is."""
        store.put([sealed(n, due=NOW - n / 10) for n in range(5)])
        done, failed, _ = take(store, limit=3)
        store.commit([(done, Outcome.complete(b"value")), (failed, Outcome.failed("no"))], now=NOW)
        store.put([sealed(7, due=NOW + 9)])
        store.cancel([sealed(0).id], now=NOW)
        others = [sealed(n).id for n in range(5)]
        before, counted = store.get(others), store.count()

        assert store.promote(iter([*others, sealed(99).id, sealed(7).id, sealed(7).id]), now=NOW) == {sealed(7).id}
        assert (store.get(others), store.count()) == (before, counted)
        assert store.promote(others, now=LATE) == set()
        assert store.promote([], now=NOW) == set()

    def test_a_promoted_run_wakes_a_pool_that_waits(self, store: Persister) -> None:
        """Just as a new run does."""
        store.put([sealed(due=NOW + 100)])
        take(store)  # nothing is ripe, so the pool goes to sleep
        waited: list[float] = []
        begun = threading.Event()

        def wait() -> None:
            store.wait([WorkKey("demo", "foo")], 0.2)  # the put above may end this wait, but not the next
            begun.set()
            start = time.monotonic()
            store.wait([WorkKey("demo", "foo")], 30.0)
            waited.append(time.monotonic() - start)

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        begun.wait(10.0)
        time.sleep(0.1)  # so that it most likely waits; the test also passes if not

        self.open_again(store).promote([sealed().id], now=NOW)

        waiter.join(10.0)
        assert not waiter.is_alive()


class GetPromises(Promises):
    """What ``get`` and ``find`` promise."""

    def test_get_gives_the_records_there_are(self, store: Persister) -> None:
        """Unknown ids are left out; any iterable will do."""
        store.put([sealed(1), sealed(2)])

        assert set(store.get(sealed(n).id for n in (1, 2, 3))) == {sealed(1).id, sealed(2).id}
        assert store.get([]) == {}
        assert store.get([sealed(3).id]) == {}

    def test_another_handle_sees_the_same(self, store: Persister) -> None:
        """One handle puts, another claims, and a third reads the same run."""
        store.put([sealed(1)])
        claim = take_one(self.open_again(store))
        store.commit([(claim, Outcome.complete(EVERY_BYTE))], now=NOW)

        record = record_of(self.open_again(store), claim.id)
        assert (record.state, record.value) == (State.SUCCEEDED, EVERY_BYTE)

    def test_find_gives_the_newest_first_page_by_page(self, store: Persister) -> None:
        """The page after a record begins right after it, even if newer runs came meanwhile."""
        store.put([sealed(n) for n in range(7)])

        first = store.find(Filter(), now=NOW, limit=3)
        store.put([sealed(n) for n in (7, 8)])
        second = store.find(Filter(), now=NOW, after=first[-1].id, limit=3)
        third = store.find(Filter(), now=NOW, after=second[-1].id, limit=3)

        assert [record.id for record in first] == [sealed(n).id for n in (6, 5, 4)]
        assert [record.id for record in second] == [sealed(n).id for n in (3, 2, 1)]
        assert [record.id for record in third] == [sealed(0).id]
        assert store.find(Filter(), now=NOW, after=third[-1].id) == []

    def test_a_page_may_begin_after_an_id_that_is_gone(self, store: Persister) -> None:
        """``after`` is a place in the order, whether or not a run has that id."""
        store.put([sealed(1), sealed(3)])

        assert [record.id for record in store.find(Filter(), now=NOW, after=sealed(2).id)] == [sealed(1).id]

    def test_find_gives_what_get_gives(self, store: Persister) -> None:
        """Whole records."""
        store.put([sealed(body=EVERY_BYTE)])
        claim = take_one(store)
        store.commit([(claim, Outcome.at(0.1, "note")), (claim, Outcome.failed("no", value=EVERY_BYTE))], now=NOW)

        assert store.find(Filter(), now=NOW) == list(store.get([claim.id]).values())

    def test_find_filters_by_queue_and_route(self, store: Persister) -> None:
        """A route includes its sub-routes, but no other route with a similar name."""
        places = [
            *(("demo", route) for route in ("foo", "foo" + HIGH, "foo" + LOW, "food", "Foo", "foo.bar", "fo_", "@foo")),
            *(("other", "foo"), ("demo:foo", "foo"), ("Demo", "foo")),
        ]
        store.put([sealed(n, queue=queue, route=route) for n, (queue, route) in enumerate(places)])

        def found(**which: str) -> list[tuple[str, str]]:
            return sorted((r.envelope.queue, r.envelope.route) for r in store.find(Filter(**which), now=NOW))  # type: ignore[arg-type]

        assert found(queue="demo") == sorted(place for place in places if place[0] == "demo")
        assert found(queue="demo", route="foo") == [("demo", "foo"), ("demo", "foo" + HIGH), ("demo", "foo" + LOW)]
        assert found(route="fo_") == [("demo", "fo_")]
        assert found(route="@foo") == [("demo", "@foo")]
        assert found(route="foo", queue="other") == [("other", "foo")]
        assert len(found(route="foo")) == 6
        assert found(queue="dem") == found(route="fo") == []

    def test_find_filters_by_the_state_that_people_see(self, store: Persister) -> None:
        """``scheduled`` finds runs that are queued for later, ``queued`` all that are queued."""
        store.put([sealed(n) for n in range(5)])
        store.put([sealed(5, due=NOW + 5.1)])
        running, done, failed, back = take(store, limit=4)
        outcomes = [Outcome.complete(b""), Outcome.failed("no"), Outcome.again(due=NOW + 5)]
        store.commit(list(zip((done, failed, back), outcomes, strict=True)), now=NOW)
        store.put([sealed(6)])
        store.cancel([sealed(6).id], now=NOW)

        def found(state: State, now: float = NOW) -> list[str]:
            return [record.id for record in store.find(Filter(state=state), now=now)]

        assert found(State.SCHEDULED) == [sealed(5).id, back.id]
        assert found(State.SCHEDULED, NOW + 5) == [sealed(5).id]
        assert found(State.SCHEDULED, NOW + 5.1) == []
        assert found(State.QUEUED) == [sealed(5).id, sealed(4).id, back.id]
        assert found(State.RUNNING) == [running.id]
        assert found(State.SUCCEEDED) == [done.id]
        assert found(State.FAILED) == [failed.id]
        assert found(State.CANCELLED) == [sealed(6).id]

    def test_find_is_right_among_very_many_routes(self, store: Persister) -> None:
        """As a limit of many keys makes them. Whichever way it is looked for, the answer is the same."""
        many = [sealed(n, route=f"foo^.{n}", due=NOW + 5 * (n % 2)) for n in range(1200)]
        few = [sealed(n, route="bar", due=NOW + 5 * (n % 2)) for n in range(2000, 2006)]
        for start in range(0, len(many), 200):
            store.put(many[start : start + 200])
        store.put([*few, sealed(3000, queue="other")])
        now = NOW + 1
        claims = take(store, "A", "bar", "foo^.0", "foo^.2", "foo^.4", now=now)
        store.commit([(claim, Outcome.failed("no")) for claim in claims[:-1]], now=now)
        states = {claim.id: State.FAILED for claim in claims[:-1]} | {claims[-1].id: State.RUNNING}

        for route, of_it in (("foo", many), ("bar", few), (None, [*many, *few]), ("baz", [])):
            for state in (None, State.SCHEDULED, State.QUEUED, State.RUNNING, State.FAILED, State.SUCCEEDED):
                wanted = [e.id for e in of_it if _shows(state, states.get(e.id, State.QUEUED), e, now)]
                found = [r.id for r in store.find(Filter("demo", route, state), now=now, limit=30)]
                assert found == sorted(wanted, reverse=True)[:30], (route, state)

    def test_find_pages_through_a_filter(self, store: Persister) -> None:
        """``after`` and ``limit`` apply to the runs that the filter lets through."""
        store.put([sealed(n, route="foo" if n % 10 == 0 else "bar") for n in range(60)])
        pages, after = [], None

        while page := store.find(Filter("demo", "foo", State.QUEUED), now=NOW, after=after, limit=4):
            pages.append([record.id for record in page])
            after = page[-1].id

        assert pages == [[sealed(n).id for n in (50, 40, 30, 20)], [sealed(n).id for n in (10, 0)]]


class CountPromises(Promises):
    """What ``count`` promises."""

    def test_count_counts_by_queue_route_and_stored_state(self, store: Persister) -> None:
        """Sub-routes are counted by themselves, scheduled runs as queued, and zeros are left out."""
        store.put([sealed(1), sealed(2), sealed(3, due=NOW + 99), sealed(4, route="foo" + HIGH), sealed(5, queue="b")])
        take(store, limit=1)

        assert store.count() == {
            ("demo", "foo", "queued"): 2,
            ("demo", "foo", "running"): 1,
            ("demo", "foo" + HIGH, "queued"): 1,
            ("b", "foo", "queued"): 1,
        }

    def test_count_keeps_places_apart_that_look_alike_when_joined(self, store: Persister) -> None:
        """A name may contain the character with which a store joins names."""
        places = [("a", "b:c"), ("a:b", "c"), ("a.b", "c"), ("a-b", "c"), ("a_b", "c")]
        store.put([sealed(n, queue=queue, route=route) for n, (queue, route) in enumerate(places)])

        assert store.count() == {(queue, route, "queued"): 1 for queue, route in places}

    def test_count_is_right_after_every_change(self, store: Persister) -> None:
        """After put, claim, lapse, each outcome, cancel, reopen and purge, repeated and refused ones included."""
        store.put([sealed(n, keep=100.0) for n in range(6)] * 2)
        assert count_states(store) == {"queued": 6}
        late = take(store)
        assert count_states(store) == {"running": 6}
        claims = take(store, "B", now=LATE)
        assert count_states(store) == {"running": 6}
        outcomes = [
            Outcome.complete(b""), Outcome.failed("no"), Outcome.again(), Outcome.untouched(), Outcome.started(),
            Outcome.at(0.5),
        ]  # fmt: skip
        for _ in range(2):
            store.commit(list(zip(claims, outcomes, strict=True)), now=LATE)
            store.commit([(claim, Outcome.complete(b"")) for claim in late], now=LATE)
            assert count_states(store) == {"succeeded": 1, "failed": 1, "queued": 2, "running": 2}
        for _ in range(2):
            store.cancel(ids_of(claims[3:5]), now=LATE)
            assert count_states(store) == {"succeeded": 1, "failed": 1, "queued": 1, "running": 1, "cancelled": 2}
        for _ in range(2):
            store.reopen(ids_of(claims), now=LATE)
            assert count_states(store) == {"succeeded": 1, "queued": 4, "running": 1}
        store.purge(now=LATE + 100)
        assert count_states(store) == {"queued": 4, "running": 1}
        store.cancel(ids_of(claims), now=LATE)
        store.purge(now=LATE + 100)
        assert store.count() == {}

    def test_count_follows_what_expires(self, store: Persister) -> None:
        """Whether a claim or a purge ended the run."""
        store.put([sealed(n, expires=NOW + n) for n in (1, 2)])
        take(store, now=NOW + 1, limit=1)
        assert count_states(store) == {"cancelled": 1, "running": 1}

        store.purge(now=LATE + 2)

        assert count_states(store) == {"cancelled": 2}

    def test_the_same_place_is_counted_once(self, store: Persister) -> None:
        """There is one number for all runs of a place, however they came there."""
        batch: list[Envelope] = [sealed(n, unique=str(n % 2)) for n in range(4)]
        store.put(batch)
        for envelope in batch:
            store.put([envelope])

        assert store.count() == {("demo", "foo", "queued"): 2}


def _shows(asked: State | None, state: State, envelope: Envelope, now: float) -> bool:
    """Whether a run in this stored state shows where one is asked for."""
    if asked is State.SCHEDULED:
        return state is State.QUEUED and envelope.due > now
    return asked in (None, state)
