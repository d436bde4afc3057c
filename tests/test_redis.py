"""The Redis store beyond the contract: its URLs, its round trips, its waiting, pipelines, and what it leaves behind."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import redis as driver
from redis_server import RedisServer, cluster_servers, sentinel_servers, tls_server

from skunkqueue.envelope import DAY, Filter, Outcome, State, Want
from skunkqueue.errors import StoreAway, StoreError, StoreVersion, WrongCall
from skunkqueue.persistence import RunKey, WorkerKey, WorkKey
from skunkqueue.persistence import redis as module
from skunkqueue.persistence.redis import RedisPersister, default_cfg, open_url
from skunkqueue.persistence.redis.scripts import SCRIPTS, _script
from skunkqueue.persistence.redis.url import parse_url
from skunkqueue.persistence.url import get_backend
from skunkqueue.routes import with_priorities
from skunkqueue.testing import StoreContract, random_walk
from skunkqueue.testing.makers import LATE, NOW, sealed, take, want

SOON = 30.0
"""What is to happen happens within so many seconds, on the slowest machine."""


@pytest.fixture
def server(shared_redis: RedisServer) -> RedisServer:
    with shared_redis.client() as client:
        client.flushall()
        client.script_flush()
    return shared_redis


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisPersister]:
    store = open_url(server.url)
    yield store
    store.close()


# URLs


def test_the_default_configuration_is_a_server_on_this_machine() -> None:
    assert default_cfg == {"backend": "redis", "conn_url": "localhost:6379", "dbname": 0}
    assert get_backend(**default_cfg).url == "redis://localhost:6379/0"


@pytest.mark.parametrize(
    ("url", "public", "options"),
    [
        ("redis://", "redis://localhost:6379/0", {}),
        ("redis://:secret@host/3", "redis://host:6379/3", {"password": "secret", "db": 3}),
        ("redis://me:s%40crt@host:7000/0", "redis://host:7000/0", {"username": "me", "password": "s@crt", "db": 0}),
        ("redis://host?password=secret&db=2", "redis://host:6379/2", {"password": "secret", "db": 2}),
        ("redis://[::1]:7000/1", "redis://[::1]:7000/1", {"db": 1}),
        ("redis://h?socket_timeout=1.5", "redis://h:6379/0", {"socket_timeout": 1.5}),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h:6379/0", {"ssl_cert_reqs": "none"}),
        ("redis+unix:///tmp/r.sock?db=4", "redis+unix:///tmp/r.sock?db=4", {"db": 4}),
        ("unix://me:secret@/tmp/r.sock", "unix:///tmp/r.sock?db=0", {"username": "me", "password": "secret"}),
        ("redis+sentinel://:secret@a,b:7/m/2", "redis+sentinel://a:26379,b:7/m/2", {"password": "secret", "db": 2}),
        ("redis+cluster://a:1,b:2", "redis+cluster://a:1,b:2/0", {}),
    ],
)  # fmt: skip
def test_a_url_says_where_and_its_public_form_says_no_secret(
    url: str, public: str, options: Mapping[str, object]
) -> None:
    target = parse_url(url)

    assert target.url == public
    assert target.options == options
    assert "secret" not in repr(open_url(url)) + repr(target)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://host?sokcet_timeout=1", "sokcet_timeout"),
        ("redis://host?ssl_ca_certs=x", "ssl_ca_certs"),
        ("redis://host?socket_timeout=long", "socket_timeout"),
        ("redis://host/first", "first"),
        ("redis://host:port/0", "port"),
        ("redis+unix://?db=1", "path"),
        ("redis+sentinel://host:1", "name"),
        ("redis+cluster://host/2", "database 0"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_with_a_sentence(url: str, word: str) -> None:
    with pytest.raises(WrongCall, match=word) as caught:
        open_url(url.replace("://", "://:secret@", 1))
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_said_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUT_RETRY", 0.1)
    store = open_url("redis://me:secret@127.0.0.1:1/0")

    with pytest.raises(StoreAway, match=r"redis://127\.0\.0\.1:1/0 cannot be reached") as caught:
        store.put([sealed()])

    assert "secret" not in str(caught.value) + repr(caught.value.__cause__) + repr(store)


# ways to a server


def use(store: RedisPersister) -> None:
    """Put, claim, wait and commit."""
    store.put([sealed()])
    store.wait([WorkKey("demo", "foo"), WorkerKey("worker-1")], SOON)
    (claim,) = take(store)
    assert store.commit([(claim, Outcome.complete(b"value"))], now=NOW) == {claim.id}
    store.wait([RunKey(claim.id)], SOON)
    assert store.get([claim.id])[claim.id].value == b"value"
    store.close()


def test_by_a_unix_socket(server: RedisServer) -> None:
    use(open_url(f"redis+unix://{server.socket_path}?db=3"))


def test_with_a_password_and_refused_without_it() -> None:
    with RedisServer("--requirepass", "secret") as server:
        use(open_url(f"redis://:secret@127.0.0.1:{server.port}/0"))
        for wrong in ("", ":wrong-one@", "nobody:wrong-one@"):
            with pytest.raises(StoreError, match="does not let us in") as caught:
                open_url(f"redis://{wrong}127.0.0.1:{server.port}/0").count()
            assert not isinstance(caught.value, StoreAway)
            assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize("rights", ["-zadd", "-hsetnx", "-evalsha", "resetkeys ~other:*"])
def test_a_user_who_may_do_less_is_told_so(rights: str) -> None:
    """Whether it is the call that is refused or one within a script, which each version says in other words."""
    with RedisServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">secret", "~skunk:*", "+@all", *rights.split())
        store = open_url(f"redis://me:secret@127.0.0.1:{server.port}/0")

        with pytest.raises(StoreError, match="does not let us in") as caught:
            store.put([sealed()])

        assert not isinstance(caught.value, StoreAway)
        store.close()


@pytest.mark.parametrize("rights", ["-@admin -@dangerous +@scripting", "-client", "-@dangerous +client|id"])
def test_with_a_user_who_may_do_no_more_than_needed(rights: str) -> None:
    """What ends waits otherwise, CLIENT UNBLOCK, is a dangerous command; on Redis 6.2 all of CLIENT is."""
    keys = [WorkKey("demo", "foo")]
    with RedisServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">secret", "~skunk:*", "+@all", *rights.split(), "-config")
        store, other = open_url(f"redis://me:secret@127.0.0.1:{server.port}/0"), open_url(server.url)

        assert wakes(store, keys, lambda: store.rouse(keys), by=other) == 1
        assert wakes(store, keys, lambda: other.put([sealed(2)]), by=other) == 1
        assert abs(late(store)[7]) < 0.05
        assert store.warnings() == []
        client.config_set("maxmemory", 1)
        assert wakes(store, keys, lambda: store.rouse(keys), by=other) == 1
        client.config_set("maxmemory", 0)
        assert all(client.pttl(key) > 0 for key in client.scan_iter("*:bell:*"))
        client.flushall()
        use(store)
        other.close()


def test_by_tls_and_not_where_the_certificate_is_a_strangers(tmp_path: Path) -> None:
    with tls_server(str(tmp_path)) as (_, url):
        use(open_url(url))
        with pytest.raises(StoreAway, match="rediss://"):
            open_url(url.partition("?")[0]).count()


def test_by_sentinels_and_over_to_the_next_master() -> None:
    with sentinel_servers() as (master, replica, url):
        store = open_url(url)
        use(store)
        with master.client() as client:
            assert client.execute_command("WAIT", 1, 10_000) == 1
        master.kill()
        end = time.monotonic() + SOON
        while True:
            try:
                store.put([sealed(2)])
                break
            except StoreAway:
                assert time.monotonic() < end
        with replica.client() as client:
            assert client.hlen("skunk:{demo}:run") == 2
        store.close()


def test_sentinels_that_do_not_know_the_master() -> None:
    with sentinel_servers() as (_, _, url), pytest.raises(StoreAway, match="no sentinel knows a master 'other'"):
        open_url(url.replace("skunk-master", "other")).count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[list[RedisServer], str]]:
    with cluster_servers() as servers:
        yield servers


@pytest.fixture
def cluster_url(cluster: tuple[list[RedisServer], str]) -> str:
    servers, url = cluster
    for server in servers:
        with server.client() as client:
            client.flushall()
    return url


class TestCluster(StoreContract):
    @pytest.fixture
    def store(self, cluster_url: str) -> Iterator[RedisPersister]:
        self.url = cluster_url
        store = open_url(cluster_url)
        yield store
        store.close()

    def open_again(self, store: object) -> RedisPersister:
        return open_url(self.url)


@pytest.mark.parametrize("seed", range(5))
def test_the_random_walk_finds_no_difference_on_a_cluster(cluster_url: str, seed: int) -> None:
    random_walk(open_url(cluster_url), seed=seed)


def test_a_slot_that_moves_is_followed(cluster: tuple[list[RedisServer], str], cluster_url: str) -> None:
    servers, _ = cluster
    store = open_url(cluster_url)
    store.put([sealed()])
    slot = store._link.slot("skunk:{demo}")
    ids = {server.port: server.ask("CLUSTER MYID").decode() for server in servers}
    source = next(s for s in servers if s.ask("CLUSTER", "COUNTKEYSINSLOT", slot) > 0)
    target = next(s for s in servers if s is not source)

    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
    source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    (claim,) = take(store)  # asked for, while it is on its way
    for server in (target, source, *servers):
        server.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
    store.put([sealed(2)])

    assert store.commit([(claim, Outcome.complete(b""))], now=NOW) == {claim.id}
    assert target.ask("HLEN", "skunk:{demo}:run") == 2


def test_orders_wake_a_pool_on_a_cluster(cluster_url: str) -> None:
    """Its routes and its orders are in different slots; it blocks in one."""
    store, other = open_url(cluster_url), open_url(cluster_url)
    keys = [WorkKey("demo", "foo"), WorkerKey("w1")]
    store.wait(keys, 0)

    assert wakes(store, keys, lambda: other.tell("w1", "order"))


# round trips


def commands(client: driver.Redis) -> Counter[str]:
    """How often each command was called, scripts' own calls included; its sub-commands, which not all count, as one."""
    calls: Counter[str] = Counter()
    for name, each in client.info("commandstats").items():
        calls[name.removeprefix("cmdstat_").partition("|")[0]] += each["calls"]
    return calls


