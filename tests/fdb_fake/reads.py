"""How a transaction reads ranges and resolves key selectors, over its own writes."""

from __future__ import annotations

from typing import Any

from fdb_fake import codes
from fdb_fake.codes import Refusal
from fdb_fake.network import Coroutine

CHUNK = 10_000
"""Bytes of rows that are asked for at once, where it is not known how many are needed."""

Selector = tuple[bytes, bool, int]
"""A key, whether it counts itself, and an offset."""

Rows = list[tuple[bytes, bytes]]


def exclusive(selector: Selector) -> tuple[bytes, int]:
    """The same as a key that does not count itself, and an offset."""
    key, or_equal, offset = selector
    return (key + b"\0" if or_equal else key), offset


class Reads:
    """What needs more than one key of a transaction. The transaction says what it sees and remembers what it read."""

    overlay: Any
    database: Any
    options: Any

    def rows(
        self, begin: Selector, end: Selector, *, limit: int, target: int, snapshot: bool, reverse: bool
    ) -> Coroutine:
        """Rows from one selector to another, and whether there may be more."""
        (first, before), (last, after) = exclusive(begin), exclusive(end)
        if max(begin[0], end[0]) > self.end_of_reads:
            raise Refusal(codes.KEY_OUTSIDE_LEGAL_RANGE)
        if limit < 0:
            raise Refusal(codes.RANGE_LIMITS_INVALID)
        if before >= after and first >= last:
            return [], False
        sees = self.sees_writes(snapshot)
        low = first if before == 1 else (yield from self._resolved(first, before, sees))
        high = last if after == 1 else (yield from self._resolved(last, after, sees))
        rows, more = yield from self._between(low, high, limit, target, reverse, sees)
        if not snapshot:
            self.add_reads(*_read(first, before, last, after, low, high, rows, more, reverse))
        return rows, more

    def key(self, selector: Selector, snapshot: bool) -> Coroutine:
        """The key that a selector names, or one of the ends of the database."""
        if selector[0] > self.end_of_reads:
            raise Refusal(codes.KEY_OUTSIDE_LEGAL_RANGE)
        base, offset = exclusive(selector)
        found = yield from self._resolved(base, offset, self.sees_writes(snapshot))
        if not snapshot:
            if offset <= 0:
                self.add_reads(found, base)
            else:
                self.add_reads(base, min(found + b"\0", self.end_of_reads))
        return found

    def _resolved(self, base: bytes, offset: int, sees: bool) -> Coroutine:
        if offset > 0:
            rows, _ = yield from self._between(base, self.end_of_reads, offset, 0, False, sees)
            return rows[offset - 1][0] if len(rows) >= offset else self.end_of_reads
        back = 1 - offset
        rows, _ = yield from self._between(b"", base, back, 0, True, sees)
        return rows[back - 1][0] if len(rows) >= back else b""

    def _between(self, low: bytes, high: bytes, limit: int, target: int, reverse: bool, sees: bool) -> Coroutine:
        """Rows of a range as the transaction sees them, as many as the limits let through."""
        version = yield self.version()
        if low >= high:
            return [], False
        if not (sees and self.overlay.hides(low, high)):
            rows, more = yield self.database.ask("range", low, high, version, limit, target, reverse)
            return rows, more
        found: Rows = []
        size = 0
        more = True
        while more and low < high:
            rows, more = yield self.database.ask("range", low, high, version, limit, target or CHUNK, reverse)
            reach = (rows[-1][0] if reverse else rows[-1][0] + b"\0") if more else (low if reverse else high)
            part = (reach, high) if reverse else (low, reach)
            for row in self.overlay.over(*part, rows, reverse):
                found.append(row)
                size += len(row[0]) + len(row[1])
                if (limit and len(found) >= limit) or (target and size >= target):
                    return found, True
            if reverse:
                high = reach
            else:
                low = reach
        return found, False


def _read(
    first: bytes, before: int, last: bytes, after: int, low: bytes, high: bytes, rows: Rows, more: bool, reverse: bool
) -> tuple[bytes, bytes]:
    """What a range read depends on: up to the last row that it gave where it was cut off, else all of it."""
    begin, end = min(low, first if before <= 0 else low), max(high, last if after > 1 else high)
    if before > 1:
        begin = first
    if after <= 0:
        end = max(end, last)
    if more and rows and reverse:
        begin = rows[-1][0]
    elif more and rows:
        end = rows[-1][0] + b"\0"
    return begin, end
