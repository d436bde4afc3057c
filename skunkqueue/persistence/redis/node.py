"""One Redis server: connections to it, a command and its reply, and what the driver's errors mean.

Connections are redis-py's, used one command at a time without its client on top: that is a third of the time of a
call, and it leaves timeouts and retries to us, whatever the version (redis-py 8 made a blocking read fail after 5 s).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from skunkqueue.errors import StoreAway, StoreError, StoreFull, WrongStore
from skunkqueue.persistence.refused import worth_showing

_pack: Callable[[tuple[Any, ...]], bytes] | None
try:
    from hiredis import pack_command as _hiredis_pack

    _pack = _hiredis_pack
except ImportError:  # hiredis, the parser in C, is optional
    _pack = None

CONNECT_TIMEOUT = 5.0
TIMEOUT = 5.0
IDLE = 1.0
"""A connection that was idle for so many seconds is checked before it is used: the server may have closed it."""


_AWAY = (redis.ConnectionError, redis.TimeoutError, BusyLoadingError, ReadOnlyError, ClusterDownError, TryAgainError)
_AWAY_WORDS = ("LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "NOREPLICAS", "BUSY")
_REFUSED_WORDS = ("OOM", "MISCONF", "NOSPACE")
_RIGHTS_WORDS = ("NOAUTH", "WRONGPASS", "NOPERM", "user executing the script", "ACL failure")  # the last two in scripts


@contextmanager
def speaking(url: str) -> Iterator[None]:
    """Turn redis-py's errors into ours. No secret is in them: neither the URL given here nor the driver's texts."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise translated(url, error) from worth_showing(error)


def translated(url: str, error: Exception) -> StoreError:
    """An error of redis-py or of the system as one of ours."""
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return StoreError(f"Redis at {url} does not let us in: {error}; check user, password and rights")
    if isinstance(error, InvalidResponse):
        return WrongStore(f"what answers at {url} is no Redis: {error}; see to host and port")
    if isinstance(error, ResponseError) and not isinstance(error, _AWAY):
        return _refusal(url, error)
    if isinstance(error, ResponseError | BusyLoadingError | ReadOnlyError):
        return StoreAway(f"Redis at {url} cannot answer now: {error}")
    return StoreAway(f"Redis at {url} cannot be reached: {error}")


def _refusal(url: str, error: ResponseError) -> StoreError:
    text = str(error)
    if "OOM " in text or "OutOfMemory" in type(error).__name__:
        return StoreFull(f"Redis at {url} is full: its maxmemory is reached; raise it, or purge ended runs")
    if any(word in text for word in _REFUSED_WORDS):
        return StoreFull(f"Redis at {url} takes no writes: {text}")
    if any(word in text for word in _RIGHTS_WORDS):
        return StoreError(f"Redis at {url} does not let us in: {text}; check user, password and rights")
    if any(word in text for word in _AWAY_WORDS) or redirection(error)[0]:
        return StoreAway(f"Redis at {url} cannot answer now: {text}")
    return StoreError(f"Redis at {url} refused a command: {text}")


def redirection(error: ResponseError) -> tuple[str, str, int]:
    """MOVED or ASK, host and port, if it is one; redis-py before 6 gives it as plain text."""
    if isinstance(error, AskError):
        return "MOVED" if isinstance(error, MovedError) else "ASK", error.host, int(error.port)
    word, _, rest = str(error).partition(" ")
    if word not in ("MOVED", "ASK"):
        return "", "", 0
    host, _, port = rest.partition(" ")[2].rpartition(":")
    return word, host, int(port)


class Replicas(NamedTuple):
    """How many replicas must have what a command wrote, and for how many seconds to wait for them."""

    number: int
    timeout: float

    def command(self) -> tuple[Any, ...]:
        return "WAIT", self.number, max(1, int(1000 * self.timeout))

    def check(self, url: str, reached: int) -> None:
        """Raise StoreAway if too few have it."""
        if reached < self.number:
            raise StoreAway(
                f"{reached} of {self.number} replicas of Redis at {url} have what was put, after {self.timeout:g} s: "
                "it may be kept, or lost with that server; to put the same once more is harmless"
            )


class Node:
    """One server: makes connections to it and keeps those that are free."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._free: deque[tuple[Any, float]] = deque()
        self._pid = os.getpid()

    def make(self) -> Any:
        """A connection of the caller's own."""
        connection = self._make()
        connection.connect()
        return connection

    def ask(self, command: tuple[Any, ...], patience: float | None = None, replicas: Replicas | None = None) -> Any:
        """Send one command, get its reply; within so many seconds, if that is less than the usual timeout.

        With ``replicas``: the reply, and how many replicas have what it wrote.
        """
        connection = self._take()
        try:
            reply = (
                say(connection, command, patience) if replicas is None else say_and_wait(connection, command, replicas)
            )
        except ResponseError as error:
            self._give(connection)
            if isinstance(error, ReadOnlyError):
                self.close()  # no longer the master; its name may lead to another server by now
            raise
        except BaseException as error:
            connection.disconnect()  # whatever it would say next is not the answer to our next question
            if isinstance(error, redis.ConnectionError):
                self.close()  # the others are cut as well
            raise
        self._give(connection)
        return reply

    def _take(self) -> Any:
        if self._pid != os.getpid():
            self._after_fork()
        while self._free:
            try:
                connection, since = self._free.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - since < IDLE or is_quiet(connection):
                return connection
            connection.disconnect()
        return self.make()

    def _give(self, connection: Any) -> None:
        self._free.append((connection, time.monotonic()))

    def _after_fork(self) -> None:
        """The parent's connections stay the parent's: a byte from here would spoil them."""
        _inherited.append(self._free)
        self._free = deque()
        self._pid = os.getpid()

    def close(self) -> None:
        """Let go of the connections that are free."""
        if self._pid != os.getpid():
            self._after_fork()
        free, self._free = self._free, deque()
        for connection, _ in free:
            connection.disconnect()


_inherited: list[deque[tuple[Any, float]]] = []


def is_quiet(connection: Any) -> bool:
    """Whether an idle connection is still open and has no unread data."""
    try:
        return not connection.can_read(timeout=0)
    except (RedisError, OSError):
        return False


def pack_command(connection: Any, command: tuple[Any, ...]) -> list[bytes]:
    """A command in the bytes of the protocol."""
    if _pack is not None:
        return [_pack(command)]
    packed: list[bytes] = connection.pack_command(*command)
    return packed


def say(connection: Any, command: tuple[Any, ...], patience: float | None = None) -> Any:
    """One command and its reply on a connection."""
    connection.send_packed_command(pack_command(connection, command))
    if patience is not None and not connection.can_read(timeout=patience):
        raise redis.TimeoutError("no answer")
    return connection.read_response()


def say_and_wait(connection: Any, command: tuple[Any, ...], replicas: Replicas) -> tuple[Any, int]:
    """One command's reply, and how many replicas have what was written up to then.

    WAIT counts what the server had written when it executed this connection's last command, by whomever it was written:
    so a put that is repeated, and writes nothing any more, waits for what the first one wrote.
    """
    both = [*pack_command(connection, command), *pack_command(connection, replicas.command())]
    connection.send_packed_command(both)
    refused: ResponseError | None = None
    reply = None
    try:
        reply = connection.read_response()
    except ResponseError as error:
        refused = error
    if not connection.can_read(timeout=replicas.timeout + TIMEOUT):
        raise redis.TimeoutError("no answer")
    reached = connection.read_response()
    if refused is not None:
        raise refused
    return reply, int(reached)
