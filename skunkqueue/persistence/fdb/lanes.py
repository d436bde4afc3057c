"""Reads the open runs of a lane in order: of all its shards, or of one member's share of it.

All is read by snapshot: a claim only needs that the runs it takes are still where they were, and adds a conflict for
each of those. With the whole range as a conflict, each put at the same moment would undo the claim.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from skunkqueue.persistence.fdb.crowd import Share
from skunkqueue.persistence.fdb.layout import after, lane_of, read_time, spread, time_key
from skunkqueue.persistence.fdb.step import EXACT, Step

WINDOW: Final = 512
"""So many runs a member reads at most of a shard that holds others' runs as well."""

GRACE: Final = 0.01
"""Seconds for which a run that has ripened is left to the member that owns it."""


class Found(NamedTuple):
    """A run where it lies. They sort by (ripe, id): ``place`` is that part of the key."""

    place: bytes
    key: bytes
    value: bytes

    @property
    def id(self) -> bytes:
        return self.place[8:]

    @property
    def ripe(self) -> float:
        return read_time(self.place)


class _Shard:
    """The open runs of one shard, page by page. The first page is asked for at once."""

    def __init__(self, step: Step, prefix: bytes, limit: int) -> None:
        self._step, self._prefix, self._limit = step, prefix, limit
        self._end = after(prefix)
        self._rows: list[Any] = []
        self._at = 0
        self._more = True
        self._asked = self._ask(prefix)

    def _ask(self, begin: bytes) -> Any:
        return self._step.tr.snapshot.get_range(begin, self._end, limit=self._limit, streaming_mode=EXACT)

    def head(self) -> Found | None:
        """The first run that was not taken yet."""
        if self._at >= len(self._rows) and self._more:
            if self._asked is None:
                self._asked = self._ask(self._rows[-1].key + b"\0")
            self._rows, self._at = self._asked.to_list(), 0
            self._asked, self._more = None, len(self._rows) >= self._limit
        if self._at >= len(self._rows):
            return None
        key, value = self._rows[self._at]
        return Found(key[len(self._prefix) :], key, value)

    def skip(self) -> None:
        self._at += 1

    def page(self) -> list[Found]:
        """The first page."""
        size = len(self._prefix)
        return [Found(pair.key[size:], pair.key, pair.value) for pair in self._asked]


class Lane:
    """The open runs of a lane, for a claimer that is alone: the first ones of all shards."""

    queue: str
    route: str

    @property
    def leaves(self) -> bool:
        """Whether there are ripe runs that are left to those who own them."""
        return False

    def __init__(self, step: Step, queue: str, route: str, width: int, limit: int) -> None:
        self.queue, self.route = queue, route
        self.name: bytes = lane_of(queue, route)
        self._step = step
        self._now = time_key(step.now)
        # A shard holds its part of what is wanted, and a few more; where it does not, it is asked again.
        self._limit = limit + 1 if width <= 1 else limit // width + 4
        self._shards: list[_Shard] = []
        self.widen(width)

    def widen(self, width: int) -> None:
        """The lane is spread over so many shards."""
        for shard in range(len(self._shards), width):
            self._shards.append(_Shard(self._step, self._step.space.shard(self.name, shard), self._limit))

    def ripe(self, limit: int) -> list[Found]:
        """The next ripe runs, in order; fewer only where there are no more."""
        found: list[Found] = []
        while len(found) < limit:
            first = self._first()
            if first is None or first[0].place[:8] > self._now:
                break
            found.append(first[0])
            first[1].skip()
        return found

    def next_ripe(self) -> float | None:
        """When the next run ripens that was not given."""
        first = self._first()
        return None if first is None else first[0].ripe

    def _first(self) -> tuple[Found, _Shard] | None:
        if len(self._shards) == 1:
            head = self._shards[0].head()
            return None if head is None else (head, self._shards[0])
        heads = [(head, shard) for shard in self._shards if (head := shard.head()) is not None]
        return min(heads, key=lambda pair: pair[0].place, default=None)


class SharedLane(Lane):
    """The same for a member of a crowd: first its own runs, then what others leave."""

    def __init__(self, step: Step, queue: str, route: str, width: int, limit: int, share: Share, patient: bool) -> None:
        super().__init__(step, queue, route, 0, 0)
        self._share, self._wanted = share, max(1, limit)
        self._long_ripe = time_key(step.now - GRACE) if patient else self._now
        own = {shard for shard in range(width) if width < share.width or share.owns(shard)}
        # What was put before the lane was spread lies on the first shards, whoever owns it.
        mixed = {0} if width >= share.width else own
        window = min(WINDOW, self._wanted * share.of)
        self._rest: list[Found] = []
        self._given = 0
        self._own = self._sorted((shard, window if shard in mixed else self._wanted) for shard in own | mixed)
        self._left = [shard for shard in range(width) if shard not in own | mixed]

    def _sorted(self, pages: Iterable[tuple[int, int]]) -> list[Found]:
        """What is own of these shards, in order; the rest is kept."""
        asked = [_Shard(self._step, self._step.space.shard(self.name, shard), limit) for shard, limit in pages]
        own: list[Found] = []
        for shard in asked:
            for found in shard.page():
                (own if self._share.owns(spread(found.id)) else self._rest).append(found)
        return sorted(own)

    def widen(self, width: int) -> None:
        """Nothing: it is made with the width there is."""

    def ripe(self, limit: int) -> list[Found]:
        found = [each for each in self._own[:limit] if each.place[:8] <= self._now]
        self._own = self._own[len(found) :]
        self._given += len(found)
        # With a claim that is only partly filled nobody is met, and the next one may be filled.
        return found if self._given else self._of_others(limit)

    def _of_others(self, limit: int) -> list[Found]:
        """Some of what others have left lying for a moment; whose turn it is, they take from the front."""
        if self._left:
            self._own += self._sorted((shard, self._wanted) for shard in self._left)
            self._left = []
        old = [each for each in self._rest if each.place[:8] <= self._long_ripe]
        random.shuffle(old)
        taken = sorted(old[:limit])
        gone = {each.key for each in taken}
        self._rest = [each for each in self._rest if each.key not in gone]
        return taken

    @property
    def leaves(self) -> bool:
        return any(each.place[:8] <= self._now for each in self._rest)

    def next_ripe(self) -> float | None:
        return min([each.ripe for each in (*self._own, *self._rest)], default=None)
