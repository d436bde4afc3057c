"""Wake-up between processes: waiters bind datagram sockets in a folder beside the file, committers send to them.

A socket's name begins with the kinds of keys that its owner waits for, so that it is not woken for other kinds. A
message holds the keys that something happened to. Messages are hints: a waiter that misses one finds the change when
it next looks at the file.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from skunkqueue.persistence import Key

KIND: Final = {"work": "w", "run": "r", "worker": "o"}
ANY: Final = b"*"
MOST = 2000
"""Most bytes of keys in a message; for more, ANY is sent. Unread messages fill the socket's buffer."""

COARSE: Final = 20_000_000
"""Nanoseconds by which a file system's time stamps may lag. A folder that changed this recently may change again
without a new time stamp."""

MANY: Final = 8
"""With more unread messages than this, some may have been dropped."""


def kind_of(key: Key) -> str:
    return KIND[key.kind]


def written(key: Key) -> bytes:
    """A key as messages hold it. It is only compared, never read back."""
    return "/".join(key).encode("utf-8", "replace")


class SQLiteNotifier:
    """The folder of one store's wake-up sockets, as one process sees it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._sockets: weakref.WeakSet[WakeSocket] = weakref.WeakSet()
        self._own = threading.local()
        self._lock = threading.Lock()
        self._connections: dict[str, socket.socket] = {}
        self._kinds = ""
        self._folder: list[int] = []  # its descriptor
        self._listed = -1  # the folder's time stamp when it was listed; -1 if that is not to be trusted
        weakref.finalize(self, _close_both, self._connections, self._folder)
        _notifiers.add(self)

    # sending

    def kinds(self) -> str:
        """The kinds of keys that somebody waits for; empty when there is nobody."""
        with self._lock:
            changed = self._changed()
            if changed != self._listed:
                self._list(changed)
            return self._kinds

    def _changed(self) -> int:
        """The folder's time stamp. The folder is kept open, because a look-up by path costs more."""
        try:
            if not self._folder:
                _make(self.folder)
                self._folder.append(os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY))
            found = os.fstat(self._folder[0])
        except OSError:
            return 0
        if found.st_nlink == 0:  # somebody removed it; the next sender makes it anew
            _close_all(self._folder)
        return found.st_mtime_ns

    def notify(self, keys: Iterable[Key]) -> None:
        """Send the keys to all sockets whose kinds match. Never blocks, never fails."""
        by_kind: dict[str, list[Key]] = {}
        for key in keys:
            by_kind.setdefault(kind_of(key), []).append(key)
        with self._lock:
            for name, connection in list(self._connections.items()):
                concerned = [key for kind in name.partition("-")[0] for key in by_kind.get(kind, ())]
                if concerned:
                    self._send(name, connection, _message(concerned))

    def rouse(self, waker: WakeSocket) -> None:
        """End a wait that is under way in this process."""
        self.kinds()
        with self._lock:
            connection = self._connections.get(waker.name)
            if connection is not None:
                self._send(waker.name, connection, ANY)

    def _list(self, changed: int) -> None:
        """Connect to every socket in the folder, each on its own: a waiter that does not read fills only its own."""
        self._listed = changed if abs(time.time_ns() - changed) > COARSE else -1
        names = {name for folder in self._folder for name in os.listdir(folder)}
        self._disconnect([name for name in self._connections if name not in names])
        for name in names - self._connections.keys():
            self._connect(self._folder[0], name)
        self._kinds = "".join({name.partition("-")[0] for name in self._connections})

    def _connect(self, folder: int, name: str) -> None:
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:  # no descriptor left: the waiter finds out at its next look
            return
        connection.setblocking(False)
        try:
            connection.connect(_address(folder, name))
            self._connections[name] = connection
        except OSError as error:
            connection.close()
            if isinstance(error, ConnectionRefusedError):  # its owner died
                _unlink(name, folder)

    def _send(self, name: str, connection: socket.socket, message: bytes) -> None:
        try:
            connection.send(message)
        except BlockingIOError:
            pass  # its buffer is full: it has messages to read
        except OSError as error:
            self._disconnect([name])
            if isinstance(error, ConnectionRefusedError):
                _unlink(os.path.join(self.folder, name))

    def _disconnect(self, names: Iterable[str]) -> None:
        for name in names:
            self._connections.pop(name).close()

    # receiving

    def socket_for(self, kinds: str) -> WakeSocket | None:
        """This thread's socket for these kinds, kept between waits. None if it cannot be made."""
        own: dict[str, WakeSocket] = self._own.__dict__
        waker = own.get(kinds)
        if waker is None or not waker.sound():
            try:
                waker = own[kinds] = WakeSocket(self.folder, kinds)
            except OSError:
                return None
            self._sockets.add(waker)
        return waker

    def close(self) -> None:
        """Close this process's sockets; threads that wait on one wake."""
        for waker in list(self._sockets):
            waker.close()
        with self._lock:
            self._disconnect(list(self._connections))
            _close_all(self._folder)
            self._listed = -1

    def forget(self) -> None:
        """After a fork, in the child: close the copies of the parent's sockets."""
        self._lock = threading.Lock()
        self._listed = -1
        self._disconnect(list(self._connections))
        for waker in list(self._sockets):
            waker.socket.close()
        self._sockets = weakref.WeakSet()
        self._own = threading.local()


