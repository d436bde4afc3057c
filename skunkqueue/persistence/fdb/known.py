"""What is known without a read: that lets a run that was just made be put by a commit alone.

A put reads the directory's own record, the width of its lane, and whether its id is there; each with a conflict. So
what it has read is still so as of the version of its commit. An id that was made after that commit cannot have been
there then. Such a run is put as of that version, with the same conflicts: where anything has changed since, the commit
fails, and the run is put as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.envelope import Envelope
from skunkqueue.ids import when_made
from skunkqueue.persistence.fdb.layout import lane_of, spread, written
from skunkqueue.persistence.fdb.rows import new_row
from skunkqueue.persistence.fdb.step import Step

LASTS: Final = 1.0
"""Seconds for which a version is good to commit as of; the cluster takes five, with all that comes in between."""

RENEWED: Final = 0.25
"""Seconds after which a newer version takes its place. Runs that other threads made before it need the older one."""

MOST: Final = 1000
"""Lanes that are known."""


class Lane(NamedTuple):
    """The width of a lane as of a version, and by ``ticks`` when that version was known to be committed."""

    width: int
    version: int
    at: float


class Known:
    """The lanes that this process has put runs into. Thread-safe."""

    def __init__(self) -> None:
        self._lanes: dict[bytes, Lane] = {}

    def learn(self, widths: dict[bytes, int], version: int) -> None:
        """These widths were read, with conflicts, by a transaction whose commit got this version."""
        at = ticks()
        if len(self._lanes) >= MOST:
            self._lanes.clear()
        for lane, width in widths.items():
            known = self._lanes.get(lane)
            if known is None or known.width != width or at - known.at > RENEWED:
                self._lanes[lane] = Lane(width, version, at)

    def fresh(self, envelopes: Sequence[Envelope]) -> Fresh | None:
        """These runs, if all of them can be put without a read."""
        lanes: dict[bytes, Lane] = {}
        for envelope in envelopes:
            name = lane_of(envelope.queue, envelope.route)
            lane = self._lanes.get(name)
            if lane is None or envelope.unique is not None:
                return None
            lanes[name] = lane
        oldest = min(lanes.values(), key=lambda lane: lane.version, default=None)
        if oldest is None or ticks() - oldest.at > LASTS or not _are_made_after(oldest.at, envelopes):
            return None
        return Fresh(oldest.version, envelopes, {name: lane.width for name, lane in lanes.items()})


class Fresh(NamedTuple):
    """Runs that were made after the commit of a version, and the widths of their lanes."""

    version: int
    envelopes: Sequence[Envelope]
    widths: dict[bytes, int]

    def put(self, step: Step) -> list[str]:
        """Put them without a read, in a transaction as of that version; gives their ids."""
        tr, space = step.tr, step.space
        for lane in self.widths:
            tr.add_read_conflict_key(space.width(lane))
        for envelope in self.envelopes:
            id = envelope.id
            tr.add_read_conflict_key(space.run_key(id))
            width = self.widths[lane_of(envelope.queue, envelope.route)]
            row = new_row(envelope, spread(written(id)) % width)
            step.add(row)
            step.signal(row)
        step.widths = self.widths
        return [envelope.id for envelope in self.envelopes]


def _are_made_after(moment: float, envelopes: Iterable[Envelope]) -> bool:
    """Whether this process made all of these ids after that moment."""
    made = [when_made(envelope.id) for envelope in envelopes]
    return all(at is not None and at >= moment for at in made)
