"""Runs fired in the user's own transaction of FoundationDB: stored with all else in it, once however often tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from fdb_servers import FakeCluster, binding, drop, fresh_name, fresh_url, only_fake, opened

fdb = binding()

from skunkqueue import SkunkQueue, WrongCall  # noqa: E402
from skunkqueue.envelope import Filter  # noqa: E402
from skunkqueue.persistence.fdb import open_url  # noqa: E402
from skunkqueue.testing.makers import NOW, count_states, sealed  # noqa: E402


@pytest.fixture
def name(shared_fdb: str) -> Iterator[str]:
    made = fresh_name()
    yield made
    drop(shared_fdb, made)


@pytest.fixture
def queue(shared_fdb: str, name: str) -> Iterator[SkunkQueue]:
    with SkunkQueue("demo", f"fdb://{shared_fdb}?prefix={name}") as made:
        made.count()
        yield made


@pytest.fixture(scope="module")
def faulty() -> Iterator[FakeCluster]:
    with FakeCluster() as cluster:
        yield cluster


def add(first: int, second: int) -> int:
    return first + second


def test_a_run_is_stored_with_what_else_the_transaction_writes_or_not_at_all(queue: SkunkQueue, name: str) -> None:
    job, db = queue.event(add), queue.store._link.database  # type: ignore[attr-defined]
    mine = b"mine-" + name.encode()

    @fdb.transactional
    def order(tr: Any, number: int) -> Any:
        tr[mine] = b"%d" % number
        run = job.options(via=tr).fire(number, 1)
        if number > 1:
            raise ValueError("no")
        return run

    run = order(db, 1)
    with pytest.raises(ValueError, match="no"):
        order(db, 2)

    assert db[mine] == b"1"
    assert [each.id for each in queue.runs()] == [run.id]
    del db[mine]


@only_fake
@pytest.mark.parametrize("code_and_took", [(1020, False), (1021, False), (1021, True)])
def test_a_function_that_is_tried_again_fires_each_run_once(
    faulty: FakeCluster, code_and_took: tuple[int, bool]
) -> None:
    """Two runs, of equal arguments: two they stay. The handles that the last try gives are those that are stored."""
    code, took = code_and_took
    with SkunkQueue("demo", fresh_url(faulty.file)) as queue:
        job, tries = queue.event(add), []
        db = opened(faulty.file)
        queue.clock.now()  # which writes as well, the first time

        @fdb.transactional
        def order(tr: Any) -> list[Any]:
            tries.append(1)
            return [job.options(via=tr).fire(1, 2), job.options(via=tr).fire(1, 2), job.options(via=tr).fire(3, 4)]

        faulty.fail(code, took=took, prefix=queue.store._link.space().prefix, count=2)  # type: ignore[attr-defined]
        runs = order(db)

        assert len(tries) == (2 if took else 3)  # what is there already is written no more
        assert sorted(run.id for run in runs) == sorted(run.id for run in queue.runs())
        assert count_states(queue.store) == {"queued": 3}


def test_a_transaction_that_is_used_again_after_its_commit_fires_new_runs(queue: SkunkQueue) -> None:
    """Only another try of the same is the same."""
    job = queue.event(add)
    tr = queue.store._link.database.create_transaction()  # type: ignore[attr-defined]

    for _ in range(2):
        job.options(via=tr).fire(1, 2)
        tr.commit().wait()
        tr.reset()

    assert count_states(queue.store) == {"queued": 2}


def test_a_unique_key_is_kept_in_a_transaction(queue: SkunkQueue) -> None:
    job = queue.event(add)
    first = job.options(unique="key").fire(1, 2)

    @fdb.transactional
    def order(tr: Any) -> Any:
        return job.options(unique="key", via=tr).fire(3, 4)

    assert order(queue.store._link.database).id == first.id  # type: ignore[attr-defined]
    assert count_states(queue.store) == {"queued": 1}


def test_what_is_no_transaction_of_this_cluster_is_refused(queue: SkunkQueue) -> None:
    job = queue.event(add)
    db = queue.store._link.database  # type: ignore[attr-defined]

    for wrong in (db, db.create_transaction().snapshot, object()):
        with pytest.raises(WrongCall, match=r"that an @fdb\.transactional function is given"):
            job.options(via=wrong).fire(1, 2)
    assert queue.store.find(Filter(), now=NOW) == []


@only_fake
def test_a_transaction_of_another_cluster_is_refused(queue: SkunkQueue, faulty: FakeCluster) -> None:
    tr = opened(faulty.file).create_transaction()

    with pytest.raises(WrongCall, match="of another cluster"):
        queue.event(add).options(via=tr).fire(1, 2)


def test_another_handle_to_the_same_cluster_is_taken(shared_fdb: str, name: str, tmp_path: Any) -> None:
    """As when the program names the cluster file in another way."""
    copy = tmp_path / "fdb.cluster"
    with open(shared_fdb) as file:
        copy.write_text(file.read())
    with closing(open_url(f"fdb://{copy}?prefix={name}")) as store:
        tr = opened(shared_fdb).create_transaction()

        store.put([sealed()], via=tr)
        tr.commit().wait()

        assert count_states(store) == {"queued": 1}
