"""What the atomic operations make of a value, as an API version of 510 and newer has it."""

from __future__ import annotations

from collections.abc import Callable

VALUE_LIMIT = 100_000

SET = 0
CLEAR_RANGE = 1
ADD = 2
BIT_AND = 6
BIT_OR = 7
BIT_XOR = 8
APPEND_IF_FITS = 9
MAX = 12
MIN = 13
SET_VERSIONSTAMPED_KEY = 14
SET_VERSIONSTAMPED_VALUE = 15
BYTE_MIN = 16
BYTE_MAX = 17
COMPARE_AND_CLEAR = 20

Value = bytes | None


def fitted(value: bytes, size: int) -> bytes:
    """As a little-endian number of that many bytes: cut off, or filled up with zeros."""
    return value[:size].ljust(size, b"\0")


def add(old: Value, operand: bytes) -> Value:
    if not old or not operand:
        return operand
    size = len(operand)
    total = int.from_bytes(fitted(old, size), "little") + int.from_bytes(operand, "little")
    return (total % (1 << 8 * size)).to_bytes(size, "little")


def bit_and(old: Value, operand: bytes) -> Value:
    if old is None:
        return operand
    return bytes(a & b for a, b in zip(fitted(old, len(operand)), operand, strict=True))


def bit_or(old: Value, operand: bytes) -> Value:
    return bytes(a | b for a, b in zip(fitted(old or b"", len(operand)), operand, strict=True))


def bit_xor(old: Value, operand: bytes) -> Value:
    return bytes(a ^ b for a, b in zip(fitted(old or b"", len(operand)), operand, strict=True))


def append_if_fits(old: Value, operand: bytes) -> Value:
    if not old or not operand:
        return old or operand
    return old + operand if len(old) + len(operand) <= VALUE_LIMIT else old


def maximum(old: Value, operand: bytes) -> Value:
    if not old or not operand:
        return operand
    old = fitted(old, len(operand))
    return max(old, operand, key=lambda value: int.from_bytes(value, "little"))


def minimum(old: Value, operand: bytes) -> Value:
    if old is None or not operand:
        return operand
    old = fitted(old, len(operand))
    return min(old, operand, key=lambda value: int.from_bytes(value, "little"))


def byte_min(old: Value, operand: bytes) -> Value:
    return operand if old is None else min(old, operand)


def byte_max(old: Value, operand: bytes) -> Value:
    return operand if old is None else max(old, operand)


def compare_and_clear(old: Value, operand: bytes) -> Value:
    return None if old is None or old == operand else old


OPERATIONS: dict[int, Callable[[Value, bytes], Value]] = {
    SET: lambda old, operand: operand,
    ADD: add,
    BIT_AND: bit_and,
    BIT_OR: bit_or,
    BIT_XOR: bit_xor,
    APPEND_IF_FITS: append_if_fits,
    MAX: maximum,
    MIN: minimum,
    BYTE_MIN: byte_min,
    BYTE_MAX: byte_max,
    COMPARE_AND_CLEAR: compare_and_clear,
}
"""By the number of the mutation: the new value, of the old one and the operand. None is: no such key."""
