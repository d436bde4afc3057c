"""One thread per store that waits for all awaited runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from skunkqueue.envelope import Record
from skunkqueue.errors import StoreAway
from skunkqueue.persistence import Persister, RunKey

if TYPE_CHECKING:
    import asyncio

News = Record | BaseException | None

PAGE: Final = 1000
"""Runs asked for, or waited for, in one call."""

SHORTEST: Final = 0.005
LONGEST: Final = 1.0
"""Seconds of one wait: short while awaits come in, then longer. A run awaited during a long wait gets a new thread."""

LINGER: Final = 1.0
"""Seconds that the thread stays when nothing is awaited, so that consecutive awaits do not start one each."""


def fetch(store: Persister, ids: Sequence[str]) -> dict[str, Record]:
    """The records there are, asked for in pages, so that no single question is too large for a store."""
    records: dict[str, Record] = {}
    for start in range(0, len(ids), PAGE):
        records.update(store.get(ids[start : start + PAGE]))
    return records


class Watcher:
    """Resolves awaits of runs when the runs end. Thread-safe."""

    def __init__(self, store: Persister) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._waiting: dict[str, list[_Awaited]] = {}
        self._thread: threading.Thread | None = None  # the current one; an earlier one may still be ending
        self._alive = 0
        self._in_long_wait = False
        self._length = SHORTEST

    async def ended(self, ids: Sequence[str]) -> dict[str, Record]:
        """The records of these runs, when all have ended; those that are gone are left out."""
        import asyncio

        awaited = _Awaited(asyncio.get_running_loop(), ids)
        self._add(ids, awaited)
        try:
            await awaited.all
        finally:
            self._remove(ids, awaited)
        return awaited.records

    def _add(self, ids: Sequence[str], awaited: _Awaited) -> None:
        with self._changed:
            for id in ids:
                self._waiting.setdefault(id, []).append(awaited)
            self._length = SHORTEST
            self._changed.notify_all()
            if self._thread is None or (self._in_long_wait and self._alive == 1):
                self._start()

    def _remove(self, ids: Sequence[str], awaited: _Awaited) -> None:
        with self._changed:
            for id in ids:
                left = [other for other in self._waiting.pop(id, ()) if other is not awaited]
                if left:
                    self._waiting[id] = left

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="skunkqueue-watcher", daemon=True)
        self._alive += 1
        self._in_long_wait = False
        self._thread.start()

    def _watch(self) -> None:
        try:
            while ids := self._ids():
                self._turn(ids)
        finally:
            with self._changed:
                self._alive -= 1
                if self._thread is threading.current_thread():
                    self._thread = None

    def _ids(self) -> list[str]:
        """The ids to wait for; empty if this thread should end."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(LINGER)
            if self._thread is not threading.current_thread():
                return []
            if not self._waiting:
                self._thread = None
            self._in_long_wait = False
            return list(self._waiting)

    def _turn(self, ids: list[str]) -> None:
        """Fetch the runs, resolve those that have ended, else wait."""
        try:
            records = fetch(self._store, ids)
            ended = [id for id in ids if id not in records or not records[id].open]
            self._tell({id: records.get(id) for id in ended})
            if not ended:
                self._store.wait([RunKey(id) for id in ids[:PAGE]], self._next_length())
        except StoreAway:
            time.sleep(self._next_length())
        except BaseException as error:  # the awaiting coroutines must get it; no other code would
            self._tell(dict.fromkeys(ids, error))

    def _next_length(self) -> float:
        with self._changed:
            length = self._length if self._alive == 1 else min(self._length, 2 * SHORTEST)
            self._length = min(2 * self._length, LONGEST)
            self._in_long_wait = length > 2 * SHORTEST
            return length

    def _tell(self, news: Mapping[str, News]) -> None:
        with self._changed:
            told = [(awaited, id, what) for id, what in news.items() for awaited in self._waiting.pop(id, ())]
        for awaited, id, what in told:
            awaited.tell(id, what)


class _Awaited:
    """Some awaited runs, and the event loop that awaits them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ids: Sequence[str]) -> None:
        self.records: dict[str, Record] = {}
        self.all = loop.create_future()
        self._loop = loop
        self._missing = set(ids)

    def tell(self, id: str, news: News) -> None:
        with suppress(RuntimeError):  # the loop was closed; nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, id, news)

    def _settle(self, id: str, news: News) -> None:
        if isinstance(news, Record):
            self.records[id] = news
        self._missing.discard(id)
        if self.all.done():
            return
        if isinstance(news, BaseException):
            self.all.set_exception(news)
        elif not self._missing:
            self.all.set_result(None)