class WakeSocket:
    """One thread's wake-up socket. ``fresh`` until its first wait: before that, no message can have reached it."""

    def __init__(self, folder: str, kinds: str) -> None:
        self.fresh = True
        self.name: str = f"{kinds}-{os.getpid()}-{os.urandom(4).hex()}"
        self.path: str = os.path.join(folder, self.name)
        self.pid: int = os.getpid()
        self.closed: bool = False
        self.socket: socket.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            _bind(self.socket, folder, self.name)
        except BaseException:
            self.socket.close()
            raise
        self.socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)
        weakref.finalize(self, _close_bound, self.socket, self.path, self.pid)

    def sound(self) -> bool:
        """Whether messages can reach it: it is open, of this process, and still in the folder."""
        return not self.closed and self.pid == os.getpid() and os.path.exists(self.path)

    def receive(self, wanted: Collection[bytes], timeout: float) -> bool:
        """Whether a message for one of the keys came within ``timeout`` seconds."""
        if self.closed:
            return True
        if not self._poll.poll(max(timeout, 0.0) * 1000):
            return False
        messages = self._unread()
        return self.closed or len(messages) > MANY or any(_concerns(message, wanted) for message in messages)

    def _unread(self) -> list[bytes]:
        found: list[bytes] = []
        with suppress(BlockingIOError):
            while len(found) < 1000 and not self.closed:
                found.append(self.socket.recv(MOST))
        return found

    def close(self) -> None:
        """Wake its owner and remove its name. The descriptor is closed when the owner drops the object."""
        self.closed = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        _unlink(self.path)


def _make(folder: str) -> None:
    """Make the folder, but not its parent: if that is gone, the store must not start anew there."""
    with suppress(FileExistsError):
        os.mkdir(folder)


def _bind(bound: socket.socket, folder: str, name: str) -> None:
    """Bind under a short address: a socket address holds at most 107 bytes, and paths may be longer."""
    _make(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        bound.bind(_address(descriptor, name))
    finally:
        os.close(descriptor)


def _address(folder: int, name: str) -> str:
    return f"/proc/self/fd/{folder}/{name}"


def _close_both(connections: dict[str, socket.socket], folder: list[int]) -> None:
    for connection in connections.values():
        connection.close()
    _close_all(folder)


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _close_bound(bound: socket.socket, path: str, pid: int) -> None:
    bound.close()
    if pid == os.getpid():  # a fork holds a copy of the descriptor, but the name is its parent's
        _unlink(path)


def _unlink(path: str, folder: int | None = None) -> None:
    with suppress(OSError):
        os.unlink(path, dir_fd=folder)


def _message(keys: list[Key]) -> bytes:
    if len(keys) * 20 > MOST:
        return ANY
    message = b"\n".join(map(written, keys))
    return message if len(message) <= MOST else ANY


def _concerns(message: bytes, wanted: Collection[bytes]) -> bool:
    return message in (ANY, b"") or any(key in wanted for key in message.split(b"\n"))


_notifiers: weakref.WeakSet[SQLiteNotifier] = weakref.WeakSet()


def _forget_all() -> None:
    for notifier in list(_notifiers):
        notifier.forget()


os.register_at_fork(after_in_child=_forget_all)
