"""One item never stops its neighbours: a store that refuses one of each kind, and a pool that carries on."""

from __future__ import annotations

import threading

import pytest
from pools import until
from troubled import Said

from skunkqueue import JobFailed, SkunkQueue, WorkerPool
from skunkqueue.cli import main
from skunkqueue.envelope import Outcome
from skunkqueue.errors import PartialFire, StoreAway, StoreFull, StoreRefused
from skunkqueue.persistence import Limits
from skunkqueue.persistence.halves import isolated
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.persistence.put import put
from skunkqueue.persistence.redis.channel import RedisChannel
from skunkqueue.persistence.sqlite import SQLitePersister
from skunkqueue.persistence.sqlite import open_url as open_sqlite
from skunkqueue.testing.makers import LATE, NOW, count_states, ids_of, record_of, sealed, take, want
from skunkqueue.worker.pool.isolate import exchange_isolated

OUTCOMES = {
    "complete": Outcome.complete(b"bad" * 100),
    "failed": Outcome.failed("bad" * 100),
    "again": Outcome.again(error="bad" * 100, due=NOW + 9),
    "untouched": Outcome.untouched(notes=b"bad" * 100),
    "started": Outcome.started(notes=b"bad" * 100),
    "progress": Outcome.at(0.5, "bad" * 100),
}
ERRORS = [StoreRefused("the document is too large"), ValueError("a fault of a driver")]


def is_bad(outcome: Outcome) -> bool:
    return "badbad" in f"{outcome.error}{outcome.note}{outcome.value!r}{outcome.notes!r}"


class Picky(MemoryPersister):
    """Refuses, as a whole, what holds a bad item."""

    def __init__(self, error=ERRORS[0], name="picky"):
        super().__init__(name)
        self.error = error
        self.largest = 0

    def commit(self, outcomes, *, now):
        self.largest = max(self.largest, len(outcomes))
        if any(is_bad(outcome) for _, outcome in outcomes):
            raise self.error
        return super().commit(outcomes, now=now)

    def put(self, envelopes):
        self.largest = max(self.largest, len(envelopes))
        if any(envelope.body.startswith(b"bad") for envelope in envelopes):
            raise self.error
        return super().put(envelopes)


def held(store, how_many=7):
    store.put([sealed(n) for n in range(how_many)])
    return take(store, limit=how_many)


@pytest.mark.parametrize("error", ERRORS, ids=["ours", "a driver's"])
@pytest.mark.parametrize("kind", OUTCOMES)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_refused_outcome_costs_its_own_run_only(kind, place, error):
    store = Picky(error)
    claims = held(store)
    store.put([sealed(50)])
    outcomes = [(claim, Outcome.complete(b"value")) for claim in claims]
    outcomes[place] = claims[place], OUTCOMES[kind]

    found = exchange_isolated(store, outcomes, [want("B")], now=NOW, until=LATE)

    bad = record_of(store, claims[place].id)
    assert ids_of(found.claims) == [sealed(50).id]
    assert found.taken >= {claim.id for claim in claims if claim.id != bad.id}
    if kind == "progress":
        assert (bad.state, dict(found.refused)) == ("running", {})
    else:
        assert (bad.state, bad.error) == ("failed", found.refused[bad.id])
        assert str(error) in bad.error
        assert (bad.id in found.taken) == (kind != "started")  # else it would be started now


@pytest.mark.parametrize("error", [StoreAway("gone"), StoreFull("the disk is full"), ValueError("always")])
def test_what_concerns_the_whole_store_fails_no_run(error):
    class Away(MemoryPersister):
        def commit(self, outcomes, *, now):
            if outcomes:
                raise error
            return set()

    store = Away("away")
    claims = held(store)

    with pytest.raises(type(error)):
        exchange_isolated(store, [(claim, Outcome.complete(b"")) for claim in claims], [want("B")], now=NOW, until=LATE)

    assert count_states(store) == {"running": 7}


