"""The promises of the verbs that spare reading bodies and results: get_brief, find_brief, open_of."""

from __future__ import annotations

from math import inf

from skunkqueue.envelope import Filter, Outcome
from skunkqueue.persistence import BRIEF, Persister
from skunkqueue.testing.makers import NOW, Promises, record_of, sealed, take


class BriefPromises(Promises):
    """What the verbs promise that spare reading bodies and results."""

    def test_a_brief_record_is_the_record_but_for_a_long_body_and_a_long_value(self, store: Persister) -> None:
        """A body has its first ``BRIEF`` bytes at least; a value is whole, or None where it is too long."""
        sizes = [0, 10, 1000, 3 * BRIEF]
        body = bytes(range(256)) * (3 * BRIEF // 256)
        store.put([sealed(n, body=body[:size], unique=f"k{n}\n") for n, size in enumerate(sizes)])
        for claim in take(store, limit=3):
            n = int(claim.id, 16) - int(sealed(0).id, 16)
            ends = [Outcome.complete(b"v" * 5000), Outcome.complete(b"v"), Outcome.failed("no", value=b"v" * 5000)]
            store.commit([(claim, ends[n])], now=NOW)
        whole = {record.id: record for record in store.find(Filter(), now=NOW)}

        brief = store.get_brief([*whole, "unknown"])
        found = store.find_brief(Filter(queue="demo"), now=NOW)
        short = store.find_brief(Filter(queue="demo"), now=NOW, values=4000, limit=4)

        assert list(brief) == list(whole) and [record.id for record in found] == list(whole)
        for record in (*brief.values(), *found, *short):
            full = whole[record.id]
            assert record.envelope.body[:BRIEF] == full.envelope.body[:BRIEF]
            assert record._replace(envelope=full.envelope, value=full.value) == full
            assert record.envelope._replace(body=full.envelope.body) == full.envelope
        assert all(record.value == whole[record.id].value for record in (*brief.values(), *found))
        for record in short:
            value = whole[record.id].value
            assert record.value == value or (record.value is None and len(value or b"") > 4000)

    def test_a_long_body_is_whole_for_who_claims_it(self, store: Persister) -> None:
        """Whatever parts a store keeps it in."""
        sizes = [BRIEF - 1, BRIEF, BRIEF + 1, 90_000, BRIEF + 90_000, BRIEF + 90_001, 300_000]
        bodies = {sealed(n).id: (b"%06d" % size * size)[:size] for n, size in enumerate(sizes)}
        store.put([sealed(n, body=body) for n, body in enumerate(bodies.values())])

        assert {id: record.envelope.body for id, record in store.get(bodies).items()} == bodies
        assert {claim.id: claim.envelope.body for claim in take(store)} == bodies
        brief = store.get_brief(bodies)
        assert all(record.envelope.body[:BRIEF] == bodies[id][:BRIEF] for id, record in brief.items())

    def test_a_long_value_goes_with_the_attempt_that_had_it(self, store: Persister) -> None:
        """A run that is reopened has none, and then that of its next attempt, long or short."""
        store.put([sealed(n) for n in range(3)])
        ids = [sealed(n).id for n in range(3)]

        for size in (5000, 5, 6000, 7):
            store.commit([(claim, Outcome.failed("no", value=b"v" * size)) for claim in take(store)], now=NOW)
            values = [record.value for record in store.get(ids).values()]
            assert values == [record.value for record in store.get_brief(ids).values()] == [b"v" * size] * 3
            assert store.reopen(ids, now=NOW) == set(ids)
            assert [record.value for record in store.get(ids).values()] == [None] * 3
        store.cancel(ids, now=NOW)

        assert [record.value for record in store.get(ids).values()] == [None] * 3

    def test_brief_pages_follow_each_other(self, store: Persister) -> None:
        """``after``, ``limit`` and the filter count as for ``find``."""
        store.put([sealed(n, route="foo" if n % 2 else "bar") for n in range(10)])
        pages, after = [], None

        while page := store.find_brief(Filter("demo", "foo"), now=NOW, after=after, limit=2, values=0):
            pages.append([record.id for record in page])
            after = page[-1].id

        assert pages == [[sealed(n).id for n in ns] for ns in ((9, 7), (5, 3), (1,))]

    def test_which_runs_are_open_and_when_they_can_only_expire(self, store: Persister) -> None:
        """A run that is held expires at the end of its lease at the soonest."""
        store.put([sealed(n, expires=NOW + 100 if n % 2 else None) for n in range(6)])
        ended, forever, held = take(store, limit=3)[0], sealed(2).id, sealed(1).id
        store.commit([(ended, Outcome.complete(b""))], now=NOW)
        store.cancel([sealed(5).id], now=NOW)

        found = store.open_of([*(sealed(n).id for n in range(6)), "unknown"])

        until = max(NOW + 100, record_of(store, held).ripe)
        assert found == {held: until, forever: inf, sealed(3).id: NOW + 100, sealed(4).id: inf}
