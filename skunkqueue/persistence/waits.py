"""The waits of a process on a store that looks for news itself: who waits for what, and who ends which wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Generic, TypeVar

from skunkqueue.persistence import Key


class Wait:
    """A wait that is under way. ``called``: something may have happened, so it is to look; ``roused``: it is to end."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys: frozenset[Key] = frozenset(keys)
        self.called = False
        self.roused = False
        self.look_at = inf
        """When it is to look at the latest, by the monotonic clock."""


W = TypeVar("W", bound=Wait)


class Waits(Generic[W]):
    """All waits of this process on one store. ``lock`` is for whatever else they share. Thread-safe."""

    def __init__(self) -> None:
        self.lock: threading.Condition = threading.Condition()
        self.under_way: list[W] = []
        self._pid = os.getpid()

    def after_fork(self) -> bool:
        """Whether this process was forked since the last call: it has none of the waits, and a lock of its own."""
        if self._pid == os.getpid():
            return False
        self.lock = threading.Condition()
        self.under_way, self._pid = [], os.getpid()
        return True

    def __len__(self) -> int:
        return len(self.under_way)

    @contextmanager
    def __call__(self, wait: W) -> Iterator[None]:
        """Meanwhile it is one of those under way."""
        with self.lock:
            self.under_way.append(wait)
        try:
            yield
        finally:
            with self.lock:
                self.under_way.remove(wait)

    def sleep(self, wait: W, seconds: float) -> bool:
        """Sleep until the wait is called, is roused, or is to look; whether it was called."""
        end = time.monotonic() + seconds
        with self.lock:
            while not (wait.called or wait.roused) and (left := min(end, wait.look_at) - time.monotonic()) > 0:
                self.lock.wait(left)
            called, wait.called = wait.called, False
        return called

    def call(self, concerns: Callable[[W], bool]) -> None:
        """Have those look that it concerns."""
        with self.lock:
            for wait in self.under_way:
                wait.called = wait.called or concerns(wait)
            self.lock.notify_all()

    def rouse(self, keys: Sequence[Key]) -> None:
        """End those on one of these keys."""
        with self.lock:
            for wait in self.under_way:
                wait.roused = wait.roused or not wait.keys.isdisjoint(keys)
            self.lock.notify_all()

    def end(self) -> None:
        """End all: they would open the store again that is being closed."""
        with self.lock:
            for wait in self.under_way:
                wait.roused = True
            self.lock.notify_all()
