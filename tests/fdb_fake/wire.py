"""What client and server of the fake say to each other: a length, then plain values in Python's marshal format."""

from __future__ import annotations

import marshal
import struct
from typing import Any

_LENGTH = struct.Struct("<I")


def frame(message: Any) -> bytes:
    body = marshal.dumps(message, 2)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts what comes in into messages."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        self._left += data
        found, at = [], 0
        while len(self._left) - at >= 4:
            (size,) = _LENGTH.unpack_from(self._left, at)
            if len(self._left) - at - 4 < size:
                break
            found.append(marshal.loads(memoryview(self._left)[at + 4 : at + 4 + size]))
            at += 4 + size
        del self._left[:at]
        return found
