"""The Redis store under faults, on real servers: killed, hanging, full, cut off in the middle of an answer."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from redis_server import CuttingProxy, RedisServer, tls_server

from skunkqueue.clock import Clock
from skunkqueue.envelope import Asked, Claim, Envelope, Filter, Outcome, State, Want
from skunkqueue.errors import StoreAway, StoreRefused
from skunkqueue.ids import new_id, new_token
from skunkqueue.persistence import RunKey, WorkKey
from skunkqueue.persistence import redis as module
from skunkqueue.persistence.memory import MemoryPersister
from skunkqueue.persistence.redis import RedisPersister, open_url
from skunkqueue.persistence.redis.channel import RedisChannel
from skunkqueue.testing.makers import LATE, NOW, sealed, take, want

SOON = 60.0
T = TypeVar("T")


@pytest.fixture
def server(shared_redis: RedisServer) -> RedisServer:
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisPersister]:
    store = open_url(server.url)
    yield store
    store.close()


# the total queue: what was accepted is finished or waiting, whatever happened


class Load:
    """Senders and claimers on one server, which go on through every fault and say what they were told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.over = threading.Event()
        self.accepted: set[str] = set()
        self.committed: set[str] = set()
        self.errors: list[BaseException] = []
        self.away = 0
        self.threads = [threading.Thread(target=self._guarded, args=(do,)) for do in (self._send, self._work) * 2]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(SOON)

    def _guarded(self, do: Callable[[RedisPersister], None]) -> None:
        store = open_url(self.url)
        try:
            do(store)
        except BaseException as error:
            self.errors.append(error)
        store.close()

    def _send(self, store: RedisPersister) -> None:
        while not self.over.is_set():
            now = time.time()
            runs = [Envelope(new_id(now), "demo", "foo", now, b"body") for _ in range(5)]
            while not self.over.is_set():
                try:
                    self.accepted.update(store.put(runs))
                    break
                except StoreAway:
                    self.away += 1
            time.sleep(0.002)

    def _work(self, store: RedisPersister) -> None:
        done: list[tuple[Claim, Outcome]] = []
        while not self.over.is_set():
            one = Want("demo", ("foo",), "worker", new_token(), 20)
            done = self._turn(store, done, one)
            if not done:
                store.wait([WorkKey("demo", "foo")], 0.2)

    def _turn(self, store: RedisPersister, done: list[tuple[Claim, Outcome]], one: Want) -> list[tuple[Claim, Outcome]]:
        """As a pool does: the same again until it is answered."""
        while not self.over.is_set():
            now = time.time()
            try:
                taken, claims, _, _ = store.exchange(done, [one], now=now, until=now + 0.5)
            except StoreAway:
                self.away += 1
                one = one._replace(repeated=True)
                time.sleep(0.05)
                continue
            self.committed |= taken
            return [(claim, Outcome.complete(b"done")) for claim in claims]
        return []

    def check(self, more: int = 0) -> None:
        """Finish what is left, then count: nothing lost, nothing invented, nothing told twice."""
        assert self.errors == []
        assert len(self.accepted) > more
        store = open_url(self.url)
        end = time.monotonic() + SOON
        while any(state in ("queued", "running") for _, _, state in store.count()):
            assert time.monotonic() < end
            now = time.time()
            claims = store.claim([Want("demo", ("foo",), "last", new_token(), 500)], now=now, until=now + 5)
            store.commit([(claim, Outcome.complete(b"done")) for claim in claims], now=now)
            if not claims:
                time.sleep(0.05)
        records = store.get(self.accepted)
        assert self.accepted - set(records) == set()
        assert {record.state for record in records.values()} == {State.SUCCEEDED}
        assert {id for id in self.committed if records[id].value != b"done"} == set()
        store.close()


