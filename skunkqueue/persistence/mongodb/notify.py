"""Waiting at a MongoDB by looking: often at first, less often while nothing comes, and at once after a change here.

Where there is a change stream, at once after any change, and seldom else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, Final

from skunkqueue.errors import StoreAway
from skunkqueue.persistence import Key, RunKey, WorkerKey, WorkKey
from skunkqueue.persistence.mongodb.connect import RUNS, Link
from skunkqueue.persistence.mongodb.documents import shelf_of, storable
from skunkqueue.persistence.mongodb.errors import speaking
from skunkqueue.persistence.mongodb.shortcut import Shortcut
from skunkqueue.persistence.mongodb.stream import ANYTHING, News, Stream
from skunkqueue.persistence.waits import Wait, Waits
from skunkqueue.routes import base_route, woken_by

SHORTEST: Final = 0.01
"""Seconds between the first looks of a wait."""

SLOWER: Final = 1.3
"""By how much the pause grows from look to look."""

LONGEST_OF_WORK: Final = 0.09
LONGEST_OF_RUNS: Final = 0.1
LONGEST_OF_ORDERS: Final = 1.0
"""Seconds between looks when nothing has come for a while."""

LONGEST_OF_ALL: Final = 1.0
"""The same where a change stream announces what happens. It does not announce that a lease ends."""

KNOWN_WORK: Final = 1.0
"""Seconds after which a wait ends although all work there is was there at the wait before: then nobody could take it,
or its claim was lost."""

AWAY: Final = 0.25
"""Seconds that a wait takes at least while the server is away, so that callers do not loop without a pause."""

SEEN: Final = 20
"""Ripe runs that are told apart from those of the look before."""


class Notifier:
    """The waits of one store. ``offset`` is how far the server's clock is ahead.

    ``open_stream`` gives the change stream that calls back with what happens; None where there is none.
    """

    def __init__(self, link: Link, open_stream: Callable[[Callable[[News], None]], Stream | None]) -> None:
        self._link = link
        self._shortcut = Shortcut(link)
        self._open_stream = open_stream
        self._stream: Stream | None = None
        self._has_stream = True
        self._waits: Waits[_Wait] = Waits()
        self._seen = threading.local()
        self.offset: float = 0.0

    def happened(self, keys: Iterable[Key]) -> None:
        """Something was done to these keys by this process: have the waits on them look now."""
        self._after_fork()
        if not self._waits:
            return
        met = set(keys)
        self._waits.call(lambda wait: not wait.keys.isdisjoint(met))

    def announced(self, news: News) -> None:
        """The change stream says that something happened: have the waits that it may concern look."""
        left = news.ripe - (time.time() + self.offset)

        def is_to_look(wait: _Wait) -> bool:
            if not wait.may_concern(news):
                return False
            if left > 0:
                wait.look_at = min(wait.look_at, time.monotonic() + left)
            return left <= 0

        self._waits.call(is_to_look)

    def close(self) -> None:
        """End the change stream, and the waits. The link is closed before, so that none of them opens it again."""
        self._after_fork()
        with self._waits.lock:
            stream, self._stream, self._has_stream = self._stream, None, True
        self._waits.end()
        self._shortcut.close()
        if stream is not None:
            stream.close()

    def _after_fork(self) -> None:
        """In a forked process there is neither the stream's thread nor any of the waits."""
        if self._waits.after_fork():
            self._stream, self._has_stream = None, True

    def rouse(self, keys: Sequence[Key]) -> None:
        """End the waits on one of these keys."""
        self._waits.rouse(keys)

    def wait(self, keys: Sequence[Key], timeout: float) -> None:
        """Sleep until something may have happened to a key, at most ``timeout``; never raises StoreAway."""
        end = time.monotonic() + timeout
        self._after_fork()
        wait = _Wait(keys)
        with self._waits(wait), self._link.unless_closed():
            self._wait(wait, end)

    def _wait(self, wait: _Wait, end: float) -> None:
        began = time.monotonic()
        pause = SHORTEST
        while not wait.roused:
            if wait.look_at <= time.monotonic():
                wait.look_at = inf
            try:
                is_announced = self._is_announced()
                news = self._look(wait, began)
            except StoreAway:
                self._waits.sleep(wait, max(0.0, min(AWAY, end - time.monotonic())))
                is_announced = news = False
            left = end - time.monotonic()
            if news or left <= 0:
                return
            pause = min(pause * SLOWER, LONGEST_OF_ALL if is_announced else wait.longest)
            self._waits.sleep(wait, min(pause, left))

    def _is_announced(self) -> bool:
        """Whether a change stream announces what happens. Opens it, where it can be had."""
        if self._stream is None and self._has_stream:
            stream = self._open_stream(self.announced)
            with self._waits.lock:
                if self._stream is None and not self._link.is_closed:
                    self._stream, self._has_stream = stream, stream is not None
                elif stream is not None:  # another thread was faster, or the store was closed meanwhile
                    stream.close()
        return self._stream is not None and self._stream.is_live

    # looking

    def _look(self, wait: _Wait, began: float) -> bool:
        """Whether there is news for a wait."""
        with speaking(self._link.target.url):
            if wait.ids and self._any_ended(wait.ids):
                return True
            if wait.workers and self._any_told(wait):
                return True
            return bool(wait.shelves) and self._any_ripe(wait, began)

    def _any_ended(self, ids: list[str]) -> bool:
        open_ = {"_id": {"$in": ids}, "state": {"$in": ["queued", "running"]}}
        return sum(1 for _ in self._link.runs.find(open_, {"_id": 1})) < len(set(ids))

    def _any_told(self, wait: _Wait) -> bool:
        """Whether a worker has an order that this thread has not met before."""
        found = self._link.workers.find({"_id": {"$in": wait.workers}, "orders.0": {"$exists": True}}, {"orders.id": 1})
        told = frozenset(order["id"] for each in found for order in each["orders"])
        known = self._known("orders")
        new = bool(told - known.get(wait.keys, frozenset()))
        known[wait.keys] = told
        return new

    def _any_ripe(self, wait: _Wait, began: float) -> bool:
        """Whether a run is ripe that was not at this thread's last look. After ``KNOWN_WORK``: any at all."""
        now = time.time() + self.offset
        db = self._link.database()
        # As a command, for this is what an idle pool does, and find() makes more of it.
        look = {
            "find": RUNS, "filter": {"shelf": {"$in": wait.shelves}, "ripe": {"$lte": now}},
            "projection": {"ripe": 1}, "limit": SEEN, "batchSize": SEEN, "singleBatch": True,
        }  # fmt: skip
        batch = self._shortcut.find(look)
        if batch is None:
            batch = db.command(look, codec_options=db.codec_options)["cursor"]["firstBatch"]
        found = frozenset((each["_id"], each["ripe"]) for each in batch)
        known = self._known("ripe")
        before = known.get(wait.keys, frozenset())
        known[wait.keys] = found
        return bool(found - before) or (bool(found) and time.monotonic() - began >= KNOWN_WORK)

    def _known(self, what: str) -> dict[frozenset[Key], frozenset[Any]]:
        """What this thread has met, by what it waited for."""
        known: dict[frozenset[Key], frozenset[Any]] = self._seen.__dict__.setdefault(what, {})
        if len(known) > 100:
            known.clear()
        return known


class _Wait(Wait):
    """A wait that is under way, and what it asks for."""

    def __init__(self, keys: Sequence[Key]) -> None:
        super().__init__(keys)
        self.ids = [key.id for key in keys if isinstance(key, RunKey)]
        self.workers = [storable(key.worker) for key in keys if isinstance(key, WorkerKey)]
        work = [key for key in keys if isinstance(key, WorkKey)]
        self.shelves = [shelf_of(key.queue, route) for key in work for route in woken_by(key.route)]
        self.longest = LONGEST_OF_WORK if self.shelves else LONGEST_OF_RUNS if self.ids else LONGEST_OF_ORDERS

    def may_concern(self, news: News) -> bool:
        if news == ANYTHING:
            return True
        if news.route is not None:
            return WorkKey(news.route[0], base_route(news.route[1])) in self.keys
        return news.ended in self.ids or news.worker in self.workers
