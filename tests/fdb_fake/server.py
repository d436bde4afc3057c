"""The process that serves the fake cluster: ``python -m fdb_fake.server PORT [--journal FILE]``.

It says ``listening PORT`` on its standard output. With a journal, what it has confirmed is there again after a kill.
"""

from __future__ import annotations

import argparse
import asyncio
import marshal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fdb_fake.codes import Refusal
from fdb_fake.storage import VERSIONS_PER_SECOND, Cluster, Mutation
from fdb_fake.wire import Frames, frame

IDLE_COMMIT = 2.0
"""Seconds after which an idle cluster commits nothing, so that read versions go on: a read version is no clock.

It is 7.3's ``MAX_COMMIT_BATCH_INTERVAL``.
"""

RECOVERY = 100 * VERSIONS_PER_SECOND
"""How far versions jump when a cluster starts anew."""


@dataclass
class Fault:
    """An error to be given to the next commits that write below a prefix, before or after what they do."""

    code: int
    took: bool
    prefix: bytes
    skip: int
    count: int

    def fits(self, mutations: list[Mutation]) -> bool:
        return not self.prefix or any(key.startswith(self.prefix) for _, key, _ in mutations)


class Journal:
    """All that was committed, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def replay(self, cluster: Cluster) -> None:
        whole = 0
        if self._path.exists():
            with self._path.open("rb") as file:
                while True:
                    try:
                        version, mutations = marshal.load(file)
                    except (EOFError, ValueError, TypeError):  # torn by a kill, so never confirmed
                        break
                    whole = file.tell()
                    cluster.clock.version = version
                    cluster.apply(mutations, version)
            cluster.clock.jump(RECOVERY)
        self._file = self._path.open("ab")
        self._file.truncate(whole)

    def add(self, version: int, mutations: list[Mutation]) -> None:
        assert self._file is not None
        self._file.write(marshal.dumps((version, mutations), 2))
        self._file.flush()


class Server:
    """One cluster and what tests ask to go wrong in it."""

    def __init__(self, journal: Journal | None) -> None:
        self.cluster = Cluster()
        self.faults: list[Fault] = []
        self._journal = journal
        if journal is not None:
            journal.replay(self.cluster)

    def commit(self, read_version: int, reads: list, writes: list, mutations: list) -> tuple[int, int]:
        fault = self._fault(mutations)
        if fault is not None and not fault.took:
            raise Refusal(fault.code)
        version, batch, done = self.cluster.commit(read_version, reads, writes, mutations)
        if self._journal is not None and done:
            self._journal.add(version, done)
        if fault is not None:
            raise Refusal(fault.code)
        return version, batch

    def _fault(self, mutations: list[Mutation]) -> Fault | None:
        for fault in self.faults:
            if fault.count and fault.fits(mutations):
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.count -= 1
                return fault
        return None

    def fail(self, code: int, took: bool, prefix: bytes, skip: int, count: int) -> None:
        self.faults = [fault for fault in self.faults if fault.count]
        self.faults.append(Fault(code, took, prefix, skip, count))

    def no_faults(self) -> int:
        """Forgets them; says how many commits are left that were to fail."""
        left = sum(fault.count for fault in self.faults)
        self.faults = []
        return left

    def jump(self, versions: int) -> int:
        self.cluster.clock.jump(versions)
        return self.cluster.clock.version

    def stats(self) -> dict[str, int]:
        cluster = self.cluster
        return {
            "commits": cluster.commits,
            "conflicts": cluster.conflicts,
            "watches": len(cluster.watches),
            "version": cluster.clock.version,
        }

    async def advance(self) -> None:
        while True:
            await asyncio.sleep(IDLE_COMMIT)
            self.cluster.clock.advance()
            self.cluster.forget()


class Connection(asyncio.Protocol):
    """One client process."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._frames = Frames()
        self._watches: dict[int, int] = {}  # by the number of the request
        cluster = server.cluster
        self._verbs: dict[str, Callable[..., Any]] = {
            "version": cluster.read_version,
            "get": cluster.get,
            "range": cluster.range,
            "commit": server.commit,
            "fail": server.fail,
            "no_faults": server.no_faults,
            "jump": server.jump,
            "stats": server.stats,
        }

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answers = [self._answer(*message) for message in self._frames.feed(data)]
        self._transport.write(b"".join(frame(answer) for answer in answers if answer is not None))

    def _answer(self, number: int, verb: str, *args: Any) -> tuple | None:
        if verb == "watch":
            return self._watch(number, *args)
        if verb == "unwatch":
            self._server.cluster.watches.drop(self._watches.pop(args[0], 0))
            return None
        try:
            return number, 0, self._verbs[verb](*args)
        except Refusal as refusal:
            return number, refusal.code, None

    def _watch(self, number: int, key: bytes, known: bytes | None) -> tuple | None:
        def fire() -> None:
            self._watches.pop(number, None)
            self._transport.write(frame((number, 0, None)))

        watch = self._server.cluster.watch(key, known, fire)
        if watch is None:
            return number, 0, None
        self._watches[number] = watch
        return None

    def connection_lost(self, error: Exception | None) -> None:
        for watch in self._watches.values():
            self._server.cluster.watches.drop(watch)


async def serve(port: int, journal: Path | None) -> None:
    server = Server(Journal(journal) if journal else None)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", port)
    print(f"listening {listener.sockets[0].getsockname()[1]}", flush=True)
    advancing = asyncio.create_task(server.advance())
    # Whoever started it holds the other end: it ends with them, however they end.
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    advancing.cancel()
    listener.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--journal", type=Path)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.journal))


if __name__ == "__main__":
    main()
