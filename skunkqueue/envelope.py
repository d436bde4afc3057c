"""The values that travel along the path of a job: Envelope, Claim, Outcome, Record, and what a body holds.

They are named tuples, not dataclasses: a pool makes four of them for each run, and a tuple costs a third.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from math import inf
from struct import Struct
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.errors import Corrupt, WrongCall

_pack: Callable[[object], bytes] = msgpack.packb
_unpack: Callable[..., Any] = msgpack.unpackb

VERSION: Final = 1
DAY: Final = 86400.0
SIGNATURE: Final = 36
"""Bytes of a signature: the fingerprint of a key, and what it says."""
PYTHON: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"

HIGH: Final = "^high"
LOW: Final = "^low"
PRIORITIES: Final = {"high": HIGH, "normal": "", "low": LOW}

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


class State(StrEnum):
    """Where a run is. ``SCHEDULED`` is only shown, never stored: it is ``QUEUED`` with its time in the future."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __repr__(self) -> str:
        return repr(self.value)  # so that a printed count reads well


OPEN: Final = frozenset({State.QUEUED, State.RUNNING})


class Envelope(NamedTuple):
    """A run as its sender sealed it; it never changes. A store reads all but the body, which is opaque to it.

    Times are seconds since the epoch on the store's clock; ``keep`` is seconds.
    """

    id: str
    queue: str
    route: str
    due: float
    body: bytes
    expires: float | None = None
    unique: str | None = None
    keep: float = DAY


class Want(NamedTuple):
    """What a claimer asks for: up to ``limit`` runs of ``routes``, in that order, to be held under ``token``.

    ``repeated`` says that this very want was sent before and its reply was lost: what the token already holds is
    given first, leased anew (never shorter) with no lapse, and counts towards the limit.
    """

    queue: str
    routes: tuple[str, ...]
    worker: str
    token: str
    limit: int
    repeated: bool = False


class Claim(NamedTuple):
    """The right to execute a run until its lease ends. Known by (id, token), never by id."""

    envelope: Envelope
    token: str
    worker: str
    until: float
    lapses: int = 0
    notes: bytes = b""

    @property
    def id(self) -> str:
        return self.envelope.id


class Outcome(NamedTuple):
    """What became of a claim. Made by its named constructors.

    ``notes`` of None leaves the notes as they are. ``keep`` of None means the envelope's.
    """

    kind: str
    value: bytes | None = None
    error: str | None = None
    due: float | None = None
    notes: bytes | None = None
    keep: float | None = None
    progress: float | None = None
    note: str | None = None

    @classmethod
    def complete(cls, value: bytes | None, *, notes: bytes | None = None) -> Outcome:
        """It ended well, with this value."""
        return cls("complete", value, None, None, notes)

    @classmethod
    def failed(
        cls, error: str, *, value: bytes | None = None, notes: bytes | None = None, keep: float | None = None
    ) -> Outcome:
        """It failed for good. ``error`` is one line for people, ``value`` the details."""
        return cls("failed", value, error, None, notes, keep)

    @classmethod
    def again(cls, *, due: float | None = None, error: str | None = None, notes: bytes | None = None) -> Outcome:
        """To be run again, ripe at ``due``; None means when it was first due, so before the backlog."""
        return cls("again", None, error, due, notes)

    @classmethod
    def untouched(cls, *, notes: bytes | None = None) -> Outcome:
        """It was not started; it takes its old place."""
        return cls("untouched", None, None, None, notes)

    @classmethod
    def started(cls, *, notes: bytes | None = None) -> Outcome:
        """It is about to start; the claim stays."""
        return cls("started", None, None, None, notes)

    @classmethod
    def at(cls, progress: float, note: str = "") -> Outcome:
        """It has come so far; the claim stays."""
        return cls("progress", progress=progress, note=note)


