"""What a transaction has written and not committed, as its own reads see it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sortedcontainers import SortedDict

from fdb_fake import atomic
from fdb_fake.codes import ACCESSED_UNREADABLE, Refusal
from fdb_fake.storage import Mutation, Range, merged


@dataclass(frozen=True)
class Known:
    """The value whatever the database has. None: cleared."""

    value: bytes | None


@dataclass(frozen=True)
class Pending:
    """Operations on a value of the database's that is not known yet."""

    operations: tuple[tuple[int, bytes], ...]

    def on(self, value: bytes | None) -> bytes | None:
        for kind, operand in self.operations:
            value = atomic.OPERATIONS[kind](value, operand)
        return value


@dataclass(frozen=True)
class Unreadable:
    """A value that will only be known when it is committed."""


Entry = Known | Pending | Unreadable


class Overlay:
    """Writes by key, ranges that were cleared, and ranges where a versionstamped key will be."""

    def __init__(self) -> None:
        self._entries: SortedDict = SortedDict()
        self._cleared: list[Range] = []
        self._unreadable: list[Range] = []

    def __bool__(self) -> bool:
        return bool(self._entries or self._cleared or self._unreadable)

    def set(self, key: bytes, value: bytes) -> None:
        self._entries[key] = Known(value)

    def clear(self, begin: bytes, end: bytes) -> None:
        for key in list(self._entries.irange(begin, end, (True, False))):
            del self._entries[key]
        if end == begin + b"\0":
            self._entries[begin] = Known(None)
        else:
            self._cleared = merged([*self._cleared, (begin, end)])

    def operate(self, kind: int, key: bytes, operand: bytes) -> None:
        entry = self.entry(key)
        if isinstance(entry, Known):
            self._entries[key] = Known(atomic.OPERATIONS[kind](entry.value, operand))
        elif isinstance(entry, Pending):
            self._entries[key] = Pending((*entry.operations, (kind, operand)))
        elif entry is None:
            self._entries[key] = Pending(((kind, operand),))

    def stamp_value(self, key: bytes) -> None:
        self._entries[key] = Unreadable()

    def stamp_keys(self, begin: bytes, end: bytes) -> None:
        self._unreadable.append((begin, end))

    def entry(self, key: bytes) -> Entry | None:
        """What was written there; None if nothing was."""
        found = self._entries.get(key)
        if found is None and any(begin <= key < end for begin, end in self._unreadable):
            return Unreadable()
        if found is None and self._is_cleared(key):
            return Known(None)
        return found

    def _is_cleared(self, key: bytes) -> bool:
        at = bisect_right(self._cleared, (key, b"\xff" * 4)) - 1
        return at >= 0 and self._cleared[at][0] <= key < self._cleared[at][1]

    def over(self, begin: bytes, end: bytes, rows: Iterable[Range], reverse: bool) -> list[Range]:
        """The database's rows of a range as this transaction sees them.

        Raises:
            Refusal: where a part of the range cannot be read.
        """
        if any(b < end and begin < e for b, e in self._unreadable):
            raise Refusal(ACCESSED_UNREADABLE)
        touched = {key: self._entries[key] for key in self._entries.irange(begin, end, (True, False))}
        if any(isinstance(entry, Unreadable) for entry in touched.values()):
            raise Refusal(ACCESSED_UNREADABLE)
        seen = {key: value for key, value in rows if not self._cleared or not self._is_cleared(key)}
        for key, entry in touched.items():
            value = entry.value if isinstance(entry, Known) else entry.on(seen.get(key))
            seen.pop(key, None)
            if value is not None:
                seen[key] = value
        return sorted(seen.items(), reverse=reverse) if touched else list(seen.items())

    def hides(self, begin: bytes, end: bytes) -> bool:
        """Whether anything was written in that range."""
        return (
            next(self._entries.irange(begin, end, (True, False)), None) is not None
            or any(b < end and begin < e for b, e in self._cleared)
            or any(b < end and begin < e for b, e in self._unreadable)
        )

    def read_through(self, begin: bytes, end: bytes) -> Iterator[Range]:
        """The parts of a range that were read from the database, not from what was written here."""
        own = [(key, key + b"\0") for key in self._entries.irange(begin, end, (True, False))
               if isinstance(self._entries[key], Known)]  # fmt: skip
        at = begin
        for b, e in merged([*own, *((b, e) for b, e in self._cleared if b < end and begin < e)]):
            if at < b:
                yield at, b
            at = max(at, e)
        if at < end:
            yield at, end


def versionstamped(mutation: Mutation) -> bool:
    return mutation[0] in (atomic.SET_VERSIONSTAMPED_KEY, atomic.SET_VERSIONSTAMPED_VALUE)
