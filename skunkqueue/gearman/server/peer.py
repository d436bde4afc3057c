"""One connection of a client or worker: its bytes in and out, and its answers in the order of its requests."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from skunkqueue.gearman.protocol import READ, Decoder, Line, Magic, Packet, PacketType
from skunkqueue.gearman.server.names import route_of
from skunkqueue.routes import with_priorities

MOST_OWED: Final = 5000
MOST_OWED_BYTES: Final = 4 << 20
"""Answers that a peer may wait for, and bytes of their requests, before no more is read from it."""
MOST_UNSENT: Final = 1 << 20
"""Bytes that wait to be sent to a peer, before no more is read from it."""


class Owed:
    """The place of an answer among all that is sent to a peer: what comes later waits for it."""

    __slots__ = ("data", "peer", "size")

    def __init__(self, peer: Peer, size: int) -> None:
        self.peer: Peer = peer
        self.size: int = size  # of the request
        self.data: bytes | None = None

    def give(self, data: bytes) -> None:
        """This is the answer; nothing at all may be one."""
        self.data = data
        self.peer.release()


class Peer:
    """A connection. ``changed`` is called when there is something to send, or room to read more."""

    def __init__(
        self, connection: socket.socket, address: str, max_packet: int, changed: Callable[[Peer], None]
    ) -> None:
        self.socket = connection
        self.fd: int = connection.fileno()
        self.address = address
        self.client_id = "-"
        self.is_open: bool = True
        self.is_ending = False
        """Whether it is to be closed as soon as all is sent."""
        self.is_silent = True
        """Whether it has sent nothing whole yet."""
        self.nonsense = 0
        """How many unknown commands it has sent."""
        self.wants_exceptions = False
        self.abilities: dict[bytes, float | None] = {}
        """The functions that it can do, and how many seconds each may take."""
        self.held: dict[bytes, Any] = {}
        """The jobs that it runs, by handle."""
        self.awaited: dict[str, Any] = {}
        """The jobs whose end it is to be told, by id."""
        self.grabs: deque[tuple[PacketType, Owed]] = deque()
        """Its requests for a job that no claim was made for yet."""
        self.is_claiming = False
        self.seen: tuple[int, float] = (-1, 0.0)
        """At which news there was no job for it, and when to look again."""
        self.weight = 0
        """The bytes that it was last found to take up here."""
        self._routes: tuple[str, ...] | None = None
        self._decoder = Decoder(Magic.REQUEST, max_packet=max_packet)
        self._owed: deque[Owed | bytes] = deque()
        self._owed_answers = self._owed_bytes = 0
        self._unsent: deque[bytes | memoryview] = deque()
        self._unsent_bytes = 0
        self._changed = changed

    def __repr__(self) -> str:
        return f"{self.address} ({self.client_id})" if self.client_id != "-" else self.address

    # what it can do

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes of its functions with all their priorities, in the order in which it named the functions."""
        if self._routes is None:
            self._routes = tuple(route for name in self.abilities for route in with_priorities(route_of(name)))
        return self._routes

    def changed_abilities(self) -> None:
        """What it can do is no longer what it was."""
        self._routes = None
        self.seen = (-1, 0.0)

    # in

    @property
    def may_read(self) -> bool:
        """Whether there is room for more requests."""
        return (
            not self.is_ending
            and self._owed_answers < MOST_OWED
            and self._owed_bytes < MOST_OWED_BYTES
            and self._unsent_bytes < MOST_UNSENT
        )

    def receive(self) -> list[Packet | Line] | None:
        """Read once; None where the connection has ended. Raises ProtocolError."""
        try:
            data = self.socket.recv(self._decoder.room)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        return self._decoder.feed(data) if data else None

    # out

    @property
    def unsent(self) -> int:
        return self._unsent_bytes

    @property
    def size(self) -> int:
        """Bytes that it takes up here."""
        return self._decoder.pending + self._owed_bytes + self._unsent_bytes

    def expect(self, size: int = 0) -> Owed:
        """The place for an answer that comes later, to a request of so many bytes."""
        answer = Owed(self, size)
        self._owed.append(answer)
        self._owed_answers += 1
        self._owed_bytes += size
        return answer

    def send(self, data: bytes) -> None:
        """Send this behind all that is owed."""
        if self._owed:
            self._owed.append(data)
            self._owed_bytes += len(data)
        else:
            self._put(data)

    def release(self) -> None:
        """Put out what is no longer behind an answer that is owed."""
        owed = self._owed
        while owed:
            first = owed[0]
            if isinstance(first, Owed):
                if first.data is None:
                    break
                self._owed_answers -= 1
                self._owed_bytes -= first.size
                self._put(first.data)
            else:
                self._owed_bytes -= len(first)
                self._put(first)
            owed.popleft()
        self._changed(self)

    def _put(self, data: bytes) -> None:
        if data and self.is_open:
            self._unsent.append(data)
            self._unsent_bytes += len(data)
            self._changed(self)

    def flush(self) -> bool:
        """Send what can be sent; False where the connection has ended."""
        while self._unsent:
            if len(self._unsent) > 1:
                self._join()
            data = self._unsent[0]
            try:
                sent = self.socket.send(data)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                return False
            self._unsent_bytes -= sent
            if sent < len(data):
                self._unsent[0] = memoryview(data)[sent:]
                return True
            self._unsent.popleft()
        return True

    def _join(self) -> None:
        """Make one piece of the first small ones."""
        pieces: list[bytes | memoryview] = []
        size = 0
        while self._unsent and (not pieces or size + len(self._unsent[0]) <= READ):
            pieces.append(self._unsent.popleft())
            size += len(pieces[-1])
        self._unsent.appendleft(b"".join(pieces) if len(pieces) > 1 else pieces[0])

    @property
    def is_done(self) -> bool:
        """Whether it is to be closed now."""
        return self.is_ending and not self._unsent and not self._owed

    def close(self) -> None:
        self.is_open = False
        self._owed.clear()
        self._unsent.clear()
        self._owed_bytes = self._unsent_bytes = 0
        self.socket.close()