class Record(NamedTuple):
    """A run as the store knows it now.

    ``ripe`` is the one moving time: queued, may start at; running, leased until; ended, kept until.
    """

    envelope: Envelope
    state: State
    ripe: float
    token: str | None = None
    worker: str | None = None
    lapses: int = 0
    notes: bytes = b""
    value: bytes | None = None
    error: str | None = None
    progress: float | None = None
    note: str | None = None
    ended: float | None = None

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def open(self) -> bool:
        return self.state in OPEN

    def shown(self, now: float) -> State:
        """The state that people see."""
        return State.SCHEDULED if self.state == State.QUEUED and self.ripe > now else self.state


class Filter(NamedTuple):
    """Which runs ``find`` gives; None does not filter. A route includes its sub-routes (``foo^high``)."""

    queue: str | None = None
    route: str | None = None
    state: State | None = None

    def fits(self, record: Record, now: float) -> bool:
        envelope = record.envelope
        return (
            (self.queue is None or envelope.queue == self.queue)
            and (self.route is None or base_route(envelope.route) == self.route)
            and (self.state is None or state_fits(record, self.state, now))
        )


def state_fits(record: Record, state: State, now: float) -> bool:
    """``scheduled`` finds what is queued for later, ``queued`` all that is queued."""
    if state == State.SCHEDULED:
        return record.state == State.QUEUED and record.ripe > now
    return record.state == state


class Order(NamedTuple):
    """A message to a worker, handed over by its beat until it is named in ``seen``."""

    id: str
    text: str


class Exchange(NamedTuple):
    """What ``exchange`` gives: the ids whose outcomes were taken, new claims, and when to look again.

    ``next_ripe`` is the earliest moving time among the open runs of the routes wanted; where a want was filled it may
    be any time up to now; None means there is nothing.
    """

    taken: set[str]
    claims: list[Claim]
    next_ripe: float | None
    refused: Mapping[str, str] = MappingProxyType({})
    """Runs whose outcome cannot be kept, by id, with the reason."""


class Asked(NamedTuple):
    """What is to be claimed when there is news, and the moments that hold then."""

    wants: list[Want]
    now: float
    until: float


class Caught(NamedTuple):
    """What was claimed when there was news, for which wants, and when that was.

    ``woken`` is the route whose wake-up it was; None where it was none.
    """

    wants: list[Want]
    result: Exchange
    now: float
    woken: str | None = None


class Seal(NamedTuple):
    """What the sender decided about running it; read by the pool, which never imports a job."""

    retries: int = 0
    first: float = 1.0
    factor: float = 2.0
    limit: float = 600.0
    jitter: bool = True
    timeout: float | None = None
    at_most_once: bool = False
    keep_failed: float = 7 * DAY


class Head(NamedTuple):
    """The part of a body that is the same for all runs of a job with the same options.

    ``name`` is the word people gave the job, ``ref`` its ``module:qualname`` (empty: to be found by name).
    """

    version: int
    python: str
    name: str
    ref: str
    seal: Seal


class Body(NamedTuple):
    """What is inside an envelope, opened.

    ``head`` is as written; ``code`` is the pickled function, empty when the worker is to look it up; ``call`` holds the
    arguments as the codec wrote them; ``signature`` is empty when nothing in it has to be unpickled.
    """

    head: bytes
    code: bytes
    call: bytes
    signature: bytes


def pack_head(name: str, ref: str, seal: Seal) -> bytes:
    """Write the head of a body."""
    return _pack((VERSION, PYTHON, name, ref, tuple(seal)))


def pack_body(head: bytes, code: bytes, call: bytes, signature: bytes = b"") -> bytes:
    """Write the body of an envelope: the sizes of head and code, whether it is signed, and the parts."""
    return b"".join((_SIZES.pack(len(head), len(code)), _SIGNED[len(signature)], head, code, signature, call))


def open_body(body: bytes) -> Body:
    """Read the body of an envelope. Raises Corrupt for anything that is not one."""
    size = len(body)
    if size >= _PREFIX:
        head_size, code_size = _SIZES.unpack_from(body)
        code_at = _PREFIX + head_size
        signature_at = code_at + code_size
        call_at = signature_at + body[_PREFIX - 1]
        if call_at < size and body[_PREFIX - 1] in _SIGNED:
            return Body(body[_PREFIX:code_at], body[code_at:signature_at], body[call_at:], body[signature_at:call_at])
    raise Corrupt(f"the envelope cannot be read: its {size} bytes are not a body")


