"""What a handler is, as a run that lies on an internal route of the store; and the runs that it is called by."""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.codec import PICKLED, PLAIN
from skunkqueue.envelope import Envelope, Seal, open_body, pack_head
from skunkqueue.errors import BadSignature, Corrupt
from skunkqueue.ids import new_id
from skunkqueue.referred import keeping, reference
from skunkqueue.routes import base_route
from skunkqueue.schedules.definition import Pieces, id_prefix
from skunkqueue.schedules.paused import PAUSES
from skunkqueue.signing import seal_body, verify_body
from skunkqueue.times import LATEST

EVENTS: Final = ("succeeded", "failed")
KIND: Final = "on"
VERSION: Final = 1


class EndHandler(NamedTuple):
    """A job that is called for each run that has ended so.

    ``event`` is one of EVENTS, ``name`` the job's. ``routes`` are where its runs are put, priorities included; one that
    has only a priority, or nothing, is the route of the run that has ended. ``module`` declared it; empty if nobody can
    tell. ``code`` of ``pieces`` is empty where workers import it.
    """

    event: str
    name: str
    routes: tuple[str, ...]
    keep: float
    module: str
    pieces: Pieces

    def run(self, id: str, route: str, queue: str, now: float) -> list[Envelope]:
        """The runs, one for each route, that call it for the run with this id on this route."""
        pieces = self.pieces._replace(call=PLAIN + msgpack.packb(([said(self.event, id)], {})))
        routes = [each if base_route(each) else base_route(route) + each for each in self.routes]
        ids = [new_id(now) for _ in routes]
        return [
            Envelope(own, queue, place, now, pieces.sealed(own, queue), None, None, self.keep)
            for own, place in zip(ids, routes, strict=True)
        ]

    def packed(self) -> tuple[Any, ...]:
        """As values that MessagePack can hold."""
        return VERSION, KIND, *self._replace(pieces=tuple(self.pieces))  # type: ignore[arg-type]

    @classmethod
    def unpack(cls, fields: Any) -> EndHandler:
        """What ``packed`` gave. Raises ValueError or the like for anything else."""
        version, kind, event, name, routes, keep, module, pieces = fields[:8]
        if version > VERSION or kind != KIND or event not in EVENTS:
            raise ValueError(f"version {version} of {kind} {event}")
        return cls(
            str(event), str(name), tuple(map(str, routes)), float(keep), str(module), Pieces(*map(bytes, pieces))
        )

    def envelope(self, queue: str) -> Envelope:
        """The run that says so to all pools; like a pause, it never ripens. Raises PayloadError where it has to be
        signed and cannot be."""
        id = id_prefix(queue, f"{KIND}\n{self.event}\n{self.name}") + os.urandom(4).hex()
        plain = self._replace(pieces=self.pieces._replace(code=b""))
        call = (PICKLED if self.pieces.has_pickle else PLAIN) + msgpack.packb(plain.packed())
        code = reference(self.pieces.code)
        body = seal_body(pack_head(f"{self.name} on {self.event}", "", Seal()), code, call, id=id, queue=queue)
        return Envelope(id, queue, PAUSES, LATEST, keeping(body, code), None, None, 0.0)


def read(envelope: Envelope) -> EndHandler:
    """The handler that such a run holds. Raises a PayloadError: Corrupt, or BadSignature."""
    body = open_body(envelope.body)
    verify_body(body, id=envelope.id, queue=envelope.queue)
    try:
        plain = EndHandler.unpack(msgpack.unpackb(body.call[1:], use_list=False))
    except Exception as error:
        raise Corrupt(f"the handler cannot be read ({type(error).__name__}: {error})"[:300]) from error
    if plain.pieces.has_pickle and not (body.code or body.call[:1] == PICKLED):
        raise BadSignature("the handler holds something to be unpickled, and is not signed")
    return plain._replace(pieces=plain.pieces._replace(code=body.code))


def said(event: str, id: str) -> str:
    """The argument of a handler's run: how which run has ended."""
    return f"{event} {id}"
