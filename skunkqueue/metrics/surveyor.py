"""Asks what may take long, on a thread of its own: at most every few seconds, and nobody waits for it for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, Generic, NamedTuple, TypeVar

from skunkqueue.clock import ticks
from skunkqueue.errors import StoreAway

T = TypeVar("T")

FRESH: Final = 5.0
"""Seconds for which an answer is given again."""
PATIENCE: Final = 5.0
"""Seconds that whoever asks waits for an answer."""


class Told(NamedTuple, Generic[T]):
    """An answer, or the error instead; and how many seconds it took."""

    value: T | None
    error: Exception | None
    took: float


class Surveyor(Generic[T]):
    """Calls ``ask`` when somebody wants to know. All methods are for one event loop; ``ask`` is called on a thread.

    The thread is a daemon: it may hang in a store when the program ends.
    """

    def __init__(self, ask: Callable[[], T], *, fresh: float = FRESH, patience: float = PATIENCE) -> None:
        self._ask = ask
        self._fresh = fresh
        self._patience = patience
        self._wanted: SimpleQueue[asyncio.Future[Told[T]]] = SimpleQueue()
        self._future: asyncio.Future[Told[T]] | None = None
        self._old_at = 0.0  # ticks from which the answer is too old
        self._has_thread = False

    async def latest(self) -> Told[T]:
        """The answer, at most ``fresh`` seconds old. A StoreAway stands in it if there is none in time."""
        future = self._future
        if future is None or (future.done() and ticks() >= self._old_at):
            future = self._future = asyncio.get_running_loop().create_future()
            self._start()
            self._wanted.put(future)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._patience)
        except TimeoutError:
            error = StoreAway(f"the store has not answered within {self._patience:g} s")
            return Told(None, error, self._patience)

    def _start(self) -> None:
        if not self._has_thread:
            self._has_thread = True
            threading.Thread(target=self._serve, name="skunkqueue-survey", daemon=True).start()

    def _serve(self) -> None:
        while True:
            future = self._wanted.get()
            told = self._told()
            with suppress(RuntimeError):  # the loop has ended
                future.get_loop().call_soon_threadsafe(self._tell, future, told)

    def _told(self) -> Told[T]:
        began = ticks()
        try:
            value = self._ask()
        except Exception as error:
            return Told(None, error, ticks() - began)
        return Told(value, None, ticks() - began)

    def _tell(self, future: asyncio.Future[Told[T]], told: Told[T]) -> None:
        self._old_at = ticks() + self._fresh
        if not future.done():
            future.set_result(told)
