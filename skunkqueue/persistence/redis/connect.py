"""Ways to a Redis: one server, behind sentinels, or a cluster; connections and their errors.

Connections are redis-py's, used one command at a time without its client on top: that is a third of the time of a
call, and it leaves timeouts and retries to us, whatever the version (redis-py 8 made a blocking read fail after 5 s).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from skunkqueue.errors import StoreAway, StoreError, StoreFull
from skunkqueue.persistence.redis.url import Target

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
        raise translated(url, error) from error


def translated(url: str, error: Exception) -> StoreError:
    """An error of redis-py or of the system as one of ours."""
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return StoreError(f"Redis at {url} does not let us in: {error}; check user, password and rights")
    if isinstance(error, ResponseError) and not isinstance(error, _AWAY):
        return _refusal(url, error)
    return StoreAway(f"Redis at {url} cannot be reached: {error}")


def _refusal(url: str, error: ResponseError) -> StoreError:
    text = str(error)
    if "OOM " in text or "OutOfMemory" in type(error).__name__:
        return StoreFull(f"Redis at {url} is full: its maxmemory is reached; raise it, or purge ended runs")
    if any(word in text for word in _REFUSED_WORDS):
        return StoreFull(f"Redis at {url} takes no writes: {text}")
    if any(word in text for word in _RIGHTS_WORDS):
        return StoreError(f"Redis at {url} does not let us in: {text}; check user, password and rights")
    if any(word in text for word in _AWAY_WORDS) or _redirection(error)[0]:
        return StoreAway(f"Redis at {url} cannot answer now: {text}")
    return StoreError(f"Redis at {url} refused a command: {text}")


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

    def ask(self, command: tuple[Any, ...], patience: float | None = None) -> Any:
        """Send one command, get its reply; within so many seconds, if that is less than the usual timeout."""
        connection = self._take()
        try:
            reply = say(connection, command, patience)
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


class Server:
    """One server, by TCP, TLS or a unix socket."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._node = Node(lambda: connection_to(target, *(target.hosts[0] if target.hosts else ("", 0))))

    def ask(self, key: str, command: tuple[Any, ...], patience: float | None = None) -> Any:
        """Send one command to the server that has the key; returns its reply."""
        try:
            return self._node.ask(command, patience)
        except (RedisError, OSError) as error:  # no context manager: one would cost as much as all the rest
            raise translated(self.target.url, error) from error

    def dedicated(self, key: str) -> Any:
        """A new connection, for the caller alone, to the server that has the key."""
        with speaking(self.target.url):
            return self._node.make()

    def slot(self, key: str) -> int:
        """Keys of one slot can be used together."""
        return 0

    def renew(self) -> None:
        """Nothing to find out."""

    def close(self) -> None:
        self._node.close()


