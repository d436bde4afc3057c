"""A way to a server that counts what it answers."""

from __future__ import annotations

import contextlib
import socket
import threading


class Counting:
    """Listens on ``port`` of 127.0.0.1, and passes on to ``target``; ``answers`` grows with each answer."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.answers = 0
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more; what is connected stays so until one side ends it."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._pass_on, args=(client, server, 0), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, 1), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, counts: int) -> None:
        with contextlib.suppress(OSError), source:
            while data := source.recv(1 << 20):
                self.answers += counts
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
