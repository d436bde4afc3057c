"""Workers and their orders, and what purge deletes and ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgpack

from skunkqueue.envelope import Order
from skunkqueue.persistence import EXPIRED, WORKER_GONE
from skunkqueue.persistence.fdb.layout import lane_of, read, read_lane, read_time, time_key
from skunkqueue.persistence.fdb.look import counts
from skunkqueue.persistence.fdb.put import width_of
from skunkqueue.persistence.fdb.rows import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED
from skunkqueue.persistence.fdb.step import EXACT, Step, starting
from skunkqueue.persistence.fdb.tokens import read_given
from skunkqueue.routes import base_route

SCANNED: Final = 1000
"""Keys that one purge looks at of each kind that only pools that died leave behind."""

PIECED: Final = 20
"""Runs with pieces that one purge looks at, as only damage leaves pieces without a run: each takes two reads."""

FORGOTTEN: Final = 600.0
"""Seconds after which nobody repeats a claim, or asks whether a transaction was committed."""


# -- workers ---------------------------------------------------------------------------------------------------------


def beat(step: Step, worker: str, about: str, seen: Sequence[str], until: float) -> list[Order]:
    """Register a worker, drop the orders it has seen; returns the others."""
    tr, begin = step.tr, step.space.orders(worker)
    # By snapshot: an order that comes at this moment is given by the next beat, for which a wait ends at once.
    told = tr.snapshot.get_range(*starting(begin)).to_list()
    tr[step.space.worker(worker)] = msgpack.packb((until, about), unicode_errors="surrogatepass")
    left = []
    for pair in told:
        order = Order(pair.key[len(begin) :].hex(), read(pair.value))
        if order.id in seen:
            tr.clear(pair.key)
        else:
            left.append(order)
    return left


def tell(step: Step, worker: str, order: str) -> None:
    """Store an order. Its key is the transaction's versionstamp: so orders sort by time, and no id comes twice."""
    begin = step.space.orders(worker)
    key = begin + b"\0" * 10 + len(begin).to_bytes(4, "little")
    step.tr.set_versionstamped_key(key, order.encode("utf-8", "surrogatepass"))
    step.signal_worker(worker)


def alive(step: Step) -> dict[str, tuple[float, str]]:
    """Until when each worker is there, and its ``about``."""
    found = {}
    begin, end = step.space.all(b"w")
    for pair in step.tr.snapshot.get_range(begin, end):
        try:
            until, about = msgpack.unpackb(pair.value, unicode_errors="surrogatepass")
            found[read(pair.key[len(begin) :])] = (float(until), str(about))
        except Exception:  # damaged: such a worker is gone
            found[read(pair.key[len(begin) :])] = (0.0, "")
    return found


# -- purge -----------------------------------------------------------------------------------------------------------


def purge_ended(step: Step, limit: int) -> int:
    """Delete ended runs past their keep. Read with conflicts, so that a run is not deleted that is being reopened."""
    done = 0
    for state in (SUCCEEDED, FAILED, CANCELLED):
        if done >= limit:
            break
        begin = step.space.prefix + b"e" + bytes((state,))
        end = begin + time_key(step.now) + b"\xff"
        for pair in step.tr.get_range(begin, end, limit=limit - done, streaming_mode=EXACT).to_list():
            id = read(pair.key[len(begin) + 8 :])
            step.tr.clear(pair.key)
            step.delete(id)
            if read_lane(pair.value) is not None:
                step.count(pair.value, state, -1)
            done += 1
    return done


def purge_expired(step: Step, limit: int) -> int:
    """End open runs past their ``expires`` on which nobody's lease is."""
    if limit <= 0:
        return 0
    begin, _ = step.space.all(b"p")
    end, most = begin + time_key(step.now) + b"\xff", limit + SCANNED
    pairs = step.tr.snapshot.get_range(begin, end, limit=most, streaming_mode=EXACT).to_list()
    found = [(pair.key, read(pair.key[len(begin) + 8 :])) for pair in pairs]
    rows = step.load([id for _, id in found])  # with conflicts
    done = 0
    for key, id in found:
        row = rows.get(id)
        if row is None or not row.open or not row.expired(step.now):
            step.tr.clear(key)  # left by damage
        elif done < limit and row.unleased(step.now):
            step.cancel(row, EXPIRED)
            done += 1
    return done


