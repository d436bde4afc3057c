"""The promises of ``put``: the first envelope of an id stands, in every state of its run. And those of unique keys."""

from __future__ import annotations

from typing import Final

from skunkqueue.envelope import Claim, Envelope, Filter, Outcome, Record, State
from skunkqueue.persistence import REMEMBERED, Persister
from skunkqueue.routes import HIGH
from skunkqueue.testing.makers import (
    EVERY_BYTE,
    LATE,
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
