"""Peers that mean no good: their connections end, the others do not notice, and memory stays bounded."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gearman_ours import OurServer, in_process
from gearman_servers import Gearmand, Peer
from pools import LIMIT, until
from test_gearman_server import Served, grab, grab_job, sync

from skunkqueue.gearman.protocol import Packet, PacketType

KIND = PacketType
BUDGET = 8 << 20


@pytest.fixture
def ours() -> Iterator[Gearmand]:
    with in_process(url="memory://hostile", max_payload=1 << 20, budget=BUDGET) as server:
        yield Served(int(server.address.rpartition(":")[2]))
        server.queue.store.clear()


@pytest.fixture
def neighbours(ours: Gearmand) -> Iterator[Any]:
    """A client and a worker, which must not notice anything: called, they do a job."""
    client, worker = Peer(ours), Peer(ours)
    worker.send(KIND.CAN_DO, "f")

    def work() -> None:
        handle = client.submit("f", b"ping")
        assert grab_job(worker).data == b"ping"
        worker.send(KIND.WORK_COMPLETE, handle, b"pong")
        assert client.ended().data == b"pong"

    work()
    yield work
    work()
    client.close()
    worker.close()


def connect(server: Gearmand) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", server.port), LIMIT)
    link.settimeout(LIMIT)
    return link


def is_ended(link: socket.socket) -> bytes:
    """What the server said before it ended the connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := link.recv(65536):
            said += data
    return said


def header(number: int, size: int, magic: bytes = b"\0REQ") -> bytes:
    return struct.pack("!4sII", magic, number, size)