def asked(server: RedisServer, do: Callable[[], object]) -> int:
    """How many scripts were run."""
    with server.client() as client:
        before = commands(client)
        do()
        return (commands(client) - before)["evalsha"]


def test_each_step_of_the_path_is_one_round_trip(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed(n) for n in range(5)])
    claims = take(store, limit=3)
    outcomes = [
        (claims[0], Outcome.complete(b"")),
        (claims[1], Outcome.again(due=NOW + 9)),
        (claims[2], Outcome.started()),
    ]
    store.cancel([sealed(4).id], now=NOW)

    assert asked(server, lambda: store.put([sealed(n) for n in range(10, 300)])) == 1
    assert asked(server, lambda: store.put([sealed(300)])) == 1
    assert asked(server, lambda: store.exchange(outcomes, [want("B")], now=NOW, until=LATE)) == 1
    assert asked(server, lambda: store.extend(claims, until=LATE)) == 1
    assert asked(server, lambda: store.get([sealed(1).id])) == 1


def test_an_idle_pool_asks_nothing(server: RedisServer, store: RedisPersister) -> None:
    keys = [WorkKey("demo", "foo"), WorkKey("demo", "@worker-1"), WorkerKey("worker-1")]
    store.wait(keys, 0.05)
    with server.client() as client:
        before = commands(client)
        store.wait(keys, 3.0)
        new = commands(client) - before

    assert new - Counter({"client": 1, "info": 1}) == {"bzpopmin": 1}  # where it had to be ended; and this test's own


