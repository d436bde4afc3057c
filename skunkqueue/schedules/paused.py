"""Pauses: of a route, or of a schedule. A pause is a run that never ripens; every pool reads them at its beat."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgpack

from skunkqueue.envelope import Envelope, Filter, Record, Seal, State, open_body, pack_body, pack_head
from skunkqueue.errors import PayloadError
from skunkqueue.persistence import Persister
from skunkqueue.schedules.definition import id_prefix
from skunkqueue.times import LATEST

PAUSES: Final = "~pauses"
"""The route on which pauses lie."""
ROUTE: Final = "route"
SCHEDULE: Final = "schedule"
MOST: Final = 10_000


class Paused(NamedTuple):
    """What is paused (``kind`` and ``name``), and until when; None is until it is resumed."""

    kind: str
    name: str
    until: float | None
    id: str = ""


def standing(store: Persister, queue: str, *, now: float) -> list[Record]:
    """The runs of a queue that only say something to all pools: pauses, and handlers."""
    found: list[Record] = []
    after: str | None = None
    while page := store.find(Filter(queue, PAUSES, State.QUEUED), now=now, after=after, limit=500):
        found += page
        after = page[-1].id
        if len(page) < 500 or len(found) >= MOST:
            break
    return found


def pauses(store: Persister, queue: str, *, now: float) -> list[Paused]:
    """The pauses of a queue that hold now."""
    return pauses_of(standing(store, queue, now=now), now)


def pauses_of(found: Iterable[Record], now: float) -> list[Paused]:
    """The pauses among these that hold now."""
    read = (_read(record) for record in found)
    return [pause for pause in read if pause is not None and (pause.until is None or pause.until > now)]


def paused(found: Iterable[Paused], kind: str) -> dict[str, float | None]:
    """Of these pauses, what is paused of a kind: until when, by name."""
    until: dict[str, float | None] = {}
    for pause in found:
        if pause.kind == kind:
            before = until.get(pause.name, 0.0)
            until[pause.name] = None if before is None or pause.until is None else max(before, pause.until)
    return until


def pause(store: Persister, queue: str, kind: str, name: str, *, now: float, until: float | None) -> None:
    """Pause it, in place of an earlier pause."""
    before = _of(store, queue, kind, name, now)
    call = msgpack.packb((kind, name, until))
    body = pack_body(pack_head(f"pause of {kind} {name}", "", Seal()), b"", b"m" + call)
    id = id_prefix(queue, f"{kind}\n{name}") + os.urandom(4).hex()
    store.put([Envelope(id, queue, PAUSES, LATEST, body, until, None, 0.0)])
    _lift(store, before, now)


def resume(store: Persister, queue: str, kind: str, name: str, *, now: float) -> bool:
    """Lift its pause; returns whether there was one."""
    return _lift(store, _of(store, queue, kind, name, now), now)


def _lift(store: Persister, lifted: list[Paused], now: float) -> bool:
    return bool(lifted and store.cancel([pause.id for pause in lifted], now=now))


def _of(store: Persister, queue: str, kind: str, name: str, now: float) -> list[Paused]:
    return [pause for pause in pauses(store, queue, now=now) if (pause.kind, pause.name) == (kind, name)]


def _read(record: Record) -> Paused | None:
    try:
        kind, name, until = msgpack.unpackb(open_body(record.envelope.body).call[1:])
        return Paused(str(kind), str(name), None if until is None else float(until), record.id)
    except (PayloadError, ValueError, TypeError):
        return None
