"""Peers that nobody here wrote: each as client and as worker, with ours on the other side, on each server.

A cell of the matrix is a client, a worker and a server, of which at least one is ours. Each gets data with NULs and
UTF-8 through, data of a megabyte, and a failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from gearman_servers import Gearmand
from pools import LIMIT
from programs import find, free_port

from skunkqueue.errors import SkunkError
from skunkqueue.gearman import AdminClient, GearmanServer

PEERS = Path(__file__).parent / "gearman_peers"


class Peer(NamedTuple):
    """A client or worker: its command line for a host and a port, and what has to be there for it."""

    command: Callable[[str, int], list[str]]
    program: str = ""
    package: str = ""
    files: tuple[str, ...] = ()
    module: str = ""


def script(name: str, joined: bool, *program: str) -> Callable[[str, int], list[str]]:
    """The command of a script, with host and port as one argument or as two."""
    return lambda host, port: [*program, str(PEERS / name), *([f"{host}:{port}"] if joined else [host, str(port)])]


def c_client(host: str, port: int) -> list[str]:
    return ["gearman", "-h", host, "-p", str(port), "-f"]


def c_worker(host: str, port: int) -> list[str]:
    """One for each function, for it calls the same program for all."""
    worker = f"gearman -w -h {host} -p {port}"
    return ["sh", "-c", f"{worker} -f upper tr a-z A-Z & {worker} -f broken false & wait"]


PERL = "/usr/share/perl5/Gearman/Client.pm"

CLIENTS = {
    "ours": Peer(script("our_client.py", True, sys.executable)),
    "c": Peer(c_client, "gearman", "gearman-tools"),
    "perl": Peer(script("client.pl", True, "perl"), "perl", "libgearman-client-perl", (PERL,)),
    "php": Peer(script("client.php", False, "php"), "php", "php-cli php-gearman"),
    "pygearman": Peer(script("pygearman_client.py", True, sys.executable), module="gearman"),
    "gear": Peer(script("gear_client.py", False, sys.executable), module="gear"),
}
WORKERS = {
    "ours": Peer(script("our_worker.py", True, sys.executable)),
    "c": Peer(c_worker, "gearman", "gearman-tools"),
    "perl": Peer(script("worker.pl", True, "perl"), "perl", "libgearman-client-perl", (PERL,)),
    "php": Peer(script("worker.php", False, "php"), "php", "php-cli php-gearman"),
    "pygearman": Peer(script("pygearman_worker.py", True, sys.executable), module="gearman"),
    "gear": Peer(script("gear_worker.py", False, sys.executable), module="gear"),
}


@contextlib.contextmanager
def c_server() -> Iterator[int]:
    server = Gearmand().start()
    try:
        yield server.port
    finally:
        server.kill()


@contextlib.contextmanager
def our_server() -> Iterator[int]:
    with GearmanServer(f"memory://interop-{time.time_ns()}", port=0) as server:
        yield int(server.address.rpartition(":")[2])


PERL_SERVER = "/usr/bin/gearmand"


@contextlib.contextmanager
def perl_server() -> Iterator[int]:
    is_there = os.path.exists("/usr/share/perl5/Gearman/Server.pm") and os.path.exists(PERL_SERVER)
    need(is_there, "Perl's server", "gearman-server")
    port = free_port()
    command = ["perl", PERL_SERVER, f"--port={port}", "--listen=127.0.0.1"]
    with running(command):
        yield port


SERVERS = {"gearmand": c_server, "ours": our_server, "perl": perl_server}


def need(is_there: bool, what: str, package: str) -> None:
    """Without a peer its cells are skipped by name at home, and fail in CI."""
    if not is_there:
        message = f"{what} is not installed: {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def check(peer: Peer) -> None:
    if peer.module:
        need(importlib.util.find_spec(peer.module) is not None, peer.module, "pip install '.[test]'")
    if peer.program:
        need(shutil.which(peer.program) is not None, peer.program, f"apt install {peer.package}")
    if peer.program == "php":
        modules = subprocess.run(["php", "-m"], capture_output=True, text=True, check=True, timeout=LIMIT)
        need("gearman" in modules.stdout.split(), "PHP's extension", f"apt install {peer.package}")
    for file in peer.files:
        need(os.path.exists(file), file, f"apt install {peer.package}")


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[None]:
    """A process in a group of its own, which ends with the block."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT)