def test_scripts_come_back_after_a_flush_on_every_verb(server: RedisServer, store: RedisPersister) -> None:
    verbs: list[Callable[[], object]] = [
        lambda: store.put([sealed(1), sealed(2), sealed(3)]),
        lambda: store.put([sealed(4, unique="key")]),
        lambda: claims.extend(take(store, limit=2)),
        lambda: store.extend(claims, until=LATE),
        lambda: store.commit([(claims[0], Outcome.failed("no"))], now=NOW),
        lambda: store.cancel([sealed(3).id], now=NOW),
        lambda: store.reopen([claims[0].id], now=NOW),
        lambda: store.get([sealed(1).id]),
        lambda: store.find(Filter(), now=NOW),
        lambda: store.find(Filter(state=State.RUNNING), now=NOW),
        lambda: store.beat("w", "about", until=LATE),
        lambda: store.tell("w", "order"),
        lambda: store.workers(now=NOW),
        lambda: store.wait([RunKey(claims[1].id), WorkKey("demo", "foo")], 0.05),
        lambda: store.purge(now=NOW),
    ]
    claims: list[object] = []

    with server.client() as client:
        for verb in verbs:
            client.script_flush()
            verb()

    assert store.count() == {
        ("demo", "foo", "queued"): 2,
        ("demo", "foo", "running"): 1,
        ("demo", "foo", "cancelled"): 1,
    }


