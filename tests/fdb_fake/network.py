"""The client's network: one thread that hears the cluster and keeps the time, and futures that it completes."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from fdb_fake.codes import COMMIT_UNKNOWN_RESULT, OPERATION_CANCELLED, Refusal
from fdb_fake.wire import Frames, frame

RECONNECT = 0.1

Coroutine = Generator["Future", Any, Any]


class Future:
    """A value that comes, or an error's code; what is to be called then is called by who brings it."""

    __slots__ = ("_callbacks", "_lock", "code", "kept", "on_cancel", "ready", "value")

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self.ready = False
        self.code = 0
        self.value: Any = None
        self.kept: Any = None  # memory that was lent to the caller of the library
        self.on_cancel = on_cancel
        self._callbacks: list[Callable[[Future], None]] = []
        self._lock = threading.Lock()

    def set(self, value: Any = None, code: int = 0) -> bool:
        with self._lock:
            if self.ready:
                return False
            self.value, self.code, self.ready = value, code, True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
        return True

    def then(self, callback: Callable[[Future], None]) -> None:
        with self._lock:
            if not self.ready:
                self._callbacks.append(callback)
                return
        callback(self)

    def cancel(self) -> None:
        if self.set(code=OPERATION_CANCELLED) and self.on_cancel is not None:
            self.on_cancel()

    def result(self) -> Any:
        """Of one that is ready."""
        if self.code:
            raise Refusal(self.code)
        return self.value


def done(value: Any = None) -> Future:
    future = Future()
    future.set(value)
    return future


def failed(code: int) -> Future:
    future = Future()
    future.set(code=code)
    return future


def run(coroutine: Coroutine) -> Future:
    """Run what waits for futures by ``yield``, in the threads that complete them; the future of what it returns."""
    outer = Future()

    def step(earlier: Future | None) -> None:
        try:
            while True:
                if earlier is None:
                    waits = next(coroutine)
                elif earlier.code:
                    waits = coroutine.throw(Refusal(earlier.code))
                else:
                    waits = coroutine.send(earlier.value)
                if not waits.ready:
                    waits.then(step)
                    return
                earlier = waits
        except StopIteration as stop:
            outer.set(stop.value)
        except Refusal as refusal:
            outer.set(code=refusal.code)

    step(None)
    return outer


class Network:
    """The thread's loop: sockets and timers. Nothing of it works in a child that was forked."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ, self._drain)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._calls: list[Callable[[], None]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._stopped = False
        self.pid = os.getpid()

    @property
    def is_of_this_process(self) -> bool:
        return os.getpid() == self.pid

    def run(self) -> None:
        while not self._stopped:
            for key, events in self._selector.select(self._due()):
                key.data(events)
            for call in self._ready():
                call()

    def stop(self) -> None:
        self._stopped = True
        self._wake()

    def call(self, what: Callable[[], None]) -> None:
        """In the thread."""
        with self._lock:
            self._calls.append(what)
        self._wake()

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        with self._lock:
            heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), what))
        self._wake()

    def watch_socket(self, sock: socket.socket, events: int, handler: Callable[[int], None]) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(sock)
        if events:
            self._selector.register(sock, events, handler)

    def _due(self) -> float | None:
        with self._lock:
            if self._calls:
                return 0
            return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _ready(self) -> list[Callable[[], None]]:
        now = time.monotonic()
        with self._lock:
            ready, self._calls = self._calls, []
            while self._timers and self._timers[0][0] <= now:
                ready.append(heapq.heappop(self._timers)[2])
        return ready

    def _wake(self) -> None:
        if self.is_of_this_process:
            with contextlib.suppress(BlockingIOError):
                self._wake_sender.send(b"\0")

    def _drain(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_receiver.recv(4096):
                pass


class Link:
    """The connection to one cluster. What was asked while it is away is asked again; commits under way are unknown."""

    def __init__(self, network: Network, address: tuple[str, int]) -> None:
        self.network = network
        self._address = address
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._out = bytearray()
        self._pending: dict[int, tuple[bytes, Future, bool]] = {}
        self._numbers = itertools.count(1)
        self._frames = Frames()
        self._connecting = False
        self._unknown: list[Future] = []  # commits that were under way when the connection broke

    def ask(self, verb: str, *args: Any) -> Future:
        number = next(self._numbers)
        future = Future()
        if not self.network.is_of_this_process:
            return future  # as with the real library: nobody will answer
        message = frame((number, verb, *args))
        if verb == "watch":
            future.on_cancel = lambda: self._forget(number)
        with self._lock:
            self._pending[number] = (message, future, verb == "commit")
            self._send(message)
        return future

    def _forget(self, number: int) -> None:
        with self._lock:
            if self._pending.pop(number, None) is not None:
                self._send(frame((0, "unwatch", number)), connect=False)

    def _send(self, message: bytes, connect: bool = True) -> None:
        if self._socket is None:
            if connect and not self._connecting:
                self._connecting = True
                self.network.call(self._connect)
            return
        if self._out:
            self._out += message
            return
        try:
            sent = self._socket.send(message)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the thread will read its end
        if sent < len(message):
            self._out += message[sent:]
            self.network.call(self._listen)

    def _connect(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self._address)
        self.network.watch_socket(sock, selectors.EVENT_WRITE, lambda _: self._connected(sock))

    def _connected(self, sock: socket.socket) -> None:
        self.network.watch_socket(sock, 0, lambda _: None)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            sock.close()
            self.network.later(RECONNECT, self._connect)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._frames = Frames()
            self._socket = sock
            self._connecting = False
            self._out = bytearray(b"".join(message for message, _, _ in self._pending.values()))
            unknown, self._unknown = self._unknown, []
            self._listen()
        for future in unknown:  # as the real client, which first makes sure that they are not under way any more
            future.set(code=COMMIT_UNKNOWN_RESULT)

    def _listen(self) -> None:
        with self._lock:
            if self._socket is not None:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
                self.network.watch_socket(self._socket, events, self._happened)

    def _happened(self, events: int) -> None:
        with self._lock:
            sock = self._socket
            if sock is None:
                return
            if events & selectors.EVENT_WRITE and self._out:
                with contextlib.suppress(OSError):
                    del self._out[: sock.send(self._out)]
                if not self._out:
                    self._listen()
        if events & selectors.EVENT_READ:
            self._read(sock)

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost(sock)
            return
        for number, code, value in self._frames.feed(data):
            with self._lock:
                found = self._pending.pop(number, None)
            if found is not None:
                found[1].set(value, code)

    def _lost(self, sock: socket.socket) -> None:
        with self._lock:
            self.network.watch_socket(sock, 0, self._happened)
            sock.close()
            self._socket = None
            self._out.clear()
            for number in [number for number, (_, _, commits) in self._pending.items() if commits]:
                self._unknown.append(self._pending.pop(number)[1])
            self._connecting = True
        self.network.later(RECONNECT, self._connect)