def wait_for_worker(port: int) -> None:
    """Until the server has workers for both functions, as our AdminClient is told."""
    end = time.monotonic() + LIMIT
    able: set[str] = set()
    while able < {"upper", "broken"}:
        assert time.monotonic() < end, f"the worker did not announce its functions: {able}"
        with contextlib.suppress(SkunkError), AdminClient(f"127.0.0.1:{port}") as admin:
            able = {row.function for row in admin.status() if row.workers}
        time.sleep(0.05)


def call(client: Peer, port: int, function: str, data: bytes) -> tuple[int, bytes]:
    """Exit code and answer of a client."""
    command = [*client.command("127.0.0.1", port), function]
    found = subprocess.run(command, input=data, capture_output=True, timeout=LIMIT, check=False)
    return found.returncode, found.stdout or found.stderr


MIXED = "grüße\0 and\nmore\0".encode()
LARGE = b"0123456789abcdef" * (1 << 16)


def cells() -> Iterator[tuple[str, str, str]]:
    """Client, worker, server: one of the first two is ours; on our server each peer also meets itself."""
    for server in SERVERS:
        yield "ours", "ours", server
        for peer in (name for name in CLIENTS if name != "ours"):
            yield peer, "ours", server
            yield "ours", peer, server
    for peer in CLIENTS:
        if peer != "ours":
            yield peer, peer, "ours"


APART = {
    "c": "libgearman grabs jobs in a way that the server in Perl does not know (GRAB_JOB_ALL)",
    "php": "libgearman grabs jobs in a way that the server in Perl does not know (GRAB_JOB_ALL)",
    "pygearman": "pygearman grabs jobs in a way that the server in Perl does not know (GRAB_JOB_UNIQ)",
    "gear": "gear grabs jobs in a way that the server in Perl does not know (GRAB_JOB_UNIQ)",
}
"""Workers of others that the server in Perl, which is not ours either, does not understand."""

QUICK = {("c", "ours", "gearmand"), ("ours", "c", "ours"), ("perl", "perl", "ours"), ("ours", "ours", "ours")}
"""Those of the suite in short."""


@pytest.mark.parametrize(
    ("client", "worker", "server"),
    [pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow, id="-".join(cell)) for cell in cells()],
)
def test_a_client_a_worker_and_a_server_understand_each_other(client: str, worker: str, server: str) -> None:
    if server == "perl" and worker in APART:
        pytest.skip(APART[worker])
    check(CLIENTS[client])
    check(WORKERS[worker])
    with SERVERS[server]() as port, running(WORKERS[worker].command("127.0.0.1", port)):
        wait_for_worker(port)

        # The C worker hands a program all its data before it reads: more than a pipe holds is too much for it.
        for data in (MIXED, LARGE[: 30_000 if worker == "c" else None]):
            assert call(CLIENTS[client], port, "upper", data) == (0, data.upper())
        code, _ = call(CLIENTS[client], port, "broken", b"x")
        assert code != 0


@pytest.mark.parametrize("server", SERVERS)
def test_gearadmin_understands_each_server(server: str) -> None:
    program = find("gearadmin", "gearman-tools")
    with SERVERS[server]() as port, running(WORKERS["ours"].command("127.0.0.1", port)):
        wait_for_worker(port)

        def said(option: str) -> str:
            command = [program, "-h", "127.0.0.1", "-p", str(port), option]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT).stdout

        assert "upper\t0\t0\t1\n" in said("--status")
        assert ": " in said("--workers")
        assert said("--server-version").strip()
