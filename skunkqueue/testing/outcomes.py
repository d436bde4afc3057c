"""The promises about outcomes: commit and exchange."""

from __future__ import annotations

from skunkqueue.envelope import DAY, Exchange, Outcome, Record, State
from skunkqueue.persistence import REMEMBERED, Persister
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

EACH = (
    Outcome.complete(b"value", notes=b"notes"),
    Outcome.failed("no", value=b"why", notes=b"notes", keep=5.0),
    Outcome.again(due=NOW + 3, error="no", notes=b"notes"),
    Outcome.untouched(notes=b"notes"),
    Outcome.started(notes=b"notes"),
    Outcome.at(0.5, "half"),
)
"""One outcome of each kind."""


class CommitPromises(Promises):
    """What ``commit`` promises."""

    def test_a_completed_run_keeps_its_value(self, store: Persister) -> None:
        """It ends as succeeded, now, with its value and its last worker, kept as long as its envelope says."""
        store.put([sealed(keep=1e5 / 3)])
        claim = take_one(store)

        assert store.commit([(claim, Outcome.complete(EVERY_BYTE))], now=NOW + 0.3) == {claim.id}

        ended = NOW + 0.3
        wanted = Record(
            claim.envelope, State.SUCCEEDED, ended + 1e5 / 3, "A", "worker-1", value=EVERY_BYTE, ended=ended
        )
        assert record_of(store, claim.id) == wanted

    def test_no_value_and_an_empty_value_are_told_apart(self, store: Persister) -> None:
        """None comes back as None, empty bytes as empty bytes."""
        store.put([sealed(1), sealed(2)])
        first, second = take(store)
        store.commit([(first, Outcome.complete(None)), (second, Outcome.complete(b""))], now=NOW)

        assert record_of(store, first.id).value is None
        assert record_of(store, second.id).value == b""

    def test_a_failed_run_keeps_its_error(self, store: Persister) -> None:
        """It ends as failed, with one line for people, the details, and notes."""
        store.put([sealed(keep=100.0)])
        claim = take_one(store)

        store.commit([(claim, Outcome.failed(UNICODE, value=EVERY_BYTE, notes=EVERY_BYTE))], now=NOW)

        wanted = Record(
            claim.envelope, State.FAILED, NOW + 100.0, "A", "worker-1", 0, EVERY_BYTE, EVERY_BYTE, UNICODE, ended=NOW
        )
        assert record_of(store, claim.id) == wanted

    def test_an_outcome_may_say_how_long_to_keep_the_run(self, store: Persister) -> None:
        """Its ``keep`` replaces the envelope's, whether longer or shorter."""
        store.put([sealed(1, keep=100.0), sealed(2, keep=1000.0)])
        claims = take(store)

        outcomes = [Outcome.failed("no", keep=7 * DAY), Outcome.failed("no", keep=61.5)]
        store.commit(list(zip(claims, outcomes, strict=True)), now=NOW)

        assert [record_of(store, c.id).ripe for c in claims] == [NOW + 7 * DAY, NOW + 61.5]

    def test_an_ended_run_is_remembered_a_minute_at_least(self, store: Persister) -> None:
        """Whatever ``keep`` says, so that a late repetition of its put does not execute it again."""
        store.put([sealed(1, keep=0.0), sealed(2, keep=9.9), sealed(3, keep=1000.0), sealed(4, keep=0.0)])
        claims = take(store, limit=3)
        outcomes = [Outcome.complete(b""), Outcome.failed("no"), Outcome.failed("no", keep=0.0)]
        store.commit(list(zip(claims, outcomes, strict=True)), now=NOW)
        store.cancel([sealed(4).id], now=NOW)

        assert {record_of(store, sealed(n).id).ripe for n in (1, 2, 3, 4)} == {NOW + REMEMBERED}

    def test_a_run_is_run_again_when_it_is_due_again(self, store: Persister) -> None:
        """It is queued without a worker, ripe at that time and not before, with the error of the last attempt."""
        store.put([sealed()])
        claim = take_one(store)

        assert store.commit([(claim, Outcome.again(due=NOW + 20.2, error=UNICODE))], now=NOW) == {claim.id}

        wanted = Record(claim.envelope, State.QUEUED, NOW + 20.2, "A", error=UNICODE)
        assert record_of(store, claim.id) == wanted
        assert take(store, "B", now=NOW + 20.1) == []
        assert take_one(store, "B", now=NOW + 20.2).lapses == 0

    def test_a_run_to_be_run_again_at_no_time_takes_its_first_place(self, store: Persister) -> None:
        """Without a time, it is ripe when it was first due, and so comes before the backlog."""
        store.put([sealed(1, due=NOW - 5.5), sealed(2, due=NOW - 3)])
        (claim,) = take(store, limit=1)

        store.commit([(claim, Outcome.again())], now=NOW)

        assert record_of(store, claim.id).ripe == NOW - 5.5
        assert ids_of(take(store, "B")) == [sealed(1).id, sealed(2).id]

    def test_an_untouched_run_takes_its_old_place(self, store: Persister) -> None:
        """It comes first again, instead of behind the backlog, as if it had never been claimed."""
        store.put([sealed(1, due=NOW - 5.5), sealed(2, due=NOW - 3)])
        (claim,) = take(store, limit=1)

        assert store.commit([(claim, Outcome.untouched())], now=NOW) == {claim.id}

        assert record_of(store, claim.id) == Record(claim.envelope, State.QUEUED, NOW - 5.5, "A")
        assert ids_of(take(store, "B")) == [sealed(1).id, sealed(2).id]

    def test_a_promoted_run_that_is_put_back_stays_promoted(self, store: Persister) -> None:
        """Who says "run it now" does not wait for another hour because a worker was stopped before it began."""
        for number, outcome in enumerate((Outcome.untouched(), Outcome.again()), 1):
            envelope = sealed(number, due=NOW + 3600)
            store.put([envelope])
            assert store.promote([envelope.id], now=NOW) == {envelope.id}
            (claim,) = take(store)

            assert store.commit([(claim, outcome)], now=NOW + 1) == {claim.id}

            found = record_of(store, claim.id)
            assert (found.ripe, found.envelope.due) == (NOW + 1, NOW + 3600)
            assert ids_of(take(store, "B", now=NOW + 1)) == [claim.id]

    def test_an_untouched_run_keeps_the_error_of_its_last_attempt(self, store: Persister) -> None:
        """The error changes only when the run is to run again, or ends."""
        store.put([sealed()])
        store.commit([(take_one(store, "A"), Outcome.again(error="first"))], now=NOW)
        store.commit([(take_one(store, "B"), Outcome.untouched())], now=NOW)
        untouched = record_of(store, sealed().id).error
        store.commit([(take_one(store, "C"), Outcome.again())], now=NOW)
        again = record_of(store, sealed().id).error
        store.commit([(take_one(store, "D"), Outcome.again(error="second"))], now=NOW)
        store.commit([(take_one(store, "E"), Outcome.complete(b""))], now=NOW)

        assert (untouched, again, record_of(store, sealed().id).error) == ("first", None, None)

    def test_a_started_run_stays_claimed(self, store: Persister) -> None:
        """Only its notes change; its lease is what it was."""
        store.put([sealed()])
        claim = take_one(store)

        assert store.commit([(claim, Outcome.started(notes=b"started"))], now=NOW + 1) == {claim.id}

        wanted = Record(claim.envelope, State.RUNNING, NOW + LEASE, "A", "worker-1", notes=b"started")
        assert record_of(store, claim.id) == wanted

    def test_progress_is_kept_and_the_run_stays_claimed(self, store: Persister) -> None:
        """Progress and its note can be read while the run goes on, and after it ended."""
        store.put([sealed()])
        claim = take_one(store)

        assert store.commit([(claim, Outcome.at(0.1, UNICODE))], now=NOW + 1) == {claim.id}

        wanted = Record(claim.envelope, State.RUNNING, NOW + LEASE, "A", "worker-1", progress=0.1, note=UNICODE)
        assert record_of(store, claim.id) == wanted
        store.commit([(claim, Outcome.at(0.0)), (claim, Outcome.complete(b"value"))], now=NOW + 1)
        record = record_of(store, claim.id)
        assert (record.progress, record.note, record.value) == (0.0, "", b"value")

    def test_outcomes_of_one_batch_are_written_in_order(self, store: Persister) -> None:
        """A run that starts, reports progress and ends in one call has all of it; later outcomes have no effect."""
        store.put([sealed()])
        claim = take_one(store)
        batch = [Outcome.started(notes=b"n"), Outcome.at(0.5, "half"), Outcome.complete(b"value"), Outcome.failed("no")]

        assert store.commit([(claim, outcome) for outcome in batch], now=NOW) == {claim.id}

        record = record_of(store, claim.id)
        assert (record.state, record.notes, record.progress, record.note) == (State.SUCCEEDED, b"n", 0.5, "half")
        assert (record.value, record.error) == (b"value", None)

    def test_notes_stay_unless_an_outcome_sets_them(self, store: Persister) -> None:
        """None leaves them, bytes set them, empty bytes clear them; the next claim carries them."""
        store.put([sealed()])
        for token, notes, kept in (("A", EVERY_BYTE, EVERY_BYTE), ("B", None, EVERY_BYTE), ("C", b"", b"")):
            store.commit([(take_one(store, token), Outcome.again(notes=notes))], now=NOW)

            assert record_of(store, sealed().id).notes == kept
        store.commit([(take_one(store, "D"), Outcome.untouched(notes=b"d"))], now=NOW)
        claim = take_one(store, "E")
        assert claim.notes == b"d"
        store.commit([(claim, Outcome.complete(b""))], now=NOW)
        assert record_of(store, claim.id).notes == b"d"

    def test_a_late_worker_cannot_commit_over_the_new_one(self, store: Persister) -> None:
        """A worker that lost its lease can no longer write any outcome, before or after the new holder has."""
        store.put([sealed()])
        late = take_one(store)
        new = take_one(store, "B", now=LATE)
        before = record_of(store, late.id)

        for outcome in EACH:
            assert store.commit([(late, outcome)], now=LATE) == set()
        assert record_of(store, late.id) == before
        assert store.commit([(new, Outcome.complete(b"new"))], now=LATE) == {new.id}
        for outcome in EACH:
            assert store.commit([(late, outcome)], now=LATE) == set()
        assert record_of(store, late.id).value == b"new"

    def test_a_lease_that_ended_but_was_not_taken_still_commits(self, store: Persister) -> None:
        """The token alone decides, not the time."""
        store.put([sealed()])
        claim = take_one(store)

        assert store.commit([(claim, Outcome.complete(b""))], now=LATE + 1000) == {claim.id}

    def test_a_commit_after_a_cancel_is_refused(self, store: Persister) -> None:
        """Cancelling takes the lease away."""
        store.put([sealed()])
        claim = take_one(store)
        store.cancel([claim.id], now=NOW)
        before = record_of(store, claim.id)

        for outcome in EACH:
            assert store.commit([(claim, outcome)], now=NOW) == set()
        assert record_of(store, claim.id) == before

    def test_an_old_claim_does_not_reach_a_reopened_run(self, store: Persister) -> None:
        """Nor does a claim of a run that is gone, or that was never claimed."""
        store.put([sealed(1), sealed(2)])
        (claim,) = take(store, limit=1)
        store.commit([(claim, Outcome.failed("no"))], now=NOW)
        store.reopen([claim.id], now=NOW)
        strangers = [claim, claim._replace(envelope=sealed(2)), claim._replace(envelope=sealed(99))]

        assert store.commit([(each, Outcome.complete(b"")) for each in strangers], now=NOW) == set()
        assert count_states(store) == {"queued": 2}

    def test_a_repeated_commit_is_taken_and_changes_nothing(self, store: Persister) -> None:
        """After a lost reply, the pool commits again and gets the same answer, however late."""
        for number, outcome in enumerate(EACH):
            store.put([sealed(number, route=f"r{number}")])
            (claim,) = take(store, "A", f"r{number}")
            store.commit([(claim, outcome)], now=NOW)
            before = record_of(store, claim.id)

            assert store.commit([(claim, outcome)], now=NOW + 5) == {claim.id}
            assert record_of(store, claim.id) == before

    def test_a_commit_after_the_end_is_taken_and_changes_nothing(self, store: Persister) -> None:
        """Even another outcome: the record still has the token, but the first outcome stands."""
        store.put([sealed(n) for n in range(4)])
        claims = take(store)
        ends = [Outcome.complete(b"1"), Outcome.failed("2"), Outcome.again(due=LATE), Outcome.untouched()]
        store.commit(list(zip(claims, ends, strict=True)), now=NOW)
        before = store.get(ids_of(claims))

        for outcome in EACH:
            assert store.commit([(claim, outcome) for claim in claims], now=NOW + 1) == set(ids_of(claims))
        assert store.get(ids_of(claims)) == before

    def test_a_batch_says_of_each_whether_it_was_taken(self, store: Persister) -> None:
        """A refused outcome does not stop the others from being taken."""
        store.put([sealed(n) for n in range(3)])
        claims = take(store)
        store.cancel([claims[1].id], now=NOW)

        taken = store.commit([(claim, Outcome.complete(b"")) for claim in claims], now=NOW)

        assert taken == {claims[0].id, claims[2].id}
        assert store.commit([], now=NOW) == set()


