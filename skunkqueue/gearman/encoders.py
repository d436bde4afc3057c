"""Data encoders: how the value of a job becomes the bytes of a packet, and back."""

from __future__ import annotations

import json
from typing import Any


class DataEncoder:
    """Bytes as they are. Subclass it, and override ``encode`` and ``decode``, for a serialization of your own."""

    @classmethod
    def encode(cls, value: Any) -> bytes:
        """The bytes to send; text becomes UTF-8. Raises TypeError for what is neither text nor bytes."""
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise TypeError(f"this data encoder sends bytes or text, got a {type(value).__name__}")

    @classmethod
    def decode(cls, data: bytes) -> Any:
        """The value that was sent."""
        return data


class JSONDataEncoder(DataEncoder):
    """JSON in UTF-8. Nothing at all (no bytes) is read as None."""

    @classmethod
    def encode(cls, value: Any) -> bytes:
        """Raises TypeError or ValueError for what JSON cannot hold."""
        return json.dumps(value).encode()

    @classmethod
    def decode(cls, data: bytes) -> Any:
        """Raises ValueError for what is no JSON."""
        return json.loads(data) if data else None
