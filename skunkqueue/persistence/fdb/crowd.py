"""Keeps claimers of one lane out of each other's way.

Alone, a claimer takes the first runs there are. Once it has met another one (a conflict), it writes itself down as a
member of the lane, and takes its share: of the runs whose number, modulo the members, is its own. The lane is spread
over as many shards, so that a member reads little that is not its own. What is left over by others it takes after a
moment, so that nothing waits for a member that is busy or dead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Final, NamedTuple

from skunkqueue.clock import ticks
from skunkqueue.persistence.fdb.layout import MOST_SHARDS, read_time, time_key
from skunkqueue.persistence.fdb.step import Step, starting

REMEMBERED: Final = 10.0
"""Seconds after a conflict in which a claimer goes on to share a lane, or looks whether it has to."""

MEMBER: Final = 4.0
"""Seconds for which a claimer writes itself down; it renews that in half the time, with a claim."""


class Share(NamedTuple):
    """Which part of a lane is whose: this one has ``position`` of ``of``, and the lane ``width`` shards."""

    position: int
    of: int
    width: int

    def owns(self, number: int) -> bool:
        """Whether it owns what has this number, or what is on this shard."""
        return number % self.width % self.of == self.position


class Crowd:
    """What the claimers of one process know of others, by lane."""

    def __init__(self) -> None:
        self._pid, self._drawn = os.getpid(), os.urandom(8)
        self._lock = threading.Lock()
        self._until: dict[bytes, float] = {}
        self._widths: dict[bytes, int] = {}

    @property
    def _name(self) -> bytes:
        """Who it is among the members. A forked process is another one."""
        if self._pid != os.getpid():
            self._pid, self._drawn = os.getpid(), os.urandom(8)
        return self._drawn

    def met(self, lanes: Iterable[bytes]) -> None:
        """There was a conflict on these lanes, or one of them."""
        with self._lock:
            self._until.update(dict.fromkeys(lanes, ticks() + REMEMBERED))

    def join(self, step: Step, lanes: Iterable[bytes]) -> None:
        """Write this claimer down as a member, in a transaction of its own: an attempt that meets others writes
        nothing, so they would not know of each other before each of them has had its luck.
        """
        for lane in lanes:
            step.tr[step.space.members(lane) + self._name] = time_key(step.now + MEMBER)

    def is_in(self, lane: bytes) -> bool:
        """Whether another claimer may be on a lane."""
        until = self._until.get(lane)
        if until is not None and until < ticks():
            with self._lock:
                self._until.pop(lane, None)
            return False
        return until is not None

    def width(self, lane: bytes) -> int:
        """Over how many shards a lane was spread when this process looked last."""
        return self._widths.get(lane, 1)

    def learn(self, lane: bytes, width: int) -> None:
        if width > 1:
            self._widths[lane] = width
        else:
            self._widths.pop(lane, None)

    def share(self, step: Step, lane: bytes, width: int) -> Share | None:
        """This claimer's share of a lane; None while it is alone. Writes it down, and spreads the lane if need be."""
        tr, space = step.tr, step.space
        mine = space.members(lane) + self._name
        # By snapshot: a member that comes at this moment costs a conflict at the next claim, which is soon enough.
        found = {pair.key: pair.value for pair in tr.snapshot.get_range(*starting(space.members(lane)))}
        until = {key: read_time(value) for key, value in found.items() if len(value) == 8}
        if until.get(mine, 0.0) < step.now + MEMBER / 2:
            tr[mine] = time_key(step.now + MEMBER)
        members = sorted({mine, *(key for key, end in until.items() if end > step.now)})
        if len(members) == 1:
            return None
        self.met([lane])
        wide = min(1 << (len(members) - 1).bit_length(), MOST_SHARDS)
        if width < wide:
            tr[space.width(lane)] = wide.to_bytes(1, "little")
        of = min(len(members), wide)  # of more members than shards, some own the same, and meet
        return Share(members.index(mine) % of, of, wide)
