"""Finds the first ripe runs of a shelf on a server that sorts all that it finds: asks for a small part at a time.

Runs that are ripe up to a moment are all the runs that come before any later one. So the first of them are the first
of all, wherever the moment is, and a moment is good that has few runs before it. It is guessed from the time before.
Where many runs have the very same time, the same is done with their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf, nextafter
from typing import Any, Final

from skunkqueue.persistence.mongodb.documents import Document, number_of

Ask = Callable[[Document, int, int], list[Document]]
"""The first runs, by (ripe, id), that meet conditions of MongoDB: at most so many, behind so many that are passed."""

LONGEST: Final = 1e9
"""Seconds of the longest window that has an end."""

MOST_SHELVES: Final = 10_000

DIGITS: Final = 28
"""Hexadecimal digits of an id."""


class Windows:
    """Where the windows of each shelf were last: the time of its first run, and how long a window had enough runs.

    Threads may share it. A guess that another one has changed costs a question more, never a run.
    """

    def __init__(self, shortest: float = 0.001, wider: float = 16.0) -> None:
        """``shortest`` is the seconds of the first window without a guess; ``wider`` by how much one grows in which
        there were too few runs."""
        self._shortest = shortest
        self._wider = wider
        self._last: dict[Hashable, tuple[float, float]] = {}
        self._ids: dict[Hashable, tuple[int, int]] = {}  # of many runs with one time: the first id, and how far on

    def knows(self, shelf: Hashable) -> bool:
        """Whether there were more runs than were asked for: then only a window of them should be asked for."""
        return shelf in self._last

    def first(
        self, shelf: Hashable, limit: int, until: float, ask: Ask, *, begin: float = inf, passed: int = 0
    ) -> list[Document]:
        """The first ``limit`` runs that ripen up to ``until``, behind those ``passed``. Without a guess, up to
        ``begin`` first."""
        start, length = self._last.get(shelf, (min(begin, until), self._shortest))
        ids = self._ids.get(shelf)  # once: another thread may forget it while this one asks
        if ids is not None and start <= until:
            found = self._first_of_one_time(ids, limit, start, ask, passed)
            if len(found) >= limit:
                self.learn(shelf, found, is_enough=True)
                return found
        while True:
            end = until if length > LONGEST else min(start + length, until)
            found = ask({} if end == inf else {"ripe": {"$lte": end}}, limit, passed)
            if len(found) >= limit or end >= until:
                break
            length *= self._wider
        self.learn(shelf, found, is_enough=len(found) >= limit)
        return found

    def _first_of_one_time(
        self, ids: tuple[int, int], limit: int, time: float, ask: Ask, passed: int
    ) -> list[Document]:
        """Those before that time, and of it those with the smallest ids. Fewer than ``limit`` say nothing."""
        # Not $lt: for that, FerretDB reads all entries of the very time.
        found = ask({"ripe": {"$lte": nextafter(time, -inf)}}, limit, 0)
        passed = 0 if found else passed
        first, length = ids
        while len(found) < limit:
            bound = first + length
            if bound >= 16**DIGITS:
                return []
            of_time = ask({"ripe": time, "_id": {"$lte": f"{bound:0{DIGITS}x}"}}, limit - len(found), passed)
            if len(found) + len(of_time) >= limit:
                return found + of_time
            length *= int(self._wider)
        return found

    def learn(self, shelf: Hashable, found: list[Document], *, is_enough: bool) -> None:
        """Guess the next window by the runs found. Where they were all there are, none is needed."""
        if len(self._last) > MOST_SHELVES:
            self._last.clear()
        self._ids.pop(shelf, None)
        if not is_enough or not found:
            self._last.pop(shelf, None)
            return
        first, last = (number_of(each.get("ripe"), 0.0) for each in (found[0], found[-1]))
        # The next are behind these, and may lie less close together.
        self._last[shelf] = (first, max(4 * (last - first), self._shortest))
        ids = [_number_of(each.get("_id")) for each in (found[0], found[-1])]
        if first == last and len(found) > 1 and ids[0] is not None and ids[1] is not None:
            self._ids[shelf] = (ids[0], max(4 * (ids[1] - ids[0]), 1))


def _number_of(id: Any) -> int | None:
    """An id as a number; None for one that no sender of ours made."""
    try:
        return int(id, 16) if len(id) == DIGITS and id == id.lower() else None
    except (TypeError, ValueError):
        return None