@pytest.mark.parametrize("flushes", [1, 3])
def test_a_wait_goes_on_whose_scripts_are_flushed_as_soon_as_they_are_known(
    server: RedisServer, store: RedisPersister, monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    store.put([sealed(1)])
    (claim,) = take(store)
    store.wait([RunKey(claim.id)], 0.05)  # its connection knows the scripts from now on
    teach, left = store._notifier._teach, [flushes]

    def and_flush(*args: object) -> None:
        teach(*args)
        if left[0]:
            left[0] -= 1
            with server.client() as client:
                client.script_flush()

    monkeypatch.setattr(store._notifier, "_teach", and_flush)
    ending = threading.Timer(0.3, lambda: store.commit([(claim, Outcome.complete(b"good"))], now=NOW))
    ending.start()
    began = time.monotonic()

    record = store.await_end(claim.id, 10)

    took = time.monotonic() - began
    ending.join()
    assert record is not None and record.state == State.SUCCEEDED and left == [0]
    assert 0.2 < took < 5


# waiting


def wakes(
    store: RedisPersister,
    keys: list[str],
    change: Callable[[], object],
    waiters: int = 1,
    by: RedisPersister | None = None,
) -> int:
    """How many of some waiters the change wakes; watched by a store that may ask for that."""
    by = by or store
    woken: list[int] = []
    before = _blocked(by)
    threads = [threading.Thread(target=lambda n=n: (store.wait(keys, SOON), woken.append(n))) for n in range(waiters)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    while _blocked(by) < before + waiters:
        assert time.monotonic() - began < SOON
        time.sleep(0.01)
    change()
    for thread in threads:
        thread.join(SOON / 3)
    return len(woken)


def _blocked(store: RedisPersister) -> int:
    """How many connections block; on a cluster, on the server that has the queue."""
    reply = store._ask("skunk:{demo}", ("INFO", "clients")).decode()
    return int(next(line for line in reply.splitlines() if line.startswith("blocked_clients")).partition(":")[2])


def test_two_puts_wake_two_pools(server: RedisServer, store: RedisPersister) -> None:
    other = open_url(server.url)

    assert wakes(store, [WorkKey("demo", "foo")], lambda: (other.put([sealed(1)]), other.put([sealed(2)])), 2) == 2
    store.close()


def test_a_pool_that_is_full_wakes_the_next(server: RedisServer, store: RedisPersister) -> None:
    """One put of many runs wakes one; it takes what it can and hands the mark on."""
    other = open_url(server.url)
    key = WorkKey("demo", "foo")
    got: list[str] = []

    def pool(name: str) -> None:
        for turn in range(100):
            claims = store.exchange([], [want(f"{name}-{turn}", limit=1)], now=NOW, until=LATE).claims
            if claims:
                got.extend(claim.id for claim in claims)
                return
            store.wait([key], SOON)

    threads = [threading.Thread(target=pool, args=(name,)) for name in "ABC"]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    other.put([sealed(1), sealed(2), sealed(3)])
    for thread in threads:
        thread.join(SOON)

    assert sorted(got) == [sealed(n).id for n in (1, 2, 3)]


def test_a_pool_that_is_full_tells_the_next_of_what_ripens_soon(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed(1), sealed(2, due=NOW + 2)])

    store.exchange([], [want("A", limit=1)], now=NOW, until=LATE)

    assert asked_at_once(store)


def test_who_has_seen_all_leaves_no_mark(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed(1), sealed(2, due=NOW + 2)])

    found = store.exchange([], [want("A", *with_priorities("foo"))], now=NOW, until=LATE)

    assert found.next_ripe == NOW + 2
    assert not asked_at_once(store)


