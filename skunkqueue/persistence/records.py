"""The records of a memory store, by id and in the orders that claims and purges go through, so that neither scans all.

A heap may hold entries that are out of date: an entry counts only while it says what its record says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from skunkqueue.envelope import Record
from skunkqueue.routes import base_route

Lane = tuple[str, str]
"""A queue and a route, with its priority."""
Heap = list[tuple[float, str]]
"""Times and ids."""


class Records:
    """Records by id."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self._by_id: dict[str, Record] = {}
        self._lanes: dict[Lane, Heap] = {}  # of the open ones, by ripe
        self._over: Heap = []  # the ended ones, by how long they are kept
        self._expiring: Heap = []  # by ``expires``
        self._unique: dict[tuple[str, str, str], str] = {}  # the open ones with a unique key
        for record in records:
            self[record.id] = record

    def __contains__(self, id: str) -> bool:
        return id in self._by_id

    def __getitem__(self, id: str) -> Record:
        return self._by_id[id]

    def get(self, id: str) -> Record | None:
        return self._by_id.get(id)

    def values(self) -> Iterable[Record]:
        return self._by_id.values()

    def __setitem__(self, id: str, record: Record) -> None:
        envelope = record.envelope
        before = self._by_id.get(id)
        self._by_id[id] = record
        is_open = record.open
        was_open = before is not None and before.open
        if before is None or before.ripe != record.ripe or was_open != is_open:
            heappush(self._lanes.setdefault(_lane(record), []) if is_open else self._over, (record.ripe, id))
        if before is None or before.state != record.state:
            self._count(record, 1)
            if before is not None:
                self._count(before, -1)
        if is_open and not was_open:
            if envelope.expires is not None:
                heappush(self._expiring, (envelope.expires, id))
            if envelope.unique is not None:
                self._unique[(*_lane(record), envelope.unique)] = id
        elif was_open and not is_open and envelope.unique is not None:
            self._unique.pop((*_lane(record), envelope.unique), None)

    def __delitem__(self, id: str) -> None:
        record = self._by_id.pop(id)
        self._count(record, -1)
        if record.open and record.envelope.unique is not None:
            self._unique.pop((*_lane(record), record.envelope.unique), None)

    def _count(self, record: Record, by: int) -> None:
        key = (record.envelope.queue, record.envelope.route, str(record.state))
        self.counts[key] += by
        if not self.counts[key]:
            del self.counts[key]

    def open_with(self, queue: str, route: str, unique: str) -> Record | None:
        """The open record with that unique key."""
        id = self._unique.get((queue, route, unique))
        return None if id is None else self._by_id[id]

    def ripe(self, queue: str, route: str, now: float, limit: int) -> list[Record]:
        """The first open records of a lane that are ripe, by (ripe, id)."""
        lane = (queue, route)
        heap = self._lanes.get(lane, [])
        return self._first(heap, now, limit, lambda record, at: _waits(record, lane, at))

    def next_ripe(self, lanes: Iterable[Lane]) -> float | None:
        """The least ``ripe`` of the open records of these lanes."""
        return min((head for lane in lanes if (head := self._head(lane)) is not None), default=None)

    def _head(self, lane: Lane) -> float | None:
        heap = self._lanes.get(lane)
        while heap:
            ripe, id = heap[0]
            record = self._by_id.get(id)
            if record is not None and _waits(record, lane, ripe):
                return ripe
            heappop(heap)
        self._lanes.pop(lane, None)
        return None

    def over(self, now: float, limit: int) -> list[Record]:
        """The first ended records that need not be kept any longer, by (ripe, id)."""
        return self._first(self._over, now, limit, lambda record, at: not record.open and record.ripe == at)

    def expired(self, now: float) -> list[Record]:
        """The open records that have expired, by (expires, id)."""
        return self._first(
            self._expiring, now, len(self._expiring), lambda record, at: record.open and record.envelope.expires == at
        )

    def addressed(self) -> list[Record]:
        """The open records on the addresses of workers."""
        lanes = [lane for lane in self._lanes if base_route(lane[1]).startswith("@")]
        return [record for lane in lanes for record in self.ripe(*lane, float("inf"), len(self._lanes[lane]))]

    def _first(self, heap: Heap, now: float, limit: int, counts: Callable[[Record, float], bool]) -> list[Record]:
        """The first records up to a time whose entries count. Their entries stay, the others go."""
        found: dict[str, tuple[float, str]] = {}
        while heap and len(found) < limit and heap[0][0] <= now:
            entry = heappop(heap)
            record = self._by_id.get(entry[1])
            if record is not None and counts(record, entry[0]):
                found[entry[1]] = entry
        for entry in found.values():
            heappush(heap, entry)
        return [self._by_id[id] for id in found]


def _waits(record: Record, lane: Lane, ripe: float) -> bool:
    """Whether an entry of that lane is up to date. An id may have been purged, and put again into another lane."""
    return record.ripe == ripe and record.open and _lane(record) == lane


def _lane(record: Record) -> Lane:
    return record.envelope.queue, record.envelope.route
