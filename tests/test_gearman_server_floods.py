"""Peers that ask for more than a server can do at once: the others go on meanwhile, on every kind of store."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gearman_ours import OurServer, in_process
from gearman_servers import Gearmand, Peer
from pools import LIMIT, until
from test_gearman_server import Served, grab_job, sync

from skunkqueue.clock import ticks
from skunkqueue.envelope import Seal, Want
from skunkqueue.gearman.protocol import Packet, PacketType
from skunkqueue.gearman.server.jobs import ServerJob
from skunkqueue.gearman.server.upkeep import Beat
from skunkqueue.ids import new_token
from skunkqueue.policy import NONE

KIND = PacketType
FUNCTIONS = 500


def encoded(kind: PacketType, *args: Any) -> bytes:
    return Packet.request(kind, *args).encode()


@pytest.fixture(params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OurServer]:
    """In a process of its own, so that this one is not what is slow."""
    found = OurServer("memory://floods" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db")
    try:
        yield found.start()
    finally:
        found.kill()


class Flood:
    """A connection that sends all this, on a thread, for as long as the server takes."""

    def __init__(self, server: Gearmand, data: bytes) -> None:
        self.link = socket.create_connection(("127.0.0.1", server.port), LIMIT)
        self._data = data
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            self.link.sendall(self._data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT)
        self.link.close()


def submitted(server: Gearmand, packets: list[bytes]) -> None:
    """Have a client submit these."""
    client = Peer(server)
    client.socket.sendall(b"".join(packets))
    for _ in packets:
        assert client.next().type is KIND.JOB_CREATED
    client.close()


def curious(server: Gearmand) -> list[Flood]:
    submitted(server, [encoded(KIND.SUBMIT_JOB_BG, f"function {n}", "", b"") for n in range(3000)])
    return [Flood(server, b"status\nshow jobs\n" * 1000) for _ in range(3)]


def searching(server: Gearmand) -> list[Flood]:
    submitted(server, [encoded(KIND.SUBMIT_JOB_BG, "nobody", f"u{n}", b"") for n in range(10_000)])
    return [Flood(server, encoded(KIND.GET_STATUS_UNIQUE, "nowhere") * 1000)]


def impossible(server: Gearmand) -> list[Flood]:
    """Jobs for the 30th of February."""
    return [Flood(server, encoded(KIND.SUBMIT_JOB_SCHED, "f", "", "1", "1", "30", "2", "", b"") * 5_000)]


def greedy(server: Gearmand) -> list[Flood]:
    able = b"".join(encoded(KIND.CAN_DO, f"g{n}") for n in range(FUNCTIONS))
    return [Flood(server, able + encoded(KIND.GRAB_JOB) * 20_000) for _ in range(4)]


def drowsy(server: Gearmand) -> list[Flood]:
    able = b"".join(encoded(KIND.CAN_DO, f"g{n}") for n in range(FUNCTIONS))
    submitted(server, [encoded(KIND.SUBMIT_JOB, "nobody", "", b"") for _ in range(2000)])
    return [Flood(server, able + (encoded(KIND.GRAB_JOB) + encoded(KIND.PRE_SLEEP)) * 2000) for _ in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("flood", [curious, searching, impossible, greedy, drowsy])
def test_the_others_are_served_while_a_peer_asks_for_too_much(
    server: OurServer, flood: Callable[[Gearmand], list[Flood]]
) -> None:
    client, worker = Peer(server), Peer(server)
    worker.send(KIND.CAN_DO, "f")
    floods = flood(server)

    for _ in range(10):
        handle = client.submit("f", b"ping")
        assert grab_job(worker).data == b"ping"
        worker.send(KIND.WORK_COMPLETE, handle, b"pong")
        assert client.ended().data == b"pong"
    client.send(KIND.GET_STATUS, "H:skunq:nobody")
    assert client.next().type is KIND.STATUS_RES
    assert server.admin("status")

    for each in floods:
        each.close()
    client.close()
    worker.close()


# -- within a server -------------------------------------------------------------------------------------------------


@pytest.fixture
def inside() -> Iterator[Any]:
    """Our server in this process."""
    with in_process(url="memory://floods") as found:
        yield found
        found.queue.store.clear()


def served(inside: Any) -> Served:
    return Served(int(inside.address.rpartition(":")[2]))


def on_its_thread(inside: Any, call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    inside._loop.post(lambda: found.append(call()))
    until(lambda: found)
    return found[0]


def test_the_time_limits_of_jobs_that_have_ended_take_up_nothing(inside: Any) -> None:
    client, worker = Peer(served(inside)), Peer(served(inside))
    worker.send(KIND.CAN_DO_TIMEOUT, "f", 3_600_000)
    for _ in range(200):
        handle = client.submit("f", b"")
        assert grab_job(worker).handle == handle
        worker.send(KIND.WORK_COMPLETE, handle, b"")
        client.ended()

    assert len(inside._loop._timers) < 50
    client.close()
    worker.close()


def test_a_job_that_was_claimed_anew_during_a_beat_stays_with_its_worker(inside: Any) -> None:
    client, worker = Peer(served(inside)), Peer(served(inside))
    worker.send(KIND.CAN_DO, "f")
    handle = client.submit("f", b"")
    assert grab_job(worker).handle == handle
    (job,) = inside._handler.service.jobs
    before = job.claim._replace(token="the claim before")

    on_its_thread(inside, lambda: inside._handler._upkeep._end({job.id: before}, Beat(frozenset(), (), True)) or True)
    worker.send(KIND.WORK_COMPLETE, handle, b"done")

    assert client.ended().args == (handle, b"done")
    client.close()
    worker.close()


def test_a_job_whose_lease_had_run_out_is_its_new_workers_alone(inside: Any) -> None:
    first, second = Peer(served(inside)), Peer(served(inside))
    for peer in (first, second):
        sync(peer)
    service = inside._handler.service
    envelope_of = inside.queue.store
    client = Peer(served(inside))
    handle = client.submit("f", b"", background=True)

    def both() -> Any:
        now = inside.queue.clock.now()
        want = Want(inside.queue.name, ("f",), "it", new_token(), 1)
        (claim,) = envelope_of.claim([want], now=now, until=now + 9)
        one, two = list(service.loop.peers.values())[:2]
        job = ServerJob(claim.id, b"f")
        job.assign(one, claim, Seal(), NONE)
        job.assign(two, claim, Seal(), NONE)
        held = handle in one.held, handle in two.held
        job.release()
        return held

    assert on_its_thread(inside, both) == (False, True)
    for peer in (first, second, client):
        peer.close()


def test_who_leaves_at_once_has_had_a_job_cancelled(inside: Any) -> None:
    client = Peer(served(inside))
    handle = client.submit("f", b"")

    for link in [socket.create_connection(("127.0.0.1", served(inside).port), LIMIT) for _ in range(3)]:
        link.sendall(b"status\ncancel job " + handle + b"\n")
        link.close()

    assert client.ended().type is KIND.WORK_FAIL
    client.close()


def test_a_question_that_the_store_cannot_answer_is_refused_once(inside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def count() -> Any:
        asked.append(ticks())
        raise ValueError("a damaged row")

    monkeypatch.setattr(inside.queue.store, "count", count)
    client = Peer(served(inside))
    client.socket.sendall(b"status\n")
    client.send(KIND.ECHO_REQ, b"sync")

    assert b"damaged" in client.next().text.encode()
    assert client.next().type is KIND.ECHO_RES
    time.sleep(0.1)
    assert len(asked) == 1
    client.close()
