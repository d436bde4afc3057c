"""Waiting at a Redis: connections that block on keys (BZPOPMIN), so that an idle pool sends no queries.

A put sets the mark of its route, and Redis wakes one of the connections that block on that mark. A claimer that gets
fewer runs than it asked for clears the mark: the route is empty. A claimer that gets all it asked for, and leaves runs
behind, sets the mark again, which wakes the next connection. Its own process then stops blocking, so that the mark
goes to a process with free workers. A waiter for the end of runs blocks on a key of its own, its wake key (``:bell:``
in the layout); whoever ends one of the runs adds to that key.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, ResponseError

from skunkqueue.errors import StoreAway, StoreError
from skunkqueue.persistence import Key, RunKey, WorkerKey, WorkKey
from skunkqueue.persistence.redis.connect import Link
from skunkqueue.persistence.redis.node import is_quiet, pack_command, say, speaking
from skunkqueue.persistence.redis.scripts import Command, call, in_full
from skunkqueue.persistence.redis.wire import STORE_KEY, base_key
from skunkqueue.routes import woken_by

SHORTEST = 0.002
"""Seconds of the shortest block: Redis counts milliseconds, and 0 would mean for ever."""

OTHER_SLOTS = 0.25
"""Seconds after which a wait on several slots of a cluster returns: a connection can block in one slot only."""

PATIENCE = 0.25
"""Seconds to wait for a server to end a block, before the connection is given up."""

WAKE = "redis.call('DEL', KEYS[1]) redis.call('ZADD', KEYS[1], 0, '') redis.call('PEXPIRE', KEYS[1], 30000)"
"""Ends a block by adding to its wake key, for users without the right to CLIENT UNBLOCK.

It works on a full server too: it begins with DEL, which maxmemory never refuses, and Redis then allows the writes that
follow in the script."""

SETTLE = (
    "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) "
    "if redis.call('PTTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], 3600) end"
)
"""Notes where a worker waits. The key goes by itself, as the next heartbeat, which lengthens that, may never come."""

AWAY = 0.25
"""Seconds that a wait takes at least while the server is away, so that callers do not loop without a pause."""


class Watch(NamedTuple):
    """What to wait for in one slot: keys, and runs by their queue."""

    keys: list[str]
    runs: dict[str, list[str]]


class Blocked(NamedTuple):
    """What a connection blocks on: one key of the slot, all keys, and the keys of the contract that they stand for.

    ``claims`` says that a claim is sent behind the block."""

    key: str
    keys: Sequence[str]
    hints: Sequence[Key]
    claims: bool = False


Then = Callable[[], Command]
"""Makes the command to send behind a block, just before it is sent; empty for none."""


class BlockingConnection:
    """A connection that blocks, and the name of its wake key. ``number`` is its client id, for CLIENT UNBLOCK."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.wake_name: str = os.urandom(8).hex()
        self.is_taught = False
        self.number: int | None = None
        with contextlib.suppress(ResponseError):  # this user may not use CLIENT ID or CLIENT UNBLOCK
            number = int(say(connection, ("CLIENT", "ID")))
            say(connection, ("CLIENT", "UNBLOCK", number))
            self.number = number

    def block(self, blocked: Blocked, timeout: float) -> Command:
        """The command that blocks. If a wake key ends it, it blocks a little longer, to take what was added there."""
        if self.number:
            return ("BZPOPMIN", *blocked.keys, f"{timeout:.3f}")
        return ("BZPOPMIN", *blocked.keys, self._wake_key(blocked.key), f"{timeout + 0.1:.3f}")

    def unblock(self, key: str) -> Command:
        """The command that ends its block; ``key`` is in the slot it blocks in."""
        if self.number:
            return ("CLIENT", "UNBLOCK", self.number)
        return ("EVAL", WAKE, "1", self._wake_key(key))

    def _wake_key(self, key: str) -> str:
        return f"{key[: key.index('}') + 1]}:bell:{self.wake_name}"


