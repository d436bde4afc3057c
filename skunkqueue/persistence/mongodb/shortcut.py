"""A plain connection of its own for the one question that an idle pool asks all day, where one is all that it takes.

The driver makes some 350 calls for a command, which an idle process has to fetch from memory each time: most of what it
costs. So where there is one server, no replica set, no TLS and no user, the question is put on a socket here. Whatever
is not as expected ends that, and the driver is asked instead, which knows what to make of it.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import suppress
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from pymongo.errors import InvalidOperation

from skunkqueue.errors import StoreAway
from skunkqueue.persistence.mongodb.connect import DEFAULTS, Link
from skunkqueue.persistence.mongodb.documents import Document

HARMLESS: Final = frozenset(
    {"appname", "directconnection", "j", "journal", "readpreference", "retryreads", "retrywrites", "w", "wtimeoutms"}
)
"""Options of a URL that change nothing about how this question is asked."""

HEAD: Final = struct.Struct("<4i")
"""Of each message: its length, its number, the number of what it answers, its kind."""

OP_MSG: Final = 2013
PLAIN: Final = b"\x00\x00\x00\x00\x00"
"""What comes before the document in an OP_MSG: no flags, and that there is one document."""

LARGEST: Final = 1 << 20
"""Bytes of the longest answer: it has some ids."""

OPTIONS: Final[CodecOptions[Document]] = CodecOptions(document_class=dict, unicode_decode_error_handler="replace")


class Shortcut:
    """Asks one question at a time; a second thread is sent to the driver. A forked process opens its own connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._busy = threading.Lock()
        self._socket: socket.socket | None = None
        self._number = 0
        self._pid = os.getpid()
        url = link.target.secret
        self._is_allowed = url.startswith("mongodb://") and "@" not in url and link.target.options <= HARMLESS

    def find(self, command: Document) -> list[Document] | None:
        """The first batch that a ``find`` gives; None: ask the driver. Raises StoreAway where no answer comes."""
        if self._pid != os.getpid():
            self._after_fork()
        if not self._is_allowed or not self._busy.acquire(blocking=False):
            return None
        try:
            answer = self._ask({**command, "$db": self._link.target.dbname})
            if answer.get("ok") != 1:
                self._is_allowed = False  # the server wants something more
                self.close()
                return None
            batch: list[Document] = answer["cursor"]["firstBatch"]
            return batch
        except TimeoutError as error:
            self.close()
            raise StoreAway(f"MongoDB at {self._link.target.url} does not answer") from error
        except (OSError, EOFError, BSONError, LookupError, struct.error):
            self.close()
            return None
        finally:
            self._busy.release()

    def close(self) -> None:
        """End the connection; who is waiting for an answer gets none."""
        connection, self._socket = self._socket, None
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _after_fork(self) -> None:
        """The connection stays the parent's: here it is closed without a word to the server."""
        connection, self._socket = self._socket, None
        self._busy = threading.Lock()
        self._pid = os.getpid()
        if connection is not None:
            connection.close()

    def _ask(self, command: Document) -> Document:
        connection = self._socket or self._connect()
        self._number += 1
        asked = PLAIN + bson.encode(command)
        connection.sendall(HEAD.pack(HEAD.size + len(asked), self._number, 0, OP_MSG) + asked)
        length, _, number, kind = HEAD.unpack(_exactly(connection, HEAD.size))
        if number != self._number or kind != OP_MSG or not HEAD.size < length <= LARGEST:
            raise EOFError
        said = _exactly(connection, length - HEAD.size)
        if said[: len(PLAIN)] != PLAIN:
            raise EOFError
        return bson.decode(said[len(PLAIN) :], OPTIONS)

    def _connect(self) -> socket.socket:
        """Connect to the server that the driver has found, if it is one by itself."""
        hello = self._link.hello()
        if hello.get("setName") or hello.get("msg") == "isdbgrid":
            self._is_allowed = False
            raise EOFError
        with suppress(InvalidOperation):
            address: Any = self._link.client.address
            if address is not None and address[1] is not None:
                connection = socket.create_connection(address, DEFAULTS["connecttimeoutms"] / 1000)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(DEFAULTS["sockettimeoutms"] / 1000)
                self._socket = connection
                if not self._link.is_closed:
                    return connection
        self.close()
        raise EOFError


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = connection.recv(size)
    while parts and len(parts) < size:
        more = connection.recv(size - len(parts))
        parts = parts + more if more else b""
    if not parts:
        raise EOFError
    return parts