def test_a_result_above_the_limit_is_never_sent_and_fails_its_run():
    store = Picky()
    store.limits = Limits(value=1000)
    good, bad = held(store, 2)

    found = exchange_isolated(
        store, [(bad, Outcome.complete(b"x" * 1001)), (good, Outcome.complete(b"x" * 1000))], [], now=NOW, until=LATE
    )

    assert found.taken == {good.id, bad.id}
    assert record_of(store, good.id).state == "succeeded"
    assert record_of(store, bad.id).error == "its result cannot be kept: it is 1,001 bytes, the store takes 1,000"


@pytest.mark.parametrize("limits", [Limits(items=3), Limits(batch=300), Limits(items=5, batch=300)])
def test_outcomes_and_envelopes_are_sent_in_parts_within_the_limits(limits):
    store = Picky()
    store.limits = limits
    envelopes = [sealed(n, body=b"x" * 100) for n in range(10)]

    assert put(store, envelopes) == ids_of(envelopes)
    assert store.largest == 3
    claims = take(store)
    outcomes = [(claim, Outcome.complete(b"x" * 100)) for claim in claims]

    found = exchange_isolated(store, outcomes, [], now=NOW, until=LATE)

    assert found.taken == set(ids_of(envelopes))
    assert store.largest == 3


def test_envelopes_that_are_refused_are_named_and_the_others_are_stored():
    store = Picky()
    store.limits = Limits(body=1000)
    batch = [sealed(n) for n in range(6)]
    batch[2] = sealed(2, body=b"bad")
    batch[4] = sealed(4, body=b"x" * 1001)

    with pytest.raises(StoreRefused, match="1 others") as caught:
        put(store, batch)

    assert set(caught.value.refused) == {sealed(2).id, sealed(4).id}
    assert count_states(store) == {"queued": 4}


def test_fire_many_says_which_runs_were_refused(monkeypatch):
    queue = SkunkQueue("demo", "memory://refusing")
    monkeypatch.setattr(type(queue.store), "limits", Limits(body=3000))

    @queue.event
    def job(text):
        return text

    with pytest.raises(PartialFire) as caught:
        job.fire_many([("a",), ("x" * 5000,), ("b",)])
    with pytest.raises(StoreRefused, match="the store takes 3,000"):
        job.fire("x" * 5000)

    assert [len(caught.value.accepted), len(caught.value.missing)] == [2, 1]
    assert count_states(queue.store) == {"queued": 2}
    queue.store.cancel([run.id for run in caught.value.accepted], now=NOW)


@pytest.mark.parametrize("bad", [range(500), range(499), range(600), [0, 599]], ids=str)
def test_what_is_refused_stops_no_later_batch_of_fire_many_and_all_of_it_is_named(monkeypatch, bad):
    queue = SkunkQueue("demo", f"memory://refusing-{len(bad)}-{bad[-1]}")
    monkeypatch.setattr(type(queue.store), "limits", Limits(body=3000))

    @queue.event
    def job(text):
        return text

    with pytest.raises(PartialFire) as caught:
        job.fire_many([("x" * 5000 if n in bad else "a",) for n in range(600)])

    assert [len(caught.value.accepted), len(caught.value.missing)] == [600 - len(bad), len(bad)]
    assert count_states(queue.store) == ({"queued": 600 - len(bad)} if len(bad) < 600 else {})
    queue.store.cancel([run.id for run in caught.value.accepted], now=NOW)


def refuse_bad(outcomes, *rest, **more):
    if any(is_bad(outcome) for _, outcome in outcomes):
        raise StoreRefused("the document is too large")


def refusing(function):
    def refused(self, outcomes, *rest, **more):
        refuse_bad(outcomes)
        return function(self, outcomes, *rest, **more)

    return refused


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request, tmp_path):
    if request.param == "memory":
        return f"memory://{request.node.name}"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runs.db"
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    return server.url


