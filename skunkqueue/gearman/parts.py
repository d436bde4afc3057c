"""Parts of results and warnings on their way from worker processes to their pool, which sends them to the servers.

All worker processes of a pool write to one socket that keeps messages apart. The pool reads it at once, and whenever it
is about to tell what became of jobs: so no part comes behind the end of its job.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from contextlib import suppress
from typing import Final

from skunkqueue.gearman.protocol import PacketType
from skunkqueue.gearman.servers import GearmanServers

SHORT: Final = 32 << 10
"""Bytes that a message has at most; what is longer goes as a file in memory."""
HEAD: Final = struct.Struct("!BH")
"""The type of the packet, and how long the id is that follows."""
KINDS: Final = frozenset({PacketType.WORK_DATA, PacketType.WORK_WARNING})


class PartsSender:
    """In a worker process. ``fd`` is the end of the socket that all of them share."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def send(self, id: str, type: PacketType, data: bytes) -> None:
        """Have this sent about the job of the run with this id. Waits while the pool reads nothing."""
        head = HEAD.pack(type, len(id)) + id.encode()
        if len(data) <= SHORT:
            self._socket.send(head + data)
            return
        fd = os.memfd_create("skunkqueue-part")
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(data)
            socket.send_fds(self._socket, [head], [fd])
        finally:
            os.close(fd)


class PartsReader:
    """In the pool's process: reads on a thread of its own until ``close``."""

    sender: socket.socket

    def __init__(self, servers: GearmanServers) -> None:
        self._servers = servers
        self._socket, self.sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._is_closed = False
        servers.read_parts = self.read
        self._thread = threading.Thread(target=self._serve, name="skunkqueue-gearman-parts", daemon=True)
        self._thread.start()

    def read(self) -> None:
        """Send what has come. Under the servers' lock."""
        with suppress(BlockingIOError):
            while not self._is_closed:
                message, fds, _, _ = socket.recv_fds(self._socket, HEAD.size + SHORT + 1024, 1)
                if not message:
                    return
                self._send(message, self._whole(fds))

    def _whole(self, fds: list[int]) -> bytes:
        """What is in a file in memory, if the message has one."""
        data = b""
        for fd in fds:
            with os.fdopen(fd, "rb") as file:
                file.seek(0)
                data += file.read()
        return data

    def _send(self, message: bytes, data: bytes) -> None:
        type, length = HEAD.unpack_from(message)
        end = HEAD.size + length
        if type in KINDS:
            self._servers.send_part(message[HEAD.size : end].decode(), PacketType(type), message[end:] + data)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self._is_closed:
            poll.poll()
            with self._servers.lock:
                self.read()

    def close(self) -> None:
        """Harmless when it is closed already."""
        self._is_closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._servers.read_parts = None
        self._socket.close()
        self.sender.close()
