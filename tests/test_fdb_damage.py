"""Damaged records in a FoundationDB: they cost the damaged run and no other, and nothing of them is left in the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from fdb_servers import binding, drop, fresh_name, opened

binding()

from skunkqueue.envelope import DAY, Filter, Outcome  # noqa: E402
from skunkqueue.persistence.fdb import FDBPersister, open_url  # noqa: E402
from skunkqueue.testing.damage import Field, Fields, damaged_walk  # noqa: E402
from skunkqueue.testing.makers import LATE, NOW, count_states, ids_of, sealed, take  # noqa: E402


def fields(store: FDBPersister) -> Fields:
    """The values of a run's keys: its record, its place, its pieces, and by when it ends or is purged."""
    db = store._link.database

    def keys_of(id: str) -> list[bytes]:
        space, end = store._link.space(), id.encode()
        found = [space.run + end]
        for tag in (b"i", b"e", b"p"):
            found += [pair.key for pair in db.get_range(*space.all(tag)) if pair.key.endswith(end)]
        return found + [pair.key for pair in db.get_range(*space.pieces(id))]

    def read(key: bytes) -> bytes | None:
        found: bytes | None = db[key]
        return found

    def write(key: bytes, data: bytes | None) -> None:
        if data is None:
            del db[key]
        else:
            db[key] = data

    def all_of(ids: Sequence[str]) -> list[Field]:
        return [Field(id, repr(key), partial(read, key), partial(write, key)) for id in ids for key in keys_of(id)]

    return all_of


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 60))])
def test_random_damage_costs_the_damaged_run_only(shared_fdb: str, seed: int) -> None:
    name = fresh_name()
    with closing(open_url(f"fdb://{shared_fdb}?prefix={name}")) as store:
        store.count()

        damaged_walk(store, fields(store), seed=seed)
    drop(shared_fdb, name)


@pytest.mark.parametrize("data", [b"", b"junk", None])
@pytest.mark.parametrize("kind", ["record", "place", "both"])
def test_a_damaged_run_is_claimed_and_can_be_failed_or_cancelled(
    shared_fdb: str, kind: str, data: bytes | None
) -> None:
    name = fresh_name()
    with closing(open_url(f"fdb://{shared_fdb}?prefix={name}")) as store:
        store.put([sealed(n) for n in (1, 2, 3)])
        space, db = store._link.space(), opened(shared_fdb)
        places = [space.run_key(sealed(2).id)] if kind in ("record", "both") else []
        if kind in ("place", "both"):
            places += [pair.key for pair in db.get_range(*space.all(b"i")) if pair.key.endswith(sealed(2).id.encode())]
        for key in places:
            _damage(db, key, data)

        claims = take(store)
        store.commit([(claim, Outcome.failed("unread", keep=0.0)) for claim in claims], now=NOW)
        store.cancel([sealed(n).id for n in (1, 2, 3)], now=NOW)

        assert {sealed(1).id, sealed(3).id} <= set(ids_of(claims))
        assert take(store, "B", now=LATE) == []
        for _ in range(3):
            store.purge(now=NOW + 9 * DAY)
        assert store.find(Filter(), now=NOW) == []
        if kind == "record" or data == b"junk":  # what leaves no trace of where it was is counted there for ever
            assert count_states(store) == {}
    drop(shared_fdb, name)


def test_pieces_without_a_run_are_purged_and_those_of_others_stay(shared_fdb: str) -> None:
    name = fresh_name()
    with closing(open_url(f"fdb://{shared_fdb}?prefix={name}")) as store:
        ids = [sealed(n).id for n in range(60)] + ["ab", "ab\u00e9", "a\0b", "a"]
        store.put([sealed(0, body=b"b" * 9000)._replace(id=id) for id in ids])
        space, db = store._link.space(), opened(shared_fdb)
        gone = {"ab", "a\0b", *ids[:50:2]}
        for key in (pair.key for tag in (b"r", b"i") for pair in db.get_range(*space.all(tag))):
            if any(key.endswith(id.encode()) for id in gone - {"ab"}) or key.endswith((b"rab", b"\0ab")):
                del db[key]
        strange = [space.prefix + b"x" + rest for rest in (b"ab\xff\0\0\0\0\0\0", b"ab\x80\0\0\0\0\0\0", b"cd")]
        for key in strange:
            db[key] = b"left"
        there = {pair.key[len(space.run) :] for pair in db.get_range(*space.all(b"r"))}

        for _ in range(10):
            store.purge(now=NOW)

        left = {space.run_of_piece(pair.key)[0][len(space.run) :] for pair in db.get_range(*space.all(b"x"))}
        assert left == there != set()
        assert {"ab\u00e9".encode(), b"a"} <= left
    drop(shared_fdb, name)


def _damage(db: Any, key: bytes, data: bytes | None) -> None:
    if data is None:
        del db[key]
    else:
        db[key] = data
