"""What a transaction writes: checked, seen by its own reads, remembered for its commit."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from fdb_fake import atomic, codes
from fdb_fake.codes import Refusal
from fdb_fake.options import Options
from fdb_fake.storage import Mutation, Range

KEY_LIMIT = 10_000
SYSTEM = b"\xff"
END_OF_ALL = b"\xff\xff"
MUTATION_BYTES = 56
RANGE_BYTES = 32


class Writes:
    """A wrong write spoils the transaction: what is asked of it later fails with that error."""

    lock: Any
    options: Options
    overlay: Any
    wrong: int

    def begin_writes(self) -> None:
        self.reads: list[Range] = []
        self.writes: list[Range] = []
        self.mutations: list[Mutation] = []
        self.size = 0

    @property
    def _end_of_writes(self) -> bytes:
        return END_OF_ALL if self.options.writes_system_keys else SYSTEM

    def _wrote(self, write: Callable[[], None]) -> None:
        with self.lock:
            try:
                self.check_commit()
                write()
            except Refusal as refusal:
                self.wrong = self.wrong or refusal.code

    def set(self, key: bytes, value: bytes) -> None:
        self._wrote(lambda: self._set(key, value))

    def _set(self, key: bytes, value: bytes) -> None:
        conflicts = self.options.takes_write_conflict()
        self._check_key(key)
        if len(value) > atomic.VALUE_LIMIT:
            raise Refusal(codes.VALUE_TOO_LARGE)
        self.overlay.set(key, value)
        self._add((atomic.SET, key, value), conflicts)

    def _check_key(self, key: bytes) -> None:
        if key >= self._end_of_writes:
            raise Refusal(codes.KEY_OUTSIDE_LEGAL_RANGE)
        if len(key) > KEY_LIMIT:
            raise Refusal(codes.KEY_TOO_LARGE)

    def _add(self, mutation: Mutation, conflicts: bool) -> None:
        _, key, operand = mutation
        self.mutations.append(mutation)
        self.size += len(key) + len(operand) + MUTATION_BYTES
        if conflicts:
            self.size += RANGE_BYTES + 2 * len(key) + 1
            self.writes.append((key, key + b"\0"))

    def clear(self, key: bytes) -> None:
        self._wrote(lambda: self._clear(key))

    def _clear(self, key: bytes) -> None:
        conflicts = self.options.takes_write_conflict()
        if key >= self._end_of_writes:
            raise Refusal(codes.KEY_OUTSIDE_LEGAL_RANGE)
        if len(key) <= KEY_LIMIT:
            self._clear_range(key, key + b"\0", conflicts)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        def write() -> None:
            conflicts = self.options.takes_write_conflict()
            if begin > end:
                raise Refusal(codes.INVERTED_RANGE)
            if end > self._end_of_writes:
                raise Refusal(codes.KEY_OUTSIDE_LEGAL_RANGE)
            if begin < end:
                self._clear_range(begin, end, conflicts)

        self._wrote(write)

    def _clear_range(self, begin: bytes, end: bytes, conflicts: bool) -> None:
        self.overlay.clear(begin, end)
        self.mutations.append((atomic.CLEAR_RANGE, begin, end))
        self.size += len(begin) + len(end) + MUTATION_BYTES
        if conflicts:
            self.size += RANGE_BYTES + len(begin) + len(end)
            self.writes.append((begin, end))

    def atomic_op(self, kind: int, key: bytes, operand: bytes) -> None:
        self._wrote(lambda: self._operate(kind, key, operand))

    def _operate(self, kind: int, key: bytes, operand: bytes) -> None:
        conflicts = self.options.takes_write_conflict()
        stamps = (atomic.SET_VERSIONSTAMPED_KEY, atomic.SET_VERSIONSTAMPED_VALUE)
        if kind not in stamps and (kind not in atomic.OPERATIONS or kind == atomic.SET):
            raise Refusal(codes.INVALID_MUTATION_TYPE)
        self._check_key(key)
        if len(operand) > atomic.VALUE_LIMIT:
            raise Refusal(codes.VALUE_TOO_LARGE)
        if kind == atomic.SET_VERSIONSTAMPED_KEY:
            at = _place_of_stamp(key)
            least = struct.pack(">QH", self.known_version(), 0)
            self.overlay.stamp_keys(key[:at] + least + key[at + 10 : -4], key[:at] + b"\xff" * 10 + key[at + 10 : -4])
            conflicts = False  # the cluster adds the key that it makes
        elif kind == atomic.SET_VERSIONSTAMPED_VALUE:
            _place_of_stamp(operand)
            self.overlay.stamp_value(key)
        else:
            self.overlay.operate(kind, key, operand)
        self._add((kind, key, operand), conflicts)

    def add_conflict_range(self, begin: bytes, end: bytes, writes: bool) -> None:
        with self.lock:
            self.check_commit()
            if begin > end:
                raise Refusal(codes.INVERTED_RANGE)
            if end > (self._end_of_writes if writes else self.end_of_reads):
                raise Refusal(codes.KEY_OUTSIDE_LEGAL_RANGE)
            if writes:
                self.writes.append((begin, end))
                self.size += RANGE_BYTES + len(begin) + len(end)
            else:
                self.add_reads(begin, end)

    def add_reads(self, begin: bytes, end: bytes) -> None:
        for b, e in self.overlay.read_through(begin, end):
            self.reads.append((b, e))
            self.size += RANGE_BYTES + len(b) + len(e)


def _place_of_stamp(text: bytes) -> int:
    """Where the ten bytes of the stamp go: its last four bytes say so."""
    if len(text) < 4:
        raise Refusal(codes.CLIENT_INVALID_OPERATION)
    (at,) = struct.unpack("<i", text[-4:])
    if at < 0 or at + 10 > len(text) - 4:
        raise Refusal(codes.CLIENT_INVALID_OPERATION)
    return int(at)
