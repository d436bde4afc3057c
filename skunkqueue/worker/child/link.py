"""A worker's connections to its pool: runs, tickets, interrupts, leases."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from struct import unpack_from
from typing import NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.worker import frames
from skunkqueue.worker.child.execute import Task
from skunkqueue.worker.child.guard import LeaseGuard

CHUNK = 1 << 16  # the memory of a read of 128 KiB and more is mapped and unmapped each time
PAUSE = 0.02
"""Seconds between checks of the horizon, once it has passed."""

_holding = ctypes.PyDLL(None, use_errno=True)
"""System calls that keep the GIL. They never block and take a microsecond; releasing the GIL for that would let another
thread run, and make this one wait until it gets the GIL back."""
_holding.recv.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
_holding.recv.restype = ctypes.c_ssize_t
_holding.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_holding.write.restype = ctypes.c_ssize_t


class Ends(NamedTuple):
    """A worker's ends of the connections to its pool, as file descriptors."""

    inbox: int
    outbox: int
    tickets: int
    control: int
    horizon: int


class RunReader:
    """Reads runs, and finds the one of a ticket by its number; runs whose ticket was taken back are dropped."""

    def __init__(self, fd: int, guarded: Callable[[int], None] = lambda number: None) -> None:
        self._fd = fd
        self._guarded = guarded
        self._splitter = frames.Splitter()
        self._come: list[tuple[int, bytes]] = []
        self._next = 0

    def take(self, number: int) -> Task:
        """The run of that number; waits for its frame."""
        while True:
            while self._next < len(self._come):
                found, rest = self._come[self._next]
                self._next += 1
                if found == number:
                    task = _task(number, rest)
                    if task.attempt > frames.MOST_ATTEMPTS:
                        task = task._replace(attempt=task.attempt & frames.MOST_ATTEMPTS)
                        self._guarded(number)
                    return task
            self._come = [(found, rest) for _, found, rest in self._splitter.feed(self._read())]
            self._next = 0

    def _read(self) -> bytes:
        data = os.read(self._fd, CHUNK)
        if not data:
            raise SystemExit("the pool is gone")
        return data


def _task(number: int, rest: bytes) -> Task:
    attempt, length = frames.RUN_REST.unpack_from(rest)
    return Task(number, attempt, rest[3 : 3 + length].decode(), rest[3 + length :])


class Horizon:
    """The time (of clock.ticks) until which the runs handed out are known to be leased."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, 8, prot=mmap.PROT_READ)

    def wait(self) -> None:
        """Wait while leases may have ended: a pool that was suspended extends them first."""
        while self.passed():
            time.sleep(PAUSE)

    def passed(self) -> bool:
        """Whether leases may have ended."""
        return bool(unpack_from("<d", self._map)[0] < ticks())

    def until(self) -> float:
        return float(unpack_from("<d", self._map)[0])


class Link:
    """A worker's connections to its pool."""

    def __init__(self, ends: Ends) -> None:
        self.tickets: socket.socket = socket.socket(fileno=ends.tickets)
        self.horizon: Horizon = Horizon(ends.horizon)
        self.guard: LeaseGuard = LeaseGuard(self.horizon.until)
        self.inbox: RunReader = RunReader(ends.inbox, self.guard.over)
        self._outbox = ends.outbox
        self._control = ends.control
        self._lock = threading.Lock()
        self._ticket = ctypes.create_string_buffer(4)
        os.set_blocking(ends.control, False)
        os.set_blocking(ends.outbox, False)

    def next(self, at_rest: Callable[[], None]) -> Task | None:
        """Take a ticket, which gives the right to start its run. None if there will be no more.

        ``at_rest`` is called if there is none yet.
        """
        self.horizon.wait()
        try:
            ticket = self.tickets.recv(4, socket.MSG_DONTWAIT)
        except BlockingIOError:
            at_rest()
            ticket = self.tickets.recv(4)
        return self.inbox.take(frames.TICKET.unpack(ticket)[0]) if len(ticket) == 4 else None

    def next_now(self) -> Task | None:
        """Like ``next`` without waiting. None if there is no ticket now, or will be no more."""
        ticket = None if self.horizon.passed() else self.ticket_now()
        return self.inbox.take(frames.TICKET.unpack(ticket)[0]) if ticket else None

    def ticket_now(self) -> bytes | None:
        """Take a ticket without waiting: None if there is none now, b"" if there will be no more."""
        got = _holding.recv(self.tickets.fileno(), self._ticket, 4, socket.MSG_DONTWAIT)
        if got < 0:
            _raise_unless_blocked()
            return None
        return self._ticket.raw if got == 4 else b""

    def write(self, frame: bytes) -> None:
        """Send a frame, whole. Jobs' own threads may report progress at the same time."""
        with self._lock:
            rest: bytes | int = frame  # an address, once a part is written: to cut the frame each time would copy it
            left = len(frame)
            while left:
                sent = _holding.write(self._outbox, rest, left)
                if sent < 0:
                    _raise_unless_blocked()
                    _wait_writable(self._outbox)
                    continue
                left -= sent
                if left:
                    rest = (ctypes.cast(ctypes.c_char_p(frame), ctypes.c_void_p).value or 0) + len(frame) - left

    def interrupts(self) -> list[int]:
        """The numbers of the runs to be interrupted."""
        try:
            data = os.read(self._control, 4096)
        except BlockingIOError:
            return []
        return [frames.TICKET.unpack_from(data, at)[0] for at in range(0, len(data) - 3, 4)]


def _raise_unless_blocked() -> None:
    number = ctypes.get_errno()
    if number not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR):
        raise OSError(number, os.strerror(number))


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()