class Sentinels:
    """The master that the sentinels name. They are asked again when it fails or is no longer the master."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._node: Node | None = None

    def _master(self) -> Node:
        node = self._node
        if node is None:
            host, port = self._discover()
            node = self._node = Node(lambda: connection_to(self.target, host, port))
        return node

    def _discover(self) -> tuple[str, int]:
        found: Exception | None = None
        for host, port in self.target.hosts:
            options = {"socket_timeout": 2.0, "socket_connect_timeout": 2.0, **self.target.sentinel_options}
            sentinel = connection_to(self.target._replace(options=options), host, port)
            try:
                answer = say(sentinel, ("SENTINEL", "get-master-addr-by-name", self.target.master))
            except (RedisError, OSError) as error:
                found = error
                continue
            finally:
                sentinel.disconnect()
            if answer:
                return answer[0].decode(), int(answer[1])
        raise redis.ConnectionError(f"no sentinel knows a master {self.target.master!r}") from found

    def ask(self, key: str, command: tuple[Any, ...], patience: float | None = None) -> Any:
        with speaking(self.target.url), self._watched():
            return self._master().ask(command, patience)

    def dedicated(self, key: str) -> Any:
        with speaking(self.target.url), self._watched():
            return self._master().make()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            self.close()
            raise
        except ResponseError as error:
            if "READONLY" in str(error) or isinstance(error, ReadOnlyError):
                self.close()
            raise

    def slot(self, key: str) -> int:
        return 0

    def renew(self) -> None:
        """Ask the sentinels anew."""
        self.close()

    def close(self) -> None:
        node, self._node = self._node, None
        if node is not None:
            node.close()


def _redirection(error: ResponseError) -> tuple[str, str, int]:
    """MOVED or ASK, host and port, if it is one; redis-py before 6 gives it as plain text."""
    if isinstance(error, AskError):
        return "MOVED" if isinstance(error, MovedError) else "ASK", error.host, int(error.port)
    word, _, rest = str(error).partition(" ")
    if word not in ("MOVED", "ASK"):
        return "", "", 0
    host, _, port = rest.partition(" ")[2].rpartition(":")
    return word, host, int(port)


class Cluster:
    """The servers of a cluster, by slot; follows a slot that has moved."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._nodes: dict[tuple[str, int], Node] = {}
        self._slots: list[tuple[int, int, tuple[str, int]]] = []

    def slot(self, key: str) -> int:
        return int(key_slot(key.encode()))

    def ask(self, key: str, command: tuple[Any, ...], patience: float | None = None) -> Any:
        with speaking(self.target.url), self._watched():
            node = self._node_of(key)
            for _ in range(5):
                try:
                    return node.ask(command, patience)
                except ResponseError as error:
                    word, host, port = _redirection(error)
                    if word == "ASK":
                        return self._ask_once(host, port, command)
                    if word != "MOVED":
                        raise
                    self._slots = []
                    node = self._node(host, port)
            raise TryAgainError("the slot moves too often")

    def _ask_once(self, host: str, port: int, command: tuple[Any, ...]) -> Any:
        """A slot that is being moved to another server: that one answers after ASKING."""
        connection = self._node(host, port).make()
        try:
            say(connection, ("ASKING",))
            return say(connection, command)
        finally:
            connection.disconnect()

    def dedicated(self, key: str) -> Any:
        with speaking(self.target.url), self._watched():
            return self._node_of(key).make()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            if (
                not isinstance(error, ResponseError)
                or "CLUSTERDOWN" in str(error)
                or isinstance(error, ClusterDownError)
            ):
                self._slots = []
            raise

    def _node_of(self, key: str) -> Node:
        slots = self._slots = self._slots or self._learn()
        slot = self.slot(key)
        for first, last, address in slots:
            if first <= slot <= last:
                return self._node(*address)
        raise ClusterDownError(f"no server of the cluster has slot {slot}")

    def _node(self, host: str, port: int) -> Node:
        node = self._nodes.get((host, port))
        if node is None:
            node = self._nodes[host, port] = Node(lambda: connection_to(self.target, host, port))
        return node

    def _learn(self) -> list[tuple[int, int, tuple[str, int]]]:
        found: Exception | None = None
        for host, port in [*self._nodes, *self.target.hosts]:
            try:
                answer = self._node(host, port).ask(("CLUSTER", "SLOTS"))
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                found = error
                continue
            return [(first, last, (master[0].decode() or host, master[1])) for first, last, master, *_ in answer]
        raise redis.ConnectionError("no server of the cluster can be reached") from found

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    def renew(self) -> None:
        """Ask the cluster again which server has which slots."""
        self._slots = []


Link = Server | Sentinels | Cluster


def connect(target: Target) -> Link:
    """The way to a target; nothing is opened before the first command."""
    links: Mapping[str, Callable[[Target], Link]] = {"sentinel": Sentinels, "cluster": Cluster}
    return links.get(target.kind, Server)(target)


def connection_to(target: Target, host: str, port: int) -> Any:
    """A connection of redis-py, not yet open, with every timeout and retry set explicitly."""
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        **target.options,
    }
    kinds: Mapping[bool, Any] = {True: redis.SSLConnection, False: redis.Connection}
    if target.kind == "unix":
        unix: Any = redis.UnixDomainSocketConnection
        return unix(path=target.path, **options)
    options.update(host=host, port=port, socket_keepalive=True)
    if target.tls:
        options.setdefault("ssl_cert_reqs", "required")
        options.setdefault("ssl_check_hostname", options["ssl_cert_reqs"] == "required")
    return kinds[target.tls](**options)
