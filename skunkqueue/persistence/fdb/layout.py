"""Where things lie: the keys of a store below the prefix that the directory layer gave it.

::

    r <id>                              a run: all of it but what is long
    x <id> <field> <number>             a piece of what is long: a body, a value, an error, notes
    i <lane> <shard> <ripe> <id>        an open run in its place; the value repeats the run while it is queued
    e <state> <ripe> <id>               an ended run, by when it may be purged; the value is its lane
    p <expires> <id>                    an open run that expires
    u <lane> <unique key>               the id of the open run that holds the key
    c <lane> <state>                    how many runs there are, changed by atomic adds
    s <queue> <route>, y <worker>       signals: a versionstamp, which changes when something happened; watched
    t <token> <random>                  what a claim gave to a token, for a claim whose answer was lost
    d <lane>                            over how many shards the lane is spread; absent, one
    m <lane> <claimer>                  a claimer that meets others on the lane, until when
    w <worker>, o <worker> <stamp>      a worker's beat, its orders
    q <handle>                          the last transaction of a handle that was committed
    k, v                                the clock; the version of the layout, with a random number that marks the store

A lane is a queue and a route, priority included. Times are eight bytes that sort as the numbers do.
"""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from skunkqueue.routes import base_route

MOST_SHARDS: Final = 32

_DOUBLE: Final = Struct(">d")
_BITS: Final = Struct(">Q")
_SIGN: Final = 1 << 63
_ALL: Final = (1 << 64) - 1
_ENDED: Final = re.compile(rb"((?:[^\0]|\0\xff)*)\0", re.DOTALL)
_LANE: Final = re.compile(rb"((?:[^\0]|\0\xff)*)\0((?:[^\0]|\0\xff)*)\0", re.DOTALL)
_PIECE: Final = Struct(">BI")

Lane = tuple[str, str]


def written(text: str) -> bytes:
    """Text as bytes that sort as it does; also text that is not valid Unicode (a lone surrogate, from a file name)."""
    return text.encode("utf-8", "surrogatepass")


def read(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def ended(text: str) -> bytes:
    """Text as part of a key, with an end: no text is the beginning of another."""
    return written(text).replace(b"\0", b"\0\xff") + b"\0"


@lru_cache(maxsize=10_000)
def lane_of(queue: str, route: str) -> bytes:
    """A lane as part of a key."""
    return ended(queue) + ended(route)


def read_lane(data: bytes) -> tuple[Lane, bytes] | None:
    """The lane at the beginning of a part of a key, and what comes after it."""
    found = _LANE.match(data)
    if found is None:
        return None
    queue, route = (read(part.replace(b"\0\xff", b"\0")) for part in found.groups())
    return (queue, route), data[found.end() :]


def time_key(seconds: float) -> bytes:
    """A time as bytes that sort as the numbers do."""
    bits: int = _BITS.unpack(_DOUBLE.pack(seconds))[0]
    return _BITS.pack(bits ^ _ALL if bits & _SIGN else bits | _SIGN)


def read_time(data: bytes) -> float:
    bits: int = _BITS.unpack(data[:8])[0]
    seconds: float = _DOUBLE.unpack(_BITS.pack(bits & ~_SIGN & _ALL if bits & _SIGN else bits ^ _ALL))[0]
    return seconds


def spread(id: bytes) -> int:
    """A number of an id that says on which shard it lies: this number modulo how many there are."""
    return crc32(id) % MOST_SHARDS


def after(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin like this. Ours never end in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class Space(NamedTuple):
    """The keys of one store. ``entry`` is where the directory layer says what its prefix is."""

    prefix: bytes
    entry: bytes
    run: bytes
    open: bytes

    @classmethod
    def at(cls, prefix: bytes, entry: bytes) -> Space:
        return cls(prefix, entry, prefix + b"r", prefix + b"i")

    @property
    def mark(self) -> bytes:
        return self.prefix + b"v"

    def run_key(self, id: str) -> bytes:
        return self.run + written(id)

    def pieces(self, id: str, field: int | None = None) -> tuple[bytes, bytes]:
        """The range of the pieces of a run; of one field, if that is given."""
        begin = self.prefix + b"x" + ended(id)
        if field is not None:
            begin += bytes([field])
        return begin, begin + b"\xff" if field is None else after(begin)

    def piece(self, id: str, field: int, number: int) -> bytes:
        return self.prefix + b"x" + ended(id) + _PIECE.pack(field, number)

    def run_of_piece(self, key: bytes) -> tuple[bytes, bytes]:
        """The key of the run whose piece it is, and where its pieces end. A damaged key is that of no run."""
        begin = len(self.prefix) + 1
        found = _ENDED.match(key, begin)
        if found is None:
            return self.run + key[begin:], key + b"\0"
        return self.run + found[1].replace(b"\0\xff", b"\0"), key[: found.end()] + b"\xff"

    def open_key(self, lane: bytes, shard: int, ripe: float, id: str) -> bytes:
        return b"".join((self.open, lane, bytes((shard,)), time_key(ripe), written(id)))

    def shard(self, lane: bytes, shard: int) -> bytes:
        return self.open + lane + bytes((shard,))

    def ended_key(self, state: int, ripe: float, id: str) -> bytes:
        return b"".join((self.prefix, b"e", bytes((state,)), time_key(ripe), written(id)))

    def expiring(self, expires: float, id: str) -> bytes:
        return self.prefix + b"p" + time_key(expires) + written(id)

    def unique(self, lane: bytes, key: str) -> bytes:
        return self.prefix + b"u" + lane + _short(written(key))

    def counter(self, lane: bytes, state: int) -> bytes:
        return self.prefix + b"c" + lane + bytes((state,))

    def work_signal(self, queue: str, route: str) -> bytes:
        return self.prefix + b"s" + lane_of(queue, base_route(route))

    def worker_signal(self, worker: str) -> bytes:
        return self.prefix + b"y" + written(worker)

    def token(self, token: str) -> bytes:
        return self.prefix + b"t" + ended(token)

    def width(self, lane: bytes) -> bytes:
        return self.prefix + b"d" + lane

    def members(self, lane: bytes) -> bytes:
        return self.prefix + b"m" + lane

    def worker(self, worker: str) -> bytes:
        return self.prefix + b"w" + written(worker)

    def orders(self, worker: str) -> bytes:
        return self.prefix + b"o" + ended(worker)

    def all(self, tag: bytes) -> tuple[bytes, bytes]:
        """The range of all keys of one kind."""
        return self.prefix + tag, self.prefix + after(tag)


LONGEST_KEY: Final = 1000
"""Bytes of a unique key that are part of a key as they are; a key of FoundationDB has at most 10,000."""


def _short(key: bytes) -> bytes:
    """A unique key; a long one by its digest, marked so that no short one is equal to it."""
    if len(key) <= LONGEST_KEY:
        return b"=" + key
    from hashlib import sha256

    return b"#" + sha256(key).digest()
