"""How the runs of one pool ended and how long they took, counted from the entries of its log."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from skunkqueue.worker import LogEntry

BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)
"""Upper bounds of run times, in seconds; longer ones are counted beyond the last."""

MOST: Final = 1000
"""Jobs, by route, that are counted one by one. Names come with runs, so there may be any number of them."""

OTHER: Final = "(other)"

_OUTCOMES: Final = {
    "finished": "succeeded",
    "failed": "failed",
    "retries": "retried",
    "handed back": "handed_back",
    "refused": "refused",
}


class Key(NamedTuple):
    """What runs are counted by."""

    route: str
    job: str


class Times:
    """Run times: how many in each bucket, and their sum in seconds."""

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(BUCKETS) + 1)
        self.sum: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds


class RunCounts:
    """Counts what it ``sees``. Its names are those of the log: a worker is called ``route.number`` there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[tuple[Key, str], int] = {}
        self._times: dict[Key, Times] = {}
        self._keys: dict[tuple[str, str], Key] = {}
        self._deaths: dict[str, int] = {}
        self._started = self._away = False

    def see(self, entry: LogEntry) -> None:
        """Count an entry, if it tells the outcome of a run, or of a worker. Any thread may call it."""
        what = entry.what
        if what in _OUTCOMES:
            with self._lock:
                self._count(entry, _OUTCOMES[what])
        elif what in _OTHERS:
            with self._lock:
                _OTHERS[what](self, entry)

    def _count(self, entry: LogEntry, outcome: str) -> None:
        key = self._key(entry)
        self._outcomes[key, outcome] = self._outcomes.get((key, outcome), 0) + 1
        if entry.took is not None and outcome in ("succeeded", "failed", "retried"):
            self._times.setdefault(key, Times()).add(entry.took)

    def _key(self, entry: LogEntry) -> Key:
        said = entry.worker.rpartition(".")[0], entry.job
        found = self._keys.get(said)
        if found is None:
            found = Key(*said) if len(self._keys) < MOST else Key(said[0], OTHER)
            if found.job != OTHER:
                self._keys[said] = found
        return found

    def _died(self, entry: LogEntry) -> None:
        route = entry.worker.rpartition(".")[0]
        self._deaths[route] = self._deaths.get(route, 0) + 1

    def _is_up(self, entry: LogEntry) -> None:
        self._started = self._started or bool(entry.worker)

    def _is_away(self, entry: LogEntry) -> None:
        self._away = entry.what == "store away"

    def why_not_ready(self) -> str:
        """Why the pool can do no work now; empty if it can."""
        if self._away:
            return "the store is away"
        return "" if self._started else "no worker has started yet"

    # reading

    def outcomes(self) -> dict[tuple[Key, str], int]:
        """How many attempts ended, and how: succeeded, failed, retried, handed_back or refused."""
        with self._lock:
            return dict(self._outcomes)

    def times(self) -> dict[Key, tuple[list[int], float]]:
        """Of each job, how many runs in each bucket and beyond, and the sum of their seconds."""
        with self._lock:
            return {key: (list(times.counts), times.sum) for key, times in self._times.items()}

    def deaths(self) -> dict[str, int]:
        """How many workers died, by route."""
        with self._lock:
            return dict(self._deaths)


_OTHERS: Final[dict[str, Callable[[RunCounts, LogEntry], None]]] = {
    "died": RunCounts._died,
    "started": RunCounts._is_up,
    "store away": RunCounts._is_away,
    "store back": RunCounts._is_away,
}