def peek_head(body: bytes) -> Head:
    """The head of a body without looking at the rest. Raises Corrupt."""
    if len(body) < _PREFIX:
        raise Corrupt(f"the envelope cannot be read: its {len(body)} bytes are not a body")
    return open_head(body[_PREFIX : _PREFIX + _SIZES.unpack_from(body)[0]])


_heads: dict[bytes, Head] = {}


def open_head(head: bytes) -> Head:
    """Read the head of a body; the same few come again and again, so they are remembered. Raises Corrupt.

    Of one that is newer than this code only version and name are read.
    """
    found = _heads.get(head)
    if found is None:
        found = _read_head(head)
        if len(_heads) >= 1000:
            _heads.clear()
        _heads[head] = found
    return found


def _read_head(head: bytes) -> Head:
    try:
        fields = _unpack(head, use_list=False)
        version, python, name = int(fields[0]), str(fields[1]), str(fields[2])
        if version > VERSION:
            return Head(version, python, name, "", Seal())
        _, _, _, ref, seal = fields
        return Head(version, python, name, str(ref), _read_seal(seal))
    except Exception as error:
        raise Corrupt(f"the envelope cannot be read ({type(error).__name__}: {error})"[:300]) from error


def _read_seal(fields: Any) -> Seal:
    retries, first, factor, limit, jitter, timeout, once, keep_failed = fields
    seal = Seal(
        int(retries), float(first), float(factor), float(limit), bool(jitter),
        None if timeout is None else float(timeout), bool(once), float(keep_failed),
    )  # fmt: skip
    if not all(0 <= number < inf for number in (*seal[:4], seal.timeout or 0.0, seal.keep_failed)):
        raise ValueError("a duration that is none")
    return seal


_SIZES: Final = Struct("<HI")
_PREFIX: Final = _SIZES.size + 1
_SIGNED: Final = {0: b"\x00", SIGNATURE: bytes([SIGNATURE])}


def check_name(name: object, what: str) -> str:
    """A queue's or route's name as people may give it. Raises WrongCall."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise WrongCall(f"a {what} is 1 to 100 letters, digits or any of _ . : - ; got {name!r}")


def base_route(route: str) -> str:
    """``foo`` of ``foo^high``."""
    return route.partition("^")[0]


def with_priorities(route: str) -> tuple[str, ...]:
    """The sub-routes that serving a route means, in the order they are served."""
    return (route + HIGH, route, route + LOW)


def address(worker: str) -> str:
    """The route that only this worker serves."""
    return "@" + worker


class _Ids:
    """Ids of 28 hexadecimal digits: 12 of milliseconds, 16 that start at random and count up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.last = 0
        self.random = b""

    def draw(self, now: float) -> str:
        with self.lock:
            first = int(now * 1000) << 64
            if first > self.last:
                self.random = self.random[8:] or os.urandom(512)  # asking for each would cost more than all the rest
                self.last = first | (int.from_bytes(self.random[:8], "big") >> 1)
            else:
                self.last += 1
            return f"{self.last:028x}"


_ids = _Ids()


def new_id(now: float) -> str:
    """A run's id: sorts by time, ascends within a process, collides with nobody."""
    return _ids.draw(now)


def is_for_later(envelope: Envelope) -> bool:
    """Whether a run was due later than its id was made. Of an id that tells no time: yes."""
    try:
        return envelope.due > int(envelope.id[:12], 16) / 1000 + 0.002  # the id knows milliseconds
    except ValueError:
        return True


def _forget_ids() -> None:
    global _ids
    _ids = _Ids()


# A forked process would otherwise count on from the same number as its parent.
os.register_at_fork(after_in_child=_forget_ids)


def new_token() -> str:
    """A secret that proves a claim."""
    return os.urandom(12).hex()