@pytest.mark.parametrize(
    ("options", "how"),
    [
        (("--appendonly", "yes", "--appendfsync", "everysec"), RedisServer.stop),
        (("--appendonly", "yes", "--appendfsync", "always"), RedisServer.kill),
    ],
    ids=["by SIGTERM with everysec", "by SIGKILL with always"],
)
def test_a_restart_under_load_loses_no_accepted_run(
    options: tuple[str, ...], how: Callable[[RedisServer], None]
) -> None:
    with RedisServer(*options) as server:
        with Load(server.url) as load:
            for _ in range(3):
                before = len(load.accepted)
                _until(lambda before=before: len(load.accepted) > before + 50)
                how(server)
                time.sleep(0.1)
                server.cut_log()
                server.start()
        load.check(more=150)


def test_half_a_transaction_is_cut_off_a_log_that_a_crash_tore() -> None:
    script = "redis.call('SET', 'first', 1) redis.call('SET', 'second', string.rep('2', 100))"
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        for name in ("before", "after"):
            with server.client() as client:
                client.set(name, 1)
                client.eval(script if name == "before" else "return 1", 0)
            server.kill()
            (log,) = Path(server.folder).glob("appendonlydir/*.incr.aof")
            if name == "before":
                os.truncate(log, log.stat().st_size - 60)
            server.cut_log()
            server.start()
        with server.client() as client:
            assert client.mget("before", "after", "first", "second") == [b"1", b"1", None, None]


def test_killing_every_connection_loses_nothing(server: RedisServer) -> None:
    with Load(server.url) as load, server.client() as client:
        for _ in range(20):
            before = len(load.accepted)
            _until(lambda before=before: len(load.accepted) > before + 20)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    load.check(more=400)


def test_flushing_scripts_in_flight_loses_nothing(server: RedisServer) -> None:
    with Load(server.url) as load, server.client() as client:
        for _ in range(50):
            before = len(load.accepted)
            _until(lambda before=before: len(load.accepted) > before)
            client.script_flush()
    assert load.away == 0
    load.check(more=50)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# the reply of each verb, lost once

Verb = Callable[[RedisPersister | MemoryPersister, list[Claim], bool], object]

VERBS: dict[str, Verb] = {
    "put": lambda store, claims, again: store.put([sealed(20), sealed(21, unique="key"), sealed(22, queue="other")]),
    "claim": lambda store, claims, again: store.claim([want("B", limit=2, repeated=again)], now=NOW, until=LATE),
    "extend": lambda store, claims, again: store.extend(claims, until=LATE + 60),
    "commit": lambda store, claims, again: store.commit(
        [(claims[0], Outcome.complete(b"value")), (claims[1], Outcome.again(due=NOW + 9, error="no", notes=b"once"))],
        now=NOW,
    ),
    "exchange": lambda store, claims, again: store.exchange(
        [(claims[0], Outcome.failed("no", notes=b"n")), (claims[1], Outcome.again(due=NOW + 5))],
        [want("B", limit=3, repeated=again)], now=NOW, until=LATE,
    ),
    "cancel": lambda store, claims, again: store.cancel([claims[0].id, sealed(5).id], now=NOW),
    "reopen": lambda store, claims, again: store.reopen([sealed(3).id], now=NOW),
    "get": lambda store, claims, again: store.get([sealed(n).id for n in range(9)]),
    "find": lambda store, claims, again: store.find(Filter(), now=NOW),
    "count": lambda store, claims, again: store.count(),
    "beat": lambda store, claims, again: store.beat("w1", "about", until=LATE),
    "tell": lambda store, claims, again: store.tell("w1", "order"),
    "workers": lambda store, claims, again: store.workers(now=NOW),
    "purge": lambda store, claims, again: store.purge(now=NOW + 61),
    "wait": lambda store, claims, again: store.wait([RunKey(claims[0].id), WorkKey("demo", "bar")], 0.05),
}  # fmt: skip
SAME_ANSWER = {"put", "claim", "extend", "commit", "exchange", "get", "find", "count", "beat", "workers"}


