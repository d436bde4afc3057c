"""The event loop: listens, reads, writes, and keeps what all peers together may take up in memory."""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import resource
import selectors
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from skunkqueue.clock import ticks
from skunkqueue.errors import WrongCall
from skunkqueue.gearman.errors import ProtocolError
from skunkqueue.gearman.protocol import Line, Packet
from skunkqueue.gearman.server.peer import Peer

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
BACKLOG: Final = 1024
PAUSE: Final = 0.2
"""Seconds for which nobody is accepted, once there are no more file descriptors."""
RESERVE: Final = 100
"""File descriptors that are left for all but peers."""
MOST_PEERS: Final = 100_000
KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class PeerEvents(Protocol):
    """What the loop tells of. ``after_turn`` gives in how many seconds it is to be called again, or None."""

    def opened(self, peer: Peer) -> None: ...
    def received(self, peer: Peer, item: Packet | Line) -> None: ...
    def confused(self, peer: Peer, error: ProtocolError) -> None: ...
    def closed(self, peer: Peer, reason: str) -> None: ...
    def failed(self, error: Exception) -> None: ...
    def after_turn(self) -> float | None: ...


class PeerLoop:
    """Sockets of peers, all on one thread. ``budget`` are the bytes that all peers together may take up here."""

    def __init__(self, handler: PeerEvents, *, max_packet: int, budget: int) -> None:
        self.peers: dict[int, Peer] = {}
        self.addresses: list[tuple[str, int]] = []
        self._handler = handler
        self._max_packet = max_packet
        self._budget = budget
        self._weight = 0
        self._most = most_peers()
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._changed: dict[Peer, None] = {}
        self._events: dict[Peer, int] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._posted: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, READ, self._drain)
        self._is_stopped = False

    # from any thread

    def post(self, call: Callable[[], None]) -> None:
        """Have this called on the loop's thread."""
        self._posted.append(call)
        with contextlib.suppress(OSError):  # full: it will wake anyhow; closed: nobody is there to be woken
            self._wake.send(b"\0")

    # on the loop's thread

    def listen(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Listen on these. Raises WrongCall for one that cannot be had."""
        for host, port in addresses:
            try:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
            except OSError as error:
                self.stop_listening()
                why = (error.strerror or str(error)).partition(" (while ")[0]  # without the address once more
                raise WrongCall(f"cannot listen on {host}:{port}: {why}") from error
            listener.setblocking(False)
            self._listeners.append(listener)
            self.addresses.append((host, listener.getsockname()[1]))
            self._selector.register(listener, READ, lambda events, listener=listener: self._accept(listener))

    def stop_listening(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(listener)
            listener.close()
        self._listeners.clear()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Have this called at that time, in ticks."""
        heapq.heappush(self._timers, (when, next(self._numbers), call))

    def stop(self) -> None:
        """Return from ``run`` after this turn."""
        self._is_stopped = True

    def run(self) -> None:
        while not self._is_stopped:
            self.turn()

    def turn(self, longest: float = 60.0) -> None:
        """Wait for something to happen, and deal with it."""
        for key, events in self._selector.select(self._left(longest)):
            key.data(events)
        while self._posted:
            self._call(self._posted.popleft())
        now = ticks()
        while self._timers and self._timers[0][0] <= now:
            self._call(heapq.heappop(self._timers)[2])
        again = self._handler.after_turn()
        if again is not None:
            self.at(ticks() + again, _nothing)
        self._settle()

    def _call(self, call: Callable[[], None]) -> None:
        """Whatever fails concerns this call alone: the server goes on."""
        try:
            call()
        except Exception as error:
            self._handler.failed(error)

    def _left(self, longest: float) -> float:
        if self._posted or self._changed:
            return 0.0
        return max(0.0, min(longest, self._timers[0][0] - ticks())) if self._timers else longest

    def _drain(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                connection, address = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause(listener)
                return
            self._adopt(connection, str(address[0]))

    def _pause(self, listener: socket.socket) -> None:
        """Accept nobody for a moment: those who are here go on."""
        self._selector.unregister(listener)

        def go_on() -> None:
            if listener in self._listeners:
                self._selector.register(listener, READ, lambda events: self._accept(listener))

        self.at(ticks() + PAUSE, go_on)

    def _adopt(self, connection: socket.socket, address: str) -> None:
        if len(self.peers) >= self._most and not self._make_room():
            connection.close()
            return
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE.items():
                if hasattr(socket, name):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        peer = Peer(connection, address, self._max_packet, self._note)
        self.peers[peer.fd] = peer
        self._events[peer] = READ
        self._selector.register(connection, READ, lambda events: self._ready(peer, events))
        self._handler.opened(peer)

    def _make_room(self) -> bool:
        """Close the first peer that has never said anything; False where there is none."""
        silent = next((peer for peer in self.peers.values() if peer.is_silent), None)
        if silent is not None:
            self.close(silent, "it has not said anything, and there is no room for others")
        return silent is not None

    def _ready(self, peer: Peer, events: int) -> None:
        if not peer.is_open:
            return
        if events & WRITE:
            self._changed[peer] = None
        if events & READ:
            self._read(peer)

    def _read(self, peer: Peer) -> None:
        items: Sequence[Any] | None
        confusion: ProtocolError | None = None
        try:
            items = peer.receive()
        except ProtocolError as error:
            items, confusion = error.before, error
        if items is None:
            self.close(peer, "")
            return
        if items:
            peer.is_silent = False
        for item in items:
            if not peer.is_open or peer.is_ending:
                return
            try:
                self._handler.received(peer, item)
            except Exception as error:
                self._handler.failed(error)
                self.close(peer, f"what it sent could not be dealt with: {type(error).__name__}: {error}")
                return
        if confusion is not None and peer.is_open:
            self._handler.confused(peer, confusion)
        self._changed[peer] = None

    def _note(self, peer: Peer) -> None:
        self._changed[peer] = None

    def _settle(self) -> None:
        """Send what there is to send, and read only from whom there is room for."""
        changed, self._changed = self._changed, {}
        for peer in changed:
            if not peer.is_open:
                continue
            if (peer.unsent and not peer.flush()) or peer.is_done:
                self.close(peer, "")
                continue
            self._weigh(peer)
            self._attend(peer)
        if self._weight > self._budget:
            self._lighten()

    def _attend(self, peer: Peer) -> None:
        """Have the selector watch for what there is room for."""
        if not peer.is_open:
            return
        events = (READ if peer.may_read else 0) | (WRITE if peer.unsent else 0)
        before = self._events[peer]
        if events == before:
            return
        self._events[peer] = events
        if not events:
            self._selector.unregister(peer.socket)
        elif not before:
            self._selector.register(peer.socket, events, lambda events: self._ready(peer, events))
        else:
            self._selector.modify(peer.socket, events, lambda events: self._ready(peer, events))

    def _weigh(self, peer: Peer) -> None:
        size = peer.size
        self._weight += size - peer.weight
        peer.weight = size

    def _lighten(self) -> None:
        """Close the peers that take up the most, until the others have room again."""
        for peer in sorted(self.peers.values(), key=lambda peer: peer.weight, reverse=True):
            if self._weight <= self._budget * 0.75:
                break
            self.close(peer, f"it takes up {peer.weight:,} bytes, and all together too many")

    def close(self, peer: Peer, reason: str) -> None:
        """End a connection. ``reason`` is empty where the peer ended it."""
        if not peer.is_open:
            return
        if self._events.pop(peer):
            self._selector.unregister(peer.socket)
        self.peers.pop(peer.fd, None)
        self._weight -= peer.weight
        peer.close()
        self._handler.closed(peer, reason)

    def shut(self) -> None:
        """Close all there is."""
        self.stop_listening()
        for peer in list(self.peers.values()):
            self._events.pop(peer, None)
            peer.close()
        self.peers.clear()
        self._selector.close()
        self._wake.close()
        self._woken.close()


def most_peers() -> int:
    """How many connections there may be, so that the store can still open what it needs."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(RESERVE, soft - RESERVE) if soft != resource.RLIM_INFINITY else MOST_PEERS


def _nothing() -> None:
    """Only wakes."""
