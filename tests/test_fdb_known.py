"""FoundationDB: a run just made is put by a commit alone, and what has changed meanwhile is met all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread
from typing import Any

import pytest
from fdb_servers import FakeCluster, age, binding, drop, fresh_name, fresh_url, only_fake, opened

fdb = binding()

from skunkqueue import SkunkQueue, StoreError  # noqa: E402
from skunkqueue.clock import ticks  # noqa: E402
from skunkqueue.envelope import Envelope  # noqa: E402
from skunkqueue.ids import MOST_MADE, new_id, when_made  # noqa: E402
from skunkqueue.persistence.fdb import FDBPersister, known, open_url  # noqa: E402
from skunkqueue.persistence.fdb.layout import lane_of, spread, written  # noqa: E402
from skunkqueue.persistence.fdb.rows import read_row  # noqa: E402
from skunkqueue.testing.makers import LATE, NOW, count_states, ids_of, record_of, sealed, take  # noqa: E402


@pytest.fixture
def url(shared_fdb: str) -> Iterator[str]:
    name = fresh_name()
    yield f"fdb://{shared_fdb}?prefix={name}"
    drop(shared_fdb, name)


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FDBPersister]:
    """It knows the lane of route foo."""
    monkeypatch.setattr(known, "LASTS", 4.0)  # on a busy machine
    with closing(open_url(url)) as made:
        made.put([sealed(1000)])
        yield made


def made(route: str = "foo", body: bytes = b"body", **given: Any) -> Envelope:
    """An envelope that was made just now."""
    return sealed(route=route, body=body, **given)._replace(id=new_id(NOW))


class Asked:
    """How often the cluster is asked for a value, a range or a version, and how often somebody waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = self.waits = 0
        for name in ("get", "get_range", "get_read_version"):
            monkeypatch.setattr(fdb.impl.TransactionRead, name, self._counted(fdb.impl.TransactionRead, name, "reads"))
        name = "block_until_ready"
        monkeypatch.setattr(fdb.impl.Future, name, self._counted(fdb.impl.Future, name, "waits"))

    def _counted(self, kind: Any, name: str, what: str) -> Callable[..., Any]:
        real = getattr(kind, name)

        def counted(*args: Any, **named: Any) -> Any:
            setattr(self, what, getattr(self, what) + 1)
            return real(*args, **named)

        return counted


def test_it_is_known_when_an_id_was_made_in_this_process() -> None:
    before, id, after = ticks(), new_id(NOW), ticks()

    made_at = when_made(id)
    assert made_at is not None and before <= made_at <= after
    assert when_made(sealed(1).id) is None
    for _ in range(MOST_MADE):
        new_id(NOW)
    assert when_made(id) is None


def test_fires_in_sequence_read_nothing_and_wait_once(store: FDBPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)

    for _ in range(10):
        store.put([made()])

    assert (asked.reads, asked.waits) == (0, 10)
    assert store._link.conflicts == 0
    assert count_states(store) == {"queued": 11}


def test_a_queue_fires_that_way(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "LASTS", 4.0)
    with SkunkQueue("demo", url) as queue:
        job = queue.event(len, name="len", routes=["foo", "bar"])
        job.fire("first")
        asked = Asked(monkeypatch)

        runs = job.fire("second")
        many = job.fire_many([("x" * n,) for n in range(20)])

        assert asked.reads == 0
        assert [str(run.state) for run in (*runs, *many)] == ["queued"] * 42


@pytest.mark.parametrize("first", [b"", b"first"])
def test_an_id_that_was_put_meanwhile_keeps_its_first_envelope(store: FDBPersister, url: str, first: bytes) -> None:
    envelope = made(body=b"second")
    with closing(open_url(url)) as other:
        other.put([envelope._replace(body=first)])

        assert store.put([envelope]) == [envelope.id]

    assert store._link.conflicts == 1
    assert record_of(store, envelope.id).envelope.body == first
    assert count_states(store) == {"queued": 2}


