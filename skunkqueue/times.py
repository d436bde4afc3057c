"""Points in time: datetimes where people write and read them, seconds since the epoch everywhere else."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from skunkqueue.durations import seconds_left
from skunkqueue.errors import WrongCall

LATEST: Final = 253_402_214_400.0
"""The latest time at which a run may be due: the start of the last day of 9999, which every time zone can show."""
YEAR: Final = 365.25 * 86_400
EPOCH_LIKE: Final = 1_000_000_000
"""From here on a plain number is taken for a time since the epoch, given by mistake: as a delay it is 31 years."""


class When(NamedTuple):
    """When a run is due: seconds from now, or at a point in time. A time in the past runs immediately.

    A point in time is never converted to a delay, so that all runs fired for one datetime are due at exactly the same
    time.
    """

    after: float = 0.0
    at: float = 0.0

    def due(self, now: float) -> float:
        return max(now + self.after, self.at)


NOW: Final = When()


def when_of(value: Any) -> When:
    """What people give ``fire_at``. Raises WrongCall."""
    if isinstance(value, datetime):
        return When(at=_check(since_epoch(value)))
    after = seconds_left(value, "the time of fire_at (or give a datetime)", math.inf)
    _check(time.time() + after)
    if isinstance(value, int | float) and after >= EPOCH_LIKE:
        raise WrongCall(
            f"a number is seconds from now, and {value:.0f} s are {after / YEAR:.0f} years; for a point in time give a "
            f"datetime: fire_at(datetime.fromtimestamp({value:.0f}), ...)"
        )
    return When(after)


def _check(due: float) -> float:
    if due > LATEST:
        raise WrongCall("a run is due in the year 9999 at the latest")
    return due


def since_epoch(when: datetime) -> float:
    """Seconds since the epoch. A datetime without a time zone is in local time, even if its class treats it otherwise.

    Raises WrongCall for one that is no time at all, like NaT of pandas.
    """
    if when != when:
        raise WrongCall(f"a run cannot be due at {type(when).__name__}, which is no point in time")
    try:
        return datetime.timestamp(when)  # the ``timestamp`` of a subclass may take it for UTC
    except (OverflowError, ValueError, OSError):  # the first or last day of all, in a zone other than UTC
        return math.inf if when.year > 1000 else -math.inf


def as_datetime(time: float) -> datetime:
    """The time in UTC; the earliest or latest datetime if it is beyond those."""
    try:
        return datetime.fromtimestamp(time, UTC)
    except (ValueError, OverflowError, OSError):
        return (datetime.min if time < 0 else datetime.max).replace(tzinfo=UTC)


def as_local(moment: datetime) -> datetime:
    """The same moment in local time; unchanged if local time cannot represent it, in the years 1 and 9999."""
    try:
        return moment.astimezone()
    except (ValueError, OverflowError, OSError):
        return moment
