"""The contract on every store: each named promise, then the random walk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from conftest import Opener
from pymongo import MongoClient
from redis_server import client_of

from skunkqueue.persistence import Persister
from skunkqueue.persistence.fdb import FDBPersister
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.persistence.mongodb import MongoPersister
from skunkqueue.persistence.mongodb.probe import has_transactions
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.testing import StoreContract, check_store, promises, random_walk
from skunkqueue.testing.makers import CallersTransaction


@contextmanager
def mongo_transaction(store: MongoPersister) -> Iterator[CallersTransaction | None]:
    """A session in a transaction, where the server has them: a replica set."""
    if not has_transactions(store._link):
        yield None
        return
    with MongoClient(store.target.secret) as client, client.start_session() as session:
        session.start_transaction()
        yield CallersTransaction(session, session.commit_transaction, session.abort_transaction)


class TestEveryStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _opener(self, open_store: Opener) -> None:
        self.opener = open_store

    def open_again(self, store: Persister) -> Persister:
        return self.opener()

    @contextmanager
    def begin(self, store: Persister) -> Iterator[CallersTransaction | None]:
        if isinstance(store, SQLitePersister):
            store.count()
            with closing(sqlite3.connect(store.path)) as db:
                yield CallersTransaction(db, db.commit, db.rollback)
        elif isinstance(store, MongoPersister):
            store.count()
            with mongo_transaction(store) as transaction:
                yield transaction
        elif isinstance(store, FDBPersister):
            tr = store._link.database.create_transaction()
            yield CallersTransaction(tr, lambda: tr.commit().wait(), tr.reset)
        elif store.takes_via:
            with client_of(store.url) as client, client.pipeline(transaction=True) as pipe:
                yield CallersTransaction(pipe, pipe.execute, pipe.reset)
        else:
            yield None


@pytest.mark.parametrize("seed", range(40))
def test_the_random_walk_finds_no_difference(store: Persister, seed: int) -> None:
    random_walk(store, seed=seed)


def test_a_store_can_be_checked_without_pytest(capsys: pytest.CaptureFixture[str]) -> None:
    broken = check_store(MemoryPersister, seeds=2, steps=20)

    assert broken == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(promises()) + 2
    assert lines[0] == "kept    a run is stored as it was sealed"


def test_checking_a_broken_store_says_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(MemoryPersister):
        def count(self):
            raise KeyError("no counts")

    broken = check_store(Broken, seeds=1, steps=20)

    assert "test_count_is_right_after_every_change" in broken
    assert "test_random_walk_0" in broken
    assert "test_a_completed_run_keeps_its_value" not in broken
    assert "BROKEN  count is right after every change: KeyError: 'no counts'" in capsys.readouterr().out


def test_no_promise_hides_another_of_the_same_name() -> None:
    parts = [name for part in StoreContract.__mro__ for name in vars(part) if name.startswith("test_")]

    assert sorted(parts) == sorted(promises())
