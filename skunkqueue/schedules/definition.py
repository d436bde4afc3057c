"""What a schedule is, as a run that lies on an internal route of the store; and the runs that it makes.

The run of a schedule is never executed. It is ripe when a tick comes; a pool that serves the job's route claims it,
puts the tick's run and gives it back, ripe at the next tick. Its body is the definition and never changes, what changes
from tick to tick are its notes. Ids are made, so that whoever puts the same thing again puts nothing::

    a schedule   0000 | 16 digits of its name | 8 digits of its definition
    a tick       12 digits of its time in milliseconds | 16 digits of schedule and time
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.codec import PICKLED, PLAIN, is_pickled
from skunkqueue.envelope import Body, Envelope, Seal, open_body, pack_head
from skunkqueue.errors import BadSignature, Corrupt
from skunkqueue.referred import MARK, keeping, reference
from skunkqueue.routes import base_route, shown_route
from skunkqueue.schedules.when import When, packed, unpacked
from skunkqueue.signing import seal_body, verify_body

TICKS: Final = "~ticks"
"""What follows a job's route in the name of the route on which its schedules lie."""
VERSION: Final = 1
KEPT: Final = 86400.0
"""Seconds for which the run of a schedule that has ended is kept, and the run that asks for the next time."""


class Pieces(NamedTuple):
    """What the body of a run is made of, before it is sealed for one id. ``code`` is empty where workers import it."""

    head: bytes
    code: bytes
    call: bytes

    @property
    def has_pickle(self) -> bool:
        return bool(self.code) or is_pickled(self.call)

    def sealed(self, id: str, queue: str) -> bytes:
        code = reference(self.code)
        return keeping(seal_body(self.head, code, self.call, id=id, queue=queue), code)


_NO_PIECES: Final = Pieces(b"", b"", b"")


