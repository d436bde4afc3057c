"""What the judge must remember of a run from pool to pool, as the small opaque field ``notes`` of its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

MOST_DEATHS: Final = 3
MOST_NOTES: Final = 4096
MOST_ERROR: Final = 200
"""Characters kept of the error of one attempt."""


class Attempted(NamedTuple):
    """One attempt that failed: when it began (store time), how many seconds it took, which worker, and its error."""

    started: float
    took: float
    worker: str
    error: str


class Notes(NamedTuple):
    """What the judge must remember of a run from pool to pool.

    ``starts`` that ended otherwise than well, ``failures`` that spent a retry, ``deaths`` with their signals,
    ``mark``: the lapses at the time it was marked as started, or None; ``unknown``: when a worker first did not know
    its job; ``suspect``: it was running beside others when their worker died, so it is run alone; ``history``: the last
    attempts that failed, oldest first, as many as there is room for; ``begun``: when it was marked as started (store
    time), and for which worker.
    """

    starts: int = 0
    failures: int = 0
    deaths: tuple[str, ...] = ()
    mark: int | None = None
    unknown: float | None = None
    suspect: bool = False
    history: tuple[Attempted, ...] = ()
    begun: tuple[float, str] | None = None

    def failed(self, attempt: Attempted) -> Notes:
        """These notes after one more attempt that failed."""
        return self._replace(history=(*self.history, attempt._replace(error=attempt.error[:MOST_ERROR])))


NONE: Final = Notes()


def decode_notes(notes: bytes) -> Notes:
    """Read notes. Unreadable notes count as none, so that they do not stop the run; what is newer is passed over."""
    if not notes:
        return NONE
    try:
        fields = msgpack.unpackb(notes, use_list=False)
        starts, failures, deaths, mark, unknown, suspect = fields[:6]
        return Notes(
            int(starts), int(failures), tuple(map(str, deaths)), mark, unknown, bool(suspect), _history(fields[6:7]),
            _begun(fields[7:8]),
        )  # fmt: skip
    except Exception:
        return NONE


def _history(field: Sequence[Any]) -> tuple[Attempted, ...]:
    return tuple(
        Attempted(float(started), float(took), str(worker), str(error))
        for attempts in field
        for started, took, worker, error in attempts
    )


def _begun(field: Sequence[Any]) -> tuple[float, str] | None:
    try:
        return next(((float(began), str(worker)) for began, worker in field), None)
    except (TypeError, ValueError):  # of a newer version
        return None


def encode_notes(notes: Notes) -> bytes:
    """Write notes, within the size a store takes: the oldest attempts are left out where there is no room for them."""
    deaths = tuple(death[:100] for death in notes.deaths[-MOST_DEATHS:])
    history = notes.history
    has_begun = notes.mark is not None and notes.begun is not None
    while True:
        fields: tuple[Any, ...] = notes._replace(deaths=deaths, history=history)
        used = 8 if has_begun else 7 if history else 6
        packed: bytes = msgpack.packb(fields[:used], unicode_errors="replace")
        if len(packed) <= MOST_NOTES or not history:
            return packed[:MOST_NOTES]
        history = history[1:]
