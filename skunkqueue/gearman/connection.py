"""Connections to job servers: where they are, one blocking connection, and failover among several servers."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from skunkqueue.errors import WrongCall
from skunkqueue.gearman.errors import ProtocolError, ServerUnavailable
from skunkqueue.gearman.protocol import DEFAULT_PORT, MAX_LINE, MAX_PACKET, Decoder, Line, Magic, Packet
from skunkqueue.pauses import pause_after

CONNECT_TIMEOUT: Final = 5.0
"""Seconds until a server that does not answer a connection counts as unavailable."""

SEND_TIMEOUT: Final = 30.0
"""Seconds without a byte taken until a server that does not read counts as unavailable."""

LONGEST_PAUSE: Final = 5.0
"""Seconds at most until a server that was away is tried again."""

KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""A peer whose machine vanished is noticed within a minute."""

Hosts: TypeAlias = "str | Iterable[str | tuple[str, int] | JobServer]"
"""``"host:port"``, ``"host"``, ``"[::1]:4730"`` or (host, port), or several of them; a text names several by commas."""


class JobServer(NamedTuple):
    """Where a job server listens."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> JobServer:
        """``localhost:4730``, ``localhost`` (port 4730), ``[::1]:4730`` or ``[::1]``. Raises WrongCall."""
        if not isinstance(text, str):
            raise WrongCall(f"a host is a text like 'localhost:4730' or a tuple ('localhost', 4730); got {text!r}")
        host, port = _split(text.strip())
        if not host or any(sign in host for sign in "/@ \t\n\0"):
            raise WrongCall(f"a host is like 'localhost:4730', 'localhost' or '[::1]:4730'; got {text!r}")
        return cls(host, _port(port, text))


def _split(text: str) -> tuple[str, str]:
    """Host and port of a text; the port is empty where none is named."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise WrongCall(f"an IPv6 host is in brackets, like '[::1]:4730'; got {text!r}")
        return host, rest[1:] if len(rest) != 1 else " "
    if text.count(":") > 1:
        raise WrongCall(f"an IPv6 host is in brackets, like '[{text}]' or '[{text}]:4730'; got {text!r}")
    host, colon, port = text.partition(":")
    return host, port if port or not colon else " "


def _port(port: object, given: object) -> int:
    if port == "":
        return DEFAULT_PORT
    number = int(port) if isinstance(port, str) and port.isascii() and port.isdigit() else port
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 65536:
        raise WrongCall(f"a port is a number from 1 to 65535, as in 'localhost:4730'; got {given!r}")
    return number


def parse_hosts(hosts: Hosts) -> tuple[JobServer, ...]:
    """The servers that people name; each once, in their order. Raises WrongCall."""
    if isinstance(hosts, str):
        hosts = hosts.split(",")
    elif isinstance(hosts, bytes) or not isinstance(hosts, Iterable):
        raise WrongCall(f"hosts is a list like ['localhost:4730']; got {hosts!r}")
    found = tuple(dict.fromkeys(_server(host) for host in hosts))
    if not found:
        raise WrongCall("hosts names no server; give at least one, like ['localhost:4730']")
    return found


def _server(host: str | tuple[str, int] | JobServer) -> JobServer:
    if isinstance(host, tuple):
        if len(host) != 2 or not isinstance(host[0], str) or not host[0]:
            raise WrongCall(f"a host as a tuple is ('localhost', 4730); got {host!r}")
        return JobServer(host[0], _port(host[1], host))
    return JobServer.parse(host)


