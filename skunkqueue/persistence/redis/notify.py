"""Waiting at a Redis: connections that block on markers, so that an idle pool asks nothing.

One who puts a run marks its route, and Redis wakes one of those who block on that mark. Who comes short takes the mark
away, for it knows all there is; who is filled and leaves something behind renews it, and so wakes the next, and no
longer blocks, so that marks go to those who have time. Who waits for runs has a bell of its own, which is rung by
whoever ends one of them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, ResponseError

from skunkqueue.envelope import with_priorities
from skunkqueue.errors import StoreAway, StoreError
from skunkqueue.persistence import Key, RunKey, WorkerKey, WorkKey
from skunkqueue.persistence.redis.connect import Link, is_quiet, pack_command, say, speaking
from skunkqueue.persistence.redis.scripts import Command, call, in_full
from skunkqueue.persistence.redis.wire import HOUSE, base_key

SHORTEST = 0.002
"""Redis counts milliseconds, and takes zero for ever."""

ELSEWHERE = 0.25
"""Seconds after which a wait on several slots of a cluster returns: a connection blocks on one only."""

PATIENCE = 0.25
"""Seconds that a wait which is over gives a server that hangs, before it leaves the connection."""

RING = "redis.call('DEL', KEYS[1]) redis.call('ZADD', KEYS[1], 0, '') redis.call('PEXPIRE', KEYS[1], 30000)"
"""Ends a block on a bell, for a user who may not do so by CLIENT, which is among the dangerous commands.

On a full server as well: a first write that no maxmemory refuses lets the others pass."""

AWAY = 0.25
"""Seconds that a wait takes at least while the server is away, so that nobody spins."""


class Watch(NamedTuple):
    """What to block on in one slot: keys, and runs by their queue."""

    keys: list[str]
    runs: dict[str, list[str]]


class Blocked(NamedTuple):
    """What an ear blocks on: a key of the slot, all keys, as what they were asked for; and whether it then claims."""

    key: str
    keys: Sequence[str]
    hints: Sequence[Key]
    claims: bool = False


Then = Callable[[], Command]
"""What makes a command, at the last moment; empty for none."""


class BlockingConnection:
    """A connection that blocks, and the name of the bell that is rung for it; its number where that ends a block."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.bell = os.urandom(8).hex()
        self.is_taught = False
        self.number: int | None = None
        with contextlib.suppress(ResponseError):  # there CLIENT, or some of it, is not for us
            number = int(say(connection, ("CLIENT", "ID")))
            say(connection, ("CLIENT", "UNBLOCK", number))
            self.number = number

    def block(self, blocked: Blocked, timeout: float) -> Command:
        """The command that blocks. Where a bell is to end it, it outlasts its time, or the bell would stay rung."""
        if self.number:
            return ("BZPOPMIN", *blocked.keys, f"{timeout:.3f}")
        return ("BZPOPMIN", *blocked.keys, self._own_bell(blocked.key), f"{timeout + 0.1:.3f}")

    def unblock(self, key: str) -> Command:
        """The command that ends what it blocks on; in a key's slot."""
        if self.number:
            return ("CLIENT", "UNBLOCK", self.number)
        return ("EVAL", RING, "1", self._own_bell(key))

    def _own_bell(self, key: str) -> str:
        return f"{key[: key.index('}') + 1]}:bell:{self.bell}"


