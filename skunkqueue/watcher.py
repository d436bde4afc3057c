"""Waits for awaited runs, on one thread for each thousand of them; and ends those that have expired."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from skunkqueue.clock import Clock, ticks
from skunkqueue.envelope import Record
from skunkqueue.errors import StoreAway
from skunkqueue.pauses import pause_after
from skunkqueue.persistence import Persister, RunKey

if TYPE_CHECKING:
    import asyncio

News = Record | BaseException | None

PAGE: Final = 1000
"""Runs asked for in one call, and waited for on one thread."""

SHORTEST: Final = 0.005
LONGEST: Final = 1.0
"""Seconds of one wait: short while awaits come in, then longer. A run awaited during a long wait gets a new thread."""

LINGER: Final = 1.0
"""Seconds that the thread stays when nothing is awaited, so that consecutive awaits do not start one each."""

STEP: Final = 500
"""Most things that one step of purging does."""


def fetch(store: Persister, ids: Sequence[str]) -> dict[str, Record]:
    """The records there are, brief, asked for in pages, so that no single question is too large for a store."""
    records: dict[str, Record] = {}
    for start in range(0, len(ids), PAGE):
        records.update(store.get_brief(ids[start : start + PAGE]))
    return records


def open_of(store: Persister, ids: Sequence[str]) -> dict[str, float]:
    """As the store's ``open_of``, in pages."""
    found: dict[str, float] = {}
    for start in range(0, len(ids), PAGE):
        found.update(store.open_of(ids[start : start + PAGE]))
    return found


class Expiry:
    """Ends what has expired, for one who waits for it: no pool may be there, or idle, to find it.

    ``at`` is what ``open_of`` gives, the least of all that is awaited.
    """

    def __init__(self, store: Persister, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._asked = -math.inf  # store time up to which the store was asked to end what has expired
        self._again_at = 0.0  # ticks when to ask again, if it has not ended it

    def left(self, at: float) -> float:
        """Seconds until ``end`` is to be called."""
        if at == math.inf:
            return math.inf
        return max(0.0, self._again_at - ticks() if at <= self._asked else at - self._clock.now())

    def end(self, at: float) -> None:
        """Have the store end what has expired, if it is time."""
        if self.left(at) > 0:
            return
        with suppress(Exception):  # then a pool will do it; that the store is away, whoever waits learns next
            self._clock.measure()
            while (now := self._clock.now()) >= at:
                self._asked, self._again_at = now, ticks() + LONGEST
                if self._store.purge(now=now, limit=STEP) < STEP:
                    break


class Watcher:
    """Resolves awaits of runs when the runs end. Thread-safe."""

    def __init__(self, store: Persister, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._pages: list[_Page] = []

    async def ended(self, ids: Sequence[str]) -> dict[str, Record]:
        """The records of these runs, when all have ended; those that are gone are left out."""
        import asyncio

        awaited = _Awaited(asyncio.get_running_loop(), ids)
        with self._lock:
            places = list(self._placed(ids))
            for page, some in places:
                page.add(some, awaited)
        try:
            await awaited.all
        finally:
            for page, some in places:
                page.remove(some, awaited)
        return awaited.records

    def _placed(self, ids: Sequence[str]) -> Iterator[tuple[_Page, Sequence[str]]]:
        """Pages with room for these, each with what it takes of them."""
        at = 0
        for page in self._pages:
            if at < len(ids) and (room := page.room) > 0:
                yield page, ids[at : at + room]
                at += room
        for start in range(at, len(ids), PAGE):
            self._pages.append(_Page(self._store, self._clock))
            yield self._pages[-1], ids[start : start + PAGE]


class _Page:
    """Up to ``PAGE`` awaited runs, and the thread that waits for them."""

    def __init__(self, store: Persister, clock: Clock) -> None:
        self._store = store
        self._expiry = Expiry(store, clock)
        self._failures = 0  # in a row, as the store is away
        self._changed = threading.Condition()
        self._waiting: dict[str, list[_Awaited]] = {}
        self._thread: threading.Thread | None = None  # the current one; an earlier one may still be ending
        self._alive = 0
        self._in_long_wait = False
        self._length = SHORTEST

    @property
    def room(self) -> int:
        """How many more runs it takes."""
        return PAGE - len(self._waiting)

    def add(self, ids: Sequence[str], awaited: _Awaited) -> None:
        with self._changed:
            for id in ids:
                self._waiting.setdefault(id, []).append(awaited)
            self._length = SHORTEST
            self._changed.notify_all()
            if self._thread is None or (self._in_long_wait and self._alive == 1):
                self._start()

    def remove(self, ids: Sequence[str], awaited: _Awaited) -> None:
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
            while asked := self._asked():
                self._turn(asked)
        finally:
            with self._changed:
                self._alive -= 1
                if self._thread is threading.current_thread():
                    self._thread = None

    def _asked(self) -> _Waiting:
        """What to wait for; empty if this thread should end."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(LINGER)
            if self._thread is not threading.current_thread():
                return {}
            if not self._waiting:
                self._thread = None
            self._in_long_wait = False
            return {id: list(awaits) for id, awaits in self._waiting.items()}

    def _turn(self, asked: _Waiting) -> None:
        """Fetch the runs, resolve those that have ended, else wait."""
        ids = list(asked)
        try:
            left = self._store.open_of(ids)
            ended = [id for id in ids if id not in left]
            if ended:
                self._tell(self._news_of(ended), asked)
            else:
                self._wait(ids, min(left.values()))
            self._failures = 0
        except StoreAway:
            self._failures += 1
            time.sleep(pause_after(self._failures))
        except BaseException as error:  # the awaiting coroutines must get it; no other code would
            self._tell(dict.fromkeys(ids, error), asked)

    def _news_of(self, ids: Sequence[str]) -> dict[str, News]:
        """What became of these, but of one that was queued again just now."""
        records = self._store.get_brief(ids)
        return {id: record for id in ids if (record := records.get(id)) is None or not record.open}

    def _wait(self, ids: Sequence[str], expires: float) -> None:
        """Wait until one of them may have ended, or expires (by the store's clock)."""
        self._expiry.end(expires)
        keys = [RunKey(id) for id in ids]
        if self._alive > 1:
            self._store.rouse(keys)  # ends the wait of the earlier thread; until then, this one waits shortly only
        self._store.wait(keys, min(self._next_length(), self._expiry.left(expires)))

    def _next_length(self) -> float:
        with self._changed:
            length = self._length if self._alive == 1 else min(self._length, 2 * SHORTEST)
            self._length = min(2 * self._length, LONGEST)
            self._in_long_wait = length > 2 * SHORTEST
            return length

    def _tell(self, news: Mapping[str, News], asked: _Waiting) -> None:
        """Tell those who awaited before the store was asked: for a later one, a run that had failed may run again."""
        for id, what in news.items():
            for awaited in asked[id]:
                self.remove([id], awaited)
                awaited.tell(id, what)


_Waiting = dict[str, list["_Awaited"]]


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
