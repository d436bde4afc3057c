"""The asynchronous side of a Gearman source: the pool's own thread reads the servers' sockets, without waiting."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.envelope import Asked, Caught, Claim, Exchange, Outcome, Want
from skunkqueue.gearman.asking import Asking
from skunkqueue.gearman.servers import GearmanServers
from skunkqueue.gearman.worker_connection import WorkerConnection
from skunkqueue.persistence import Channel, Key

AGAIN: Final = 0.0001
"""Seconds after which the sockets are read again."""


class Ears:
    """A descriptor that becomes readable when any of the servers' sockets is, or when it is signalled."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._event, select.EPOLLIN)
        self._is_signalled = False
        self.fd: int = self._epoll.fileno()

    def attend(self, fd: int, events: int) -> None:
        """Listen to a socket for these events."""
        try:
            self._epoll.register(fd, events)
        except FileExistsError:
            self._epoll.modify(fd, events)

    def signal(self) -> None:
        """Make it readable until ``calm``."""
        if not self._is_signalled:
            self._is_signalled = True
            os.eventfd_write(self._event, 1)

    def calm(self) -> None:
        """Take the signal back."""
        if self._is_signalled:
            self._is_signalled = False
            os.eventfd_read(self._event)

    def close(self) -> None:
        """Close it."""
        self._epoll.close()
        os.close(self._event)


class GearmanChannel(Channel):
    """One exchange, and one watch, at a time; both read all sockets, and each gets what was meant for it."""

    answer_fd: int
    caught_fd: int

    def __init__(self, servers: GearmanServers) -> None:
        self._servers = servers
        self._answers, self._catches = Ears(), Ears()
        self.answer_fd, self.caught_fd = self._answers.fd, self._catches.fd
        self._asking: Asking | None = None
        self._asked_for = (0.0, 0.0)
        self._watch: Asked | None = None
        self._watch_began = 0.0
        self._catching: Asking | None = None
        self._is_roused = False
        self._is_closed = False
        self._read_at = 0.0
        self._blocked: set[WorkerConnection] = set()
        servers.attendant = self
        for connection in servers.connections:
            if connection.is_up:
                self.attend(connection)

    # used by the servers, under their lock

    def attend(self, connection: WorkerConnection) -> None:
        """Listen to this connection: for what it sends, and where it is blocked until it takes more."""
        if self._is_closed or not connection.is_up:
            return
        blocked = connection.is_blocked
        self._blocked = self._blocked | {connection} if blocked else self._blocked - {connection}
        events = select.EPOLLIN | (select.EPOLLOUT if blocked else 0)
        for ears in (self._answers, self._catches):
            ears.attend(connection.fileno(), events)

    def signal(self) -> None:
        """Something has changed that no socket tells."""
        if not self._is_closed:
            self._answers.signal()
            self._catches.signal()

    def rouse(self) -> bool:
        """End the watch; returns whether there was one. Under the servers' lock."""
        if self._watch is None or self._is_closed:
            return False
        self._is_roused = True
        self._catches.signal()
        return True

    # the exchange

    def ask(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> bool:
        with self._servers.lock:
            if not self._servers.is_any_ready:
                return False
            self._asking = self._servers.begin(outcomes, wants, now=now)
            self._asked_for = now, until
            if self._asking.is_over:
                self._answers.signal()
            return True

    def answer(self) -> Exchange | None:
        with self._servers.lock:
            self._answers.calm()
            self._read()
            asking = self._asking
            if self._is_caught():
                self._catches.signal()
            if asking is None or not asking.is_over:
                return None
            self._asking = None
            return self._servers.end(asking, *self._asked_for)

    # the watch

    def watch(self, keys: Sequence[Key], timeout: float, asked: Asked) -> None:
        with self._servers.lock:
            self._watch, self._watch_began, self._is_roused = asked, ticks(), False
            if self._is_caught():
                self._catches.signal()

    def caught(self) -> Caught | None:
        with self._servers.lock:
            self._catches.calm()
            self._read()
            is_caught = self._is_caught()
            if self._asking is not None and self._asking.is_over:
                self._answers.signal()
            watch, catching = self._watch, self._catching
            if not is_caught or watch is None or catching is None:
                return None
            self._watch = self._catching = None
            now = self._now(watch)
            return Caught(watch.wants, self._servers.end(catching, now, now + watch.until - watch.now), now)

    def _is_caught(self) -> bool:
        """Go on with the watch as far as possible: ask where there is news, until there is a job."""
        watch = self._watch
        if watch is None:
            return False
        while True:
            if self._catching is None:
                # Roused, it looks once more: every few seconds that asks servers that have told of nothing, too.
                if not (self._is_roused or self._servers.has_news(watch.wants, self._now(watch))):
                    return False
                self._catching = self._servers.begin((), watch.wants, now=self._now(watch))
            if not self._catching.is_over:
                return False
            if self._is_roused or any(self._catching.found.values()):
                return True
            now = self._now(watch)
            self._servers.end(self._catching, now, now)
            self._catching = None

    def _now(self, watch: Asked) -> float:
        return watch.now + ticks() - self._watch_began

    def _read(self) -> None:
        now = ticks()
        if now - self._read_at < AGAIN:
            return  # a moment ago, for the other descriptor; what came since makes both readable once more
        self._servers.read()
        self._read_at = ticks()
        for connection in list(self._blocked):
            self.attend(connection)

    # the end

    def cut(self) -> None:
        with self._servers.lock:
            for asking in (self._asking, self._catching):
                if asking is not None:
                    self._servers.cut(asking)
            self._asking = self._catching = self._watch = None

    def close(self) -> None:
        with self._servers.lock:
            self.cut()
            self._is_closed = True
            if self._servers.attendant is self:
                self._servers.attendant = None
            self._answers.close()
            self._catches.close()
