"""Runs a call on a thread beside the caller's own, so that two calls to the server are under way at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Beside:
    """One thread, started when it is first needed. A forked process starts its own."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call[Any] | None] | None = None
        self._busy = threading.Lock()
        self._opening = threading.Lock()  # so that no call is put behind the last word of ``close``
        self._pid = os.getpid()

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Start a call; its result comes with the future. While the thread is busy, it is called here and now."""
        if self._pid != os.getpid():
            self._calls, self._pid = None, os.getpid()
            self._busy, self._opening = threading.Lock(), threading.Lock()
        started = _Call(call, Future())
        if self._busy.acquire(blocking=False):
            with self._opening:
                if self._calls is None:
                    self._calls = SimpleQueue()
                    name = "skunkqueue-beside"
                    threading.Thread(target=self._run, args=(self._calls,), name=name, daemon=True).start()
                self._calls.put(started)
        else:
            started.carry_out()
        return started.future

    def close(self) -> None:
        """End the thread, after the call that is under way."""
        if self._pid != os.getpid():
            return
        with self._opening:
            calls, self._calls = self._calls, None
            if calls is not None:
                calls.put(None)

    def _run(self, calls: SimpleQueue[_Call[Any] | None]) -> None:
        busy = self._busy
        while (call := calls.get()) is not None:
            call.carry_out(busy.release)


class _Call(Generic[T]):
    """A call, and where its result is awaited."""

    def __init__(self, call: Callable[[], T], future: Future[T]) -> None:
        self._call = call
        self.future = future

    def carry_out(self, release: Callable[[], None] = lambda: None) -> None:
        """Call, and hand over what came of it; ``release`` is called before anybody learns of it."""
        try:
            result = self._call()
        except BaseException as error:
            release()
            self.future.set_exception(error)
        else:
            release()
            self.future.set_result(result)