def asked_at_once(store: RedisPersister) -> bool:
    began = time.monotonic()
    store.wait([WorkKey("demo", "foo")], 2.0)
    return time.monotonic() - began < 1.5


def test_a_pool_that_was_filled_blocks_no_longer(server: RedisServer, store: RedisPersister) -> None:
    """Else it would take the mark of the next run from one that has time."""
    store.put([sealed(1)])
    with server.client() as client:
        client.delete("skunk:{demo}:mark:foo")

    assert wakes(store, [WorkKey("demo", "foo")], lambda: take(store, limit=1)) == 1


def test_everyone_who_waits_for_a_run_is_woken(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed(1), sealed(2)])
    claims = take(store)
    other = open_url(server.url)
    keys = [RunKey(claim.id) for claim in claims]

    assert wakes(store, keys, lambda: other.commit([(claims[1], Outcome.complete(b""))], now=NOW), 4) == 4


def test_what_ended_during_one_wait_does_not_end_the_next(server: RedisServer, store: RedisPersister) -> None:
    """One wake-up is enough for several runs; what is left of it would make a poll of all waits that follow."""
    store.put([sealed(n) for n in range(5)])
    claims = take(store, limit=5)
    other = open_url(server.url)
    keys = [RunKey(claim.id) for claim in claims]
    done = [(claim, Outcome.complete(b"")) for claim in claims[1:]]
    assert wakes(store, keys, lambda: other.commit(done, now=NOW), 1) == 1

    began = time.monotonic()
    store.wait(keys[:1], 1.0)

    assert time.monotonic() - began > 0.9


def test_an_ended_run_is_not_waited_for(store: RedisPersister) -> None:
    store.put([sealed()])
    store.cancel([sealed().id], now=NOW)
    began = time.monotonic()

    store.wait([RunKey(sealed().id)], SOON)
    store.wait([RunKey("unknown")], SOON)

    assert time.monotonic() - began < SOON


def test_a_wait_that_nobody_ends_is_over_in_time(server: RedisServer, store: RedisPersister) -> None:
    """Redis itself would be up to a tenth of a second late; the next delayed run cannot wait for that."""
    found = late(store)
    assert found[0] >= -0.002
    assert found[7] < 0.05


def late(store: RedisPersister) -> list[float]:
    """By how much fifteen waits that nobody ends are late, the least first."""
    found = []
    for timeout in (0.001, 0.01, 0.05, 0.123, 0.2) * 3:
        began = time.monotonic()
        store.wait([WorkKey("demo", "bar")], timeout)
        found.append(time.monotonic() - began - timeout)
    return sorted(found)


# one id, many queues


def test_a_run_is_found_by_its_id_alone(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed(1, queue="one"), sealed(2, queue="two"), sealed(3, queue="three")])
    other = open_url(server.url)

    assert {r.envelope.queue for r in other.get(sealed(n).id for n in (1, 2, 3)).values()} == {"one", "two", "three"}
    assert [r.envelope.queue for r in other.cancel([sealed(2).id], now=NOW)] == ["two"]
    assert other.reopen([sealed(2).id], now=NOW) == {sealed(2).id}


def test_a_queue_whose_name_was_cleaned_away_is_known_again_with_its_next_run(
    server: RedisServer, store: RedisPersister
) -> None:
    store.put([sealed(1)])
    other = open_url(server.url)
    other.cancel([sealed(1).id], now=NOW)
    other.purge(now=NOW * 2)
    assert other.count() == {}

    store.put([sealed(2)])

    assert other.count() == {("demo", "foo", "queued"): 1}