class Sweep:
    """What only pools that died leave behind, looked through part by part: each purge goes on where the last one ended.

    Else those that are still needed would hide the others, where there are many of them.
    """

    def __init__(self) -> None:
        self._begin: dict[bytes, bytes] = {}

    def next(self, step: Step, tag: bytes) -> list[Any]:
        """The next keys of a kind, by snapshot."""
        begin, end = step.space.all(tag)
        pairs: list[Any] = step.tr.snapshot.get_range(
            self._begin.pop(tag, begin), end, limit=SCANNED, streaming_mode=EXACT
        ).to_list()
        if len(pairs) >= SCANNED:
            self._begin[tag] = pairs[-1].key + b"\0"
        return pairs

    def runs_of_pieces(self, step: Step) -> Iterator[tuple[bytes, bytes, bytes]]:
        """The next runs that have pieces, by snapshot: the key of each, the first of its pieces, and where they end."""
        begin, end = step.space.all(b"x")
        at = self._begin.pop(b"x", begin)
        for _ in range(PIECED):
            pairs = step.tr.snapshot.get_range(at, end, limit=1, streaming_mode=EXACT).to_list()
            if not pairs:
                return
            key = pairs[0].key
            run, at = step.space.run_of_piece(key)
            yield run, key, at
        self._begin[b"x"] = at


def purge_workers(sweep: Sweep, step: Step, limit: int) -> int:
    """Delete workers whose beat has ended, and what was told to them, or to workers that never were."""
    workers = alive(step)
    gone = sorted(worker for worker, (until, _) in workers.items() if until <= step.now)[: max(0, limit)]
    for worker in gone:
        step.tr.clear(step.space.worker(worker))
    there = workers.keys() - set(gone)
    kept = {step.space.orders(worker) for worker in there}
    for pair in sweep.next(step, b"o"):
        if pair.key[:-10] not in kept:
            step.tr.clear(pair.key)
    begin, _ = step.space.all(b"y")
    for pair in sweep.next(step, b"y"):
        if read(pair.key[len(begin) :]) not in there:
            step.tr.clear(pair.key)
    return len(gone)


def purge_addressed(step: Step, limit: int) -> int:
    """End open runs that are addressed to workers that are gone."""
    lanes = [lane for lane, each in counts(step).items() if lane[1][:1] == "@" and each[QUEUED] + each[RUNNING]]
    if not lanes or limit <= 0:
        return 0
    there = {worker for worker, (until, _) in alive(step).items() if until > step.now}
    lost: list[str] = []
    for queue, route in lanes:
        if base_route(route)[1:] not in there:
            begin, end = starting(step.space.open + lane_of(queue, route))
            pairs: list[Any] = step.tr.snapshot.get_range(begin, end, limit=limit + SCANNED).to_list()
            lost += [read(pair.key[len(begin) + 9 :]) for pair in pairs]
    rows = step.load(lost)
    over = sorted(id for id in lost if id in rows and rows[id].open and rows[id].unleased(step.now))[:limit]
    for id in over:
        step.cancel(rows[id], WORKER_GONE)
    return len(over)


def purge_left(sweep: Sweep, step: Step) -> None:
    """Delete what nobody needs any more: notes of claims and transactions, members that left, signals, widths.

    All by snapshot, and all of it may be deleted at any time, but for widths.
    """
    tr, space = step.tr, step.space
    _purge_tokens(step, sweep.next(step, b"t"))
    for pair in sweep.next(step, b"q"):
        if len(pair.value) != 16 or read_time(pair.value[8:]) + FORGOTTEN < step.now:
            tr.clear(pair.key)
    for pair in sweep.next(step, b"m"):
        if len(pair.value) != 8 or read_time(pair.value) <= step.now:
            tr.clear(pair.key)
    there = {space.work_signal(*lane) for lane in counts(step)}
    for pair in sweep.next(step, b"s"):
        if pair.key not in there:
            tr.clear(pair.key)
    for pair in sweep.next(step, b"d"):
        _narrow(step, pair.key, pair.value)
    for run, key, last in sweep.runs_of_pieces(step):
        if not tr.snapshot.get(run).present() and not tr.get(run).present():  # again with a conflict: it may be put now
            tr.clear_range(key, last)


def _purge_tokens(step: Step, pairs: Sequence[Any]) -> None:
    """Delete notes of claims none of whose runs is held any more. Those of live pools are too young to be looked at."""
    given = {pair.key: read_given(pair.value) for pair in pairs}
    old = {key: ids for key, (until, ids) in given.items() if until + FORGOTTEN < step.now}
    rows = step.load([id for ids in old.values() for id in ids[:SCANNED]])
    for key, ids in old.items():
        held = (rows[id].token or "" for id in ids if id in rows and rows[id].state == RUNNING)
        if not any(key.startswith(step.space.token(token)) for token in held):
            step.tr.clear(key)


def _narrow(step: Step, key: bytes, value: bytes) -> None:
    """A lane with nothing on its further shards needs them no more.

    Read with a conflict: a run that is put there at this moment undoes this, and each put reads the width with one.
    """
    lane = key[len(step.space.prefix) + 1 :]
    begin, end = step.space.shard(lane, 1), step.space.shard(lane, max(2, width_of(value)))
    if not step.tr.get_range(begin, end, limit=1).to_list():
        step.tr.clear(key)
