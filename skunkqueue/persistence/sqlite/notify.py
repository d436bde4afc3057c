"""Wake-up between processes: waiters bind datagram sockets in a folder beside the file, committers write to them.

A socket's name begins with the kinds of keys its owner waits for, so that nobody is woken for what is not theirs; a
message holds the keys that something happened to. All of it is a hint: what is lost is found by the next look.
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
"""Bytes of keys in a message; more is told as ANY. Unread messages take the room of others."""

COARSE: Final = 20_000_000
"""Nanoseconds by which a file system's time stamps may lag: what was listed within them may have changed since."""

MANY: Final = 8
"""Unread messages from which on some may have been dropped."""


def kind_of(key: Key) -> str:
    return KIND[key.kind]


def written(key: Key) -> bytes:
    """A key as it stands in a message, where it is only compared."""
    return "/".join(key).encode("utf-8", "replace")


class SQLiteNotifier:
    """The folder of one store's wake-up sockets, as one process sees it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._ears: weakref.WeakSet[WakeSocket] = weakref.WeakSet()
        self._own = threading.local()
        self._lock = threading.Lock()
        self._lines: dict[str, socket.socket] = {}
        self._kinds = ""
        self._folder: list[int] = []  # its descriptor
        self._listed = -1  # the folder's time stamp when it was listed; -1 if that is not to be trusted
        weakref.finalize(self, _let_go_of, self._lines, self._folder)
        _notifiers.add(self)

    # who rings

    def kinds(self) -> str:
        """The kinds of keys that somebody waits for; empty when there is nobody."""
        with self._lock:
            changed = self._changed()
            if changed != self._listed:
                self._list(changed)
            return self._kinds

    def _changed(self) -> int:
        """The folder's time stamp. It is held open and never removed, because looking for it costs more."""
        try:
            if not self._folder:
                _make(self.folder)
                self._folder.append(os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY))
            found = os.fstat(self._folder[0])
        except OSError:
            return 0
        if found.st_nlink == 0:  # somebody tidied up; the next one who rings makes it anew
            _close_all(self._folder)
        return found.st_mtime_ns

    def ring(self, keys: Iterable[Key]) -> None:
        """Tell all who wait for keys of these kinds. Never blocks, never fails."""
        told: dict[str, list[Key]] = {}
        for key in keys:
            told.setdefault(kind_of(key), []).append(key)
        with self._lock:
            for name, line in list(self._lines.items()):
                heard = [key for kind in name.partition("-")[0] for key in told.get(kind, ())]
                if heard:
                    self._send(name, line, _message(heard))

    def rouse(self, ear: WakeSocket) -> None:
        """End a wait that is under way in this process."""
        self.kinds()
        with self._lock:
            line = self._lines.get(ear.name)
            if line is not None:
                self._send(ear.name, line, ANY)

    def _list(self, changed: int) -> None:
        """Connect to every socket in the folder: one line each, so that a deaf one fills only its own."""
        self._listed = changed if abs(time.time_ns() - changed) > COARSE else -1
        names = {name for folder in self._folder for name in os.listdir(folder)}
        self._hang_up([name for name in self._lines if name not in names])
        for name in names - self._lines.keys():
            self._dial(self._folder[0], name)
        self._kinds = "".join({name.partition("-")[0] for name in self._lines})

    def _dial(self, folder: int, name: str) -> None:
        try:
            line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:  # no descriptor left: the waiter finds out at its next look
            return
        line.setblocking(False)
        try:
            line.connect(_address(folder, name))
            self._lines[name] = line
        except OSError as error:
            line.close()
            if isinstance(error, ConnectionRefusedError):  # its owner died
                _unlink(name, folder)

    def _send(self, name: str, line: socket.socket, message: bytes) -> None:
        try:
            line.send(message)
        except BlockingIOError:
            pass  # it has enough to read
        except OSError as error:
            self._hang_up([name])
            if isinstance(error, ConnectionRefusedError):
                _unlink(os.path.join(self.folder, name))

    def _hang_up(self, names: Iterable[str]) -> None:
        for name in names:
            self._lines.pop(name).close()

    # who listens

    def ear(self, kinds: str) -> WakeSocket | None:
        """This thread's socket for these kinds, kept between waits. None where there can be none."""
        own: dict[str, WakeSocket] = self._own.__dict__
        ear = own.get(kinds)
        if ear is None or not ear.sound():
            try:
                ear = own[kinds] = WakeSocket(self.folder, kinds)
            except OSError:
                return None
            self._ears.add(ear)
        return ear

    def close(self) -> None:
        """Take down this process's sockets; whoever waits on one wakes."""
        for ear in list(self._ears):
            ear.close()
        with self._lock:
            self._hang_up(list(self._lines))
            _close_all(self._folder)
            self._listed = -1

    def forget(self) -> None:
        """After a fork, in the child: let go of the copies of what is the parent's."""
        self._lock = threading.Lock()
        self._listed = -1
        self._hang_up(list(self._lines))
        for ear in list(self._ears):
            ear.socket.close()
        self._ears = weakref.WeakSet()
        self._own = threading.local()


class WakeSocket:
    """One thread's wake-up socket. ``fresh`` until it was first listened to: before, nobody could have rung."""

    def __init__(self, folder: str, kinds: str) -> None:
        self.fresh = True
        self.name = f"{kinds}-{os.getpid()}-{os.urandom(4).hex()}"
        self.path = os.path.join(folder, self.name)
        self.pid = os.getpid()
        self.closed = False
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            _bind(self.socket, folder, self.name)
        except BaseException:
            self.socket.close()
            raise
        self.socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)
        weakref.finalize(self, _take_down, self.socket, self.path, self.pid)

    def sound(self) -> bool:
        """Whether it can be rung: open, of this process, and still in the folder."""
        return not self.closed and self.pid == os.getpid() and os.path.exists(self.path)

    def hear(self, wanted: Collection[bytes], timeout: float) -> bool:
        """Whether somebody rang for one of the keys within so many seconds."""
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
        """Wake its owner and be gone; the descriptor is closed when the owner lets go of it."""
        self.closed = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        _unlink(self.path)


def _make(folder: str) -> None:
    """Make it, but not the folder that it is in: where that is gone, a store must not begin anew in its place."""
    with suppress(FileExistsError):
        os.mkdir(folder)


def _bind(bound: socket.socket, folder: str, name: str) -> None:
    """Bind under a short address: one of a socket may have 107 bytes, and paths are longer."""
    _make(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        bound.bind(_address(descriptor, name))
    finally:
        os.close(descriptor)


def _address(folder: int, name: str) -> str:
    return f"/proc/self/fd/{folder}/{name}"


def _let_go_of(lines: dict[str, socket.socket], folder: list[int]) -> None:
    for line in lines.values():
        line.close()
    _close_all(folder)


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _take_down(bound: socket.socket, path: str, pid: int) -> None:
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
    for bell in list(_notifiers):
        bell.forget()


os.register_at_fork(after_in_child=_forget_all)
