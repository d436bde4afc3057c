"""The connections of a worker that works in this process: made again when they break, and waited for all together."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.gearman.connection import JobServer
from skunkqueue.gearman.dialer import Dialer
from skunkqueue.gearman.worker_connection import WorkerConnection

GRAB_ANYWAY: Final = 3.0
"""Seconds after which a sleeping worker asks for jobs unasked: gearmand 1.1.20 wakes nobody for EPOCH jobs."""
UNANSWERED: Final = 5.0
"""Seconds after which a server that does not answer counts as away."""
PROVE: Final = 30.0
"""Seconds of silence after which a server is asked for a sign of life."""
CHECK: Final = 0.5
"""Seconds between two looks at what is late."""

log: logging.Logger = logging.getLogger("skunkqueue.gearman")


class PolledConnections:
    """A connection to each server. For one thread, but that ``wake`` is for any, and dialers have their own."""

    def __init__(self, servers: Sequence[JobServer], client_id: str) -> None:
        self.all: list[WorkerConnection] = [WorkerConnection(server, client_id.encode(), ()) for server in servers]
        """Those to be asked first are in front."""
        self._dialers = {each: Dialer(each, self._found, log.warning) for each in self.all}
        self._dialed: list[tuple[WorkerConnection, socket.socket]] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self._check_at = 0.0
        self._looked_at = ticks()  # when servers were asked that had told of nothing
        self._poll = select.poll()
        self._by_fd: dict[int, WorkerConnection] = {}
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._poll.register(self._woken, select.POLLIN)

    def wait(self, timeout: float) -> list[WorkerConnection]:
        """Wait for these seconds, or until there is something to read, or to look after; those that can be read."""
        blocked = [connection for connection in self.all if connection.is_blocked]
        for connection in blocked:
            self._poll.modify(connection, select.POLLIN | select.POLLOUT)
        ready = []
        for fd, _ in self._poll.poll(max(0.0, min(timeout, self._check_at - ticks())) * 1000):
            found = self._by_fd.get(fd)
            if found is not None and found.fileno() == fd:
                ready.append(found)
            elif fd == self._woken.fileno():
                self._woken.recv(512)
            else:
                self._poll.unregister(fd)  # it was closed
        for connection in blocked:
            connection.flush()
            if connection.is_up and not connection.is_blocked:
                self._poll.modify(connection, select.POLLIN)
        return ready

    def wake(self) -> None:
        """End the wait, from any thread or a signal's handler."""
        with suppress(OSError):  # it is full, which wakes it as well, or was closed just now
            self._wake.send(b"!")

    def tend(self, functions: Sequence[str]) -> None:
        """Use the connections that were made, announce what has changed, and see to what is late."""
        if self._dialed:
            self._adopt(functions)
        for connection in self.all:
            if connection.is_up and connection.functions != functions:
                connection.announce(functions)
        now = ticks()
        if now >= self._check_at:
            self._check(now)

    @property
    def is_due(self) -> bool:
        """Whether there is something for ``tend`` besides what has changed."""
        return bool(self._dialed) or ticks() >= self._check_at

    def in_turn(self, connection: WorkerConnection) -> None:
        """It was asked: the others come first next time."""
        if len(self.all) > 1:
            self.all.remove(connection)
            self.all.append(connection)

    def lost(self, connection: WorkerConnection) -> None:
        """It broke: dial anew."""
        log.warning("the connection to %s was lost", connection.server)
        self._dialers[connection].dial()

    def close(self) -> None:
        for dialer in self._dialers.values():
            dialer.close()
        with self._lock:
            self._is_closed = True
            for _, found in self._dialed:
                found.close()
            self._dialed = []
        for connection in self.all:
            connection.close()
        self._woken.close()
        self._wake.close()

    # internals

    def _found(self, connection: WorkerConnection, found: socket.socket) -> None:
        """On a dialer's thread: hand over a new connection."""
        with self._lock:
            if self._is_closed:
                found.close()
                return
            self._dialed.append((connection, found))
        self.wake()

    def _adopt(self, functions: Sequence[str]) -> None:
        with self._lock:
            dialed, self._dialed = self._dialed, []
        for connection, found in dialed:
            if connection.is_up:  # it was dialed twice
                found.close()
                continue
            connection.functions = tuple(functions)
            connection.adopt(found)
            if connection.is_up:
                self._poll.register(connection, select.POLLIN)
                self._by_fd[connection.fileno()] = connection
            else:  # the server was gone again before it was told who this is
                self.lost(connection)

    def _check(self, now: float) -> None:
        """Close connections that do not answer, ask silent ones for a sign of life, and sleeping ones for jobs."""
        self._check_at = now + CHECK
        look = now - self._looked_at >= GRAB_ANYWAY
        for connection in self.all:
            if not connection.is_up:
                self._dialers[connection].dial()
            elif now - connection.asked_at > UNANSWERED:
                if connection.is_ready:
                    log.warning("%s does not answer: connecting anew", connection.server)
                connection.close()
                self._dialers[connection].dial()
            elif now - connection.heard_at > PROVE and not connection.is_owing:
                connection.prove()
            elif look:
                connection.is_hot = connection.is_ready
        if look:
            self._looked_at = now