class ServerConnection:
    """One blocking connection to one server. Not for several threads, but that ``wait`` may run beside the rest.

    Every call raises ServerUnavailable where the connection ended, and ProtocolError where the server sent what is not
    Gearman's; the connection is closed then.
    """

    def __init__(
        self,
        server: JobServer,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        send_timeout: float = SEND_TIMEOUT,
        max_packet: int = MAX_PACKET,
        max_line: int = MAX_LINE,
    ) -> None:
        self.server = server
        self._send_timeout = send_timeout
        self._decoder = Decoder(Magic.RESPONSE, max_packet=max_packet, max_line=max_line)
        self._inbox: list[Packet | Line] = []
        self._failure: Exception | None = None
        self._socket = open_socket(server, connect_timeout)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.heard: float = time.monotonic()  # when the last byte came

    def fileno(self) -> int:
        """For ``select``; -1 when it is closed."""
        return self._socket.fileno()

    @property
    def is_open(self) -> bool:
        return self._socket.fileno() >= 0

    def send(self, *packets: Packet) -> None:
        """Send packets. What comes in meanwhile is kept for ``receive``, so that neither side blocks the other."""
        self.send_bytes(packets[0].encode() if len(packets) == 1 else b"".join([each.encode() for each in packets]))

    def send_bytes(self, data: bytes) -> None:
        """Send packets or lines that are encoded already."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._lost(error) from error
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, data: memoryview) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLOUT)
        while data:
            ready = poll.poll(self._send_timeout * 1000)
            if not ready:
                raise self._lost(f"it has read nothing for {self._send_timeout:g} s")
            if ready[0][1] & ~select.POLLOUT:
                self._read()
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._lost(error) from error

    def wait(self, timeout: float | None) -> bool:
        """Whether there is something to receive within these seconds; None waits as long as it takes."""
        if self._inbox:
            return True
        return bool(self._poll.poll(None if timeout is None else max(0.0, timeout) * 1000))

    def receive(self, timeout: float | None = None) -> list[Packet | Line]:
        """What came: at least one packet or line, or nothing within these seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while not (found := self.take()):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return []
            self.wait(left)
        return found

    def take(self) -> list[Packet | Line]:
        """What has come, without waiting: nothing whole, perhaps."""
        if not self._inbox:
            self._read()
        found, self._inbox = self._inbox, []
        return found

    def _read(self) -> bool:
        """Take what lies there; whether there was anything."""
        if self._failure is not None:
            raise self._failure
        try:
            data = self._socket.recv(self._decoder.room)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost("the server closed it")
        self.heard = time.monotonic()
        try:
            self._inbox = self._inbox + self._decoder.feed(data) if self._inbox else self._decoder.feed(data)
        except ProtocolError as error:
            self.close()
            self._failure = error
            self._inbox += error.before
            if not self._inbox:
                raise
        return True

    def _lost(self, reason: Exception | str) -> ServerUnavailable:
        self.close()
        return ServerUnavailable(f"lost the connection to the job server {self.server}: {reason}")

    def close(self) -> None:
        """Harmless when it is closed already. Whoever waits for it, on another thread, wakes up."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def abandon(self) -> None:
        """Close it for this process only: for a fork, whose parent goes on with it."""
        self._socket.close()

    def __enter__(self) -> ServerConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_socket(server: JobServer, timeout: float = CONNECT_TIMEOUT) -> socket.socket:
    """A socket to a server, which does not block. Raises ServerUnavailable, and WrongCall for what cannot be a host."""
    try:
        sock = socket.create_connection(server, timeout)
    except OSError as error:
        raise ServerUnavailable(f"cannot reach the job server {server}: {error}") from error
    except UnicodeError as error:  # a host name that IDNA cannot encode
        raise WrongCall(f"{server.host!r} cannot be the name of a host: {error}") from error
    try:
        _set_up(sock)
        # Where nobody listens, the system may take that very port for this end, and connect the socket with itself.
        if sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError("nobody listens there")
    except OSError as error:
        sock.close()
        raise ServerUnavailable(f"cannot reach the job server {server}: {error}") from error
    return sock


def _set_up(sock: socket.socket) -> None:
    sock.setblocking(False)
    # Small packets must not wait for the acknowledgement of those before: with Nagle's algorithm that costs 40 ms each.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Pause:
    """When something that failed may be tried again: after pauses that grow, each random, up to LONGEST_PAUSE."""

    def __init__(self, most: float = LONGEST_PAUSE) -> None:
        self._most = most
        self._failures = 0
        self._until = 0.0

    def failed(self) -> None:
        self._failures += 1
        self._until = time.monotonic() + pause_after(self._failures, self._most)

    def over(self) -> None:
        """It worked."""
        self._failures, self._until = 0, 0.0

    @property
    def left(self) -> float:
        """Seconds to wait; 0 if it may be tried now."""
        return max(0.0, self._until - time.monotonic())


class Failover:
    """One connection at a time to the first of several servers that can be reached, in the order they are named.

    A server that failed is tried again after a pause that grows and is random, or when there is no other.
    """

    def __init__(
        self, servers: Sequence[JobServer], open: Callable[[JobServer], ServerConnection] = ServerConnection
    ) -> None:
        self._servers = tuple(servers)
        self._open = open
        self._pauses = {server: Pause() for server in self._servers}

    def lost(self, server: JobServer) -> None:
        """A connection to it broke: others come first for a moment."""
        self._pauses[server].failed()

    @property
    def pause(self) -> float:
        """Seconds until the first of them may be tried again; 0 if one may be tried now."""
        return min(pause.left for pause in self._pauses.values())

    def connect(self, patience: float = 0.0) -> ServerConnection:
        """A connection to one of the servers: each is tried once, then again until ``patience`` seconds are over.

        Raises ServerUnavailable with each server's reason.
        """
        end = time.monotonic() + patience
        while True:
            reasons: list[str] = []
            for server in sorted(self._servers, key=lambda server: self._pauses[server].left > 0):
                try:
                    connection = self._open(server)
                except ServerUnavailable as error:
                    self._pauses[server].failed()
                    reasons.append(str(error))
                else:
                    self._pauses[server].over()
                    return connection
            pause = self.pause
            if time.monotonic() + pause > end:
                raise ServerUnavailable("; ".join(reasons))
            time.sleep(pause)
