"""The clock of a FoundationDB store: the same for all processes, whatever their wall clocks say, across recoveries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from fdb_servers import FakeCluster, binding, drop, fresh_name, fresh_url, only_fake

binding()

from skunkqueue.persistence.fdb import FDBPersister, clock, open_url  # noqa: E402
from skunkqueue.persistence.fdb.clock import QUICK, StoreClock  # noqa: E402

HOUR = 3600.0
NEAR = 3.0
"""Seconds. A machine this busy may hold a commit up."""


@pytest.fixture(scope="module")
def faulty() -> Iterator[FakeCluster]:
    with FakeCluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement on a busy machine is one all the same."""
    monkeypatch.setattr(clock, "QUICK", 100.0)


class _Wrong:
    """A wall clock that is ahead."""

    def __init__(self, by: float) -> None:
        self._by = by

    def time(self) -> float:
        return time.time() + self._by


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Callable[[FDBPersister], float | None]:
    """Measures as a process does whose wall clock is an hour ahead; gives the store's clock minus the right one."""

    def measured(store: FDBPersister) -> float | None:
        with monkeypatch.context() as patched:
            patched.setattr(clock, "time", _Wrong(HOUR))
            offset = store.offset()
        return None if offset is None else offset + HOUR

    return measured


def near(offset: float | None, wanted: float) -> bool:
    return offset is not None and abs(offset - wanted) < NEAR


def test_two_stores_have_one_clock_whatever_their_wall_clocks_say(
    shared_fdb: str, ahead: Callable[[FDBPersister], float | None]
) -> None:
    name = fresh_name()
    url = f"fdb://{shared_fdb}?prefix={name}"
    with closing(open_url(url)) as one, closing(open_url(url)) as two:
        assert near(one.offset(), 0)
        assert near(ahead(two), 0)
    drop(shared_fdb, name)


@only_fake
def test_a_recovery_moves_no_clock(faulty: FakeCluster) -> None:
    """Versions jump by a hundred seconds' worth: those who had measured go on, those who come after that agree."""
    url = fresh_url(faulty.file)
    with closing(open_url(url)) as one, closing(open_url(url)) as two:
        before = one.offset(), two.offset()
        faulty.age(100)

        with closing(open_url(url)) as late:
            after = two.offset(), one.offset(), late.offset()

    assert all(near(each, 0) for each in (*before, *after))


@only_fake
def test_who_comes_first_after_a_recovery_takes_its_own_wall_clock(faulty: FakeCluster) -> None:
    url = fresh_url(faulty.file)
    with closing(open_url(url)) as one:
        one.offset()
    faulty.age(100)
    with closing(open_url(url)) as late:
        assert near(late.offset(), 0)


@only_fake
def test_who_comes_after_a_recovery_with_a_wrong_clock_moves_that_of_nobody_else(
    faulty: FakeCluster, ahead: Callable[[FDBPersister], float | None]
) -> None:
    """It measures before those do who know better; they put it right, and it follows."""
    url = fresh_url(faulty.file)
    with closing(open_url(url)) as pool, closing(open_url(url)) as late:
        assert near(pool.offset(), 0)
        faulty.age(100)

        assert near(ahead(late), HOUR)
        assert near(pool.offset(), 0)
        assert near(ahead(late), 0)


@only_fake
def test_a_first_measurement_that_was_slow_is_no_recovery_afterwards(
    faulty: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be wrong by as much as it took; that does not move the clock of the others."""
    url = fresh_url(faulty.file)
    with closing(open_url(url)) as one, closing(open_url(url)) as two:
        before = one.offset()
        quick = StoreClock._measure

        def slow(self: StoreClock) -> Any:
            """As where the commit was made at once, and its answer came six seconds later."""
            found = quick(self)
            return found._replace(ticks=found.ticks + 3, wall=found.wall + 3, took=6.0)

        monkeypatch.setattr(StoreClock, "_measure", slow)
        two.offset()
        monkeypatch.setattr(StoreClock, "_measure", quick)
        two.offset()

        assert before is not None
        assert abs((one.offset() or 0.0) - before) < 1
    assert QUICK < 1
