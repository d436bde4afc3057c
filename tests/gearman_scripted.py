"""A Gearman server that says just what a test has it say, and a worker of the plainest kind."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from gearman_servers import Gearmand, Peer
from pools import LIMIT

from skunkqueue.gearman.protocol import Decoder, Magic, Packet, PacketType

SUBMITS = {type for type in PacketType if type.name.startswith("SUBMIT")}


class Scripted:
    """A server on a free port that answers each submit with ``answer(packet)``: the writes to make, one after another.

    It takes the connections one at a time, and all else it answers as a server does.
    """

    def __init__(self, answer: Callable[[Packet], Sequence[bytes]]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.submitted: list[Packet] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with link:
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._talk(link)

    def _talk(self, link: socket.socket) -> None:
        decoder = Decoder(Magic.REQUEST)
        while data := link.recv(65536):
            for packet in decoder.feed(data):
                assert isinstance(packet, Packet)
                if packet.type is PacketType.OPTION_REQ:
                    link.sendall(Packet.response(PacketType.OPTION_RES, *packet.args).encode())
                if packet.type is PacketType.ECHO_REQ:
                    link.sendall(Packet.response(PacketType.ECHO_RES, *packet.args).encode())
                if packet.type in SUBMITS:
                    self.submitted.append(packet)
                    for number, write in enumerate(self._answer(packet)):
                        if number:
                            time.sleep(0.002)  # so that it comes as a read of its own
                        if write == CLOSE:
                            return
                        link.sendall(write)

    def close(self) -> None:
        with suppress(OSError):  # a test has closed it
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(LIMIT)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


CLOSE = b"close the connection"

CREATED = Packet.response(PacketType.JOB_CREATED, "H:1").encode()


def complete(value: Any, handle: str = "H:1") -> bytes:
    return Packet.response(PacketType.WORK_COMPLETE, handle, json.dumps(value)).encode()


@contextmanager
def worker(server: Gearmand, *functions: str) -> Iterator[Peer]:
    peer = Peer(server)
    for function in functions:
        peer.send(PacketType.CAN_DO, function)
    try:
        yield peer
    finally:
        peer.close()


def grab(peer: Peer) -> Packet:
    """The next job, waited for."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        peer.send(PacketType.GRAB_JOB_UNIQ)
        packet = peer.next()
        if packet.type is PacketType.JOB_ASSIGN_UNIQ:
            return packet
        time.sleep(0.005)
    raise AssertionError("no job came")
