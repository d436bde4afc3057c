"""Our Gearman server beside gearmand, under the same load; and what background jobs cost that survive their server.

    python -m bench.gearman_server [JOBS] [ROUNDS]

The load is raw sockets with packets made beforehand, in processes of their own, and the C tool ``gearman``, client and
worker. Rounds alternate between the servers, so that a busy moment hits all; shown is the best of each, and the median
of how a server compares with gearmand in the same round. The figures of one run are comparable with each other only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.gearman_servers import free_port, running, wait_for

JOBS = 10_000
ROUNDS = 3
WINDOW = 200
"""Jobs of a client that are under way at a time."""
WORKERS = 2
PAYLOAD = b"x" * 64
LIMIT = 60.0

CAN_DO, SUBMIT, CREATED, GRAB, NO_JOB, ASSIGN, COMPLETE, BACKGROUND = 1, 7, 8, 9, 10, 11, 13, 18
PRE_SLEEP, NOOP = 4, 6


def packet(number: int, *args: bytes) -> bytes:
    body = b"\0".join(args)
    return struct.pack("!4sII", b"\0REQ", number, len(body)) + body


class Link:
    """A connection that reads whole packets."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""

    def packets(self) -> list[tuple[int, bytes]]:
        """Those that have come; at least one."""
        found: list[tuple[int, bytes]] = []
        while not found:
            data = self._data + self.socket.recv(1 << 18)
            at = 0
            while len(data) - at >= 12:
                _, number, size = struct.unpack_from("!4sII", data, at)
                if len(data) - at < 12 + size:
                    break
                found.append((number, data[at + 12 : at + 12 + size]))
                at += 12 + size
            self._data = data[at:]
        return found


def submit(port: int, function: bytes, count: int) -> float:
    """Submit in the background, a window at a time; jobs a second."""
    link = Link(port)
    one = packet(BACKGROUND, function, b"", PAYLOAD)
    began = time.perf_counter()
    sent = created = 0
    while created < count:
        room = min(WINDOW - (sent - created), count - sent)
        if room:
            link.socket.sendall(one * room)
            sent += room
        created += len(link.packets())
    return count / (time.perf_counter() - began)


def call(port: int, function: bytes, count: int) -> float:
    """Submit in the foreground, a window at a time; jobs answered a second."""
    link = Link(port)
    one = packet(SUBMIT, function, b"", PAYLOAD)
    began = time.perf_counter()
    sent = done = 0
    while done < count:
        room = min(WINDOW - (sent - done), count - sent)
        if room:
            link.socket.sendall(one * room)
            sent += room
        done += sum(number == COMPLETE for number, _ in link.packets())
    return count / (time.perf_counter() - began)


def work(port: int, function: bytes) -> None:
    """A worker that takes one job at a time, as libgearman's does, until its process is ended."""
    link = Link(port)
    link.socket.settimeout(None)
    grab = packet(GRAB)
    link.socket.sendall(packet(CAN_DO, function) + grab)
    while True:
        for number, body in link.packets():
            if number == ASSIGN:
                link.socket.sendall(packet(COMPLETE, body[: body.index(b"\0")], b"done") + grab)
            elif number == NO_JOB:
                link.socket.sendall(packet(PRE_SLEEP))
            elif number == NOOP:
                link.socket.sendall(grab)


@contextlib.contextmanager
def workers(port: int, function: bytes) -> Iterator[None]:
    spawn = multiprocessing.get_context("fork")
    started = [spawn.Process(target=work, args=(port, function), daemon=True) for _ in range(WORKERS)]
    for each in started:
        each.start()
    try:
        yield
    finally:
        for each in started:
            each.kill()
            each.join()


def waiting(port: int, function: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), LIMIT) as link:
        link.sendall(b"status\n")
        text = b""
        while not text.endswith(b".\n"):
            text += link.recv(65536)
    rows = [line.split(b"\t") for line in text.splitlines()]
    return next((int(row[1]) for row in rows if row[0] == function), 0)


def drain(port: int, function: bytes, count: int) -> float:
    """Have as many jobs done as are there; jobs a second."""
    began = time.perf_counter()
    with workers(port, function):
        while waiting(port, function):
            time.sleep(0.02)
    return count / (time.perf_counter() - began)


def answered(port: int, function: bytes, count: int) -> float:
    with workers(port, function):
        return call(port, function, count)


def c_tool(port: int, function: bytes, count: int) -> float:
    """The C client and the C worker, one job at a time; jobs a second."""
    gearman = shutil.which("gearman")
    if gearman is None:
        return 0.0
    name = function.decode()
    base = [gearman, "-p", str(port), "-f", name]
    worker = subprocess.Popen([*base, "-w"], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        subprocess.run([*base, "warm"], timeout=LIMIT, check=True, stdout=subprocess.DEVNULL)
        lines = b"word\n" * count
        began = time.perf_counter()
        subprocess.run([*base, "-n"], input=lines, timeout=LIMIT, check=True, stdout=subprocess.DEVNULL)
        return count / (time.perf_counter() - began)
    finally:
        worker.kill()
        worker.wait()


WAYS: dict[str, Callable[[int, bytes, int], float]] = {
    "submit in the background": submit,
    "work them off": drain,
    "call, many in flight": answered,
    "call, C client and worker": lambda port, function, count: c_tool(port, function, max(count // 10, 100)),
}


def commands(folder: Path) -> dict[str, Callable[[int], list[str]]]:
    ours = [sys.executable, "-m", "skunkqueue.cli", "gearman", "serve", "--port"]
    found: dict[str, Callable[[int], list[str]]] = {
        "ours, memory": lambda port: [*ours, str(port), "--url", "memory://bench"],
        "ours, SQLite": lambda port: [*ours, str(port), "--url", f"sqlite:///{folder}/{port}.db"],
        "ours, SQLite (normal)": lambda port: [
            *ours, str(port), "--url", f"sqlite:///{folder}/n{port}.db?durability=normal"
        ],
    }  # fmt: skip
    gearmand = shutil.which("gearmand") or shutil.which("gearmand", path="/usr/sbin")
    if gearmand is None:
        print("gearmand is not installed: apt install gearman-job-server")
        return found
    return {"gearmand": lambda port: [gearmand, f"--port={port}", "--listen=127.0.0.1", "--log-file=none"], **found}


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        ports: dict[str, int] = {}
        for kind, command in commands(Path(name)).items():
            ports[kind] = free_port()
            stack.enter_context(running(command(ports[kind])))
            wait_for(ports[kind])
        for number in range(rounds):
            for way, measure in WAYS.items():
                group = b"a" if way in ("submit in the background", "work them off") else b"b"
                function = (
                    group + str(number).encode() + (b"c" if measure is WAYS["call, C client and worker"] else b"")
                )
                for kind, port in ports.items():
                    found.setdefault((way, kind), []).append(measure(port, function, jobs))
    print(
        f"{jobs:,} jobs of {len(PAYLOAD)} bytes, {WORKERS} workers, {rounds} rounds; jobs a second, and of gearmand's"
    )
    for (way, kind), speeds in found.items():
        beside = found.get((way, "gearmand"))
        share = statistics.median(mine / its for mine, its in zip(speeds, beside, strict=True)) if beside else 0.0
        print(f"{way:28} {kind:24} {max(speeds):10,.0f}   {share:5.2f}")


if __name__ == "__main__":
    main()
