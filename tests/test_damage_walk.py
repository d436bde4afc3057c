"""Random damage to records while a store is in use, on every store that keeps bytes; the seeds are printed."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skunkqueue.persistence.redis import open_url as open_redis
from skunkqueue.persistence.sqlite import open_url as open_sqlite
from skunkqueue.testing.damage import ROUTES, Field, Fields, damaged_walk

COLUMNS = (
    "lane", "shelf", "ripe", "state", "due", "expires", "uniq", "keep", "token", "worker", "lapses", "notes", "error",
    "progress", "note", "ended", "value", "body",
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+(\.\d+)?(e[+-]?\d{1,2})?")
ROWS = {"run": ("id", COLUMNS), "long": ("id", ("body",))}


def rows(path: Path) -> Fields:
    """The columns of a run's rows in the file; written as bytes, as text or as a number, whatever they were."""

    def run(statement: str, *args: Any) -> Any:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.text_factory = bytes
            return db.execute(statement, args).fetchone()

    def read(table: str, column: str, id: str) -> bytes | None:
        found = run(f"SELECT {column} FROM {table} WHERE id = ?", id)
        if found is None or found[0] is None:
            return None
        return found[0] if isinstance(found[0], bytes) else str(found[0]).encode()

    def write(table: str, column: str, id: str, data: bytes | None) -> None:
        was = run(f"SELECT typeof({column}) FROM {table} WHERE id = ?", id)[0]
        value: Any = data
        if data is not None and was in (b"integer", b"real", b"text"):
            value = data.decode("latin-1")  # the column's affinity makes a number of it, where it is one
        run(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE id = ?", value, id)

    def fields(ids: Sequence[str]) -> list[Field]:
        places = [(table, column) for table, (_, columns) in ROWS.items() for column in columns]
        return [
            Field(id, f"{table}.{column}", partial(read, table, column, id), partial(write, table, column, id))
            for id in ids
            for table, column in places
        ]

    return fields


HASHES = ("run", "claims", "done")
SETS = (*(f"ripe:{route}" for route in ROUTES), *(f"ended:{letter}" for letter in "sfc"), "expires")


def keys(server: Any) -> Fields:
    """A run's fields in the hashes of its queue, and its times in the sets."""

    def key(name: str) -> str:
        return f"skunk:{{demo}}:{name}"

    def read(name: str, id: str) -> bytes | None:
        with server.client() as client:
            if name in HASHES:
                return client.hget(key(name), id)
            score = client.zscore(key(name), id)
            return None if score is None else repr(score).encode()

    def write(name: str, id: str, data: bytes | None) -> None:
        with server.client() as client:
            if name in HASHES:
                client.hset(key(name), id, data or b"")
            elif NUMBER.fullmatch(data or b""):  # a set holds nothing else
                client.zadd(key(name), {id: float(data or b"")})

    def fields(ids: Sequence[str]) -> list[Field]:
        return [
            Field(id, name, partial(read, name, id), partial(write, name, id))
            for id in ids
            for name in (*HASHES, *SETS)
        ]

    return fields


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 60))])
def test_random_damage_on_sqlite_costs_the_damaged_run_only(tmp_path: Path, seed: int) -> None:
    with closing(open_sqlite(f"sqlite:///{tmp_path}/runs.db")) as store:
        store.count()

        damaged_walk(store, rows(tmp_path / "runs.db"), seed=seed)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 60))])
def test_random_damage_on_redis_costs_the_damaged_run_only(shared_redis: Any, seed: int) -> None:
    with shared_redis.client() as client:
        client.flushall()
    with closing(open_redis(shared_redis.url)) as store:
        damaged_walk(store, keys(shared_redis), seed=seed)
        left = [key for key in shared_redis.ask("KEYS", "*") if b":mark:" not in key]
        assert left == [], f"keys are left: {left}"