def prepare(store: RedisPersister | MemoryPersister) -> list[Claim]:
    store.put([sealed(n, keep=0.0) for n in range(8)])
    claims = take(store, limit=4)  # type: ignore[arg-type]
    store.commit([(claims[3], Outcome.failed("no"))], now=NOW)
    store.cancel([sealed(7).id], now=NOW)
    return claims[:3]


@pytest.mark.parametrize("passed", range(3))
@pytest.mark.parametrize("verb", VERBS)
def test_a_reply_that_is_lost_and_a_repeated_call_do_no_harm(server: RedisServer, verb: str, passed: int) -> None:
    """Each reply of each verb; verbs of several round trips lose each in turn."""
    model = MemoryPersister()
    wanted = VERBS[verb](model, prepare(model), False)
    with CuttingProxy(server.port) as proxy:
        store = open_url(proxy.url)
        claims = prepare(store)
        proxy.cut_after(passed)
        try:
            got = VERBS[verb](store, claims, False)
        except StoreAway:
            got = VERBS[verb](store, claims, True)
        proxy.cut_after(1_000_000)

        ids = [sealed(n).id for n in range(30)]
        assert store.get(ids) == model.get(ids)
        assert store.count() == model.count()
        assert store.workers(now=NOW) == model.workers(now=NOW)
        if verb in SAME_ANSWER:
            assert got == wanted
        assert proxy.cuts == 1 or passed > 0
        store.close()


KEYS = [WorkKey("demo", "foo")]


def test_a_claim_sent_ahead_whose_reply_was_lost_is_given_again(server: RedisServer) -> None:
    with CuttingProxy(server.port) as proxy:
        store = open_url(proxy.url)
        store.put([sealed()])
        with channel_of(store) as channel:
            proxy.cut_after(0)
            channel.watch(KEYS, SOON, Asked([want("A")], NOW, LATE))
            with pytest.raises(StoreAway):
                _heard(channel.caught_fd, channel.caught)
        assert proxy.cuts == 1

        (claim,) = store.claim([want("A", repeated=True)], now=NOW, until=LATE)

        assert (claim.id, claim.token, claim.lapses) == (sealed().id, "A", 0)
        store.close()


def test_an_exchange_on_a_line_whose_reply_was_lost_is_told_once_more(server: RedisServer) -> None:
    with CuttingProxy(server.port) as proxy:
        store = open_url(proxy.url)
        store.put([sealed(1), sealed(2)])
        (claim,) = store.claim([want("A", limit=1)], now=NOW, until=LATE)
        done = [(claim, Outcome.complete(b"done"))]
        with channel_of(store) as channel:
            proxy.cut_after(0)
            channel.ask(done, [want("B")], now=NOW, until=LATE)
            with pytest.raises(StoreAway):
                _heard(channel.answer_fd, channel.answer)

        again = store.exchange(done, [want("B", repeated=True)], now=NOW, until=LATE)

        assert again.taken == {claim.id}
        assert [(one.id, one.lapses) for one in again.claims] == [(sealed(2).id, 0)]
        store.close()


def test_a_line_ends_when_its_script_is_flushed_and_has_claimed_nothing(server: RedisServer) -> None:
    store, other = open_url(server.url), open_url(server.url)
    with server.client() as client, channel_of(store) as channel:
        channel.watch(KEYS, SOON, Asked([want("A")], NOW, LATE))
        channel.ask([], [want("B")], now=NOW, until=LATE)
        assert _heard(channel.answer_fd, channel.answer).claims == []
        client.script_flush()
        other.put([sealed()])

        with pytest.raises(StoreAway, match="NOSCRIPT"):
            _heard(channel.caught_fd, channel.caught)

        assert [claim.id for claim in store.claim([want("A", repeated=True)], now=NOW, until=LATE)] == [sealed().id]
    for each in (store, other):
        each.close()


