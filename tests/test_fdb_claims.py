"""Many claimers on one lane of a FoundationDB: they share it, spread it over shards, and leave nothing lying."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib import import_module
from typing import Any

import pytest
from fdb_servers import binding, drop, fresh_name

binding()

from skunkqueue.envelope import Outcome  # noqa: E402
from skunkqueue.persistence.fdb import FDBPersister, open_url  # noqa: E402
from skunkqueue.persistence.fdb.crowd import Share  # noqa: E402
from skunkqueue.persistence.fdb.layout import MOST_SHARDS, lane_of, time_key  # noqa: E402
from skunkqueue.testing import random_walk  # noqa: E402
from skunkqueue.testing.makers import LATE, NOW, count_states, ids_of, sealed, take, want  # noqa: E402

FOO = lane_of("demo", "foo")


@pytest.fixture
def url(shared_fdb: str) -> Iterator[str]:
    name = fresh_name()
    yield f"fdb://{shared_fdb}?prefix={name}"
    drop(shared_fdb, name)


@pytest.fixture
def store(url: str) -> Iterator[FDBPersister]:
    with closing(open_url(url)) as made:
        yield made


def keys_of(store: FDBPersister, tag: bytes) -> list[bytes]:
    found = store._link.database.get_range(*store._link.space().all(tag))
    return [pair.key for pair in found]


def shards_of(store: FDBPersister) -> Counter[int]:
    """How many open runs lie on each shard of the lane."""
    at = len(store._link.space().open) + len(FOO)
    return Counter(key[at] for key in keys_of(store, b"i"))


def set_width(store: FDBPersister, width: int) -> None:
    store._link.database[store._link.space().width(FOO)] = bytes([width])


def be_a_member(store: FDBPersister, name: bytes, until: float) -> None:
    """Write down another claimer of the lane, that is never seen."""
    store._link.database[store._link.space().members(FOO) + name] = time_key(until)


# -- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 3, 5, 8, 16, 32])
def test_each_run_is_in_the_share_of_exactly_one_member(members: int) -> None:
    width = 1 << (members - 1).bit_length()
    shares = [Share(position, members, width) for position in range(members)]

    owners = Counter(next(s.position for s in shares if s.owns(number)) for number in range(MOST_SHARDS))

    assert all(sum(share.owns(number) for share in shares) == 1 for number in range(MOST_SHARDS))
    assert len(owners) == members


@pytest.mark.parametrize("seed", range(3))
def test_the_random_walk_finds_no_difference_where_lanes_are_spread(
    store: FDBPersister, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claimer that is alone takes what all shards hold, in exact order."""
    for module in ("put", "claim"):
        monkeypatch.setattr(import_module(f"skunkqueue.persistence.fdb.{module}"), "width_of", lambda data: 4)

    random_walk(store, seed=seed)


def test_a_claim_of_more_than_a_shard_holds_is_in_order(store: FDBPersister) -> None:
    store.count()
    set_width(store, 16)
    store.put([sealed(n, due=NOW - n) for n in range(200)])

    assert len(shards_of(store)) > 8
    assert ids_of(take(store, limit=150)) == [sealed(n).id for n in reversed(range(50, 200))]


def test_a_member_takes_its_own_first_and_then_what_is_left(store: FDBPersister) -> None:
    """Nothing waits for a member that is never seen again."""
    store.put([sealed(n, due=NOW - 1) for n in range(40)])
    be_a_member(store, b"other", NOW + 3)
    store._crowd.met([FOO])

    given: list[str] = []
    while claims := take(store, f"token-{len(given)}", limit=5):
        assert ids_of(claims) == sorted(ids_of(claims))
        given += ids_of(claims)

    assert sorted(given) == [sealed(n).id for n in range(40)]
    assert given != sorted(given)  # its own were first
    assert store._link.database[store._link.space().width(FOO)] == b"\2"