class RedisNotifier:
    """The blocking connections of one store.

    ``places`` returns runs by their queues, or None if one of them is not open.
    """

    def __init__(self, link: Link, places: Callable[[Sequence[str]], dict[str, list[str]] | None]) -> None:
        self._link = link
        self._places = places
        self._homes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._free: dict[int, list[BlockingConnection]] = {}
        self._blocked: dict[BlockingConnection, Blocked] = {}
        self._pid = os.getpid()

    def home(self, worker: str) -> str:
        """The queue in whose slot a worker's orders are announced; "" if none is known."""
        return self._homes.get(worker, "")

    def wait(self, keys: Sequence[Key], timeout: float, then: Then | None = None) -> Any:
        """Sleep until something may have happened to a key, at most ``timeout``; never raises StoreAway.

        If it blocks, the command that ``then`` makes is sent right behind the block, so that the server executes it as
        soon as the block ends; its reply is returned. Returns None if there was no block, or its script was not known.
        """
        end = time.monotonic() + timeout
        try:
            return self._wait(keys, end, then)
        except StoreAway:
            self._link.renew()
            time.sleep(max(0.0, min(AWAY, end - time.monotonic())))

    def _wait(self, keys: Sequence[Key], end: float, then: Then | None) -> Any:
        watches = self._watches(keys)
        if watches is None:
            return None
        if not watches:
            time.sleep(max(0.0, end - time.monotonic()))
            return None
        slot, watch = max(watches.items(), key=lambda item: len(item[1].keys) + len(item[1].runs))
        if len(watches) > 1:
            end = min(end, time.monotonic() + OTHER_SLOTS)
        return self._listen(slot, watch, keys, end, then)

    # what to wait for

    def _watches(self, keys: Sequence[Key]) -> dict[int, Watch] | None:
        """What to wait for, by slot; None if a run has ended already."""
        watches: dict[int, Watch] = {}
        routes = [key for key in keys if isinstance(key, WorkKey)]
        runs = self._places([key.id for key in keys if isinstance(key, RunKey)])
        if runs is None:
            return None
        for queue, route, _ in routes:
            marks = [f"{base_key(queue)}:mark:{each}" for each in woken_by(route)]
            self._watch(watches, queue).keys.extend(marks)
        for worker in [key.worker for key in keys if isinstance(key, WorkerKey)]:
            home = routes[0].queue if routes else self.home(worker)
            self._settle(worker, home)
            self._watch(watches, home).keys.append(f"{_base_of(home)}:call:{worker}")
        for queue, ids in runs.items():
            self._watch(watches, queue).runs[queue] = ids
        return watches

    def _watch(self, watches: dict[int, Watch], queue: str) -> Watch:
        return watches.setdefault(self._link.slot(_base_of(queue)), Watch([], {}))

    def _settle(self, worker: str, home: str) -> None:
        """Store in which slot a worker waits for orders: in that of its routes, as a connection blocks in one only."""
        if home and self._homes.get(worker) != home:
            self._link.ask(STORE_KEY, ("EVAL", SETTLE, "1", STORE_KEY + ":ears", worker, home))
            self._homes[worker] = home

    # listening

    def _listen(self, slot: int, watch: Watch, hints: Sequence[Key], end: float, then: Then | None) -> Any:
        key = watch.keys[0] if watch.keys else base_key(next(iter(watch.runs)))
        waiter = self._take(slot, key)
        wake_keys = [f"{base_key(queue)}:bell:{waiter.wake_name}" for queue in watch.runs]
        listen = [call("listen", base_key(queue), waiter.wake_name, *ids) for queue, ids in watch.runs.items()]
        blocked = Blocked(key, [*watch.keys, *wake_keys], hints)
        try:
            reply = self._listen_on(waiter, blocked, end, listen, then)
        except BaseException:
            waiter.connection.disconnect()
            raise
        with self._lock:
            self._free.setdefault(slot, []).append(waiter)
        return reply

    def _listen_on(
        self, waiter: BlockingConnection, blocked: Blocked, end: float, listen: list[Command], then: Then | None
    ) -> Any:
        while True:
            if listen:
                self._teach(waiter, blocked.key)
            try:
                return self._block(waiter, blocked, end, listen, then)
            except NoScriptError:  # the scripts were flushed meanwhile
                waiter.is_taught = False

    def _teach(self, waiter: BlockingConnection, key: str) -> None:
        """Load the scripts that are sent together with a block: there, NOSCRIPT would be noticed too late."""
        if not waiter.is_taught:
            with speaking(self._link.target.url):
                say(waiter.connection, in_full("listen", key, waiter.wake_name))
                say(waiter.connection, in_full("get", key, "", ""))
            waiter.is_taught = True

    def _block(
        self, waiter: BlockingConnection, blocked: Blocked, end: float, before: list[Command], then: Then | None
    ) -> Any:
        """Send the commands before the block, the block, and the command behind it in one round trip.

        Raises NoScriptError if the script of a command before the block is not known.
        """
        left = end - time.monotonic()
        if left < SHORTEST:
            time.sleep(max(0.0, left))
            return None
        behind = [command] if then is not None and (command := then()) else []
        with self.blocking(waiter, blocked), speaking(self._link.target.url):
            waiter.connection.send_packed_command(
                packed(waiter.connection, *before, waiter.block(blocked, left), *behind)
            )
            unknown = [error for _ in before if (error := _unknown(waiter.connection)) is not None]
            has_reply = not unknown and waiter.connection.can_read(timeout=max(0.0, end - time.monotonic()))
        if not has_reply:
            self._unblock(waiter, blocked.key)
        with speaking(self._link.target.url):
            waiter.connection.read_response()
            reply = _reply_behind(waiter.connection) if behind else None
        if unknown:
            raise unknown[0]
        return reply

    @contextlib.contextmanager
    def blocking(self, waiter: BlockingConnection, blocked: Blocked) -> Iterator[None]:
        """In this context a connection counts as blocking, and can be roused."""
        self.blocks(waiter, blocked)
        try:
            yield
        finally:
            self.no_longer_blocks(waiter)

    def blocks(self, waiter: BlockingConnection, blocked: Blocked) -> None:
        """Note that a connection blocks, so that it can be roused."""
        self._blocked[waiter] = blocked

    def no_longer_blocks(self, waiter: BlockingConnection) -> None:
        self._blocked.pop(waiter, None)

    def marks(self, keys: Sequence[Key]) -> list[str]:
        """What to block on for ``WorkKey``s of one queue."""
        (watch,) = (self._watches(keys) or {}).values()
        return watch.keys

    def release(self, queue: str) -> None:
        """End this process's waits for work on a queue: its claimer got as much as it asked for.

        Waits with a claim behind them go on.
        """
        for waiter, blocked in list(self._blocked.items()):
            if blocked.key.startswith(base_key(queue) + ":mark:") and not blocked.claims:
                self._unblock(waiter, blocked.key)

    def rouse(self, keys: Sequence[Key]) -> None:
        """End the waits on these keys that are under way here."""
        for waiter, blocked in list(self._blocked.items()):
            if not set(keys).isdisjoint(blocked.hints):
                self._unblock(waiter, blocked.key)

    def _unblock(self, waiter: BlockingConnection, key: str) -> None:
        """End a block now: by itself, Redis ends it up to a tenth of a second late."""
        try:
            self._link.ask(key, waiter.unblock(key), PATIENCE)
        except StoreAway:
            raise
        except StoreError:  # no longer allowed: the block ends late
            return

    def _take(self, slot: int, key: str) -> BlockingConnection:
        with self._lock:
            self._after_fork()
            free = self._free.get(slot)
            while free:
                waiter = free.pop()
                if is_quiet(waiter.connection):
                    return waiter
                waiter.connection.disconnect()
        connection = self._link.dedicated(key)
        with speaking(self._link.target.url):
            return BlockingConnection(connection)

    def _after_fork(self) -> None:
        """In a forked child, start without connections. The parent's stay referenced, so that they are not closed."""
        if self._pid != os.getpid():
            _inherited.append((self._free, self._blocked))
            self._free, self._blocked, self._pid = {}, {}, os.getpid()

    def close(self) -> None:
        """Close the connections that nobody waits on."""
        with self._lock:
            self._after_fork()
            free, self._free = self._free, {}
        for connections in free.values():
            for waiter in connections:
                waiter.connection.disconnect()


_inherited: list[tuple[dict[int, list[BlockingConnection]], dict[BlockingConnection, Blocked]]] = []


def packed(connection: Any, *commands: Command) -> list[bytes]:
    """The bytes of several commands."""
    return [part for command in commands for part in pack_command(connection, command)]


def _unknown(connection: Any) -> NoScriptError | None:
    """Read the reply of a script; returns the error if the server did not know it."""
    try:
        connection.read_response()
    except NoScriptError as error:
        return error
    return None


def _reply_behind(connection: Any) -> Any:
    try:
        return connection.read_response()
    except NoScriptError:
        return None


def _base_of(queue: str) -> str:
    return base_key(queue) if queue else STORE_KEY