def test_a_wait_on_a_line_is_roused_at_once_and_has_claimed_nothing(server: RedisServer) -> None:
    store = open_url(server.url)
    with server.client() as client, channel_of(store) as channel:
        channel.watch(KEYS, 2 * SOON, Asked([want("A")], NOW, LATE))
        _until(lambda: client.info("clients")["blocked_clients"] == 1)
        store.rouse([WorkKey("demo", "bar")])
        store.rouse(KEYS)

        assert _heard(channel.caught_fd, channel.caught).result.claims == []
    store.close()


def test_a_line_to_a_server_that_takes_nothing_gives_up_and_never_hangs() -> None:
    """More than the kernel keeps for a server that does not read."""
    with RedisServer() as server:
        store = open_url(server.url)
        store.put([sealed(n) for n in range(2000)])
        claims = store.claim([want("A", limit=2000)], now=NOW, until=LATE)
        done = [(claim, Outcome.complete(b"y" * 20_000)) for claim in claims]
        assert server.process is not None
        with channel_of(store) as channel:
            server.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            try:
                with pytest.raises(StoreAway):
                    channel.ask(done, [], now=NOW, until=LATE)
            finally:
                server.process.send_signal(signal.SIGCONT)
            assert time.monotonic() - began < SOON / 2
        assert len(store.commit(done, now=NOW)) == 2000
        store.close()


def test_a_line_over_tls_hears_as_any_other(tmp_path: Path) -> None:
    """Also what comes in more pieces than one: as records of TLS, which a socket that can be read need not tell of."""
    with tls_server(str(tmp_path)) as (_, url):
        store, other = open_url(url), open_url(url)
        with channel_of(store) as channel:
            channel.watch(KEYS, SOON, Asked([want("A", limit=1)], NOW, LATE))
            assert channel.caught() is None
            other.put([sealed(n, body=b"x" * 5000) for n in range(200)])
            assert len(_heard(channel.caught_fd, channel.caught).result.claims) == 1

            channel.ask([], [want("B", limit=500)], now=NOW, until=LATE)
            claims = _heard(channel.answer_fd, channel.answer).claims
            assert len(claims) == 199
            channel.ask([(claim, Outcome.complete(b"y" * 5000)) for claim in claims], [], now=NOW, until=LATE)
            assert len(_heard(channel.answer_fd, channel.answer).taken) == 199
        for each in (store, other):
            each.close()


@contextlib.contextmanager
def channel_of(store: RedisPersister) -> Iterator[RedisChannel]:
    channel = store.channel("demo")
    assert channel is not None
    with contextlib.closing(channel):
        yield channel


def _heard(fd: int, hear: Callable[[], T | None]) -> T:
    while (found := hear()) is None:
        assert select.select([fd], [], [], SOON)[0]
    return found


def test_a_put_whose_reply_was_lost_is_put_again_by_itself(server: RedisServer) -> None:
    with CuttingProxy(server.port) as proxy:
        store = open_url(proxy.url)
        store.count()
        proxy.cut_after(1)

        assert store.put([sealed()]) == [sealed().id]

        assert proxy.cuts == 1
        assert store.count() == {("demo", "foo", "queued"): 1}
        store.close()


# a server that is away, hangs, or is full


