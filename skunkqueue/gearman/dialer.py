"""Connects to a server on a thread of its own, again and again until it is there, so that nobody waits for it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Final

from skunkqueue.clock import ticks
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.connection import LONGEST_PAUSE, open_socket
from skunkqueue.gearman.errors import ServerUnavailable
from skunkqueue.gearman.worker_connection import WorkerConnection
from skunkqueue.pauses import pause_after

SHORT: Final = 1.0
"""Seconds: a connection that is lost sooner is no better than none."""


class Dialer:
    """Dials for one connection. ``found`` is called with it and the open socket, ``say`` with each kind of trouble;
    both on the dialer's thread, of which there is one while ``dial`` has not succeeded.

    A server that accepts connections and closes them is dialed after pauses that grow, like one that accepts none.
    """

    def __init__(
        self,
        connection: WorkerConnection,
        found: Callable[[WorkerConnection, socket.socket], None],
        say: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._found = found
        self._say = say
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble = ""
        self._failures = 0  # in a row
        self._found_at = float("-inf")  # ticks

    def dial(self) -> None:
        """Begin to dial, unless that is under way. Where no thread can be started now, the next call tries again."""
        with self._lock:
            if self._thread is not None or self._closed.is_set():
                return
            thread = threading.Thread(target=self._work, name="skunkqueue-dialer", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._tell(f"{self._connection.server} cannot be connected to: {error}; trying again until it can")
                return
            self._thread = thread

    def close(self) -> None:
        """Dial no more."""
        self._closed.set()

    def _work(self) -> None:
        if ticks() - self._found_at < SHORT:
            self._rest()
        else:
            self._failures = 0
        while not self._closed.is_set():
            try:
                found = open_socket(self._connection.server)
            except (ServerUnavailable, WrongCall) as error:
                self._tell(f"{error}; trying again until it can")
                self._rest()
            else:
                self._succeed(found)
                return

    def _rest(self) -> None:
        """Pause after one more failure."""
        self._failures += 1
        self._closed.wait(pause_after(self._failures, LONGEST_PAUSE))

    def _succeed(self, found: socket.socket) -> None:
        with self._lock:
            self._thread = None
            self._found_at = ticks()
            if self._closed.is_set():
                found.close()
                return
        if self._trouble:
            self._trouble = ""
            self._say(f"{self._connection.server} is back")
        self._found(self._connection, found)

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._say(trouble)
