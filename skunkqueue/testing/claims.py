"""The promises of ``claim`` and ``extend``: what is given to whom, in which order, and for how long."""

from __future__ import annotations

from skunkqueue.envelope import DAY, Filter, Outcome, Record, State
from skunkqueue.persistence import EXPIRED, Persister
from skunkqueue.routes import HIGH, LOW
from skunkqueue.testing.makers import (
    EVERY_BYTE,
    LATE,
    LEASE,
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
