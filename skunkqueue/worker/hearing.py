"""What workers say, frame by frame: the hot path upwards, one turn of its loop for each run that ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgpack

from skunkqueue.envelope import Outcome
from skunkqueue.policy import Happening, Raised, Stopped, Unknown
from skunkqueue.worker import frames
from skunkqueue.worker.court import Court, because
from skunkqueue.worker.crew import Held, Worker


class Hearing:
    """Brings what workers say before the court. ``look`` is called when a worker may take more than is known."""

    def __init__(self, court: Court, look: Callable[[], None], broken: Callable[[str], None]) -> None:
        self._court = court
        self._look = look
        self._broken = broken

    def take_in(self, worker: Worker, data: bytes, starts: Sequence[int]) -> None:
        """Take in whole frames, which start there in the data."""
        count, total = 0, 0.0
        outcomes, reports = self._court.outcomes, self._court.reports
        for start in starts:
            length, kind, number = frames.HEAD.unpack_from(data, start)
            if kind != frames.DONE:
                _HEARD[kind](self, worker, number, data[start + frames.PREFIX : start + 4 + length])
                continue
            _, _, _, at, took, size = frames.DONE_HEAD.unpack_from(data, start)
            held = worker.ended(number, at)
            if held is None:
                continue
            count += 1
            total += took
            if held.cause == "stop":
                self._judge(worker, held, Stopped(), took)
                continue
            middle = start + frames.DONE_HEAD.size + size
            text = data[middle - size : middle].decode("utf-8", "replace")
            outcomes.append((held.claim, Outcome("complete", data[middle : start + 4 + length])))
            reports.append(f"{worker.label} finished {held.claim[0][0]} {held.name} in {took * 1000:.2f} ms: {text}")
        if count:
            worker.learn(count, total)

    def _judge(self, worker: Worker, held: Held, what: Happening, took: float) -> None:
        if not self._court.judge(worker, held, what, took):
            self._look()  # with no outcome to carry, nothing else would have the engine look

    def _raised(self, worker: Worker, number: int, rest: bytes) -> None:
        held, took = self._ended(worker, number, rest)
        if held is not None:
            what: Happening = Raised(*msgpack.unpackb(rest[16:], use_list=False))
            self._judge(worker, held, because(held) if held.cause in ("stop", "timeout") else what, took)

    def _unknown(self, worker: Worker, number: int, rest: bytes) -> None:
        held, took = self._ended(worker, number, rest)
        if held is not None:
            self._judge(worker, held, Unknown(rest[16:].decode("utf-8", "replace")), took)

    def _interrupted(self, worker: Worker, number: int, rest: bytes) -> None:
        held, took = self._ended(worker, number, rest)
        if held is not None:
            self._judge(worker, held, because(held), took)

    def _ended(self, worker: Worker, number: int, rest: bytes) -> tuple[Held | None, float]:
        at, took = frames.TWO.unpack_from(rest)
        held = worker.ended(number, at)
        worker.learn(1, took)
        return held, took

    def _started(self, worker: Worker, number: int, rest: bytes) -> None:
        if number in worker.held:
            worker.held[number].since = frames.ONE.unpack_from(rest)[0]

    def _progress(self, worker: Worker, number: int, rest: bytes) -> None:
        held = worker.held.get(number)
        if held is not None:
            fraction = frames.ONE.unpack_from(rest)[0]
            self._court.progress(held, fraction, rest[8:].decode("utf-8", "replace"))

    def _ready(self, worker: Worker, number: int, rest: bytes) -> None:
        worker.ready = True
        worker.failed_starts = 0
        self._look()

    def _cannot_start(self, worker: Worker, number: int, rest: bytes) -> None:
        self._broken(rest.decode("utf-8", "replace"))


_HEARD: Final[dict[int, Callable[[Hearing, Worker, int, bytes], None]]] = {
    frames.READY: Hearing._ready,
    frames.BROKEN: Hearing._cannot_start,
    frames.STARTED: Hearing._started,
    frames.RAISED: Hearing._raised,
    frames.UNKNOWN: Hearing._unknown,
    frames.INTERRUPTED: Hearing._interrupted,
    frames.PROGRESS: Hearing._progress,
}
