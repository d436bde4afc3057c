"""A fire that returns when replicas have it, with a real replica that is there, stopped, or gone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pools import until

from skunkqueue import SkunkQueue, StoreAway, WrongCall

pytest.importorskip("redis")

from redis_server import RedisServer

pytestmark = pytest.mark.alone

PUTS = 2.5
"""Seconds for which a put is tried."""


@pytest.fixture
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    at_once = ("--repl-diskless-sync-delay", "0")  # else it waits 5 s for further replicas
    with RedisServer(*at_once) as master, RedisServer("--replicaof", "127.0.0.1", str(master.port)) as replica:
        until(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up")
        until(lambda: _acknowledged(master))
        yield master, replica


def _acknowledged(master: RedisServer) -> bool:
    return bool(master.ask("WAIT", 1, 1000))


@pytest.fixture
def job(servers: tuple[RedisServer, RedisServer]) -> Iterator[Any]:
    with SkunkQueue("demo", f"{servers[0].url}?wait_replicas=1&replicas_timeout=0.3") as queue:
        yield queue.event(print)


def has(server: RedisServer, id: str) -> bool:
    with server.client() as client:
        return bool(client.hexists("skunk:{demo}:run", id))


def test_a_fire_returns_when_the_replica_has_it(servers: tuple[RedisServer, RedisServer], job: Any) -> None:
    _, replica = servers

    for n in range(50):
        assert has(replica, job.fire(n).id)
    assert all(has(replica, run.id) for run in job.fire_many([(n,) for n in range(300)]))
    assert has(replica, job.options(expires=100).fire(1).id)
    assert has(replica, job.options(unique="key").fire(1).id)


def test_a_server_that_does_not_know_the_scripts_waits_all_the_same(
    servers: tuple[RedisServer, RedisServer], job: Any
) -> None:
    master, replica = servers
    job.fire(1)
    master.ask("SCRIPT FLUSH")

    assert has(replica, job.fire(2).id)


def test_what_was_fired_is_on_the_replica_that_takes_over(servers: tuple[RedisServer, RedisServer], job: Any) -> None:
    master, replica = servers
    runs = [job.fire(n) for n in range(20)]

    master.kill()
    replica.ask("REPLICAOF", "NO", "ONE")

    with SkunkQueue("demo", replica.url) as queue:
        assert {run.id for run in queue.runs()} == {run.id for run in runs}


def test_with_a_stopped_replica_a_fire_raises_and_can_be_repeated(
    servers: tuple[RedisServer, RedisServer], job: Any
) -> None:
    master, replica = servers
    job.fire(0)
    assert replica.process is not None
    replica.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()

    with pytest.raises(StoreAway, match=r"0 of 1 replicas .* it may be kept, or lost") as found:
        job.fire(1)

    assert time.monotonic() - began < PUTS + 5
    (run,) = found.value.runs
    with pytest.raises(
        StoreAway, match="0 of 1 replicas"
    ):  # a repeated put writes nothing, but is not confirmed by that
        run.fire()
    replica.process.send_signal(signal.SIGCONT)
    until(lambda: _acknowledged(master))
    assert run.fire().id == run.id
    assert has(replica, run.id)
    assert job.queue.count()["queued"] == 2


def test_with_the_replica_gone_a_fire_raises_and_others_do_not_care(
    servers: tuple[RedisServer, RedisServer], job: Any
) -> None:
    master, replica = servers
    replica.kill()

    with pytest.raises(StoreAway, match="0 of 1 replicas"):
        job.fire(1)

    with SkunkQueue("demo", master.url) as queue:
        assert queue.event(print).fire(2).state == "queued"
        assert queue.count()["queued"] == 2


def test_more_replicas_than_there_are_are_waited_for_in_vain(servers: tuple[RedisServer, RedisServer]) -> None:
    with SkunkQueue("demo", f"{servers[0].url}?wait_replicas=2&replicas_timeout=0.1") as queue:
        with pytest.raises(StoreAway, match="1 of 2 replicas"):
            queue.event(print).fire(1)
        with pytest.raises(StoreAway, match="1 of 2 replicas"):
            queue.event(print).fire_many([(1,), (2,)])


@pytest.mark.parametrize(
    "query",
    ["wait_replicas=some", "wait_replicas=-1", "wait_replicas=1.5", "replicas_timeout=-1", "replicas_timeout=nan"],
)
def test_a_parameter_that_cannot_be_right_is_refused(query: str) -> None:
    with pytest.raises(WrongCall, match="has an invalid value"):
        SkunkQueue("demo", f"redis://localhost:1/0?{query}").count()