def test_an_id_that_was_made_before_the_last_commit_is_looked_for(store: FDBPersister, url: str) -> None:
    early = made()
    store._link.known = known.Known()
    store.put([sealed(1)])  # only now is the lane known

    assert store._link.known.fresh([early]) is None
    assert store._link.known.fresh([sealed(2)]) is None
    assert store._link.known.fresh([made(unique="key")]) is None
    assert store._link.known.fresh([made("never-met")]) is None
    assert store._link.known.fresh([made(), made()]) is not None
    assert store._link.known.fresh([]) is None


def test_what_is_known_lasts_for_a_moment_only(store: FDBPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "LASTS", 0.0)

    assert store._link.known.fresh([made()]) is None


def test_a_lane_that_was_spread_meanwhile_takes_the_run_on_its_shard(store: FDBPersister, shared_fdb: str) -> None:
    space, db = store._link.space(), opened(shared_fdb)
    db[space.width(lane_of("demo", "foo"))] = b"\x08"
    envelopes = [made() for _ in range(8)]

    for envelope in envelopes:
        store.put([envelope])

    rows = {each.id: read_row(each.id, bytes(db[space.run_key(each.id)])) for each in envelopes}
    assert {id: row and row.shard for id, row in rows.items()} == {id: spread(written(id)) % 8 for id in rows}
    assert store._link.conflicts == 1
    assert set(ids_of(envelopes)) <= set(ids_of(take(store, limit=20)))


def test_a_directory_that_was_moved_meanwhile_gets_nothing(store: FDBPersister, shared_fdb: str) -> None:
    (name,) = store.target.path
    db = opened(shared_fdb)
    fdb.directory.move(db, (name,), (name + "-moved",))
    envelope = made()

    with pytest.raises(StoreError, match="was moved or removed"):
        store.put([envelope])

    fdb.directory.move(db, (name + "-moved",), (name,))
    assert not store.get([envelope.id])


def test_a_version_that_is_too_old_costs_an_attempt(store: FDBPersister, shared_fdb: str) -> None:
    age(shared_fdb, 8)
    envelope = made()

    assert store.put([envelope]) == [envelope.id]

    assert count_states(store) == {"queued": 2}


@only_fake
@pytest.mark.parametrize("took", [False, True])
@pytest.mark.parametrize("code", [1020, 1021])
def test_a_commit_that_fails_or_whose_result_is_unknown_makes_one_run(code: int, took: bool) -> None:
    with FakeCluster() as cluster, closing(open_url(fresh_url(cluster.file))) as store:
        store.put([sealed(1000)])
        envelopes = [made(), made()]
        cluster.fail(code, took=took and code == 1021, prefix=store._link.space().prefix)

        assert store.put(envelopes) == ids_of(envelopes)
        assert store.put(envelopes) == ids_of(envelopes)

        assert count_states(store) == {"queued": 3}
        assert len(take(store, now=LATE)) == 3


def test_threads_that_fire_at_once_all_put_each_run_once(store: FDBPersister) -> None:
    ids: list[str] = []
    threads = [Thread(target=lambda: ids.extend(store.put([made()])[0] for _ in range(25))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(ids)) == 100
    assert count_states(store) == {"queued": 101}
    assert store._link.conflicts == 0


def test_one_new_id_put_by_two_at_once_is_one_run_with_one_body(store: FDBPersister, url: str) -> None:
    """Whoever commits last meets the other, though neither has read anything."""
    with closing(open_url(url)) as other:
        other.put([sealed(1001)])
        envelopes = [made() for _ in range(30)]

        def put_all(handle: FDBPersister, body: bytes) -> None:
            for envelope in envelopes:
                assert handle.put([envelope._replace(body=body)]) == [envelope.id]

        threads = [Thread(target=put_all, args=(handle, body)) for handle, body in ((store, b"a"), (other, b"b" * 700))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        records = store.get(ids_of(envelopes))
        bodies = {claim.id: claim.envelope.body for claim in take(store, limit=40)}
    assert len(bodies) == 32
    assert {id: record.envelope.body for id, record in records.items()}.items() <= bodies.items()
    assert set(bodies.values()) <= {b"a", b"b" * 700, b"body"}
    assert len(records) == 30
