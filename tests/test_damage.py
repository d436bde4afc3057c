"""A damaged run costs itself only: its neighbours are claimed, and it can be got, failed, cancelled and purged."""

from __future__ import annotations

import sqlite3

import pytest

from skunkqueue.envelope import DAY, Filter, Outcome
from skunkqueue.persistence.redis import open_url as open_redis
from skunkqueue.persistence.sqlite import open_url as open_sqlite
from skunkqueue.testing.makers import LATE, NOW, count_states, ids_of, sealed, take, want

FRONT = [b"\x00\xff junk", b"=", b"!", b"=x ", b"\n", b"!a b c d 99999999\n", b"\xfe" * 300]
ROWS = {
    "no long body": "DELETE FROM long WHERE id = ?",
    **{
        f"{column} {kind}": f"UPDATE run SET {column} = {value} WHERE id = ?"
        for column in ("due", "keep", "expires", "uniq", "body", "lapses", "notes", "state", "worker", "error", "note")
        for kind, value in (("text", "'x'"), ("blob", "x'ff'"))
        if not (column == "body" and kind == "blob")
    },
    "another lane": "UPDATE run SET lane = 99 WHERE id = ?",
    "ripe text": "UPDATE run SET ripe = 'x' WHERE id = ?",
}


class OnRedis:
    def __init__(self, request, front):
        self.server, self.front = request.getfixturevalue("shared_redis"), front
        with self.server.client() as client:
            client.flushall()
        self.store = open_redis(self.server.url)

    def damage(self, id):
        with self.server.client() as client:
            client.hset("skunk:{demo}:run", id, self.front + client.hget("skunk:{demo}:run", id))

    def left(self):
        with self.server.client() as client:
            return [key for key in client.scan_iter() if b"{@}" not in key and b":mark:" not in key]


class OnSQLite:
    def __init__(self, request, statement):
        self.path, self.statement = request.getfixturevalue("tmp_path") / "runs.db", statement
        self.store = open_sqlite(f"sqlite:///{self.path}")

    def damage(self, id):
        with sqlite3.connect(self.path) as db:
            db.execute(self.statement, (id,))
        db.close()

    def left(self):
        with sqlite3.connect(self.path) as db:
            left = [table for table in ("run", "long", "taken") if db.execute(f"SELECT 1 FROM {table}").fetchone()]
        db.close()
        return left


CASES = [pytest.param(OnRedis, front, id=f"redis {front[:9]!r}") for front in FRONT]
CASES += [pytest.param(OnSQLite, sql, id=f"sqlite {name}") for name, sql in ROWS.items()]


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize(("kind", "how"), CASES)


@pytest.fixture
def damaged(request, kind, how):
    """A store with three runs, the second of which is damaged."""
    place = kind(request, how)
    place.store.put([sealed(n, body=b"x" * 1000, expires=NOW + DAY if n == 2 else None) for n in (1, 2, 3)])
    place.damage(sealed(2).id)
    yield place
    place.store.close()


def test_its_neighbours_are_claimed_and_it_can_be_failed(damaged):
    store = damaged.store

    claims = take(store)

    assert {sealed(1).id, sealed(3).id} <= set(ids_of(claims))
    assert store.commit([(c, Outcome.failed("unread")) for c in claims], now=NOW) == set(ids_of(claims))
    assert take(store, "B", now=LATE) == []
    assert store.exchange([], [want("C")], now=NOW, until=LATE).claims == []


def test_it_can_be_got_found_and_cancelled(damaged):
    store = damaged.store
    every = [sealed(n).id for n in (1, 2, 3)]

    assert set(store.get(every)) == set(every)
    assert [record.id for record in store.find(Filter(), now=NOW)] == every[::-1]
    assert {record.id for record in store.cancel(every, now=NOW)} == set(every)
    assert take(store, now=LATE) == []


def test_it_is_purged_in_the_end(damaged):
    store = damaged.store
    claims = take(store)
    store.commit([(claim, Outcome.failed("unread", keep=0.0)) for claim in claims], now=NOW)
    store.cancel([sealed(2).id], now=NOW)

    for _ in range(3):
        store.purge(now=NOW + 9 * DAY)

    assert store.get([sealed(n).id for n in (1, 2, 3)]) == {}
    assert damaged.left() == []


def test_a_damaged_ended_run_is_got_and_purged(damaged):
    store = damaged.store
    store.put([sealed(n) for n in (4, 5)])
    store.cancel([sealed(n).id for n in (4, 5)], now=NOW)
    damaged.damage(sealed(4).id)

    assert set(store.get([sealed(4).id, sealed(5).id])) == {sealed(4).id, sealed(5).id}
    store.purge(now=NOW + 9 * DAY)

    assert store.get([sealed(4).id, sealed(5).id]) == {}
    assert count_states(store).get("cancelled", 0) <= 1  # the damaged open one may have expired


def test_what_is_no_queue_beside_the_queues_stops_nobody(shared_redis):
    with shared_redis.client() as client:
        client.flushall()
        client.hset("skunk:{@}:queues", mapping={b"\xff\xfe": 1, "demo": b"junk", "other": b""})
    store = open_redis(shared_redis.url)

    store.put([sealed()])
    claims = take(store)

    assert store.commit([(claim, Outcome.failed("no")) for claim in claims], now=NOW) == {sealed().id}
    assert [record.id for record in store.find(Filter(), now=NOW)] == [sealed().id]
    assert count_states(store) == {"failed": 1}
    store.purge(now=NOW + 9 * DAY)
    assert store.get([sealed().id]) == {}
    store.close()


def test_a_damaged_count_is_left_out(shared_redis):
    with shared_redis.client() as client:
        client.flushall()
    store = open_redis(shared_redis.url)
    store.put([sealed()])
    with shared_redis.client() as client:
        client.hset("skunk:{demo}:count", mapping={b"\xff": 1, b"zroute": 3, b"sother": b"junk", b"": 1})

    assert count_states(store) == {"queued": 1}
    store.close()
