"""The values that travel along the path of a job: Envelope, Claim, Outcome, Record, and what a body holds.

They are named tuples, not dataclasses: a pool makes four of them for each run, and a tuple costs a third as much.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from math import inf
from struct import Struct
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import msgpack

from skunkqueue.errors import Corrupt
from skunkqueue.ids import ahead
from skunkqueue.routes import base_route, is_internal

_pack: Callable[[object], bytes] = msgpack.packb
_unpack: Callable[..., Any] = msgpack.unpackb

VERSION: Final = 1
DAY: Final = 86400.0
SIGNATURE: Final = 36
"""The size of a signature in bytes, including the fingerprint of its key."""
PYTHON: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"

GATED: Final = 253_402_218_000.0
"""When a run is due that waits for others: later than all that people can ask for."""
_NEVER: Final = 2e11


class State(StrEnum):
    """Where a run is. ``WAITING`` and ``SCHEDULED`` are only shown, never stored: they are ``QUEUED``, until other runs
    have ended, and with a time in the future.
    """

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __repr__(self) -> str:
        return repr(self.value)  # so that a printed count reads well


StateName = Literal["scheduled", "queued", "running", "succeeded", "failed", "cancelled"] | State
"""A state as people write it."""

FINDABLE: Final = tuple(state for state in State if state is not State.WAITING)
"""The states that a store can be asked for."""
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

    ``repeated`` says that the same want was sent before and its reply was lost. Then the runs that the token already
    holds are given first. They are leased anew (never shorter), count no lapse, and count towards the limit.
    """

    queue: str
    routes: tuple[str, ...]
    worker: str
    token: str
    limit: int
    repeated: bool = False


class Claim(NamedTuple):
    """The right to execute a run until its lease ends. Identified by (id, token), never by the id alone."""

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
    """What the pool reports of a claim. Made by the named constructors.

    If ``notes`` is None, the notes stay as they are. If ``keep`` is None, the envelope's ``keep`` applies.
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
        """The run succeeded, with this value."""
        return cls("complete", value, None, None, notes)

    @classmethod
    def failed(
        cls, error: str, *, value: bytes | None = None, notes: bytes | None = None, keep: float | None = None
    ) -> Outcome:
        """The run failed for good. ``error`` is one line for people, ``value`` the details."""
        return cls("failed", value, error, None, notes, keep)

    @classmethod
    def again(cls, *, due: float | None = None, error: str | None = None, notes: bytes | None = None) -> Outcome:
        """The run is to run again, ripe at ``due``. None means its old place, before the backlog."""
        return cls("again", None, error, due, notes)

    @classmethod
    def untouched(cls, *, notes: bytes | None = None) -> Outcome:
        """The run was not started; it takes its old place: see ``old_place``."""
        return cls("untouched", None, None, None, notes)

    @classmethod
    def started(cls, *, notes: bytes | None = None) -> Outcome:
        """The run is about to start; the claim stays."""
        return cls("started", None, None, None, notes)

    @classmethod
    def at(cls, progress: float, note: str = "") -> Outcome:
        """The run has made this progress, a share from 0 to 1; the claim stays."""
        return cls("progress", progress=progress, note=note)


def old_place(due: float, now: float) -> float:
    """When a run is ripe that takes its old place: when it was first due, or now where it was promoted before that."""
    return min(due, now)


class Record(NamedTuple):
    """A run as the store knows it now.

    ``ripe`` is the one time that changes. For a queued run, it is when the run may start; for a running one, when its
    lease ends; for an ended one, until when it is kept.
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
        if self.state == State.QUEUED and self.ripe > now:
            return State.WAITING if is_waiting(self) else State.SCHEDULED
        return self.state


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


def is_waiting(record: Record) -> bool:
    """Whether a run is held back until others have ended."""
    return record.envelope.due == GATED and record.state == State.QUEUED and record.ripe > _NEVER


def state_fits(record: Record, state: State, now: float) -> bool:
    """``scheduled`` fits runs queued for later, ``queued`` all queued runs."""
    if state == State.SCHEDULED:
        return record.state == State.QUEUED and record.ripe > now
    return record.state == state


class Order(NamedTuple):
    """A message to a worker. Each ``beat`` of the worker returns it, until a beat names it in ``seen``."""

    id: str
    text: str


