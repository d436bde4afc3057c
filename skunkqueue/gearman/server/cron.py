"""When a job of SUBMIT_JOB_SCHED is due: the next minute that its fields allow, in this machine's time zone."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

RANGES: Final = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6)}
"""What the fields may be; weekday 0 is Monday."""
YEARS: Final = 29
"""From one 29th of February that is a Monday to the next it is at most 40 years, but then nobody waits."""


class NoSuchTime(ValueError):
    """The fields cannot be read, or no minute is as they say."""


def next_time(minute: bytes, hour: bytes, day: bytes, month: bytes, weekday: bytes, *, now: float) -> float:
    """The first such minute after now, in seconds since the epoch. An empty field or ``*`` allows any value.

    Raises NoSuchTime.
    """
    given = dict(zip(RANGES, (minute, hour, day, month, weekday), strict=True))
    fields = {name: _number(name, text) for name, text in given.items()}
    start = datetime.fromtimestamp(now).replace(second=0, microsecond=0) + timedelta(minutes=1)
    for date in _dates(start, fields["day"], fields["month"], fields["weekday"]):
        found = _time_of_day(date, start, fields["hour"], fields["minute"])
        if found is not None and found.timestamp() > now:
            return found.timestamp()
    raise NoSuchTime(f"there is no such time within {YEARS} years")


def _dates(start: datetime, day: int | None, month: int | None, weekday: int | None) -> Iterator[datetime]:
    """The dates from that of ``start`` on that are so; months and days that are not are passed over unseen."""
    for number in range(12 * YEARS + 1):
        year, index = divmod(start.month - 1 + number, 12)
        year, index = start.year + year, index + 1
        if month is not None and month != index:
            continue
        last = calendar.monthrange(year, index)[1]
        for each in range(1, last + 1) if day is None else (day,) if day <= last else ():
            date = datetime(year, index, each)
            if date.date() >= start.date() and weekday in (None, date.weekday()):
                yield date


def _number(name: str, text: bytes) -> int | None:
    if text in (b"", b"*"):
        return None
    least, most = RANGES[name]
    if not text.isdigit() or len(text) > 4 or not least <= int(text) <= most:
        raise NoSuchTime(f"{name} is {least} to {most}, or empty for any; got {text[:20]!r}")
    return int(text)


def _time_of_day(date: datetime, start: datetime, hour: int | None, minute: int | None) -> datetime | None:
    """The first time of that date, not before the start, at that hour and minute."""
    is_first = date.date() == start.date()
    for h in range(24) if hour is None else (hour,):
        for m in range(60) if minute is None else (minute,):
            found = date.replace(hour=h, minute=m)
            if not is_first or found >= start:
                return found
    return None
