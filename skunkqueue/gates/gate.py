"""What a gate is: a run on an internal route that holds another run back until the runs that it waits for have ended.

The run that waits lies on its own route, due at the end of time. Its gate lies beside the schedules, is claimed by any
pool that serves the route, looks at what it waits for, and promotes or cancels the run. Its notes say how far it has
looked. Losing a step costs a moment, never the run: a gate stays until its run has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from skunkqueue.envelope import Envelope, Record, Seal, State, open_body, pack_body, pack_head
from skunkqueue.errors import Corrupt
from skunkqueue.routes import base_route

GATES: Final = "~gates"
"""What follows a route in the name of the route on which the gates of its runs lie."""
ON: Final = ("succeeded", "failed", "ended")
ON_LOST: Final = ("cancel", "run")
VERSION: Final = 1

FIRST_LOOK: Final = 0.03
LONGEST_LOOK: Final = 30.0
SHARE: Final = 0.1
"""Seconds until the next look: this share of the time since something last happened, within those bounds."""
EACH: Final = 0.0005
"""Seconds for which a pool waits at least, before its next look, for each gate that it looked at together."""
UNKNOWN: Final = 60.0
"""Seconds for which a run that is not there may still be on its way."""


class Gate(NamedTuple):
    """``run`` waits for ``ids``. ``on`` and ``on_lost`` as in ``job.after``; ``at``: not before that time."""

    run: str
    ids: Sequence[str]
    on: str
    on_lost: str
    at: float
    made: float

    def envelope(self, queue: str, route: str, keep: float) -> Envelope:
        """Its own run, beside the one on ``route`` that it holds back."""
        call = msgpack.packb((VERSION, self.run, packed_ids(self.ids), self.on, self.on_lost, self.at, self.made))
        body = pack_body(pack_head(f"gate of {self.run}", "", Seal()), b"", b"m" + call)
        return Envelope(gate_id(self.run), queue, base_route(route) + GATES, self.made, body, None, None, keep)


def read(envelope: Envelope) -> Gate:
    """The gate that a run holds. Raises Corrupt."""
    call = open_body(envelope.body).call
    try:
        version, run, ids, on, on_lost, at, made = msgpack.unpackb(call[1:], use_list=False)
        if version > VERSION:
            raise ValueError(f"version {version}, this reads {VERSION}")
        return Gate(str(run), unpacked_ids(ids), str(on), str(on_lost), float(at), float(made))
    except Exception as error:
        raise Corrupt(f"the gate cannot be read ({type(error).__name__}: {error})"[:300]) from error


def gate_id(run: str) -> str:
    """The id of the gate of a run."""
    return f"{run}.gate"


def packed_ids(ids: Iterable[str]) -> tuple[Any, ...]:
    """Ids as (first, how many follow it in sequence): what was fired together often does."""
    found: list[tuple[str, int]] = []
    last = ""
    for id in ids:
        if found and id == _after(last):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((id, 0))
        last = id
    return tuple(found)


def unpacked_ids(packed: Iterable[Any]) -> list[str]:
    ids: list[str] = []
    for id, more in packed:
        ids.append(str(id))
        for _ in range(more):
            ids.append(_after(ids[-1]))
    return ids


def _after(id: str) -> str:
    """The id that the same process makes next in the same millisecond; empty if this is not one of ours."""
    try:
        return f"{int(id, 16) + 1:028x}" if len(id) == 28 else ""
    except ValueError:
        return ""


# -- one look --------------------------------------------------------------------------------------------------------


class Progress(NamedTuple):
    """How far a gate has looked: all before ``seen`` have ended; ``since`` that last grew; whether the run may run, or
    why it cannot.
    """

    seen: int = 0
    since: float = 0.0
    is_open: bool = False
    lost: str = ""

    def packed(self) -> bytes:
        data: bytes = msgpack.packb(tuple(self))
        return data


def progress_of(gate: Gate, notes: bytes) -> Progress:
    try:
        seen, since, is_open, lost = msgpack.unpackb(notes)
        return Progress(int(seen), float(since), bool(is_open), str(lost))
    except Exception:
        return Progress(0, gate.made)


class Look(NamedTuple):
    """What a look at some of the runs gives: progress, whether what is waited for has come about, or why it cannot."""

    progress: Progress
    is_met: bool = False
    lost: str = ""


def look(gate: Gate, progress: Progress, records: Mapping[str, Record], size: int, now: float) -> Look:
    """Look at the next ``size`` runs."""
    seen = progress.seen
    for place in range(progress.seen, min(progress.seen + size, len(gate.ids))):
        id = gate.ids[place]
        record = records.get(id)
        if record is None and now - gate.made < UNKNOWN:
            continue
        if record is not None and record.open:
            continue
        why = _why_lost(gate.on, id, record)
        if why is not None:
            return Look(progress, lost=why)
        if gate.on == "failed" and record is not None and record.state == State.FAILED:
            return Look(progress, is_met=True)
        seen += place == seen
    if seen > progress.seen:
        progress = progress._replace(seen=seen, since=now)
    if seen < len(gate.ids):
        return Look(progress)
    if gate.on == "failed":
        return Look(progress, lost="none of the runs that it waited for failed")
    return Look(progress, is_met=True)


def _why_lost(on: str, id: str, record: Record | None) -> str | None:
    """Why a gate that waits for success cannot open any more, if it is for this run that has ended."""
    if on != "succeeded" or (record is not None and record.state == State.SUCCEEDED):
        return None
    if record is None:
        return f"run {id}, which it waited for, is no longer kept"
    why = f": {record.error}"[:200] if record.error else ""
    return f"run {id}, which it waited for, {_ENDED[record.state]}{why}"


_ENDED: Final = {State.FAILED: "failed", State.CANCELLED: "was cancelled"}


def next_look(progress: Progress, now: float, together: int = 1) -> float:
    """When to look again at a gate that was looked at with so many in all."""
    return now + min(max(SHARE * (now - progress.since), FIRST_LOOK, EACH * together), LONGEST_LOOK)