class Exchange(NamedTuple):
    """What ``exchange`` gives: the ids whose outcomes were taken, new claims, and when to look again.

    ``next_ripe`` is the earliest ``ripe`` among the open runs of the routes wanted. If a want was filled, it may be any
    time up to now. None means that there is no open run.
    """

    taken: set[str]
    claims: list[Claim]
    next_ripe: float | None
    refused: Mapping[str, str] = MappingProxyType({})
    """Runs whose outcome cannot be kept, by id, with the reason."""


class Asked(NamedTuple):
    """What to claim when there is news. The lease is then as long as from ``now`` to ``until``."""

    wants: list[Want]
    now: float
    until: float


class Caught(NamedTuple):
    """What was claimed when there was news, for which wants, and when.

    ``woken`` is the route whose wake-up ended the wait; None if no wake-up did.
    """

    wants: list[Want]
    result: Exchange
    now: float
    woken: str | None = None


class Seal(NamedTuple):
    """What the sender decided about executing the run; read by the pool, which never imports a job."""

    retries: int = 0
    first: float = 1.0
    factor: float = 2.0
    limit: float = 600.0
    jitter: bool = True
    timeout: float | None = None
    at_most_once: bool = False
    keep_failed: float = 7 * DAY
    bound: tuple[int, float, int] | None = None
    """The terms of its limit: how many, in how many seconds, how many of them at once; see ``limits.limit.Terms``."""


class Head(NamedTuple):
    """The part of a body that is the same for all runs of a job with the same options.

    ``name`` is the job's name for people, ``ref`` its ``module:qualname``. If ``ref`` is empty, the job is looked up by
    its name.
    """

    version: int
    python: str
    name: str
    ref: str
    seal: Seal


class Body(NamedTuple):
    """The parts of an envelope's body.

    ``head`` is still packed. ``code`` is the pickled function; empty if the worker is to look it up. ``call`` holds the
    arguments as the codec wrote them. ``signature`` is empty if nothing in the body has to be unpickled.
    """

    head: bytes
    code: bytes
    call: bytes
    signature: bytes


def pack_head(name: str, ref: str, seal: Seal) -> bytes:
    """Write the head of a body."""
    fields = tuple(seal)
    return _pack((VERSION, PYTHON, name, ref, fields[:-1] if seal.bound is None else (*fields[:-1], tuple(seal.bound))))


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
    """Read the head of a body. The same few heads come again and again, so they are cached. Raises Corrupt.

    Of a head that is newer than this code, only the versions and the name are read.
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
    retries, first, factor, limit, jitter, timeout, once, keep_failed, *rest = fields
    terms = None
    if rest and rest[0] is not None:
        count, per, burst = rest[0]
        terms = int(count), float(per), int(burst)
    seal = Seal(
        int(retries), float(first), float(factor), float(limit), bool(jitter),
        None if timeout is None else float(timeout), bool(once), float(keep_failed), terms,
    )  # fmt: skip
    if not all(0 <= number < inf for number in (*seal[:4], seal.timeout or 0.0, seal.keep_failed, *(terms or ()))):
        raise ValueError("a duration is not a number of seconds from 0 up")
    return seal


_SIZES: Final = Struct("<HI")
_PREFIX: Final = _SIZES.size + 1
_SIGNED: Final = {0: b"\x00", SIGNATURE: bytes([SIGNATURE])}


def stored_like(state: State | None) -> State | None:
    """The state to ask a store for, to find runs in this one: a store knows ``scheduled``, but not ``waiting``."""
    return State.SCHEDULED if state is State.WAITING else state


def is_shown(record: Record, state: State | None) -> bool:
    """Whether what a store gives for ``stored_like`` of this state is a run of a job that is in it."""
    if is_internal(record.envelope.route):
        return False
    return state not in (State.WAITING, State.SCHEDULED) or is_waiting(record) == (state is State.WAITING)


def is_for_later(envelope: Envelope) -> bool:
    """Whether a run was due later than its id was made. True if the id holds no time."""
    made = ahead.get(envelope.id)
    try:
        made = int(envelope.id[:12], 16) / 1000 if made is None else made
    except ValueError:
        return True
    return envelope.due > made + 0.002  # the id holds whole milliseconds