def test_a_pool_carries_on_when_one_result_cannot_be_kept(url, monkeypatch):
    """On its line, where the store has one, and on its thread."""
    queue = SkunkQueue("demo", url)
    kind = type(queue.store)
    monkeypatch.setattr(kind, "exchange", refusing(kind.exchange))
    monkeypatch.setattr(kind, "commit", refusing(kind.commit))
    monkeypatch.setattr(RedisChannel, "ask", refusing(RedisChannel.ask))

    @queue.event
    def job(n):
        return "bad" * n

    runs = [job.fire(n) for n in (0, 1, 500, 1, 0)]
    log = Said()
    with WorkerPool(queue, in_process=True, log=log):
        assert [runs[n].wait(20.0) for n in (0, 1, 3, 4)] == ["", "bad", "bad", ""]
        with pytest.raises(JobFailed, match="its result cannot be kept: the document is too large"):
            runs[2].wait(20.0)
        assert job.fire(1).wait(20.0) == "bad"

    log.said(f"failed {runs[2].id} ")
    log.said(": its result cannot be kept: the document is too large")
    assert "away" not in log.getvalue()


gate = threading.Event()


def wait_at_gate(n):
    while not gate.wait(0.01):
        pass
    return n


BAD = "skunk-bad"  # part of a route, a run's id or a worker's name


def stumbling(verb, items, error=ERRORS[1]):
    """A verb that raises as a whole where one of its items has BAD in it."""

    def call(self, *args, **named):
        if BAD in repr(items(*args, **named)):
            raise error
        return verb(self, *args, **named)

    return call


def first(given, *_, **__):
    return given


def second(_, given, *__, **___):
    return given


def channels_of(kind, monkeypatch):
    """The channels that pools open from now on, and those that are closed."""
    opened, closed = [], []

    def channel(self, queue, whole=kind.channel):
        found = whole(self, queue)
        opened.extend([] if found is None else [found])
        return found

    def close(self, whole=RedisChannel.close):
        closed.append(self)
        whole(self)

    monkeypatch.setattr(kind, "channel", channel)
    monkeypatch.setattr(RedisChannel, "close", close)
    return opened, closed


@pytest.mark.parametrize("error", ERRORS, ids=["ours", "a driver's"])
def test_a_want_that_cannot_be_met_costs_its_own_route_only(url, monkeypatch, error):
    queue = SkunkQueue("demo", url)
    kind = type(queue.store)
    monkeypatch.setattr(kind, "exchange", stumbling(kind.exchange, second, error))
    monkeypatch.setattr(RedisChannel, "ask", stumbling(RedisChannel.ask, second, error))
    monkeypatch.setattr(RedisChannel, "watch", stumbling(RedisChannel.watch, lambda *args, **_: args, error))
    job = queue.event(routes=["good"])(abs)
    log = Said()
    opened, closed = channels_of(kind, monkeypatch)

    with WorkerPool(queue, ["good", BAD, "good"], in_process=True, log=log):
        assert [job.fire(-n).wait(20.0) for n in range(5)] == list(range(5))
        log.said(f"nothing can be claimed of @{queue.alive_on([BAD])[0]}, {BAD}^high, {BAD}, {BAD}^low: {error}")
        at_first = len(opened)
        threading.Event().wait(1.5)
        assert len(opened) - at_first < 30, "it opens a channel again and again"
    assert "away" not in log.getvalue()
    assert set(map(id, closed)) == set(map(id, opened))


@pytest.mark.parametrize("error", ERRORS, ids=["ours", "a driver's"])
def test_a_lease_that_cannot_be_extended_costs_its_own_run_only(monkeypatch, error):
    queue = SkunkQueue("demo", f"memory://extend-{error}".replace(" ", "-"))
    bad = []
    gate.clear()

    def extend(claims, *, until, whole=queue.store.extend):
        if any(claim.id in bad for claim in claims):
            raise error
        return whole(claims, until=until)

    monkeypatch.setattr(queue.store, "extend", extend)

    job = queue.event(wait_at_gate)
    log = Said()
    with WorkerPool(queue, ["default"] * 3, in_process=True, lease=0.6, log=log):
        runs = [job.fire(n) for n in range(3)]
        until(lambda: [run.state for run in runs] == ["running"] * 3)
        bad.append(runs[1].id)
        log.said(f"the lease of {runs[1].id} cannot be extended: {error}")
        log.said(f"stopped {runs[1].id}")
        bad.clear()
        gate.set()

        assert [run.wait(20.0) for run in runs] == [0, 1, 2]
    assert runs[0].attempts == runs[2].attempts == 1