@pytest.mark.parametrize(
    "data",
    [
        header(KIND.SUBMIT_JOB, 1 << 31),
        header(KIND.SUBMIT_JOB, (1 << 20) + (1 << 12)),
        header(KIND.CAN_DO, 1 << 20),
        header(KIND.GRAB_JOB, 5),
        header(KIND.SUBMIT_JOB, 0),
        header(999, 0),
        header(5, 0),
        header(KIND.NOOP, 0),
        header(KIND.ECHO_RES, 0, b"\0RES"),
        header(KIND.ECHO_REQ, 0, b"\0REX"),
        header(KIND.SUBMIT_JOB_EPOCH, 3) + b"abc",
        b"\0\0\0\0" * 10,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 100_000,
        b"a" * 100_000,
        b"nonsense\n" * 50,
        b"\x16\x03\x01\x02\0" + bytes(range(256)) * 100,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_a_peer_that_talks_nonsense_is_told_and_ended(ours: Gearmand, neighbours: Any, data: bytes) -> None:
    link = connect(ours)

    with contextlib.suppress(ConnectionError):
        link.sendall(data)

    said = is_ended(link)
    link.close()

    assert b"INVALID_PACKET" in said or b"ERR UNKNOWN_COMMAND" in said


def test_what_came_before_the_nonsense_is_done(ours: Gearmand, neighbours: Any) -> None:
    link = connect(ours)

    link.sendall(Packet.request(KIND.SUBMIT_JOB_BG, "g", "", b"x").encode() + b"\0nonsense...")

    said = is_ended(link)
    assert said.startswith(b"\0RES" + struct.pack("!I", KIND.JOB_CREATED))
    assert ours.status("g")[0] == 1
    link.close()


def test_garbage_of_any_kind_harms_nobody(ours: Gearmand, neighbours: Any) -> None:
    rng = random.Random(4730)
    for _ in range(150):
        link = connect(ours)
        size = rng.choice((1, 3, 11, 12, 13, 200, 5000))
        data = rng.randbytes(size)
        if rng.random() < 0.7:
            data = (
                header(rng.randrange(45), rng.choice((0, 1, 5, size, 70_000)), rng.choice((b"\0REQ", b"\0RES"))) + data
            )
        with contextlib.suppress(ConnectionError):
            link.sendall(data)
        link.close()


def test_many_half_open_connections_are_no_trouble(ours: Gearmand, neighbours: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 1000 if hard in (resource.RLIM_INFINITY, hard) and hard >= 4096 else 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    links = []
    try:
        for n in range(count):
            links.append(connect(ours))
            links[-1].sendall(header(KIND.SUBMIT_JOB, 1 << 19)[: n % 13])
        neighbours()
        began = time.monotonic()
        neighbours()
        assert time.monotonic() - began < LIMIT
    finally:
        for link in links:
            link.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: len(ours.admin("workers")) == 3)


def test_silent_connections_make_room_for_others_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skunkqueue.gearman.server.loop.most_peers", lambda: 5)
    with in_process(url="memory://hostile") as server:
        ours = Served(int(server.address.rpartition(":")[2]))
        speaker = Peer(ours)
        sync(speaker)
        silent = [connect(ours) for _ in range(4)]

        others = [Peer(ours) for _ in range(4)]
        for other in others:
            sync(other)
        late = connect(ours)

        assert [is_ended(link) for link in silent] == [b""] * 4
        assert is_ended(late) == b""
        sync(speaker)
        for link in (*silent, late, speaker, *others):
            link.close()


def test_unfinished_packets_together_stay_within_the_budget(ours: Gearmand, neighbours: Any) -> None:
    links = [connect(ours) for _ in range(24)]
    piece = header(KIND.SUBMIT_JOB_BG, 1 << 20) + b"x" * (900 << 10)

    for link in links:
        with contextlib.suppress(ConnectionError):
            link.sendall(piece)
    neighbours()

    ended = 0
    for link in links:
        link.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            try:
                ended += link.recv(1) == b""
            except ConnectionError:
                ended += 1
        link.close()
    assert ended >= 24 - BUDGET // (900 << 10)


def test_a_peer_that_does_not_read_is_read_from_no_longer(ours: Gearmand, neighbours: Any) -> None:
    link = connect(ours)
    link.setblocking(False)
    echo = Packet.request(KIND.ECHO_REQ, b"x" * 60_000).encode()
    sent = 0
    end = time.monotonic() + 5
    quiet = 0
    while time.monotonic() < end and quiet < 20:
        try:
            sent += link.send(echo[sent % len(echo) :])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.02)
    assert quiet == 20, "the server took everything"
    assert sent < 64 << 20
    neighbours()
    link.close()


def test_a_client_that_does_not_read_its_answers_is_ended_when_they_are_too_many(
    ours: Gearmand, neighbours: Any
) -> None:
    deaf, worker = Peer(ours), Peer(ours)
    worker.send(KIND.CAN_DO, "g")
    handle = deaf.submit("g", b"")
    assert grab_job(worker).handle == handle

    for _ in range(40):
        worker.send(KIND.WORK_DATA, handle, b"x" * (1 << 19))
        sync(worker)
    neighbours()
    worker.send(KIND.WORK_COMPLETE, handle, b"")
    sync(worker)

    deaf.socket.settimeout(LIMIT)
    total = 0
    with contextlib.suppress(ConnectionError):
        while data := deaf.socket.recv(1 << 20):
            total += len(data)
    assert total < 40 << 19
    deaf.close()
    worker.close()


def test_a_worker_that_claims_all_functions_there_are_is_refused(ours: Gearmand, neighbours: Any) -> None:
    worker = Peer(ours)

    worker.socket.sendall(b"".join(Packet.request(KIND.CAN_DO, f"f{n}").encode() for n in range(2500)))

    assert worker.next().field("code") == b"ARGUMENT_TOO_LARGE"
    worker.close()


def test_many_functions_and_many_questions_about_them_hold_up_nobody(ours: Gearmand, neighbours: Any) -> None:
    client = Peer(ours)
    jobs = [Packet.request(KIND.SUBMIT_JOB_BG, f"function {n}", "", b"").encode() for n in range(3000)]
    client.socket.sendall(b"".join(jobs))
    for _ in jobs:
        assert client.next().type is KIND.JOB_CREATED
    curious = connect(ours)
    with contextlib.suppress(TimeoutError):
        curious.settimeout(0.2)
        curious.sendall((b"status\n" + b"show jobs\n") * 100)

    began = time.monotonic()
    neighbours()

    assert time.monotonic() - began < LIMIT
    assert len(ours.admin("status")) >= 3000
    assert len(ours.admin("show jobs")) == 3000
    curious.close()
    client.close()


def test_a_flood_of_submissions_waits_while_others_are_served(ours: Gearmand, neighbours: Any) -> None:
    flood = connect(ours)
    flood.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        for _ in range(20):
            flood.sendall(Packet.request(KIND.SUBMIT_JOB_BG, "flood", "", b"x" * 100).encode() * 2000)

    neighbours()

    flood.close()


def test_too_large_a_job_is_refused_and_the_connection_lives(ours: Gearmand, neighbours: Any) -> None:
    client = Peer(ours)

    client.send(KIND.SUBMIT_JOB_BG, "f" * 20, "", b"x" * ((1 << 20) + 1))

    assert client.next().field("code") == b"ARGUMENT_TOO_LARGE"
    sync(client)
    client.close()


def test_too_large_a_result_fails_its_job_and_is_not_worked_out_for_ever(ours: Gearmand, neighbours: Any) -> None:
    client, worker = Peer(ours).hear_exceptions(), Peer(ours)
    worker.send(KIND.CAN_DO, "g")
    handle = client.submit("g", b"")
    assert grab_job(worker).handle == handle

    with contextlib.suppress(ConnectionError):
        worker.send(KIND.WORK_COMPLETE, handle, bytes(2 << 20))

    assert b"too large" in client.ended().field("data")
    client.close()
    worker.close()


@pytest.mark.slow
def test_memory_stays_bounded_while_strangers_do_their_worst(tmp_path: Path) -> None:
    server = OurServer(f"sqlite:///{tmp_path}/jobs.db").start()
    try:
        assert server.process is not None
        pid = server.process.pid
        worker = Peer(server)
        worker.send(KIND.CAN_DO, "f")
        sync(worker)
        before = _resident(pid)
        links = [connect(server) for _ in range(60)]
        piece = header(KIND.SUBMIT_JOB_BG, 16 << 20) + b"x" * (15 << 20)
        for link in links:
            with contextlib.suppress(ConnectionError, TimeoutError):
                link.settimeout(5)
                link.sendall(piece)
        grown = _resident(pid) - before
        client = Peer(server)
        client.submit("f", b"", background=True)
        assert grab(worker).type is KIND.JOB_ASSIGN_UNIQ
        assert grown < 700 << 20  # 60 * 15 MiB were sent
        for link in links:
            link.close()
        client.close()
        worker.close()
    finally:
        server.kill()


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_the_log_says_why_a_connection_ended() -> None:
    log = io.StringIO()
    with in_process(url="memory://hostile", log=log) as server:
        link = connect(Served(int(server.address.rpartition(":")[2])))
        link.sendall(header(999, 0))
        is_ended(link)
        link.close()

    assert (
        "the connection of 127.0.0.1 ends: the header of a packet cannot be true: there is no type 999"
        in log.getvalue()
    )
