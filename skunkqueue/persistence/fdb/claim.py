"""Claims runs: reads where they lie, in order, and leases each that is still there when the transaction commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from skunkqueue.envelope import Claim, Want
from skunkqueue.persistence import EXPIRED
from skunkqueue.persistence.fdb import tokens
from skunkqueue.persistence.fdb.crowd import Crowd
from skunkqueue.persistence.fdb.lanes import Found, Lane, SharedLane
from skunkqueue.persistence.fdb.layout import lane_of, read
from skunkqueue.persistence.fdb.put import width_of
from skunkqueue.persistence.fdb.rows import QUEUED, RUNNING, Row, damaged_row, read_row
from skunkqueue.persistence.fdb.step import Step

Place = tuple[str, str]

OF_CLAIM: Final = ("body", "notes")
"""What a claim has of that which may be long."""


class Claiming:
    """The claims of one transaction. ``most`` is how many new ones it may have; ``next_ripe`` is when to look again.

    What is long of the runs in ``left`` is too much for this transaction; whoever has the lease may read it later.
    Who is ``patient`` leaves to other members of a crowd what has just ripened and is theirs; ``leaves`` says that it
    found nothing else.
    """

    def __init__(
        self, step: Step, crowd: Crowd, wants: Sequence[Want], until: float, most: int, *, patient: bool
    ) -> None:
        self._step, self._crowd, self._until, self._left, self._patient = step, crowd, until, most, patient
        self._rows: list[Row] = []
        self._lanes = self._open(wants, most)
        self.next_ripe: float | None = None
        filled = False
        for want in wants:
            given = self._take(want)
            filled = filled or 0 < want.limit <= given
        self.left: list[Row] = step.fill(self._rows, OF_CLAIM)
        self.leaves: bool = not self._rows and any(lane.leaves for lane in self._lanes.values())
        if filled:
            self.next_ripe = step.now
        else:
            ends = [lane.next_ripe() for lane in self._lanes.values()]
            ends += [row.ripe for row in self._rows if (row.queue, row.route) in self._lanes]
            self.next_ripe = min((end for end in ends if end is not None), default=None)

    @property
    def claims(self) -> list[Claim]:
        """The claims; what is ``left`` has to be filled before."""
        return [row.claim() for row in self._rows]

    def _open(self, wants: Sequence[Want], most: int) -> dict[Place, Lane]:
        """The lanes wanted. Their first pages are asked for at once, and how wide they are."""
        limits: dict[Place, int] = {}
        for want in wants:
            for route in want.routes:
                place = (want.queue, route)
                limits[place] = limits.get(place, 0) + want.limit
        step, crowd = self._step, self._crowd
        # By snapshot: a claim that misses that a lane was spread takes its runs from fewer shards this once.
        asked = {place: step.tr.snapshot[step.space.width(lane_of(*place))] for place in limits if place[1][:1] != "@"}
        lanes: dict[Place, Lane] = {}
        for place, limit in limits.items():
            name = lane_of(*place)
            limit = min(limit, most)
            if crowd.is_in(name) and place in asked:
                width = width_of(asked[place].value)
                share = crowd.share(step, name, width)
                if share is not None:
                    lanes[place] = SharedLane(step, *place, width, limit, share, self._patient)
                    continue
            lanes[place] = Lane(step, *place, crowd.width(name), limit)
        for place, future in asked.items():
            width = width_of(future.value)
            lanes[place].widen(width)
            crowd.learn(lanes[place].name, width)
        return lanes

    def _take(self, want: Want) -> int:
        """Lease what a want may have, route by route; returns how many it got."""
        held = self._held(want) if want.repeated else []
        new: list[Row] = []
        limit = min(want.limit - len(held), self._left)
        for route in want.routes:
            while len(new) < limit:
                found = self._lanes[want.queue, route].ripe(limit - len(new))
                if not found:
                    break
                new += self._lease(want, self._lanes[want.queue, route], found)
        self._left -= len(new)
        if new:
            tokens.note(self._step, want.token, self._until, [row.id for row in new])
        self._rows += held + new
        return len(held) + len(new)

    def _held(self, want: Want) -> list[Row]:
        """The runs that the token holds, leased again, so that none whose lease ended is given out a second time."""
        ids = tokens.given(self._step, want.token)
        rows = self._step.load(ids)
        held = sorted(
            (
                row
                for id in set(ids)
                if (row := rows.get(id)) is not None and row.state == RUNNING and row.token == want.token
            ),
            key=lambda row: row.id,
        )[: want.limit]
        for row in held:
            self._step.leave(row)
            row.ripe = max(row.ripe, self._until)
            self._step.enter(row)
        return held

    def _lease(self, want: Want, lane: Lane, found: Sequence[Found]) -> list[Row]:
        """Lease these runs; what has expired of them is ended instead, and what lies there no more is left out."""
        step = self._step
        step.crowded.add(lane.name)
        leased = []
        for row, key in self._read(lane, found):
            if row.expired(step.now):
                step.rows[row.id] = row
                step.cancel(row, EXPIRED)
            else:
                step.lease(row, key, want.token, want.worker, self._until)
                leased.append(row)
        return leased

    def _read(self, lane: Lane, found: Sequence[Found]) -> list[tuple[Row, bytes]]:
        """The runs that lie under these keys. What is queued was read with its place; others are asked for."""
        step = self._step
        rows: list[Row | None] = []
        for each in found:
            id = read(each.id)
            row = read_row(id, each.value) if each.value and id not in step.rows else None
            if row is not None:
                # It was read by snapshot: whoever takes it at the same moment writes this key.
                step.tr.add_read_conflict_key(each.key)
                if row.state != QUEUED:
                    row = None
            rows.append(row)
        missing = [read(each.id) for each, row in zip(found, rows, strict=True) if row is None]
        there = step.load(missing) if missing else {}
        read_all = []
        for each, row in zip(found, rows, strict=True):
            known = row or self._known(there.get(read(each.id)), lane, each)
            if known is not None:
                read_all.append((known, each.key))
        return read_all

    def _known(self, row: Row | None, lane: Lane, found: Found) -> Row | None:
        """The row of a run by its own record. If that is damaged, one that fails; None if the run lies elsewhere."""
        step = self._step
        if row is None or row.damaged:
            step.tr.add_read_conflict_key(found.key)
            row = damaged_row(read(found.id), b"damaged", lane.queue, lane.route, found.ripe)
            row.damaged = False
            row.shard = found.key[len(step.space.open) + len(lane.name)]
            row.state = QUEUED if found.value else RUNNING
            return row
        if row.open and step.space.open_key(row.lane, row.shard, row.ripe, row.id) == found.key:
            return row
        step.tr.clear(found.key)  # it was moved by this transaction, or left by damage
        return None
