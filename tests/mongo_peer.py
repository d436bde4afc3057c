"""Plays a MongoDB replica set of one member on the wire, after a script: what a test wants to see happen, happens."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any

import bson

Body = dict[str, Any]
Answer = Callable[[Body], Body]

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
CURSOR = 7

NOT_PRIMARY: Body = {
    "ok": 0, "code": 10107, "codeName": "NotWritablePrimary", "errmsg": "not primary",
    "errorLabels": ["RetryableWriteError"],
}  # fmt: skip


class Lost(Exception):
    """Raised by an answer: the command was carried out, and its reply never comes."""


class ReplicaSet:
    """``next_answers`` holds what the next commands of a name are answered with, else ``answers`` says it.

    ``sent`` has all commands but the driver's own; ``runs`` what a find of runs gives.
    """

    def __init__(self) -> None:
        self.runs: list[Body] = []
        self.sent: list[Body] = []
        self.events: SimpleQueue[Body] = SimpleQueue()
        self.streams: list[Body] = []
        self.next_answers: dict[str, deque[Answer | Body]] = {}
        self.answers: dict[str, Answer] = {
            "hello": self._hello, "ismaster": self._hello, "ping": _ok, "endSessions": _ok, "killCursors": _ok,
            "find": self._find, "aggregate": self._aggregate, "getMore": self._get_more, "insert": written,
            "update": written, "commitTransaction": _ok, "abortTransaction": _ok,
        }  # fmt: skip
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._name = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._connections: set[socket.socket] = set()
        self._is_over = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"mongodb://{self._name}/peer?replicaSet=rs&heartbeatFrequencyMS=500"

    def then(self, command: str, *answers: Answer | Body) -> None:
        """What the next commands of that name are answered with."""
        self.next_answers.setdefault(command, deque()).extend(answers)

    def emit(self, event: Body) -> None:
        """Announce a change to whoever watches. Each has a resume token of its own."""
        self.events.put({"_id": {"_data": f"{time.monotonic_ns():x}"}, **event})

    def named(self, command: str) -> list[Body]:
        """The commands of that name, in order."""
        return [body for body in self.sent if next(iter(body)) == command]

    def close(self) -> None:
        self._is_over = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # the wire

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            while True:
                length, id, _, kind = struct.unpack("<4i", _exactly(connection, 16))
                reply = self._reply(kind, _exactly(connection, length - 16))
                if reply is None:
                    break
                code = OP_REPLY if kind == OP_QUERY else OP_MSG
                connection.sendall(struct.pack("<4i", 16 + len(reply), 1, id, code) + reply)
        self._connections.discard(connection)

    def _reply(self, kind: int, message: bytes) -> bytes | None:
        """None: the connection is cut in place of it."""
        if kind == OP_QUERY:  # the driver's first hello
            return struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(self._hello({}))
        body = _body_of(message)
        try:
            return struct.pack("<IB", 0, 0) + bson.encode(self._answer(body))
        except Lost:
            return None

    def _answer(self, body: Body) -> Body:
        name = next(iter(body))
        if name not in ("hello", "ismaster", "ping", "endSessions", "killCursors", "getMore"):
            self.sent.append(body)
        script = self.next_answers.get(name)
        answer = script.popleft() if script else self.answers.get(name, _unknown)
        return answer(body) if callable(answer) else answer

    # what it answers by itself

    def _hello(self, body: Body) -> Body:
        return {
            "ok": 1, "helloOk": True, "ismaster": True, "isWritablePrimary": True, "setName": "rs", "setVersion": 1,
            "hosts": [self._name], "primary": self._name, "me": self._name, "minWireVersion": 0, "maxWireVersion": 21,
            "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30, "localTime": datetime.now(UTC),
        }  # fmt: skip

    def _find(self, body: Body) -> Body:
        found = {"store": [{"_id": "schema", "version": 1}], "runs": self.runs}.get(body["find"], [])
        return _cursor(0, "firstBatch", found)

    def _aggregate(self, body: Body) -> Body:
        self.streams.append(body)
        return _cursor(CURSOR, "firstBatch", [])

    def _get_more(self, body: Body) -> Body:
        """Wait for an event, as long as was asked for. An event with ``cursor`` 0 is the stream's last."""
        with contextlib.suppress(Empty):
            event = self.events.get(timeout=body.get("maxTimeMS", 0) / 1000)
            if "ok" in event:  # an error
                return {name: value for name, value in event.items() if name != "_id"}
            return _cursor(0 if event.get("operationType") == "invalidate" else CURSOR, "nextBatch", [event])
        return _cursor(CURSOR, "nextBatch", [])


def _ok(body: Body) -> Body:
    return {"ok": 1}


def _unknown(body: Body) -> Body:
    return {"ok": 0, "code": 59, "codeName": "CommandNotFound", "errmsg": f"no such command: {next(iter(body))}"}


def written(body: Body) -> Body:
    n = len(body.get("documents", body.get("updates", [])))
    return {"ok": 1, "n": n, "nModified": n}


def _cursor(id: int, batch: str, documents: list[Body]) -> Body:
    return {"ok": 1, "cursor": {"id": bson.Int64(id), "ns": "peer.runs", batch: documents}, "operationTime": NOW}


NOW = bson.Timestamp(1, 1)


def _body_of(message: bytes) -> Body:
    """The command in an OP_MSG, with the documents that came in sections of their own."""
    body: Body = {}
    more: Body = {}
    at = 4
    while at < len(message):
        kind, at = message[at], at + 1
        (size,) = struct.unpack_from("<i", message, at)
        section = message[at : at + size]
        if kind == 0:
            body = bson.decode(section)
        else:
            end = section.index(b"\x00", 4)
            more[section[4:end].decode()] = bson.decode_all(section[end + 1 :])
        at += size
    return {**body, **more}


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        if not (part := connection.recv(size - len(parts))):
            raise EOFError
        parts += part
    return parts
