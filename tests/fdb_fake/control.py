"""What tests ask of the fake's server beside its clients: errors to give, versions to skip, what it counted."""

from __future__ import annotations

import socket
from typing import Any

from fdb_fake.codes import Refusal
from fdb_fake.wire import Frames, frame


def ask(port: int, verb: str, *args: Any) -> Any:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(frame((1, verb, *args)))
        frames = Frames()
        while True:
            data = connection.recv(1 << 16)
            if not data:
                raise ConnectionError("the fake of FoundationDB has gone")
            for _, code, value in frames.feed(data):
                if code:
                    raise Refusal(code)
                return value
