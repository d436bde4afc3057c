"""Real gearmands for the tests, on free ports of 127.0.0.1, stopped by pid; and plain peers that do as told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
from pools import HERE, LIMIT, alive, children, until
from programs import answers, find, free_port

from skunkqueue.gearman.protocol import Decoder, Magic, Packet, PacketType

IN_C: Final = "/usr/sbin:/usr/local/sbin"
"""Where the job server in C is; /usr/bin/gearmand is the one in Perl."""


class Gearmand:
    """One gearmand; ``start`` again after ``stop`` or ``kill`` keeps its port."""

    def __init__(self) -> None:
        self.program = find("gearmand", "gearman-job-server", path=IN_C)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Gearmand:
        options = ["--listen=127.0.0.1", f"--port={self.port}", "--log-file=none"]
        self.process = subprocess.Popen(
            [self.program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: answers(self.port), message="gearmand did not come up")
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(LIMIT)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def admin(self, command: str) -> list[list[str]]:
        """The lines of an admin command, split at tabs."""
        with socket.create_connection(("127.0.0.1", self.port), LIMIT) as link:
            link.sendall(command.encode() + b"\n")
            text = b""
            while not text.endswith(b".\n"):
                more = link.recv(65536)
                assert more, text
                text += more
        return [line.split("\t") for line in text.decode().splitlines()[:-1]]

    def status(self, function: str) -> tuple[int, int, int]:
        """How many jobs of a function there are, how many run, and how many workers can do it."""
        for line in self.admin("status"):
            if line[0] == function:
                return int(line[1]), int(line[2]), int(line[3])
        return 0, 0, 0


class Peer:
    """A client or worker of the plainest kind: sends packets, and tells what came."""

    def __init__(self, server: Gearmand) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = Decoder(Magic.RESPONSE)
        self._come: list[Any] = []

    def send(self, type: PacketType, *args: bytes | str | int) -> None:
        self.socket.sendall(Packet.request(type, *args).encode())

    def next(self, limit: float = LIMIT) -> Packet:
        """The next packet. Raises TimeoutError."""
        self.socket.settimeout(limit)
        while not self._come:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the server has closed")
            self._come += self._decoder.feed(data)
        found: Packet = self._come.pop(0)
        return found

    def submit(self, function: str, data: bytes, *, background: bool = False, unique: str = "") -> bytes:
        """Submit a job; its handle."""
        kind = PacketType.SUBMIT_JOB_BG if background else PacketType.SUBMIT_JOB
        self.send(kind, function, unique, data)
        created = self.next()
        assert created.type is PacketType.JOB_CREATED, created
        return created.args[0]

    def ended(self, limit: float = LIMIT) -> Packet:
        """The packet that ends a job, past all others."""
        end = time.monotonic() + limit
        while True:
            packet = self.next(max(0.01, end - time.monotonic()))
            if packet.type in (PacketType.WORK_COMPLETE, PacketType.WORK_FAIL, PacketType.WORK_EXCEPTION):
                return packet

    def call(self, function: str, data: bytes, limit: float = LIMIT) -> bytes:
        """The answer of a foreground job. Raises RuntimeError with what its worker said if it failed."""
        self.submit(function, data)
        packet = self.ended(limit)
        if packet.type is not PacketType.WORK_COMPLETE:
            raise RuntimeError(b" ".join(packet.args[1:]).decode())
        return packet.args[1]

    def hear_exceptions(self) -> Peer:
        """Ask for WORK_EXCEPTION, which gearmand withholds otherwise."""
        self.send(PacketType.OPTION_REQ, "exceptions")
        assert self.next().type is PacketType.OPTION_RES
        return self

    def close(self) -> None:
        self.socket.close()


HAS_FAILED: Final = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def closed_connections(request: pytest.FixtureRequest) -> Iterator[None]:
    """Close what a test of Gearman leaves open, so that no later test finds it; the test fails that does."""
    if not request.module.__name__.startswith("test_gearman"):
        yield
        return
    made: list[tuple[socket.socket, traceback.StackSummary]] = []
    connect = socket.create_connection

    def connected(*args: Any, **kwargs: Any) -> socket.socket:
        found = connect(*args, **kwargs)
        made.append((found, traceback.extract_stack(limit=8)))
        return found

    with mock.patch.object(socket, "create_connection", connected):
        yield
    left = [(found, stack) for found, stack in made if found.fileno() >= 0]
    for found, _ in left:
        found.close()
    if left and not request.node.stash.get(HAS_FAILED, False):
        pytest.fail("".join(f"left open: {found}, made by\n{''.join(stack.format())}" for found, stack in left))


@pytest.fixture
def gearmand() -> Iterator[Gearmand]:
    """A gearmand that runs."""
    with started() as server:
        yield server


@contextlib.contextmanager
def started() -> Iterator[Gearmand]:
    """One more gearmand that runs."""
    server = Gearmand()
    try:
        yield server.start()
    finally:
        server.kill()


@contextlib.contextmanager
def peers(server: Gearmand, count: int = 1) -> Iterator[Sequence[Peer]]:
    found = [Peer(server) for _ in range(count)]
    try:
        yield found
    finally:
        for peer in found:
            peer.close()


class Running:
    """A program of gearman_jobs, with its log."""

    def __init__(self, folder: Path, kind: str, server: str, **options: object) -> None:
        self.folder = folder
        self.log_file = folder / f"{kind}-{time.monotonic_ns()}.log"
        env = {**os.environ, "PYTHONPATH": str(HERE), "MARKS": str(folder)}
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gearman_jobs", kind, server, repr(options)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=folder, start_new_session=True,
            )  # fmt: skip

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def said(self, text: str, times: int = 1) -> None:
        until(lambda: self.log().count(text) >= times, message=f"no {text!r} in {self.log()[-3000:]}\n")

    def marks(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}-*"))

    def ends(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        below = children(self.process.pid)
        self.process.kill()
        self.process.wait(LIMIT)
        until(lambda: not any(alive(pid) for pid in below), message="worker processes outlived their pool")


@pytest.fixture(params=["gearmand", pytest.param("ours", marks=pytest.mark.slow)])
def job_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gearmand]:
    """A job server that runs: a gearmand, and ours on an embedded file."""
    with serving(request.param, tmp_path) as server:
        yield server


@contextlib.contextmanager
def serving(kind: str, folder: Path) -> Iterator[Gearmand]:
    server = another(kind, folder)
    try:
        yield server.start()
    finally:
        server.kill()


def another(kind: str, folder: Path) -> Gearmand:
    """One more server of that kind, which is not started."""
    if kind == "gearmand":
        return Gearmand()
    from gearman_ours import OurServer

    return OurServer(f"sqlite:///{folder}/gearman-{time.monotonic_ns()}.db")


@pytest.fixture
def gearman_run(tmp_path: Path, job_server: Gearmand) -> Iterator[Running]:
    """A WorkRunner with one process, which is ready."""
    with Running(tmp_path, "run", job_server.server) as running:
        until(lambda: job_server.status("plain_echo")[2] == 1, message=running.log())
        yield running


@pytest.fixture
def gearman_peer(job_server: Gearmand) -> Iterator[Peer]:
    with peers(job_server) as (peer,):
        yield peer.hear_exceptions()


def as_json(**arguments: object) -> bytes:
    """Arguments as a worker's tasks take them."""
    return json.dumps(arguments).encode()
