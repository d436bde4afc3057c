"""Runs with one due time run in the order of firing, on every store, however they are fired."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import STORES
from pools import LIMIT

from skunkqueue import SkunkQueue, WorkerPool
from skunkqueue.envelope import Exchange
from skunkqueue.persistence import Persister

COUNT = 120


def when(number: int) -> int:
    return time.monotonic_ns()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def queue(request: pytest.FixtureRequest) -> Iterator[SkunkQueue]:
    url = STORES[request.param](request)().url
    if request.param == "memory":
        url = f"memory://{request.node.name}"
    with SkunkQueue("demo", url) as opened:
        yield opened


def one_by_one(job, numbers):  # type: ignore[no-untyped-def]
    return [job.fire_at(1.5, n) for n in numbers]


def all_at_once(job, numbers):  # type: ignore[no-untyped-def]
    return list(job.fire_many([(n,) for n in numbers]))


def in_some_batches(job, numbers):  # type: ignore[no-untyped-def]
    sizes = itertools.cycle((1, 5, 1, 1, 20))
    runs = []
    while some := list(itertools.islice(numbers, next(sizes))):
        runs += job.fire_many([(n,) for n in some]) if len(some) > 1 else [job.fire(some[0])]
    return runs


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
@pytest.mark.parametrize("fire", [one_by_one, all_at_once, in_some_batches])
def test_runs_of_one_due_run_in_the_order_they_were_fired(
    queue: SkunkQueue, monkeypatch: pytest.MonkeyPatch, fire: Callable, priority: str
) -> None:
    job = queue.event(when, priority=priority)
    now = queue.now()
    monkeypatch.setattr(queue, "now", lambda: now)

    runs = fire(job, iter(range(COUNT)))
    with WorkerPool(queue, in_process=True, log=io.StringIO()):
        started = [run.wait(LIMIT) for run in runs]

    assert started == sorted(started)


TAKEN_BACK = 0.25
"""Seconds after which a pool takes back the runs that wait behind a long one."""


def long_where(number: int, long: int) -> int:
    began = time.monotonic_ns()
    if number == long:
        time.sleep(1.5 * TAKEN_BACK)
    return began


def late_beside_others(store: Persister) -> Callable[..., Exchange]:
    """What answers late, once, when it has claimed runs for a worker that has others."""
    exchange, held = store.exchange, set()

    def exchange_late(outcomes, wants, *, now, until):  # type: ignore[no-untyped-def]
        found = exchange(outcomes, wants, now=now, until=until)
        held.difference_update(claim.id for claim, _ in outcomes)
        if held and found.claims and not exchange_late.was_late:
            exchange_late.was_late = True
            time.sleep(4 * TAKEN_BACK)
        held.update(claim.id for claim in found.claims)
        return found

    exchange_late.was_late = False
    return exchange_late


def test_runs_taken_back_from_behind_a_long_one_stay_before_those_being_claimed(
    queue: SkunkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = late_beside_others(queue.store)
    monkeypatch.setattr(queue.store, "exchange", late)
    monkeypatch.setattr(queue.store, "channel", lambda queue: None)
    runs = list(queue.event(long_where).fire_many([(n, 2) for n in range(COUNT)]))

    with WorkerPool(queue, in_process=True, log=io.StringIO()):
        started = [run.wait(LIMIT) for run in runs]

    assert late.was_late
    assert started == sorted(started)