@pytest.mark.parametrize("verb", ["purge", "beat"])
def test_a_store_that_cannot_be_cleaned_or_beaten_in_serves_runs_all_the_same(monkeypatch, verb):
    queue = SkunkQueue("demo", f"memory://no-{verb}")

    def refuse(*_, **__):
        raise ValueError("a fault of a driver")

    monkeypatch.setattr(queue.store, verb, refuse)
    log = Said()
    with WorkerPool(queue, in_process=True, lease=0.5, log=log):
        assert queue.event(abs).fire(-1).wait(20.0) == 1
        log.said("a fault of a driver")
        assert queue.event(abs).fire(-2).wait(20.0) == 2
    assert "away" not in log.getvalue()


@pytest.mark.parametrize("verb", ["cancel", "promote"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_run_that_cannot_be_dealt_with_is_named_and_the_others_are_done(monkeypatch, verb, place):
    queue = SkunkQueue("demo", f"memory://{verb}-{place}")
    runs = [queue.event(abs).fire_at(60, n) for n in range(5)]
    bad = runs[place].id

    def stumble(ids, *, now, whole=getattr(queue.store, verb)):
        ids = list(ids)
        if bad in ids:
            raise ValueError("a row that nobody can read")
        return whole(ids, now=now)

    monkeypatch.setattr(queue.store, verb, stumble)

    with pytest.raises(StoreRefused, match=f"{bad} cannot be .*: a row that nobody can read") as caught:
        getattr(queue, f"{verb}_all")([run.id for run in runs])

    assert set(caught.value.refused) == {bad}
    left = [run.id for run in runs if run.state == "scheduled"]
    assert left == [bad]


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("named", [True, False], ids=["ids", "--failed"])
def test_one_run_that_cannot_be_queued_again_is_named_and_the_others_are(monkeypatch, capsys, tmp_path, place, named):
    url = f"sqlite:///{tmp_path}/runs.db"
    store = open_sqlite(url)
    claims = held(store, 5)
    store.commit([(claim, Outcome.failed("no", keep=1e10)) for claim in claims], now=NOW)
    bad = claims[place].id

    def stumble(self, ids, *, now, whole=SQLitePersister.reopen):
        ids = list(ids)
        if bad in ids:
            raise ValueError("a row that nobody can read")
        return whole(self, ids, now=now)

    monkeypatch.setattr(SQLitePersister, "reopen", stumble)

    with pytest.raises(SystemExit) as ended:
        main(["retry", "-q", "demo", "--url", url, *(ids_of(claims) if named else ["--failed"])])

    assert ended.value.code == 1
    assert f"run {bad} cannot be queued again: a row that nobody can read" in capsys.readouterr().err
    assert count_states(store) == {"queued": 4, "failed": 1}
    store.close()


class Only(Exception):
    pass


@pytest.mark.parametrize("bad", [set(), {0}, {3}, {0, 3, 6}, {1, 2}])
def test_items_are_isolated_in_as_few_calls_as_it_takes(bad):
    calls = []

    def call(part):
        calls.append(list(part))
        if bad & set(part):
            raise Only
        return sum(part)

    results, failed = isolated(call, range(7), of_one=Only)

    assert sum(results) == sum(range(7)) - sum(bad)
    assert [item for item, _ in failed] == sorted(bad)
    assert len(calls) <= 1 + 6 * len(bad)


def test_what_no_single_item_is_at_fault_for_is_raised():
    def call(part):
        raise errors.pop()

    errors = [ValueError("another"), StoreFull("full"), StoreAway("away")]
    with pytest.raises(StoreAway):
        isolated(call, range(7))
    with pytest.raises(StoreFull):
        isolated(call, range(7), of_one=StoreRefused)
    with pytest.raises(ValueError, match="another"):
        isolated(call, range(7), of_one=StoreRefused)
