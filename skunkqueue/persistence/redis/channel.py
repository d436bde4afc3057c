"""A pool's channel to a Redis: its calls never wait for a reply, so that the pool's own thread can use it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Sequence
from typing import Any

try:
    from hiredis import Reader
except ImportError:  # without it there are no channels
    Reader = None  # type: ignore[assignment, misc]

from redis.exceptions import ResponseError

from skunkqueue.envelope import Asked, Caught, Claim, Exchange, Outcome, Want
from skunkqueue.errors import StoreAway
from skunkqueue.persistence import Channel, Key
from skunkqueue.persistence.redis.connect import Link
from skunkqueue.persistence.redis.node import say, speaking, translated
from skunkqueue.persistence.redis.notify import SHORTEST, Blocked, BlockingConnection, RedisNotifier, packed
from skunkqueue.persistence.redis.scripts import Command, call, in_full
from skunkqueue.persistence.redis.wire import SOON, OutcomeBatch, base_key, read_exchange, want_arguments

PATIENCE = 0.25
"""Seconds to wait for a server that does not accept what is sent; then the pool asks in a thread, which may wait."""

LATE = 0.5
"""Seconds by which a block outlasts its time. The pool ends it before: Redis itself ends blocks late."""

CHUNK = 1 << 16

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Stream:
    """An open connection of redis-py, used without waiting."""

    def __init__(self, connection: Any, url: str) -> None:
        self.connection = connection
        self._url = url
        self._sock: socket.socket = connection._sock
        self._has_records = isinstance(self._sock, ssl.SSLSocket)  # which may hold more data than one recv returns
        self._sock.setblocking(False)
        self._reader = Reader()
        self.fd: int = self._sock.fileno()

    def send(self, parts: Sequence[bytes]) -> None:
        """Send all parts. Raises OSError; TimeoutError if the socket's buffer stays full for ``PATIENCE`` seconds."""
        data = memoryview(b"".join(parts))
        while data:
            try:
                data = data[self._sock.send(data) :]
            except _NOT_NOW:
                self._await_writable()

    def _await_writable(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError("it accepts no data")

    def replies(self) -> list[Any]:
        """The complete replies since the last call. Raises StoreAway if the connection has ended."""
        try:
            while data := self._sock.recv(CHUNK):
                self._reader.feed(data)
                if len(data) < CHUNK and not self._has_records:
                    break
            else:
                raise ConnectionResetError("the connection has ended")
        except _NOT_NOW:  # no context manager: one costs as much as all the rest
            pass
        except OSError as error:
            raise translated(self._url, error) from error
        found = []
        while (reply := self._reader.gets()) is not False:
            found.append(reply)
        return found

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connection.disconnect()


def open_channel(link: Link, notifier: RedisNotifier, queue: str) -> RedisChannel | None:
    """Open a channel; this is the only call here that waits for replies.

    None without hiredis, whose parser takes data in pieces, or without a real socket.

    Raises StoreAway or StoreError.
    """
    if Reader is None:
        return None
    key = base_key(queue)
    with contextlib.ExitStack() as undo, speaking(link.target.url):
        talk, wait = link.dedicated(key), link.dedicated(key)
        undo.callback(talk.disconnect)
        undo.callback(wait.disconnect)
        if not isinstance(talk._sock, socket.socket):
            return None
        say(talk, in_full("exchange", key, "0", "0", "0", "0"))  # empty, to load the script
        channel = RedisChannel(link, notifier, queue, talk, wait, _subscribed(link, key))
        undo.pop_all()
    return channel


def _subscribed(link: Link, key: str) -> Any:
    """A connection subscribed to announcements of later runs; None if the user may not subscribe."""
    connection = link.dedicated(key)
    try:
        say(connection, ("SUBSCRIBE", f"{key}:later"))
    except ResponseError:
        connection.disconnect()
        return None
    except BaseException:
        connection.disconnect()
        raise
    return connection


class RedisChannel(Channel):
    """Three connections: one exchanges, one blocks and then claims, one is subscribed to later runs."""

    answer_fd: int
    caught_fd: int

    def __init__(self, link: Link, notifier: RedisNotifier, queue: str, talk: Any, wait: Any, subscribed: Any) -> None:
        self._key = base_key(queue)
        self._queue = queue
        self._url = link.target.url
        self._notifier = notifier
        self._given: set[str] = set()
        self._wants: Sequence[Want] = ()
        self._until = 0.0
        self._watched: Asked | None = None
        self._replies: list[Any] = []
        self._blocking = BlockingConnection(wait)
        self._talk, self._news = Stream(talk, self._url), Stream(wait, self._url)
        self._later = None if subscribed is None else Stream(subscribed, self._url)
        self.answer_fd, self.caught_fd = self._talk.fd, self._news.fd
        self.later_fd: int = -1 if self._later is None else self._later.fd

    def ask(
        self, outcomes: Sequence[tuple[Claim, Outcome]], wants: Sequence[Want], *, now: float, until: float
    ) -> bool:
        given = OutcomeBatch(outcomes, now)
        if given.later or not given.queues() | {want.queue for want in wants} <= {self._queue}:
            return False
        times = (repr(now), repr(until), repr(now + SOON))
        command = self._exchange(*times, *given.arguments(self._queue), *want_arguments(wants))
        self._given, self._wants, self._until = given.ids, wants, until
        with speaking(self._url):
            self._talk.send(packed(self._talk.connection, command))
        return True

    def answer(self) -> Exchange | None:
        replies = self._talk.replies()
        if not replies:
            return None
        refused, claims, ripe, _ = read_exchange(self._wants, self._checked(*replies), self._until)
        return Exchange(self._given - refused, claims, ripe)

    def watch(self, keys: Sequence[Key], timeout: float, asked: Asked) -> None:
        """The claim is sent right behind the block, so that the server executes it as soon as the block ends."""
        marks = self._notifier.marks(keys)
        blocked = Blocked(marks[0], marks, keys, claims=True)
        lease = repr(asked.until - asked.now)
        behind = self._exchange("", lease, repr(SOON), 0, *want_arguments(asked.wants))
        self._watched, self._replies = asked, []
        self._notifier.blocks(self._blocking, blocked)
        with speaking(self._url):
            seconds = max(SHORTEST, timeout) + LATE
            self._news.send(packed(self._news.connection, self._blocking.block(blocked, seconds), behind))

    def caught(self) -> Caught | None:
        self._replies += self._news.replies()
        if len(self._replies) < 2:
            return None
        self._notifier.no_longer_blocks(self._blocking)
        asked, self._watched = self._watched, None
        if asked is None:
            raise StoreAway(f"Redis at {self._url} sent a reply without a question")
        popped, reply = self._checked(self._replies)
        now = float(reply[-1])
        _, claims, ripe, _ = read_exchange(asked.wants, reply, now + asked.until - asked.now)
        return Caught(asked.wants, Exchange(set(), claims, ripe), now, self._route_of(popped))

    def _route_of(self, popped: Any) -> str | None:
        """The route whose mark was popped; None where the wait ended without one."""
        key, prefix = popped[0].decode() if popped else "", f"{self._key}:mark:"
        return key.removeprefix(prefix) if key.startswith(prefix) else None

    def later(self) -> list[tuple[str, float]]:
        told = []
        for *_, message in self._later.replies() if self._later is not None else ():
            route, _, due = message.decode().partition(" ")
            told.append((route, float(due)))
        return told

    def _exchange(self, *args: Any) -> Command:
        return call("exchange", self._key, *args)

    def _checked(self, *replies: Any) -> Any:
        """The reply, or replies, if none is an error. Else raises StoreAway: the pool then asks without the channel,
        where the exact error is raised."""
        (reply,) = replies
        for each in (reply, *(reply if isinstance(reply, list) else ())):
            if isinstance(each, Exception):
                raise StoreAway(f"Redis at {self._url} refused a command: {each}")
        return reply

    def cut(self) -> None:
        """A watch that goes on would claim for nobody."""
        self._news.cut()
        self._talk.cut()

    def close(self) -> None:
        self._notifier.no_longer_blocks(self._blocking)
        with contextlib.suppress(Exception):
            self._talk.close()
        with contextlib.suppress(Exception):
            self._news.close()
        if self._later is not None:
            with contextlib.suppress(Exception):
                self._later.close()
