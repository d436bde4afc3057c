"""Small values to test a store with: envelopes, wants, and times that need all digits of a float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

from skunkqueue.envelope import DAY, Claim, Envelope, Record, Want
from skunkqueue.persistence import Persister

NOW: Final = 1_000_000_000.1
"""A time whose last digits a store loses if it writes floats with fewer than 17 of them."""

LEASE: Final = 15.3
LATE: Final = NOW + LEASE + 0.7
"""When a lease given at NOW has ended."""

EVERY_BYTE: Final = bytes(range(256)) + b"\x00\r\n\x00"
UNICODE: Final = "naïve 名前 🦨 \x00 '\"%_\\ end"
"""Text as a traceback may hold it: accents, planes beyond the first, a NUL, quotes and wildcards."""


def id_at(time: float, number: int) -> str:
    """An id of the shape that senders make: 12 hexadecimal digits of milliseconds, 16 of a number."""
    return f"{int(time * 1000):012x}{number:016x}"


def sealed(
    number: int = 1,
    *,
    queue: str = "demo",
    route: str = "foo",
    due: float = NOW,
    body: bytes = b"body",
    expires: float | None = None,
    unique: str | None = None,
    keep: float = DAY,
) -> Envelope:
    """An envelope; equal numbers give equal ids."""
    return Envelope(id_at(NOW, number), queue, route, due, body, expires, unique, keep)


def want(
    under: str = "A",
    *routes: str,
    queue: str = "demo",
    worker: str = "worker-1",
    limit: int = 10,
    repeated: bool = False,
) -> Want:
    """A want under that token, of route ``foo`` when none is named."""
    return Want(queue, routes or ("foo",), worker, under, limit, repeated)


def take(store: Persister, under: str = "A", *routes: str, now: float = NOW, limit: int = 10) -> list[Claim]:
    """Claim with one want, leased for ``LEASE`` seconds."""
    return store.claim([want(under, *routes, limit=limit)], now=now, until=now + LEASE)


def take_one(store: Persister, under: str = "A", *, now: float = NOW) -> Claim:
    """Claim the one run there is."""
    (claim,) = take(store, under, now=now)
    return claim


def ids_of(things: Iterable[Envelope | Claim]) -> list[str]:
    return [thing.id for thing in things]


class CallersTransaction(NamedTuple):
    """A transaction of the caller: what ``put`` gets as ``via``, and how the caller ends it."""

    via: Any
    commit: Callable[[], object]
    give_up: Callable[[], object]


class Promises:
    """What a test may override to tell the promises about its store. Each promise gets a fresh, empty ``store``."""

    def open_again(self, store: Persister) -> Persister:
        """A second, independent handle to the same data; the same handle if there is no other."""
        return store

    def begin(self, store: Persister) -> AbstractContextManager[CallersTransaction | None]:
        """Begin a transaction of the caller on this store; None if it takes none, or there is no way to make one."""
        return nullcontext()

    def left_behind(self, store: Persister) -> Collection[object]:
        """Keys, rows or files that are left when all is done and purged; for tests that can look inside the store."""
        return ()


def record_of(store: Persister, id: str) -> Record:
    """The record, which must be there."""
    return store.get([id])[id]


def count_states(store: Persister) -> dict[str, int]:
    """How many runs there are in each stored state."""
    total: Counter[str] = Counter()
    for (_, _, state), number in store.count().items():
        total[state] += number
    return dict(total)
