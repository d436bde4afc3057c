"""The promises of discard."""

from __future__ import annotations

from skunkqueue.envelope import DAY, Outcome, State
from skunkqueue.persistence import REMEMBERED, Persister
from skunkqueue.testing.makers import LATE, NOW, Promises, count_states, record_of, sealed, take, take_one


class DiscardPromises(Promises):
    """What ``discard`` promises."""

    def test_a_discarded_run_is_purged_long_before_its_time(self, store: Persister) -> None:
        """However it ended; nothing else of its record changes before that."""
        store.put([sealed(n, keep=DAY) for n in range(4)])
        done, failed = take(store, limit=2)
        store.commit([(done, Outcome.complete(b"value")), (failed, Outcome.failed("no", keep=7 * DAY))], now=NOW)
        store.cancel([sealed(2).id], now=NOW)
        ids = {sealed(n).id for n in range(3)}
        before = store.get(ids)

        assert store.discard(iter([*ids, *ids]), now=NOW + 100.3) == ids

        assert store.get(ids) == {id: record._replace(ripe=NOW + 100.3) for id, record in before.items()}
        assert store.purge(now=NOW + 100.3) == 3
        assert store.get(ids) == {}
        assert count_states(store) == {"queued": 1}

    def test_the_id_of_a_discarded_run_is_remembered_a_minute(self, store: Persister) -> None:
        """So that a put that is repeated does not run it again."""
        store.put([sealed(keep=DAY)])
        store.commit([(take_one(store), Outcome.complete(b"value"))], now=NOW + 0.2)

        assert store.discard([sealed().id], now=NOW + 1) == {sealed().id}
        assert store.discard([sealed().id], now=NOW + 2) == {sealed().id}

        assert record_of(store, sealed().id).ripe == NOW + 0.2 + REMEMBERED
        assert store.purge(now=NOW + REMEMBERED) == 0
        store.put([sealed(keep=DAY)])
        assert take(store, now=NOW + REMEMBERED) == []
        assert store.purge(now=NOW + 0.2 + REMEMBERED) == 1

    def test_to_discard_a_run_never_keeps_it_longer(self, store: Persister) -> None:
        """One that is over already stays so."""
        store.put([sealed(keep=0.0)])
        store.cancel([sealed().id], now=NOW)

        assert store.discard([sealed().id], now=NOW + 3000) == {sealed().id}
        assert record_of(store, sealed().id).ripe == NOW + REMEMBERED

    def test_only_what_has_ended_is_discarded(self, store: Persister) -> None:
        """What is queued, running or unknown stays as it is; so does what is reopened, from then on."""
        store.put([sealed(n) for n in range(3)])
        (running,) = take(store, limit=1)
        store.cancel([sealed(2).id], now=NOW)
        others = [running.id, sealed(1).id]
        before = store.get(others)

        assert store.discard([*others, sealed(99).id, sealed(2).id], now=LATE) == {sealed(2).id}
        assert store.get(others) == before
        assert store.discard([], now=NOW) == set()
        assert store.reopen([sealed(2).id], now=LATE) == {sealed(2).id}
        assert store.purge(now=LATE + DAY) == 0
        assert record_of(store, sealed(2).id).state == State.QUEUED
