"""How the store calls the server: scripts, by digest or in full; the queues it knows of; damage that it mends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import redis
from redis.exceptions import NoScriptError

from skunkqueue.errors import StoreAway, StoreError, StoreVersion
from skunkqueue.persistence.redis.connect import Link, connect
from skunkqueue.persistence.redis.mend import is_of_a_wrong_type, mend
from skunkqueue.persistence.redis.node import Replicas
from skunkqueue.persistence.redis.scripts import SCRIPTS, call, in_full
from skunkqueue.persistence.redis.url import Target
from skunkqueue.persistence.redis.wire import STORE_KEY, Damaged, base_key, versions

SCHEMA = 1
"""The major version of the layout; stored with each queue's name."""

EXCHANGE: Final = SCRIPTS["exchange"].digest

_HARMLESS = frozenset(
    {"get", "open", "sources", "page", "among", "extend", "discard", "workers", "beat", "listen", "wake"}
)
"""Scripts that are repeated once after a connection was cut: a second execution changes nothing."""

_REMEMBERED_IDS = 50_000


class Calls:
    """Calls of one store's server. Thread-safe; survives fork."""

    def __init__(self, target: Target) -> None:
        self.url: str = target.url
        self.target = target
        self._link: Link = connect(target)
        self._replicas = Replicas(target.replicas, target.replicas_timeout) if target.replicas else None
        self._known: set[str] = set()
        self._queue_of: dict[str, str] = {}
        self._checked = False

    def _run(self, name: str, key: str, args: Sequence[Any], replicas: Replicas | None = None) -> Any:
        try:
            return self._evaluate(name, key, args, replicas)
        except StoreAway as error:
            if name not in _HARMLESS or not was_cut(error):
                raise
        return self._evaluate(name, key, args, replicas)

    def _evaluate(self, name: str, key: str, args: Sequence[Any], replicas: Replicas | None = None) -> Any:
        try:
            return self._ask(key, call(name, key, *args), replicas)
        except StoreError as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        return self._ask(key, in_full(name, key, *args), replicas)

    def _ask(self, key: str, command: tuple[Any, ...], replicas: Replicas | None = None) -> Any:
        """The reply to a command. With ``replicas``, raises StoreAway if too few have what it wrote."""
        if not self._checked:
            self._check()
        try:
            return self._say(key, command, replicas)
        except StoreError as error:
            if not is_of_a_wrong_type(error):
                raise
            self._mend(key)  # or another, who met the same, has done so
            if command[1] == EXCHANGE:
                raise Damaged(str(error)) from error
        return self._say(key, command, replicas)

    def _mend(self, key: str) -> None:
        """After a key held another kind of value. See ``mend``."""
        mend(key, self._link.ask, partial(self._run, "restore", key))

    def _say(self, key: str, command: tuple[Any, ...], replicas: Replicas | None) -> Any:
        if replicas is None:
            return self._link.ask(key, command)
        reply, reached = self._link.ask(key, command, None, replicas)
        replicas.check(self.url, reached)
        return reply

    def _check(self) -> None:
        """Check the version before the first command. Raises StoreVersion."""
        self._checked = True
        try:
            self._queues()
        except BaseException:
            self._checked = False
            raise

    def _queues(self) -> list[str]:
        """The names of all queues. Raises StoreVersion if a newer major version has written one."""
        reply = self._ask(STORE_KEY, ("HGETALL", STORE_KEY + ":queues"))
        queues = versions(reply)
        for queue, version in queues.items():
            if version > SCHEMA:
                raise StoreVersion(
                    f"queue {queue!r} in Redis at {self.url} was written by version {version} of the layout; this is "
                    f"version {SCHEMA}: install a newer SkunkQueue here"
                )
        return list(queues)

    def _know(self, queue: str, *, anew: bool = False) -> None:
        """Store the queue's name, so that look-ups by id, and purges, find the queue."""
        if anew or queue not in self._known:
            # A replica that has the run has the name as well, unless they are on different servers.
            replicas = self._replicas if self.target.kind == "cluster" else None
            self._ask(STORE_KEY, ("HSETNX", STORE_KEY + ":queues", queue, SCHEMA), replicas)
            self._known.add(queue)

    def _forget(self, queue: str) -> None:
        """Delete the name of an empty queue; store it again if a run came meanwhile."""
        self._ask(STORE_KEY, ("HDEL", STORE_KEY + ":queues", queue))
        if self._ask(base_key(queue), ("EXISTS", base_key(queue) + ":run")):
            self._know(queue, anew=True)

    def _remember(self, queue: str, ids: Iterable[str]) -> None:
        self._bound_memory()
        self._queue_of.update(dict.fromkeys(ids, queue))

    def _bound_memory(self) -> None:
        if len(self._queue_of) > _REMEMBERED_IDS:
            self._queue_of.clear()


def was_cut(error: StoreAway) -> bool:
    """Whether the connection broke. A timeout does not count: a server that hangs is not asked twice."""
    return isinstance(error.__cause__, redis.ConnectionError) and not isinstance(error.__cause__, redis.TimeoutError)
