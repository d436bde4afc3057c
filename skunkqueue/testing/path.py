"""The promises of the path of a job: put, claim, extend. Commit and exchange are in ``outcomes``."""

from __future__ import annotations

from typing import Final

from skunkqueue.envelope import DAY, HIGH, LOW, Claim, Envelope, Filter, Outcome, Record, State
from skunkqueue.persistence import EXPIRED, REMEMBERED, Persister
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


def _queued(store: Persister, envelope: Envelope) -> str:
    return store.put([envelope])[0]


def _scheduled(store: Persister, envelope: Envelope) -> str:
    return store.put([envelope._replace(due=NOW + 1000)])[0]


def _claimed(store: Persister, envelope: Envelope) -> Claim:
    """Claimed on a route of its own, so that no other run is claimed."""
    store.put([envelope._replace(route="own")])
    (claim,) = store.claim([want(f"token {envelope.id}", "own")], now=NOW, until=LATE)
    return claim


def _running(store: Persister, envelope: Envelope) -> str:
    return _claimed(store, envelope).id


def _lapsed(store: Persister, envelope: Envelope) -> str:
    claim = _claimed(store, envelope)
    store.claim([want(f"again {claim.id}", "own")], now=LATE + 1, until=LATE + 2)
    return claim.id


def _succeeded(store: Persister, envelope: Envelope) -> str:
    claim = _claimed(store, envelope)
    store.commit([(claim, Outcome.complete(b"value"))], now=NOW)
    return claim.id


def _failed(store: Persister, envelope: Envelope) -> str:
    claim = _claimed(store, envelope)
    store.commit([(claim, Outcome.failed("no"))], now=NOW)
    return claim.id


def _retrying(store: Persister, envelope: Envelope) -> str:
    claim = _claimed(store, envelope)
    store.commit([(claim, Outcome.again(due=NOW + 1000, error="no", notes=b"notes"))], now=NOW)
    return claim.id


def _cancelled(store: Persister, envelope: Envelope) -> str:
    store.put([envelope])
    store.cancel([envelope.id], now=NOW)
    return envelope.id


STATES_OF_A_RUN: Final = (
    _queued, _scheduled, _retrying, _running, _lapsed, _succeeded, _failed, _cancelled
)  # fmt: skip
"""Functions that bring a run into each of its states."""


def _others(first: Envelope) -> list[Envelope]:
    """Second envelopes of the same id, with something changed in each but the first."""
    return [
        first,
        first._replace(body=b"other"),
        first._replace(route="bar"),
        first._replace(due=NOW + 77),
        first._replace(keep=1.5),
        first._replace(expires=NOW - 0.5),
        first._replace(unique="free"),
        first._replace(unique="taken", route="bar"),
        first._replace(route="bar", due=NOW + 77, body=b"x" * 2000, expires=NOW + 9, unique="free"),
    ]


def _without_third(counts: dict[tuple[str, str, str], int]) -> dict[tuple[str, str, str], int]:
    """The counts without those of runs queued on foo: the test puts another run there."""
    return {key: n for key, n in counts.items() if key != ("demo", "foo", "queued")}