class ExchangePromises(Promises):
    """What ``exchange`` promises."""

    def test_exchange_commits_and_then_claims(self, store: Persister) -> None:
        """It may claim the very run whose outcome it took."""
        store.put([sealed(1), sealed(2)])
        first, second = take(store)
        store.cancel([second.id], now=NOW)
        store.put([sealed(3, due=NOW - 1)])
        outcomes = [(first, Outcome.again(due=NOW, notes=b"n")), (second, Outcome.complete(b""))]

        taken, claims, _, _ = store.exchange(outcomes, [want("B", limit=5)], now=NOW, until=LATE)

        assert taken == {first.id}
        assert [(claim.id, claim.token, claim.until) for claim in claims] == [
            (sealed(3).id, "B", LATE),
            (first.id, "B", LATE),
        ]
        assert claims[1].notes == b"n"

    def test_exchange_of_nothing_is_nothing(self, store: Persister) -> None:
        """Without outcomes and wants, there is nothing to take, to claim or to look for."""
        store.put([sealed()])

        assert store.exchange([], [], now=NOW, until=LATE) == Exchange(set(), [], None)

    def test_exchange_says_when_the_next_run_ripens(self, store: Persister) -> None:
        """The earliest time among the open runs of the routes wanted, to the last digit; other routes do not count."""
        store.put([sealed(1, due=NOW + 7.7), sealed(2, due=NOW + 5.3, route="bar"), sealed(3, due=NOW + 1, route="no")])
        store.put([sealed(4, due=NOW + 2, queue="other")])

        found = store.exchange([], [want("A", "foo", "bar")], now=NOW, until=LATE)
        assert found == Exchange(set(), [], NOW + 5.3)
        assert store.exchange([], [want("A", "bar"), want("B", "foo")], now=NOW, until=LATE).next_ripe == NOW + 5.3
        assert store.exchange([], [want("A", "foo")], now=NOW, until=LATE).next_ripe == NOW + 7.7

    def test_exchange_says_when_a_lease_ends(self, store: Persister) -> None:
        """A running run can be claimed when its lease ends, so that time counts too, even for one's own runs."""
        store.put([sealed()])
        take_one(store)

        assert store.exchange([], [want("B")], now=NOW, until=LATE).next_ripe == NOW + LEASE
        assert store.exchange([], [want("B")], now=NOW + LEASE, until=LATE + 9.1).next_ripe == LATE + 9.1

    def test_exchange_says_that_nothing_is_open(self, store: Persister) -> None:
        """None if the routes wanted have no open run: none at all, only ended ones, or only of other routes."""
        assert store.exchange([], [want()], now=NOW, until=LATE).next_ripe is None
        store.put([sealed(1), sealed(2, route="bar"), sealed(3, expires=NOW)])
        (claim,) = take(store)

        given = store.exchange([(claim, Outcome.complete(b""))], [want("B")], now=NOW, until=LATE)

        assert given == Exchange({claim.id}, [], None)

    def test_exchange_tells_a_filled_want_to_look_again(self, store: Persister) -> None:
        """If more may be ripe, the next time is not later than now."""
        store.put([sealed(n) for n in range(3)])

        _, claims, next_ripe, _ = store.exchange([], [want("A", limit=2)], now=NOW, until=LATE)

        assert ids_of(claims) == [sealed(0).id, sealed(1).id]
        assert next_ripe is not None
        assert next_ripe <= NOW

    def test_a_repeated_exchange_says_the_same(self, store: Persister) -> None:
        """After a lost reply, the outcomes are taken, and the claims that were lost are given."""
        store.put([sealed(n) for n in range(4)])
        outcomes = [(claim, Outcome.complete(b"value")) for claim in take(store, limit=2)]
        lost = store.exchange(outcomes, [want("B", limit=2)], now=NOW, until=LATE)
        before = store.get([sealed(n).id for n in range(4)])

        again = store.exchange(outcomes, [want("B", limit=2, repeated=True)], now=NOW, until=LATE)

        assert again.taken == lost.taken == {sealed(0).id, sealed(1).id}
        assert sorted(again.claims) == sorted(lost.claims)
        assert store.get([sealed(n).id for n in range(4)]) == before
