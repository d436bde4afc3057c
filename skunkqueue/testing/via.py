"""The promises of ``put`` with a ``via``: a transaction of the caller."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from skunkqueue.errors import WrongCall
from skunkqueue.persistence import Persister, WorkKey
from skunkqueue.testing.makers import LATE, Promises, count_states, ids_of, sealed, take

SOON = 5.0


class ViaPromises(Promises):
    """What ``put`` promises of a ``via``. If ``begin`` gives none, only that it refuses what is not a transaction."""

    def test_what_is_no_transaction_is_refused_and_nothing_is_stored(self, store: Persister) -> None:
        """With WrongCall, both by a store that takes no transaction and by one that takes another kind."""
        refused = False
        try:
            store.put([sealed()], via=object())
        except WrongCall:
            refused = True

        assert refused
        assert store.count() == {}

    def test_runs_put_in_a_transaction_are_stored_when_it_is_committed(self, store: Persister) -> None:
        """All of them, with their counts, and not before."""
        batch = [sealed(1), sealed(2, route="bar", expires=LATE), sealed(3, body=b"x" * 100_000)]
        with self.begin(store) as transaction:
            if transaction is None:
                return
            assert store.takes_via
            assert store.put(batch, via=transaction.via) == ids_of(batch)
            other = self.open_again(store)
            assert (other.count(), other.get(ids_of(batch))) == ({}, {})

            transaction.commit()

        assert count_states(store) == {"queued": 3}
        assert [claim.envelope for claim in take(store, "A", "foo", "bar")] == [batch[0], batch[2], batch[1]]
        assert count_states(store) == {"running": 3}

    def test_runs_put_in_a_transaction_that_is_given_up_are_not_stored(self, store: Persister) -> None:
        """Nothing is left of them, and their ids can be put afterwards."""
        with self.begin(store) as transaction:
            if transaction is None:
                return
            store.put([sealed(1), sealed(2, route="bar", expires=LATE)], via=transaction.via)
            transaction.give_up()

        assert store.count() == {}
        assert store.get([sealed(1).id, sealed(2).id]) == {}
        assert store.put([sealed(1)]) == [sealed(1).id]
        assert count_states(store) == {"queued": 1}

    def test_an_id_put_again_in_a_transaction_stays_as_it_was(self, store: Persister) -> None:
        """A second put of the same id has no effect."""
        store.put([sealed(1)])
        with self.begin(store) as transaction:
            if transaction is None:
                return
            store.put([sealed(1), sealed(2)], via=transaction.via)
            transaction.commit()

        assert store.get([sealed(1).id])[sealed(1).id].envelope == sealed(1)
        assert count_states(store) == {"queued": 2}

    def test_a_unique_key_in_a_transaction_is_kept_or_refused(self, store: Persister) -> None:
        """If the answer is not known before the commit, WrongCall is raised and nothing is put."""
        store.put([sealed(1, unique="key")])
        with self.begin(store) as transaction:
            if transaction is None:
                return
            with suppress(WrongCall):
                assert store.put([sealed(2, unique="key")], via=transaction.via) == [sealed(1).id]
            transaction.commit()

        assert count_states(store) == {"queued": 1}

    def test_a_wait_learns_of_what_is_committed_by_a_transaction(self, store: Persister) -> None:
        """Soon after the commit, although no call to the store reports it."""
        keys = [WorkKey("demo", "foo")]
        with self.begin(store) as transaction:
            if transaction is None:
                return
            store.put([sealed()], via=transaction.via)
            ready = threading.Event()

            def wait() -> None:
                store.wait(keys, 0)
                ready.set()
                store.wait(keys, 10 * SOON)

            waiter = threading.Thread(target=wait, daemon=True)
            waiter.start()
            assert ready.wait(SOON)
            time.sleep(0.05)

            transaction.commit()
            waiter.join(SOON)

        assert not waiter.is_alive()