# pages


@pytest.mark.parametrize("seed", range(10))
def test_the_random_walk_finds_no_difference_by_small_steps(
    store: RedisPersister, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No short cut for few runs, and every list cut into pieces of three."""
    from skunkqueue.persistence.redis import wire as redis_pack

    small_pages(monkeypatch)
    monkeypatch.setattr("skunkqueue.persistence.redis.desk._FEW", -1)
    monkeypatch.setattr(redis_pack, "ALIKE", 2)
    for where in (module, redis_pack):
        monkeypatch.setattr(where, "CHUNK", 3)
        monkeypatch.setattr(where, "BUNCH", 3)
    monkeypatch.setattr("skunkqueue.persistence.redis.desk.CHUNK", 3)

    random_walk(store, seed=1000 + seed)


def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of ids that are full with two."""
    for name in ("put_one", "put", "put_each"):
        text = SCRIPTS[name].text.decode()
        assert "14500" in text
        monkeypatch.setitem(SCRIPTS, name, _script(text.replace("14500", "58")))


def test_pages_stay_in_order_whatever_order_runs_come_and_go_in(
    server: RedisServer, store: RedisPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch)
    dice = random.Random(7)
    numbers = dice.sample(range(1000), 200)
    at = 0
    while at < 200:
        some = numbers[at : at + dice.choice([1, 8])]
        store.put([sealed(n, keep=0.0) for n in some])
        at += len(some)
    gone = dice.sample(numbers, 150)
    store.cancel([sealed(n).id for n in gone], now=NOW)
    store.purge(now=NOW + 61)

    left = sorted((sealed(n).id for n in numbers if n not in gone), reverse=True)
    assert [record.id for record in store.find(Filter(), now=NOW, limit=1000)] == left
    assert [record.id for record in store.find(Filter(), now=NOW, after=left[20], limit=7)] == left[21:28]
    with server.client() as client:
        sizes = [client.strlen(key) for key in client.keys("skunk:{demo}:page:*")]
        assert sum(sizes) - sum(int(gone) for gone in client.hvals("skunk:{demo}:gone")) == 50 * 29
        assert client.zcard("skunk:{demo}:pages") <= 51


def test_a_batch_of_claims_is_no_list_to_search_through(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed(n) for n in range(100)])

    assert len(take(store, limit=100)) == 100

    with server.client() as client:
        assert client.object("encoding", "skunk:{demo}:claims") == b"hashtable"
        assert client.hlen("skunk:{demo}:claims") == 100


def test_a_page_that_is_mostly_gone_is_written_anew(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed(n, keep=0.0) for n in range(1000)])
    store.cancel([sealed(n).id for n in range(1000) if n % 100], now=NOW)
    store.purge(now=NOW + 61)

    with server.client() as client:
        pages = [client.strlen(key) for key in client.keys("skunk:{demo}:page:*")]
    assert sum(pages) == 10 * 29
    assert len(store.find(Filter(), now=NOW)) == 10


# a pipeline of the user's


@pytest.fixture
def client(server: RedisServer) -> Iterator[driver.Redis]:
    with driver.Redis(port=server.port) as client:
        yield client


def test_a_run_goes_with_the_users_own_writes(client: driver.Redis, store: RedisPersister) -> None:
    pipe = client.pipeline(transaction=True)
    pipe.set("order", "paid")
    ids = store.put([sealed(1), sealed(2, route="bar"), sealed(3, expires=LATE)], via=pipe)

    assert store.count() == {}
    pipe.execute()

    assert ids == [sealed(n).id for n in (1, 2, 3)]
    assert client.get("order") == b"paid"
    assert [claim.id for claim in take(store, "A", "foo", "bar")] == [sealed(n).id for n in (1, 3, 2)]


def test_a_run_goes_through_a_pipeline_after_scripts_were_flushed(client: driver.Redis, store: RedisPersister) -> None:
    pipe = client.pipeline(transaction=True)
    store.put([sealed()], via=pipe)
    client.script_flush()

    pipe.execute()

    assert store.count() == {("demo", "foo", "queued"): 1}


