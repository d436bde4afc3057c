"""Every key that a queue keeps in Redis, damaged in every way: it costs what was in it, and nothing stands still."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import pytest
from pools import LIMIT

from skunkqueue import SkunkQueue
from skunkqueue.envelope import DAY, FINDABLE, Filter, Outcome, State
from skunkqueue.persistence import RunKey, WorkKey
from skunkqueue.persistence.redis import RedisPersister
from skunkqueue.persistence.redis import mend as mending
from skunkqueue.persistence.redis import open_url as open_redis
from skunkqueue.persistence.redis.wire import id_of
from skunkqueue.testing.makers import NOW, sealed, take, want
from skunkqueue.worker import WorkerPool

ROUTES = ("foo", "bar")
JUNK = (b"\xff\x00 junk", b"", b"1.5", b"9" * 40)
SCORES = (float("inf"), float("-inf"), 1e300, -1e300)
KINDS: dict[str, Callable[[Any, bytes], object]] = {
    "string": lambda client, key: client.set(key, b"\xff junk"),
    "list": lambda client, key: client.rpush(key, b"\xff junk"),
    "set": lambda client, key: client.sadd(key, b"\xff junk"),
    "hash": lambda client, key: client.hset(key, b"\xff junk", b"\xff junk"),
    "zset": lambda client, key: client.zadd(key, {b"\xff junk": 1.0}),
}


class Damage(NamedTuple):
    """One way to damage a key, with the ids of the runs that it may cost."""

    told: str
    do: Callable[[], object]
    costs: set[str]


def ids_in(client: Any, key: bytes, kind: bytes) -> set[str]:
    found = {b"hash": client.hkeys, b"zset": lambda key: client.zrange(key, 0, -1)}.get(kind, lambda key: [])(key)
    return {id_of(id) for id in found}


def damages(client: Any, key: bytes) -> Iterator[Damage]:
    """Every damage of one key that this test knows."""
    kind = client.type(key)
    every = ids_in(client, key, kind)
    yield Damage("gone", lambda: client.delete(key), every)
    for other, make in KINDS.items():
        if other.encode() != kind:
            yield Damage(f"a {other}", lambda make=make: (client.delete(key), make(client, key)), every)
    yield from {b"hash": of_hash, b"zset": of_set, b"string": of_string, b"list": of_list}[kind](client, key)


def of_hash(client: Any, key: bytes) -> Iterator[Damage]:
    for name in [*client.hkeys(key), b"\xff stray", b""]:
        for junk in JUNK:
            told = f"{name!r} is {junk!r}"
            yield Damage(told, lambda name=name, junk=junk: client.hset(key, name, junk), {id_of(name)})


def of_set(client: Any, key: bytes) -> Iterator[Damage]:
    for name in [*client.zrange(key, 0, -1), b"\xff stray", b""]:
        for score in SCORES:
            told = f"{name!r} at {score}"
            yield Damage(told, lambda name=name, score=score: client.zadd(key, {name: score}), {id_of(name)})


def of_string(client: Any, key: bytes) -> Iterator[Damage]:
    text = client.get(key)
    for junk in (*JUNK, text[: len(text) // 2], text + b"\xff"):
        yield Damage(f"{junk!r}", lambda junk=junk: client.set(key, junk), set())


def of_list(client: Any, key: bytes) -> Iterator[Damage]:
    for junk in JUNK:
        yield Damage(f"{junk!r}", lambda junk=junk: client.lset(key, 0, junk), set())


def run_in_every_state(store: RedisPersister) -> None:
    """Runs in every state, one that somebody waits for, a worker with an order, a page with a gap."""
    store.put([sealed(n, route="bar" if n == 9 else "foo") for n in (1, 4, 5, 6, 7, 8, 9)])
    store.put([sealed(10, keep=0.0)])
    store.put([sealed(2, due=NOW + 50), sealed(3, expires=NOW + DAY, unique="key"), sealed(20, queue="other")])
    claims = {claim.id: claim for claim in store.claim([want("H", limit=100)], now=NOW, until=NOW + 15)}

    def end(number: int, outcome: Outcome) -> None:
        store.commit([(claims[sealed(number).id], outcome)], now=NOW)

    end(5, Outcome.complete(b"value"))
    end(10, Outcome.complete(b"value"))
    assert store.purge(now=NOW + 61) == 1  # leaves a gap on its page
    end(6, Outcome.failed("no", keep=DAY))
    end(8, Outcome.again(due=NOW + 5, error="once more"))
    end(1, Outcome.untouched())
    end(3, Outcome.untouched())
    store.cancel([sealed(7).id], now=NOW)
    store.beat("worker-1", '{"queue": "demo"}', until=NOW + 1000)
    store.tell("worker-1", "gentle")
    store._run("listen", "skunk:{demo}", ["bell", sealed(1).id, sealed(4).id])
    store._run("listen", "skunk:{demo}", ["bell", sealed(5).id])


def use(store: RedisPersister, before: set[str]) -> None:
    """Use every verb: none may raise."""
    ids = sorted(before)
    assert set(store.get(ids)) <= before
    for state in (None, *FINDABLE):
        for route in (None, "foo"):
            store.find(Filter("demo", route, state), now=NOW)
            store.find_brief(Filter("demo", route, state), now=NOW, values=0)
    store.find(Filter(), now=NOW, limit=1000)
    store.count()
    assert store.workers(now=NOW).keys() <= {"worker-1"}
    orders = store.beat("worker-1", '{"queue": "demo"}', until=NOW + 1000)
    store.tell("worker-1", "rough")
    orders = store.beat("worker-1", '{"queue": "demo"}', seen=[order.id for order in orders], until=NOW + 1000)
    assert "rough" in [order.text for order in orders]
    store.wait([WorkKey("demo", "foo"), RunKey(sealed(1).id)], 0.01)
    store.await_end(sealed(2).id, 0.0)
    assert set(store.open_of(ids)) <= set(store.get_brief(ids)) <= before
    store.promote([sealed(2).id], now=NOW)
    store.reopen([sealed(6).id, sealed(7).id], now=NOW)
    store.purge(now=NOW)


def work_off(store: RedisPersister) -> None:
    for n in range(6):
        now = NOW + 100 * (n + 1)
        wants = [want(f"T{n}", *ROUTES, limit=100), want(f"U{n}", queue="other", limit=100)]
        claims = store.claim(wants, now=now, until=now + 15)
        assert {claim.token for claim in claims} <= {f"T{n}", f"U{n}"}
        store.extend(claims, until=now + 20)
        done = store.exchange([(claim, Outcome.complete(b"")) for claim in claims], wants, now=now, until=now + 15)
        store.commit([(claim, Outcome.complete(b"")) for claim in done.claims], now=now)


def check(server: Any, store: RedisPersister, damage: Damage) -> None:
    before = {sealed(n).id for n in range(1, 10)}
    use(store, before)
    fresh = [sealed(30), sealed(31, route="bar"), sealed(32, queue="other"), sealed(33, expires=NOW + DAY, unique="k")]
    for envelope in fresh:
        assert store.put([envelope]) == [envelope.id]
    assert store.put([sealed(n) for n in range(40, 60)]) == [sealed(n).id for n in range(40, 60)]
    every = (before | {envelope.id for envelope in fresh} | {sealed(n).id for n in range(40, 60)}) - damage.costs
    work_off(store)
    open_still = {id for id, record in store.get(sorted(every)).items() if record.open}
    assert open_still == set(), f"not run: {open_still}"
    assert {sealed(n).id for n in range(40, 60)} <= set(store.get(sorted(every)))
    store.cancel(sorted(before | damage.costs), now=NOW + 900)
    for _ in range(4):
        store.purge(now=float("inf"), limit=100_000)
    assert {record.id for record in store.find(Filter(), now=NOW)} <= damage.costs
    with server.client() as client:
        left = [key for key in client.scan_iter() if client.ttl(key) < 0]
    assert damage.costs or left == [], f"keys are left: {left}"


def keys_of(server: Any) -> list[bytes]:
    with server.client() as client, closing(open_redis(server.url)) as store:
        client.flushall()
        run_in_every_state(store)
        return sorted(client.scan_iter())


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
def test_damage_of_any_key_costs_what_was_in_it(shared_redis: Any, step: int) -> None:
    failures = []
    for n, key in enumerate(keys_of(shared_redis)):
        number = n % step
        while (told := damaged_once(shared_redis, key, number)) is not None:
            number += step
            failures += [f"{key!r} {told}"] if told else []
        assert number > 7, f"only {number} damages of {key!r}"
    assert not failures, f"{len(failures)} of the damages:\n" + "\n".join(failures)


def damaged_once(server: Any, key: bytes, number: int) -> str | None:
    """What is wrong after that damage, or nothing; None if there are not so many."""
    with server.client() as client, closing(open_redis(server.url)) as store:
        client.flushall()
        run_in_every_state(store)
        damage = next(islice(damages(client, key), number, None), None)
        if damage is None:
            return None
        damage.do()
        try:
            check(server, store, damage)
        except Exception as error:
            return f"{damage.told}: {type(error).__name__}: {str(error)[:200]}"
        return ""


def test_what_was_of_another_kind_is_kept_aside(shared_redis: Any) -> None:
    with shared_redis.client() as client, closing(open_redis(shared_redis.url)) as store:
        client.flushall()
        store.put([sealed()])
        client.delete("skunk:{demo}:ripe:foo")
        client.set("skunk:{demo}:ripe:foo", "precious")

        assert [claim.id for claim in store.claim([want()], now=NOW, until=NOW + 15)] == [sealed().id]
        assert client.get("skunk:{demo}:aside:ripe:foo") == b"precious"
        assert client.ttl("skunk:{demo}:aside:ripe:foo") > 0


@pytest.mark.parametrize("name", ["qfoo", "rfoo", "sfoo", "qbar"])
@pytest.mark.parametrize("junk", [b"junk", b"9" * 30, b"-0.5"])
def test_a_count_that_is_no_number_is_counted_anew(shared_redis: Any, name: str, junk: bytes) -> None:
    with shared_redis.client() as client, closing(open_redis(shared_redis.url)) as store:
        client.flushall()
        store.put([sealed(n, route="foo" if n < 6 else "bar") for n in range(9)])
        claims = store.claim([want(limit=2)], now=NOW, until=NOW + 15)
        store.commit([(claims[1], Outcome.complete(b""))], now=NOW)
        client.hset("skunk:{demo}:count", name, junk)

        store.put([sealed(20), sealed(21, route="bar")])
        store.commit([(claims[0], Outcome.complete(b""))], now=NOW)
        assert len(store.claim([want("B", limit=1)], now=NOW, until=NOW + 15)) == 1

        expected = {("foo", "queued"): 4, ("foo", "running"): 1, ("foo", "succeeded"): 2, ("bar", "queued"): 4}
        assert {key[1:]: n for key, n in store.count().items()} == expected


@pytest.mark.parametrize("key", ["mark:foo", "ripe:foo", "count", "claims", "run"])
def test_an_idle_pool_goes_on_after_a_key_became_of_another_kind(shared_redis: Any, key: str) -> None:
    with shared_redis.client() as client:
        client.flushall()
    with SkunkQueue("demo", shared_redis.url) as queue:
        job = queue.event(routes=["foo"])(math.sqrt)
        with WorkerPool(queue, "foo", in_process=True, lease=1, log=io.StringIO()):
            assert job.fire(4.0).wait(LIMIT) == 2.0
            with shared_redis.client() as client:
                client.delete(f"skunk:{{demo}}:{key}")
                client.set(f"skunk:{{demo}}:{key}", "junk")
            assert job.fire(9.0).wait(LIMIT) == 3.0


@pytest.mark.parametrize("when", ["_keys", "_move_aside"])
@pytest.mark.parametrize("key", ["ripe:foo", "count", "pages"])
def test_who_meets_what_another_has_just_mended_goes_on(
    shared_redis: Any, key: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared_redis.client() as client:
        client.flushall()
    real, others = getattr(mending, when), []

    def after_another(*args: Any) -> Any:
        while others:
            others.pop().put([sealed(3)])
        return real(*args)

    with closing(open_redis(shared_redis.url)) as store, closing(open_redis(shared_redis.url)) as other:
        store.put([sealed(1)])
        other.put([sealed(2)])
        with shared_redis.client() as client:
            client.delete(f"skunk:{{demo}}:{key}")
            client.set(f"skunk:{{demo}}:{key}", "junk")
        monkeypatch.setattr(mending, when, after_another)
        others.append(other)

        store.put([sealed(4)])

        assert not others
        assert store.count() == {("demo", "foo", "queued"): 4}
        assert len(take(store)) == 4


DELETED = [
    "ripe:foo",
    "ripe:bar",
    "ended:s",
    "ended:f",
    "ended:c",
    "count",
    "pages",
    "claims",
    "done",
    "unique",
    "expires",
]


@pytest.mark.parametrize("key", DELETED)
def test_a_deleted_key_is_noticed_by_a_purge_and_made_anew(shared_redis: Any, key: str) -> None:
    with shared_redis.client() as client, closing(open_redis(shared_redis.url)) as store:
        client.flushall()
        run_in_every_state(store)
        before = {record.id: record for record in store.find(Filter("demo"), now=NOW)}
        counts = store.count()
        running = [record for record in before.values() if record.state == State.RUNNING]
        assert len(running) == 1
        client.delete(f"skunk:{{demo}}:{key}")

        store.purge(now=NOW)

        after = {record.id: record for record in store.find(Filter("demo"), now=NOW)}
        assert after.keys() == before.keys()
        lost = running if key == "claims" else []  # it runs again once its lease would have ended
        for record in before.values():
            assert after[record.id].state == (State.QUEUED if record in lost else record.state)
        if not lost:
            assert store.count() == counts
        late = NOW + 1000
        claims = store.claim([want("L", *ROUTES, limit=100)], now=late, until=late + 15)
        assert {claim.id for claim in claims} == {record.id for record in before.values() if record.open}
        store.commit([(claim, Outcome.complete(b"")) for claim in claims], now=late)
        while store.purge(now=late + 10 * DAY):
            pass
        assert {queue for queue, _, _ in store.count()} <= {"other"}
        left = [key for key in client.scan_iter("skunk:{demo}*") if client.ttl(key) < 0]
        assert left == []


def test_deleted_envelopes_are_lost_runs_and_nothing_is_left_of_them(shared_redis: Any) -> None:
    with shared_redis.client() as client, closing(open_redis(shared_redis.url)) as store:
        client.flushall()
        run_in_every_state(store)
        client.delete("skunk:{demo}:run")

        store.purge(now=NOW)

        assert {queue for queue, _, _ in store.count()} == {"other"}
        left = [key for key in client.scan_iter("skunk:{demo}*") if client.ttl(key) < 0]
        assert left == []
        assert store.put([sealed(90)]) == [sealed(90).id]
        assert [claim.id for claim in store.claim([want("L")], now=NOW, until=NOW + 15)] == [sealed(90).id]


def test_a_pool_runs_what_was_lost_from_its_place(shared_redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skunkqueue.worker.pool.heartbeat.CLEAN_EVERY", 0.5)
    with shared_redis.client() as client, SkunkQueue("demo", shared_redis.url) as queue:
        client.flushall()
        job = queue.event(routes=["foo"])(math.sqrt)
        runs = [job.fire(float(n)) for n in range(5)]
        client.delete("skunk:{demo}:ripe:foo")
        with WorkerPool(queue, "foo", in_process=True, lease=2, log=io.StringIO()):
            assert [run.wait(LIMIT) for run in runs] == [math.sqrt(n) for n in range(5)]
