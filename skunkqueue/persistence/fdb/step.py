"""One attempt at a transaction: the runs it has read, what it writes of them, the counts and signals it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, Final

from skunkqueue.persistence import BRIEF, REMEMBERED
from skunkqueue.persistence.fdb.layout import Lane, Space, after
from skunkqueue.persistence.fdb.rows import (
    BODY,
    CANCELLED,
    FIELDS,
    INLINE,
    QUEUED,
    RUNNING,
    TEXTS,
    Long,
    Row,
    cuts,
    damaged_row,
    read_row,
)

COUNT: Final = Struct("<q")
NONE: Final = COUNT.pack(0)
READ: Final = 4_000_000
"""Bytes of what is long that one transaction reads, which has five seconds for all; at least of one run."""

EXACT: Final = 0
"""``StreamingMode.exact``: all rows that were asked for, in one answer, where else the first one has some kilobytes."""

STAMP: Final = b"\0" * 14
"""A value that becomes the transaction's versionstamp: ten bytes for it, and four that say where it goes."""


class Step:
    """What one attempt reads and writes. ``now`` is the store's time."""

    def __init__(self, tr: Any, space: Space, now: float) -> None:
        self.tr = tr
        self.space = space
        self.now = now
        self.rows: dict[str, Row] = {}
        """The runs as this transaction leaves them, as far as it has met them."""
        self.crowded: set[bytes] = set()
        """The lanes that this transaction claims from."""
        self._moved: Counter[tuple[bytes, int]] = Counter()
        self._signals: set[bytes] = set()
        self.work: set[Lane] = set()
        """The queues and routes on which a run became open."""
        self.over: list[str] = []
        """The runs that ended."""
        self.widths: dict[bytes, int] = {}
        """Over how many shards the lanes are spread that runs are put into, read with a conflict."""
        self._room = READ

    # reading

    def load(self, ids: Iterable[str]) -> dict[str, Row]:
        """The runs that exist, by id; what is long of them stays where it is. All are asked for at once."""
        rows, tr, space = self.rows, self.tr, self.space
        futures = [(id, tr[space.run_key(id)]) for id in dict.fromkeys(ids) if id not in rows]
        for id, future in futures:
            data = future.value
            if data is not None:
                rows[id] = read_row(id, data) or damaged_row(id, data)
        return rows

    def fill(self, rows: Sequence[Row], names: Sequence[str] = FIELDS, *, brief: bool = False) -> list[Row]:
        """Load what is long of these runs; gives those that are left for another transaction, as it is too much.

        In ``brief``, of bodies only the first piece.
        """
        asked = []
        for at, row in enumerate(rows):
            long = [name for name in FIELDS if name in names and type(getattr(row, name)) is Long]
            size = sum(BRIEF if brief and name == BODY else getattr(row, name).size for name in long)
            if size > self._room < READ:
                left = list(rows[at:])
                break
            self._room -= size
            asked += [(row, name, self._pieces(row, name, 1 if brief and name == BODY else 0)) for name in long]
        else:
            left = []
        for row, name, found in asked:
            data = b"".join([pair.value for pair in found])
            setattr(row, name, data.decode("utf-8", "surrogatepass") if name in TEXTS else data)
        return left

    def _pieces(self, row: Row, name: str, most: int = 0) -> Any:
        """Ask for what is long of a run. Not by snapshot, but of a run that the caller reads anyway."""
        many = most or len(cuts(name, getattr(row, name).size))
        return self.tr.get_range(*self.space.pieces(row.id, FIELDS.index(name)), limit=many, streaming_mode=EXACT)

    # writing

    def change(self, row: Row, name: str, value: Any) -> None:
        """Set a field that may be long."""
        if type(getattr(row, name)) is Long:
            self.tr.clear_range(*self.space.pieces(row.id, FIELDS.index(name)))
        setattr(row, name, value)

    def pack(self, row: Row) -> bytes:
        """The row as bytes, with what is long in it written apart."""
        whole: list[tuple[str, Any]] = []
        for number, name in enumerate(FIELDS):
            value = getattr(row, name)
            if value is not None and type(value) is not Long and len(value) > INLINE:
                data = value.encode("utf-8", "surrogatepass") if name in TEXTS else value
                for piece, (begin, end) in enumerate(cuts(name, len(data))):
                    self.tr[self.space.piece(row.id, number, piece)] = data[begin:end]
                whole.append((name, value))
                setattr(row, name, Long(len(data)))
        packed = row.pack()
        for name, value in whole:
            setattr(row, name, value)
        return packed

    def add(self, row: Row) -> None:
        """Write a new run."""
        self.rows[row.id] = row
        self._hold(row)
        self.enter(row)

    def write(self, row: Row) -> None:
        """Write a run that stays in its place."""
        self.tr[self.space.run_key(row.id)] = self.pack(row)

    def leave(self, row: Row) -> None:
        """Take a run from its place. Call ``enter`` once it is changed."""
        space, lane = self.space, row.lane
        if row.open:
            self.tr.clear(space.open_key(lane, row.shard, row.ripe, row.id))
        else:
            self.tr.clear(space.ended_key(row.state, row.ripe, row.id))
        self._moved[lane, row.state] -= 1

    def enter(self, row: Row) -> None:
        """Put a run where it belongs."""
        tr, space, lane, packed = self.tr, self.space, row.lane, self.pack(row)
        tr[space.run_key(row.id)] = packed
        if row.open:
            tr[space.open_key(lane, row.shard, row.ripe, row.id)] = packed if row.state == QUEUED else b""
        else:
            tr[space.ended_key(row.state, row.ripe, row.id)] = lane
        self._moved[lane, row.state] += 1

    def lease(self, row: Row, key: bytes, token: str, worker: str, until: float) -> None:
        """Give a run, which lies under this key, to a claimer."""
        tr, space, lane = self.tr, self.space, row.lane
        tr.clear(key)
        if row.state == QUEUED:
            self._moved[lane, QUEUED] -= 1
            self._moved[lane, RUNNING] += 1
        else:
            row.lapses += 1
        row.state, row.token, row.worker, row.ripe = RUNNING, token, worker, until
        tr[space.run_key(row.id)] = self.pack(row)
        tr[space.open_key(lane, row.shard, until, row.id)] = b""
        self.rows[row.id] = row

    def end(self, row: Row, state: int, keep: float | None = None) -> None:
        """End an open run; its other fields are set already."""
        self.leave(row)
        self.release(row)
        row.state, row.ended = state, self.now
        row.ripe = self.now + max(row.keep if keep is None else keep, REMEMBERED)
        self.enter(row)
        self.over.append(row.id)

    def cancel(self, row: Row, error: str | None) -> None:
        """End an open run as cancelled, and take its lease away."""
        row.token = None
        self.change(row, "value", None)
        self.change(row, "error", error)
        self.end(row, CANCELLED)

    def queue(self, row: Row, ripe: float) -> None:
        """Put a run back into its queue, or make it ripe at another time."""
        self.leave(row)
        row.state, row.ripe = QUEUED, ripe
        self.enter(row)
        self.signal(row)

    def reopen(self, row: Row) -> None:
        """Queue an ended run as if it had never run; its unique key is free."""
        self.leave(row)
        for name in ("value", "error", "note"):
            self.change(row, name, None)
        self.change(row, "notes", b"")
        row.token = row.worker = row.progress = row.ended = None
        row.lapses = row.shard = 0  # there may be no other shard any more
        row.state, row.ripe = QUEUED, self.now
        self._hold(row)
        self.enter(row)
        self.signal(row)

    def delete(self, row_id: str) -> None:
        """Forget a run that lies nowhere any more."""
        self.tr.clear(self.space.run_key(row_id))
        self.tr.clear_range(*self.space.pieces(row_id))

    def signal(self, row: Row) -> None:
        """Wake those who wait for work on a route."""
        self._signals.add(self.space.work_signal(row.queue, row.route))
        self.work.add((row.queue, row.route))

    def signal_worker(self, worker: str) -> None:
        self._signals.add(self.space.worker_signal(worker))

    def count(self, lane: bytes, state: int, by: int) -> None:
        """Change the count of runs in a state, where no run says it."""
        self._moved[lane, state] += by

    def flush(self) -> None:
        """Write counts and signals. Counts are changed by atomic adds, which meet nobody."""
        tr, space = self.tr, self.space
        for (lane, state), by in self._moved.items():
            if by:
                key = space.counter(lane, state)
                tr.add(key, COUNT.pack(by))
                if by < 0:
                    tr.compare_and_clear(key, NONE)
        for key in self._signals:
            tr.set_versionstamped_value(key, STAMP)

    # what only open runs have

    def _hold(self, row: Row) -> None:
        if row.unique is not None:
            self.tr[self.space.unique(row.lane, row.unique)] = row.id.encode("utf-8", "surrogatepass")
        if row.expires is not None:
            self.tr[self.space.expiring(row.expires, row.id)] = b""

    def release(self, row: Row) -> None:
        """Release the unique key and the expiry of a run that ends."""
        if row.unique is not None:
            self.tr.clear(self.space.unique(row.lane, row.unique))
        if row.expires is not None:
            self.tr.clear(self.space.expiring(row.expires, row.id))


def starting(prefix: bytes) -> tuple[bytes, bytes]:
    """The range of the keys that begin like this."""
    return prefix, after(prefix)