def test_a_transaction_that_fails_puts_nothing(client: driver.Redis, store: RedisPersister) -> None:
    pipe = client.pipeline(transaction=True)
    pipe.watch("order")
    pipe.multi()
    pipe.set("order", "paid")
    store.put([sealed()], via=pipe)
    client.set("order", "cancelled")

    with pytest.raises(driver.WatchError):
        pipe.execute()

    assert client.get("order") == b"cancelled"
    assert store.count() == {}


def test_a_pipeline_that_is_no_transaction_is_refused(
    client: driver.Redis, store: RedisPersister, server: RedisServer
) -> None:
    watching = client.pipeline(transaction=True)
    watching.watch("order")
    other = driver.Redis(port=server.port, db=5)

    for via, run, word in [
        (client.pipeline(transaction=False), sealed(), "transaction=True"),
        (watching, sealed(), "multi"),
        (client, sealed(), "Pipeline"),
        (client.pipeline(), sealed(unique="key"), "unique"),
        (other.pipeline(), sealed(), "database 5"),
    ]:
        with pytest.raises(WrongCall, match=word):
            store.put([run], via=via)
    watching.reset()
    assert store.count() == {}


def test_a_run_goes_with_the_users_own_writes_on_a_cluster(
    cluster: tuple[list[RedisServer], str], cluster_url: str
) -> None:
    if int(driver.__version__.split(".")[0]) < 6:
        pytest.skip("this version of redis-py has no transactions on a cluster")
    store = open_url(cluster_url)
    with driver.RedisCluster(host="127.0.0.1", port=cluster[0][0].port) as client:
        pipe = client.pipeline(transaction=True)
        pipe.set("{demo}:order", "paid")
        store.put([sealed(1), sealed(2, route="bar", expires=LATE)], via=pipe)
        assert store.count() == {}
        pipe.execute()
        with pytest.raises(WrongCall, match="transaction=True"):
            store.put([sealed(3)], via=client.pipeline(transaction=False))

        assert client.get("{demo}:order") == b"paid"
    assert sum(store.count().values()) == 2
    store.close()


# what is kept, and for how long


def test_a_purge_step_looks_at_a_bounded_part_of_a_route(shared_redis: RedisServer) -> None:
    """However many runs are addressed to a worker that is gone; those queued for later too."""
    with shared_redis.client() as client:
        client.flushall()
    store = open_url(shared_redis.url)
    store.put([sealed(n, route="@gone", due=NOW + n % 2 * DAY) for n in range(20_000)])
    calls = [
        time_of(shared_redis, lambda: store._run("addressed", "skunk:{demo}", [repr(NOW), limit, "gone"]))
        for limit in (1, 20_000)
    ]

    assert store.purge(now=NOW, limit=3) == 3
    assert calls[0] < calls[1] / 10
    assert store.purge(now=NOW, limit=30_000) == 19_997
    store.close()


def time_of(server: RedisServer, call: Callable[[], object]) -> float:
    """Microseconds that the server itself spends on a call, at best of three."""
    took = []
    for _ in range(3):
        with server.client() as client:
            client.config_resetstat()
        call()
        with server.client() as client:
            stats = client.info("commandstats")
        took.append(sum(stats[name]["usec"] for name in stats if name.startswith("cmdstat_eval")))
    return min(took)


def test_nothing_is_left_behind(server: RedisServer, store: RedisPersister) -> None:
    class Looking(StoreContract):
        def left_behind(self, _: object) -> list[bytes]:
            with server.client() as client:
                # What wakes waiters goes by itself, soon, whatever becomes of them; -2: it has just gone.
                left = {key: client.pttl(key) for key in client.scan_iter()}
                return [key for key, ttl in left.items() if ttl != -2 and not 0 <= ttl <= 30_000]

    Looking().test_nothing_is_left_behind(store)


def test_a_drained_and_purged_queue_leaves_no_key_at_all(server: RedisServer, store: RedisPersister) -> None:
    store.put([sealed(n, keep=0.0) for n in range(500)])
    done: list[tuple[object, Outcome]] = []
    for turn in range(5):
        claims = store.exchange(done, [want(f"{turn}", limit=125)], now=NOW, until=LATE).claims  # type: ignore[arg-type]
        done = [(claim, Outcome.complete(b"")) for claim in claims]
    store.purge(now=NOW + 61)

    with server.client() as client:
        assert client.keys() == []


