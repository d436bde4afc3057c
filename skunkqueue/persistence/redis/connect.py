"""Ways to a Redis: one server, behind sentinels, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, ReadOnlyError, RedisError, ResponseError, TryAgainError
from redis.retry import Retry

from skunkqueue.persistence.redis.node import (
    CONNECT_TIMEOUT,
    TIMEOUT,
    Node,
    Replicas,
    redirection,
    say,
    say_and_wait,
    speaking,
    translated,
)
from skunkqueue.persistence.redis.url import Target
from skunkqueue.persistence.refused import worth_showing


class Server:
    """One server, by TCP, TLS or a unix socket."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._node = Node(lambda: connection_to(target, *(target.hosts[0] if target.hosts else ("", 0))))

    def ask(
        self, key: str, command: tuple[Any, ...], patience: float | None = None, replicas: Replicas | None = None
    ) -> Any:
        """Send one command to the server that has the key; returns its reply, see ``Node.ask``."""
        try:
            return self._node.ask(command, patience, replicas)
        except (RedisError, OSError) as error:  # no context manager: one would cost as much as all the rest
            raise translated(self.target.url, error) from worth_showing(error)

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

    def ask(
        self, key: str, command: tuple[Any, ...], patience: float | None = None, replicas: Replicas | None = None
    ) -> Any:
        with speaking(self.target.url), self._watched():
            return self._master().ask(command, patience, replicas)

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


class Cluster:
    """The servers of a cluster, by slot; follows a slot that has moved."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._nodes: dict[tuple[str, int], Node] = {}
        self._slots: list[tuple[int, int, tuple[str, int]]] = []

    def slot(self, key: str) -> int:
        return int(key_slot(key.encode()))

    def ask(
        self, key: str, command: tuple[Any, ...], patience: float | None = None, replicas: Replicas | None = None
    ) -> Any:
        with speaking(self.target.url), self._watched():
            node = self._node_of(key)
            for _ in range(5):
                try:
                    return node.ask(command, patience, replicas)
                except ResponseError as error:
                    word, host, port = redirection(error)
                    if word == "ASK":
                        return self._ask_once(host, port, command, replicas)
                    if word != "MOVED":
                        raise
                    self._slots = []
                    node = self._node(host, port)
            raise TryAgainError("the slot moves too often")

    def _ask_once(self, host: str, port: int, command: tuple[Any, ...], replicas: Replicas | None) -> Any:
        """A slot that is being moved to another server: that one answers after ASKING."""
        connection = self._node(host, port).make()
        try:
            say(connection, ("ASKING",))
            return say(connection, command) if replicas is None else say_and_wait(connection, command, replicas)
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