class Definition(NamedTuple):
    """A schedule: when, and which run.

    ``routes`` are where each tick puts a run, priorities included. ``module`` declared it in code; empty if it was made
    at run time. ``pace`` is a run that says when to run next, for a ``when`` that is a function. ``anchor`` is the time
    from which intervals are counted, ``start`` the first tick; ``last`` and ``interval`` are taken over from a schedule
    of the same name that it replaces. ``number`` goes up where the same one is declared after it had been ended.
    """

    name: str
    queue: str
    job: str
    when: When
    missed: str
    overlap: str
    routes: tuple[str, ...]
    expires: float | None
    keep: float
    module: str
    pieces: Pieces
    pace: Pieces | None = None
    anchor: float = 0.0
    start: float = 0.0
    last: str = ""
    interval: float = 0.0
    number: int = 0

    @property
    def route(self) -> str:
        """The internal route on which it lies."""
        return base_route(self.routes[0]) + TICKS

    @property
    def id(self) -> str:
        return id_prefix(self.queue, self.name) + _digits(repr(self._identity()), 8)

    def _identity(self) -> tuple[Any, ...]:
        """What makes it another schedule when it changes: not the anchor, and not a number that differs each time."""
        pieces = [None if p is None else p._replace(code=_lasting(p.code)) for p in (self.pieces, self.pace)]
        plain = self._replace(pieces=_NO_PIECES, pace=None, anchor=0.0, start=0.0, last="", interval=0.0)
        return packed(self.when), tuple(plain), pieces

    def packed(self) -> tuple[Any, ...]:
        """As values that MessagePack can hold."""
        pieces, pace = self.pieces, self.pace or _NO_PIECES
        plain = self._replace(when=packed(self.when), pieces=tuple(pieces), pace=tuple(pace))  # type: ignore[arg-type]
        return VERSION, *plain

    @classmethod
    def unpack(cls, fields: Any, queue: str) -> Definition:
        """What ``packed`` gave, for this queue. Raises ValueError or the like for anything else."""
        version, name, _, job, when, *rest = fields
        if version > VERSION:
            raise ValueError(f"version {version}, this reads {VERSION}")
        missed, overlap, routes, expires, keep, module, pieces, pace, anchor, start, last, interval, number = rest[:13]
        found = cls(
            str(name), queue, str(job), unpacked(when), str(missed), str(overlap), tuple(map(str, routes)),
            None if expires is None else float(expires), float(keep), str(module), Pieces(*map(bytes, pieces)),
            Pieces(*map(bytes, pace)) if pace[0] else None, float(anchor), float(start), str(last), float(interval),
            int(number),
        )  # fmt: skip
        if not found.routes:
            raise ValueError("it has no route")
        return found

    def envelope(self) -> Envelope:
        """Its run, to be put. Raises PayloadError where it has to be signed and cannot be."""
        signed = self.pieces.has_pickle or (self.pace is not None and self.pace.has_pickle)
        plain = self._replace(pieces=self.pieces._replace(code=b""))
        call = (PICKLED if signed else PLAIN) + msgpack.packb(plain.packed())
        id, code = self.id, reference(self.pieces.code)
        body = seal_body(pack_head(self.name, "", Seal()), code, call, id=id, queue=self.queue)
        return Envelope(id, self.queue, self.route, self.start, keeping(body, code), None, None, KEPT)

    def run(self, id: str, route: str, due: float) -> Envelope:
        """A run of the job."""
        expires = None if self.expires is None else due + self.expires
        return Envelope(id, self.queue, route, due, self.pieces.sealed(id, self.queue), expires, None, self.keep)

    def ticks(self, time: float) -> list[Envelope]:
        """The runs of a tick, one for each route."""
        many = len(self.routes) > 1
        return [self.run(self._made_id(time, route if many else ""), route, time) for route in self.routes]

    def _made_id(self, time: float, route: str) -> str:
        """The id of the run of a tick, by the schedule's name: so it is made once also where the schedule changes."""
        return f"{round(time * 1000):012x}" + _digits(f"{self.queue}\n{self.name}\n{time!r}\n{route}", 16)

    def asking(self, last: str, now: float) -> Envelope:
        """The run that asks the job's author when to run next, after the run with the id ``last``."""
        assert self.pace is not None
        id = pace_id(last)
        pieces = self.pace._replace(call=PLAIN + msgpack.packb(([last], {})))
        return Envelope(
            id, self.queue, shown_route(self.routes[0]), now, pieces.sealed(id, self.queue), None, None, KEPT
        )


def read(envelope: Envelope) -> Definition:
    """The definition that a schedule's run holds. Raises a PayloadError: Corrupt, or BadSignature."""
    body = open_body(envelope.body)
    verify_body(body, id=envelope.id, queue=envelope.queue)
    try:
        plain = Definition.unpack(msgpack.unpackb(body.call[1:], use_list=False), envelope.queue)
    except Exception as error:
        raise Corrupt(f"the schedule cannot be read ({type(error).__name__}: {error})"[:300]) from error
    found = plain._replace(pieces=plain.pieces._replace(code=body.code))
    _check_signed(body, found)
    return found


def _check_signed(body: Body, found: Definition) -> None:
    """What is to be signed for a tick must have been signed as part of the schedule."""
    signed = bool(body.code) or body.call[:1] == PICKLED
    if not signed and (found.pieces.has_pickle or (found.pace is not None and found.pace.has_pickle)):
        raise BadSignature("the schedule holds something to be unpickled, and is not signed")


def pace_id(last: str) -> str:
    """The id of the run that asks when to run next, after the run with the id ``last``; it sorts beside that."""
    return last[:12] + _digits(f"pace\n{last}", 16)


def id_prefix(queue: str, name: str) -> str:
    """What the ids of all schedules of this name begin with."""
    return "0000" + _digits(f"{queue}\n{name}", 16)


def _digits(text: str, number: int) -> str:
    from hashlib import sha256  # late: it loads OpenSSL

    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:number]


def _lasting(code: bytes) -> bytes:
    return b"" if code.startswith(MARK) else code
