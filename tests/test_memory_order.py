"""The memory store finds what is ripe in order, without looking at all runs, and forgets what has left."""

from __future__ import annotations

import time

import pytest

from skunkqueue.envelope import Envelope, Outcome, State, Want
from skunkqueue.ids import new_token
from skunkqueue.persistence.memory import MemoryPersister

NOW = 1_000_000_000.0


def envelope(id: str, route: str, *, due: float = NOW, unique: str | None = None) -> Envelope:
    return Envelope(id, "demo", route, due, b"", None, unique, 0.0)


def claim_one(store: MemoryPersister, route: str, now: float) -> str:
    (claim,) = store.claim([Want("demo", (route,), "w", new_token(), 1)], now=now, until=now + 60)
    store.commit([(claim, Outcome.complete(None))], now=now)
    return claim.id


def test_an_id_that_is_put_again_on_another_route_has_left_its_old_one() -> None:
    store = MemoryPersister()
    store.put([envelope("1", "@nobody")])
    store.cancel(["1"], now=NOW)
    store.purge(now=NOW + 1000)

    store.put([envelope("1", "b")])
    store.purge(now=NOW + 1000)

    assert store.get(["1"])["1"].state == State.QUEUED
    assert store.claim([Want("demo", ("@nobody",), "w", "t", 9)], now=NOW, until=NOW + 60) == []
    assert claim_one(store, "b", NOW) == "1"


def test_a_run_that_comes_back_to_its_old_time_is_given_once() -> None:
    store = MemoryPersister()
    store.put([envelope("1", "b")])
    want = Want("demo", ("b",), "w", "t", 9)
    for _ in range(3):
        (claim,) = store.claim([want], now=NOW, until=NOW + 60)
        store.commit([(claim, Outcome.untouched())], now=NOW)

    found = store.claim([want], now=NOW, until=NOW + 60)

    assert [claim.id for claim in found] == ["1"]


@pytest.mark.alone
def test_claims_do_not_slow_down_with_the_runs_that_wait_or_have_ended() -> None:
    def seconds(waiting: int) -> float:
        store = MemoryPersister()
        store.put([envelope(f"{n:08}", "b", unique=f"u{n}") for n in range(waiting)])
        for _ in range(waiting // 2):
            claim_one(store, "b", NOW)
        began = time.perf_counter()
        for _ in range(200):
            claim_one(store, "b", NOW)
        return time.perf_counter() - began

    few = min(seconds(500) for _ in range(3))

    assert seconds(20_000) < 20 * few
