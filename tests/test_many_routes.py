"""Very many routes, as a limit of many keys makes them: what pools ask for again and again does not look at each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from skunkqueue.envelope import Filter, Outcome, State
from skunkqueue.persistence import WORKER_GONE, Persister
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.routes import address
from skunkqueue.testing.makers import NOW, sealed, take

MANY = 6000
PAUSES = Filter("demo", "~pauses", State.QUEUED)


def fill(store: Persister) -> None:
    for start in range(0, MANY, 500):
        store.put([sealed(n, route=f"foo^.{n}") for n in range(start, start + 500)])


@pytest.fixture
def many(shared_redis: Any) -> Iterator[Persister]:
    from skunkqueue.persistence.redis import open_url

    with shared_redis.client() as client:
        client.flushall()
    with closing(open_url(shared_redis.url)) as store:
        fill(store)
        yield store


def calls_of(server: Any, command: str) -> int:
    calls: int = server.ask("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]
    return calls


def test_what_a_pool_asks_redis_for_reads_no_list_of_all_routes(shared_redis: Any, many: Persister) -> None:
    shared_redis.ask("CONFIG", "RESETSTAT")

    many.find(PAUSES, now=NOW)
    many.purge(now=NOW)
    assert len(take(many, "A", "foo^.7")) == 1

    assert calls_of(shared_redis, "hscan") == 1
    assert calls_of(shared_redis, "hkeys") == 0
    assert calls_of(shared_redis, "hgetall") <= 1  # the names of queues


def test_runs_of_a_route_that_have_ended_are_found_among_many_without_a_look_at_each_route(
    shared_redis: Any, many: Persister
) -> None:
    claims = take(many, "A", *(f"foo^.{n}" for n in range(300)), limit=300)
    many.commit([(claim, Outcome.complete(b"")) for claim in claims], now=NOW)
    shared_redis.ask("CONFIG", "RESETSTAT")

    for state in (State.SUCCEEDED, None):
        assert len(many.find(Filter("demo", "foo", state), now=NOW, limit=1000)) == (300 if state else 1000)

    assert calls_of(shared_redis, "hkeys") <= 2  # there are few enough to read their names once in each
    assert calls_of(shared_redis, "zscore") < 5000


def test_runs_addressed_to_who_is_gone_are_ended_among_many_routes_of_redis(many: Persister) -> None:
    many.beat("gone", "", until=NOW + 5)
    many.beat("here", "", until=NOW + 500)
    names = ["here", "gone", "never"]
    runs = [sealed(MANY + n, route=address(name)) for n, name in enumerate(names)]
    many.put(runs)

    many.purge(now=NOW + 10)
    assert many.get([runs[1].id])[runs[1].id].error == WORKER_GONE
    for _ in range(4):  # each looks at some of them
        many.purge(now=NOW + 10)

    records = many.get([run.id for run in runs])
    assert [records[run.id].error for run in runs] == [None, WORKER_GONE, WORKER_GONE]


def test_a_key_of_redis_that_was_lost_is_noticed_among_many_routes(shared_redis: Any, many: Persister) -> None:
    assert shared_redis.ask("DEL", "skunk:{demo}:ripe:foo^.99") == 1
    assert take(many, "A", "foo^.99") == []

    for _ in range(4):
        many.purge(now=NOW)

    assert [claim.id for claim in take(many, "B", "foo^.99")] == [sealed(99).id]


def test_what_a_pool_asks_sqlite_for_reads_few_rows(tmp_path: Path) -> None:
    """Counted in SQLite's own steps, which no other load on the machine changes."""
    path = tmp_path / "runs.db"
    with closing(SQLitePersister(str(path))) as store:
        few = _steps(store, PAUSES)
        fill(store)

        assert _steps(store, PAUSES) <= few + 50
        assert _steps(store, Filter("demo", "foo")) < MANY


def _steps(store: Any, which: Filter) -> int:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with store._file.reading() as db:
        assert isinstance(db, sqlite3.Connection)
        db.set_progress_handler(count, 1)
    store.find(which, now=NOW, limit=10)
    with store._file.reading() as db:
        db.set_progress_handler(None, 1)
    return steps
