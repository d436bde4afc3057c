"""Finds runs of a SQLite store by queue, route and state, from the newest on."""

# ruff: noqa: S608 - statements are put together from constants and numbers, never from what people give

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from skunkqueue.envelope import Filter, Record, State
from skunkqueue.persistence.sqlite.rows import STATES, lanes_with, named_lanes, record_of
from skunkqueue.persistence.sqlite.sql import (
    BRIEF_FOUND,
    FIND_SORTING,
    FIND_WALKING,
    FOUND,
    QUEUED,
    RUNNING,
    TOTALS,
)
from skunkqueue.routes import base_route

FEW: Final = 5000
"""Up to so many runs on a shelf, sorting them is always cheap."""

FEW_LANES: Final = 100
"""Up to so many lanes are named one by one in a query; its text has a largest size."""

LAST: Final = b"\xff" * 300
"""Above every id, also one that is no text."""


class _Condition(NamedTuple):
    """A part of a query, and the values in it."""

    text: str
    values: tuple[Any, ...] = ()


def found(
    db: sqlite3.Connection,
    which: Filter,
    now: float,
    after: str | None,
    limit: int,
    most: int | None = None,
) -> list[Record]:
    """The records for ``find``, read in one of two ways: all runs from the newest on, or sorted from their shelves.

    Brief with ``most``, which is the most bytes of a value.
    """
    lanes = _Lanes.of(db, which)
    if lanes.numbers == ():
        return []
    sorting = which.state is not None and _is_cheaper(db, which.state, lanes, limit)
    tests = _tests(which, lanes, sorting)
    find = (FIND_SORTING if sorting else FIND_WALKING).format(" AND ".join(test.text for test in tests) or "1")
    asked = (LAST if after is None else after, *(value for test in tests for value in test.values))
    asked += (now, limit) if which.state == State.SCHEDULED else (limit,)
    if most is None:
        return [record_of(db, row) for row in db.execute(FOUND.format(find), asked).fetchall()]
    rows = db.execute(BRIEF_FOUND.format(find), (most, *asked)).fetchall()
    return [record_of(db, row, brief=True) for row in rows]


class _Lanes(NamedTuple):
    """The lanes that a filter names: their numbers, or None where they are many; and how to find them."""

    numbers: tuple[int, ...] | None
    counts: Sequence[float]
    named: _Condition

    @classmethod
    def of(cls, db: sqlite3.Connection, which: Filter) -> _Lanes:
        named = _Condition(*named_lanes(which.queue, which.route))
        found = lanes_with(db, which.queue, which.route, FEW_LANES + 1)
        if len(found) > FEW_LANES:
            counts = () if which.state is None else _totals(db, named)
            return cls(None, counts, named)
        fitting = [(n, counts) for queue, route, counts, n in found if _fits(which, queue, route)]
        totals = [sum(each) for each in zip(*(counts for _, counts in fitting), strict=True)]
        return cls(tuple(n for n, _ in fitting), totals, named)

    def hold(self, shelf: str) -> _Condition:
        """That the lane, or shelf, of a run is one of them."""
        if self.numbers is not None:
            return _Condition(f"{shelf} IN ({', '.join(map(str, self.numbers))})")
        if shelf == "lane":  # looked up for each run that is read: those are few where many runs match
            return _Condition(
                f"EXISTS (SELECT 1 FROM lane AS l WHERE l.n = run.lane AND {self.named.text})", self.named.values
            )
        return _Condition(f"{shelf} IN (SELECT n FROM lane WHERE {self.named.text})", self.named.values)


def _fits(which: Filter, queue: str, route: str) -> bool:
    return which.queue in (None, queue) and which.route in (None, base_route(route))


def _tests(which: Filter, lanes: _Lanes, sorting: bool) -> list[_Condition]:
    """The conditions of the query; none of them contains text from the caller."""
    tests = []
    if sorting and which.state is not None:
        ended = _stored(which.state) > RUNNING
        tests.append(_Condition(f"shelf = {-_stored(which.state)}") if ended else lanes.hold("shelf"))
    if which.queue is not None or which.route is not None:
        tests.append(lanes.hold("lane"))
    if which.state is not None:
        tests.append(_Condition(f"state = {_stored(which.state)}"))
    if which.state == State.SCHEDULED:
        tests.append(_Condition("ripe > ?"))
    return tests


def _stored(state: State) -> int:
    return QUEUED if state == State.SCHEDULED else STATES.index(state)


def _totals(db: sqlite3.Connection, named: _Condition) -> list[float]:
    return list(db.execute(f"{TOTALS} {named.text}", named.values).fetchone())


def _is_cheaper(db: sqlite3.Connection, state: State, lanes: _Lanes, limit: int) -> bool:
    """Whether sorting the shelves reads fewer rows than reading all runs until enough match."""
    stored = _stored(state)
    open_here = lanes.counts[QUEUED] + lanes.counts[RUNNING]
    if stored <= RUNNING and open_here <= FEW:
        return True
    totals = _totals(db, _Condition("1"))
    on_shelves = open_here if stored <= RUNNING else totals[stored]
    return on_shelves <= FEW or on_shelves * lanes.counts[stored] <= limit * sum(totals)
