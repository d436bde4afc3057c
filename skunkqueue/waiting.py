"""Looks at runs, and waits for them: several at once, on one store or on several."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from skunkqueue.clock import ticks
from skunkqueue.draining import draining
from skunkqueue.durations import Duration, seconds_left
from skunkqueue.errors import SkunkError, StoreAway, WaitTimeout
from skunkqueue.hints import Hint, hinting
from skunkqueue.pauses import pause_after
from skunkqueue.watcher import Expiry, fetch, open_of

if TYPE_CHECKING:
    from skunkqueue.run import Run

R = TypeVar("R")

GLANCE: Final = 1.0
"""Seconds after which a waiter looks again, woken or not: a wake-up is a hint and may be missed."""


def look(runs: Sequence[Run[Any]]) -> None:
    """Ask the store, once, about all of them that may have changed. Raises what the store raises."""
    for changing in by_store(run for run in runs if not run._settled):
        records = fetch(changing[0]._queue.store, [run.id for run in changing])
        for run in changing:
            run._saw(records.get(run.id))


def by_store(runs: Iterable[Run[R]]) -> list[list[Run[R]]]:
    """The runs of each store, in the order given."""
    found: dict[int, list[Run[R]]] = {}
    for run in runs:
        found.setdefault(id(run._queue.connection), []).append(run)
    return list(found.values())


def glance(runs: Sequence[Run[Any]]) -> None:
    with suppress(SkunkError):
        for some in by_store(run for run in runs if not run._settled):
            with suppress(SkunkError):  # then what was known last has to do; another store may be there
                look(some)


def wait_for(runs: Sequence[Run[Any]], timeout: Duration | None) -> None:
    """Return when all have ended or are gone. Raises WaitTimeout."""
    limit = math.inf if timeout is None else ticks() + seconds_left(timeout, "timeout")
    left = list(runs)
    expires = {run.id: run._envelope.expires for run in runs if run._envelope and run._envelope.expires is not None}
    expiries: dict[int, Expiry] = {}
    hint = Hint()
    failures = 0
    while left:
        away: StoreAway | None = None
        try:
            _drain_for(left)
            left = _unended(left, min(limit - ticks(), GLANCE, _until_expiry(left, expires, expiries)), expires)
            if left:
                hint.look(left)
                _rest(left, limit, hint)
            failures = 0
        except StoreAway as error:
            away = error
        if away is not None:
            failures += 1
            time.sleep(min(pause_after(failures), _rest(left, limit, hint, away)))


def _until_expiry(runs: Sequence[Run[Any]], expires: Mapping[str, float], expiries: dict[int, Expiry]) -> float:
    """End what has expired; gives the seconds until the next of these does.

    ``expires``: by run, when it can only end as expired; ``expiries``: by store. Both are kept for a wait.
    """
    until = math.inf
    for some in by_store(run for run in runs if expires.get(run.id, math.inf) < math.inf):
        queue, first = some[0]._queue, min(expires[run.id] for run in some)
        expiry = expiries.setdefault(id(queue.connection), Expiry(queue.store, queue.clock))
        expiry.end(first)
        until = min(until, expiry.left(first))
    return until


def _unended(runs: list[Run[Any]], patience: float, expires: dict[str, float]) -> list[Run[Any]]:
    """Those that have not ended, when the last of them has, or after so many seconds; and when they expire."""
    last = runs[-1]
    if not last._settled and (record := last._queue.store.await_end(last.id, patience)) is not None:
        last._saw(record)
        runs = runs[:-1]
    left: list[Run[Any]] = []
    for some in by_store(run for run in runs if not run._settled):
        found = open_of(some[0]._queue.store, [run.id for run in some])
        expires.update(found)
        look([run for run in some if run.id not in found])
        left += [run for run in some if run.id in found or run._is_open()]
    return left


def _rest(left: list[Run[Any]], limit: float, hint: Hint, away: StoreAway | None = None) -> float:
    """Seconds until the limit. Raises WaitTimeout when there are none."""
    rest = limit - ticks()
    if rest > 0:
        return rest
    raise _timed_out(left, "the store is away" if away is not None else hint.why(left[0]), away) from away


def _timed_out(left: Sequence[Run[Any]], why: str, away: StoreAway | None) -> WaitTimeout:
    """The error about runs that have not ended; says of the first what is known of it."""
    first = left[0]
    if away is None:
        glance([first])
    state, error = first._shown(), None if first._record is None else first._record.error
    others = f" ({len(left) - 1} others neither)" if len(left) > 1 else ""
    known = [] if away is not None else [f"it is {state}" + (f" ({error})" if error else "")]
    reasons = "; ".join([*known, *([why] if why else [])])
    return WaitTimeout(f"run {first.id} has not ended within the time given{others}: {reasons}", str(state), error)


def _drain_for(runs: Sequence[Run[Any]]) -> None:
    """Where this thread executes runs itself, execute what is ripe until these have ended: nobody else may do it."""
    while draining.step is not None and any(run._is_open() for run in runs) and draining.step():
        look(runs)


async def all_ended(runs: Sequence[Run[Any]]) -> None:
    """Await the end of all, on the store's watcher thread."""
    _drain_for(runs)
    for waiting in by_store(run for run in runs if not run._settled):
        records = await hinting(waiting, waiting[0]._queue.watcher.ended([run.id for run in waiting]))
        for run in waiting:
            run._saw(records.get(run.id))