class RedisNotifier:
    """The blocking connections of one store.

    ``places`` gives the queues of runs, or None where one of them is not open.
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
        """The queue in whose slot a worker's orders are announced, or ""."""
        return self._homes.get(worker, "")

    def wait(self, keys: Sequence[Key], timeout: float, then: Then | None = None) -> Any:
        """Sleep until something may have happened to a key, at most ``timeout``; never raises StoreAway.

        Where that means to block, the command that ``then`` makes is sent right behind, so that it is done as soon as
        that returns, and its reply given; else, and where its script is not known, None.
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
            end = min(end, time.monotonic() + ELSEWHERE)
        return self._listen(slot, watch, keys, end, then)

    # what to wait for

    def _watches(self, keys: Sequence[Key]) -> dict[int, Watch] | None:
        """By slot; None where a run has ended already."""
        watches: dict[int, Watch] = {}
        routes = [key for key in keys if isinstance(key, WorkKey)]
        runs = self._places([key.id for key in keys if isinstance(key, RunKey)])
        if runs is None:
            return None
        for queue, route, _ in routes:
            marks = [f"{base_key(queue)}:mark:{each}" for each in with_priorities(route)]
            self._watch(watches, queue).keys.extend(marks)
        for worker in [key.worker for key in keys if isinstance(key, WorkerKey)]:
            home = routes[0].queue if routes else self.home(worker)
            self._settle(worker, home)
            self._watch(watches, home).keys.append(f"{_house_of(home)}:call:{worker}")
        for queue, ids in runs.items():
            self._watch(watches, queue).runs[queue] = ids
        return watches

    def _watch(self, watches: dict[int, Watch], queue: str) -> Watch:
        return watches.setdefault(self._link.slot(_house_of(queue)), Watch([], {}))

    def _settle(self, worker: str, home: str) -> None:
        """Say where a worker listens: a connection blocks in one slot of a cluster, and its routes are there."""
        if home and self._homes.get(worker) != home:
            self._link.ask(HOUSE, ("HSET", HOUSE + ":ears", worker, home))
            self._homes[worker] = home

    # listening

    def _listen(self, slot: int, watch: Watch, hints: Sequence[Key], end: float, then: Then | None) -> Any:
        key = watch.keys[0] if watch.keys else base_key(next(iter(watch.runs)))
        ear = self._take(slot, key)
        bells = [f"{base_key(queue)}:bell:{ear.bell}" for queue in watch.runs]
        listen = [call("listen", base_key(queue), ear.bell, *ids) for queue, ids in watch.runs.items()]
        blocked = Blocked(key, [*watch.keys, *bells], hints)
        try:
            reply = self._listen_on(ear, blocked, end, listen, then)
        except BaseException:
            ear.connection.disconnect()
            raise
        with self._lock:
            self._free.setdefault(slot, []).append(ear)
        return reply

    def _listen_on(
        self, ear: BlockingConnection, blocked: Blocked, end: float, listen: list[Command], then: Then | None
    ) -> Any:
        while True:
            if listen:
                self._teach(ear, blocked.key)
            try:
                return self._block(ear, blocked, end, listen, then)
            except NoScriptError:  # they were flushed meanwhile
                ear.is_taught = False

    def _teach(self, ear: BlockingConnection, key: str) -> None:
        """Have its server know the scripts that stand beside a command that blocks, where no error is met in time."""
        if not ear.is_taught:
            with speaking(self._link.target.url):
                say(ear.connection, in_full("listen", key, ear.bell))
                say(ear.connection, in_full("get", key))
            ear.is_taught = True

    def _block(
        self, ear: BlockingConnection, blocked: Blocked, end: float, before: list[Command], then: Then | None
    ) -> Any:
        """Send the commands before, the one that blocks and the one behind it together: one trip for all.

        Raises NoScriptError where one before is not known.
        """
        left = end - time.monotonic()
        if left < SHORTEST:
            time.sleep(max(0.0, left))
            return None
        behind = [command] if then is not None and (command := then()) else []
        with self.blocking(ear, blocked), speaking(self._link.target.url):
            ear.connection.send_packed_command(packed(ear.connection, *before, ear.block(blocked, left), *behind))
            unknown = [error for _ in before if (error := _unknown(ear.connection)) is not None]
            heard = not unknown and ear.connection.can_read(timeout=max(0.0, end - time.monotonic()))
        if not heard:
            self._unblock(ear, blocked.key)
        with speaking(self._link.target.url):
            ear.connection.read_response()
            reply = _reply_behind(ear.connection) if behind else None
        if unknown:
            raise unknown[0]
        return reply

    @contextlib.contextmanager
    def blocking(self, ear: BlockingConnection, blocked: Blocked) -> Iterator[None]:
        """Meanwhile an ear blocks, and can be roused."""
        self.blocks(ear, blocked)
        try:
            yield
        finally:
            self.no_longer_blocks(ear)

    def blocks(self, ear: BlockingConnection, blocked: Blocked) -> None:
        """From now on it can be roused."""
        self._blocked[ear] = blocked

    def no_longer_blocks(self, ear: BlockingConnection) -> None:
        self._blocked.pop(ear, None)

    def marks(self, keys: Sequence[Key]) -> list[str]:
        """What to block on for ``WorkKey``s of one queue."""
        (watch,) = (self._watches(keys) or {}).values()
        return watch.keys

    def release(self, queue: str) -> None:
        """End the waits for work on a queue: whoever waits here has got as much as it wanted.

        But for those who claim by themselves: they do so for others.
        """
        for ear, blocked in list(self._blocked.items()):
            if blocked.key.startswith(base_key(queue) + ":mark:") and not blocked.claims:
                self._unblock(ear, blocked.key)

    def rouse(self, keys: Sequence[Key]) -> None:
        """End the waits on these keys that are under way here."""
        for ear, blocked in list(self._blocked.items()):
            if not set(keys).isdisjoint(blocked.hints):
                self._unblock(ear, blocked.key)

    def _unblock(self, ear: BlockingConnection, key: str) -> None:
        """Redis ends a block up to a tenth of a second late, unless it is told to."""
        try:
            self._link.ask(key, ear.unblock(key), PATIENCE)
        except StoreAway:
            raise
        except StoreError:  # not allowed any more: then late
            return

    def _take(self, slot: int, key: str) -> BlockingConnection:
        with self._lock:
            self._after_fork()
            free = self._free.get(slot)
            while free:
                ear = free.pop()
                if is_quiet(ear.connection):
                    return ear
                ear.connection.disconnect()
        connection = self._link.ear(key)
        with speaking(self._link.target.url):
            return BlockingConnection(connection)

    def _after_fork(self) -> None:
        """The parent's connections stay the parent's."""
        if self._pid != os.getpid():
            _inherited.append((self._free, self._blocked))
            self._free, self._blocked, self._pid = {}, {}, os.getpid()

    def close(self) -> None:
        """Let go of the connections that nobody waits on."""
        with self._lock:
            self._after_fork()
            free, self._free = self._free, {}
        for notifier in free.values():
            for ear in notifier:
                ear.connection.disconnect()


_inherited: list[tuple[dict[int, list[BlockingConnection]], dict[BlockingConnection, Blocked]]] = []


def packed(connection: Any, *commands: Command) -> list[bytes]:
    """The bytes of several commands."""
    return [part for command in commands for part in pack_command(connection, command)]


def _unknown(connection: Any) -> NoScriptError | None:
    """Read what a script replied: an error where the server did not know it."""
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


def _house_of(queue: str) -> str:
    return base_key(queue) if queue else HOUSE