class PutPromises(Promises):
    """What ``put`` promises."""

    def test_a_run_is_stored_as_it_was_sealed(self, store: Persister) -> None:
        """Every field of an envelope comes back as it went, and the run is queued, ripe when due."""
        envelope = sealed(due=NOW + 0.2, body=EVERY_BYTE, expires=NOW + 1 / 3, unique=UNICODE, keep=1e5 / 3)

        ids = store.put([envelope])

        assert ids == [envelope.id]
        assert record_of(store, envelope.id) == Record(envelope, State.QUEUED, NOW + 0.2)

    def test_putting_twice_is_putting_once(self, store: Persister) -> None:
        """A retried call is harmless, in one batch or in two, from one handle or from two."""
        first = store.put([sealed(1), sealed(1)])
        again = self.open_again(store).put([sealed(1)])

        assert (first, again) == ([sealed(1).id] * 2, [sealed(1).id])
        assert count_states(store) == {"queued": 1}

    def test_putting_a_running_or_ended_run_again_changes_nothing(self, store: Persister) -> None:
        """The id is remembered from the first put until the run is purged."""
        store.put([sealed(1), sealed(2)])
        claims = take(store)
        store.commit([(claims[1], Outcome.complete(b"value"))], now=NOW)
        before = store.get([sealed(1).id, sealed(2).id])

        ids = store.put([sealed(1), sealed(2)])

        assert ids == [sealed(1).id, sealed(2).id]
        assert store.get(ids) == before

    def test_the_first_envelope_of_an_id_stands(self, store: Persister) -> None:
        """Whatever a second one says (body, route, due, unique key, expiry), in every state of the run."""
        first = sealed(1, due=NOW - 1)
        store.put([sealed(2, unique="taken", route="bar")])
        for bring in STATES_OF_A_RUN:
            id = bring(store, first)
            for second in _others(first):
                before, counted = store.get([id]), store.count()

                assert store.put([second]) == [id]
                assert store.put([second, sealed(3, due=NOW + 500), second]) == [id, sealed(3).id, id]

                assert store.get([id]) == before
                assert _without_third(store.count()) == _without_third(counted)
            first = first._replace(id=sealed(int(first.id[-2:], 16) + 10).id)

    def test_of_two_envelopes_of_one_id_in_a_batch_the_first_is_stored(self, store: Persister) -> None:
        """Whatever the second one says."""
        for n, second in enumerate(_others(sealed(1))):
            for batch in ([sealed(1), second], [second, sealed(1)]):
                number = 10 * n + 20 + (batch[0] is second)
                pair = [
                    envelope._replace(id=sealed(number).id, unique=envelope.unique and str(n)) for envelope in batch
                ]

                assert store.put(pair) == [sealed(number).id] * 2
                assert record_of(store, sealed(number).id) == Record(pair[0], State.QUEUED, pair[0].due)
                store.cancel([sealed(number).id], now=NOW)

    def test_a_run_whose_id_is_put_on_another_route_is_executed_once(self, store: Persister) -> None:
        """It is claimed from its first route only, and ends for good."""
        store.put([sealed(route="foo")])
        store.put([sealed(route="bar")])
        (claim,) = take(store, "A", "foo", "bar")
        store.put([sealed(route="bar", body=b"other")])
        assert store.commit([(claim, Outcome.complete(b"value"))], now=NOW) == {claim.id}
        store.put([sealed(route="bar", body=b"other")])

        assert (claim.envelope, take(store, "B", "foo", "bar", now=LATE)) == (sealed(route="foo"), [])
        assert store.count() == {("demo", "foo", "succeeded"): 1}

    def test_an_id_put_into_another_queue_leaves_the_first_run_as_it_is(self, store: Persister) -> None:
        """If the store keeps queues apart, it may be a new run there. In the first queue, nothing changes."""
        store.put([sealed(due=NOW - 1)])
        claim = take_one(store)
        before = store.find(Filter("demo"), now=NOW)

        assert store.put([sealed(queue="other", body=b"other")]) == [claim.id]

        assert store.find(Filter("demo"), now=NOW) == before
        assert store.commit([(claim, Outcome.complete(b"value"))], now=NOW) == {claim.id}
        assert store.find(Filter("demo"), now=NOW)[0].value == b"value"

    def test_a_batch_gives_its_ids_in_order(self, store: Persister) -> None:
        """Ids come back in the order of the envelopes, whatever their order in time."""
        batch = [sealed(n) for n in (3, 1, 2)]

        assert store.put(batch) == ids_of(batch)

    def test_nothing_is_put_by_an_empty_batch(self, store: Persister) -> None:
        """A batch may be empty."""
        assert store.put([]) == []
        assert store.count() == {}

    def test_a_batch_of_thousands_is_one_call(self, store: Persister) -> None:
        """Put, claim, extend, commit and get take thousands in one call."""
        batch = [sealed(n) for n in range(3000)]

        assert store.put(batch) == ids_of(batch)
        claims = take(store, limit=3000)
        assert ids_of(claims) == ids_of(batch)
        assert store.extend(claims, until=LATE) == set(ids_of(batch))
        assert len(store.commit([(c, Outcome.complete(b"")) for c in claims], now=NOW)) == 3000
        assert len(store.get(ids_of(batch))) == 3000
        assert count_states(store) == {"succeeded": 3000}

    def test_a_megabyte_travels_whole(self, store: Persister) -> None:
        """Body and value may be as large as ``max_payload``."""
        large = EVERY_BYTE * 4033
        store.put([sealed(body=large)])
        claim = take_one(store)
        store.commit([(claim, Outcome.complete(large[::-1]))], now=NOW)

        assert claim.envelope.body == large
        assert record_of(store, claim.id).value == large[::-1]

    def test_a_unique_key_that_meets_an_open_run_gives_that_run(self, store: Persister) -> None:
        """While a run with the key is queued or running, putting another gives its id and stores nothing."""
        store.put([sealed(1, unique="user-7")])

        queued = store.put([sealed(2, unique="user-7")])
        take_one(store)
        running = store.put([sealed(3, unique="user-7")])

        assert queued == running == [sealed(1).id]
        assert count_states(store) == {"running": 1}

    def test_of_two_with_one_unique_key_in_a_batch_the_first_is_stored(self, store: Persister) -> None:
        """Both get the id of the first of the batch."""
        ids = store.put([sealed(2, unique="user-7"), sealed(1, unique="user-7")])

        assert ids == [sealed(2).id] * 2
        assert count_states(store) == {"queued": 1}

    def test_a_unique_run_put_again_meets_itself(self, store: Persister) -> None:
        """A retried put of a unique run gives its own id."""
        store.put([sealed(1, unique="user-7")])

        assert store.put([sealed(1, unique="user-7")]) == [sealed(1).id]

    def test_a_unique_key_holds_for_its_queue_and_route_only(self, store: Persister) -> None:
        """Names that look alike when joined are different nevertheless."""
        places = [("demo", "foo"), ("demo", "foo" + HIGH), ("demo", "bar"), ("demo:b", "c"), ("demo", "b:c")]
        batch = [sealed(n, queue=queue, route=route, unique="c:d") for n, (queue, route) in enumerate(places)]

        assert store.put(batch) == ids_of(batch)

    def test_unique_keys_are_told_apart_to_the_last_character(self, store: Persister) -> None:
        """Keys that differ only by case, accents, a NUL or trailing blanks are different."""
        keys = ["k", "K", "k ", "k\x00", "k\x00a", "ḱ", "", UNICODE]
        batch = [sealed(n, unique=key) for n, key in enumerate(keys)]

        assert store.put(batch) == ids_of(batch)
        assert store.put([sealed(100 + n, unique=key) for n, key in enumerate(keys)]) == ids_of(batch)

    def test_a_unique_key_is_released_by_each_ending(self, store: Persister) -> None:
        """Completing, failing, cancelling and expiring each free the key at once."""
        for number, end in enumerate((_complete, _fail, _cancel, _expire_at_claim, _expire_by_purge)):
            envelope = sealed(2 * number, unique="user-7", expires=NOW + 60)
            store.put([envelope])
            end(store, envelope.id)
            assert not record_of(store, envelope.id).open

            assert store.put([sealed(2 * number + 1, unique="user-7")]) == [sealed(2 * number + 1).id]
            store.cancel([sealed(2 * number + 1).id], now=NOW)

    def test_a_unique_key_is_kept_while_a_run_goes_back(self, store: Persister) -> None:
        """A run that is to run again, or was untouched, is open: it keeps its key."""
        store.put([sealed(1, unique="user-7")])
        for token, outcome in (("A", Outcome.again(due=NOW)), ("B", Outcome.untouched())):
            store.commit([(take_one(store, token), outcome)], now=NOW)

            assert store.put([sealed(2, unique="user-7")]) == [sealed(1).id]


