"""The data of a cluster in its versions, and what is decided where it is committed: conflicts, stamps, watches."""

from __future__ import annotations

import struct
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from sortedcontainers import SortedDict

from fdb_fake import atomic
from fdb_fake.codes import FUTURE_VERSION, NOT_COMMITTED, TRANSACTION_TOO_OLD, Refusal

Key = bytes
Range = tuple[bytes, bytes]
Mutation = tuple[int, bytes, bytes]

VERSIONS_PER_SECOND = 1_000_000
LIFE = 5 * VERSIONS_PER_SECOND
"""How far behind a transaction may read, or commit."""


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same ranges, sorted, with none that touches another."""
    found: list[Range] = []
    for begin, end in sorted(ranges):
        if begin >= end:
            continue
        if found and begin <= found[-1][1]:
            if end > found[-1][1]:
                found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


class Storage:
    """Every key with its values by version: those of the last seconds, and the newest before them."""

    def __init__(self) -> None:
        self._rows: SortedDict = SortedDict()  # key -> [(version, value or None)], oldest first
        self._garbage: deque[tuple[int, Key]] = deque()

    def at(self, key: Key, version: int) -> bytes | None:
        return self._value(self._rows.get(key, ()), version)

    @staticmethod
    def _value(history: Sequence[tuple[int, bytes | None]], version: int) -> bytes | None:
        for written, value in reversed(history):
            if written <= version:
                return value
        return None

    def range(
        self, begin: Key, end: Key, version: int, *, limit: int, target: int, reverse: bool
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Rows in order, and whether there may be more: at most ``limit``, or until they are ``target`` bytes."""
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        for key in self._rows.irange(begin, end, (True, False), reverse):
            value = self._value(self._rows[key], version)
            if value is None:
                continue
            rows.append((key, value))
            size += len(key) + len(value)
            if (limit and len(rows) >= limit) or (target and size >= target):
                return rows, True
        return rows, False

    def write(self, key: Key, value: bytes | None, version: int) -> None:
        history = self._rows.get(key)
        if history is None:
            if value is not None:
                self._rows[key] = [(version, value)]
            return
        if history[-1][0] == version:  # of one batch
            history[-1] = (version, value)
        else:
            history.append((version, value))
        if value is None or len(history) > 1:
            self._garbage.append((version, key))

    def clear(self, begin: Key, end: Key, version: int) -> list[Key]:
        gone = [key for key in self._rows.irange(begin, end, (True, False)) if self._rows[key][-1][1] is not None]
        for key in gone:
            self.write(key, None, version)
        return gone

    def forget(self, version: int) -> None:
        """Nobody reads as of before that version any more."""
        while self._garbage and self._garbage[0][0] <= version:
            _, key = self._garbage.popleft()
            history = self._rows.get(key)
            if history is None:
                continue
            at = bisect_right([written for written, _ in history], version) - 1
            if at > 0:
                del history[:at]
            if len(history) == 1 and history[0][1] is None and history[0][0] <= version:
                del self._rows[key]

    def all(self) -> Iterator[tuple[bytes, bytes]]:
        for key, history in self._rows.items():
            if history[-1][1] is not None:
                yield key, history[-1][1]


class Resolver:
    """What was written in the last seconds; says whether it was read by who wants to commit."""

    def __init__(self) -> None:
        self._commits: deque[tuple[int, list[bytes], list[bytes]]] = deque()  # version, begins, ends

    def conflicts(self, reads: Sequence[Range], version: int) -> bool:
        for written, begins, ends in reversed(self._commits):
            if written <= version:
                return False
            for begin, end in reads:
                at = bisect_left(begins, end) - 1
                if at >= 0 and ends[at] > begin:
                    return True
        return False

    def add(self, writes: Sequence[Range], version: int) -> None:
        if writes:
            self._commits.append((version, [begin for begin, _ in writes], [end for _, end in writes]))

    def forget(self, version: int) -> None:
        while self._commits and self._commits[0][0] <= version:
            self._commits.popleft()


