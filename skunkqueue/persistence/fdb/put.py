"""Puts runs: one read for each, so that an id or a unique key that is there already is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from skunkqueue.envelope import Envelope
from skunkqueue.persistence.fdb.layout import MOST_SHARDS, lane_of, read, spread, written
from skunkqueue.persistence.fdb.rows import new_row, read_row
from skunkqueue.persistence.fdb.step import EXACT, Step

MANY: Final = 8
"""From so many ids on, they are looked for in one range."""

STRANGERS: Final = 50
"""Runs of others that the range may have."""


def put(step: Step, envelopes: Sequence[Envelope]) -> list[str]:
    """Put runs; gives for each its id, or that of the open run that has its unique key.

    All is read with conflicts, and may be read as of a version that is not the newest: of two that put the same id, or
    the same unique key, one does it again. The width of a lane as well: it only shrinks where no run is on the other
    shards, and nobody may put one there meanwhile.
    """
    tr, space = step.tr, step.space
    new = {envelope.id: envelope for envelope in reversed(envelopes)}
    there = _asked(step, list(new))
    # Only a worker's own claims come to its address, so that lane is never spread.
    lanes = {lane_of(envelope.queue, envelope.route) for envelope in envelopes if envelope.route[:1] != "@"}
    asked = {lane: tr[space.width(lane)] for lane in lanes}
    holders = {
        key: tr[key]
        for envelope in envelopes
        if envelope.unique is not None
        for key in [space.unique(lane_of(envelope.queue, envelope.route), envelope.unique)]
    }
    known = there()
    step.widths = widths = {lane: width_of(future.value) for lane, future in asked.items()}
    taken = _open_holders(step, holders)
    ids = []
    for envelope in envelopes:
        id = envelope.id
        if id not in known:
            lane = lane_of(envelope.queue, envelope.route)
            if envelope.unique is not None:
                holder = taken.setdefault(space.unique(lane, envelope.unique), id)
                if holder != id:
                    ids.append(holder)
                    continue
            known.add(id)
            row = new_row(envelope, spread(written(id)) % widths.get(lane, 1))
            step.add(row)
            step.signal(row)
        ids.append(id)
    return ids


def _asked(step: Step, ids: Sequence[str]) -> Callable[[], set[str]]:
    """Ask which of these ids there are; what is returned waits for the answer.

    The ids that a sender makes at the same time lie side by side: one read of that range costs less than many. It is
    by snapshot, as other senders put theirs in between, with a conflict for each id.
    """
    tr, space = step.tr, step.space
    keys = {space.run_key(id): id for id in ids}
    if len(ids) < MANY:
        futures = [(id, tr[key]) for key, id in keys.items()]
        return lambda: {id for id, future in futures if future.value is not None}
    found = tr.snapshot.get_range(min(keys), max(keys) + b"\0", limit=len(ids) + STRANGERS, streaming_mode=EXACT)
    for key in keys:
        tr.add_read_conflict_key(key)

    def known() -> set[str]:
        rows = found.to_list()
        if len(rows) < len(ids) + STRANGERS:
            return {keys[pair.key] for pair in rows if pair.key in keys}
        asked = [(id, tr.snapshot[key]) for key, id in keys.items()]  # it is full of others' runs
        return {id for id, future in asked if future.value is not None}

    return known


def _open_holders(step: Step, holders: dict[bytes, Any]) -> dict[bytes, str]:
    """The ids of the open runs that hold these keys. A key whose run is gone, or has ended, was left by damage."""
    found = {key: read(future.value) for key, future in holders.items() if future.value is not None}
    asked = {key: (id, step.tr[step.space.run_key(id)]) for key, id in found.items()}
    taken = {}
    for key, (id, future) in asked.items():
        data = future.value
        row = None if data is None else read_row(id, data)
        if data is not None and (row is None or row.open):
            taken[key] = id
    return taken


def width_of(data: bytes | None) -> int:
    """Over how many shards a lane is spread, as it is stored."""
    width = int.from_bytes(data, "little") if data else 1
    return width if 1 <= width <= MOST_SHARDS else 1