def test_a_member_leaves_what_has_just_ripened_to_its_owner_for_a_moment(store: FDBPersister) -> None:
    """It comes back for it by itself."""
    store.count()
    be_a_member(store, b"other", NOW + 3)
    store._crowd.met([FOO])
    store.put([sealed(n) for n in range(20)])

    first = take(store, "A", limit=20)
    second = take(store, "B", limit=20)

    assert 0 < len(first) < 20
    assert sorted(ids_of([*first, *second])) == [sealed(n).id for n in range(20)]


def test_a_claimer_that_is_alone_again_takes_all_in_order(store: FDBPersister) -> None:
    be_a_member(store, b"other", NOW - 1)  # it has gone
    store._crowd.met([FOO])
    store.put([sealed(n) for n in range(20)])

    assert ids_of(take(store, limit=20)) == [sealed(n).id for n in range(20)]


def test_runs_put_after_a_lane_was_spread_lie_on_many_shards_until_a_purge_finds_it_empty(store: FDBPersister) -> None:
    store.put([sealed(n) for n in range(3)])
    assert shards_of(store) == {0: 3}
    set_width(store, 8)
    store.put([sealed(n) for n in range(3, 60)])
    assert len(shards_of(store)) == 8

    store.purge(now=NOW)
    assert len(keys_of(store, b"d")) == 1
    store.commit([(each, Outcome.complete(b"")) for each in take(store, limit=60)], now=NOW)
    store.purge(now=NOW)

    assert keys_of(store, b"d") == []
    store.put([sealed(99)])
    assert shards_of(store) == {0: 1}


# -- conflicts -------------------------------------------------------------------------------------------------------


def at_once(works: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def do(work: Callable[[], None]) -> None:
        try:
            start.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=do, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def drained(url: str, claimers: int, runs: int) -> tuple[Counter[str], float]:
    """How often each run was claimed, and the share of transactions that met another."""
    with ExitStack() as stack:
        handles = [stack.enter_context(closing(open_url(url))) for _ in range(claimers)]
        given: Counter[str] = Counter()
        for handle in handles:
            handle.count()

        def drain(handle: FDBPersister, name: int) -> None:
            turn, claims = 0, take(handle, f"{name}", limit=16)
            while claims:
                turn += 1
                given.update(ids_of(claims))
                done: Any = [(each, Outcome.complete(b"")) for each in claims]
                claims = handle.exchange(done, [want(f"{name}-{turn}", limit=16)], now=NOW + 1, until=LATE).claims

        at_once([lambda handle=handle, n=n: drain(handle, n) for n, handle in enumerate(handles)])  # type: ignore[misc]
        links = [handle._link for handle in handles]
        return given, sum(link.conflicts for link in links) / sum(link.transactions for link in links)


def test_many_claimers_take_each_run_once_and_seldom_meet(store: FDBPersister, url: str) -> None:
    """The share of those that do is measured by ``python -m bench fdb``; here it only shows that they share."""
    runs = 1600
    store.put([sealed(n) for n in range(runs)])

    given, share = drained(url, 8, runs)

    assert given == Counter(sealed(n).id for n in range(runs))
    assert count_states(store) == {"succeeded": runs}
    assert share < 0.35


def test_a_claim_and_a_put_at_the_same_moment_do_not_meet(store: FDBPersister, url: str) -> None:
    """A claim reads by snapshot, and a put adds to the counts; only what both write could meet."""
    store.put([sealed(n) for n in range(20)])
    tr = store._link.begin()
    from skunkqueue.persistence.fdb.claim import Claiming
    from skunkqueue.persistence.fdb.step import Step

    step = Step(tr, store._link.space(), NOW)
    found = Claiming(step, store._crowd, [want(limit=10)], LATE, 100, patient=True)
    step.flush()
    with closing(open_url(url)) as other:
        other.put([sealed(n, due=NOW - 9) for n in range(30, 40)])
        tr.commit().wait()

    assert len(found.claims) == 10
    assert count_states(store) == {"queued": 20, "running": 10}