class Clock:
    """Versions: about a million a second, and always more than before."""

    def __init__(self, start: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.version = start
        self._monotonic = monotonic
        self._seen = monotonic()
        self.batch = 0
        self._open = False

    def advance(self) -> int:
        now = self._monotonic()
        self.version += max(1, int((now - self._seen) * VERSIONS_PER_SECOND))
        self._seen = now
        self.batch = 0
        self._open = False
        return self.version

    def stamp(self, read_version: int = 0) -> tuple[int, int]:
        """For a commit. Those that come without a pause and with no read version handed out between are one batch.

        But for one as of the version of that batch: whoever knows that one has seen it end.
        """
        is_known = read_version >= self.version
        if self._open and not is_known and self.batch < 0xFFFF and self._monotonic() - self._seen < 0.001:
            self.batch += 1
        else:
            self.advance()
            self._open = True
        return self.version, self.batch

    def read_version(self) -> int:
        self._open = False
        return self.version

    def jump(self, versions: int) -> None:
        self._open = False
        self.version += versions


class Watches:
    """Who waits for a key to have another value than they know."""

    def __init__(self) -> None:
        self._of_key: dict[Key, dict[int, tuple[bytes | None, Callable[[], None]]]] = {}
        self._key_of: dict[int, Key] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._key_of)

    def add(self, key: Key, known: bytes | None, fire: Callable[[], None]) -> int:
        self._number += 1
        self._of_key.setdefault(key, {})[self._number] = (known, fire)
        self._key_of[self._number] = key
        return self._number

    def drop(self, number: int) -> None:
        key = self._key_of.pop(number, None)
        if key is not None:
            waiting = self._of_key[key]
            del waiting[number]
            if not waiting:
                del self._of_key[key]

    def changed(self, key: Key, value: bytes | None) -> None:
        for number, (known, fire) in list(self._of_key.get(key, {}).items()):
            if known != value:
                self.drop(number)
                fire()


class Cluster:
    """All of it: what a transaction may ask of a cluster, answered at once."""

    def __init__(self, version: int = 1_000_000) -> None:
        self.storage = Storage()
        self.resolver = Resolver()
        self.clock = Clock(version)
        self.watches = Watches()
        self.commits = 0
        self.conflicts = 0

    def read_version(self) -> int:
        return self.clock.read_version()

    def check_readable(self, version: int) -> None:
        if version > self.clock.version:
            raise Refusal(FUTURE_VERSION)
        if version < self.clock.version - LIFE:
            raise Refusal(TRANSACTION_TOO_OLD)

    def get(self, key: Key, version: int) -> bytes | None:
        self.check_readable(version)
        return self.storage.at(key, version)

    def range(
        self, begin: Key, end: Key, version: int, limit: int, target: int, reverse: bool
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        self.check_readable(version)
        return self.storage.range(begin, end, version, limit=limit, target=target, reverse=reverse)

    def commit(
        self, read_version: int, reads: Sequence[Range], writes: Sequence[Range], mutations: Sequence[Mutation]
    ) -> tuple[int, int, list[Mutation]]:
        """The version and the place in its batch, and what was written, with stamps for versionstamps.

        Raises:
            Refusal: not_committed, or transaction_too_old.
        """
        if reads:
            if read_version < self.clock.version - LIFE:
                raise Refusal(TRANSACTION_TOO_OLD)
            if self.resolver.conflicts(merged(reads), read_version):
                self.conflicts += 1
                raise Refusal(NOT_COMMITTED)
        version, batch = self.clock.stamp(read_version)
        stamp = struct.pack(">QH", version, batch)
        done = [stamped(mutation, stamp) for mutation in mutations]
        keys = [(m[1], m[1] + b"\0") for m, before in zip(done, mutations, strict=True) if m is not before and m[3:]]
        self.resolver.add(merged([*writes, *keys]), version)
        plain = [m[:3] for m in done]
        self.apply(plain, version)
        self.commits += 1
        self.forget()
        return version, batch, plain

    def apply(self, mutations: Sequence[Mutation], version: int) -> None:
        touched: dict[Key, None] = {}
        for kind, key, operand in mutations:
            if kind == atomic.CLEAR_RANGE:
                touched |= dict.fromkeys(self.storage.clear(key, operand, version))
            else:
                old = self.storage.at(key, version)
                self.storage.write(key, atomic.OPERATIONS[kind](old, operand), version)
                touched[key] = None
        for key in touched:
            self.watches.changed(key, self.storage.at(key, version))

    def forget(self) -> None:
        oldest = self.clock.version - LIFE
        self.storage.forget(oldest)
        self.resolver.forget(oldest)

    def watch(self, key: Key, known: bytes | None, fire: Callable[[], None]) -> int | None:
        """Its number; None if the value is another already."""
        if self.storage.at(key, self.clock.version) != known:
            return None
        return self.watches.add(key, known, fire)


def stamped(mutation: Mutation, stamp: bytes) -> tuple:
    """The mutation with the stamp in its place. One whose key was made by it has a fourth item."""
    kind, key, operand = mutation
    if kind == atomic.SET_VERSIONSTAMPED_KEY:
        return (atomic.SET, _with_stamp(key, stamp), operand, True)
    if kind == atomic.SET_VERSIONSTAMPED_VALUE:
        return (atomic.SET, key, _with_stamp(operand, stamp))
    return mutation


def _with_stamp(text: bytes, stamp: bytes) -> bytes:
    at = int.from_bytes(text[-4:], "little")
    return text[:at] + stamp + text[at + 10 : -4]
