"""Finds where a run lies whose own record is damaged, so that it can be ended like any other.

Reads all there is, so it is for damage only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from skunkqueue.persistence.fdb.layout import read_lane, read_time, written
from skunkqueue.persistence.fdb.rows import QUEUED, RUNNING, STATES, Row, damaged_row, read_row
from skunkqueue.persistence.fdb.step import Step

PAGE: Final = 5000


def repair(step: Step, id: str) -> Row:
    """The row of a run whose record is damaged, made of what its place says, which it has again afterwards."""
    row = _of_open(step, id) or _of_ended(step, id)
    if row is None:  # it lies nowhere: give it a place, so that it can be counted, ended and purged
        row = damaged_row(id, b"")
        step.count(row.lane, row.state, 1)
    row.damaged = False
    step.rows[id] = row
    step.write(row)
    return row


def _of_open(step: Step, id: str) -> Row | None:
    for key, value in _all(step, b"i"):
        lane_and_rest = read_lane(key[len(step.space.open) :])
        if lane_and_rest is None:
            continue
        (queue, route), rest = lane_and_rest
        if rest[9:] != written(id):
            continue
        copy = read_row(id, value) if value else None
        if copy is not None:
            return copy
        row = damaged_row(id, b"", queue, route, read_time(rest[1:]))
        row.shard, row.state = rest[0], QUEUED if value else RUNNING
        return row
    return None


def _of_ended(step: Step, id: str) -> Row | None:
    for key, value in _all(step, b"e"):
        rest = key[len(step.space.prefix) + 1 :]
        lane = read_lane(value)
        if rest[9:] != written(id) or lane is None or rest[0] >= len(STATES):
            continue
        row = damaged_row(id, b"", *lane[0], read_time(rest[1:]))
        row.state, row.ended = rest[0], step.now
        return row
    return None


def _all(step: Step, tag: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys of a kind, by snapshot: a conflict with everybody would keep this from ever being done."""
    begin, end = step.space.all(tag)
    while True:
        page: list[Any] = step.tr.snapshot.get_range(begin, end, limit=PAGE).to_list()
        yield from ((pair.key, pair.value) for pair in page)
        if len(page) < PAGE:
            return
        begin = page[-1].key + b"\0"