def test_a_waiting_run_costs_little_memory(server: RedisServer, store: RedisPersister) -> None:
    """No more than 400 bytes beyond its payload."""
    count = 20_000
    with server.client() as client:
        before = client.info("memory")["used_memory"]
        for at in range(0, count, 500):
            store.put([sealed(n, body=b"x" * 100, due=NOW + n / 7) for n in range(at, at + 500)])
        used = client.info("memory")["used_memory"] - before

    assert used / count - 100 < 400


def test_a_store_of_a_newer_major_is_refused(server: RedisServer) -> None:
    with server.client() as client:
        client.hset("skunk:{@}:queues", "demo", 2)
    store = open_url(server.url)

    for verb in (lambda: store.put([sealed()]), lambda: take(store), store.count):
        with pytest.raises(StoreVersion, match="version 2"):
            verb()


# clocks, warnings, processes


def test_the_offset_cancels_a_wrong_clock(store: RedisPersister, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    for wrong in (-300.0, 0.0, 300.0):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: real() + wrong)
        offset = store.offset()
        assert offset is not None and abs(offset + wrong) < 1.0


def test_what_an_operator_should_know_is_said(store: RedisPersister, server: RedisServer) -> None:
    with server.client() as client:
        assert store.warnings() == [module._about_durability("no", "")]
        client.config_set("save", "3600 1")
        assert "snapshots" in store.warnings()[0]
        client.config_set("appendonly", "yes")
        assert store.warnings() == []
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert "noeviction" in store.warnings()[0]
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "no")
        client.config_set("save", "")


def test_a_forked_process_leaves_the_parents_connections_alone(store: RedisPersister) -> None:
    store.put([sealed(1)])
    store.wait([WorkKey("demo", "foo")], 0.01)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.put([sealed(2)])
            store.wait([WorkKey("demo", "foo")], 0.01)
            store.close()
            os.write(writer, b"well")
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reader, 10) == b"well"
    assert [claim.id for claim in take(store)] == [sealed(1).id, sealed(2).id]
    store.wait([WorkKey("demo", "bar")], 0.01)
    os.close(reader)
    os.close(writer)


def test_threads_share_a_store(store: RedisPersister) -> None:
    errors: list[BaseException] = []

    def put(first: int) -> None:
        try:
            for n in range(50):
                store.put([sealed(first + n)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=put, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)

    assert errors == []
    assert store.count() == {("demo", "foo", "queued"): 400}


def test_many_routes_and_large_numbers_go_through(store: RedisPersister) -> None:
    """Lua unpacks only so much at a time."""
    runs = [sealed(n, route=f"r{n % 40}") for n in range(4000)]
    store.put(runs)

    claims = store.claim([Want("demo", tuple(f"r{n}" for n in range(40)), "w", "T", 5000)], now=NOW, until=LATE)
    held = store.extend(claims, until=LATE + 1)
    taken = store.commit([(claim, Outcome.complete(b"")) for claim in claims], now=NOW)

    assert len(claims) == len(held) == len(taken) == 4000
    assert store.purge(now=NOW * 2, limit=10_000) == 4000


def test_the_store_is_found_by_its_url() -> None:
    assert isinstance(get_backend("redis://127.0.0.1:1"), RedisPersister)
    assert isinstance(get_backend("rediss+sentinel://127.0.0.1:1/name"), RedisPersister)


def test_a_process_that_only_looks_remembers_a_bounded_number_of_ids(
    store: RedisPersister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skunkqueue.persistence.redis.calls._REMEMBERED_IDS", 100)
    looker = open_url(store.target.url)
    for start in range(0, 600, 60):
        ids = store.put([sealed(number) for number in range(start, start + 60)])
        assert set(looker.get(ids)) == set(ids)
        assert looker._places(ids) == {"demo": ids}

    assert len(looker._queue_of) <= 160
    looker.close()