class ClaimPromises(Promises):
    """What ``claim`` promises."""

    def test_a_claim_carries_the_run_and_its_lease(self, store: Persister) -> None:
        """A claim names envelope, token, worker and the end of its lease, and the record says the same."""
        store.put([sealed(body=EVERY_BYTE)])

        (claim,) = store.claim([want("A", worker="worker-9")], now=NOW, until=NOW + 0.7)

        assert claim == (sealed(body=EVERY_BYTE), "A", "worker-9", NOW + 0.7, 0, b"")
        assert record_of(store, claim.id) == Record(claim.envelope, State.RUNNING, NOW + 0.7, "A", "worker-9")

    def test_a_route_of_ours_is_a_route(self, store: Persister) -> None:
        """What lies on a route with ``~`` in its name is claimed, given back and found there, and on no other."""
        store.put([sealed(route="foo~ticks"), sealed(2)])

        for under in ("A", "B"):
            (claim,) = take(store, under, "foo~ticks")
            assert claim.envelope == sealed(route="foo~ticks")
            assert store.commit([(claim, Outcome.again(due=NOW, notes=b"n"))], now=NOW)

        assert [r.id for r in store.find(Filter(route="foo~ticks"), now=NOW)] == [claim.id]
        assert [r.id for r in store.find(Filter(route="foo"), now=NOW)] == [sealed(2).id]

    def test_a_claim_takes_nothing_from_nothing(self, store: Persister) -> None:
        """If nothing is wanted, or nothing is there, the list is empty."""
        assert take(store) == []
        store.put([sealed()])
        assert store.claim([], now=NOW, until=LATE) == []
        assert take(store, limit=0) == []

    def test_a_run_is_not_claimed_before_it_is_due(self, store: Persister) -> None:
        """It can be claimed exactly from its due time on."""
        store.put([sealed(due=NOW + 10.1)])

        assert take(store, now=NOW + 10) == []
        assert len(take(store, now=NOW + 10.1)) == 1

    def test_claims_come_in_the_order_of_ripe_and_id(self, store: Persister) -> None:
        """The earliest first, and of the same time the smaller id first, in whatever order they were put."""
        batch = [sealed(4, due=NOW), sealed(3, due=NOW - 0.1), sealed(1, due=NOW), sealed(2, due=NOW - 1e-6)]
        store.put(batch)

        assert ids_of(take(store)) == [sealed(n).id for n in (3, 2, 1, 4)]

    def test_runs_of_one_due_come_in_the_order_they_were_fired(self, store: Persister) -> None:
        """However they are put and claimed: one or many at a time, at once or later, with unique keys and expiries."""
        dues = (NOW, NOW + 10.1)
        fired = [
            sealed(n, due=due, unique=f"key-{n}" if n % 5 == 3 else None, expires=NOW + 900 if n % 7 == 2 else None)
            for n, due in enumerate(due for _ in range(60) for due in dues)
        ]
        at = 0
        for size in (1, 2, 1, 9, 40, 1, 3, 63):
            store.put(fired[at : at + size])
            at += size

        claims = [claim for n, limit in enumerate((1, 2, 1, 9, 100)) for claim in take(store, f"A{n}", limit=limit)]
        later = [
            claim for n, limit in enumerate((3, 1, 100)) for claim in take(store, f"B{n}", now=NOW + 10.1, limit=limit)
        ]

        assert ids_of(claims) == [each.id for each in fired if each.due == NOW]
        assert ids_of(later) == [each.id for each in fired if each.due == NOW + 10.1]

    def test_what_goes_back_of_one_due_comes_again_in_the_order_it_was_fired(self, store: Persister) -> None:
        """Untouched, to run again at one time, or lapsed: such runs keep the order in which they were fired."""
        store.put([sealed(n) for n in range(30)])
        claims = take(store, limit=30)
        shuffled = [*claims[::3], *claims[1::3], *claims[2::3]]

        store.commit([(claim, Outcome.again(due=NOW + 5)) for claim in shuffled], now=NOW)
        again = take(store, "B", now=NOW + 5, limit=30)
        store.commit([(claim, Outcome.untouched()) for claim in again[::-1]], now=NOW + 5)
        untouched = take(store, "C", now=NOW + 5, limit=30)
        lapsed = take(store, "D", now=LATE + 10, limit=30)

        assert ids_of(again) == ids_of(untouched) == ids_of(lapsed) == ids_of(claims)

    def test_routes_are_served_in_the_order_listed(self, store: Persister) -> None:
        """A later run of an earlier route goes first: this is how priorities work."""
        store.put(
            [
                sealed(1, route="foo" + LOW, due=NOW - 9),
                sealed(2, due=NOW - 5),
                sealed(3, route="bar", due=NOW - 99),
                sealed(4, route="foo" + HIGH),
            ]
        )

        claims = take(store, "A", "foo" + HIGH, "foo", "foo" + LOW, "bar")

        assert ids_of(claims) == [sealed(n).id for n in (4, 2, 1, 3)]

    def test_only_the_routes_wanted_of_the_queue_wanted_are_given(self, store: Persister) -> None:
        """A route is matched whole: neither a prefix, nor a sub-route, nor another case, nor a wildcard fits."""
        others = ["fo", "food", "foo.bar", "foo:bar", "Foo", "fo_", "foo" + HIGH, "@foo"]
        store.put([sealed(n, route=route) for n, route in enumerate(others)])
        store.put([sealed(90, queue="demo2"), sealed(91, queue="Demo"), sealed(92, queue="demo:foo", route="foo")])

        assert take(store) == []
        assert ids_of(take(store, "B", "fo_")) == [sealed(5).id]

    def test_no_more_than_the_limit_is_given(self, store: Persister) -> None:
        """The limit is for all routes of a want together; the rest stays queued."""
        store.put([sealed(n, route="foo" if n < 2 else "bar") for n in range(6)])

        claims = take(store, "A", "foo", "bar", limit=3)

        assert ids_of(claims) == [sealed(n).id for n in range(3)]
        assert count_states(store) == {"running": 3, "queued": 3}

    def test_wants_are_filled_one_after_the_other(self, store: Persister) -> None:
        """The first want takes first; each claim has the token and the worker of its own want."""
        store.put([sealed(n) for n in range(5)])
        wants = [want("A", limit=2, worker="w1"), want("B", limit=1, worker="w2"), want("C", limit=9, worker="w3")]

        claims = store.claim(wants, now=NOW, until=LATE)

        assert ids_of(claims) == [sealed(n).id for n in range(5)]
        assert [claim.token for claim in claims] == ["A", "A", "B", "C", "C"]
        assert [claim.worker for claim in claims] == ["w1", "w1", "w2", "w3", "w3"]

    def test_wants_may_be_of_several_queues(self, store: Persister) -> None:
        """One call serves them all."""
        store.put([sealed(1, queue="one"), sealed(2, queue="two")])
        wants = [want("A", queue="two"), want("B", queue="one")]

        assert ids_of(store.claim(wants, now=NOW, until=LATE)) == [sealed(2).id, sealed(1).id]

    def test_a_leased_run_is_not_given_to_another(self, store: Persister) -> None:
        """Not until the very end of its lease."""
        store.put([sealed()])
        take_one(store)

        assert take(store, "B", now=NOW + LEASE - 0.1) == []
        assert len(take(store, "B", now=NOW + LEASE)) == 1

    def test_a_run_whose_lease_ended_counts_a_lapse(self, store: Persister) -> None:
        """Each claim of a run that was still running counts one more. Its place is by the end of its lease."""
        store.put([sealed(1), sealed(2, due=NOW + LEASE - 1), sealed(3, due=NOW + LEASE + 0.1)])
        take(store, limit=1)

        claims = take(store, "B", now=LATE)
        later = take(store, "C", now=LATE + LEASE, limit=1)

        assert [(claim.id, claim.lapses) for claim in claims] == [(sealed(n).id, int(n == 1)) for n in (2, 1, 3)]
        assert [(claim.id, claim.lapses) for claim in later] == [(sealed(1).id, 2)]
        assert record_of(store, sealed(1).id).lapses == 2

    def test_a_run_handed_back_counts_no_lapse(self, store: Persister) -> None:
        """No worker vanished: the run was untouched, or is to run again."""
        store.put([sealed()])
        for token, outcome in (("A", Outcome.untouched()), ("B", Outcome.again(due=NOW))):
            store.commit([(take_one(store, token), outcome)], now=NOW)

        assert take_one(store, "C", now=LATE).lapses == 0

    def test_a_lapse_keeps_the_notes(self, store: Persister) -> None:
        """The next holder gets the notes that were written before the last one vanished."""
        store.put([sealed()])
        store.commit([(take_one(store), Outcome.started(notes=EVERY_BYTE))], now=NOW)

        claim = take_one(store, "B", now=LATE)

        assert (claim.lapses, claim.notes) == (1, EVERY_BYTE)

    def test_an_expired_run_is_not_given_but_ends_cancelled(self, store: Persister) -> None:
        """From ``expires`` on, it ends as cancelled with the error "expired", and does not count towards the limit."""
        store.put([sealed(1, expires=NOW + 5), sealed(2, expires=NOW + 5.1), sealed(3)])

        claims = take(store, now=NOW + 5, limit=2)

        assert ids_of(claims) == [sealed(2).id, sealed(3).id]
        kept = NOW + 5 + DAY
        wanted = Record(sealed(1, expires=NOW + 5), State.CANCELLED, kept, error=EXPIRED, ended=NOW + 5)
        assert record_of(store, sealed(1).id) == wanted

    def test_an_expired_run_whose_holder_vanished_ends_too(self, store: Persister) -> None:
        """Its token is cleared: if the holder comes back late, it can no longer write."""
        store.put([sealed(expires=NOW + 5)])
        claim = take_one(store)

        assert take(store, "B", now=NOW + 6) == []
        assert record_of(store, claim.id).state == State.RUNNING
        assert take(store, "B", now=LATE) == []
        assert record_of(store, claim.id).error == EXPIRED
        assert record_of(store, claim.id).token is None
        assert store.commit([(claim, Outcome.complete(b""))], now=LATE) == set()

    def test_a_repeated_want_gets_first_what_its_token_holds(self, store: Persister) -> None:
        """After a lost reply, no run waits for its lease to end: the same claims come, then more up to the limit."""
        store.put([sealed(1), sealed(2)])
        lost = take(store, limit=3)
        store.put([sealed(3, due=NOW - 50), sealed(4)])

        claims = store.claim([want("A", limit=3, repeated=True)], now=NOW + 1, until=NOW + 1 + LEASE)

        assert set(ids_of(claims[:2])) == set(ids_of(lost))
        assert ids_of(claims[2:]) == [sealed(3).id]
        assert {(claim.token, claim.until, claim.lapses) for claim in claims} == {("A", NOW + 1 + LEASE, 0)}

    def test_a_repeated_want_gives_nothing_that_another_took(self, store: Persister) -> None:
        """Runs that its token lost meanwhile, to a claim, a cancel or an outcome, are not given back."""
        store.put([sealed(n) for n in range(4)])
        claims = take(store)
        store.cancel([claims[0].id], now=NOW)
        store.commit([(claims[1], Outcome.complete(b"")), (claims[2], Outcome.again(due=LATE))], now=NOW)
        take(store, "B", now=NOW + LEASE, limit=1)

        assert store.claim([want("A", repeated=True)], now=NOW + LEASE, until=LATE) == []

    def test_a_repeated_want_gives_no_run_twice(self, store: Persister) -> None:
        """Not even if the lease ended before it was repeated: the run is leased anew, with no lapse."""
        store.put([sealed(1), sealed(2)])
        take(store)

        claims = store.claim([want("A", repeated=True)], now=LATE, until=LATE + LEASE)

        assert sorted(ids_of(claims)) == [sealed(1).id, sealed(2).id]
        assert [(claim.until, claim.lapses) for claim in claims] == [(LATE + LEASE, 0)] * 2
        assert record_of(store, sealed(1).id).ripe == LATE + LEASE

    def test_a_repeated_want_that_never_arrived_is_a_want(self, store: Persister) -> None:
        """If its token holds nothing, it is filled like any other."""
        store.put([sealed()])

        assert len(store.claim([want("A", repeated=True)], now=NOW, until=LATE)) == 1