def test_a_server_that_is_away_is_waited_for_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A put tries for a moment; a wait takes its time; both cost next to nothing."""
    monkeypatch.setattr(module, "PUT_RETRY", 0.5)
    with RedisServer() as server:
        store = open_url(server.url)
        store.put([sealed()])
        server.kill()
        began, spent = time.monotonic(), _processor_seconds()
        turns = 0
        while time.monotonic() - began < 2.0:
            store.wait([WorkKey("demo", "foo")], 1.0)
            turns += 1
        with pytest.raises(StoreAway, match="cannot be reached"):
            store.put([sealed(2)])

        assert turns <= 10
        assert _processor_seconds() - spent < 0.5
        server.start()
        assert store.put([sealed(2)]) == [sealed(2).id]
        store.close()


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_utime + used.ru_stime


def test_a_put_during_a_restart_succeeds_when_the_server_is_back() -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        store = open_url(server.url)
        store.put([sealed(1)])
        server.kill()
        starter = threading.Timer(0.3, server.start)
        starter.start()

        assert store.put([sealed(2)]) == [sealed(2).id]

        starter.join()
        assert set(store.get([sealed(1).id, sealed(2).id])) == {sealed(1).id, sealed(2).id}
        store.close()


def test_a_server_that_hangs_keeps_nobody_beyond_the_timeout() -> None:
    with RedisServer() as server:
        store = open_url(server.url + "?socket_timeout=0.5")
        store.put([sealed(1)])
        store.wait([WorkKey("demo", "bar")], 0.01)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            store.wait([WorkKey("demo", "bar")], 0.3)
            waited = time.monotonic() - began
            with pytest.raises(StoreAway):
                take(store)
            with pytest.raises(StoreAway):
                store.put([sealed(2)])
            took = time.monotonic() - began
        finally:
            server.process.send_signal(signal.SIGCONT)

        assert 0.25 < waited < 5.0
        assert took < 20.0
        assert store.put([sealed(2)]) == [sealed(2).id]
        assert sum(store.count().values()) == 2
        store.close()


def test_a_full_server_refuses_a_put_clearly_and_can_be_drained(server: RedisServer, store: RedisPersister) -> None:
    accepted: list[str] = []
    with server.client() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
        try:
            with pytest.raises(StoreRefused, match="full"):
                for n in range(0, 100_000, 10):
                    accepted += store.put([sealed(n + i, body=b"x" * 500, keep=0.0) for i in range(10)])
            with pytest.raises(StoreRefused, match="full"):
                store.put([sealed(100_000, body=b"x" * 500_000, unique="key")])
            assert sum(store.count().values()) == len(accepted) > 100

            store.cancel(accepted[:10], now=NOW)
            drained = drain(store)
            store.purge(now=NOW + 61, limit=100_000)
            assert store.put([sealed(100_001)]) == [sealed(100_001).id]
        finally:
            client.config_set("maxmemory", 0)

    assert drained == sorted(accepted)[10:]


def drain(store: RedisPersister) -> list[str]:
    done: list[tuple[Claim, Outcome]] = []
    drained: list[str] = []
    for turn in range(1000):
        taken, claims, _, _ = store.exchange(done, [want(f"{turn}", limit=50)], now=NOW, until=LATE)
        drained += taken
        done = [(claim, Outcome.complete(b"value")) for claim in claims]
        if not claims:
            break
    return sorted(drained)


def test_a_master_that_became_a_replica_is_away(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed()])
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            with pytest.raises(StoreAway, match=r"cannot answer now: .*read only"):
                take(store)
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")

    assert len(take(store)) == 1


@pytest.mark.parametrize("wrong", [-300.0, 300.0])
def test_a_clock_five_minutes_off_steals_no_lease(
    server: RedisServer, store: RedisPersister, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Clock(store.offset)
    store.put([sealed(due=right.now())])
    now = right.now()
    (held,) = store.claim([want("A")], now=now, until=now + 15)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + wrong)
    other = Clock(open_url(server.url).offset)

    assert store.claim([want("B")], now=other.now(), until=other.now() + 15) == []
    assert abs(other.now() - right.now()) < 1.0
    assert store.commit([(held, Outcome.complete(b""))], now=other.now()) == {held.id}


def test_a_late_worker_cannot_commit_over_the_new_one_after_a_restart() -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        store = open_url(server.url)
        store.put([sealed()])
        (late,) = take(store)
        server.kill()
        server.start()
        (new,) = take(store, "B", now=LATE)

        assert store.commit([(late, Outcome.complete(b"late"))], now=LATE) == set()
        assert store.commit([(new, Outcome.complete(b"new"))], now=LATE) == {new.id}
        store.close()