class ExtendPromises(Promises):
    """What ``extend`` promises."""

    def test_extending_lengthens_a_lease(self, store: Persister) -> None:
        """Until its new end nobody else gets the run."""
        store.put([sealed()])
        claim = take_one(store)

        assert store.extend([claim], until=LATE + 0.3) == {claim.id}
        assert record_of(store, claim.id).ripe == LATE + 0.3
        assert take(store, "B", now=LATE + 0.2) == []
        assert len(take(store, "B", now=LATE + 0.3)) == 1

    def test_extending_never_shortens_a_lease(self, store: Persister) -> None:
        """An earlier extension that arrives late does no harm; the claim is still held."""
        store.put([sealed()])
        claim = take_one(store)

        assert store.extend([claim], until=NOW + 1) == {claim.id}
        assert record_of(store, claim.id).ripe == NOW + LEASE

    def test_extending_revives_a_lease_that_nobody_took(self, store: Persister) -> None:
        """A lease is lost when another claim takes the run, not by time passing; no lapse is counted."""
        store.put([sealed()])
        claim = take_one(store)

        assert store.extend([claim], until=LATE + LEASE) == {claim.id}
        assert take(store, "B", now=LATE) == []
        assert record_of(store, claim.id).lapses == 0

    def test_extending_tells_which_claims_are_lost(self, store: Persister) -> None:
        """Claims that another claim or a cancel took, that ended or went back, and claims that never existed."""
        store.put([sealed(n) for n in range(6)])
        claims = take(store)
        store.cancel([claims[0].id], now=NOW)
        outcomes = [Outcome.complete(b""), Outcome.failed("no"), Outcome.untouched()]
        store.commit([(c, o) for c, o in zip(claims[1:4], outcomes, strict=True)], now=NOW)
        store.extend([claims[5]], until=LATE + 100)
        taken = take(store, "B", now=LATE)
        before = store.get(ids_of(claims))

        held = store.extend([*claims, claims[5]._replace(token="C")], until=LATE + 50)  # noqa: S106

        assert {claim.id for claim in taken} == {claims[3].id, claims[4].id}
        assert held == {claims[5].id}
        assert store.get(ids_of(claims)) == before
        assert store.extend([], until=LATE) == set()

    def test_another_token_extends_nothing(self, store: Persister) -> None:
        """A claim is identified by id and token, never by the id alone."""
        store.put([sealed()])
        claim = take_one(store)

        assert store.extend([claim._replace(token="B")], until=LATE) == set()  # noqa: S106
        assert record_of(store, claim.id).ripe == NOW + LEASE


def _complete(store: Persister, id: str) -> None:
    store.commit([(take_one(store), Outcome.complete(b""))], now=NOW)


def _fail(store: Persister, id: str) -> None:
    store.commit([(take_one(store), Outcome.failed("no"))], now=NOW)


def _cancel(store: Persister, id: str) -> None:
    store.cancel([id], now=NOW)


def _expire_at_claim(store: Persister, id: str) -> None:
    assert take(store, now=NOW + 60) == []


def _expire_by_purge(store: Persister, id: str) -> None:
    store.purge(now=NOW + 60 + REMEMBERED / 2)
